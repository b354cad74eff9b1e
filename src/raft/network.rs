//! The calling side of the protocol between nodes: what the consensus library wants to send.
//!
//! What a failure means to the library decides how soon it tries again. A peer that cannot be reached, or refuses
//! us, is *unreachable*: the library backs off ([`BACKOFF`]). A stream that worked and then broke is a *network*
//! error: it is opened again at once. An answer that does not come in time is a *timeout*.
//!
//! The library waits where it hands out a request, and a stream that cannot be opened never asks for one: where a
//! dead peer's machine refuses the connection at once, it would try again thousands of times a second. So the wait
//! before an append stream is opened again is made here ([`Peer::stream_append`]). Heartbeats, which are streams of one
//! request each, are paced by their interval.
//!
//! The append stream is long-lived and pipelined; a half-open connection would stall it for ever, for the library
//! sets no limit to a stream. Keepalive finds dead connections, and [`APPEND_SILENCE_MAX`] a peer that takes
//! requests but answers none.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{ErrorSubject, ErrorVerb, OptionalSend, StorageError};
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

use super::codec::{self, CodecError};
use super::dial::{Connections, MESSAGE_BYTES_MAX};
use super::guard;
use super::levels::check_entry;
use super::snapshot::{self, SnapshotFile};
use super::types::{ClusterId, NodeAddress, SnapshotMeta, TypeConfig, Vote};
use crate::pb::peer::{self, append_response, raft_service_client::RaftServiceClient};
use crate::state::level::Levels;

/// How long opening an append stream may take.
const APPEND_SETUP_TIMEOUT: Duration = Duration::from_secs(1);
/// A follower that owes an answer for this long is given up; the log is sent to it again on a new stream. Longer
/// than any sync that is worth waiting for.
pub(super) const APPEND_SILENCE_MAX: Duration = Duration::from_secs(5);
/// Waits between attempts to reach a peer that cannot be reached; the last one repeats.
pub(super) const BACKOFF: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(500),
];

type Rpc<T> = Result<T, RPCError<TypeConfig>>;
type PeerClient = RaftServiceClient<Channel>;

/// A client of the peer service over `channel`, with the limits that both sides share.
pub(super) fn client(channel: Channel) -> PeerClient {
    RaftServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Makes the library's clients.
pub(super) struct Network {
    pub(super) node_id: u64,
    pub(super) cluster: ClusterId,
    pub(super) connections: Arc<Connections>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &NodeAddress) -> Peer {
        self.peer(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeAddress) -> Peer {
        self.peer(target, node, true)
    }
}

impl Network {
    fn peer(&self, target: u64, node: &NodeAddress, heartbeat: bool) -> Peer {
        Peer {
            node_id: self.node_id,
            cluster: self.cluster,
            target,
            address: node.peer_address.clone(),
            heartbeat,
            connections: Arc::clone(&self.connections),
            refused: 0,
        }
    }
}

/// One peer, as the library calls it.
pub(super) struct Peer {
    node_id: u64,
    cluster: ClusterId,
    target: u64,
    address: String,
    heartbeat: bool,
    connections: Arc<Connections>,
    /// Append streams in a row that could not be opened.
    refused: usize,
}

impl Peer {
    fn label<T>(&self, message: T) -> tonic::Request<T> {
        guard::label(message, Some(self.cluster), self.node_id, self.target)
    }

    fn control(&self) -> Rpc<PeerClient> {
        self.connections.to(&self.address).map(|to| client(to.control)).map_err(unreachable)
    }

    fn append(&self) -> Rpc<PeerClient> {
        let to = self.connections.to(&self.address).map_err(unreachable)?;
        Ok(client(if self.heartbeat { to.control } else { to.append }))
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout { action, id: self.node_id, target: self.target, timeout }
    }

    /// Opens a stream of appends.
    async fn open_append<S>(&self, input: S) -> Rpc<BoxStream<'static, Rpc<StreamAppendResult<TypeConfig>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let mut client = self.append()?;
        let owed = Arc::new(AtomicUsize::new(0));
        let sent = Arc::clone(&owed);
        let requests = input.map(move |request| {
            sent.fetch_add(1, Ordering::Relaxed);
            append_request(&request)
        });
        let call = client.stream_append(self.label(requests));
        let answers = match timeout(APPEND_SETUP_TIMEOUT, call).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(unreachable(status)),
            Err(_) => {
                return Err(Unreachable::from_string("opening an append stream took too long").into());
            }
        };
        let silence = self.timed_out(RPCTypes::AppendEntries, APPEND_SILENCE_MAX);
        Ok(receive(answers, owed, silence).boxed())
    }

    /// Awaits the answer to a call of one message for at most `limit`.
    async fn answer<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Rpc<T> {
        match timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(unreachable(status)),
            Err(_) => Err(self.timed_out(action, limit).into()),
        }
    }
}

fn unreachable(error: impl std::error::Error) -> RPCError<TypeConfig> {
    Unreachable::from_string(error).into()
}

