//! A schedule, compiled: when does it come next?
//!
//! [`CompiledSchedule::compile`] checks a [`Schedule`] and turns it into a form that answers
//! [`next_after`](CompiledSchedule::next_after) in well under a microsecond, without allocation.
//! The API compiles a schedule to refuse a wrong one, the leader to compute the next instant.
//!
//! Every kind of rule yields instants in UTC. Cron lines, calendar events and recurrence rules read their
//! zone's wall time ([`super::cron`] says what happens on odd days); `every` counts real time from the Unix
//! epoch, `at` is a list, and the sun keeps no zone, so these see one for display alone.
//!
//! What is due so long after the end of a run ([`Rule::AfterCompletion`]) has one occurrence at a time:
//! [`next_after`](CompiledSchedule::next_after) is then asked with that end, and nothing can be said of the past
//! or of what comes after the next.
//!
//! Bounds: `start_at` is inclusive, `end_at` exclusive, `count` counts from `start_at` on. Jitter is none of this
//! module's business ([`super::jitter`]).

use std::time::Duration;

use super::almanac::Almanac;
use super::calendar::{self, CalendarError};
use super::cron::{CronError, CronRule};
use super::recurrence::{Recurrence, RecurrenceError};
use super::solar::{SolarError, SolarRule};
use super::spread::Spread;
use super::walls::{Dst, Oddity, Walls};
use super::zone::{Zone, ZoneError, Zones};
use crate::state::schedule::{Rule, Schedule};
use crate::state::time::{Timestamp, days_from_civil, span_text};

/// Shortest period of `every`. Each occurrence is an entry in the replicated log.
pub const EVERY_PERIOD_MIN: Duration = Duration::from_millis(100);
/// Longest period of `every`: 100 years of 365.25 days.
pub const EVERY_PERIOD_MAX: Duration = Duration::from_secs(36_525 * 86_400);
/// Most instants in a list of `at`.
pub const AT_INSTANTS_MAX: usize = 10_000;
/// Largest `count`: compiling a schedule walks over them.
pub const COUNT_MAX: u32 = 10_000;
/// Longest jitter: 31 days, that of a monthly job.
pub const JITTER_MAX: Duration = Duration::from_secs(31 * 86_400);
/// 2110-01-01T00:00:00Z, when all zones follow the rules of their far future.
const FAR_SECOND: i64 = 4_417_977_600;

