//! The targets of a request that leave a message with a broker.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::super::limits;
use super::super::problem::{Problem, Problems};
use super::target::headers;
use super::value;
use crate::pb::path::keyed;
use crate::pb::v1 as pb;
use crate::state::broker::{
    AmqpTarget, CeleryExpiry, CeleryPlace, CeleryTarget, NatsTarget, RedisPlace, RedisTarget,
};
use crate::state::celery::has_vast_numbers;
use crate::state::limits::CELERY_LOST_AFTER;
use crate::state::spec::Target;

mod template;

/// The queue of a task that names none, which is that of a Celery app which says nothing else.
const CELERY_QUEUE: &str = "celery";
/// Celery's workers give a sign of life every two seconds.
const CELERY_LOST_AFTER_LEAST: Duration = Duration::from_secs(10);
/// Headers of the message that say what is to be run, and how: a job sets them by fields of their own, or not at all.
const CELERY_HEADERS: [&str; 20] = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "compression",
];

/// The message; paths begin at `target.redis`.
pub(super) fn redis(target: &pb::RedisTarget, problems: &mut Problems) -> Option<Target> {
    let path = "target.redis";
    value::name("target.redis.connection", &target.connection, problems);
    value::length("target.redis.payload", &target.payload, limits::BODY_BYTES, problems);
    headers("target.redis.headers", &target.headers, problems);
    if target.bare && !target.headers.is_empty() {
        problems.add("target.redis.headers", "have no place in a message that is its payload alone (bare)");
    }
    let push: Option<pb::RedisPush> = value::word("target.redis.push", target.push, problems);
    let named = [("list", &target.list), ("channel", &target.channel), ("stream", &target.stream)];
    let named: Vec<_> = named.into_iter().filter(|(_, key)| !key.is_empty()).collect();
    let &[(kind, key)] = named.as_slice() else {
        let found: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(" and ") };
        problems.add(path, format!("exactly one of list, channel and stream is needed, found {found}"));
        return None;
    };
    value::length(&keyed(path, kind), key, limits::BROKER_NAME_BYTES, problems);
    if push.is_some() && kind != "list" {
        problems.add("target.redis.push", "belongs to a list");
    }
    if let Some(length) = target.max_length {
        value::within("target.redis.max_length", length, &limits::STREAM_LENGTH, problems);
        if kind != "stream" {
            problems.add("target.redis.max_length", "belongs to a stream");
        }
    }
    let key = key.clone();
    Some(Target::Redis(Box::new(RedisTarget {
        connection: target.connection.clone(),
        to: match (kind, push) {
            ("channel", _) => RedisPlace::Channel(key),
            ("stream", _) => RedisPlace::Stream { key, max_length: target.max_length },
            (_, Some(pb::RedisPush::Right)) => RedisPlace::Right(key),
            (_, None | Some(pb::RedisPush::Left | pb::RedisPush::Unspecified)) => RedisPlace::Left(key),
        },
        payload: target.payload.clone(),
        headers: target.headers.clone(),
        bare: target.bare,
    })))
}

/// The message; paths begin at `target.amqp`.
pub(super) fn amqp(target: &pb::AmqpTarget, problems: &mut Problems) -> Target {
    value::name("target.amqp.connection", &target.connection, problems);
    for (name, text) in [
        ("exchange", &target.exchange),
        ("routing_key", &target.routing_key),
        ("content_type", &target.content_type),
    ] {
        broker_name(&keyed("target.amqp", name), text, problems);
    }
    if target.exchange.is_empty() && target.routing_key.is_empty() {
        problems
            .add("target.amqp.routing_key", "is missing; without an exchange it is the name of the queue");
    }
    value::length("target.amqp.payload", &target.payload, limits::BODY_BYTES, problems);
    headers("target.amqp.headers", &target.headers, problems);
    let bytes: usize = target.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits::BROKER_HEADERS_BYTES {
        let reason =
            format!("{bytes} bytes are too long, at most {} are allowed", limits::BROKER_HEADERS_BYTES);
        problems.add("target.amqp.headers", reason);
    }
    let expiration = target.expiration.as_ref();
    let priority = target.priority.map(u8::try_from).transpose();
    if priority.is_err() {
        value::within("target.amqp.priority", target.priority.unwrap_or(0), &(0..=255), problems);
    }
    Target::Amqp(Box::new(AmqpTarget {
        connection: target.connection.clone(),
        exchange: target.exchange.clone(),
        routing_key: target.routing_key.clone(),
        payload: target.payload.clone(),
        headers: target.headers.clone(),
        content_type: Some(&target.content_type).filter(|text| !text.is_empty()).cloned(),
        priority: priority.unwrap_or(None),
        expiration: value::span(
            "target.amqp.expiration",
            expiration,
            Duration::from_millis(1)..=limits::TIMEOUT,
            problems,
        ),
        persistent: !target.transient,
    }))
}

