//! State and scheduler against the reference: clients, workers, time and leaders in any order; proposals doubled,
//! and made again long after. After each operation both say the same of every job, run, record and breaker.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use chronarch::scheduler::occurrences::arm;
use chronarch::scheduler::plan::{InFlight, Rules, Session, Sessions, plan};
use chronarch::scheduler::set::ScheduleSet;
use chronarch::state::breaker::{Breaker as Shipped, Status};
use chronarch::state::run::{JobId, Phase, Reason, Report, Run, RunId};
use chronarch::state::spec::{JobSpec, OnResume};
use chronarch::state::time::Timestamp;
use chronarch::state::{
    Applied, BreakerKey, Change, Command, Due, Entry, Job as ShippedJob, Outcome, Request, State, Verdict,
};
use proptest::prelude::*;

use super::lab;
use super::lab::spec::MIDNIGHT;
use super::operation::{NAMES, Operation, STEP_MS, operation, spec};
use super::reference::{Breaker, Job, Place, Record, Stage, Worker};

const WORKER: &str = "w1";
/// Attempts that the worker takes at a time.
const SLOTS: u32 = 100_000;
/// Entries that one instant may need before the leader counts as one that never rests.
const ROUNDS: usize = 200;

/// The shipped core and the reference, side by side.
#[derive(Default)]
pub(crate) struct Machine {
    state: State,
    index: u64,
    wall: i64,
    rules: Rules,
    is_silent: bool,
    /// The reference's jobs, with what the state calls them.
    jobs: Vec<(JobId, Job)>,
    /// Runs made by hand: how many of their job there were before.
    by_hand: BTreeMap<RunId, u32>,
    records: BTreeMap<JobId, Vec<Record>>,
    /// What leaders proposed and was done.
    proposed: Vec<Command>,
    /// The newest instant that is decided, by the job's name.
    decided: BTreeMap<String, Timestamp>,
    asked: BTreeSet<(String, String)>,
    last: Option<Command>,
    term: u64,
}

impl Machine {
    pub(crate) fn step(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        match operation {
            Operation::Stale(choice) => self.stale(*choice)?,
            Operation::Again => {
                if let Some(last) = self.last.clone() {
                    self.ask(last)?;
                }
            }
            Operation::Silence => self.is_silent = true,
            Operation::Revive => self.is_silent = false,
            Operation::Advance(steps) => {
                let end = self.wall + i64::from(*steps) * STEP_MS;
                self.expect_until(end);
                self.advance(end)?;
            }
            Operation::Gap(steps) => {
                self.wall += i64::from(*steps) * STEP_MS;
                self.term += 1;
                self.rules = Rules::default();
                let lead = Command::Lead { node: 1, term: self.term, silent_for: None };
                self.propose(vec![lead])?;
            }
            client => {
                if let Some(command) = self.command(client) {
                    self.last = Some(command.clone());
                    self.ask(command)?;
                }
            }
        }
        self.expect(MIDNIGHT + self.wall);
        self.settle()?;
        self.compare()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(MIDNIGHT + self.wall)
    }

    fn propose(&mut self, commands: Vec<Command>) -> Result<Applied, TestCaseError> {
        self.propose_at(self.now(), commands)
    }

    fn propose_at(&mut self, at: Timestamp, commands: Vec<Command>) -> Result<Applied, TestCaseError> {
        self.index += 1;
        let entry = Entry { at, commands };
        let before = self.state.now();
        let applied = self.state.apply(self.index, &entry);
        prop_assert!(self.state.now() >= before, "time goes back");
        self.decided_once(&entry, &applied)?;
        for outcome in &applied.outcomes {
            if let Outcome::Triggered { run } = outcome {
                let before = self.by_hand.keys().filter(|known| known.job == run.job).count();
                self.by_hand.entry(*run).or_insert(u32::try_from(before).expect("few runs"));
            }
        }
        for run in &applied.finished {
            let record = (self.place(run.id), run.state, run.reason, run.stands_for);
            self.records.entry(run.id.job).or_default().push(record);
        }
        let is_done = |outcome: &Outcome| !matches!(outcome, Outcome::Rejected(_));
        for (command, outcome) in entry.commands.into_iter().zip(&applied.outcomes) {
            if is_done(outcome) && command.request().is_none() {
                self.proposed.push(command);
            }
        }
        Ok(applied)
    }

