//! Attempts: started by one entry, ended by another, under the fence that the first gave them.

use std::sync::Arc;
use std::time::Duration;

use super::apply::Applying;
use super::breaker::{Breaker, StatusKind};
use super::command::Outcome;
use super::limits;
use super::rejection::Rejection;
use super::run::{
    Attempt, AttemptOutcome, HandedOver, Phase, Reason, Report, Run, RunId, RunState, TaskHeard, TaskLeft,
    TaskNews,
};
use super::spec::{OnLost, Retry, RetryOn, Target};
use super::spread::place_of;
use super::time::Timestamp;

/// The feature level from which the end of a run minds attempts in doubt: nodes that do not would decide otherwise.
const KEEPS_DOUBT: u32 = 1;

impl Applying<'_> {
    /// Starts an attempt, if the run waits for one and its breaker lets it through.
    pub(super) fn start(
        &mut self,
        id: RunId,
        number: u32,
        worker: &Arc<str>,
        lease_until: Timestamp,
    ) -> Result<Outcome, Rejection> {
        let old = self.state.runs.get(&id).cloned().ok_or(Rejection::NoRun)?;
        let expected = old.attempts.last().map_or(1, |last| last.number.saturating_add(1));
        let expired = old.must_start_by().is_some_and(|start_by| start_by < self.moment.at);
        let elsewhere = old.place.as_deref().is_some_and(|place| place != place_of(worker));
        if number != expected || expired || elsewhere || self.state.spreads(&old) {
            return Err(Rejection::Stale);
        }
        let spec = self.state.jobs.get(&id.job).ok_or(Rejection::NoJob)?.spec.clone();
        let (timeout, group) = (spec.timeout, spec.group());
        let at = self.moment.at;
        let has_group_room = group.as_ref().is_none_or(|group| self.state.has_group_room(group, 0, at));
        if !has_group_room || !self.state.has_queue_room(&old.queue, 0, at) {
            return Err(Rejection::Limit);
        }
        let probe = match old.phase {
            Phase::Waiting => None,
            Phase::Held => Some(self.admit_probe(&old)?),
            Phase::Queued | Phase::Backoff { .. } | Phase::Running | Phase::Spread | Phase::Ended => {
                return Err(Rejection::Stale);
            }
        };
        if let Some(group) = &group {
            self.state.take_token(group, at);
        }
        self.state.take_queue_token(&old.queue, at);
        self.state.fences += 1;
        let fence = self.state.fences;
        let mut run = old.as_ref().clone();
        run.attempts.push(Attempt {
            number,
            fence,
            worker: worker.clone(),
            started_at: self.moment.at,
            finished_at: None,
            outcome: AttemptOutcome::Running,
            report: None,
            probe,
            handed: None,
        });
        run.phase = Phase::Running;
        run.state = RunState::Running;
        run.group = group;
        run.overdue_at = Some(self.moment.at.plus(timeout).plus(limits::TIMEOUT_GRACE));
        self.state.put_run(run);
        let lease = self.state.leases.get(worker).copied().unwrap_or(lease_until).max(lease_until);
        self.state.leases.insert(worker.clone(), lease);
        Ok(Outcome::Started { run: id, fence })
    }

    fn admit_probe(&mut self, run: &Run) -> Result<u64, Rejection> {
        let breaker = self.state.breakers.get(&run.breaker).ok_or(Rejection::Stale)?;
        let mut breaker = breaker.as_ref().clone();
        let probe = breaker.admit_probe().ok_or(Rejection::BreakerOpen)?;
        self.state.put_breaker(run.breaker.clone(), breaker);
        Ok(probe)
    }

    /// Records the end of an attempt that its worker, or the leader for a worker that hangs, reports.
    pub(super) fn complete(
        &mut self,
        (id, fence): (RunId, u64),
        outcome: AttemptOutcome,
        report: &Arc<Report>,
        retry_after: Duration,
    ) -> Result<Outcome, Rejection> {
        let run = self.state.runs.get(&id).cloned().ok_or(Rejection::NoRun)?;
        if run.running().is_none_or(|attempt| attempt.fence != fence) {
            return Err(Rejection::Fence);
        }
        if outcome == AttemptOutcome::Running {
            return Err(Rejection::Malformed);
        }
        self.end_attempt(&run, outcome, Some(report.clone()), retry_after);
        Ok(Outcome::Completed { ended: !self.state.runs.contains_key(&id) })
    }

    /// The attempt's worker has left its task with others: the worker is free, the attempt waits for their word.
    pub(super) fn hand_over(
        &mut self,
        (id, fence): (RunId, u64),
        left: TaskLeft,
    ) -> Result<Outcome, Rejection> {
        let old = self.state.runs.get(&id).cloned().ok_or(Rejection::NoRun)?;
        let timeout = self.state.jobs.get(&id.job).ok_or(Rejection::NoJob)?.spec.timeout;
        let mut run = old.as_ref().clone();
        let Some(attempt) = run.attempts.last_mut().filter(|attempt| attempt.runs_under(fence)) else {
            return Err(Rejection::Fence);
        };
        if attempt.handed.is_some() {
            return Err(Rejection::Stale);
        }
        let at = self.moment.at;
        let TaskLeft { connection, task, expires_at, queue } = left;
        let overdue_since = None;
        attempt.handed =
            Some(HandedOver { at, connection, task, overdue_since, heard: None, expires_at, queue });
        let ends_by = attempt.started_at.plus(timeout);
        let worker = attempt.worker.clone();
        // Its worker would have ended it in time by itself. Nobody does now, so no grace is given.
        run.overdue_at = Some(if run.cancel.is_some() { at.plus(limits::TIMEOUT_GRACE) } else { ends_by });
        self.state.put_run(run);
        if self.state.load(&worker) == 0 {
            self.state.leases.remove(&worker);
        }
        Ok(Outcome::Done)
    }

    /// A task that has not ended is told of. Of two that run it, as brokers may have it, the first counts.
    pub(super) fn hear_task(
        &mut self,
        (id, fence): (RunId, u64),
        by: &Arc<str>,
        news: &TaskNews,
    ) -> Result<Outcome, Rejection> {
        let old = self.state.runs.get(&id).cloned().ok_or(Rejection::NoRun)?;
        let mut run = old.as_ref().clone();
        let Some(attempt) = run.attempts.last_mut().filter(|attempt| attempt.runs_under(fence)) else {
            return Err(Rejection::Fence);
        };
        let handed = attempt.handed.as_mut().ok_or(Rejection::Stale)?;
        let before = handed.heard.as_ref();
        let retries = before.map_or(0, |heard| heard.retries);
        let retries = match news {
            TaskNews::Retried { count, .. } if retries.checked_add(1) == Some(*count) => *count,
            TaskNews::Begun { .. } if before.is_none_or(|heard| !heard.runs()) => retries,
            TaskNews::Retried { .. } | TaskNews::Begun { .. } => return Err(Rejection::Stale),
        };
        let (by, news) = (by.clone(), news.clone());
        handed.heard = Some(TaskHeard { at: self.moment.at, by, news, retries });
        self.state.put_run(run);
        Ok(Outcome::Done)
    }

    /// The time of a task is over. Whoever watches it has [`limits::TIMEOUT_GRACE`] to end it.
    pub(super) fn stop_task(&mut self, id: RunId, fence: u64) -> Result<Outcome, Rejection> {
        let old = self.state.runs.get(&id).cloned().ok_or(Rejection::NoRun)?;
        let at = self.moment.at;
        let mut run = old.as_ref().clone();
        let Some(attempt) = run.attempts.last_mut().filter(|attempt| attempt.runs_under(fence)) else {
            return Err(Rejection::Fence);
        };
        let Some(handed) = attempt.handed.as_mut().filter(|handed| handed.overdue_since.is_none()) else {
            return Err(Rejection::Stale);
        };
        if run.overdue_at.is_none_or(|overdue_at| overdue_at > at) {
            return Err(Rejection::Early);
        }
        handed.overdue_since = Some(at);
        run.overdue_at = Some(at.plus(limits::TIMEOUT_GRACE));
        self.state.put_run(run);
        Ok(Outcome::Done)
    }

    /// A worker gave a sign of life.
    pub(super) fn renew(&mut self, worker: &Arc<str>, lease_until: Timestamp) -> Result<Outcome, Rejection> {
        let lease = self.state.leases.get(worker).copied().ok_or(Rejection::Stale)?;
        self.state.leases.insert(worker.clone(), lease.max(lease_until));
        Ok(Outcome::Done)
    }

    /// A worker's lease has ended: its attempts are lost.
    pub(super) fn lose(
        &mut self,
        worker: &Arc<str>,
        expect: Timestamp,
        retry_after: Duration,
    ) -> Result<Outcome, Rejection> {
        let lease = self.state.leases.get(worker).copied().ok_or(Rejection::Stale)?;
        if lease != expect {
            return Err(Rejection::Stale);
        }
        if lease > self.moment.at {
            return Err(Rejection::Early);
        }
        let carried: Vec<RunId> = self.state.carried_by(worker).collect();
        for id in carried {
            if let Some(run) = self.state.runs.get(&id).cloned() {
                self.end_attempt(&run, AttemptOutcome::Lost, None, retry_after);
            }
        }
        self.state.leases.remove(worker);
        Ok(Outcome::Done)
    }

    /// The wait before the next attempt is over.
    pub(super) fn retry(&mut self, id: RunId) -> Result<Outcome, Rejection> {
        let run = self.state.runs.get(&id).cloned().ok_or(Rejection::NoRun)?;
        match run.phase {
            Phase::Backoff { retry_at } if retry_at > self.moment.at => Err(Rejection::Early),
            Phase::Backoff { .. } => {
                let mut run = run.as_ref().clone();
                self.wait_for_place(&mut run);
                self.admit(run);
                Ok(Outcome::Done)
            }
            Phase::Queued | Phase::Held | Phase::Waiting | Phase::Running | Phase::Spread | Phase::Ended => {
                Err(Rejection::Stale)
            }
        }
    }

    /// The run did not start in time.
    pub(super) fn expire(&mut self, id: RunId) -> Result<Outcome, Rejection> {
        let run = self.state.runs.get(&id).cloned().ok_or(Rejection::NoRun)?;
        let start_by = run.must_start_by().ok_or(Rejection::Stale)?;
        if start_by > self.moment.at {
            return Err(Rejection::Early);
        }
        let waited_for = match run.phase {
            Phase::Queued => "for an earlier run of the job",
            Phase::Held => "behind its breaker",
            Phase::Waiting => "for a worker with room",
            Phase::Backoff { .. } | Phase::Running | Phase::Spread | Phase::Ended => {
                return Err(Rejection::Stale);
            }
        };
        let place = run.place.as_ref().map(|place| format!(" at {place}")).unwrap_or_default();
        let (what, state) = if run.is_untouched() {
            ("not started", RunState::Skipped)
        } else {
            ("not started again", RunState::Failed)
        };
        let detail = format!("{what} by {start_by}; it waited {waited_for}{place}");
        self.end(run.as_ref().clone(), state, Some(Reason::Expired), detail);
        Ok(Outcome::Done)
    }

    /// Closes the running attempt of `run`, tells its breaker, and decides what follows.
    fn end_attempt(
        &mut self,
        run: &Arc<Run>,
        outcome: AttemptOutcome,
        report: Option<Arc<Report>>,
        retry_after: Duration,
    ) {
        let mut run = run.as_ref().clone();
        let Some(attempt) = run.attempts.last_mut() else { return };
        attempt.finished_at = Some(self.moment.at);
        attempt.outcome = outcome;
        attempt.report = report.map(within_limits);
        let (worker, probe) = (attempt.worker.clone(), attempt.probe);
        run.overdue_at = None;
        forget_old_output(&mut run.attempts);
        run.group = None;
        // Not running any more, so that what follows sees the worker's and the job's true counts.
        run.phase = Phase::Backoff { retry_at: self.moment.at };
        run.state = RunState::Pending;
        self.state.put_run(run.clone());
        if self.state.load(&worker) == 0 {
            self.state.leases.remove(&worker);
        }
        self.count(&run, outcome, probe);
        self.follow(run, outcome, retry_after);
    }

    fn count(&mut self, run: &Run, outcome: AttemptOutcome, probe: Option<u64>) {
        let key = &run.breaker;
        let mut breaker = match self.state.breakers.get(key) {
            Some(breaker) => breaker.as_ref().clone(),
            None => match self.state.jobs.get(&run.id.job) {
                Some(job) if job.breaker() == *key => Breaker::new(job.spec.breaker.clone()),
                Some(_) | None => return,
            },
        };
        let before = breaker.kind();
        breaker.count(outcome, probe, self.moment);
        let after = breaker.kind();
        self.state.put_breaker(key.clone(), breaker);
        match (before, after) {
            (StatusKind::Closed | StatusKind::HalfOpen, StatusKind::Open) => self.hold_waiting(key),
            (StatusKind::HalfOpen, StatusKind::Closed) => self.release_held(key),
            (StatusKind::Closed, StatusKind::Closed | StatusKind::HalfOpen)
            | (StatusKind::HalfOpen, StatusKind::HalfOpen)
            | (StatusKind::Open, _) => {}
        }
    }

    fn follow(&mut self, run: Run, outcome: AttemptOutcome, retry_after: Duration) {
        if outcome == AttemptOutcome::Succeeded {
            return self.end(run, RunState::Succeeded, None, String::new());
        }
        if let Some(cancel) = run.cancel.clone() {
            return self.end(run, RunState::Cancelled, Some(cancel.reason), cancel.detail);
        }
        let Some(spec) = self.state.jobs.get(&run.id.job).map(|job| job.spec.clone()) else { return };
        let vanished = matches!(outcome, AttemptOutcome::Lost | AttemptOutcome::Cancelled);
        // Its worker lives, and nobody knows what the target made of it.
        let is_doubtful = self.state.level() >= KEEPS_DOUBT
            && outcome == AttemptOutcome::Lost
            && run.attempts.last().is_some_and(Attempt::is_told);
        if vanished && spec.on_lost == OnLost::Fail {
            let what = match is_doubtful {
                true => "nobody knows whether the attempt had its effect",
                false => "its worker vanished in the middle of the attempt",
            };
            let policy = match spec.target {
                Target::Amqp(_) | Target::Celery(_) => "on_ambiguous is skip",
                _ => "on_lost is fail",
            };
            let detail = format!("{what}, and {policy}");
            return self.end(run, RunState::Failed, Some(Reason::Lost), detail);
        }
        if vanished && run.reruns < limits::RERUNS {
            let mut run = run;
            run.reruns += 1;
            if is_doubtful {
                // A target that has just not answered is left alone for a while.
                run.phase = Phase::Backoff { retry_at: self.moment.at.plus(retry_after) };
                return self.state.put_run(run);
            }
            self.wait_for_place(&mut run);
            return self.admit(run);
        }
        let counted = u32::try_from(run.attempts.len()).unwrap_or(u32::MAX).saturating_sub(run.reruns);
        if counted < spec.retry.max_attempts && wants(&spec.retry, &run, outcome) {
            let mut run = run;
            run.phase = Phase::Backoff { retry_at: self.moment.at.plus(retry_after) };
            return self.state.put_run(run);
        }
        let reason = match failure_reason(&run, outcome) {
            // It did not come as far as its target, so what an earlier one did is as doubtful as it was.
            Reason::Error if self.state.level() >= KEEPS_DOUBT && was_in_doubt(&run) => Reason::Lost,
            reason => reason,
        };
        self.end(run, RunState::Failed, Some(reason), String::new());
    }
}

