//! One stream to the leader: how it is opened, what is heard on it, and until when it allows attempts to begin.
//!
//! A link is opened as one future ([`open`]) that ends in an [`OpenLink`] or in why there is none, and is then
//! driven by [`OpenLink::next`], which the owner task polls among other things and may drop at any point without
//! losing a message. Dropping the link ends the stream; what the leader may still have sent on it is never seen.
//!
//! Invariant: `may_begin_until` is a lease after a heartbeat was *handed over* that the leader has answered, never
//! after the answer came, so it lies before the end of the lease as the leader counts it.

use std::collections::VecDeque;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use super::ledger::Overflow;
use super::{
    CONNECT_TIMEOUT, HEARTBEAT_EVERY, KEEP_ALIVE, LEASE_MIN, MESSAGE_BYTES_MAX, OUTBOX, SILENCE_MAX,
    UNANSWERED_MAX, WELCOME_TIMEOUT,
};
use crate::client::Dialer;
use crate::pb::protocol::{self, NoCommonVersion, Versions};
use crate::pb::v1 as pb;
use crate::pb::v1::leader_message::Kind as FromLeader;
use crate::pb::v1::worker_message::Kind as FromWorker;
use crate::pb::v1::worker_service_client::WorkerServiceClient;

/// Why there is no link to an address.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// It answered that another one leads.
    #[error("the node does not lead")]
    NotLeader { leader: Option<Arc<str>> },
    /// It did not answer in time.
    #[error("no answer in time")]
    Silent,
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] tonic::transport::Error),
    /// The answer is an error.
    #[error("refused")]
    Refused(#[source] Box<Status>),
    /// It ended the stream instead of a welcome.
    #[error("the stream ended before a welcome")]
    Ended,
    /// The first message is no welcome, or names no usable lease.
    #[error("the node does not keep to the protocol")]
    Protocol,
    /// The leader speaks a version of the protocol that this worker does not.
    #[error(transparent)]
    Version(#[from] NoCommonVersion),
    /// The address cannot be part of a URI.
    #[error("malformed address")]
    Address(#[source] tonic::transport::Error),
}

/// Why a link is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the node no longer leads")]
    NotLeader { leader: Option<Arc<str>> },
    #[error("the leader ended the stream")]
    Ended,
    #[error("the stream broke")]
    Broken(#[source] Box<Status>),
    #[error("the leader is silent")]
    Silent,
    #[error("the leader does not keep to the protocol")]
    Protocol,
    #[error("the leader sends too much")]
    Flood(#[from] Overflow),
    #[error("it is carried, and the leader itself may be reached by now")]
    Carried,
    #[error("the worker takes orders again")]
    Resumed,
}

/// What happens on a link.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// An attempt to carry out.
    Order(Box<pb::Order>),
    /// An attempt to stop.
    Cancel(pb::Cancel),
    /// Output to send.
    ReadOutput(Box<pb::ReadOutput>),
    /// A report that need not be repeated.
    Acknowledged(pb::Acknowledged),
    /// Take nothing new.
    Drain(pb::Drain),
    /// Take orders again.
    Resume,
    /// The leader answered a heartbeat: attempts may begin for longer.
    Confirmed,
    /// It is time for a heartbeat; it was handed over.
    Beat,
    /// There is room for one message of the owner's.
    Room(mpsc::OwnedPermit<pb::WorkerMessage>),
    /// Nothing that the owner needs to know of.
    Nothing,
}

/// What a link is opened with.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) address: Arc<str>,
    pub(super) dialer: Dialer,
    pub(super) hello: pb::Hello,
    pub(super) drain: Option<pb::Drain>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct OpenLink {
    pub(super) address: Arc<str>,
    pub(super) term: u64,
    /// The node that carries it, where that is not the leader.
    pub(super) carried_by: Option<u64>,
    pub(super) opened_at: Instant,
    lease: Duration,
    outgoing: mpsc::Sender<pb::WorkerMessage>,
    incoming: Streaming<pb::LeaderMessage>,
    beats: Interval,
    /// Heartbeats handed over.
    beaten: u64,
    /// How many there were when the leader was told of the drain.
    drain_told: Option<u64>,
    /// When the heartbeats that are not answered were handed over, oldest first.
    unanswered: VecDeque<Instant>,
    heard_at: Instant,
    confirmed_at: Option<Instant>,
}

/// Connects, says hello and waits for the welcome, all within [`CONNECT_TIMEOUT`] and [`WELCOME_TIMEOUT`].
pub(super) async fn open(opening: Opening) -> Result<OpenLink, OpenError> {
    let Opening { address, dialer, hello, drain } = opening;
    let draining = drain.is_some();
    let client =
        timeout(CONNECT_TIMEOUT, connect(&address, dialer)).await.map_err(|_| OpenError::Silent)??;
    let opened_at = Instant::now();
    let welcomed = timeout(WELCOME_TIMEOUT, greet(client, hello, drain)).await;
    let (outgoing, incoming, welcome) = welcomed.map_err(|_| OpenError::Silent)??;
    // A leader of another release has refused already what it cannot speak; one of an older release cannot have.
    let theirs = Versions { oldest: welcome.protocol, newest: welcome.protocol };
    protocol::SPOKEN.common(theirs)?;
    let lease = lease_of(&welcome).ok_or(OpenError::Protocol)?;
    let every = HEARTBEAT_EVERY.min(lease / 3);
    let mut beats = interval_at(opened_at + every, every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Ok(OpenLink {
        address,
        term: welcome.term,
        carried_by: Some(welcome.relayed_by).filter(|node| *node > 0),
        opened_at,
        lease,
        outgoing,
        incoming,
        beats,
        beaten: 1,
        drain_told: draining.then_some(0),
        unanswered: VecDeque::from([opened_at]),
        heard_at: Instant::now(),
        confirmed_at: None,
    })
}

type Client = WorkerServiceClient<tonic::transport::Channel>;

async fn connect(address: &Arc<str>, dialer: Dialer) -> Result<Client, OpenError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(OpenError::Address)?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let channel = dialer.connect(&endpoint, address).await.map_err(OpenError::Connect)?;
    Ok(WorkerServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

type Greeted = (mpsc::Sender<pb::WorkerMessage>, Streaming<pb::LeaderMessage>, pb::Welcome);

async fn greet(mut client: Client, hello: pb::Hello, drain: Option<pb::Drain>) -> Result<Greeted, OpenError> {
    let (outgoing, queued) = mpsc::channel(OUTBOX);
    let drain = drain.map(FromWorker::Drain);
    let first = [Some(FromWorker::Hello(hello)), drain, Some(FromWorker::Heartbeat(pb::Heartbeat {}))];
    for kind in first.into_iter().flatten() {
        let message = pb::WorkerMessage { kind: Some(kind) };
        outgoing.try_send(message).map_err(|_| OpenError::Ended)?;
    }
    let response = client.serve(ReceiverStream::new(queued)).await.map_err(refused)?;
    let mut incoming = response.into_inner();
    loop {
        let message = incoming.message().await.map_err(refused)?.ok_or(OpenError::Ended)?;
        match message.kind {
            Some(FromLeader::Welcome(welcome)) => return Ok((outgoing, incoming, welcome)),
            Some(FromLeader::NotLeader(named)) => {
                return Err(OpenError::NotLeader { leader: address_of(named) });
            }
            Some(
                FromLeader::Order(_)
                | FromLeader::Cancel(_)
                | FromLeader::Acknowledged(_)
                | FromLeader::Heartbeat(_)
                | FromLeader::ReadOutput(_)
                | FromLeader::Drain(_)
                | FromLeader::Resume(_),
            ) => return Err(OpenError::Protocol),
            // A kind of a later release.
            None => {}
        }
    }
}

/// A node that is starting or going down says UNAVAILABLE; that is no more than "not here". A status that has a cause was
/// made here, of a connection that broke, as that of a node that was killed.
fn refused(status: Status) -> OpenError {
    match status.code() {
        Code::Unavailable => OpenError::NotLeader { leader: None },
        _ if status.source().is_some() => OpenError::Ended,
        _ => OpenError::Refused(Box::new(status)),
    }
}

fn address_of(named: pb::NotLeader) -> Option<Arc<str>> {
    if named.leader.is_empty() { None } else { Some(named.leader.into()) }
}

fn lease_of(welcome: &pb::Welcome) -> Option<Duration> {
    let lease = Duration::try_from(welcome.lease?).ok()?;
    (lease >= LEASE_MIN).then_some(lease)
}

impl OpenLink {
    /// Until when attempts may begin; None before the first heartbeat is answered.
    pub(super) fn may_begin_until(&self) -> Option<Instant> {
        self.confirmed_at.map(|at| at + self.lease)
    }

    /// Whether the leader was told on this link that the worker drains.
    pub(super) fn was_told_of_drain(&self) -> bool {
        self.drain_told.is_some()
    }

    /// Tells the leader that the worker drains, and asks for an answer.
    pub(super) fn tell_drain(&mut self, room: mpsc::OwnedPermit<pb::WorkerMessage>, drain: pb::Drain) {
        room.send(pb::WorkerMessage { kind: Some(FromWorker::Drain(drain)) });
        self.drain_told = Some(self.beaten);
        self.beats.reset_immediately();
    }

    /// Whether the leader has answered a heartbeat that went behind the drain: no order is under way.
    pub(super) fn drain_was_heard(&self) -> bool {
        let unanswered = self.unanswered.len() as u64;
        self.drain_told.is_some_and(|told| self.beaten - unanswered > told)
    }

    /// What happens next. `wants_room`: the owner has something to send.
    ///
    /// Cancel-safe. Heartbeats come first, so that nothing can keep them from being sent.
    pub(super) async fn next(&mut self, wants_room: bool) -> Result<LinkEvent, LinkError> {
        let silent_at = self.heard_at + SILENCE_MAX;
        tokio::select! { biased;
            _ = self.beats.tick() => self.beat(),
            permit = self.outgoing.clone().reserve_owned(), if wants_room => {
                permit.map(LinkEvent::Room).map_err(|_| LinkError::Ended)
            }
            message = self.incoming.message() => self.heard(message),
            () = sleep_until(silent_at) => Err(LinkError::Silent),
        }
    }

    /// A full outbox means that nothing leaves, and a heartbeat more would not either.
    fn beat(&mut self) -> Result<LinkEvent, LinkError> {
        if self.unanswered.len() >= UNANSWERED_MAX {
            return Err(LinkError::Silent);
        }
        let beat = pb::WorkerMessage { kind: Some(FromWorker::Heartbeat(pb::Heartbeat {})) };
        match self.outgoing.try_send(beat) {
            Ok(()) => {
                self.unanswered.push_back(Instant::now());
                self.beaten += 1;
                Ok(LinkEvent::Beat)
            }
            Err(mpsc::error::TrySendError::Full(_)) => Ok(LinkEvent::Beat),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(LinkError::Ended),
        }
    }

    fn heard(&mut self, message: Result<Option<pb::LeaderMessage>, Status>) -> Result<LinkEvent, LinkError> {
        let message =
            message.map_err(|status| LinkError::Broken(Box::new(status)))?.ok_or(LinkError::Ended)?;
        self.heard_at = Instant::now();
        Ok(match message.kind {
            Some(FromLeader::Order(order)) => LinkEvent::Order(Box::new(order)),
            Some(FromLeader::Cancel(cancel)) => LinkEvent::Cancel(cancel),
            Some(FromLeader::Acknowledged(acknowledged)) => LinkEvent::Acknowledged(acknowledged),
            Some(FromLeader::ReadOutput(wanted)) => LinkEvent::ReadOutput(Box::new(wanted)),
            Some(FromLeader::Heartbeat(pb::Heartbeat {})) => {
                self.confirmed_at = Some(self.unanswered.pop_front().ok_or(LinkError::Protocol)?);
                LinkEvent::Confirmed
            }
            Some(FromLeader::Drain(drain)) => LinkEvent::Drain(drain),
            Some(FromLeader::Resume(pb::Resume {})) => LinkEvent::Resume,
            Some(FromLeader::NotLeader(named)) => {
                return Err(LinkError::NotLeader { leader: address_of(named) });
            }
            Some(FromLeader::Welcome(_)) => return Err(LinkError::Protocol),
            // A kind of a later release.
            None => LinkEvent::Nothing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_broke_is_no_refusal() {
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(matches!(refused(Status::from_error(Box::new(broken))), OpenError::Ended));
        assert!(matches!(refused(Status::unauthenticated("no token")), OpenError::Refused(_)));
        let starting = refused(Status::unavailable("starting"));
        assert!(matches!(starting, OpenError::NotLeader { leader: None }));
    }
}
