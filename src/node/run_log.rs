//! The run log of a node: opened once the folder is known to be this node's, and pruned while it runs.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::executor::block_on;
use tracing::warn;

use crate::history::{Gap, RunLog};
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
/// One that was damaged has been begun anew: what the newest snapshot stands for is fetched from the
/// other nodes, and what lies behind it is applied again.
pub(super) fn opener(data_dir: &Arc<DataDir>, opened: &Arc<OnceLock<Arc<RunLog>>>) -> OpenRunSink {
    let (data_dir, opened) = (Arc::clone(data_dir), Arc::clone(opened));
    Box::new(move || {
        let run_log = Arc::new(RunLog::open(&data_dir.history_dir())?);
        if run_log.begun_anew() {
            let snapshots = SnapshotDir::open(&data_dir.snapshots_dir())?.list()?;
            if let Some(through) = snapshots.into_iter().map(|id| id.index).max() {
                block_on(run_log.set_gap(Some(Gap { after: 0, through })))?;
            }
        }
        // Consensus opens it once, so nobody has set it before.
        let _ = opened.set(Arc::clone(&run_log));
        Ok(run_log)
    })
}

/// Removes what retention no longer wants, a little at a time, for ever.
pub(super) async fn prune(raft: Raft, opened: Arc<OnceLock<Arc<RunLog>>>) {
    loop {
        let pause = match opened.get() {
            None => PRUNE_IDLE,
            Some(run_log) => {
                let state = raft.state();
                let kept = |job| state.job(job).map(|job| job.spec.retention);
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
        tokio::time::sleep(pause).await;
    }
}
