//! What one attempt does: a target is carried out once, and how it ended is reported.
//!
//! A worker receives an [`Order`], calls [`Targets::carry_out`] and sends the [`Report`] back to the leader.
//! [`Targets`] is built once per process from [`TargetsConfig`] and shared by all attempts; it holds what they
//! have in common (the HTTP client with its connections, the rules of what is allowed) and nothing about any
//! attempt.
//!
//! Words: an *order* is an attempt as the worker sees it; the *leader of an attempt's processes* is the one that
//! we started; a *tail* is the last bytes of an output; a target is *told* who it is called for (`told`).
//!
//! Invariants:
//! - Every ending is a [`Report`]. Nothing here returns an error or panics because of what a job contains.
//! - [`Outcome::Refused`] means that the target was not touched: no process started, no request sent. Whatever
//!   else went wrong is [`Outcome::Failed`].
//! - When `carry_out` returns, the attempt is over: its processes are dead (limits in `exec`, `exec::tree`), its
//!   connection is closed or idle. Dropping the future has the same effect at once, without grace.
//! - Memory of an attempt is bounded by the constants below, whatever the job writes or the server sends.
//! - An error text names what failed and never repeats the value of a header or variable, a body or a URL's path.
//!
//! Deliberately absent: retries, backoff, breakers and leases (the replicated state decides those), the meaning
//! of an exit code beyond zero and not zero, and secrets, which the caller has put in place already.
//!
//! A further target is one more file, one more variant of [`Target`] and one more arm in `carry_out`; it takes
//! what it must say about the run from `told` and its bounds from `interrupt` and `tail`.

mod amqp;
mod broker;
mod celery;
mod exec;
mod grpc;
mod http;
mod interrupt;
mod method;
mod nats;
mod params;
mod redis;
mod report;
mod success;
mod tail;
mod told;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker::Sent;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::connections::Connections;
use crate::spool::{Beginning, Key, Sink, Spool};
use crate::state::broker::{AmqpTarget, CeleryTarget, NatsTarget, RedisTarget};
use crate::state::time::Timestamp;

pub use amqp::{AMQP_CHANNELS_MAX, AMQP_HEARTBEAT};
pub use broker::{BROKER_ANSWER_TIMEOUT, BROKER_CONNECT_TIMEOUT, BROKER_IN_FLIGHT};
pub use celery::watch::{Active, Lain, Signs, TASKS_MAX, TaskEnd, TaskWatch, TaskWord, Unfound, WatchError};
pub use exec::{EXEC_ENV_BYTES_MAX, EXEC_GRACE_DEFAULT, EXEC_PATH_DEFAULT};
pub use grpc::{DescribeError, GRPC_ANSWER_BYTES_MAX, GRPC_TIMEOUT_DEFAULT, check as check_grpc};
pub use http::reach::{AddressScope, HostRuleError};
pub use http::{HTTP_BODY_BYTES_MAX, HTTP_CONNECT_TIMEOUT, HTTP_REDIRECTS_MAX, HTTP_TIMEOUT_DEFAULT};
pub use method::{Method, UnknownMethod};
pub use nats::NATS_PING_INTERVAL;
pub use report::{Handed, Outcome, Report};
pub use success::{SUCCESS_RANGES_MAX, SuccessError, default_success, parse_success};

/// The output that a report carries, at most; the last bytes are kept.
pub const OUTPUT_TAIL_BYTES: usize = 4 * 1024;
/// The error text of a report, at most; the first bytes are kept.
pub const ERROR_BYTES_MAX: usize = 512;
/// The result of an attempt, at most; a longer one is not kept.
pub const RESULT_BYTES_MAX: usize = 4 * 1024;
/// What a job hands to its target (body, stdin), at most; more is refused.
pub const INPUT_BYTES_MAX: usize = 1024 * 1024;

