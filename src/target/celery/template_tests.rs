//! Messages that Celery itself sent (`testdata/`, taken from the wire), each as a template that is sent anew, beside what
//! it was; and those of which a job cannot be made.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::amqp_tests::{properties, typed};
use super::tests::{like, order};
use super::*;
use crate::state::broker::CeleryExpiry;
use crate::state::celery::{self, CLUSTER, CeleryTemplate, RUN};

const NOW: Timestamp = Timestamp::from_millis(1_000);
const CLUSTER_ID: &str = "0123456789abcdef0123456789abcdef";

/// All that is formed like an id, in the order in which it stands there.
fn ids_in(text: &str) -> Vec<String> {
    let is_id = |part: &&str| {
        let groups: Vec<usize> = part.split('-').map(str::len).collect();
        groups == [8, 4, 4, 4, 12]
    };
    text.split(|c: char| !c.is_ascii_hexdigit() && c != '-').filter(is_id).map(str::to_owned).collect()
}

/// The text with a number in place of each id.
fn numbered(text: &str) -> String {
    let mut numbers = HashMap::new();
    let mut text = text.to_owned();
    for id in ids_in(&text.clone()) {
        let next = numbers.len();
        let number = *numbers.entry(id.clone()).or_insert(next);
        text = text.replace(&id, &format!("<{number}>"));
    }
    text
}

fn body_of(message: &Value) -> Vec<u8> {
    let body = STANDARD.decode(message["body"].as_str().expect("a text")).expect("base64");
    match message["headers"]["compression"].as_str() {
        None => body,
        Some(_) => {
            let mut unpacked = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(body.as_slice()), &mut unpacked)
                .expect("zlib");
            unpacked
        }
    }
}

/// A template of a message, as whoever builds one makes it: nothing compressed, no instants.
fn template(message: &Value) -> CeleryTemplate {
    let mut message = message.clone();
    let body = body_of(&message);
    message["body"] = json!(STANDARD.encode(&body));
    message["headers"]["expires"] = Value::Null;
    let main = message["headers"]["id"].as_str().expect("an id").to_owned();
    let mut ids = vec![main.clone()];
    // Replies go where they went: the queue of a client is no id of a message.
    let reply_to = message["properties"]["reply_to"].as_str().expect("a text").to_owned();
    for id in ids_in(&String::from_utf8_lossy(&body)) {
        if !ids.contains(&id) && id != reply_to {
            ids.push(id);
        }
    }
    CeleryTemplate { message: message.to_string(), ids }
}

fn job(template: CeleryTemplate, waits: bool) -> CeleryTarget {
    let read = celery::read(&template.message, &template.ids).expect("a template");
    let to = match read.place() {
        ("", queue) => CeleryPlace::Queue(queue.to_owned()),
        (name, key) => CeleryPlace::Exchange { name: name.to_owned(), routing_key: key.to_owned() },
    };
    CeleryTarget {
        task: read.header("task").to_owned(),
        to,
        args: "[]".to_owned(),
        priority: None,
        wait_for_completion: waits,
        template: Some(template),
        ..like("plain").0
    }
}

fn of(target: &CeleryTarget, change: fn(&mut Order)) -> message::Message {
    let mut order = Order { cluster_id: CLUSTER_ID.to_owned(), ..order(target.clone()) };
    change(&mut order);
    message::Message::new(&order, target, NOW, "chronarch@here").expect("a message")
}

fn for_redis(target: &CeleryTarget, change: fn(&mut Order)) -> Value {
    let text = of(target, change).for_redis(target).to_string();
    harmless::check(&text).expect("harmless");
    serde_json::from_str(&text).expect("JSON")
}

/// Without what differs from message to message; ids by their numbers, so that the same ones stand in the same places.
fn comparable(message: &Value, is_ours: bool) -> Value {
    let mut message = message.clone();
    let body = body_of(&message);
    message["body"] = serde_json::from_slice(&body).expect("JSON");
    let headers = message["headers"].as_object_mut().expect("headers");
    headers.remove("origin").expect("an origin");
    headers.remove("expires");
    headers.retain(|name, _| !name.starts_with("chronarch-") && name != "idempotency-key");
    for name in ["celery_beat_task", "periodic_task_name", "traceparent"] {
        headers.remove(name);
    }
    assert_eq!(headers["root_id"], headers["id"]);
    assert_eq!(message["properties"]["correlation_id"], message["headers"]["id"]);
    let properties = message["properties"].as_object_mut().expect("properties");
    let tag = properties.remove("delivery_tag").expect("a tag");
    assert!(tag.as_str().is_some_and(|tag| tag.len() == 36) || !is_ours);
    properties.remove("expiration");
    serde_json::from_str(&numbered(&message.to_string())).expect("JSON")
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("testdata/templates.json")).expect("JSON")
}

