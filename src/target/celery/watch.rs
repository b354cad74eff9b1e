//! Watches the tasks that were left by one connection: how they end, and that those end which are to.
//!
//! The queue of `completion` is the source of truth: what lies there stays until the cluster has it in its log. Celery's
//! events tell what the queue cannot: the words of an exception, who ran the task, and that one was revoked, had expired,
//! or is registered nowhere. They are lost while nobody listens; then a failure has no words, and a task that no worker
//! runs ends with the time of its run.

mod amqp;
mod redis;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::super::broker::{Failure, Link};
use super::completion::{self, Done};
use crate::clock::Clock;

/// Ends that are told of at once, at most.
pub const TASKS_MAX: usize = 500;
/// How far into the queue is looked past what the cluster does not want yet.
const LOOKED_AT_MAX: usize = 10_000;
/// Events that are kept for tasks whose end has not been told, at most; the oldest are forgotten.
const HEARD_MAX: usize = 20_000;
/// How long a failure waits for its words.
const WORDS_WITHIN: Duration = Duration::from_millis(500);
/// How long an event is told again to a cluster that does not know the task: it may have been quicker than the word of
/// the worker that had left it.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// How often workers are asked to send events: those that come later have not heard.
const ASK_FOR_EVENTS_EVERY: Duration = Duration::from_secs(30);
/// How often listening to events is tried: before a Celery worker was there, RabbitMQ has no exchange for them, and a try
/// costs a channel.
const LISTEN_EVERY: Duration = Duration::from_secs(1);
/// How long such a request is worth hearing.
const REQUEST_LASTS: Duration = Duration::from_secs(60);
/// The words of an exception, at most.
const WORDS_BYTES: usize = super::super::ERROR_BYTES_MAX;
/// The name of a worker, at most: what the leader takes.
const NAME_BYTES: usize = 255;

/// The broker does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct WatchError(#[from] Failure);

/// How a task has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// Its run; empty where only the task is known.
    pub run_id: String,
    /// Which of the run's tasks.
    pub delivery: u32,
    /// What it is called.
    pub task_id: String,
    /// How it ended.
    pub succeeded: bool,
    /// The exception, or why it was not run.
    pub error: String,
    /// Who ran it; empty: nobody has said.
    pub by: String,
    /// Where it lies; None: it was heard.
    place: Option<Place>,
}

/// What was heard of a task.
#[derive(Clone, Debug, Default)]
struct Heard {
    by: String,
    /// It has ended badly: in what words, and since when that is known.
    failed: Option<(String, Instant)>,
    /// That was told.
    told: bool,
}

/// Watches the tasks of one connection.
pub struct TaskWatch {
    connection: String,
    side: Side,
    clock: Clock,
    asked_for_events: Option<Instant>,
    tried_to_listen: Option<Instant>,
    heard: HashMap<String, Heard>,
    /// In the order in which they were first heard of.
    order: VecDeque<String>,
    /// Failures without words, since when.
    wordless: HashMap<String, Instant>,
}

/// The kinds of brokers. Each says what lies in the queue and removes it, what events came since, and tells all workers
/// something.
#[derive(Debug)]
enum Side {
    Redis(redis::Redis),
    Amqp(Box<amqp::Amqp>),
}

/// By what a broker finds again what it has told of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A message of a list, whole: a list has no other name for it.
    Text(String),
    /// The number of a delivery.
    Number(u64),
}

/// Calls the same method of whichever side it is.
macro_rules! on {
    ($side:expr, $it:ident => $call:expr) => {
        match $side {
            Side::Redis($it) => $call,
            Side::Amqp($it) => $call,
        }
    };
}

