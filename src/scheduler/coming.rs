//! What comes next for a job, calendars taken into account: one occurrence, or several that are decided as one.
//!
//! With `on_excluded: skip` each occurrence comes by itself, and one that is excluded comes to be skipped. With
//! `next_allowed` an excluded one is due later than it is scheduled. Occurrences are decided in the order of their
//! nominal instants all the same, so one that would be overtaken does not run by itself: **an occurrence is covered by a
//! later one that is due no later.** So what one window puts off to its end becomes one run, and one that is put off to
//! the instant of an ordinary one, or past it, is covered by that.
//!
//! # Bounds
//! Occurrences are put off no further than [`gate::DELAY_MAX`](super::gate::DELAY_MAX); those that would be are skipped.
//! A run stands for at most [`TOGETHER_MAX`] of them; older ones are skipped, in one record.

use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::jitter;
use super::rule::CompiledSchedule;
use super::set::ScheduleSet;
use super::spread::Spread;
use crate::state::Due;
use crate::state::spec::{JobSpec, OnExcluded};
use crate::state::time::Timestamp;

/// The most occurrences that one run stands for because calendars put them off to one instant.
pub const TOGETHER_MAX: u64 = 10_000;
/// How far ahead, and how many occurrences, a job is looked at for one that calendars allow.
const LOOK_AHEAD: Duration = Duration::from_secs(5 * 366 * 86_400);
const LOOKS_MAX: u32 = 2_000;
/// Days on which an occurrence is looked for that may be due earlier: as far as one may be put off.
const DAYS_MAX: u32 = 370;

/// One occurrence, or several that are decided as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// The oldest nominal instant.
    pub from: Timestamp,
    /// The newest.
    pub scheduled_at: Timestamp,
    /// When it is to be decided.
    pub due_at: Timestamp,
    /// How many occurrences they are.
    pub count: u64,
    /// What becomes of them.
    pub fate: Fate,
}

/// What calendars say of occurrences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Allowed,
    /// They are put off; why.
    PutOff(Arc<str>),
    /// They are skipped; why.
    Excluded(Arc<str>),
}

impl Coming {
    /// What is armed for it.
    #[must_use]
    pub const fn due(&self) -> Due {
        Due { due_at: self.due_at, scheduled_at: self.from }
    }

    fn why(&self) -> &str {
        match &self.fate {
            Fate::Allowed => "",
            Fate::PutOff(why) | Fate::Excluded(why) => why,
        }
    }

    const fn is_put_off(&self) -> bool {
        matches!(self.fate, Fate::PutOff(_))
    }

    /// The instant that tells how old it is.
    #[must_use]
    pub const fn since(&self) -> Timestamp {
        match self.fate {
            Fate::PutOff(_) => self.due_at,
            Fate::Allowed | Fate::Excluded(_) => self.scheduled_at,
        }
    }
}

/// A millisecond: instants are whole ones.
const TICK: Duration = Duration::from_millis(1);

/// What is armed behind `after`: the first occurrence, and when it is due.
#[must_use]
pub fn arm(spec: &JobSpec, set: &ScheduleSet, after: Timestamp) -> Option<Due> {
    Some(due(spec, set, set.next_after(after)?))
}

/// An occurrence of the schedule of that index, and when it is due.
#[must_use]
pub fn due(spec: &JobSpec, set: &ScheduleSet, (scheduled_at, index): (Timestamp, usize)) -> Due {
    let put_off = put_off(spec, set, (scheduled_at, index));
    let due_at = with_jitter(spec, set, put_off.map_or(scheduled_at, |(to, _)| to), index);
    Due { due_at, scheduled_at }
}

/// What comes behind `after`.
#[must_use]
pub fn after(spec: &JobSpec, set: &ScheduleSet, after: Timestamp) -> Option<Coming> {
    let (scheduled_at, index) = set.next_after(after)?;
    let with_jitter = |at| with_jitter(spec, set, at, index);
    let one = |due_at, fate| Coming { from: scheduled_at, scheduled_at, due_at, count: 1, fate };
    match (excluded(set, scheduled_at, index), put_off(spec, set, (scheduled_at, index))) {
        (None, _) => Some(one(with_jitter(scheduled_at), Fate::Allowed)),
        (Some(why), None) => Some(one(with_jitter(scheduled_at), Fate::Excluded(why.into()))),
        (Some(_), Some((to, why))) => {
            let first = one(with_jitter(to), Fate::PutOff(why.into()));
            Some(if set.is_after_completion() { first } else { together(set, first, to) })
        }
    }
}

/// Whether calendars skip an occurrence.
#[must_use]
pub fn is_skipped(spec: &JobSpec, set: &ScheduleSet, (at, index): (Timestamp, usize)) -> bool {
    excluded(set, at, index).is_some() && put_off(spec, set, (at, index)).is_none()
}

/// What calendars make of an occurrence, in words; none where they allow it.
#[must_use]
pub fn told(spec: &JobSpec, set: &ScheduleSet, (at, index): (Timestamp, usize)) -> Option<String> {
    let why = excluded(set, at, index)?;
    Some(match put_off(spec, set, (at, index)) {
        Some((to, _)) => format!("put off to {to} by calendar {why}"),
        None => format!("skipped by calendar {why}"),
    })
}

