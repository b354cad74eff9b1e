//! How a cluster forms: exactly once, and never again under an old name.
//!
//! # Words
//! A node is *pristine* while its folder belongs to no cluster. Its *first members* are `peers` of its
//! configuration, the same on each. It is *adopted* when it has stored a cluster id, and the cluster is
//! *initialized* when some node has the first log entry or has voted.
//!
//! # Rules
//! 1. The first member with the lowest id forms the cluster; the others wait to be adopted. So there is one who
//!    decides, whatever the order in which nodes start.
//! 2. It begins once *all* first members have answered that they are pristine, or adopted by the very cluster that
//!    an earlier attempt of its own began. A majority would not do: the node that stays silent may know of a cluster.
//! 3. It stores a random cluster id, then has each first member adopt it. Each compares the first members it was
//!    configured with, stores the id durably, and only then answers.
//! 4. When all have adopted, and not before, it writes the first log entry: the membership.
//! 5. Hence each first member of an initialized cluster has a folder that says so. One that has none was wiped, or
//!    points at another folder: it may have voted, and what it promised is lost. It does not start
//!    ([`FormationError::Wiped`]); it has to be removed and a new node added.
//! 6. A node without first members waits to be adopted by a cluster that adds it ([`Raft::add_learner`]); a member
//!    ignores its `peers`. A cluster has a node adopt its id before it counts it in, so a node that still waits and
//!    is called as a member was one before its folder was emptied: rule 5 ([`Raft::was_wiped`]).
//!
//! A crash at any point resumes: what is stored only ever goes from pristine to adopted to initialized, and each
//! step may be repeated. Answers of a node are taken as they are: the peer listener serves peers alone.
//!
//! What this does not do: guess. A first member that never answers keeps the cluster from forming, and a warning
//! names it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;
use tonic::Status;

use super::fatal::FatalError;
use super::handle::{OpenError, Raft};
use super::levels::Said;
use super::types::{ClusterId, NodeAddress};
use super::{guard, network};
use crate::pb::peer;
use crate::storage::rejoin_steps;

/// How long a peer may take to say who it is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Wait before the peers are asked again.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Why a node must not take part in what it found. Each ends the node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormationError {
    /// `peers` does not name this node.
    #[error(
        "`peers` names nodes {named:?}, but this is node {node_id}\nhint: `peers` lists all first members"
    )]
    NotAFirstMember {
        /// This node.
        node_id: u64,
        /// The nodes in `peers`.
        named: Vec<u64>,
    },
    /// The cluster knows this node, whose folder is empty.
    #[error(
        "node {node_id} is a member of cluster {cluster}, says node {told_by}, but its data folder is empty: it may \
         have voted, and must not come back without knowing how\n\
         hint: check `data_dir`; if the data is lost, {steps}",
        steps = rejoin_steps(node_id)
    )]
    Wiped {
        /// This node.
        node_id: u64,
        /// The cluster.
        cluster: String,
        /// Who said so.
        told_by: u64,
    },
    /// The first members have formed a cluster of which this node is no member.
    #[error(
        "node {told_by} belongs to cluster {cluster}, of which node {node_id} is no member\n\
         hint: start node {node_id} without `peers` and add it to that cluster"
    )]
    Outsider {
        /// This node.
        node_id: u64,
        /// The cluster.
        cluster: String,
        /// Who said so.
        told_by: u64,
    },
    /// First members belong to different clusters.
    #[error(
        "node {left} belongs to cluster {left_cluster}, node {right} to cluster {right_cluster}\n\
             hint: check the addresses in `peers`"
    )]
    Torn {
        /// A node ...
        left: u64,
        /// ... and its cluster.
        left_cluster: String,
        /// Another node ...
        right: u64,
        /// ... and its cluster.
        right_cluster: String,
    },
    /// A first member was configured with other first members.
    #[error("node {told_by} does not agree: {reason}\nhint: `peers` has to be the same on each first member")]
    Disagreement {
        /// Who was asked to join.
        told_by: u64,
        /// What it answered.
        reason: String,
    },
}

/// Refuses first members that do not include this node.
pub(super) fn check_peers(node_id: u64, peers: &BTreeMap<u64, String>) -> Result<(), FormationError> {
    if peers.is_empty() || peers.contains_key(&node_id) {
        return Ok(());
    }
    Err(FormationError::NotAFirstMember { node_id, named: peers.keys().copied().collect() })
}

/// What one peer said about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) cluster: String,
    pub(super) initialized: bool,
    members: BTreeSet<u64>,
    pub(super) address: String,
    pub(super) said: Said,
}

