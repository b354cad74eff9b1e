//! A worker against a leader of the tests' making, over real connections and with real processes.
//!
//! Each test has fences of its own: `target` knows the processes of an attempt by its run and fence, and the tests
//! run in one process.

mod output;

use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::fake_leader::{Mode, Node, within};
use super::*;
use crate::pb::v1 as pb;
use crate::pb::v1::leader_message::Kind as FromLeader;
use crate::target::{Targets, TargetsConfig};

/// A worker, and the folder in which its attempts leave their traces.
struct Bench {
    folder: tempfile::TempDir,
    status: watch::Receiver<WorkerStatus>,
    shutdown: CancellationToken,
    end: JoinHandle<WorkerEnd>,
}

fn options(endpoints: &[&str]) -> WorkerOptions {
    WorkerOptions {
        name: "worker-1/1".to_owned(),
        queues: BTreeSet::from(["default".to_owned()]),
        labels: BTreeMap::new(),
        kinds: BTreeSet::from(["exec".to_owned()]),
        slots: 2,
        endpoints: endpoints.iter().map(|&endpoint| endpoint.to_owned()).collect(),
        dialer: Dialer::tcp(),
        seed: 1,
        drain_grace: DRAIN_GRACE_DEFAULT,
        node: None,
        version: "0.0.0".to_owned(),
        spool: None,
    }
}

impl Bench {
    fn start(options: WorkerOptions) -> Self {
        Self::with(options, TargetsConfig { allow_exec: true, ..TargetsConfig::default() })
    }

    fn with(options: WorkerOptions, config: TargetsConfig) -> Self {
        let targets = Arc::new(Targets::new(&config).expect("a valid configuration"));
        let worker = Worker::new(options, targets.into()).expect("valid options");
        let (status, shutdown) = (worker.status(), CancellationToken::new());
        let end = tokio::spawn(worker.run(shutdown.clone()));
        Self { folder: tempfile::tempdir().expect("a folder"), status, shutdown, end }
    }

    /// An attempt that notes its fence in the file `RUN` and waits until there is a file `RUN.gate`.
    fn gated(&self, run_id: &str, fence: u64) -> FromLeader {
        self.shell(run_id, fence, "while [ ! -e $CHRONARCH_RUN_ID.gate ]; do sleep 0.01; done")
    }

    fn shell(&self, run_id: &str, fence: u64, script: &str) -> FromLeader {
        let exec = pb::ExecTarget {
            shell: format!("echo $CHRONARCH_FENCE >> $CHRONARCH_RUN_ID; {script}"),
            cwd: self.folder.path().display().to_string(),
            ..pb::ExecTarget::default()
        };
        FromLeader::Order(pb::Order {
            run_id: run_id.to_owned(),
            fence,
            attempt: 1,
            namespace: "default".to_owned(),
            job: "job".to_owned(),
            scheduled_at: Some(prost_types::Timestamp { seconds: 1_774_746_000, nanos: 0 }),
            target: Some(pb::Target { exec: Some(exec), ..pb::Target::default() }),
            ..pb::Order::default()
        })
    }

    fn open_gate(&self, run_id: &str) {
        std::fs::write(self.path(run_id).with_extension("gate"), "").expect("writable");
    }

    /// The fences of the attempts of a run that were started, in their order.
    fn traces(&self, run_id: &str) -> Vec<u64> {
        let read = std::fs::read_to_string(self.path(run_id)).unwrap_or_default();
        read.lines().map(|line| line.parse().expect("a fence")).collect()
    }

    fn path(&self, run_id: &str) -> PathBuf {
        Path::new(self.folder.path()).join(run_id)
    }

    async fn until(&mut self, holds: impl FnMut(&WorkerStatus) -> bool) {
        within(self.status.wait_for(holds)).await.expect("the worker lives");
    }

    async fn ended(self) -> WorkerEnd {
        within(self.end).await.expect("no panic")
    }
}

fn cancel(run_id: &str, fence: u64) -> FromLeader {
    FromLeader::Cancel(pb::Cancel { run_id: run_id.to_owned(), fence })
}

#[tokio::test]
async fn after_a_broken_stream_the_attempt_goes_on_and_is_not_started_again() {
    let mut node = Node::start(Mode::Leads).await;
    let mut bench = Bench::start(options(&[&node.address]));
    let first = node.session().await;
    assert_eq!(first.held(), []);
    assert_eq!(first.hello.slots, 2);
    first.tell(bench.gated("run", 107)).await;
    first.tell(bench.gated("run", 107)).await;
    bench.until(|status| status.running == 1).await;
    drop(first);

    let mut second = node.session().await;
    assert_eq!(second.held(), [("run", 107)]);
    second.tell(bench.gated("run", 107)).await;
    bench.open_gate("run");
    let report = second.report().await;
    assert_eq!((report.run_id.as_str(), report.fence), ("run", 107));
    assert_eq!((report.outcome(), report.exit_code), (pb::Outcome::Succeeded, Some(0)));
    second.acknowledge(&report).await;
    bench.until(|status| status.unacknowledged == 0).await;
    second.tell(bench.gated("run", 107)).await;
    second.tell(bench.shell("next", 108, "true")).await;
    assert_eq!(second.report().await.run_id, "next", "orders are read in turn, so the late one was read");
    assert_eq!(bench.traces("run"), [107]);
}

