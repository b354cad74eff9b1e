//! The workers connected to the leader: what each said of itself, and what it was sent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::fleet::{Drain, FleetError};
use super::said::{Hello, Message, OutputAsked, OutputWanted, SessionId, Standing, WorkerInfo};
use crate::scheduler::plan;
use crate::state::State;
use crate::state::run::RunId;
use crate::state::time::Timestamp;

/// Heartbeats of a stream that wait for an answer; at one more the stream is ended, and the worker opens another.
const UNANSWERED_MAX: u32 = 32;

/// A connected worker.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) hello: Hello,
    pub(super) outbox: mpsc::Sender<Message>,
    pub(super) last_heard: Instant,
    /// When it was opened, by the wall clock.
    pub(super) connected_at: Timestamp,
    pub(super) drain: Drain,
    /// It has sent a heartbeat. One that drains says so before that, so until then nobody knows whether it does.
    pub(super) has_beaten: bool,
    /// Heartbeats that had no answer when they came, and get one with the next that may be answered.
    pub(super) unanswered: u32,
    /// When it was last given an attempt, by a count of this leader's.
    pub(super) given: u64,
    /// Attempts that it was told to stop, that the state gave up, and that it has not reported: each takes a slot there.
    pub(super) leftover: HashSet<(RunId, u64)>,
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

    /// Who has to stop this attempt.
    pub(super) fn who_stops(&self, run: RunId, fence: u64) -> Option<Arc<str>> {
        let stops = self.by_id.values().find(|session| session.leftover.contains(&(run, fence)));
        stops.map(|session| session.hello.worker.clone())
    }

    /// No worker has to stop this attempt any more.
    pub(super) fn stopped(&mut self, run: RunId, fence: u64) {
        for session in self.by_id.values_mut() {
            session.leftover.remove(&(run, fence));
        }
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id)
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
            // A machine that lost power closes no stream: its silence is the first sign.
            if is_alive && session.has_beaten && !session.drain.is_on() {
                view.open.push(plan::Session {
                    worker: hello.worker.clone(),
                    queues: hello.queues.clone(),
                    labels: hello.labels.clone(),
                    kinds: hello.kinds.clone(),
                    slots: hello.slots,
                    free: session.free(state, starts),
                    given: session.given,
                });
            }
        }
        // A worker may start what it holds until a lease after its last sign was answered, so nothing of
        // it is given up before this leader, or the one before it, has heard nothing for a whole lease.
        let patience = listening.lease;
        view.is_complete = listening.now.duration_since(listening.since) >= patience;
        for (worker, _) in state.leases() {
            let heard = self.heard.get(worker).copied().unwrap_or(listening.since);
            if listening.now.duration_since(heard.max(listening.since)) < patience {
                view.spared.insert(worker.clone());
            }
        }
        view
    }

    /// The workers, in the order of their names: all that are connected, and those that are not and carry attempts.
    pub(super) fn infos(&self, seeing: &Seeing<'_>) -> Vec<WorkerInfo> {
        let connected = self.by_id.values().map(|session| self.info(session, seeing));
        let away = seeing.state.leases().filter(|(worker, _)| !self.by_worker.contains_key(*worker));
        let mut infos: Vec<WorkerInfo> =
            connected.chain(away.map(|(worker, _)| self.away(worker, seeing))).collect();
        infos.sort_unstable_by(|one, other| one.worker.cmp(&other.worker));
        infos
    }

    pub(super) fn info(&self, session: &Session, seeing: &Seeing<'_>) -> WorkerInfo {
        let hello = &session.hello;
        let silent_for = seeing.now.saturating_duration_since(session.last_heard);
        let standing = match (session.drain.is_on(), silent_for < seeing.lease / 2) {
            (_, false) => Standing::Silent,
            (true, true) => Standing::Draining,
            (false, true) => Standing::Serving,
        };
        let is_serving = standing == Standing::Serving;
        WorkerInfo {
            worker: hello.worker.clone(),
            queues: hello.queues.clone(),
            labels: hello.labels.clone(),
            kinds: hello.kinds.clone(),
            slots: hello.slots,
            running: seeing.state.load(&hello.worker),
            free: if is_serving { session.free(seeing.state, seeing.starts) } else { 0 },
            draining: session.drain.is_on(),
            standing,
            drain: session.drain.asked().cloned(),
            node: hello.node,
            connected_to: Some(hello.connected_to),
            address: hello.address.clone(),
            version: hello.version.clone(),
            protocol: hello.protocol,
            connected_at: Some(session.connected_at),
            last_heard_at: Some(seeing.wall.minus(silent_for)),
        }
    }

    fn away(&self, worker: &Arc<str>, seeing: &Seeing<'_>) -> WorkerInfo {
        let heard = self.heard.get(worker);
        let last_heard_at =
            heard.map(|heard| seeing.wall.minus(seeing.now.saturating_duration_since(*heard)));
        WorkerInfo {
            worker: worker.clone(),
            queues: Arc::default(),
            labels: Arc::default(),
            kinds: Arc::default(),
            slots: 0,
            running: seeing.state.load(worker),
            free: 0,
            draining: false,
            standing: Standing::Away,
            drain: None,
            node: None,
            connected_to: None,
            address: String::new(),
            version: String::new(),
            protocol: 0,
            connected_at: None,
            last_heard_at,
        }
    }

    /// The session of the worker of this name, or of the one at this place: what is before the last `/` of its name.
    pub(super) fn named(&self, name: &str) -> Result<(SessionId, &Session), FleetError> {
        let by_name = self.by_worker.get(name).copied();
        let at_place = || {
            let is_there =
                |worker: &&Arc<str>| worker.rsplit_once('/').is_some_and(|(place, _)| place == name);
            let mut there: Vec<Arc<str>> = self.by_worker.keys().filter(is_there).cloned().collect();
            match there.as_slice() {
                [] => Err(FleetError::NoWorker),
                [one] => self.by_worker.get(one).copied().ok_or(FleetError::NoWorker),
                [_, _, ..] => {
                    there.sort_unstable();
                    Err(FleetError::Ambiguous(there))
                }
            }
        };
        let id = by_name.map_or_else(at_place, Ok)?;
        self.get(id).map(|session| (id, session)).ok_or(FleetError::NoWorker)
    }
}

