//! `bench workers`: what stand-alone workers carry out, how soon they have an order, and what they cost when idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

use super::error::BenchError;
use super::process::Usage;
use super::report::Measured;
use super::staff::{Crowd, QUEUE, Staff, Stream, allow_files};
use super::stage::Stage;
use super::stats::Sample;
use super::{Shared, jobs};
use crate::client::{Client, Endpoint};
use crate::clock::Clock;
use crate::config::{Config, Overrides};
use crate::node::{self, Listeners, Observed, Surroundings};
use crate::pb::v1 as pb;
use crate::pb::v1::leader_message::Kind as FromLeader;
use crate::pb::v1::worker_message::Kind as FromWorker;
use crate::state::Outcome;

/// How many stand-alone workers there are, one measurement after the other.
const COUNTS: [u32; 3] = [1, 4, 16];
/// Slots of all of them together, so that the counts can be compared.
const SLOTS: u32 = 512;
const PERIOD: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_secs(5);
/// Over which the cost of idle streams is measured, after as long in which they settle.
const IDLE: Duration = Duration::from_secs(10);
/// Orders whose way is measured, one at a time is due each [`ORDER_EVERY`].
const ORDER_EVERY: Duration = Duration::from_millis(5);
/// How long the one node of that measurement may take to lead.
const LEAD_MAX: Duration = Duration::from_secs(30);
const MIB: f64 = 1_048_576.0;

pub(super) const HELP: &str = "\
Figures:
  runs_per_second_N      requests that arrived a second through N stand-alone workers with 512 slots in all, when more
                         is due, after 5 s of warm-up; the nodes' own workers serve another queue
  workers_cpu_N          of these workers together, in percent of one core
  assignment             from the moment at which the entry that starts an attempt is committed and applied to that at
                         which its worker has the order: one node in this process, 200 orders a second
  idle_..._direct        what the leader uses for `--streams` idle streams of workers that are connected to it:
                         processor time in percent of one core over 10 s less that before, and memory
  idle_..._carried       the same when all are connected to one follower, which carries them to the leader

The nodes, the workers, the receiver and the streams share the cores of this machine.";

/// Arguments of `bench workers`.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct WorkersArgs {
    /// Jobs `every: 1s`, so that as many are due each second
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) jobs: u32,
    /// How long is measured with each number of workers
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(super) seconds: u32,
    /// Idle streams
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    pub(super) streams: u32,
    /// Orders whose way to the worker is measured
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) orders: u32,
    #[command(flatten)]
    pub(super) shared: Shared,
}

/// One run.
pub(super) async fn measure(args: &WorkersArgs, stage: &mut Stage) -> Result<Measured, BenchError> {
    allow_files()?;
    let mut measured = Measured::default();
    idle(args, stage, &mut measured).await?;
    assignment(args, stage, &mut measured).await?;
    stage.ready().await?;
    let mut load = jobs::periodic(args.jobs, PERIOD, &stage.receiver.url());
    for job in &mut load {
        QUEUE.clone_into(&mut job.queue);
    }
    stage.apply(load).await?;
    for count in COUNTS {
        rate(args, count, stage, &mut measured).await?;
    }
    stage.all_noted()?;
    Ok(measured)
}

/// Runs a second through so many workers.
async fn rate(
    args: &WorkersArgs,
    count: u32,
    stage: &mut Stage,
    measured: &mut Measured,
) -> Result<(), BenchError> {
    let staff = Staff::start(count, SLOTS / count, &stage.endpoints(), stage.folder())?;
    // From the first request on; what of the load was missed until then is no more than a second of it.
    stage.reach(stage.clock.now()).await?;
    stage.pass(stage.clock.now().plus(WARM_UP)).await;
    let (cpu, from) = (staff.usage()?, stage.clock.now());
    stage.pass(from.plus(Duration::from_secs(args.seconds.into()))).await;
    let until = stage.clock.now();
    let seconds = until.since(from).as_secs_f64().max(0.001);
    let used = staff.usage()?.saturating_sub(cpu).as_secs_f64();
    let arrived =
        stage.receiver.look(0, |all| all.iter().filter(|one| (from..until).contains(&one.at)).count());
    measured.figure(format!("runs_per_second_{count}"), "1/s", arrived as f64 / seconds);
    measured.figure(format!("workers_cpu_{count}"), "%", used / seconds * 100.0);
    staff.stop().await
}

/// What idle streams cost the leader, and a follower that carries them.
async fn idle(args: &WorkersArgs, stage: &mut Stage, measured: &mut Measured) -> Result<(), BenchError> {
    let leader = stage.ready().await?.node;
    let follower = (1..=super::stage::NODES).find(|node| *node != leader).unwrap_or(leader);
    let nodes = [("leader", leader), ("follower", follower)];
    stage.pass(stage.clock.now().plus(IDLE)).await;
    let before = cost(stage, &nodes).await?;
    for (way, at) in [("direct", leader), ("carried", follower)] {
        let mut crowd = Crowd::gather(&stage.endpoint(at), args.streams).await?;
        stage.pass(stage.clock.now().plus(IDLE)).await;
        let with = cost(stage, &nodes).await?;
        if crowd.count() < args.streams as usize
            || crowd.carried != if way == "carried" { crowd.count() } else { 0 }
        {
            let (living, carried) = (crowd.count(), crowd.carried);
            return Err(BenchError::Stream(format!("{living} streams live and {carried} are carried")));
        }
        for ((name, _), (before, with)) in nodes.iter().zip(before.iter().zip(&with)) {
            measured.figure(format!("idle_cpu_{name}_{way}"), "%", with.0 - before.0);
            measured.figure(format!("idle_memory_{name}_{way}"), "MiB", with.1 - before.1);
        }
    }
    Ok(())
}

