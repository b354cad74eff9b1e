//! Who belongs to the cluster: adding a learner, giving it a vote, removing a node.
//!
//! One operator at a time. A change takes effect when it is appended, not when it is committed; one that fails
//! half-way may leave the cluster between two memberships, where a majority of both is needed: asking again for the
//! same change completes it.
//!
//! An id is used once. A node whose folder was lost is removed, and its machine comes back under a new id: what the
//! old one had promised is gone ([`super::formation`], rule 5). What this module can see of that it enforces: an id
//! that is a member is not added, and a node that is added must be pristine.
//!
//! A change needs a majority of the members before it and of those after it, and there is no way back from one that
//! cannot get it. So nothing begins whose outcome would be a cluster in which a majority does not answer now.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use futures::future::join_all;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use tokio::time::timeout;

use super::handle::{Core, Raft};
use super::library::LAG_MAX;
use super::status::{RaftStatus, Role};
use super::types::{NodeAddress, TypeConfig};
use crate::state::level::Levels;

/// How long a change may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the membership was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes it.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<(u64, NodeAddress)>,
    },
    /// A member is not added again, not even one whose data is lost.
    #[error(
        "node {0} is a member already\nhint: a node whose data is lost is removed and added under a new id"
    )]
    Member(u64),
    /// It has a vote.
    #[error("node {0} is a voter already")]
    Voter(u64),
    /// There is no such member.
    #[error("node {0} is not a member\nhint: `chronarch cluster status` lists the members")]
    NotMember(u64),
    /// A cluster without a vote cannot decide anything any more.
    #[error("node {0} has the only vote\nhint: add another node and promote it first")]
    LastVoter(u64),
    /// Of those who would have a vote then, too few answer now.
    #[error(
        "that would leave the cluster without a majority: of the voters {voters:?} only {answering:?} answer\n\
         hint: start the silent nodes, or remove them first"
    )]
    LosesMajority {
        /// Who would have a vote.
        voters: Vec<u64>,
        /// Which of them answer.
        answering: Vec<u64>,
    },
    /// The node belongs to a cluster, or has belonged to one.
    #[error("node {id} belongs to cluster {cluster}\nhint: give the new node an empty `data_dir`")]
    NotPristine {
        /// The node.
        id: u64,
        /// The cluster's id.
        cluster: String,
    },
    /// The cluster has been raised to what the node does not speak, or the node no longer speaks what it is at.
    #[error(
        "node {id} speaks feature levels {speaks}, this cluster is at {level}\n\
         hint: run the release of the other nodes on it first"
    )]
    Level {
        /// The node.
        id: u64,
        /// The levels that it speaks.
        speaks: Levels,
        /// The cluster's.
        level: u32,
    },
    /// The node did not answer, or refused.
    #[error(
        "node {id} did not join: {reason}\n\
         hint: start it before it is added, with `--rejoin` or with a configuration without `peers`, and name its \
         `peer_listen` address"
    )]
    NotJoined {
        /// The node.
        id: u64,
        /// What was heard of it.
        reason: String,
    },
    /// A learner that lags would be counted for majorities and could not keep up.
    #[error(
        "node {id} has not caught up: it {}; at most {LAG_MAX} entries behind are few enough for a vote\n\
         hint: promote it later; `chronarch cluster status -o wide` shows how far it is",
        .behind.map_or_else(|| "has not answered yet".to_owned(), |behind| format!("is {behind} behind"))
    )]
    Behind {
        /// The node.
        id: u64,
        /// How far, if it is known.
        behind: Option<u64>,
    },
    /// Another change is under way.
    #[error("another change of the membership is under way")]
    InProgress,
    /// It may have happened, or may yet. Look at the status, and ask again.
    #[error("the result of the change is unknown")]
    Unknown,
}

type Change = Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

