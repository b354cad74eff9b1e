use tempfile::TempDir;

use super::*;
use crate::clock::trusted::TrustedClock;
use crate::metrics::Metrics;
use crate::raft::tests::harness::{alone, leader_of, places};

fn report() -> PendingReport {
    let run = RunId { job: crate::state::JobId(1), at: Timestamp::from_millis(1), seq: 0 };
    PendingReport {
        run,
        fence: 1,
        outcome: AttemptOutcome::Succeeded,
        report: Arc::default(),
        worker: "w1".into(),
    }
}

/// A leader that is deposed and does not know it yet would otherwise propose, be refused, and propose
/// again as fast as it can.
#[tokio::test]
async fn a_refused_proposal_is_followed_by_a_pause() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 1, &alone()).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;

    let metrics = Arc::new(Metrics::new());
    let lease = Duration::from_secs(8);
    let options = LeaderOptions { node_id: 1, lease, clock: TrustedClock::alone(), metrics };
    let (_events, inbox) = mpsc::channel(1);
    let mut this = Loop::new(node.raft.clone(), options, inbox, watch::channel(Arc::default()).0);
    // A term that this node does not lead.
    this.leading = Some((node.raft.status().term + 1, Instant::now()));
    this.reports.push(report());
    this.turn();
    assert_eq!(this.answers.len(), 2, "the beginning of the term, and the report");

    let mut refused = Vec::new();
    while let Some(landed) = this.answers.next().await {
        assert!(matches!(landed.result, Err(ProposeError::NotLeader { .. })), "{:?}", landed.result);
        refused.push(landed);
    }
    let before = Instant::now();
    refused.into_iter().for_each(|landed| this.land(landed));
    assert!(this.refused_until.is_some_and(|until| until >= before + REFUSED));
    // As if the machine were so slow that the pause lasted longer than this test.
    this.refused_until = Some(before + lease);
    assert!(this.turn() > Duration::ZERO);
    assert!(this.answers.is_empty(), "nothing is proposed in the pause");
    this.refused_until = Some(before);
    this.turn();
    assert_eq!(this.answers.len(), 1, "then the report is proposed again");
}
