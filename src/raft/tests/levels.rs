//! Nodes of two releases in one cluster. The older is one that speaks the first level alone.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::time::timeout;

use super::harness::{self, Node, PATIENCE, Place, entry, eventually, in_step, leader_of, places, start_all};
use crate::config::RaftTiming;
use crate::raft::{
    FatalError, Hold, MembershipError, OpenError, ProposeError, Proposed, Raft, RaiseError, Speech,
};
use crate::state::level::{LevelError, Levels, SPOKEN, UNSPOKEN};
use crate::state::time::Timestamp;
use crate::state::{Command, Entry, Request};

const AT: Timestamp = Timestamp::from_millis(1_000);

fn older() -> Speech {
    Speech { levels: UNSPOKEN, ..Speech::default() }
}

fn raise() -> Entry {
    Entry { at: AT, commands: vec![Command::RaiseLevel { from: 0, to: SPOKEN.newest }] }
}

/// Proposes what the older release could not read.
async fn put_newer(raft: &Raft) -> Result<Proposed, ProposeError> {
    let mut spec = harness::job_spec();
    spec.every_node = true;
    let put = Command::PutJob { spec: Arc::new(spec), next: None, request: Request::default(), reading: 0 };
    raft.propose(None, Entry { at: AT, commands: vec![put] }).await
}

async fn raise_level(leader: &Raft) -> Result<u32, RaiseError> {
    let term = leader.leadership().borrow().term;
    leader.raise_level(term, AT).await
}

/// The one hold, of a cluster that has one.
fn held(raised: Result<u32, RaiseError>) -> Hold {
    match raised {
        Err(RaiseError::Held(hold)) => hold,
        other => panic!("{other:?}"),
    }
}

/// Three nodes of which the last is of the older release and does not lead.
async fn mixed(places: &mut [Place]) -> (Vec<Node>, usize) {
    places[2].speech = older();
    let nodes = start_all(places).await;
    let rafts: Vec<&Raft> = nodes.iter().map(|node| &node.raft).collect();
    let mut at = leader_of(&rafts).await;
    if at == 2 {
        nodes[2].raft.transfer_leader(Some(1)).await.unwrap();
        eventually("the newer node leads", || nodes[0].raft.leadership().borrow().is_leader).await;
        at = leader_of(&rafts).await;
    }
    (nodes, at)
}

