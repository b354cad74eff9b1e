//! With RabbitMQ: a queue of the cluster's, and one of the listener's for events.
//!
//! Only the exchange and the queue of ended tasks are declared here, for they are ours. Those of events and of remote
//! control are declared by Celery's workers; another declaration than theirs would keep them from starting. Where they
//! are not there yet, nobody has sent or heard anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer, ErrorKind, ExchangeKind};
use serde_json::Value;

use super::super::super::amqp::{Link, REPLY_SUCCESS, failure};
use super::super::super::broker::Failure;
use super::super::completion;
use super::quiet::{Emptied, Lain};
use super::told::Control;
use super::{HEARD_MAX, LOOKED_AT_MAX, Place, TASKS_MAX};

/// What is delivered and not removed, at most; further ones wait in the queue.
const PREFETCH: u16 = 10_500;
const _: () = assert!(PREFETCH as usize == LOOKED_AT_MAX + TASKS_MAX);

#[derive(Debug)]
pub(super) struct Amqp {
    link: Arc<Link>,
    ends: Option<Ends>,
    events: Option<(Channel, Consumer)>,
    /// When it was last tried to listen, the server had nothing of what each of Celery's workers declares.
    nobody_came: bool,
}

/// The queue of ended tasks, while it is listened to.
#[derive(Debug)]
struct Ends {
    channel: Channel,
    consumer: Consumer,
    /// What was delivered and is not removed.
    held: BTreeMap<u64, Option<Value>>,
}

impl Amqp {
    pub(super) const fn new(link: Arc<Link>) -> Self {
        Self { link, ends: None, events: None, nobody_came: false }
    }

    /// What was delivered and not removed goes back to the queue with the channel.
    pub(super) async fn rest(&mut self) {
        let channels = [self.ends.take().map(|ends| ends.channel), self.events.take().map(|events| events.0)];
        for channel in channels.into_iter().flatten() {
            // It may be closed already, which is as good.
            let _ = channel.close(REPLY_SUCCESS, ShortString::default()).await;
        }
    }

    pub(super) async fn look(
        &mut self,
        cluster: &str,
        from: usize,
        most: usize,
    ) -> Result<Vec<(Place, Option<Value>)>, Failure> {
        if self.ends.as_ref().is_none_or(|ends| !ends.channel.status().connected()) {
            self.ends = None;
            self.ends = Some(self.consume(cluster).await?);
        }
        let Some(ends) = &mut self.ends else { return Ok(Vec::new()) };
        while let Some(delivery) = ends.consumer.next().now_or_never() {
            let Some(Ok(delivery)) = delivery else {
                self.ends = None;
                return Err(Failure::Unreachable("it sends no more of the ended tasks".to_owned()));
            };
            ends.held.insert(delivery.delivery_tag, completion::unpacked(&delivery.data));
        }
        let held = ends.held.iter().skip(from).take(most);
        Ok(held.map(|(number, body)| (Place::Number(*number), body.clone())).collect())
    }

    async fn consume(&self, cluster: &str) -> Result<Ends, Failure> {
        self.link.declare_ends(cluster).await?;
        let channel = self.link.channel_apart().await?;
        let consumed = async {
            channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
            let queue = completion::queue(cluster).into();
            let options = BasicConsumeOptions::default();
            channel.basic_consume(queue, ShortString::default(), options, FieldTable::default()).await
        };
        let consumer = consumed.await.map_err(|error| failure(&error))?;
        Ok(Ends { channel, consumer, held: BTreeMap::new() })
    }

    pub(super) async fn remove(&mut self, _cluster: &str, places: &[Place]) -> Result<(), Failure> {
        let Some(ends) = &mut self.ends else { return Ok(()) };
        for place in places {
            let Place::Number(number) = place else { continue };
            // One of an earlier channel is delivered again, and told again.
            if ends.held.remove(number).is_some() {
                let removed = ends.channel.basic_ack(*number, BasicAckOptions::default()).await;
                removed.map_err(|error| failure(&error))?;
            }
        }
        Ok(())
    }

    pub(super) async fn bind(&mut self, cluster: &str) -> Result<(), Failure> {
        self.link.declare_ends(cluster).await
    }

    pub(super) fn hears(&self) -> bool {
        self.events.as_ref().is_some_and(|(channel, _)| channel.status().connected())
    }

