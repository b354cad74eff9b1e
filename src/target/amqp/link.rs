//! The connection to one RabbitMQ server.
//!
//! It is opened by whoever needs it first, and anew by whoever needs it after it broke; the others wait for that one
//! try and share what came of it, so a server that is down is asked once at a time, however much is due.
//!
//! Channels are kept and used again. Which messages share one, and what becomes of each, is in `lanes`.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use async_rs::TokioRuntime;
use futures::StreamExt;
use lapin::options::ConfirmSelectOptions;
use lapin::protocol::{AMQPError, AMQPErrorKind};
use lapin::tcp::{AMQPUriTcpExt, RustlsConnectorConfig, TLSConfig};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind, Event};
use tokio::sync::{Mutex, OnceCell, Semaphore};
use tokio::time::{Instant, timeout};

use super::super::broker::{
    BROKER_ANSWER_TIMEOUT, BROKER_CONNECT_TIMEOUT, BROKER_IN_FLIGHT, Failure, Health, Left, Sent,
    authorities, password,
};
use super::Message;
use super::lanes::{self, Lanes, Way};
use crate::config::connections;

/// Messages of a connection on their way, and channels, at most; further attempts wait. A channel costs the server about
/// 30 KiB, and a few hundred messages are enough to keep its disk busy.
pub const AMQP_CHANNELS_MAX: u16 = 512;
const _: () = assert!(AMQP_CHANNELS_MAX as usize <= BROKER_IN_FLIGHT);
/// How often the two ends let each other know that they are there; twice as long in silence, and the connection is over.
pub const AMQP_HEARTBEAT: Duration = Duration::from_secs(10);
/// What of a frame the properties may not take, for its head and the fields with a bound of their own.
const FRAME_RESERVE_BYTES: usize = 4 * 1024;

/// A connection that may be open.
pub(in crate::target) struct Link {
    connection: connections::Connection,
    open: Mutex<Open>,
    room: Semaphore,
    health: Health,
}

#[derive(Default)]
struct Open {
    current: Option<Arc<Opened>>,
    /// When opening it last failed, and why.
    failed: Option<(Instant, Failure)>,
}

/// The socket of a connection that is being opened. `lapin` waits for a greeting for ever, with a thread of its own; when
/// nobody waits for the connection any more, the socket is shut, and the thread ends.
#[derive(Default)]
struct Dialed(Arc<StdMutex<Socket>>);

#[derive(Default)]
enum Socket {
    #[default]
    Absent,
    There(std::net::TcpStream),
    /// Nobody waits any more.
    Unwanted,
}

impl Dialed {
    fn set(&self, socket: Socket) -> Socket {
        std::mem::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), socket)
    }

    fn is_greeted(&self) {
        self.set(Socket::Absent);
    }

    /// The other end has taken the connection.
    fn is_there(&self) -> bool {
        matches!(*self.0.lock().unwrap_or_else(PoisonError::into_inner), Socket::There(_))
    }
}

