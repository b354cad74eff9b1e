//! The attempts that the worker holds, and what it still owes the leader about them.
//!
//! Pure: no task, no channel, no clock. The owner task tells it what happened and asks what to do; that an attempt
//! is started at most once, that a report is repeated until it is acknowledged, and that everything is bounded,
//! is decided here and tested here.
//!
//! An attempt is *waiting* (not begun), *running* (begun; it may have been told to stop) or *ended* (its report is
//! not acknowledged). An acknowledged one is no longer held, but its key is remembered for a while.
//!
//! Invariants:
//! - A key is started at most once: it leaves `waiting` for good, and a key that is held or remembered is not
//!   accepted again.
//! - Of one run at most one attempt runs, and no attempt begins after a newer one was ordered.
//! - `waiting`, `unsent` and `sent` hold exactly the keys whose stage says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::convert::{self, OrderError};
use super::{ACKNOWLEDGED_MAX, REPORT_REPEAT, WAITING_MAX};
use crate::pb::v1 as pb;
use crate::target;

/// Names an attempt. The fence alone would do; the order of keys is that of the attempts of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) run_id: Arc<str>,
    pub(super) fence: u64,
}

/// An attempt that begins.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) key: Key,
    pub(super) order: Box<target::Order>,
    pub(super) cancel: CancellationToken,
}

/// The leader has sent more than any worker can have asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the leader ordered more than the worker may hold")]
pub(super) struct Overflow;

/// Why a running attempt was told to stop; the first reason stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The leader wants it.
    Cancelled,
    /// A newer attempt of the run was ordered, so the cluster has given this one up.
    Superseded,
    /// The worker ends.
    Leaving,
}

#[derive(Debug)]
enum Stage {
    Waiting { place: u64 },
    Running { cancel: CancellationToken, stop: Option<Stop> },
    Ended { report: Box<pb::Report>, sent_at: Option<Instant> },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    slots: usize,
    attempts: BTreeMap<Key, Stage>,
    running: usize,
    /// By the order of arrival.
    waiting: BTreeMap<u64, (Key, Box<target::Order>)>,
    next_place: u64,
    unsent: BTreeSet<Key>,
    sent: BTreeSet<(Instant, Key)>,
    acknowledged: Remembered,
}

