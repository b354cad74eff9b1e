//! What a leader says on a worker's stream, from bytes to an order. For fuzzing.

use prost::Message;

use super::convert;
use crate::pb::v1 as pb;

/// Reads a message of a leader; none if it is refused.
#[must_use]
pub fn hear(bytes: &[u8]) -> Option<()> {
    match pb::LeaderMessage::decode(bytes).ok()?.kind? {
        pb::leader_message::Kind::Order(order) => convert::order(order).ok().map(drop),
        _ => Some(()),
    }
}
