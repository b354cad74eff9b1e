//! The run log as this module sees it: where finished runs go, and how a part that a node lacks is fetched.
//!
//! Finished runs are derived from the log but are no part of the state nor of its snapshots. So three things have to
//! be kept in step with the log, and all three are here or hang on [`RunSink`]:
//! - Before a snapshot counts, and with it before the log below it is purged, everything handed to the sink must be
//!   durable, with the note how far that goes ([`RunSink::complete`]). After a crash the log is applied again from the snapshot on, and the sink is
//!   handed runs that it may have: it takes them as the same.
//! - A node that installs a snapshot from a peer never applies the entries below it: the runs they finished are a
//!   *gap*. The gap is stored before the snapshot, so that it cannot be forgotten.
//! - A task fetches the gap from the leader, or from whoever has it, piece by piece, and closes it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use prost::bytes::Bytes;
use tokio::sync::{Mutex, Notify, watch};

use super::dial::Connections;
use super::fatal::{FatalError, Verdict};
use super::leadership::Leadership;
use super::types::{ClusterId, OpenRaft};
use super::{guard, network};
use crate::pb::peer;
use crate::state::run::Run;
use crate::storage::StorageError;

/// Bytes of runs in one piece; a single larger run is a piece of its own.
pub const RUNS_CHUNK_BYTES: usize = 1 << 20;
/// Wait before a gap that nobody could fill is tried again; a change of leadership ends it early.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// A peer that sends no piece for this long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The indexes `(after, through]` whose finished runs this node lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLogGap {
    /// Last index before the gap.
    pub after: u64,
    /// Last index in it.
    pub through: u64,
}

impl RunLogGap {
    /// The smallest gap that covers both.
    pub fn merge(self, other: Option<Self>) -> Self {
        let other = other.unwrap_or(self);
        Self { after: self.after.min(other.after), through: self.through.max(other.through) }
    }
}

/// A finished run as one node hands it to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// Index of the entry that finished it.
    pub index: u64,
    /// The sink's key; unique, and in the order of the log for equal indexes.
    pub key: Bytes,
    /// The sink's record.
    pub value: Bytes,
}

/// The run log. Its calls come from one task at a time, but for [`RunSink::read`].
///
/// An error of any of them ends the node.
pub trait RunSink: Send + Sync + 'static {
    /// Takes the runs that the entry at `index` finished; indexes only grow, except after a restart, when known
    /// ones come again. Waits while the sink has no room, which holds up apply, and so proposals.
    fn append(&self, index: u64, runs: Vec<Arc<Run>>) -> BoxFuture<'_, Result<(), StorageError>>;

    /// Resolves when everything taken so far is durable.
    fn barrier(&self) -> BoxFuture<'_, Result<(), StorageError>>;

    /// Resolves when everything taken so far is durable, with the note that it is all there is through `through`:
    /// so that one that is lost, or is an older one, is known by it.
    fn complete(&self, through: u64) -> BoxFuture<'_, Result<(), StorageError>>;

    /// Resolves with the error that ended the run log, whoever met it: a reader, or the store itself.
    fn failed(&self) -> BoxFuture<'static, StorageError>;

    /// The gap, as stored.
    fn gap(&self) -> Option<RunLogGap>;

    /// Stores the gap, or that there is none; durable when it resolves.
    fn set_gap(&self, gap: Option<RunLogGap>) -> BoxFuture<'_, Result<(), StorageError>>;

    /// Takes fetched runs; those it has stay as they are. Durable at the next [`RunSink::set_gap`].
    fn fill(&self, runs: Vec<StoredRun>) -> BoxFuture<'_, Result<(), StorageError>>;

    /// Runs with an index in `(after, through]` in the order of the log, beyond `cursor` (the index and key of a
    /// run) if there is one; everything appended so far is seen. At most `max_bytes` of keys and values, but one
    /// run at least if there is any.
    fn read(
        &self,
        gap: RunLogGap,
        cursor: Option<(u64, Bytes)>,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredRun>, StorageError>>;
}

/// Opens the run log once the data folder is this node's.
pub type OpenRunSink = Box<dyn FnOnce() -> Result<Arc<dyn RunSink>, StorageError> + Send>;

impl From<StoredRun> for peer::StoredRun {
    fn from(run: StoredRun) -> Self {
        Self { index: run.index, key: run.key, value: run.value }
    }
}

impl From<peer::StoredRun> for StoredRun {
    fn from(run: peer::StoredRun) -> Self {
        Self { index: run.index, key: run.key, value: run.value }
    }
}

/// The gap of this node: widened by snapshots that arrive, narrowed by the task that fetches, one at a time.
pub(super) struct Gap {
    sink: Arc<dyn RunSink>,
    turn: Mutex<()>,
    widened: Notify,
}

impl Gap {
    pub(super) fn of(sink: Arc<dyn RunSink>) -> Self {
        Self { sink, turn: Mutex::new(()), widened: Notify::new() }
    }

