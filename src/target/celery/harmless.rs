//! Whether a message could do harm: a worker that is given one without a content type ends, and so does the next one
//! that is given it; one without an id or a delivery tag stops its queue.
//!
//! What is checked is the text that is about to be sent, by whoever built it, and not how it was built.

use std::borrow::Cow;
use std::io::Read as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::ZlibDecoder;
use serde_json::{Map, Value};

use super::super::amqp;
use super::table;
use crate::state::celery::{self, ZLIB};

/// The longest id that Celery's result tables hold.
const ID_BYTES_MAX: usize = 155;
/// A body that unpacks to more is not looked at to its end, and so is none; what a job may say is less.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub(super) struct Harmful {
    path: &'static str,
    reason: &'static str,
}

fn harmful<T>(path: &'static str, reason: &'static str) -> Result<T, Harmful> {
    Err(Harmful { path, reason })
}

/// Looks at what a worker looks at before it runs a task from RabbitMQ.
pub(super) fn check_amqp(message: &amqp::Message) -> Result<(), Harmful> {
    let properties = &message.properties;
    let is = |text: &Option<lapin::types::ShortString>, expected: &str| {
        text.as_ref().is_some_and(|text| text.as_str() == expected)
    };
    let Some(content_type) = properties.content_type().as_ref().filter(|it| !it.as_str().is_empty()) else {
        return harmful("content_type", "is missing");
    };
    if !is(properties.content_encoding(), "utf-8") && !is(properties.content_encoding(), "binary") {
        return harmful("content_encoding", "is neither utf-8 nor binary");
    }
    let Some(table) = properties.headers() else { return harmful("headers", "are missing") };
    let headers = table::mapping(table);
    let id = self::headers(&headers)?;
    if !is(properties.correlation_id(), id) {
        return harmful("properties.correlation_id", "is not the id of the task");
    }
    if message.routing_key.as_str().is_empty() {
        return harmful("routing_key", "is missing");
    }
    called(content_type.as_str(), &headers, &message.payload)
}

/// Looks at what a worker looks at before it runs a task from a list of Redis.
pub(super) fn check(text: &str) -> Result<(), Harmful> {
    let Ok(message) = serde_json::from_str::<Value>(text) else { return harmful("", "is no JSON") };
    let Some(content_type) = message["content-type"].as_str().filter(|text| !text.is_empty()) else {
        return harmful("content-type", "is missing");
    };
    if message["content-encoding"] != "utf-8" && message["content-encoding"] != "binary" {
        return harmful("content-encoding", "is neither utf-8 nor binary");
    }
    let Value::Object(headers) = &message["headers"] else { return harmful("headers", "is no mapping") };
    let id = self::headers(headers)?;
    properties(&message["properties"], id)?;
    match message["body"].as_str().and_then(|text| STANDARD.decode(text).ok()) {
        Some(body) => called(content_type, headers, &body),
        None => harmful("body", "is not base64"),
    }
}

/// The id of the task, when the headers are as they should be.
fn headers(headers: &Map<String, Value>) -> Result<&str, Harmful> {
    let of = |name: &str| headers.get(name).and_then(Value::as_str).unwrap_or_default();
    if of("task").is_empty() {
        return harmful("headers.task", "is no name");
    }
    let id = of("id");
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return harmful("headers.id", "is no id of 1 to 155 bytes");
    }
    for (path, name) in [("headers.expires", "expires"), ("headers.eta", "eta")] {
        match headers.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if is_instant(text) => {}
            Some(_) => return harmful(path, "is no instant"),
        }
    }
    match headers.get("timelimit") {
        None | Some(Value::Null) => {}
        Some(Value::Array(limits)) if limits.len() == 2 && limits.iter().all(is_limit) => {}
        Some(_) => return harmful("headers.timelimit", "is no pair of limits"),
    }
    Ok(id)
}

fn properties(properties: &Value, id: &str) -> Result<(), Harmful> {
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    if properties["correlation_id"] != id {
        return harmful("properties.correlation_id", "is not the id of the task");
    }
    if !text(&properties["delivery_tag"]) {
        return harmful("properties.delivery_tag", "is missing");
    }
    let info = &properties["delivery_info"];
    if !info["exchange"].is_string() {
        return harmful("properties.delivery_info.exchange", "is no text");
    }
    if !text(&info["routing_key"]) {
        return harmful("properties.delivery_info.routing_key", "is missing");
    }
    if properties["body_encoding"] != "base64" {
        return harmful("properties.body_encoding", "is not base64");
    }
    if !properties["priority"].is_u64() {
        return harmful("properties.priority", "is no number");
    }
    Ok(())
}

/// What the task is called with, as it is once a worker has unpacked it.
fn called(content_type: &str, headers: &Map<String, Value>, body: &[u8]) -> Result<(), Harmful> {
    let unpacked = match headers.get("compression") {
        None | Some(Value::Null) => Ok(Cow::Borrowed(body)),
        Some(how) if how == ZLIB => {
            let mut unpacked = Vec::new();
            ZlibDecoder::new(body)
                .take(BODY_BYTES_MAX)
                .read_to_end(&mut unpacked)
                .map(|_| Cow::Owned(unpacked))
        }
        Some(_) => return harmful("headers.compression", "is not that of zlib"),
    };
    match unpacked.map(|body| celery::check_body(content_type, &body)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => harmful("body", "is not args, kwargs and what is embedded"),
        Err(_) => harmful("body", "cannot be unpacked"),
    }
}

fn is_limit(limit: &Value) -> bool {
    limit.is_null() || limit.as_f64().is_some_and(|seconds| seconds > 0.0)
}

/// `2026-11-23T13:21:40.569646+00:00`, the digits behind the second optional.
fn is_instant(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let Some(rest) = shape.strip_prefix("0000-00-00T00:00:00") else { return false };
    let rest = match rest.strip_prefix('.') {
        Some(part) => part.trim_start_matches('0'),
        None => rest,
    };
    rest == "Z" || rest == "+00:00" || rest == "-00:00"
}
