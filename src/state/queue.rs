//! Limits of queues: attempts at the same time, how often they start, and how many runs may wait.
//!
//! They are like those of groups ([`super::group`]), over all namespaces, and set by hand. A run that comes into being
//! while its queue is full is skipped, with reason `limit`; one that waits again, for a retry or behind a breaker, is
//! not turned away, for it has its verdict.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::State;
use super::apply::Applying;
use super::command::{Outcome, Request};
use super::group::Group;
use super::job::Origin;
use super::limits;
use super::rejection::Rejection;
use super::run::{Phase, Run};
use super::spec::{Limits, Rate};
use super::time::Timestamp;

/// What a queue is limited to; nothing where all is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueLimits {
    /// Attempts that run at the same time.
    pub concurrency: Option<u32>,
    /// How often they start.
    pub rate: Option<Rate>,
    /// Runs that may wait.
    pub waiting: Option<u32>,
}

/// A queue with limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Runs that may wait.
    pub waiting: Option<u32>,
    /// The other limits, and how far they are used.
    pub group: Group,
    /// Who set them, why and when.
    pub origin: Origin,
}

/// What is in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLoad {
    /// Runs that wait.
    pub waiting: u32,
    /// Runs of which an attempt runs.
    pub running: u32,
}

impl QueueLoad {
    /// The same with one run more, or less.
    fn counting(self, run: &Run, count: impl Fn(u32) -> u32) -> Self {
        match run.phase {
            Phase::Waiting => Self { waiting: count(self.waiting), ..self },
            Phase::Running => Self { running: count(self.running), ..self },
            Phase::Queued | Phase::Held | Phase::Backoff { .. } | Phase::Spread | Phase::Ended => self,
        }
    }
}

impl State {
    /// The limits of a queue, if it has any.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<&Arc<Queue>> {
        self.queues.get(name)
    }

    /// All queues with limits.
    pub fn queues(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Queue>)> {
        self.queues.iter()
    }

    /// What is in a queue with limits; nothing of one without.
    #[must_use]
    pub fn queue_load(&self, name: &str) -> QueueLoad {
        self.queue_loads.get(name).copied().unwrap_or_default()
    }

    /// Whether the limits of a queue let an attempt start at `at`, when `planned` others will have before it.
    #[must_use]
    pub fn has_queue_room(&self, name: &str, planned: u32, at: Timestamp) -> bool {
        let Some(queue) = self.queues.get(name) else { return true };
        queue.group.has_room(self.queue_load(name).running.saturating_add(planned), planned, at)
    }

    /// How many runs wait in a queue in which no more may, if that is so.
    pub(super) fn is_full(&self, name: &str) -> Option<u32> {
        let most = self.queues.get(name)?.waiting?;
        (self.queue_load(name).waiting >= most).then_some(most)
    }

    /// Takes what a start costs; whether there is room was asked before.
    pub(super) fn take_queue_token(&mut self, name: &Arc<str>, at: Timestamp) {
        let Some(queue) = self.queues.get(name).filter(|queue| queue.group.rate.is_some()) else { return };
        let mut queue = queue.as_ref().clone();
        queue.group.take(at);
        self.queues.insert(name.clone(), Arc::new(queue));
    }

    /// Puts a queue in place, and counts what is in it.
    pub(super) fn put_queue(&mut self, name: Arc<str>, queue: Queue) {
        if !self.queues.contains_key(&name) {
            let load = self.runs.values().filter(|run| run.queue == name);
            let load = load.fold(QueueLoad::default(), |load, run| load.counting(run, |count| count + 1));
            self.queue_loads.insert(name.clone(), load);
        }
        self.queues.insert(name, Arc::new(queue));
    }

    fn remove_queue(&mut self, name: &str) {
        self.queues.remove(name);
        self.queue_loads.remove(name);
    }

    /// Counts a run in, or out.
    pub(super) fn count_in_queue(&mut self, run: &Run, count: impl Fn(u32) -> u32) {
        if let Some(load) = self.queue_loads.get(&run.queue) {
            let load = load.counting(run, count);
            self.queue_loads.insert(run.queue.clone(), load);
        }
    }
}

impl Applying<'_> {
    /// Sets the limits of a queue, or takes them away.
    pub(super) fn set_queue(
        &mut self,
        name: &Arc<str>,
        limits: &QueueLimits,
        request: &Request,
    ) -> Result<Outcome, Rejection> {
        let at = self.moment.at;
        if *limits == QueueLimits::default() {
            self.state.remove_queue(name);
            return Ok(Outcome::Done);
        }
        let shared = Limits { group: None, concurrency: limits.concurrency, rate: limits.rate };
        let group = match self.state.queues.get(name) {
            Some(old) => {
                let mut group = old.group.clone();
                group.change(&shared, at);
                group
            }
            None if self.state.queues.len() >= limits::QUEUES => return Err(Rejection::Limit),
            None => Group::new(&shared, at),
        };
        let (actor, reason) = (request.actor.clone(), request.reason.clone());
        let origin = Origin { version: 1, at, actor, reason };
        self.state.put_queue(name.clone(), Queue { waiting: limits.waiting, group, origin });
        Ok(Outcome::Done)
    }
}
