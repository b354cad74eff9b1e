//! The run log of a node: opened once the folder is known to be this node's, and pruned while it runs.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::executor::block_on;
use tracing::warn;

use crate::history::{Kept, RunLog};
use crate::raft::{OpenRunSink, Raft};
use crate::storage::DataDir;
use crate::storage::snapshot_file::SnapshotDir;

/// Jobs that one step of pruning looks at.
const PRUNED_AT_ONCE: usize = 64;
/// The pause between two steps of pruning while there is something to do, and while there is not.
const PRUNE_EVERY: Duration = Duration::from_millis(200);
const PRUNE_IDLE: Duration = Duration::from_secs(60);

/// Opens the run log in `data_dir` and shows it to the API.
///
/// What the newest snapshot stands for and the run log lacks is fetched from the other nodes, and what lies
/// behind it is applied again: it was damaged and begun anew, or somebody has removed or replaced it.
pub(super) fn opener(data_dir: &Arc<DataDir>, opened: &Arc<OnceLock<Arc<RunLog>>>) -> OpenRunSink {
    let (data_dir, opened) = (Arc::clone(data_dir), Arc::clone(opened));
    Box::new(move || {
        let run_log = Arc::new(RunLog::open(&data_dir.history_dir())?);
        let snapshots = SnapshotDir::open(&data_dir.snapshots_dir())?.list()?;
        let newest = snapshots.into_iter().map(|id| id.index).max().unwrap_or(0);
        let lacking = run_log.lacking(newest);
        if let Some(gap) = lacking.filter(|_| lacking != run_log.gap()) {
            warn!(
                gap.after,
                gap.through, "runs are missing from the run log, and are fetched from other nodes"
            );
            block_on(run_log.set_gap(lacking))?;
        }
        // Consensus opens it once, so nobody has set it before.
        let _ = opened.set(Arc::clone(&run_log));
        Ok(run_log)
    })
}

/// Removes what retention no longer wants, a little at a time, for ever; at once where limits of namespaces change.
pub(super) async fn prune(raft: Raft, opened: Arc<OnceLock<Arc<RunLog>>>) {
    loop {
        let state = raft.state();
        let pause = match opened.get() {
            None => PRUNE_EVERY,
            Some(run_log) => {
                let job = |job| state.job(job).map(|job| job.spec.retention);
                let limited = state.namespaces();
                let namespaces = limited.map(|(name, of)| (Arc::clone(name), of.retention)).collect();
                let kept = Kept { job: &job, namespaces: &namespaces };
                match run_log.prune(PRUNED_AT_ONCE, state.now(), kept).await {
                    Ok(pruned) if pruned.idle => PRUNE_IDLE,
                    Ok(_) => PRUNE_EVERY,
                    Err(error) => {
                        warn!(%error, "the run log cannot be pruned");
                        PRUNE_IDLE
                    }
                }
            }
        };
        let mut states = raft.watch_state();
        let changed = states.wait_for(|now| !now.has_namespaces_of(&state));
        // A node that ends publishes no more states, and aborts this.
        let _ = tokio::time::timeout(pause, async { changed.await.map(drop) }).await;
    }
}
