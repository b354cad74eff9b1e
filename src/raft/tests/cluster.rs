//! Three nodes: elections, proposals, reads, restarts, handing over, and what is refused.

use std::time::Duration;

use futures::future::join_all;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use tonic::Code;

use super::harness::{self, PATIENCE, entry, eventually, in_step, leader_of, places, start_all};
use crate::pb::peer;
use crate::raft::dial::Connections;
use crate::raft::{
    ClusterId, FatalError, OpenError, ProposeError, Raft, ReadError, Role, TransferError, guard, network,
    tcp_dialer,
};
use crate::storage::StorageError;

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_one_task_are_applied_in_its_order_on_every_node() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let nodes = start_all(&mut places).await;
    let rafts: Vec<_> = nodes.iter().map(|node| &node.raft).collect();
    let leader = rafts[leader_of(&rafts).await];

    let answers: Vec<_> = (1..=200).map(|millis| leader.submit(None, entry(millis))).collect();
    let answers = join_all(answers).await;
    let indexes: Vec<u64> = answers.into_iter().map(|answer| answer.unwrap().index).collect();
    assert!(indexes.windows(2).all(|pair| pair[0] < pair[1]), "{indexes:?}");
    assert!(leader.state().applied_index() >= *indexes.last().unwrap());
    in_step(&rafts).await;

    let status = leader.status();
    assert_eq!((status.role, status.voters.clone()), (Role::Leader, vec![1, 2, 3]));
    assert_eq!(status.nodes[&2].address, "clients-of-2");
    assert_eq!(status.cluster_id, Some(ClusterId([1; 16])));
    eventually("followers acknowledge all", || {
        let status = leader.status();
        status.peers.len() == 2 && status.peers.iter().all(|peer| peer.matched_index == status.last_index)
    })
    .await;
    assert!(leader.quorum_acked_within(Duration::from_secs(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_of_the_named_term_takes_proposals() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let nodes = start_all(&mut places).await;
    let rafts: Vec<_> = nodes.iter().map(|node| &node.raft).collect();
    let at = leader_of(&rafts).await;
    let (leader, follower) = (rafts[at], rafts[(at + 1) % 3]);
    let term = leader.status().term;

    leader.propose(Some(term), entry(1)).await.unwrap();
    let before = leader.status().last_index;
    for (raft, named) in
        [(follower, None), (follower, Some(term)), (leader, Some(term - 1)), (leader, Some(term + 1))]
    {
        match raft.propose(named, entry(2)).await {
            Err(ProposeError::NotLeader { leader: Some((id, _)) }) => assert_eq!(id, leader.node_id()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(leader.status().last_index, before, "nothing was appended");
    assert!(!follower.quorum_acked_within(Duration::from_secs(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn read_on_a_follower_shows_what_the_leader_acknowledged_before() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let nodes = start_all(&mut places).await;
    let rafts: Vec<_> = nodes.iter().map(|node| &node.raft).collect();
    let at = leader_of(&rafts).await;
    for millis in 1..=20 {
        let index = rafts[at].propose(None, entry(millis)).await.unwrap().index;
        let reader = rafts[(at + 1 + (millis as usize) % 2) % 3];
        reader.read_barrier().await.unwrap();
        assert!(reader.state().applied_index() >= index);
        rafts[at].read_barrier().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leader_is_replaced_and_comes_back_from_its_disk() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let mut nodes = start_all(&mut places).await;
    let at = leader_of(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
    let term = nodes[at].raft.status().term;
    for millis in 1..=50 {
        nodes[at].raft.propose(Some(term), entry(millis)).await.unwrap();
    }
    let applied = nodes[at].raft.state();

    // Nothing is proposed, and still the leader is heard.
    let idle = Instant::now();
    let is_heard = |raft: &Raft| raft.leader_silent_for().is_some_and(|silent| silent < idle.elapsed());
    let leader = nodes[at].raft.node_id();
    eventually("followers hear an idle leader", || {
        nodes.iter().filter(|node| node.raft.node_id() != leader).all(|node| is_heard(&node.raft))
    })
    .await;

    let killed_at = Instant::now();
    nodes.remove(at).kill().await;
    let rest: Vec<_> = nodes.iter().map(|node| &node.raft).collect();
    let new = leader_of(&rest).await;
    let proposed = rest[new].propose(None, entry(51)).await.unwrap();
    println!("first commit of the next leader after {:?}", killed_at.elapsed());
    let silent_for = rest[new].leader_silent_for().unwrap();
    assert!(silent_for < killed_at.elapsed() + harness::timing().election_max, "{silent_for:?}");
    assert!(proposed.term > term);
    assert!(rest[new].state().applied_index() > applied.applied_index());

    let back = places[at].start().await;
    in_step(&[rest[new], &back.raft]).await;
    assert_ne!(back.raft.status().role, Role::Leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_the_end_of_all_nodes() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let nodes = start_all(&mut places).await;
    let rafts: Vec<_> = nodes.iter().map(|node| &node.raft).collect();
    let leader = rafts[leader_of(&rafts).await];
    let mut last = 0;
    for millis in 1..=50 {
        last = leader.propose(None, entry(millis)).await.unwrap().index;
    }
    let (state, cluster) = (leader.state(), leader.cluster_id());
    for node in nodes {
        node.kill().await;
    }
    // Later starts ignore `peers`.
    places.iter_mut().for_each(|place| place.peers.clear());
    let nodes = start_all(&mut places).await;
    let rafts: Vec<_> = nodes.iter().map(|node| &node.raft).collect();
    let leader = rafts[leader_of(&rafts).await];
    leader.read_barrier().await.unwrap();
    assert!(leader.state().applied_index() >= last);
    assert_eq!((leader.state(), leader.cluster_id()), (state, cluster));
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_on_request_and_only_to_who_can_take_it() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let mut nodes = start_all(&mut places).await;
    let at = leader_of(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
    let next = (at + 1) % 3;
    let (old, new) = (nodes[at].raft.clone(), nodes[next].raft.clone());
    old.propose(None, entry(1)).await.unwrap();
    assert_eq!(old.transfer_leader(Some(9)).await, Err(TransferError::NotAVoter(9)));
    let asked_at = Instant::now();
    assert_eq!(old.transfer_leader(Some(new.node_id())).await, Ok(new.node_id()));
    println!("leadership moved within {:?}", asked_at.elapsed());
    eventually("the new leader has caught up", || new.leadership().borrow().is_leader).await;
    assert!(matches!(old.transfer_leader(None).await, Err(TransferError::NotLeader { .. })));

    let gone = nodes.remove(at);
    let gone_id = gone.raft.node_id();
    gone.kill().await;
    eventually("the dead node is known to be silent, the other to answer", || {
        let long = Duration::from_millis(200);
        let peers = new.status().peers;
        // One that died before it had answered this leader at all is as silent.
        let is_as_it_should = |peer: &crate::raft::PeerStatus| match peer.id == gone_id {
            true => peer.silent_for.is_none_or(|silence| silence > long),
            false => peer.silent_for.is_some_and(|silence| silence < long),
        };
        peers.len() == 2 && peers.iter().all(is_as_it_should)
    })
    .await;
    assert_eq!(new.transfer_leader(Some(gone_id)).await, Err(TransferError::NoCandidate));
    let third = new.transfer_leader(None).await.unwrap();
    assert!(third != gone_id && third != new.node_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_without_a_majority_knows_it_and_confirms_no_read() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let mut nodes = start_all(&mut places).await;
    let at = leader_of(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
    let leader = nodes.remove(at);
    for node in nodes {
        node.kill().await;
    }
    let lease = harness::timing().election_max;
    eventually("the leader misses its majority", || !leader.raft.quorum_acked_within(lease)).await;
    match leader.raft.propose(None, entry(1)).await {
        Err(ProposeError::NotLeader { leader: None }) => {}
        other => panic!("{other:?}"),
    }
    let read = timeout(Duration::from_millis(500), leader.raft.read_barrier()).await;
    assert!(matches!(read, Err(_) | Ok(Err(ReadError::Timeout))), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_another_cluster_or_for_another_node_are_refused() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 1, &harness::alone()).await;
    let nodes = start_all(&mut places).await;
    leader_of(&[&nodes[0].raft]).await;
    let connections = Connections::new(tcp_dialer());
    let channels = connections.to(&places[0].listen.to_string()).unwrap();
    let mut client = network::client(channels.control);
    let here = nodes[0].raft.cluster_id();
    let other = Some(ClusterId([9; 16]));
    for (cluster, to, message) in [
        (other, 1, format!("this call is for cluster {}", "09".repeat(16))),
        (None, 1, "this call is for cluster none".to_owned()),
        (here, 2, "this call is for node 2, this is node 1".to_owned()),
    ] {
        let call = client.read_index(guard::label(peer::ReadIndexRequest {}, cluster, 5, to)).await;
        let status = call.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(status.message().starts_with(&message), "{status:?}");
    }
    client.read_index(guard::label(peer::ReadIndexRequest {}, here, 5, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn copied_folder_is_refused_and_so_is_a_folder_in_use() {
    let root = TempDir::new().unwrap();
    let mut first = places(root.path(), 1, &harness::alone()).await;
    let node = first[0].start().await;
    leader_of(&[&node.raft]).await;
    assert!(matches!(first[0].options().err(), Some(StorageError::Locked { .. })));
    node.kill().await;
    let mut copy = places(root.path(), 2, &harness::timing()).await.remove(1);
    copy.dir = first[0].dir.clone();
    let refused = copy.try_start().await.err();
    assert!(
        matches!(
            refused,
            Some(OpenError::Fatal(FatalError::Storage(StorageError::OtherNode {
                found: 1,
                expected: 2,
                ..
            })))
        ),
        "{refused:?}"
    );
}

// On one thread nothing is answered between two submissions, however fast the machine is.
#[tokio::test]
async fn proposals_are_bounded_in_size_and_number() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 1, &harness::alone()).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    let mut fat = entry(1);
    let worker: std::sync::Arc<str> = "w".repeat(crate::raft::ENTRY_BYTES_MAX).into();
    fat.commands = vec![crate::state::Command::Renew { worker, lease_until: fat.at }];
    assert!(matches!(node.raft.propose(None, fat).await, Err(ProposeError::TooLarge { .. })));

    let mut fat = entry(1);
    let worker: std::sync::Arc<str> = "w".repeat(crate::raft::ENTRY_BYTES_MAX / 2).into();
    fat.commands = vec![crate::state::Command::Renew { worker, lease_until: fat.at }];
    let all: Vec<_> = (0..200).map(|_| node.raft.submit(None, fat.clone())).collect();
    let answers = timeout(PATIENCE, join_all(all)).await.unwrap();
    let overloaded = answers.iter().filter(|answer| matches!(answer, Err(ProposeError::Overloaded))).count();
    let done = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(overloaded > 0 && done > 0 && overloaded + done == 200, "{overloaded} + {done}");
    node.raft.propose(None, entry(2)).await.unwrap();
    eventually("a single node is its own majority", || {
        node.raft.quorum_acked_within(Duration::from_millis(300))
    })
    .await;
}

// On one thread nothing is answered between two submissions, however fast the machine is.
#[tokio::test]
async fn a_flood_of_changes_leaves_room_for_the_leaders_own() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 1, &harness::alone()).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    let term = node.raft.status().term;
    let mut fat = entry(1);
    let worker: std::sync::Arc<str> = "w".repeat(crate::raft::ENTRY_BYTES_MAX / 2).into();
    fat.commands = vec![crate::state::Command::Renew { worker, lease_until: fat.at }];
    let flood: Vec<_> = (0..200).map(|_| node.raft.submit(None, fat.clone())).collect();
    let own = node.raft.submit(Some(term), fat);
    let flood = timeout(PATIENCE, join_all(flood)).await.unwrap();
    assert!(flood.iter().any(|answer| matches!(answer, Err(ProposeError::Overloaded))));
    own.await.unwrap();
}