/// What is armed, in the light of the calendars.
///
/// It is decided when the state says that it is due: what came when nothing excluded it, and is only put off by its
/// jitter, or by an edit that the schedule no longer knows it after, runs.
#[must_use]
pub fn armed(spec: &JobSpec, set: &ScheduleSet, armed: Due) -> Coming {
    let Due { due_at, scheduled_at } = armed;
    let alone = |fate| Coming { from: scheduled_at, scheduled_at, due_at, count: 1, fate };
    if set.is_after_completion() {
        // What comes after the end of a run cannot be found again.
        return match (excluded(set, scheduled_at, 0), put_off(spec, set, (scheduled_at, 0))) {
            (Some(why), None) => alone(Fate::Excluded(why.into())),
            (Some(why), Some((to, _))) if to <= due_at => alone(Fate::PutOff(why.into())),
            (None, _) | (Some(_), Some(_)) => alone(Fate::Allowed),
        };
    }
    let found = after(spec, set, scheduled_at.minus(TICK)).filter(|found| found.from == scheduled_at);
    match found {
        // It was put off, and is no longer: those that have come since are due no later.
        Some(found) if spec.on_excluded == OnExcluded::NextAllowed && found.due_at < due_at => {
            let first = Coming { scheduled_at, due_at, count: 1, ..found };
            together(set, first, due_at)
        }
        Some(found) if found.scheduled_at <= due_at && (found.due_at <= due_at || !found.is_put_off()) => {
            Coming { due_at, ..found }
        }
        Some(_) | None => alone(Fate::Allowed),
    }
}

/// Why no occurrence of the next years runs, where calendars exclude all of them; a bounded look.
#[must_use]
pub fn never(spec: &JobSpec, set: &ScheduleSet, now: Timestamp) -> Option<String> {
    if !set.has_gates() || set.is_after_completion() {
        return None;
    }
    let end = now.plus(LOOK_AHEAD);
    let (mut cursor, mut found) = (now, None);
    for _ in 0..LOOKS_MAX {
        let Some((at, index)) = set.next_after(cursor).filter(|(at, _)| *at <= end) else { break };
        let why = excluded(set, at, index)?;
        if put_off(spec, set, (at, index)).is_some() {
            return None;
        }
        found = Some((at, why));
        // The other schedules may be allowed before this one is.
        let opens = set.gate(index).filter(|_| set.schedules().len() == 1);
        cursor = match opens.map(|gate| gate.opens(at, end)) {
            Some(Some(opens)) => opens.minus(TICK).max(at),
            Some(None) => break,
            None => at,
        };
    }
    let (until, why) = found?;
    Some(format!("calendars exclude every occurrence looked at, up to {until}; the last one by {why}"))
}

/// Why an occurrence of a schedule is excluded.
fn excluded(set: &ScheduleSet, at: Timestamp, index: usize) -> Option<String> {
    Some(set.gate(index)?.excludes(at)?.why())
}

/// The instant that an occurrence is put off to, with those that it is decided with, and why.
fn put_off(
    spec: &JobSpec,
    set: &ScheduleSet,
    (at, index): (Timestamp, usize),
) -> Option<(Timestamp, String)> {
    if spec.on_excluded == OnExcluded::Skip {
        return None;
    }
    let gate = set.gate(index)?;
    let why = gate.excludes(at)?.why();
    let to = gate.next_allowed(at)?;
    Some((if set.is_after_completion() { to } else { earliest(set, at, to) }, why))
}

/// The earliest instant, up to `latest`, that an occurrence from `from` on is due at.
fn earliest(set: &ScheduleSet, from: Timestamp, latest: Timestamp) -> Timestamp {
    let schedules = set.schedules().iter().enumerate();
    schedules.fold(latest, |latest, (index, schedule)| match set.gate(index) {
        Some(gate) => earliest_of(schedule, gate, (from, latest)),
        None => schedule.next_after(from.minus(TICK)).map_or(latest, |next| latest.min(next)),
    })
}

/// The same of one schedule. Of the occurrences of one day none is due before the first, so one a day is looked at.
fn earliest_of(
    schedule: &CompiledSchedule,
    gate: &Gate,
    (from, mut latest): (Timestamp, Timestamp),
) -> Timestamp {
    let mut behind = from.minus(TICK);
    for _ in 0..DAYS_MAX {
        let Some(at) = schedule.next_after(behind).filter(|at| *at < latest) else { break };
        if gate.excludes(at).is_none() {
            return at;
        }
        latest = gate.next_allowed(at).map_or(latest, |to| latest.min(to));
        behind = gate.midnight_after(at).minus(TICK);
    }
    latest
}

/// Gathers the occurrences behind `first` that are decided with it: up to the newest that is due at `to` or before.
fn together(set: &ScheduleSet, first: Coming, to: Timestamp) -> Coming {
    let (mut at, mut walked) = (first.scheduled_at, 1);
    let mut newest = (first.scheduled_at, 1);
    while let Some((next, index)) = set.next_after(at).filter(|(next, _)| *next <= to) {
        if walked == TOGETHER_MAX {
            let why = format!("{}, more than {TOGETHER_MAX} wait for one run", first.why());
            return Coming { scheduled_at: at, count: walked, fate: Fate::Excluded(why.into()), ..first };
        }
        (at, walked) = (next, walked + 1);
        let due = set.gate(index).map_or(Some(next), |gate| gate.next_allowed(next));
        if due.is_some_and(|due| due <= to) {
            newest = (at, walked);
        }
    }
    Coming { scheduled_at: newest.0, count: newest.1, ..first }
}

/// When an occurrence of a schedule that would be due at `at` is due with its jitter.
fn with_jitter(spec: &JobSpec, set: &ScheduleSet, at: Timestamp, index: usize) -> Timestamp {
    match spec.schedules.get(index) {
        Some(schedule) if !schedule.jitter.is_zero() => {
            let following = set.next_after(at).map(|(at, _)| at);
            let seed = Spread::of(&spec.namespace, &spec.name).seed();
            jitter::due_at(schedule, seed, at, following)
        }
        Some(_) | None => at,
    }
}
