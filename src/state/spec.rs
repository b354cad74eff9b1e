//! The definition of a job as the replicated state holds it: checked, complete, without defaults.
//!
//! `api` makes these from what a client sent and refuses what is not in range; here every field has
//! a value. Ratios are integers (thousandths), for the state computes in integers alone.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::broker::{AmqpTarget, CeleryTarget, NatsTarget, RedisTarget};
use super::pack::later;
use super::schedule::Schedule;
use super::template;

/// One job, as its owner defined it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The namespace that the name is unique in.
    pub namespace: String,
    /// `[a-z0-9._-]{1,128}`.
    pub name: String,
    /// Free text for people.
    pub description: String,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// Rules whose instants are the occurrences; none for a job that runs on trigger alone.
    pub schedules: Vec<Schedule>,
    /// What an attempt does.
    pub target: Target,
    /// Workers that serve this queue carry it out.
    pub queue: String,
    /// Labels that the worker must have.
    pub requires: BTreeMap<String, String>,
    /// The longest an attempt may take.
    pub timeout: Duration,
    /// When a failed attempt is followed by another.
    pub retry: Retry,
    /// What becomes of missed occurrences.
    pub catch_up: CatchUp,
    /// A run not started so long after it was due ends as `expired`.
    pub start_within: Option<Duration>,
    /// What becomes of an occurrence while runs of the job are live.
    pub overlap: Overlap,
    /// What becomes of a run whose worker vanished in the middle of an attempt.
    pub on_lost: OnLost,
    /// Whether a pause counts as missed time.
    pub on_resume: OnResume,
    /// When the job stops calling a sick target.
    pub breaker: BreakerPolicy,
    /// How many records are kept, and for how long.
    pub retention: Retention,
    /// Parameters that attempts are told, with their defaults; a trigger may change their values.
    #[serde(default, serialize_with = "later")]
    pub params: BTreeMap<String, String>,
    /// How many attempts may run or start at a time, together with those of other jobs.
    #[serde(default, serialize_with = "later")]
    pub limits: Option<Limits>,
    /// Jobs whose runs it runs after, instead of a schedule.
    #[serde(default, serialize_with = "later")]
    pub after: Option<After>,
    /// Of the runs that wait for a worker those of the highest start first; -100 to 100.
    #[serde(default, serialize_with = "later")]
    pub priority: i32,
    /// Each run is carried out once on each worker that may, and is what became of all of them.
    #[serde(default, serialize_with = "later")]
    pub every_node: bool,
    /// What becomes of an occurrence that a calendar excludes.
    #[serde(default, serialize_with = "later")]
    pub on_excluded: OnExcluded,
}

/// What an attempt does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// An HTTP request.
    Http {
        /// Method in upper case.
        method: String,
        /// `http://` or `https://`.
        url: String,
        /// Headers of the user.
        headers: BTreeMap<String, String>,
        /// Request body.
        body: String,
        /// Status codes that count as success, as ranges: `200-299,304`.
        success: String,
    },
    /// A process on the worker's machine.
    Exec {
        /// What is run.
        program: Program,
        /// Variables of the job.
        env: BTreeMap<String, String>,
        /// Working directory; the worker's default where absent.
        cwd: Option<String>,
        /// Fed to standard input, which is empty where absent.
        stdin: Option<String>,
    },
    /// A worker of the user's own.
    Queue {
        /// What it is given, once the params of the run are in their places.
        payload: String,
    },
    /// A unary gRPC call.
    Grpc {
        /// `host:port`.
        address: String,
        /// `package.Service/Method`.
        method: String,
        /// The message as JSON.
        request: String,
        /// Metadata of the user.
        metadata: BTreeMap<String, String>,
        /// An encoded `FileDescriptorSet`; the server is asked where it is empty.
        descriptor: Vec<u8>,
        /// Encrypted.
        tls: bool,
    },
    /// A message to a Redis server.
    Redis(Box<RedisTarget>),
    /// A task for Celery workers.
    Celery(Box<CeleryTarget>),
    /// A message to a RabbitMQ server.
    Amqp(Box<AmqpTarget>),
    /// A message to a stream of NATS.
    Nats(Box<NatsTarget>),
}

