//! The connection to one NATS server, or to one of a cluster's.
//!
//! It is opened by whoever needs it first, and anew by whoever needs it after it broke; the others wait for that one
//! try and share what came of it, so a server that is down is asked once at a time, however much is due.
//!
//! `async-nats` would connect again by itself, and send by the new connection what was given to it meanwhile, however
//! old that was then. Here a client is used for as long as its first connection lasts. Once that broke, or something was
//! not answered by it, no further message is given to that client: so what it keeps is bounded by what is on its way
//! ([`BROKER_IN_FLIGHT`]), and is in doubt already. It tries each server once more, and ends.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::client::Request;
use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, RequestErrorKind, ServerAddr, ServerError,
};
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore, broadcast};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::super::broker::{
    BROKER_ANSWER_TIMEOUT, BROKER_CONNECT_TIMEOUT, BROKER_IN_FLIGHT, Failure, Health, Left, Sent,
    authorities, password,
};
use super::Message;
use crate::config::connections::Connection;

/// How often a silent server is asked whether it is there; three times in vain, and the connection is over.
pub const NATS_PING_INTERVAL: Duration = Duration::from_secs(10);
/// Refusals that are told at once to those that wait, at most; who misses his own is not answered.
const REFUSALS_MAX: usize = 64;
/// Words of a server, at most.
const WORDS_MAX: usize = 200;

/// Where JetStream says which streams there are, also those of a subject.
const STREAM_NAMES: &str = "$JS.API.STREAM.NAMES";

/// A connection that may be open.
pub(in crate::target) struct Link {
    connection: Connection,
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

/// A connection as long as it lasts.
struct Opened {
    client: Client,
    /// It broke.
    gone: CancellationToken,
    /// It owes an answer: what is on its way goes on, and no other message is given to it.
    retired: AtomicBool,
    /// What the server does not allow. It says so of a subject, and not in answer to a message.
    refusals: broadcast::Sender<Arc<str>>,
}

/// A question that is on its way. The client keeps a place for its answer, and has no way to give up: so when nobody waits
/// for it any more, whatever the reason, the client is left.
struct Asking<'a>(Option<&'a AtomicBool>);

impl Asking<'_> {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if let Some(retired) = self.0 {
            retired.store(true, Ordering::Relaxed);
        }
    }
}

