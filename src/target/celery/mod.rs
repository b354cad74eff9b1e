//! Sends one task to Celery workers, as `celery beat` would: a message of protocol 2, which an unmodified worker runs.
//!
//! `message` builds it, `harmless` looks at what was built as a worker would, `route` finds the lists of a queue or an
//! exchange as kombu does, for in Redis the publisher is the router; RabbitMQ routes by itself. How it is left is the
//! business of the redis and amqp targets, and so is what becomes of further attempts of a run.
//!
//! Fields and forms are those that Celery 5.7 and kombu 5.7 write (`testdata/`, taken from the wire). What is built here
//! is JSON; a message of another serializer, a compressed one, one of a canvas or with what signals add to it is built by
//! the app, once, and sent anew for each run (`template`). Deliberately absent: `eta` (a message is sent when it is due,
//! and not before), and what of a canvas has more than one message.

#[cfg(test)]
mod amqp_tests;
pub(super) mod completion;
mod harmless;
mod message;
mod python;
mod route;
mod table;
mod template;
#[cfg(test)]
mod template_tests;
#[cfg(test)]
mod tests;
pub(super) mod watch;

use super::broker::{Failure, Left, Link, Sent};
use super::redis::{self, How, Leave, note};
use super::told::is_reserved_header;
use super::{Handed, Order, Outcome, Report};
use crate::state::broker::{CeleryPlace, CeleryTarget};
use crate::state::time::Timestamp;

/// Sends the task, at `now`; `origin` is who sends it.
pub(super) async fn send(
    order: &Order,
    target: &CeleryTarget,
    (link, sent): (&Link, &Sent),
    (now, origin): (Timestamp, &str),
) -> Result<Left, Failure> {
    let message = message::Message::new(order, target, now, origin).map_err(Failure::Invalid)?;
    let reserved = message.own_headers().find(|name| is_reserved_header(&name.to_ascii_lowercase()));
    if let Some(name) = reserved {
        return Err(Failure::Invalid(format!("header {name} is set by the scheduler")));
    }
    match link {
        Link::Redis(link) => by_redis(order, target, &message, link).await,
        Link::Amqp(link) => {
            let message = message.for_amqp(target)?;
            harmless::check_amqp(&message).map_err(|why| Failure::Invalid(why.to_string()))?;
            if message::waits(order, target) {
                link.declare_ends(&order.cluster_id).await?;
            }
            link.leave(message, sent).await
        }
        // Celery does not speak to it, and no worker says that it carries tasks there.
        Link::Nats(_) => Err(Failure::Unknown(target.broker.clone())),
    }
}

async fn by_redis(
    order: &Order,
    target: &CeleryTarget,
    message: &message::Message,
    link: &redis::Link,
) -> Result<Left, Failure> {
    let text = message.for_redis(target).to_string();
    harmless::check(&text).map_err(|why| Failure::Invalid(why.to_string()))?;
    let options = link.celery();
    let queues = match &target.to {
        CeleryPlace::Queue(queue) => vec![queue.clone()],
        CeleryPlace::Exchange { name, routing_key } => {
            let key = format!("{}_kombu.binding.{name}", options.global_keyprefix);
            let bindings = link.members(&key).await?;
            let queues = route::queues(&bindings, routing_key, &options.sep);
            if queues.is_empty() {
                let why = format!("exchange {name:?} has no queue for the routing key {routing_key:?}");
                return Err(Failure::Unroutable(why));
            }
            queues
        }
    };
    let places: Vec<String> =
        queues.iter().map(|queue| route::list(queue, message.priority.unwrap_or(0), options)).collect();
    if message::waits(order, target) {
        link.ask::<()>(&completion::bindings(&order.cluster_id, options)).await?;
    }
    let note = note(order, &options.global_keyprefix);
    let leave = Leave { note: &note, how: How::PushLeft, places: &places, what: &[text] };
    link.leave(&leave).await
}

/// The report of an attempt that has sent a task, at `now`, and waits for its end.
pub(super) fn handed_over(order: &Order, target: &CeleryTarget, report: Report, now: Timestamp) -> Report {
    if report.outcome != Outcome::Succeeded || !message::waits(order, target) {
        return report;
    }
    // Of a chain the first task is left, and expires, and another one ends the run.
    let is_own = template::ends_with_its_own(target);
    let handed = Handed {
        connection: target.broker.clone(),
        task_id: message::task_id(order),
        expires_at: message::expiry(order, target, now).filter(|_| is_own),
        queue: match &target.to {
            CeleryPlace::Queue(queue) if is_own => Some(queue.clone()),
            CeleryPlace::Queue(_) | CeleryPlace::Exchange { .. } => None,
        },
    };
    Report { handed: Some(handed), ..Report::of(Outcome::HandedOver) }
}