impl Drop for Dialed {
    fn drop(&mut self) {
        if let Socket::There(socket) = self.set(Socket::Unwanted) {
            // It may be closed already.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Takes note of the socket, unless nobody waits for it any more.
fn note(place: &StdMutex<Socket>, socket: std::net::TcpStream) -> std::io::Result<()> {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    match *place {
        Socket::Unwanted => Err(std::io::ErrorKind::TimedOut.into()),
        Socket::Absent | Socket::There(_) => {
            *place = Socket::There(socket);
            Ok(())
        }
    }
}

/// A connection as long as it lasts.
pub(super) struct Opened {
    pub(super) connection: Connection,
    /// Channels without a message on its way.
    idle: StdMutex<Vec<Channel>>,
    /// Why the server takes nothing just now.
    blocked: Arc<StdMutex<String>>,
    /// What of it is too long for a frame.
    headers_bytes_max: usize,
    /// The queue of ended tasks is there.
    pub(super) has_ends: OnceCell<()>,
    pub(super) lanes: Lanes,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Link {
    pub(in crate::target) fn new(connection: connections::Connection) -> Self {
        let health = Health::of(&connection);
        Self { connection, open: Mutex::default(), room: Semaphore::new(AMQP_CHANNELS_MAX.into()), health }
    }

    pub(in crate::target) fn connection(&self) -> &connections::Connection {
        &self.connection
    }

    /// Leaves the message, and waits until the server has said what became of it. From when it may have it without our
    /// knowing, `sent` says so.
    pub(in crate::target) async fn leave(&self, message: Message, sent: &Sent) -> Result<Left, Failure> {
        let _room = self.room.acquire().await.expect("it is never closed");
        let opened = self.connected().await?;
        if opened.connection.status().blocked() {
            return Err(Failure::Blocked(opened.blocked()));
        }
        let bytes = bytes_of(&message.properties);
        if bytes > opened.headers_bytes_max {
            let most = opened.headers_bytes_max;
            let why = format!("headers: {bytes} bytes are more than the server takes in a frame ({most})");
            return Err(Failure::Invalid(why));
        }
        match opened.lanes.way(&message).await {
            Way::Shared => lanes::share(&opened, message, sent).await,
            Way::Alone(trial) => {
                let channel = opened.channel_in_time().await?;
                if !sent.begins() {
                    return Err(Failure::Unreachable("nobody waits for it any more".to_owned()));
                }
                let (end, is_clear) = lanes::publish_alone(&opened, &channel, message).await;
                if is_clear {
                    opened.put_back(channel);
                    trial.passes();
                }
                end
            }
        }
    }

    pub(super) async fn connected(&self) -> Result<Arc<Opened>, Failure> {
        let asked_at = Instant::now();
        let mut open = self.open.lock().await;
        if open.current.take_if(|current| !current.connection.status().connected()).is_some() {
            self.health.fails(&Failure::Unreachable("the connection broke".to_owned()));
        }
        if let Some(current) = &open.current {
            return Ok(Arc::clone(current));
        }
        if let Some((at, why)) = &open.failed
            && *at >= asked_at
        {
            return Err(why.clone());
        }
        let dialed = Dialed::default();
        match timeout(BROKER_CONNECT_TIMEOUT, self.connect(&dialed)).await {
            Ok(Ok(opened)) => {
                self.health.works();
                open.failed = None;
                Ok(Arc::clone(open.current.insert(Arc::new(opened))))
            }
            failed => {
                let why = match failed {
                    Ok(Err(why)) => why,
                    Ok(Ok(_)) | Err(_) => Failure::Unreachable(self.silence(&dialed).to_owned()),
                };
                self.health.fails(&why);
                open.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    /// What is told of a server that did not greet in time.
    fn silence(&self, dialed: &Dialed) -> &'static str {
        match (dialed.is_there(), self.connection.is_tls()) {
            (false, _) => "it did not answer in time",
            (true, false) => {
                "it took the connection and did not greet: is it RabbitMQ, at a port without TLS?"
            }
            (true, true) => "it took the connection and did not greet: is it RabbitMQ, at a port with TLS?",
        }
    }

    async fn connect(&self, dialed: &Dialed) -> Result<Opened, Failure> {
        let uri = self.uri().await?;
        let tls = match self.connection.is_tls() {
            true => Some(self.tls().await?),
            false => None,
        };
        let runtime = lapin::runtime::default_runtime().map_err(|error| unreachable(&error))?;
        let socket = Arc::clone(&dialed.0);
        let dial = async move |uri: AMQPUri, runtime: TokioRuntime| {
            // The greeting is as long as it is let; the dialing that it waits for ends here.
            let stream = timeout(BROKER_CONNECT_TIMEOUT, async {
                let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri };
                let stream = plain.connect_with_config_async(TLSConfig::default(), &runtime).await?;
                if let AsyncTcpStream::Plain(stream) = &stream {
                    note(&socket, stream.get_ref().as_fd().try_clone_to_owned()?.into())?;
                }
                match &tls {
                    Some(connector) => stream.into_rustls(connector, &plain.authority.host).await,
                    None => Ok(stream),
                }
            });
            Ok(stream.await.map_err(std::io::Error::from)??)
        };
        let properties = ConnectionProperties::default()
            .with_connection_name("chronarch".into())
            .with_client_property("product".into(), "chronarch".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let connection = Connection::connector(uri, runtime, dial, properties).await;
        let connection = connection.map_err(|error| unreachable(&error))?;
        dialed.is_greeted();
        let frame = usize::try_from(connection.configuration().frame_max()).unwrap_or(usize::MAX);
        let blocked = Arc::<StdMutex<String>>::default();
        let mut events = Box::pin(connection.events_listener());
        let (told, name) = (Arc::clone(&blocked), self.connection.name.clone());
        // It ends with the connection, which is the only one to send.
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Event::ConnectionBlocked(why) => {
                        tracing::warn!(connection = name, why, "a broker has an alarm and takes no messages");
                        *told.lock().unwrap_or_else(PoisonError::into_inner) = why;
                    }
                    Event::ConnectionUnblocked => {
                        tracing::info!(connection = name, "a broker takes messages again");
                    }
                    Event::Error(error) => tracing::debug!(%error, "a broker's connection or channel failed"),
                    _ => {}
                }
            }
        });
        let headers_bytes_max = frame.saturating_sub(FRAME_RESERVE_BYTES);
        let has_ends = OnceCell::new();
        let (idle, lanes) = (StdMutex::default(), Lanes::default());
        Ok(Opened { connection, idle, blocked, headers_bytes_max, has_ends, lanes })
    }

    async fn uri(&self) -> Result<AMQPUri, Failure> {
        let it = &self.connection;
        let secret = password("", &it.password).await?;
        // Whoever is named neither has the account that a RabbitMQ server comes with, as with every other client.
        let (username, secret) = match (it.username(), secret) {
            (None, None) => ("guest".to_owned(), "guest".to_owned()),
            (name, secret) => (name.unwrap_or_default(), secret.unwrap_or_default()),
        };
        let scheme = if it.is_tls() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP };
        Ok(AMQPUri {
            scheme,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo { username, password: secret },
                host: it.host().to_owned(),
                port: it.url.port().unwrap_or_else(|| it.usual_port()),
            },
            vhost: it.virtual_host(),
            query: AMQPQueryString {
                heartbeat: u16::try_from(AMQP_HEARTBEAT.as_secs()).ok(),
                ..AMQPQueryString::default()
            },
        })
    }

