//! A job as the API's message.

use std::collections::BTreeMap;

use super::{breaker, diff, instant, run, spec};
use crate::history::{HistoryError, RunLog};
use crate::pb::v1 as pb;
use crate::state::spec::JobSpec;
use crate::state::{Job, Origin, State};

/// Live runs that a job's message names.
pub const LIVE_RUNS: usize = 100;
/// Jobs that a page looks at; a filter that fits little ends it early.
pub const LOOKED_AT: usize = 20_000;

/// The message of a job.
///
/// # Errors
/// [`HistoryError`] when its last run cannot be read.
pub fn to_pb(state: &State, log: &RunLog, job: &Job) -> Result<pb::Job, HistoryError> {
    let last_run = match job.last {
        Some(last) => log.get(last.id)?.map(|last| run::to_pb(&last)),
        None => None,
    };
    let job_state = if job.pause.is_some() {
        pb::JobState::Paused
    } else if job.fault.is_some() {
        pb::JobState::Faulty
    } else if job.is_exhausted() {
        pb::JobState::Exhausted
    } else {
        pb::JobState::Active
    };
    Ok(pb::Job {
        spec: Some(spec::to_pb(&job.spec)),
        incarnation: job.id.0,
        version: job.version,
        created_at: Some(instant(job.created_at)),
        updated_at: Some(instant(job.updated_at)),
        state: job_state.into(),
        next_at: job.next.map(|next| instant(next.scheduled_at)),
        next_due_at: job.next.map(|next| instant(next.due_at)),
        pause: job.pause.as_ref().map(|pause| pb::Pause {
            actor: pause.request.actor.clone(),
            reason: pause.request.reason.clone(),
            paused_at: Some(instant(pause.paused_at)),
            until: pause.until.map(instant),
        }),
        live_runs: state.runs_of(job.id).take(LIVE_RUNS).map(|run| run.id.to_string()).collect(),
        breaker: breaker::of_job(state, job),
        last_run,
        fault: job.fault.as_ref().map(|fault| fault.why.clone()).unwrap_or_default(),
        faulty_since: job.fault.as_ref().map(|fault| instant(fault.since)),
        applied_index: state.applied_index(),
        actor: job.origin.actor.clone(),
        reason: job.origin.reason.clone(),
    })
}

/// The definitions of a job that are kept, the newest first.
#[must_use]
pub fn versions(job: &Job) -> Vec<pb::JobVersion> {
    let kept: Vec<(&Origin, &JobSpec)> = job
        .previous
        .iter()
        .map(|(origin, spec)| (origin, spec.as_ref()))
        .chain([(&job.origin, job.spec.as_ref())])
        .collect();
    let mut before: Option<&JobSpec> = None;
    let mut versions = Vec::with_capacity(kept.len());
    for (origin, of) in kept {
        versions.push(pb::JobVersion {
            version: origin.version,
            applied_at: Some(instant(origin.at)),
            actor: origin.actor.clone(),
            reason: origin.reason.clone(),
            spec: Some(spec::to_pb(of)),
            changes: before.map_or_else(Vec::new, |before| diff::changes(before, of)),
        });
        before = Some(of);
    }
    versions.reverse();
    versions
}

/// Which jobs a list wants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this namespace.
    pub namespace: Option<String>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
}

/// Part of a list of jobs.
#[derive(Debug, Default)]
pub struct Page {
    /// The jobs, by namespace and name.
    pub jobs: Vec<pb::Job>,
    /// The last job that was looked at, when there are more behind it.
    pub next: Option<(String, String)>,
}

/// At most `limit` jobs after the given one.
///
/// # Errors
/// [`HistoryError`] when a last run cannot be read.
pub fn page(
    (state, log): (&State, &RunLog),
    filter: &Filter,
    after: Option<&(String, String)>,
    limit: usize,
) -> Result<Page, HistoryError> {
    let namespace = filter.namespace.as_deref();
    // a namespace begins after the empty name in it
    let start = match (after, namespace) {
        (Some((of, name)), _) => Some((of.as_str(), name.as_str())),
        (None, Some(namespace)) => Some((namespace, "")),
        (None, None) => None,
    };
    let mut page = Page::default();
    let mut last = None;
    for (looked_at, job) in state.jobs_after(start).enumerate() {
        if namespace.is_some_and(|namespace| job.spec.namespace != namespace) {
            break;
        }
        if page.jobs.len() >= limit || looked_at >= LOOKED_AT {
            page.next = last;
            break;
        }
        let fits = filter.labels.iter().all(|(key, value)| job.spec.labels.get(key) == Some(value));
        if fits {
            page.jobs.push(to_pb(state, log, job)?);
        }
        last = Some((job.spec.namespace.clone(), job.spec.name.clone()));
    }
    Ok(page)
}
