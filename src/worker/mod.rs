//! Carries out attempts for the cluster: the worker's side of `WorkerService`.
//!
//! The worker that is embedded in every node and `chronarch worker` are this code. A [`Worker`] keeps one stream to
//! the leader, straight or carried by another node, takes orders from it, has [`Targets`](crate::target::Targets) carry them out, and repeats each report
//! until the leader has acknowledged it. When the stream breaks it looks for the leader again, announces what it
//! holds, and goes on.
//!
//! Words: an attempt is *held* from its order to the acknowledgement of its report; a *link* is one stream to a
//! leader; it is *carried* where a node that does not lead passes it on; it is *confirmed* while the leader's last answer to a heartbeat is younger than the lease; to *leave* is
//! to stop what a drain did not wait for. A worker *drains* because its process is ended, or because the leader was
//! asked for it: then without a limit of time, and one that is part of a node stays when it has drained, and may be
//! told to go on.
//!
//! Who does what: one task, `serve`, owns everything and is the only one that decides; `ledger` says what is held
//! and owed, `finder` whom to ask for the leader, `phase` how far it is on its way out, all pure; `link` is the stream; `convert` reads the messages.
//! Each attempt is a task of its own that knows nothing but its order. They talk by return value and cancellation
//! token; nothing is shared, and the one channel, to the stream, is bounded. Output that someone wants to read is
//! sent by tasks of their own on connections of their own (`reads`).
//!
//! Invariants:
//! - An attempt, named by its run and fence, is started at most once in the worker's life. (Beyond
//!   [`ACKNOWLEDGED_MAX`] acknowledged attempts the oldest are forgotten; no leader orders what it acknowledged.)
//! - It is started only while the link is confirmed, checked at that moment. What an abandoned link still carried is
//!   never seen, and what waited is announced to the next leader first, which cancels what the cluster gave up. So a
//!   worker that was stopped for an hour does not begin what was its own an hour ago.
//! - Of one run at most one attempt runs. An order with a larger fence means that the cluster gave the older attempt
//!   up: that one is stopped, and the newer begins when it has ended.
//! - Whatever the leader sends, memory is bounded by the limits below.
//!
//! What runs goes on however long no leader can be reached, also beyond the lease: the cluster then counts the
//! attempt as lost and `on_lost` decides about the run, and the fence makes the late report worthless. Stopping it
//! would turn each long election into failed work.
//!
//! Deliberately absent: retries, `on_lost`, timeouts of the cluster (the replicated state's), what a target does
//! (`target`'s), and persistence: a worker that dies forgets, and its next life has another name.

mod convert;
mod finder;
#[doc(hidden)]
pub mod fuzzing;
mod ledger;
mod link;
mod phase;
mod reads;
mod serve;
pub mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

pub use crate::client::{Connection, Dialer};
pub use serve::Worker;

use crate::spool::Spool;

/// Attempts that a worker may carry out at a time.
pub const SLOTS_MAX: u32 = 10_000;
/// Orders beyond the slots that wait for one; a further one is reported as failed. A leader that counts never gets
/// there.
pub const WAITING_MAX: usize = 1_024;
/// Acknowledged attempts that are remembered, so that a late repetition of the order is recognised.
pub const ACKNOWLEDGED_MAX: usize = 16_384;
/// Endpoints that a worker may be given.
pub const ENDPOINTS_MAX: usize = 64;
/// Queues that a worker may serve.
pub const QUEUES_MAX: usize = 256;
/// Labels that a worker may have.
pub const LABELS_MAX: usize = 64;
/// Kinds of targets that a worker may announce.
pub const KINDS_MAX: usize = 64;
/// Bytes of a worker's name, a queue, a label's key or value, and a run id.
pub const NAME_BYTES_MAX: usize = 256;
/// How long a drain waits for what runs, unless configured otherwise.
pub const DRAIN_GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// From one heartbeat to the next; a third of the lease where that is shorter.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// A shorter lease is no lease.
const LEASE_MIN: Duration = Duration::from_millis(100);
/// A link on which nothing was heard for so long is abandoned.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Heartbeats without an answer; at one more the link is abandoned.
const UNANSWERED_MAX: usize = 64;
/// Making a connection, HTTP/2 preface included.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// From hello to welcome; a node that carries the stream has 800 ms of it to reach the leader.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(1);
/// HTTP/2 pings, and the wait for their answer.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The pause between two rounds through all endpoints.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long an address that did not answer in time is left out.
const SHUN: Duration = Duration::from_secs(1);
/// A carried link is given up after this, and up to a fifth more, to look whether the leader can be reached by now.
const CARRIED_MAX: Duration = Duration::from_mins(5);
/// A link that lived shorter counts as a failed try.
const STEADY: Duration = Duration::from_secs(1);
/// A report that is not acknowledged is sent again after this on the same link, and at once on a new one.
const REPORT_REPEAT: Duration = Duration::from_secs(5);
/// Messages on their way into the stream; more wait where they come from.
const OUTBOX: usize = 64;
/// One message of the leader, decoded: a target's body and headers fit.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// When leaving: how long stopped attempts may take to end; then they are dropped, which kills them.
const STOP_MAX: Duration = Duration::from_secs(15);
/// When leaving: how long the leader may take to acknowledge the last reports.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// When leaving: how long the disk may take to complete the files of the last outputs.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// What a worker is.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Unique for this life of the process: `node-1/7f3a91c2`. 1 to [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// The queues that it serves; at least one.
    pub queues: BTreeSet<String>,
    /// What `requires` of a job is compared with.
    pub labels: BTreeMap<String, String>,
    /// The kinds of targets that its configuration allows: `http`, `exec`; at least one.
    pub kinds: BTreeSet<String>,
    /// Attempts at a time, 1 to [`SLOTS_MAX`].
    pub slots: u32,
    /// Where nodes answer clients, `host:port`; 1 to [`ENDPOINTS_MAX`]. Others are learnt from them.
    pub endpoints: Vec<String>,
    /// How connections are made.
    pub dialer: Dialer,
    /// Feeds the jitter of reconnecting; to be different for each worker.
    pub seed: u64,
    /// How long a drain waits for what runs when the process is ended; then it is stopped and reported as lost.
    pub drain_grace: Duration,
    /// The node that it is part of: it does not end when it is asked to drain.
    pub node: Option<u64>,
    /// The program's version, for `worker list`.
    pub version: String,
    /// Where the targets keep output, to be read from there.
    pub spool: Option<Spool>,
}