impl Ledger {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots,
            attempts: BTreeMap::new(),
            running: 0,
            waiting: BTreeMap::new(),
            next_place: 0,
            unsent: BTreeSet::new(),
            sent: BTreeSet::new(),
            acknowledged: Remembered::default(),
        }
    }

    pub(super) fn running(&self) -> usize {
        self.running
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn unacknowledged(&self) -> usize {
        self.attempts.len() - self.running - self.waiting.len()
    }

    /// All that a hello announces.
    pub(super) fn held(&self) -> Vec<pb::Held> {
        let held = |key: &Key| pb::Held { run_id: key.run_id.to_string(), fence: key.fence };
        self.attempts.keys().map(held).collect()
    }

    /// Takes an order in, unless it is known. One that cannot be carried out is answered with a report.
    ///
    /// # Errors
    /// [`Overflow`] when even the answer has no room.
    pub(super) fn accept(
        &mut self,
        key: &Key,
        order: Result<target::Order, OrderError>,
    ) -> Result<(), Overflow> {
        if self.attempts.contains_key(key) || self.acknowledged.contains(key) {
            return Ok(());
        }
        self.make_room()?;
        if self.knows_newer(key) {
            let report =
                convert::untouched(key, pb::Outcome::Cancelled, "a newer attempt of the run is known");
            self.end(key, report);
            return Ok(());
        }
        self.supersede_older(key);
        match order {
            Err(error) => self.end(key, convert::untouched(key, pb::Outcome::Failed, error)),
            Ok(_) if self.running + self.waiting.len() >= self.slots + WAITING_MAX => {
                let error = format!("the worker has {} slots and {WAITING_MAX} orders waiting", self.slots);
                self.end(key, convert::untouched(key, pb::Outcome::Failed, error));
            }
            Ok(order) => {
                let place = self.next_place;
                self.next_place += 1;
                self.waiting.insert(place, (key.clone(), Box::new(order)));
                self.attempts.insert(key.clone(), Stage::Waiting { place });
            }
        }
        Ok(())
    }

    /// The next attempt to begin, if a slot is free for it. It counts as running from here on.
    pub(super) fn start_next(&mut self) -> Option<Start> {
        if self.running >= self.slots {
            return None;
        }
        let (place, _) = self.waiting.iter().find(|(_, (key, _))| !self.older_one_runs(key))?;
        let place = *place;
        let (key, order) = self.waiting.remove(&place)?;
        let cancel = CancellationToken::new();
        self.attempts.insert(key.clone(), Stage::Running { cancel: cancel.clone(), stop: None });
        self.running += 1;
        Some(Start { key, order, cancel })
    }

    /// An attempt that ran has ended by itself or as it was told.
    pub(super) fn ended(&mut self, key: &Key, report: target::Report) {
        let Some(Stage::Running { stop, .. }) = self.attempts.get(key) else { return };
        let stop = *stop;
        let was_stopped = report.outcome == target::Outcome::Cancelled;
        let mut report = convert::report(key, report);
        match stop {
            Some(Stop::Leaving) if was_stopped => {
                report.outcome = pb::Outcome::Lost.into();
                report.error = "the worker ended and stopped it".to_owned();
            }
            Some(Stop::Superseded) if was_stopped => {
                report.error = "a newer attempt of the run took its place".to_owned();
            }
            Some(Stop::Cancelled | Stop::Superseded | Stop::Leaving) | None => {}
        }
        self.end(key, report);
    }

    /// The leader wants the attempt to stop.
    ///
    /// # Errors
    /// [`Overflow`] when it is unknown and the answer has no room.
    pub(super) fn cancel(&mut self, key: &Key) -> Result<(), Overflow> {
        let error = match self.attempts.get_mut(key) {
            Some(Stage::Ended { .. }) => return Ok(()),
            Some(Stage::Running { cancel, stop }) => {
                stop.get_or_insert(Stop::Cancelled);
                cancel.cancel();
                return Ok(());
            }
            Some(Stage::Waiting { .. }) => "cancelled before it began",
            None if self.acknowledged.contains(key) => return Ok(()),
            None => {
                self.make_room()?;
                "cancelled before the order arrived"
            }
        };
        self.end(key, convert::untouched(key, pb::Outcome::Cancelled, error));
        Ok(())
    }

    /// The leader has the report: the attempt is no longer held.
    ///
    /// An acknowledgement of what has not ended is of another attempt's making and is ignored.
    pub(super) fn acknowledge(&mut self, key: &Key) {
        let Some(Stage::Ended { sent_at, .. }) = self.attempts.get(key) else { return };
        match *sent_at {
            Some(at) => self.sent.remove(&(at, key.clone())),
            None => self.unsent.remove(key),
        };
        self.attempts.remove(key);
        self.acknowledged.insert(key.clone());
    }

    /// A stream was opened: every report that is not acknowledged is owed again.
    pub(super) fn stream_opened(&mut self) {
        self.owe_sent_before(None);
    }

    /// Owes again what was sent [`REPORT_REPEAT`] ago and is not acknowledged.
    pub(super) fn repeat_reports(&mut self, now: Instant) {
        self.owe_sent_before(now.checked_sub(REPORT_REPEAT));
    }

    /// Whether [`Self::next_report`] has one.
    pub(super) fn owes_report(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The next report to send.
    pub(super) fn next_report(&mut self, now: Instant) -> Option<pb::Report> {
        let key = self.unsent.pop_first()?;
        let Some(Stage::Ended { report, sent_at }) = self.attempts.get_mut(&key) else { return None };
        *sent_at = Some(now);
        let report = pb::Report::clone(report);
        self.sent.insert((now, key));
        Some(report)
    }

    /// The worker ends: what waits is given back. Returns how many there were.
    pub(super) fn give_back_waiting(&mut self) -> usize {
        let waiting: Vec<Key> = self.waiting.values().map(|(key, _)| key.clone()).collect();
        for key in &waiting {
            self.end(key, convert::untouched(key, pb::Outcome::Lost, "the worker ended before it began"));
        }
        waiting.len()
    }

    /// The worker ends: what waits is given back, what runs is told to stop. Returns how many there were.
    pub(super) fn leave(&mut self) -> usize {
        let given_back = self.give_back_waiting();
        for stage in self.attempts.values_mut() {
            if let Stage::Running { cancel, stop } = stage {
                stop.get_or_insert(Stop::Leaving);
                cancel.cancel();
            }
        }
        given_back + self.running
    }

    /// What still ran was dropped: nobody knows how it ended.
    pub(super) fn abandon_running(&mut self) {
        let is_running = |(key, stage): (&Key, &Stage)| match stage {
            Stage::Running { .. } => Some(key.clone()),
            Stage::Waiting { .. } | Stage::Ended { .. } => None,
        };
        let running: Vec<Key> = self.attempts.iter().filter_map(is_running).collect();
        for key in &running {
            let error = "the worker ended and killed it";
            self.end(key, convert::untouched(key, pb::Outcome::Lost, error));
        }
    }

    fn make_room(&self) -> Result<(), Overflow> {
        let held_max = self.slots + 2 * WAITING_MAX;
        if self.attempts.len() < held_max { Ok(()) } else { Err(Overflow) }
    }

    /// The one way in which an attempt ends, whatever it was before.
    fn end(&mut self, key: &Key, report: pb::Report) {
        let ended = Stage::Ended { report: Box::new(report), sent_at: None };
        match self.attempts.insert(key.clone(), ended) {
            Some(Stage::Waiting { place, .. }) => {
                self.waiting.remove(&place);
            }
            Some(Stage::Running { .. }) => self.running -= 1,
            Some(Stage::Ended { .. }) | None => {}
        }
        self.unsent.insert(key.clone());
    }

    fn supersede_older(&mut self, key: &Key) {
        let mut waiting = Vec::new();
        for (older, stage) in self.attempts.range_mut(key.first_of_run()..key.clone()) {
            match stage {
                Stage::Waiting { .. } => waiting.push(older.clone()),
                Stage::Running { cancel, stop } => {
                    stop.get_or_insert(Stop::Superseded);
                    cancel.cancel();
                }
                Stage::Ended { .. } => {}
            }
        }
        for older in &waiting {
            let error = "a newer attempt of the run took its place before it began";
            self.end(older, convert::untouched(older, pb::Outcome::Cancelled, error));
        }
    }

    fn older_one_runs(&self, key: &Key) -> bool {
        let mut older = self.attempts.range(key.first_of_run()..key.clone());
        older.any(|(_, stage)| matches!(stage, Stage::Running { .. }))
    }

    fn knows_newer(&self, key: &Key) -> bool {
        let newer = key.clone()..=key.last_of_run();
        self.attempts.range(newer.clone()).next().is_some()
            || self.acknowledged.set.range(newer).next().is_some()
    }

    /// None: all that was ever sent.
    fn owe_sent_before(&mut self, before: Option<Instant>) {
        while let Some((at, key)) = self.sent.first() {
            if before.is_some_and(|before| *at > before) {
                return;
            }
            if let Some(Stage::Ended { sent_at, .. }) = self.attempts.get_mut(key) {
                *sent_at = None;
            }
            self.unsent.insert(key.clone());
            self.sent.pop_first();
        }
    }
}

impl Key {
    fn first_of_run(&self) -> Self {
        Self { run_id: self.run_id.clone(), fence: 0 }
    }

    fn last_of_run(&self) -> Self {
        Self { run_id: self.run_id.clone(), fence: u64::MAX }
    }
}

/// The newest [`ACKNOWLEDGED_MAX`] keys; the oldest is forgotten.
#[derive(Debug, Default)]
struct Remembered {
    oldest_first: VecDeque<Key>,
    set: BTreeSet<Key>,
}

impl Remembered {
    fn contains(&self, key: &Key) -> bool {
        self.set.contains(key)
    }

    fn insert(&mut self, key: Key) {
        if !self.set.insert(key.clone()) {
            return;
        }
        self.oldest_first.push_back(key);
        if self.oldest_first.len() > ACKNOWLEDGED_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