impl std::fmt::Debug for TaskWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskWatch").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl TaskWatch {
    /// None: it carries no tasks.
    pub(in crate::target) fn new(connection: &str, link: &Link, clock: &Clock) -> Option<Self> {
        let side = match link {
            Link::Redis(link) => Side::Redis(redis::Redis::new(Arc::clone(link))),
            Link::Amqp(link) => Side::Amqp(Box::new(amqp::Amqp::new(Arc::clone(link)))),
            // Celery does not speak to it.
            Link::Nats(_) => return None,
        };
        Some(Self {
            connection: connection.to_owned(),
            side,
            clock: clock.clone(),
            asked_for_events: None,
            tried_to_listen: None,
            heard: HashMap::new(),
            order: VecDeque::new(),
            wordless: HashMap::new(),
        })
    }

    /// The name of the connection.
    #[must_use]
    pub fn connection(&self) -> &str {
        &self.connection
    }

    /// Another worker listens from here on: what is not told of is left to it.
    pub async fn rest(&mut self) {
        on!(&mut self.side, side => side.rest().await);
        self.asked_for_events = None;
        self.tried_to_listen = None;
        self.heard.clear();
        self.order.clear();
        self.wordless.clear();
    }

    /// Ends that are known and not forgotten, the oldest first, at most [`TASKS_MAX`]; past the first `later` of the
    /// queue, which the cluster does not want yet.
    ///
    /// # Errors
    /// [`WatchError`] where the broker does not answer.
    pub async fn look(&mut self, cluster: &str, later: usize) -> Result<Vec<TaskEnd>, WatchError> {
        let mut ended = self.look_at_events().await;
        let from = later.min(LOOKED_AT_MAX);
        let found = on!(&mut self.side, side => side.look(cluster, from, TASKS_MAX).await?);
        let now = Instant::now();
        let mut strange = Vec::new();
        for (place, body) in found {
            if ended.len() >= TASKS_MAX {
                break;
            }
            let Some(done) = body.as_ref().and_then(completion::read) else {
                strange.push(place);
                continue;
            };
            if self.has_words(&done, now) {
                ended.push(self.end(done, place));
            }
        }
        if !strange.is_empty() {
            tracing::warn!(
                connection = self.connection,
                count = strange.len(),
                "what is no message of ours is removed from the queue of ended tasks"
            );
            on!(&mut self.side, side => side.remove(cluster, &strange).await?);
        }
        Ok(ended)
    }

    /// The cluster has these in its log, or does not need them.
    ///
    /// # Errors
    /// [`WatchError`] where the broker does not answer.
    pub async fn forget(&mut self, cluster: &str, ended: &[TaskEnd]) -> Result<(), WatchError> {
        for end in ended {
            self.wordless.remove(&end.task_id);
            match (&end.place, self.heard.get_mut(&end.task_id)) {
                (Some(_), _) => {
                    self.heard.remove(&end.task_id);
                }
                (None, Some(heard)) => heard.told = true,
                (None, None) => {}
            }
        }
        let places: Vec<Place> = ended.iter().filter_map(|end| end.place.clone()).collect();
        if !places.is_empty() {
            on!(&mut self.side, side => side.remove(cluster, &places).await?);
        }
        Ok(())
    }

    /// Tells all workers not to run these tasks, and to stop them.
    ///
    /// # Errors
    /// [`WatchError`] where the broker does not answer.
    pub async fn revoke(&mut self, task_ids: &[String]) -> Result<(), WatchError> {
        if task_ids.is_empty() {
            return Ok(());
        }
        let arguments = json!({ "task_id": task_ids, "terminate": true, "signal": "SIGTERM" });
        self.broadcast("revoke", &arguments).await
    }

    /// Sees to it that workers find the queue, also with a server that has lost its memory.
    ///
    /// # Errors
    /// [`WatchError`] where the broker does not answer.
    pub async fn bind(&mut self, cluster: &str) -> Result<(), WatchError> {
        on!(&mut self.side, side => side.bind(cluster).await?);
        Ok(())
    }

    fn has_words(&mut self, done: &Done, now: Instant) -> bool {
        if done.succeeded
            || !on!(&self.side, side => side.hears())
            || self.heard.get(&done.task_id).is_some_and(|heard| heard.failed.is_some())
        {
            return true;
        }
        let since = *self.wordless.entry(done.task_id.clone()).or_insert(now);
        now.duration_since(since) >= WORDS_WITHIN
    }

    fn end(&self, done: Done, place: Place) -> TaskEnd {
        let heard = self.heard.get(&done.task_id).cloned().unwrap_or_default();
        let Done { run_id, delivery, task_id, succeeded } = done;
        let error = match succeeded {
            true => String::new(),
            false => heard.failed.map_or_else(|| "the task has failed".to_owned(), |(words, _)| words),
        };
        TaskEnd { run_id, delivery, task_id, succeeded, error, by: heard.by, place: Some(place) }
    }

    /// Takes in what was heard since, and says what of it is an end that no queue may tell.
    async fn look_at_events(&mut self) -> Vec<TaskEnd> {
        // Without them the queue still tells of all that ends by itself.
        let may_try = self.tried_to_listen.is_none_or(|at| at.elapsed() >= LISTEN_EVERY);
        if !on!(&self.side, side => side.hears()) && may_try {
            self.tried_to_listen = Some(Instant::now());
            if on!(&mut self.side, side => side.listen().await).is_ok() {
                self.asked_for_events = None;
            }
        }
        let is_time = self.asked_for_events.is_none_or(|at| at.elapsed() >= ASK_FOR_EVENTS_EVERY);
        if on!(&self.side, side => side.hears())
            && is_time
            && self.broadcast("enable_events", &json!({})).await.is_ok()
        {
            self.asked_for_events = Some(Instant::now());
        }
        let mut ended = Vec::new();
        while ended.len() < TASKS_MAX
            && let Some(body) = on!(&mut self.side, side => side.next_event())
        {
            ended.extend(self.hear(&body));
        }
        // What was told and not answered is told again.
        let known: HashSet<String> = ended.iter().map(|end: &TaskEnd| end.task_id.clone()).collect();
        let missing = self.order.iter().filter(|id| !known.contains(*id)).filter_map(|id| {
            let heard = self.heard.get(id).filter(|heard| !heard.told)?;
            let (words, since) = heard.failed.as_ref()?;
            (since.elapsed() < UNKNOWN_FOR).then(|| failed(id, words, &heard.by))
        });
        let missing: Vec<TaskEnd> = missing.take(TASKS_MAX.saturating_sub(ended.len())).collect();
        ended.extend(missing);
        ended
    }

    /// One message: an event, or a list of them.
    fn hear(&mut self, body: &Value) -> Vec<TaskEnd> {
        match body {
            Value::Array(events) => events.iter().filter_map(|event| self.hear_one(event)).collect(),
            event => self.hear_one(event).into_iter().collect(),
        }
    }

    fn hear_one(&mut self, event: &Value) -> Option<TaskEnd> {
        let kind = event["type"].as_str()?;
        if kind == "worker-online" {
            self.asked_for_events = None;
        }
        // Ours are made of their runs; those that Celery makes for others are random.
        let id = event["uuid"].as_str().filter(|id| is_ours(id))?;
        let failed_as = match kind {
            "task-started" | "task-succeeded" => None,
            "task-failed" => Some(exception(event)),
            "task-rejected" => Some("a worker has rejected the task".to_owned()),
            "task-revoked" if event["expired"] == true => {
                Some("the task had expired before a worker came to it".to_owned())
            }
            "task-revoked" => Some("the task was revoked".to_owned()),
            _ => return None,
        };
        if !self.heard.contains_key(id) {
            self.order.push_back(id.to_owned());
            if self.order.len() > HEARD_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.heard.remove(&oldest);
            }
        }
        let heard = self.heard.entry(id.to_owned()).or_default();
        heard.by = cut(event["hostname"].as_str().unwrap_or_default(), NAME_BYTES);
        let words = failed_as?;
        if heard.failed.is_some() {
            return None;
        }
        heard.failed = Some((words.clone(), Instant::now()));
        Some(failed(id, &words, &heard.by))
    }

    /// Tells all workers something; those that come later do not hear it.
    async fn broadcast(&mut self, method: &str, arguments: &Value) -> Result<(), WatchError> {
        let now = self.clock.now().millis();
        let body = json!({
            "method": method, "arguments": arguments, "destination": null, "pattern": null, "matcher": null,
        });
        let tag = self.clock.random();
        let control = Control {
            body: body.to_string(),
            tag: Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("chronarch:control:{now}:{tag}").as_bytes()),
            // Seconds with a fraction, as kombu has it.
            expires: (now as f64 + REQUEST_LASTS.as_millis() as f64) / 1_000.0,
        };
        on!(&mut self.side, side => side.broadcast(&control).await?);
        Ok(())
    }
}

