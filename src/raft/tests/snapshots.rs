//! Snapshots, and the run log that has to keep in step with them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tempfile::TempDir;
use tokio::time::timeout;

use super::harness::{
    self, MemoryRunLog, PATIENCE, entry, eventually, in_step, leader_of, places, start_all,
};
use crate::config::RaftTiming;
use crate::raft::run_log::Gap;
use crate::raft::{FatalError, ProposeError, Raft, RunLogGap, RunSink};
use crate::state::time::Timestamp;
use crate::state::{Command, Entry, Outcome, Request};
use crate::storage::StorageError;

/// Entries each of which finishes a run.
async fn finish_runs(leader: &Raft, count: u64) {
    let at = Timestamp::from_millis(1_000);
    let put = Command::PutJob {
        spec: Arc::new(harness::job_spec()),
        next: None,
        request: Request::default(),
        reading: 0,
    };
    let put = leader.propose(None, Entry { at, commands: vec![put] }).await.unwrap();
    let Outcome::Put { job, .. } = put.applied.outcomes[0] else { panic!("{:?}", put.applied) };
    for _ in 0..count {
        let job = leader.state().job(job).unwrap().reference();
        let trigger = Command::TriggerJob {
            job,
            request: Request::default(),
            params: [].into(),
            again: None,
            place: None,
        };
        let made = leader.propose(None, Entry { at, commands: vec![trigger] }).await.unwrap();
        let Outcome::Triggered { run } = made.applied.outcomes[0] else { panic!("{:?}", made.applied) };
        let cancel = Command::CancelRun { run, request: Request::default() };
        let ended = leader.propose(None, Entry { at, commands: vec![cancel] }).await.unwrap();
        assert_eq!(ended.applied.finished.len(), 1, "{:?}", ended.applied);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_was_away_gets_a_snapshot_and_the_runs_it_missed() {
    let root = TempDir::new().unwrap();
    let timing = RaftTiming { keep_entries: 1, ..harness::timing() };
    let mut places = places(root.path(), 3, &timing).await;
    let mut nodes = start_all(&mut places).await;
    let at = leader_of(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
    let away = (at + 1) % 3;
    let leader = nodes[at].raft.clone();
    finish_runs(&leader, 2).await;
    in_step(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
    nodes.remove(away).kill().await;

    finish_runs(&leader, 7).await;
    leader.snapshot_now().await.unwrap();
    let status = leader.status();
    assert_eq!(status.snapshot_index, status.applied_index);
    eventually("the log is purged", || {
        leader.status().purged_index > leader.status().applied_index.map(|i| i - 8)
    })
    .await;
    finish_runs(&leader, 1).await;

    let back = places[away].start().await;
    in_step(&[&leader, &back.raft]).await;
    assert!(back.raft.status().snapshot_index >= status.snapshot_index, "it came by snapshot");
    eventually("the gap is filled", || back.raft.run_log_gap().is_none()).await;
    let logs: Vec<_> = places.iter().map(|place| Arc::clone(&place.run_log)).collect();
    let runs = |at: usize| logs[at].contents().runs;
    assert_eq!(runs(away), runs(at));
    assert_eq!(runs(at).len(), 10);

    // What it stored is enough to start from, without the others.
    let state = back.raft.state();
    back.kill().await;
    let again = places[away].start().await;
    eventually("it starts from its snapshot", || again.raft.state().applied_index() >= state.applied_index())
        .await;
    in_step(&[&leader, &again.raft]).await;
    assert_eq!(runs(away), runs(at));
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_is_taken_by_itself_when_it_is_due_and_a_restart_begins_with_it() {
    let root = TempDir::new().unwrap();
    let timing = RaftTiming { snapshot_entries: 50, keep_entries: 10, ..harness::alone() };
    let mut places = places(root.path(), 1, &timing).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    for millis in 1..=200 {
        node.raft.propose(None, entry(millis)).await.unwrap();
    }
    eventually("a snapshot and a purge", || node.raft.status().purged_index > Some(30)).await;
    let (state, status) = (node.raft.state(), node.raft.status());
    node.kill().await;

    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    assert_eq!(node.raft.state(), state);
    assert!(node.raft.status().snapshot_index >= status.snapshot_index);
    assert!(node.raft.status().purged_index >= status.purged_index);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_a_snapshot_stands_for_survive_a_crash_right_after_it() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 1, &harness::alone()).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    finish_runs(&node.raft, 5).await;
    node.raft.snapshot_now().await.unwrap();
    node.kill().await;

    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    assert_eq!(places[0].run_log.contents().runs.len(), 5, "no entry below the snapshot is applied again");
}

#[tokio::test]
async fn gap_that_is_widened_while_it_is_fetched_stays_open() {
    let run_log = Arc::new(MemoryRunLog::default());
    let gap = Gap::of(Arc::clone(&run_log) as Arc<dyn RunSink>);
    gap.widen(Some(9), 9).await.unwrap();
    assert_eq!(run_log.gap(), None);
    gap.widen(Some(5), 20).await.unwrap();
    let known = RunLogGap { after: 5, through: 20 };
    assert_eq!(run_log.gap(), Some(known));
    let rest = RunLogGap { after: 12, through: 20 };
    assert!(gap.narrow(known, Some(rest)).await.unwrap());
    gap.widen(Some(30), 40).await.unwrap();
    assert!(!gap.narrow(rest, None).await.unwrap());
    assert_eq!(run_log.gap(), Some(RunLogGap { after: 12, through: 40 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_error_ends_the_node_and_nothing_goes_on() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let nodes = start_all(&mut places).await;
    let rafts: Vec<_> = nodes.iter().map(|node| &node.raft).collect();
    let at = leader_of(&rafts).await;
    places[at].run_log.broken.store(true, Ordering::Relaxed);
    let finishing = tokio::spawn({
        let leader = rafts[at].clone();
        async move { finish_runs(&leader, 1).await }
    });
    let error = timeout(PATIENCE, rafts[at].fatal()).await.unwrap();
    assert!(matches!(error, FatalError::Storage(StorageError::Closed)), "{error:?}");
    assert!(finishing.await.is_err(), "its client was not answered");
    assert!(matches!(rafts[at].propose(None, entry(1)).await, Err(ProposeError::Fatal)));
    // The others notice and go on without it.
    let rest: Vec<_> = rafts.iter().copied().filter(|raft| raft.node_id() != rafts[at].node_id()).collect();
    let next = leader_of(&rest).await;
    rest[next].propose(None, entry(2)).await.unwrap();
}