fn list(of: &Value) -> &[Value] {
    of.as_array().expect("a list")
}

fn named(name: &str) -> Value {
    list(&vectors()["vectors"]).iter().find(|vector| vector["name"] == name).expect(name)["redis"].clone()
}

#[test]
fn each_message_of_celery_is_sent_anew_field_by_field() {
    let own = vectors();
    let native: Value = serde_json::from_str(include_str!("testdata/redis.json")).expect("JSON");
    let all = list(&own["vectors"]).iter().map(|vector| (&vector["name"], &vector["redis"]));
    let all = all.chain(list(&native["vectors"]).iter().map(|vector| (&vector["name"], &vector["message"])));
    let mut count = 0;
    for (name, theirs) in all {
        let template = template(theirs);
        let sent = for_redis(&job(template.clone(), false), |_| {});
        assert_eq!(comparable(&sent, true), comparable(theirs, false), "{name}");
        for id in &template.ids {
            assert!(!sent.to_string().contains(id.as_str()), "{name}: {id} is sent again");
            let body = String::from_utf8(body_of(&sent)).expect("text");
            assert!(!body.contains(id.as_str()), "{name}: {id} is sent again");
        }
        count += 1;
    }
    assert!(count >= 29, "{count}");
}

#[test]
fn each_message_is_sent_anew_to_rabbitmq_with_the_types_of_its_headers() {
    for vector in list(&vectors()["vectors"]) {
        let (name, theirs) = (&vector["name"], &vector["rabbitmq"]);
        let target = job(template(&vector["redis"]), false);
        let sent = of(&target, |_| {}).for_amqp(&target).expect("one that AMQP can write");
        harmless::check_amqp(&sent).expect("harmless");
        assert_eq!(sent.routing_key.as_str(), theirs["routing_key"], "{name}");
        assert_eq!(sent.exchange.as_str(), theirs["exchange"], "{name}");
        let body = |packed: &[u8], headers: &Value| {
            let message = json!({ "body": STANDARD.encode(packed), "headers": headers });
            let text = String::from_utf8(body_of(&message)).expect("text");
            serde_json::from_str::<Value>(&numbered(&text)).expect("JSON")
        };
        let compression = match theirs["headers"]["compression"][1].as_str() {
            Some(how) => json!({ "compression": how }),
            None => json!({}),
        };
        let expected = STANDARD.decode(theirs["body"].as_str().expect("a text")).expect("base64");
        assert_eq!(body(&sent.payload, &compression), body(&expected, &compression), "{name}");
        let headers = |all: Map<String, Value>| {
            let mut all = all;
            for own in ["id", "root_id", "origin", "celery_beat_task", "periodic_task_name"] {
                all.remove(own);
            }
            all.retain(|name, _| !name.starts_with("chronarch-") && name != "idempotency-key");
            numbered(&Value::from(all).to_string())
        };
        let own = headers(typed(sent.properties.headers().as_ref().expect("headers")));
        assert_eq!(own, headers(theirs["headers"].as_object().expect("headers").clone()), "{name}");
        let mut own = properties(&sent);
        let mut expected = theirs["properties"].clone();
        for properties in [&mut own, &mut expected] {
            // kombu writes no priority in some places, and in others 0, which means the same.
            let properties = properties.as_object_mut().expect("a mapping");
            for name in ["correlation_id", "reply_to", "priority"] {
                properties.remove(name);
            }
        }
        assert_eq!(own, expected, "{name}");
    }
}

#[test]
fn what_is_one_of_several_messages_or_of_another_protocol_is_refused_by_name() {
    for vector in list(&vectors()["refused"]) {
        let message = &vector["message"];
        let id = message["headers"]["id"].as_str().unwrap_or_default().to_owned();
        let flaw = celery::read(&message.to_string(), &[id]).expect_err("a flaw");
        assert_eq!(flaw.path, vector["path"], "{}: {flaw}", vector["name"]);
        assert!(flaw.hint.is_some(), "{}: no way out", vector["name"]);
    }
}

