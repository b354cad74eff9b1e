//! Wiring: makes a node of its parts, and ends it in good order.
//!
//! # Start
//! Lock the data folder, open log and snapshot (`raft`), serve the peers, start the leader's loop, serve
//! the clients, start the worker. Nothing is served before it can be answered. The node asks for votes and
//! acts on the time once its clock has been compared with its peers' ([`clocks`]). While it leads it has the feature
//! level raised once all speak more ([`levels`]).
//!
//! # Clean stop
//! 1. Hand leadership over, so that no instant is late because of the stop.
//! 2. Drain the worker: it reports to the new leader what it still runs.
//! 3. Stop the loop, the listeners, and consensus; sync and close the stores.
//!
//! # The other end
//! The first error of a store or of consensus ends the process, at once and without cleaning up: what is
//! acknowledged is on disk, and a node that goes on half alive is worse than one that is gone.
//!
//! Clock, randomness, listeners and dialers come in from `main`.

#[cfg(test)]
mod api_tests;
#[cfg(test)]
mod clock_tests;
mod clocks;
pub mod dev;
mod fleet;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
mod levels;
pub mod local;
mod rejoin;
mod relay;
mod reports;
mod run_log;
mod tzdata;
pub mod worker;
mod worker_output;
mod worker_service;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpIncoming};
use tracing::{error, info, warn};

use crate::api::{self, Api};
use crate::client::Dialer;
use crate::clock::Clock;
use crate::clock::trusted::TrustedClock;
use crate::config::Config;
use crate::history::RunLog;
use crate::leader::{Leader, LeaderOptions};
use crate::metrics::Metrics;
use crate::pb::v1::worker_service_server::WorkerServiceServer;
use crate::raft::{self, ClusterId, FatalError, NodeAddress, OpenError, Raft, RaftOptions, tcp_dialer};
use crate::storage::{DataDir, StorageError};
use crate::target::{Carrier, ExecStreams};
use crate::worker::DRAIN_GRACE_DEFAULT;

pub use self::rejoin::RejoinError;
pub use crate::raft::Observed;

/// How long a node that stops waits for another to take over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Why a node does not start, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An address cannot be listened on.
    #[error("{key} = \"{address}\": {source}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The data folder cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The node does not begin anew.
    #[error(transparent)]
    Rejoin(#[from] RejoinError),
    /// The node's part in consensus does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The worker does not start.
    #[error(transparent)]
    Worker(#[from] worker::WorkerError),
    /// A store or consensus has failed; the process must end without cleaning up.
    #[error("{0}")]
    Fatal(FatalError),
    /// A listener has failed.
    #[error("a listener has failed: {0}")]
    Serve(tonic::transport::Error),
    /// The services do not fit together.
    #[error(transparent)]
    Api(#[from] api::RoutesError),
}

/// What a node, or a stand-alone worker, finds around it; a simulation has its own.
#[derive(Clone)]
pub struct Surroundings {
    /// Wall time and randomness.
    pub clock: Clock,
    /// Connections to the peers.
    pub peer_dialer: raft::Dialer,
    /// Connections to client listeners: of followers to the leader, and of workers.
    pub dialer: Dialer,
    /// Who carries out what the worker is given, instead of the targets.
    pub carrier: Option<Carrier>,
    /// Sees what happens to the node's replica.
    pub observer: Option<raft::Observer>,
}

impl Surroundings {
    /// TCP and the real targets.
    #[must_use]
    pub fn real(clock: Clock) -> Self {
        Self { clock, peer_dialer: tcp_dialer(), dialer: Dialer::tcp(), carrier: None, observer: None }
    }
}

/// Runs a node until `stop` is cancelled; then hands over, drains, and returns.
///
/// # Errors
/// [`NodeError`]; after [`NodeError::Fatal`] the process must end at once.
pub async fn run(config: Config, clock: Clock, stop: CancellationToken) -> Result<(), NodeError> {
    let clients = listen("listen", &config.listen).await?;
    let peers = listen("peer_listen", &config.peer_listen).await?;
    let here = clients.local_addr().map_or_else(|_| config.listen.clone(), |address| address.to_string());
    let listeners = Listeners { clients: incoming(clients), peers: incoming(peers), here };
    run_in(config, Surroundings::real(clock), listeners, stop).await
}

/// Where a node is connected to, and where its own worker connects.
#[derive(Debug)]
pub struct Listeners<I> {
    /// Connections of clients and workers.
    pub clients: I,
    /// Connections of peers.
    pub peers: I,
    /// Where the node's own worker reaches the former, `host:port`.
    pub here: String,
}

/// As [`run`], in surroundings of the caller's making.
///
/// # Errors
/// As [`run`].
pub async fn run_in<I, IO>(
    config: Config,
    with: Surroundings,
    listeners: Listeners<I>,
    stop: CancellationToken,
) -> Result<(), NodeError>
where
    I: Stream<Item = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let node = Node::open(&config, with, listeners.here).await?;
    let ended = node.serve(listeners.clients, listeners.peers, &config, stop).await;
    match &ended {
        Ok(()) => info!("stopped"),
        Err(error) => error!(%error, "the node has ended"),
    }
    ended
}

async fn listen(key: &'static str, address: &str) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|source| NodeError::Listen {
        key,
        address: address.to_owned(),
        source,
    })
}

