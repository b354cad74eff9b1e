//! One of each target that came later.

use super::*;

pub(super) fn redis() -> Target {
    Target::Redis(Box::new(RedisTarget {
        connection: "main".to_owned(),
        to: RedisPlace::Left("k".to_owned()),
        payload: String::new(),
        headers: [].into(),
        bare: false,
    }))
}

pub(super) fn celery() -> Target {
    Target::Celery(Box::new(CeleryTarget {
        broker: "main".to_owned(),
        task: "t".to_owned(),
        args: "[]".to_owned(),
        kwargs: "{}".to_owned(),
        to: CeleryPlace::Queue("celery".to_owned()),
        headers: "{}".to_owned(),
        priority: None,
        expires: CeleryExpiry::Next,
        time_limit: None,
        soft_time_limit: None,
        ignore_result: None,
        shadow: None,
        reply_to: None,
        persistent: true,
        wait_for_completion: true,
        capture_result: true,
        lost_after: Some(Duration::from_secs(9)),
        template: None,
    }))
}

pub(super) fn amqp() -> Target {
    Target::Amqp(Box::new(AmqpTarget {
        connection: "main".to_owned(),
        exchange: String::new(),
        routing_key: "q".to_owned(),
        payload: String::new(),
        headers: [].into(),
        content_type: None,
        priority: None,
        expiration: None,
        persistent: true,
    }))
}

pub(super) fn nats() -> Target {
    Target::Nats(Box::new(NatsTarget {
        connection: "main".to_owned(),
        subject: "a.b".to_owned(),
        payload: String::new(),
        headers: [].into(),
        stream: None,
    }))
}

pub(super) fn grpc() -> Target {
    Target::Grpc {
        address: "localhost:1".to_owned(),
        method: "a.B/C".to_owned(),
        request: "{}".to_owned(),
        metadata: BTreeMap::new(),
        descriptor: vec![1],
        tls: true,
    }
}