/// A request of Celery's remote control.
struct Control {
    body: String,
    /// Tells it from all others.
    tag: Uuid,
    /// Until when it is worth hearing: seconds since 1970.
    expires: f64,
}

/// An end that was heard and that no queue may tell.
fn failed(task_id: &str, words: &str, by: &str) -> TaskEnd {
    TaskEnd {
        run_id: String::new(),
        delivery: 0,
        task_id: task_id.to_owned(),
        succeeded: false,
        error: words.to_owned(),
        by: by.to_owned(),
        place: None,
    }
}

fn is_ours(id: &str) -> bool {
    Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 5)
}

/// The exception; of a process that was killed the last line of the traceback, for Celery has it nowhere else.
fn exception(event: &Value) -> String {
    let (exception, traceback) = (event["exception"].as_str(), event["traceback"].as_str());
    let last = traceback.and_then(|text| {
        text.lines()
            .rev()
            .map(|line| line.trim_matches(|c: char| c == '"' || c.is_whitespace()))
            .find(|line| !line.is_empty())
    });
    match (exception, last) {
        (Some(exception), Some(last)) if exception.starts_with("ExceptionWithTraceback(") => {
            cut(last, WORDS_BYTES)
        }
        (exception, _) => cut(exception.unwrap_or("the task has failed"), WORDS_BYTES),
    }
}

fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

#[cfg(test)]
mod tests;
