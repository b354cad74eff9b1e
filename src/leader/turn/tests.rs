use std::collections::BTreeSet;

use tempfile::TempDir;

use super::*;
use crate::clock::trusted::TrustedClock;
use crate::leader::Hello;
use crate::metrics::Metrics;
use crate::raft::tests::harness::{alone, job_spec, leader_of, places};
use crate::state::{JobRef, Outcome, Request};

const LEASE: Duration = Duration::from_secs(8);

fn report() -> PendingReport {
    let run = RunId { job: crate::state::JobId(1), at: Timestamp::from_millis(1), seq: 0 };
    PendingReport {
        run,
        fence: 1,
        outcome: AttemptOutcome::Succeeded,
        report: Arc::default(),
        worker: "w1".into(),
        handed: None,
    }
}

fn the_loop(raft: &Raft) -> Loop {
    let options = LeaderOptions {
        node_id: 1,
        lease: LEASE,
        clock: TrustedClock::alone(),
        metrics: Arc::new(Metrics::new()),
    };
    Loop::new(raft.clone(), options, mpsc::channel(1).1, watch::channel(Arc::default()).0)
}

fn hello(worker: &str) -> Hello {
    Hello {
        worker: worker.into(),
        queues: Arc::new(BTreeSet::from(["default".into()])),
        labels: Arc::default(),
        kinds: Arc::new(BTreeSet::from(["exec".to_owned()])),
        slots: 1,
        held: BTreeSet::new(),
        version: "0.0.0".to_owned(),
        protocol: 1,
        takes_drain: true,
        node: None,
        connected_to: 1,
        address: String::new(),
        earlier: BTreeSet::new(),
        keeps_output: true,
    }
}

async fn apply(raft: &Raft, command: Command) -> Outcome {
    let entry = Entry { at: raft.state().now().plus(Duration::from_millis(1)), commands: vec![command] };
    raft.propose(None, entry).await.unwrap().applied.outcomes[0].clone()
}

/// A run of a job that comes on trigger alone.
async fn triggered(raft: &Raft) -> RunId {
    let spec = Arc::new(job_spec());
    let (namespace, name) = (spec.namespace.as_str().into(), spec.name.as_str().into());
    let put =
        Command::PutJob { spec: Arc::clone(&spec), next: None, request: Request::default(), reading: 0 };
    let Outcome::Put { job: id, .. } = apply(raft, put).await else { panic!("not put") };
    let job = JobRef { id, namespace, name };
    let trigger =
        Command::TriggerJob { job, request: Request::default(), params: [].into(), again: None, place: None };
    match apply(raft, trigger).await {
        Outcome::Triggered { run } => run,
        other => panic!("{other:?}"),
    }
}

async fn started(raft: &Raft, run: RunId, worker: &str) -> u64 {
    let lease_until = raft.state().now().plus(LEASE);
    match apply(raft, Command::Start { run, attempt: 1, worker: worker.into(), lease_until }).await {
        Outcome::Started { fence, .. } => fence,
        other => panic!("{other:?}"),
    }
}

/// Who asks may have read the end of a run already, from a state that the loop has not looked at.
#[tokio::test]
async fn a_list_of_workers_tells_of_all_that_was_applied_before_it_was_asked_for() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 1, &alone()).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    let mut this = the_loop(&node.raft);
    this.leading = Some((node.raft.status().term, Instant::now()));

    let run = triggered(&node.raft).await;
    started(&node.raft, run, "w1").await;
    let (answer, answered) = tokio::sync::oneshot::channel();
    this.hear(SessionEvent::Fleet(FleetAsk::List { answer }));
    let workers = answered.await.unwrap().unwrap();
    let seen: Vec<_> = workers.iter().map(|info| (info.worker.as_ref(), info.running)).collect();
    assert_eq!(seen, [("w1", 1)]);
}

/// The state in which a hung attempt has ended may be seen before the answer to its proposal is.
#[tokio::test]
async fn the_slot_of_an_attempt_that_the_cluster_closes_is_at_no_time_free() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 1, &alone()).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;
    let mut this = the_loop(&node.raft);
    let term = node.raft.status().term;
    this.leading = Some((term, Instant::now()));
    let run = triggered(&node.raft).await;
    let fence = started(&node.raft, run, "w1").await;
    this.look();
    let (outbox, mut told) = mpsc::channel(8);
    this.open(SessionId(1), hello("w1"), outbox);
    assert!(matches!(told.recv().await, Some(Message::Welcome { .. })));
    assert!(matches!(told.recv().await, Some(Message::Order { .. })));

    let outcome = AttemptOutcome::TimedOut;
    let complete =
        Command::Complete { run, fence, outcome, report: Arc::default(), retry_after: Duration::ZERO };
    let at = this.state.now();
    this.propose(term, at, vec![complete], Vec::new());
    let landed = this.answers.next().await.expect("its answer");
    this.look();
    let info = |this: &Loop| this.infos().into_iter().next().map(|info| (info.running, info.free));
    assert_eq!(info(&this), Some((0, 0)), "before the answer is looked at");
    this.sweep();
    this.land(landed);
    assert_eq!(info(&this), Some((0, 0)));
    let Ok(Message::Cancel { .. }) = told.try_recv() else { panic!("it is told to stop") };
    let report = Arc::default();
    this.hear(SessionEvent::Report { session: SessionId(1), run, fence, outcome, report, handed: None });
    assert_eq!(info(&this), Some((0, 1)));
}

/// A leader that is deposed and does not know it yet would otherwise propose, be refused, and propose
/// again as fast as it can.
#[tokio::test]
async fn a_refused_proposal_is_followed_by_a_pause() {
    let root = TempDir::new().unwrap();
    let mut places = places(root.path(), 1, &alone()).await;
    let node = places[0].start().await;
    leader_of(&[&node.raft]).await;

    let mut this = the_loop(&node.raft);
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
    this.refused_until = Some(before + LEASE);
    assert!(this.turn() > Duration::ZERO);
    assert!(this.answers.is_empty(), "nothing is proposed in the pause");
    this.refused_until = Some(before);
    this.turn();
    assert_eq!(this.answers.len(), 1, "then the report is proposed again");
}
