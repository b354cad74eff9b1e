//! The connection to one Redis server.
//!
//! It is opened by whoever needs it first, and anew by whoever needs it after it broke; the others wait for that one
//! try and share what came of it, so a server that is down is asked once at a time, however much is due.

use std::sync::LazyLock;

use ::redis::aio::{MultiplexedConnection, PubSubStream};
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, Script, TlsCertificates,
};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::super::broker::{
    BROKER_ANSWER_TIMEOUT, BROKER_CONNECT_TIMEOUT, BROKER_IN_FLIGHT, Failure, Left, password,
};
use crate::config::connections::{CeleryOptions, Connection};

static LEAVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("leave.lua")));

/// A connection that may be open.
pub(in crate::target) struct Link {
    connection: Connection,
    open: Mutex<Open>,
    room: Semaphore,
}

#[derive(Default)]
struct Open {
    /// With its number, by which the one that broke is told from the one after it.
    current: Option<(u64, MultiplexedConnection)>,
    opened: u64,
    /// When opening it last failed, and why.
    failed: Option<(Instant, Failure)>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// How a message is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::target) enum How {
    PushLeft,
    PushRight,
    Publish,
    Add,
}

/// A message, and where it is left.
#[derive(Debug)]
pub(in crate::target) struct Leave<'a> {
    /// The key of the note that it was.
    pub(in crate::target) note: &'a str,
    pub(in crate::target) how: How,
    pub(in crate::target) places: &'a [String],
    /// The words of the command behind the place.
    pub(in crate::target) what: &'a [String],
}

impl Link {
    pub(in crate::target) fn new(connection: Connection) -> Self {
        Self { connection, open: Mutex::default(), room: Semaphore::new(BROKER_IN_FLIGHT) }
    }

    /// What a Celery app says of this broker.
    pub(in crate::target) fn celery(&self) -> &CeleryOptions {
        &self.connection.celery
    }

    /// Leaves a message in each place, unless the note is there.
    ///
    /// Where nobody answered it asks once more, by a new connection: the note makes that harmless, and tells.
    pub(in crate::target) async fn leave(&self, leave: &Leave<'_>) -> Result<Left, Failure> {
        let unanswered = match self.leave_once(leave).await {
            Err(Failure::Unanswered(why)) => Failure::Unanswered(why),
            known => return known,
        };
        self.leave_once(leave).await.map(|_| Left::Now).map_err(|_| unanswered)
    }

    async fn leave_once(&self, leave: &Leave<'_>) -> Result<Left, Failure> {
        let mut script = LEAVE.key(leave.note);
        for place in leave.places {
            script.key(place);
        }
        script.arg(self.connection.remember_for.as_secs()).arg(match leave.how {
            How::PushLeft => "LPUSH",
            How::PushRight => "RPUSH",
            How::Publish => "PUBLISH",
            How::Add => "XADD",
        });
        for word in leave.what {
            script.arg(word);
        }
        let _room = self.room.acquire().await.expect("it is never closed");
        let (number, mut connection) = self.connected().await?;
        match script.invoke_async::<i64>(&mut connection).await {
            Ok(0) => Ok(Left::Before),
            Ok(_) => Ok(Left::Now),
            Err(error) => Err(self.failed(number, &error).await),
        }
    }

    /// The members of a set.
    pub(in crate::target) async fn members(&self, key: &str) -> Result<Vec<String>, Failure> {
        let mut ask = ::redis::pipe();
        ask.cmd("SMEMBERS").arg(key);
        self.ask::<(Vec<String>,)>(&ask).await.map(|(members,)| members)
    }

    /// What the server answers to commands that leave no message, and may be repeated.
    pub(in crate::target) async fn ask<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Failure> {
        let _room = self.room.acquire().await.expect("it is never closed");
        let (number, mut connection) = self.connected().await?;
        match commands.query_async(&mut connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(match self.failed(number, &error).await {
                // It changes nothing, so that it was not answered says nothing of the message.
                Failure::Unanswered(why) => Failure::Unreachable(why),
                other => other,
            }),
        }
    }

    /// The database that the connection is to.
    pub(in crate::target) fn database(&self) -> i64 {
        self.connection.url.path().trim_start_matches('/').parse().unwrap_or(0)
    }