/// A node's parts, before they are served.
struct Node {
    raft: Raft,
    clock: TrustedClock,
    dialer: Dialer,
    metrics: Arc<Metrics>,
    run_log: Arc<std::sync::OnceLock<Arc<RunLog>>>,
    worker: Option<worker::Prepared>,
}

impl Node {
    async fn open(config: &Config, with: Surroundings, here: String) -> Result<Self, NodeError> {
        let clock = with.clock.clone();
        let data_dir = Arc::new(DataDir::lock(&config.data_dir)?);
        if config.rejoin {
            rejoin::begin_anew(&data_dir, config.node_id, config.peer_address())?;
        }
        let run_log = Arc::new(std::sync::OnceLock::new());
        let raft = Raft::open(RaftOptions {
            node_id: config.node_id,
            address: NodeAddress {
                peer_address: config.peer_address().to_owned(),
                address: config.client_address().to_owned(),
            },
            timing: config.raft.clone(),
            run_log: run_log::opener(&data_dir, &run_log),
            data_dir,
            dialer: Arc::clone(&with.peer_dialer),
            initial_peers: config.peers.clone(),
            fresh_cluster_id: ClusterId(fresh_id(&clock)),
            read_clock: {
                let clock = clock.clone();
                Arc::new(move || clock.now())
            },
            elects: false,
            observer: with.observer.clone(),
            speech: levels::speech(config),
        })
        .await?;
        let worker = match &config.worker {
            own if !own.enabled => None,
            own => Some(worker::prepare(
                worker::WorkerSetup {
                    place: place(config.node_id),
                    queues: own.queues.iter().cloned().collect(),
                    labels: own.labels.clone(),
                    slots: own.slots,
                    allow_exec: own.allow_exec,
                    exec_streams: if own.exec_apart { ExecStreams::Apart } else { ExecStreams::Together },
                    output: keep_output(config, &with).await?,
                    endpoints: vec![here],
                    node: Some(config.node_id),
                    drain_grace: DRAIN_GRACE_DEFAULT,
                    connections: config.connections.clone(),
                },
                &with,
            )?),
        };
        let clock = TrustedClock::new(clock, config.clock_skew_max);
        let metrics = Arc::new(Metrics::new());
        Ok(Self { raft, clock, dialer: with.dialer, metrics, run_log, worker })
    }

    async fn serve<I, IO>(
        self,
        clients: I,
        peers: I,
        config: &Config,
        stop: CancellationToken,
    ) -> Result<(), NodeError>
    where
        I: Stream<Item = io::Result<IO>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let closing = CancellationToken::new();
        let served = self.raft.clone();
        let peers_end = closing.clone().cancelled_owned();
        let mut peers = tokio::spawn(raft::serve(served, peers, peers_end));

        let options = LeaderOptions {
            node_id: config.node_id,
            lease: config.worker.lease,
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let (leader, mut turning) = Leader::spawn(self.raft.clone(), options, closing.clone());
        let mut clients = self.serve_clients(clients, &leader, closing.clone())?;
        let drain = CancellationToken::new();
        let draining = drain.clone();
        let worker = self.worker.map(|worker| tokio::spawn(worker.run(draining)));

        let clocks =
            tokio::spawn(clocks::keep(self.raft.clone(), self.clock.clone(), Arc::clone(&self.metrics)));
        let raising = tokio::spawn(levels::keep(self.raft.clone(), self.clock.clone()));
        let pinning = tokio::spawn(tzdata::pin(self.raft.clone(), self.clock.clone()));
        let pruning = tokio::spawn(run_log::prune(self.raft.clone(), Arc::clone(&self.run_log)));

        let fatal = self.raft.fatal();
        tokio::select! {
            () = stop.cancelled() => {}
            error = fatal => return Err(NodeError::Fatal(error)),
            ended = &mut turning => {
                // Consensus would go on leading while nothing fires.
                error!(failed = ended.is_err(), "the leader's loop has ended");
                return Err(NodeError::Fatal(FatalError::from(StorageError::Closed)));
            }
            ended = &mut peers => return Err(listener_ended(ended)),
            ended = &mut clients => return Err(listener_ended(ended)),
        }
        info!("stopping");
        hand_over(&self.raft).await;
        drain.cancel();
        if let Some(worker) = worker {
            match worker.await {
                Ok(end) if end.is_clean() => {}
                Ok(end) => {
                    warn!(stopped = end.stopped, unacknowledged = end.unacknowledged, "the worker left work")
                }
                Err(error) => warn!(%error, "the worker ended badly"),
            }
        }
        pruning.abort();
        clocks.abort();
        raising.abort();
        pinning.abort();
        closing.cancel();
        // The loop and the listeners end by themselves; a client that keeps its stream is not waited for.
        let _ = turning.await;
        let _ = tokio::time::timeout(HAND_OVER, &mut clients).await;
        self.raft.shutdown().await;
        let _ = tokio::time::timeout(HAND_OVER, &mut peers).await;
        Ok(())
    }

