//! The workers of a bench: processes of this program, and streams that the bench itself holds, which cost it little.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::error::BenchError;
use super::process::Usage;
use crate::client::Dialer;
use crate::pb::protocol;
use crate::pb::v1 as pb;
use crate::pb::v1::leader_message::Kind as FromLeader;
use crate::pb::v1::worker_message::Kind as FromWorker;
use crate::pb::v1::worker_service_client::WorkerServiceClient;

/// What every stand-alone worker of a bench serves, and no node does.
pub(super) const QUEUE: &str = "bench";
/// How long a worker may take to drain and end.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How often a stream gives a sign of life, as workers do.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long a stream may take to be opened.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// The pause before a stream is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// Streams that are opened at the same time.
const OPENING: usize = 32;

/// Stand-alone workers; dropping them kills them.
#[derive(Debug)]
pub(super) struct Staff {
    children: Vec<Child>,
}

impl Staff {
    /// Starts so many processes of this program, with so many slots each.
    pub(super) fn start(
        count: u32,
        slots: u32,
        endpoints: &[String],
        folder: &Path,
    ) -> Result<Self, BenchError> {
        let program = std::env::current_exe().map_err(BenchError::Program)?;
        let mut children = Vec::new();
        for number in 1..=count {
            let path = folder.join(format!("worker-{count}-{number}.log"));
            let log = std::fs::File::create(&path).map_err(|source| BenchError::File { path, source })?;
            let child = Command::new(&program)
                .args(["worker", "--queue", QUEUE, "--name", &format!("bench-{number}")])
                .args(["--concurrency", &slots.to_string(), "--endpoints", &endpoints.join(",")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .process_group(0)
                .kill_on_drop(true)
                .spawn();
            children.push(child.map_err(BenchError::Worker)?);
        }
        Ok(Self { children })
    }

    /// What all of them have used together.
    pub(super) fn usage(&self) -> Result<Duration, BenchError> {
        self.children.iter().map(|child| Usage::of(child.id()).map(|usage| usage.cpu)).sum()
    }

    /// Ends them cleanly.
    pub(super) async fn stop(mut self) -> Result<(), BenchError> {
        for child in &self.children {
            let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // One that has ended by itself is found below.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        for child in &mut self.children {
            match tokio::time::timeout(STOP_MAX, child.wait()).await {
                // Whether all of its last reports were acknowledged is no figure.
                Ok(Ok(_)) => {}
                Ok(Err(source)) => return Err(BenchError::Worker(source)),
                Err(_) => return Err(BenchError::Silent { what: "the end of a worker", limit: STOP_MAX }),
            }
        }
        Ok(())
    }
}

/// Lets this process have as many open files as the system allows it.
pub(super) fn allow_files() -> Result<(), BenchError> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(|errno| BenchError::Files(errno.into()))
}

/// A stream of a worker, open.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) outgoing: mpsc::Sender<pb::WorkerMessage>,
    pub(super) incoming: tonic::Streaming<pb::LeaderMessage>,
    /// The node that carries it, where that is not the leader.
    pub(super) carried_by: Option<u64>,
}

impl Stream {
    /// Opens one, over a connection of its own as that of a worker; again where the leader is being replaced.
    pub(super) async fn open(endpoint: &str, name: String, slots: u32) -> Result<Self, BenchError> {
        let opened = async {
            loop {
                match Self::try_open(endpoint, name.clone(), slots).await? {
                    Some(stream) => return Ok(stream),
                    None => tokio::time::sleep(AGAIN).await,
                }
            }
        };
        let opened = tokio::time::timeout(OPEN_MAX, opened).await;
        opened.map_err(|_| BenchError::Silent { what: "a welcome", limit: OPEN_MAX })?
    }

    /// None where nobody leads at the moment.
    async fn try_open(endpoint: &str, name: String, slots: u32) -> Result<Option<Self>, BenchError> {
        let to = Endpoint::from_shared(format!("http://{endpoint}")).map_err(BenchError::Connect)?;
        let channel = Dialer::tcp().connect(&to, endpoint).await.map_err(BenchError::Connect)?;
        let (outgoing, queued) = mpsc::channel(64);
        let hello = pb::Hello {
            worker: name,
            queues: vec![QUEUE.to_owned()],
            kinds: vec!["http".to_owned()],
            slots,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: protocol::SPOKEN.newest,
            ..pb::Hello::default()
        };
        for kind in [FromWorker::Hello(hello), FromWorker::Heartbeat(pb::Heartbeat {})] {
            // There is room for both.
            let _ = outgoing.try_send(pb::WorkerMessage { kind: Some(kind) });
        }
        let served = WorkerServiceClient::new(channel).serve(ReceiverStream::new(queued)).await;
        let mut incoming = served.map_err(|status| BenchError::Stream(status.to_string()))?.into_inner();
        let first = incoming.message().await.map_err(|status| BenchError::Stream(status.to_string()))?;
        match first.and_then(|message| message.kind) {
            Some(FromLeader::Welcome(welcome)) => {
                let carried_by = Some(welcome.relayed_by).filter(|node| *node > 0);
                Ok(Some(Self { outgoing, incoming, carried_by }))
            }
            Some(FromLeader::NotLeader(_)) => Ok(None),
            other => Err(BenchError::Stream(format!("{other:?} instead of a welcome"))),
        }
    }

    /// Gives a sign of life each second until the stream ends.
    async fn idle(mut self) {
        let mut beats = tokio::time::interval(BEAT_EVERY);
        loop {
            tokio::select! {
                _ = beats.tick() => {
                    let beat = pb::WorkerMessage { kind: Some(FromWorker::Heartbeat(pb::Heartbeat {})) };
                    if self.outgoing.send(beat).await.is_err() {
                        return;
                    }
                }
                heard = self.incoming.message() => if !matches!(heard, Ok(Some(_))) {
                    return;
                }
            }
        }
    }
}

/// Streams that do nothing but live; dropping them ends them.
#[derive(Debug)]
pub(super) struct Crowd {
    living: JoinSet<()>,
    /// How many are carried by another node than the leader.
    pub(super) carried: usize,
}

impl Crowd {
    /// Opens so many at one node.
    pub(super) async fn gather(endpoint: &str, count: u32) -> Result<Self, BenchError> {
        let mut crowd = Self { living: JoinSet::new(), carried: 0 };
        let mut opening = JoinSet::new();
        let mut number = 0;
        while number < count || !opening.is_empty() {
            if number < count && opening.len() < OPENING {
                number += 1;
                let (endpoint, name) = (endpoint.to_owned(), format!("idle-{number}/{number:08x}"));
                opening.spawn(async move { Stream::open(&endpoint, name, 16).await });
                continue;
            }
            if let Some(Ok(opened)) = opening.join_next().await {
                let stream = opened?;
                crowd.carried += usize::from(stream.carried_by.is_some());
                crowd.living.spawn(stream.idle());
            }
        }
        Ok(crowd)
    }

    /// How many still live.
    pub(super) fn count(&mut self) -> usize {
        while self.living.try_join_next().is_some() {}
        self.living.len()
    }
}
