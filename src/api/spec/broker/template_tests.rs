//! Messages that an app has built, as a request writes them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::super::{from_pb, limits};
use crate::pb::v1 as pb;
use crate::state::broker::{CeleryExpiry, CeleryPlace, CeleryTarget};
use crate::state::celery::{CLUSTER, RUN};
use crate::state::spec::Target;
use crate::view;

const ID: &str = "11111111-1111-4111-8111-111111111128";

/// A message of protocol 2, with what is embedded in it.
fn message(embedded: &Value) -> Value {
    json!({
        "body": STANDARD.encode(json!([[1], {}, embedded]).to_string()),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": { "task": "shop.add", "id": ID, "root_id": ID, "timelimit": [null, 5] },
        "properties": {
            "body_encoding": "base64", "delivery_info": { "exchange": "", "routing_key": "reports" },
        },
    })
}

fn telling() -> Value {
    message(
        &json!({ "callbacks": [{ "args": [RUN, null, ID, "success"], "options": { "routing_key": CLUSTER } }] }),
    )
}

fn read(message: &Value, ids: &[&str], more: &Value) -> Result<CeleryTarget, String> {
    let mut target = json!({ "broker": "main", "template": message, "template_ids": ids });
    target.as_object_mut().expect("a mapping").extend(more.as_object().expect("a mapping").clone());
    let spec = json!({ "name": "a", "target": { "celery": target } });
    let spec: pb::JobSpec = serde_json::from_value(spec).expect("a definition");
    let spec = from_pb(&spec).map_err(|problems| problems.to_string())?;
    // It survives the way out and in again, though its task is shown beside it.
    assert_eq!(from_pb(&view::spec::to_pb(&spec)).expect("a job"), spec);
    let Target::Celery(celery) = spec.target else { panic!("not celery") };
    Ok(*celery)
}

#[test]
fn a_template_says_its_task_and_where_it_goes_unless_the_job_says_another_place() {
    let target = read(&telling(), &[ID], &json!({})).expect("a job");
    assert_eq!((target.task.as_str(), &target.to), ("shop.add", &CeleryPlace::Queue("reports".to_owned())));
    assert!(target.wait_for_completion && target.expires == CeleryExpiry::Next && target.priority.is_none());
    let more = json!({ "queue": "other", "priority": 3, "expires": "90s", "task": "shop.add" });
    let target = read(&telling(), &[ID], &more).expect("a job");
    assert_eq!(target.to, CeleryPlace::Queue("other".to_owned()));
    assert_eq!((target.priority, target.expires), (Some(3), CeleryExpiry::After(Duration::from_secs(90))));
    let mut elsewhere = telling();
    elsewhere["properties"]["delivery_info"] = json!({ "exchange": "media", "routing_key": "feed" });
    let exchange = CeleryPlace::Exchange { name: "media".to_owned(), routing_key: "feed".to_owned() };
    assert_eq!(read(&elsewhere, &[ID], &json!({})).expect("a job").to, exchange);
    let deaf = read(&message(&json!({})), &[ID], &json!({ "wait_for_completion": false })).expect("a job");
    assert!(!deaf.wait_for_completion);
}

#[test]
fn what_a_template_says_cannot_be_said_beside_it() {
    for (name, value) in [
        ("args", json!([1])),
        ("kwargs", json!({ "a": 1 })),
        ("headers", json!({ "a": 1 })),
        ("time_limit", json!("5s")),
        ("soft_time_limit", json!("5s")),
        ("ignore_result", json!(false)),
        ("shadow", json!("x")),
        ("reply_to", json!("x")),
        ("transient", json!(true)),
        ("capture_result", json!(true)),
    ] {
        let refused = read(&telling(), &[ID], &json!({ name: value })).expect_err("a refusal");
        assert_eq!(refused, format!("target.celery.{name}: has no place beside a template, which says it"));
    }
    let refused = read(&telling(), &[ID], &json!({ "task": "shop.other" })).expect_err("a refusal");
    assert!(refused.starts_with("target.celery.task: is another one than that of the template"), "{refused}");
    let refused = read(&message(&json!({})), &[ID], &json!({})).expect_err("a refusal");
    let expected = "target.celery.wait_for_completion: the template asks no worker to tell of its end";
    assert!(refused.starts_with(expected), "{refused}");
    let refused = read(&telling(), &[ID], &json!({ "wait_for_completion": false })).expect_err("a refusal");
    assert!(refused.contains("which nobody would hear"), "{refused}");
}

