//! Nodes of a cluster in one process: real log, real snapshots, real gRPC over loopback; the run log is in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use prost::bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::RaftTiming;
use crate::raft::{
    ClusterId, NodeAddress, OpenError, Raft, RaftOptions, RunLogGap, RunSink, Speech, StoredRun, incoming,
    serve, tcp_dialer,
};
use crate::state::run::Run;
use crate::state::spec::{
    BreakerPolicy, CatchUp, CatchUpRuns, JobSpec, Keep, OnExcluded, OnLost, OnOpen, OnResume, Overlap,
    OverlapPolicy, Program, Retention, Retry, Target,
};
use crate::state::time::Timestamp;
use crate::state::{Command, Entry};
use crate::storage::{DataDir, StorageError};

/// Nothing in these tests takes longer; a machine under load may.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A run log in memory that forgets, on a crash, what was not made durable.
#[derive(Default)]
pub(super) struct MemoryRunLog {
    now: Mutex<Contents>,
    durable: Mutex<Contents>,
    /// Whether it fails from here on.
    pub(super) broken: AtomicBool,
}

#[derive(Clone, Default)]
pub(super) struct Contents {
    pub(super) runs: BTreeMap<(u64, Bytes), Bytes>,
    pub(super) gap: Option<RunLogGap>,
}

impl MemoryRunLog {
    pub(super) fn contents(&self) -> Contents {
        self.now.lock().unwrap().clone()
    }

    fn crash(&self) {
        *self.now.lock().unwrap() = self.durable.lock().unwrap().clone();
    }

    fn sync(&self) {
        *self.durable.lock().unwrap() = self.now.lock().unwrap().clone();
    }
}

impl RunSink for MemoryRunLog {
    fn append(&self, index: u64, runs: Vec<Arc<Run>>) -> BoxFuture<'_, Result<(), StorageError>> {
        if self.broken.load(Ordering::Relaxed) {
            return Box::pin(async { Err(StorageError::Closed) });
        }
        let mut now = self.now.lock().unwrap();
        for run in runs {
            now.runs.insert((index, run.id.to_string().into()), run.encode().into());
        }
        Box::pin(async { Ok(()) })
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        self.sync();
        Box::pin(async { Ok(()) })
    }

    fn complete(&self, _through: u64) -> BoxFuture<'_, Result<(), StorageError>> {
        self.barrier()
    }

    fn failed(&self) -> BoxFuture<'static, StorageError> {
        Box::pin(std::future::pending())
    }

    fn gap(&self) -> Option<RunLogGap> {
        self.now.lock().unwrap().gap
    }

    fn set_gap(&self, gap: Option<RunLogGap>) -> BoxFuture<'_, Result<(), StorageError>> {
        self.now.lock().unwrap().gap = gap;
        self.sync();
        Box::pin(async { Ok(()) })
    }

    fn fill(&self, runs: Vec<StoredRun>) -> BoxFuture<'_, Result<(), StorageError>> {
        let mut now = self.now.lock().unwrap();
        for run in runs {
            now.runs.entry((run.index, run.key)).or_insert(run.value);
        }
        Box::pin(async { Ok(()) })
    }

    fn read(
        &self,
        gap: RunLogGap,
        cursor: Option<(u64, Bytes)>,
        _max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredRun>, StorageError>> {
        let now = self.now.lock().unwrap();
        let wanted = now.runs.iter().filter(|((index, _), _)| gap.after < *index && *index <= gap.through);
        let beyond = wanted.filter(|(place, _)| cursor.as_ref().is_none_or(|cursor| *place > cursor));
        // Two a piece, so that a few runs already take several.
        let runs = beyond.take(2).map(|((index, key), value)| StoredRun {
            index: *index,
            key: key.clone(),
            value: value.clone(),
        });
        let runs = runs.collect();
        Box::pin(async { Ok(runs) })
    }
}

/// So long that no leader is deposed whom the test leaves alone, however busy the machine is.
pub(crate) fn timing() -> RaftTiming {
    RaftTiming {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(1_000),
        election_max: Duration::from_millis(1_500),
        ..RaftTiming::default()
    }
}

/// Short times, for a node that is alone: nobody can depose it.
pub(crate) fn alone() -> RaftTiming {
    RaftTiming {
        election_min: Duration::from_millis(200),
        election_max: Duration::from_millis(300),
        ..timing()
    }
}

/// A place where a node can run, again and again: its folder, its port and its run log.
pub(crate) struct Place {
    pub(super) id: u64,
    pub(super) dir: PathBuf,
    pub(super) listen: SocketAddr,
    pub(super) peers: BTreeMap<u64, String>,
    pub(super) timing: RaftTiming,
    pub(super) run_log: Arc<MemoryRunLog>,
    pub(super) speech: Speech,
    reserved: Option<TcpListener>,
}

/// A node that runs.
pub(crate) struct Node {
    pub(crate) raft: Raft,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

/// Places for nodes 1 to `count` under `root`, each with the same first members.
pub(crate) async fn places(root: &Path, count: u64, timing: &RaftTiming) -> Vec<Place> {
    let mut places = Vec::new();
    for id in 1..=count {
        let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = reserved.local_addr().unwrap();
        let dir = root.join(format!("node-{id}"));
        let (timing, run_log) = (timing.clone(), Arc::default());
        let reserved = Some(reserved);
        let speech = Speech::default();
        places.push(Place { id, dir, listen, peers: BTreeMap::new(), timing, run_log, speech, reserved });
    }
    let peers: BTreeMap<u64, String> =
        places.iter().map(|place| (place.id, place.listen.to_string())).collect();
    places.iter_mut().for_each(|place| place.peers = peers.clone());
    places
}

impl Place {
    pub(super) fn options(&self) -> Result<RaftOptions, StorageError> {
        let run_log = Arc::clone(&self.run_log);
        Ok(RaftOptions {
            node_id: self.id,
            address: NodeAddress {
                peer_address: self.listen.to_string(),
                address: format!("clients-of-{}", self.id),
            },
            timing: self.timing.clone(),
            data_dir: Arc::new(DataDir::lock(&self.dir)?),
            run_log: Box::new(move || Ok(run_log as Arc<dyn RunSink>)),
            dialer: tcp_dialer(),
            initial_peers: self.peers.clone(),
            fresh_cluster_id: ClusterId([self.id as u8; 16]),
            read_clock: Arc::new(|| Timestamp::from_millis(0)),
            elects: true,
            observer: None,
            speech: self.speech,
        })
    }

