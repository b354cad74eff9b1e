//! Proposing: how an entry gets into the log, and how its answer gets back.
//!
//! [`Raft::submit`] puts the entry into the library's queue before it returns, so entries are appended in the order
//! of the calls; what it returns is only the wait. Nothing is unbounded: the entries under way are limited by
//! [`IN_FLIGHT_BYTES`], counted until the library lets go of them, even when nobody waits any more.
//!
//! A part of that, [`LEADER_IN_FLIGHT_BYTES`], is kept for the leader's own loop, which proposes under its term:
//! a flood of clients' changes is refused before it can keep a run from starting.

use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use openraft::OptionalSend;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::handle::Raft;
use super::library::PROPOSE_TIMEOUT;
use super::types::{ENTRY_BYTES_MAX, LogId, LoggedEntry, NodeAddress, TypeConfig};
use crate::state::{Applied, Entry};

/// Encoded bytes of entries that are proposed but not yet answered, on one node; what is proposed beyond is refused.
pub const IN_FLIGHT_BYTES: usize = 64 << 20;
/// The part of [`IN_FLIGHT_BYTES`] that only entries proposed under a term may take.
pub const LEADER_IN_FLIGHT_BYTES: usize = 16 << 20;
/// What an entry counts at least, so that small ones are limited in number as well (to 65536).
pub(super) const IN_FLIGHT_ENTRY_BYTES_MIN: usize = 1 << 10;

/// How much may yet be proposed, in units of [`IN_FLIGHT_ENTRY_BYTES_MIN`].
#[derive(Debug)]
pub(super) struct Room {
    everyone: Arc<Semaphore>,
    leader: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        let permits = |bytes| Arc::new(Semaphore::new(bytes / IN_FLIGHT_ENTRY_BYTES_MIN));
        Self {
            everyone: permits(IN_FLIGHT_BYTES - LEADER_IN_FLIGHT_BYTES),
            leader: permits(LEADER_IN_FLIGHT_BYTES),
        }
    }
}

impl Room {
    fn take(&self, bytes: usize, of_leader: bool) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(IN_FLIGHT_ENTRY_BYTES_MIN).max(1)).ok()?;
        let from = |room: &Arc<Semaphore>| Arc::clone(room).try_acquire_many_owned(units).ok();
        let own = if of_leader { from(&self.leader) } else { None };
        own.or_else(|| from(&self.everyone))
    }
}

/// A committed and applied entry.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// Its log index.
    pub index: u64,
    /// The term in which it was proposed.
    pub term: u64,
    /// What it did.
    pub applied: Arc<Applied>,
}

/// Why there is no [`Proposed`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Surely not appended: this node does not lead, or not in the term that was asked for.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who leads, as far as this node knows. It may name this very node, when only the term differs.
        leader: Option<(u64, NodeAddress)>,
    },
    /// It may have been committed, or may yet be. Only a proposal that is harmless twice may be made again.
    #[error("the result of the proposal is unknown")]
    Unknown,
    /// Surely not appended: too much is under way.
    #[error("too many proposals are under way")]
    Overloaded,
    /// Surely not appended: the entry is larger than any node takes.
    #[error("an entry of {bytes} bytes exceeds the limit of {ENTRY_BYTES_MAX}")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
    },
    /// Surely not appended: not every member could read it yet.
    #[error("{what} needs feature level {needs}, this cluster is at {level}: {why}")]
    Level {
        /// The level that it needs.
        needs: u32,
        /// What needs it.
        what: &'static str,
        /// The cluster's.
        level: u32,
        /// Why it is not higher.
        why: String,
    },
    /// The node is ending; the result is unknown. [`Raft::fatal`] has the reason.
    #[error("the node is ending")]
    Fatal,
}

/// Takes the library's answer to one proposal; dropped without one, the result is unknown.
#[derive(Debug)]
pub(super) struct Reply<T> {
    answer: oneshot::Sender<T>,
    _room: Option<OwnedSemaphorePermit>,
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Reply<T> {
    fn on_complete(self, result: T) {
        // Who proposed may have stopped waiting.
        let _ = self.answer.send(result);
    }
}

impl Raft {
    /// Proposes an entry and waits until it is applied on this node. With a `term` it is one of the leader's own:
    /// it is refused, before it is appended, unless this node leads in that term, and finds the room that is kept
    /// for those.
    ///
    /// # Errors
    /// See [`ProposeError`]; its variants say whether the entry may have been committed.
    pub async fn propose(&self, term: Option<u64>, entry: Entry) -> Result<Proposed, ProposeError> {
        self.submit(term, entry).await
    }

    /// As [`Raft::propose`], but the entry has its place in the queue when this returns: entries that one task
    /// submits are appended in that order. The future may be dropped; the entry goes its way all the same.
    pub fn submit(
        &self,
        term: Option<u64>,
        entry: Entry,
    ) -> impl Future<Output = Result<Proposed, ProposeError>> + Send + use<> {
        let answer = self.enqueue(term, entry);
        let raft = self.clone();
        async move {
            let result = tokio::time::timeout(PROPOSE_TIMEOUT, answer?).await;
            match result {
                Ok(Ok(Ok(response))) => Ok(proposed(response.log_id, response.data)?),
                Ok(Ok(Err(error))) => Err(raft.refusal(error)),
                Ok(Err(_)) => {
                    Err(raft.verdict().get().map_or(ProposeError::Unknown, |_| ProposeError::Fatal))
                }
                Err(_) => Err(ProposeError::Unknown),
            }
        }
    }

    fn enqueue(
        &self,
        term: Option<u64>,
        entry: Entry,
    ) -> Result<oneshot::Receiver<ClientWriteResult<TypeConfig>>, ProposeError> {
        if self.verdict().get().is_some() {
            return Err(ProposeError::Fatal);
        }
        let Some(core) = self.core() else {
            return Err(ProposeError::NotLeader { leader: None });
        };
        self.check_need(&entry)?;
        let logged = LoggedEntry::new(entry);
        let bytes = logged.encoded().len();
        if bytes > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes });
        }
        let room = self.room().take(bytes, term.is_some()).ok_or(ProposeError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let write = core.raft.write(logged).responder(Reply { answer, _room: Some(room) });
        let write = match term {
            Some(term) => write.with_leader(term),
            None => write,
        };
        // The queue has as many places as there are permits, so the first poll puts the entry in: without the task's
        // budget in the way it is pending only when peers have filled the queue.
        match tokio::task::unconstrained(write.into_future()).now_or_never() {
            Some(Ok(())) => Ok(answered),
            Some(Err(_)) => Err(ProposeError::Fatal),
            None => Err(self.verdict().get().map_or(ProposeError::Overloaded, |_| ProposeError::Fatal)),
        }
    }

    fn refusal(&self, error: ClientWriteError<TypeConfig>) -> ProposeError {
        match error {
            ClientWriteError::ForwardToLeader(to) => {
                ProposeError::NotLeader { leader: to.leader_id.zip(to.leader_node) }
            }
            ClientWriteError::LogEntryDiscarded(_) => ProposeError::Unknown,
            // Answers to changes of the membership, which proposals are not.
            ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
                ProposeError::Unknown
            }
        }
    }
}

fn proposed(id: LogId, applied: Option<Arc<Applied>>) -> Result<Proposed, ProposeError> {
    // Only the protocol's own entries have no outcome.
    let applied = applied.ok_or(ProposeError::Unknown)?;
    Ok(Proposed { index: id.index, term: id.committed_leader_id().term, applied })
}
