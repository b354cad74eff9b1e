//! A worker of one's own in Rust: carries out `queue` targets through the documented `WorkerService`.
//!
//!     cargo run --example worker -- QUEUE [HOST:PORT,…]
//!
//! Change [`carry_out`], and keep the rest: it is the whole protocol of `proto/chronarch/v1/worker.proto`, and
//! `worker.py` beside it does the same. An attempt is begun at most once, and only while the lease allows it; a broken
//! stream ends nothing; SIGTERM and SIGINT drain, and so does `chronarch worker drain`, after which it stays and takes
//! orders again at `chronarch worker resume`. In a program of your own, generate the messages from the protocol files
//! with `tonic-prost-build`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chronarch::pb::v1::leader_message::Kind as FromLeader;
use chronarch::pb::v1::worker_message::Kind as FromWorker;
use chronarch::pb::v1::worker_service_client::WorkerServiceClient;
use chronarch::pb::v1::{Cancel, Drain, Heartbeat, Held, Hello, Order, Outcome, Report, WorkerMessage};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

const SLOTS: u32 = 4;
const CONNECT: Duration = Duration::from_secs(3);
/// Messages that wait to be sent: reports of all slots, and some heartbeats.
const OUTBOX: usize = 64;

/// What this worker is for: does the work of one attempt, and says how it ended.
///
/// The payload is what the job says. The run id is the same in each attempt of a run: a target that remembers it makes
/// the effect happen once.
async fn carry_out(order: Order, cancelled: CancellationToken) -> Report {
    let payload = order.target.and_then(|target| target.queue).unwrap_or_default().payload;
    println!("{} {} attempt {} fence {}: {payload}", order.job, order.run_id, order.attempt, order.fence);
    let seconds = payload.trim().parse().unwrap_or(0);
    let limit = order.timeout.and_then(|span| Duration::try_from(span).ok()).unwrap_or(Duration::MAX);
    let outcome = tokio::select! {
        () = cancelled.cancelled() => Outcome::Cancelled,
        () = sleep(limit) => Outcome::Timeout,
        () = sleep(Duration::from_secs(seconds)) => Outcome::Succeeded,
    };
    Report { outcome: outcome.into(), output: b"done\n".to_vec(), ..Report::default() }
}

/// Run and fence.
type Key = (String, u64);

/// What was said on a stream, as far as it matters for going.
#[derive(Default)]
struct Said {
    /// When heartbeats were sent that have no answer yet.
    unanswered: VecDeque<Instant>,
    /// Heartbeats before the drain that have no answer yet; nothing while it does not drain. Orders may be under way
    /// until the answer to one behind it.
    before_drain: Option<usize>,
}

impl Said {
    fn drain(&mut self) {
        self.before_drain.get_or_insert(self.unanswered.len());
    }

    /// An answer: when its heartbeat was sent, and whether no order is under way any more. Answers come in order.
    fn answered(&mut self) -> (Option<Instant>, bool) {
        let is_heard = self.before_drain == Some(0);
        self.before_drain = self.before_drain.map(|before| before.saturating_sub(1));
        (self.unanswered.pop_front(), is_heard)
    }
}

enum Attempt {
    /// Not begun: no answer to a heartbeat allows it yet.
    Waiting(Box<Order>),
    Running(CancellationToken),
    /// Its report is repeated until it is acknowledged.
    Ended(Box<Report>),
}

struct Worker {
    hello: Hello,
    held: BTreeMap<Key, Attempt>,
    may_begin_until: Option<Instant>,
    ended: mpsc::Sender<(Key, Report)>,
    /// Why it takes nothing new: its process ends, or somebody asked the cluster for it.
    draining: Option<Drain>,
}

impl Worker {
    /// Begins what is held and has not begun, as far as the lease allows.
    fn begin(&mut self) {
        if self.may_begin_until.is_none_or(|until| Instant::now() >= until) {
            return;
        }
        for (key, attempt) in &mut self.held {
            let Attempt::Waiting(order) = attempt else { continue };
            let (order, key, ended) = (std::mem::take(&mut **order), key.clone(), self.ended.clone());
            let cancelled = CancellationToken::new();
            *attempt = Attempt::Running(cancelled.clone());
            tokio::spawn(async move {
                let report = carry_out(order, cancelled).await;
                let (run_id, fence) = key.clone();
                // The other end lives as long as the process.
                let _ = ended.send((key, Report { run_id, fence, ..report })).await;
            });
        }
    }

    /// What is to be sent at once, if anything.
    fn cancel(&mut self, Cancel { run_id, fence }: Cancel) -> Option<Report> {
        let key = (run_id.clone(), fence);
        match self.held.get(&key) {
            Some(Attempt::Running(cancelled)) => {
                cancelled.cancel();
                None
            }
            Some(Attempt::Ended(report)) => Some(report.as_ref().clone()),
            // It never began here, and never will: that is a cancelled attempt too.
            Some(Attempt::Waiting(_)) | None => {
                let report =
                    Report { run_id, fence, outcome: Outcome::Cancelled.into(), ..Report::default() };
                self.held.insert(key, Attempt::Ended(Box::new(report.clone())));
                Some(report)
            }
        }
    }

