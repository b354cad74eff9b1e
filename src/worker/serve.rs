//! The task that owns a worker: it hears everything, decides everything and shares nothing.

mod leaving;

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::convert;
use super::finder::{Finder, Step, Way};
use super::ledger::{Key, Ledger};
use super::link::{self, LinkError, LinkEvent, OpenError, OpenLink, Opening};
use super::phase::Phase;
use super::reads::Reads;
use super::{CARRIED_MAX, NAME_BYTES_MAX, OptionsError, SETTLE_MAX, WorkerEnd, WorkerOptions, WorkerStatus};
use crate::pb::protocol;
use crate::pb::v1 as pb;
use crate::pb::v1::worker_message::Kind as FromWorker;
use crate::target::{Carrier, Outcome, Report};

/// Carries out attempts for the cluster; see the module.
#[derive(Debug)]
pub struct Worker {
    options: WorkerOptions,
    carrier: Carrier,
    ledger: Ledger,
    finder: Finder,
    link: Link,
    phase: Phase,
    /// Why it drains, while it does.
    asked: Option<pb::Drain>,
    /// Its process is being ended.
    ending: bool,
    attempts: JoinSet<Report>,
    keys: HashMap<Id, Key>,
    reads: Reads,
    stopped: usize,
    /// The last refusal, so that a lasting one is logged once.
    refusal: Option<String>,
    status: watch::Sender<WorkerStatus>,
}

/// The one stream to the leader, or the search for it.
enum Link {
    Searching,
    Opening(Arc<str>, Way, BoxFuture<'static, Result<OpenLink, OpenError>>),
    Open(Box<OpenLink>),
}

enum Event {
    Shutdown,
    Deadline,
    Ended(Result<(Id, Report), JoinError>),
    Ask(Arc<str>, Way),
    PauseOver,
    LookAgain,
    Opened(Box<Result<OpenLink, OpenError>>),
    Link(Result<LinkEvent, LinkError>),
}

impl Worker {
    /// A worker that does nothing before [`Self::run`].
    ///
    /// # Errors
    /// [`OptionsError`] when an option is out of its bounds.
    pub fn new(options: WorkerOptions, carrier: Carrier) -> Result<Self, OptionsError> {
        options.check()?;
        let endpoints = options.endpoints.iter().map(|endpoint| endpoint.as_str().into()).collect();
        Ok(Self {
            ledger: Ledger::new(options.slots as usize),
            finder: Finder::new(endpoints, options.seed, Instant::now()),
            reads: Reads::new(options.spool.clone(), options.dialer.clone()),
            options,
            carrier,
            link: Link::Searching,
            phase: Phase::Serving,
            asked: None,
            ending: false,
            attempts: JoinSet::new(),
            keys: HashMap::new(),
            stopped: 0,
            refusal: None,
            status: watch::Sender::new(WorkerStatus::default()),
        })
    }

    /// What the worker is doing, from here to its end.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<WorkerStatus> {
        self.status.subscribe()
    }

    /// Serves until `shutdown`, then drains: waits `drain_grace` for what it holds, stops the rest, waits for the
    /// last acknowledgements, and returns. The steps after the grace are bounded by 20 s together. One that stands
    /// alone also returns when the leader has it drain and all that it held has ended.
    ///
    /// Dropping the future kills at once what runs, and reports nothing.
    pub async fn run(mut self, shutdown: CancellationToken) -> WorkerEnd {
        loop {
            self.step_phase();
            self.begin_what_may();
            self.publish();
            if self.is_over() {
                if let Some(spool) = &self.options.spool {
                    spool.settle(Instant::now() + SETTLE_MAX).await;
                }
                return WorkerEnd { stopped: self.stopped, unacknowledged: self.ledger.unacknowledged() };
            }
            match self.next_event(&shutdown).await {
                Event::Shutdown => self.drain(),
                Event::Deadline => self.deadline(),
                Event::Ended(ended) => self.attempt_ended(ended),
                Event::Ask(address, way) => self.ask(address, way),
                Event::LookAgain => self.lose_link(LinkError::Carried, Instant::now()),
                Event::PauseOver => {}
                Event::Opened(opened) => self.opened(*opened),
                Event::Link(event) => self.heard(event),
            }
        }
    }

    async fn next_event(&mut self, shutdown: &CancellationToken) -> Event {
        let wants_room = self.ledger.owes_report() || self.owes_drain();
        let pause_until = match &self.link {
            Link::Searching => match self.finder.next(Instant::now()) {
                Step::Ask(address, way) => return Event::Ask(address, way),
                Step::Wait(until) => Some(until),
            },
            Link::Opening(..) | Link::Open(_) => None,
        };
        let look_again_at = self.look_again_at();
        tokio::select! { biased;
            () = shutdown.cancelled(), if !self.ending => Event::Shutdown,
            () = at(self.phase.deadline()) => Event::Deadline,
            Some(ended) = self.attempts.join_next_with_id() => Event::Ended(ended),
            () = at(pause_until) => Event::PauseOver,
            () = at(look_again_at) => Event::LookAgain,
            event = self.link.next(wants_room) => event,
        }
    }

