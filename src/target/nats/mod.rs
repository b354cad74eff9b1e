//! Leaves one message with a stream of a NATS server (JetStream).
//!
//! `link` keeps the connection, which all attempts share. Every attempt of a run sends the same `Nats-Msg-Id`, by which
//! the stream keeps one of them, for as long as it remembers the id: its `duplicate_window`. So who was not answered asks
//! again, and who comes later with the same run is told that the message was there.
//!
//! An attempt succeeds when the stream has acknowledged the message. Where no stream takes the subject, the server says
//! so at once. Streams are not made here: what one keeps, for how long and on how many servers, is for its owner to say.

mod link;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

pub(super) use self::link::Link;
pub use self::link::NATS_PING_INTERVAL;
use super::Order;
use super::broker::{Failure, Left, Mark, Sent};
use super::told::{IDEMPOTENCY_KEY, is_reserved_header, told};
use crate::state::broker::NatsTarget;

/// Headers that mean something to the server begin so.
const OF_THE_SERVER: &str = "nats-";

/// A message, and where it is left.
#[derive(Debug)]
struct Message {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
}

/// Leaves the message.
pub(super) async fn leave(
    order: &Order,
    target: &NatsTarget,
    link: &Link,
    sent: &Sent,
) -> Result<Left, Failure> {
    link.leave(&message(order, target)?, sent).await
}

fn message(order: &Order, target: &NatsTarget) -> Result<Message, Failure> {
    let reserved = |name: &String| {
        let name = name.to_ascii_lowercase();
        is_reserved_header(&name) || name.starts_with(OF_THE_SERVER)
    };
    if let Some(name) = target.headers.keys().find(|name| reserved(name)) {
        return Err(Failure::Invalid(format!("header {name} is not the job's to set")));
    }
    let mut headers = HeaderMap::new();
    let told = told(order).into_iter().map(|told| (told.header.into_owned(), told.value));
    let key = (IDEMPOTENCY_KEY.to_owned(), order.run_id.clone());
    let own = target.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
    let id = ("Nats-Msg-Id".to_owned(), Mark(order).to_string());
    let stream = target.stream.clone().map(|stream| ("Nats-Expected-Stream".to_owned(), stream));
    for (name, value) in told.chain([key]).chain(own).chain([id]).chain(stream) {
        let value: HeaderValue = value
            .parse()
            .map_err(|_| Failure::Invalid(format!("headers: the value of {name} has more than one line")))?;
        let name: HeaderName = name
            .parse()
            .map_err(|_| Failure::Invalid(format!("headers: {name:?} is not a header's name")))?;
        headers.insert(name, value);
    }
    Ok(Message { subject: target.subject.clone(), headers, payload: Bytes::from(target.payload.clone()) })
}

#[cfg(test)]
mod tests;