/// What workers are looked at with.
pub(super) struct Seeing<'a> {
    pub(super) state: &'a State,
    /// Starts in flight for each worker.
    pub(super) starts: &'a HashMap<Arc<str>, u32>,
    pub(super) lease: Duration,
    pub(super) now: Instant,
    pub(super) wall: Timestamp,
}

impl Session {
    /// Takes a heartbeat in, and answers it and all before it if they may be answered. The worker counts: an answer
    /// that never came would make it take each later one for that of an older heartbeat, and one that lags by a lease
    /// begins nothing any more. Returns whether the stream can go on.
    pub(super) fn answer(&mut self, may: bool) -> bool {
        self.has_beaten = true;
        self.unanswered += 1;
        if !may {
            return self.unanswered <= UNANSWERED_MAX;
        }
        (0..std::mem::take(&mut self.unanswered)).all(|_| self.outbox.try_send(Message::Heartbeat).is_ok())
    }

    /// Slots for something new: what runs there, what is on its way, and what still stops there is taken off.
    fn free(&self, state: &State, starts: &HashMap<Arc<str>, u32>) -> u32 {
        let worker = &self.hello.worker;
        let under_way = starts.get(worker).copied().unwrap_or(0);
        let stopping = u32::try_from(self.leftover.len()).unwrap_or(u32::MAX);
        let busy = state.load(worker).saturating_add(under_way).saturating_add(stopping);
        self.hello.slots.saturating_sub(busy)
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
