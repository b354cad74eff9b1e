//! `bench lateness`: how late requests are at a steady rate, and what registered jobs cost.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::account::{Account, Expected};
use super::error::BenchError;
use super::load::settle;
use super::process::Usage;
use super::report::Measured;
use super::stage::Stage;
use super::stats::{Sample, median};
use super::{Shared, jobs};

const PERIOD: Duration = Duration::from_secs(1);
/// Of load that is not measured: connections are made, buffers grow.
const WARM_UP: Duration = Duration::from_secs(5);
/// Over which the processor time of the idle cluster is measured.
const IDLE: Duration = Duration::from_secs(10);
/// How long requests are waited for when their time is over; what is missing then is counted.
const SETTLE: Duration = Duration::from_secs(20);
const MIB: f64 = 1_048_576.0;

pub(super) const HELP: &str = "\
Figures:
  lateness         from an instant to the arrival of its first request, at `--rate` requests a second,
                   after 5 s of warm-up; read in whole milliseconds
  rate             requests that arrived a second; missing: instants for which none did
  registered       idle jobs registered a second, in requests of 1,000 jobs, one after the other
  memory           of the leader and of both followers, before and after the idle jobs
                   were registered: its own pages in RAM, files that it maps not counted
  bytes_per_job    the growth of that by each idle job: the median of the three nodes
  idle_cpu         over 10 s with the idle jobs alone, in percent of one core
  load_cpu         the same while the rate is fired; bench: this process, which receives the requests";

/// Arguments of `bench lateness`.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct LatenessArgs {
    /// Idle jobs that are registered, `every: 24h`
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(0..=900_000))]
    pub(super) jobs: u32,
    /// Requests a second: so many jobs `every: 1s`
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(super) rate: u32,
    /// How long is measured
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(super) seconds: u32,
    #[command(flatten)]
    pub(super) shared: Shared,
}

/// One run.
pub(super) async fn measure(args: &LatenessArgs, stage: &mut Stage) -> Result<Measured, BenchError> {
    let mut measured = Measured::default();
    idle(args, stage, &mut measured).await?;

    let next = stage.apply(jobs::periodic(args.rate, PERIOD, &stage.receiver.url())).await?;
    let latest = next.iter().max().copied().unwrap_or_default();
    let mut account = Account::new(Expected::new(next, PERIOD));
    let from = latest.plus(WARM_UP);
    let until = from.plus(Duration::from_secs(args.seconds.into()));
    stage.reach(from).await?;
    let busy = Busy::begin(stage).await?;
    stage.reach(until).await?;
    busy.end(stage, "load_cpu", &mut measured)?;

    // The last instant that counts is the one before the end.
    account.close(until.minus(Duration::from_millis(1)));
    settle(stage, &mut account, SETTLE).await;
    stage.all_noted()?;
    let late: Sample = account.lateness(from, until).collect();
    measured.spans("lateness", &late, &[500, 900, 990]);
    let arrived =
        stage.receiver.look(0, |all| all.iter().filter(|one| (from..until).contains(&one.at)).count());
    measured.figure("rate", "1/s", arrived as f64 / f64::from(args.seconds));
    let tally = account.tally();
    measured.figure("missing", "instants", tally.lost as f64);
    measured.figure("duplicates", "requests", tally.duplicates as f64);
    Ok(measured)
}

/// Registers the idle jobs and measures what they cost.
async fn idle(args: &LatenessArgs, stage: &mut Stage, measured: &mut Measured) -> Result<(), BenchError> {
    let leader = stage.ready().await?;
    let before = stage.usages(leader.node)?;
    let begun = Instant::now();
    stage.apply(jobs::idle(args.jobs, stage.clock.now(), &stage.receiver.url())).await?;
    let took = begun.elapsed().as_secs_f64();
    if args.jobs > 0 {
        measured.figure("registered", "1/s", f64::from(args.jobs) / took.max(0.001));
    }
    stage.ready().await?;
    let busy = Busy::begin(stage).await?;
    stage.pass(stage.clock.now().plus(IDLE)).await;
    busy.end(stage, "idle_cpu", measured)?;

    let after = stage.usages(leader.node)?;
    let names = ["leader", "follower_1", "follower_2"];
    for (name, (before, after)) in names.iter().zip(before.iter().zip(&after)) {
        measured.figure(format!("memory_before_{name}"), "MiB", before.memory_bytes as f64 / MIB);
        measured.figure(format!("memory_after_{name}"), "MiB", after.memory_bytes as f64 / MIB);
    }
    if args.jobs > 0 {
        let growth =
            |(before, after): (&Usage, &Usage)| after.memory_bytes as f64 - before.memory_bytes as f64;
        let growths: Vec<f64> = before.iter().zip(&after).map(growth).collect();
        measured.figure("bytes_per_job", "bytes", median(&growths) / f64::from(args.jobs));
    }
    Ok(())
}

/// An interval over which processor time is measured: of the node that led at its start, of the followers
/// by their numbers, and of the bench itself.
pub(super) struct Busy {
    begun: Instant,
    leader: u64,
    nodes: Vec<Usage>,
    bench: Usage,
}

impl Busy {
    /// Begins it.
    pub(super) async fn begin(stage: &mut Stage) -> Result<Self, BenchError> {
        let leader = stage.leader().await?.node;
        let (nodes, bench) = (stage.usages(leader)?, Usage::of(None)?);
        Ok(Self { begun: Instant::now(), leader, nodes, bench })
    }

    /// Ends it, and adds percentages of one core.
    pub(super) fn end(self, stage: &Stage, name: &str, measured: &mut Measured) -> Result<(), BenchError> {
        let took = self.begun.elapsed().as_secs_f64().max(0.001);
        let now = stage.usages(self.leader)?.into_iter().chain([Usage::of(None)?]);
        let before = self.nodes.into_iter().chain([self.bench]);
        let names = ["leader", "follower_1", "follower_2", "bench"];
        for (part, (before, now)) in names.iter().zip(before.zip(now)) {
            let used = now.cpu.saturating_sub(before.cpu).as_secs_f64();
            measured.figure(format!("{name}_{part}"), "%", used / took * 100.0);
        }
        Ok(())
    }
}
