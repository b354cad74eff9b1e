//! How jobs, runs and breakers are named in a line: by what people call them, as far as that is known, and by what
//! they are.

use serde::Serialize;

use super::Scene;
use super::text::At;
use crate::pb::v1 as pb;
use crate::pb::word;
use crate::state::run::{JobId, Run, RunId};
use crate::state::{BreakerKey, JobRef};
use crate::view;

/// A job.
#[derive(Serialize)]
pub(super) struct JobNamed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a str>,
    incarnation: u64,
}

impl<'a> JobNamed<'a> {
    pub(super) fn of(id: JobId, scene: &Scene<'a>) -> Self {
        let spec = scene.job(id).map(|job| &job.spec);
        Self {
            namespace: spec.map(|spec| spec.namespace.as_str()),
            job: spec.map(|spec| spec.name.as_str()),
            incarnation: id.0,
        }
    }
}

impl<'a> From<&'a JobRef> for JobNamed<'a> {
    fn from(job: &'a JobRef) -> Self {
        Self { namespace: Some(&job.namespace), job: Some(&job.name), incarnation: job.id.0 }
    }
}

/// A run.
#[derive(Serialize)]
pub(super) struct RunNamed<'a> {
    run_id: String,
    #[serde(flatten)]
    job: JobNamed<'a>,
    scheduled_at: At,
}

impl<'a> RunNamed<'a> {
    pub(super) fn of(id: RunId, scene: &Scene<'a>) -> Self {
        // The job may be gone while its last run ends.
        let job = match scene.run(id) {
            Some(run) => {
                JobNamed { namespace: Some(&run.namespace), job: Some(&run.job), incarnation: id.job.0 }
            }
            None => JobNamed::of(id.job, scene),
        };
        Self { run_id: id.to_string(), job, scheduled_at: At(id.at) }
    }
}

/// A run and how it stands; without the latter when its record is older than the entry.
#[derive(Serialize)]
pub(super) struct RunSeen<'a> {
    #[serde(flatten)]
    run: RunNamed<'a>,
    #[serde(flatten)]
    stand: Option<Stand<'a>>,
}

#[derive(Serialize)]
struct Stand<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_from: Option<At>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_until: Option<At>,
    due_at: At,
    cause: &'static str,
    stands_for: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<At>,
}

impl<'a> RunSeen<'a> {
    pub(super) fn of(id: RunId, scene: &Scene<'a>) -> Self {
        Self { run: RunNamed::of(id, scene), stand: scene.run(id).map(stand) }
    }
}

fn stand(run: &Run) -> Stand<'_> {
    use crate::state::run::Phase;
    let retry_at = match run.phase {
        Phase::Backoff { retry_at } => Some(At(retry_at)),
        Phase::Queued | Phase::Held | Phase::Waiting | Phase::Running | Phase::Spread | Phase::Ended => None,
    };
    Stand {
        scheduled_from: run.scheduled_from.map(At),
        scheduled_until: run.scheduled_until.map(At),
        due_at: At(run.due_at),
        cause: cause(run.cause),
        stands_for: run.stands_for,
        state: word_of::<pb::RunState>(view::run::state(run.state).into()),
        reason: view::run::reason(run).map(crate::state::run::Reason::as_str),
        detail: &run.detail,
        retry_at,
    }
}

pub(super) fn cause(cause: crate::state::run::Cause) -> &'static str {
    word_of::<pb::Cause>(view::run::cause(cause).into())
}

/// The word of an enum's value, which every value that is made here has.
pub(super) fn word_of<E: word::Words>(number: i32) -> &'static str {
    word::of::<E>(number).unwrap_or_default()
}

/// A breaker.
#[derive(Clone, Serialize)]
pub(super) struct BreakerNamed {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<u64>,
}

impl BreakerNamed {
    pub(super) fn of(key: &BreakerKey, scene: &Scene<'_>) -> Self {
        let name = view::breaker::name(scene.after, key);
        let (namespace, breaker) = name
            .or_else(|| view::breaker::name(scene.before, key))
            .map_or((None, None), |(of, name)| (Some(of), Some(name)));
        let incarnation = match key {
            BreakerKey::Job(id) => Some(id.0),
            BreakerKey::Shared(..) => None,
        };
        Self { namespace, breaker, incarnation }
    }
}