/// What a node that is not initialized should do, given what it is and what its peers said.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Ask again later; these have not answered, or have to act.
    Wait(BTreeSet<u64>),
    /// Form the cluster, under the id that is already around if there is one.
    Form(Option<ClusterId>),
}

/// The rules, as a function of what is known.
fn decide(
    node_id: u64,
    own: Option<ClusterId>,
    first_members: &BTreeSet<u64>,
    answers: &BTreeMap<u64, Answer>,
) -> Result<Step, FormationError> {
    let clusters = answers.iter().filter(|(_, answer)| !answer.cluster.is_empty());
    let own_text = own.map(|id| id.to_string());
    let mut around = own_text.as_ref().map(|text| (node_id, text));
    for (&told_by, Answer { cluster, initialized, members, .. }) in clusters {
        if own.is_none() && *initialized {
            let cluster = cluster.clone();
            // A node that has voted but not yet seen the membership counts all first members in: rule 5.
            let knows_us = members.contains(&node_id) || members.is_empty();
            return Err(match knows_us {
                true => FormationError::Wiped { node_id, cluster, told_by },
                false => FormationError::Outsider { node_id, cluster, told_by },
            });
        }
        match around {
            Some((left, left_cluster)) if left_cluster != cluster => {
                let (left_cluster, right_cluster) = (left_cluster.clone(), cluster.clone());
                return Err(FormationError::Torn { left, left_cluster, right: told_by, right_cluster });
            }
            _ => around = Some((told_by, cluster)),
        }
    }
    let lowest = first_members.first().copied().unwrap_or(node_id);
    let silent: BTreeSet<u64> =
        first_members.iter().copied().filter(|id| *id != node_id && !answers.contains_key(id)).collect();
    if lowest != node_id {
        return Ok(Step::Wait(BTreeSet::from([lowest])));
    }
    if !silent.is_empty() {
        return Ok(Step::Wait(silent));
    }
    // Who adopted has stored an id that this node gave out; were it lost here, it is still theirs.
    Ok(Step::Form(around.and_then(|(_, text)| ClusterId::parse(text))))
}

impl Raft {
    /// Has the cluster begun to work, as far as this node knows?
    pub(super) async fn is_initialized(&self) -> Result<bool, OpenError> {
        let Some(core) = self.core() else { return Ok(false) };
        let known = core.raft.is_initialized().await;
        known.map_err(|error| FatalError::Consensus(error.to_string()).into())
    }

    /// Follows the rules until the cluster is initialized or this node must not go on.
    pub(super) async fn form(&self) {
        match self.form_or_refuse().await {
            Ok(()) => {}
            Err(OpenError::Fatal(error)) => self.verdict().reach(error),
            Err(OpenError::Config(reason)) => self.verdict().reach(FatalError::Consensus(reason)),
        }
    }