    /// Notes that the runs of `(applied, snapshot]` will be missing, before that snapshot may be seen.
    pub(super) async fn widen(&self, applied: Option<u64>, snapshot: u64) -> Result<(), StorageError> {
        let after = applied.unwrap_or(0);
        if after >= snapshot {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        self.sink.barrier().await?;
        let gap = RunLogGap { after, through: snapshot }.merge(self.sink.gap());
        self.sink.set_gap(Some(gap)).await?;
        self.widened.notify_one();
        Ok(())
    }

    /// Stores what is left of `known`, unless a snapshot has widened it meanwhile: then all of it is fetched again.
    pub(super) async fn narrow(
        &self,
        known: RunLogGap,
        rest: Option<RunLogGap>,
    ) -> Result<bool, StorageError> {
        let _turn = self.turn.lock().await;
        let unchanged = self.sink.gap() == Some(known);
        if unchanged {
            self.sink.set_gap(rest).await?;
        }
        Ok(unchanged)
    }
}

/// What the fetching task works with.
pub(super) struct GapFetcher {
    pub(super) node_id: u64,
    pub(super) cluster: ClusterId,
    pub(super) connections: Arc<Connections>,
    pub(super) sink: Arc<dyn RunSink>,
    pub(super) raft: OpenRaft,
    pub(super) gap: Arc<Gap>,
    pub(super) leadership: watch::Receiver<Leadership>,
    pub(super) verdict: Verdict,
}

/// Why a peer did not fill a gap.
enum Miss {
    /// Ask someone else, or later.
    Peer(tonic::Status),
    /// This node has to end.
    Local(StorageError),
}

impl From<StorageError> for Miss {
    fn from(error: StorageError) -> Self {
        Self::Local(error)
    }
}

impl GapFetcher {
    /// Fills gaps for as long as the node lives.
    pub(super) async fn run(mut self) {
        loop {
            let Some(gap) = self.sink.gap() else {
                self.gap.widened.notified().await;
                continue;
            };
            match self.fill_from_anyone(gap).await {
                Ok(true) => tracing::info!(after = gap.after, through = gap.through, "run log gap is filled"),
                Ok(false) => {
                    // Somebody else may be able to answer after an election, or once more nodes are up.
                    let _ = tokio::time::timeout(RETRY_AFTER, self.leadership.changed()).await;
                }
                Err(error) => return self.verdict.reach(FatalError::Storage(error)),
            }
        }
    }

    /// The leader first, for it is surely complete through its applied index; then the others.
    async fn fill_from_anyone(&self, gap: RunLogGap) -> Result<bool, StorageError> {
        let leader = self.leadership.borrow().leader.as_ref().map(|(id, _)| *id);
        let mut peers: Vec<(u64, String)> = {
            let metrics = self.raft.metrics().borrow_watched().clone();
            let nodes = metrics.membership_config.nodes();
            nodes.map(|(id, node)| (*id, node.peer_address.clone())).collect()
        };
        // Not knowing any member is something else than being the only one.
        let is_member = !peers.is_empty();
        peers.retain(|(id, _)| *id != self.node_id);
        if is_member && peers.is_empty() {
            tracing::warn!(after = gap.after, through = gap.through, "runs are lost: no other node has them");
            return self.gap.narrow(gap, None).await;
        }
        peers.sort_by_key(|(id, _)| (Some(*id) != leader, *id));
        for (id, address) in peers {
            match self.fill_from(id, &address, gap).await {
                Ok(()) => return Ok(true),
                Err(Miss::Local(error)) => return Err(error),
                Err(Miss::Peer(status)) => {
                    tracing::debug!(node = id, %status, "peer did not fill the run log gap");
                }
            }
        }
        Ok(false)
    }

    async fn fill_from(&self, id: u64, address: &str, gap: RunLogGap) -> Result<(), Miss> {
        let peer = |error: &dyn std::error::Error| Miss::Peer(tonic::Status::unavailable(error.to_string()));
        let channels = self.connections.to(address).map_err(|error| peer(&error))?;
        let request = peer::StreamRunsRequest { after: gap.after, through: gap.through };
        let request = guard::label(request, Some(self.cluster), self.node_id, id);
        let mut client = network::client(channels.bulk);
        let call = tokio::time::timeout(SILENCE_MAX, client.stream_runs(request)).await;
        let mut pieces = call.map_err(|error| peer(&error))?.map_err(Miss::Peer)?.into_inner();
        let mut left = gap;
        loop {
            let piece = tokio::time::timeout(SILENCE_MAX, pieces.message()).await;
            let Some(piece) = piece.map_err(|error| peer(&error))?.map_err(Miss::Peer)? else {
                break;
            };
            let runs: Vec<StoredRun> = piece.runs.into_iter().map(StoredRun::from).collect();
            let Some(last) = runs.last().map(|run| run.index) else { continue };
            self.sink.fill(runs).await?;
            // The entry at `last` may have finished more runs than this piece holds.
            let after = last.saturating_sub(1).clamp(left.after, left.through);
            let rest = RunLogGap { after, ..left };
            if !self.gap.narrow(left, Some(rest)).await? {
                return Ok(());
            }
            left = rest;
        }
        self.gap.narrow(left, None).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_merge_to_cover_both() {
        let gap = RunLogGap { after: 5, through: 9 };
        assert_eq!(gap.merge(None), gap);
        let merged = gap.merge(Some(RunLogGap { after: 2, through: 7 }));
        assert_eq!(merged, RunLogGap { after: 2, through: 9 });
    }
}
