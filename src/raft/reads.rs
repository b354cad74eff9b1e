//! Linearizable reads: ReadIndex, on the leader and through it.
//!
//! The leader confirms with a majority that it still leads, and names the index that a state must have applied to
//! show everything that was acknowledged before the read began. A follower asks the leader for that index. Leases
//! are used nowhere: a follower that restarts within one would make them lie.

use tokio::time::{Instant, timeout, timeout_at};

use super::handle::Raft;
use super::library::READ_TIMEOUT;
use super::types::{LogId, LogPosition};
use super::{guard, network};
use crate::pb::peer;

/// Why a read may not be answered from the local state.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// No leader was found that a majority follows, or this node did not catch up with it in time.
    #[error("no leader confirmed the read in time")]
    Timeout,
    /// The node is ending. [`Raft::fatal`] has the reason.
    #[error("the node is ending")]
    Fatal,
}

impl Raft {
    /// Returns when [`Raft::state`] shows everything that was acknowledged anywhere before this call. Waits through
    /// a change of leadership for at most [`READ_TIMEOUT`].
    ///
    /// # Errors
    /// [`ReadError`]; the state may be stale then.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        let deadline = Instant::now() + READ_TIMEOUT;
        let barrier = async {
            let index = self.read_index().await;
            let reached =
                |applied: &Option<LogPosition>| applied.is_some_and(|applied| applied.index >= index);
            // The sender lives in `self`, so the channel cannot close.
            let _ = self.watch_applied().wait_for(reached).await;
        };
        tokio::select! {
            _ = self.fatal() => Err(ReadError::Fatal),
            done = timeout_at(deadline, barrier) => done.map_err(|_| ReadError::Timeout),
        }
    }

    /// The index that a read has to wait for. Asks again until some leader answers; the caller sets the limit.
    async fn read_index(&self) -> u64 {
        let mut leadership = self.leadership();
        self.joined().await;
        loop {
            let leader = leadership.borrow_and_update().leader.clone();
            let answer = match leader {
                Some((id, _)) if id == self.node_id() => self.read_index_here().await,
                Some((id, node)) => self.read_index_at(id, &node.peer_address).await,
                None => Err("no leader is known".to_owned()),
            };
            match answer {
                Ok(index) => return index,
                Err(reason) => tracing::debug!(reason, "no leader confirmed the read"),
            }
            // A new leader is worth asking at once; the same one may have been in the middle of its election.
            let _ = timeout(self.timing().heartbeat, leadership.changed()).await;
        }
    }

    async fn read_index_here(&self) -> Result<u64, String> {
        let core = self.core().ok_or("not a member")?;
        let confirmed = core.raft.get_read_linearizer(openraft::ReadPolicy::ReadIndex).await;
        confirmed.map(|confirmed| confirmed.read_log_id().index()).map_err(|error| error.to_string())
    }

    async fn read_index_at(&self, id: u64, address: &str) -> Result<u64, String> {
        let channels = self.connections().to(address).map_err(|error| error.to_string())?;
        let request = guard::label(peer::ReadIndexRequest {}, self.cluster_id(), self.node_id(), id);
        let mut client = network::client(channels.control);
        let answer = timeout(self.timing().election_max, client.read_index(request)).await;
        let answer = answer.map_err(|_| "no answer")?.map_err(|status| status.to_string())?;
        let read = answer.into_inner().read_log_id.map(LogId::from);
        read.map(|id| id.index).ok_or_else(|| "the answer names no index".to_owned())
    }
}
