//! The handle that the rest of the program holds, and what it is opened with.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

use super::dial::{Connections, Dialer};
use super::fatal::{FatalError, Verdict};
use super::formation::{self, FormationError};
use super::hashes::Hashes;
use super::leadership::{Heard, Leadership};
use super::levels::{self, Speech};
use super::library;
use super::log_store::LogStore;
use super::run_log::{Gap, OpenRunSink, RunLogGap, RunSink};
use super::startup::Starter;
use super::state_machine::Published;
use super::submit::Room;
use super::types::{ClusterId, LogPosition, NodeAddress, OpenRaft};
use crate::config::RaftTiming;
use crate::state::time::Timestamp;
use crate::state::{Applied, Entry, State};
use crate::storage::snapshot_file::SnapshotDir;
use crate::storage::{DataDir, StorageError};

/// Reads a node's wall clock.
pub type ReadClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a node is opened with.
pub struct RaftOptions {
    /// This node's id; never used again for another node.
    pub node_id: u64,
    /// Where this node is reached.
    pub address: NodeAddress,
    /// Times and sizes.
    pub timing: RaftTiming,
    /// The locked data folder.
    pub data_dir: Arc<DataDir>,
    /// Opens the run log, once the folder is known to be this node's.
    pub run_log: OpenRunSink,
    /// Connects to peers.
    pub dialer: Dialer,
    /// The first members with their peer addresses, the same on each of them; empty on a node that waits to be
    /// added to a cluster. Ignored by a member.
    pub initial_peers: BTreeMap<u64, String>,
    /// Random; names the cluster if it is this node that forms it.
    pub fresh_cluster_id: ClusterId,
    /// What this node tells its peers of its clock.
    pub read_clock: ReadClock,
    /// Whether it asks for votes from the beginning; if not, [`Raft::set_elects`] has to follow.
    pub elects: bool,
    /// Sees what happens to this node's replica; for simulations.
    pub observer: Option<Observer>,
    /// The feature levels that it speaks: those of this release, but in tests.
    pub speech: Speech,
}

/// What happens to a node's replica.
#[derive(Debug)]
pub enum Observed<'a> {
    /// It has applied an entry.
    Applied {
        /// The entry's place in the log.
        index: u64,
        /// The entry.
        entry: &'a Entry,
        /// What it did.
        applied: &'a Applied,
        /// The state with it.
        after: &'a State,
    },
    /// It has applied a change of the membership.
    Members {
        /// The change's place in the log.
        index: u64,
        /// Who has a vote; between two memberships, in either.
        voters: BTreeSet<u64>,
        /// All members.
        members: BTreeSet<u64>,
        /// Whether the cluster is between two memberships.
        is_joint: bool,
    },
    /// It has taken its state from a snapshot, one of its own or another's.
    Restored {
        /// What the snapshot stands for.
        index: u64,
        /// The state.
        state: &'a State,
    },
}

