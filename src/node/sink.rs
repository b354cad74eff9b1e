//! The run log as consensus sees it: keeps `history` in step with the log, and prunes it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tracing::{error, warn};

use crate::history::{Gap, HistoryError, RunLog, StoredRow, TREES, VALUE_BYTES_MAX};
use crate::raft::{Raft, RunLogGap, RunSink, StoredRun};
use crate::state::run::Run;
use crate::storage::snapshot_file::SnapshotDir;
use crate::storage::store::{CACHE_BYTES, Store, StoreOptions};
use crate::storage::{DataDir, StorageError};

/// Jobs that one step of pruning looks at.
const PRUNED_AT_ONCE: usize = 64;
/// The pause between two steps of pruning while there is something to do, and while there is not.
const PRUNE_EVERY: Duration = Duration::from_millis(200);
const PRUNE_IDLE: Duration = Duration::from_secs(10);

/// Opens the run log of a node; `broken` is told of the error that ends the store.
///
/// A damaged run log is set aside and begun anew: what it lacks is fetched from the other nodes.
///
/// # Errors
/// [`StorageError`] when it can be neither opened nor begun anew.
pub(super) fn open(data_dir: &DataDir, broken: mpsc::Sender<StorageError>) -> Result<RunLog, StorageError> {
    let options = || {
        let broken = broken.clone();
        StoreOptions {
            trees: &TREES,
            value_bytes_max: VALUE_BYTES_MAX,
            cache_bytes: CACHE_BYTES,
            on_fatal: Box::new(move |reason| {
                // The first error is the one that counts; the node is ending already when there is no room.
                let _ = broken.try_send(reason);
            }),
        }
    };
    let (store, anew) = Store::open_or_begin_anew(&data_dir.history_dir(), options)?;
    let run_log = RunLog::open(store).map_err(storage_error)?;
    if let Some(anew) = anew {
        error!(reason = %anew.reason, moved_to = ?anew.moved_to, "the run log was damaged and is fetched anew");
        let newest = SnapshotDir::open(&data_dir.snapshots_dir())?.list()?.into_iter().map(|id| id.index).max();
        if let Some(through) = newest.filter(|index| *index > 0) {
            // What lies behind the snapshot is applied again.
            let noted = run_log.set_gap(Some(Gap { after: 0, through }));
            futures::executor::block_on(noted)?;
        }
    }
    Ok(run_log)
}

/// A row that does not decode is damage that the checksum did not see: the node ends.
fn storage_error(error: HistoryError) -> StorageError {
    match error {
        HistoryError::Storage(error) => error,
        HistoryError::Codec(_) | HistoryError::Form => {
            error!(%error, "the run log holds what it cannot hold");
            StorageError::Closed
        }
    }
}

/// The run log behind consensus.
pub(super) struct Sink(pub(super) Arc<RunLog>);

impl RunSink for Sink {
    fn append(&self, index: u64, runs: Vec<Arc<Run>>) -> BoxFuture<'_, Result<(), StorageError>> {
        self.0.append(index, runs).boxed()
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        self.0.barrier().boxed()
    }

    fn gap(&self) -> Option<RunLogGap> {
        self.0.gap().map(|gap| RunLogGap { after: gap.after, through: gap.through })
    }

    fn set_gap(&self, gap: Option<RunLogGap>) -> BoxFuture<'_, Result<(), StorageError>> {
        self.0.set_gap(gap.map(|gap| Gap { after: gap.after, through: gap.through })).boxed()
    }

    fn fill(&self, runs: Vec<StoredRun>) -> BoxFuture<'_, Result<(), StorageError>> {
        let rows = runs
            .into_iter()
            .map(|run| StoredRow { index: run.index, key: run.key.to_vec(), value: run.value.to_vec() })
            .collect();
        async move {
            match self.0.fill(rows).await {
                Err(HistoryError::Storage(error)) => Err(error),
                Err(HistoryError::Codec(_) | HistoryError::Form) => {
                    warn!("a peer sent runs that do not decode; they are left out");
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        }
        .boxed()
    }

    fn read(
        &self,
        gap: RunLogGap,
        cursor: Option<(u64, Bytes)>,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredRun>, StorageError>> {
        async move {
            let gap = Gap { after: gap.after, through: gap.through };
            let cursor = cursor.map(|(index, key)| (index, key.to_vec()));
            let rows = self.0.read(gap, cursor, max_bytes).await.map_err(storage_error)?;
            let run = |row: StoredRow| StoredRun { index: row.index, key: row.key.into(), value: row.value.into() };
            Ok(rows.into_iter().map(run).collect())
        }
        .boxed()
    }
}

/// Removes what retention no longer wants, a little at a time, until it is aborted.
pub(super) async fn prune(raft: Raft, run_log: Arc<RunLog>) {
    loop {
        let state = raft.state();
        let now = state.now();
        let kept = |job| state.job(job).map(|job| job.spec.retention);
        let pause = match run_log.prune(PRUNED_AT_ONCE, now, kept).await {
            Ok(pruned) if pruned.idle => PRUNE_IDLE,
            Ok(_) => PRUNE_EVERY,
            Err(error) => {
                // The store has told the node, which is ending.
                warn!(%error, "the run log cannot be pruned");
                PRUNE_IDLE
            }
        };
        tokio::time::sleep(pause).await;
    }
}