    async fn form_or_refuse(&self) -> Result<(), OpenError> {
        let first_members: BTreeSet<u64> = self.initial_peers().keys().copied().collect();
        let mut told = None;
        loop {
            if self.is_initialized().await? {
                return Ok(());
            }
            let answers = self.ask_all().await;
            // Adoption may have come while the peers answered: what they say of the cluster is then no surprise.
            let own = self.cluster_id();
            match decide(self.node_id(), own, &first_members, &answers)? {
                Step::Wait(nodes) => {
                    if told.as_ref() != Some(&nodes) {
                        tracing::info!(waits_for = ?nodes, "the cluster has not formed yet");
                        told = Some(nodes);
                    }
                }
                Step::Form(around) => {
                    if self.form_now(around.unwrap_or(self.fresh_cluster_id()), &answers).await? {
                        return Ok(());
                    }
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Rules 3 and 4. False when a member has to be asked again.
    async fn form_now(&self, cluster: ClusterId, answers: &BTreeMap<u64, Answer>) -> Result<bool, OpenError> {
        self.join(cluster).await?;
        for (&id, address) in self.initial_peers().iter().filter(|(id, _)| **id != self.node_id()) {
            match self.ask_to_adopt(id, address, cluster, self.initial_peers()).await {
                Ok(()) => {}
                Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                    let reason = status.message().to_owned();
                    return Err(FormationError::Disagreement { told_by: id, reason }.into());
                }
                Err(status) => {
                    tracing::warn!(node = id, %status, "a first member did not join");
                    return Ok(false);
                }
            }
        }
        let Some(core) = self.core() else { return Ok(false) };
        let members: BTreeMap<u64, NodeAddress> = self
            .initial_peers()
            .iter()
            .map(|(&id, peer_address)| {
                let own = || self.address().address.clone();
                let address = answers.get(&id).map_or_else(own, |answer| answer.address.clone());
                (id, NodeAddress { peer_address: peer_address.clone(), address })
            })
            .collect();
        match core.raft.initialize(members).await {
            Ok(()) => tracing::info!(%cluster, "the cluster has formed"),
            // Another attempt of this very node, or a vote that came first: either way it works.
            Err(error) if error.api_error().is_some() => tracing::debug!(%error, "already initialized"),
            Err(error) => return Err(FatalError::Consensus(error.to_string()).into()),
        }
        Ok(true)
    }

    /// What it means that node `told_by` of `cluster` calls this node, which belongs to no cluster, as a member.
    pub(super) fn was_wiped(&self, cluster: ClusterId, told_by: u64) {
        // One with first members asks them, and hears it with all that they know.
        if self.initial_peers().is_empty() {
            let (node_id, cluster) = (self.node_id(), cluster.to_string());
            self.verdict().reach(FormationError::Wiped { node_id, cluster, told_by }.into());
        }
    }

    async fn ask_all(&self) -> BTreeMap<u64, Answer> {
        let others = self.initial_peers().iter().filter(|(id, _)| **id != self.node_id());
        let asked = others.map(|(&id, address)| async move { (id, self.identify(id, address).await) });
        let mut answers = BTreeMap::new();
        for (id, answer) in join_all(asked).await {
            match answer {
                Ok(answer) => drop(answers.insert(id, answer)),
                Err(status) => tracing::debug!(node = id, %status, "peer did not say who it is"),
            }
        }
        answers
    }

    /// Asks the node at `address`, which has to be `id`, who it is.
    pub(super) async fn identify(&self, id: u64, address: &str) -> Result<Answer, Status> {
        let channels =
            self.connections().to(address).map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = network::client(channels.control);
        let mut ask = async || {
            let request = guard::label(peer::IdentifyRequest {}, None, self.node_id(), id);
            let answer = timeout(ANSWER_TIMEOUT, client.identify(request)).await;
            answer.map_err(|_| Status::deadline_exceeded("no answer"))?
        };
        let answer = match ask().await {
            // The connection broke: it may be left over from before the node was there, and the next call has a new one.
            Err(status) if std::error::Error::source(&status).is_some() => ask().await,
            answer => answer,
        };
        let answer = answer?.into_inner();
        if answer.node_id != id {
            return Err(Status::internal(format!("node {} answers under its address", answer.node_id)));
        }
        let said = self.hear_of(id, &answer.cluster_id, answer.speaks);
        Ok(Answer {
            said,
            cluster: answer.cluster_id,
            initialized: answer.initialized,
            members: answer.member_ids.into_iter().collect(),
            address: answer.address,
        })
    }

    /// Has node `id` store `cluster`, unless it was configured with other first members than `peers`.
    pub(super) async fn ask_to_adopt(
        &self,
        id: u64,
        address: &str,
        cluster: ClusterId,
        peers: &BTreeMap<u64, String>,
    ) -> Result<(), Status> {
        let channels =
            self.connections().to(address).map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = network::client(channels.control);
        let message = peer::AdoptRequest { cluster_id: cluster.to_string(), peers: peers.clone() };
        let request = guard::label(message, None, self.node_id(), id);
        // Opening a folder syncs it several times, so a slow disk gets time.
        let answer = timeout(10 * ANSWER_TIMEOUT, client.adopt(request)).await;
        answer.map_err(|_| Status::deadline_exceeded("no answer"))?.map(drop)
    }

    /// The answer to a peer's Identify.
    pub(super) async fn describe(&self) -> Result<peer::IdentifyResponse, Status> {
        let initialized =
            self.is_initialized().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(peer::IdentifyResponse {
            node_id: self.node_id(),
            cluster_id: self.cluster_id().map(|id| id.to_string()).unwrap_or_default(),
            initialized,
            member_ids: self.status().nodes.into_keys().collect(),
            address: self.address().address.clone(),
            speaks: Some(self.speaks()),
        })
    }

    /// Rule 3, on the side of the member: has the id stored when it answers.
    pub(super) async fn adopt(&self, request: peer::AdoptRequest) -> Result<(), Status> {
        let cluster = ClusterId::parse(&request.cluster_id)
            .ok_or_else(|| Status::invalid_argument("the cluster id is not 32 hexadecimal digits"))?;
        if let Some(own) = self.cluster_id().filter(|own| *own != cluster) {
            let node = self.node_id();
            return Err(Status::permission_denied(format!("node {node} belongs to cluster {own}")));
        }
        if request.peers != *self.initial_peers() {
            return Err(Status::failed_precondition(format!(
                "its `peers` are {:?}, the caller's are {:?}",
                self.initial_peers(),
                request.peers
            )));
        }
        self.join(cluster).await.map_err(|error| {
            let status = Status::unavailable(error.to_string());
            if let OpenError::Fatal(error) = error {
                self.verdict().reach(error);
            }
            status
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: ClusterId = ClusterId([0xaa; 16]);
    const Y: ClusterId = ClusterId([0xbb; 16]);

    fn answer(cluster: Option<ClusterId>, initialized: bool, members: &[u64]) -> Answer {
        let cluster = cluster.map(|id| id.to_string()).unwrap_or_default();
        Answer { cluster, initialized, members: members.iter().copied().collect(), ..Answer::default() }
    }

    fn step(node_id: u64, own: Option<ClusterId>, answers: &[(u64, Answer)]) -> Result<Step, FormationError> {
        decide(node_id, own, &BTreeSet::from([1, 2, 3]), &answers.iter().cloned().collect())
    }

    #[test]
    fn lowest_forms_once_all_are_pristine_and_the_others_wait_for_it() {
        let pristine = answer(None, false, &[]);
        let all = [(2, pristine.clone()), (3, pristine.clone())];
        assert_eq!(step(1, None, &all), Ok(Step::Form(None)));
        assert_eq!(step(1, None, &all[..1]), Ok(Step::Wait(BTreeSet::from([3]))));
        assert_eq!(step(1, None, &[]), Ok(Step::Wait(BTreeSet::from([2, 3]))));
        let others = [(1, pristine.clone()), (3, pristine)];
        assert_eq!(step(2, None, &others), Ok(Step::Wait(BTreeSet::from([1]))));
    }

    #[test]
    fn single_node_forms_at_once() {
        assert_eq!(decide(7, None, &BTreeSet::from([7]), &BTreeMap::new()), Ok(Step::Form(None)));
    }

    #[test]
    fn attempt_that_was_cut_short_is_resumed_under_its_id() {
        let answers = [(2, answer(Some(X), false, &[])), (3, answer(None, false, &[]))];
        assert_eq!(step(1, Some(X), &answers), Ok(Step::Form(Some(X))));
        // Even when the one who began it has lost what it stored: nobody has voted yet.
        assert_eq!(step(1, None, &answers), Ok(Step::Form(Some(X))));
        assert_eq!(step(1, Some(X), &answers[..1]), Ok(Step::Wait(BTreeSet::from([3]))));
    }

    #[test]
    fn pristine_node_that_the_cluster_knows_was_wiped() {
        let cluster = X.to_string();
        let known = [(2, answer(Some(X), true, &[1, 2, 3]))];
        let wiped = FormationError::Wiped { node_id: 1, cluster: cluster.clone(), told_by: 2 };
        assert_eq!(step(1, None, &known), Err(wiped));
        let voted = [(1, answer(Some(X), true, &[]))];
        let wiped = FormationError::Wiped { node_id: 3, cluster: cluster.clone(), told_by: 1 };
        assert_eq!(step(3, None, &voted), Err(wiped));
        let without = [(2, answer(Some(X), true, &[2, 3, 4]))];
        assert_eq!(
            step(1, None, &without),
            Err(FormationError::Outsider { node_id: 1, cluster, told_by: 2 })
        );
    }

    #[test]
    fn first_members_of_different_clusters_are_told_apart() {
        let torn = |left, right| FormationError::Torn {
            left,
            left_cluster: X.to_string(),
            right,
            right_cluster: Y.to_string(),
        };
        let answers = [(2, answer(Some(X), false, &[])), (3, answer(Some(Y), false, &[]))];
        assert_eq!(step(1, None, &answers), Err(torn(2, 3)));
        assert_eq!(step(1, Some(X), &answers), Err(torn(2, 3)));
        assert_eq!(step(1, Some(X), &answers[1..]), Err(torn(1, 3)));
    }

    #[test]
    fn peers_have_to_name_this_node() {
        let peers = BTreeMap::from([(1, "a:1".to_owned()), (2, "b:1".to_owned())]);
        assert_eq!(check_peers(2, &peers), Ok(()));
        assert_eq!(check_peers(9, &BTreeMap::new()), Ok(()));
        let error = FormationError::NotAFirstMember { node_id: 9, named: vec![1, 2] };
        assert_eq!(check_peers(9, &peers), Err(error));
    }
}
