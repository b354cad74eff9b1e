//! Carries the streams of workers to the leader, on a node that does not lead.
//!
//! A worker may know one node alone: behind a load balancer, or where the address that the leader advertises cannot
//! be reached. Whatever node it asks carries its stream to the leader's client listener. The relay passes every
//! message on, in order, and answers none: a heartbeat that the leader does not answer is not answered, so no lease
//! is renewed by a node that does not lead, and what the way costs makes what a worker may begin end earlier, never
//! later (it counts from when the worker sent its heartbeat; see the head of `worker.proto`).
//!
//! # When it ends a stream
//! - Another node leads, or this one: with `NotLeader`, which names it, as soon as this node knows.
//! - The leader ends it, is lost, or falls silent: with what the leader said, or with `NotLeader`.
//! - The worker ends it, is silent for [`WORKER_SILENCE`], or does not take what it is sent.
//!
//! A stream that ends is never picked up again here: the worker says hello anew, so that the leader knows what it
//! holds.
//!
//! # Bounds
//! [`STREAMS`](super::worker_service::STREAMS) on the node; [`QUEUE`] messages from a worker, which then waits; from
//! the leader as many as the leader itself queues for the worker, beyond which the stream ends. So the relay always
//! takes what the leader sends, and no worker can block another one's stream where they share a connection
//! ([`STREAMS_PER_TRUNK`]).
//!
//! Invariant: what is carried is marked ([`pb::Relayed`]), and what is marked is not carried, so there are no loops.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::api::limits;
use crate::client::Dialer;
use crate::pb::protocol;
use crate::pb::v1 as pb;
use crate::pb::v1::leader_message::Kind as FromLeader;
use crate::pb::v1::worker_service_client::WorkerServiceClient;
use crate::raft::{Leadership, Raft};

/// Messages of one worker that wait for the leader; the worker waits with the next one.
const QUEUE: usize = 64;
/// Streams that share a connection to the leader: fewer than an HTTP/2 server allows (hyper: 200).
const STREAMS_PER_TRUNK: usize = 64;
/// Making a connection to the leader.
const CONNECT_MAX: Duration = Duration::from_millis(200);
/// From a worker's hello to what the leader says first; less than a worker waits for its welcome.
const OPEN_MAX: Duration = Duration::from_millis(800);
/// HTTP/2 pings to the leader, and the wait for their answer.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A worker says something every second; one that says nothing for so long is gone.
const WORKER_SILENCE: Duration = Duration::from_secs(10);

/// A node as the others know it: its id, and where clients reach it.
type Place = (u64, Arc<str>);

/// Where what a worker is told goes.
pub(super) type Outbox = mpsc::Sender<Result<pb::LeaderMessage, Status>>;

/// The connections to the leader.
#[derive(Debug, Default)]
struct Trunks {
    leader: Option<Place>,
    trunks: Vec<Trunk>,
}

/// One connection, and who uses it: each stream holds a clone.
#[derive(Debug)]
struct Trunk {
    channel: Channel,
    used: Arc<()>,
}

/// See the module. A clone is another handle on the same.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    node_id: u64,
    leadership: watch::Receiver<Leadership>,
    dialer: Dialer,
    trunks: Arc<Mutex<Trunks>>,
}

/// A stream that is open to the leader.
struct Carried {
    to_leader: mpsc::Sender<pb::WorkerMessage>,
    from_leader: Streaming<pb::LeaderMessage>,
    _used: Arc<()>,
}

impl Relay {
    /// A relay on the node of this part in consensus.
    pub(super) fn new(raft: &Raft, dialer: Dialer) -> Self {
        let (node_id, leadership) = (raft.node_id(), raft.leadership());
        Self { node_id, leadership, dialer, trunks: Arc::default() }
    }

    /// Whom the stream of this hello is carried to: none when this node leads or knows no other that does, when the
    /// worker wants the leader alone, and when the stream has been carried once.
    pub(super) fn leader_for(&self, hello: &pb::Hello) -> Option<Place> {
        let may_carry = !hello.leader_only && hello.relayed.is_none();
        other_leader(&self.leadership.borrow(), self.node_id).filter(|_| may_carry)
    }

    /// Carries a stream whose hello was read until either side ends it, and says how it ended.
    pub(super) async fn carry(
        self,
        leader: Place,
        hello: pb::Hello,
        from: Option<SocketAddr>,
        inbound: Streaming<pb::WorkerMessage>,
        outbox: Outbox,
    ) {
        let mut leadership = self.leadership.clone();
        let opened = tokio::select! { biased;
            named = moved(&mut leadership, self.node_id, &leader) => Err(not_leader(named)),
            () = outbox.closed() => return,
            opened = timeout(OPEN_MAX, self.open(&leader, hello, from)) => match opened {
                Ok(opened) => opened,
                Err(_) => Err(not_leader(None)),
            },
        };
        let last = match opened {
            Ok(carried) => self.pass(&leader, carried, inbound, &outbox).await,
            Err(last) => Some(last),
        };
        if let Some(last) = last {
            // A full outbox is as good: the stream ends with it.
            let _ = outbox.try_send(last);
        }
    }

