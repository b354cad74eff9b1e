//! Messages beside those that Celery itself published (`testdata/rabbitmq.json`, taken from the wire), field by field
//! and with the types of their headers.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::{Map, Value, json};

use super::super::amqp;
use super::tests::{like, order};
use super::*;
use crate::state::broker::CeleryExpiry;

/// When the messages were taken from the wire: 2026-11-23.
const NOW: Timestamp = Timestamp::from_millis(1_795_436_000_000);

fn message(target: &CeleryTarget) -> amqp::Message {
    let order = order(target.clone());
    let message = message::Message::new(&order, target, NOW, "chronarch@here").expect("a message");
    let message = message.for_amqp(target).expect("one that AMQP can write");
    harmless::check_amqp(&message).expect("harmless");
    message
}

/// Each value with the letter of its type.
pub(super) fn typed(table: &FieldTable) -> Map<String, Value> {
    fn one(value: &AMQPValue) -> Value {
        let letter = value.get_type().get_id().to_string();
        match value {
            AMQPValue::FieldArray(values) => {
                json!([letter, values.as_slice().iter().map(one).collect::<Vec<_>>()])
            }
            AMQPValue::FieldTable(values) => json!([letter, typed(values)]),
            AMQPValue::LongString(text) => json!([letter, String::from_utf8_lossy(text.as_bytes())]),
            AMQPValue::Boolean(flag) => json!([letter, flag]),
            AMQPValue::LongInt(number) => json!([letter, number]),
            AMQPValue::Void => json!([letter, null]),
            other => panic!("{other:?}"),
        }
    }
    table.inner().iter().map(|(name, value)| (name.to_string(), one(value))).collect()
}

/// As a vector has them; without those that are absent.
pub(super) fn properties(message: &amqp::Message) -> Value {
    let text = |of: &Option<ShortString>| of.as_ref().map(ToString::to_string);
    let it = &message.properties;
    let Value::Object(mut all) = json!({
        "content_type": text(it.content_type()),
        "content_encoding": text(it.content_encoding()),
        "delivery_mode": it.delivery_mode(),
        "priority": it.priority(),
        "correlation_id": text(it.correlation_id()),
        "reply_to": text(it.reply_to()),
        "expiration": text(it.expiration()),
    }) else {
        unreachable!()
    };
    all.retain(|_, value| !value.is_null());
    assert!([it.message_id(), it.user_id(), it.app_id(), it.kind()].iter().all(|it| it.is_none()));
    Value::Object(all)
}

/// Without what differs from message to message.
fn comparable(headers: &mut Map<String, Value>, properties: &mut Value) {
    let id = headers["id"].clone();
    assert_eq!(headers["root_id"], id);
    assert_eq!(properties["correlation_id"], id[1]);
    for name in ["id", "root_id", "origin"] {
        assert_eq!(headers.remove(name).expect(name)[0], "S");
    }
    headers.retain(|name, _| !name.starts_with("chronarch-") && name != "idempotency-key");
    for name in ["celery_beat_task", "periodic_task_name"] {
        headers.remove(name);
    }
    if headers["expires"][0] == "S" {
        headers["expires"] = json!("some time");
    }
    // A list is written as one, and names in their order, whatever the caller had; typed values in their form of the
    // wire.
    let shown = headers["argsrepr"][1].as_str().expect("a text").to_owned();
    headers["argsrepr"] = match shown.contains("datetime") {
        true => json!("typed"),
        false => json!(shown.replacen('(', "[", 1).replace(')', "]")),
    };
    let mut shown: Vec<char> = headers["kwargsrepr"][1].as_str().expect("a text").chars().collect();
    shown.sort_unstable();
    headers["kwargsrepr"] = json!(String::from_iter(shown));
    let properties = properties.as_object_mut().expect("a mapping");
    properties.remove("correlation_id");
    // Each client has a queue of its own for what a result backend of the kind rpc:// answers.
    if properties["reply_to"] != "my-replies" {
        properties.remove("reply_to");
    }
    if let Some(expiration) = properties.get_mut("expiration") {
        assert!(expiration.as_str().is_some_and(|text| text.parse::<u64>().is_ok()));
        *expiration = json!("some time");
    }
}