/// The message; paths begin at `target.nats`.
pub(super) fn nats(target: &pb::NatsTarget, problems: &mut Problems) -> Target {
    value::name("target.nats.connection", &target.connection, problems);
    subject("target.nats.subject", &target.subject, problems);
    value::length("target.nats.payload", &target.payload, limits::BODY_BYTES, problems);
    headers("target.nats.headers", &target.headers, problems);
    for name in target.headers.keys().filter(|name| name.to_ascii_lowercase().starts_with("nats-")) {
        let hint = Some("the stream that has to take it is named by target.nats.stream".to_owned());
        let reason = "belongs to the server and cannot be set as a header".to_owned();
        problems.push(Problem { path: keyed("target.nats.headers", name), reason, hint });
    }
    broker_name("target.nats.stream", &target.stream, problems);
    if target.stream.contains(['.', '*', '>', '/', '\\', ' ']) {
        problems.add("target.nats.stream", "is no name of a stream: it has one of . * > / \\ or a space");
    }
    Target::Nats(Box::new(NatsTarget {
        connection: target.connection.clone(),
        subject: target.subject.clone(),
        payload: target.payload.clone(),
        headers: target.headers.clone(),
        stream: Some(&target.stream).filter(|text| !text.is_empty()).cloned(),
    }))
}

/// A subject that a message can be sent to.
fn subject(path: &str, text: &str, problems: &mut Problems) {
    value::length(path, text, limits::BROKER_NAME_BYTES, problems);
    let tokens = || text.split('.');
    if text.is_empty() {
        problems.add(path, "is missing");
    } else if tokens().any(str::is_empty) {
        problems.add(path, "has an empty token: a dot at its beginning or end, or two in a row");
    } else if text.contains(['*', '>']) {
        problems.add(path, "has a wildcard; a message is sent to one subject");
    } else if text.chars().any(|it| it.is_whitespace() || it.is_control()) {
        problems.add(path, "has blanks or control characters");
    } else if tokens().next().is_some_and(|first| ["$JS", "$SYS", "_INBOX"].contains(&first)) {
        problems
            .add(path, "is one of the server's own: a message there is a command, or an answer to somebody");
    }
}

/// What becomes of a run whose attempt is lost: `on_lost`, or what the target says by the name of its own for it.
pub(super) fn on_lost(
    target: Option<&pb::Target>,
    on_lost: Option<pb::OnLost>,
    problems: &mut Problems,
) -> Option<pb::OnLost> {
    let amqp = target.and_then(|target| target.amqp.as_ref()).map(|amqp| ("target.amqp", amqp.on_ambiguous));
    let celery = target.and_then(|target| target.celery.as_ref());
    let celery = celery.map(|celery| ("target.celery", celery.on_ambiguous));
    let Some((path, word)) = amqp.or(celery) else { return on_lost };
    let path = keyed(path, "on_ambiguous");
    let means = match value::word(&path, word, problems) {
        None | Some(pb::OnAmbiguous::Unspecified) => return on_lost,
        Some(pb::OnAmbiguous::Republish) => pb::OnLost::Rerun,
        Some(pb::OnAmbiguous::Skip) => pb::OnLost::Fail,
    };
    let contrary = match on_lost {
        None | Some(pb::OnLost::Unspecified) => None,
        Some(given) => (given != means).then_some(given),
    };
    if let Some(given) = contrary {
        let (says, given) = match given {
            pb::OnLost::Fail | pb::OnLost::Unspecified => ("republish", "fail"),
            pb::OnLost::Rerun => ("skip", "rerun"),
        };
        let hint = Some(
            "the two are one choice: republish is rerun, skip is fail; leave one of them out".to_owned(),
        );
        let reason = format!("is {says:?}, and on_lost is {given:?}");
        problems.push(Problem { path, reason, hint });
    }
    Some(means)
}

