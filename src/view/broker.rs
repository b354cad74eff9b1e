//! The messages of targets that leave something with a broker.

use std::time::Duration;

use super::{instant, span};
use crate::pb::v1 as pb;
use crate::state::broker::{
    AmqpTarget, CeleryExpiry, CeleryPlace, CeleryTarget, NatsTarget, RedisPlace, RedisTarget,
};
use crate::state::limits::CELERY_LOST_AFTER;

/// A message to a Redis server.
#[must_use]
pub fn redis(target: &RedisTarget) -> pb::Target {
    let mut message = pb::RedisTarget {
        connection: target.connection.clone(),
        payload: target.payload.clone(),
        headers: target.headers.clone(),
        bare: target.bare,
        ..pb::RedisTarget::default()
    };
    match &target.to {
        RedisPlace::Left(key) => message.list.clone_from(key),
        RedisPlace::Right(key) => {
            message.list.clone_from(key);
            message.push = pb::RedisPush::Right.into();
        }
        RedisPlace::Channel(channel) => message.channel.clone_from(channel),
        RedisPlace::Stream { key, max_length } => {
            message.stream.clone_from(key);
            message.max_length = *max_length;
        }
    }
    pb::Target { redis: Some(message), ..pb::Target::default() }
}

/// A message to a RabbitMQ server.
#[must_use]
pub fn amqp(target: &AmqpTarget) -> pb::Target {
    let message = pb::AmqpTarget {
        connection: target.connection.clone(),
        exchange: target.exchange.clone(),
        routing_key: target.routing_key.clone(),
        payload: target.payload.clone(),
        headers: target.headers.clone(),
        content_type: target.content_type.clone().unwrap_or_default(),
        priority: target.priority.map(u32::from),
        expiration: target.expiration.map(span),
        transient: !target.persistent,
        // It is `on_lost` by another name.
        on_ambiguous: pb::OnAmbiguous::Unspecified.into(),
    };
    pb::Target { amqp: Some(message), ..pb::Target::default() }
}

/// A message to a stream of NATS.
#[must_use]
pub fn nats(target: &NatsTarget) -> pb::Target {
    let message = pb::NatsTarget {
        connection: target.connection.clone(),
        subject: target.subject.clone(),
        payload: target.payload.clone(),
        headers: target.headers.clone(),
        stream: target.stream.clone().unwrap_or_default(),
    };
    pb::Target { nats: Some(message), ..pb::Target::default() }
}

/// A task for Celery workers.
#[must_use]
pub fn celery(target: &CeleryTarget) -> pb::Target {
    let mut message = pb::CeleryTarget {
        broker: target.broker.clone(),
        task: target.task.clone(),
        args: unless_empty(&target.args, "[]"),
        kwargs: unless_empty(&target.kwargs, "{}"),
        headers: unless_empty(&target.headers, "{}"),
        priority: target.priority.map(u32::from),
        time_limit: target.time_limit.map(span),
        soft_time_limit: target.soft_time_limit.map(span),
        ignore_result: target.ignore_result,
        shadow: target.shadow.clone().unwrap_or_default(),
        reply_to: target.reply_to.clone().unwrap_or_default(),
        transient: !target.persistent,
        wait_for_completion: (!target.wait_for_completion).then_some(false),
        capture_result: target.capture_result,
        lost_after: match target.lost_after {
            None if target.wait_for_completion => Some(span(Duration::ZERO)),
            Some(after) if after != CELERY_LOST_AFTER => Some(span(after)),
            None | Some(_) => None,
        },
        template: target.template.as_ref().map(|it| it.message.clone()).unwrap_or_default(),
        template_ids: target.template.as_ref().map(|it| it.ids.clone()).unwrap_or_default(),
        ..pb::CeleryTarget::default()
    };
    match &target.to {
        CeleryPlace::Queue(queue) => message.queue.clone_from(queue),
        CeleryPlace::Exchange { name, routing_key } => {
            message.exchange.clone_from(name);
            message.routing_key.clone_from(routing_key);
        }
    }
    match target.expires {
        CeleryExpiry::Next => {}
        CeleryExpiry::Never => message.expires = Some(span(Duration::ZERO)),
        CeleryExpiry::After(long) => message.expires = Some(span(long)),
        CeleryExpiry::At(at) => message.expires_at = Some(instant(at)),
    }
    pb::Target { celery: Some(message), ..pb::Target::default() }
}

fn unless_empty(text: &str, empty: &str) -> String {
    if text == empty { String::new() } else { text.to_owned() }
}