#[test]
fn each_message_of_celery_is_reproduced_field_by_field_with_its_types() {
    let vectors: Value = serde_json::from_str(include_str!("testdata/rabbitmq.json")).expect("JSON");
    let vectors = vectors["vectors"].as_array().expect("a list");
    assert!(vectors.len() >= 22, "{}", vectors.len());
    for vector in vectors {
        let name = vector["name"].as_str().expect("a name");
        let mut task = like(name).0;
        // kombu writes no priority in some places, and in others 0, which means the same.
        let priority = vector["properties"]["priority"].as_u64().map(|it| u8::try_from(it).expect("one"));
        if (task.priority, priority) == (None, Some(0)) {
            task.priority = priority;
        }
        let ours = message(&task);
        let place = (ours.exchange.as_str(), ours.routing_key.as_str());
        let expected = |key: &str| vector[key].as_str().expect("a text");
        assert_eq!(place, (expected("exchange"), expected("routing_key")), "{name}");
        let mut theirs =
            (vector["headers"].as_object().expect("headers").clone(), vector["properties"].clone());
        let headers = ours.properties.headers().as_ref().expect("headers");
        let mut own = (typed(headers), properties(&ours));
        comparable(&mut own.0, &mut own.1);
        comparable(&mut theirs.0, &mut theirs.1);
        assert_eq!(own, theirs, "{name}");
        let body = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON");
        assert_eq!(body(&ours.payload), body(expected("body").as_bytes()), "{name}");
    }
}

#[test]
fn a_task_that_lives_longer_than_rabbitmq_counts_says_so_to_its_worker_alone() {
    let at = |millis| {
        let task =
            CeleryTarget { expires: CeleryExpiry::At(Timestamp::from_millis(millis)), ..like("plain").0 };
        message(&task).properties
    };
    let longest = NOW.millis() + 315_360_000_000;
    let text = |of: &BasicProperties| of.expiration().as_ref().map(ToString::to_string);
    assert_eq!(text(&at(longest)).as_deref(), Some("315360000000"));
    let longer = at(longest + 1);
    assert_eq!(text(&longer), None);
    let headers = typed(longer.headers().as_ref().expect("headers"));
    assert_eq!(headers["expires"][0], "S");
}

#[test]
fn what_would_harm_a_worker_is_not_published() {
    let good = || message(&like("plain").0);
    let with = |change: fn(&mut amqp::Message)| {
        let mut message = good();
        change(&mut message);
        harmless::check_amqp(&message).map_err(|why| why.to_string())
    };
    assert_eq!(with(|_| {}), Ok(()));
    fn header(message: &mut amqp::Message, name: &str, value: AMQPValue) {
        let mut headers = message.properties.headers().clone().expect("headers");
        headers.insert(name.into(), value);
        message.properties = std::mem::take(&mut message.properties).with_headers(headers);
    }
    fn other(message: &mut amqp::Message, change: fn(BasicProperties) -> BasicProperties) {
        message.properties = change(std::mem::take(&mut message.properties));
    }
    for (path, change) in [
        ("content_type", (|it| other(it, |it| it.with_content_type("".into()))) as fn(&mut _)),
        ("content_encoding", |it| other(it, |it| it.with_content_encoding("gzip".into()))),
        ("headers", |it| {
            let bare = BasicProperties::default().with_content_type("application/json".into());
            it.properties = bare.with_content_encoding("utf-8".into());
        }),
        ("headers.id", |it| header(it, "id", AMQPValue::Void)),
        ("headers.id", |it| header(it, "id", AMQPValue::LongString("x".repeat(156).into()))),
        ("headers.task", |it| header(it, "task", AMQPValue::LongString("".into()))),
        ("headers.expires", |it| header(it, "expires", AMQPValue::LongInt(12))),
        ("headers.timelimit", |it| header(it, "timelimit", AMQPValue::Boolean(true))),
        ("properties.correlation_id", |it| other(it, |it| it.with_correlation_id("another".into()))),
        ("routing_key", |it| it.routing_key = "".into()),
        ("body", |it| it.payload = b"[1]".to_vec()),
        ("body", |it| it.payload = b"{".to_vec()),
    ] {
        assert!(with(change).is_err_and(|why| why.starts_with(&format!("{path}: "))), "{path}");
    }
}