/// Whether the policy tries again after such an end.
fn wants(retry: &Retry, run: &Run, outcome: AttemptOutcome) -> bool {
    let report = run.attempts.last().and_then(|attempt| attempt.report.as_deref());
    retry.on.is_empty()
        || retry.on.iter().any(|class| match *class {
            RetryOn::Failed => outcome == AttemptOutcome::Failed,
            RetryOn::Timeout => outcome == AttemptOutcome::TimedOut,
            RetryOn::Lost => matches!(outcome, AttemptOutcome::Lost | AttemptOutcome::Cancelled),
            RetryOn::Exit(code) => {
                outcome == AttemptOutcome::Failed
                    && report.is_some_and(|report| report.exit_code == Some(code))
            }
            RetryOn::Grpc(status) => {
                outcome == AttemptOutcome::Failed
                    && report.is_some_and(|report| report.grpc_status == Some(status))
            }
            RetryOn::Http(from, to) => {
                outcome == AttemptOutcome::Failed
                    && report
                        .and_then(|report| report.http_status)
                        .is_some_and(|status| (from..=to).contains(&status))
            }
        })
}

fn failure_reason(run: &Run, outcome: AttemptOutcome) -> Reason {
    let report = run.attempts.last().and_then(|attempt| attempt.report.as_deref());
    match outcome {
        AttemptOutcome::TimedOut => Reason::Timeout,
        AttemptOutcome::Lost | AttemptOutcome::Cancelled => Reason::Lost,
        AttemptOutcome::Failed if report.is_some_and(|report| report.exit_code.is_some()) => Reason::Exit,
        AttemptOutcome::Failed if report.is_some_and(|report| report.http_status.is_some()) => {
            Reason::HttpStatus
        }
        AttemptOutcome::Failed
            if report.is_some_and(|report| report.grpc_status.is_some_and(|it| it > 0)) =>
        {
            Reason::GrpcStatus
        }
        AttemptOutcome::Failed | AttemptOutcome::Succeeded | AttemptOutcome::Running => Reason::Error,
    }
}