/// Why a schedule was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The cron line.
    #[error("cron: {0}")]
    Cron(#[from] CronError),
    /// The recurrence rule.
    #[error("rrule: {0}")]
    Recurrence(#[from] RecurrenceError),
    /// The calendar event.
    #[error("calendar: {0}")]
    Calendar(#[from] CalendarError),
    /// The event of the sun.
    #[error("solar: {0}")]
    Solar(#[from] SolarError),
    /// The zone's name.
    #[error("timezone: {0}")]
    Zone(#[from] ZoneError),
    /// Outside of [`EVERY_PERIOD_MIN`] to [`EVERY_PERIOD_MAX`].
    #[error("every: {} is out of range, expected {} to {}", span_text(*found), span_text(EVERY_PERIOD_MIN), span_text(EVERY_PERIOD_MAX))]
    Period {
        /// The period.
        found: Duration,
    },
    /// Not smaller than the period.
    #[error("offset: {} is not smaller than the period", span_text(*found))]
    Offset {
        /// The offset.
        found: Duration,
    },
    /// A period or offset with a fraction of a millisecond.
    #[error("every: {} is not a whole number of milliseconds", span_text(*found))]
    Fraction {
        /// The period or offset.
        found: Duration,
    },
    /// `at` without an instant, or with more than [`AT_INSTANTS_MAX`].
    #[error("at: found {found} instants, expected 1 to {AT_INSTANTS_MAX}")]
    InstantCount {
        /// How many there are.
        found: usize,
    },
    /// `at` not in ascending order, or with an instant twice.
    #[error("at: instant {} ({found}) is not later than the one before it", index + 1)]
    InstantOrder {
        /// The index of the later one in the list, from 0.
        index: usize,
        /// That instant.
        found: Timestamp,
    },
    /// `end_at` is not later than `start_at`.
    #[error("end_at ({end_at}) is not later than start_at ({start_at})")]
    Bounds {
        /// The first instant allowed.
        start_at: Timestamp,
        /// The first instant no longer allowed.
        end_at: Timestamp,
    },
    /// `count` is 0, or more than [`COUNT_MAX`].
    #[error("count: {found} is out of range, expected 1 to {COUNT_MAX}")]
    Count {
        /// The count.
        found: u32,
    },
    /// `count` without `start_at`: an edit of the job would begin to count anew.
    #[error("count: start_at is missing, from which it counts")]
    CountFrom,
    /// `count` and `from: completion`.
    #[error("count: does not go with `from: completion`, whose occurrences are known one at a time")]
    CountCompletions,
    /// More than [`JITTER_MAX`].
    #[error("jitter: {} is longer than {}", span_text(*found), span_text(JITTER_MAX))]
    Jitter {
        /// The jitter.
        found: Duration,
    },
}

impl ScheduleError {
    /// What would be right, where that can be told; without the word "hint".
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Cron(error) => error.hint(),
            Self::Recurrence(error) => error.hint(),
            Self::Calendar(error) => error.hint(),
            Self::Solar(error) => error.hint(),
            Self::CountFrom => Some("name the first instant: `start_at: 2026-01-01T00:00:00Z`".to_owned()),
            Self::Zone(error) => error.hint().map(str::to_owned),
            Self::InstantOrder { .. } => Some("sort the list and name each instant once".to_owned()),
            Self::Period { .. }
            | Self::Offset { .. }
            | Self::Fraction { .. }
            | Self::InstantCount { .. }
            | Self::Bounds { .. }
            | Self::Count { .. }
            | Self::CountCompletions
            | Self::Jitter { .. } => None,
        }
    }
}

/// An occurrence as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The instant.
    pub at: Timestamp,
    /// The same in the schedule's zone: RFC 3339 with milliseconds and the offset.
    pub local: String,
    /// What is odd about it, if anything: `gap: 02:30 does not exist, runs at 03:00`.
    pub note: Option<String>,
}

#[derive(Clone, Debug)]
enum When {
    /// A cron line or a calendar event.
    Cron(CronRule),
    Recurrence(Box<Recurrence>),
    Every {
        period_ms: i64,
        offset_ms: i64,
    },
    At(Box<[Timestamp]>),
    AfterCompletion {
        period: Duration,
    },
    Solar(SolarRule),
}

impl When {
    /// The rule, if it is one of wall times.
    fn walls(&self) -> Option<&dyn Walls> {
        match self {
            Self::Cron(rule) => Some(rule),
            Self::Recurrence(rule) => Some(&**rule),
            Self::Every { .. } | Self::At(_) | Self::AfterCompletion { .. } | Self::Solar(_) => None,
        }
    }
}

/// A schedule that can be asked for its occurrences.
#[derive(Clone, Debug)]
pub struct CompiledSchedule {
    when: When,
    zone: Zone,
    dst: Dst,
    /// The last instant before `start_at`.
    not_before: Option<Timestamp>,
    end_at: Option<Timestamp>,
}

impl CompiledSchedule {
    /// Checks and compiles a schedule; `spread` is its job's, `almanac` what it is read with.
    ///
    /// # Errors
    /// [`ScheduleError`] for anything that is out of its range, a zone that does not exist, a
    /// cron line that cannot be read, or one that would never fire in its zone.
    pub fn compile(schedule: &Schedule, spread: Spread, almanac: &Almanac) -> Result<Self, ScheduleError> {
        let zones = almanac.zones();
        let mut zone = zones.zone(&schedule.timezone)?;
        let dst = Dst { gap: schedule.gap, fold: schedule.fold };
        let when = compile_rule(&schedule.rule, spread, (&mut zone, zones), dst)?;
        if let (Some(start_at), Some(end_at)) = (schedule.start_at, schedule.end_at)
            && end_at <= start_at
        {
            return Err(ScheduleError::Bounds { start_at, end_at });
        }
        if schedule.jitter > JITTER_MAX {
            return Err(ScheduleError::Jitter { found: schedule.jitter });
        }
        let not_before = schedule.start_at.map(before);
        let mut compiled = Self { when, zone, dst, not_before, end_at: schedule.end_at };
        if let Some(count) = schedule.count {
            compiled.end_after(count)?;
        }
        Ok(compiled)
    }

    /// Ends it behind so many occurrences.
    fn end_after(&mut self, count: u32) -> Result<(), ScheduleError> {
        if !(1..=COUNT_MAX).contains(&count) {
            return Err(ScheduleError::Count { found: count });
        }
        if self.is_after_completion() {
            return Err(ScheduleError::CountCompletions);
        }
        let start = self.not_before.ok_or(ScheduleError::CountFrom)?;
        let all = std::iter::successors(self.next_after(start), |at| self.next_after(*at));
        if let Some(last) = all.take(count as usize).last() {
            self.end_at = Some(last.plus(Duration::from_millis(1)));
        }
        Ok(())
    }

    /// Whether it keeps to the wall clock of its zone, so that one of its occurrences is another instant where the
    /// zone's offset is another.
    #[must_use]
    pub fn keeps_wall_time(&self) -> bool {
        self.when.walls().is_some_and(|walls| !walls.is_elastic())
    }

    /// Whether it is due so long after the end of a run.
    #[must_use]
    pub const fn is_after_completion(&self) -> bool {
        matches!(self.when, When::AfterCompletion { .. })
    }

    /// No occurrence lies at or after it.
    #[must_use]
    pub const fn end_at(&self) -> Option<Timestamp> {
        self.end_at
    }

    /// The zone that the schedule's wall times are read in.
    #[must_use]
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The first occurrence strictly later than `after`; `None` if there is none ever again.
    ///
    /// It allocates nothing and always ends: after one step for `every`, a binary search for
    /// `at`, some hundred steps for the rarest cron rule, and 400 years of days for the rarest of the others.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let from = self.not_before.map_or(after, |not_before| after.max(not_before));
        let second = from.millis().div_euclid(1_000);
        let of_second = |second: i64| second.checked_mul(1_000).map(Timestamp::from_millis);
        let next = match &self.when {
            When::Cron(rule) => of_second(rule.next_after(&self.zone, self.dst, second)?)?,
            When::Recurrence(rule) => of_second(rule.next_after(&self.zone, self.dst, second)?)?,
            When::Solar(rule) => of_second(rule.next_after(second)?)?,
            When::Every { period_ms, offset_ms } => {
                let number = (from.millis() - offset_ms).div_euclid(*period_ms) + 1;
                let millis = number * period_ms + offset_ms;
                (millis <= Timestamp::MAX.millis()).then(|| Timestamp::from_millis(millis))?
            }
            When::At(instants) => *instants.get(instants.partition_point(|at| *at <= from))?,
            When::AfterCompletion { period } => {
                let start =
                    self.not_before.map_or(Timestamp::MIN, |before| before.plus(Duration::from_millis(1)));
                after.plus(*period).max(start)
            }
        };
        (next > from && self.end_at.is_none_or(|end_at| next < end_at)).then_some(next)
    }

    /// The last occurrence strictly before `before`; `None` if there is none, or none that is known.
    ///
    /// It costs some fifty calls of [`Self::next_after`].
    #[must_use]
    pub fn last_before(&self, before: Timestamp) -> Option<Timestamp> {
        if self.is_after_completion() {
            return None;
        }
        last_before(|after| self.next_after(after), before)
    }

    /// Describes one of the schedule's own occurrences.
    #[must_use]
    pub fn describe(&self, at: Timestamp) -> Described {
        let second = at.millis().div_euclid(1_000);
        let odd = self.when.walls().and_then(|rule| rule.oddity(&self.zone, self.dst, second));
        Described { at, local: self.zone.local(at), note: odd.map(|odd| note(&odd)) }
    }

    /// How many occurrences lie between two instants, both inclusive, but at most `limit`.
    ///
    /// `every` and `at` are counted at once; any other rule is walked, at 0.1 to 0.5 µs for
    /// each occurrence of a cron rule up to `limit`. Of what comes after the end of a run nothing is known: 0.
    #[must_use]
    pub fn count_between(&self, from: Timestamp, to: Timestamp, limit: u64) -> u64 {
        let first = self.not_before.map_or(before(from), |not_before| before(from).max(not_before));
        let last = self.end_at.map_or(to, |end_at| to.min(before(end_at)));
        if last <= first {
            return 0;
        }
        let count = match &self.when {
            When::Every { period_ms, offset_ms } => {
                let number = |at: Timestamp| (at.millis() - offset_ms).div_euclid(*period_ms);
                number(last).abs_diff(number(first))
            }
            When::At(instants) => {
                let number = |at: Timestamp| instants.partition_point(|instant| *instant <= at);
                (number(last) - number(first)) as u64
            }
            When::Cron(_) | When::Recurrence(_) | When::Solar(_) => {
                count_by_walking(|after| self.next_after(after), first, last, limit)
            }
            When::AfterCompletion { .. } => 0,
        };
        count.min(limit)
    }
}

