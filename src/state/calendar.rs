//! Shared calendars: days and hours at which the schedules that name them do not come, or come alone.
//!
//! A calendar belongs to no namespace: holidays are the same for all. It is defined as a whole, under a version that
//! goes up by one with each change. The state only holds definitions; what they mean for an instant is computed by the
//! leader (`scheduler::gate`), and travels in `Fire`.
//!
//! # Words
//! A calendar *covers* an instant. A schedule names calendars in `exclude` and in `only`: an instant that one of the
//! first covers, or that none of the second does, is *excluded*. A calendar with `applies_to` is a *blackout*: it
//! stands in the `exclude` of every job that matches, without being named there.
//!
//! # Invariants
//! - A job never names a calendar that is not there: the definition of such a job is refused, and the deletion of a
//!   calendar that a job names as well.
//! - [`State::calendar_users`] is derived from the jobs.

mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::State;
use super::apply::{Applying, origin};
use super::command::{Change, Outcome, Request};
use super::job::Origin;
use super::limits;
use super::reading::Touched;
use super::rejection::Rejection;
use super::run::JobId;
use super::spec::JobSpec;
use super::time::Timestamp;
pub use text::{DaysError, clock_minutes, clock_text, weekdays, weekdays_text};

/// The definition of a calendar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalendarSpec {
    /// `[a-z0-9._-]{1,128}`, unique in the cluster.
    pub name: String,
    /// Free text for people.
    pub description: String,
    /// The zone that its days and hours are read in; where absent, that of the schedule that asks.
    pub timezone: Option<String>,
    /// Whole days.
    pub dates: Vec<Dates>,
    /// Days or hours of each week.
    pub weekly: Vec<Weekly>,
    /// From one instant to another.
    pub windows: Vec<Window>,
    /// What RFC 5545 can say.
    pub rules: Vec<CalendarRule>,
    /// The jobs that it is a blackout for.
    pub applies_to: Option<AppliesTo>,
}

/// A day of the calendar: days since 1970-01-01. As text `2026-12-25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Date(pub i32);

/// A day of each year; 29 February comes in leap years alone. As text `12-25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MonthDay {
    /// 1 to 12.
    pub month: u8,
    /// From 1.
    pub day: u8,
}

/// Whole days, and what they are called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dates {
    /// Which.
    pub days: Days,
    /// For people; may be empty.
    pub note: String,
}

/// Whole days, the last one included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Days {
    /// Of one year.
    Once {
        /// The first.
        from: Date,
        /// The last.
        to: Date,
    },
    /// Of every year; past its end where the last is before the first.
    Yearly {
        /// The first.
        from: MonthDay,
        /// The last.
        to: MonthDay,
    },
}

/// Hours of some days of each week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weekly {
    /// The days on which it begins; bit 0 is Sunday.
    pub days: u8,
    /// Minutes since midnight, 0 to 1439.
    pub from: u16,
    /// Minutes since midnight, 1 to 1440; not later than `from`: of the next day.
    pub to: u16,
    /// For people; may be empty.
    pub note: String,
}

/// Minutes of a day of the calendar.
pub const DAY_MINUTES: u16 = 1_440;

impl Weekly {
    /// Whether it means days, and not hours of them.
    #[must_use]
    pub const fn is_whole_days(&self) -> bool {
        self.from == 0 && self.to == DAY_MINUTES
    }
}

/// A span of real time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The first instant.
    pub from: Timestamp,
    /// The first instant behind it.
    pub to: Timestamp,
    /// For people; may be empty.
    pub note: String,
}

/// What follows each occurrence of a recurrence rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalendarRule {
    /// Properties of RFC 5545; see `scheduler::recurrence`.
    pub rrule: String,
    /// What.
    pub lasts: Lasts,
    /// For people; may be empty.
    pub note: String,
}

/// How long an occurrence of a calendar's rule lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lasts {
    /// So long in real time, at most [`limits::CALENDAR_SPAN`].
    Span(Duration),
    /// The day of the occurrence, and the days behind it up to so many; at most [`limits::CALENDAR_DAYS`].
    Days(u16),
}

/// The jobs that a blackout is for: of one of the namespaces, and with all the labels. One of the two is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliesTo {
    /// Of any of these; empty: of all.
    pub namespaces: Vec<String>,
    /// With each of these values.
    pub labels: BTreeMap<String, String>,
}

impl AppliesTo {
    /// Whether a job is among them.
    #[must_use]
    pub fn matches(&self, spec: &JobSpec) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(&spec.namespace))
            && self.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value))
    }
}

