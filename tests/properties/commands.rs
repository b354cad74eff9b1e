//! Properties of the replicated state over random commands, sensible and hostile alike.
//!
//! A case is a list of small numbers; the interpreter turns each into a command against whatever jobs
//! and runs there are, so that most commands meet something. After each entry: apply did not panic,
//! a replica that read the entry from its bytes is equal, [`State::verify`] finds nothing, a snapshot
//! reads back equal, no occurrence was decided twice, fences grew, a run ended once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::lab;
use super::lab::spec::MIDNIGHT;
use chronarch::state::level::Levels;
use chronarch::state::namespace::NamespaceLimits;
use chronarch::state::run::{AttemptOutcome, Cause, JobId, Report, Run, RunId, TaskNews};
use chronarch::state::spec::{JobSpec, Keep, OnLost, OnOpen, OverlapPolicy};
use chronarch::state::time::Timestamp;
use chronarch::state::{Again, BreakerKey, Command, Due, Entry, JobRef, Outcome, Request, State, Verdict};
use proptest::prelude::*;

/// One number of a case: which command, three choices, and how far time moves (also backwards).
type Step = (u8, u8, u8, u8, i16);

#[derive(Default)]
struct Replicas {
    one: State,
    two: State,
    index: u64,
    wall: i64,
    decided: BTreeSet<(JobId, Timestamp)>,
    ended: BTreeSet<RunId>,
    fence: u64,
}

fn spec(name: u8, a: u8, b: u8) -> JobSpec {
    let mut spec = lab::spec::job(["red", "green", "blue"][usize::from(name) % 3]);
    spec.schedules = vec![lab::spec::every(Duration::from_secs(1 + u64::from(a % 3)))];
    spec.overlap.policy =
        [OverlapPolicy::Skip, OverlapPolicy::Allow, OverlapPolicy::Queue, OverlapPolicy::Replace]
            [usize::from(a) % 4];
    spec.overlap.max_parallel = u32::from(a / 4 % 4);
    spec.overlap.limit = u32::from(b % 3);
    spec.overlap.keep = if b & 4 == 0 { Keep::Newest } else { Keep::Oldest };
    spec.on_lost = if b & 8 == 0 { OnLost::Rerun } else { OnLost::Fail };
    spec.retry.max_attempts = 1 + u32::from(b / 16 % 3);
    spec.every_node = name & 4 != 0;
    spec.priority = i32::from(name / 8 % 3) - 1;
    spec.start_within = (a & 32 != 0).then(|| Duration::from_secs(2));
    let breaker = &mut spec.breaker;
    breaker.name = (a & 64 != 0).then(|| ["feed", "bank"][usize::from(b & 1)].to_owned());
    breaker.consecutive_failures = u32::from(a % 3);
    breaker.failure_rate_milli = if b & 64 == 0 { 0 } else { 500 };
    breaker.probes = u32::from(b % 4);
    breaker.open_for = Duration::from_secs(1 + u64::from(b % 4));
    breaker.on_open = if a & 128 == 0 { OnOpen::Hold } else { OnOpen::Skip };
    spec
}

impl Replicas {
    fn pick<T>(all: impl Iterator<Item = T>, choice: u8) -> Option<T> {
        let all: Vec<T> = all.collect();
        let place = usize::from(choice) % all.len().max(1);
        all.into_iter().nth(place)
    }

    fn job(&self, choice: u8) -> JobId {
        let mut known: BTreeSet<JobId> = self.one.jobs_after(None).map(|job| job.id).collect();
        known.extend(self.one.runs().map(|run| run.id.job));
        Self::pick(known.into_iter(), choice).filter(|_| choice < 250).unwrap_or(JobId(u64::from(choice)))
    }

    fn reference(&self, choice: u8) -> JobRef {
        let id = self.job(choice);
        let unknown = || JobRef { id, namespace: "default".into(), name: "unknown".into() };
        self.one.job(id).map_or_else(unknown, |job| job.reference())
    }

    fn run(&self, choice: u8) -> RunId {
        let unknown = RunId { job: self.job(choice), at: Timestamp::from_millis(i64::from(choice)), seq: 0 };
        Self::pick(self.one.runs().map(|run| run.id), choice).filter(|_| choice < 250).unwrap_or(unknown)
    }

