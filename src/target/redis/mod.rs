//! Leaves one message with a Redis server.
//!
//! `link` keeps the connection, which all attempts share: what is in flight travels together, so a burst costs few
//! round trips. The message and a note of the run that it is of are written by one script (`leave.lua`). Whoever comes
//! with the same run again, while the note lasts, finds it: so all attempts of a run leave one message, whatever died
//! between the writing and its report.
//!
//! That holds as far as the server keeps what it was told. A failover to a replica that had not heard yet, or a server
//! that lost its memory, has neither the message nor the note; then a later attempt leaves it again, and one that has
//! reported does not.

mod dial;
mod greeting;
mod link;
mod moves;

use serde_json::{Map, Value};

pub(super) use self::link::{How, Leave, Link, Listening};
use super::Order;
use super::broker::{Failure, Left, Mark};
use super::told::{is_reserved_header, told};
use crate::state::broker::{RedisPlace, RedisTarget};

/// Leaves the message.
pub(super) async fn leave(order: &Order, target: &RedisTarget, link: &Link) -> Result<Left, Failure> {
    if let Some(name) = target.headers.keys().find(|name| is_reserved_header(&name.to_ascii_lowercase())) {
        return Err(Failure::Invalid(format!("header {name} is set by the scheduler")));
    }
    let (how, place) = match &target.to {
        RedisPlace::Left(key) => (How::PushLeft, key),
        RedisPlace::Right(key) => (How::PushRight, key),
        RedisPlace::Channel(channel) => (How::Publish, channel),
        RedisPlace::Stream { key, .. } => (How::Add, key),
    };
    let headers = headers(order, target);
    let what = match &target.to {
        RedisPlace::Stream { max_length, .. } => entry(&target.payload, headers, target.bare, *max_length),
        RedisPlace::Left(_) | RedisPlace::Right(_) | RedisPlace::Channel(_) => {
            vec![message(&target.payload, headers, target.bare)]
        }
    };
    let note = note(order, "");
    link.leave(&Leave { note: &note, how, places: std::slice::from_ref(place), what: &what }).await
}

/// The key under which a server remembers that the message of a run was left.
pub(super) fn note(order: &Order, prefix: &str) -> String {
    format!("{prefix}chronarch:sent:{}", Mark(order))
}

/// What it is told, and then what the job says.
fn headers(order: &Order, target: &RedisTarget) -> Vec<(String, String)> {
    let told = told(order).into_iter().map(|told| (told.header.into_owned(), told.value));
    let key = (super::told::IDEMPOTENCY_KEY.to_owned(), order.run_id.clone());
    let own = target.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
    told.chain([key]).chain(own).collect()
}

fn message(payload: &str, headers: Vec<(String, String)>, bare: bool) -> String {
    if bare {
        return payload.to_owned();
    }
    let headers: Map<String, Value> =
        headers.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    serde_json::json!({ "headers": headers, "payload": payload }).to_string()
}

/// The words of an XADD behind its key.
fn entry(payload: &str, headers: Vec<(String, String)>, bare: bool, max_length: Option<u64>) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(length) = max_length {
        words.extend(["MAXLEN".to_owned(), "~".to_owned(), length.to_string()]);
    }
    words.extend(["*".to_owned(), "payload".to_owned(), payload.to_owned()]);
    if !bare {
        words.extend(headers.into_iter().flat_map(|(name, value)| [name, value]));
    }
    words
}

#[cfg(test)]
mod tests;
