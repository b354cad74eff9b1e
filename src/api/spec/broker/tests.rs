//! Targets of brokers as a request writes them.

use super::super::from_pb;
use crate::pb::v1 as pb;
use crate::state::broker::{CeleryExpiry, CeleryPlace, RedisPlace};
use crate::state::spec::{JobSpec, OnLost, Target};
use crate::view;

fn read(target: &str) -> Result<JobSpec, String> {
    let spec = format!(r#"{{"name": "a", "target": {target}, "params": {{"day": "1"}}}}"#);
    let spec: pb::JobSpec = serde_json::from_str(&spec).expect("a definition");
    from_pb(&spec).map_err(|problems| problems.to_string())
}

/// The job, which survives the way out and in again.
fn job(target: &str) -> JobSpec {
    let spec = read(target).expect("a job");
    assert_eq!(from_pb(&view::spec::to_pb(&spec)).expect("a job"), spec, "{target}");
    spec
}

#[test]
fn a_message_for_redis_is_for_one_place_and_needs_a_worker_with_the_connection() {
    let place = |more: &str| {
        let spec = job(&format!(r#"{{"redis": {{"connection": "main", "payload": "x", {more}}}}}"#));
        assert_eq!((spec.target.needs().as_ref(), spec.on_lost), ("redis:main", OnLost::Rerun));
        let Target::Redis(redis) = spec.target else { panic!("not redis") };
        redis.to
    };
    let key = || "k".to_owned();
    assert_eq!(place(r#""list": "k""#), RedisPlace::Left(key()));
    assert_eq!(place(r#""list": "k", "push": "right""#), RedisPlace::Right(key()));
    assert_eq!(place(r#""channel": "k""#), RedisPlace::Channel(key()));
    assert_eq!(place(r#""stream": "k""#), RedisPlace::Stream { key: key(), max_length: None });
    let some = RedisPlace::Stream { key: key(), max_length: Some(1_000) };
    assert_eq!(place(r#""stream": "k", "max_length": 1000"#), some);
}

#[test]
fn what_is_wrong_with_a_message_for_redis_is_told_by_its_field() {
    for (more, problem) in [
        (
            r#""connection": "m""#,
            "target.redis: exactly one of list, channel and stream is needed, found none",
        ),
        (
            r#""connection": "m", "list": "a", "stream": "b""#,
            "target.redis: exactly one of list, channel and stream is needed, found list and stream",
        ),
        (r#""list": "a""#, "target.redis.connection: is missing"),
        (r#""connection": "m", "channel": "a", "push": "right""#, "target.redis.push: belongs to a list"),
        (
            r#""connection": "m", "list": "a", "max_length": 5"#,
            "target.redis.max_length: belongs to a stream",
        ),
        (
            r#""connection": "m", "stream": "a", "max_length": 0"#,
            "target.redis.max_length: 0 is out of range, expected 1 to 1000000000",
        ),
        (
            r#""connection": "m", "list": "a", "bare": true, "headers": {"x": "y"}"#,
            "target.redis.headers: have no place in a message that is its payload alone (bare)",
        ),
        (
            r#""connection": "m", "list": "a", "headers": {"Chronarch-Job": "y"}"#,
            "target.redis.headers.Chronarch-Job: is set by the scheduler",
        ),
        (
            r#""connection": "m", "list": "a", "payload": "{{ params.x }}""#,
            "target.redis.payload: there is no param x",
        ),
    ] {
        let problems = read(&format!(r#"{{"redis": {{{more}}}}}"#)).expect_err(problem);
        assert!(problems.starts_with(problem), "{problem}: {problems}");
    }
}

#[test]
fn a_message_for_rabbitmq_goes_to_an_exchange_and_needs_a_worker_with_the_connection() {
    let spec = job(r#"{"amqp": {"connection": "main", "routing_key": "q", "payload": "{{ params.day }}",
        "headers": {"a": "b"}, "content_type": "text/plain", "priority": 255, "expiration": "1.5s",
        "transient": true}}"#);
    assert_eq!((spec.target.needs().as_ref(), spec.on_lost), ("amqp:main", OnLost::Rerun));
    let Target::Amqp(amqp) = spec.target else { panic!("not amqp") };
    assert_eq!((amqp.exchange.as_str(), amqp.routing_key.as_str()), ("", "q"));
    assert_eq!((amqp.priority, amqp.persistent), (Some(255), false));
    assert_eq!(amqp.expiration, Some(std::time::Duration::from_millis(1_500)));
    // One that goes to all queues has no use for a key.
    let spec = job(r#"{"amqp": {"connection": "main", "exchange": "fanout"}}"#);
    assert!(matches!(spec.target, Target::Amqp(amqp) if amqp.persistent && amqp.routing_key.is_empty()));
}

#[test]
fn what_is_wrong_with_a_message_for_rabbitmq_is_told_by_its_field() {
    for (more, problem) in [
        (
            r#""connection": "m""#,
            "target.amqp.routing_key: is missing; without an exchange it is the name of the queue",
        ),
        (r#""routing_key": "q""#, "target.amqp.connection: is missing"),
        (
            r#""connection": "m", "routing_key": "q", "priority": 256"#,
            "target.amqp.priority: 256 is out of range, expected 0 to 255",
        ),
        (r#""connection": "m", "routing_key": "q", "expiration": "50d""#, "target.amqp.expiration: "),
        (r#""connection": "m", "routing_key": "q", "expiration": "0s""#, "target.amqp.expiration: "),
        (r#""connection": "m", "exchange": "a\nb""#, "target.amqp.exchange: has control characters"),
        (
            r#""connection": "m", "routing_key": "q", "headers": {"Idempotency-Key": "y"}"#,
            "target.amqp.headers.Idempotency-Key: is set by the scheduler",
        ),
        (
            r#""connection": "m", "routing_key": "q", "payload": "{{ params.x }}""#,
            "target.amqp.payload: there is no param x",
        ),
    ] {
        let problems = read(&format!(r#"{{"amqp": {{{more}}}}}"#)).expect_err(problem);
        assert!(problems.starts_with(problem), "{problem}: {problems}");
    }
    let long = "y".repeat(6_000);
    let headers = format!(r#"{{"a": "{long}", "b": "{long}", "c": "{long}"}}"#);
    let problems =
        read(&format!(r#"{{"amqp": {{"connection": "m", "routing_key": "q", "headers": {headers}}}}}"#));
    let problem = "target.amqp.headers: 18003 bytes are too long, at most 16384 are allowed";
    assert!(problems.expect_err(problem).starts_with(problem));
}

#[test]
fn on_ambiguous_is_on_lost_by_another_name_and_does_not_contradict_it() {
    let read = |target: &str, on_lost: &str| {
        let spec = format!(r#"{{"name": "a", "target": {target}, {on_lost} "priority": 0}}"#);
        let spec: pb::JobSpec = serde_json::from_str(&spec).expect("a definition");
        from_pb(&spec).map(|spec| spec.on_lost).map_err(|problems| problems.to_string())
    };
    for (kind, target) in [
        ("amqp", r#"{"amqp": {"connection": "m", "routing_key": "q", WORD "transient": false}}"#),
        ("celery", r#"{"celery": {"broker": "m", "task": "t", WORD "transient": false}}"#),
    ] {
        let given = |word: &str, on_lost: &str| {
            let word = if word.is_empty() { String::new() } else { format!(r#""on_ambiguous": "{word}","#) };
            let on_lost =
                if on_lost.is_empty() { String::new() } else { format!(r#""on_lost": "{on_lost}","#) };
            read(&target.replace("WORD", &word), &on_lost)
        };
        assert_eq!(given("", ""), Ok(OnLost::Rerun));
        assert_eq!(given("", "fail"), Ok(OnLost::Fail));
        assert_eq!(given("skip", ""), Ok(OnLost::Fail));
        assert_eq!(given("skip", "fail"), Ok(OnLost::Fail));
        assert_eq!(given("republish", ""), Ok(OnLost::Rerun));
        assert_eq!(given("republish", "rerun"), Ok(OnLost::Rerun));
        let wrong = given("skip", "rerun").expect_err("they contradict each other");
        let expected = format!("target.{kind}.on_ambiguous: is \"skip\", and on_lost is \"rerun\"");
        assert!(wrong.starts_with(&expected), "{wrong}");
        let wrong = given("republish", "fail").expect_err("they contradict each other");
        let expected = format!("target.{kind}.on_ambiguous: is \"republish\", and on_lost is \"fail\"");
        assert!(wrong.starts_with(&expected), "{wrong}");
    }
}

#[test]
fn a_task_has_the_defaults_of_celery_and_expires_when_the_next_is_due() {
    let spec = job(r#"{"celery": {"broker": "main", "task": "shop.add"}}"#);
    assert_eq!((spec.target.needs().as_ref(), spec.on_lost), ("celery:main", OnLost::Rerun));
    let Target::Celery(celery) = spec.target else { panic!("not celery") };
    assert_eq!(celery.to, CeleryPlace::Queue("celery".to_owned()));
    assert_eq!((celery.args.as_str(), celery.kwargs.as_str()), ("[]", "{}"));
    assert_eq!((celery.expires, celery.persistent), (CeleryExpiry::Next, true));
    assert_eq!((celery.priority, celery.ignore_result), (None, None));
    assert_eq!(
        (celery.wait_for_completion, spec.timeout.as_secs()),
        (true, 86_400),
        "it is the user's to stop"
    );
    let spec = job(r#"{"celery": {"broker": "main", "task": "shop.add", "wait_for_completion": false}}"#);
    assert_eq!(spec.timeout.as_secs(), 3_600);
}

#[test]
fn the_fields_of_a_task_mean_the_same_however_they_are_written() {
    let one = job(
        r#"{"celery": {"broker": "main", "task": "t", "args": [1, "{{ params.day }}"], "kwargs": {"b": 1, "a": 2},
            "exchange": "media", "routing_key": "media.x", "headers": {"tenant": 7}, "priority": 0,
            "expires": "0s", "time_limit": "10m", "soft_time_limit": "5m", "ignore_result": false,
            "shadow": "s", "reply_to": "r", "transient": true}}"#,
    );
    let other = job(r#"{"celery": {"broker": "main", "task": "t", "args": "[1,  \"{{ params.day }}\"]",
            "kwargs": "{\"a\":2, \"b\":1}", "exchange": "media", "routing_key": "media.x",
            "headers": "{\"tenant\": 7}", "priority": 0, "expires": "0s", "time_limit": "600s",
            "soft_time_limit": "300s", "ignore_result": false, "shadow": "s", "reply_to": "r", "transient": true}}"#);
    assert_eq!(one, other);
    let Target::Celery(celery) = one.target else { panic!("not celery") };
    assert_eq!(
        (celery.priority, celery.expires, celery.ignore_result),
        (Some(0), CeleryExpiry::Never, Some(false))
    );
    job(r#"{"celery": {"broker": "m", "task": "t", "expires": "90s"}}"#);
    job(r#"{"celery": {"broker": "m", "task": "t", "expires_at": "2026-12-01T00:00:00.000Z"}}"#);
}

#[test]
fn what_is_wrong_with_a_task_is_told_by_its_field() {
    for (more, problem) in [
        (r#""task": "t""#, "target.celery.broker: is missing"),
        (r#""broker": "M", "task": "t""#, "target.celery.broker: 'M' is not allowed"),
        (r#""broker": "m""#, "target.celery.task: is missing"),
        (r#""broker": "m", "task": "t\u0007""#, "target.celery.task: has control characters"),
        (r#""broker": "m", "task": "t", "args": {"a": 1}"#, "target.celery.args: expected a list"),
        (r#""broker": "m", "task": "t", "args": "[1""#, "target.celery.args: is no JSON: "),
        (r#""broker": "m", "task": "t", "kwargs": [1]"#, "target.celery.kwargs: expected a mapping"),
        (
            r#""broker": "m", "task": "t", "args": "[123456789012345678901234567890]""#,
            "target.celery.args: has a whole number beyond 64 bits",
        ),
        (
            r#""broker": "m", "task": "t", "args": ["{{ params.x }}"]"#,
            "target.celery.args: there is no param x",
        ),
        (
            r#""broker": "m", "task": "t", "queue": "q", "exchange": "e", "routing_key": "k""#,
            "target.celery: at most one of queue and exchange has a place",
        ),
        (r#""broker": "m", "task": "t", "exchange": "e""#, "target.celery.routing_key: is missing"),
        (
            r#""broker": "m", "task": "t", "routing_key": "e""#,
            "target.celery.routing_key: belongs to an exchange",
        ),
        (r#""broker": "m", "task": "t", "priority": 256"#, "target.celery.priority: 256 is out of range"),
        (
            r#""broker": "m", "task": "t", "headers": {"id": "x"}"#,
            "target.celery.headers.id: belongs to the protocol",
        ),
        (
            r#""broker": "m", "task": "t", "headers": {"chronarch-run-id": "x"}"#,
            "target.celery.headers.chronarch-run-id: is set by the scheduler",
        ),
        (
            r#""broker": "m", "task": "t", "expires": "1s", "expires_at": "2026-12-01T00:00:00.000Z""#,
            "target.celery: at most one of expires and expires_at has a place",
        ),
        (
            r#""broker": "m", "task": "t", "time_limit": "1s", "soft_time_limit": "1s""#,
            "target.celery.soft_time_limit: must be shorter than time_limit",
        ),
    ] {
        let problems = read(&format!(r#"{{"celery": {{{more}}}}}"#)).expect_err(problem);
        assert!(problems.starts_with(problem), "{problem}: {problems}");
    }
}

#[test]
fn a_message_for_nats_goes_to_a_subject_and_needs_a_worker_with_the_connection() {
    let spec = job(r#"{"nats": {"connection": "main", "subject": "a.b-c.$KV", "payload": "{{ params.day }}",
        "headers": {"a": "b"}, "stream": "S"}}"#);
    assert_eq!((spec.target.needs().as_ref(), spec.on_lost), ("nats:main", OnLost::Rerun));
    let Target::Nats(nats) = spec.target else { panic!("not nats") };
    assert_eq!((nats.subject.as_str(), nats.stream.as_deref()), ("a.b-c.$KV", Some("S")));
    let spec = job(r#"{"nats": {"connection": "main", "subject": "a"}}"#);
    assert!(matches!(spec.target, Target::Nats(nats) if nats.stream.is_none()));
}

#[test]
fn what_is_wrong_with_a_message_for_nats_is_told_by_its_field() {
    let long = format!("target.nats.subject: {} bytes are too long, at most 255 are allowed", 256);
    for (subject, problem) in [
        ("", "target.nats.subject: is missing"),
        (".a", "target.nats.subject: has an empty token"),
        ("a.", "target.nats.subject: has an empty token"),
        ("a..b", "target.nats.subject: has an empty token"),
        ("a.*", "target.nats.subject: has a wildcard"),
        ("a.>", "target.nats.subject: has a wildcard"),
        ("a b", "target.nats.subject: has blanks or control characters"),
        ("a\\tb", "target.nats.subject: has blanks or control characters"),
        ("a\\r\\nPUB b", "target.nats.subject: has blanks or control characters"),
        ("$JS.API.STREAM.DELETE.S", "target.nats.subject: is one of the server's own"),
        ("$SYS.REQ.SERVER.PING", "target.nats.subject: is one of the server's own"),
        (&"a".repeat(256), &long),
    ] {
        let problems = read(&format!(r#"{{"nats": {{"connection": "m", "subject": "{subject}"}}}}"#));
        let problems = problems.expect_err(problem);
        assert!(problems.starts_with(problem), "{problem}: {problems}");
    }
    for (more, problem) in [
        (r#""subject": "a""#, "target.nats.connection: is missing"),
        (
            r#""connection": "m", "subject": "a", "stream": "a.b""#,
            "target.nats.stream: is no name of a stream",
        ),
        (
            r#""connection": "m", "subject": "a", "headers": {"nats-msg-id": "y"}"#,
            "target.nats.headers.nats-msg-id: belongs to the server and cannot be set as a header",
        ),
        (
            r#""connection": "m", "subject": "a", "headers": {"Idempotency-Key": "y"}"#,
            "target.nats.headers.Idempotency-Key: is set by the scheduler",
        ),
        (
            r#""connection": "m", "subject": "a", "payload": "{{ params.x }}""#,
            "target.nats.payload: there is no param x",
        ),
    ] {
        let problems = read(&format!(r#"{{"nats": {{{more}}}}}"#)).expect_err(problem);
        assert!(problems.starts_with(problem), "{problem}: {problems}");
    }
}
