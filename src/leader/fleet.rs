//! What people ask about the workers, and of them: who is there, and that one drains or goes on.
//!
//! A drain is the worker's own: it is told, and it says so itself, here and in each hello to whoever leads then. The
//! loop keeps only who waits for that. So an answer means that the worker knows, and nothing that a takeover would
//! miss is kept here; whoever waits when the worker's stream ends, or this node stops leading, is told to ask again.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::said::{DrainAsked, Message, SessionId, WorkerInfo};
use super::sessions::Seeing;
use super::turn::Loop;

/// What is asked.
#[derive(Debug)]
pub enum FleetAsk {
    /// Who is connected, and who is not and carries attempts.
    List {
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Vec<WorkerInfo>, FleetError>>,
    },
    /// A worker is to take nothing new.
    Drain {
        /// Its name, or its place.
        worker: String,
        /// By whom, why and when.
        asked: DrainAsked,
        /// Where the answer goes, once the worker has confirmed it.
        answer: Answer,
    },
    /// A worker that drains is to take orders again.
    Resume {
        /// Its name, or its place.
        worker: String,
        /// Where the answer goes, once the worker has said hello anew.
        answer: Answer,
    },
}

/// Where what became of a change goes.
pub type Answer = oneshot::Sender<Result<WorkerInfo, FleetError>>;

/// Why there is no answer, or no change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeading,
    /// Nobody of that name is connected.
    #[error("no worker of that name is connected")]
    NoWorker,
    /// The place has several workers.
    #[error("{} workers are at that place", .0.len())]
    Ambiguous(Vec<Arc<str>>),
    /// The worker's release knows nothing of it.
    #[error("the worker speaks version {0} of the worker protocol, which has no drain")]
    TooOld(u32),
    /// The worker's process is being ended.
    #[error("the worker is being ended where it runs")]
    Ending,
    /// The worker's stream ended before it had confirmed it.
    #[error("the worker did not confirm it before its stream ended")]
    Unconfirmed,
}

/// Whether a worker drains, as its leader knows it.
#[derive(Debug, Default)]
pub(super) enum Drain {
    /// It does not.
    #[default]
    No,
    /// It was asked to and has not confirmed it; it is given nothing new already.
    Asked { asked: DrainAsked, waiting: Vec<Answer> },
    /// It says that it does.
    Confirmed(DrainAsked),
}

impl Drain {
    /// Whether it is given nothing new.
    pub(super) const fn is_on(&self) -> bool {
        !matches!(self, Self::No)
    }

    /// Why.
    pub(super) const fn asked(&self) -> Option<&DrainAsked> {
        match self {
            Self::No => None,
            Self::Asked { asked, .. } | Self::Confirmed(asked) => Some(asked),
        }
    }
}

/// Who waits until a worker has said hello anew, by its name.
pub(super) type Resuming = HashMap<Arc<str>, Vec<Answer>>;

impl Loop {
    /// Answers, or lets the worker know.
    pub(super) fn fleet(&mut self, ask: FleetAsk) {
        // Who asks may have read already what was applied since this turn began.
        self.look();
        // Who asked may have gone; then nobody needs the answer.
        match ask {
            FleetAsk::List { answer } => {
                let _ = answer.send(self.listed());
            }
            FleetAsk::Drain { worker, asked, answer } => match self.asked_worker(&worker) {
                Ok(id) => self.ask_to_drain(id, asked, answer),
                Err(error) => drop(answer.send(Err(error))),
            },
            FleetAsk::Resume { worker, answer } => match self.asked_worker(&worker) {
                Ok(id) => self.ask_to_resume(id, answer),
                Err(error) => drop(answer.send(Err(error))),
            },
        }
    }

    fn listed(&self) -> Result<Vec<WorkerInfo>, FleetError> {
        self.term().map(|_| self.infos()).ok_or(FleetError::NotLeading)
    }

    /// The session of a worker that understands a drain.
    fn asked_worker(&self, worker: &str) -> Result<SessionId, FleetError> {
        self.term().ok_or(FleetError::NotLeading)?;
        let (id, session) = self.sessions.named(worker)?;
        if session.hello.takes_drain { Ok(id) } else { Err(FleetError::TooOld(session.hello.protocol)) }
    }

    fn ask_to_drain(&mut self, id: SessionId, asked: DrainAsked, answer: Answer) {
        let info = self.info(id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        match &mut session.drain {
            Drain::Confirmed(_) => drop(answer.send(info.ok_or(FleetError::NoWorker))),
            Drain::Asked { waiting, .. } => {
                waiting.retain(|waiting| !waiting.is_closed());
                waiting.push(answer);
            }
            Drain::No => {
                session.drain = Drain::Asked { asked: asked.clone(), waiting: vec![answer] };
                let worker = session.hello.worker.clone();
                self.send(&worker, Message::Drain(asked));
                self.publish_workers();
            }
        }
    }

    fn ask_to_resume(&mut self, id: SessionId, answer: Answer) {
        let info = self.info(id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        match session.drain.asked() {
            None => drop(answer.send(info.ok_or(FleetError::NoWorker))),
            Some(asked) if asked.at.is_none() => drop(answer.send(Err(FleetError::Ending))),
            Some(_) => {
                let worker = session.hello.worker.clone();
                self.resuming.retain(|_, waiting| {
                    waiting.retain(|waiting| !waiting.is_closed());
                    !waiting.is_empty()
                });
                self.resuming.entry(worker.clone()).or_default().push(answer);
                self.send(&worker, Message::Resume);
            }
        }
    }

    /// The worker says that it drains.
    pub(super) fn drains(&mut self, id: SessionId, asked: DrainAsked) {
        let Some(session) = self.sessions.heard(id, Instant::now()) else { return };
        let before = std::mem::replace(&mut session.drain, Drain::Confirmed(asked));
        self.publish_workers();
        if let Drain::Asked { waiting, .. } = before
            && let Some(info) = self.info(id)
        {
            for answer in waiting {
                let _ = answer.send(Ok(info.clone()));
            }
        }
    }

    /// The worker has said hello and, if it drains, so: whoever waits for its new hello is told.
    pub(super) fn greeted(&mut self, id: SessionId) {
        if self.resuming.is_empty() {
            return;
        }
        let Some(info) = self.info(id) else { return };
        for answer in self.resuming.remove(info.worker.as_ref()).into_iter().flatten() {
            let _ = answer.send(if info.draining { Err(FleetError::Ending) } else { Ok(info.clone()) });
        }
    }

    fn info(&self, id: SessionId) -> Option<WorkerInfo> {
        self.sessions.get(id).map(|session| self.sessions.info(session, &self.seeing()))
    }

    /// All workers, in the order of their names.
    pub(super) fn infos(&self) -> Vec<WorkerInfo> {
        self.sessions.infos(&self.seeing())
    }

    fn seeing(&self) -> Seeing<'_> {
        Seeing {
            state: &self.state,
            starts: &self.flight.starts,
            lease: self.options.lease,
            now: Instant::now(),
            wall: self.options.clock.clock().now(),
        }
    }
}