    /// When to look whether the leader itself can be reached by now; workers do not look all at once.
    fn look_again_at(&self) -> Option<Instant> {
        let spread = CARRIED_MAX.mul_f64((self.options.seed % 1_000) as f64 / 5_000.0);
        match &self.link {
            Link::Open(link) if link.carried_by.is_some() => Some(link.opened_at + CARRIED_MAX + spread),
            Link::Open(_) | Link::Searching | Link::Opening(..) => None,
        }
    }

    /// Starts attempts while there is one that may start. The link's confirmation is checked for each.
    fn begin_what_may(&mut self) {
        if self.phase.is_leaving() {
            return;
        }
        while self.is_confirmed()
            && let Some(start) = self.ledger.start_next()
        {
            tracing::debug!(run_id = %start.key.run_id, fence = start.key.fence, "attempt begins");
            let attempt = self.carrier.carry_out(*start.order, start.cancel);
            let task = self.attempts.spawn(attempt);
            self.keys.insert(task.id(), start.key);
        }
    }

    fn is_confirmed(&self) -> bool {
        match &self.link {
            Link::Open(link) => link.may_begin_until().is_some_and(|until| Instant::now() < until),
            Link::Searching | Link::Opening(..) => false,
        }
    }

    fn attempt_ended(&mut self, ended: Result<(Id, Report), JoinError>) {
        let (id, report) = match ended {
            Ok((id, report)) => (id, report),
            Err(error) => {
                if !error.is_cancelled() {
                    tracing::error!(%error, "an attempt panicked");
                }
                (
                    error.id(),
                    Report::of(Outcome::Failed).with_error("the worker failed while carrying it out"),
                )
            }
        };
        if let Some(key) = self.keys.remove(&id) {
            tracing::debug!(run_id = %key.run_id, fence = key.fence, outcome = ?report.outcome, "attempt ended");
            self.ledger.ended(&key, report);
        }
    }

    fn ask(&mut self, address: Arc<str>, way: Way) {
        let opening = Opening {
            address: address.clone(),
            dialer: self.options.dialer.clone(),
            hello: pb::Hello { leader_only: way == Way::Straight, ..self.hello() },
            drain: self.asked.clone(),
        };
        self.link = Link::Opening(address, way, Box::pin(link::open(opening)));
    }

    /// What is held cannot change while the link is being opened: without a link nothing is taken, begun or
    /// acknowledged, and what ends stays held.
    fn hello(&self) -> pb::Hello {
        pb::Hello {
            worker: self.options.name.clone(),
            queues: self.options.queues.iter().cloned().collect(),
            labels: self.options.labels.clone(),
            kinds: self.options.kinds.iter().cloned().collect(),
            slots: self.options.slots,
            held: self.ledger.held(),
            version: self.options.version.clone(),
            protocol: protocol::SPOKEN.newest,
            protocol_min: protocol::SPOKEN.oldest,
            leader_only: false,
            node_id: self.options.node.unwrap_or(0),
            relayed: None,
            keeps_output: self.options.spool.is_some(),
            earlier: self.options.spool.as_ref().map(|spool| spool.earlier().to_vec()).unwrap_or_default(),
        }
    }

    fn opened(&mut self, opened: Result<OpenLink, OpenError>) {
        let Link::Opening(address, way, _) = std::mem::replace(&mut self.link, Link::Searching) else {
            return;
        };
        let now = Instant::now();
        let error = match opened {
            Ok(link) => {
                match link.carried_by {
                    None => tracing::info!(leader = %address, term = link.term, "serving the leader"),
                    Some(node) => {
                        tracing::info!(through = %address, node, term = link.term, "serving the leader through a node")
                    }
                }
                self.refusal = None;
                self.ledger.stream_opened();
                self.link = Link::Open(Box::new(link));
                return;
            }
            Err(error) => error,
        };
        match error {
            OpenError::NotLeader { leader } => self.finder.not_leader(&address, way, leader, now),
            OpenError::Silent => self.finder.silent(address, now),
            // Down, or on its way down or up.
            OpenError::Connect(_) | OpenError::Ended => {}
            error @ (OpenError::Refused(_)
            | OpenError::Protocol
            | OpenError::Version(_)
            | OpenError::Address(_)) => {
                let refusal = format!("{address}: {}", chain(&error));
                if self.refusal.as_ref() != Some(&refusal) {
                    tracing::warn!(endpoint = %address, error = chain(&error), "a node refuses this worker");
                    self.refusal = Some(refusal);
                }
            }
        }
    }

