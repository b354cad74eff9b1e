//! Reading: by identity, by job, by the time of the decision.

use std::ops::Bound;
use std::sync::Arc;

use super::append::split_value;
use super::rows::{END, Rows, above};
use super::{HistoryError, RunLog, keys};
use crate::state::run::{JobId, Run, RunId};
use crate::state::time::Timestamp;

/// Jobs that are told of one name: that many times it was deleted and created again.
pub const INCARNATIONS: usize = 1_000;

/// Where a run stands in the order of decisions.
pub type Decided = (Timestamp, RunId);

pub(super) fn decode(value: &[u8]) -> Result<Arc<Run>, HistoryError> {
    let (_, run) = split_value(value)?;
    Ok(Arc::new(Run::decode(run)?))
}

pub(super) fn stored(rows: &Rows, id: RunId) -> Result<Option<Arc<Run>>, HistoryError> {
    rows.get(rows.runs, &keys::run(id))?.map(|value| decode(&value)).transpose()
}

impl RunLog {
    /// The run of this identity.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn get(&self, id: RunId) -> Result<Option<Arc<Run>>, HistoryError> {
        if let Some((_, run)) = self.shared.memory().queued.get(&id) {
            return Ok(Some(Arc::clone(run)));
        }
        stored(&self.shared.rows, id)
    }

    /// At most `limit` runs of a job, the newest instants first, below `before` and not before `from`.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn newest_of(
        &self,
        job: JobId,
        before: Option<RunId>,
        from: Option<Timestamp>,
        limit: usize,
    ) -> Result<Vec<Arc<Run>>, HistoryError> {
        let lowest = RunId { job, at: from.unwrap_or(Timestamp::MIN), seq: 0 };
        let upper = match before {
            Some(before) => Bound::Excluded(before),
            None => Bound::Included(*RunId::range_of(job).end()),
        };
        if before.is_some_and(|before| before <= lowest) {
            return Ok(Vec::new());
        }
        let queued: Vec<Arc<Run>> = {
            let memory = self.shared.memory();
            let range = memory.queued.range((Bound::Included(lowest), upper));
            range.rev().take(limit).map(|(_, (_, run))| Arc::clone(run)).collect()
        };
        let high = match upper {
            Bound::Excluded(before) => keys::run(before),
            Bound::Included(_) | Bound::Unbounded => above(&keys::run(*RunId::range_of(job).end())),
        };
        let rows = &self.shared.rows;
        let found = rows.newest(rows.runs, &keys::run(lowest), &high, limit)?;
        let written = found.iter().map(|(_, value)| decode(value)).collect::<Result<Vec<_>, _>>()?;
        Ok(merged(queued, written, limit, |run| run.id))
    }

    /// The oldest run of a job whose instant is later than `after`.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn first_after(&self, job: JobId, after: Timestamp) -> Result<Option<Arc<Run>>, HistoryError> {
        let low = RunId { job, at: after, seq: u64::MAX };
        let end = *RunId::range_of(job).end();
        let queued = {
            let memory = self.shared.memory();
            let mut range = memory.queued.range((Bound::Excluded(low), Bound::Included(end)));
            range.next().map(|(_, (_, run))| Arc::clone(run))
        };
        let rows = &self.shared.rows;
        let found = rows.oldest(rows.runs, &above(&keys::run(low)), &above(&keys::run(end)), 1)?;
        let written = found.first().map(|(_, value)| decode(value)).transpose()?;
        Ok([queued, written].into_iter().flatten().min_by_key(|run| run.id))
    }

    /// At most `limit` runs of all jobs, the newest decisions first, below `before`.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn newest(&self, before: Option<Decided>, limit: usize) -> Result<Vec<Arc<Run>>, HistoryError> {
        let decided = |run: &Arc<Run>| (run.fired_at, run.id);
        let mut queued: Vec<Arc<Run>> = {
            let memory = self.shared.memory();
            memory.queued.values().map(|(_, run)| Arc::clone(run)).collect()
        };
        queued.retain(|run| before.is_none_or(|before| decided(run) < before));
        let high = before.map_or_else(|| END.to_vec(), |(at, id)| keys::decision(at, id));
        let mut written = Vec::new();
        let rows = &self.shared.rows;
        for (key, _) in rows.newest(rows.decisions, &[], &high, limit)? {
            let (_, id) = keys::decided(&key).ok_or(HistoryError::Form)?;
            // pruned since the scan
            if let Some(run) = stored(rows, id)? {
                written.push(run);
            }
        }
        Ok(merged(queued, written, limit, decided))
    }

    /// The jobs that had runs under a name, the newest first, at most [`INCARNATIONS`].
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn jobs_named(&self, namespace: &str, name: &str) -> Result<Vec<JobId>, HistoryError> {
        let low = keys::name(namespace, name);
        let high = [low.as_slice(), &[0xff; 9]].concat();
        let rows = &self.shared.rows;
        let found = rows.newest(rows.names, &low, &high, INCARNATIONS)?;
        let mut jobs = found
            .iter()
            .map(|(key, _)| keys::named_job(key).ok_or(HistoryError::Form))
            .collect::<Result<Vec<_>, _>>()?;
        let memory = self.shared.memory();
        let queued = memory.queued.values().map(|(_, run)| run);
        jobs.extend(
            queued.filter(|run| &*run.namespace == namespace && &*run.job == name).map(|run| run.id.job),
        );
        jobs.sort_unstable_by(|a, b| b.cmp(a));
        jobs.dedup();
        jobs.truncate(INCARNATIONS);
        Ok(jobs)
    }
}

/// Both together in descending order of `key`, each run once.
fn merged<K: Ord>(
    mut queued: Vec<Arc<Run>>,
    written: Vec<Arc<Run>>,
    limit: usize,
    key: impl Fn(&Arc<Run>) -> K,
) -> Vec<Arc<Run>> {
    queued.extend(written);
    queued.sort_by_key(|run| std::cmp::Reverse(key(run)));
    queued.dedup_by_key(|run| run.id);
    queued.truncate(limit);
    queued
}