    /// No instant of a job is decided twice, whatever becomes of the job under its name.
    fn decided_once(&mut self, entry: &Entry, applied: &Applied) -> Result<(), TestCaseError> {
        for (command, outcome) in entry.commands.iter().zip(&applied.outcomes) {
            let (Command::Fire { job, verdicts, .. }, Outcome::Fired { .. }) = (command, outcome) else {
                continue;
            };
            let of = self.jobs.iter().find(|(known, _)| known == job).map(|(_, job)| job.spec.name.clone());
            let name = of.expect("a job that fires is known");
            for verdict in verdicts {
                let (Verdict::Run { from, .. } | Verdict::Missed { from, .. }) = *verdict;
                let last = self.decided.insert(name.clone(), verdict.until());
                prop_assert!(last.is_none_or(|last| last < from), "{} is decided twice: {:?}", name, verdict);
            }
        }
        Ok(())
    }

    fn place(&self, id: RunId) -> Place {
        let hand = if id.seq == 0 { 0 } else { self.by_hand.get(&id).map_or(u32::MAX, |before| before + 1) };
        (id.at.millis(), hand)
    }

    fn shipped(&self, name: u8) -> Option<Arc<ShippedJob>> {
        self.state.job_named("default", NAMES[usize::from(name)]).cloned()
    }

