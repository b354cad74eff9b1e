//! What is written; what becomes of it is shown with a real server by `tests/cluster/brokers`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::target;

fn target() -> AmqpTarget {
    AmqpTarget {
        connection: "main".to_owned(),
        exchange: "events".to_owned(),
        routing_key: "a.b".to_owned(),
        payload: "x".to_owned(),
        headers: [("tenant".to_owned(), "t1".to_owned())].into(),
        content_type: None,
        priority: None,
        expiration: None,
        persistent: true,
    }
}

fn order(target: &AmqpTarget) -> Order {
    Order {
        job: "push".to_owned(),
        namespace: "default".to_owned(),
        run_id: "7-1000".to_owned(),
        scheduled_at: "1970-01-01T00:00:01.000Z".to_owned(),
        attempt: 2,
        fence: 9,
        timeout: None,
        traceparent: None,
        params: BTreeMap::new(),
        chain_id: None,
        inputs: BTreeMap::new(),
        cluster_id: "c1".to_owned(),
        next_at: None,
        delivery: 0,
        target: target::Target::Amqp(Box::new(target.clone())),
    }
}

#[test]
fn a_message_says_whose_it_is_and_has_the_id_of_its_run_in_every_attempt() {
    let target = target();
    let written = message(&order(&target), &target).expect("a message");
    assert_eq!((written.exchange.as_str(), written.routing_key.as_str()), ("events", "a.b"));
    let properties = &written.properties;
    assert_eq!(properties.message_id().as_ref().map(ShortString::as_str), Some("c1:7-1000"));
    assert_eq!((properties.delivery_mode(), properties.priority()), (&Some(2), &None));
    assert_eq!((properties.expiration(), properties.content_type()), (&None, &None));
    let headers = properties.headers().as_ref().expect("headers");
    let of = |name: &str| match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8(text.as_bytes().to_vec()).expect("text"),
        other => panic!("{name}: {other:?}"),
    };
    for (name, value) in [
        ("chronarch-job", "push"),
        ("chronarch-namespace", "default"),
        ("chronarch-run-id", "7-1000"),
        ("idempotency-key", "7-1000"),
        ("chronarch-scheduled-at", "1970-01-01T00:00:01.000Z"),
        ("chronarch-attempt", "2"),
        ("chronarch-fence", "9"),
        ("tenant", "t1"),
    ] {
        assert_eq!(of(name), value);
    }
}

#[test]
fn what_a_job_says_of_its_message_is_in_the_properties() {
    let target = AmqpTarget {
        content_type: Some("application/json".to_owned()),
        priority: Some(7),
        expiration: Some(Duration::from_millis(1_500)),
        persistent: false,
        ..target()
    };
    let properties = message(&order(&target), &target).expect("a message").properties;
    let text = |of: &Option<ShortString>| of.as_ref().map(ToString::to_string);
    assert_eq!(text(properties.content_type()).as_deref(), Some("application/json"));
    assert_eq!(text(properties.expiration()).as_deref(), Some("1500"));
    assert_eq!((properties.priority(), properties.delivery_mode()), (&Some(7), &Some(1)));
}

#[test]
fn what_amqp_cannot_write_is_refused_by_its_field() {
    let long = "x".repeat(256);
    let of = |target: &AmqpTarget| message(&order(target), target).map(drop).map_err(|why| why.to_string());
    let expected =
        |field: &str| Err(format!("message_invalid: {field}: 256 bytes are more than AMQP can write"));
    assert_eq!(of(&AmqpTarget { routing_key: long.clone(), ..target() }), expected("routing_key"));
    assert_eq!(of(&AmqpTarget { exchange: long.clone(), ..target() }), expected("exchange"));
    assert_eq!(of(&AmqpTarget { headers: [(long, String::new())].into(), ..target() }), expected("headers"));
}
