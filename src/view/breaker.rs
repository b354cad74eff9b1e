//! Breakers as the API's messages, by the names that people use for them.
//!
//! A shared breaker has its own name; a job's own breaker is called `job:NAME`, which no shared one
//! can be called, for a name has no colon. A job's own breaker that has nothing to say is not in the
//! state; asked for, it is shown closed.

use super::{instant, spec};
use crate::pb::v1 as pb;
use crate::state::breaker::{Breaker, Status, StatusKind, Transition};
use crate::state::{BreakerKey, Job, State};

/// What the names of jobs' own breakers begin with.
const OWN: &str = "job:";

/// Why there is no breaker of a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBreaker {
    /// Nothing is called so.
    #[error("no such breaker")]
    Unknown,
    /// The job has none of its own.
    #[error("the job has no breaker of its own")]
    Shared {
        /// It uses this one.
        name: String,
    },
}

/// Namespace and name of a breaker, if the job that it belongs to is known.
#[must_use]
pub fn name(state: &State, key: &BreakerKey) -> Option<(String, String)> {
    match key {
        BreakerKey::Shared(namespace, name) => Some((namespace.to_string(), name.to_string())),
        BreakerKey::Job(id) => {
            let job = state.job(*id)?;
            Some((job.spec.namespace.clone(), format!("{OWN}{}", job.spec.name)))
        }
    }
}

/// The breaker of a name.
///
/// # Errors
/// [`NoBreaker`] when there is none.
pub fn find(state: &State, namespace: &str, name: &str) -> Result<BreakerKey, NoBreaker> {
    if let Some(job) = name.strip_prefix(OWN) {
        let job = state.job_named(namespace, job).ok_or(NoBreaker::Unknown)?;
        return match job.breaker() {
            BreakerKey::Shared(_, name) => Err(NoBreaker::Shared { name: name.to_string() }),
            key @ BreakerKey::Job(_) => Ok(key),
        };
    }
    let key = BreakerKey::Shared(namespace.into(), name.into());
    if state.breaker(&key).is_some() { Ok(key) } else { Err(NoBreaker::Unknown) }
}

/// The message of a breaker; `None` when nothing stands behind the key.
#[must_use]
pub fn to_pb(state: &State, key: &BreakerKey) -> Option<pb::Breaker> {
    let (namespace, name) = name(state, key)?;
    let jobs = match key {
        BreakerKey::Job(_) => 1,
        BreakerKey::Shared(..) => u32::try_from(state.sharers(key).count()).unwrap_or(u32::MAX),
    };
    let quiet;
    let breaker = match (state.breaker(key), key) {
        (Some(breaker), _) => breaker.as_ref(),
        (None, BreakerKey::Job(id)) => {
            quiet = Breaker::new(state.job(*id)?.spec.breaker.clone());
            &quiet
        }
        (None, BreakerKey::Shared(..)) => return None,
    };
    Some(pb::Breaker { namespace, name, jobs, applied_index: state.applied_index(), ..message(breaker) })
}

/// The breaker of a job.
#[must_use]
pub fn of_job(state: &State, job: &Job) -> Option<pb::Breaker> {
    to_pb(state, &job.breaker())
}

fn message(breaker: &Breaker) -> pb::Breaker {
    let last = breaker.transitions.last();
    let (window_attempts, window_failures) = breaker.window_counts();
    let mut message = pb::Breaker {
        state: kind(breaker.kind()).into(),
        reason: last.map(|last| last.why.as_str()).unwrap_or_default().to_owned(),
        actor: last.map(|last| last.actor.clone()).unwrap_or_default(),
        changed_at: last.map(|last| instant(last.at)),
        changed_index: last.map_or(0, |last| last.index),
        reopened: breaker.reopened,
        consecutive_failures: breaker.consecutive_failures,
        window_attempts,
        window_failures,
        transitions: breaker.transitions.iter().map(transition).collect(),
        policy: Some(spec::breaker_policy(&breaker.policy)),
        ..pb::Breaker::default()
    };
    match breaker.status {
        Status::Closed => {}
        Status::Open { until, .. } => message.open_until = Some(instant(until)),
        Status::HalfOpen { running, passed, .. } => {
            message.probes_running = running;
            message.probes_passed = passed;
        }
    }
    message
}

pub(super) const fn kind(kind: StatusKind) -> pb::BreakerState {
    match kind {
        StatusKind::Closed => pb::BreakerState::Closed,
        StatusKind::Open => pb::BreakerState::Open,
        StatusKind::HalfOpen => pb::BreakerState::HalfOpen,
    }
}

fn transition(transition: &Transition) -> pb::BreakerTransition {
    let why = transition.why.as_str();
    let reason = match transition.reason.as_str() {
        "" => why.to_owned(),
        reason => format!("{why}: {reason}"),
    };
    pb::BreakerTransition {
        at: Some(instant(transition.at)),
        to: kind(transition.to).into(),
        reason,
        actor: transition.actor.clone(),
        index: transition.index,
    }
}

/// A page of the breakers that have something to say and of the shared ones, by namespace and name:
/// at most `limit` of those after the given one, and whether there are more.
#[must_use]
pub fn page(
    state: &State,
    namespace: Option<&str>,
    after: Option<&(String, String)>,
    limit: usize,
) -> (Vec<pb::Breaker>, bool) {
    let mut named: Vec<((String, String), &BreakerKey)> = state
        .breakers()
        .filter_map(|(key, _)| Some((name(state, key)?, key)))
        .filter(|((of, _), _)| namespace.is_none_or(|namespace| of == namespace))
        .filter(|(name, _)| after.is_none_or(|after| name > after))
        .collect();
    named.sort_unstable();
    let more = named.len() > limit;
    (named.into_iter().take(limit).filter_map(|(_, key)| to_pb(state, key)).collect(), more)
}
