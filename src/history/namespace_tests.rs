//! Retention of namespaces, against what it promises.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::tests::run;
use super::{Gap, Kept, RunLog};
use crate::state::namespace::NamespaceLimits;
use crate::state::run::{JobId, Run, RunId};
use crate::state::spec::Retention;
use crate::state::time::Timestamp;

const YEARS: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Even jobs are in `a`, odd ones in `b`. The entry of an index is stamped with it, in seconds.
fn ended(job: u64, at: i64, index: u64) -> Arc<Run> {
    let mut run = run(job, at, i64::try_from(index).unwrap() * 1_000).as_ref().clone();
    run.namespace = if job.is_multiple_of(2) { "a".into() } else { "b".into() };
    Arc::new(run)
}

fn at(index: u64) -> Timestamp {
    Timestamp::from_millis(i64::try_from(index).unwrap() * 1_000)
}

fn limits(of: &[(&str, Option<u32>, Option<u64>)]) -> BTreeMap<Arc<str>, NamespaceLimits> {
    let one = |(name, runs, age): &(&str, Option<u32>, Option<u64>)| {
        let limits = NamespaceLimits { runs: *runs, age: age.map(Duration::from_secs) };
        (Arc::from(*name), limits)
    };
    of.iter().map(one).collect()
}

/// Prunes until nothing is left to do; what jobs keep themselves is `runs`.
async fn prune(log: &RunLog, now: u64, runs: u32, namespaces: &BTreeMap<Arc<str>, NamespaceLimits>) {
    let job = |_: JobId| Some(Retention { runs, age: YEARS });
    while !log.prune(64, at(now), Kept { job: &job, namespaces }).await.unwrap().idle {}
}

