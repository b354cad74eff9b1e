//! `WorkerService` on the client listener: carries the streams of workers to the leader's loop, or where another node
//! leads, to that node ([`relay`](super::relay)).
//!
//! It checks what a worker says and translates; it decides nothing. A message that is not of the form
//! ends the stream with a status that names the field. Each stream has a bounded queue each way.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::fleet::Fleet;
use super::relay::Relay;
use super::reports::read_report;
use crate::api::{Api, Asked};
use crate::leader::{
    DrainAsked, Hello, Leader, Message, OutputAsked, OutputWanted, SessionEvent, SessionId, StreamWanted,
};
use crate::pb::instant as pb_instant;
use crate::pb::protocol::{self, Versions};
use crate::pb::v1 as pb;
use crate::state::run::RunId;
use crate::state::spec::{Program, Target};
use crate::state::time::Timestamp;
use crate::view::broker;

/// Attempts that a worker may offer to carry out at the same time.
const SLOTS: u32 = 10_000;
/// Queues that a worker may serve.
const QUEUES: usize = 256;
/// Earlier lives that a worker may name.
const EARLIER: usize = 64;
/// Labels that a worker may have.
const LABELS: usize = 64;
/// Bytes of a name: of the worker, a queue, a kind, a label's key or value, a version.
const NAME_BYTES: usize = 256;
/// Bytes of an actor and a reason that a worker repeats; more is cut off.
const ASKED_BYTES: usize = 1_024;
/// Streams of workers on one node, those that it carries to the leader and those that come by others included. One
/// more is refused, and its worker goes elsewhere.
pub(super) const STREAMS: usize = 4_096;
/// From the opening of a stream to its hello.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// Messages beside orders that may wait for a worker: it can be told to stop all it holds, and each of
/// its reports is acknowledged.
const SLACK: usize = 1_024;

/// The service.
pub(super) struct WorkerStreams {
    node_id: u64,
    events: mpsc::Sender<SessionEvent>,
    relay: Relay,
    fleet: Fleet,
    streams: Arc<Semaphore>,
    /// Who waits for output.
    api: Api,
    next: AtomicU64,
}

/// What the leader says on a stream.
type Said = Pin<Box<dyn Stream<Item = Result<pb::LeaderMessage, Status>> + Send>>;

impl WorkerStreams {
    /// Streams that report to the loop behind `events`, or go by the relay where that loop does not lead.
    #[must_use]
    pub(super) fn new(
        node_id: u64,
        events: mpsc::Sender<SessionEvent>,
        relay: Relay,
        (fleet, api): (Fleet, Api),
    ) -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS));
        Self { node_id, events, relay, fleet, api, streams, next: AtomicU64::new(1) }
    }

    async fn here(
        &self,
        hello: pb::Hello,
        from: Option<SocketAddr>,
        inbound: Streaming<pb::WorkerMessage>,
        place: OwnedSemaphorePermit,
    ) -> Result<Said, Status> {
        let hello = read_hello(hello, self.node_id, from)?;
        let session = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let (outbox, messages) = mpsc::channel(queue(hello.slots));
        let gone = || Status::unavailable("this node is stopping");
        self.events.send(SessionEvent::Opened { session, hello, outbox }).await.map_err(|_| gone())?;
        let events = self.events.clone();
        tokio::spawn(async move {
            listen(session, inbound, &events).await;
            // The loop may be gone already when the node stops; then nobody needs to know.
            let _ = events.send(SessionEvent::Closed { session }).await;
            drop(place);
        });
        Ok(Box::pin(ReceiverStream::new(messages).map(|message| Ok(write(message)))))
    }
}

/// Messages that may wait for a worker.
fn queue(slots: u32) -> usize {
    usize::try_from(slots.min(SLOTS)).unwrap_or(usize::MAX).saturating_mul(3).saturating_add(SLACK)
}

#[tonic::async_trait]
impl pb::worker_service_server::WorkerService for WorkerStreams {
    type ServeStream = Said;

