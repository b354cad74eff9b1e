//! The leader's loop: wait, plan, propose, dispatch.
//!
//! The loop runs on every node and does something only on the one that leads. It is level-triggered:
//! whenever the state, the sessions or the time has changed, it asks `scheduler::plan` what to propose
//! now, proposes it, and goes on without waiting for the commit. When a `Start` is applied, and not
//! before, its order leaves for the worker. Nothing here is decided "on becoming leader"; a new leader
//! runs the same loop over the same state.
//!
//! # What is kept in memory, and why a takeover loses nothing by it
//! - sessions: workers say hello again, with the fences they hold;
//! - what is in flight: a command proposed twice is refused the second time;
//! - reports not yet committed: the worker repeats a report until it is acknowledged.
//!
//! # Invariants
//! - An order is sent only for a `Start` that this node has applied, or has been told was applied.
//! - Every proposal is fenced by the term in which it was planned.
//! - What is due waits outside of the log when the log is slow ([`window`]): a start or a report never queues
//!   behind more fires than are applied in a moment.
//! - Queues are bounded: [`ENTRIES_IN_FLIGHT`] entries, [`EVENTS`] events of sessions,
//!   [`REPORTS_WAITING`] reports, and for each session the orders that fit its slots. A session that does not take its messages is dropped.

mod dispatch;
mod fleet;
mod flight;
mod said;
mod sessions;
mod turn;
mod window;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::trusted::TrustedClock;
use crate::metrics::Metrics;
use crate::raft::Raft;
pub use dispatch::outcome_word;
pub use fleet::{Answer, FleetAsk, FleetError};
pub use said::{
    DrainAsked, Hello, Message, OutputAsked, OutputWanted, SessionEvent, SessionId, Standing, StreamWanted,
    WorkerInfo,
};

/// Entries proposed and not yet applied; the loop plans no further until one is.
pub const ENTRIES_IN_FLIGHT: usize = 32;
/// Events of sessions that wait for the loop; a session waits with the next one until there is room.
pub const EVENTS: usize = 4_096;
/// Reports that one entry carries at most, and their bytes; one report at least.
pub const REPORTS_PER_ENTRY: usize = 500;
/// See [`REPORTS_PER_ENTRY`]. Far below what an entry may have, for outputs come in full when many end together.
pub const REPORT_BYTES_PER_ENTRY: usize = 256 << 10;
/// Reports that wait to be proposed; a worker repeats one for which there was no room.
pub const REPORTS_WAITING: usize = 100_000;
/// The pause after a proposal that was refused at once: what refused it needs time to change.
pub const REFUSED: Duration = Duration::from_millis(20);
/// The loop looks at the clock at least so often, for the clock may be set while it sleeps.
pub const LOOK: Duration = Duration::from_secs(1);

/// What the loop needs.
#[derive(Debug)]
pub struct LeaderOptions {
    /// This node.
    pub node_id: u64,
    /// How long a worker may be silent before its attempts count as lost.
    pub lease: Duration,
    /// Time, once it is known, and chance.
    pub clock: TrustedClock,
    /// Where figures go.
    pub metrics: Arc<Metrics>,
}

/// The loop's other end: where sessions report, and who is connected.
#[derive(Clone, Debug)]
pub struct Leader {
    events: mpsc::Sender<SessionEvent>,
    workers: watch::Receiver<Arc<Vec<WorkerInfo>>>,
}

impl Leader {
    /// Starts the loop; it ends when `stop` is cancelled.
    pub fn spawn(
        raft: Raft,
        options: LeaderOptions,
        stop: CancellationToken,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (events, inbox) = mpsc::channel(EVENTS);
        let (publish, workers) = watch::channel(Arc::new(Vec::new()));
        let task = tokio::spawn(turn::Loop::new(raft, options, inbox, publish).run(stop));
        (Self { events, workers }, task)
    }

    /// Where the streams of workers report.
    #[must_use]
    pub fn events(&self) -> mpsc::Sender<SessionEvent> {
        self.events.clone()
    }

    /// Asks the worker called `worker`, or the life of it that has its output, to send some.
    pub async fn read_output(&self, worker: Arc<str>, wanted: OutputWanted) -> OutputAsked {
        let (asked, answer) = oneshot::channel();
        let event = SessionEvent::ReadOutput { worker, wanted: Box::new(wanted), asked };
        // The loop is gone when the node stops.
        match self.events.send(event).await {
            Ok(()) => answer.await.unwrap_or(OutputAsked::Away),
            Err(_) => OutputAsked::Away,
        }
    }

    /// The workers connected to this node; empty unless it leads.
    #[must_use]
    pub fn workers(&self) -> Arc<Vec<WorkerInfo>> {
        self.workers.borrow().clone()
    }
}
