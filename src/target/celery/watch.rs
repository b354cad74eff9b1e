//! Watches the tasks that were left by one connection: how they end, and that those end which are to.
//!
//! The queue of `completion` is the source of truth: what lies there stays until the cluster has it in its log. Celery's
//! events tell what the queue cannot: the words of an exception, who ran the task, and that one was revoked, had expired,
//! or is registered nowhere. They are lost while nobody listens; then a failure has no words, and a task that no worker
//! runs ends with the time of its run.

mod amqp;
mod asks;
mod holders;
mod quiet;
mod redis;
mod search;
mod told;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use self::holders::Holders;
pub use self::holders::{Active, Signs};
pub use self::quiet::Lain;
use self::quiet::Quiet;
use self::search::Search;
pub use self::search::Unfound;
use self::told::{NAME_BYTES, cut, exception, failed, is_ours, succeeded};
pub use self::told::{TaskEnd, TaskWord};
use super::super::broker::{Failure, Link};
use super::completion::{self, Done};
use crate::clock::Clock;
use crate::state::limits::RESULT_BYTES;

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
/// How long the queue has to tell of a task that was heard to have succeeded. What it had told of it is lost then, as
/// with a server that has lost its memory.
const QUEUE_TELLS_WITHIN: Duration = Duration::from_secs(10);
/// How long a task has to last for the cluster to be told that it runs.
const GOES_ON_AFTER: Duration = Duration::from_secs(2);
/// How long after a worker has come up all are asked for events: it listens somewhat later, and then each moment counts.
const ASK_A_NEW_ONE_MS: [u64; 5] = [0, 50, 150, 400, 1_000];
/// How long a first sign of life of its worker is waited for: some give none.
const SIGN_WITHIN: Duration = Duration::from_secs(5);
/// How often the cluster is told at most that a task puts itself off.
const PUT_OFF_AGAIN: Duration = Duration::from_secs(10);
/// With nothing heard for so long it is listened anew: what is sent may go nowhere, and nobody has said so.
const LISTEN_ANEW_AFTER: Duration = Duration::from_secs(60);
/// How often listening to events is tried.
const LISTEN_EVERY: Duration = Duration::from_secs(1);
/// The same before any Celery worker was there: RabbitMQ has no exchange for events then, and a try costs channels and
/// lines of its log.
const LISTEN_WITH_NOBODY_EVERY: Duration = Duration::from_secs(5);
/// The same where the broker does not let this account listen.
const LISTEN_REFUSED_EVERY: Duration = Duration::from_secs(30);
/// The broker does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct WatchError(#[from] Failure);

/// What was heard of a task.
#[derive(Clone, Debug, Default)]
struct Heard {
    by: String,
    /// It goes on, and since when; why it was put off by itself.
    goes_on: Option<(Instant, Option<String>)>,
    /// When the cluster was last told that it goes on.
    told_at: Option<Instant>,
    /// It has ended badly: in what words, and since when that is known.
    failed: Option<(String, Instant)>,
    /// It has ended well, and since when that is known.
    succeeded: Option<Instant>,
    /// That was told.
    told: bool,
}

/// Watches the tasks of one connection.
pub struct TaskWatch {
    connection: String,
    side: Side,
    clock: Clock,
    asked_for_events: Option<Instant>,
    asked_what_runs: Option<Instant>,
    /// When workers are asked once more to send events: some have just come up.
    ask_for_events_at: VecDeque<Instant>,
    ask_again_at: Option<Instant>,
    tried_to_listen: Option<Instant>,
    /// The broker does not let it listen.
    is_refused: bool,
    heard: HashMap<String, Heard>,
    /// In the order in which they were first heard of.
    order: VecDeque<String>,
    /// Tasks of which may be to be told that they go on, in the order in which that was heard.
    going_on: VecDeque<(Instant, String)>,
    /// Tasks that have ended badly and of which the cluster has not said that it knows.
    untold: VecDeque<String>,
    /// Tasks that have ended well and of which the queue may not tell, in the order in which that was heard.
    succeeded: VecDeque<(Instant, String)>,
    holders: Holders,
    search: Search,
    quiet: Quiet,
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
use on;

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
            asked_what_runs: None,
            ask_for_events_at: VecDeque::new(),
            ask_again_at: None,
            tried_to_listen: None,
            is_refused: false,
            heard: HashMap::new(),
            order: VecDeque::new(),
            going_on: VecDeque::new(),
            untold: VecDeque::new(),
            succeeded: VecDeque::new(),
            holders: Holders::default(),
            search: Search::default(),
            quiet: Quiet::default(),
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
        self.asked_what_runs = None;
        self.tried_to_listen = None;
        self.heard.clear();
        self.order.clear();
        self.going_on.clear();
        self.untold.clear();
        self.succeeded.clear();
        self.holders.listening(None);
        self.search = Search::default();
        self.quiet = Quiet::default();
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
        // Behind all others: most of them are of runs that wait for nothing, which cannot be told by an event.
        let room = TASKS_MAX.saturating_sub(ended.len());
        ended.extend(self.unqueued(room));
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

