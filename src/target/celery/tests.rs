//! Messages beside those that Celery itself sent (`testdata/redis.json`, taken from the wire), and what may not be sent.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::config::connections::CeleryOptions;
use crate::state::broker::CeleryExpiry;
use crate::target;

fn target() -> CeleryTarget {
    CeleryTarget {
        broker: "main".to_owned(),
        task: "shop.add".to_owned(),
        args: "[1, 2]".to_owned(),
        kwargs: "{}".to_owned(),
        to: CeleryPlace::Queue("celery".to_owned()),
        headers: "{}".to_owned(),
        priority: None,
        expires: CeleryExpiry::Never,
        time_limit: None,
        soft_time_limit: None,
        // What a task says that says nothing, when its own code sends it.
        ignore_result: Some(false),
        shadow: None,
        reply_to: None,
        persistent: true,
        wait_for_completion: false,
        capture_result: false,
        lost_after: None,
        template: None,
    }
}

pub(super) fn order(target: CeleryTarget) -> Order {
    Order {
        job: "import feed".to_owned(),
        namespace: "default".to_owned(),
        run_id: "7-1000".to_owned(),
        scheduled_at: "1970-01-01T00:00:01.000Z".to_owned(),
        attempt: 1,
        fence: 9,
        timeout: None,
        traceparent: None,
        params: BTreeMap::new(),
        chain_id: None,
        inputs: BTreeMap::new(),
        cluster_id: "c1".to_owned(),
        next_at: Some(Timestamp::from_millis(60_000)),
        delivery: 0,
        target: target::Target::Celery(Box::new(target)),
    }
}

const NOW: Timestamp = Timestamp::from_millis(1_000);

fn message(target: &CeleryTarget) -> Value {
    let order = order(target.clone());
    let message = message::Message::new(&order, target, NOW, "chronarch@here").expect("a message");
    let text = message.for_redis(target).to_string();
    harmless::check(&text).expect("harmless");
    serde_json::from_str(&text).expect("JSON")
}

