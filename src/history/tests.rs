use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::state::BreakerKey;
use crate::state::run::{Cause, Phase, RunState};
use crate::state::spec::Retention;
use crate::state::time::Timestamp;

pub(super) fn run(job: u64, at: i64, fired_at: i64) -> Arc<Run> {
    Arc::new(Run {
        id: RunId { job: JobId(job), at: Timestamp::from_millis(at), seq: 0 },
        namespace: "default".into(),
        job: format!("job-{job}").into(),
        version: 1,
        queue: "default".into(),
        cause: Cause::Schedule,
        due_at: Timestamp::from_millis(at),
        fired_at: Timestamp::from_millis(fired_at),
        scheduled_until: None,
        scheduled_from: None,
        stands_for: 1,
        state: RunState::Succeeded,
        reason: None,
        detail: String::new(),
        actor: String::new(),
        finished_at: Some(Timestamp::from_millis(fired_at)),
        phase: Phase::Ended,
        attempts: Vec::new(),
        reruns: 0,
        cancel: None,
        breaker: BreakerKey::Job(JobId(job)),
        start_by: None,
        overdue_at: None,
        params: [].into(),
        group: None,
        chain: None,
        upstream: Vec::new(),
        retry_of: None,
        backfill: None,
        inputs: [].into(),
        place: None,
        parent: None,
        spread: None,
    })
}

fn instants(runs: &[Arc<Run>]) -> Vec<i64> {
    runs.iter().map(|run| run.id.at.millis()).collect()
}