    /// By a queue whose name tells it from those of other listeners, and is of those that the account may declare.
    pub(super) async fn listen(&mut self, tag: &str) -> Result<(), Failure> {
        self.events = None;
        self.nobody_came = false;
        let channel = self.link.channel_apart().await?;
        let listened = async {
            let options =
                QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
            // What is not taken in time is lost, as it is while nobody listens.
            let most = AMQPValue::LongInt(i32::try_from(HEARD_MAX).unwrap_or(i32::MAX));
            let mut arguments = FieldTable::default();
            arguments.insert("x-max-length".into(), most);
            let name = format!("chronarch.events.{tag}").into();
            let queue = channel.queue_declare(name, options, arguments).await?;
            for topic in ["task.#", "worker.#"] {
                let (name, options) = (queue.name().clone(), QueueBindOptions::default());
                channel
                    .queue_bind(name, "celeryev".into(), topic.into(), options, FieldTable::default())
                    .await?;
            }
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let name = queue.name().clone();
            channel.basic_consume(name, ShortString::default(), options, FieldTable::default()).await
        };
        let listened = listened.await;
        self.nobody_came = match &listened {
            Err(error) if is_missing(error) => self.has_no_pidbox().await,
            Err(_) | Ok(_) => false,
        };
        self.events = Some((channel, listened.map_err(|error| failure(&error))?));
        Ok(())
    }

    /// Whether no Celery worker was ever here: then nothing was said that could have been missed.
    pub(super) const fn nobody_came(&self) -> bool {
        self.nobody_came
    }

    /// Whether the exchange is missing by which workers are asked: those that send no events still declare it.
    async fn has_no_pidbox(&self) -> bool {
        let Ok(channel) = self.link.channel_apart().await else { return false };
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let kind = ExchangeKind::Fanout;
        let declared = channel.exchange_declare("celery.pidbox".into(), kind, options, FieldTable::default());
        match declared.await {
            Ok(()) => {
                // It may be closed already, which is as good.
                let _ = channel.close(REPLY_SUCCESS, ShortString::default()).await;
                false
            }
            Err(error) => is_missing(&error),
        }
    }

    /// Of these the ones that do not lie in the queue: all, where it is empty. What somebody has taken and not confirmed is
    /// not counted by the server, which only says how many take from it: none is no answer, for so it is with a queue
    /// whose node is down.
    pub(super) async fn gone(&mut self, queue: &str, tasks: &[Lain]) -> Result<Emptied, Failure> {
        let channel = self.link.channel_apart().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
            Ok(found) => {
                // It may be closed already, which is as good.
                let _ = channel.close(REPLY_SUCCESS, ShortString::default()).await;
                let (waiting, takers) = (found.message_count(), found.consumer_count());
                let gone = tasks.iter().filter(|_| waiting == 0 && takers > 0);
                let gone = gone.map(|task| task.task_id.clone()).collect();
                Ok(Emptied { gone, takers: Some(takers as usize) })
            }
            // It was removed, or its node is down.
            Err(error) if is_missing(&error) => Ok(Emptied::default()),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Where workers answer: the queue of events.
    pub(super) fn reply_to(&self) -> Option<String> {
        self.events.as_ref().map(|(_, consumer)| consumer.queue().to_string())
    }

    /// What was said, and what an answer has as `ticket`.
    pub(super) fn next_event(&mut self) -> Option<(Value, Option<String>)> {
        loop {
            let (_, consumer) = self.events.as_mut()?;
            match consumer.next().now_or_never()? {
                Some(Ok(delivery)) => {
                    if let Ok(body) = serde_json::from_slice(&delivery.data) {
                        let headers = delivery.properties.headers().as_ref();
                        let ticket = headers.and_then(|headers| headers.inner().get("ticket"));
                        let ticket = ticket.and_then(AMQPValue::as_long_string).map(ToString::to_string);
                        return Some((body, ticket));
                    }
                }
                Some(Err(_)) | None => self.events = None,
            }
        }
    }

    pub(super) async fn broadcast(&mut self, control: &Control) -> Result<(), Failure> {
        let channel = self.link.channel_apart().await?;
        let mut headers = FieldTable::default();
        headers.insert("clock".into(), AMQPValue::LongInt(1));
        headers.insert("expires".into(), AMQPValue::Double(control.expires));
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_delivery_mode(2)
            .with_priority(0)
            .with_headers(headers);
        let told = async {
            // A channel that the server closes, for there is no such exchange, is not to be closed here meanwhile: the two
            // would meet, and the connection break, with all that others have on its way.
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let (exchange, key) = ("celery.pidbox".into(), ShortString::default());
            let options = BasicPublishOptions::default();
            channel.basic_publish(exchange, key, options, control.body.as_bytes(), properties).await?.await?;
            // The server has it once it has agreed to this.
            channel.close(REPLY_SUCCESS, ShortString::default()).await
        };
        match told.await.map_err(|error| failure(&error)) {
            // No worker has ever been here, and none has a task.
            Err(Failure::Refused(_)) | Ok(()) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}

/// Whether the server does not have what was named.
fn is_missing(error: &lapin::Error) -> bool {
    let kind = match error.kind() {
        ErrorKind::ProtocolError(error) => error.kind().clone(),
        _ => return false,
    };
    kind == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
}