/// Why options are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// [`WorkerOptions::slots`].
    #[error("slots: {0} is not between 1 and {SLOTS_MAX}")]
    Slots(u32),
    /// There is none of these, but one is needed.
    #[error("{0}: at least one is needed")]
    Missing(&'static str),
    /// There are too many of these.
    #[error("{field}: {count} are more than {max}")]
    TooMany {
        /// The option.
        field: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A text is empty or too long.
    #[error("{0}: a text of it is not between 1 and {NAME_BYTES_MAX} bytes long")]
    Length(&'static str),
    /// An endpoint is not `host:port`.
    #[error("endpoints: {0:?} is not host:port")]
    Endpoint(String),
}

impl WorkerOptions {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`OptionsError`], the first that applies.
    pub fn check(&self) -> Result<(), OptionsError> {
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return Err(OptionsError::Slots(self.slots));
        }
        let counts = [
            ("queues", self.queues.len(), 1, QUEUES_MAX),
            ("labels", self.labels.len(), 0, LABELS_MAX),
            ("kinds", self.kinds.len(), 1, KINDS_MAX),
            ("endpoints", self.endpoints.len(), 1, ENDPOINTS_MAX),
        ];
        for (field, count, min, max) in counts {
            if count < min {
                return Err(OptionsError::Missing(field));
            }
            if count > max {
                return Err(OptionsError::TooMany { field, count, max });
            }
        }
        let is_name = |text: &String| (1..=NAME_BYTES_MAX).contains(&text.len());
        let labels = self.labels.iter().all(|(key, value)| is_name(key) && value.len() <= NAME_BYTES_MAX);
        let texts = [
            ("name", is_name(&self.name)),
            ("queues", self.queues.iter().all(is_name)),
            ("labels", labels),
            ("kinds", self.kinds.iter().all(is_name)),
            ("endpoints", self.endpoints.iter().all(is_name)),
        ];
        if let Some((field, _)) = texts.iter().find(|(_, holds)| !holds) {
            return Err(OptionsError::Length(field));
        }
        let is_address = |endpoint: &&String| {
            let authority = endpoint.parse::<http::uri::Authority>();
            authority
                .is_ok_and(|authority| authority.port_u16().is_some() && !authority.as_str().contains('@'))
        };
        match self.endpoints.iter().find(|endpoint| !is_address(endpoint)) {
            Some(endpoint) => Err(OptionsError::Endpoint(endpoint.clone())),
            None => Ok(()),
        }
    }
}

/// What a worker is doing, for logs, metrics and tests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerStatus {
    /// The address of the leader, or of the node that carries the link to it, while there is one.
    pub leader: Option<Arc<str>>,
    /// The node that carries the link.
    pub carried_by: Option<u64>,
    /// The term of that leader, or of the last one.
    pub term: u64,
    /// Attempts that run.
    pub running: usize,
    /// Orders that wait for a slot, for an older attempt to end or for the leader's confirmation.
    pub waiting: usize,
    /// Attempts that ended and whose reports are not acknowledged.
    pub unacknowledged: usize,
    /// It takes nothing new.
    pub draining: bool,
}

/// How a worker's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerEnd {
    /// Attempts that the drain did not wait for: stopped, or never begun.
    pub stopped: usize,
    /// Reports that no leader acknowledged in time; the cluster will count those attempts as lost.
    pub unacknowledged: usize,
}

impl WorkerEnd {
    /// Whether everything ended by itself and was reported.
    #[must_use]
    pub const fn is_clean(self) -> bool {
        self.stopped == 0 && self.unacknowledged == 0
    }
}

#[cfg(test)]
mod fake_leader;
#[cfg(test)]
mod tests;
