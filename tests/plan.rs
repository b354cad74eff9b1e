//! The plan over states that are too large for a script: what it sees, and what it costs.

#[path = "lab/mod.rs"]
mod lab;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chronarch::scheduler::occurrences::WALK;
use chronarch::scheduler::plan::{CLASSES, COMMANDS, InFlight, Plan, Rules, Session, Sessions, plan};
use chronarch::state::limits::TIMEOUT_GRACE;
use chronarch::state::run::{AttemptOutcome, JobId};
use chronarch::state::spec::JobSpec;
use chronarch::state::time::Timestamp;
use chronarch::state::{Command, Due, Entry, Outcome, Request, State};
use lab::single::{LEASE, session};
use lab::spec::MIDNIGHT;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(MIDNIGHT).plus(Duration::from_secs(seconds))
}

/// A state with entries applied, each under the next index.
#[derive(Default)]
struct Log {
    state: State,
    index: u64,
}

impl Log {
    fn apply(&mut self, at: Timestamp, commands: Vec<Command>) -> Vec<Outcome> {
        self.index += 1;
        let applied = self.state.apply(self.index, &Entry { at, commands });
        assert!(
            !applied.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Rejected(_))),
            "{:?}",
            applied.outcomes.first()
        );
        applied.outcomes
    }

    fn put(&mut self, specs: Vec<JobSpec>) -> Vec<JobId> {
        let mut jobs = Vec::new();
        for specs in specs.chunks(COMMANDS) {
            let put = |spec: &JobSpec| Command::PutJob {
                spec: Arc::new(spec.clone()),
                next: None,
                request: Request::default(),
                reading: 0,
            };
            let outcomes = self.apply(at(0), specs.iter().map(put).collect());
            jobs.extend(outcomes.into_iter().filter_map(|outcome| match outcome {
                Outcome::Put { job, .. } => Some(job),
                _ => None,
            }));
        }
        jobs
    }

    /// Makes a run of each job that waits for a worker.
    fn trigger(&mut self, when: Timestamp, jobs: &[JobId]) {
        for jobs in jobs.chunks(COMMANDS) {
            let state = self.state.clone();
            let named = |job: &JobId| state.job(*job).expect("a job").reference();
            let trigger = |job| Command::TriggerJob {
                job: named(job),
                request: Request::default(),
                params: [].into(),
                again: None,
                place: None,
            };
            self.apply(when, jobs.iter().map(trigger).collect());
        }
    }

    fn plan(&self, workers: &[Session], now: Timestamp, rules: &mut Rules) -> Plan {
        let mut sessions =
            Sessions { open: workers.to_vec(), is_complete: true, lease: LEASE, ..Sessions::default() };
        plan(&self.state, &mut sessions, &InFlight::default(), now, rules)
    }
}

fn worker(name: &str, free: u32) -> Session {
    Session { free, ..session(name, "default", "exec") }
}

fn starts(plan: &Plan) -> Vec<JobId> {
    let start = |command: &Command| match command {
        Command::Start { run, .. } => Some(run.job),
        _ => None,
    };
    plan.commands.iter().filter_map(start).collect()
}

/// Two backlogs are more than one plan walks over; the third job is decided by the next, at once.
#[test]
fn a_plan_walks_over_so_many_instants_and_leaves_the_rest_to_the_next() {
    let (backlog, mut log) = (WALK / 2 + 1, Log::default());
    let put = |name: &str| {
        let mut spec = lab::spec::job(name);
        spec.schedules = vec![lab::spec::every(Duration::from_secs(1))];
        let next = Some(Due { due_at: at(1), scheduled_at: at(1) });
        Command::PutJob { spec: Arc::new(spec), next, request: Request::default(), reading: 0 }
    };
    log.apply(at(0), ["a", "b", "c"].map(put).to_vec());
    let (now, mut rules) = (at(backlog + 2), Rules::default());
    let mut fired = Vec::new();
    for more in [true, false] {
        let plan = log.plan(&[], now, &mut rules);
        assert_eq!(plan.more, more);
        fired.push(plan.commands.len());
        log.apply(now, plan.commands);
    }
    assert_eq!(fired, [2, 1]);
    assert!(log.state.due().all(|(due_at, _)| due_at > now));
}

/// Leaders that are replaced before they have listened for a lease give no worker up. What its attempts
/// come to is decided by `on_lost` all the same once they should long have ended.
#[test]
fn an_overdue_attempt_of_a_vanished_worker_is_lost_and_that_of_a_live_one_timed_out() {
    let mut log = Log::default();
    let jobs = log.put(vec![lab::spec::job("a")]);
    log.trigger(at(1), &jobs);
    let run = log.state.runs().next().expect("a run").id;
    let lease_until = at(1).plus(LEASE);
    log.apply(at(1), vec![Command::Start { run, attempt: 1, worker: "w1".into(), lease_until }]);
    let overdue = at(1).plus(log.state.job(jobs[0]).expect("a job").spec.timeout).plus(TIMEOUT_GRACE);
    let ends = |sessions: Sessions| {
        let (mut sessions, flight) = (sessions, InFlight::default());
        let plan = plan(&log.state, &mut sessions, &flight, overdue, &mut Rules::default());
        let end = |command: &Command| match command {
            Command::Complete { outcome, .. } => Some(*outcome),
            _ => None,
        };
        plan.commands.iter().filter_map(end).collect::<Vec<_>>()
    };
    let who = || HashSet::from(["w1".into()]);
    assert_eq!(ends(Sessions { spared: who(), lease: LEASE, ..Sessions::default() }), [AttemptOutcome::Lost]);
    let alive = Sessions { alive: who(), lease: LEASE, ..Sessions::default() };
    assert_eq!(ends(alive), [AttemptOutcome::TimedOut]);
}