    /// What is new of tasks that go on, at most [`TASKS_MAX`]; each is told once. One that lasts shorter than that is
    /// told of by its end alone, and one that puts itself off all the time, not all the time.
    pub fn words(&mut self) -> Vec<TaskWord> {
        let mut words = Vec::new();
        while words.len() < TASKS_MAX
            && let Some((at, id)) = self.going_on.front()
            && at.elapsed() >= GOES_ON_AFTER
        {
            let (at, id) = (*at, id.clone());
            let process = self.heard.get(&id).map_or(0, |heard| self.holders.process(&heard.by));
            if process == 0 && at.elapsed() < SIGN_WITHIN {
                break;
            }
            self.going_on.pop_front();
            let Some(heard) = self.heard.get_mut(&id) else { continue };
            // Since then it has ended, or something else was heard, which stands behind in the row.
            let Some((_, retried)) = heard.goes_on.as_ref().filter(|(since, _)| *since == at) else {
                continue;
            };
            if retried.is_some() && heard.told_at.is_some_and(|told| told.elapsed() < PUT_OFF_AGAIN) {
                continue;
            }
            heard.told_at = Some(Instant::now());
            words.push(TaskWord { task_id: id, by: heard.by.clone(), process, retried: retried.clone() });
        }
        words
    }