    async fn open(
        &self,
        leader: &Place,
        hello: pb::Hello,
        from: Option<SocketAddr>,
    ) -> Result<Carried, Result<pb::LeaderMessage, Status>> {
        let (channel, used) = self.trunk(leader).ok_or_else(|| not_leader(None))?;
        let (to_leader, queued) = mpsc::channel(QUEUE);
        let hello = pb::Hello {
            // What this node does not know of it cannot pass on.
            protocol: hello.protocol.min(protocol::SPOKEN.newest),
            relayed: Some(pb::Relayed {
                node_id: self.node_id,
                address: from.map(|from| from.to_string()).unwrap_or_default(),
            }),
            ..hello
        };
        let hello = pb::WorkerMessage { kind: Some(pb::worker_message::Kind::Hello(hello)) };
        to_leader.try_send(hello).map_err(|_| not_leader(None))?;
        let mut client =
            WorkerServiceClient::new(channel).max_decoding_message_size(limits::WORKER_MESSAGE_BYTES);
        let served = client.serve(ReceiverStream::new(queued)).await.map_err(|status| ended_with(&status))?;
        Ok(Carried { to_leader, from_leader: served.into_inner(), _used: used })
    }

    /// A connection to the leader with room for one more stream.
    fn trunk(&self, leader: &Place) -> Option<(Channel, Arc<()>)> {
        let mut trunks = self.trunks.lock().unwrap_or_else(PoisonError::into_inner);
        if trunks.leader.as_ref() != Some(leader) {
            *trunks = Trunks { leader: Some(leader.clone()), trunks: Vec::new() };
        }
        // One that carries nothing is kept for the next stream, and more are not.
        let mut has_spare = false;
        trunks
            .trunks
            .retain(|trunk| Arc::strong_count(&trunk.used) > 1 || !std::mem::replace(&mut has_spare, true));
        let has_room = |trunk: &&Trunk| Arc::strong_count(&trunk.used) <= STREAMS_PER_TRUNK;
        if let Some(trunk) = trunks.trunks.iter().find(has_room) {
            return Some((trunk.channel.clone(), Arc::clone(&trunk.used)));
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", leader.1)).ok()?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let trunk = Trunk { channel: self.dialer.channel(&endpoint, &leader.1), used: Arc::new(()) };
        let found = (trunk.channel.clone(), Arc::clone(&trunk.used));
        trunks.trunks.push(trunk);
        Some(found)
    }

    /// Passes messages on both ways. Returns what the worker is told last, if it is still there.
    async fn pass(
        &self,
        leader: &Place,
        carried: Carried,
        mut inbound: Streaming<pb::WorkerMessage>,
        outbox: &Outbox,
    ) -> Option<Result<pb::LeaderMessage, Status>> {
        let Carried { to_leader, mut from_leader, _used } = carried;
        let mut leadership = self.leadership.clone();
        let mut heard_at = Instant::now();
        let mut pending: Option<pb::WorkerMessage> = None;
        loop {
            let silent_at = heard_at + WORKER_SILENCE;
            tokio::select! {
                named = moved(&mut leadership, self.node_id, leader) => return Some(not_leader(named)),
                said = from_leader.message() => match said {
                    Ok(Some(message)) => outbox.try_send(Ok(self.marked(message))).ok()?,
                    Ok(None) => return Some(not_leader(None)),
                    Err(status) => return Some(ended_with(&status)),
                },
                said = inbound.message(), if pending.is_none() => {
                    heard_at = Instant::now();
                    pending = Some(said.ok().flatten()?);
                }
                room = to_leader.reserve(), if pending.is_some() => match (room, pending.take()) {
                    (Ok(room), Some(message)) => room.send(message),
                    (Err(_), _) => return Some(not_leader(None)),
                    (Ok(_), None) => {}
                },
                () = outbox.closed() => return None,
                () = sleep_until(silent_at) => return None,
            }
        }
    }

    /// A welcome says through whom it came.
    fn marked(&self, message: pb::LeaderMessage) -> pb::LeaderMessage {
        match message.kind {
            Some(FromLeader::Welcome(welcome)) => {
                let welcome = pb::Welcome { relayed_by: self.node_id, ..welcome };
                pb::LeaderMessage { kind: Some(FromLeader::Welcome(welcome)) }
            }
            kind => pb::LeaderMessage { kind },
        }
    }
}

/// The node that leads, if it is another one that can be dialled.
fn other_leader(leadership: &Leadership, node_id: u64) -> Option<Place> {
    let (id, node) = leadership.leader.as_ref()?;
    let is_other = *id != node_id && !node.address.is_empty();
    is_other.then(|| (*id, node.address.as_str().into()))
}

/// Waits until somebody else leads than whom the stream is carried to; whom to ask then. While nobody is known to
/// lead, it may still be the same.
async fn moved(
    leadership: &mut watch::Receiver<Leadership>,
    node_id: u64,
    leader: &Place,
) -> Option<Arc<str>> {
    let is_another = |now: &Leadership| match &now.leader {
        None => now.is_leader,
        Some((id, node)) => *id != leader.0 || *node.address != *leader.1,
    };
    match leadership.wait_for(is_another).await {
        Ok(now) => other_leader(&now, node_id).map(|(_, address)| address),
        // The node ends.
        Err(_) => None,
    }
}

fn not_leader(leader: Option<Arc<str>>) -> Result<pb::LeaderMessage, Status> {
    let leader = leader.map(|leader| leader.to_string()).unwrap_or_default();
    Ok(pb::LeaderMessage { kind: Some(FromLeader::NotLeader(pb::NotLeader { leader })) })
}

/// A refusal of the leader is passed on; a broken connection only means that the leader is not there.
fn ended_with(status: &Status) -> Result<pb::LeaderMessage, Status> {
    let is_ours = std::error::Error::source(status).is_some();
    match status.code() {
        tonic::Code::Unavailable => not_leader(None),
        _ if is_ours => not_leader(None),
        code => Err(Status::new(code, status.message())),
    }
}

#[cfg(test)]
mod tests;
