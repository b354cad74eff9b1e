//! Lists of runs: the live ones of the state and the ended ones of the run log, as one.
//!
//! Runs of one job come by the instant they stand for, runs of several by the time of their decision.
//! Both are keys that a run keeps when it ends, so a run that ends between two pages is neither shown
//! twice nor left out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::run;
use crate::history::{Decided, HistoryError, RunLog};
use crate::pb::v1 as pb;
use crate::state::State;
use crate::state::run::{Cause, JobId, Run, RunId, RunState};
use crate::state::time::Timestamp;

/// Runs that a page looks at; a filter that fits little ends it early.
pub const LOOKED_AT: usize = 20_000;
/// Runs read from the run log at a time.
const CHUNK: usize = 250;

/// Which runs a list wants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this namespace.
    pub namespace: Option<String>,
    /// Of the job of this name; the namespace must be named too.
    pub job: Option<String>,
    /// In one of these states; empty: in any.
    pub states: Vec<RunState>,
    /// Scheduled at or after.
    pub from: Option<Timestamp>,
    /// Scheduled before.
    pub to: Option<Timestamp>,
    /// With this reason, in the word of the API.
    pub reason: Option<String>,
    /// With an attempt with this worker.
    pub worker: Option<String>,
    /// Took so long at least, from the start of the first attempt to the end, or to `now`.
    pub min_duration: Option<Duration>,
    /// What counts as the end of a live run.
    pub now: Timestamp,
    /// Of one of these jobs.
    pub jobs: Option<BTreeSet<JobId>>,
    /// Of this chain.
    pub chain: Option<RunId>,
    /// Of this backfill.
    pub backfill: Option<u64>,
    /// Parts of this run.
    pub parent: Option<RunId>,
    /// Made by one of these; empty: by any.
    pub causes: Vec<Cause>,
}

impl Filter {
    fn fits(&self, run: &Run) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| &*run.namespace == namespace)
            && self.job.as_deref().is_none_or(|job| &*run.job == job)
            && (self.states.is_empty() || self.states.contains(&run.state))
            && self.from.is_none_or(|from| run.id.at >= from)
            && self.to.is_none_or(|to| run.id.at < to)
            && self
                .reason
                .as_deref()
                .is_none_or(|reason| run::reason(run).is_some_and(|of| of.as_str() == reason))
            && self
                .worker
                .as_deref()
                .is_none_or(|worker| run.attempts.iter().any(|attempt| &*attempt.worker == worker))
            && self.min_duration.is_none_or(|least| self.took(run).is_some_and(|took| took >= least))
            && self.jobs.as_ref().is_none_or(|jobs| jobs.contains(&run.id.job))
            && self.chain.is_none_or(|chain| run.chain.unwrap_or(run.id) == chain)
            && self.backfill.is_none_or(|backfill| run.backfill == Some(backfill))
            && self.parent.is_none_or(|parent| run.parent == Some(parent))
            && (self.causes.is_empty() || self.causes.contains(&run.cause))
    }

    /// How long a run took, once an attempt was started.
    fn took(&self, run: &Run) -> Option<Duration> {
        let begun = run.attempts.first()?.started_at;
        Some(run.finished_at.unwrap_or(self.now).since(begun))
    }
}

/// Part of a list of runs.
#[derive(Debug, Default)]
pub struct Page {
    /// The runs, newest first.
    pub runs: Vec<pb::Run>,
    /// The last run that was looked at, when there may be more behind it.
    pub next: Option<Decided>,
}

/// At most `limit` runs behind the given one.
///
/// # Errors
/// [`HistoryError`].
pub fn page(
    (state, log): (&State, &RunLog),
    filter: &Filter,
    after: Option<Decided>,
    limit: usize,
) -> Result<Page, HistoryError> {
    let mut page = Collecting { page: Page::default(), state, filter, limit, looked_at: 0 };
    if let Some(parent) = filter.parent {
        // They are of its instant.
        of_jobs((state, log), &[parent.job], after.map(|(_, id)| id), &mut page)?;
        return Ok(page.page);
    }
    match (&filter.namespace, &filter.job) {
        (Some(namespace), Some(job)) => {
            let mut jobs = log.jobs_named(namespace, job)?;
            if let Some(job) = state.job_named(namespace, job) {
                jobs.push(job.id);
            }
            jobs.sort_unstable_by(|a, b| b.cmp(a));
            jobs.dedup();
            of_jobs((state, log), &jobs, after.map(|(_, id)| id), &mut page)?;
        }
        (None, _) | (Some(_), None) => of_all((state, log), after, &mut page)?,
    }
    Ok(page.page)
}

