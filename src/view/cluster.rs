//! The cluster as one of its nodes sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::instant;
use crate::pb::v1 as pb;
use crate::raft::{Hold, Said};
use crate::scheduler::zone::Zones;
use crate::state::time::Timestamp;
use crate::state::{State, StateHash};

/// A worker session, as the leader knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its name, unique for the life of its process.
    pub worker: String,
    /// What it serves.
    pub queues: BTreeSet<String>,
    /// What it has.
    pub labels: BTreeMap<String, String>,
    /// Kinds of targets that it carries out.
    pub kinds: BTreeSet<String>,
    /// Attempts that it carries out at a time.
    pub slots: u32,
    /// Attempts that it carries out.
    pub running: u32,
    /// It takes nothing new.
    pub draining: bool,
    /// Slots that are free for something new.
    pub free: u32,
    /// How it stands.
    pub standing: Standing,
    /// Why it drains.
    pub drain: Option<DrainSeen>,
    /// The node that it is part of.
    pub node_id: Option<u64>,
    /// The node that it is connected to.
    pub connected_to: Option<u64>,
    /// Where it is connected from.
    pub address: String,
    /// The program's version.
    pub version: String,
    /// The version of the worker protocol that is spoken with it.
    pub protocol: u32,
    /// Since when its stream is open.
    pub connected_at: Option<Timestamp>,
    /// When something was heard of it.
    pub last_heard_at: Option<Timestamp>,
}

/// How a worker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It is sent orders.
    #[default]
    Serving,
    /// It takes nothing new.
    Draining,
    /// It was not heard for half a lease.
    Silent,
    /// It is not connected, and carries attempts.
    Away,
}

/// Why a worker drains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainSeen {
    /// Who asked for it; empty: its process is being ended.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub asked_at: Option<Timestamp>,
}

/// A node's part in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It votes.
    Voter,
    /// It follows without a vote.
    Learner,
}

/// A node as another sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its id.
    pub node_id: u64,
    /// Where clients reach it.
    pub address: String,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Its part.
    pub role: Role,
    /// The last index known to be on its disk; the leader alone knows.
    pub matched_index: Option<u64>,
    /// How long it has been silent; the leader alone knows.
    pub silent: Option<Duration>,
    /// What it has said of itself lately.
    pub said: Option<Said>,
}

/// What consensus says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSeen {
    /// The cluster's id; empty before it has formed.
    pub cluster_id: String,
    /// The node that looks.
    pub node_id: u64,
    /// The leader, if it is known.
    pub leader_id: Option<u64>,
    /// The current term.
    pub term: u64,
    /// The last index in its log.
    pub last_index: u64,
    /// The last index known to be committed.
    pub committed_index: u64,
    /// The last index applied.
    pub applied_index: u64,
    /// The last index in its snapshot.
    pub snapshot_index: u64,
    /// All nodes.
    pub nodes: Vec<NodeSeen>,
    /// Hashes of its state with their indexes, the newest last.
    pub state_hashes: Vec<(u64, StateHash)>,
    /// Who keeps the feature level from being raised.
    pub level_holds: Vec<Hold>,
}

/// What the binary says of itself.
#[derive(Clone, Debug)]
pub struct Build {
    /// Its version.
    pub version: &'static str,
    /// Its time-zone database.
    pub tzdata: Zones,
}

/// The message of the cluster's status; without workers when they are not known here.
#[must_use]
pub fn to_pb(
    state: &State,
    seen: &ClusterSeen,
    build: &Build,
    workers: Option<&[WorkerInfo]>,
) -> pb::ClusterStatus {
    let zones = Zones::of(state);
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    pb::ClusterStatus {
        cluster_id: seen.cluster_id.clone(),
        node_id: seen.node_id,
        leader_id: seen.leader_id.unwrap_or(0),
        term: seen.term,
        last_index: seen.last_index,
        committed_index: seen.committed_index,
        applied_index: seen.applied_index,
        snapshot_index: seen.snapshot_index,
        nodes: seen.nodes.iter().map(node).collect(),
        tzdata: zones.release().to_owned(),
        tzdata_hash: zones.hash().to_string(),
        tzdata_pinned: state.tzdata().is_some(),
        tzdata_in_binary: build.tzdata.release().to_owned(),
        rereading: state.reading().pass.is_some(),
        version: build.version.to_owned(),
        jobs: count(state.job_count()),
        live_runs: count(state.run_count()),
        now: Some(instant(state.now())),
        workers: workers.unwrap_or_default().iter().map(worker).collect(),
        state_hashes: seen.state_hashes.iter().map(state_hash).collect(),
        feature_level: state.level(),
        feature_level_holds: seen.level_holds.iter().map(ToString::to_string).collect(),
    }
}

fn state_hash((index, hash): &(u64, StateHash)) -> pb::StateHash {
    pb::StateHash { index: *index, hash: hash.to_string() }
}

fn node(node: &NodeSeen) -> pb::Node {
    let role = match node.role {
        Role::Leader => pb::NodeRole::Leader,
        Role::Voter => pb::NodeRole::Voter,
        Role::Learner => pb::NodeRole::Learner,
    };
    pb::Node {
        node_id: node.node_id,
        address: node.address.clone(),
        peer_address: node.peer_address.clone(),
        role: role.into(),
        matched_index: node.matched_index.unwrap_or(0),
        silent_ms: node.silent.map(|silent| u64::try_from(silent.as_millis()).unwrap_or(u64::MAX)),
        version: node.said.as_ref().map(|said| said.release.clone()).unwrap_or_default(),
        feature_levels: node
            .said
            .as_ref()
            .map(|said| pb::FeatureLevels { oldest: said.levels.oldest, newest: said.levels.newest }),
    }
}

/// The message of a worker.
#[must_use]
pub fn worker(worker: &WorkerInfo) -> pb::Worker {
    let (place, life) = worker.worker.rsplit_once('/').unwrap_or((&worker.worker, ""));
    let state = match worker.standing {
        Standing::Serving => pb::WorkerState::Serving,
        Standing::Draining => pb::WorkerState::Draining,
        Standing::Silent => pb::WorkerState::Silent,
        Standing::Away => pb::WorkerState::Away,
    };
    pb::Worker {
        worker: worker.worker.clone(),
        queues: worker.queues.iter().cloned().collect(),
        labels: worker.labels.clone(),
        slots: worker.slots,
        running: worker.running,
        draining: worker.draining,
        free: worker.free,
        kinds: worker.kinds.iter().cloned().collect(),
        state: state.into(),
        place: place.to_owned(),
        life: life.to_owned(),
        node_id: worker.node_id.unwrap_or(0),
        connected_to: worker.connected_to.unwrap_or(0),
        address: worker.address.clone(),
        version: worker.version.clone(),
        protocol: worker.protocol,
        connected_at: worker.connected_at.map(instant),
        last_heard_at: worker.last_heard_at.map(instant),
        drain: worker.drain.as_ref().map(|drain| pb::WorkerDrain {
            actor: drain.actor.clone(),
            reason: drain.reason.clone(),
            asked_at: drain.asked_at.map(instant),
        }),
    }
}