    async fn serve(
        &self,
        request: Request<Streaming<pb::WorkerMessage>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let place = Arc::clone(&self.streams).try_acquire_owned();
        let place = place
            .map_err(|_| Status::resource_exhausted(format!("this node has {STREAMS} streams of workers")))?;
        let from = request.remote_addr();
        let mut inbound = request.into_inner();
        let first = timeout(HELLO_MAX, inbound.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("hello: none came in time"))??;
        let Some(pb::worker_message::Kind::Hello(hello)) = first.and_then(|message| message.kind) else {
            return Err(Status::invalid_argument("hello: the first message of a worker must be its hello"));
        };
        common_protocol(&hello)?;
        let Some(leader) = self.relay.leader_for(&hello) else {
            return self.here(hello, from, inbound, place).await.map(Response::new);
        };
        let (outbox, messages) = mpsc::channel(queue(hello.slots));
        let relay = self.relay.clone();
        tokio::spawn(async move {
            relay.carry(leader, hello, from, inbound, outbox).await;
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn list_workers(
        &self,
        request: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        self.fleet.list(request).await
    }

    async fn report_tasks(
        &self,
        request: Request<pb::ReportTasksRequest>,
    ) -> Result<Response<pb::ReportTasksResponse>, Status> {
        self.fleet.report_tasks(request).await
    }

    async fn drain_worker(
        &self,
        request: Request<pb::DrainWorkerRequest>,
    ) -> Result<Response<pb::Worker>, Status> {
        self.fleet.drain(request).await
    }

    async fn resume_worker(
        &self,
        request: Request<pb::ResumeWorkerRequest>,
    ) -> Result<Response<pb::Worker>, Status> {
        self.fleet.resume(request).await
    }

    async fn send_output(
        &self,
        request: Request<Streaming<pb::OutputSent>>,
    ) -> Result<Response<pb::SendOutputResponse>, Status> {
        self.api.take_output(request).await
    }
}

/// Passes on what the worker says until it ends the stream or says something that is not of the form.
async fn listen(
    session: SessionId,
    mut inbound: Streaming<pb::WorkerMessage>,
    events: &mpsc::Sender<SessionEvent>,
) {
    use pb::worker_message::Kind;
    loop {
        let message = match inbound.message().await {
            Ok(Some(message)) => message,
            Ok(None) | Err(_) => return,
        };
        let event = match message.kind {
            Some(Kind::Heartbeat(_)) => SessionEvent::Heartbeat { session },
            Some(Kind::Drain(drain)) => SessionEvent::Drain { session, asked: read_drain(drain) },
            Some(Kind::Report(report)) => match read_report(session, report) {
                Ok(event) => event,
                Err(status) => {
                    tracing::warn!(
                        reason = status.message(),
                        "a worker sent a report that is not of the form"
                    );
                    return;
                }
            },
            Some(Kind::Hello(_)) | None => {
                tracing::warn!("a worker sent a message that has no place here");
                return;
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// The version that is spoken with a worker, whether it is served here or carried.
fn common_protocol(hello: &pb::Hello) -> Result<u32, Status> {
    let theirs = Versions { oldest: hello.protocol_min, newest: hello.protocol };
    protocol::SPOKEN.common(theirs).map_err(|none| {
        let worker = cut(hello.worker.clone(), NAME_BYTES);
        Status::failed_precondition(format!("worker {worker:?} is not served: {none}"))
    })
}

/// Reads a hello on the node `here`.
pub(super) fn read_hello(hello: pb::Hello, here: u64, from: Option<SocketAddr>) -> Result<Hello, Status> {
    let invalid = |text: &str| Status::invalid_argument(format!("hello.{text}"));
    let protocol = common_protocol(&hello)?;
    let is_name = |text: &String| (1..=NAME_BYTES).contains(&text.len());
    if !is_name(&hello.worker) {
        return Err(invalid("worker: expected 1 to 256 bytes"));
    }
    if hello.queues.is_empty() || hello.queues.len() > QUEUES || !hello.queues.iter().all(is_name) {
        return Err(invalid("queues: expected 1 to 256 queues of 1 to 256 bytes"));
    }
    let is_label = |(key, value): (&String, &String)| is_name(key) && value.len() <= NAME_BYTES;
    if hello.labels.len() > LABELS || !hello.labels.iter().all(is_label) {
        return Err(invalid("labels: expected at most 64 labels, keys and values of at most 256 bytes"));
    }
    if !(1..=SLOTS).contains(&hello.slots) {
        return Err(invalid("slots: expected 1 to 10000"));
    }
    if hello.kinds.is_empty() || hello.kinds.len() > 64 || !hello.kinds.iter().all(is_name) {
        return Err(invalid("kinds: expected 1 to 64 kinds of targets"));
    }
    if hello.earlier.len() > EARLIER || hello.earlier.iter().any(|life| life.len() > 256) {
        return Err(invalid("earlier: expected at most 64 names of at most 256 bytes"));
    }
    let held = hello
        .held
        .iter()
        .map(|held| {
            let run: RunId = held.run_id.parse().map_err(|_| invalid("held.run_id: expected a run id"))?;
            Ok((run, held.fence))
        })
        .collect::<Result<BTreeSet<_>, Status>>()?;
    let from = from.map(|from| from.to_string()).unwrap_or_default();
    let (connected_to, address) =
        hello.relayed.map_or((here, from), |relayed| (relayed.node_id, relayed.address));
    Ok(Hello {
        worker: hello.worker.into(),
        queues: Arc::new(hello.queues.into_iter().map(Arc::from).collect()),
        labels: Arc::new(hello.labels),
        kinds: Arc::new(hello.kinds.into_iter().collect()),
        slots: hello.slots,
        held,
        version: cut(hello.version, NAME_BYTES),
        protocol,
        takes_drain: protocol >= protocol::DRAINS_SINCE,
        node: Some(hello.node_id).filter(|node| *node > 0),
        connected_to,
        address: cut(address, NAME_BYTES),
        earlier: hello.earlier.into_iter().map(Arc::from).collect(),
        keeps_output: hello.keeps_output,
    })
}

fn read_drain(drain: pb::Drain) -> DrainAsked {
    DrainAsked {
        actor: cut(drain.actor, ASKED_BYTES),
        reason: cut(drain.reason, ASKED_BYTES),
        at: drain.asked_at.as_ref().map(pb_instant::read),
    }
}

/// At most so many bytes of a text.
pub(super) fn cut(mut text: String, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn write(message: Message) -> pb::LeaderMessage {
    use pb::leader_message::Kind;
    let kind = match message {
        Message::Welcome { lease, term, protocol } => {
            Kind::Welcome(pb::Welcome { lease: Some(span(lease)), term, protocol, relayed_by: 0 })
        }
        Message::Order {
            run,
            fence,
            attempt,
            namespace,
            job,
            scheduled_at,
            timeout,
            target,
            params,
            chain,
            inputs,
            cluster,
            next_at,
            delivery,
        } => Kind::Order(pb::Order {
            run_id: run.to_string(),
            fence,
            attempt,
            namespace: namespace.to_string(),
            job: job.to_string(),
            scheduled_at: Some(instant(scheduled_at)),
            timeout: Some(span(timeout)),
            target: Some(write_target(*target)),
            traceparent: traceparent(run, fence),
            params: params.as_ref().clone(),
            chain_id: chain.to_string(),
            inputs: inputs.as_ref().clone(),
            cluster_id: cluster.map(|id| id.to_string()).unwrap_or_default(),
            next_at: next_at.map(instant),
            delivery,
        }),
        Message::Cancel { run, fence } => Kind::Cancel(pb::Cancel { run_id: run.to_string(), fence }),
        Message::Acknowledged { run, fence, refused } => {
            Kind::Acknowledged(pb::Acknowledged { run_id: run.to_string(), fence, refused })
        }
        Message::Heartbeat => Kind::Heartbeat(pb::Heartbeat {}),
        Message::Drain(DrainAsked { actor, reason, at }) => {
            Kind::Drain(pb::Drain { actor, reason, asked_at: at.map(instant) })
        }
        Message::Resume => Kind::Resume(pb::Resume {}),
        Message::ReadOutput(wanted) => Kind::ReadOutput(output_wanted(*wanted)),
        Message::NotLeader { leader } => {
            Kind::NotLeader(pb::NotLeader { leader: leader.unwrap_or_default() })
        }
    };
    pb::LeaderMessage { kind: Some(kind) }
}

/// Asks a worker of this node's sessions for output.
pub(super) async fn ask(leader: &Leader, worker: Arc<str>, wanted: pb::ReadOutput) -> Asked {
    let Ok(run) = wanted.run_id.parse() else { return Asked::Away };
    let stream = match wanted.stream() {
        pb::OutputStream::Stdout => StreamWanted::Stdout,
        pb::OutputStream::Stderr => StreamWanted::Stderr,
        pb::OutputStream::Unspecified | pb::OutputStream::Both | pb::OutputStream::Body => StreamWanted::All,
    };
    let pb::ReadOutput { id, fence, offset, tail_lines, follow, .. } = wanted;
    let wanted = OutputWanted { id, run, fence, offset, tail_lines, stream, follow };
    match leader.read_output(worker, wanted).await {
        OutputAsked::Asked => Asked::Yes,
        OutputAsked::Away => Asked::Away,
        OutputAsked::KeepsNone => Asked::KeepsNone,
    }
}

fn output_wanted(wanted: OutputWanted) -> pb::ReadOutput {
    let stream = match wanted.stream {
        StreamWanted::All => pb::OutputStream::Unspecified,
        StreamWanted::Stdout => pb::OutputStream::Stdout,
        StreamWanted::Stderr => pb::OutputStream::Stderr,
    };
    pb::ReadOutput {
        id: wanted.id,
        run_id: wanted.run.to_string(),
        fence: wanted.fence,
        offset: wanted.offset,
        tail_lines: wanted.tail_lines,
        stream: stream.into(),
        follow: wanted.follow,
    }
}

fn write_target(target: Target) -> pb::Target {
    match target {
        Target::Http { method, url, headers, body, success } => pb::Target {
            http: Some(pb::HttpTarget { method, url, headers, body, success }),
            ..pb::Target::default()
        },
        Target::Exec { program, env, cwd, stdin } => {
            let (command, shell) = match program {
                Program::Command(command) => (command, String::new()),
                Program::Shell(line) => (Vec::new(), line),
            };
            let exec = pb::ExecTarget {
                command,
                shell,
                env,
                cwd: cwd.unwrap_or_default(),
                stdin: stdin.unwrap_or_default(),
            };
            pb::Target { exec: Some(exec), ..pb::Target::default() }
        }
        Target::Grpc { address, method, request, metadata, descriptor, tls } => {
            let descriptor = STANDARD.encode(descriptor);
            let grpc = pb::GrpcTarget { address, method, request, metadata, descriptor, tls };
            pb::Target { grpc: Some(grpc), ..pb::Target::default() }
        }
        Target::Redis(redis) => broker::redis(&redis),
        Target::Celery(celery) => broker::celery(&celery),
        Target::Amqp(amqp) => broker::amqp(&amqp),
        Target::Nats(nats) => broker::nats(&nats),
        Target::Queue { payload } => {
            pb::Target { queue: Some(pb::QueueTarget { payload }), ..pb::Target::default() }
        }
    }
}

/// The W3C trace context of an attempt, version 00, sampled: the trace is the run's, the span the attempt's, the same
/// whoever computes it. Neither may be zero, so both end in a one.
fn traceparent(run: RunId, fence: u64) -> String {
    let high = mix(run.job.0);
    let low = mix(run.at.millis().cast_unsigned() ^ mix(run.seq));
    format!("00-{high:016x}{:016x}-{:016x}-01", low | 1, mix(low ^ fence) | 1)
}

/// SplitMix64's output function.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn span(span: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span).unwrap_or_default()
}

fn instant(at: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.millis().rem_euclid(1_000) * 1_000_000).unwrap_or(0);
    prost_types::Timestamp { seconds: at.millis().div_euclid(1_000), nanos }
}