struct Collecting<'a> {
    page: Page,
    state: &'a State,
    filter: &'a Filter,
    limit: usize,
    looked_at: usize,
}

impl Collecting<'_> {
    /// Takes a run if it fits; `false` once the page ends with it.
    fn take(&mut self, found: &Run) -> bool {
        self.looked_at += 1;
        if self.filter.fits(found) {
            self.page.runs.push(run::in_state(self.state, found));
        }
        if self.page.runs.len() >= self.limit || self.looked_at >= LOOKED_AT {
            self.page.next = Some((found.fired_at, found.id));
            return false;
        }
        true
    }
}

/// Jobs in descending order, and within each the instants in descending order.
fn of_jobs(
    (state, log): (&State, &RunLog),
    jobs: &[JobId],
    after: Option<RunId>,
    page: &mut Collecting<'_>,
) -> Result<(), HistoryError> {
    for job in jobs.iter().copied().filter(|job| after.is_none_or(|after| *job <= after.job)) {
        let mut cursor = after.filter(|after| after.job == job);
        if let Some(at) = page.filter.to {
            let to = RunId { job, at, seq: 0 };
            cursor = Some(cursor.map_or(to, |cursor| cursor.min(to)));
        }
        let live: Vec<Arc<Run>> = state
            .runs_of(job)
            .filter(|run| cursor.is_none_or(|cursor| run.id < cursor) && page.filter.fits(run))
            .cloned()
            .collect();
        let from = page.filter.from;
        let fetch = |cursor: Option<RunId>| log.newest_of(job, cursor, from, CHUNK);
        if !merge(live, cursor, fetch, |run| run.id, &mut |run| page.take(run))? {
            break;
        }
    }
    Ok(())
}

fn of_all(
    (state, log): (&State, &RunLog),
    after: Option<Decided>,
    page: &mut Collecting<'_>,
) -> Result<(), HistoryError> {
    let decided = |run: &Run| (run.fired_at, run.id);
    let filter = page.filter;
    let mut live: Vec<Arc<Run>> = state
        .runs()
        .filter(|run| after.is_none_or(|after| decided(run) < after) && filter.fits(run))
        .cloned()
        .collect();
    if live.len() > page.limit {
        // all of them fit, so a page has no room for an older one
        live.select_nth_unstable_by(page.limit, |a, b| decided(b).cmp(&decided(a)));
        live.truncate(page.limit);
    }
    merge(live, after, |cursor| log.newest(cursor, CHUNK), decided, &mut |run| page.take(run))?;
    Ok(())
}

/// Hands the live and the ended runs to `take` in descending order of `key`, until it says no more.
///
/// A run that ended after the state was taken is in both; it is shown as it was.
fn merge<K: Ord + Copy>(
    mut live: Vec<Arc<Run>>,
    mut cursor: Option<K>,
    fetch: impl Fn(Option<K>) -> Result<Vec<Arc<Run>>, HistoryError>,
    key: impl Fn(&Run) -> K,
    take: &mut dyn FnMut(&Run) -> bool,
) -> Result<bool, HistoryError> {
    // Ascending, so that the newest is at the end.
    live.sort_by_key(|run| key(run));
    loop {
        let ended = fetch(cursor)?;
        for run in &ended {
            while let Some(other) = live.pop_if(|other| key(other) > key(run)) {
                if !take(&other) {
                    return Ok(false);
                }
            }
            let same = live.pop_if(|other| key(other) == key(run));
            if !take(same.as_ref().unwrap_or(run)) {
                return Ok(false);
            }
        }
        match ended.last() {
            Some(last) => cursor = Some(key(last)),
            None => break,
        }
    }
    while let Some(other) = live.pop() {
        if !take(&other) {
            return Ok(false);
        }
    }
    Ok(true)
}
