//! The message of a run whose job has a template: what the app has built, with what is another one in each run.
//!
//! Replaced are the ids, in headers and body alike, and what tells of the end; written are the headers that say which run
//! it is and until when it is worth running. All else is as the app has built it.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Map, Value, json};
use uuid::{Builder, Uuid};

use super::super::Order;
use super::super::told::{IDEMPOTENCY_KEY, told};
use super::message::{self, Message};
use crate::state::broker::CeleryTarget;
use crate::state::celery::{self, CLUSTER, CeleryTemplate, FILL, RUN, ZLIB};
use crate::state::time::Timestamp;

/// The message of an order; an error says what of it cannot be read.
pub(super) fn message(
    order: &Order,
    target: &CeleryTarget,
    template: &CeleryTemplate,
    now: Timestamp,
    origin: &str,
) -> Result<Message, String> {
    let read = celery::read(&template.message, &template.ids).map_err(|flaw| format!("template.{flaw}"))?;
    if read.tells() && !message::waits(order, target) {
        return Err("template: asks workers to tell of its end, and nobody would hear it".to_owned());
    }
    let expires = message::expires(order, target, now)?;
    let (from, to) = fillings(order, template)?;
    let text = |of: &str| String::from_utf8(celery::replaced(of.as_bytes(), &from, &to));
    let id = text(read.header("id")).map_err(|error| format!("template.headers.id: {error}"))?;
    let body = celery::replaced(&read.body, &from, &to);
    let filled = |of: Map<String, Value>| {
        let text = celery::replaced(Value::Object(of).to_string().as_bytes(), &from, &to);
        serde_json::from_slice::<Map<String, Value>>(&text).map_err(|error| format!("template: {error}"))
    };
    let mut headers = filled(read.headers)?;
    let mut more = filled(read.properties)?;
    for (name, value) in [
        ("id", json!(id)),
        ("root_id", json!(id)),
        ("parent_id", Value::Null),
        ("eta", Value::Null),
        ("expires", json!(expires.map(message::iso))),
        ("origin", json!(origin)),
        ("celery_beat_task", json!(true)),
    ] {
        headers.insert(name.to_owned(), value);
    }
    headers.entry("periodic_task_name").or_insert_with(|| json!(order.job));
    for told in told(order) {
        headers.insert(told.header.into_owned(), json!(told.value));
    }
    headers.insert(IDEMPOTENCY_KEY.to_owned(), json!(order.run_id));
    let body = match headers.get("compression").and_then(Value::as_str) {
        Some(ZLIB) => compressed(&body)?,
        Some(_) | None => body,
    };
    let mut take = |name: &str| more.remove(name).unwrap_or_default();
    for name in ["correlation_id", "delivery_tag", "delivery_info", "body_encoding", "expiration"] {
        take(name);
    }
    let of_template = take("priority").as_u64().and_then(|priority| u8::try_from(priority).ok());
    let delivery_mode = if take("delivery_mode") == 1 { 1 } else { 2 };
    let reply_to = take("reply_to").as_str().unwrap_or_default().to_owned();
    Ok(Message {
        tag: message::tag(order),
        lifetime: expires.map(|expires| expires.since(now)),
        id,
        headers,
        own: Map::new(),
        content_type: read.content_type,
        content_encoding: read.content_encoding,
        body,
        // 0 is what kombu writes where nobody has said any.
        priority: target.priority.or(of_template.filter(|priority| *priority > 0)),
        delivery_mode,
        reply_to,
        more,
    })
}

/// Whether the task whose end is that of the run is the one that the message is of.
pub(super) fn ends_with_its_own(target: &CeleryTarget) -> bool {
    target.template.as_ref().is_none_or(|template| {
        let read = celery::read(&template.message, &template.ids);
        read.is_ok_and(|read| template.ids.first().is_some_and(|id| id == read.header("id")))
    })
}

/// What stands in the template, and what takes its place in this run; the id of the task that ends the run first.
fn fillings(order: &Order, template: &CeleryTemplate) -> Result<(Vec<String>, Vec<String>), String> {
    let space = message::space(order);
    let run = format!("{}/{}", order.run_id, order.delivery);
    if run.len() > RUN.len() {
        return Err(format!("run_id: {} bytes have no place in a template", run.len()));
    }
    let mut from = template.ids.clone();
    let mut to = vec![message::task_id(order)];
    to.extend(template.ids.iter().skip(1).map(|id| id_of(space, id)));
    from.push(RUN.to_owned());
    let fill = RUN.len() - run.len();
    to.push(run.chars().chain(std::iter::repeat_n(FILL, fill)).collect());
    // Where it stands, the run waits, and so its cluster is known.
    if order.cluster_id.len() == CLUSTER.len() {
        from.push(CLUSTER.to_owned());
        to.push(order.cluster_id.clone());
    }
    Ok((from, to))
}

/// An id of something that is sent behind the task. By its version it is not one of a task that was left here: what
/// events tell of it is not the end of the run.
fn id_of(space: Uuid, id: &str) -> String {
    let hash = Uuid::new_v5(&space, id.as_bytes());
    Builder::from_custom_bytes(hash.into_bytes()).into_uuid().to_string()
}

fn compressed(body: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    written.map_err(|error| format!("template.body: {error}"))
}
