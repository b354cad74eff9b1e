//! The target of every job of a bench: an HTTP server inside the bench process that notes who called
//! when, and answers 200 with nothing.
//!
//! It does as little as it can for each request, for what it uses is taken from the nodes on the same
//! machine: headers are read in place, and a fixed-size record is put into a list. The list is behind a
//! lock that is held for that alone, never across an await. Times are those of the one wall clock of the
//! machine, which the nodes read too, in whole milliseconds.
//!
//! At [`ARRIVALS_MAX`] nothing more is noted and the bench fails; at [`CONNECTIONS_MAX`] a new connection
//! waits until another one ends.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::state::run::RunId;
use crate::state::time::Timestamp;

/// Requests that are noted, at 48 bytes each.
pub(super) const ARRIVALS_MAX: usize = 4_000_000;
/// Connections at the same time; each node has at most one for each attempt that it carries out.
const CONNECTIONS_MAX: usize = 8_192;
/// Wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// The number at the end of the job's name.
    pub(super) job: u32,
    pub(super) scheduled_at: Timestamp,
    pub(super) run: RunId,
    /// From 1.
    pub(super) attempt: u32,
    /// When it arrived.
    pub(super) at: Timestamp,
}

impl Arrival {
    /// Reads what a target is told; `None` when anything of it is missing or malformed.
    fn read(headers: &HeaderMap, at: Timestamp) -> Option<Self> {
        let text = |name| headers.get(name)?.to_str().ok();
        let (_, number) = text("chronarch-job")?.rsplit_once('-')?;
        Some(Self {
            job: number.parse().ok()?,
            scheduled_at: text("chronarch-scheduled-at")?.parse().ok()?,
            run: text("chronarch-run-id")?.parse().ok()?,
            attempt: text("chronarch-attempt")?.parse().ok()?,
            at,
        })
    }
}

/// What has arrived.
#[derive(Debug, Default)]
struct Ledger {
    arrivals: Vec<Arrival>,
    unreadable: usize,
    /// Requests beyond [`ARRIVALS_MAX`].
    beyond: usize,
}

#[derive(Debug)]
struct Book {
    clock: Clock,
    ledger: Mutex<Ledger>,
    changed: Notify,
}

impl Book {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A list to which something was added is whole, whoever panicked elsewhere.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, headers: &HeaderMap) {
        let arrival = Arrival::read(headers, self.clock.now());
        {
            let mut ledger = self.ledger();
            match arrival {
                None => ledger.unreadable += 1,
                Some(_) if ledger.arrivals.len() >= ARRIVALS_MAX => ledger.beyond += 1,
                Some(arrival) => ledger.arrivals.push(arrival),
            }
        }
        self.changed.notify_waiters();
    }
}

/// The server; dropping it ends it with all its connections.
#[derive(Debug)]
pub(super) struct Receiver {
    address: SocketAddr,
    book: Arc<Book>,
    /// Holds the accepting task, which is aborted with it.
    _serving: JoinSet<()>,
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// What the system says about the port.
    pub(super) async fn listen(clock: Clock) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let book = Arc::new(Book { clock, ledger: Mutex::default(), changed: Notify::new() });
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&book)));
        Ok(Self { address, book, _serving: serving })
    }

    /// What jobs call.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// How many requests have been noted; a place to look from.
    pub(super) fn mark(&self) -> usize {
        self.book.ledger().arrivals.len()
    }

    /// Requests that did not say what a target must be told.
    pub(super) fn unreadable(&self) -> usize {
        self.book.ledger().unreadable
    }

    /// Requests that came when [`ARRIVALS_MAX`] had been noted.
    pub(super) fn beyond(&self) -> usize {
        self.book.ledger().beyond
    }

    /// Shows `look` the requests from `mark` on.
    pub(super) fn look<T>(&self, mark: usize, look: impl FnOnce(&[Arrival]) -> T) -> T {
        look(self.book.ledger().arrivals.get(mark..).unwrap_or_default())
    }

    /// Shows `look` each request from `mark` on once, in batches, until it has found what it looks for;
    /// `None` when it has not after `limit`.
    pub(super) async fn wait<T>(
        &self,
        mark: usize,
        limit: Duration,
        mut look: impl FnMut(&[Arrival]) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut mark = mark;
        loop {
            let mut changed = std::pin::pin!(self.book.changed.notified());
            // What arrives from here on wakes us, so nothing is missed between the look and the wait.
            changed.as_mut().enable();
            let found = self.look(mark, |new| {
                mark += new.len();
                look(new)
            });
            if found.is_some() {
                return found;
            }
            tokio::time::timeout_at(deadline, changed).await.ok()?;
        }
    }
}

async fn accept(listener: TcpListener, book: Arc<Book>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&book)));
                }
                // The caller has gone again, or the files have run out, which ends when connections do.
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, book: Arc<Book>) {
    // Without it answers are slower and nothing else.
    stream.set_nodelay(true).ok();
    let service = service_fn(|request: Request<Incoming>| {
        book.note(request.headers());
        std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        // A node that was killed leaves its connections broken.
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn told(job: &str, attempt: u32) -> String {
        format!(
            "GET / HTTP/1.1\r\nhost: x\r\nchronarch-job: {job}\r\nchronarch-run-id: 4096-1774746000000\r\n\
             chronarch-scheduled-at: 2026-03-29T01:00:00.000Z\r\nchronarch-attempt: {attempt}\r\n\r\n"
        )
    }

    async fn receiver() -> (Receiver, TcpStream) {
        let clock = Clock::new(|| Timestamp::from_millis(1_774_746_000_012), 1);
        let receiver = Receiver::listen(clock).await.expect("a port");
        let stream = TcpStream::connect(receiver.address).await.expect("a connection");
        (receiver, stream)
    }

    #[tokio::test]
    async fn every_request_of_a_connection_is_noted_and_answered() {
        let (receiver, mut stream) = receiver().await;
        for attempt in 1..=2 {
            stream.write_all(told("fire-000017", attempt).as_bytes()).await.expect("written");
            let mut answer = [0; 15];
            stream.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            let enough = attempt as usize;
            receiver.wait(enough - 1, LIMIT, |new| new.first().copied()).await.expect("noted");
            // The rest of the answer must not be taken for the next one.
            let mut rest = [0; 512];
            let _ = stream.read(&mut rest).await.expect("the headers");
        }
        let attempts = receiver.look(0, |all| all.iter().map(|one| one.attempt).collect::<Vec<_>>());
        assert_eq!(attempts, [1, 2]);
        let first = receiver.look(0, |all| all[0]);
        assert_eq!((first.job, first.scheduled_at.millis()), (17, 1_774_746_000_000));
        assert_eq!(
            (first.run.to_string().as_str(), first.at.millis()),
            ("4096-1774746000000", 1_774_746_000_012)
        );
    }

    #[tokio::test]
    async fn a_request_that_says_too_little_is_counted_apart() {
        let (receiver, mut stream) = receiver().await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
        stream.write_all(told("nonumber", 1).as_bytes()).await.expect("written");
        stream.write_all(told("fire-1", 1).as_bytes()).await.expect("written");
        receiver.wait(0, LIMIT, |new| new.first().copied()).await.expect("noted");
        assert_eq!((receiver.unreadable(), receiver.mark(), receiver.beyond()), (2, 1, 0));
    }

    #[tokio::test]
    async fn waiting_ends_at_its_limit() {
        let (receiver, _stream) = receiver().await;
        assert_eq!(receiver.wait(0, Duration::from_millis(1), |new| new.first().copied()).await, None);
    }
}
