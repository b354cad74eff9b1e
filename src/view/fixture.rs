//! A state and a run log, made by applying entries, for tests.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::history::RunLog;
use crate::scheduler::occurrences::arm;
use crate::scheduler::set::ScheduleSet;
use crate::state::run::{AttemptOutcome, Cause, JobId, Report, RunId};
use crate::state::schedule::{DayRule, Dialect, Fold, Gap, Rule, Schedule};
use crate::state::spec::{
    BreakerPolicy, CatchUp, CatchUpRuns, JobSpec, Keep, OnLost, OnOpen, OnResume, Overlap, OverlapPolicy,
    Program, Retention, Retry, Target,
};
use crate::state::time::Timestamp;
use crate::state::{Command, Entry, Outcome, Request, State, Verdict};

/// `2026-03-02T` and the time of day.
pub(crate) fn at(time: &str) -> Timestamp {
    format!("2026-03-02T{time}Z").parse().expect("an instant")
}

pub(crate) fn request(actor: &str, reason: &str) -> Request {
    Request { operation_id: String::new(), actor: actor.to_owned(), reason: reason.to_owned() }
}

/// A job that runs a command each minute.
pub(crate) fn minutely(name: &str) -> JobSpec {
    let second = Duration::from_secs(1);
    JobSpec {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        description: String::new(),
        labels: [("team".to_owned(), name.to_owned())].into(),
        schedules: vec![Schedule {
            rule: Rule::Cron {
                line: "* * * * *".to_owned(),
                dialect: Dialect::Unix,
                day_rule: DayRule::OrVixie,
            },
            timezone: "UTC".to_owned(),
            gap: Gap::RunAtEnd,
            fold: Fold::First,
            start_at: None,
            end_at: None,
            jitter: Duration::ZERO,
            count: None,
        }],
        target: Target::Exec {
            program: Program::Shell("true".to_owned()),
            env: std::collections::BTreeMap::new(),
            cwd: None,
            stdin: None,
        },
        queue: "default".to_owned(),
        requires: std::collections::BTreeMap::new(),
        timeout: 60 * second,
        retry: Retry {
            max_attempts: 1,
            initial: second,
            multiplier_milli: 2_000,
            max: second,
            jitter_milli: 0,
            on: Vec::new(),
        },
        catch_up: CatchUp { runs: CatchUpRuns::Latest, window: 3_600 * second, max: 100 },
        start_within: None,
        overlap: Overlap { policy: OverlapPolicy::Skip, limit: 1, keep: Keep::Newest, max_parallel: 1 },
        on_lost: OnLost::Fail,
        on_resume: OnResume::Skip,
        params: [].into(),
        limits: None,
        after: None,
        priority: 0,
        every_node: false,
        breaker: BreakerPolicy {
            name: None,
            consecutive_failures: 2,
            failure_rate_milli: 0,
            minimum_attempts: 10,
            window: 600 * second,
            open_for: 60 * second,
            max_open_for: 3_600 * second,
            probes: 1,
            on_open: OnOpen::Skip,
        },
        retention: Retention { runs: 100, age: 86_400 * second },
    }
}

/// A state that entries are applied to, with its run log.
pub(crate) struct Scene {
    pub(crate) state: State,
    pub(crate) log: RunLog,
    _dir: TempDir,
    index: u64,
    now: Timestamp,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        let log = RunLog::open(&dir.path().join("history")).expect("a run log");
        Self { state: State::default(), log, _dir: dir, index: 0, now: at("09:59:30") }
    }

    pub(crate) fn now(&mut self, time: &str) -> &mut Self {
        self.now = at(time);
        self
    }

    pub(crate) async fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let applied = self.state.apply(self.index, &Entry { at: self.now, commands: vec![command] });
        self.log.append(self.index, applied.finished).await.expect("a run log that takes it");
        let outcome = applied.outcomes.into_iter().next().expect("an outcome");
        assert!(!matches!(outcome, Outcome::Rejected(_)), "{outcome:?}");
        outcome
    }

    pub(crate) async fn put(&mut self, spec: JobSpec) -> JobId {
        let set = ScheduleSet::of(&spec, &crate::scheduler::almanac::Almanac::bundled()).expect("a schedule");
        let next = arm(&spec, &set, self.now);
        let put = Command::PutJob { spec: Arc::new(spec), next, request: Request::default(), reading: 0 };
        match self.apply(put).await {
            Outcome::Put { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    /// Decides the armed occurrence with these verdicts.
    pub(crate) async fn decide(&mut self, job: JobId, verdicts: Vec<Verdict>) -> Vec<RunId> {
        let current = Arc::clone(self.state.job(job).expect("a job"));
        let expect = current.next.expect("an armed occurrence").scheduled_at;
        let last = match verdicts.last().expect("a verdict") {
            Verdict::Run { scheduled_at, .. } => *scheduled_at,
            Verdict::Missed { until, .. } => *until,
        };
        let set = ScheduleSet::of(&current.spec, &crate::scheduler::almanac::Almanac::bundled())
            .expect("a schedule");
        let next = arm(&current.spec, &set, last);
        match self.apply(Command::Fire { job, version: current.version, expect, verdicts, next }).await {
            Outcome::Fired { runs, .. } => runs,
            other => panic!("{other:?}"),
        }
    }

    /// Fires the armed occurrence.
    pub(crate) async fn fire(&mut self, job: JobId) -> RunId {
        let next = self.state.job(job).and_then(|job| job.next).expect("an armed occurrence");
        let run = Verdict::Run {
            from: next.scheduled_at,
            scheduled_at: next.scheduled_at,
            due_at: next.due_at,
            cause: Cause::Schedule,
            stands_for: 1,
        };
        self.decide(job, vec![run]).await[0]
    }

    pub(crate) async fn trigger(&mut self, job: JobId, request: Request) -> RunId {
        let job = self.state.job(job).expect("a job").reference();
        match self
            .apply(Command::TriggerJob { job, request, params: [].into(), again: None, place: None })
            .await
        {
            Outcome::Triggered { run } => run,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn start(&mut self, run: RunId) {
        let attempt = self.state.run(run).map_or(1, |run| run.attempts.len() as u32 + 1);
        let lease_until = self.now.plus(Duration::from_secs(10));
        self.apply(Command::Start { run, attempt, worker: "w1".into(), lease_until }).await;
    }

    pub(crate) async fn end(&mut self, run: RunId, outcome: AttemptOutcome, report: Report) {
        let fence = self.state.run(run).and_then(|run| run.running()).expect("an attempt").fence;
        let report = Arc::new(report);
        let retry_after = Duration::from_secs(5);
        self.apply(Command::Complete { run, fence, outcome, report, retry_after }).await;
    }

    /// Fires, starts and fails with exit code 1.
    pub(crate) async fn fail(&mut self, job: JobId) -> RunId {
        let run = self.fire(job).await;
        self.start(run).await;
        let report = Report { exit_code: Some(1), error: "no such host".to_owned(), ..Report::default() };
        self.end(run, AttemptOutcome::Failed, report).await;
        run
    }
}