/// The job that says what the code behind a vector says.
pub(super) fn like(name: &str) -> (CeleryTarget, CeleryOptions) {
    let mut task = target();
    let mut options = CeleryOptions::default();
    let exchange =
        |name: &str, key: &str| CeleryPlace::Exchange { name: name.to_owned(), routing_key: key.to_owned() };
    match name {
        "plain" => task.args = "[]".to_owned(),
        "send_task_by_name" => {
            (task.args, task.kwargs) = ("[2]".to_owned(), r#"{"y": 3}"#.to_owned());
            task.ignore_result = None;
        }
        "args_kwargs" => {
            task.task = "shop.kw".to_owned();
            task.args = r#"[1, "zażółć ☃", null, 2.5, true, [1, {"k": "v"}]]"#.to_owned();
            task.kwargs = r#"{"y": {"deep": [1, 2]}, "flag": null}"#.to_owned();
            task.ignore_result = None;
        }
        "typed_json_args" => {
            task.args = r#"[{"__type__": "datetime", "__value__": "2030-01-02T03:04:05.678901+00:00"},
                {"__type__": "date", "__value__": "2030-01-02"}, {"__type__": "time", "__value__": "03:04:05"},
                {"__type__": "decimal", "__value__": "1.10"},
                {"__type__": "uuid", "__value__": {"hex": "12345678123442348234123456789abc"}},
                {"__type__": "base64", "__value__": "AP9iaW4="}]"#
                .to_owned();
        }
        "expires_seconds" => task.expires = CeleryExpiry::After(Duration::from_secs(30)),
        "expires_datetime" => task.expires = CeleryExpiry::At(Timestamp::from_millis(1_893_553_445_678)),
        "priority_redis_0" => task.priority = Some(0),
        "priority_1" => task.priority = Some(1),
        "priority_3" => task.priority = Some(3),
        "priority_9" => task.priority = Some(9),
        // What is like them is the queue's business.
        "quorum_default" => {}
        "priority_queue_x_max" => task.priority = Some(5),
        "queue_by_name" => task.to = CeleryPlace::Queue("reports".to_owned()),
        "exchange_routing_key_topic" => task.to = exchange("media", "media.feed.import"),
        "exchange_routing_key_direct" => task.to = exchange("media2", "resize"),
        "task_routes" => {
            task.to = CeleryPlace::Queue("shopq".to_owned());
            task.priority = Some(6);
        }
        "time_limits" => {
            task.time_limit = Some(Duration::from_secs(60));
            task.soft_time_limit = Some(Duration::from_secs(45));
        }
        "ignore_result_shadow_headers" => {
            task.ignore_result = Some(true);
            task.shadow = Some("pretty-name".to_owned());
            task.headers = r#"{"tenant": "t1", "traceparent":
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#
                .to_owned();
        }
        "explicit_reply_to" => task.reply_to = Some("my-replies".to_owned()),
        "transient" => task.persistent = false,
        "redis_global_keyprefix" => options.global_keyprefix = "myapp:".to_owned(),
        "redis_priority_steps_10" => {
            task.priority = Some(7);
            options.priority_steps = (0..10).collect();
            options.sep = ":".to_owned();
        }
        "beat" => {
            task.to = CeleryPlace::Queue("reports".to_owned());
            task.priority = Some(3);
            task.expires = CeleryExpiry::After(Duration::from_secs(3_600));
        }
        "beat_django" => {
            task.task = "bench.noop".to_owned();
            (task.args, task.kwargs) = ("[1]".to_owned(), r#"{"k": 2}"#.to_owned());
            task.to = CeleryPlace::Queue("reports".to_owned());
            task.priority = Some(6);
            task.headers = r#"{"tenant": "t1"}"#.to_owned();
            task.expires = CeleryExpiry::After(Duration::from_secs(30));
            task.ignore_result = None;
        }
        other => panic!("there is a vector more: {other}"),
    }
    (task, options)
}

/// Without what differs from message to message, and with the body as what it says.
fn comparable(message: &Value, is_ours: bool) -> Value {
    let mut message = message.clone();
    let id = message["headers"]["id"].clone();
    assert_eq!(message["headers"]["root_id"], id);
    assert_eq!(message["properties"]["correlation_id"], id);
    let body = STANDARD.decode(message["body"].as_str().expect("a text")).expect("base64");
    message["body"] = serde_json::from_slice(&body).expect("JSON");
    let headers = message["headers"].as_object_mut().expect("a mapping");
    for name in ["id", "root_id", "origin"] {
        headers.remove(name).expect(name);
    }
    if is_ours {
        // What a run is told, beside what beat says.
        headers.retain(|name, _| !name.starts_with("chronarch-") && name != "idempotency-key");
    }
    for name in ["celery_beat_task", "periodic_task_name"] {
        headers.remove(name);
    }
    if !headers["expires"].is_null() {
        headers["expires"] = json!("some time");
    }
    // A list is written as one, whatever the caller had; typed values are written in their form of the wire.
    let shown = headers["argsrepr"].as_str().expect("a text");
    headers["argsrepr"] = match () {
        () if shown.contains("datetime") => json!("typed"),
        () => json!(shown.replacen('(', "[", 1).replace(')', "]")),
    };
    // Names are written in their order, and not in the caller's.
    let mut shown: Vec<char> = headers["kwargsrepr"].as_str().expect("a text").chars().collect();
    shown.sort_unstable();
    headers["kwargsrepr"] = json!(String::from_iter(shown));
    let properties = message["properties"].as_object_mut().expect("a mapping");
    properties.remove("correlation_id");
    assert!(
        properties.remove("delivery_tag").is_some_and(|tag| tag.as_str().is_some_and(|tag| tag.len() == 36))
    );
    // Each client has a queue of its own for what a result backend of the kind rpc:// answers.
    if properties["reply_to"] != "my-replies" {
        properties.remove("reply_to");
    }
    if let Some(expiration) = properties.get_mut("expiration") {
        assert!(expiration.as_str().is_some_and(|text| text.parse::<u64>().is_ok()));
        *expiration = json!("some time");
    }
    message
}

#[test]
fn each_message_of_celery_is_reproduced_field_by_field() {
    let vectors: Value = serde_json::from_str(include_str!("testdata/redis.json")).expect("JSON");
    let vectors = vectors["vectors"].as_array().expect("a list");
    assert!(vectors.len() >= 22, "{}", vectors.len());
    for vector in vectors {
        let name = vector["name"].as_str().expect("a name");
        let (task, options) = like(name);
        let ours = message(&task);
        assert_eq!(comparable(&ours, true), comparable(&vector["message"], false), "{name}");
        let queue = match &task.to {
            CeleryPlace::Queue(queue) => queue.clone(),
            CeleryPlace::Exchange { name: exchange, routing_key } => {
                let bound = &vector["bindings"][format!("_kombu.binding.{exchange}")];
                let bound: Vec<String> = serde_json::from_value(bound.clone()).expect("texts");
                let queues = route::queues(&bound, routing_key, &options.sep);
                let [queue] = queues.as_slice() else { panic!("{name}: {queues:?}") };
                queue.clone()
            }
        };
        let key = route::list(&queue, task.priority.unwrap_or(0), &options);
        assert_eq!(key, vector["key"].as_str().expect("a key"), "{name}");
        harmless::check(&vector["message"].to_string()).expect(name);
    }
}

#[test]
fn beat_says_that_it_is_beat_and_which_job_it_was() {
    let headers = &message(&target())["headers"];
    assert_eq!(
        (&headers["celery_beat_task"], &headers["periodic_task_name"]),
        (&json!(true), &json!("import feed"))
    );
    assert_eq!(
        (&headers["chronarch-run-id"], &headers["idempotency-key"]),
        (&json!("7-1000"), &json!("7-1000"))
    );
    let renamed = CeleryTarget { headers: r#"{"periodic_task_name": "x"}"#.to_owned(), ..target() };
    assert_eq!(message(&renamed)["headers"]["periodic_task_name"], "x");
}

#[test]
fn all_attempts_of_a_run_send_the_same_task_and_no_other_run_does() {
    let id = |change: fn(&mut Order)| {
        let mut order = order(target());
        change(&mut order);
        let message = message::Message::new(&order, &target(), NOW, "here").expect("a message");
        let message = message.for_redis(&target());
        (message["headers"]["id"].clone(), message["properties"]["delivery_tag"].clone())
    };
    let (first, tag) = id(|_| {});
    let (second, other_tag) = id(|order| (order.attempt, order.fence) = (2, 10));
    assert_eq!(first, second);
    assert_ne!(tag, other_tag, "a broker tells deliveries apart by their tags");
    assert_ne!(id(|order| order.run_id = "7-2000".to_owned()).0, first);
    assert_ne!(
        id(|order| order.cluster_id = "c2".to_owned()).0,
        first,
        "another cluster has runs of the same name"
    );
}

#[test]
fn a_task_expires_when_the_next_one_is_due_unless_that_is_over() {
    let expires = |expires, next_at| {
        let order = Order { next_at, ..order(target()) };
        let task = CeleryTarget { expires, ..target() };
        let message = message::Message::new(&order, &task, NOW, "here")?.for_redis(&task);
        Ok::<_, String>((message["headers"]["expires"].clone(), message["properties"]["expiration"].clone()))
    };
    let at = |millis| Some(Timestamp::from_millis(millis));
    let minute = (json!("1970-01-01T00:01:00.000000+00:00"), json!("59000"));
    assert_eq!(expires(CeleryExpiry::Next, at(60_000)), Ok(minute));
    assert_eq!(expires(CeleryExpiry::Next, at(1_000)), Ok((Value::Null, Value::Null)));
    assert_eq!(expires(CeleryExpiry::Next, None), Ok((Value::Null, Value::Null)));
    assert_eq!(expires(CeleryExpiry::Never, at(60_000)), Ok((Value::Null, Value::Null)));
    assert!(expires(CeleryExpiry::At(NOW), None).is_err_and(|why| why.starts_with("expires_at: is over")));
}

#[test]
fn a_task_that_is_waited_for_has_who_to_tell_and_expires_only_where_its_job_says_so() {
    let waits = CeleryTarget { wait_for_completion: true, expires: CeleryExpiry::Next, ..target() };
    let sent = message(&waits);
    assert_eq!(sent["headers"]["expires"], Value::Null);
    let body = STANDARD.decode(sent["body"].as_str().expect("text")).expect("base64");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    for (of, how) in [("callbacks", "success"), ("errbacks", "failure")] {
        let signature = &body[2][of][0];
        let id = sent["headers"]["id"].as_str().expect("an id");
        assert_eq!(signature["args"], json!(["7-1000", 0, id, how]));
        assert_eq!((&signature["task"], &signature["immutable"]), (&json!("chronarch.done"), &json!(true)));
        // Not a queue: that one may not be made by a worker (`task_create_missing_queues`).
        let options = &signature["options"];
        assert_eq!((&options["exchange"], &options["routing_key"]), (&json!("chronarch.done"), &json!("c1")));
        assert!(options.get("queue").is_none() && options["ignore_result"] == true);
        let done = completion::read(&json!([signature["args"], {}, {}])).expect("ours");
        assert_eq!((done.task_id.as_str(), done.succeeded), (id, how == "success"));
    }
    let limited = CeleryTarget { expires: CeleryExpiry::After(Duration::from_secs(9)), ..waits };
    assert!(message(&limited)["headers"]["expires"].is_string());
}

#[test]
fn what_would_harm_a_worker_is_not_sent() {
    let good = message(&target());
    let without = |path: &[&str]| {
        let mut message = good.clone();
        let (last, above) = path.split_last().expect("a path");
        let holder = above.iter().fold(&mut message, |value, key| &mut value[*key]);
        holder.as_object_mut().expect("a mapping").remove(*last).expect("it is there");
        harmless::check(&message.to_string()).map_err(|why| why.to_string())
    };
    for path in [
        &["content-type"][..],
        &["content-encoding"],
        &["body"],
        &["headers"],
        &["headers", "task"],
        &["headers", "id"],
        &["properties"],
        &["properties", "delivery_tag"],
        &["properties", "delivery_info"],
        &["properties", "delivery_info", "exchange"],
        &["properties", "delivery_info", "routing_key"],
        &["properties", "body_encoding"],
        &["properties", "correlation_id"],
        &["properties", "priority"],
    ] {
        assert!(
            without(path).is_err_and(|why| why.contains(path.last().expect("a key")) || path.len() == 1),
            "{path:?}"
        );
    }
    let with = |change: fn(&mut Value)| {
        let mut message = good.clone();
        change(&mut message);
        harmless::check(&message.to_string()).map_err(|why| why.to_string())
    };
    assert_eq!(with(|_| {}), Ok(()));
    for change in [
        (|message| message["body"] = json!(STANDARD.encode("[1]"))) as fn(&mut Value),
        |message| message["body"] = json!(STANDARD.encode("[{}, [], {}]")),
        |message| message["body"] = json!("no base64"),
        |message| message["headers"]["expires"] = json!(12),
        |message| message["headers"]["expires"] = json!("tomorrow"),
        |message| message["headers"]["timelimit"] = json!([1]),
        |message| message["headers"]["id"] = json!("x".repeat(156)),
        |message| message["content-type"] = json!(""),
        |message| message["content-type"] = json!("application/x-msgpack"),
        |message| message["content-encoding"] = json!("gzip"),
        |message| {
            message["content-type"] = json!("application/x-python-serialize");
            message["body"] = json!("");
        },
    ] {
        assert!(with(change).is_err());
    }
    assert!(harmless::check("{").is_err());
}

#[test]
fn an_end_is_read_whether_it_was_packed_or_not() {
    let body = json!([["7-1000", 0, "id", "success"], {}, {}]);
    let text = body.to_string();
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, text.as_bytes()).expect("written");
    let packed = packed.finish().expect("written");
    assert_eq!(completion::unpacked(text.as_bytes()), Some(body.clone()));
    assert_eq!(completion::unpacked(&packed), Some(body));
    for bad in [&b""[..], b"{", b"BZh91AY", &packed[..packed.len() / 2]] {
        assert_eq!(completion::unpacked(bad), None);
    }
    let order = order(like("plain").0);
    let options = &completion::signature(&order, "id", "success", true)["options"];
    assert_eq!(options["compression"], "zlib", "else the app's own, which may be another one");
}