impl Raft {
    /// Adds a pristine node that was started without `peers`. It receives the log but has no vote yet. Asked again
    /// for a learner that has joined, it completes what may have been cut short.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn add_learner(&self, id: u64, peer_address: &str) -> Result<(), MembershipError> {
        let (core, status) = self.leading()?;
        let known = status.nodes.get(&id);
        if known.is_some_and(|node| node.peer_address != peer_address || status.voters.contains(&id)) {
            return Err(MembershipError::Member(id));
        }
        let refused =
            |status: tonic::Status| MembershipError::NotJoined { id, reason: status.message().to_owned() };
        // Nothing is raised meanwhile; and the level that is known here is the cluster's once this leader has
        // applied an entry of its own.
        let raising = self.raising().lock().await;
        if !self.leadership().borrow().is_leader {
            return Err(MembershipError::InProgress);
        }
        let answer = self.identify(id, peer_address).await.map_err(refused)?;
        let (level, speaks) = (self.state().level().max(*raising), answer.said.levels);
        if speaks.check(level).is_err() {
            return Err(MembershipError::Level { id, speaks, level });
        }
        // One that has adopted this cluster but never heard of it again is an attempt of ours that was cut short.
        let ours = answer.cluster == core.cluster.to_string();
        if known.is_some() {
            if !ours {
                return Err(MembershipError::Member(id));
            }
            let node = NodeAddress { peer_address: peer_address.to_owned(), address: answer.address };
            return self.change(core.raft.add_learner(id, node, false)).await;
        }
        if !answer.cluster.is_empty() && (answer.initialized || !ours) {
            return Err(MembershipError::NotPristine { id, cluster: answer.cluster });
        }
        let adopted = self.ask_to_adopt(id, peer_address, core.cluster, &BTreeMap::new()).await;
        adopted.map_err(refused)?;
        let node = NodeAddress { peer_address: peer_address.to_owned(), address: answer.address };
        self.change(core.raft.add_learner(id, node, false)).await
    }

    /// Gives a learner that has caught up a vote.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        let (core, status) = self.leading()?;
        if !status.nodes.contains_key(&id) {
            return Err(MembershipError::NotMember(id));
        }
        let voters: BTreeSet<u64> = status.voters.iter().copied().chain([id]).collect();
        if status.voters.contains(&id) && !is_between(core) {
            return Err(MembershipError::Voter(id));
        }
        self.check_majority(core, &status, &voters).await?;
        if id != self.node_id() {
            let matched = status.peers.iter().find(|peer| peer.id == id).and_then(|peer| peer.matched_index);
            let behind = status.last_index.zip(matched).map(|(last, matched)| last.saturating_sub(matched));
            if behind.is_none_or(|behind| behind > LAG_MAX) {
                return Err(MembershipError::Behind { id, behind });
            }
        }
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.change(core.raft.change_membership(change, false)).await
    }

    /// Removes a node, alive or dead. A leader that removes itself hands over a moment later.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove(&self, id: u64) -> Result<(), MembershipError> {
        let (core, status) = self.leading()?;
        if !status.nodes.contains_key(&id) {
            return Err(MembershipError::NotMember(id));
        }
        if status.voters == [id] {
            return Err(MembershipError::LastVoter(id));
        }
        let voters: BTreeSet<u64> = status.voters.iter().copied().filter(|voter| *voter != id).collect();
        if status.voters.contains(&id) {
            self.check_majority(core, &status, &voters).await?;
        }
        let ids = BTreeSet::from([id]);
        let change = match status.voters.contains(&id) {
            true => ChangeMembers::RemoveVoters(ids),
            false => ChangeMembers::RemoveNodes(ids),
        };
        self.change(core.raft.change_membership(change, false)).await
    }

    fn leading(&self) -> Result<(&Core, RaftStatus), MembershipError> {
        let status = self.status();
        match self.core() {
            Some(core) if status.role == Role::Leader => Ok((core, status)),
            _ => Err(MembershipError::NotLeader { leader: status.leader }),
        }
    }

    /// Asks `voters` who they are: does a majority answer, as members? What was heard of them a moment ago would not
    /// do, for a node that has just died looks alive then.
    async fn check_majority(
        &self,
        core: &Core,
        status: &RaftStatus,
        voters: &BTreeSet<u64>,
    ) -> Result<(), MembershipError> {
        let asked = voters.iter().map(|&id| async move {
            if id == self.node_id() {
                return Some(id);
            }
            let answer = self.identify(id, &status.nodes.get(&id)?.peer_address).await.ok()?;
            (answer.cluster == core.cluster.to_string()).then_some(id)
        });
        let answering: Vec<u64> = join_all(asked).await.into_iter().flatten().collect();
        if answering.len() > voters.len() / 2 {
            return Ok(());
        }
        Err(MembershipError::LosesMajority { voters: voters.iter().copied().collect(), answering })
    }

    async fn change(&self, change: impl Future<Output = Change>) -> Result<(), MembershipError> {
        match timeout(CHANGE_TIMEOUT, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(MembershipError::NotLeader { leader: to.leader_id.zip(to.leader_node) })
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
            )))) => Err(MembershipError::InProgress),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a change of the membership failed");
                Err(MembershipError::Unknown)
            }
            Err(_) => Err(MembershipError::Unknown),
        }
    }
}

/// Is the cluster between two memberships, after a change that was cut short?
fn is_between(core: &Core) -> bool {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow_watched();
    metrics.membership_config.membership().get_joint_config().len() > 1
}