    /// One stream; where the leader is, if the node knows, once it is over.
    async fn serve(
        &mut self,
        address: &str,
        reports: &mut mpsc::Receiver<(Key, Report)>,
        stop: &CancellationToken,
    ) -> Result<Option<String>, Box<dyn std::error::Error>> {
        let connected = timeout(CONNECT, WorkerServiceClient::connect(format!("http://{address}"))).await;
        let mut client = connected??;
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let send = async |kind| outbox.send(WorkerMessage { kind: Some(kind) }).await;
        let held = self.held.keys().map(|(run_id, fence)| Held { run_id: run_id.clone(), fence: *fence });
        self.hello.held = held.collect();
        send(FromWorker::Hello(self.hello.clone())).await?;
        let mut said = Said::default();
        if let Some(drain) = &self.draining {
            said.drain();
            send(FromWorker::Drain(drain.clone())).await?;
        }
        let mut stream = client.serve(ReceiverStream::new(messages)).await?.into_inner();
        let mut lease = None;
        let mut beat = interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = stream.message() => match message?.and_then(|message| message.kind) {
                    None => return Ok(None),
                    Some(FromLeader::Welcome(welcome)) => {
                        lease = welcome.lease.and_then(|span| Duration::try_from(span).ok());
                        beat.reset_immediately();
                        for attempt in self.held.values() {
                            if let Attempt::Ended(report) = attempt {
                                send(FromWorker::Report(report.as_ref().clone())).await?;
                            }
                        }
                    }
                    Some(FromLeader::NotLeader(not)) => return Ok(Some(not.leader).filter(|it| !it.is_empty())),
                    Some(FromLeader::Order(order)) => {
                        let key = (order.run_id.clone(), order.fence);
                        self.held.entry(key).or_insert_with(|| Attempt::Waiting(Box::new(order)));
                        self.begin();
                    }
                    Some(FromLeader::Cancel(cancel)) => {
                        if let Some(report) = self.cancel(cancel) {
                            send(FromWorker::Report(report)).await?;
                        }
                    }
                    // Sent only to a worker that says in its hello that it keeps output.
                    Some(FromLeader::ReadOutput(_)) => {}
                    Some(FromLeader::Acknowledged(it)) => drop(self.held.remove(&(it.run_id, it.fence))),
                    Some(FromLeader::Drain(drain)) => {
                        self.draining.get_or_insert(drain.clone());
                        said.drain();
                        send(FromWorker::Drain(drain)).await?;
                    }
                    // The next hello comes without it. What it holds goes on meanwhile.
                    Some(FromLeader::Resume(_)) if !stop.is_cancelled() => {
                        self.draining = None;
                        return Ok(Some(address.to_owned()));
                    }
                    Some(FromLeader::Resume(_)) => {}
                    Some(FromLeader::Heartbeat(_)) => {
                        let (sent, is_heard) = said.answered();
                        self.may_begin_until = sent.zip(lease).map(|(sent, lease)| sent + lease);
                        self.begin();
                        // One that was asked to drain stays, and may be asked to take orders again.
                        if is_heard && stop.is_cancelled() && self.held.is_empty() {
                            return Ok(None);
                        }
                    }
                },
                Some((key, report)) = reports.recv() => {
                    self.held.insert(key, Attempt::Ended(Box::new(report.clone())));
                    send(FromWorker::Report(report)).await?;
                }
                _ = beat.tick(), if lease.is_some() => {
                    said.unanswered.push_back(Instant::now());
                    send(FromWorker::Heartbeat(Heartbeat {})).await?;
                }
                () = stop.cancelled(), if self.draining.is_none() => {
                    self.draining = Some(Drain::default());
                    said.drain();
                    send(FromWorker::Drain(Drain::default())).await?;
                }
            }
        }
    }
}

/// Serves a queue until it is told to stop and has drained.
pub(crate) async fn work(
    queue: String,
    endpoints: Vec<String>,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut endpoints = VecDeque::from(endpoints);
    let (ended, mut reports) = mpsc::channel(OUTBOX);
    let hello = Hello {
        // Another one for each life of the process, as the protocol asks.
        worker: format!("rust-example/{}", std::process::id()),
        queues: vec![queue],
        kinds: vec!["queue".to_owned()],
        slots: SLOTS,
        version: "example".to_owned(),
        protocol: 1,
        ..Hello::default()
    };
    let mut worker = Worker { hello, held: BTreeMap::new(), may_begin_until: None, ended, draining: None };
    let mut leader = None;
    loop {
        if stop.is_cancelled() && worker.held.is_empty() {
            return Ok(());
        }
        endpoints.rotate_left(1);
        let address = leader.take().or_else(|| endpoints.back().cloned()).ok_or("no endpoint")?;
        match worker.serve(&address, &mut reports, &stop).await {
            Ok(hint) => leader = hint,
            Err(error) => eprintln!("{address}: {error}"),
        }
        if leader.is_none() {
            sleep(Duration::from_millis(200)).await;
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let queue = arguments.next().ok_or("usage: worker QUEUE [HOST:PORT,…]")?;
    let endpoints =
        arguments.next().unwrap_or_else(|| "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403".to_owned());
    let stop = CancellationToken::new();
    let told = stop.clone();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        told.cancel();
    });
    work(queue, endpoints.split(',').map(str::to_owned).collect(), stop).await
}