#[tokio::test]
async fn a_report_is_repeated_to_each_leader_until_one_acknowledges_it() {
    let mut node = Node::start(Mode::Leads).await;
    let mut bench = Bench::start(options(&[&node.address]));
    let mut first = node.session().await;
    first.tell(bench.shell("run", 207, "echo out; exit 3")).await;
    let report = first.report().await;
    assert_eq!((report.outcome(), report.exit_code), (pb::Outcome::Failed, Some(3)), "{report:?}");
    assert_eq!(report.output, b"out\n");
    drop(first);
    let mut second = node.session().await;
    assert_eq!(second.held(), [("run", 207)]);
    assert_eq!(second.report().await, report);
    second.acknowledge(&report).await;
    bench.until(|status| status.unacknowledged == 0).await;
    drop(second);
    assert_eq!(node.session().await.held(), []);
}

#[tokio::test]
async fn a_worker_that_knows_one_follower_finds_the_leader() {
    let mut leader = Node::start(Mode::Leads).await;
    let follower = Node::start(Mode::Follows(leader.address.clone())).await;
    let mut bench = Bench::start(options(&[&follower.address]));
    let session = leader.session().await;
    let address = leader.address.clone();
    bench.until(|status| status.leader.as_deref() == Some(&address) && status.term == 3).await;
    drop(session);
    leader.session().await;
}

#[tokio::test]
async fn a_worker_is_at_the_next_leader_soon_after_it_leads() {
    let mut old = Node::start(Mode::Leads).await;
    let mut new = Node::start(Mode::Follows(old.address.clone())).await;
    let mut bench = Bench::start(options(&[&old.address, &new.address]));
    let session = old.session().await;
    bench.until(|status| status.leader.is_some()).await;
    old.mode.send_replace(Mode::Follows(String::new()));
    drop(session);
    bench.until(|status| status.leader.is_none()).await;
    // A takeover's time, in which nobody leads.
    assert!(timeout(Duration::from_millis(300), new.sessions.recv()).await.is_err());
    let leads_at = Instant::now();
    new.mode.send_replace(Mode::Leads);
    new.session().await;
    println!("at the new leader {:?} after it led", leads_at.elapsed());
}

#[tokio::test]
async fn a_node_that_accepts_and_says_nothing_is_passed_over() {
    let hung = Node::start(Mode::Hangs).await;
    let mut leader = Node::start(Mode::Leads).await;
    let _bench = Bench::start(options(&[&hung.address, &leader.address]));
    leader.session().await;
    let mut elsewhere = options(&[&leader.address, &hung.address]);
    elsewhere.name = "worker-1/2".to_owned();
    let _other = Bench::start(elsewhere);
    leader.session().await;
}

#[tokio::test]
async fn a_leader_that_falls_silent_is_left() {
    let mut node = Node::start(Mode::Mute).await;
    let _bench = Bench::start(options(&[&node.address]));
    let first = node.session().await;
    let _second = node.session().await;
    within(first.outbox.closed()).await;
}

#[tokio::test]
async fn a_larger_fence_takes_the_place_of_the_older_attempt() {
    let mut node = Node::start(Mode::Leads).await;
    let mut bench = Bench::start(options(&[&node.address]));
    let mut session = node.session().await;
    session.tell(bench.gated("run", 707)).await;
    bench.until(|status| status.running == 1).await;
    while bench.traces("run").is_empty() {
        tokio::task::yield_now().await;
    }
    session.tell(bench.shell("run", 709, "true")).await;
    let (old, new) = (session.report().await, session.report().await);
    assert_eq!((old.fence, old.outcome()), (707, pb::Outcome::Cancelled), "{old:?}");
    assert_eq!((new.fence, new.outcome()), (709, pb::Outcome::Succeeded));
    assert_eq!(bench.traces("run"), [707, 709]);
}

#[tokio::test]
async fn a_cancelled_attempt_is_stopped_and_reported() {
    let mut node = Node::start(Mode::Leads).await;
    let mut bench = Bench::start(options(&[&node.address]));
    let mut session = node.session().await;
    session.tell(bench.gated("run", 807)).await;
    bench.until(|status| status.running == 1).await;
    session.tell(cancel("run", 807)).await;
    assert_eq!(session.report().await.outcome(), pb::Outcome::Cancelled);
    session.tell(cancel("never-ordered", 808)).await;
    let report = session.report().await;
    assert_eq!((report.run_id.as_str(), report.outcome()), ("never-ordered", pb::Outcome::Cancelled));
}

