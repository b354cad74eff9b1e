//! The connection to one Redis server.
//!
//! It is opened by whoever needs it first, and anew by whoever needs it after it broke; the others wait for that one
//! try and share what came of it, so a server that is down is asked once at a time, however much is due.
//!
//! Where it goes to is found each time it is opened (`dial`). So a server that answers that it is no master, or none any
//! more, is left: with sentinels the new one is found, and behind a name that moved too. Sentinels also say so by themselves
//! (`moves`), before the server knows.

use std::sync::{Arc, LazyLock};

use ::redis::aio::MultiplexedConnection;
use ::redis::{FromRedisValue, Msg, Pipeline, RedisError, Script};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::super::broker::{BROKER_IN_FLIGHT, Failure, Health, Left};
use super::dial::{Dialer, config, patience};
use super::greeting::{greeted, words};
use super::moves::Moves;
use crate::config::connections::{CeleryOptions, Connection};

static LEAVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("leave.lua")));

/// A connection that may be open.
pub(in crate::target) struct Link {
    dialer: Arc<Dialer>,
    open: Mutex<Open>,
    room: Semaphore,
    health: Health,
}

/// What is published, until the connection breaks or the server is no master any more.
pub(in crate::target) type Listening = BoxStream<'static, Msg>;

/// A connection that is open.
#[derive(Clone)]
struct Opened {
    /// By which the one that broke is told from the one after it.
    number: u64,
    connection: MultiplexedConnection,
    /// What sentinels say of its server, where there are some.
    moves: Option<Arc<Moves>>,
}

impl Opened {
    /// Whether what its server takes is kept, as far as is known.
    fn is_master(&self) -> bool {
        self.moves.as_ref().is_none_or(|moves| moves.are_none())
    }
}