/// Index and job of what is here, by namespace.
async fn left(log: &RunLog, namespace: &str) -> Vec<(u64, u64)> {
    let rows = log.read(Gap { after: 0, through: u64::MAX - 1 }, None, usize::MAX).await.unwrap();
    let runs = rows.iter().map(|row| (row.index, Run::decode(&row.value).unwrap()));
    runs.filter(|(_, run)| &*run.namespace == namespace).map(|(index, run)| (index, run.id.job.0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_that_ended_stay_of_all_jobs_of_a_namespace_together() {
    let dir = TempDir::new().unwrap();
    let log = RunLog::open(dir.path()).unwrap();
    for index in 1..=50u64 {
        // The instants of job 2 lie behind those of all others, as those of a backfill do.
        let instant = i64::try_from(index).unwrap();
        let runs =
            vec![ended(1, instant, index), ended(2, instant - 1_000_000, index), ended(4, instant, index)];
        log.append(index, runs).await.unwrap();
    }
    log.barrier().await.unwrap();
    prune(&log, 50, 1_000, &limits(&[("a", Some(5), None)])).await;
    assert_eq!(left(&log, "a").await, [(48, 4), (49, 2), (49, 4), (50, 2), (50, 4)]);
    assert_eq!(left(&log, "b").await.len(), 50, "what has no limits keeps all");
    let retained = log.retained().unwrap().expect("it is counted");
    assert_eq!(retained, [("a".into(), 5), ("b".into(), 50)].into());
    assert_eq!(log.newest(None, 1_000).unwrap().len(), 55, "rows of the decisions are gone too");
    assert_eq!(log.newest_of(JobId(4), None, None, 1_000).unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_job_and_its_namespace_the_stricter_one_holds() {
    let dir = TempDir::new().unwrap();
    let log = RunLog::open(dir.path()).unwrap();
    for index in 1..=60u64 {
        let instant = i64::try_from(index).unwrap();
        log.append(index, (1..=4).map(|job| ended(job, instant, index)).collect()).await.unwrap();
    }
    log.barrier().await.unwrap();
    prune(&log, 60, 3, &limits(&[("a", Some(100), Some(1_000)), ("b", Some(4), None)])).await;
    assert_eq!(left(&log, "a").await.len(), 6, "each job of the namespace keeps 3");
    assert_eq!(left(&log, "b").await.len(), 4, "and here both together 4");
    prune(&log, 60, 3, &limits(&[("a", None, Some(1)), ("b", Some(4), Some(0))])).await;
    assert_eq!(left(&log, "a").await, [(59, 2), (59, 4), (60, 2), (60, 4)], "none that ended before");
    assert_eq!(left(&log, "b").await, [(60, 1), (60, 3)]);
    prune(&log, 90, 3, &limits(&[("a", None, Some(1))])).await;
    assert_eq!(left(&log, "a").await, [], "age needs no new runs");
    assert_eq!(log.jobs_named("a", "job-2").unwrap(), [], "and the names go with the last run");
    assert_eq!(log.jobs_named("b", "job-1").unwrap(), [JobId(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_first_runs_that_stay_is_searched_again() {
    let dir = TempDir::new().unwrap();
    let log = RunLog::open(dir.path()).unwrap();
    let few = limits(&[("a", Some(2), None)]);
    for index in 1..=40u64 {
        let instant = i64::try_from(index).unwrap();
        log.append(index, vec![ended(1, instant, index), ended(2, instant, index)]).await.unwrap();
        log.barrier().await.unwrap();
        prune(&log, index, 1_000, &few).await;
        let kept = index.min(2);
        assert_eq!(left(&log, "a").await.len() as u64, kept);
        let (front, _) = log.shared.memory().census.front("a");
        assert!(index <= 2 || front >= index - 1, "{front} at {index}");
    }
    prune(&log, 40, 1_000, &BTreeMap::new()).await;
    assert_eq!(log.shared.memory().census.front("a"), (0, None), "without limits nothing is remembered");
}

/// What the store must hold: ended runs in the order of the log.
type Model = BTreeMap<(u64, RunId), Arc<Run>>;

fn prune_model(model: &mut Model, namespace: &str, most: usize, oldest: u64) {
    let of = |run: &Run| &*run.namespace == namespace;
    model.retain(|(index, _), run| !of(run) || *index >= oldest);
    let all: Vec<_> = model.iter().filter(|(_, run)| of(run)).map(|(key, _)| *key).collect();
    for key in all.iter().take(all.len().saturating_sub(most)) {
        model.remove(key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_entries_that_come_again_and_gaps_that_are_filled_change_nothing_of_it() {
    for seed in 1..=6u64 {
        let mut dice = seed;
        let mut roll = move |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % sides
        };
        let dir = TempDir::new().unwrap();
        let mut log = RunLog::open(dir.path()).unwrap();
        let mut model = Model::new();
        let (most, age) = (roll(12) as u32, roll(30));
        let limited = limits(&[("a", Some(most), None), ("b", Some(20), Some(age))]);
        let mut index = 100;
        let mut entries: Vec<(u64, Vec<Arc<Run>>)> = Vec::new();
        for step in 0..120 {
            match roll(10) {
                0..=5 => {
                    index += 1 + roll(3);
                    let count = if roll(20) == 0 { 600 } else { roll(5) };
                    let instant = |place: u64| i64::try_from(index * 1_000 + place).unwrap();
                    let runs: Vec<_> =
                        (0..count).map(|place| ended(1 + roll(6), instant(place), index)).collect();
                    log.append(index, runs.clone()).await.unwrap();
                    entries.push((index, runs.clone()));
                    model.extend(runs.into_iter().map(|run| ((index, run.id), run)));
                }
                6 => {
                    // A crash: what the newest snapshot does not cover is applied again.
                    log.close().await.unwrap();
                    log = RunLog::open(dir.path()).unwrap();
                    if roll(2) == 0 {
                        log.retained().unwrap();
                    }
                    let from = entries.len().saturating_sub(roll(4) as usize);
                    for (index, runs) in &entries[from..] {
                        log.append(*index, runs.clone()).await.unwrap();
                        model.extend(runs.iter().map(|run| ((*index, run.id), Arc::clone(run))));
                    }
                }
                7 => {
                    // A part of a gap that another node had.
                    let at = 1 + roll(90);
                    let runs: Vec<_> = (0..roll(4)).map(|job| ended(1 + job, step, at)).collect();
                    let row = |run: &Arc<Run>| super::StoredRow {
                        index: at,
                        key: super::keys::run(run.id),
                        value: run.encode(),
                    };
                    log.fill(runs.iter().map(row).collect()).await.unwrap();
                    model.extend(runs.into_iter().map(|run| ((at, run.id), run)));
                }
                _ => {
                    log.barrier().await.unwrap();
                    prune(&log, index, 100_000, &limited).await;
                    prune_model(&mut model, "a", most as usize, 0);
                    prune_model(&mut model, "b", 20, index.saturating_sub(age));
                    let mut here = [left(&log, "a").await, left(&log, "b").await].concat();
                    here.sort_unstable();
                    let mut wanted: Vec<_> = model.keys().map(|(index, id)| (*index, id.job.0)).collect();
                    wanted.sort_unstable();
                    assert_eq!(here, wanted, "seed {seed}, step {step}");
                    let counted = log.retained().unwrap().expect("it is counted");
                    assert_eq!(
                        counted.values().sum::<u64>(),
                        wanted.len() as u64,
                        "seed {seed}, step {step}"
                    );
                }
            }
        }
    }
}