#[tokio::test]
async fn no_more_attempts_run_than_there_are_slots() {
    let mut node = Node::start(Mode::Leads).await;
    let mut bench = Bench::start(options(&[&node.address]));
    let mut session = node.session().await;
    for run in ["a", "b", "c"] {
        session.tell(bench.gated(run, 907)).await;
    }
    bench.until(|status| (status.running, status.waiting) == (2, 1)).await;
    assert!(bench.traces("c").is_empty());
    bench.open_gate("a");
    assert_eq!(session.report().await.run_id, "a");
    bench.until(|status| (status.running, status.waiting) == (2, 0)).await;
    bench.open_gate("c");
    assert_eq!(session.report().await.run_id, "c");
}

#[tokio::test]
async fn nothing_begins_before_the_leader_has_answered_and_what_it_gave_up_never_does() {
    let mut node = Node::start(Mode::Mute).await;
    let mut bench = Bench::start(options(&[&node.address]));
    let first = node.session().await;
    first.tell(bench.shell("given-up", 1007, "true")).await;
    first.tell(bench.shell("wanted", 1007, "true")).await;
    bench.until(|status| status.waiting == 2).await;
    drop(first);
    let mut second = node.session().await;
    assert_eq!(second.held(), [("given-up", 1007), ("wanted", 1007)]);
    second.tell(cancel("given-up", 1007)).await;
    assert_eq!(second.report().await.outcome(), pb::Outcome::Cancelled);
    assert_eq!(bench.status.borrow().running, 0);
    node.mode.send_replace(Mode::Leads);
    let report = second.report().await;
    assert_eq!((report.run_id.as_str(), report.outcome()), ("wanted", pb::Outcome::Succeeded));
    assert!(bench.traces("given-up").is_empty());
    assert_eq!(bench.traces("wanted"), [1007]);
}

#[tokio::test]
async fn a_drain_waits_for_what_runs_and_for_its_acknowledgement() {
    let mut node = Node::start(Mode::Leads).await;
    let mut bench = Bench::start(options(&[&node.address]));
    let mut session = node.session().await;
    session.tell(bench.gated("run", 1107)).await;
    bench.until(|status| status.running == 1).await;
    bench.shutdown.cancel();
    assert_eq!(session.drain().await.asked_at, None);
    drop(session);
    let mut session = node.session().await;
    assert_eq!(session.held(), [("run", 1107)]);
    assert_eq!(session.drain().await.asked_at, None, "each leader is told");
    bench.open_gate("run");
    let report = session.report().await;
    assert_eq!(report.outcome(), pb::Outcome::Succeeded, "{report:?}");
    assert!(!bench.end.is_finished());
    session.acknowledge(&report).await;
    assert!(bench.ended().await.is_clean());
}

#[tokio::test]
async fn a_draining_worker_stays_until_no_order_can_be_under_way() {
    let mut node = Node::start(Mode::Leads).await;
    let mut bench = Bench::start(options(&[&node.address]));
    let mut session = node.session().await;
    session.tell(bench.shell("before", 1206, "true")).await;
    let confirmed = session.report().await;
    session.acknowledge(&confirmed).await;
    bench.until(|status| status.unacknowledged == 0).await;
    node.mode.send_replace(Mode::Mute);
    bench.shutdown.cancel();
    assert_eq!(session.drain().await.asked_at, None);
    session.tell(bench.shell("crossed", 1207, "true")).await;
    let report = session.report().await;
    assert_eq!(report.outcome(), pb::Outcome::Succeeded, "the order crossed the drain");
    session.acknowledge(&report).await;
    bench.until(|status| status.unacknowledged == 0).await;
    assert!(!bench.end.is_finished(), "another may be under way");
    node.mode.send_replace(Mode::Leads);
    assert!(bench.ended().await.is_clean());
}

#[tokio::test]
async fn what_a_drain_does_not_wait_for_is_stopped_and_reported_as_lost() {
    let mut node = Node::start(Mode::Leads).await;
    let mut short = options(&[&node.address]);
    (short.drain_grace, short.slots) = (Duration::ZERO, 1);
    let mut bench = Bench::start(short);
    let mut session = node.session().await;
    session.tell(bench.gated("runs", 1307)).await;
    session.tell(bench.gated("waits", 1308)).await;
    bench.until(|status| (status.running, status.waiting) == (1, 1)).await;
    bench.shutdown.cancel();
    assert_eq!(session.drain().await.asked_at, None);
    for run_id in ["waits", "runs"] {
        let report = session.report().await;
        assert_eq!((report.run_id.as_str(), report.outcome()), (run_id, pb::Outcome::Lost));
        session.acknowledge(&report).await;
    }
    assert_eq!(bench.ended().await, WorkerEnd { stopped: 2, unacknowledged: 0 });
}

