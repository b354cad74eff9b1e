//! Clusters form exactly once.

use tempfile::TempDir;
use tokio::time::timeout;

use super::harness::{self, PATIENCE, entry, eventually, in_step, leader_of, places, start_all};
use crate::raft::{FatalError, FormationError, Role};
use crate::storage::files;

async fn end_of(raft: &crate::raft::Raft) -> FormationError {
    match timeout(PATIENCE, raft.fatal()).await {
        Ok(FatalError::Formation(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_forms_before_all_first_members_have_answered() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let third = places.pop().unwrap();
    drop(third.options().unwrap());
    let peers = third.peers.clone();
    let listen = third.listen;
    drop(third);
    assert!(harness::is_deaf(listen).await);
    let nodes = start_all(&mut places).await;
    // Several rounds of asking pass while the third is silent.
    let quiet = timeout(std::time::Duration::from_millis(700), nodes[0].raft.joined()).await;
    assert!(quiet.is_err());
    assert_eq!(nodes[0].raft.status().role, Role::Pristine);

    // The one that decides goes away and comes back; then the third appears.
    let mut nodes = nodes;
    nodes.remove(0).kill().await;
    let mut late = harness::place_at(root.path(), 3, listen, peers);
    let first = places[0].start().await;
    let third = late.start().await;
    let rafts = [&first.raft, &nodes[0].raft, &third.raft];
    let leader = rafts[leader_of(&rafts).await];
    leader.propose(None, entry(1)).await.unwrap();
    in_step(&rafts).await;
    let clusters: Vec<_> = rafts.iter().map(|raft| raft.cluster_id()).collect();
    assert!(clusters[0].is_some() && clusters.iter().all(|cluster| *cluster == clusters[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn attempt_that_was_cut_short_goes_on_under_the_same_id() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 2, &harness::timing()).await;
    // Node 1 has stored an id of its own and asked nobody yet.
    let mut alone = harness::place_at(root.path(), 1, places[0].listen, Default::default());
    let node = alone.start_without_listening().await;
    let id = crate::raft::ClusterId([0x77; 16]);
    node.join(id).await.unwrap();
    node.shutdown().await;
    drop(node);

    let nodes = start_all(&mut places).await;
    leader_of(&[&nodes[0].raft, &nodes[1].raft]).await;
    assert_eq!(nodes[1].raft.cluster_id(), Some(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn wiped_member_does_not_come_back_under_its_id() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let mut nodes = start_all(&mut places).await;
    leader_of(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
    for id in [3, 1] {
        let at = nodes.iter().position(|node| node.raft.node_id() == id).unwrap();
        nodes.remove(at).kill().await;
        let place = &mut places[id as usize - 1];
        files::set_aside(&place.dir, "a test").unwrap();
        let node = place.start().await;
        match end_of(&node.raft).await {
            FormationError::Wiped { node_id, .. } => assert_eq!(node_id, id),
            other => panic!("{other:?}"),
        }
        assert_eq!(node.raft.status().role, Role::Pristine);
        node.kill().await;
        files::set_aside(&place.dir, "a test").unwrap();
        let original = place.dir.with_extension("damaged-1");
        std::fs::rename(original, &place.dir).unwrap();
        nodes.push(place.start().await);
    }
    leader_of(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_members_that_disagree_form_nothing() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 2, &harness::timing()).await;
    places[1].peers.insert(3, "127.0.0.1:1".to_owned());
    let nodes = start_all(&mut places).await;
    match end_of(&nodes[0].raft).await {
        FormationError::Disagreement { told_by: 2, reason } => {
            assert!(reason.contains("127.0.0.1:1"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(nodes[1].raft.status().role, Role::Pristine);
}

#[tokio::test(flavor = "multi_thread")]
async fn pristine_node_takes_part_in_nothing() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 1, &harness::alone()).await;
    places[0].peers.clear();
    let node = places[0].start().await;
    assert!(node.raft.propose(None, entry(1)).await.is_err());
    assert_eq!((node.raft.cluster_id(), node.raft.status().role), (None, Role::Pristine));
    eventually("no leader", || node.raft.leadership().borrow().leader.is_none()).await;
}
