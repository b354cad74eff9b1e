//! The reference's rules: overlap, breakers, the ends of attempts, and what clients do.

use chronarch::state::run::{AttemptOutcome, Reason, RunState};
use chronarch::state::spec::{JobSpec, Keep, OnLost, OnOpen, OnResume, OverlapPolicy};

use super::reference::{Breaker, Job, Live, Place, Stage, after, millis};

/// Attempts that may be lost and run again.
const RERUNS: u32 = 10;
/// The wait before an attempt after a loss, where `retry` wants it.
const AFTER_LOSS_MS: i64 = 1_000;
/// Live runs of a job.
const LIVE: usize = 1_000;

impl Job {
    fn is_open(&self) -> bool {
        matches!(self.breaker, Breaker::Open { .. })
    }

    fn put(&mut self, run: Live) {
        self.live.retain(|other| other.place != run.place);
        self.live.push(run);
        self.live.sort_by_key(|run| run.place);
    }

    /// The run becomes a record; what waited for it may go on.
    pub(super) fn end(&mut self, run: &Live, state: RunState, reason: Option<Reason>) {
        self.live.retain(|other| other.place != run.place);
        self.records.push((run.place, state, reason, run.stands_for));
        self.let_queued_through();
    }

    fn parallel(&self) -> usize {
        match self.spec.overlap.policy {
            OverlapPolicy::Allow => LIVE,
            OverlapPolicy::Skip | OverlapPolicy::Queue | OverlapPolicy::Replace => {
                (self.spec.overlap.max_parallel as usize).clamp(1, LIVE)
            }
        }
    }

    /// Queued runs take no place, and neither do those that an open breaker keeps from their first attempt.
    fn takes_place(&self, run: &Live) -> bool {
        match run.stage {
            Stage::Queued => false,
            Stage::Held => !(self.is_open() && run.attempts == 0),
            Stage::Waiting | Stage::Backoff(_) | Stage::Running => true,
        }
    }

    fn let_queued_through(&mut self) {
        if self.is_settling {
            return;
        }
        self.is_settling = true;
        loop {
            let active = self.live.iter().filter(|run| self.takes_place(run)).count();
            let oldest = self.live.iter().find(|run| run.stage == Stage::Queued).cloned();
            match oldest {
                Some(run) if active < self.parallel() => self.admit(run),
                Some(_) | None => break,
            }
        }
        self.is_settling = false;
    }

    pub(super) fn enter_overlap(&mut self, run: Live) {
        let outer = std::mem::replace(&mut self.is_settling, true);
        self.decide_overlap(run);
        self.is_settling = outer;
        self.let_queued_through();
    }

    fn decide_overlap(&mut self, mut run: Live) {
        let others: Vec<Live> = self.live.iter().filter(|other| other.place != run.place).cloned().collect();
        let queued: Vec<&Live> = others.iter().filter(|other| other.stage == Stage::Queued).collect();
        let active: Vec<&Live> = others.iter().filter(|other| self.takes_place(other)).collect();
        let overlap = self.spec.overlap.clone();
        if active.len() < self.parallel() && queued.is_empty() {
            return self.admit(run);
        }
        let wants_all = self.spec.catch_up.runs == chronarch::state::spec::CatchUpRuns::All;
        let overlapped = Some(Reason::Overlap);
        run.stage = Stage::Queued;
        match overlap.policy {
            OverlapPolicy::Skip | OverlapPolicy::Allow if run.is_catch_up && wants_all => self.put(run),
            OverlapPolicy::Skip | OverlapPolicy::Allow => self.end(&run, RunState::Skipped, overlapped),
            OverlapPolicy::Queue if queued.len() < overlap.limit as usize => self.put(run),
            OverlapPolicy::Queue => match (overlap.keep, queued.first()) {
                (Keep::Newest, Some(oldest)) if overlap.limit > 0 => {
                    self.end(oldest, RunState::Skipped, overlapped);
                    self.put(run);
                }
                (Keep::Newest | Keep::Oldest, _) => self.end(&run, RunState::Skipped, overlapped),
            },
            OverlapPolicy::Replace => {
                let surplus = (active.len() + 1).saturating_sub(self.parallel());
                self.put(run);
                for other in queued.into_iter().chain(active.into_iter().take(surplus)) {
                    self.stop(other.place, Reason::Superseded);
                }
            }
        }
    }

