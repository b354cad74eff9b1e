//! What the targets of brokers have in common: the connections of this worker, why a message was not left, and what
//! tells the messages of runs apart.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_util::sync::CancellationToken;

use super::interrupt::{Interrupt, Limit};
use super::{Order, Outcome, Report, amqp, nats, redis};
use crate::config::connections::{Broker, Connection, Connections, Password};

/// Name resolution, connection, TLS and greeting of a broker together, at most.
pub const BROKER_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a broker may take to answer what it was sent.
pub const BROKER_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands of a connection that are sent and not answered, at most; further ones wait.
pub const BROKER_IN_FLIGHT: usize = 1_024;

/// The connections that this worker has, each opened when it is first used.
#[derive(Debug, Default)]
pub(super) struct Brokers(BTreeMap<String, Link>);

/// A connection, whatever answers at its other end.
#[derive(Clone, Debug)]
pub(super) enum Link {
    Redis(Arc<redis::Link>),
    Amqp(Arc<amqp::Link>),
    Nats(Arc<nats::Link>),
}

impl Brokers {
    pub(super) fn new(connections: &Connections) -> Self {
        let links = connections.iter().map(|(name, connection)| {
            let link = match connection.broker() {
                Broker::Redis => Link::Redis(Arc::new(redis::Link::new(connection.clone()))),
                Broker::Amqp => Link::Amqp(Arc::new(amqp::Link::new(connection.clone()))),
                Broker::Nats => Link::Nats(Arc::new(nats::Link::new(connection.clone()))),
            };
            (name.clone(), link)
        });
        Self(links.collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Link)> {
        self.0.iter().map(|(name, link)| (name.as_str(), link))
    }

    /// What a connection is called where something is said of it.
    pub(super) fn label(&self, name: &str) -> String {
        match self.0.get(name) {
            Some(Link::Redis(link)) => link.connection().label(),
            Some(Link::Amqp(link)) => link.connection().label(),
            Some(Link::Nats(link)) => link.connection().label(),
            None => String::new(),
        }
    }

    /// The connection of that name.
    pub(super) fn get(&self, name: &str) -> Result<&Link, Failure> {
        self.0.get(name).ok_or_else(|| Failure::Unknown(name.to_owned()))
    }

    /// The same, where it has to be one to a Redis server.
    pub(super) fn redis(&self, name: &str) -> Result<&redis::Link, Failure> {
        match self.get(name)? {
            Link::Redis(link) => Ok(link),
            Link::Amqp(_) | Link::Nats(_) => Err(Failure::Unknown(name.to_owned())),
        }
    }

    /// The same, where it has to be one to a RabbitMQ server.
    pub(super) fn amqp(&self, name: &str) -> Result<&amqp::Link, Failure> {
        match self.get(name)? {
            Link::Amqp(link) => Ok(link),
            Link::Redis(_) | Link::Nats(_) => Err(Failure::Unknown(name.to_owned())),
        }
    }

    /// The same, where it has to be one to NATS.
    pub(super) fn nats(&self, name: &str) -> Result<&nats::Link, Failure> {
        match self.get(name)? {
            Link::Nats(link) => Ok(link),
            Link::Redis(_) | Link::Amqp(_) => Err(Failure::Unknown(name.to_owned())),
        }
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
    /// It is there, and asks to be sent nothing for a while.
    #[error("broker_blocked: {0}")]
    Blocked(String),
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
    /// The same, with the connection that it is of.
    fn of(self, label: &str) -> Self {
        let named = |why: String| format!("{label}: {why}");
        match self {
            // As rustls says it, whoever hands it on.
            Self::Unreachable(why) if why.contains("UnknownIssuer") => {
                Self::Unreachable(named(format!("{why}: `tls_ca` is to name the file of its authority")))
            }
            Self::Unreachable(why) => Self::Unreachable(named(why)),
            Self::Blocked(why) => Self::Blocked(named(why)),
            Self::Unanswered(why) => Self::Unanswered(named(why)),
            Self::Refused(why) => Self::Refused(named(why)),
            Self::Unknown(_) | Self::Unroutable(_) | Self::Invalid(_) => self,
        }
    }

    pub(super) fn report(&self) -> Report {
        let outcome = match self {
            Self::Unknown(_) | Self::Invalid(_) => Outcome::Refused,
            Self::Unanswered(_) => Outcome::Unknown,
            Self::Unreachable(_) | Self::Blocked(_) | Self::Refused(_) | Self::Unroutable(_) => {
                Outcome::Failed
            }
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

/// Whether a connection works, of which the log tells when it changes.
#[derive(Debug)]
pub(super) struct Health {
    connection: String,
    at: String,
    fails: AtomicBool,
}

impl Health {
    pub(super) fn of(connection: &Connection) -> Self {
        Self { connection: connection.name.clone(), at: connection.place(), fails: AtomicBool::new(false) }
    }

    /// It broke, or could not be opened.
    pub(super) fn fails(&self, why: &Failure) {
        if !self.fails.swap(true, Ordering::Relaxed) {
            let (connection, at) = (&self.connection, &self.at);
            tracing::warn!(connection, at, %why, "a connection to a broker does not work");
        }
    }

    pub(super) fn works(&self) {
        if self.fails.load(Ordering::Relaxed) && self.fails.swap(false, Ordering::Relaxed) {
            let (connection, at) = (&self.connection, &self.at);
            tracing::info!(connection, at, "a connection to a broker works again");
        }
    }
}

/// Whether a broker may have a message of which nothing is known yet, where it cannot be asked afterwards.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent(Arc<AtomicU8>);

const WAITS: u8 = 0;
const MAY_BE_THERE: u8 = 1;
const CALLED_OFF: u8 = 2;

impl Sent {
    /// From here on it may; false if it must not be sent any more.
    pub(super) fn begins(&self) -> bool {
        self.goes_to(MAY_BE_THERE)
    }

    /// It is not sent any more; false if it may have been.
    fn is_called_off(&self) -> bool {
        self.goes_to(CALLED_OFF)
    }

    fn goes_to(&self, next: u8) -> bool {
        match self.0.compare_exchange(WAITS, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(now) => now == next,
        }
    }
}

/// The report of what the broker of the connection with that label was asked for. An attempt that is stopped when the
/// message is `sent` is one that was not answered, whoever stopped it: it is not known to have failed. Each step of that
/// has a bound of its own; the order's may be shorter.
pub(super) async fn report(
    order: &Order,
    cancel: &CancellationToken,
    (label, sent): (impl Fn() -> String, &Sent),
    left: impl Future<Output = Result<Left, Failure>>,
) -> Report {
    let limit = Limit::starting_now(order.timeout, cancel);
    tokio::select! {
        biased;
        left = left => left.map_or_else(|failure| failure.of(&label()).report(), Left::report),
        interrupt = limit.reached() => {
            let report = interrupt.report(" while waiting for the broker");
            match (interrupt, sent.is_called_off()) {
                (Interrupt::Timeout(_), false) => {
                    Failure::Unanswered(report.error.unwrap_or_default()).of(&label()).report()
                }
                (Interrupt::Timeout(_), true) | (Interrupt::Cancel, _) => report,
            }
        }
    }
}

/// The password of a connection, read where it is when it is needed; `whose` begins the name of its key, where that is
/// not the server's.
pub(super) async fn password(whose: &str, password: &Password) -> Result<Option<String>, Failure> {
    Ok(match password {
        Password::None => None,
        Password::Known(secret) => Some(secret.reveal().to_owned()),
        Password::File(path) => {
            let text = tokio::fs::read_to_string(path).await.map_err(|why| {
                Failure::Unreachable(format!("{whose}password_file: {}: {why}", path.display()))
            })?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        Password::Env(variable) => {
            let unset =
                |_| Failure::Unreachable(format!("{whose}password_env: the variable {variable} is not set"));
            Some(std::env::var(variable).map_err(unset)?)
        }
    })
}

/// The authorities of a PEM file, read when a connection is opened.
pub(super) async fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let unusable =
        |why: &dyn fmt::Display| Failure::Unreachable(format!("tls_ca: {}: {why}", path.display()));
    let text = tokio::fs::read(path).await.map_err(|why| unusable(&why))?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let roots = roots.map_err(|why| unusable(&why))?;
    if roots.is_empty() { Err(unusable(&"holds no certificate")) } else { Ok(roots) }
}

/// Tells a run from all others, also from those of other clusters that use the same broker; and what it leaves anew after
/// the end of what it had left from that.
pub(super) struct Mark<'a>(pub(super) &'a Order);

impl fmt::Display for Mark<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.cluster_id, self.0.run_id)?;
        match self.0.delivery {
            0 => Ok(()),
            delivery => write!(f, ":{delivery}"),
        }
    }
}
