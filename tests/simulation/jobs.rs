//! Random definitions of all policies, and what clients do to jobs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chronarch::scheduler::almanac::Almanac;
use chronarch::scheduler::occurrences::arm;
use chronarch::scheduler::set::ScheduleSet;
use chronarch::state::schedule::{DayRule, Dialect, Rule};
use chronarch::state::spec::{
    After, AfterOn, AfterWhen, CatchUpRuns, JobSpec, Keep, Limits, OnLost, OnOpen, OnResume, OverlapPolicy,
    Rate, RetryOn,
};
use chronarch::state::time::Timestamp;
use chronarch::state::{Again, Command, Due, Request, State};

use crate::lab::chance::Chance;
use crate::lab::{spec, zones};

pub(crate) const NAMES: [&str; 6] = ["ant", "bee", "cat", "dog", "elk", "fox"];

pub(crate) fn next(state: &State, spec: &JobSpec, after: Timestamp) -> Option<Due> {
    let set = ScheduleSet::of(spec, &Almanac::of(state)).expect("the simulation writes sound schedules");
    arm(spec, &set, after)
}

pub(crate) fn random(name: &str, chance: &mut Chance) -> JobSpec {
    let seconds = |chance: &mut Chance, from, to| Duration::from_secs(chance.between(from, to));
    let mut job = spec::job(name);
    let count = chance.between(1, 2);
    job.schedules = (0..count)
        .map(|_| spec::every(Duration::from_millis(chance.pick(&[500, 1_000, 1_500, 4_000, 9_000]))))
        .collect();
    if chance.one_in(4) {
        // By the wall clock of a zone, which other data moves by some seconds.
        job.schedules.truncate(1);
        job.schedules[0].rule = Rule::Cron {
            line: chance.pick(&["0/3 0-59 0-23 * * *", "0/5 0-59 0-23 * * *"]).to_owned(),
            dialect: Dialect::Unix,
            day_rule: DayRule::default(),
        };
        job.schedules[0].timezone = zones::ZONE.to_owned();
    }
    if chance.one_in(3) {
        job.schedules.iter_mut().for_each(|it| it.jitter = Duration::from_millis(700));
    }
    job.timeout = seconds(chance, 3, 20);
    job.retry.max_attempts = chance.pick(&[1, 1, 2, 4]) as u32;
    job.retry.initial = Duration::from_millis(chance.between(10, 900));
    job.retry.on =
        chance.pick(&[&[][..], &[RetryOn::Failed][..], &[RetryOn::Timeout, RetryOn::Lost][..]]).to_vec();
    job.catch_up.runs = chance.pick(&[CatchUpRuns::None, CatchUpRuns::Latest, CatchUpRuns::All]);
    job.catch_up.window = seconds(chance, 0, 12);
    job.catch_up.max = chance.between(0, 5) as u32;
    job.start_within = chance.one_in(3).then(|| seconds(chance, 1, 4));
    let policies = [OverlapPolicy::Skip, OverlapPolicy::Allow, OverlapPolicy::Queue, OverlapPolicy::Replace];
    job.overlap.policy = chance.pick(&policies);
    job.overlap.limit = chance.between(0, 3) as u32;
    job.overlap.keep = chance.pick(&[Keep::Newest, Keep::Oldest]);
    job.overlap.max_parallel = chance.pick(&[1, 1, 2]);
    job.on_lost = chance.pick(&[OnLost::Rerun, OnLost::Fail]);
    job.on_resume = chance.pick(&[OnResume::Skip, OnResume::CatchUp]);
    let breaker = &mut job.breaker;
    breaker.name = chance.one_in(3).then(|| "feed".to_owned());
    breaker.consecutive_failures = chance.pick(&[0, 1, 2, 3]);
    breaker.failure_rate_milli = chance.pick(&[0, 500]);
    breaker.minimum_attempts = 4;
    breaker.window = Duration::from_secs(10);
    breaker.open_for = seconds(chance, 1, 5);
    breaker.max_open_for = Duration::from_secs(10);
    breaker.probes = chance.between(1, 3) as u32;
    breaker.on_open = chance.pick(&[OnOpen::Skip, OnOpen::Hold]);
    if chance.one_in(3) {
        let rate = Rate { starts: chance.between(1, 3) as u32, per: seconds(chance, 1, 4) };
        job.limits = Some(Limits {
            group: chance.one_in(2).then(|| "shared".to_owned()),
            concurrency: chance.pick(&[None, Some(1), Some(2)]),
            rate: Some(rate).filter(|_| chance.one_in(2)),
        });
    }
    if chance.one_in(3) {
        job.schedules.clear();
        // Mostly those before it in the list, so that few definitions are refused as cycles.
        let before: Vec<&str> = NAMES.into_iter().filter(|other| *other < name || chance.one_in(8)).collect();
        let jobs: BTreeSet<&str> =
            (0..2).filter_map(|_| before.get(chance.draw() as usize % 6)).copied().collect();
        if !jobs.is_empty() {
            job.after = Some(After {
                jobs: jobs.into_iter().map(str::to_owned).collect(),
                when: chance.pick(&[AfterWhen::All, AfterWhen::All, AfterWhen::Any]),
                on: chance.pick(&[AfterOn::Success, AfterOn::Always, AfterOn::Failure]),
            });
        }
    }
    job.priority = chance.pick(&[0, 0, -3, 7]);
    job.every_node = chance.one_in(5);
    job
}

