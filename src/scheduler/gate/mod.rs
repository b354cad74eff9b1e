//! The calendars in front of a schedule: which of its instants they exclude, and when they allow one again.
//!
//! A [`Gate`] holds the compiled calendars of one schedule: those of its `exclude` and the blackouts of its job, and
//! those of its `only`. It answers two questions about an instant, and both in bounded time, whatever the calendars say:
//! does something exclude it ([`Gate::excludes`]), and to which instant is it put off ([`Gate::next_allowed`]).
//!
//! # How an instant is put off
//! Where a day excludes it, to the same wall time, in the schedule's zone, of the first day that does not; where some
//! hours do, to their end; and again from there until nothing excludes it. With `only`, to the same wall time of the next
//! day, or to the beginning of the next hours, that one of its calendars covers. A wall time that the zone skips on that
//! day is its first instant behind; of one that comes twice it is the first.
//!
//! It is put off no further than [`DELAY_MAX`], over at most [`STEPS_MAX`] pieces; what would go further is not allowed
//! at all.

mod calendars;
mod compiled;
#[cfg(test)]
mod tests;
mod wall;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

pub use calendars::{Calendars, GateError};
pub use compiled::{CalendarFault, CompiledCalendar, Cover, Kind};

use super::zone::Zone;
use crate::state::time::Timestamp;

/// The furthest that an occurrence is put off.
pub const DELAY_MAX: Duration = Duration::from_secs(366 * 86_400);
/// The most pieces of calendars that are looked at to put one off.
pub const STEPS_MAX: usize = 10_000;

/// The calendars of one schedule.
#[derive(Clone, Debug)]
pub struct Gate {
    exclude: Box<[Arc<CompiledCalendar>]>,
    only: Box<[Arc<CompiledCalendar>]>,
    zone: Zone,
}

/// What excludes an instant.
#[derive(Clone, Debug)]
pub struct Excluded<'a> {
    by: By<'a>,
    kind: Kind,
    /// Everything before it is excluded as well; none if it is for ever.
    until: Option<Timestamp>,
}

#[derive(Clone, Debug)]
enum By<'a> {
    Entry(&'a CompiledCalendar, u16),
    Outside(&'a [Arc<CompiledCalendar>]),
}

impl Excluded<'_> {
    /// In words: the calendar, and what in it.
    #[must_use]
    pub fn why(&self) -> String {
        match &self.by {
            By::Entry(calendar, entry) => format!("{}: {}", calendar.name(), calendar.entry(*entry)),
            By::Outside(calendars) => {
                let mut text = String::new();
                for (place, calendar) in calendars.iter().enumerate() {
                    let between = if place == 0 { "" } else { ", " };
                    // a String takes all
                    let _ = write!(text, "{between}{}", calendar.name());
                }
                format!("{text}: does not cover it")
            }
        }
    }
}

impl Gate {
    /// The gate of a schedule in `zone`.
    #[must_use]
    pub fn new(exclude: Vec<Arc<CompiledCalendar>>, only: Vec<Arc<CompiledCalendar>>, zone: Zone) -> Self {
        Self { exclude: exclude.into(), only: only.into(), zone }
    }

    /// Whether nothing is ever excluded.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.exclude.is_empty() && self.only.is_empty()
    }

    /// What excludes an instant, if anything does: a day before some hours.
    #[must_use]
    pub fn excludes(&self, at: Timestamp) -> Option<Excluded<'_>> {
        let entry = |calendar, Cover { entry, kind, until }| Excluded {
            by: By::Entry(calendar, entry),
            kind,
            until: Some(until),
        };
        for calendar in &self.exclude {
            if let Some(cover) = calendar.cover_by_day(at, &self.zone) {
                return Some(entry(calendar, cover));
            }
        }
        for calendar in &self.exclude {
            if let Some(cover) = calendar.cover_by_hours(at, &self.zone) {
                return Some(entry(calendar, cover));
            }
        }
        let is_inside = self.only.iter().any(|calendar| calendar.cover(at, &self.zone).is_some());
        if self.only.is_empty() || is_inside {
            return None;
        }
        let starts = self.only.iter().filter_map(|calendar| calendar.next_start(at, &self.zone));
        let next = starts.min_by_key(|(start, _)| *start);
        let kind = next.map_or(Kind::Span, |(_, kind)| kind);
        Some(Excluded { by: By::Outside(&self.only), kind, until: next.map(|(start, _)| start) })
    }

    /// The instant that one is put off to; itself if nothing excludes it, none if that is too far.
    #[must_use]
    pub fn next_allowed(&self, at: Timestamp) -> Option<Timestamp> {
        self.walk(at, at.plus(DELAY_MAX), |at, excluded| match (excluded.kind, excluded.until?) {
            (Kind::Day, until) => Some(wall::same_time(&self.zone, at, until)),
            (Kind::Span, until) => Some(until),
        })
    }

    /// The first instant from `at` on that nothing excludes, up to `limit`.
    #[must_use]
    pub fn opens(&self, at: Timestamp, limit: Timestamp) -> Option<Timestamp> {
        self.walk(at, limit, |_, excluded| excluded.until)
    }

    /// The midnight behind an instant, in the zone of the schedule.
    #[must_use]
    pub fn midnight_after(&self, at: Timestamp) -> Timestamp {
        let day = wall::Wall::at(at, &self.zone).day();
        wall::instant_of(&self.zone, (day + 1) * super::walls::DAY_SECONDS)
    }

    fn walk(
        &self,
        at: Timestamp,
        limit: Timestamp,
        step: impl Fn(Timestamp, &Excluded<'_>) -> Option<Timestamp>,
    ) -> Option<Timestamp> {
        let mut at = at;
        for _ in 0..STEPS_MAX {
            let Some(excluded) = self.excludes(at) else { return Some(at) };
            let next = step(at, &excluded)?;
            if next <= at || next > limit {
                return None;
            }
            at = next;
        }
        None
    }
}
