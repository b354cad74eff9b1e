//! `WorkerService` on the client listener: carries the streams of workers to the leader's loop.
//!
//! It checks what a worker says and translates; it decides nothing. A message that is not of the form
//! ends the stream with a status that names the field. Each stream has a bounded queue each way.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::api::{Api, Asked};
use crate::leader::{
    Hello, Leader, Message, OutputAsked, OutputWanted, SessionEvent, SessionId, StreamWanted,
};
use crate::pb::v1 as pb;
use crate::state::limits;
use crate::state::run::{AttemptOutcome, Report, RunId};
use crate::state::spec::{Program, Target};
use crate::state::time::Timestamp;

/// Attempts that a worker may offer to carry out at the same time.
const SLOTS: u32 = 10_000;
/// Queues that a worker may serve.
const QUEUES: usize = 256;
/// Earlier lives that a worker may name.
const EARLIER: usize = 64;
/// Labels that a worker may have.
const LABELS: usize = 64;
/// Messages beside orders that may wait for a worker: it can be told to stop all it holds, and each of
/// its reports is acknowledged.
const SLACK: usize = 1_024;

/// The service.
pub(super) struct WorkerStreams {
    events: mpsc::Sender<SessionEvent>,
    /// Who waits for output.
    api: Api,
    next: AtomicU64,
}

impl WorkerStreams {
    /// Streams that report to the loop behind `events`.
    #[must_use]
    pub(super) const fn new(events: mpsc::Sender<SessionEvent>, api: Api) -> Self {
        Self { events, api, next: AtomicU64::new(1) }
    }
}

#[tonic::async_trait]
impl pb::worker_service_server::WorkerService for WorkerStreams {
    type ServeStream = Pin<Box<dyn Stream<Item = Result<pb::LeaderMessage, Status>> + Send>>;

    async fn serve(
        &self,
        request: Request<Streaming<pb::WorkerMessage>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.and_then(|message| message.kind);
        let Some(pb::worker_message::Kind::Hello(hello)) = first else {
            return Err(Status::invalid_argument("hello: the first message of a worker must be its hello"));
        };
        let hello = read_hello(hello)?;
        let session = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let capacity =
            usize::try_from(hello.slots).unwrap_or(usize::MAX).saturating_mul(3).saturating_add(SLACK);
        let (outbox, messages) = mpsc::channel(capacity.min(64 * 1_024));
        let gone = || Status::unavailable("this node is stopping");
        self.events.send(SessionEvent::Opened { session, hello, outbox }).await.map_err(|_| gone())?;
        let events = self.events.clone();
        tokio::spawn(async move {
            listen(session, inbound, &events).await;
            // The loop may be gone already when the node stops; then nobody needs to know.
            let _ = events.send(SessionEvent::Closed { session }).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages).map(|message| Ok(write(message))))))
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
            Some(Kind::Drain(_)) => SessionEvent::Drain { session },
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

pub(super) fn read_hello(hello: pb::Hello) -> Result<Hello, Status> {
    let invalid = |text: &str| Status::invalid_argument(format!("hello.{text}"));
    if hello.worker.is_empty() || hello.worker.len() > 256 {
        return Err(invalid("worker: expected 1 to 256 bytes"));
    }
    if hello.queues.is_empty() || hello.queues.len() > QUEUES {
        return Err(invalid("queues: expected 1 to 256 queues"));
    }
    if hello.labels.len() > LABELS {
        return Err(invalid("labels: expected at most 64 labels"));
    }
    if !(1..=SLOTS).contains(&hello.slots) {
        return Err(invalid("slots: expected 1 to 10000"));
    }
    if hello.kinds.is_empty() || hello.kinds.len() > 64 {
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
    Ok(Hello {
        worker: hello.worker.into(),
        queues: hello.queues.into_iter().map(Arc::from).collect(),
        labels: hello.labels.into_iter().collect::<BTreeMap<_, _>>(),
        kinds: hello.kinds.into_iter().collect(),
        slots: hello.slots,
        held,
        earlier: hello.earlier.into_iter().map(Arc::from).collect(),
        keeps_output: hello.keeps_output,
    })
}

pub(super) fn read_report(session: SessionId, report: pb::Report) -> Result<SessionEvent, Status> {
    let invalid = |text: &str| Status::invalid_argument(format!("report.{text}"));
    let run: RunId = report.run_id.parse().map_err(|_| invalid("run_id: expected a run id"))?;
    let outcome = match pb::Outcome::try_from(report.outcome) {
        Ok(pb::Outcome::Succeeded) => AttemptOutcome::Succeeded,
        Ok(pb::Outcome::Failed) => AttemptOutcome::Failed,
        Ok(pb::Outcome::Timeout) => AttemptOutcome::TimedOut,
        Ok(pb::Outcome::Cancelled) => AttemptOutcome::Cancelled,
        Ok(pb::Outcome::Lost) => AttemptOutcome::Lost,
        Ok(pb::Outcome::Running | pb::Outcome::Unspecified) | Err(_) => {
            return Err(invalid("outcome: expected SUCCEEDED, FAILED, TIMEOUT, CANCELLED or LOST"));
        }
    };
    let http_status = match report.http_status {
        None => None,
        Some(status) => {
            Some(u16::try_from(status).map_err(|_| invalid("http_status: expected a status code"))?)
        }
    };
    let error = cut(report.error);
    let mut output = report.output;
    let surplus = output.len().saturating_sub(limits::OUTPUT_BYTES);
    let output_truncated = report.output_truncated || surplus > 0;
    output.drain(..surplus);
    let (fence, exit_code) = (report.fence, report.exit_code);
    let (result, remark) = read_result(report.result);
    let error = cut(if error.is_empty() || remark.is_empty() {
        error + &remark
    } else {
        format!("{error}; {remark}")
    });
    let report = Arc::new(Report { exit_code, http_status, error, output, output_truncated, result });
    Ok(SessionEvent::Report { session, run, fence, outcome, report })
}

fn cut(mut error: String) -> String {
    error.truncate(error.floor_char_boundary(limits::ERROR_BYTES));
    error
}

/// The result, or none and why. The attempt has ended whatever it says of itself, so that is no reason to refuse the
/// report.
fn read_result(text: String) -> (String, String) {
    if text.len() > limits::RESULT_BYTES {
        let why = format!("result: {} bytes are more than {}; not kept", text.len(), limits::RESULT_BYTES);
        return (String::new(), why);
    }
    if !text.is_empty() && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
        return (String::new(), "result: no JSON; not kept".to_owned());
    }
    (text, String::new())
}

fn write(message: Message) -> pb::LeaderMessage {
    use pb::leader_message::Kind;
    let kind = match message {
        Message::Welcome { lease, term } => Kind::Welcome(pb::Welcome { lease: Some(span(lease)), term }),
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
        }),
        Message::Cancel { run, fence } => Kind::Cancel(pb::Cancel { run_id: run.to_string(), fence }),
        Message::Acknowledged { run, fence, refused } => {
            Kind::Acknowledged(pb::Acknowledged { run_id: run.to_string(), fence, refused })
        }
        Message::Heartbeat => Kind::Heartbeat(pb::Heartbeat {}),
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
