//! What a run waits for: breakers and workers.

use super::{Explaining, Facts, words};
use crate::state::breaker::{Status, StatusKind, Why};
use crate::state::run::Run;
use crate::state::spec::{JobSpec, OnOpen};
use crate::state::spread::place_of;
use crate::state::{BreakerKey, Job};
use crate::view::breaker as breakers;
use crate::view::cluster::WorkerInfo;

/// Whether a worker could do it.
type Fits<'a> = &'a dyn Fn(&WorkerInfo) -> bool;

impl Explaining<'_> {
    /// What a breaker is and why, if it is not closed.
    pub(super) fn breaker(&self, key: &BreakerKey) -> Option<String> {
        let breaker = self.state.breaker(key)?;
        let name = breakers::name(self.state, key).map(|(_, name)| name).unwrap_or_default();
        let opened = breaker.transitions.iter().rev().find(|change| change.to == StatusKind::Open);
        let why = opened.map_or_else(String::new, |opened| {
            let policy = &breaker.policy;
            let why = match opened.why {
                Why::ConsecutiveFailures => {
                    format!(
                        "after {} in a row",
                        words::counted(breaker.consecutive_failures.into(), "failed attempt")
                    )
                }
                Why::FailureRate => {
                    let (attempts, failures) = breaker.window_counts();
                    let percent = f64::from(policy.failure_rate_milli) / 10.0;
                    format!("after {failures} of {attempts} attempts failed, {percent} % or more")
                }
                Why::ProbeFailed => "again, for a probe failed".to_owned(),
                Why::Tripped => {
                    format!("by hand{}{}", words::by(&opened.actor), words::because(&opened.reason))
                }
                Why::ProbesPassed | Why::CoolDownOver | Why::Reset => opened.why.as_str().to_owned(),
            };
            format!(" since {} {why}", opened.at)
        });
        match breaker.status {
            Status::Closed => None,
            Status::Open { until, .. } => Some(format!("the breaker `{name}` is open{why}, until {until}")),
            Status::HalfOpen { running, passed, .. } => {
                let probes = breaker.policy.probes;
                Some(format!(
                    "the breaker `{name}` is half open: {passed} of {probes} probes passed, {running} running"
                ))
            }
        }
    }

    /// What an open breaker does to occurrences of the job.
    pub(super) fn breaker_of(&self, job: &Job) -> Option<String> {
        let text = self.breaker(&job.breaker())?;
        Some(match job.spec.breaker.on_open {
            OnOpen::Skip => format!("{text}; while it is open, occurrences are skipped"),
            OnOpen::Hold => format!("{text}; while it is open, the newest occurrence is held"),
        })
    }

    /// Who could carry out an attempt of the job; `None` when somebody with room can.
    pub(super) fn workers_for(&self, spec: &JobSpec) -> Option<String> {
        let Some(workers) = self.workers else {
            return Some("which workers are connected is known to the leader alone".to_owned());
        };
        let queue = &spec.queue;
        if workers.is_empty() {
            return Some("no worker is connected".to_owned());
        }
        let kind = spec.target.needs();
        let steps: [(String, Fits<'_>); 4] = [
            (format!("no worker serves queue `{queue}`"), &|worker| worker.queues.contains(queue)),
            (format!("no worker of queue `{queue}` carries out {kind} targets"), &|worker| {
                worker.kinds.contains(kind.as_ref())
            }),
            (format!("no worker of queue `{queue}` has the labels {}", labels(spec)), &|worker| {
                spec.requires.iter().all(|(key, value)| worker.labels.get(key) == Some(value))
            }),
            (format!("every worker for queue `{queue}` drains and takes nothing new"), &|worker| {
                !worker.draining
            }),
        ];
        let mut able: Vec<&WorkerInfo> = workers.iter().collect();
        for (otherwise, fits) in steps {
            able.retain(|worker| fits(worker));
            if able.is_empty() {
                return Some(format!(
                    "{otherwise} ({} connected)",
                    words::counted(count(workers.len()), "worker")
                ));
            }
        }
        if able.iter().any(|worker| worker.running < worker.slots) {
            return None;
        }
        let slots: u64 = able.iter().map(|worker| u64::from(worker.slots)).sum();
        Some(format!(
            "{} could carry it out, and all of their {slots} slots are taken",
            words::counted(count(able.len()), "worker")
        ))
    }

    /// What a run waited for until it expired, as far as the record and the present tell.
    pub(super) fn waited_in_vain(&self, run: &Run, facts: &mut Facts) {
        // What it waited for is known from what its end says, and from nothing else.
        if run.detail.ends_with("behind its breaker") {
            facts.maybe(self.breaker(&run.breaker));
        } else if run.detail.ends_with("for an earlier run of the job") {
            let earlier = self.state.runs_of(run.id.job).find(|other| other.id.at < run.id.at);
            facts.maybe(earlier.map(|other| format!("run {} is live since {}", other.id, other.fired_at)));
        } else if run.detail.ends_with("for a worker with room") {
            let unknown = "which workers were connected then is not recorded";
            // A changed job may need another worker than the run did.
            let job = self.state.job(run.id.job).filter(|job| job.version == run.version);
            let Some(spec) = job.map(|job| &job.spec) else {
                facts.add(format!("it needed a worker of queue `{}`; {unknown}", run.queue));
                return;
            };
            let (queue, kind, labels) = (&spec.queue, spec.target.needs(), labels(spec));
            let with = if labels.is_empty() { String::new() } else { format!(" with the labels {labels}") };
            facts.add(format!("it needed a worker of queue `{queue}`{with} for {kind} targets; {unknown}"));
            facts.add(match self.workers_for(spec) {
                None => "a worker with room for it is connected at present".to_owned(),
                Some(why) if self.workers.is_some() => format!("at present, {why}"),
                Some(why) => why,
            });
        }
    }

    fn waits_for_place(&self, place: &str) -> String {
        let waits = format!("it waits for the worker at {place}, which alone may carry it out");
        let Some(workers) = self.workers else { return waits };
        let there: Vec<&WorkerInfo> =
            workers.iter().filter(|worker| place_of(&worker.worker) == place).collect();
        let why = if there.iter().all(|worker| worker.connected_at.is_none()) {
            "it is not connected"
        } else if there.iter().all(|worker| worker.draining) {
            "it drains and takes nothing new"
        } else if there.iter().all(|worker| worker.running >= worker.slots) {
            "all of its slots are taken"
        } else {
            "it has room"
        };
        format!("{waits}: {why}")
    }

    /// What a run that waits for a worker waits for.
    pub(super) fn waits_for_worker(&self, run: &Run) -> String {
        let spec = self.state.job(run.id.job).map(|job| &job.spec);
        if let Some(why) = spec.and_then(|spec| self.limits_of(spec)) {
            return format!("it waits for its turn: {why}");
        }
        if let Some(place) = &run.place {
            return self.waits_for_place(place);
        }
        match spec.and_then(|spec| self.workers_for(spec)) {
            Some(why) => format!("it waits for a worker of queue `{}`: {why}", run.queue),
            None => format!("it waits for a worker of queue `{}`, and one with room is connected", run.queue),
        }
    }
}

/// The labels that a worker must have.
fn labels(spec: &JobSpec) -> String {
    let labels = spec.requires.iter().map(|(key, value)| format!("{key}={value}"));
    labels.collect::<Vec<_>>().join(", ")
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
