//! What a worker says on its stream, from bytes to what the leader's loop is told. For fuzzing.

use prost::Message;

use super::reports::read_report;
use super::worker_service::read_hello;
use crate::leader::SessionId;
use crate::pb::v1 as pb;

/// Reads a message of a worker; none if it is refused.
#[must_use]
pub fn hear(bytes: &[u8]) -> Option<()> {
    match pb::WorkerMessage::decode(bytes).ok()?.kind? {
        pb::worker_message::Kind::Hello(hello) => read_hello(hello, 1, None).ok().map(drop),
        pb::worker_message::Kind::Report(report) => read_report(SessionId(1), report).ok().map(drop),
        pb::worker_message::Kind::Heartbeat(_) | pb::worker_message::Kind::Drain(_) => Some(()),
    }
}