#[test]
fn each_run_has_ids_of_its_own_which_its_attempts_share() {
    let target = job(template(&named("chain")), false);
    let ids = |change: fn(&mut Order)| {
        let sent = for_redis(&target, change);
        (sent["headers"]["id"].clone(), ids_in(&String::from_utf8(body_of(&sent)).expect("text")))
    };
    let (id, behind) = ids(|_| {});
    let native = Order { cluster_id: CLUSTER_ID.to_owned(), ..order(like("plain").0) };
    assert_eq!(id, message::task_id(&native), "the task has the id that it has without a template");
    assert!(behind.len() >= 2, "{behind:?}");
    assert_eq!(ids(|order| (order.attempt, order.fence) = (2, 10)), (id.clone(), behind.clone()));
    for other in [
        ids(|order| order.run_id = "7-2000".to_owned()),
        ids(|order| order.delivery = 1),
        ids(|order| order.cluster_id = "f".repeat(32)),
    ] {
        assert_ne!(other.0, id);
        let reply_to = named("chain")["properties"]["reply_to"].clone();
        assert!(other.1.iter().all(|one| !behind.contains(one) || *one == reply_to), "{other:?} {behind:?}");
    }
}

/// A message with who is told of its end, in a serializer that counts bytes.
fn telling(content_type: &str, encoding: &str, body: &[u8]) -> CeleryTemplate {
    let mut message = named("link_callbacks_errbacks");
    (message["content-type"], message["content-encoding"]) = (json!(content_type), json!(encoding));
    message["body"] = json!(STANDARD.encode(body));
    let id = message["headers"]["id"].as_str().expect("an id").to_owned();
    CeleryTemplate { message: message.to_string(), ids: vec![id] }
}

fn end(id: &str) -> Value {
    json!({ "task": "chronarch.done", "args": [RUN, null, id, "success"],
        "options": { "exchange": "chronarch.done", "routing_key": CLUSTER } })
}

#[test]
fn its_end_is_told_of_the_run_that_was_sent_whatever_wrote_the_body() {
    let id = "11111111-1111-4111-8111-111111111128";
    let embed = json!({ "callbacks": [end(id)], "chain": null, "chord": null });
    let packed = rmp_of(&json!([[1], {}, embed]));
    let yaml = format!(
        "- [1]\n- {{}}\n- callbacks:\n  - args:\n    - '{RUN}'\n    - null\n    - {id}\n    - success\n    \
         options: {{routing_key: '{CLUSTER}'}}\n  chord: null\n"
    );
    for (content_type, encoding, body) in [
        ("application/json", "utf-8", json!([[1], {}, embed]).to_string().into_bytes()),
        ("application/x-msgpack", "binary", packed),
        ("application/x-yaml", "utf-8", yaml.into_bytes()),
        (
            "application/x-python-serialize",
            "binary",
            [b"\x80".as_slice(), RUN.as_bytes(), CLUSTER.as_bytes()].concat(),
        ),
    ] {
        let template = telling(content_type, encoding, &body);
        let target = job(template.clone(), true);
        let sent = for_redis(&target, |order| (order.run_id, order.delivery) = ("7-1000-m12".to_owned(), 3));
        let filled = body_of(&sent);
        assert_eq!(filled.len(), body.len(), "{content_type}");
        let text = String::from_utf8_lossy(&filled);
        assert!(text.contains(CLUSTER_ID) && !text.contains(CLUSTER) && !text.contains(id), "{text}");
        assert!(text.contains("7-1000-m12/3...."), "{text}");
        let own = sent["headers"]["id"].as_str().expect("an id");
        if content_type == "application/json" {
            let body: Value = serde_json::from_slice(&filled).expect("JSON");
            let done = completion::read(&json!([body[2]["callbacks"][0]["args"], {}, {}])).expect("ours");
            assert_eq!((done.run_id.as_str(), done.delivery, done.task_id.as_str()), ("7-1000-m12", 3, own));
        }
        // Where nobody listens nothing is sent that would tell.
        let deaf = CeleryTarget { wait_for_completion: false, ..target };
        let order = Order { cluster_id: CLUSTER_ID.to_owned(), ..order(deaf.clone()) };
        let refused = message::Message::new(&order, &deaf, NOW, "here").err().expect("a refusal");
        assert!(refused.starts_with("template: asks workers to tell of its end"), "{refused}");
    }
}

