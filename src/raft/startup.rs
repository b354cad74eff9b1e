//! From a folder to a running member, in the only order that is safe.
//!
//! Open the log (creating it only in a folder that nobody has claimed) → claim the folder → open the run log →
//! load the snapshot → see that the cluster has not left this release behind → let the library read all of it → start. The claim comes after the log, so that a claimed
//! folder without a log is known to have lost it.

use std::sync::Arc;

use super::fatal::FatalError;
use super::handle::{Core, Observer, OpenError, Raft};
use super::hashes::Hashes;
use super::log_store::{LogStore, WAL_TAIL_BYTES};
use super::network::Network;
use super::run_log::{Gap, GapFetcher, OpenRunSink};
use super::snapshot::blocking;
use super::state_machine::{SnapshotClock, StateMachine, Surroundings};
use super::types::{ClusterId, OpenRaft};
use super::{leadership, library};
use crate::storage::identity::Claim;
use crate::storage::snapshot_file::SnapshotDir;
use crate::storage::wal::{Opened, Wal, WalOptions};
use crate::storage::{DataDir, Identity, StorageError, files};

/// What only the start needs.
pub(super) struct Starter {
    pub(super) data_dir: Arc<DataDir>,
    pub(super) run_log: OpenRunSink,
    pub(super) observer: Option<Observer>,
}

impl Starter {
    /// Starts `raft` as a member of `cluster`.
    pub(super) async fn start(self, raft: &Raft, cluster: ClusterId) -> Result<Core, OpenError> {
        let Self { data_dir, run_log, observer } = self;
        let identity = Identity { cluster_id: cluster.0, node_id: raft.node_id() };
        let opened = blocking(move || -> Result<_, StorageError> {
            let claim = data_dir.check(&identity)?;
            let (wal, opened) = open_log(&data_dir, identity, claim)?;
            if claim == Claim::Fresh {
                data_dir.claim(&identity)?;
            }
            let sink = run_log()?;
            Ok((wal, opened, sink, SnapshotDir::open(&data_dir.snapshots_dir())?))
        });
        let (wal, opened, sink, snapshots) = opened.await?;
        report(&opened);
        let log = LogStore::new(wal, raft.verdict().clone());
        let timing = raft.timing();
        // Nodes apply the same entries at the same time; spread out, their snapshots do not slow them all at once.
        let stagger = 16 + raft.node_id() % 4;
        let spread = |limit: u64| (limit / 16).saturating_mul(stagger).max(limit);
        let clock = SnapshotClock::new(spread(timing.snapshot_entries), spread(timing.snapshot_bytes));
        let clock = Arc::new(clock);
        let hashes = Hashes::default();
        let surroundings = Surroundings {
            published: raft.published().clone(),
            sink: Arc::clone(&sink),
            snapshots: snapshots.clone(),
            clock: Arc::clone(&clock),
            hashes: hashes.clone(),
            verdict: raft.verdict().clone(),
            observer,
            levels: raft.levels(),
        };
        let machine = StateMachine::open(surroundings, opened.purged.map(|id| id.index));
        let machine = machine.await.map_err(FatalError::from)?;
        log.check_levels(machine.next_index(), raft.levels()).await?;
        let network =
            Network { node_id: raft.node_id(), cluster, connections: Arc::clone(raft.connections()) };
        let mut library = library::library(timing).map_err(|error| OpenError::Config(error.to_string()))?;
        library.enable_elect = raft.elects();
        let built = OpenRaft::build(raft.node_id(), Arc::new(library), network, log.clone(), machine).await;
        let library = match built {
            Ok(library) => library,
            // The first cause, where we know it, says more than what the library made of it.
            Err(error) => {
                let consensus = || FatalError::Consensus(error.to_string());
                return Err(raft.verdict().get().unwrap_or_else(consensus).into());
            }
        };
        library.run();
        tracing::info!(cluster = %cluster, node = raft.node_id(), "this node takes part");
        let gap = Arc::new(Gap::of(Arc::clone(&sink)));
        let core = Core { cluster, raft: library, log, sink, snapshots, gap, hashes };
        watch(raft, &core, clock);
        Ok(core)
    }
}

fn watch(raft: &Raft, core: &Core, clock: Arc<SnapshotClock>) {
    let (closing, verdict) = (raft.closing(), raft.verdict().clone());
    raft.spawn(leadership::watch_life(core.raft.clone(), closing, verdict.clone()));
    let (log_failed, run_log_failed) = (core.log.failed(), core.sink.failed());
    let store_verdict = verdict.clone();
    raft.spawn(async move {
        // Also one that only a reader or the store's own thread met: a node does not go on with half of its stores.
        let error = tokio::select! {
            error = log_failed => error,
            error = run_log_failed => error,
        };
        store_verdict.reach(error.into());
    });
    raft.spawn(leadership::take_snapshots(core.raft.clone(), clock));
    let leadership = raft.leadership_sender().clone();
    let heard = Arc::clone(raft.heard());
    raft.spawn(leadership::follow(core.raft.clone(), raft.watch_applied(), leadership, heard));
    let fetcher = GapFetcher {
        node_id: raft.node_id(),
        cluster: core.cluster,
        connections: Arc::clone(raft.connections()),
        sink: Arc::clone(&core.sink),
        raft: core.raft.clone(),
        gap: Arc::clone(&core.gap),
        leadership: raft.leadership(),
        verdict,
    };
    raft.spawn(fetcher.run());
}

/// Opens the log. One of another cluster in a folder that nobody has claimed is the leftover of a start that was
/// cut short before this node had told anyone of that cluster; it is set aside, never deleted.
fn open_log(data_dir: &DataDir, identity: Identity, claim: Claim) -> Result<(Wal, Opened), StorageError> {
    let dir = data_dir.log_dir();
    let options =
        WalOptions { tail_bytes: WAL_TAIL_BYTES, ..WalOptions::new(identity, claim == Claim::Fresh) };
    match Wal::open(&dir, options.clone()) {
        Err(StorageError::OtherCluster { .. }) if claim == Claim::Fresh => {
            files::set_aside(&dir, "the log was made for a cluster that never formed")?;
            Wal::open(&dir, options)
        }
        other => other,
    }
}

fn report(opened: &Opened) {
    if let Some(repair) = &opened.repair {
        tracing::warn!(
            file = %repair.file.display(),
            bytes = repair.dropped_bytes,
            reason = repair.reason,
            "an unfinished write at the end of the log was cut off"
        );
    }
}