/// Counts what `next` yields after `first`, up to and including `last`, but at most `limit`.
pub(super) fn count_by_walking(
    next: impl Fn(Timestamp) -> Option<Timestamp>,
    first: Timestamp,
    last: Timestamp,
    limit: u64,
) -> u64 {
    let mut count = 0;
    let mut after = first;
    while count < limit
        && let Some(at) = next(after).filter(|at| *at <= last)
    {
        count += 1;
        after = at;
    }
    count
}

/// The last of what `next` yields that is earlier than `before`.
///
/// It leaps back twice as far each time until something lies in between, and then halves what is left.
pub(super) fn last_before(
    next: impl Fn(Timestamp) -> Option<Timestamp>,
    before: Timestamp,
) -> Option<Timestamp> {
    let earlier = |after: Timestamp| next(after).filter(|at| *at < before);
    let mut back_ms = 1_000_i64;
    let mut found = loop {
        let from = before.millis().saturating_sub(back_ms).max(Timestamp::MIN.millis());
        if let Some(at) = earlier(Timestamp::from_millis(from)) {
            break at;
        }
        if from == Timestamp::MIN.millis() {
            return None;
        }
        back_ms = back_ms.saturating_mul(2);
    };
    // nothing lies between `none_after` and `before`
    let mut none_after = before;
    while none_after.millis() - found.millis() > 1 {
        let middle = found.millis() + (none_after.millis() - found.millis()) / 2;
        match earlier(Timestamp::from_millis(middle)) {
            Some(at) => found = at,
            None => none_after = Timestamp::from_millis(middle),
        }
    }
    Some(found)
}

