//! `ReadOutput`: the output of attempts, from the worker's disk to whoever reads it.
//!
//! ```text
//! client ◄── any node ◄── leader ◄── (the node that the worker serves) ◄── worker
//!            ReadOutput                SendOutput
//! ```
//!
//! The leader knows where the worker is: it asks it over the Serve stream, under an id that nobody can guess, and the
//! worker answers with a call of its own that carries this id (`sent`). A node that does not lead hands both calls on
//! to the leader, once. Every step has a bounded buffer and takes no more than the one before it gives up: a reader
//! that takes nothing holds the worker's reading, on a connection of its own, and nothing else.
//!
//! Where the worker is not connected, or has nothing of the attempt any more, the record of the run answers
//! (`record`) with what it has.
//!
//! # Invariants
//! - An offset names the same byte whoever answers, so a stream that breaks, for whatever reason, is taken up again
//!   behind the last piece without loss or doubling. What the record has of a longer output has no place in it, and
//!   is told only to a reader that has seen nothing yet.
//! - The last message about an attempt says how its reading came to its end; a stream without one was cut.

mod record;
mod sent;
mod serve;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Response, Status};

use self::serve::Serving;
use super::{Api, forward, limits, runs, status};
use crate::pb::v1 as pb;
use crate::pb::v1::run_service_client::RunServiceClient;
use tokio_stream::wrappers::ReceiverStream;

/// Asks a worker, by the name that it has or had, for output.
pub type AskOutput = Arc<dyn Fn(Arc<str>, pb::ReadOutput) -> BoxFuture<'static, Asked> + Send + Sync>;

/// Whether a worker was asked for output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It was.
    Yes,
    /// It is not connected.
    Away,
    /// It keeps no output.
    KeepsNone,
}

/// Messages that wait for a slow reader.
const AHEAD: usize = 1;

/// What a client receives.
pub(super) type Pieces = ReceiverStream<Result<pb::ReadOutputResponse, Status>>;

type Client = mpsc::Sender<Result<pb::ReadOutputResponse, Status>>;

/// The readings of this node.
pub(super) struct Outputs {
    /// Through this node, whoever leads.
    room: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

/// Who waits for a worker's call.
#[derive(Default)]
struct Waiting {
    by_id: HashMap<String, mpsc::Sender<pb::OutputSent>>,
    by_worker: HashMap<Arc<str>, usize>,
}

/// A reading for which a worker was, or is about to be, asked; dropping it ends the worker's call.
pub(super) struct Awaited {
    outputs: Arc<Outputs>,
    id: String,
    worker: Arc<str>,
    sent: mpsc::Receiver<pb::OutputSent>,
}

impl Outputs {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { room: Arc::new(Semaphore::new(limits::OUTPUT_READS)), waiting: Mutex::default() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for what `worker` will send under `id`; none when it sends to as many already.
    fn expect(self: &Arc<Self>, id: String, worker: Arc<str>) -> Option<Awaited> {
        let mut waiting = self.waiting();
        let of_worker = waiting.by_worker.entry(Arc::clone(&worker)).or_default();
        if *of_worker >= limits::OUTPUT_READS_PER_WORKER {
            return None;
        }
        *of_worker += 1;
        let (sender, sent) = mpsc::channel(AHEAD);
        waiting.by_id.insert(id.clone(), sender);
        Some(Awaited { outputs: Arc::clone(self), id, worker, sent })
    }

    /// Whoever waits under this id; once, for one call answers.
    fn claim(&self, id: &str) -> Option<mpsc::Sender<pb::OutputSent>> {
        self.waiting().by_id.remove(id)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut waiting = self.outputs.waiting();
        waiting.by_id.remove(&self.id);
        if let Some(of_worker) = waiting.by_worker.get_mut(&self.worker) {
            *of_worker -= 1;
            if *of_worker == 0 {
                waiting.by_worker.remove(&self.worker);
            }
        }
    }
}

impl Api {
    /// Lets this node read output: `ask` reaches the workers that are connected to it.
    pub fn read_output_by(&self, ask: AskOutput) {
        // The first stays; a node has one set of workers.
        let _ = self.shared.ask_output.set(ask);
    }

