//! What lets a run through and what makes it wait: breakers, overlap, cancellation, and its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::apply::Applying;
use super::breaker::{StatusKind, Transition};
use super::command::BreakerKey;
use super::job::{Job, LastRun};
use super::limits;
use super::run::{CancelRequest, JobId, Phase, Reason, Run, RunId, RunState};
use super::spec::{Keep, OnOpen, OverlapPolicy};

impl Applying<'_> {
    /// What a breaker is; one that is absent is closed.
    pub(super) fn breaker_kind(&self, key: &BreakerKey) -> StatusKind {
        self.state.breakers.get(key).map_or(StatusKind::Closed, |breaker| breaker.kind())
    }

    /// The live runs of a job, oldest first.
    pub(super) fn live_of(&self, job: JobId) -> Vec<RunId> {
        self.state.runs_of(job).map(|run| run.id).collect()
    }

    /// Decides about a run that has just come into being; it is not in the state yet.
    pub(super) fn enter(&mut self, job: &Arc<Job>, run: Run) {
        if self.state.runs.len() >= limits::LIVE_RUNS {
            let detail = format!("{} runs are live in the cluster", limits::LIVE_RUNS);
            return self.end(run, RunState::Skipped, Some(Reason::Limit), detail);
        }
        match self.breaker_kind(&run.breaker) {
            StatusKind::Open => self.enter_open(job, run),
            StatusKind::Closed | StatusKind::HalfOpen => self.enter_overlap(job, run),
        }
    }

    fn enter_open(&mut self, job: &Arc<Job>, mut run: Run) {
        match job.spec.breaker.on_open {
            OnOpen::Skip => {
                let detail = self.breaker_detail(&run.breaker);
                self.end(run, RunState::Skipped, Some(Reason::BreakerOpen), detail);
            }
            OnOpen::Hold => {
                let older: Vec<Arc<Run>> = self
                    .state
                    .runs_of(job.id)
                    .filter(|other| other.phase == Phase::Held && other.is_untouched())
                    .cloned()
                    .collect();
                for other in older {
                    let detail =
                        format!("{}; run {} took its place", self.breaker_detail(&run.breaker), run.id);
                    self.end(other.as_ref().clone(), RunState::Skipped, Some(Reason::BreakerOpen), detail);
                }
                run.phase = Phase::Held;
                self.state.put_run(run);
            }
        }
    }

    fn enter_overlap(&mut self, job: &Arc<Job>, mut run: Run) {
        let overlap = &job.spec.overlap;
        let live: Vec<Arc<Run>> = self.state.runs_of(job.id).cloned().collect();
        let (queued, active): (Vec<_>, Vec<_>) = live.into_iter().partition(|run| run.phase == Phase::Queued);
        let parallel = match overlap.policy {
            OverlapPolicy::Allow => limits::LIVE_RUNS_PER_JOB,
            OverlapPolicy::Skip | OverlapPolicy::Queue | OverlapPolicy::Replace => {
                usize::try_from(overlap.max_parallel).unwrap_or(usize::MAX).min(limits::LIVE_RUNS_PER_JOB)
            }
        };
        if active.len() < parallel && queued.is_empty() {
            return self.admit(run);
        }
        match overlap.policy {
            OverlapPolicy::Skip | OverlapPolicy::Allow => {
                let detail =
                    active.last().map_or_else(String::new, |other| format!("run {} is live", other.id));
                self.end(run, RunState::Skipped, Some(Reason::Overlap), detail);
            }
            OverlapPolicy::Queue => {
                let limit =
                    usize::try_from(overlap.limit).unwrap_or(usize::MAX).min(limits::LIVE_RUNS_PER_JOB);
                if queued.len() < limit {
                    run.phase = Phase::Queued;
                    return self.state.put_run(run);
                }
                let detail = format!("{} runs already wait", queued.len());
                match (overlap.keep, queued.first()) {
                    (Keep::Newest, Some(oldest)) => {
                        run.phase = Phase::Queued;
                        self.end(oldest.as_ref().clone(), RunState::Skipped, Some(Reason::Overlap), detail);
                        self.state.put_run(run);
                    }
                    (Keep::Newest | Keep::Oldest, _) => {
                        self.end(run, RunState::Skipped, Some(Reason::Overlap), detail);
                    }
                }
            }
            OverlapPolicy::Replace => {
                let detail = format!("run {} took its place", run.id);
                for other in queued {
                    self.end(
                        other.as_ref().clone(),
                        RunState::Skipped,
                        Some(Reason::Superseded),
                        detail.clone(),
                    );
                }
                let surplus = (active.len() + 1).saturating_sub(parallel);
                run.phase = Phase::Queued;
                self.state.put_run(run);
                for other in active.iter().take(surplus) {
                    self.stop(other.id, Reason::Superseded, &detail);
                }
                self.admit_queued(job.id);
            }
        }
    }

    /// Lets the run wait for a worker, or behind its breaker.
    pub(super) fn admit(&mut self, mut run: Run) {
        match self.breaker_kind(&run.breaker) {
            StatusKind::Closed => run.phase = Phase::Waiting,
            StatusKind::HalfOpen => run.phase = Phase::Held,
            StatusKind::Open => {
                let skip = self
                    .state
                    .jobs
                    .get(&run.id.job)
                    .is_some_and(|job| job.spec.breaker.on_open == OnOpen::Skip);
                if skip && run.is_untouched() {
                    let detail = self.breaker_detail(&run.breaker);
                    return self.end(run, RunState::Skipped, Some(Reason::BreakerOpen), detail);
                }
                run.phase = Phase::Held;
            }
        }
        run.state = RunState::Pending;
        self.state.put_run(run);
    }

    /// Lets the oldest queued runs of a job through, as far as its parallelism allows.
    fn admit_queued(&mut self, job: JobId) {
        let Some(parallel) = self.state.jobs.get(&job).map(|job| job.spec.overlap.max_parallel) else {
            return;
        };
        if self.admitting {
            return;
        }
        self.admitting = true;
        self.admit_while_room(job, parallel);
        self.admitting = false;
    }

    fn admit_while_room(&mut self, job: JobId, parallel: u32) {
        loop {
            let mut active = 0u32;
            let mut oldest = None;
            for run in self.state.runs_of(job) {
                if run.phase == Phase::Queued {
                    oldest = oldest.or_else(|| Some(run.clone()));
                } else {
                    active += 1;
                }
            }
            match oldest {
                Some(run) if active < parallel => self.admit(run.as_ref().clone()),
                Some(_) | None => return,
            }
        }
    }

    /// The breaker has opened: nothing that waits for a worker may start.
    pub(super) fn hold_waiting(&mut self, key: &BreakerKey) {
        let waiting: Vec<RunId> = self
            .state
            .waiting
            .iter()
            .map(|(_, _, run)| *run)
            .filter(|run| self.state.runs.get(run).is_some_and(|run| run.breaker == *key))
            .collect();
        let held: Vec<RunId> = self.state.held_by(key).collect();
        let mut newest: BTreeMap<JobId, RunId> = BTreeMap::new();
        for id in waiting.into_iter().chain(held) {
            let Some(run) = self.state.runs.get(&id).cloned() else { continue };
            if !run.is_untouched() {
                self.admit(run.as_ref().clone());
                continue;
            }
            let replaced = match newest.get(&id.job) {
                Some(other) if *other > id => Some(id),
                Some(_) | None => newest.insert(id.job, id),
            };
            if let Some(run) = replaced.and_then(|id| self.state.runs.get(&id).cloned()) {
                let detail = self.breaker_detail(key);
                self.end(run.as_ref().clone(), RunState::Skipped, Some(Reason::BreakerOpen), detail);
            }
        }
        for id in newest.into_values() {
            if let Some(run) = self.state.runs.get(&id).cloned() {
                self.admit(run.as_ref().clone());
            }
        }
    }

    /// The breaker has closed: what it held may start.
    pub(super) fn release_held(&mut self, key: &BreakerKey) {
        let held: Vec<RunId> = self.state.held_by(key).collect();
        for id in held {
            if let Some(run) = self.state.runs.get(&id).cloned() {
                self.admit(run.as_ref().clone());
            }
        }
    }

    /// `breaker NAME open since INSTANT (WHY)`, for records.
    fn breaker_detail(&self, key: &BreakerKey) -> String {
        let opened = self.state.breakers.get(key).and_then(|breaker| {
            breaker.transitions.iter().rev().find(|transition| transition.to == StatusKind::Open)
        });
        match opened {
            Some(Transition { at, why, .. }) => format!("the breaker is open since {at} ({})", why.as_str()),
            None => "the breaker is open".to_owned(),
        }
    }

    /// Ends a run that has not started, or asks for the end of one that runs.
    pub(super) fn stop(&mut self, id: RunId, reason: Reason, detail: &str) {
        let Some(run) = self.state.runs.get(&id).cloned() else { return };
        let mut run = run.as_ref().clone();
        if run.phase == Phase::Running {
            if run.cancel.is_none() {
                run.cancel = Some(CancelRequest { at: self.moment.at, reason, detail: detail.to_owned() });
                self.state.put_run(run);
            }
        } else {
            self.end(run, RunState::Cancelled, Some(reason), detail.to_owned());
        }
    }

    /// Ends a run for good: it leaves the state for the run log, and what waited for it may go on.
    pub(super) fn end(&mut self, mut run: Run, state: RunState, reason: Option<Reason>, detail: String) {
        run.state = state;
        run.reason = reason;
        if !detail.is_empty() {
            run.detail = detail;
        }
        run.phase = Phase::Ended;
        run.finished_at = Some(self.moment.at);
        run.overdue_at = None;
        let job = run.id.job;
        self.state.remove_run(run.id);
        if let Some(old) = self.state.jobs.get(&job) {
            let mut changed = old.as_ref().clone();
            changed.last = Some(LastRun::of(&run));
            self.state.jobs.insert(job, Arc::new(changed));
        }
        self.finished.push(Arc::new(run));
        self.admit_queued(job);
        self.drop_if_done(job);
    }
}
