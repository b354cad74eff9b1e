//! The log read again: the same on all nodes, from a snapshot on, and never with a gap.

use tempfile::TempDir;

use super::harness::{self, entry, eventually, in_step, leader_of, places, start_all};
use crate::config::RaftTiming;
use crate::raft::{Content, ExportError, Raft, Replayed};
use crate::state::StateHash;

/// Index, kind and the newest leadership, so that a line depends on the entry and on what came before it.
fn write(replayed: &Replayed<'_>, text: &mut Vec<u8>) {
    let kind = match &replayed.content {
        Content::Blank => "blank".to_owned(),
        Content::Membership { voters, .. } => format!("{voters:?}"),
        Content::Commands { entry, applied } => format!("{} {:?}", entry.at, applied.outcomes),
    };
    assert!(replayed.before.applied_index() <= replayed.after.applied_index());
    let seen = replayed.after.leaderships().last().map(|last| last.term);
    text.extend(format!("{} {} {kind} {seen:?}\n", replayed.position.index, replayed.position.term).bytes());
}

async fn export(
    raft: &Raft,
    from: Option<u64>,
    to: Option<u64>,
) -> Result<(String, u64, StateHash), ExportError> {
    let mut export = raft.plan_export(from, to).await?.load().await?;
    let mut text = Vec::new();
    while let Some(piece) = export.step(write).await? {
        text.extend(piece);
    }
    Ok((String::from_utf8(text).unwrap(), export.through(), export.hash().await?))
}

fn indexes(text: &str) -> Vec<u64> {
    text.lines().map(|line| line.split_once(' ').unwrap().0.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_export_the_same_lines_and_the_hash_of_their_state() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let nodes = start_all(&mut places).await;
    let rafts: Vec<_> = nodes.iter().map(|node| &node.raft).collect();
    let leader = rafts[leader_of(&rafts).await];
    for millis in 1..=300 {
        leader.propose(None, entry(millis)).await.unwrap();
    }
    in_step(&rafts).await;
    let last = leader.watch_applied().borrow().unwrap().index;
    let (whole, through, hash) = export(leader, None, Some(last)).await.unwrap();
    assert_eq!(indexes(&whole), (0..=last).collect::<Vec<_>>());
    assert_eq!((through, hash), (last, leader.state().hash().unwrap()));
    assert!(whole.starts_with("0 0 [{1, 2, 3}] None\n"), "{whole}");
    for raft in &rafts {
        assert_eq!(export(raft, Some(0), Some(last)).await.unwrap(), (whole.clone(), last, hash));
    }
    // A part of it is that part, and the state at its end is another.
    let (part, through, other) = export(leader, Some(20), Some(40)).await.unwrap();
    assert_eq!((indexes(&part), through), ((20..=40).collect::<Vec<_>>(), 40));
    assert!(whole.contains(&part) && other != hash);
    // Behind the last entry there is nothing yet.
    let (nothing, through, same) = export(leader, Some(last + 1), Some(last)).await.unwrap();
    assert_eq!((nothing.as_str(), through, same), ("", last, hash));
    let refused = export(leader, Some(last + 1_000), None).await.unwrap_err();
    assert!(matches!(refused, ExportError::NotApplied { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn export_begins_with_a_snapshot_and_names_the_first_entry_that_is_left() {
    let root = TempDir::new().unwrap();
    let timing = RaftTiming { keep_entries: 10, ..harness::timing() };
    let mut places = places(root.path(), 1, &timing).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    for millis in 1..=100 {
        node.raft.propose(None, entry(millis)).await.unwrap();
    }
    let (before, ..) = export(&node.raft, None, None).await.unwrap();
    node.raft.snapshot_now().await.unwrap();
    let snapshot = node.raft.status().snapshot_index.unwrap();
    eventually("a purge", || node.raft.status().purged_index.is_some_and(|index| index + 20 > snapshot))
        .await;
    for millis in 101..=150 {
        node.raft.propose(None, entry(millis)).await.unwrap();
    }
    let state = node.raft.state();
    let (after, through, hash) = export(&node.raft, None, None).await.unwrap();
    assert_eq!(indexes(&after), (snapshot + 1..=through).collect::<Vec<_>>());
    assert_eq!(hash, state.hash().unwrap());
    let refused = export(&node.raft, Some(5), None).await.unwrap_err();
    let told = format!("log index 5 cannot be exported any more: the first that can is {}", snapshot + 1);
    assert_eq!(refused.to_string(), told);
    assert!(!before.is_empty());

    // After a restart it is the same.
    node.kill().await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    assert_eq!(export(&node.raft, None, Some(through)).await.unwrap(), (after, through, hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn export_that_is_overtaken_by_a_purge_ends_with_an_error_and_not_with_a_gap() {
    let root = TempDir::new().unwrap();
    let timing = RaftTiming { keep_entries: 1, ..harness::timing() };
    let mut places = places(root.path(), 1, &timing).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    for millis in 1..=50 {
        node.raft.propose(None, entry(millis)).await.unwrap();
    }
    let planned = node.raft.plan_export(Some(0), None).await.unwrap();
    let mut export = planned.load().await.unwrap();
    node.raft.snapshot_now().await.unwrap();
    eventually("a purge", || node.raft.status().purged_index > Some(10)).await;
    let refused = export.step(write).await.unwrap_err();
    let ExportError::Gone { wanted: 0, first } = refused else { panic!("{refused}") };
    assert!(first > 50, "{first}");
    assert!(node.raft.plan_export(Some(first), None).await.is_ok());
}
