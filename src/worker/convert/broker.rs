//! Orders that leave a message with a broker.

use std::time::Duration;

use super::{OrderError, present, timestamp};
use crate::pb::v1 as pb;
use crate::state::broker::{
    AmqpTarget, CeleryExpiry, CeleryPlace, CeleryTarget, NatsTarget, RedisPlace, RedisTarget,
};
use crate::state::celery::CeleryTemplate;

pub(super) fn redis(redis: pb::RedisTarget) -> Result<RedisTarget, OrderError> {
    let push = redis.push();
    let to = match (present(redis.list), present(redis.channel), present(redis.stream)) {
        (Some(key), None, None) if push == pb::RedisPush::Right => RedisPlace::Right(key),
        (Some(key), None, None) => RedisPlace::Left(key),
        (None, Some(channel), None) => RedisPlace::Channel(channel),
        (None, None, Some(key)) => RedisPlace::Stream { key, max_length: redis.max_length },
        (_, _, _) => return Err(OrderError::RedisPlace),
    };
    Ok(RedisTarget {
        connection: redis.connection,
        to,
        payload: redis.payload,
        headers: redis.headers,
        bare: redis.bare,
    })
}

pub(super) fn amqp(amqp: pb::AmqpTarget) -> Result<AmqpTarget, OrderError> {
    let wrong = |what| OrderError::Amqp(what);
    let priority = amqp.priority.map(u8::try_from).transpose();
    let expiration = amqp.expiration.map(Duration::try_from).transpose();
    Ok(AmqpTarget {
        connection: amqp.connection,
        exchange: amqp.exchange,
        routing_key: amqp.routing_key,
        payload: amqp.payload,
        headers: amqp.headers,
        content_type: present(amqp.content_type),
        priority: priority.map_err(|_| wrong("priority: expected 0 to 255"))?,
        expiration: expiration.map_err(|_| wrong("expiration: a span of time makes no sense"))?,
        persistent: !amqp.transient,
    })
}

pub(super) fn nats(nats: pb::NatsTarget) -> NatsTarget {
    NatsTarget {
        connection: nats.connection,
        subject: nats.subject,
        payload: nats.payload,
        headers: nats.headers,
        stream: present(nats.stream),
    }
}

pub(super) fn celery(celery: pb::CeleryTarget) -> Result<CeleryTarget, OrderError> {
    let wrong = |what| OrderError::Celery(what);
    let span = |span: Option<prost_types::Duration>| {
        span.map(Duration::try_from).transpose().map_err(|_| wrong("a span of time makes no sense"))
    };
    let to = match (present(celery.queue), present(celery.exchange)) {
        (Some(queue), None) => CeleryPlace::Queue(queue),
        (None, Some(name)) => CeleryPlace::Exchange { name, routing_key: celery.routing_key },
        (_, _) => return Err(wrong("exactly one of queue and exchange is needed")),
    };
    let expires = match (span(celery.expires)?, celery.expires_at) {
        (None, None) => CeleryExpiry::Next,
        (Some(Duration::ZERO), None) => CeleryExpiry::Never,
        (Some(span), None) => CeleryExpiry::After(span),
        (None, Some(at)) => CeleryExpiry::At(timestamp(&at)),
        (Some(_), Some(_)) => return Err(wrong("at most one of expires and expires_at is needed")),
    };
    let priority = celery.priority.map(u8::try_from).transpose();
    let or = |text: String, empty: &str| present(text).unwrap_or_else(|| empty.to_owned());
    Ok(CeleryTarget {
        broker: celery.broker,
        task: celery.task,
        args: or(celery.args, "[]"),
        kwargs: or(celery.kwargs, "{}"),
        to,
        headers: or(celery.headers, "{}"),
        priority: priority.map_err(|_| wrong("priority: expected 0 to 255"))?,
        expires,
        time_limit: span(celery.time_limit)?,
        soft_time_limit: span(celery.soft_time_limit)?,
        ignore_result: celery.ignore_result,
        shadow: present(celery.shadow),
        reply_to: present(celery.reply_to),
        persistent: !celery.transient,
        wait_for_completion: celery.wait_for_completion.unwrap_or(true),
        capture_result: celery.capture_result,
        // The leader's business.
        lost_after: None,
        template: present(celery.template)
            .map(|message| CeleryTemplate { message, ids: celery.template_ids }),
    })
}
