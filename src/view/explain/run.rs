//! What one run waits for, or why it ended as it did.

use super::{Explaining, Facts, words};
use crate::pb::v1 as pb;
use crate::state::run::{
    Attempt, AttemptOutcome, Cause, HandedOver, Phase, Reason, Run, RunState, TaskHeard, TaskNews,
};
use crate::state::spec::{CatchUpRuns, OnLost};

/// What went wrong in an attempt.
pub(super) fn attempt_end(attempt: &Attempt) -> String {
    let report = attempt.report.as_deref();
    let how = match attempt.outcome {
        AttemptOutcome::Running => return format!("attempt {} runs", attempt.number),
        AttemptOutcome::Succeeded => return format!("attempt {} succeeded", attempt.number),
        AttemptOutcome::Cancelled => "was stopped".to_owned(),
        AttemptOutcome::TimedOut => "took longer than its timeout".to_owned(),
        AttemptOutcome::Lost if attempt.is_told() => {
            "was lost: nobody knows whether it had its effect".to_owned()
        }
        AttemptOutcome::Lost => format!("was lost: its worker {} vanished", attempt.worker),
        AttemptOutcome::Failed => match report.map(|report| (report.exit_code, report.http_status)) {
            Some((Some(code), _)) => format!("failed with exit code {code}"),
            Some((None, Some(status))) => format!("failed with HTTP status {status}"),
            Some((None, None)) | None => "failed".to_owned(),
        },
    };
    let error = report.map(|report| words::because(&report.error)).unwrap_or_default();
    format!("attempt {} {how}{error}", attempt.number)
}

/// Who is at a task that was left with others.
fn heard(handed: &HandedOver) -> String {
    let Some(TaskHeard { at, by, news, retries }) = &handed.heard else {
        let until = match handed.expires_at {
            None => String::new(),
            Some(at) => format!(
                "; a worker that comes to it after {at} drops it, and if none had it by then the attempt fails"
            ),
        };
        return format!(
            "no Celery worker has said that it runs it: it waits in its queue, or has just begun{until}"
        );
    };
    match (news, retries) {
        (TaskNews::Begun { .. }, 0) => format!("Celery worker {by} runs it since {at}"),
        (TaskNews::Begun { .. }, retries) => {
            format!(
                "Celery worker {by} runs it since {at}; it has put itself off before, {retries} times in all"
            )
        }
        (TaskNews::Retried { error, .. }, retries) => {
            format!(
                "it put itself off at {at}, on Celery worker {by}, {retries} times in all{}",
                words::because(error)
            )
        }
    }
}

/// Who made a manual run, and why. The record says why until the run's end has a detail of its own.
fn triggered(run: &Run) -> String {
    match (told_trigger(run), run.actor.as_str()) {
        (Some("triggered") | None, "") => "it was triggered by hand".to_owned(),
        (Some(told), _) => format!("it was {told}"),
        (None, actor) => format!("it was triggered by {actor}"),
    }
}

/// The detail of a manual run that is about its trigger.
fn told_trigger(run: &Run) -> Option<&str> {
    let begins = if run.retry_of.is_some() { "made again" } else { "triggered" };
    Some(run.detail.as_str()).filter(|told| run.cause == Cause::Manual && told.starts_with(begins))
}

/// Parts of a run that an explanation tells of, of those that have not ended.
const PARTS_TOLD: usize = 10;

/// The detail of a run that is about its end.
fn told_end(run: &Run) -> &str {
    if told_trigger(run).is_some() { "" } else { &run.detail }
}

