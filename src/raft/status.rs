//! How consensus is doing on this node, and the two things that an operator asks of it.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant as _, LogIdOptionExt, ServerState};
use tokio::time::timeout;

use super::fatal::FatalError;
use super::handle::Raft;
use super::leadership::Leadership;
use super::run_log::RunLogGap;
use super::types::{ClusterId, NodeAddress};
use crate::state::StateHash;

/// Entries that the next leader may lack when it is asked to take over; it waits for them for one election timeout.
const TRANSFER_LAG_MAX: u64 = 1000;
/// A peer that has been silent for this many heartbeats is not asked to take over.
const TRANSFER_SILENCE_HEARTBEATS: u32 = 4;
/// How long a change of leadership may take that was asked for.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a snapshot may take that was asked for.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_mins(10);
/// While one snapshot is being built the library ignores the wish for another: it is repeated this often.
const SNAPSHOT_ASK_EVERY: Duration = Duration::from_millis(200);

/// What a node is in consensus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It belongs to no cluster yet.
    #[default]
    Pristine,
    /// It receives the log but has no vote.
    Learner,
    /// It follows.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It leads.
    Leader,
}

/// A peer, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its id.
    pub id: u64,
    /// Last index that is known to be in its log.
    pub matched_index: Option<u64>,
    /// How long it has not answered; `None` if it never has.
    pub silent_for: Option<Duration>,
}

/// Consensus on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// This node.
    pub node_id: u64,
    /// Its cluster.
    pub cluster_id: Option<ClusterId>,
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<(u64, NodeAddress)>,
    /// Last index in its log.
    pub last_index: Option<u64>,
    /// Last index that it knows to be committed.
    pub committed_index: Option<u64>,
    /// Last index in its state.
    pub applied_index: Option<u64>,
    /// Last index in its newest snapshot.
    pub snapshot_index: Option<u64>,
    /// Last index that is purged from its log.
    pub purged_index: Option<u64>,
    /// Size of its log on disk.
    pub log_bytes: u64,
    /// Members with a vote.
    pub voters: Vec<u64>,
    /// Members without one.
    pub learners: Vec<u64>,
    /// All members.
    pub nodes: BTreeMap<u64, NodeAddress>,
    /// On a leader, the other members.
    pub peers: Vec<PeerStatus>,
    /// On a leader, how long ago a majority last answered it.
    pub quorum_acked_for: Option<Duration>,
    /// Part of the run log that it still has to fetch.
    pub run_log_gap: Option<RunLogGap>,
    /// Hashes of its state with their log indexes, the newest last.
    pub state_hashes: Vec<(u64, StateHash)>,
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Only the leader hands over.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<(u64, NodeAddress)>,
    },
    /// The named node has no vote.
    #[error("node {0} has no vote")]
    NotAVoter(u64),
    /// The named node, or for none each one, does not answer or is too far behind.
    #[error("no voter that could take over answers and is up to date")]
    NoCandidate,
    /// It was asked, and nothing happened. This node may lead again, or somebody else may.
    #[error("leadership did not move in time")]
    Timeout,
}