/// A day before a year begins, which is before it in every zone; in seconds since the Unix epoch.
fn new_years_eve(year: i64) -> i64 {
    (days_from_civil(year, 1, 1) - 2) * 86_400
}

/// The millisecond before an instant.
pub(super) fn before(at: Timestamp) -> Timestamp {
    at.minus(Duration::from_millis(1))
}

fn compile_rule(
    rule: &Rule,
    spread: Spread,
    (zone, zones): (&mut Zone, &Zones),
    dst: Dst,
) -> Result<When, ScheduleError> {
    Ok(match rule {
        Rule::Cron { line, dialect, day_rule } => {
            let rule = CronRule::parse(line, *dialect, *day_rule, spread)?;
            if !comes(&rule, zone, dst) {
                return Err(CronError::NeverInZone { zone: zone.name().to_owned() }.into());
            }
            When::Cron(rule)
        }
        Rule::Calendar(text) => {
            let rule;
            (rule, *zone) = calendar::parse(text, zone, zones)?;
            if !comes(&rule, zone, dst) {
                return Err(CalendarError::NeverInZone { zone: zone.name().to_owned() }.into());
            }
            When::Cron(rule)
        }
        Rule::Recurrence(text) => {
            let rule;
            (rule, *zone) = Recurrence::parse(text, zone, zones)?;
            let from = rule.first_wall().saturating_sub(2 * 86_400);
            if rule.next_after(zone, dst, from).is_none() {
                return Err(RecurrenceError::NeverInZone { zone: zone.name().to_owned() }.into());
            }
            When::Recurrence(Box::new(rule))
        }
        Rule::Solar { event, place } => When::Solar(SolarRule::new(*event, *place)?),
        Rule::Every { period, offset } => compile_every(*period, *offset)?,
        Rule::AfterCompletion { period } => {
            // the same bounds
            compile_every(*period, Duration::ZERO)?;
            When::AfterCompletion { period: *period }
        }
        Rule::At(instants) => compile_at(instants)?,
    })
}