/// One attempt as the worker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The job's name.
    pub job: String,
    /// The job's namespace.
    pub namespace: String,
    /// Unique for ever; the idempotency key of the effect.
    pub run_id: String,
    /// The due time, RFC 3339 in UTC.
    pub scheduled_at: String,
    /// From 1.
    pub attempt: u32,
    /// The log index of the entry that started this attempt; it only grows.
    pub fence: u64,
    /// From the start of the attempt to its end, the grace of a stopped process not included. None: no bound for
    /// exec, [`HTTP_TIMEOUT_DEFAULT`] for http.
    pub timeout: Option<Duration>,
    /// W3C trace context, if the run is traced.
    pub traceparent: Option<String>,
    /// The run's parameters: names `[a-z][a-z0-9_]*`.
    pub params: BTreeMap<String, String>,
    /// The first run of the chain that the run belongs to.
    pub chain_id: Option<String>,
    /// Results of the runs before it, by the names of their jobs, as JSON.
    pub inputs: BTreeMap<String, String>,
    /// The cluster; with it the run is unique among those of all clusters. Empty: the leader did not say.
    pub cluster_id: String,
    /// When the next occurrence of the job is due, for a run of the schedule.
    pub next_at: Option<Timestamp>,
    /// Which of the run's tasks it leaves, from 0; for targets that leave tasks with others.
    pub delivery: u32,
    /// What to do.
    pub target: Target,
}

/// What an attempt does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Starts a program on the worker's machine.
    Exec(Exec),
    /// Sends one HTTP request.
    Http(Http),
    /// Makes one unary gRPC call.
    Grpc(Grpc),
    /// Leaves a message with a Redis server.
    Redis(Box<RedisTarget>),
    /// Sends a task to Celery workers.
    Celery(Box<CeleryTarget>),
    /// Leaves a message with a RabbitMQ server.
    Amqp(Box<AmqpTarget>),
    /// Leaves a message with a stream of NATS.
    Nats(Box<NatsTarget>),
}

/// One unary gRPC call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grpc {
    /// `host:port`.
    pub address: String,
    /// `package.Service/Method`.
    pub method: String,
    /// The message as JSON; empty: the empty message.
    pub request: String,
    /// Sent beside ours; reserved names, `grpc-*` and `*-bin` are refused.
    pub metadata: BTreeMap<String, String>,
    /// An encoded `FileDescriptorSet`; empty: the server is asked.
    pub descriptor: Vec<u8>,
    /// Encrypted.
    pub tls: bool,
}

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The program or the script.
    pub program: Program,
    /// Added to the clean environment; `CHRONARCH_*` and `TRACEPARENT` are refused.
    pub env: BTreeMap<String, String>,
    /// The working directory; None: that of the worker.
    pub cwd: Option<PathBuf>,
    /// Fed to the process and then closed; None: `/dev/null`. At most [`INPUT_BYTES_MAX`].
    pub stdin: Option<Vec<u8>>,
}

/// How a program is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// Program and arguments; no shell looks at them.
    Command(Vec<String>),
    /// A script for `/bin/sh -c`.
    Shell(String),
}

/// One HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The request method.
    pub method: Method,
    /// `http` or `https`, absolute.
    pub url: String,
    /// Added to ours; `chronarch-*`, `idempotency-key`, `traceparent` and framing headers are refused.
    pub headers: BTreeMap<String, String>,
    /// At most [`INPUT_BYTES_MAX`].
    pub body: Option<Vec<u8>>,
    /// The status codes that mean success; empty: 200 to 299. A redirect code named here is not followed.
    pub success: Vec<RangeInclusive<u16>>,
}

