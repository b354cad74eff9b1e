//! Workers of the tests' making: processes of the shipped program, the shipped worker over a network that a test cuts,
//! and streams on which a test itself says what it likes.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use chronarch::client::Dialer;
use chronarch::clock::Clock;
use chronarch::node::Surroundings;
use chronarch::node::worker::{Output, WorkerSetup, prepare};
use chronarch::pb::v1;
use chronarch::pb::v1::leader_message::Kind as FromLeader;
use chronarch::pb::v1::worker_message::Kind as FromWorker;
use chronarch::pb::v1::worker_service_client::WorkerServiceClient;
use chronarch::worker::{WorkerEnd, WorkerStatus};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::harness::{Harness, PATIENCE};

/// A process of `chronarch worker`.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// One that serves `queue` and knows these endpoints.
    pub(crate) fn start(dir: &std::path::Path, name: &str, endpoints: &[String], args: &[&str]) -> Self {
        let log = dir.join(format!("worker-{name}.log"));
        let stderr = std::fs::File::options().create(true).append(true).open(&log).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_chronarch"))
            .args(["worker", "--name", name, "--allow-exec", "--endpoints", &endpoints.join(",")])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .expect("a process");
        Self { child, log }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(id.expect("it runs"), signal).expect("it can be signalled");
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it ran");
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("a status")
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A network of which one worker sees these addresses alone, as long as it is not cut.
#[derive(Clone)]
pub(crate) struct Way {
    addresses: Arc<BTreeSet<String>>,
    open: watch::Sender<bool>,
}

impl Way {
    pub(crate) fn to(addresses: &[String]) -> Self {
        Self { addresses: Arc::new(addresses.iter().cloned().collect()), open: watch::Sender::new(true) }
    }

    /// Bytes stay where they are, and nobody is told.
    pub(crate) fn cut(&self) {
        self.open.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.open.send_replace(true);
    }

    fn dialer(&self) -> Dialer {
        let way = self.clone();
        Dialer::new(move |address: Arc<str>| {
            let way = way.clone();
            async move {
                if !way.addresses.contains(&*address) {
                    return Err(io::Error::other("there is no way to this address"));
                }
                let far = tokio::net::TcpStream::connect(&*address).await?;
                far.set_nodelay(true)?;
                let (here, near) = tokio::io::duplex(64 << 10);
                let (far_read, far_write) = far.into_split();
                let (near_read, near_write) = tokio::io::split(near);
                tokio::spawn(pump(far_read, near_write, way.open.subscribe()));
                tokio::spawn(pump(near_read, far_write, way.open.subscribe()));
                Ok(here)
            }
        })
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut open: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

/// The shipped worker inside the test.
pub(crate) struct Inside {
    pub(crate) status: watch::Receiver<WorkerStatus>,
    pub(crate) stop: CancellationToken,
    pub(crate) end: JoinHandle<WorkerEnd>,
}

impl Inside {
    pub(crate) fn start(place: &str, queue: &str, slots: u32, endpoints: &[String], way: &Way) -> Self {
        Self::keeping(None, place, queue, slots, (endpoints, way))
    }

    /// One that keeps what its attempts write.
    pub(crate) fn keeping(
        output: Option<Output>,
        place: &str,
        queue: &str,
        slots: u32,
        (endpoints, way): (&[String], &Way),
    ) -> Self {
        let setup = WorkerSetup {
            exec_streams: chronarch::node::worker::ExecStreams::Together,
            output,
            place: place.to_owned(),
            queues: [queue.to_owned()].into(),
            labels: std::collections::BTreeMap::new(),
            slots,
            allow_exec: true,
            endpoints: endpoints.to_vec(),
            node: None,
            drain_grace: Duration::from_secs(30),
            connections: [].into(),
        };
        Self::run(setup, way)
    }

    /// One that can reach these brokers, of a `[connections.NAME]` as text.
    pub(crate) fn connected(
        place: &str,
        queue: &str,
        connections: &str,
        (endpoints, way): (&[String], &Way),
    ) -> Self {
        let setup = WorkerSetup {
            exec_streams: chronarch::node::worker::ExecStreams::Together,
            output: None,
            place: place.to_owned(),
            queues: [queue.to_owned()].into(),
            labels: std::collections::BTreeMap::new(),
            slots: 4,
            allow_exec: false,
            endpoints: endpoints.to_vec(),
            node: None,
            drain_grace: Duration::from_secs(30),
            connections: chronarch::config::connections::read("test", connections).expect("sound"),
        };
        Self::run(setup, way)
    }

    fn run(setup: WorkerSetup, way: &Way) -> Self {
        let mut with = Surroundings::real(Clock::system());
        with.dialer = way.dialer();
        let worker = prepare(setup, &with).expect("a sound setup");
        let (status, stop) = (worker.status(), CancellationToken::new());
        let end = tokio::spawn(worker.run(stop.clone()));
        Self { status, stop, end }
    }

    pub(crate) async fn until(&mut self, holds: impl FnMut(&WorkerStatus) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, self.status.wait_for(holds)).await;
        waited.expect("the worker gets there").expect("the worker lives");
    }
}

/// A stream to the leader that a test speaks on.
pub(crate) struct ByHand {
    hello: v1::Hello,
    pub(crate) outgoing: mpsc::Sender<v1::WorkerMessage>,
    incoming: tonic::Streaming<v1::LeaderMessage>,
}

impl ByHand {
    /// Says hello.
    pub(crate) async fn open(endpoint: &str, hello: v1::Hello) -> Result<Self, tonic::Status> {
        let mut client = WorkerServiceClient::connect(format!("http://{endpoint}"))
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let (outgoing, queued) = mpsc::channel(64);
        for kind in [FromWorker::Hello(hello.clone()), FromWorker::Heartbeat(v1::Heartbeat {})] {
            outgoing.send(v1::WorkerMessage { kind: Some(kind) }).await.expect("room");
        }
        let incoming = client.serve(ReceiverStream::new(queued)).await?.into_inner();
        Ok(Self { hello, outgoing, incoming })
    }

    /// Says hello and hears the welcome.
    pub(crate) async fn hello(
        endpoint: &str,
        hello: v1::Hello,
    ) -> Result<(Self, v1::Welcome), tonic::Status> {
        let mut this = Self::open(endpoint, hello).await?;
        match this.hear().await? {
            FromLeader::Welcome(welcome) => Ok((this, welcome)),
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// What is said to a stream that has ended is lost; its end is heard.
    pub(crate) async fn say(&self, kind: FromWorker) {
        let _ = self.outgoing.send(v1::WorkerMessage { kind: Some(kind) }).await;
    }

    pub(crate) async fn hear(&mut self) -> Result<FromLeader, tonic::Status> {
        let heard = tokio::time::timeout(PATIENCE, self.incoming.message()).await.expect("it says something");
        let kind = heard?.and_then(|message| message.kind);
        kind.ok_or_else(|| tonic::Status::cancelled("the stream has ended"))
    }

    /// Says hello to the leader, once there is one that stays.
    pub(crate) async fn at_the_leader(harness: &Harness, hello: v1::Hello) -> Self {
        crate::harness::eventually("the leader's welcome", || async {
            let endpoint = harness.cluster.endpoint(harness.leader().await);
            let mut this = Self::open(&endpoint, hello.clone()).await.ok()?;
            matches!(this.hear().await, Ok(FromLeader::Welcome(_))).then_some(this)
        })
        .await
    }

    /// What is said next beside answers to heartbeats, while this side gives a sign of life each second. Where the
    /// leader is replaced, the next one is told what is held.
    pub(crate) async fn hear_else(&mut self, harness: &Harness) -> FromLeader {
        let mut beats = tokio::time::interval(Duration::from_secs(1));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let heard = tokio::select! {
                _ = beats.tick() => {
                    self.say(FromWorker::Heartbeat(v1::Heartbeat {})).await;
                    continue;
                }
                heard = self.incoming.message() => heard.ok().flatten().and_then(|message| message.kind),
                () = tokio::time::sleep_until(deadline) => panic!("nothing was said within {PATIENCE:?}"),
            };
            match heard {
                Some(FromLeader::Heartbeat(_)) => {}
                None | Some(FromLeader::NotLeader(_)) => {
                    *self = Self::at_the_leader(harness, self.hello.clone()).await;
                }
                Some(kind) => {
                    if let FromLeader::Order(order) = &kind {
                        let (run_id, fence) = (order.run_id.clone(), order.fence);
                        self.hello.held.push(v1::Held { run_id, fence });
                    }
                    return kind;
                }
            }
        }
    }
}

impl Harness {
    pub(crate) async fn workers(&self) -> Vec<v1::Worker> {
        let request = v1::ListWorkersRequest::default();
        chronarch::client::paging::workers(&self.client, request, 10_000).await.expect("a list").workers
    }

    /// The worker of a place, once there is one and it is as wanted.
    pub(crate) async fn worker(&self, place: &str, is: impl Fn(&v1::Worker) -> bool) -> v1::Worker {
        crate::harness::eventually(place, || async {
            self.workers().await.into_iter().find(|worker| worker.place == place && is(worker))
        })
        .await
    }
}