/// A calendar of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    /// Its definition.
    pub spec: Arc<CalendarSpec>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its version, 1 when created, and who defined it so, why and when.
    pub origin: Origin,
}

impl JobSpec {
    /// The calendars that its schedules name.
    #[must_use]
    pub fn calendars(&self) -> BTreeSet<&str> {
        let schedules = self.schedules.iter();
        schedules.flat_map(|it| it.exclude.iter().chain(&it.only)).map(String::as_str).collect()
    }
}

impl State {
    /// A calendar.
    #[must_use]
    pub fn calendar(&self, name: &str) -> Option<&Arc<Calendar>> {
        self.calendars.get(name)
    }

    /// All calendars, by name.
    pub fn calendars(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Calendar>)> {
        self.calendars.iter()
    }

    /// Calendars from a name on, in their order.
    pub fn calendars_after(&self, after: Bound<&str>) -> impl Iterator<Item = &Arc<Calendar>> {
        self.calendars.range::<(Bound<&str>, Bound<&str>), str>((after, Bound::Unbounded)).map(|(_, it)| it)
    }

    /// The jobs whose schedules name a calendar, oldest first; deleted ones not included.
    pub fn calendar_users<'a>(&'a self, name: &'a Arc<str>) -> impl Iterator<Item = JobId> + 'a {
        let ends = (name.clone(), JobId(0))..=(name.clone(), JobId(u64::MAX));
        self.calendar_users.range(ends).map(|(_, job)| *job)
    }

    /// A job may not name what is not there.
    pub(super) fn check_calendars(&self, spec: &JobSpec) -> Result<(), Rejection> {
        let is_there = spec.calendars().into_iter().all(|name| self.calendars.contains_key(name));
        if is_there { Ok(()) } else { Err(Rejection::NoCalendar) }
    }
}

impl Applying<'_> {
    /// Defines a calendar.
    pub(super) fn put_calendar(
        &mut self,
        spec: &Arc<CalendarSpec>,
        request: &Request,
    ) -> Result<Outcome, Rejection> {
        let now = self.moment.at;
        let calendars = &self.state.calendars;
        let old = calendars.get(spec.name.as_str()).cloned();
        if old.as_ref().is_some_and(|old| old.spec == *spec) {
            return Ok(Outcome::Done);
        }
        let others = calendars.values().filter(|other| other.spec.name != spec.name);
        let blackouts = others.filter(|other| other.spec.applies_to.is_some()).count();
        let is_new_blackout = spec.applies_to.is_some();
        if (old.is_none() && calendars.len() >= limits::CALENDARS)
            || (is_new_blackout && blackouts >= limits::BLACKOUTS)
        {
            return Err(Rejection::Limit);
        }
        let version = old.as_ref().map_or(0, |old| old.origin.version) + 1;
        let created_at = old.as_ref().map_or(now, |old| old.created_at);
        let calendar = Calendar { spec: spec.clone(), created_at, origin: origin(version, now, request) };
        self.state.calendars.insert(spec.name.as_str().into(), Arc::new(calendar));
        let before = old.and_then(|old| old.spec.applies_to.clone());
        self.calendar_changed(&spec.name, before.into_iter().chain(spec.applies_to.clone()));
        Ok(Outcome::Done)
    }

    /// Deletes a calendar that no job names.
    pub(super) fn delete_calendar(&mut self, name: &Arc<str>) -> Result<Outcome, Rejection> {
        let old = self.state.calendars.get(name).cloned().ok_or(Rejection::NoCalendar)?;
        if self.state.calendar_users(name).next().is_some() {
            return Err(Rejection::CalendarInUse);
        }
        self.state.calendars.remove(name);
        self.calendar_changed(name, old.spec.applies_to.clone().into_iter());
        Ok(Outcome::Done)
    }

    /// The jobs that see a calendar are to be read anew.
    fn calendar_changed(&mut self, name: &str, blackouts: impl Iterator<Item = AppliesTo>) {
        self.read_anew(Touched::calendar(name, blackouts));
    }
}

/// What a change of a calendar was, seen from before it.
#[must_use]
pub fn change(before: Option<&Calendar>, spec: &CalendarSpec) -> Change {
    match before {
        None => Change::Created,
        Some(before) if *before.spec == *spec => Change::Unchanged,
        Some(_) => Change::Updated,
    }
}

#[cfg(test)]
mod tests;