/// What a client asks of a node, computed as the API does: from that node's state and clock, never
/// behind the state's time. It may be out of date when it is applied.
pub(crate) fn client(state: &State, wall: Timestamp, chance: &mut Chance) -> Option<Command> {
    let now = wall.max(state.now());
    let reading = state.reading().generation;
    // The lab's zone is there before the first job that names it.
    if state.tzdata().is_none() || chance.one_in(24) {
        return Some(zones::set(state, chance.between(0, 8) as i32 - 4, now));
    }
    let name = chance.pick(&NAMES);
    let request = Request::default();
    let Some(job) = state.job_named("default", name) else {
        let job = random(name, chance);
        let next = next(state, &job, now);
        return Some(Command::PutJob { spec: Arc::new(job), next, request, reading });
    };
    let run = state.runs_of(job.id).next().map(|run| run.id);
    Some(match chance.between(0, 11) {
        0 | 1 => {
            let mut spec = random(name, chance);
            if chance.one_in(2) {
                spec.schedules = job.spec.schedules.clone();
            }
            let next = next(state, &spec, now);
            Command::PutJob { spec: Arc::new(spec), next, request, reading }
        }
        2 => Command::DeleteJob { job: job.reference(), cancel_runs: chance.one_in(2), request },
        3 => {
            let until = chance.one_in(2).then(|| now.plus(Duration::from_millis(chance.between(100, 5_000))));
            Command::PauseJob { job: job.reference(), request, until }
        }
        4 | 5 => {
            let next = match job.spec.on_resume {
                OnResume::CatchUp => job.armed(),
                OnResume::Skip => next(state, &job.spec, now),
            };
            Command::ResumeJob { job: job.reference(), version: job.version, next, request, reading }
        }
        6 => {
            let again =
                job.last.map(|last| Again { run: last.id, chain: last.id }).filter(|_| chance.one_in(2));
            Command::TriggerJob { job: job.reference(), request, params: [].into(), again, place: None }
        }
        7 => {
            let instants =
                (1..=chance.between(1, 4)).map(|n| Timestamp::from_millis(spec::MIDNIGHT - 9_000 + n as i64));
            let (job, version, instants) = (job.reference(), job.version, instants.collect());
            Command::Backfill { job, version, instants, request }
        }
        8 | 9 => Command::CancelRun { run: run?, request },
        10 => Command::TripBreaker { breaker: job.breaker(), open_for: None, request },
        _ => Command::ResetBreaker { breaker: job.breaker(), request },
    })
}

pub(crate) fn delete_all(state: &State) -> Vec<Command> {
    let delete = |job| Command::DeleteJob { job, cancel_runs: false, request: Request::default() };
    state.jobs_after(None).map(|job| delete(job.reference())).collect()
}