/// MessagePack as Python writes it, from JSON.
fn rmp_of(value: &Value) -> Vec<u8> {
    let size = |of: usize, small: u8, large: u8| match u16::try_from(of).expect("short") {
        of @ 0..16 => vec![small | u8::try_from(of).expect("short")],
        of => [[large].as_slice(), &of.to_be_bytes()].concat(),
    };
    match value {
        Value::Null => vec![0xc0],
        Value::Number(number) => vec![u8::try_from(number.as_u64().expect("small")).expect("small")],
        Value::String(text) => [size(text.len(), 0xa0, 0xda), text.as_bytes().to_vec()].concat(),
        Value::Array(values) => {
            [vec![size(values.len(), 0x90, 0xdc)], values.iter().map(rmp_of).collect()].concat().concat()
        }
        Value::Object(values) => {
            let pairs = values.iter().map(|(name, it)| [rmp_of(&json!(name)), rmp_of(it)].concat());
            [vec![size(values.len(), 0x80, 0xde)], pairs.collect()].concat().concat()
        }
        Value::Bool(_) => unreachable!("there is none"),
    }
}

#[test]
fn what_the_run_says_goes_into_the_headers_and_all_else_stays() {
    let mut theirs = named("link_callbacks_errbacks");
    theirs["headers"]["tenant"] = json!({ "deep": [1] });
    theirs["headers"]["parent_id"] = json!("22222222-1111-4111-8111-111111111128");
    theirs["properties"]["app_id"] = json!("shop");
    theirs["properties"]["priority"] = json!(6);
    theirs["headers"]["traceparent"] = json!("00-of-the-building-01");
    let mut target = job(template(&theirs), false);
    target.expires = CeleryExpiry::Next;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sent = for_redis(&target, |order| {
        order.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    });
    let headers = &sent["headers"];
    for (name, expected) in [
        ("tenant", json!({ "deep": [1] })),
        ("parent_id", Value::Null),
        ("traceparent", json!(trace)),
        ("celery_beat_task", json!(true)),
        ("periodic_task_name", json!("import feed")),
        ("chronarch-run-id", json!("7-1000")),
        ("idempotency-key", json!("7-1000")),
        ("origin", json!("chronarch@here")),
        ("expires", json!("1970-01-01T00:01:00.000000+00:00")),
    ] {
        assert_eq!(headers[name], expected, "{name}");
    }
    let properties = &sent["properties"];
    assert_eq!((&properties["app_id"], &properties["expiration"]), (&json!("shop"), &json!("59000")));
    assert_eq!(properties["priority"], 6);
    let message = of(&target, |_| {});
    assert_eq!(message.priority, Some(6), "it goes to the list of its priority");
    target.priority = Some(1);
    assert_eq!(for_redis(&target, |_| {})["properties"]["priority"], 1);
}

#[test]
fn what_unpacks_to_no_call_is_not_sent() {
    let target = job(template(&named("compression_zlib")), false);
    let good = for_redis(&target, |_| {});
    assert!(good["headers"]["compression"] == celery::ZLIB);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut message = good.clone();
        change(&mut message);
        harmless::check(&message.to_string()).map_err(|why| why.to_string())
    };
    assert_eq!(with(&|_| {}), Ok(()));
    let plain = STANDARD.encode(r#"[[], {}, {}]"#);
    assert_eq!(with(&|it| it["body"] = json!(plain)), Err("body: cannot be unpacked".to_owned()));
    assert!(with(&|it| it["headers"]["compression"] = json!("bzip2")).is_err());
    let mut twin = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut twin, &vec![b' '; 2 << 20]).expect("written");
    let bomb = STANDARD.encode(twin.finish().expect("written"));
    assert!(with(&|it| it["body"] = json!(bomb)).is_err());
}

#[test]
fn a_run_expires_with_its_message_unless_another_task_ends_it() {
    let expires = CeleryExpiry::After(std::time::Duration::from_secs(5));
    let plain = like("plain").0;
    let single = template(&named("link_callbacks_errbacks"));
    let mut chain = template(&named("chain"));
    // As `sync` has it: the last task first.
    chain.ids.swap(0, 1);
    for (template, expires_at) in [(None, Some(6_000)), (Some(single), Some(6_000)), (Some(chain), None)] {
        let target = CeleryTarget { template, expires, wait_for_completion: true, ..plain.clone() };
        let order = Order { cluster_id: CLUSTER_ID.to_owned(), ..order(target.clone()) };
        let handed = handed_over(&order, &target, Report::of(Outcome::Succeeded), NOW).handed;
        let handed = handed.expect("it waits");
        assert_eq!(handed.expires_at.map(Timestamp::millis), expires_at, "{:?}", target.template);
    }
}