/// What a stream answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    duplicate: bool,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    description: String,
    #[serde(default)]
    err_code: u64,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Link {
    pub(in crate::target) fn new(connection: Connection) -> Self {
        let health = Health::of(&connection);
        Self { connection, open: Mutex::default(), room: Semaphore::new(BROKER_IN_FLIGHT), health }
    }

    pub(in crate::target) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Leaves the message, and waits until a stream has said what became of it. From when one may have it without our
    /// knowing, `sent` says so.
    ///
    /// Where nobody answered it asks once more, by a new connection: the id of the message makes that harmless, and tells.
    /// Before that it asks whether there is a stream at all: whoever else listens to the subject gets the message with each
    /// attempt, and never answers.
    pub(super) async fn leave(&self, message: &Message, sent: &Sent) -> Result<Left, Failure> {
        let unanswered = match self.leave_once(message, sent).await {
            Err(Failure::Unanswered(why)) => Failure::Unanswered(why),
            known => return known,
        };
        if self.has_stream(&message.subject).await == Some(false) {
            let subject = &message.subject;
            let why = format!(
                "no stream takes the subject {subject:?}, and who else listens to it does not answer"
            );
            return Err(Failure::Unroutable(why));
        }
        self.leave_once(message, sent).await.map(|_| Left::Now).map_err(|_| unanswered)
    }

    async fn leave_once(&self, message: &Message, sent: &Sent) -> Result<Left, Failure> {
        let _room = self.room.acquire().await.expect("it is never closed");
        self.connected().await?.leave(message, sent).await
    }

    /// Whether a stream takes the subject; None: nobody says.
    async fn has_stream(&self, subject: &str) -> Option<bool> {
        let _room = self.room.acquire().await.expect("it is never closed");
        self.connected().await.ok()?.has_stream(subject).await
    }

    async fn connected(&self) -> Result<Arc<Opened>, Failure> {
        let asked_at = Instant::now();
        let mut open = self.open.lock().await;
        let is_left = |current: &mut Arc<Opened>| {
            current.gone.is_cancelled() || current.retired.load(Ordering::Relaxed)
        };
        if let Some(current) = open.current.take_if(is_left)
            && current.gone.is_cancelled()
        {
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
        let servers = u32::try_from(self.connection.servers.len()).unwrap_or(u32::MAX);
        match timeout(BROKER_CONNECT_TIMEOUT * servers, self.connect()).await {
            Ok(Ok(opened)) => {
                self.health.works();
                open.failed = None;
                Ok(Arc::clone(open.current.insert(Arc::new(opened))))
            }
            failed => {
                let why = match failed {
                    Ok(Err(why)) => why,
                    Ok(Ok(_)) | Err(_) => Failure::Unreachable(
                        "it did not answer in time, or not as a NATS server does".to_owned(),
                    ),
                };
                self.health.fails(&why);
                open.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    async fn connect(&self) -> Result<Opened, Failure> {
        let servers = self.servers()?;
        let gone = CancellationToken::new();
        let (refusals, _) = broadcast::channel(REFUSALS_MAX);
        let (ends, refuses) = (gone.clone(), refusals.clone());
        let options = self
            .greeting()
            .await?
            .name("chronarch")
            .connection_timeout(BROKER_CONNECT_TIMEOUT)
            .request_timeout(Some(BROKER_ANSWER_TIMEOUT))
            .ping_interval(NATS_PING_INTERVAL)
            .client_capacity(BROKER_IN_FLIGHT)
            .max_reconnects(servers.len())
            .ignore_discovered_servers()
            .event_callback(move |event| {
                let (ends, refuses) = (ends.clone(), refuses.clone());
                async move {
                    match event {
                        Event::Disconnected | Event::Closed => ends.cancel(),
                        // Nobody may be waiting.
                        Event::ServerError(ServerError::Other(words)) => drop(refuses.send(words.into())),
                        _ => {}
                    }
                }
            });
        let client = options.connect(servers).await.map_err(|error| match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                Failure::Unreachable("it does not take the password, token or credentials".to_owned())
            }
            _ => Failure::Unreachable(short(&error)),
        })?;
        Ok(Opened { client, gone, retired: AtomicBool::new(false), refusals })
    }

    /// Who asks, and how the server is told from others.
    async fn greeting(&self) -> Result<ConnectOptions, Failure> {
        let it = &self.connection;
        let mut options = ConnectOptions::new();
        if let Some(secret) = password("", &it.password).await? {
            options = match it.username() {
                Some(name) => options.user_and_password(name, secret),
                None => options.token(secret),
            };
        }
        if let Some(path) = &it.creds_file {
            let unusable =
                |why: &dyn Display| Failure::Unreachable(format!("creds_file: {}: {why}", path.display()));
            let text = tokio::fs::read_to_string(path).await.map_err(|why| unusable(&why))?;
            options = options
                .credentials(&text)
                .map_err(|_| unusable(&"holds no user's JWT and seed, as `nsc` writes them"))?;
        }
        if let Some(path) = &it.tls_ca {
            authorities(path).await?;
            options = options.add_root_certificates(path.clone());
        }
        Ok(options.require_tls(it.is_tls()))
    }

    fn servers(&self) -> Result<Vec<ServerAddr>, Failure> {
        let scheme = self.connection.url.scheme();
        let address = |server: &crate::config::connections::Server| {
            let host = match server.host.contains(':') {
                true => format!("[{}]", server.host),
                false => server.host.clone(),
            };
            let port = server.port.unwrap_or_else(|| self.connection.usual_port());
            format!("{scheme}://{host}:{port}")
                .parse()
                .map_err(|why| Failure::Unreachable(format!("url: {why}")))
        };
        self.connection.servers.iter().map(address).collect()
    }
}

impl Opened {
    async fn leave(&self, message: &Message, sent: &Sent) -> Result<Left, Failure> {
        let request = Request::new().headers(message.headers.clone()).payload(message.payload.clone());
        let refusals = self.refusals.subscribe();
        sent.begins();
        let asking = Asking(Some(&self.retired));
        let answer = tokio::select! {
            biased;
            answer = self.client.send_request(message.subject.clone(), request) => answer,
            words = refused(&message.subject, refusals) => return Err(Failure::Refused(words)),
            () = self.gone.cancelled() => {
                return Err(Failure::Unanswered("the connection broke".to_owned()));
            }
        };
        if !answer.as_ref().is_err_and(|error| error.kind() == RequestErrorKind::TimedOut) {
            asking.answered();
        }
        match answer {
            Ok(answer) => read(&message.subject, &answer.payload),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => {
                    Failure::Unroutable(format!("no stream takes the subject {:?}", message.subject))
                }
                RequestErrorKind::MaxPayloadExceeded => {
                    let most = self.client.server_info().max_payload;
                    let bytes = message.payload.len();
                    let why = format!(
                        "a payload of {bytes} bytes, with its headers, is more than the server takes ({most})"
                    );
                    Failure::Invalid(why)
                }
                RequestErrorKind::InvalidSubject => {
                    Failure::Invalid(format!("subject: {:?} is none", message.subject))
                }
                RequestErrorKind::TimedOut => {
                    Failure::Unanswered("it was not acknowledged in time".to_owned())
                }
                RequestErrorKind::Other => Failure::Unanswered("the connection broke".to_owned()),
            }),
        }
    }
}