fn broken(error: impl std::error::Error) -> RPCError<TypeConfig> {
    NetworkError::from_string(error).into()
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let limit = option.soft_ttl();
        let deadline = self.timed_out(RPCTypes::AppendEntries, limit);
        let exchange = async {
            let mut answers = self.open_append(futures::stream::iter([rpc])).await?;
            answers.next().await.unwrap_or_else(|| Err(NetworkError::from_string("no answer").into()))
        };
        let result = timeout(limit, exchange).await.map_err(|_| deadline)?;
        result.map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // Heartbeats come at intervals, and the library gives up each that takes longer than one: a wait here
            // would end them for good.
            if let Some(before) = self.refused.checked_sub(1).filter(|_| !self.heartbeat) {
                sleep(BACKOFF[before.min(BACKOFF.len() - 1)]).await;
            }
            let opened = self.open_append(input).await;
            self.refused = if opened.is_ok() { 0 } else { self.refused.saturating_add(1) };
            opened
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let mut client = self.control()?;
        let call = client.vote(self.label(vote_request(&rpc)));
        let answer = self.answer(RPCTypes::Vote, option.hard_ttl(), call).await?;
        vote_response(answer).map_err(unreachable)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let mut client = self.control()?;
        let call = client.pre_vote(self.label(vote_request(&rpc)));
        let answer = self.answer(RPCTypes::Vote, option.hard_ttl(), call).await?;
        vote_response(answer).map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let limit = option.hard_ttl();
        let to = self.connections.to(&self.address).map_err(unreachable)?;
        let mut client = client(to.bulk);
        let (chunks, reader) = snapshot::send(snapshot.snapshot, (&vote).into(), (&snapshot.meta).into());
        let call = client.install_snapshot(self.label(chunks));
        let answer = tokio::select! {
            closed = cancel => return Err(closed.into()),
            answer = timeout(limit, call) => answer,
        };
        // The peer's refusal of a cut-off snapshot is but the echo of a read that failed here.
        if let Some(error) = reader.failure() {
            return Err(snapshot_error(&snapshot.meta, &error).into());
        }
        let response = match answer {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(unreachable(status).into()),
            Err(_) => return Err(self.timed_out(RPCTypes::InstallSnapshot, limit).into()),
        };
        let vote = codec::vote_from(response.vote).map_err(unreachable)?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let mut client = self.control()?;
        let message = peer::TransferLeaderRequest {
            from: Some(req.from_leader().into()),
            to: *req.to_node_id(),
            last_log_id: req.last_log_id().map(|id| (*id).into()),
        };
        let call = client.transfer_leader(self.label(message));
        self.answer(RPCTypes::TransferLeader, option.hard_ttl(), call).await?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF[BACKOFF.len() - 1];
        Some(Backoff::new(BACKOFF.into_iter().chain(std::iter::repeat(last))))
    }
}

fn snapshot_error(meta: &SnapshotMeta, error: &crate::storage::StorageError) -> StorageError<TypeConfig> {
    let source =
        <openraft::alias::ErrorSourceOf<TypeConfig> as openraft::errors::ErrorSource>::from_error(error);
    StorageError::new(ErrorSubject::Snapshot(Some(meta.signature())), ErrorVerb::Read, source)
}

/// The answers on an append stream, in the order of the requests.
fn receive(
    answers: tonic::Streaming<peer::AppendResponse>,
    owed: Arc<AtomicUsize>,
    silence: Timeout<TypeConfig>,
) -> impl Stream<Item = Rpc<StreamAppendResult<TypeConfig>>> + Send {
    futures::stream::unfold(Some(answers), move |state| {
        let (owed, silence) = (Arc::clone(&owed), silence.clone());
        async move {
            let mut answers = state?;
            loop {
                let owes = owed.load(Ordering::Relaxed) > 0;
                return match timeout(silence.timeout, answers.message()).await {
                    Ok(Ok(Some(answer))) => {
                        owed.fetch_sub(1, Ordering::Relaxed);
                        match append_result(answer) {
                            Ok(result) => Some((Ok(result), Some(answers))),
                            Err(error) => Some((Err(broken(error)), None)),
                        }
                    }
                    Ok(Ok(None)) => None,
                    Ok(Err(status)) => Some((Err(broken(status)), None)),
                    Err(_) if owes => Some((Err(silence.into()), None)),
                    Err(_) => continue,
                };
            }
        }
    })
}

fn append_request(request: &AppendEntriesRequest<TypeConfig>) -> peer::AppendRequest {
    peer::AppendRequest {
        vote: Some((&request.vote).into()),
        prev_log_id: request.prev_log_id.map(Into::into),
        entries: request.entries.iter().map(codec::entry_to).collect(),
        leader_commit: request.leader_commit.map(Into::into),
    }
}