/// Whether nobody knows what an attempt before the last one did, and the last one was not left with others either.
fn was_in_doubt(run: &Run) -> bool {
    let Some((last, earlier)) = run.attempts.split_last() else { return false };
    last.handed.is_none() && earlier.iter().any(|attempt| attempt.outcome == AttemptOutcome::Lost)
}

/// A report within the limits: the start of the error, the end of the output, the whole result or none.
fn within_limits(report: Arc<Report>) -> Arc<Report> {
    if report.error.len() <= limits::ERROR_BYTES
        && report.output.len() <= limits::OUTPUT_BYTES
        && report.result.len() <= limits::RESULT_BYTES
    {
        return report;
    }
    let mut report = report.as_ref().clone();
    let mut end = report.error.len().min(limits::ERROR_BYTES);
    while !report.error.is_char_boundary(end) {
        end -= 1;
    }
    report.error.truncate(end);
    if report.output.len() > limits::OUTPUT_BYTES {
        report.output.drain(..report.output.len() - limits::OUTPUT_BYTES);
        report.output_truncated = true;
    }
    if report.result.len() > limits::RESULT_BYTES {
        report.result = String::new();
    }
    Arc::new(report)
}

/// All but the newest attempts lose their output and result, so that a record has a bound.
fn forget_old_output(attempts: &mut [Attempt]) {
    let Some(old) = attempts.len().checked_sub(limits::OUTPUTS_PER_RUN + 1) else { return };
    if let Some(report) = &mut attempts[old].report
        && !(report.output.is_empty() && report.result.is_empty())
    {
        let mut shorter = report.as_ref().clone();
        shorter.output_truncated |= !shorter.output.is_empty();
        shorter.output = Vec::new();
        shorter.result = String::new();
        *report = Arc::new(shorter);
    }
}