impl Raft {
    /// How consensus is doing on this node.
    pub fn status(&self) -> RaftStatus {
        let mut status = RaftStatus { node_id: self.node_id(), ..RaftStatus::default() };
        let Some(core) = self.core() else { return status };
        let metrics = core.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        status.cluster_id = Some(core.cluster);
        status.role = match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            // What has shut down takes no part.
            ServerState::Learner | ServerState::Shutdown => Role::Learner,
        };
        status.term = metrics.current_term;
        status.leader = metrics.current_leader.and_then(|id| Some((id, membership.get_node(&id).cloned()?)));
        status.last_index = metrics.last_log_index;
        status.committed_index = metrics.local_committed.index();
        status.applied_index = metrics.last_applied.index();
        status.snapshot_index = metrics.snapshot.index();
        status.purged_index = metrics.purged.index();
        status.log_bytes = core.log.size_bytes();
        status.voters = membership.voter_ids().collect();
        status.learners = membership.learner_ids().collect();
        status.nodes = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
        status.quorum_acked_for = metrics.last_quorum_acked.map(|at| at.elapsed());
        let heard = metrics.heartbeat.unwrap_or_default();
        let replication = metrics.replication.unwrap_or_default();
        let others = replication.into_iter().filter(|(id, _)| *id != self.node_id());
        status.peers = others
            .map(|(id, matched)| PeerStatus {
                id,
                matched_index: matched.index(),
                silent_for: heard.get(&id).and_then(|at| at.as_ref().map(|at| at.elapsed())),
            })
            .collect();
        status.run_log_gap = core.sink.gap();
        status.state_hashes = core.hashes.newest();
        status
    }

    /// Hands leadership to voter `to`, or to the one that is furthest along. Returns who leads then: as a rule the
    /// one that was asked, but an election may come out otherwise.
    ///
    /// # Errors
    /// [`TransferError`]. Nothing is asked of a node that does not answer or lags: all would wait for it in vain.
    pub async fn transfer_leader(&self, to: Option<u64>) -> Result<u64, TransferError> {
        let status = self.status();
        let (Role::Leader, Some(core)) = (status.role, self.core()) else {
            return Err(TransferError::NotLeader { leader: status.leader });
        };
        if let Some(id) = to.filter(|id| !status.voters.contains(id)) {
            return Err(TransferError::NotAVoter(id));
        }
        if to == Some(self.node_id()) {
            return Ok(self.node_id());
        }
        let silence_max = self.timing().heartbeat * TRANSFER_SILENCE_HEARTBEATS;
        let enough = status.last_index.map(|last| last.saturating_sub(TRANSFER_LAG_MAX));
        let candidates = status.peers.iter().filter(|peer| {
            to.is_none_or(|id| id == peer.id)
                && status.voters.contains(&peer.id)
                && peer.silent_for.is_some_and(|silence| silence <= silence_max)
                && peer.matched_index >= enough
        });
        let best = candidates.max_by_key(|peer| (peer.matched_index, peer.id));
        let chosen = best.ok_or(TransferError::NoCandidate)?.id;
        let mut leadership = self.leadership();
        core.raft.trigger().transfer_leader(chosen).await.map_err(|_| TransferError::Timeout)?;
        let moved = |now: &Leadership| now.term > status.term && now.leader.is_some();
        let now = timeout(TRANSFER_TIMEOUT, leadership.wait_for(moved)).await;
        match now {
            Ok(Ok(now)) => now.leader.as_ref().map(|(id, _)| *id).ok_or(TransferError::Timeout),
            Ok(Err(_)) | Err(_) => Err(TransferError::Timeout),
        }
    }

    /// Takes a snapshot that has at least everything applied so far; returns when it is durable.
    ///
    /// # Errors
    /// [`FatalError`] when the node is ending or belongs to no cluster.
    pub async fn snapshot_now(&self) -> Result<(), FatalError> {
        let stopped = || FatalError::Consensus("there is nothing to take a snapshot of".to_owned());
        let core = self.core().ok_or_else(stopped)?;
        let Some(wanted) = self.watch_applied().borrow().map(|applied| applied.index) else {
            return Ok(());
        };
        let mut metrics = core.raft.metrics();
        let taken = async {
            while metrics.borrow_and_update().snapshot.index() < Some(wanted) {
                if core.raft.trigger().snapshot().await.is_err() {
                    return;
                }
                let done = |index: Option<u64>| index >= Some(wanted);
                let news = async {
                    while !done(metrics.borrow_and_update().snapshot.index())
                        && metrics.changed().await.is_ok()
                    {}
                };
                let _ = timeout(SNAPSHOT_ASK_EVERY, news).await;
            }
        };
        tokio::select! {
            error = self.fatal() => Err(error),
            taken = timeout(SNAPSHOT_TIMEOUT, taken) => taken.map_err(|_| stopped()),
        }
    }
}