impl Target {
    /// Whether params of the run stand in any of its texts.
    #[must_use]
    pub fn has_params(&self) -> bool {
        let among = |texts: &BTreeMap<String, String>| texts.values().any(|text| template::has_params(text));
        match self {
            Self::Http { url, headers, body, .. } => {
                template::has_params(url) || among(headers) || template::has_params(body)
            }
            Self::Grpc { request, metadata, .. } => template::has_params(request) || among(metadata),
            Self::Queue { payload } => template::has_params(payload),
            Self::Redis(redis) => template::has_params(&redis.payload) || among(&redis.headers),
            Self::Amqp(amqp) => template::has_params(&amqp.payload) || among(&amqp.headers),
            Self::Nats(nats) => template::has_params(&nats.payload) || among(&nats.headers),
            Self::Celery(celery) => {
                template::has_params(&celery.args) || template::has_params(&celery.kwargs)
            }
            Self::Exec { .. } => false,
        }
    }
}

/// The process of an exec target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// Program and arguments, no shell between.
    Command(Vec<String>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

impl Target {
    /// What kind it is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Exec { .. } => "exec",
            Self::Queue { .. } => "queue",
            Self::Grpc { .. } => "grpc",
            Self::Redis(_) => "redis",
            Self::Celery(_) => "celery",
            Self::Amqp(_) => "amqp",
            Self::Nats(_) => "nats",
        }
    }

    /// The connection that a worker needs for it.
    #[must_use]
    pub fn connection(&self) -> Option<&str> {
        match self {
            Self::Redis(redis) => Some(&redis.connection),
            Self::Celery(celery) => Some(&celery.broker),
            Self::Amqp(amqp) => Some(&amqp.connection),
            Self::Nats(nats) => Some(&nats.connection),
            Self::Http { .. } | Self::Exec { .. } | Self::Queue { .. } | Self::Grpc { .. } => None,
        }
    }

    /// What a worker announces that can carry it out: the kind, and behind it the connection where it needs one.
    #[must_use]
    pub fn needs(&self) -> Cow<'static, str> {
        match self.connection() {
            None => self.kind().into(),
            Some(connection) => format!("{}:{connection}", self.kind()).into(),
        }
    }
}

/// When a failed attempt is followed by another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts in all, 1 to 100; attempts lost with a worker do not count.
    pub max_attempts: u32,
    /// Wait before the second attempt.
    pub initial: Duration,
    /// Factor from wait to wait, in thousandths.
    pub multiplier_milli: u32,
    /// The longest wait.
    pub max: Duration,
    /// Random part of the wait, in thousandths.
    pub jitter_milli: u32,
    /// What is tried again; empty: every failure.
    pub on: Vec<RetryOn>,
}

/// A class of failures that is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetryOn {
    /// Every failure that is not a timeout.
    Failed,
    /// The attempt took longer than `timeout`.
    Timeout,
    /// The worker vanished, once the reruns of `on_lost: rerun` are used up; never with `on_lost: fail`.
    Lost,
    /// This exit code.
    Exit(i32),
    /// HTTP status codes from the first to the last.
    Http(u16, u16),
    /// This status of a gRPC call, a place in [`GRPC_CODES`].
    Grpc(u8),
}

/// The statuses of a gRPC call by their numbers.
pub const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What becomes of missed occurrences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchUp {
    /// Which of them run.
    pub runs: CatchUpRuns,
    /// How old one may be to be worth a run.
    pub window: Duration,
    /// With [`CatchUpRuns::All`]: at most so many, the newest.
    pub max: u32,
}

/// Which missed occurrences run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatchUpRuns {
    /// None.
    None,
    /// The newest, standing for all.
    Latest,
    /// Each, oldest first.
    All,
}

