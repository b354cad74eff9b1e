//! The target of every job: a server in the hub that keeps an effect log of its own, and fails, hangs, or breaks the
//! connection after it has done the work, by the seed.
//!
//! The path says how a job's target behaves: `/GROUP/FAIL/HANG/RESET/MS`, of which the three in the middle are
//! shares in a hundred and the last is how long a call takes. A group whose target is sick fails always.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::chance::Chance;
use super::journal::Journal;
use super::net::{HUB, TARGET_PORT};

/// A call that hangs does so for this long: longer than any job's timeout.
const HANGS: Duration = Duration::from_secs(20);

/// The server, which ends when this is dropped.
pub(crate) struct Receiver {
    sick: Arc<Mutex<BTreeSet<String>>>,
    _serving: JoinSet<()>,
}

/// What a call's connection needs.
#[derive(Clone)]
struct Desk {
    journal: Journal,
    seed: u64,
    sick: Arc<Mutex<BTreeSet<String>>>,
}

/// Why a connection is broken off.
#[derive(Debug, thiserror::Error)]
#[error("broken off after the work was done")]
struct BrokenOff;

impl Receiver {
    /// Listens in the hub.
    pub(crate) async fn listen(journal: Journal, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((HUB, TARGET_PORT)).await?;
        let sick = Arc::<Mutex<BTreeSet<String>>>::default();
        let desk = Desk { journal, seed, sick: sick.clone() };
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, desk));
        Ok(Self { sick, _serving: serving })
    }

    /// Lets the target of a group fail, or be well.
    pub(crate) fn set_sick(&self, group: &str, is_sick: bool) {
        let mut sick = self.sick.lock().unwrap_or_else(PoisonError::into_inner);
        if is_sick {
            sick.insert(group.to_owned());
        } else {
            sick.remove(group);
        }
    }
}

async fn accept(listener: TcpListener, desk: Desk) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(serve(stream, desk.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, desk: Desk) {
    stream.set_nodelay(true).ok();
    let service = service_fn(move |request: Request<Incoming>| {
        let desk = desk.clone();
        async move { desk.call(request.uri().path(), request.headers()).await }
    });
    // A node that was killed leaves its connections broken.
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

/// Notes how a call ended; one that is dropped before was cut by the caller.
struct Ending<'a> {
    journal: &'a Journal,
    line: serde_json::Value,
    answer: &'static str,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.line["phase"] = json!("end");
        self.line["at"] = json!(self.journal.now());
        self.line["answer"] = json!(self.answer);
        self.journal.write(&self.line);
    }
}

impl Desk {
    async fn call(&self, path: &str, headers: &HeaderMap) -> Result<Response<String>, BrokenOff> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let number = |name: &str| text(name).parse::<u64>().unwrap_or(0);
        let (attempt, fence) = (number("chronarch-attempt"), number("chronarch-fence"));
        let line = json!({
            "at": self.journal.now(), "phase": "begin", "job": text("chronarch-job"),
            "run_id": text("chronarch-run-id"), "scheduled_at": text("chronarch-scheduled-at"),
            "attempt": attempt, "fence": fence,
        });
        self.journal.write(&line);
        let mut ending = Ending { journal: &self.journal, line, answer: "cut" };
        let mut parts = path.trim_start_matches('/').split('/');
        let group = parts.next().unwrap_or_default();
        let shares: Vec<u64> = parts.map(|part| part.parse().unwrap_or(0)).collect();
        let [fails, hangs, resets, ms] = shares[..] else {
            ending.answer = "failed";
            return Ok(answer(StatusCode::NOT_FOUND));
        };
        // By the fence: what an attempt meets does not depend on when, or on which node.
        let mut chance = Chance::new(self.seed ^ fence);
        let draw = chance.between(0, 99);
        tokio::time::sleep(Duration::from_millis(chance.between(0, 2 * ms))).await;
        let is_sick = self.sick.lock().unwrap_or_else(PoisonError::into_inner).contains(group);
        if is_sick || draw < fails {
            ending.answer = "failed";
            return Ok(answer(StatusCode::SERVICE_UNAVAILABLE));
        }
        if draw < fails + hangs {
            tokio::time::sleep(HANGS).await;
        } else if draw < fails + hangs + resets {
            ending.answer = "reset";
            return Err(BrokenOff);
        }
        ending.answer = "ok";
        Ok(answer(StatusCode::OK))
    }
}

fn answer(status: StatusCode) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = status;
    response
}