impl Explaining<'_> {
    /// Explains a run, live or ended.
    #[must_use]
    pub fn run(&self, run: &Run) -> pb::Explanation {
        let mut facts = Facts::default();
        let summary = self.run_facts(run, &mut facts);
        facts.explanation(&summary)
    }

    /// The sentence about a run; the facts behind it go to `facts`.
    pub(super) fn run_facts(&self, run: &Run, facts: &mut Facts) -> String {
        let summary = match run.phase {
            Phase::Ended => self.ended(run, facts),
            Phase::Running => self.running(run, facts),
            Phase::Spread => self.spread(run, facts),
            Phase::Queued | Phase::Held | Phase::Waiting | Phase::Backoff { .. } => self.pending(run, facts),
        };
        facts.maybe(self.lateness(run));
        if run.cause == Cause::Manual {
            facts.add(triggered(run));
        } else if run.cause == Cause::CatchUp && run.state != RunState::Skipped {
            let others = run.stands_for.saturating_sub(1);
            let standing = match others {
                0 => String::new(),
                _ => format!(" and stands for {} before it", words::counted(others, "missed instant")),
            };
            facts.add(format!("it caught up on a missed occurrence{standing}"));
        }
        summary
    }

    fn pending(&self, run: &Run, facts: &mut Facts) -> String {
        let waits = match run.phase {
            Phase::Queued => {
                let ahead = self.state.runs_of(run.id.job).find(|other| other.phase != Phase::Queued);
                facts.maybe(ahead.map(|other| format!("run {} is live since {}", other.id, other.fired_at)));
                "it waits for earlier runs of its job to end (overlap)".to_owned()
            }
            Phase::Held => self
                .breaker(&run.breaker)
                .map_or_else(|| "it waits behind its breaker".to_owned(), |why| format!("it is held: {why}")),
            Phase::Waiting => self.waits_for_worker(run),
            Phase::Backoff { retry_at } => {
                let next = run.attempts.last().map_or(1, |last| last.number.saturating_add(1));
                format!("attempt {next} follows at {retry_at}")
            }
            Phase::Running | Phase::Spread | Phase::Ended => String::new(),
        };
        facts.maybe(run.attempts.last().map(attempt_end));
        let deadline = run.must_start_by();
        facts.maybe(deadline.map(|start_by| format!("it expires if it has not started by {start_by}")));
        format!("run {} is pending: {waits}", run.id)
    }

    fn spread(&self, run: &Run, facts: &mut Facts) -> String {
        if let Some(cancel) = &run.cancel {
            facts.add(format!("its end is asked for since {}: {}", cancel.at, cancel.detail));
        }
        let parts = self.state.runs_of(run.id.job).filter(|part| part.parent == Some(run.id));
        for part in parts.take(PARTS_TOLD) {
            let mut unsaid = Facts::default();
            facts.add(self.run_facts(part, &mut unsaid));
        }
        let spread = run.spread.as_deref().cloned().unwrap_or_default();
        if let Some((first, _)) = spread.first {
            facts.add(format!("run {first} was the first that did not succeed"));
        }
        format!(
            "run {} is running on each worker that matched: {} of {} have ended, {} of them well",
            run.id, spread.ended, spread.places, spread.succeeded
        )
    }

    fn running(&self, run: &Run, facts: &mut Facts) -> String {
        let Some(attempt) = run.running() else { return format!("run {} is running", run.id) };
        if let Some(cancel) = &run.cancel {
            facts.add(format!("its end is asked for since {}: {}", cancel.at, cancel.detail));
        }
        if attempt.number > 1 {
            facts.maybe(run.attempts.iter().rev().nth(1).map(attempt_end));
        }
        if attempt.probe.is_some() {
            facts.add("it is a probe of a half-open breaker");
        }
        if let Some(handed) = &attempt.handed {
            facts.add(format!("worker {} has left task {} at {}", attempt.worker, handed.task, handed.at));
            facts.add(heard(handed));
            let ends = run.overdue_at.map(|at| format!("the task is revoked at {at}, when its time is over"));
            facts.maybe(ends.filter(|_| run.cancel.is_none() && handed.overdue_since.is_none()));
            facts.maybe(
                handed
                    .overdue_since
                    .map(|at| format!("its time was over at {at}: the task is being revoked")),
            );
            return format!(
                "run {} is running: attempt {} waits for its task, which was left by connection {}",
                run.id, attempt.number, handed.connection
            );
        }
        let lease = self.state.lease(&attempt.worker);
        facts.maybe(
            lease
                .filter(|lease| *lease < self.state.now())
                .map(|lease| format!("its worker has not been heard of; its lease ended at {lease}")),
        );
        format!(
            "run {} is running: attempt {} on worker {} since {}",
            run.id, attempt.number, attempt.worker, attempt.started_at
        )
    }

    fn ended(&self, run: &Run, facts: &mut Facts) -> String {
        let at = run.finished_at.unwrap_or(run.fired_at);
        if let (Some(spread), RunState::Succeeded | RunState::Failed) = (&run.spread, run.state) {
            let (how, why) = match spread.first {
                None => ("succeeded", None),
                Some((first, why)) => ("failed", Some((first, why.map_or("unknown", Reason::as_str)))),
            };
            facts.maybe(why.map(|(first, why)| format!("run {first} was the first that did not: {why}")));
            let (well, places) = (spread.succeeded, words::counted(spread.places.into(), "worker"));
            return format!("run {} {how} at {at}: it succeeded on {well} of {places}", run.id);
        }
        match (run.state, run.reason) {
            (RunState::Succeeded, _) => {
                let tries = words::counted(u64::try_from(run.attempts.len()).unwrap_or(u64::MAX), "attempt");
                if run.attempts.len() > 1 {
                    facts.maybe(run.attempts.iter().rev().nth(1).map(attempt_end));
                }
                format!("run {} succeeded at {at} after {tries}", run.id)
            }
            (RunState::Skipped, Some(Reason::CatchUp)) => self.missed(run, facts),
            (RunState::Skipped, reason) => {
                let why = reason.map_or("unknown", Reason::as_str);
                facts.add(told_end(run));
                if reason == Some(Reason::Expired) {
                    self.waited_in_vain(run, facts);
                }
                let plain = match reason {
                    Some(Reason::Overlap) => "an earlier run of the job was live (overlap)",
                    Some(Reason::BreakerOpen) => "its breaker was open",
                    Some(Reason::Expired) => "it had not started in time (start_within)",
                    Some(Reason::Superseded) => "a newer run took its place (overlap: replace)",
                    Some(Reason::Schedule) => "its schedule could not be evaluated",
                    Some(Reason::Limit) => "a limit of the cluster was reached",
                    Some(Reason::Calendar) => return self.excluded(run),
                    Some(Reason::Upstream) => "the runs before it did not end as it waits for (after)",
                    Some(_) | None => why,
                };
                format!("run {} was skipped at {at}: {plain}", run.id)
            }
            (RunState::Cancelled, _) => {
                facts.maybe(run.cancel.as_ref().map(|cancel| cancel.detail.clone()));
                facts.add(told_end(run));
                format!("run {} was cancelled at {at}", run.id)
            }
            (RunState::Failed | RunState::Pending | RunState::Running, _) => self.failed(run, facts),
        }
    }

    fn failed(&self, run: &Run, facts: &mut Facts) -> String {
        let at = run.finished_at.unwrap_or(run.fired_at);
        let last = run.attempts.last();
        facts.add(told_end(run));
        let spec = self.state.job(run.id.job).map(|job| &job.spec);
        if last.is_some_and(|last| last.outcome == AttemptOutcome::Lost)
            && let Some(spec) = spec
        {
            facts.add(match spec.on_lost {
                OnLost::Fail => "nobody knows what the lost attempt did, so it is not run again".to_owned(),
                OnLost::Rerun => format!(
                    "with on_lost `rerun` it was run again {}",
                    words::counted(run.reruns.into(), "time")
                ),
            });
        }
        if run.reason == Some(Reason::Lost) && last.is_some_and(|last| last.outcome == AttemptOutcome::Failed)
        {
            facts.add("an attempt before the last one may have had its effect: nobody knows");
        }
        for attempt in run.attempts.iter().rev().skip(1).take(3) {
            facts.add(attempt_end(attempt));
        }
        if let Some(spec) = spec
            && spec.retry.max_attempts > 1
        {
            facts.add(format!("retry allows {}", words::counted(spec.retry.max_attempts.into(), "attempt")));
        }
        let how = last.map_or_else(|| "it never started".to_owned(), attempt_end);
        format!("run {} failed at {at}: {how}", run.id)
    }

    fn excluded(&self, run: &Run) -> String {
        match run.scheduled_until {
            None => format!("the occurrence at {} was skipped: {}", run.id.at, run.detail),
            Some(until) => format!(
                "{} from {} to {until} were skipped: {}",
                words::counted(run.stands_for, "occurrence"),
                run.id.at,
                run.detail
            ),
        }
    }

    fn missed(&self, run: &Run, facts: &mut Facts) -> String {
        let policy = self.state.job(run.id.job).map(|job| &job.spec.catch_up);
        facts.maybe(policy.map(|policy| match policy.runs {
            CatchUpRuns::None => "catch_up is `none`: what is missed does not run".to_owned(),
            CatchUpRuns::Latest => {
                format!(
                    "catch_up runs the newest of the last {}; the rest was older",
                    words::span(policy.window)
                )
            }
            CatchUpRuns::All => {
                format!("catch_up runs at most {} of the last {}", policy.max, words::span(policy.window))
            }
        }));
        let until = run.scheduled_until.unwrap_or(run.id.at);
        facts.maybe(self.leader_gap_words(run.id.at).or_else(|| self.leader_gap_words(until)));
        match run.stands_for {
            1 => format!("the occurrence at {} was missed and did not run (catch_up)", run.id.at),
            count => format!(
                "{} from {} to {until} were missed and did not run (catch_up)",
                words::counted(count, "occurrence"),
                run.id.at
            ),
        }
    }
}
