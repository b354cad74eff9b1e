//! What of a connection serves no message of a run: channels for whoever listens, and the queue of ended tasks.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};
use tokio::time::timeout;

use super::super::broker::{BROKER_ANSWER_TIMEOUT, Failure};
use super::super::celery::completion;
use super::link::{Link, failure, unreachable};

/// The code of a channel that is closed in good order.
pub(in crate::target) const REPLY_SUCCESS: u16 = 200;

impl Link {
    /// A channel that nobody else has.
    pub(in crate::target) async fn channel_apart(&self) -> Result<Channel, Failure> {
        let opened = self.connected().await?;
        let channel = timeout(BROKER_ANSWER_TIMEOUT, opened.connection.create_channel()).await;
        let channel = channel.map_err(|_| Failure::Unreachable("it opened no channel in time".to_owned()))?;
        channel.map_err(|error| unreachable(&error))
    }

    /// Sees to it, once for each connection, that Celery's workers find the queue of a cluster's ended tasks.
    pub(in crate::target) async fn declare_ends(&self, cluster: &str) -> Result<(), Failure> {
        let opened = self.connected().await?;
        let declared = opened.has_ends.get_or_try_init(|| async {
            let channel = self.channel_apart().await?;
            let declared = timeout(BROKER_ANSWER_TIMEOUT, declare(&channel, cluster)).await;
            let late = |_| Failure::Unreachable("it declared no queue in time".to_owned());
            declared.map_err(late)?.map_err(|error| match failure(&error) {
                // No message is on its way by then.
                Failure::Unanswered(why) => Failure::Unreachable(why),
                other => other,
            })
        });
        declared.await.map(drop)
    }
}

async fn declare(channel: &Channel, cluster: &str) -> lapin::Result<()> {
    let (exchange, queue) =
        (ShortString::from(completion::NAME), ShortString::from(completion::queue(cluster)));
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(exchange.clone(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), durable, FieldTable::default()).await?;
    let options = QueueBindOptions::default();
    channel.queue_bind(queue, exchange, cluster.into(), options, FieldTable::default()).await?;
    channel.close(REPLY_SUCCESS, ShortString::default()).await
}