/// Its workers come one after the other, and whoever is left out of the places has no part in the run.
#[test]
fn a_new_leader_names_no_places_before_all_workers_have_had_the_time_to_come() {
    let mut log = Log::default();
    let every_node = JobSpec { every_node: true, ..lab::spec::job("a") };
    let jobs = log.put(vec![every_node]);
    log.trigger(at(1), &jobs);
    let planned = |is_complete| {
        let open = vec![worker("w1", 1), worker("w2", 1)];
        let mut sessions = Sessions { open, is_complete, lease: LEASE, ..Sessions::default() };
        plan(&log.state, &mut sessions, &InFlight::default(), at(1), &mut Rules::default())
    };
    let early = planned(false);
    assert_eq!(early.commands, []);
    assert!(early.wake_at.is_some_and(|wake| wake <= at(1).plus(LEASE)), "{:?}", early.wake_at);
    let places = planned(true).commands.into_iter().find_map(|command| match command {
        Command::Spread { places, .. } => Some(places.len()),
        _ => None,
    });
    assert_eq!(places, Some(2));
}

fn demanding(place: usize, value: &str) -> JobSpec {
    let mut spec = lab::spec::job(&format!("demanding-{place}"));
    spec.requires.insert("zone".to_owned(), value.to_owned());
    spec
}

#[test]
fn runs_that_no_worker_may_take_hide_none_behind_them() {
    let mut log = Log::default();
    let stuck = log.put((0..10_001).map(|place| demanding(place, "moon")).collect());
    let free = log.put(vec![lab::spec::job("free")]);
    log.trigger(at(1), &stuck);
    log.trigger(at(2), &free);
    let plan = log.plan(&[worker("w1", 4)], at(3), &mut Rules::default());
    assert_eq!(starts(&plan), free);
}

#[test]
fn what_a_run_needs_follows_an_edit_of_its_job() {
    let mut log = Log::default();
    let jobs = log.put(vec![demanding(0, "moon")]);
    log.trigger(at(1), &jobs);
    assert_eq!(starts(&log.plan(&[worker("w1", 1)], at(2), &mut Rules::default())), []);
    let spec = Arc::new(lab::spec::job("demanding-0"));
    log.apply(at(2), vec![Command::PutJob { spec, next: None, request: Request::default(), reading: 0 }]);
    assert_eq!(log.state.verify(), Ok(()));
    assert_eq!(starts(&log.plan(&[worker("w1", 1)], at(3), &mut Rules::default())), jobs);
}

#[test]
fn among_runs_of_different_needs_the_oldest_goes_first() {
    let mut log = Log::default();
    let jobs = log.put(vec![demanding(0, "eu"), lab::spec::job("any"), demanding(1, "eu")]);
    for (second, job) in jobs.iter().enumerate() {
        log.trigger(at(1 + second as u64), &[*job]);
    }
    let mut able = worker("w1", 2);
    Arc::make_mut(&mut able.labels).insert("zone".to_owned(), "eu".to_owned());
    assert_eq!(starts(&log.plan(&[able], at(9), &mut Rules::default())), jobs[..2]);
}

/// More kinds of needs than one plan looks at: the next plan goes on where this one stopped.
#[test]
fn a_plan_looks_at_so_many_needs_and_the_next_goes_on_there() {
    let mut log = Log::default();
    let stuck = log.put((0..CLASSES + 1).map(|place| demanding(place, &format!("a{place:06}"))).collect());
    let last = log.put(vec![demanding(CLASSES + 1, "eu")]);
    log.trigger(at(1), &stuck);
    log.trigger(at(2), &last);
    let mut able = worker("w1", 1);
    Arc::make_mut(&mut able.labels).insert("zone".to_owned(), "eu".to_owned());
    let mut rules = Rules::default();
    let first = log.plan(&[able.clone()], at(3), &mut rules);
    assert_eq!((starts(&first), first.wake_at.is_some_and(|wake| wake < at(4))), (vec![], true));
    assert_eq!(starts(&log.plan(&[able], at(3), &mut rules)), last);
}

/// Jobs that a change of the zones' data touches fire when they are read anew; the others do not wait for that.
#[test]
fn a_job_that_is_to_be_read_anew_takes_no_room_from_one_that_need_not_be() {
    let mut log = Log::default();
    log.apply(at(0), vec![lab::zones::set(&log.state, 0, at(0))]);
    let reading = log.state.reading().generation;
    let put = |(name, timezone, second): (&str, &str, u64)| {
        let mut spec = lab::spec::job(name);
        lab::spec::set(&mut spec, "cron", "* * * * *").expect("a sound line");
        lab::spec::set(&mut spec, "timezone", timezone).expect("a zone");
        let next = Some(Due { due_at: at(second), scheduled_at: at(second) });
        Command::PutJob { spec: Arc::new(spec), next, request: Request::default(), reading }
    };
    log.apply(at(0), [("zoned", lab::zones::ZONE, 60), ("plain", "UTC", 61)].map(put).to_vec());
    log.apply(at(1), vec![lab::zones::set(&log.state, 3_600, at(1))]);
    let flight = InFlight { jobs_max: 1, reread: true, ..InFlight::default() };
    let plan = plan(&log.state, &mut Sessions::default(), &flight, at(62), &mut Rules::default());
    let fired: Vec<&str> = plan
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::Fire { job, .. } => Some(log.state.job(*job).expect("a job").spec.name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(fired, ["plain"]);
}
