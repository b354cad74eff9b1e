//! What lets a run through and what makes it wait: breakers, overlap, cancellation, and its end.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::apply::Applying;
use super::breaker::{StatusKind, Transition};
use super::command::BreakerKey;
use super::job::{Job, LastRun};
use super::limits;
use super::run::{CancelRequest, Cause, JobId, Phase, Reason, Run, RunId, RunState};
use super::spec::{CatchUpRuns, Keep, OnOpen, OverlapPolicy};

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
        if let Some(most) = self.state.is_full(&run.queue) {
            let detail = format!("{most} runs wait in queue `{}` already, and no more may", run.queue);
            return self.end(run, RunState::Skipped, Some(Reason::Limit), detail);
        }
        match self.breaker_kind(&run.breaker) {
            StatusKind::Open => self.enter_open(job, run),
            StatusKind::Closed | StatusKind::HalfOpen => self.enter_overlap(job, run),
        }
    }

    fn enter_open(&mut self, job: &Arc<Job>, run: Run) {
        match job.spec.breaker.on_open {
            OnOpen::Skip => {
                let detail = self.breaker_detail(&run.breaker);
                self.end(run, RunState::Skipped, Some(Reason::BreakerOpen), detail);
            }
            OnOpen::Hold => self.hold(run),
        }
    }

    /// Keeps the run behind its open breaker if it is the newest of its job there; the others go.
    fn hold(&mut self, mut run: Run) {
        if run.parent.is_some() {
            // It stands for its worker, and no other takes its place.
            run.phase = Phase::Held;
            run.state = RunState::Pending;
            return self.state.put_run(run);
        }
        let others: Vec<Arc<Run>> = self
            .state
            .runs_of(run.id.job)
            .filter(|other| other.id != run.id && other.phase == Phase::Held && other.is_untouched())
            .filter(|other| other.breaker == run.breaker && other.parent.is_none())
            .cloned()
            .collect();
        let newest = others.iter().map(|other| other.id).max().map_or(run.id, |other| other.max(run.id));
        let detail = format!("{}; run {newest} took its place", self.breaker_detail(&run.breaker));
        for other in others.into_iter().filter(|other| other.id != newest) {
            self.end(other.as_ref().clone(), RunState::Skipped, Some(Reason::BreakerOpen), detail.clone());
        }
        if run.id != newest {
            return self.end(run, RunState::Skipped, Some(Reason::BreakerOpen), detail);
        }
        run.phase = Phase::Held;
        run.state = RunState::Pending;
        self.state.put_run(run);
    }

    /// Decides by the overlap policy whether the run's turn has come. No queued run is let through
    /// before that is settled, for an end in the middle of it would make room that is spoken for.
    fn enter_overlap(&mut self, job: &Arc<Job>, run: Run) {
        if run.parent.is_some() {
            return self.admit(run);
        }
        let outer = std::mem::replace(&mut self.admitting, true);
        self.settle_overlap(job, run);
        self.admitting = outer;
        self.admit_queued(job.id);
    }

    fn settle_overlap(&mut self, job: &Arc<Job>, mut run: Run) {
        let overlap = &job.spec.overlap;
        let others: Vec<Arc<Run>> =
            self.state.runs_of(job.id).filter(|other| other.id != run.id).cloned().collect();
        let is_queued = |other: &&Arc<Run>| other.phase == Phase::Queued && other.backfill.is_none();
        let queued: Vec<&Arc<Run>> = others.iter().filter(is_queued).collect();
        let active: Vec<&Arc<Run>> = others.iter().filter(|other| self.state.takes_place(other)).collect();
        let parallel = overlap.parallel();
        if active.len() < parallel && queued.is_empty() {
            return self.admit(run);
        }
        // What is due does not suffer from a backfill: it has the next place that one of its runs leaves.
        let regular = active.iter().filter(|other| other.backfill.is_none()).count();
        if regular < parallel && queued.is_empty() {
            return self.enqueue(run);
        }
        match overlap.policy {
            // `all` promises each, and at once there is no room for more than one: they take turns. As many as
            // `catch_up.max` come at a time.
            OverlapPolicy::Skip | OverlapPolicy::Allow
                if run.cause == Cause::CatchUp
                    && job.spec.catch_up.runs == CatchUpRuns::All
                    && queued.len() < limits::LIVE_RUNS_PER_JOB =>
            {
                self.enqueue(run);
            }
            OverlapPolicy::Skip | OverlapPolicy::Allow => {
                let detail =
                    active.last().map_or_else(String::new, |other| format!("run {} is live", other.id));
                self.end(run, RunState::Skipped, Some(Reason::Overlap), detail);
            }
            OverlapPolicy::Queue => {
                let limit =
                    usize::try_from(overlap.limit).unwrap_or(usize::MAX).min(limits::LIVE_RUNS_PER_JOB);
                let detail = format!("{} runs already wait", queued.len());
                match (overlap.keep, queued.first()) {
                    (_, _) if queued.len() < limit => {}
                    (Keep::Newest, Some(oldest)) if limit > 0 => {
                        let oldest = oldest.as_ref().clone();
                        self.end(oldest, RunState::Skipped, Some(Reason::Overlap), detail);
                    }
                    (Keep::Newest | Keep::Oldest, _) => {
                        return self.end(run, RunState::Skipped, Some(Reason::Overlap), detail);
                    }
                }
                self.enqueue(run);
            }
            OverlapPolicy::Replace => {
                let detail = format!("run {} took its place", run.id);
                let surplus = (active.len() + 1).saturating_sub(parallel);
                run.phase = Phase::Queued;
                self.state.put_run(run);
                for other in queued.into_iter().chain(active.into_iter().take(surplus)) {
                    self.stop(other.id, Reason::Superseded, &detail);
                }
            }
        }
    }

    pub(super) fn enqueue(&mut self, mut run: Run) {
        run.phase = Phase::Queued;
        run.state = RunState::Pending;
        self.state.put_run(run);
    }

    /// Lets the run wait for a worker, or behind its breaker.
    pub(super) fn admit(&mut self, mut run: Run) {
        match self.breaker_kind(&run.breaker) {
            StatusKind::Closed => run.phase = Phase::Waiting,
            // Of what comes of it, and not of itself, a probe is chosen.
            StatusKind::HalfOpen if self.state.spreads(&run) => run.phase = Phase::Waiting,
            StatusKind::HalfOpen => run.phase = Phase::Held,
            StatusKind::Open if run.is_untouched() => {
                let Some(job) = self.state.jobs.get(&run.id.job).cloned() else { return };
                return self.enter_open(&job, run);
            }
            StatusKind::Open => run.phase = Phase::Held,
        }
        run.state = RunState::Pending;
        self.state.put_run(run);
    }

    /// Lets the oldest queued runs of a job through, as far as its parallelism allows.
    pub(super) fn admit_queued(&mut self, job: JobId) {
        let Some(parallel) = self.state.jobs.get(&job).map(|job| job.spec.overlap.parallel()) else {
            return;
        };
        if self.admitting {
            return;
        }
        self.admitting = true;
        self.admit_while_room(job, parallel);
        self.admitting = false;
    }

    fn admit_while_room(&mut self, job: JobId, parallel: usize) {
        loop {
            let mut active = 0;
            let (mut oldest, mut backfilled) = (None, None);
            for run in self.state.runs_of(job) {
                if run.phase == Phase::Queued {
                    let first = if run.backfill.is_some() { &mut backfilled } else { &mut oldest };
                    first.get_or_insert_with(|| run.clone());
                } else if self.state.takes_place(run) {
                    active += 1;
                }
            }
            match oldest.or(backfilled) {
                Some(run) if active < parallel => self.admit(run.as_ref().clone()),
                Some(_) | None => return,
            }
        }
    }

    /// The breaker has opened: nothing that waits for a worker may start.
    pub(super) fn hold_waiting(&mut self, key: &BreakerKey) {
        let affected: Vec<RunId> = match key {
            BreakerKey::Job(job) => self.live_of(*job),
            BreakerKey::Shared(..) => self.state.waiting().chain(self.state.held_by(key)).collect(),
        };
        let mut jobs = BTreeSet::new();
        let outer = std::mem::replace(&mut self.admitting, true);
        for id in affected {
            let Some(run) = self.state.runs.get(&id).cloned() else { continue };
            if run.breaker == *key && matches!(run.phase, Phase::Waiting | Phase::Held) {
                jobs.insert(id.job);
                self.admit(run.as_ref().clone());
            }
        }
        self.admitting = outer;
        // What is held and has not started takes no place of its job any more.
        for job in jobs {
            self.admit_queued(job);
        }
    }

    /// The breaker is not open any more. What it kept without a place of its job must find one, by
    /// the overlap policy; the rest goes on as the breaker lets it.
    pub(super) fn release_kept(&mut self, key: &BreakerKey) {
        let held: Vec<RunId> = self.state.held_by(key).collect();
        // First those that have their place, so that the others see them.
        for touched in [true, false] {
            for id in &held {
                let Some(run) = self.state.runs.get(id).filter(|run| run.phase == Phase::Held).cloned()
                else {
                    continue;
                };
                let Some(job) = self.state.jobs.get(&id.job).cloned() else { continue };
                if run.is_untouched() == touched {
                    continue;
                }
                if touched {
                    self.admit(run.as_ref().clone());
                } else {
                    self.enter_overlap(&job, run.as_ref().clone());
                }
            }
        }
    }

    /// All probes passed: what waited behind the half-open breaker has its place already.
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
                if run.handed().is_some() {
                    let ends_by = self.moment.at.plus(limits::TIMEOUT_GRACE);
                    run.overdue_at = run.overdue_at.map(|overdue_at| overdue_at.min(ends_by));
                }
                self.state.put_run(run);
            }
        } else if run.phase == Phase::Spread {
            self.stop_spread(run, reason, detail);
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
        if run.parent.is_none() {
            self.state.put_last(job, LastRun::of(&run));
        }
        let run = Arc::new(run);
        // What one worker made of a run is not the run.
        if run.place.is_none() && self.state.followers(&run.namespace, &run.job).next().is_some() {
            self.ended.push_back(run.clone());
        }
        self.finished.push(run.clone());
        self.part_ended(&run);
        self.admit_queued(job);
        self.drop_if_done(job);
    }
}