/// What becomes of an occurrence while runs of the job are live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The rule.
    pub policy: OverlapPolicy,
    /// With [`OverlapPolicy::Queue`]: how many runs may wait.
    pub limit: u32,
    /// With [`OverlapPolicy::Queue`]: which runs stay when more would wait.
    pub keep: Keep,
    /// Live runs at a time.
    pub max_parallel: u32,
}

impl Overlap {
    /// Live runs at a time, bounds applied; at least one, or nothing could ever start.
    #[must_use]
    pub fn parallel(&self) -> usize {
        let parallel = match self.policy {
            OverlapPolicy::Allow => usize::MAX,
            OverlapPolicy::Skip | OverlapPolicy::Queue | OverlapPolicy::Replace => {
                usize::try_from(self.max_parallel).unwrap_or(usize::MAX)
            }
        };
        parallel.clamp(1, super::limits::LIVE_RUNS_PER_JOB)
    }
}

/// The rule for overlaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OverlapPolicy {
    /// The occurrence is skipped.
    Skip,
    /// It runs beside the others.
    Allow,
    /// It waits for its turn.
    Queue,
    /// The live runs are cancelled, then it runs.
    Replace,
}

/// Which runs stay in a full overlap queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keep {
    /// The newest; the oldest waiting one is skipped.
    Newest,
    /// The oldest; the new one is skipped.
    Oldest,
}

/// What becomes of a run whose worker vanished in the middle of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnLost {
    /// It starts again: effects happen at least once.
    Rerun,
    /// It ends as failed: effects happen at most once.
    Fail,
}

/// Whether a pause counts as missed time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnResume {
    /// It does not: the next occurrence is the first after the resumption.
    Skip,
    /// It does: catch-up decides about what passed.
    CatchUp,
}

/// What becomes of an occurrence that a calendar excludes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnExcluded {
    /// It is skipped, and the record says why.
    #[default]
    Skip,
    /// It is put off until the calendars allow it.
    NextAllowed,
}

/// When a breaker opens, and how it closes again (DESIGN section 7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// Shared by the jobs of the namespace that name it; absent: the job's own.
    pub name: Option<String>,
    /// Opens after so many failed attempts in a row; 0: never by this rule.
    pub consecutive_failures: u32,
    /// Opens at this share of failed attempts, in thousandths; 0: never by this rule.
    pub failure_rate_milli: u32,
    /// The rate counts from so many attempts on.
    pub minimum_attempts: u32,
    /// What the rate looks back on.
    pub window: Duration,
    /// How long it stays open the first time.
    pub open_for: Duration,
    /// How long at most, after doublings.
    pub max_open_for: Duration,
    /// Runs let through while half open.
    pub probes: u32,
    /// What becomes of an occurrence while it is open.
    pub on_open: OnOpen,
}

/// What becomes of an occurrence while the breaker is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnOpen {
    /// It is skipped, and the record says so.
    Skip,
    /// The newest is kept and runs when the breaker lets it.
    Hold,
}

/// How many attempts may run or start at a time. Each attempt counts, for each is a call on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Shared by the jobs of the namespace that name it; absent: the job's own.
    pub group: Option<String>,
    /// Attempts of the group that run at the same time.
    pub concurrency: Option<u32>,
    /// How often attempts of the group start.
    pub rate: Option<Rate>,
}

/// A number of starts in a span of time: a token bucket that holds so many and is filled evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How many, at least 1.
    pub starts: u32,
    /// In which time, at least a millisecond.
    pub per: Duration,
}

/// What a job runs after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// Names of jobs of the same namespace, each once.
    pub jobs: Vec<String>,
    /// How many of them it waits for.
    pub when: AfterWhen,
    /// Which ends count.
    pub on: AfterOn,
}

/// How many of the jobs before it a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterWhen {
    /// All of them.
    All,
    /// The first.
    Any,
}

/// Which ends of a run before it let a job run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterOn {
    /// It succeeded.
    Success,
    /// It failed.
    Failure,
    /// Any, also that it was cancelled or skipped.
    Always,
}

/// How many records of a job are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The newest so many.
    pub runs: u32,
    /// Nothing older.
    pub age: Duration,
}