/// What this worker's operator allows, and where programs live.
#[derive(Debug, Clone)]
pub struct TargetsConfig {
    /// Whether jobs may start programs here; default no.
    pub allow_exec: bool,
    /// The only programs that may be started, by absolute path; None: any. With a list, `shell` needs `/bin/sh`.
    /// The list judges the first program alone, not what that one starts by its arguments or environment.
    pub exec_programs: Option<Vec<PathBuf>>,
    /// `PATH` of a process, and where a program without a slash is looked for.
    pub exec_path: String,
    /// `HOME` of a process.
    pub exec_home: String,
    /// `LANG` of a process.
    pub exec_lang: String,
    /// `TMPDIR` of a process; None: unset.
    pub exec_tmp_dir: Option<String>,
    /// From SIGTERM to SIGKILL.
    pub exec_grace: Duration,
    /// Whether a process's standard output and standard error are told apart.
    pub exec_streams: ExecStreams,
    /// Where a process may leave its result, for a moment; None: nowhere. Nobody else may write there, for a name that
    /// can be guessed is given to a process that writes to it.
    pub result_dir: Option<PathBuf>,
    /// Where output is kept; None: nowhere but for the tail in the report.
    pub spool: Option<Spool>,
    /// The only hosts that http may call; None: any that `address_scope` permits. A rule is a name, `*.` and a
    /// name (its subdomains), or an address, each with an optional `:port`. An address named here is permitted
    /// whatever `address_scope` says.
    pub allowed_hosts: Option<Vec<String>>,
    /// Which addresses http may connect to.
    pub address_scope: AddressScope,
    /// A PEM file of authorities that are trusted besides the system's.
    pub extra_ca: Option<PathBuf>,
    /// The brokers that messages can be left with.
    pub connections: Connections,
    /// Who sends them, as a Celery worker is told: `chronarch@` and where this worker runs.
    pub origin: String,
    /// The time that messages are sent at.
    pub clock: Clock,
}

/// How a process's standard output and standard error are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExecStreams {
    /// Through one pipe: in the order of writing, and as one.
    #[default]
    Together,
    /// Through two: told apart, and in the order of reading, which for writes at nearly the same time may be another
    /// than that of writing.
    Apart,
}

impl Default for TargetsConfig {
    fn default() -> Self {
        Self {
            allow_exec: false,
            exec_programs: None,
            exec_path: EXEC_PATH_DEFAULT.to_owned(),
            exec_home: "/".to_owned(),
            exec_lang: "C.UTF-8".to_owned(),
            exec_tmp_dir: None,
            exec_grace: EXEC_GRACE_DEFAULT,
            exec_streams: ExecStreams::default(),
            result_dir: None,
            spool: None,
            allowed_hosts: None,
            address_scope: AddressScope::default(),
            extra_ca: None,
            connections: Connections::new(),
            origin: "chronarch".to_owned(),
            clock: Clock::system(),
        }
    }
}