    fn breaker(&self, choice: u8) -> BreakerKey {
        match choice % 3 {
            0 => BreakerKey::Shared("default".into(), "feed".into()),
            1 => BreakerKey::Shared("default".into(), "bank".into()),
            _ => BreakerKey::Job(self.job(choice / 3)),
        }
    }

    fn later(&self, choice: u8) -> Option<Due> {
        // On a grid, so that instants of different commands coincide.
        let at = Timestamp::from_millis(
            MIDNIGHT + self.wall / 1_000 * 1_000 + (i64::from(choice % 8) - 4) * 1_000,
        );
        (choice < 240).then_some(Due {
            due_at: at.plus(Duration::from_millis(u64::from(choice / 128))),
            scheduled_at: at,
        })
    }

    fn command(&self, (kind, a, b, c, _): Step) -> Command {
        let request = Request {
            operation_id: if c % 4 == 0 { format!("op{}", c % 16) } else { String::new() },
            ..Request::default()
        };
        match kind % 32 {
            0 | 1 => {
                Command::PutJob { spec: Arc::new(spec(a, b, c)), next: self.later(a), request, reading: 0 }
            }
            2 => Command::DeleteJob { job: self.reference(a), cancel_runs: b & 1 == 0, request },
            3 => Command::PauseJob { job: self.reference(a), request, until: None },
            4 => {
                let version = self.one.job(self.job(a)).map_or(0, |job| job.version);
                Command::ResumeJob {
                    job: self.reference(a),
                    version,
                    next: self.later(b),
                    request,
                    reading: 0,
                }
            }
            5 | 6 => Command::TriggerJob {
                job: self.reference(a),
                request,
                params: [].into(),
                again: (b & 1 != 0).then(|| Again { run: self.run(b), chain: self.run(c) }),
                place: (b & 2 != 0).then(|| worker(c)),
            },
            7 => Command::CancelRun { run: self.run(a), request },
            8 => Command::TripBreaker { breaker: self.breaker(a), open_for: None, request },
            9 => Command::ResetBreaker { breaker: self.breaker(a), request },
            10 => self.half_open(a),
            11 => Command::Retry { run: self.run(a) },
            12 => Command::Expire { run: self.run(a) },
            13 => Command::Renew {
                worker: worker(a),
                lease_until: Timestamp::from_millis(MIDNIGHT + self.wall + 3_000),
            },
            14 => {
                let expect = self.one.lease(&worker(a)).unwrap_or_default();
                Command::Lose {
                    worker: worker(a),
                    expect,
                    retry_after: Duration::from_millis(u64::from(b) * 10),
                }
            }
            15 => {
                let silent_for = (c > 9).then(|| Duration::from_millis(u64::from(c) * 10));
                Command::Lead { node: u64::from(a), term: u64::from(b), silent_for }
            }
            16..=18 => self.start(a, b),
            19..=21 => self.complete(a, b, c),
            22 => {
                let id = self.job(a);
                let (version, armed) = self.one.job(id).map_or((0, None), |job| (job.version, job.next));
                let expect = armed.map_or(Timestamp::EPOCH, |armed| armed.scheduled_at);
                Command::Disarm { job: id, version, expect, why: "no such zone".into() }
            }
            23 => {
                let from = if b < 200 { self.one.level() } else { u32::from(b) };
                Command::RaiseLevel { from, to: from.saturating_add(u32::from(a % 4)).saturating_sub(1) }
            }
            24 => {
                let all = ["w1", "w2", "w3"].into_iter().zip([1, 2, 4]);
                let places = all.filter(|(_, bit)| b & bit != 0).map(|(place, _)| place.into()).collect();
                let run = Self::pick(self.one.spreading(), a).unwrap_or(self.run(a));
                Command::Spread { run, places }
            }
            25 => {
                let age = (b & 1 == 0).then(|| Duration::from_secs(u64::from(b)));
                let limits = NamespaceLimits { runs: (c & 1 == 0).then_some(c.into()), age };
                Command::SetNamespace {
                    namespace: ["default", "other"][usize::from(a % 2)].into(),
                    limits,
                    request,
                }
            }
            26 | 27 => {
                let (run, fence) = self.attempt(a);
                let task = format!("task-{run}-{fence}").into();
                Command::HandOver {
                    run,
                    fence: if c > 240 { fence ^ 1 } else { fence },
                    connection: worker(b),
                    task,
                    queue: (b & 4 == 0).then(|| "work".into()),
                    expires_at: (b & 2 == 0).then(|| Timestamp::from_millis(MIDNIGHT + i64::from(c) * 1_000)),
                }
            }
            28 => {
                let (run, fence) = self.attempt(a);
                Command::StopTask { run, fence }
            }
            29 => {
                let (run, fence) = self.attempt(a);
                let news = match c % 4 {
                    0 => TaskNews::Retried { count: 1 + u32::from(b % 2), error: "boom".into() },
                    process => TaskNews::Begun { process: u32::from(process) - 1 },
                };
                Command::HearTask { run, fence, by: worker(b), news }
            }
            _ => self.fire(a, b, c),
        }
    }