    fn reference(&mut self, id: JobId) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|(known, _)| *known == id).map(|(_, job)| job)
    }

    /// What a client asks for, computed as the API does; nothing, if there is nothing to ask about.
    fn command(&self, operation: &Operation) -> Option<Command> {
        let request = Request::default();
        Some(match operation {
            Operation::Put(name, knobs) => {
                let spec = spec(*name, knobs);
                let next = next(&spec, self.now());
                Command::PutJob { spec: Arc::new(spec), next, request, reading: 0 }
            }
            Operation::Trigger(name, id) => {
                let operation_id = id.map_or_else(String::new, |id| format!("op-{id}"));
                let request = Request { operation_id, ..request };
                Command::TriggerJob {
                    job: self.shipped(*name)?.reference(),
                    request,
                    params: [].into(),
                    again: None,
                    place: None,
                }
            }
            Operation::Delete(name, cancel) => {
                let job = self.shipped(*name)?.reference();
                Command::DeleteJob { job, cancel_runs: *cancel, request }
            }
            Operation::Pause(name) => {
                Command::PauseJob { job: self.shipped(*name)?.reference(), request, until: None }
            }
            Operation::Resume(name) => {
                let job = self.shipped(*name)?;
                let next = match job.spec.on_resume {
                    OnResume::CatchUp => job.armed(),
                    OnResume::Skip => next(&job.spec, self.now()),
                };
                Command::ResumeJob { job: job.reference(), version: job.version, next, request, reading: 0 }
            }
            Operation::Cancel(choice) => {
                let run = pick(self.state.runs().map(|run| run.id), *choice)?;
                Command::CancelRun { run, request }
            }
            Operation::Report(choice, outcome) => {
                let running = self.state.runs().filter_map(|run| Some((run.id, run.running()?.fence)));
                let ((run, fence), outcome) = (pick(running, *choice)?, *outcome);
                let retry_after = self.state.job(run.job)?.spec.retry.initial;
                Command::Complete { run, fence, outcome, report: Arc::new(Report::default()), retry_after }
            }
            Operation::Trip(name) => {
                let breaker = self.shipped(*name)?.breaker();
                Command::TripBreaker { breaker, open_for: None, request }
            }
            Operation::Reset(name) => {
                Command::ResetBreaker { breaker: self.shipped(*name)?.breaker(), request }
            }
            Operation::Advance(_)
            | Operation::Gap(_)
            | Operation::Silence
            | Operation::Revive
            | Operation::Stale(_)
            | Operation::Again => return None,
        })
    }

    /// The command is proposed, and the reference does what it should.
    fn ask(&mut self, command: Command) -> Result<(), TestCaseError> {
        let applied = self.propose(vec![command.clone()])?;
        let outcome = applied.outcomes.first().cloned().expect("one outcome a command");
        match command {
            Command::PutJob { spec, .. } => self.put(&spec, &outcome)?,
            Command::TriggerJob { job, request, .. } => {
                let is_new = request.operation_id.is_empty()
                    || self.asked.insert((job.name.to_string(), request.operation_id));
                if let Some(job) = self.reference(job.id).filter(|job| is_new && !job.is_deleted) {
                    job.trigger();
                }
            }
            Command::DeleteJob { job, cancel_runs, .. } => {
                if let Some(job) = self.reference(job.id).filter(|job| !job.is_deleted) {
                    job.delete(cancel_runs);
                }
            }
            Command::PauseJob { job, .. } => {
                if let Some(job) = self.reference(job.id).filter(|job| !job.is_deleted) {
                    job.pause();
                }
            }
            Command::ResumeJob { job, .. } => {
                if let Some(job) = self.reference(job.id).filter(|job| !job.is_deleted) {
                    job.resume();
                }
            }
            Command::CancelRun { run, .. } => {
                let place = self.place(run);
                if let Some(job) = self.reference(run.job) {
                    job.stop(place, Reason::Cancelled);
                }
            }
            Command::Complete { run, outcome: ended, retry_after, .. } => {
                let place = self.place(run);
                let is_taken = matches!(outcome, Outcome::Completed { .. });
                if let Some(job) = self.reference(run.job).filter(|_| is_taken) {
                    job.attempt_ends(place, ended, i64::try_from(retry_after.as_millis()).expect("short"));
                }
            }
            Command::TripBreaker { breaker: BreakerKey::Job(id), .. } => {
                if let Some(job) = self.reference(id).filter(|job| !job.is_deleted) {
                    job.trip();
                }
            }
            Command::ResetBreaker { breaker: BreakerKey::Job(id), .. } => {
                if let Some(job) = self.reference(id).filter(|job| !job.is_deleted) {
                    job.reset();
                }
            }
            other => unreachable!("no client asks for {other:?}"),
        }
        Ok(())
    }

    fn put(&mut self, spec: &JobSpec, outcome: &Outcome) -> Result<(), TestCaseError> {
        let Outcome::Put { job: id, change, .. } = outcome else {
            return Err(TestCaseError::fail(format!("a definition is refused: {outcome:?}")));
        };
        let now = MIDNIGHT + self.wall;
        let standing = self.jobs.iter_mut().find(|(_, job)| !job.is_deleted && job.spec.name == spec.name);
        match standing {
            Some((known, job)) => {
                prop_assert_eq!(id, &*known, "an edit makes another job of it");
                let expected = if job.spec == *spec { Change::Unchanged } else { Change::Updated };
                prop_assert_eq!(*change, expected);
                job.edit(spec.clone());
            }
            None => {
                prop_assert_eq!(*change, Change::Created);
                prop_assert!(self.jobs.iter().all(|(known, _)| known != id), "{:?} comes back", id);
                self.jobs.push((*id, Job::create(spec.clone(), now)));
            }
        }
        Ok(())
    }

    /// It was done once; proposed again, whenever that is, it changes nothing.
    fn stale(&mut self, choice: u16) -> Result<(), TestCaseError> {
        let Some(command) = self.proposed.get(usize::from(choice) % self.proposed.len().max(1)) else {
            return Ok(());
        };
        let command = command.clone();
        // Under its old stamp: time does not go back for that.
        let at = Timestamp::from_millis(MIDNIGHT + self.wall - i64::from(choice % 3_000));
        let applied = self.propose_at(at, vec![command.clone()])?;
        let is_refused = matches!(applied.outcomes[..], [Outcome::Rejected(_)]);
        let is_harmless = matches!(command, Command::Renew { .. });
        prop_assert!(is_refused || is_harmless, "done twice: {:?}", command);
        prop_assert!(applied.finished.is_empty(), "done twice: {:?}", command);
        Ok(())
    }

    /// The shipped plan, until it finds nothing more to do; returns when to look again.
    fn settle(&mut self) -> Result<Option<Timestamp>, TestCaseError> {
        for _ in 0..ROUNDS {
            let plan = {
                let (mut sessions, flight) = (self.sessions(), InFlight::default());
                plan(&self.state, &mut sessions, &flight, self.now(), &mut self.rules)
            };
            if plan.commands.is_empty() {
                return Ok(plan.wake_at);
            }
            self.propose(plan.commands)?;
        }
        Err(TestCaseError::fail("the leader never rests"))
    }

    fn sessions(&self) -> Sessions {
        let mut sessions = Sessions { is_complete: true, lease: lab::single::LEASE, ..Sessions::default() };
        if !self.is_silent {
            let session = lab::single::session(WORKER, "default", "exec");
            sessions.open.push(Session { free: SLOTS, ..session });
            sessions.alive = HashSet::from([WORKER.into()]);
        }
        sessions
    }

    fn advance(&mut self, end: i64) -> Result<(), TestCaseError> {
        loop {
            let wake = self.settle()?.map(|at| at.millis() - MIDNIGHT);
            match wake.filter(|at| *at <= end) {
                Some(at) if at > self.wall => self.wall = at,
                _ if self.wall < end => self.wall = end,
                _ => return Ok(()),
            }
        }
    }

    /// The reference goes through all that happens by itself until `end`.
    fn expect_until(&mut self, end: i64) {
        loop {
            let running =
                self.jobs.iter().any(|(_, job)| job.live.iter().any(|it| it.stage == Stage::Running));
            let lease = self.lease_end().filter(|_| running);
            let wakes = self.jobs.iter().filter_map(|(_, job)| job.wakes_at()).chain(lease);
            match wakes.min().filter(|at| *at < MIDNIGHT + end) {
                Some(at) => self.expect(at),
                None => return self.expect(MIDNIGHT + end),
            }
        }
    }

    /// When a silent worker's attempts are lost. It is the state's to say: a lease is renewed while it speaks.
    fn lease_end(&self) -> Option<i64> {
        self.state.lease(&WORKER.into()).filter(|_| self.is_silent).map(Timestamp::millis)
    }

    fn expect(&mut self, at: i64) {
        let worker = match self.lease_end() {
            Some(until) if until <= at => Worker::Lost,
            _ if self.is_silent => Worker::Silent,
            _ => Worker::Serves,
        };
        self.jobs.iter_mut().for_each(|(_, job)| job.settle(at, worker));
    }

    fn compare(&mut self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.state.verify(), Ok(()));
        let mut live = 0;
        for (id, job) in &self.jobs {
            let mut records = self.records.get(id).cloned().unwrap_or_default();
            let mut expected = job.records.clone();
            records.sort_unstable_by_key(|record| record.0);
            expected.sort_unstable_by_key(|record| record.0);
            prop_assert_eq!(records, expected, "the records of {}", &job.spec.name);
            let shown: Vec<_> = self.state.runs_of(*id).map(|run| self.shown(run)).collect();
            let wanted: Vec<_> = job.live.iter().map(|run| (run.place, run.stage, run.attempts)).collect();
            prop_assert_eq!(shown, wanted, "the live runs of {}", &job.spec.name);
            live += job.live.len();
            let is_gone = job.is_deleted && job.live.is_empty();
            let shipped = self.state.job(*id);
            prop_assert_eq!(shipped.is_none(), is_gone, "{} is kept or gone", &job.spec.name);
            let Some(shipped) = shipped else { continue };
            prop_assert_eq!(shipped.next.map(|due| due.scheduled_at.millis()), job.armed);
            prop_assert_eq!(
                shipped.pause.is_some(),
                job.paused.is_some() || (job.is_deleted && shipped.pause.is_some())
            );
            prop_assert_eq!(breaker(self.state.breaker(&BreakerKey::Job(*id))), job.breaker);
        }
        prop_assert_eq!(self.state.run_count(), live, "runs that no job has");
        Ok(())
    }

    fn shown(&self, run: &Run) -> (Place, Stage, u32) {
        let stage = match run.phase {
            Phase::Queued => Stage::Queued,
            Phase::Held => Stage::Held,
            Phase::Waiting => Stage::Waiting,
            Phase::Backoff { retry_at } => Stage::Backoff(retry_at.millis()),
            Phase::Running => Stage::Running,
            Phase::Spread => unreachable!("no job here says `every_node`"),
            Phase::Ended => unreachable!("what has ended is not live"),
        };
        (self.place(run.id), stage, u32::try_from(run.attempts.len()).expect("few attempts"))
    }
}

fn breaker(shipped: Option<&Arc<Shipped>>) -> Breaker {
    match shipped.map(|it| (it.status, it.consecutive_failures)) {
        None => Breaker::Closed { failures: 0 },
        Some((Status::Closed, failures)) => Breaker::Closed { failures },
        Some((Status::Open { until, .. }, _)) => Breaker::Open { until: until.millis() },
        Some((Status::HalfOpen { passed, .. }, _)) => Breaker::HalfOpen { passed },
    }
}

fn pick<T>(all: impl Iterator<Item = T>, choice: u8) -> Option<T> {
    let all: Vec<T> = all.collect();
    let place = usize::from(choice) % all.len().max(1);
    all.into_iter().nth(place)
}

fn next(spec: &JobSpec, after: Timestamp) -> Option<Due> {
    let set =
        ScheduleSet::of(spec, &chronarch::scheduler::almanac::Almanac::bundled()).expect("a sound schedule");
    arm(spec, &set, after)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: super::cases(2_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_occurrence_becomes_what_the_rules_say(
        operations in prop::collection::vec(operation(), 1..40),
    ) {
        let mut machine = Machine::default();
        for operation in &operations {
            machine.step(operation)?;
        }
    }
}
