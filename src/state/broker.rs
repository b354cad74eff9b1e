//! Targets that leave a message with a broker, by a connection that workers know by its name.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::celery::CeleryTemplate;
use super::pack::later;
use super::time::Timestamp;

/// One message to a Redis server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisTarget {
    /// The name of the connection.
    pub connection: String,
    /// Where to.
    pub to: RedisPlace,
    /// What it says.
    pub payload: String,
    /// Headers of the user.
    pub headers: BTreeMap<String, String>,
    /// The payload is the whole message.
    pub bare: bool,
}

/// Where a message goes in a Redis server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedisPlace {
    /// To the head (left) of a list.
    Left(String),
    /// To the tail (right) of a list.
    Right(String),
    /// To whoever listens on a channel.
    Channel(String),
    /// To a stream.
    Stream {
        /// Its key.
        key: String,
        /// About how many entries it keeps; absent: all.
        max_length: Option<u64>,
    },
}

/// One message to a RabbitMQ server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AmqpTarget {
    /// The name of the connection.
    pub connection: String,
    /// Its name; empty: the default one, whose routing keys are the names of the queues.
    pub exchange: String,
    /// The key.
    pub routing_key: String,
    /// What it says.
    pub payload: String,
    /// Headers of the user.
    pub headers: BTreeMap<String, String>,
    /// What kind of text it is.
    pub content_type: Option<String>,
    /// The broker's: the highest goes first.
    pub priority: Option<u8>,
    /// After which the broker drops it.
    pub expiration: Option<Duration>,
    /// Whether the broker writes it to disk.
    pub persistent: bool,
}

/// One message to a stream of NATS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatsTarget {
    /// The name of the connection.
    pub connection: String,
    /// Where to.
    pub subject: String,
    /// What it says.
    pub payload: String,
    /// Headers of the user.
    pub headers: BTreeMap<String, String>,
    /// The stream that has to be the one that takes it; absent: any that takes the subject.
    pub stream: Option<String>,
}

/// One task for Celery workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CeleryTarget {
    /// The name of the connection.
    pub broker: String,
    /// The name that the task is registered under.
    pub task: String,
    /// A list as JSON.
    pub args: String,
    /// A mapping as JSON.
    pub kwargs: String,
    /// Where to.
    pub to: CeleryPlace,
    /// A mapping as JSON.
    pub headers: String,
    /// The broker's.
    pub priority: Option<u8>,
    /// Until when it is worth running.
    pub expires: CeleryExpiry,
    /// After which a worker kills it.
    pub time_limit: Option<Duration>,
    /// After which a worker asks it to stop.
    pub soft_time_limit: Option<Duration>,
    /// Whether its result is dropped; absent: as the task says.
    pub ignore_result: Option<bool>,
    /// Shown in place of its name.
    pub shadow: Option<String>,
    /// The queue for an `rpc://` result.
    pub reply_to: Option<String>,
    /// Whether the broker writes it to disk.
    pub persistent: bool,
    /// Whether the run ends when the task does, and not when it is sent.
    #[serde(default, serialize_with = "later")]
    pub wait_for_completion: bool,
    /// Whether what the task returns is the result of its attempt.
    #[serde(default, serialize_with = "later")]
    pub capture_result: bool,
    /// The attempt is lost when whoever runs the task has given no sign of life for so long; absent: never.
    #[serde(default, serialize_with = "later")]
    pub lost_after: Option<Duration>,
    /// What the app has built, with all that it says of the task; what is said beside it here goes for the message.
    #[serde(default, serialize_with = "later")]
    pub template: Option<CeleryTemplate>,
}

/// Where a task is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CeleryPlace {
    /// Straight to a queue.
    Queue(String),
    /// To the queues that an exchange has for a routing key.
    Exchange {
        /// Its name.
        name: String,
        /// The key.
        routing_key: String,
    },
}

/// Until when a task is worth running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CeleryExpiry {
    /// When the next occurrence is due.
    Next,
    /// For ever.
    Never,
    /// So long after it was published.
    After(Duration),
    /// Until an instant.
    At(Timestamp),
}