fn names_older(error: &ProposeError) -> bool {
    let text = error.to_string();
    text.contains("`every_node` needs feature level 1, this cluster is at 0: ") && text.contains("node 3 ")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_rises_once_all_speak_it_and_what_needs_it_is_refused_until_then() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let (mut nodes, at) = mixed(&mut places).await;
    let leader = nodes[at].raft.clone();
    assert_eq!(held(raise_level(&leader).await).to_string(), "node 3 speaks up to 0 (release 0.1.0)");
    assert!(!leader.may_raise_level());
    let refused = put_newer(&leader).await.unwrap_err();
    assert!(names_older(&refused), "{refused}");
    let elsewhere = put_newer(&nodes[1 - at].raft).await.unwrap_err();
    assert!(matches!(elsewhere, ProposeError::NotLeader { leader: Some(_) }), "{elsewhere:?}");
    leader.propose(None, entry(2_000)).await.unwrap();
    in_step(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
    assert_eq!(leader.state().jobs_after(None).count(), 0, "nothing of it was appended");

    let old = nodes.pop().unwrap();
    old.kill().await;
    assert_eq!(held(raise_level(&leader).await), Hold::Silent(3), "one that is away may be of any release");
    assert_eq!(leader.state().level(), 0);

    places[2].speech = Speech::default();
    nodes.push(places[2].start().await);
    let mut raised = raise_level(&leader).await;
    // It is asked as soon as it listens.
    let waited = timeout(PATIENCE, async {
        while let Err(RaiseError::Held(_)) = raised {
            tokio::task::yield_now().await;
            raised = raise_level(&leader).await;
        }
    });
    waited.await.expect("the level is raised once the node answers");
    assert_eq!(raised.unwrap(), SPOKEN.newest);
    assert_eq!(leader.level_holds(), []);
    put_newer(&leader).await.unwrap();
    in_step(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
    assert_eq!(raise_level(&leader).await.unwrap(), SPOKEN.newest, "asked again it stays");
    assert_eq!(leader.state().level(), SPOKEN.newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_that_speaks_less_holds_the_level_as_a_voter_does() {
    let root = TempDir::new().unwrap();
    let (mut places, mut joiner) = with_joiner(root.path()).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    joiner.speech = older();
    let learner = joiner.start().await;
    node.raft.add_learner(2, &joiner.listen.to_string()).await.unwrap();
    let hold = held(raise_level(&node.raft).await);
    assert!(matches!(hold, Hold::Speaks { node_id: 2, newest: 0, .. }), "{hold:?}");
    assert!(put_newer(&node.raft).await.is_err());
    in_step(&[&node.raft, &learner.raft]).await;

    node.raft.remove(2).await.unwrap();
    assert_eq!(raise_level(&node.raft).await.unwrap(), SPOKEN.newest);
    put_newer(&node.raft).await.unwrap();
}

/// The place of a cluster of one, and that of a node that is to be added as its second.
async fn with_joiner(root: &Path) -> (Vec<Place>, Place) {
    let timing = RaftTiming { keep_entries: 1, ..harness::timing() };
    let mut places = places(root, 2, &timing).await;
    let mut joiner = places.pop().unwrap();
    joiner.peers.clear();
    places[0].peers.remove(&2);
    (places, joiner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_speaks_less_than_the_cluster_is_not_added() {
    let root = TempDir::new().unwrap();
    let (mut places, mut joiner) = with_joiner(root.path()).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    assert_eq!(raise_level(&node.raft).await.unwrap(), SPOKEN.newest);
    joiner.speech = older();
    let waiting = joiner.start().await;
    let address = joiner.listen.to_string();
    let refused = node.raft.add_learner(2, &address).await;
    let level = SPOKEN.newest;
    assert_eq!(refused, Err(MembershipError::Level { id: 2, speaks: UNSPOKEN, level }));
    assert!(
        refused.unwrap_err().to_string().starts_with("node 2 speaks feature levels 0, this cluster is at 1")
    );
    assert_eq!((node.raft.status().nodes.len(), waiting.raft.cluster_id()), (1, None), "nothing has changed");

    waiting.kill().await;
    joiner.speech = Speech::default();
    let newer = joiner.start().await;
    node.raft.add_learner(2, &address).await.unwrap();
    in_step(&[&node.raft, &newer.raft]).await;
    assert_eq!(newer.raft.state().level(), level);
}

fn too_new(error: &FatalError) -> bool {
    let named = LevelError::TooNew { level: SPOKEN.newest, newest: 0 };
    matches!(error, FatalError::Level(error) if *error == named)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_over_whose_head_the_level_is_raised_ends_by_name_and_so_does_its_next_start() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 3, &harness::timing()).await;
    let (mut nodes, at) = mixed(&mut places).await;
    let leader = nodes[at].raft.clone();
    leader.propose(None, entry(2_000)).await.unwrap();
    in_step(&nodes.iter().map(|node| &node.raft).collect::<Vec<_>>()).await;
    let old = nodes.pop().unwrap();
    // As if it had been exchanged for an older one after it was asked.
    leader.propose(None, raise()).await.unwrap();
    put_newer(&leader).await.unwrap();
    let ended = timeout(PATIENCE, old.raft.fatal()).await.expect("it ends");
    assert!(too_new(&ended), "{ended:?}");
    assert_eq!(old.raft.state().level(), 0);
    old.kill().await;

    // It met the entry before it stored it; the next release goes on from there, and writes it down.
    places[2].speech = Speech::default();
    let newer = places[2].start().await;
    in_step(&[&leader, &newer.raft]).await;
    newer.kill().await;
    places[2].speech = older();
    let refused = places[2].try_start().await.err();
    assert!(matches!(&refused, Some(OpenError::Fatal(error)) if too_new(error)), "{refused:?}");
    assert_eq!(leader.state().level(), SPOKEN.newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_carries_the_level_and_is_refused_by_who_speaks_less() {
    let root = TempDir::new().unwrap();
    let timing = RaftTiming { keep_entries: 1, ..harness::timing() };
    let mut places = places(root.path(), 3, &timing).await;
    let (mut nodes, at) = mixed(&mut places).await;
    let leader = nodes[at].raft.clone();
    nodes.pop().unwrap().kill().await;
    leader.propose(None, raise()).await.unwrap();
    for millis in 2_000..2_010 {
        leader.propose(None, entry(millis)).await.unwrap();
    }
    leader.snapshot_now().await.unwrap();
    eventually("the log is purged", || leader.status().purged_index > Some(3)).await;

    // All that it can get is a snapshot, or word of the level from those whom it asks.
    let old = places[2].start().await;
    let ended = timeout(PATIENCE, old.raft.fatal()).await.expect("it ends");
    assert!(too_new(&ended), "{ended:?}");
    assert_eq!(old.raft.state().level(), 0);
    old.kill().await;

    places[2].speech = Speech::default();
    let newer = places[2].start().await;
    in_step(&[&leader, &newer.raft]).await;
    assert!(newer.raft.status().snapshot_index.is_some(), "it came by snapshot");
    assert_eq!(newer.raft.state().level(), SPOKEN.newest);
    newer.kill().await;
    places[2].speech = older();
    let refused = places[2].try_start().await.err();
    assert!(matches!(&refused, Some(OpenError::Fatal(error)) if too_new(error)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_no_longer_speaks_the_level_says_which_way_leads_on() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 1, &harness::alone()).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    node.raft.snapshot_now().await.unwrap();
    node.kill().await;
    places[0].speech.levels = Levels { oldest: 1, newest: 2 };
    let refused = places[0].try_start().await.err().unwrap().to_string();
    assert!(
        refused.contains("this cluster is at feature level 0, this release speaks 1 and above"),
        "{refused}"
    );
    assert!(refused.contains("hint: upgrade all nodes to a release between the two first"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_of_another_cluster_ends_nobody() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 2, &harness::alone()).await;
    for place in &mut places {
        place.peers.retain(|id, _| *id == place.id);
    }
    places[0].speech = older();
    let (own, other) = (places[0].start().await, places[1].start().await);
    leader_of(&[&own.raft]).await;
    leader_of(&[&other.raft]).await;
    assert_eq!(raise_level(&other.raft).await.unwrap(), SPOKEN.newest);
    let refused = own.raft.add_learner(2, &places[1].listen.to_string()).await;
    assert!(matches!(refused, Err(MembershipError::NotPristine { id: 2, .. })), "{refused:?}");
    own.raft.propose(None, entry(2_000)).await.unwrap();
    assert_eq!(own.raft.said_by(2), None, "what it says is not said by a member");
}