#[derive(Default)]
struct Open {
    current: Option<Opened>,
    opened: u64,
    /// When opening it last failed, and why.
    failed: Option<(Instant, Failure)>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("connection", &self.dialer.connection).finish_non_exhaustive()
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
        let health = Health::of(&connection);
        let dialer = Arc::new(Dialer::new(connection));
        Self { dialer, open: Mutex::default(), room: Semaphore::new(BROKER_IN_FLIGHT), health }
    }

    pub(in crate::target) fn connection(&self) -> &Connection {
        &self.dialer.connection
    }

    /// What a Celery app says of this broker.
    pub(in crate::target) fn celery(&self) -> &CeleryOptions {
        &self.dialer.connection.celery
    }

    /// Leaves a message in each place, unless the note is there.
    ///
    /// Where nobody answered, or one who is no master (any more), it asks once more, by a new connection: the note makes that
    /// harmless, and tells.
    pub(in crate::target) async fn leave(&self, leave: &Leave<'_>) -> Result<Left, Failure> {
        match self.leave_once(leave).await {
            Err((Failure::Unanswered(why), _)) => {
                let again = self.leave_once(leave).await;
                again.map(|_| Left::Now).map_err(|_| Failure::Unanswered(why))
            }
            Err((_, Elsewhere(true))) => self.leave_once(leave).await.map_err(|(why, _)| why),
            known => known.map_err(|(why, _)| why),
        }
    }

    async fn leave_once(&self, leave: &Leave<'_>) -> Result<Left, (Failure, Elsewhere)> {
        let mut script = LEAVE.key(leave.note);
        for place in leave.places {
            script.key(place);
        }
        script.arg(self.dialer.connection.remember_for.as_secs()).arg(match leave.how {
            How::PushLeft => "LPUSH",
            How::PushRight => "RPUSH",
            How::Publish => "PUBLISH",
            How::Add => "XADD",
        });
        for word in leave.what {
            script.arg(word);
        }
        let _room = self.room.acquire().await.expect("it is never closed");
        let mut opened = self.connected().await.map_err(|why| (why, Elsewhere(false)))?;
        match script.invoke_async::<i64>(&mut opened.connection).await {
            Ok(_) if !opened.is_master() => {
                let why = "the server that took it has been replaced, and the next one was not reached";
                Err((Failure::Unanswered(why.to_owned()), Elsewhere(false)))
            }
            Ok(left) => {
                self.health.works();
                Ok(if left == 0 { Left::Before } else { Left::Now })
            }
            Err(error) => Err((self.failed(opened.number, &error).await, Elsewhere(is_no_master(&error)))),
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
        let mut opened = self.connected().await?;
        match commands.query_async(&mut opened.connection).await {
            Ok(answer) => {
                self.health.works();
                Ok(answer)
            }
            Err(error) => Err(match self.failed(opened.number, &error).await {
                // It changes nothing, so that it was not answered says nothing of the message.
                Failure::Unanswered(why) => Failure::Unreachable(why),
                other => other,
            }),
        }
    }

    /// The database that the connection is to.
    pub(in crate::target) fn database(&self) -> i64 {
        self.dialer.connection.database()
    }

    /// Whatever is published on the channels of a pattern from now on, by a connection of its own.
    pub(in crate::target) async fn listen(&self, pattern: &str) -> Result<Listening, Failure> {
        let greeted = async {
            let found = self.dialer.find().await?;
            let unreachable = |error: RedisError| Failure::Unreachable(words(&error));
            let mut listener = found.client.get_async_pubsub().await.map_err(unreachable)?;
            listener.psubscribe(pattern).await.map_err(|error| match error.kind() {
                // The account may not.
                ::redis::ErrorKind::Server(_) => refused(&error),
                _ => unreachable(error),
            })?;
            let messages = listener.into_on_message();
            Ok(match found.named.map(|named| Moves::of(&self.dialer, named)) {
                Some(moves) => messages.take_until(moves.switched()).boxed(),
                None => messages.boxed(),
            })
        };
        let late = |_| Failure::Unreachable("it did not answer in time".to_owned());
        tokio::time::timeout(patience(&self.dialer.connection), greeted).await.map_err(late)?
    }

    async fn connected(&self) -> Result<Opened, Failure> {
        let asked_at = Instant::now();
        let mut open = self.open.lock().await;
        if let Some(current) = &open.current {
            match &current.moves {
                Some(moves) if moves.leave().await => {
                    let connection = &self.dialer.connection.name;
                    tracing::info!(connection, "sentinels make another server the master; it is looked for");
                    open.current = None;
                }
                Some(_) | None => return Ok(current.clone()),
            }
        }
        if let Some((at, why)) = &open.failed
            && *at >= asked_at
        {
            return Err(why.clone());
        }
        match self.connect().await {
            Ok((connection, moves)) => {
                open.opened += 1;
                open.failed = None;
                let number = open.opened;
                Ok(open.current.insert(Opened { number, connection, moves }).clone())
            }
            Err(why) => {
                self.health.fails(&why);
                open.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, Option<Arc<Moves>>), Failure> {
        let found = self.dialer.find().await?;
        let unanswered = |error| greeted(&self.dialer.connection, &error);
        let mut connection =
            found.client.get_multiplexed_async_connection_with_config(&config()).await.map_err(unanswered)?;
        LEAVE.load_async(&mut connection).await.map_err(unanswered)?;
        let moves = found.named.map(|named| Arc::new(Moves::of(&self.dialer, named)));
        Ok((connection, moves))
    }

    /// Why a command failed. A connection that does not answer is not used again, nor one to a server that is no master.
    async fn failed(&self, number: u64, error: &RedisError) -> Failure {
        let answered = !error.is_io_error() && !error.is_unrecoverable_error();
        if answered && !is_no_master(error) {
            return refused(error);
        }
        let failure = match (answered, error.is_connection_refusal()) {
            (true, _) => refused(error),
            (false, true) => Failure::Unreachable(words(error)),
            (false, false) => Failure::Unanswered(words(error)),
        };
        let mut open = self.open.lock().await;
        if open.current.as_ref().is_some_and(|current| current.number == number) {
            open.current = None;
            self.health.fails(&failure);
        }
        failure
    }
}

/// Whether a new connection may find a server that takes what this one did not.
struct Elsewhere(bool);

/// The server follows another one, starts, or lacks the replicas without which it takes nothing: it may have been replaced.
fn is_no_master(error: &RedisError) -> bool {
    matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "NOREPLICAS"))
}

fn refused(error: &RedisError) -> Failure {
    // Of several commands the first that was refused has the words.
    let said = error.clone().into_server_errors();
    let first = said.as_ref().and_then(|errors| errors.first()).map(|(_, error)| error);
    let code = first.map_or_else(|| error.code().unwrap_or_default(), |first| first.code());
    let detail = first.map_or_else(|| error.detail(), |first| first.details()).unwrap_or_default();
    let detail: String = detail.chars().take(200).collect();
    // A server that starts, or follows another one, says so for a while.
    match code {
        "LOADING" | "READONLY" | "MASTERDOWN" | "NOREPLICAS" | "CLUSTERDOWN" | "BUSY" | "TRYAGAIN" => {
            Failure::Unreachable(format!("{code} {detail}"))
        }
        _ => Failure::Refused(format!("{code} {detail}").trim().to_owned()),
    }
}