/// Percent of a core over a while, and memory at its end, of each of these nodes.
async fn cost(stage: &Stage, nodes: &[(&str, u64)]) -> Result<Vec<(f64, f64)>, BenchError> {
    let usages = || nodes.iter().map(|(_, node)| stage.usage(*node)).collect::<Result<Vec<Usage>, _>>();
    let (begun, before) = (Instant::now(), usages()?);
    stage.pass(stage.clock.now().plus(IDLE)).await;
    let (took, after) = (begun.elapsed().as_secs_f64(), usages()?);
    let cost = before.iter().zip(after).map(|(before, after)| {
        let used = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        (used / took * 100.0, after.memory_bytes as f64 / MIB)
    });
    Ok(cost.collect())
}

/// When starts were applied, by fence.
type Applied = Arc<Mutex<HashMap<u64, Instant>>>;

/// From the commit of a start to its order at the worker, on one node inside this process, where both can be seen.
async fn assignment(args: &WorkersArgs, stage: &Stage, measured: &mut Measured) -> Result<(), BenchError> {
    let listen = || async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(BenchError::Receiver)?;
        let address = listener.local_addr().map_err(BenchError::Receiver)?.to_string();
        Ok::<_, BenchError>((TcpIncoming::from(listener).with_nodelay(Some(true)), address))
    };
    let ((clients, here), (peers, peer)) = (listen().await?, listen().await?);
    let folder = stage.folder().join("alone");
    let text = format!(
        "node_id = 1\nlisten = \"{here}\"\npeer_listen = \"{peer}\"\ndata_dir = {:?}\npeers = {{ 1 = \"{peer}\" }}\n",
        folder.display().to_string()
    );
    let config = Config::read("alone", &text, Overrides::default())
        .map_err(|error| BenchError::Stream(error.to_string()))?;
    let applied = Applied::default();
    let noted = Arc::clone(&applied);
    let mut with = Surroundings::real(stage.clock.clone());
    with.observer = Some(Arc::new(move |it| {
        let now = Instant::now();
        let Observed::Applied { applied, .. } = it else { return };
        for outcome in &applied.outcomes {
            if let Outcome::Started { fence, .. } = outcome {
                noted.lock().unwrap_or_else(PoisonError::into_inner).insert(*fence, now);
            }
        }
    }));
    let stop = CancellationToken::new();
    let listeners = Listeners { clients, peers, here: here.clone() };
    let serving = tokio::spawn(node::run_in(config, with, listeners, stop.clone()));
    let taken = orders(args, &here, &stage.clock, &applied).await;
    stop.cancel();
    let ended = serving.await.map_err(|error| BenchError::Stream(error.to_string()))?;
    ended.map_err(|error| BenchError::Stream(error.to_string()))?;
    let micros = taken?;
    for part in [500, 900, 990, 1_000] {
        let name =
            if part == 1_000 { "assignment_max".to_owned() } else { format!("assignment_p{}", part / 10) };
        if let Some(value) = micros.percentile(part) {
            measured.figure(name, "ms", value as f64 / 1_000.0);
        }
    }
    Ok(())
}

/// Takes so many orders; how long each was on its way, in microseconds.
async fn orders(
    args: &WorkersArgs,
    here: &str,
    clock: &Clock,
    applied: &Applied,
) -> Result<Sample, BenchError> {
    let ids = clock.clone();
    let endpoint: Endpoint = here.parse()?;
    let client = Client::new(&[endpoint], LEAD_MAX, move || ids.random_id())?;
    let count = u32::try_from(PERIOD.as_millis() / ORDER_EVERY.as_millis()).unwrap_or(1);
    let mut load = jobs::periodic(count, PERIOD, "http://127.0.0.1:9/");
    for job in &mut load {
        QUEUE.clone_into(&mut job.queue);
    }
    let request = pb::ApplyJobsRequest { jobs: load, actor: "bench".to_owned(), ..Default::default() };
    client.apply_jobs(request).await?;
    let mut stream = Stream::open(here, "bench/1".to_owned(), 10_000).await?;
    let mut taken = Vec::new();
    let mut beats = tokio::time::interval(PERIOD);
    while taken.len() < args.orders as usize {
        let say = tokio::select! {
            _ = beats.tick() => FromWorker::Heartbeat(pb::Heartbeat {}),
            heard = stream.incoming.message() => {
                let now = Instant::now();
                let heard = heard.map_err(|status| BenchError::Stream(status.to_string()))?;
                let ended = || BenchError::Stream("it has ended".to_owned());
                let Some(FromLeader::Order(order)) = heard.ok_or_else(ended)?.kind else { continue };
                let started = applied.lock().unwrap_or_else(PoisonError::into_inner).remove(&order.fence);
                let took = started.map(|started| now.saturating_duration_since(started).as_micros());
                taken.extend(took.and_then(|took| i64::try_from(took).ok()));
                let outcome = pb::Outcome::Succeeded.into();
                FromWorker::Report(pb::Report { run_id: order.run_id, fence: order.fence, outcome, ..Default::default() })
            }
        };
        let message = pb::WorkerMessage { kind: Some(say) };
        stream.outgoing.send(message).await.map_err(|_| BenchError::Stream("it has ended".to_owned()))?;
    }
    Ok(taken.into_iter().collect())
}
