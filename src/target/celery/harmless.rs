//! Whether a message could do harm: a worker that is given one without a content type ends, and so does the next one
//! that is given it; one without an id or a delivery tag stops its queue.
//!
//! What is checked is the text that is about to be sent, by whoever built it, and not how it was built.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::super::amqp;
use super::table;

/// The longest id that Celery's result tables hold.
const ID_BYTES_MAX: usize = 155;

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
    if !is(properties.content_type(), "application/json") {
        return harmful("content_type", "is not application/json");
    }
    if !is(properties.content_encoding(), "utf-8") {
        return harmful("content_encoding", "is not utf-8");
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
    called(serde_json::from_slice(&message.payload).ok().as_ref())
}

/// Looks at what a worker looks at before it runs a task from a list of Redis.
pub(super) fn check(text: &str) -> Result<(), Harmful> {
    let Ok(message) = serde_json::from_str::<Value>(text) else { return harmful("", "is no JSON") };
    if message["content-type"] != "application/json" {
        return harmful("content-type", "is not application/json");
    }
    if message["content-encoding"] != "utf-8" {
        return harmful("content-encoding", "is not utf-8");
    }
    let Value::Object(headers) = &message["headers"] else { return harmful("headers", "is no mapping") };
    let id = self::headers(headers)?;
    properties(&message["properties"], id)?;
    body(&message["body"])
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

fn body(body: &Value) -> Result<(), Harmful> {
    let decoded = body.as_str().and_then(|text| STANDARD.decode(text).ok());
    called(decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok()).as_ref())
}

/// What the task is called with.
fn called(body: Option<&Value>) -> Result<(), Harmful> {
    match body.and_then(Value::as_array).map(Vec::as_slice) {
        Some([Value::Array(_), Value::Object(_), Value::Object(_) | Value::Null]) => Ok(()),
        Some(_) | None => harmful("body", "is not args, kwargs and what is embedded"),
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