    fn half_open(&self, a: u8) -> Command {
        use chronarch::state::breaker::Status;
        let key = Self::pick(self.one.cooling().map(|(_, key)| key.clone()), a).unwrap_or(self.breaker(a));
        let opened = match self.one.breaker(&key).map(|breaker| breaker.status) {
            Some(Status::Open { index, .. }) => index,
            _ => u64::from(a),
        };
        Command::HalfOpen { breaker: key, opened }
    }

    fn start(&self, a: u8, b: u8) -> Command {
        let can = self.one.runs().filter(|run| run.running().is_none()).map(|run| run.id);
        let run = Self::pick(can, a).filter(|_| b < 230).unwrap_or(self.run(a));
        let attempt = self.one.run(run).and_then(|run| run.attempts.last()).map_or(1, |last| last.number + 1);
        let lease_until = Timestamp::from_millis(MIDNIGHT + self.wall + 2_000);
        Command::Start { run, attempt, worker: worker(b), lease_until }
    }

    /// One that runs, if any does.
    fn attempt(&self, choice: u8) -> (RunId, u64) {
        let running = self.one.runs().filter(|run| run.running().is_some()).map(|run| run.id);
        let run = Self::pick(running, choice).unwrap_or(self.run(choice));
        (run, self.one.run(run).and_then(|run| run.running()).map_or(0, |attempt| attempt.fence))
    }

    fn complete(&self, a: u8, b: u8, c: u8) -> Command {
        let (run, fence) = self.attempt(a);
        let outcome = [
            AttemptOutcome::Succeeded,
            AttemptOutcome::Failed,
            AttemptOutcome::TimedOut,
            AttemptOutcome::Cancelled,
            AttemptOutcome::Lost,
            AttemptOutcome::Running,
        ][usize::from(b) % 6];
        let report = Report {
            error: "e".repeat(usize::from(c) * 4),
            output: vec![c; usize::from(c) * 32],
            ..Report::default()
        };
        let fence = if c > 240 { fence ^ 1 } else { fence };
        Command::Complete {
            run,
            fence,
            outcome,
            report: Arc::new(report),
            retry_after: Duration::from_millis(500),
        }
    }