/// Sees what happens to a node's replica. It must not block.
pub type Observer = Arc<dyn Fn(&Observed<'_>) + Send + Sync>;

/// Why a node does not open.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The data folder, the log, a snapshot, the run log; or what the library found in them.
    #[error(transparent)]
    Fatal(#[from] FatalError),
    /// Times that the library refuses.
    #[error("the consensus settings do not fit together: {0}")]
    Config(String),
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> Self {
        Self::Fatal(error.into())
    }
}

impl From<FormationError> for OpenError {
    fn from(error: FormationError) -> Self {
        Self::Fatal(error.into())
    }
}

/// A node's part in consensus. A clone is another handle on the same node.
///
/// A node that belongs to no cluster yet has a handle too: it knows no leader, refuses proposals and shows the
/// empty state until the cluster has formed.
#[derive(Clone)]
pub struct Raft {
    shared: Arc<Shared>,
}

struct Shared {
    node_id: u64,
    address: NodeAddress,
    timing: RaftTiming,
    initial_peers: BTreeMap<u64, String>,
    fresh_cluster_id: ClusterId,
    connections: Arc<Connections>,
    room: Room,
    heard: Arc<Heard>,
    verdict: Verdict,
    published: Published,
    leadership: watch::Sender<Leadership>,
    closing: watch::Sender<bool>,
    core: OnceLock<Core>,
    joined: watch::Sender<bool>,
    starter: tokio::sync::Mutex<Option<Starter>>,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Held for its lock.
    data_dir: Mutex<Option<Arc<DataDir>>>,
    read_clock: ReadClock,
    elects: AtomicBool,
    speech: Speech,
    said: Mutex<levels::Heard>,
    raising: levels::Raising,
}

/// What a member of a cluster has.
pub(super) struct Core {
    pub(super) cluster: ClusterId,
    pub(super) raft: OpenRaft,
    pub(super) log: LogStore,
    pub(super) sink: Arc<dyn RunSink>,
    pub(super) snapshots: SnapshotDir,
    pub(super) gap: Arc<Gap>,
    pub(super) hashes: Hashes,
}

impl Raft {
    /// Opens a node. A member of a cluster is ready for its peers' calls when this returns; any other node begins
    /// to look for its peers. Either way the peer listener has to be served next ([`super::serve`]).
    ///
    /// # Errors
    /// [`OpenError`]; nothing is running then.
    pub async fn open(options: RaftOptions) -> Result<Self, OpenError> {
        library::library(&options.timing).map_err(|error| OpenError::Config(error.to_string()))?;
        formation::check_peers(options.node_id, &options.initial_peers)?;
        let known = options.data_dir.identity()?;
        let raft = Self { shared: Arc::new(Shared::new(options)) };
        if let Some(identity) = known {
            raft.join(ClusterId(identity.cluster_id)).await?;
        }
        let former = raft.clone();
        if !former.is_initialized().await? && !former.initial_peers().is_empty() {
            raft.spawn(async move { former.form().await });
        }
        Ok(raft)
    }

    /// Makes this node a member: claims the folder for the cluster and starts. Does nothing on a member of it.
    ///
    /// # Errors
    /// [`OpenError`]. The node has to end then.
    pub(super) async fn join(&self, cluster: ClusterId) -> Result<(), OpenError> {
        let mut starter = self.shared.starter.lock().await;
        let Some(start) = starter.take() else {
            let joined = self.core().is_some_and(|core| core.cluster == cluster);
            return if joined { Ok(()) } else { Err(StorageError::Closed.into()) };
        };
        let core = start.start(self, cluster).await?;
        if self.shared.core.set(core).is_err() {
            // Cannot be: only who took the starter gets here.
            tracing::error!("this node was started twice");
        }
        self.tell_elects();
        self.shared.joined.send_replace(true);
        Ok(())
    }

    /// This node's id.
    pub fn node_id(&self) -> u64 {
        self.shared.node_id
    }

    /// Where this node says it is reached.
    pub fn address(&self) -> &NodeAddress {
        &self.shared.address
    }

    /// The cluster's id, once this node belongs to one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.core().map(|core| core.cluster)
    }

    /// Resolves when this node belongs to a cluster. That is durable by then.
    pub async fn joined(&self) {
        // The sender lives in `self`, so the channel cannot close.
        let _ = self.shared.joined.subscribe().wait_for(|joined| *joined).await;
    }

    /// The newest applied state of this node, which may be behind the cluster's: see [`Raft::read_barrier`].
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.shared.published.states.borrow())
    }

    /// The applied states as they come. Intermediate ones may be skipped, none is ever seen twice or out of order.
    pub fn watch_state(&self) -> watch::Receiver<Arc<State>> {
        self.shared.published.states.subscribe()
    }

    /// The last entry applied here, of any kind. The state that is published has at least that much.
    pub fn watch_applied(&self) -> watch::Receiver<Option<LogPosition>> {
        self.shared.published.applied.subscribe()
    }

    /// The part of the run log that this node still has to fetch.
    pub fn run_log_gap(&self) -> Option<RunLogGap> {
        self.core().and_then(|core| core.sink.gap())
    }

    /// Resolves with the reason once this node has to end. Nothing it does after that counts.
    pub fn fatal(&self) -> impl Future<Output = FatalError> + Send + use<> {
        let verdict = self.shared.verdict.clone();
        async move { verdict.wait().await }
    }

    /// Stops taking part, syncs and closes the log, and lets go of the folder. A leader should hand over first
    /// ([`Raft::transfer_leader`]): its followers wait for an election otherwise.
    pub async fn shutdown(&self) {
        self.shared.closing.send_replace(true);
        // Nobody starts from here on: an adoption that is under way comes first.
        self.shared.starter.lock().await.take();
        if let Some(core) = self.core() {
            if let Err(error) = core.raft.shutdown().await {
                tracing::warn!(%error, "consensus did not end cleanly");
            }
            let closed = core.log.close().await;
            if let (Err(error), None) = (closed, self.shared.verdict.get()) {
                tracing::warn!(%error, "the log did not close cleanly");
            }
        }
        let tasks = std::mem::take(&mut *self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(AbortHandle::abort);
        self.shared.data_dir.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task: JoinHandle<()> = tokio::spawn(task);
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
    }

    pub(super) fn core(&self) -> Option<&Core> {
        self.shared.core.get()
    }

    pub(super) fn timing(&self) -> &RaftTiming {
        &self.shared.timing
    }

    pub(super) fn read_clock(&self) -> Timestamp {
        (self.shared.read_clock)()
    }

    pub(super) fn elects_flag(&self) -> &AtomicBool {
        &self.shared.elects
    }

    pub(super) fn initial_peers(&self) -> &BTreeMap<u64, String> {
        &self.shared.initial_peers
    }

    pub(super) fn fresh_cluster_id(&self) -> ClusterId {
        self.shared.fresh_cluster_id
    }

    pub(super) fn connections(&self) -> &Arc<Connections> {
        &self.shared.connections
    }

    pub(super) fn speech(&self) -> &Speech {
        &self.shared.speech
    }

    pub(super) fn said(&self) -> MutexGuard<'_, levels::Heard> {
        self.shared.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn raising(&self) -> &levels::Raising {
        &self.shared.raising
    }

    pub(super) fn room(&self) -> &Room {
        &self.shared.room
    }

    pub(super) fn heard(&self) -> &Arc<Heard> {
        &self.shared.heard
    }

    pub(super) fn verdict(&self) -> &Verdict {
        &self.shared.verdict
    }

    /// Whether this node was asked to stop.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.shared.closing.subscribe()
    }

    pub(super) fn published(&self) -> &Published {
        &self.shared.published
    }

    pub(super) fn leadership_sender(&self) -> &watch::Sender<Leadership> {
        &self.shared.leadership
    }
}

impl Shared {
    fn new(options: RaftOptions) -> Self {
        let data_dir = Mutex::new(Some(Arc::clone(&options.data_dir)));
        let starter =
            Starter { data_dir: options.data_dir, run_log: options.run_log, observer: options.observer };
        Self {
            node_id: options.node_id,
            address: options.address,
            timing: options.timing,
            initial_peers: options.initial_peers,
            fresh_cluster_id: options.fresh_cluster_id,
            connections: Arc::new(Connections::new(options.dialer)),
            room: Room::default(),
            heard: Arc::default(),
            verdict: Verdict::new(),
            published: Published::default(),
            leadership: watch::Sender::default(),
            closing: watch::Sender::new(false),
            core: OnceLock::new(),
            joined: watch::Sender::new(false),
            starter: tokio::sync::Mutex::new(Some(starter)),
            tasks: Mutex::default(),
            data_dir,
            read_clock: options.read_clock,
            elects: AtomicBool::new(options.elects),
            speech: options.speech,
            said: Mutex::default(),
            raising: levels::Raising::default(),
        }
    }
}
