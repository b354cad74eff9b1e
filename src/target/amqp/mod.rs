//! Leaves one message with a RabbitMQ server.
//!
//! `link` keeps the connection, which all attempts share, and says of each message what became of it: taken, refused,
//! without a queue, or unknown. The last is what no client can rule out, for the server compares no ids: whoever died
//! between the sending and the confirmation may have left the message or not. The replicated state decides what becomes
//! of such a run (`on_lost`, which the target calls `on_ambiguous`); here is only told which attempts are in doubt, and
//! nothing that is surely not left is among them.
//!
//! Neither exchanges nor queues are declared: whoever consumes knows what they are to be like, and a guess that differs
//! keeps the consumer's own declaration from succeeding.

mod apart;
mod lanes;
mod link;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

pub(super) use self::apart::REPLY_SUCCESS;
pub use self::link::{AMQP_CHANNELS_MAX, AMQP_HEARTBEAT};
pub(super) use self::link::{Link, failure};
use super::Order;
use super::broker::{Failure, Left, Mark, Sent};
use super::told::{IDEMPOTENCY_KEY, is_reserved_header, told};
use crate::state::broker::AmqpTarget;

/// A message, and where it is left.
#[derive(Debug)]
pub(super) struct Message {
    /// Empty: the default one.
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) payload: Vec<u8>,
}

/// Leaves the message.
pub(super) async fn leave(
    order: &Order,
    target: &AmqpTarget,
    link: &Link,
    sent: &Sent,
) -> Result<Left, Failure> {
    if let Some(name) = target.headers.keys().find(|name| is_reserved_header(&name.to_ascii_lowercase())) {
        return Err(Failure::Invalid(format!("header {name} is set by the scheduler")));
    }
    link.leave(message(order, target)?, sent).await
}

/// A name as AMQP writes it.
pub(super) fn short(field: &str, text: &str) -> Result<ShortString, Failure> {
    ShortString::try_new(text)
        .map_err(|_| Failure::Invalid(format!("{field}: {} bytes are more than AMQP can write", text.len())))
}

fn message(order: &Order, target: &AmqpTarget) -> Result<Message, Failure> {
    let mut headers = FieldTable::default();
    let told = told(order).into_iter().map(|told| (told.header.into_owned(), told.value));
    let key = (IDEMPOTENCY_KEY.to_owned(), order.run_id.clone());
    let own = target.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
    for (name, value) in told.chain([key]).chain(own) {
        headers.insert(short("headers", &name)?, AMQPValue::LongString(value.into()));
    }
    let mut properties = BasicProperties::default()
        .with_headers(headers)
        .with_message_id(short("message_id", &Mark(order).to_string())?)
        .with_delivery_mode(if target.persistent { 2 } else { 1 });
    if let Some(kind) = &target.content_type {
        properties = properties.with_content_type(short("content_type", kind)?);
    }
    if let Some(priority) = target.priority {
        properties = properties.with_priority(priority);
    }
    if let Some(expiration) = target.expiration {
        properties = properties.with_expiration(short("expiration", &expiration.as_millis().to_string())?);
    }
    Ok(Message {
        exchange: short("exchange", &target.exchange)?,
        routing_key: short("routing_key", &target.routing_key)?,
        properties,
        payload: target.payload.clone().into_bytes(),
    })
}

#[cfg(test)]
mod tests;