    fn fire(&self, a: u8, b: u8, c: u8) -> Command {
        let id = self.job(a);
        let (version, armed) = self.one.job(id).map_or((0, None), |job| (job.version, job.next));
        let armed = armed
            .or(self.later(b))
            .unwrap_or(Due { due_at: Timestamp::EPOCH, scheduled_at: Timestamp::EPOCH });
        let at = |more: i64| Timestamp::from_millis(armed.scheduled_at.millis() + more);
        let stands = |from, at, stands_for| {
            let cause = Cause::Schedule;
            Verdict::Run { from, scheduled_at: at, due_at: at, cause, stands_for, moved: None }
        };
        let run = |at| stands(at, at, 1);
        let verdicts = match c % 8 {
            0..=3 => vec![run(at(0))],
            4 => vec![run(at(0)), run(at(1)), run(at(2))],
            5 => vec![Verdict::Missed { from: at(0), until: at(5), count: 2 }, run(at(6))],
            6 => vec![stands(at(0), at(9), 4)],
            _ => vec![run(at(3)), run(at(1))],
        };
        let next = at(1_000 * (1 + i64::from(b % 3)));
        let next = (b < 240).then_some(Due { due_at: next, scheduled_at: next });
        Command::Fire { job: id, version, expect: armed.scheduled_at, verdicts, next }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        self.wall += i64::from(step.4);
        self.index += 1 + u64::from(step.3 % 3);
        let also = (step.0 / 2, step.1, step.2, step.3, 0);
        let commands = vec![self.command(step), self.command(also)];
        let entry = Entry { at: Timestamp::from_millis(MIDNIGHT + self.wall), commands };
        let decoded = Entry::decode(&entry.encode()).expect("an entry reads back");
        prop_assert_eq!(&decoded, &entry);
        let (now, level) = (self.one.now(), self.one.level());
        let applied = self.one.apply(self.index, &entry);
        prop_assert_eq!(&applied, &self.two.apply(self.index, &decoded));
        prop_assert_eq!(&self.one, &self.two);
        prop_assert!(self.one.now() >= now, "time went back");
        prop_assert!(self.one.level() >= level, "the level fell");
        prop_assert_eq!(self.one.verify(), Ok(()), "after {:?}", entry);
        for (command, outcome) in entry.commands.iter().zip(&applied.outcomes) {
            if let (Command::Fire { job, verdicts, .. }, Outcome::Fired { .. }) = (command, outcome) {
                for verdict in verdicts {
                    if let Verdict::Run { scheduled_at, due_at, .. } = verdict {
                        prop_assert!(
                            self.decided.insert((*job, *scheduled_at)),
                            "decided twice: {:?}",
                            verdict
                        );
                        prop_assert!(*due_at <= self.one.now(), "early");
                    }
                }
            }
            if let Outcome::Started { run, fence } = outcome {
                prop_assert!(self.fence < *fence, "the fence of {run} does not grow");
                self.fence = *fence;
            }
        }
        for run in &applied.finished {
            prop_assert!(self.ended.insert(run.id), "{} ends twice", run.id);
            prop_assert!(run.running().is_none() && run.finished_at.is_some());
            let read = Run::decode(&run.encode()).expect("a record reads back");
            prop_assert_eq!(&read, run.as_ref());
        }
        for run in self.one.runs() {
            prop_assert!(!self.ended.contains(&run.id), "{} lives after its end", run.id);
        }
        let mut bytes = Vec::new();
        self.one.write_to(&mut bytes).expect("a vector takes all");
        let every = Levels { oldest: 0, newest: u32::MAX };
        let read = State::read_spoken(&mut bytes.as_slice(), every).expect("a snapshot reads back");
        prop_assert_eq!(&read, &self.one);
        Ok(())
    }
}

fn worker(choice: u8) -> Arc<str> {
    ["w1", "w2", "w3"][usize::from(choice) % 3].into()
}

/// What is proposed at once must fit an entry: the state refuses commands beyond its limit, and a
/// leader that proposes the same thousands again would never get on.
#[test]
fn a_plan_fits_an_entry_however_much_is_to_do() {
    use chronarch::scheduler::plan::{COMMANDS, InFlight, Rules, Sessions, plan};
    let at = Timestamp::from_millis(MIDNIGHT);
    let mut state = State::default();
    let count = COMMANDS * 3;
    let jobs: Vec<JobId> = (0..count).map(|place| JobId((1 << 12) + place as u64)).collect();
    let put = |place| Command::PutJob {
        spec: Arc::new(lab::spec::job(&format!("job-{place}"))),
        next: None,
        request: Request::default(),
        reading: 0,
    };
    let trip = |id: &JobId| Command::TripBreaker {
        breaker: BreakerKey::Job(*id),
        open_for: None,
        request: Request::default(),
    };
    state.apply(1, &Entry { at, commands: (0..count).map(put).collect() });
    state.apply(2, &Entry { at, commands: jobs.iter().map(trip).collect() });
    assert_eq!(state.cooling().count(), count);

    let later = at.plus(Duration::from_secs(3_600));
    let planned = |state: &State| {
        plan(state, &mut Sessions::default(), &InFlight::default(), later, &mut Rules::default())
    };
    let mut entries = 0;
    for index in 3.. {
        let next = planned(&state);
        if next.commands.is_empty() {
            break;
        }
        entries += 1;
        assert!(next.commands.len() <= COMMANDS + 1, "{} commands in one plan", next.commands.len());
        let applied = state.apply(index, &Entry { at: later, commands: next.commands });
        assert!(applied.outcomes.iter().all(|outcome| *outcome == Outcome::Done));
    }
    assert_eq!((entries, state.cooling().count()), (3, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::cases(200), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_command_breaks_the_state(steps in prop::collection::vec(any::<Step>(), 1..120)) {
        let mut replicas = Replicas::default();
        for mut step in steps {
            // Time moves on average, and goes back at times.
            step.4 = (step.4 % 2_000) + 700;
            replicas.step(step)?;
        }
    }
}
