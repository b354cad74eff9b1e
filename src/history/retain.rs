//! Retention: the newest runs of each job stay, and none beyond its age; of namespaces in [`super::namespaces`].
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
use crate::state::namespace::NamespaceLimits;
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

/// A run with the index of the entry that ended it.
pub(super) struct Ended {
    pub(super) index: u64,
    pub(super) run: Arc<Run>,
}

/// What is to be kept, as the replicated state says it.
#[derive(Clone, Copy)]
pub struct Kept<'a> {
    /// Of a job; [`RETENTION_OF_DELETED`] where it says nothing.
    pub job: &'a (dyn Fn(JobId) -> Option<Retention> + Send + Sync),
    /// Of the namespaces that have limits.
    pub namespaces: &'a BTreeMap<Arc<str>, NamespaceLimits>,
}

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
    /// Prunes at most `jobs` jobs by what is to be kept of each, and a bounded amount of each namespace with limits.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn prune(&self, jobs: usize, now: Timestamp, kept: Kept<'_>) -> Result<Pruned, HistoryError> {
        let mut pruned = Pruned::default();
        let of_job = |job| (kept.job)(job).unwrap_or(RETENTION_OF_DELETED);
        for job in self.shared.grown(jobs) {
            pruned.jobs += 1;
            pruned.removed += self.prune_job(job, of_job(job), now).await?;
        }
        let mut is_walked = false;
        while pruned.jobs < jobs {
            let Some(job) = self.blocking(Shared::next_job).await? else {
                is_walked = true;
                break;
            };
            pruned.jobs += 1;
            pruned.removed += self.prune_job(job, of_job(job), now).await?;
        }
        self.keep_fronts(kept.namespaces);
        let is_counted = self.count().await?;
        let mut are_pruned = true;
        for (name, limits) in kept.namespaces {
            let (removed, is_pruned) = self.prune_namespace(name, *limits, now).await?;
            pruned.removed += removed;
            are_pruned &= is_pruned;
        }
        pruned.idle = is_walked && is_counted && are_pruned;
        Ok(pruned)
    }

    async fn prune_job(&self, job: JobId, kept: Retention, now: Timestamp) -> Result<usize, HistoryError> {
        let mut removed = 0;
        let mut surplus = self.blocking(move |shared| shared.surplus(job, kept.runs)).await?;
        let oldest_allowed = now.minus(kept.age);
        loop {
            let wanted = surplus;
            let gone = self.blocking(move |shared| shared.removal(job, wanted, oldest_allowed)).await?;
            if gone.is_empty() {
                return Ok(removed);
            }
            removed += gone.len();
            surplus = surplus.saturating_sub(gone.len());
            self.remove(gone).await?;
        }
    }

    /// Removes runs, with all their rows.
    pub(super) async fn remove(&self, gone: Vec<Ended>) -> Result<(), HistoryError> {
        let changing = self.shared.changing.lock().await;
        let (ops, gone) = self.blocking(move |shared| Ok((shared.deletions(&gone)?, gone))).await?;
        self.shared.memory().census.hold_up();
        self.shared.rows.write_visibly(ops).await?;
        drop(changing);
        let emptied = self.blocking(move |shared| shared.after_removal(&gone)).await?;
        for last in emptied {
            self.unname(&last).await?;
        }
        Ok(())
    }

    /// Removes the name of a job that has no runs left.
    async fn unname(&self, last: &Run) -> Result<(), HistoryError> {
        let (job, key) = (last.id.job, keys::named(last));
        let tree = self.shared.rows.names;
        // In this order: a run that is appended from here on writes the name again.
        self.shared.memory().named.remove(&job);
        self.shared.rows.write_visibly(vec![Op::Delete { tree, key: key.clone() }]).await?;
        // One that was appended meanwhile has found the name there, or has written it before it went.
        if self.blocking(move |shared| shared.has_runs(job)).await? {
            self.shared.rows.write_visibly(vec![Op::Put { tree, key, value: Vec::new() }]).await?;
        }
        Ok(())
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

    /// The oldest runs of a job, at most [`BATCH`]: so many, and besides all that are too old.
    fn removal(
        &self,
        job: JobId,
        surplus: usize,
        oldest_allowed: Timestamp,
    ) -> Result<Vec<Ended>, HistoryError> {
        let rows = &self.rows;
        let (low, high) = bounds(job);
        let mut gone = Vec::new();
        for (_, value) in rows.oldest(rows.runs, &low, &high, BATCH)? {
            let (index, _) = split_value(&value)?;
            let run = decode(&value)?;
            let too_old = run.finished_at.unwrap_or(run.fired_at) < oldest_allowed;
            if gone.len() >= surplus && !too_old {
                break;
            }
            gone.push(Ended { index, run });
        }
        Ok(gone)
    }

    /// The changes that remove runs.
    fn deletions(&self, gone: &[Ended]) -> Result<Vec<Op>, HistoryError> {
        let rows = &self.rows;
        let mut by_index: BTreeMap<u64, Vec<RunId>> = BTreeMap::new();
        let mut ops = Vec::new();
        for Ended { index, run } in gone {
            ops.push(Op::Delete { tree: rows.runs, key: keys::run(run.id) });
            ops.push(Op::Delete { tree: rows.decisions, key: keys::decision(run.fired_at, run.id) });
            by_index.entry(*index).or_default().push(run.id);
        }
        for (index, ids) in by_index {
            let mut known = self.ids_at(index)?;
            let before = known.len();
            for id in &ids {
                known.remove(id);
            }
            ops.extend(self.reindex(index, before, &known));
        }
        Ok(ops)
    }

    /// Takes what is gone off all counts. Of each job that has no runs left one of the gone runs.
    fn after_removal(&self, gone: &[Ended]) -> Result<Vec<Arc<Run>>, HistoryError> {
        let mut by_job: BTreeMap<JobId, (u32, &Arc<Run>)> = BTreeMap::new();
        for Ended { run, .. } in gone {
            by_job.entry(run.id.job).or_insert((0, run)).0 += 1;
        }
        {
            let mut memory = self.memory();
            memory.census.go_on(gone.iter().map(|ended| (ended.index, &ended.run.namespace)));
            for (job, (removed, _)) in &by_job {
                if let Some(count) = memory.counts.get_mut(job) {
                    *count = count.saturating_sub(*removed);
                }
            }
        }
        let mut emptied = Vec::new();
        for (job, (_, run)) in by_job {
            if !self.has_runs(job)? {
                emptied.push(Arc::clone(run));
            }
        }
        Ok(emptied)
    }

    fn has_runs(&self, job: JobId) -> Result<bool, HistoryError> {
        if self.memory().queued.range(RunId::range_of(job)).next().is_some() {
            return Ok(true);
        }
        let (low, high) = bounds(job);
        Ok(!self.rows.oldest(self.rows.runs, &low, &high, 1)?.is_empty())
    }
}
