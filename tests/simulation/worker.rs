//! The model of a worker: what `src/worker` promises, without processes and streams.
//!
//! It holds an attempt from its order until the report is acknowledged, says so in each hello, repeats
//! reports, ignores an order for a fence that it holds, and starts nothing once a lease has passed
//! since a heartbeat was last answered. It may stall, break its stream, or die and come back as another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use chronarch::state::run::AttemptOutcome;

use crate::LEASE_MS;
use crate::lab::chance::Chance;
use crate::lab::invariants::Held;

#[derive(Clone, Debug)]
pub(crate) enum ToWorker {
    Order(Held),
    Cancel(Held),
    Acknowledged(Held),
    Heartbeat,
    Bye,
}

#[derive(Clone, Debug)]
pub(crate) enum FromWorker {
    Hello(BTreeSet<Held>),
    Heartbeat,
    Report(Held, AttemptOutcome),
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    ends_at: u64,
    outcome: AttemptOutcome,
    /// It was told to stop and does not: only a timeout of the cluster ends it.
    hangs: bool,
    reported_at: Option<u64>,
}

pub(crate) struct Worker {
    pub(crate) name: Arc<str>,
    place: usize,
    life: u32,
    held: BTreeMap<Held, Attempt>,
    /// What was ever started in this life: an order is carried out once.
    known: BTreeSet<Held>,
    /// The node that its stream goes to, and since when.
    pub(crate) stream: Option<(usize, u64)>,
    pub(crate) stalled_until: u64,
    answered_at: u64,
    beat_at: u64,
    /// Messages with the instant at which they arrive, in order.
    pub(crate) inbox: VecDeque<(u64, ToWorker)>,
    pub(crate) outbox: VecDeque<(u64, FromWorker)>,
    /// Each start of an attempt, for the invariants: worker, what, whether it ended.
    pub(crate) began: Vec<Held>,
    pub(crate) ended: Vec<Held>,
}

impl Worker {
    pub(crate) fn new(place: usize) -> Self {
        Self {
            name: format!("w{place}/0").into(),
            place,
            life: 0,
            held: BTreeMap::new(),
            known: BTreeSet::new(),
            stream: None,
            stalled_until: 0,
            answered_at: 0,
            beat_at: 0,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            began: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// The process dies; what runs dies with it. It comes back under another name.
    pub(crate) fn die(&mut self) {
        self.life += 1;
        self.name = format!("w{}/{}", self.place, self.life).into();
        self.ended.extend(self.held.keys().copied());
        self.held.clear();
        self.known.clear();
        self.hang_up();
    }

    pub(crate) fn hang_up(&mut self) {
        self.stream = None;
        self.inbox.clear();
        self.outbox.clear();
    }

    pub(crate) fn connect(&mut self, node: usize, session: u64, now: u64, chance: &mut Chance) {
        self.stream = Some((node, session));
        self.answered_at = now;
        self.beat_at = now;
        let hello = FromWorker::Hello(self.held.keys().copied().collect());
        self.send(now, hello, chance);
    }

    fn send(&mut self, now: u64, message: FromWorker, chance: &mut Chance) {
        // A stream keeps its order.
        let earliest = self.outbox.back().map_or(0, |(at, _)| *at);
        self.outbox.push_back(((now + chance.between(5, 120)).max(earliest), message));
    }

    pub(crate) fn deliver(&mut self, now: u64, message: ToWorker, chance: &mut Chance) {
        let earliest = self.inbox.back().map_or(0, |(at, _)| *at);
        self.inbox.push_back(((now + chance.between(5, 120)).max(earliest), message));
    }

    pub(crate) fn turn(&mut self, now: u64, quiet: bool, chance: &mut Chance) {
        self.run_attempts(now);
        if now < self.stalled_until {
            return;
        }
        while self.inbox.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, message)) = self.inbox.pop_front() else { break };
            self.hear(now, message, quiet, chance);
        }
        if self.stream.is_none() {
            return;
        }
        if now.saturating_sub(self.answered_at) > LEASE_MS {
            return self.hang_up();
        }
        if now >= self.beat_at + LEASE_MS / 5 {
            self.beat_at = now;
            self.send(now, FromWorker::Heartbeat, chance);
        }
        let due: Vec<Held> = self
            .held
            .iter()
            .filter(|(_, it)| it.ends_at <= now && !it.hangs)
            .filter(|(_, it)| it.reported_at.is_none_or(|at| at + 1_000 <= now))
            .map(|(held, _)| *held)
            .collect();
        for held in due {
            if let Some(attempt) = self.held.get_mut(&held) {
                attempt.reported_at = Some(now);
                let message = FromWorker::Report(held, attempt.outcome);
                if !quiet && chance.one_in(20) {
                    self.send(now, message.clone(), chance);
                }
                self.send(now, message, chance);
            }
        }
    }

    fn run_attempts(&mut self, now: u64) {
        for (held, attempt) in &self.held {
            if attempt.ends_at <= now && !attempt.hangs && attempt.reported_at.is_none() {
                self.ended.push(*held);
            }
        }
    }

    fn hear(&mut self, now: u64, message: ToWorker, quiet: bool, chance: &mut Chance) {
        match message {
            ToWorker::Order(held) => {
                let fresh = now.saturating_sub(self.answered_at) <= LEASE_MS;
                if fresh && self.known.insert(held) {
                    let bad = !quiet && chance.one_in(3);
                    let outcome = if bad {
                        chance.pick(&[
                            AttemptOutcome::Failed,
                            AttemptOutcome::Failed,
                            AttemptOutcome::TimedOut,
                        ])
                    } else {
                        AttemptOutcome::Succeeded
                    };
                    let length =
                        if chance.one_in(6) { chance.between(2_000, 9_000) } else { chance.between(20, 900) };
                    let hangs = !quiet && chance.one_in(60);
                    let attempt = Attempt { ends_at: now + length, outcome, hangs, reported_at: None };
                    self.held.insert(held, attempt);
                    self.began.push(held);
                }
            }
            ToWorker::Cancel(held) => {
                if let Some(attempt) = self.held.get_mut(&held)
                    && attempt.ends_at > now
                {
                    attempt.ends_at = now + chance.between(0, 300);
                    attempt.outcome = AttemptOutcome::Cancelled;
                    attempt.hangs = false;
                } else if let Some(attempt) = self.held.get_mut(&held) {
                    attempt.hangs = false;
                }
            }
            ToWorker::Acknowledged(held) => {
                if self.held.remove(&held).is_some() {
                    self.ended.push(held);
                }
            }
            ToWorker::Heartbeat => self.answered_at = now,
            ToWorker::Bye => self.hang_up(),
        }
    }
}
