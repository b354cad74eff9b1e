//! What workers and the leader say to each other, as the loop sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::fleet::FleetAsk;
use crate::raft::ClusterId;
use crate::state::run::{AttemptOutcome, Report, RunId, TaskLeft};
use crate::state::spec::Target;
use crate::state::time::Timestamp;

/// Number of a stream, unique in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What a worker says of itself when it connects.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Unique for this life of its process.
    pub worker: Arc<str>,
    /// Queues that it serves.
    pub queues: Arc<BTreeSet<Arc<str>>>,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Kinds of targets that it carries out.
    pub kinds: Arc<BTreeSet<String>>,
    /// Attempts at the same time.
    pub slots: u32,
    /// Attempts that it holds: running, or ended and not acknowledged.
    pub held: BTreeSet<(RunId, u64)>,
    /// The program's version.
    pub version: String,
    /// The version of the protocol that is spoken with it.
    pub protocol: u32,
    /// Whether that has [`Message::Drain`].
    pub takes_drain: bool,
    /// The node that it is part of.
    pub node: Option<u64>,
    /// The node that it is connected to: this one, or one that carries its stream here.
    pub connected_to: u64,
    /// Where it is connected from.
    pub address: String,
    /// Earlier lives of the worker whose output it still has.
    pub earlier: BTreeSet<Arc<str>>,
    /// It can be asked for output.
    pub keeps_output: bool,
}

/// Why a worker drains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainAsked {
    /// Who asked for it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When; `None` when nobody did, but the process is being ended.
    pub at: Option<Timestamp>,
}

/// Output that someone wants to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputWanted {
    /// Names the reading.
    pub id: String,
    /// Which run.
    pub run: RunId,
    /// The attempt's fence.
    pub fence: u64,
    /// From this byte on.
    pub offset: u64,
    /// Or from so many lines before what is there now, where it is more than none.
    pub tail_lines: u32,
    /// Which stream.
    pub stream: StreamWanted,
    /// Go on until the attempt has ended.
    pub follow: bool,
}

/// Whether a worker was asked for output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputAsked {
    /// It was.
    Asked,
    /// It is not connected, or takes no message.
    Away,
    /// It keeps no output.
    KeepsNone,
}

/// Which stream of an output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamWanted {
    /// All.
    All,
    /// Standard output, or the body.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a stream tells the loop.
#[derive(Debug)]
pub enum SessionEvent {
    /// A worker connected.
    Opened {
        /// The stream.
        session: SessionId,
        /// Who.
        hello: Hello,
        /// Where its messages go; its capacity bounds what may wait there.
        outbox: mpsc::Sender<Message>,
    },
    /// It lives.
    Heartbeat {
        /// The stream.
        session: SessionId,
    },
    /// An attempt has ended.
    Report {
        /// The stream.
        session: SessionId,
        /// Which run.
        run: RunId,
        /// The attempt's fence.
        fence: u64,
        /// How.
        outcome: AttemptOutcome,
        /// What the worker says of it.
        report: Arc<Report>,
        /// It has not ended: it has left a task with others.
        handed: Option<TaskLeft>,
    },
    /// It takes nothing new.
    Drain {
        /// The stream.
        session: SessionId,
        /// Why.
        asked: DrainAsked,
    },
    /// The stream is gone.
    Closed {
        /// The stream.
        session: SessionId,
    },
    /// Somebody asks about workers.
    Fleet(FleetAsk),
    /// Someone wants to read output that a worker has, in this life or from an earlier one.
    ReadOutput {
        /// Who carried the attempt out.
        worker: Arc<str>,
        /// What is wanted.
        wanted: Box<OutputWanted>,
        /// Whether the worker was asked.
        asked: oneshot::Sender<OutputAsked>,
    },
}

/// What the loop sends to a worker.
#[derive(Clone, Debug)]
pub enum Message {
    /// The session is open.
    Welcome {
        /// How long it may be silent.
        lease: Duration,
        /// The term that it was opened in.
        term: u64,
        /// The version of the protocol that is spoken.
        protocol: u32,
    },
    /// Carry this out.
    Order {
        /// Which run.
        run: RunId,
        /// The attempt's fence.
        fence: u64,
        /// The attempt's number.
        attempt: u32,
        /// The job's namespace.
        namespace: Arc<str>,
        /// The job's name.
        job: Arc<str>,
        /// The nominal instant.
        scheduled_at: Timestamp,
        /// The longest it may take.
        timeout: Duration,
        /// What to do.
        target: Box<Target>,
        /// The run's parameters.
        params: Box<BTreeMap<String, String>>,
        /// The first run of its chain.
        chain: RunId,
        /// Results of the runs before it.
        inputs: Box<BTreeMap<String, String>>,
        /// The cluster.
        cluster: Option<ClusterId>,
        /// When the job is due next, for a run of the schedule.
        next_at: Option<Timestamp>,
        /// Which of the run's tasks it leaves, if its target leaves tasks.
        delivery: u32,
    },
    /// Stop this attempt.
    Cancel {
        /// Which run.
        run: RunId,
        /// The attempt's fence.
        fence: u64,
    },
    /// The report is recorded, or refused; the worker may forget the attempt.
    Acknowledged {
        /// Which run.
        run: RunId,
        /// The attempt's fence.
        fence: u64,
        /// It was refused by its fence.
        refused: bool,
    },
    /// Answer to a heartbeat.
    Heartbeat,
    /// Take nothing new.
    Drain(DrainAsked),
    /// Take orders again.
    Resume,
    /// Send this output.
    ReadOutput(Box<OutputWanted>),
    /// This node does not lead.
    NotLeader {
        /// Where clients reach the leader, if known.
        leader: Option<String>,
    },
}

/// How a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is sent orders.
    Serving,
    /// It takes nothing new.
    Draining,
    /// It was not heard for half a lease.
    Silent,
    /// It is not connected, and carries attempts.
    Away,
}

/// A worker, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its name.
    pub worker: Arc<str>,
    /// Queues that it serves.
    pub queues: Arc<BTreeSet<Arc<str>>>,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Kinds of targets that it carries out.
    pub kinds: Arc<BTreeSet<String>>,
    /// Attempts at the same time.
    pub slots: u32,
    /// Attempts that run there, as the cluster knows it.
    pub running: u32,
    /// Slots for something new.
    pub free: u32,
    /// It takes nothing new.
    pub draining: bool,
    /// How it stands.
    pub standing: Standing,
    /// Why it drains.
    pub drain: Option<DrainAsked>,
    /// The node that it is part of.
    pub node: Option<u64>,
    /// The node that it is connected to.
    pub connected_to: Option<u64>,
    /// Where it is connected from.
    pub address: String,
    /// The program's version.
    pub version: String,
    /// The version of the protocol that is spoken with it.
    pub protocol: u32,
    /// Since when.
    pub connected_at: Option<Timestamp>,
    /// When something was heard of it.
    pub last_heard_at: Option<Timestamp>,
}