    /// Starts the node, as after a crash: what its run log had not made durable is gone.
    pub(super) async fn try_start(&mut self) -> Result<Node, OpenError> {
        self.run_log.crash();
        let listener = match self.reserved.take() {
            Some(listener) => listener,
            None => TcpListener::bind(self.listen).await.unwrap(),
        };
        let raft = Raft::open(self.options()?).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let served = serve(raft.clone(), incoming(listener), async {
            let _ = stopped.await;
        });
        let server = tokio::spawn(async move { served.await.unwrap() });
        Ok(Node { raft, stop, server })
    }

    pub(crate) async fn start(&mut self) -> Node {
        self.try_start().await.unwrap()
    }
}

impl Node {
    /// Ends the node without a word to the others: nobody is asked to take over.
    pub(super) async fn kill(self) {
        self.raft.shutdown().await;
        // Closes the connections as well, as the end of a process would.
        let _ = self.stop.send(());
        let closed = timeout(PATIENCE, self.server).await;
        assert!(closed.is_ok(), "the peer listener closes");
    }
}

/// Starts all nodes.
pub(super) async fn start_all(places: &mut [Place]) -> Vec<Node> {
    let mut nodes = Vec::new();
    for place in places {
        nodes.push(place.start().await);
    }
    nodes
}

/// Waits until `condition` holds, and fails with `what` when it does not in time.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "in vain: {what}");
}

/// Waits for a leader that all of `nodes` follow; returns its place among them.
pub(crate) async fn leader_of(nodes: &[&Raft]) -> usize {
    let mut found = None;
    eventually("a leader that all follow", || {
        found = nodes.iter().position(|raft| raft.leadership().borrow().is_leader);
        let leader = found.map(|at| nodes[at].node_id());
        leader.is_some()
            && nodes.iter().all(|raft| {
                let leadership = raft.leadership();
                let leadership = leadership.borrow();
                leadership.leader.as_ref().map(|(id, _)| *id) == leader
            })
    })
    .await;
    found.unwrap()
}

/// Waits until all nodes have applied what any of them has.
pub(super) async fn in_step(nodes: &[&Raft]) {
    let applied = |raft: &&Raft| *raft.watch_applied().borrow();
    let furthest = nodes.iter().map(applied).max().unwrap();
    eventually("all nodes apply the same", || nodes.iter().all(|raft| applied(raft) >= furthest)).await;
    for raft in nodes {
        assert_eq!(raft.state(), nodes[0].state());
    }
}

/// An entry that can be told from others by its stamp.
pub(crate) fn entry(millis: i64) -> Entry {
    let command = Command::Lead { node: 1, term: u64::try_from(millis).unwrap(), silent_for: None };
    Entry { at: Timestamp::from_millis(millis), commands: vec![command] }
}

/// Whether a connection to `address` is refused.
pub(super) async fn is_deaf(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_err()
}

/// A place with everything given.
pub(super) fn place_at(root: &Path, id: u64, listen: SocketAddr, peers: BTreeMap<u64, String>) -> Place {
    let dir = root.join(format!("node-{id}"));
    let speech = Speech::default();
    Place { id, dir, listen, peers, timing: timing(), run_log: Arc::default(), speech, reserved: None }
}

impl Place {
    /// Opens the node but answers nobody.
    pub(super) async fn start_without_listening(&mut self) -> Raft {
        Raft::open(self.options().unwrap()).await.unwrap()
    }
}

/// A job that runs on trigger alone.
pub(crate) fn job_spec() -> JobSpec {
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    JobSpec {
        namespace: "default".to_owned(),
        name: "job".to_owned(),
        description: String::new(),
        labels: BTreeMap::new(),
        schedules: Vec::new(),
        target: Target::Exec {
            program: Program::Command(vec!["true".to_owned()]),
            env: BTreeMap::new(),
            cwd: None,
            stdin: None,
        },
        queue: "default".to_owned(),
        requires: BTreeMap::new(),
        timeout: hour,
        retry: Retry {
            max_attempts: 1,
            initial: second,
            multiplier_milli: 2000,
            max: hour,
            jitter_milli: 0,
            on: Vec::new(),
        },
        catch_up: CatchUp { runs: CatchUpRuns::None, window: hour, max: 1 },
        start_within: None,
        overlap: Overlap { policy: OverlapPolicy::Allow, limit: 1, keep: Keep::Newest, max_parallel: 100 },
        on_lost: OnLost::Fail,
        on_resume: OnResume::Skip,
        params: [].into(),
        limits: None,
        after: None,
        priority: 0,
        every_node: false,
        on_excluded: OnExcluded::Skip,
        breaker: BreakerPolicy {
            name: None,
            consecutive_failures: 5,
            failure_rate_milli: 500,
            minimum_attempts: 10,
            window: hour,
            open_for: second,
            max_open_for: hour,
            probes: 1,
            on_open: OnOpen::Skip,
        },
        retention: Retention { runs: 100, age: hour },
    }
}