/// Whether a rule ever comes in its zone: `30 2 8-14 3 0` with `and` and `skip` lies in New York's gap year after
/// year.
fn comes(rule: &CronRule, zone: &Zone, dst: Dst) -> bool {
    let from = rule.first_year().map_or(FAR_SECOND, new_years_eve);
    rule.next_after(zone, dst, from).is_some()
}

fn compile_every(period: Duration, offset: Duration) -> Result<When, ScheduleError> {
    if !(EVERY_PERIOD_MIN..=EVERY_PERIOD_MAX).contains(&period) {
        return Err(ScheduleError::Period { found: period });
    }
    if offset >= period {
        return Err(ScheduleError::Offset { found: offset });
    }
    let whole_ms = |found: Duration| {
        let whole = found.subsec_nanos().is_multiple_of(1_000_000);
        // the bounds above keep both far below 2^63 ms
        if whole { Ok(found.as_millis() as i64) } else { Err(ScheduleError::Fraction { found }) }
    };
    Ok(When::Every { period_ms: whole_ms(period)?, offset_ms: whole_ms(offset)? })
}

fn compile_at(instants: &[Timestamp]) -> Result<When, ScheduleError> {
    if instants.is_empty() || instants.len() > AT_INSTANTS_MAX {
        return Err(ScheduleError::InstantCount { found: instants.len() });
    }
    if let Some(index) = instants.windows(2).position(|pair| pair[1] <= pair[0]) {
        return Err(ScheduleError::InstantOrder { index: index + 1, found: instants[index + 1] });
    }
    Ok(When::At(instants.into()))
}

fn note(oddity: &Oddity) -> String {
    match *oddity {
        Oddity::Gap { missing, count: 1, runs } => {
            format!("gap: {} does not exist, runs at {}", clock_time(missing), clock_time(runs))
        }
        Oddity::Gap { missing, runs, .. } => {
            format!("gap: {} and later do not exist, runs once at {}", clock_time(missing), clock_time(runs))
        }
        Oddity::FirstOfTwo => "fold: first of two".to_owned(),
        Oddity::SecondOfTwo => "fold: second of two".to_owned(),
    }
}

/// `HH:MM`, or `HH:MM:SS` where there are seconds.
fn clock_time(second_of_day: u32) -> String {
    let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    if second == 0 { format!("{hour:02}:{minute:02}") } else { format!("{hour:02}:{minute:02}:{second:02}") }
}

#[cfg(test)]
mod tests;