#[test]
fn a_message_that_could_harm_a_worker_is_refused_with_its_place() {
    let with = |path: &[&str], value: Value| {
        let mut message = telling();
        let (last, above) = path.split_last().expect("a path");
        let holder = above.iter().fold(&mut message, |holder, key| &mut holder[*key]);
        holder[*last] = value;
        read(&message, &[ID], &json!({})).expect_err(&path.join("."))
    };
    let body = |value: &str| json!(STANDARD.encode(value));
    for (path, value) in [
        (&["content-type"][..], Value::Null),
        (&["content-type"], json!("a\nb")),
        (&["content-encoding"], json!("utf-16")),
        (&["body"], json!("")),
        (&["body"], json!("?")),
        (&["body"], body("[1, 2]")),
        (&["body"], body("[[], {}, {}, {}]")),
        (&["body"], body("[{}, [], {}]")),
        (&["body"], body(r#"[[], {}, {"chord": {"task": "a"}}]"#)),
        (&["more"], json!(1)),
        (&["headers"], json!([])),
        (&["headers", "task"], json!("")),
        (&["headers", "id"], json!("7")),
        (&["headers", "eta"], json!("2030-01-01T00:00:00")),
        (&["headers", "expires"], json!("2030-01-01T00:00:00")),
        (&["headers", "group"], json!(ID)),
        (&["headers", "timelimit"], json!([1])),
        (&["headers", "retries"], json!("1")),
        (&["headers", "stamps"], json!([1])),
        (&["headers", "stamped_headers"], json!([1])),
        (&["headers", "compression"], json!("application/x-bz2")),
        (&["headers", "chronarch-run-id"], json!("1")),
        (&["headers", "big"], json!(1e30)),
        (&["properties"], json!(1)),
        (&["properties", "body_encoding"], Value::Null),
        (&["properties", "delivery_info"], Value::Null),
        (&["properties", "delivery_info", "exchange"], Value::Null),
        (&["properties", "delivery_info", "routing_key"], json!("")),
        (&["properties", "priority"], json!(256)),
        (&["properties", "delivery_mode"], json!(3)),
        (&["properties", "reply_to"], json!(1)),
    ] {
        let refused = with(path, value);
        let place = format!("target.celery.template.{}: ", path.join("."));
        assert!(refused.starts_with(&place), "{place}{refused}");
    }
    for (content_type, bad) in [
        ("application/x-yaml", "7"),
        ("application/x-yaml", "- 1\n- 2\n"),
        ("application/x-yaml", "[: "),
        ("application/x-msgpack", "\u{7}"),
        ("application/x-msgpack", "abc"),
    ] {
        let mut message = telling();
        (message["content-type"], message["body"]) = (json!(content_type), body(bad));
        let refused = read(&message, &[ID], &json!({})).expect_err(bad);
        assert!(refused.starts_with("target.celery.template.body: is not args, kwargs and"), "{refused}");
    }
}

#[test]
fn ids_and_size_of_a_template_have_their_bounds() {
    let other = "22222222-1111-4111-8111-111111111128";
    for (ids, expected) in [
        (&[][..], "target.celery.template_ids: lack headers.id"),
        (&[other], "target.celery.template_ids: lack headers.id"),
        (&[other, ID], "target.celery.template_ids[0]: does not stand in the message"),
        (&[ID, other], "target.celery.template_ids[1]: does not stand in the message"),
        (&[ID, ID], "target.celery.template_ids[1]: is there twice"),
        (&[ID, "shop.add"], "target.celery.template_ids[1]: is no id of 36 characters"),
        (&[ID; 65], "target.celery.template_ids: 65 ids are too many, at most 64 are allowed"),
    ] {
        let refused = read(&telling(), ids, &json!({})).expect_err(expected);
        assert!(refused.starts_with(expected), "{refused}");
    }
    let large = message(&json!({ "x": "y".repeat(limits::TEMPLATE_BYTES / 4 * 3) }));
    let refused = read(&large, &[ID], &json!({})).expect_err("too long");
    assert!(refused.contains("target.celery.template: ") && refused.contains("98304"), "{refused}");
    let spec = json!({ "name": "a", "target": { "celery":
        { "broker": "main", "task": "a", "template_ids": [ID] } } });
    let spec: pb::JobSpec = serde_json::from_value(spec).expect("a definition");
    let refused = from_pb(&spec).expect_err("no template").to_string();
    assert_eq!(refused, "target.celery.template_ids: belong to a template");
}
