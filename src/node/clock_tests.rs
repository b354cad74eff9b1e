//! Nodes whose clocks jump, drift off or are wrong from the beginning.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Node, Surroundings, incoming};
use crate::clock::Clock;
use crate::clock::trusted::Standing;
use crate::config::{Config, Overrides};
use crate::pb::v1 as pb;
use crate::pb::v1::job_service_client::JobServiceClient;
use crate::raft::Raft;
use crate::state::time::Timestamp;

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: i64 = 3_600_000;

struct Cluster {
    rafts: Vec<Raft>,
    clocks: Vec<super::TrustedClock>,
    /// By how much each node's clock is off, in milliseconds.
    off: Vec<Arc<AtomicI64>>,
    address: String,
    stop: CancellationToken,
    _dir: TempDir,
}

/// Clocks that are off by so much; the others are right.
async fn start(off: [i64; 3]) -> Cluster {
    let dir = TempDir::new().unwrap();
    let mut listeners = Vec::new();
    for _ in off {
        let bound = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        listeners.push((bound().await, bound().await));
    }
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let peers: BTreeMap<u64, String> =
        (1..).zip(&listeners).map(|(id, (_, peers))| (id, address(peers))).collect();
    let listed: Vec<String> = peers.iter().map(|(id, peer)| format!("{id} = \"{peer}\"")).collect();
    let stop = CancellationToken::new();
    let mut cluster = Cluster {
        rafts: Vec::new(),
        clocks: Vec::new(),
        off: Vec::new(),
        address: address(&listeners[0].0),
        stop: stop.clone(),
        _dir: dir,
    };
    for ((id, (clients, peers)), off) in (1..).zip(listeners).zip(off) {
        let text = format!(
            "node_id = {id}\nlisten = \"{}\"\npeer_listen = \"{}\"\ndata_dir = \"{}\"\npeers = {{ {} }}\n",
            address(&clients),
            address(&peers),
            cluster._dir.path().join(format!("node-{id}")).display(),
            listed.join(", "),
        );
        let config = Config::read("test", &text, Overrides::default()).unwrap();
        let off = Arc::new(AtomicI64::new(off));
        let shown = Arc::clone(&off);
        let system = Clock::system();
        let wall = move || Timestamp::from_millis(system.now().millis() + shown.load(Ordering::Relaxed));
        let with = Surroundings::real(Clock::new(wall, id));
        let node = Node::open(&config, with, address(&clients)).await.unwrap();
        cluster.rafts.push(node.raft.clone());
        cluster.clocks.push(node.clock.clone());
        cluster.off.push(off);
        let stop = stop.clone();
        tokio::spawn(async move { node.serve(incoming(clients), incoming(peers), &config, stop).await });
    }
    cluster
}

impl Cluster {
    /// A job that is due each second.
    async fn apply(&self) {
        let every = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        let http = pb::HttpTarget { url: "http://127.0.0.1:9/".to_owned(), ..Default::default() };
        let job = pb::JobSpec {
            name: "each-second".to_owned(),
            schedule: vec![pb::Schedule { every, ..Default::default() }],
            target: Some(pb::Target { http: Some(http), ..pb::Target::default() }),
            ..Default::default()
        };
        let mut client = JobServiceClient::connect(format!("http://{}", self.address)).await.unwrap();
        let request = pb::ApplyJobsRequest { jobs: vec![job], ..Default::default() };
        let applied = client.apply_jobs(request).await.unwrap().into_inner();
        assert_eq!(applied.results.len(), 1, "{applied:?}");
    }

    /// Waits until a node leads that all follow and that is none of `but`.
    async fn leader(&self, but: &[usize]) -> usize {
        self.eventually("a leader", || {
            self.rafts
                .iter()
                .position(|raft| raft.leadership().borrow().is_leader)
                .filter(|at| !but.contains(at))
        })
        .await
    }

    async fn eventually<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check_time();
            if let Some(found) = found() {
                return found;
            }
            assert!(Instant::now() < deadline, "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The replicated time never gets ahead of the real one by more than a clock may be off.
    fn check_time(&self) {
        let now = Clock::system().now().plus(Duration::from_millis(510));
        for raft in &self.rafts {
            assert!(raft.state().now() <= now, "the replicated time is {}, it is {now}", raft.state().now());
        }
    }

    /// Waits until so many more instants of the job have fired.
    async fn fired(&self, more: i64) {
        let armed = || {
            let states = self.rafts.iter().map(Raft::state);
            states.filter_map(|state| Some(state.job_named("default", "each-second")?.armed()?.due_at)).max()
        };
        let from = self.eventually("the job is armed", armed).await;
        self.eventually("the job fires", || {
            armed().filter(|now| now.millis() >= from.millis() + more * 1_000)
        })
        .await;
    }

    async fn standing(&self, node: usize, wanted: impl Fn(Standing) -> bool) {
        let clock = &self.clocks[node];
        self.eventually("the standing", || wanted(*clock.standing().borrow()).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_jumps_hands_over_and_nothing_fires_early_or_stops() {
    let cluster = start([0; 3]).await;
    cluster.leader(&[]).await;
    cluster.apply().await;
    cluster.fired(1).await;
    for jump in [HOUR, -HOUR] {
        let leader = cluster.leader(&[]).await;
        cluster.off[leader].store(jump, Ordering::Relaxed);
        cluster.leader(&[leader]).await;
        cluster.fired(2).await;
        let astray = |standing| matches!(standing, Standing::Astray(by) if (by - jump).abs() < 500);
        cluster.standing(leader, astray).await;
        cluster.off[leader].store(0, Ordering::Relaxed);
        cluster.standing(leader, |standing| standing == Standing::Agrees).await;
    }
    cluster.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_with_a_wrong_clock_does_not_lead_even_if_it_forms_the_cluster() {
    let cluster = start([HOUR, 0, 0]).await;
    cluster.standing(0, |standing| matches!(standing, Standing::Astray(_))).await;
    cluster.leader(&[0]).await;
    cluster.apply().await;
    cluster.fired(2).await;
    cluster.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_all_set_together_are_believed() {
    let cluster = start([-HOUR; 3]).await;
    cluster.leader(&[]).await;
    cluster.apply().await;
    cluster.fired(1).await;
    for off in &cluster.off {
        off.store(0, Ordering::Relaxed);
    }
    cluster
        .eventually("the replicated time follows", || {
            let behind = Clock::system().now().since(cluster.rafts[0].state().now());
            (behind < Duration::from_secs(2)).then_some(())
        })
        .await;
    cluster.fired(1).await;
    cluster.stop.cancel();
}