fn all(log: &RunLog) -> Vec<Arc<Run>> {
    log.newest(None, 10_000).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_found_by_identity_job_and_decision_before_and_after_they_are_written() {
    let dir = TempDir::new().unwrap();
    let log = RunLog::open(dir.path()).unwrap();
    log.append(5, vec![run(1, -10, 100), run(1, 20, 90)]).await.unwrap();
    log.append(6, vec![run(2, 15, 95), run(1, 30, 110)]).await.unwrap();
    for written in [false, true] {
        if written {
            log.barrier().await.unwrap();
        }
        assert_eq!(instants(&log.newest_of(JobId(1), None, None, 10).unwrap()), [30, 20, -10]);
        let second = run(1, 20, 90).id;
        assert_eq!(instants(&log.newest_of(JobId(1), Some(second), None, 10).unwrap()), [-10]);
        let from = Some(Timestamp::from_millis(20));
        assert_eq!(instants(&log.newest_of(JobId(1), None, from, 1).unwrap()), [30]);
        assert_eq!(instants(&log.newest_of(JobId(1), None, from, 9).unwrap()), [30, 20]);
        assert_eq!(instants(&all(&log)), [30, -10, 15, 20]);
        let after = (Timestamp::from_millis(100), run(1, -10, 100).id);
        assert_eq!(instants(&log.newest(Some(after), 1).unwrap()), [15]);
        assert_eq!(log.get(second).unwrap(), Some(run(1, 20, 90)));
        assert_eq!(log.get(RunId { seq: 1, ..second }).unwrap(), None);
        let first = log.first_after(JobId(1), Timestamp::from_millis(-10)).unwrap();
        assert_eq!(first.map(|run| run.id.at.millis()), Some(20));
        assert_eq!(log.jobs_named("default", "job-1").unwrap(), [JobId(1)]);
        assert_eq!(log.jobs_named("default", "job").unwrap(), []);
    }
    log.close().await.unwrap();
    let log = RunLog::open(dir.path()).unwrap();
    assert_eq!((log.last_index(), all(&log).len(), log.begun_anew()), (6, 4, false));
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn appending_the_same_runs_again_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let log = RunLog::open(dir.path()).unwrap();
    let everything = Gap { after: 0, through: u64::MAX };
    let mut before = Vec::new();
    for _ in 0..2 {
        for index in 1..=20 {
            let at = i64::try_from(index).unwrap();
            log.append(index, vec![run(1, at, at), run(2, at, at)]).await.unwrap();
        }
        let rows = log.read(everything, None, usize::MAX).await.unwrap();
        assert_eq!(rows.len(), 40);
        assert!(before.is_empty() || before == rows);
        before = rows;
        assert_eq!(all(&log).len(), 40);
        assert_eq!(log.last_index(), 20);
    }
    log.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn gap_is_filled_piece_by_piece_and_survives_a_restart() {
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let [whole, mut lacking] = dirs.each_ref().map(|dir| RunLog::open(dir.path()).unwrap());
    for index in 1..=30u64 {
        // one entry with more runs than a row of the index has keys
        let count = if index == 17 { 700 } else { 3 };
        let runs = (0..count).map(|at| run(index, at, at)).collect();
        whole.append(index, runs).await.unwrap();
    }
    lacking.append(1, (0..3).map(|at| run(1, at, at)).collect()).await.unwrap();
    lacking.set_gap(Some(Gap { after: 1, through: 29 })).await.unwrap();
    lacking.close().await.unwrap();
    lacking = RunLog::open(dirs[1].path()).unwrap();
    let gap = lacking.gap().expect("the gap");
    let mut cursor = None;
    let mut pieces = 0;
    loop {
        let rows = whole.read(gap, cursor.clone(), 20_000).await.unwrap();
        let Some(last) = rows.last() else { break };
        cursor = Some((last.index, last.key.clone()));
        // a piece may come twice
        lacking.fill(rows.clone()).await.unwrap();
        lacking.fill(rows).await.unwrap();
        pieces += 1;
    }
    lacking.set_gap(None).await.unwrap();
    assert!(pieces > 3, "{pieces}");
    let through = Gap { after: 0, through: 29 };
    let rows = whole.read(through, None, usize::MAX).await.unwrap();
    assert_eq!(rows.len(), 28 * 3 + 700);
    assert_eq!(lacking.read(through, None, usize::MAX).await.unwrap(), rows);
    assert_eq!(lacking.gap(), None);
    let bad = StoredRow { index: 3, key: vec![0; 24], value: vec![1, 2, 3] };
    assert!(matches!(lacking.fill(vec![bad]).await, Err(HistoryError::Codec(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_keeps_the_newest_by_count_and_none_by_age() {
    let dir = TempDir::new().unwrap();
    let log = RunLog::open(dir.path()).unwrap();
    for index in 1..=300u64 {
        let at = i64::try_from(index).unwrap() * 1_000;
        log.append(index, (1..=3).map(|job| run(job, at, at)).collect()).await.unwrap();
    }
    // Pruning sees what is written; the rest would be pruned by a later call.
    log.barrier().await.unwrap();
    let long = Duration::from_secs(1_000_000);
    let kept = |job: JobId| match job.0 {
        1 => Some(Retention { runs: 10, age: long }),
        2 => Some(Retention { runs: 1_000, age: Duration::from_secs(20) }),
        _ => Some(Retention { runs: 1_000, age: long }),
    };
    let now = Timestamp::from_millis(300_000);
    let mut removed = 0;
    loop {
        let pruned = log.prune(1, now, Kept { job: &kept, namespaces: &BTreeMap::new() }).await.unwrap();
        removed += pruned.removed;
        if pruned.idle {
            break;
        }
    }
    assert_eq!(removed, 290 + 279);
    let left = |job| log.newest_of(JobId(job), None, None, 1_000).unwrap().len();
    assert_eq!((left(1), left(2), left(3)), (10, 21, 300));
    assert_eq!(instants(&log.newest_of(JobId(1), None, None, 1).unwrap()), [300_000]);
    assert_eq!(all(&log).len(), 331, "rows of the decisions are gone too");
    let rows = log.read(Gap { after: 0, through: 300 }, None, usize::MAX).await.unwrap();
    assert_eq!(rows.len(), 331, "and rows of the indexes");
    let years_later = now.plus(Duration::from_secs(100_000_000));
    let nothing = Kept { job: &|_| None, namespaces: &BTreeMap::new() };
    while !log.prune(10, years_later, nothing).await.unwrap().idle {}
    assert_eq!(all(&log), []);
    assert_eq!(log.jobs_named("default", "job-1").unwrap(), [], "the name goes with the last run");
    log.append(301, vec![run(1, 1, 1)]).await.unwrap();
    log.barrier().await.unwrap();
    assert_eq!(log.jobs_named("default", "job-1").unwrap(), [JobId(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_decisions_show_each_run_once_while_others_come_and_go() {
    let dir = TempDir::new().unwrap();
    let log = RunLog::open(dir.path()).unwrap();
    for index in 1..=100u64 {
        let at = i64::try_from(index).unwrap();
        // many share the time of their decision
        log.append(index, vec![run(index % 7, at, at / 10)]).await.unwrap();
    }
    let mut seen = BTreeSet::new();
    let mut cursor = None;
    let mut later = 1_000;
    loop {
        let page = log.newest(cursor, 9).unwrap();
        let Some(last) = page.last() else { break };
        cursor = Some((last.fired_at, last.id));
        for run in &page {
            assert!(seen.insert(run.id), "{} twice", run.id);
        }
        later += 1;
        log.append(later, vec![run(3, i64::try_from(later).unwrap(), 5_000)]).await.unwrap();
    }
    assert_eq!(seen.len(), 100);
}

/// Not a limit but a figure: `cargo test --release history_rows -- --nocapture`.
#[tokio::test(flavor = "multi_thread")]
async fn history_rows_are_written_faster_than_a_busy_cluster_ends_runs() {
    let dir = TempDir::new().unwrap();
    let log = RunLog::open(dir.path()).unwrap();
    let (entries, runs) = (100u64, 100i64);
    let began = Instant::now();
    for index in 1..=entries {
        let at = i64::try_from(index).unwrap() * 1_000;
        log.append(index, (0..runs).map(|job| run(job.cast_unsigned(), at, at)).collect()).await.unwrap();
    }
    log.barrier().await.unwrap();
    let took = began.elapsed();
    let rows = entries as f64 * runs as f64;
    println!("{:.0} runs/s durable, {rows} in {took:?}", rows / took.as_secs_f64());
    assert_eq!(log.newest_of(JobId(5), None, None, 1_000).unwrap().len(), 100);
    assert!(took < Duration::from_secs(60), "{took:?}");
}