    /// What is known of whether these live, each a name and the number of a process.
    #[must_use]
    pub fn signs<'a>(&self, holders: impl Iterator<Item = (&'a str, u32)>) -> Vec<Signs> {
        holders.filter_map(|holder| self.holders.signs(holder, Instant::now())).collect()
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
        if self.wordless.len() >= HEARD_MAX {
            // Of some that another listener has removed nobody asks again.
            self.wordless.clear();
        }
        let since = *self.wordless.entry(done.task_id.clone()).or_insert(now);
        now.duration_since(since) >= WORDS_WITHIN
    }

    fn end(&self, done: Done, place: Place) -> TaskEnd {
        let heard = self.heard.get(&done.task_id).cloned().unwrap_or_default();
        let Done { run_id, delivery, task_id, succeeded, result } = done;
        let result = result.unwrap_or_default();
        let is_vast = result.len() > RESULT_BYTES;
        let error = match succeeded {
            true if is_vast => {
                let length = result.len();
                format!("its result has {length} bytes as JSON and is not kept: at most {RESULT_BYTES} are")
            }
            true => String::new(),
            false => heard.failed.map_or_else(|| "the task has failed".to_owned(), |(words, _)| words),
        };
        let result = if is_vast { String::new() } else { result };
        TaskEnd { run_id, delivery, task_id, succeeded, error, result, by: heard.by, place: Some(place) }
    }

    /// Takes in what was heard since, and says what of it is an end that no queue may tell.
    async fn look_at_events(&mut self) -> Vec<TaskEnd> {
        // Without them the queue still tells of all that ends by itself.
        let nobody_came = on!(&self.side, side => side.nobody_came());
        let every = match nobody_came {
            true => LISTEN_WITH_NOBODY_EVERY,
            false if self.is_refused => LISTEN_REFUSED_EVERY,
            false => LISTEN_EVERY,
        };
        let may_try = self.tried_to_listen.is_none_or(|at| at.elapsed() >= every);
        let seems_deaf = self.holders.last_heard().is_some_and(|at| at.elapsed() >= LISTEN_ANEW_AFTER)
            && self.tried_to_listen.is_none_or(|at| at.elapsed() >= LISTEN_ANEW_AFTER);
        let heard = on!(&self.side, side => side.hears());
        if !heard && !nobody_came {
            // Also where the next try is a good one: what was said meanwhile is lost.
            self.holders.listening(None);
        }
        if (!heard || seems_deaf) && may_try {
            self.tried_to_listen = Some(Instant::now());
            let tag = self.clock.random_id();
            let listened = on!(&mut self.side, side => side.listen(&tag).await);
            self.is_deaf(listened.as_ref().err());
            if heard {
                self.holders.listening_anew(Instant::now());
            } else if !on!(&self.side, side => side.nobody_came()) {
                self.holders.gap(Instant::now());
            }
            if listened.is_ok() {
                self.asked_for_events = None;
            }
        }
        let hears = on!(&self.side, side => side.hears());
        let nobody_came = on!(&self.side, side => side.nobody_came());
        self.holders.may_be_none(nobody_came, Instant::now());
        self.holders.listening((hears || nobody_came).then(Instant::now));
        if hears {
            self.ask_workers().await;
        }
        let mut ended = Vec::new();
        while ended.len() < TASKS_MAX
            && let Some((body, ticket)) = on!(&mut self.side, side => side.next_event())
        {
            match ticket {
                Some(ticket) if self.search.is_answered_by(&ticket) => {
                    self.search.take(&body, &mut self.holders, Instant::now());
                }
                Some(ticket) if self.quiet.is_answered_by(&ticket) => {
                    self.quiet.take(&ticket, &body, &mut self.holders, Instant::now());
                }
                Some(_) | None => ended.extend(self.hear(&body)),
            }
        }
        let known: HashSet<String> = ended.iter().map(|end: &TaskEnd| end.task_id.clone()).collect();
        let again = self.untold().into_iter().filter(|end| !known.contains(&end.task_id));
        let missing: Vec<TaskEnd> = again.take(TASKS_MAX.saturating_sub(ended.len())).collect();
        ended.extend(missing);
        ended
    }

    /// What was told and not answered is told again.
    fn untold(&mut self) -> Vec<TaskEnd> {
        let heard = &self.heard;
        let lasts = |id: &String| {
            let heard = heard.get(id).filter(|heard| !heard.told)?;
            let (words, since) = heard.failed.as_ref()?;
            (since.elapsed() < UNKNOWN_FOR).then(|| failed(id, words, &heard.by))
        };
        self.untold.retain(|id| lasts(id).is_some());
        self.untold.iter().filter_map(lasts).collect()
    }

    /// Ends of tasks that were heard to have succeeded, and of which the queue has not told in time; at most `room`.
    fn unqueued(&mut self, room: usize) -> Vec<TaskEnd> {
        let heard = &self.heard;
        let is_open = |id: &String| heard.get(id).is_some_and(|it| it.succeeded.is_some() && !it.told);
        let lasts = |at: &Instant| at.elapsed() < QUEUE_TELLS_WITHIN + UNKNOWN_FOR;
        while self.succeeded.pop_front_if(|(at, id)| !lasts(at) || !is_open(id)).is_some() {}
        let late = self.succeeded.iter().take_while(|(at, _)| at.elapsed() >= QUEUE_TELLS_WITHIN);
        let late = late.filter(|(_, id)| is_open(id)).take(room);
        late.map(|(_, id)| succeeded(id, &heard[id].by)).collect()
    }

    /// One message: an event, or a list of them.
    fn hear(&mut self, body: &Value) -> Vec<TaskEnd> {
        match body {
            Value::Array(events) => events.iter().filter_map(|event| self.hear_one(event)).collect(),
            event => self.hear_one(event).into_iter().collect(),
        }
    }

    fn hear_one(&mut self, event: &Value) -> Option<TaskEnd> {
        let Some(kind) = event["type"].as_str() else {
            self.hear_what_runs(event);
            return None;
        };
        if kind.starts_with("worker-") {
            let is_new = self.holders.hear(kind, event, Instant::now());
            if is_new {
                // It says so before it hears anything, and begins with what waits: what ends before it was asked for
                // events nobody tells of.
                let now = Instant::now();
                let soon = ASK_A_NEW_ONE_MS.iter();
                self.ask_for_events_at = soon.map(|after| now + Duration::from_millis(*after)).collect();
                self.ask_again_at = Some(now + GOES_ON_AFTER);
            }
            return None;
        }
        // Ours are made of their runs; those that Celery makes for others are random.
        let id = event["uuid"].as_str().filter(|id| is_ours(id))?;
        let failed_as = match kind {
            "task-started" | "task-retried" | "task-succeeded" => None,
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
        heard.goes_on = match kind {
            "task-started" => Some((Instant::now(), None)),
            "task-retried" => Some((Instant::now(), Some(exception(event)))),
            _ => None,
        };
        if let Some((at, _)) = heard.goes_on {
            self.going_on.push_back((at, id.to_owned()));
            if self.going_on.len() > HEARD_MAX {
                self.going_on.pop_front();
            }
        }
        if kind == "task-succeeded" && heard.succeeded.is_none() {
            heard.succeeded = Some(Instant::now());
            self.succeeded.push_back((Instant::now(), id.to_owned()));
            if self.succeeded.len() > HEARD_MAX {
                self.succeeded.pop_front();
            }
        }
        let words = failed_as?;
        if heard.failed.is_some() {
            return None;
        }
        heard.failed = Some((words.clone(), Instant::now()));
        self.untold.push_back(id.to_owned());
        Some(failed(id, &words, &heard.by))
    }
}

#[cfg(test)]
mod tests;