fn told_to_drain() -> pb::Drain {
    let asked_at = Some(prost_types::Timestamp { seconds: 1_774_746_000, nanos: 0 });
    pb::Drain { actor: "mara".to_owned(), reason: "new disks".to_owned(), asked_at }
}

#[tokio::test]
async fn a_worker_that_is_asked_to_drain_finishes_what_it_holds_and_ends() {
    let mut node = Node::start(Mode::Leads).await;
    let mut short = options(&[&node.address]);
    // What is asked for has no limit.
    short.drain_grace = Duration::ZERO;
    let mut bench = Bench::start(short);
    let mut session = node.session().await;
    session.tell(bench.gated("run", 1_407)).await;
    bench.until(|status| status.running == 1).await;
    session.tell(FromLeader::Drain(told_to_drain())).await;
    assert_eq!(session.drain().await, told_to_drain(), "it is confirmed with who asked, and why");
    drop(session);
    let mut session = node.session().await;
    assert_eq!(session.drain().await, told_to_drain(), "the next leader is told so too");
    assert!(!bench.end.is_finished());
    bench.open_gate("run");
    let report = session.report().await;
    session.acknowledge(&report).await;
    assert!(bench.ended().await.is_clean());
}

#[tokio::test]
async fn a_worker_of_a_node_stays_when_it_has_drained_and_takes_orders_again_when_told() {
    let mut node = Node::start(Mode::Leads).await;
    let mut part = options(&[&node.address]);
    part.node = Some(1);
    let mut bench = Bench::start(part);
    let mut session = node.session().await;
    assert_eq!(session.hello.node_id, 1);
    session.tell(FromLeader::Drain(told_to_drain())).await;
    session.drain().await;
    session.tell(FromLeader::Resume(pb::Resume {})).await;
    let mut session = node.session().await;
    bench.until(|status| !status.draining && status.leader.is_some()).await;
    session.tell(bench.shell("run", 1_507, "true")).await;
    assert_eq!(session.report().await.outcome(), pb::Outcome::Succeeded);
    bench.shutdown.cancel();
    assert_eq!(session.drain().await.asked_at, None, "its node ends");
}

#[tokio::test]
async fn where_the_leader_cannot_be_reached_a_node_carries_the_stream() {
    let far = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = far.local_addr().expect("bound").to_string();
    drop(far);
    let mut node = Node::start(Mode::Carries(address)).await;
    let mut bench = Bench::start(options(&[&node.address]));
    let mut session = node.session().await;
    bench.until(|status| status.carried_by == Some(7)).await;
    session.tell(bench.shell("run", 1_607, "true")).await;
    assert_eq!(session.report().await.outcome(), pb::Outcome::Succeeded);
}

#[tokio::test]
async fn a_leader_that_can_be_reached_is_asked_before_a_node_that_would_carry() {
    let mut leader = Node::start(Mode::Leads).await;
    let node = Node::start(Mode::Carries(leader.address.clone())).await;
    let mut bench = Bench::start(options(&[&node.address]));
    let session = leader.session().await;
    assert!(session.hello.leader_only);
    bench.until(|status| status.leader.is_some() && status.carried_by.is_none()).await;
}

#[tokio::test]
async fn a_worker_without_a_leader_ends_when_it_is_told_to() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("bound").to_string();
    drop(silent);
    let bench = Bench::start(options(&[&address]));
    bench.shutdown.cancel();
    assert!(bench.ended().await.is_clean());
}

#[test]
fn options_out_of_bounds_are_refused_by_name() {
    let valid = || options(&["127.0.0.1:7401"]);
    assert_eq!(valid().check(), Ok(()));
    let with = |change: fn(&mut WorkerOptions)| {
        let mut options = valid();
        change(&mut options);
        options.check()
    };
    assert_eq!(with(|options| options.slots = 0), Err(OptionsError::Slots(0)));
    assert_eq!(with(|options| options.slots = SLOTS_MAX + 1), Err(OptionsError::Slots(SLOTS_MAX + 1)));
    assert_eq!(with(|options| options.queues.clear()), Err(OptionsError::Missing("queues")));
    assert_eq!(with(|options| options.name.clear()), Err(OptionsError::Length("name")));
    let no_port = with(|options| options.endpoints = vec!["localhost".to_owned()]);
    assert_eq!(no_port, Err(OptionsError::Endpoint("localhost".to_owned())));
    let many = with(|options| options.endpoints = vec!["a:1".to_owned(); ENDPOINTS_MAX + 1]);
    assert_eq!(many, Err(OptionsError::TooMany { field: "endpoints", count: 65, max: ENDPOINTS_MAX }));
}