    fn serve_clients<I, IO>(
        &self,
        incoming: I,
        leader: &Leader,
        closing: CancellationToken,
    ) -> Result<JoinHandle<Result<(), tonic::transport::Error>>, NodeError>
    where
        I: Stream<Item = io::Result<IO>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let (connected, raft) = (leader.clone(), self.raft.clone());
        let workers: api::Workers = Arc::new(move || {
            let state = raft.state();
            connected.workers().iter().map(|worker| fleet::seen_now(worker, &state)).collect()
        });
        let run_log = Arc::clone(&self.run_log);
        let api = Api::new(self.raft.clone(), run_log, self.clock.clone(), workers, self.dialer.clone());
        let asking = leader.clone();
        api.read_output_by(Arc::new(move |worker, wanted| {
            let leader = asking.clone();
            Box::pin(async move { worker_service::ask(&leader, worker, wanted).await })
        }));
        let events = leader.events();
        let relay = relay::Relay::new(&self.raft, self.dialer.clone());
        let asked =
            fleet::Fleet::new(api.clone(), self.raft.clone(), events.clone(), Arc::clone(&self.metrics));
        let streams =
            worker_service::WorkerStreams::new(self.raft.node_id(), events, relay, (asked, api.clone()));
        let routes = api::routes(api)?.add_service(
            WorkerServiceServer::new(streams).max_decoding_message_size(api::limits::WORKER_MESSAGE_BYTES),
        );
        let pages = http::Pages {
            raft: self.raft.clone(),
            leader: leader.clone(),
            metrics: Arc::clone(&self.metrics),
        };
        let router = routes.into_axum_router().merge(http::routes(pages)).fallback(http::unknown);
        let server = api::server().add_routes(tonic::service::Routes::from(router));
        Ok(tokio::spawn(server.serve_with_incoming_shutdown(incoming, closing.cancelled_owned())))
    }
}

/// Where the node's worker keeps output, unless someone else carries out its attempts.
async fn keep_output(
    config: &Config,
    with: &Surroundings,
) -> Result<Option<worker::Output>, worker::WorkerError> {
    if with.carrier.is_some() {
        return Ok(None);
    }
    let (place, folder) = (place(config.node_id), worker::Folder::Own(config.data_dir.join("output")));
    Ok(worker::keep(&place, folder, worker::OutputLimits::from(&config.worker), &with.clock).await?)
}

/// What the node's worker is called, in all its lives.
fn place(node_id: u64) -> String {
    format!("node-{node_id}")
}

/// Connections without delay of small segments: tonic's own setting does not reach a listener that it
/// has not bound.
fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

fn fresh_id(clock: &Clock) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&clock.random().to_be_bytes());
    id[8..].copy_from_slice(&clock.random().to_be_bytes());
    id
}

fn listener_ended(ended: Result<Result<(), tonic::transport::Error>, tokio::task::JoinError>) -> NodeError {
    match ended {
        Ok(Err(error)) => NodeError::Serve(error),
        Ok(Ok(())) => NodeError::Fatal(FatalError::from(StorageError::Closed)),
        Err(error) => {
            error!(%error, "a listener's task has failed");
            NodeError::Fatal(FatalError::from(StorageError::Closed))
        }
    }
}

/// Gives leadership to another node, if this one leads and another can take it.
async fn hand_over(raft: &Raft) {
    if !raft.leadership().borrow().is_leader {
        return;
    }
    match tokio::time::timeout(HAND_OVER, raft.transfer_leader(None)).await {
        Ok(Ok(leader)) => info!(leader, "handed leadership over"),
        Ok(Err(error)) => warn!(%error, "leadership was not handed over"),
        Err(_) => warn!("leadership was not handed over in time"),
    }
}
