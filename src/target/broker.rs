//! What the targets of brokers have in common: the connections of this worker, why a message was not left, and what
//! tells the messages of runs apart.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::interrupt::Limit;
use super::redis::Link;
use super::{Order, Outcome, Report};
use crate::config::connections::Connections;

/// Name resolution, connection, TLS and greeting of a broker together, at most.
pub const BROKER_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a broker may take to answer what it was sent.
pub const BROKER_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands of a connection that are sent and not answered, at most; further ones wait.
pub const BROKER_IN_FLIGHT: usize = 1_024;

/// The connections that this worker has, each opened when it is first used.
#[derive(Debug, Default)]
pub(super) struct Brokers(BTreeMap<String, Arc<Link>>);

impl Brokers {
    pub(super) fn new(connections: &Connections) -> Self {
        let link = |connection| Arc::new(Link::new(connection));
        Self(connections.iter().map(|(name, one)| (name.clone(), link(one.clone()))).collect())
    }

    /// The connection of that name.
    pub(super) fn get(&self, name: &str) -> Result<&Arc<Link>, Failure> {
        self.0.get(name).ok_or_else(|| Failure::Unknown(name.to_owned()))
    }
}

/// Why a broker does not have the message. The first word of each is its reason, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// Orders for a connection go to workers that have it; this one was started without.
    #[error("no_connection: this worker has no connection {0:?}")]
    Unknown(String),
    #[error("broker_unreachable: {0}")]
    Unreachable(String),
    /// It was sent, and nobody knows what became of it.
    #[error("broker_unanswered: {0}")]
    Unanswered(String),
    #[error("broker_refused: {0}")]
    Refused(String),
    #[error("broker_unroutable: {0}")]
    Unroutable(String),
    /// What would be sent could do harm.
    #[error("message_invalid: {0}")]
    Invalid(String),
}

impl Failure {
    pub(super) fn report(&self) -> Report {
        let outcome = match self {
            Self::Unknown(_) | Self::Invalid(_) => Outcome::Refused,
            Self::Unanswered(_) => Outcome::Unknown,
            Self::Unreachable(_) | Self::Refused(_) | Self::Unroutable(_) => Outcome::Failed,
        };
        Report::of(outcome).with_error(self)
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// This attempt left it.
    Now,
    /// An earlier attempt of the run did; the broker has it once.
    Before,
}

impl Left {
    pub(super) fn report(self) -> Report {
        match self {
            Self::Now => Report::of(Outcome::Succeeded),
            Self::Before => Report::of(Outcome::Succeeded)
                .with_error("an earlier attempt of the run had sent the message"),
        }
    }
}

/// The report of what a broker was asked for. Each step of that has a bound of its own; the order's may be shorter.
pub(super) async fn report(
    order: &Order,
    cancel: &CancellationToken,
    left: impl Future<Output = Result<Left, Failure>>,
) -> Report {
    let limit = Limit::starting_now(order.timeout, cancel);
    tokio::select! {
        biased;
        left = left => left.map_or_else(|failure| failure.report(), Left::report),
        interrupt = limit.reached() => interrupt.report(" while waiting for the broker"),
    }
}

/// Tells a run from all others, also from those of other clusters that use the same broker.
pub(super) struct Mark<'a>(pub(super) &'a Order);

impl fmt::Display for Mark<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.cluster_id, self.0.run_id)
    }
}