/// The inverse of what [`Peer::stream_append`] sends.
pub(super) fn append_request_from(
    request: peer::AppendRequest,
    levels: Levels,
) -> Result<AppendEntriesRequest<TypeConfig>, CodecError> {
    // In order: behind an entry that raises the level above what is spoken here nothing has to decode.
    let entry = |entry| {
        let entry = codec::entry_from(entry)?;
        check_entry(&entry, levels).map(|()| entry)
    };
    Ok(AppendEntriesRequest {
        vote: codec::vote_from(request.vote)?,
        prev_log_id: request.prev_log_id.map(Into::into),
        entries: request.entries.into_iter().map(entry).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.map(Into::into),
    })
}

/// What a follower answers to one request.
pub(super) fn append_response(result: &StreamAppendResult<TypeConfig>) -> peer::AppendResponse {
    use append_response::Result as Wire;
    let result = match result {
        Ok(Some(id)) => Wire::Success((*id).into()),
        Ok(None) => Wire::SuccessEmpty(peer::Blank {}),
        Err(StreamAppendError::Conflict(id)) => Wire::Conflict((*id).into()),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(vote.into()),
    };
    peer::AppendResponse { result: Some(result) }
}

pub(super) fn append_result(
    answer: peer::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, CodecError> {
    use append_response::Result as Wire;
    Ok(match answer.result.ok_or(CodecError::Missing("result"))? {
        Wire::Success(id) => Ok(Some(id.into())),
        Wire::SuccessEmpty(_) => Ok(None),
        Wire::Conflict(id) => Err(StreamAppendError::Conflict(id.into())),
        Wire::ConflictEmpty(_) => return Err(CodecError::Missing("conflict")),
        Wire::HigherVote(vote) => Err(StreamAppendError::HigherVote(codec::vote_from(Some(vote))?)),
    })
}

fn vote_request(request: &VoteRequest<TypeConfig>) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: Some((&request.vote).into()),
        last_log_id: request.last_log_id.map(Into::into),
        leadership_transfer: request.leadership_transfer,
    }
}

/// The inverse of what [`Peer::vote`] sends.
pub(super) fn vote_request_from(request: peer::VoteRequest) -> Result<VoteRequest<TypeConfig>, CodecError> {
    Ok(VoteRequest {
        vote: codec::vote_from(request.vote)?,
        last_log_id: request.last_log_id.map(Into::into),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(super) fn vote_response(answer: peer::VoteResponse) -> Result<VoteResponse<TypeConfig>, CodecError> {
    Ok(VoteResponse {
        vote: codec::vote_from(answer.vote)?,
        vote_granted: answer.granted,
        last_log_id: answer.last_log_id.map(Into::into),
    })
}

/// What a voter answers.
pub(super) fn vote_response_to(answer: &VoteResponse<TypeConfig>) -> peer::VoteResponse {
    peer::VoteResponse {
        vote: Some((&answer.vote).into()),
        granted: answer.vote_granted,
        last_log_id: answer.last_log_id.map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use openraft::network::RPCOption;
    use tokio::time::Instant;

    use super::*;
    use crate::raft::dial::Dialer;

    #[tokio::test(start_paused = true)]
    async fn peer_whose_machine_refuses_at_once_is_asked_again_by_the_backoff() {
        let dialled = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&dialled);
        let refuse: Dialer = Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) })
        });
        let connections = Arc::new(Connections::new(refuse));
        let mut network = Network { node_id: 1, cluster: ClusterId([7; 16]), connections };
        let node = NodeAddress { peer_address: "127.0.0.1:1".to_owned(), address: "127.0.0.1:2".to_owned() };
        let mut peer = network.new_client(2, &node).await;
        let begun = Instant::now();
        for _ in 0..=BACKOFF.len() {
            let nothing = futures::stream::pending::<AppendEntriesRequest<TypeConfig>>();
            let option = RPCOption::new(Duration::from_millis(30));
            assert!(peer.stream_append(nothing, option).await.is_err());
        }
        assert_eq!(dialled.load(Ordering::Relaxed), BACKOFF.len() + 1);
        let waited: Duration = BACKOFF.iter().sum();
        assert!(begun.elapsed() >= waited, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_go_on_after_a_peer_has_refused_one() {
        let dialled = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&dialled);
        let refuse: Dialer = Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) })
        });
        let connections = Arc::new(Connections::new(refuse));
        let mut network = Network { node_id: 1, cluster: ClusterId([7; 16]), connections };
        let node = NodeAddress { peer_address: "127.0.0.1:1".to_owned(), address: "127.0.0.1:2".to_owned() };
        let mut peer = network.new_heartbeat_client(2, &node).await;
        for beats in 1..=5 {
            let interval = Duration::from_millis(30);
            let beat = futures::stream::pending::<AppendEntriesRequest<TypeConfig>>();
            // As the library does it: what takes longer than an interval is dropped.
            let sent = timeout(interval, peer.stream_append(beat, RPCOption::new(interval))).await;
            assert!(sent.is_ok_and(|opened| opened.is_err()), "heartbeat {beats} is not even tried");
            assert_eq!(dialled.load(Ordering::Relaxed), beats);
        }
    }
}