    fn heard(&mut self, event: Result<LinkEvent, LinkError>) {
        let now = Instant::now();
        let taken = match event {
            Ok(LinkEvent::Order(order)) => self.take(*order),
            Ok(LinkEvent::Cancel(named)) => match key_of(named.run_id, named.fence) {
                Some(key) => self.ledger.cancel(&key).map_err(LinkError::from),
                None => Err(LinkError::Protocol),
            },
            Ok(LinkEvent::Acknowledged(named)) => {
                if let Some(key) = key_of(named.run_id, named.fence) {
                    self.ledger.acknowledge(&key);
                }
                Ok(())
            }
            Ok(LinkEvent::ReadOutput(wanted)) => {
                if let Link::Open(link) = &self.link {
                    self.reads.answer(link.address.clone(), *wanted);
                }
                Ok(())
            }
            Ok(LinkEvent::Room(permit)) => {
                self.send(permit, now);
                Ok(())
            }
            Ok(LinkEvent::Beat) => {
                self.ledger.repeat_reports(now);
                Ok(())
            }
            Ok(LinkEvent::Drain(drain)) => {
                self.drain_on_request(drain);
                Ok(())
            }
            Ok(LinkEvent::Resume) => self.resume(),
            Ok(LinkEvent::Confirmed | LinkEvent::Nothing) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            self.lose_link(error, now);
        }
    }

    fn take(&mut self, order: pb::Order) -> Result<(), LinkError> {
        let key = key_of(order.run_id.clone(), order.fence).ok_or(LinkError::Protocol)?;
        self.ledger.accept(&key, convert::order(order))?;
        if self.phase.is_leaving() {
            self.stopped += self.ledger.give_back_waiting();
        }
        Ok(())
    }

    fn owes_drain(&self) -> bool {
        match &self.link {
            Link::Open(link) => self.asked.is_some() && !link.was_told_of_drain(),
            Link::Searching | Link::Opening(..) => false,
        }
    }

    fn send(&mut self, room: mpsc::OwnedPermit<pb::WorkerMessage>, now: Instant) {
        let owes_drain = self.owes_drain();
        match &mut self.link {
            Link::Open(link) if owes_drain => {
                link.tell_drain(room, self.asked.clone().unwrap_or_default());
            }
            Link::Open(_) => {
                if let Some(report) = self.ledger.next_report(now) {
                    room.send(pb::WorkerMessage { kind: Some(FromWorker::Report(report)) });
                }
            }
            Link::Searching | Link::Opening(..) => {}
        }
    }

    fn lose_link(&mut self, error: LinkError, now: Instant) {
        let Link::Open(link) = std::mem::replace(&mut self.link, Link::Searching) else { return };
        if matches!(error, LinkError::Carried | LinkError::Resumed) {
            // Nobody is lost, and the same one may be asked first.
            return self.finder.look_again(now);
        }
        tracing::info!(leader = %link.address, reason = chain(&error), "lost the leader");
        if matches!(error, LinkError::Silent) {
            self.finder.silent(link.address.clone(), now);
        }
        let leader = match error {
            LinkError::NotLeader { leader } => leader,
            LinkError::Ended
            | LinkError::Broken(_)
            | LinkError::Silent
            | LinkError::Protocol
            | LinkError::Carried
            | LinkError::Resumed
            | LinkError::Flood(_) => None,
        };
        self.finder.lost(&link.address, link.opened_at, leader, now);
    }

    fn publish(&self) {
        let (leader, term, carried_by) = match &self.link {
            Link::Open(link) => (Some(&link.address), Some(link.term), link.carried_by),
            Link::Searching | Link::Opening(..) => (None, None, None),
        };
        self.status.send_if_modified(|status| {
            let fresh = WorkerStatus {
                leader: leader.cloned(),
                carried_by,
                term: term.unwrap_or(status.term),
                running: self.ledger.running(),
                waiting: self.ledger.waiting(),
                unacknowledged: self.ledger.unacknowledged(),
                draining: self.asked.is_some(),
            };
            let is_modified = *status != fresh;
            *status = fresh;
            is_modified
        });
    }
}

impl Link {
    /// Cancel-safe. Never ends while searching.
    async fn next(&mut self, wants_room: bool) -> Event {
        match self {
            Self::Searching => pending().await,
            Self::Opening(_, _, opening) => Event::Opened(Box::new(opening.await)),
            Self::Open(link) => Event::Link(link.next(wants_room).await),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Searching => f.write_str("Searching"),
            Self::Opening(address, ..) => f.debug_tuple("Opening").field(address).finish(),
            Self::Open(link) => f.debug_tuple("Open").field(link).finish(),
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

fn key_of(run_id: String, fence: u64) -> Option<Key> {
    let is_name = (1..=NAME_BYTES_MAX).contains(&run_id.len());
    is_name.then(|| Key { run_id: run_id.into(), fence })
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