    /// The machine's authorities, or those that the connection names in their place.
    async fn tls(&self) -> Result<lapin::tcp::RustlsConnector, Failure> {
        let unusable = |why: &dyn std::fmt::Display| Failure::Unreachable(format!("tls: {why}"));
        let config = match &self.connection.tls_ca {
            Some(path) => {
                RustlsConnectorConfig::default().with_parsable_certificates(authorities(path).await?)
            }
            None => RustlsConnectorConfig::new_with_native_certs().map_err(|why| unusable(&why))?,
        };
        config.connector_with_no_client_auth().map_err(|why| unusable(&why))
    }
}

impl Opened {
    /// A channel that nobody else has.
    async fn channel(&self) -> Result<Channel, Failure> {
        while let Some(channel) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        let channel = self.connection.create_channel().await.map_err(|error| unreachable(&error))?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirms.map_err(|error| unreachable(&error))?;
        Ok(channel)
    }

    pub(super) async fn channel_in_time(&self) -> Result<Channel, Failure> {
        let channel = timeout(BROKER_ANSWER_TIMEOUT, self.channel()).await;
        channel.map_err(|_| Failure::Unreachable("it opened no channel in time".to_owned()))?
    }

    pub(super) fn put_back(&self, channel: Channel) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(channel);
    }

    fn blocked(&self) -> String {
        let why = self.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        let why: String = why.chars().take(200).collect();
        format!("the server takes no messages until its alarm is over: {why}")
    }

    /// Why nothing was heard of a message.
    pub(super) fn silence(&self) -> Failure {
        Failure::Unanswered(match self.connection.status().blocked() {
            true => self.blocked(),
            false => "it was not confirmed in time".to_owned(),
        })
    }
}

/// Why a message was not confirmed. A channel that the server closed is thought to have had this one message, which it
/// then did not take.
pub(in crate::target) fn failure(error: &lapin::Error) -> Failure {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(_) => Failure::Refused(words(error)),
            AMQPErrorKind::Hard(_) => Failure::Unanswered(words(error)),
        },
        _ => Failure::Unanswered(error.to_string()),
    }
}

/// Why there is no connection or channel.
pub(super) fn unreachable(error: &lapin::Error) -> Failure {
    Failure::Unreachable(match error.kind() {
        ErrorKind::ProtocolError(error) => words(error),
        ErrorKind::IOError(error) => error.to_string(),
        ErrorKind::ParsingError(_) => {
            "what answers does not speak AMQP; where it speaks TLS, the URL is to begin with amqps://"
                .to_owned()
        }
        _ => error.to_string(),
    })
}

/// The server's words.
fn words(error: &AMQPError) -> String {
    error.get_message().as_str().chars().take(200).collect()
}

/// About what the headers take in a frame, rather more than less.
fn bytes_of(properties: &BasicProperties) -> usize {
    use lapin::types::{AMQPValue, FieldTable};
    fn value(of: &AMQPValue) -> usize {
        match of {
            AMQPValue::LongString(text) => text.as_bytes().len() + 5,
            AMQPValue::FieldArray(values) => values.as_slice().iter().map(value).sum::<usize>() + 5,
            AMQPValue::FieldTable(values) => table(values) + 5,
            _ => 9,
        }
    }
    fn table(of: &FieldTable) -> usize {
        of.inner().iter().map(|(name, it)| name.as_str().len() + 1 + value(it)).sum()
    }
    properties.headers().as_ref().map_or(0, table)
}
