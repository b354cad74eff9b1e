//! The jobs that a bench registers: each is one small http request, named by its kind and a number.

use std::time::Duration;

use crate::pb::v1::{
    CatchUp, CatchUpRuns, HttpTarget, JobSpec, OnLost, Overlap, OverlapPolicy, Retry, Schedule, Target,
};
use crate::pb::{instant, span};
use crate::state::time::Timestamp;

const DAY: Duration = Duration::from_secs(86_400);
/// Idle jobs have no instant for so long from their registration.
const IDLE: Duration = Duration::from_secs(3_600);
/// Missed instants that are caught up; as many as a job may ask for.
const CATCH_UP_MAX: u32 = 10_000;
/// Longest that a request to the receiver may take, which answers at once.
const TIMEOUT: Duration = Duration::from_secs(30);

fn job(kind: &str, number: u32, url: &str, schedule: Schedule) -> JobSpec {
    let http = HttpTarget { method: "GET".to_owned(), url: url.to_owned(), ..HttpTarget::default() };
    JobSpec {
        name: format!("{kind}-{number:06}"),
        namespace: "default".to_owned(),
        schedule: vec![schedule],
        target: Some(Target { http: Some(http), ..Target::default() }),
        timeout: Some(span::write(TIMEOUT)),
        on_lost: OnLost::Rerun.into(),
        ..JobSpec::default()
    }
}

fn every(period: Duration, offset: Duration) -> Schedule {
    Schedule { every: Some(span::write(period)), offset: Some(span::write(offset)), ..Schedule::default() }
}

/// The offset of job `number` of `count` whose instants are spread evenly over `span`, in whole
/// milliseconds.
fn spread(number: u32, count: u32, span: Duration) -> Duration {
    let millis = span.as_millis() * u128::from(number) / u128::from(count.max(1));
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// Jobs `every: period` whose instants are spread evenly over the period.
pub(super) fn periodic(count: u32, period: Duration, url: &str) -> Vec<JobSpec> {
    (0..count).map(|number| job("fire", number, url, every(period, spread(number, count, period)))).collect()
}

/// The same, and none of their instants may be lost: all are caught up, beside each other if need be, and
/// failed attempts are repeated.
pub(super) fn lossless(count: u32, period: Duration, url: &str) -> Vec<JobSpec> {
    let mut jobs = periodic(count, period, url);
    for job in &mut jobs {
        job.catch_up = Some(all());
        job.overlap = Some(Overlap { policy: OverlapPolicy::Allow.into(), ..Overlap::default() });
        job.retry = Some(Retry {
            max_attempts: Some(5),
            initial: Some(span::write(Duration::from_millis(200))),
            ..Retry::default()
        });
    }
    jobs
}

fn all() -> CatchUp {
    CatchUp { runs: CatchUpRuns::All.into(), window: None, max: Some(CATCH_UP_MAX) }
}

/// Jobs `every: 24h`, spread over the day but for the hour from `now` on, in which they are idle.
pub(super) fn idle(count: u32, now: Timestamp, url: &str) -> Vec<JobSpec> {
    let midnight = now.millis().rem_euclid(i64::try_from(DAY.as_millis()).unwrap_or(i64::MAX));
    let start = IDLE + Duration::from_millis(u64::try_from(midnight).unwrap_or(0));
    let offset = |number| {
        let after_start = start + spread(number, count, DAY - 2 * IDLE);
        if after_start < DAY { after_start } else { after_start - DAY }
    };
    (0..count).map(|number| job("idle", number, url, every(DAY, offset(number)))).collect()
}

/// Jobs with one instant, the same for all.
pub(super) fn once(count: u32, at: Timestamp, url: &str) -> Vec<JobSpec> {
    let jobs = (0..count).map(|number| {
        let schedule = Schedule { at: vec![instant::write(at)], ..Schedule::default() };
        JobSpec { catch_up: Some(all()), ..job("once", number, url, schedule) }
    });
    jobs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(jobs: &[JobSpec]) -> Vec<u64> {
        let offset = |job: &JobSpec| span::read(job.schedule[0].offset.as_ref()?).ok();
        jobs.iter().map(|job| offset(job).expect("an offset").as_millis() as u64).collect()
    }

    #[test]
    fn twenty_jobs_fire_every_ten_milliseconds() {
        let jobs = lossless(20, Duration::from_millis(200), "http://127.0.0.1:1/");
        assert_eq!(offsets(&jobs), (0..20).map(|number| number * 10).collect::<Vec<_>>());
        assert_eq!(jobs[17].name, "fire-000017");
    }

    #[test]
    fn more_jobs_than_milliseconds_share_them_evenly() {
        let offsets = offsets(&periodic(2_500, Duration::from_secs(1), "http://127.0.0.1:1/"));
        assert_eq!((offsets[0], offsets[1], offsets[3], offsets[2_499]), (0, 0, 1, 999));
    }

    #[test]
    fn idle_jobs_have_no_instant_in_the_next_hour() {
        let day = i64::try_from(DAY.as_millis()).expect("fits");
        let hour = 3_600_000;
        for now in [0, hour, day - hour / 2, day - 1] {
            for offset in
                offsets(&idle(1_000, Timestamp::from_millis(20_000 * day + now), "http://127.0.0.1:1/"))
            {
                let offset = i64::try_from(offset).expect("fits");
                assert!((0..day).contains(&offset));
                let wait = (offset - now).rem_euclid(day);
                assert!((hour..day - hour + 1).contains(&wait), "{now} {offset}");
            }
        }
    }
}
