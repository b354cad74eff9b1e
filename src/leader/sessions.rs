//! The workers connected to the leader: what each said of itself, and what it was sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::scheduler::plan;
use crate::state::State;
use crate::state::run::{AttemptOutcome, Report, RunId};
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
    pub queues: BTreeSet<Arc<str>>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Kinds of targets that it carries out.
    pub kinds: BTreeSet<String>,
    /// Attempts at the same time.
    pub slots: u32,
    /// Attempts that it holds: running, or ended and not acknowledged.
    pub held: BTreeSet<(RunId, u64)>,
    /// Earlier lives of the worker whose output it still has.
    pub earlier: BTreeSet<Arc<str>>,
    /// It can be asked for output.
    pub keeps_output: bool,
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
    },
    /// It takes nothing new.
    Drain {
        /// The stream.
        session: SessionId,
    },
    /// The stream is gone.
    Closed {
        /// The stream.
        session: SessionId,
    },
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
    /// Send this output.
    ReadOutput(Box<OutputWanted>),
    /// This node does not lead.
    NotLeader {
        /// Where clients reach the leader, if known.
        leader: Option<String>,
    },
}

/// A connected worker, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its name.
    pub worker: String,
    /// Queues that it serves.
    pub queues: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Kinds of targets that it carries out.
    pub kinds: Vec<String>,
    /// Attempts at the same time.
    pub slots: u32,
    /// Attempts that run.
    pub running: u32,
    /// It takes nothing new.
    pub draining: bool,
}

/// A connected worker.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) hello: Hello,
    pub(super) outbox: mpsc::Sender<Message>,
    pub(super) last_heard: Instant,
    pub(super) draining: bool,
    /// Attempts that it said it holds, or was sent, and has not reported.
    pub(super) known: HashSet<(RunId, u64)>,
    /// Attempts that it was told to stop.
    pub(super) cancelled: HashSet<(RunId, u64)>,
}

/// All connected workers. A worker has one session: a new one takes the place of the old.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: BTreeMap<SessionId, Session>,
    by_worker: HashMap<Arc<str>, SessionId>,
    /// When each worker was last heard in this term, gone ones included.
    heard: HashMap<Arc<str>, Instant>,
}

impl Sessions {
    pub(super) fn open(&mut self, id: SessionId, session: Session) -> Option<SessionId> {
        let worker = session.hello.worker.clone();
        self.heard.insert(worker.clone(), session.last_heard);
        let old = self.by_worker.insert(worker, id);
        if let Some(old) = old {
            self.by_id.remove(&old);
        }
        self.by_id.insert(id, session);
        old
    }

    pub(super) fn close(&mut self, id: SessionId) {
        if let Some(session) = self.by_id.remove(&id)
            && self.by_worker.get(&session.hello.worker) == Some(&id)
        {
            self.by_worker.remove(&session.hello.worker);
        }
    }

    pub(super) fn heard(&mut self, id: SessionId, now: Instant) -> Option<&mut Session> {
        let session = self.by_id.get_mut(&id)?;
        session.last_heard = now;
        self.heard.insert(session.hello.worker.clone(), now);
        Some(session)
    }

    pub(super) fn of_worker(&mut self, worker: &Arc<str>) -> Option<(SessionId, &mut Session)> {
        let id = *self.by_worker.get(worker)?;
        self.by_id.get_mut(&id).map(|session| (id, session))
    }

    /// Asks the worker, or the life of it that has the output of the one that is asked for.
    pub(super) fn read_output(&self, worker: &Arc<str>, wanted: Box<OutputWanted>) -> OutputAsked {
        let by_name = self.by_worker.get(worker).and_then(|id| self.by_id.get(id));
        let has_it = |session: &&Session| session.hello.earlier.contains(worker);
        let session = by_name.or_else(|| self.by_id.values().find(has_it));
        match session {
            None => OutputAsked::Away,
            Some(session) if !session.hello.keeps_output => OutputAsked::KeepsNone,
            // One that has no room for a message has more important ones.
            Some(session) => match session.outbox.try_send(Message::ReadOutput(wanted)) {
                Ok(()) => OutputAsked::Asked,
                Err(_) => OutputAsked::Away,
            },
        }
    }

    /// Forgets when workers were heard that are gone and carry nothing.
    pub(super) fn forget_silent(&mut self, state: &State, lease: Duration) {
        let by_worker = &self.by_worker;
        self.heard.retain(|worker, heard| {
            by_worker.contains_key(worker) || state.lease(worker).is_some() || heard.elapsed() < lease
        });
    }

    pub(super) fn ids(&self) -> Vec<SessionId> {
        self.by_id.keys().copied().collect()
    }

    /// Who was sent an attempt, or said that it holds it.
    pub(super) fn who_knows(&self, run: RunId, fence: u64) -> Option<Arc<str>> {
        let knows = self.by_id.values().find(|session| session.known.contains(&(run, fence)));
        knows.map(|session| session.hello.worker.clone())
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn drain_all(&mut self) -> Vec<Session> {
        self.by_worker.clear();
        self.heard.clear();
        std::mem::take(&mut self.by_id).into_values().collect()
    }

    /// What the plan needs to know; `starts` counts the starts in flight for each worker.
    pub(super) fn view(
        &self,
        state: &State,
        starts: &HashMap<Arc<str>, u32>,
        listening: Listening,
    ) -> plan::Sessions {
        let mut view = plan::Sessions { lease: listening.lease, ..plan::Sessions::default() };
        for session in self.by_id.values() {
            let hello = &session.hello;
            let is_alive = listening.now.duration_since(session.last_heard) < listening.lease / 2;
            if is_alive {
                view.alive.insert(hello.worker.clone());
            }
            let busy =
                state.load(&hello.worker).saturating_add(starts.get(&hello.worker).copied().unwrap_or(0));
            // A machine that lost power closes no stream: its silence is the first sign.
            if is_alive && !session.draining {
                view.open.push(plan::Session {
                    worker: hello.worker.clone(),
                    queues: hello.queues.clone(),
                    labels: hello.labels.clone(),
                    kinds: hello.kinds.clone(),
                    free: hello.slots.saturating_sub(busy),
                });
            }
        }
        // A worker may start what it holds until a lease after its last sign was answered, so nothing of
        // it is given up before this leader, or the one before it, has heard nothing for a whole lease.
        let patience = listening.lease;
        for (worker, _) in state.leases() {
            let heard = self.heard.get(worker).copied().unwrap_or(listening.since);
            if listening.now.duration_since(heard.max(listening.since)) < patience {
                view.spared.insert(worker.clone());
            }
        }
        view
    }

    pub(super) fn infos(&self, state: &State) -> Vec<WorkerInfo> {
        self.by_id
            .values()
            .map(|session| WorkerInfo {
                worker: session.hello.worker.to_string(),
                queues: session.hello.queues.iter().map(ToString::to_string).collect(),
                labels: session.hello.labels.clone(),
                kinds: session.hello.kinds.iter().cloned().collect(),
                slots: session.hello.slots,
                running: state.load(&session.hello.worker),
                draining: session.draining,
            })
            .collect()
    }
}

/// Since when this leader listens, and how long a lease is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listening {
    pub(super) since: Instant,
    pub(super) now: Instant,
    pub(super) lease: Duration,
}

#[cfg(test)]
mod tests;