/// How many streams there are. Where that was not to be had, there is an error beside a zero.
#[derive(Deserialize)]
struct Streams {
    total: u64,
    error: Option<Refusal>,
}

impl Opened {
    /// Asks JetStream which streams take the subject; None: it does not say, or the account may not ask.
    async fn has_stream(&self, subject: &str) -> Option<bool> {
        let question = serde_json::json!({ "subject": subject }).to_string();
        let request = Request::new().payload(question.into()).timeout(Some(BROKER_CONNECT_TIMEOUT));
        let refusals = self.refusals.subscribe();
        let asking = Asking(Some(&self.retired));
        let answer = tokio::select! {
            biased;
            answer = self.client.send_request(STREAM_NAMES, request) => answer,
            _ = refused(STREAM_NAMES, refusals) => return None,
            () = self.gone.cancelled() => return None,
        };
        if !answer.as_ref().is_err_and(|error| error.kind() == RequestErrorKind::TimedOut) {
            asking.answered();
        }
        let streams: Streams = serde_json::from_slice(&answer.ok()?.payload).ok()?;
        streams.error.is_none().then_some(streams.total > 0)
    }
}

/// What became of a message, as the one says who took it.
fn read(subject: &str, answer: &[u8]) -> Result<Left, Failure> {
    let answer = serde_json::from_slice::<Answer>(answer).ok();
    match answer {
        Some(Answer { error: Some(Refusal { description, err_code }), .. }) => {
            Err(Failure::Refused(format!("{} ({err_code})", short(&description))))
        }
        Some(Answer { stream, duplicate, error: None }) if !stream.is_empty() => {
            Ok(if duplicate { Left::Before } else { Left::Now })
        }
        // Any subscriber can answer, and keeps nothing.
        Some(_) | None => {
            let why = format!("what answers for the subject {subject:?} is no stream");
            Err(Failure::Unroutable(why))
        }
    }
}

/// The server's words, once it does not allow the subject.
async fn refused(subject: &str, mut refusals: broadcast::Receiver<Arc<str>>) -> String {
    let named = format!("\"{subject}\"");
    loop {
        match refusals.recv().await {
            Ok(words) if words.contains(&named) => return short(&words),
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            // The connection has its end first.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn short(words: &impl ToString) -> String {
    words.to_string().chars().take(WORDS_MAX).collect()
}
