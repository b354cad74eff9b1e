//! The answering side of the protocol between nodes: the service of the peer listener.
//!
//! Each call is checked before anything else ([`guard`]): one that names another cluster or another node is refused
//! with both names. While this node belongs to no cluster it answers Identify and Adopt alone.
//!
//! A request that does not decode ends its call, and on the append stream the stream: skipping one would leave a
//! hole that nobody sees.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use openraft::storage::Snapshot;
use openraft::{LogIdOptionExt, ReadPolicy};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tonic::transport::server::{Connected, Server, TcpIncoming};
use tonic::{Request, Response, Status, Streaming};

use super::dial::{CONNECTION_WINDOW_BYTES, KEEPALIVE, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES};
use super::fatal::Verdict;
use super::handle::{Core, Raft};
use super::run_log::{RUNS_CHUNK_BYTES, RunLogGap};
use super::snapshot::{self, CHUNK_BYTES, SnapshotFile, blocking};
use super::types::SnapshotMeta;
use super::{codec, guard, network};
use crate::pb::peer::raft_service_server::{RaftService, RaftServiceServer};
use crate::pb::peer::{self};
use crate::storage::StorageError;

/// A sender of a snapshot that stays silent for this long is given up.
const SNAPSHOT_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Largest snapshot that is received.
pub const SNAPSHOT_BYTES_MAX: u64 = 64 << 30;
/// Calls under way on one connection; peers need a handful.
const CALLS_PER_CONNECTION_MAX: u32 = 256;

/// The connections of a listener, as [`serve`] wants them. Small answers are not held back: with Nagle's algorithm
/// on the accepting side each heartbeat and each read would take 40 ms longer.
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

/// Serves the peers of `raft` on `incoming` until `shutdown` resolves.
///
/// # Errors
/// When the listener fails.
pub async fn serve<I, IO, E>(
    raft: Raft,
    incoming: I,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = Result<IO, E>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = RaftServiceServer::new(PeerService { raft, receiving: Mutex::new(()) })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, shutdown)
        .await
}

struct PeerService {
    raft: Raft,
    /// One snapshot arrives at a time: two with one name would be written into each other.
    receiving: Mutex<()>,
}

impl PeerService {
    /// The member that the call is for.
    fn member<T>(&self, request: &Request<T>) -> Result<&Core, Status> {
        let caller = guard::check_node(request.metadata(), self.raft.node_id())?;
        if let Some(error) = self.raft.verdict().get() {
            return Err(Status::unavailable(format!("this node is ending: {error}")));
        }
        let core = self.raft.core().ok_or_else(|| {
            if let Some(cluster) = guard::cluster(request.metadata()) {
                self.raft.was_wiped(cluster, caller);
            }
            Status::permission_denied(format!("node {} belongs to no cluster", self.raft.node_id()))
        })?;
        guard::check(request.metadata(), core.cluster, self.raft.node_id())?;
        Ok(core)
    }

    async fn receive_snapshot(
        &self,
        core: &Core,
        meta: &SnapshotMeta,
        length: u64,
        pieces: &mut Streaming<peer::SnapshotChunk>,
    ) -> Result<SnapshotFile, Status> {
        if length > SNAPSHOT_BYTES_MAX {
            return Err(Status::resource_exhausted(format!(
                "a snapshot of {length} bytes exceeds the limit of {SNAPSHOT_BYTES_MAX}"
            )));
        }
        let (dir, id) = (core.snapshots.clone(), snapshot::file_id(meta));
        let mut file = blocking(move || dir.receive(id)).await.map_err(|error| self.fatal(error))?;
        let mut missing = length;
        while let Some(piece) = next_piece(pieces).await? {
            let bytes = piece.data.len() as u64;
            if bytes > missing || bytes > CHUNK_BYTES as u64 {
                return Err(Status::invalid_argument("the snapshot is longer than announced"));
            }
            missing -= bytes;
            let added = blocking(move || file.add(&piece.data).map(|()| file)).await;
            file = added.map_err(|error| self.fatal(error))?;
        }
        if missing > 0 {
            return Err(Status::data_loss(format!("the snapshot ends {missing} of {length} bytes early")));
        }
        // From the moment the file has its name, a restart may begin with it: the runs it skips are noted first.
        let applied = self.raft.watch_applied().borrow().map(|applied| applied.index);
        core.gap.widen(applied, id.index).await.map_err(|error| self.fatal(error))?;
        let (finished, dir) = (blocking(move || file.finish()).await, core.snapshots.clone());
        let path = match finished {
            Ok(path) => path,
            // What arrived is not what was sent. That is between the two of us; the disk is well.
            Err(error @ (StorageError::Damaged(_) | StorageError::UnknownFormat { .. })) => {
                return Err(Status::data_loss(error.to_string()));
            }
            Err(error) => return Err(self.fatal(error)),
        };
        blocking(move || dir.delete_old()).await.map_err(|error| self.fatal(error))?;
        Ok(SnapshotFile { path })
    }