    /// Whatever is published on the channels of a pattern from now on, by a connection of its own.
    pub(in crate::target) async fn listen(&self, pattern: &str) -> Result<PubSubStream, Failure> {
        let greeted = async {
            let client = self.client().await?;
            let unreachable = |error: RedisError| Failure::Unreachable(words(&error));
            let mut listener = client.get_async_pubsub().await.map_err(unreachable)?;
            listener.psubscribe(pattern).await.map_err(unreachable)?;
            Ok(listener.into_on_message())
        };
        let late = |_| Failure::Unreachable("it did not answer in time".to_owned());
        tokio::time::timeout(BROKER_CONNECT_TIMEOUT, greeted).await.map_err(late)?
    }

    async fn connected(&self) -> Result<(u64, MultiplexedConnection), Failure> {
        let asked_at = Instant::now();
        let mut open = self.open.lock().await;
        if let Some(current) = &open.current {
            return Ok(current.clone());
        }
        if let Some((at, why)) = &open.failed
            && *at >= asked_at
        {
            return Err(why.clone());
        }
        match self.connect().await {
            Ok(connection) => {
                open.opened += 1;
                open.failed = None;
                open.current = Some((open.opened, connection.clone()));
                Ok((open.opened, connection))
            }
            Err(why) => {
                open.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let client = self.client().await?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(BROKER_CONNECT_TIMEOUT))
            .set_response_timeout(Some(BROKER_ANSWER_TIMEOUT));
        // Words of the server are not repeated: some quote the command that they refuse, and this one was greeted with
        // a password.
        let failed = |error: &RedisError| match error.kind() {
            ErrorKind::Io => Failure::Unreachable(words(error)),
            ErrorKind::AuthenticationFailed => {
                Failure::Unreachable("it does not take the password".to_owned())
            }
            _ => Failure::Unreachable(format!("its greeting failed: {}", error.category())),
        };
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| failed(&error))?;
        LEAVE.load_async(&mut connection).await.map_err(|error| failed(&error))?;
        Ok(connection)
    }

    async fn client(&self) -> Result<Client, Failure> {
        let url = &self.connection.url;
        let unusable =
            |what: &str, why: &dyn std::fmt::Display| Failure::Unreachable(format!("{what}: {why}"));
        let host = self.connection.host().to_owned();
        let port = url.port().unwrap_or(6379);
        let address = match self.connection.is_tls() {
            false => ConnectionAddr::Tcp(host, port),
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let mut greeting = RedisConnectionInfo::default()
            .set_db(self.database())
            .set_lib_name("chronarch", env!("CARGO_PKG_VERSION"));
        if let Some(name) = self.connection.username() {
            greeting = greeting.set_username(name);
        }
        if let Some(secret) = password(&self.connection.password).await? {
            greeting = greeting.set_password(secret);
        }
        let info = address.into_connection_info().map_err(|why| unusable("url", &why.category()))?;
        let info = info.set_redis_settings(greeting);
        let client = match &self.connection.tls_ca {
            Some(path) => {
                let root = tokio::fs::read(path).await.map_err(|why| unusable("tls_ca", &why))?;
                let trusted = TlsCertificates { client_tls: None, root_cert: Some(root) };
                Client::build_with_tls(info, trusted)
            }
            None => Client::open(info),
        };
        client.map_err(|why| unusable("tls_ca", &why.category()))
    }

    /// Why a command failed. A connection that does not answer is not used again.
    async fn failed(&self, number: u64, error: &RedisError) -> Failure {
        if !error.is_io_error() && !error.is_unrecoverable_error() {
            return refused(error);
        }
        let mut open = self.open.lock().await;
        if open.current.as_ref().is_some_and(|(current, _)| *current == number) {
            open.current = None;
        }
        match error.is_connection_refusal() {
            true => Failure::Unreachable(words(error)),
            false => Failure::Unanswered(words(error)),
        }
    }
}

fn refused(error: &RedisError) -> Failure {
    let code = error.code().unwrap_or_default();
    let detail: String = error.detail().unwrap_or_default().chars().take(200).collect();
    // A server that starts, or follows another one, says so for a while.
    match code {
        "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY" | "TRYAGAIN" => {
            Failure::Unreachable(format!("{code} {detail}"))
        }
        _ => Failure::Refused(format!("{code} {detail}").trim().to_owned()),
    }
}

/// An I/O error in the words of the operating system.
fn words(error: &RedisError) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    std::error::Error::source(error).map_or_else(|| error.category().to_owned(), ToString::to_string)
}