    pub(super) fn admit(&mut self, mut run: Live) {
        run.stage = match self.breaker {
            Breaker::Closed { .. } => Stage::Waiting,
            Breaker::HalfOpen { .. } => Stage::Held,
            Breaker::Open { .. } if run.attempts == 0 => return self.meet_open(run),
            Breaker::Open { .. } => Stage::Held,
        };
        self.put(run);
    }

    /// Of those that an open breaker keeps, and that have not begun, the newest alone is kept.
    pub(super) fn meet_open(&mut self, mut run: Live) {
        let skipped = (RunState::Skipped, Some(Reason::BreakerOpen));
        if self.spec.breaker.on_open == OnOpen::Skip {
            return self.end(&run, skipped.0, skipped.1);
        }
        let is_kept =
            |other: &&Live| other.place != run.place && other.stage == Stage::Held && other.attempts == 0;
        let others: Vec<Live> = self.live.iter().filter(is_kept).cloned().collect();
        let newest = others.iter().map(|other| other.place).max().map_or(run.place, |it| it.max(run.place));
        others.iter().filter(|it| it.place != newest).for_each(|it| self.end(it, skipped.0, skipped.1));
        if run.place == newest {
            run.stage = Stage::Held;
            self.put(run);
        } else {
            self.end(&run, skipped.0, skipped.1);
        }
    }

    /// The breaker is open no more. Those that have a place go first; the others must find one.
    pub(super) fn release_kept(&mut self) {
        let held: Vec<Place> = self.in_stage(Stage::Held);
        for has_begun in [true, false] {
            for place in &held {
                let Some(run) = self.live.iter().find(|it| it.place == *place && it.stage == Stage::Held)
                else {
                    continue;
                };
                match (has_begun, run.attempts > 0) {
                    (true, true) => self.admit(run.clone()),
                    (false, false) => self.enter_overlap(run.clone()),
                    (true, false) | (false, true) => {}
                }
            }
        }
    }

    fn in_stage(&self, stage: Stage) -> Vec<Place> {
        self.live.iter().filter(|run| run.stage == stage).map(|run| run.place).collect()
    }

    fn open(&mut self) {
        let doubled = millis(self.spec.breaker.open_for) << self.reopened.min(20);
        let most = millis(self.spec.breaker.max_open_for.max(self.spec.breaker.open_for));
        self.breaker = Breaker::Open { until: self.now + doubled.min(most) };
        let waiting: Vec<Place> =
            self.in_stage(Stage::Waiting).into_iter().chain(self.in_stage(Stage::Held)).collect();
        let mut places = waiting;
        places.sort_unstable();
        let outer = std::mem::replace(&mut self.is_settling, true);
        for place in &places {
            if let Some(run) = self.live.iter().find(|run| run.place == *place).cloned() {
                self.admit(run);
            }
        }
        self.is_settling = outer;
        if !places.is_empty() {
            self.let_queued_through();
        }
    }

    fn close(&mut self) {
        let was_open = self.is_open();
        self.breaker = Breaker::Closed { failures: 0 };
        self.reopened = 0;
        if was_open {
            return self.release_kept();
        }
        for place in self.in_stage(Stage::Held) {
            if let Some(run) = self.live.iter().find(|run| run.place == place).cloned() {
                self.admit(run);
            }
        }
    }

    fn count(&mut self, outcome: AttemptOutcome, probe: Option<u32>) {
        let has_failed = match outcome {
            AttemptOutcome::Succeeded => false,
            AttemptOutcome::Failed | AttemptOutcome::TimedOut => true,
            AttemptOutcome::Cancelled | AttemptOutcome::Lost | AttemptOutcome::Running => return,
        };
        let most = self.spec.breaker.consecutive_failures;
        match self.breaker {
            Breaker::Closed { failures } => {
                let failures = if has_failed { failures + 1 } else { 0 };
                self.breaker = Breaker::Closed { failures };
                if has_failed && most > 0 && failures >= most {
                    self.open();
                }
            }
            Breaker::Open { .. } => {}
            Breaker::HalfOpen { .. } if probe != Some(self.opening) => {}
            Breaker::HalfOpen { .. } if has_failed => {
                self.reopened += 1;
                self.open();
            }
            Breaker::HalfOpen { passed } => {
                self.breaker = Breaker::HalfOpen { passed: passed + 1 };
                self.close_if_passed();
            }
        }
    }

