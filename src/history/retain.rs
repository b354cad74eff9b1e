//! Retention: the newest runs of each job stay, and none beyond its age.
//!
//! Jobs that have grown since they were last pruned come first; besides, a slow walk visits every
//! job in turn, for age needs no growth. Each call does a bounded amount of work, so that a caller
//! can do it in the background for ever. It is not deterministic and need not be: what a node has
//! pruned is no part of what nodes agree on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::append::split_value;
use super::read::decode;
use super::rows::{END, above};

use super::{HistoryError, JOBS, RunLog, Shared, keys};
use crate::state::run::{JobId, Run, RunId};
use crate::state::spec::Retention;
use crate::state::time::Timestamp;
use crate::storage::store::Op;

/// What is kept of a job that is deleted.
pub const RETENTION_OF_DELETED: Retention = Retention { runs: 100, age: Duration::from_secs(30 * 86_400) };
/// Runs of a job that may be too many before it is pruned for it.
const SLACK: u32 = 16;
/// Runs of one job that are removed in one batch.
const BATCH: usize = 256;
/// Runs of one job that are read at a time to count them.
const COUNTED: usize = 1_000;

/// Changes, and the runs that they remove.
type Removal = (Vec<Op>, Vec<Arc<Run>>);

/// What a call of [`RunLog::prune`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Runs that it removed.
    pub removed: usize,
    /// Jobs that it looked at.
    pub jobs: usize,
    /// The walk over all jobs has come to its end and begins anew with the next call; nothing is left
    /// to do until something grows or ages.
    pub idle: bool,
}

impl RunLog {
    /// Prunes at most `jobs` jobs by what `retention` says of each, or [`RETENTION_OF_DELETED`].
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn prune(
        &self,
        jobs: usize,
        now: Timestamp,
        retention: impl Fn(JobId) -> Option<Retention> + Send,
    ) -> Result<Pruned, HistoryError> {
        let mut pruned = Pruned::default();
        let kept = |job| retention(job).unwrap_or(RETENTION_OF_DELETED);
        for job in self.shared.grown(jobs) {
            pruned.jobs += 1;
            pruned.removed += self.prune_job(job, kept(job), now).await?;
        }
        while pruned.jobs < jobs {
            let Some(job) = self.blocking(Shared::next_job).await? else {
                pruned.idle = true;
                break;
            };
            pruned.jobs += 1;
            pruned.removed += self.prune_job(job, kept(job), now).await?;
        }
        Ok(pruned)
    }

    async fn prune_job(&self, job: JobId, kept: Retention, now: Timestamp) -> Result<usize, HistoryError> {
        let mut removed = 0;
        let mut surplus = self.blocking(move |shared| shared.surplus(job, kept.runs)).await?;
        let oldest_allowed = now.minus(kept.age);
        loop {
            let wanted = surplus;
            let (ops, gone) =
                self.blocking(move |shared| shared.removal(job, wanted, oldest_allowed)).await?;
            let Some(of) = gone.first().cloned() else { return Ok(removed) };
            self.shared.rows.write_visibly(ops).await?;
            removed += gone.len();
            surplus = surplus.saturating_sub(gone.len());
            let left = self.blocking(move |shared| shared.after_removal(&gone)).await?;
            if !left {
                // In this order: a run that is appended meanwhile writes the name again.
                self.shared.memory().named.remove(&job);
                let key = keys::named(&of);
                self.shared
                    .rows
                    .write_visibly(vec![Op::Delete { tree: self.shared.rows.names, key }])
                    .await?;
                return Ok(removed);
            }
        }
    }
}

fn bounds(job: JobId) -> (Vec<u8>, Vec<u8>) {
    let range = RunId::range_of(job);
    (keys::run(*range.start()), above(&keys::run(*range.end())))
}

impl Shared {
    /// Jobs that have grown enough to be pruned; they count as pruned from here on.
    fn grown(&self, jobs: usize) -> Vec<JobId> {
        let mut memory = self.memory();
        let full = memory.grown.iter().filter(|(_, grown)| **grown >= SLACK);
        let full: Vec<JobId> = full.map(|(job, _)| *job).take(jobs).collect();
        for job in &full {
            memory.grown.remove(job);
        }
        full
    }

    /// The next job of the walk; `None` at its end.
    fn next_job(&self) -> Result<Option<JobId>, HistoryError> {
        let walked = self.memory().walked;
        let low = walked.map_or_else(Vec::new, |job| bounds(job).1);
        let found = self.rows.oldest(self.rows.runs, &low, END, 1)?;
        let id = found.first().map(|(key, _)| keys::identified(key).ok_or(HistoryError::Form)).transpose()?;
        let job = id.map(|id| id.job);
        self.memory().walked = job;
        Ok(job)
    }

    /// How many runs of a job are more than may be kept. Counts them where that may matter.
    fn surplus(&self, job: JobId, kept: u32) -> Result<usize, HistoryError> {
        if self.memory().counts.get(&job).is_some_and(|count| *count <= kept) {
            return Ok(0);
        }
        let (mut low, high) = bounds(job);
        let mut count = 0;
        loop {
            let found = self.rows.oldest(self.rows.runs, &low, &high, COUNTED)?;
            let Some((last, _)) = found.last() else { break };
            low = above(last);
            count += found.len();
        }
        let mut memory = self.memory();
        if memory.counts.len() >= JOBS {
            memory.counts.clear();
        }
        memory.counts.insert(job, u32::try_from(count).unwrap_or(u32::MAX));
        Ok(count.saturating_sub(usize::try_from(kept).unwrap_or(usize::MAX)))
    }

    /// The changes that remove the oldest runs of a job, at most [`BATCH`]: so many, and besides all
    /// that are too old.
    fn removal(
        &self,
        job: JobId,
        surplus: usize,
        oldest_allowed: Timestamp,
    ) -> Result<Removal, HistoryError> {
        let rows = &self.rows;
        let (low, high) = bounds(job);
        let mut gone = Vec::new();
        let mut by_index: BTreeMap<u64, Vec<RunId>> = BTreeMap::new();
        let mut ops = Vec::new();
        for (_, value) in rows.oldest(rows.runs, &low, &high, BATCH)? {
            let (index, _) = split_value(&value)?;
            let run = decode(&value)?;
            let too_old = run.finished_at.unwrap_or(run.fired_at) < oldest_allowed;
            if gone.len() >= surplus && !too_old {
                break;
            }
            ops.push(Op::Delete { tree: rows.runs, key: keys::run(run.id) });
            ops.push(Op::Delete { tree: rows.decisions, key: keys::decision(run.fired_at, run.id) });
            by_index.entry(index).or_default().push(run.id);
            gone.push(run);
        }
        for (index, ids) in by_index {
            let mut known = self.ids_at(index)?;
            let before = known.len();
            for id in &ids {
                known.remove(id);
            }
            ops.extend(self.reindex(index, before, &known));
        }
        Ok((ops, gone))
    }

    /// Whether a job has runs left.
    fn after_removal(&self, gone: &[Arc<Run>]) -> Result<bool, HistoryError> {
        let Some(job) = gone.first().map(|run| run.id.job) else { return Ok(true) };
        {
            let mut memory = self.memory();
            if let Some(count) = memory.counts.get_mut(&job) {
                *count = count.saturating_sub(u32::try_from(gone.len()).unwrap_or(u32::MAX));
            }
        }
        let (low, high) = bounds(job);
        Ok(!self.rows.oldest(self.rows.runs, &low, &high, 1)?.is_empty())
    }
}
