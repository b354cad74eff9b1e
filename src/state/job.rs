//! A job in the state: its definition and what the schedule is at.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::command::{BreakerKey, Due, JobRef, Request};
use super::pack::{later, unless};
use super::run::{JobId, Reason, Run, RunId, RunState};
use super::spec::JobSpec;
use super::time::Timestamp;

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its incarnation.
    pub id: JobId,
    /// Its definition.
    pub spec: Arc<JobSpec>,
    /// 1 when created, one more with each change, pause and resumption.
    pub version: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed: was defined, paused, resumed or deleted.
    pub updated_at: Timestamp,
    /// The armed occurrence.
    pub next: Option<Due>,
    /// Its pause, while it is paused.
    pub pause: Option<Pause>,
    /// It is deleted and stays only until its last live run has ended.
    pub deleted: bool,
    /// The newest record of it.
    pub last: Option<LastRun>,
    /// The newest nominal instant that is decided; none at or before it is ever armed again.
    #[serde(default = "undecided", serialize_with = "later_undecided")]
    pub decided_until: Timestamp,
    /// Why nothing is armed, when a leader could not evaluate the schedule; a change of the job ends it.
    #[serde(default, serialize_with = "later")]
    pub fault: Option<Fault>,
    /// Where the definition came from.
    #[serde(default, serialize_with = "later")]
    pub origin: Origin,
    /// The definitions before it, oldest first; with it at most [`super::limits::VERSIONS`].
    #[serde(default, serialize_with = "later")]
    pub previous: Vec<(Origin, Arc<JobSpec>)>,
}

/// A schedule that a leader could not evaluate: its zone is gone, or a newer release wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Since when.
    pub since: Timestamp,
    /// What is wrong; at most [`super::limits::ERROR_BYTES`].
    pub why: String,
}

/// Nothing is decided yet.
pub(super) const fn undecided() -> Timestamp {
    Timestamp::MIN
}

fn later_undecided<S: Serializer>(until: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    unless(*until == undecided(), until, serializer)
}

/// Who paused a job, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who, and why.
    pub request: Request,
    /// Since when.
    pub paused_at: Timestamp,
    /// The occurrence that was armed then: where catch-up goes on with `on_resume: catch_up`.
    pub armed: Option<Due>,
    /// When it ends by itself.
    #[serde(default, serialize_with = "later")]
    pub until: Option<Timestamp>,
}

/// Where a definition came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The version of the job that it came with.
    pub version: u64,
    /// When it was applied.
    pub at: Timestamp,
    /// Who applied it.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What a job remembers of its newest record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// Which run.
    pub id: RunId,
    /// How it ended.
    pub state: RunState,
    /// Why.
    pub reason: Option<Reason>,
    /// When.
    pub finished_at: Timestamp,
}

impl LastRun {
    /// What is remembered of a run that has ended.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        Self {
            id: run.id,
            state: run.state,
            reason: run.reason,
            finished_at: run.finished_at.unwrap_or(run.fired_at),
        }
    }
}

impl Job {
    /// How a client's command names it.
    #[must_use]
    pub fn reference(&self) -> JobRef {
        let spec = &self.spec;
        JobRef { id: self.id, namespace: spec.namespace.as_str().into(), name: spec.name.as_str().into() }
    }

    /// The breaker that guards its target.
    #[must_use]
    pub fn breaker(&self) -> BreakerKey {
        match &self.spec.breaker.name {
            Some(name) => BreakerKey::Shared(self.spec.namespace.as_str().into(), name.as_str().into()),
            None => BreakerKey::Job(self.id),
        }
    }

    /// The armed occurrence, or the one that was armed when the job was paused.
    #[must_use]
    pub fn armed(&self) -> Option<Due> {
        self.next.or_else(|| self.pause.as_ref().and_then(|pause| pause.armed))
    }

    /// Whether its schedule has no further occurrence.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        let is_enabled = self.pause.is_none() && self.fault.is_none();
        is_enabled && self.next.is_none() && !self.spec.schedules.is_empty() && !self.goes_on_after_a_run()
    }

    /// When the last run ended, from which an occurrence may follow; or when the job was changed since, for an
    /// edit never fires it.
    #[must_use]
    pub fn rests_since(&self) -> Timestamp {
        self.last.map_or(self.updated_at, |last| last.finished_at.max(self.updated_at))
    }

    /// Whether an occurrence follows from the end of the last run: that is arithmetic, and needs no zone.
    #[must_use]
    pub fn goes_on_after_a_run(&self) -> bool {
        self.spec.schedules.iter().any(|schedule| {
            let next = schedule.after_completion().map(|period| self.rests_since().plus(period));
            let next = next.map(|next| schedule.start_at.map_or(next, |start_at| next.max(start_at)));
            next.is_some_and(|next| schedule.end_at.is_none_or(|end_at| next < end_at))
        })
    }
}