    fn close_if_passed(&mut self) {
        if matches!(self.breaker, Breaker::HalfOpen { passed } if passed >= self.spec.breaker.probes.max(1)) {
            self.close();
        }
    }

    /// An attempt ends; `wait` is that before another one.
    pub(crate) fn attempt_ends(&mut self, place: Place, outcome: AttemptOutcome, wait: i64) {
        let Some(mut run) = self.live.iter().find(|run| run.place == place).cloned() else { return };
        let probe = run.probe.take();
        run.stage = Stage::Backoff(self.now);
        self.put(run.clone());
        self.count(outcome, probe);
        let has_vanished = matches!(outcome, AttemptOutcome::Lost | AttemptOutcome::Cancelled);
        if outcome == AttemptOutcome::Succeeded {
            self.end(&run, RunState::Succeeded, None);
        } else if run.cancel.is_some() {
            self.end(&run, RunState::Cancelled, run.cancel);
        } else if has_vanished && self.spec.on_lost == OnLost::Fail {
            self.end(&run, RunState::Failed, Some(Reason::Lost));
        } else if has_vanished && run.reruns < RERUNS {
            run.reruns += 1;
            self.admit(run);
        } else if run.attempts - run.reruns < self.spec.retry.max_attempts {
            run.stage = Stage::Backoff(self.now + wait);
            self.put(run);
        } else {
            let reason = match outcome {
                AttemptOutcome::TimedOut => Reason::Timeout,
                AttemptOutcome::Lost | AttemptOutcome::Cancelled => Reason::Lost,
                AttemptOutcome::Failed | AttemptOutcome::Succeeded | AttemptOutcome::Running => Reason::Error,
            };
            self.end(&run, RunState::Failed, Some(reason));
        }
    }

    /// The worker has been silent for a whole lease.
    pub(super) fn worker_is_lost(&mut self) {
        for place in self.in_stage(Stage::Running) {
            self.attempt_ends(place, AttemptOutcome::Lost, AFTER_LOSS_MS);
        }
    }

    /// Whoever has not begun ends at once; a running attempt is asked to stop.
    pub(crate) fn stop(&mut self, place: Place, reason: Reason) {
        let Some(run) = self.live.iter_mut().find(|run| run.place == place) else { return };
        if run.stage == Stage::Running {
            run.cancel.get_or_insert(reason);
        } else {
            let run = run.clone();
            self.end(&run, RunState::Cancelled, Some(reason));
        }
    }

    pub(crate) fn edit(&mut self, spec: JobSpec) {
        if self.spec == spec {
            return;
        }
        let keeps = self.spec.schedules == spec.schedules;
        let next = after(&spec, self.now);
        match &mut self.paused {
            Some(armed) => *armed = if keeps { *armed } else { next },
            None => self.armed = if keeps { self.armed } else { next },
        }
        self.spec = spec;
        self.close_if_passed();
        self.let_queued_through();
    }

    pub(crate) fn delete(&mut self, cancel_runs: bool) {
        self.is_deleted = true;
        self.armed = None;
        self.paused = None;
        if cancel_runs {
            let places: Vec<Place> = self.live.iter().map(|run| run.place).collect();
            places.into_iter().for_each(|place| self.stop(place, Reason::Cancelled));
        }
    }

    pub(crate) fn pause(&mut self) {
        if self.paused.is_none() {
            self.paused = Some(self.armed.take());
        }
    }

    pub(crate) fn resume(&mut self) {
        if let Some(armed) = self.paused.take() {
            self.armed = match self.spec.on_resume {
                OnResume::CatchUp => armed,
                OnResume::Skip => after(&self.spec, self.now),
            };
        }
    }

    pub(crate) fn trigger(&mut self) {
        self.by_hand += 1;
        let start_by = self.spec.start_within.map(|span| self.now + millis(span));
        self.enter_new((self.now, self.by_hand), false, start_by, 1);
    }

    pub(crate) fn trip(&mut self) {
        self.open();
    }

    pub(crate) fn reset(&mut self) {
        self.close();
    }
}