    fn fatal(&self, error: StorageError) -> Status {
        let status = Status::unavailable(error.to_string());
        self.raft.verdict().reach(error.into());
        status
    }
}

async fn next_piece(
    pieces: &mut Streaming<peer::SnapshotChunk>,
) -> Result<Option<peer::SnapshotChunk>, Status> {
    let piece = timeout(SNAPSHOT_SILENCE_MAX, pieces.message()).await;
    piece.map_err(|_| Status::deadline_exceeded("the sender of the snapshot fell silent"))?
}

fn malformed(error: codec::CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// What does not decode ends the stream, and the node where the cluster is beyond it.
fn refused(error: &codec::CodecError, verdict: &Verdict) {
    match error {
        codec::CodecError::Level(error) => verdict.reach((*error).into()),
        error => tracing::warn!(%error, "append stream ends"),
    }
}

fn ending(error: impl std::error::Error) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl RaftService for PeerService {
    type StreamAppendStream = BoxStream<'static, Result<peer::AppendResponse, Status>>;
    type StreamRunsStream = Pin<Box<dyn Stream<Item = Result<peer::RunsChunk, Status>> + Send>>;

    async fn identify(
        &self,
        request: Request<peer::IdentifyRequest>,
    ) -> Result<Response<peer::IdentifyResponse>, Status> {
        guard::check_node(request.metadata(), self.raft.node_id())?;
        self.raft.describe().await.map(Response::new)
    }

    async fn adopt(
        &self,
        request: Request<peer::AdoptRequest>,
    ) -> Result<Response<peer::AdoptResponse>, Status> {
        guard::check_node(request.metadata(), self.raft.node_id())?;
        // Not dropped half-way when the caller goes away: what is begun on the disk is finished.
        let (raft, message) = (self.raft.clone(), request.into_inner());
        let adopted = tokio::spawn(async move { raft.adopt(message).await }).await;
        adopted.map_err(ending)??;
        Ok(Response::new(peer::AdoptResponse {}))
    }

    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        let core = self.member(&request)?;
        let message = network::vote_request_from(request.into_inner()).map_err(malformed)?;
        let answer = core.raft.vote(message).await.map_err(ending)?;
        Ok(Response::new(network::vote_response_to(&answer)))
    }

    async fn pre_vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        let core = self.member(&request)?;
        let message = network::vote_request_from(request.into_inner()).map_err(malformed)?;
        let answer = core.raft.pre_vote(message).await.map_err(ending)?;
        Ok(Response::new(network::vote_response_to(&answer)))
    }

    async fn stream_append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::StreamAppendStream>, Status> {
        let raft = self.member(&request)?.raft.clone();
        // Ends at the first request that did not arrive or does not decode: the leader begins a new stream then.
        let (levels, verdict) = (self.raft.levels(), self.raft.verdict().clone());
        let requests = tokio_stream::StreamExt::map_while(request.into_inner(), move |request| {
            let decoded = network::append_request_from(request.ok()?, levels);
            decoded.inspect_err(|error| refused(error, &verdict)).ok()
        });
        // An idle stream would outlive this node's part in it, and the leader would not look for another.
        let mut closing = self.raft.closing();
        let closed = Box::pin(async move { closing.wait_for(|closing| *closing).await.is_ok() });
        let heard = Arc::clone(self.raft.heard());
        let answers = raft.stream_append(requests.take_until(closed)).map(move |answer| match answer {
            Ok(result) => {
                // One that is refused comes from a leader of the past.
                if result.is_ok() {
                    heard.now();
                }
                Ok(network::append_response(&result))
            }
            Err(error) => Err(ending(error)),
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<peer::SnapshotResponse>, Status> {
        let core = self.member(&request)?;
        let receiving = self.receiving.try_lock();
        let _receiving = receiving.map_err(|_| Status::unavailable("another snapshot is arriving"))?;
        let mut pieces = request.into_inner();
        let head = next_piece(&mut pieces).await?.ok_or_else(|| Status::invalid_argument("no head"))?;
        let vote = codec::vote_from(head.vote).map_err(malformed)?;
        let meta = head.meta.ok_or_else(|| Status::invalid_argument("the head has no description"))?;
        let meta = SnapshotMeta::try_from(meta).map_err(malformed)?;
        let file = self.receive_snapshot(core, &meta, head.length_bytes, &mut pieces).await?;
        let snapshot = Snapshot { meta, snapshot: file };
        let answer = core.raft.install_full_snapshot(vote, snapshot).await.map_err(ending)?;
        Ok(Response::new(peer::SnapshotResponse { vote: Some((&answer.vote).into()) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let core = self.member(&request)?;
        if !self.raft.elects() {
            return Err(Status::failed_precondition("this node does not lead: its clock does not allow it"));
        }
        let message = request.into_inner();
        let from = codec::vote_from(message.from).map_err(malformed)?;
        let message = TransferLeaderRequest::new(from, message.to, message.last_log_id.map(Into::into));
        let answer = core.raft.handle_transfer_leader(message).await.map_err(ending)?;
        answer.map_err(|refused| Status::failed_precondition(refused.to_string()))?;
        Ok(Response::new(peer::TransferLeaderResponse {}))
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexResponse>, Status> {
        let core = self.member(&request)?;
        let confirmed = core.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
        let confirmed = confirmed.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(peer::ReadIndexResponse {
            node_id: self.raft.node_id(),
            read_log_id: Some((*confirmed.read_log_id().log_id()).into()),
            applied: confirmed.applied().map(|id| (*id).into()),
        }))
    }

    async fn read_clock(
        &self,
        request: Request<peer::ReadClockRequest>,
    ) -> Result<Response<peer::ReadClockResponse>, Status> {
        self.member(&request)?;
        let unix_ms = self.raft.read_clock().millis();
        Ok(Response::new(peer::ReadClockResponse { unix_ms, speaks: Some(self.raft.speaks()) }))
    }

    async fn stream_runs(
        &self,
        request: Request<peer::StreamRunsRequest>,
    ) -> Result<Response<Self::StreamRunsStream>, Status> {
        let core = self.member(&request)?;
        let peer::StreamRunsRequest { after, through } = *request.get_ref();
        let wanted = RunLogGap { after, through };
        let applied = core.raft.metrics().borrow_watched().last_applied.index();
        if applied.is_none_or(|applied| applied < through) {
            return Err(Status::failed_precondition(format!(
                "this node has applied {applied:?}, not {through}"
            )));
        }
        if let Some(gap) = core.sink.gap().filter(|gap| gap.after < through && after < gap.through) {
            return Err(Status::failed_precondition(format!("this node itself lacks {gap:?}")));
        }
        let (raft, sink) = (self.raft.clone(), std::sync::Arc::clone(&core.sink));
        let pieces = futures::stream::try_unfold(None, move |cursor| {
            let (raft, sink) = (raft.clone(), std::sync::Arc::clone(&sink));
            async move {
                let runs = sink.read(wanted, cursor, RUNS_CHUNK_BYTES).await.map_err(|error| {
                    let status = ending(&error);
                    raft.verdict().reach(error.into());
                    status
                })?;
                let Some(last) = runs.last() else { return Ok(None) };
                let cursor = Some((last.index, last.key.clone()));
                let runs = runs.into_iter().map(Into::into).collect();
                Ok::<_, Status>(Some((peer::RunsChunk { runs }, cursor)))
            }
        });
        Ok(Response::new(Box::pin(pieces)))
    }
}