/// The task; paths begin at `target.celery`.
pub(super) fn celery(target: &pb::CeleryTarget, problems: &mut Problems) -> Target {
    value::name("target.celery.broker", &target.broker, problems);
    let built = template::read(target, problems);
    if target.task.is_empty() && target.template.is_empty() {
        problems.add("target.celery.task", "is missing");
    }
    broker_name("target.celery.task", &target.task, problems);
    if target.args.len() + target.kwargs.len() > limits::BODY_BYTES {
        let (found, most) = (target.args.len() + target.kwargs.len(), limits::BODY_BYTES);
        let reason = format!("{found} bytes with kwargs are too long, at most {most} are allowed");
        problems.add("target.celery.args", reason);
    }
    if target.priority.is_some_and(|priority| u8::try_from(priority).is_err()) {
        value::within("target.celery.priority", target.priority.unwrap_or(0), &(0..=255), problems);
    }
    let millisecond = Duration::from_millis(1);
    let mut span = |name: &str, of: Option<&prost_types::Duration>, from| {
        value::span(&keyed("target.celery", name), of, from..=limits::TIMEOUT, problems)
    };
    let time_limit = span("time_limit", target.time_limit.as_ref(), millisecond);
    let soft_time_limit = span("soft_time_limit", target.soft_time_limit.as_ref(), millisecond);
    let expires = span("expires", target.expires.as_ref(), Duration::ZERO);
    let lost_after = span("lost_after", target.lost_after.as_ref(), Duration::ZERO);
    if lost_after.is_some_and(|span| !span.is_zero() && span < CELERY_LOST_AFTER_LEAST) {
        problems.add("target.celery.lost_after", "expected 10s or more, or 0s for never");
    }
    let wait_for_completion = target.wait_for_completion.unwrap_or(true);
    for (name, is_there) in
        [("capture_result", target.capture_result), ("lost_after", target.lost_after.is_some())]
    {
        if is_there && !wait_for_completion {
            let reason = "says something of the end of the task, for which wait_for_completion does not wait";
            problems.add(keyed("target.celery", name), reason);
        }
    }
    for (name, text) in [("shadow", &target.shadow), ("reply_to", &target.reply_to)] {
        broker_name(&keyed("target.celery", name), text, problems);
    }
    if let (Some(hard), Some(soft)) = (time_limit, soft_time_limit)
        && soft >= hard
    {
        problems.add("target.celery.soft_time_limit", "must be shorter than time_limit");
    }
    let some = |text: &String| Some(text).filter(|text| !text.is_empty()).cloned();
    Target::Celery(Box::new(CeleryTarget {
        broker: target.broker.clone(),
        task: built.as_ref().map_or_else(|| target.task.clone(), |built| built.task.clone()),
        args: json("target.celery.args", &target.args, Shape::List, problems),
        kwargs: json("target.celery.kwargs", &target.kwargs, Shape::Mapping, problems),
        to: celery_place(target, built.as_ref().map(|built| built.to.clone()), problems),
        headers: celery_headers(&target.headers, problems),
        priority: target.priority.and_then(|priority| u8::try_from(priority).ok()),
        expires: celery_expiry(target, expires, problems),
        time_limit,
        soft_time_limit,
        ignore_result: target.ignore_result,
        shadow: some(&target.shadow),
        reply_to: some(&target.reply_to),
        persistent: !target.transient,
        wait_for_completion,
        capture_result: target.capture_result,
        lost_after: lost_after
            .or(Some(CELERY_LOST_AFTER))
            .filter(|span| wait_for_completion && !span.is_zero()),
        template: built.map(|built| built.template),
    }))
}

