//! Growing and shrinking a cluster.

use tempfile::TempDir;

use super::harness::{self, entry, eventually, in_step, leader_of, places, start_all};
use crate::raft::{FormationError, MembershipError};
use crate::storage::files;

#[tokio::test(flavor = "multi_thread")]
async fn dead_node_is_replaced_by_one_with_a_new_id() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 4, &harness::timing()).await;
    let mut joiner = places.pop().unwrap();
    joiner.peers.clear();
    places.iter_mut().for_each(|place| drop(place.peers.remove(&4)));
    let mut nodes = start_all(&mut places).await;
    let at = leader_of(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
    let leader = nodes[at].raft.clone();
    for millis in 1..=20 {
        leader.propose(None, entry(millis)).await.unwrap();
    }
    let dead = nodes.remove((at + 1) % 3);
    let dead_id = dead.raft.node_id();
    dead.kill().await;

    let address = joiner.listen.to_string();
    let absent = leader.add_learner(5, &address).await;
    assert!(matches!(absent, Err(MembershipError::NotJoined { id: 5, .. })), "{absent:?}");
    let new = joiner.start().await;
    assert_eq!(leader.add_learner(dead_id, &address).await, Err(MembershipError::Member(dead_id)));
    leader.add_learner(4, &address).await.unwrap();
    assert_eq!(leader.status().learners, vec![4]);
    assert_eq!(leader.status().nodes[&4].address, "clients-of-4");
    assert_eq!(leader.add_learner(4, &address).await, Ok(()), "asking again is harmless");
    let other = (1..=3).find(|id| *id != dead_id && *id != leader.node_id()).unwrap();
    let deadly = leader.remove(other).await;
    assert!(matches!(deadly, Err(MembershipError::LosesMajority { .. })), "{deadly:?}");
    eventually("the learner catches up", || {
        let status = leader.status();
        status.peers.iter().any(|peer| peer.id == 4 && peer.matched_index == status.last_index)
    })
    .await;
    leader.promote(4).await.unwrap();
    assert_eq!(leader.promote(4).await, Err(MembershipError::Voter(4)));
    leader.remove(dead_id).await.unwrap();
    let voters: Vec<u64> = (1..=4).filter(|id| *id != dead_id).collect();
    assert_eq!(leader.status().voters, voters);
    leader.propose(None, entry(21)).await.unwrap();
    in_step(&[&leader, &new.raft]).await;
    assert_eq!(leader.remove(dead_id).await, Err(MembershipError::NotMember(dead_id)));
    assert_eq!(new.raft.cluster_id(), leader.cluster_id());

    // The removed one's machine, wiped, finds a cluster that does not know it.
    let place = &mut places[dead_id as usize - 1];
    files::set_aside(&place.dir, "a test").unwrap();
    let back = place.start().await;
    let refused = tokio::time::timeout(harness::PATIENCE, back.raft.fatal()).await.unwrap();
    assert!(
        matches!(refused, crate::raft::FatalError::Formation(FormationError::Outsider { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_changes_the_membership_and_the_last_vote_stays() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 2, &harness::timing()).await;
    let nodes = start_all(&mut places).await;
    let rafts: Vec<_> = nodes.iter().map(|node| &node.raft).collect();
    let at = leader_of(&rafts).await;
    let (leader, follower) = (rafts[at], rafts[1 - at]);
    let refused = follower.remove(leader.node_id()).await;
    assert!(matches!(refused, Err(MembershipError::NotLeader { leader: Some(_) })), "{refused:?}");
    leader.remove(follower.node_id()).await.unwrap();
    assert_eq!(leader.remove(leader.node_id()).await, Err(MembershipError::LastVoter(leader.node_id())));
    leader.propose(None, entry(1)).await.unwrap();
}