/// The configuration cannot be put into effect.
#[derive(Debug, thiserror::Error)]
pub enum TargetsError {
    /// A rule of `allowed_hosts` is malformed.
    #[error("allowed_hosts: {0}")]
    HostRule(#[from] HostRuleError),
    /// A program of `exec_programs` is not an absolute path.
    #[error("exec_programs: {} is not an absolute path", .0.display())]
    ProgramPath(PathBuf),
    /// The file of `extra_ca` cannot be read.
    #[error("extra_ca: cannot read {}", path.display())]
    CaRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file of `extra_ca` holds no usable certificate.
    #[error("extra_ca: {} holds no usable PEM certificate", path.display())]
    CaParse {
        /// The file.
        path: PathBuf,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client")]
    Client(#[from] reqwest::Error),
}

/// Carries out orders; one per process, shared by all attempts.
#[derive(Debug)]
pub struct Targets {
    launcher: exec::Launcher,
    caller: http::Caller,
    grpc: grpc::GrpcCaller,
    brokers: broker::Brokers,
    origin: String,
    clock: Clock,
}

impl Targets {
    /// Reads the trusted authorities and sets up the clients.
    ///
    /// Makes `ring` the process's default TLS provider unless one is installed already. A machine without any
    /// trusted authority is no error: every `https` attempt then fails and says so.
    ///
    /// # Errors
    /// [`TargetsError`] for each way in which the configuration cannot be put into effect.
    pub fn new(config: &TargetsConfig) -> Result<Self, TargetsError> {
        Ok(Self {
            launcher: exec::Launcher::new(config)?,
            // It installs the provider of TLS, which the calls need too.
            caller: http::Caller::new(config)?,
            grpc: grpc::GrpcCaller::new(config)?,
            brokers: broker::Brokers::new(&config.connections),
            origin: config.origin.clone(),
            clock: config.clock.clone(),
        })
    }

    /// What watches the tasks that are left by each connection.
    #[must_use]
    pub fn task_watches(&self) -> Vec<TaskWatch> {
        self.brokers.iter().filter_map(|(name, link)| TaskWatch::new(name, link, &self.clock)).collect()
    }

    /// Carries out one attempt, from start to end; every ending is a report.
    ///
    /// Cancelling the token stops the attempt in good order (a process gets its grace); dropping the future
    /// stops it at once.
    pub async fn carry_out(&self, order: &Order, cancel: CancellationToken) -> Report {
        if cancel.is_cancelled() {
            return Report::of(Outcome::Cancelled).with_error("cancelled before it was started");
        }
        let target = match params::filled(order) {
            Ok(target) => target,
            Err(why) => return Report::of(Outcome::Refused).with_error(why),
        };
        match &target {
            Target::Exec(exec) => self.launcher.carry_out(order, exec, &cancel).await,
            Target::Http(http) => self.caller.carry_out(order, http, &cancel).await,
            Target::Grpc(grpc) => self.grpc.carry_out(order, grpc, &cancel).await,
            Target::Redis(redis) => {
                let label = || self.brokers.label(&redis.connection);
                let left = async { redis::leave(order, redis, self.brokers.redis(&redis.connection)?).await };
                // A Redis server can be asked again: the note of the run is there or not.
                broker::report(order, &cancel, (label, &Sent::default()), left).await
            }
            Target::Amqp(amqp) => {
                let (label, sent) = (|| self.brokers.label(&amqp.connection), Sent::default());
                let link = self.brokers.amqp(&amqp.connection);
                let left = async { amqp::leave(order, amqp, link?, &sent).await };
                broker::report(order, &cancel, (label, &sent), left).await
            }
            Target::Nats(nats) => {
                let (label, sent) = (|| self.brokers.label(&nats.connection), Sent::default());
                let link = self.brokers.nats(&nats.connection);
                let left = async { nats::leave(order, nats, link?, &sent).await };
                broker::report(order, &cancel, (label, &sent), left).await
            }
            Target::Celery(celery) => {
                let (now, sent) = (self.clock.now(), Sent::default());
                let (link, label) = (self.brokers.get(&celery.broker), || self.brokers.label(&celery.broker));
                let left = async { celery::send(order, celery, (link?, &sent), (now, &self.origin)).await };
                let report = broker::report(order, &cancel, (label, &sent), left).await;
                celery::handed_over(order, celery, report, now)
            }
        }
    }
}

/// Where the output of an attempt is kept.
fn sink(spool: Option<&Spool>, order: &Order, beginning: Beginning) -> Sink {
    let key = || Key { run_id: order.run_id.as_str().into(), fence: order.fence };
    spool.map_or_else(Sink::nowhere, |spool| spool.sink(key(), beginning))
}

/// Whoever carries out orders for a worker: [`Targets`], or what a simulation has in their place.
#[derive(Clone)]
pub struct Carrier(Arc<dyn Fn(Order, CancellationToken) -> BoxFuture<'static, Report> + Send + Sync>);

impl Carrier {
    /// Whatever `carry_out` does with an order, by the rules of [`Targets::carry_out`].
    pub fn new<F>(carry_out: impl Fn(Order, CancellationToken) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Report> + Send + 'static,
    {
        Self(Arc::new(move |order, cancel| Box::pin(carry_out(order, cancel))))
    }

    /// As [`Targets::carry_out`].
    pub fn carry_out(&self, order: Order, cancel: CancellationToken) -> BoxFuture<'static, Report> {
        (self.0)(order, cancel)
    }
}

impl From<Arc<Targets>> for Carrier {
    fn from(targets: Arc<Targets>) -> Self {
        Self::new(move |order, cancel| {
            let targets = Arc::clone(&targets);
            async move { targets.carry_out(&order, cancel).await }
        })
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carrier")
    }
}