/// Where it goes: as the job says, or else as the template does.
fn celery_place(
    target: &pb::CeleryTarget,
    of_template: Option<CeleryPlace>,
    problems: &mut Problems,
) -> CeleryPlace {
    for (name, text) in
        [("queue", &target.queue), ("exchange", &target.exchange), ("routing_key", &target.routing_key)]
    {
        broker_name(&keyed("target.celery", name), text, problems);
    }
    let (queue, name, routing_key) =
        (target.queue.clone(), target.exchange.clone(), target.routing_key.clone());
    match (queue.is_empty(), name.is_empty()) {
        (false, false) => problems.add("target.celery", "at most one of queue and exchange has a place"),
        (_, true) if !routing_key.is_empty() => {
            problems.add("target.celery.routing_key", "belongs to an exchange");
        }
        (true, false) if routing_key.is_empty() => {
            problems.add("target.celery.routing_key", "is missing; an exchange needs one");
        }
        (_, _) => {}
    }
    if !name.is_empty() {
        CeleryPlace::Exchange { name, routing_key }
    } else if queue.is_empty() {
        of_template.unwrap_or_else(|| CeleryPlace::Queue(CELERY_QUEUE.to_owned()))
    } else {
        CeleryPlace::Queue(queue)
    }
}

fn celery_expiry(
    target: &pb::CeleryTarget,
    expires: Option<Duration>,
    problems: &mut Problems,
) -> CeleryExpiry {
    let at = value::instant("target.celery.expires_at", target.expires_at.as_ref(), problems);
    match (expires, at) {
        (Some(_), Some(_)) => {
            problems.add("target.celery", "at most one of expires and expires_at has a place");
            CeleryExpiry::Never
        }
        (Some(Duration::ZERO), None) => CeleryExpiry::Never,
        (Some(span), None) => CeleryExpiry::After(span),
        (None, Some(at)) => CeleryExpiry::At(at),
        (None, None) => CeleryExpiry::Next,
    }
}

fn celery_headers(text: &str, problems: &mut Problems) -> String {
    let path = "target.celery.headers";
    value::length(path, text, limits::BROKER_HEADERS_BYTES, problems);
    let headers = json(path, text, Shape::Mapping, problems);
    let named: BTreeMap<String, serde::de::IgnoredAny> = serde_json::from_str(&headers).unwrap_or_default();
    value::most(path, "headers", named.len(), limits::PAIRS, problems);
    for name in named.keys() {
        if CELERY_HEADERS.contains(&name.as_str()) {
            let hint = Some("some have fields of their own in target.celery".to_owned());
            let reason = "belongs to the protocol and cannot be set as a header".to_owned();
            problems.push(Problem { path: keyed(path, name), reason, hint });
        } else if super::target::is_ours(name) {
            problems.add(keyed(path, name), "is set by the scheduler");
        }
    }
    headers
}

/// A name as brokers have them: short, without control characters.
fn broker_name(path: &str, text: &str, problems: &mut Problems) {
    value::length(path, text, limits::BROKER_NAME_BYTES, problems);
    if text.chars().any(char::is_control) {
        problems.add(path, "has control characters");
    }
}

/// What a JSON text has to be.
#[derive(Clone, Copy)]
enum Shape {
    List,
    Mapping,
}

/// The text in one spelling of all that mean the same. Empty stands for an empty list or mapping.
fn json(path: &str, text: &str, shape: Shape, problems: &mut Problems) -> String {
    let (expected, empty) = match shape {
        Shape::List => ("a list", "[]"),
        Shape::Mapping => ("a mapping", "{}"),
    };
    if text.trim().is_empty() || text.len() > limits::BODY_BYTES {
        return empty.to_owned();
    }
    let fits = |value: &Value| match shape {
        Shape::List => value.is_array(),
        Shape::Mapping => value.is_object(),
    };
    match serde_json::from_str::<Value>(text) {
        Ok(value) if !fits(&value) => problems.add(path, format!("expected {expected}, or one as JSON text")),
        Ok(value) if has_vast_numbers(&value) => {
            problems.add(path, "has a whole number beyond 64 bits; write it as a text");
        }
        Ok(value) => return value.to_string(),
        Err(error) => problems.add(path, format!("is no JSON: {error}")),
    }
    empty.to_owned()
}

#[cfg(test)]
mod tests;