    pub(super) async fn read_output_here(
        &self,
        request: Request<pb::ReadOutputRequest>,
    ) -> Result<Response<Pieces>, Status> {
        let may_forward = forward::may_forward(&request);
        let message = request.into_inner();
        let id = runs::run_id(&message.run_id)?;
        check(&message)?;
        let room = Arc::clone(&self.shared.outputs.room).try_acquire_owned();
        let room = room.map_err(|_| {
            let most = limits::OUTPUT_READS;
            Status::resource_exhausted(format!("{most} read output through this node already"))
        })?;
        let (client, pieces) = mpsc::channel(AHEAD);
        let now = self.shared.raft.leadership().borrow().clone();
        if now.is_leader {
            let serving = Serving::new(self.clone(), id, message, now.term, client);
            tokio::spawn(async move {
                serving.run().await;
                drop(room);
            });
        } else {
            let leader = now.leader.map(|(id, _)| id);
            let line = self.leader_line().filter(|_| may_forward);
            let line = line.ok_or_else(|| status::not_leader(leader))?;
            let mut there = RunServiceClient::new(line).max_decoding_message_size(limits::RESPONSE_BYTES);
            let asked = there.read_output(forward::handed_on_open(message));
            let asked = tokio::time::timeout(limits::FORWARD_TIMEOUT, asked).await;
            let from = asked.map_err(|_| Status::unavailable("the leader does not answer"))??.into_inner();
            let api = self.clone();
            tokio::spawn(async move {
                api.hand_back(from, leader, client).await;
                drop(room);
            });
        }
        Ok(Response::new(ReceiverStream::new(pieces)))
    }

    /// From the leader to the client, as long as both are there and it leads.
    async fn hand_back(
        &self,
        mut from: tonic::Streaming<pb::ReadOutputResponse>,
        leader: Option<u64>,
        client: Client,
    ) {
        let mut leadership = self.shared.raft.leadership();
        let changed = leadership.wait_for(|now| now.leader.as_ref().map(|(id, _)| *id) != leader);
        tokio::pin!(changed);
        loop {
            let taken = tokio::select! {
                () = client.closed() => return,
                _ = &mut changed => Some(Err(status::not_leader(None))),
                taken = from.message() => taken.transpose(),
            };
            let Some(taken) = taken else { return };
            let taken = taken.map_err(passing);
            let is_over = taken.is_err();
            if client.send(taken).await.is_err() || is_over {
                return;
            }
        }
    }
}

/// A connection that broke on the way is no word of the leader's, and another node may do better.
fn passing(status: Status) -> Status {
    if std::error::Error::source(&status).is_some() {
        return Status::unavailable("the connection to the leader broke");
    }
    status
}

fn check(message: &pb::ReadOutputRequest) -> Result<(), Status> {
    if message.tail_lines > limits::OUTPUT_TAIL_LINES {
        let most = limits::OUTPUT_TAIL_LINES;
        return Err(status::invalid_field(
            "tail_lines",
            &format!("is out of range, expected at most {most}"),
        ));
    }
    if message.tail_lines > 0 && message.offset > 0 {
        return Err(status::invalid_field("tail_lines", "makes no sense with an offset"));
    }
    if message.later_attempts && !message.follow {
        return Err(status::invalid_field("later_attempts", "makes no sense without follow"));
    }
    match pb::OutputStream::try_from(message.stream) {
        Ok(pb::OutputStream::Unspecified | pb::OutputStream::Stdout | pb::OutputStream::Stderr) => Ok(()),
        Ok(pb::OutputStream::Both | pb::OutputStream::Body) | Err(_) => {
            Err(status::invalid_field("stream", "expected stdout, stderr, or nothing for all"))
        }
    }
}
