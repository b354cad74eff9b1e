//! A worker on its way out: asked to drain, told to go on, or ended with its process.

use tokio::time::Instant;

use super::{Link, Worker};
use crate::pb::v1 as pb;
use crate::worker::FAREWELL_MAX;
use crate::worker::link::LinkError;
use crate::worker::phase::{Due, Phase};

/// What a worker says of itself when its process is ended.
fn by_ending() -> pb::Drain {
    pb::Drain { actor: String::new(), reason: "its process is being ended".to_owned(), asked_at: None }
}

impl Worker {
    /// The process is being ended.
    pub(super) fn drain(&mut self) {
        tracing::info!(running = self.ledger.running(), waiting = self.ledger.waiting(), "draining");
        self.ending = true;
        self.asked.get_or_insert_with(by_ending);
        self.phase.end(Instant::now(), self.options.drain_grace);
    }

    /// The leader was asked to have this worker take nothing new.
    pub(super) fn drain_on_request(&mut self, drain: pb::Drain) {
        if self.asked.is_some() {
            return;
        }
        let (running, waiting) = (self.ledger.running(), self.ledger.waiting());
        tracing::info!(actor = drain.actor, reason = drain.reason, running, waiting, "draining on request");
        self.asked = Some(drain);
        self.phase = Phase::Draining { until: None };
    }

    /// The leader was asked to let it go on. It says hello anew, without the drain.
    pub(super) fn resume(&mut self) -> Result<(), LinkError> {
        if self.asked.is_none() || self.ending || self.phase.is_leaving() {
            return Ok(());
        }
        tracing::info!("taking orders again");
        self.asked = None;
        self.phase = Phase::Serving;
        Err(LinkError::Resumed)
    }

    pub(super) fn deadline(&mut self) {
        match self.phase.pass(Instant::now()) {
            Due::Nothing => {}
            Due::Leave => self.stopped += self.ledger.leave(),
            Due::Abandon => {
                self.attempts.abort_all();
                self.ledger.abandon_running();
            }
        }
    }

    /// Goes on to the farewell when there is nothing left to wait for, and nothing under way. What is part of a node
    /// stays until that is ended.
    pub(super) fn step_phase(&mut self) {
        let is_idle = self.ledger.running() + self.ledger.waiting() == 0;
        let stays = self.options.node.is_some() && !self.ending;
        let goes_on = match self.phase {
            Phase::Serving | Phase::Farewell { .. } => false,
            Phase::Draining { .. } => is_idle && !stays && self.no_order_is_under_way(),
            Phase::Stopping { .. } => is_idle,
        };
        if goes_on {
            self.phase = Phase::Farewell { until: Instant::now() + FAREWELL_MAX };
        }
    }

    pub(super) fn is_over(&self) -> bool {
        match self.phase {
            Phase::Serving | Phase::Draining { .. } | Phase::Stopping { .. } => false,
            Phase::Farewell { until } => {
                let owes_nothing = self.ledger.unacknowledged() == 0 && self.no_order_is_under_way();
                (owes_nothing && self.attempts.is_empty()) || Instant::now() >= until
            }
        }
    }

    /// An order that the leader sends to a worker that has gone is an attempt lost, so the worker stays until the
    /// leader has heard of the drain. Without a link no order can arrive.
    fn no_order_is_under_way(&self) -> bool {
        match &self.link {
            Link::Searching => true,
            Link::Opening(..) => false,
            Link::Open(link) => link.drain_was_heard(),
        }
    }
}
