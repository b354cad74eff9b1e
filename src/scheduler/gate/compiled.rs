//! A calendar, compiled: does it cover an instant, and when does it next?
//!
//! Days, hours of the week and windows are kept as rows of disjoint pieces, so a question costs a binary search for each
//! kind. A rule of RFC 5545 is asked for its first occurrence that could still last ([`Walls::next_after`]).
//!
//! An answer holds up to some instant and not for ever: [`Cover::until`] may be followed by more of the same, for a
//! piece ends where the zone changes its offset, and where its day does. Whoever wants the end of it all asks again
//! from there.

use std::sync::Arc;

use super::wall::{Wall, day_of, instant_of};
use crate::scheduler::recurrence::{Recurrence, RecurrenceError};
use crate::scheduler::walls::{DAY_SECONDS, Dst, Walls};
use crate::scheduler::zone::{Zone, ZoneError, Zones};
use crate::state::calendar::{
    CalendarRule, CalendarSpec, DAY_MINUTES, Days, Lasts, MonthDay, Weekly, clock_text, weekdays_text,
};
use crate::state::schedule::{Fold, Gap};
use crate::state::time::{Timestamp, civil_from_days, span_text};

/// A day of every year that has it: of 29 February the next is at most so many days away.
const YEARLY_DAYS_MAX: i64 = 8 * 366;
/// Characters of a rule that are shown where it has no note.
const RULE_SHOWN: usize = 80;
/// By RFC 5545, section 3.3.5.
const RFC: Dst = Dst { gap: Gap::Shift, fold: Fold::First };
const WEEK_MINUTES: u32 = 7 * DAY_MINUTES as u32;

/// Why a calendar cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalendarFault {
    /// Its zone.
    #[error("timezone: {0}")]
    Zone(#[from] ZoneError),
    /// One of its rules.
    #[error("rules[{index}].rrule: {source}")]
    Rule {
        /// The index of the rule, from 0.
        index: usize,
        /// What is wrong with it.
        source: RecurrenceError,
    },
}

impl CalendarFault {
    /// What would be right, where that can be told; without the word "hint".
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Zone(error) => error.hint().map(str::to_owned),
            Self::Rule { source, .. } => source.hint(),
        }
    }
}

/// Whether whole days are covered, or some hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A day of the calendar.
    Day,
    /// From one instant to another.
    Span,
}

/// What covers an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cover {
    /// The index of the entry; see [`CompiledCalendar::entry`].
    pub entry: u16,
    /// Day or hours.
    pub kind: Kind,
    /// It covers all instants before this one, which may be covered as well.
    pub until: Timestamp,
}

/// Disjoint pieces in ascending order: the first, the first behind it, and the entry.
type Pieces<T> = Box<[(T, T, u16)]>;

/// A calendar that can be asked.
#[derive(Debug)]
pub struct CompiledCalendar {
    name: Arc<str>,
    zone: Option<Zone>,
    /// What its entries say.
    entries: Box<[Box<str>]>,
    /// Days since 1970-01-01.
    once: Pieces<i64>,
    /// By the day of a leap year, from 0.
    yearly: Option<Box<[Option<u16>; 366]>>,
    /// By the weekday, from Sunday.
    weekdays: [Option<u16>; 7],
    /// Minutes since the beginning of Sunday.
    weekly: Pieces<u32>,
    windows: Pieces<Timestamp>,
    rules: Box<[Rule]>,
}

#[derive(Debug)]
struct Rule {
    entry: u16,
    recurrence: Recurrence,
    /// The one that it names.
    zone: Option<Zone>,
    lasts: Lasts,
}

impl CompiledCalendar {
    /// Compiles a calendar.
    ///
    /// # Errors
    /// [`CalendarFault`] for a zone that does not exist, and for a rule that cannot be read or never comes.
    pub fn compile(spec: &CalendarSpec, zones: &Zones) -> Result<Self, CalendarFault> {
        let zone = spec.timezone.as_deref().map(|name| zones.zone(name)).transpose()?;
        let mut texts = Vec::new();
        let mut entry = |text: String| {
            texts.push(text.into_boxed_str());
            // the number of entries is bounded below it
            u16::try_from(texts.len() - 1).unwrap_or(u16::MAX)
        };
        let (mut once, mut yearly, mut weekdays) = (Vec::new(), None, [None; 7]);
        for dates in &spec.dates {
            let entry = entry(dates.to_string());
            match dates.days {
                Days::Once { from, to } => once.push((i64::from(from.0), i64::from(to.0) + 1, entry)),
                Days::Yearly { from, to } => {
                    let days = yearly.get_or_insert_with(|| Box::new([None; 366]));
                    each_day(from, to, |day| days[day] = days[day].or(Some(entry)));
                }
            }
        }
        let mut weekly = Vec::new();
        for hours in &spec.weekly {
            let entry = entry(weekly_text(hours));
            let days = (0..7).filter(|day| hours.days >> day & 1 == 1);
            for day in days {
                if hours.is_whole_days() {
                    weekdays[day] = weekdays[day].or(Some(entry));
                } else {
                    add_hours(hours, day, entry, &mut weekly);
                }
            }
        }
        let windows = spec.windows.iter().map(|window| {
            let text = format!("{} to {}", window.from, window.to);
            (window.from, window.to, entry(noted(text, &window.note)))
        });
        let windows = disjoint(windows.collect());
        let rules = spec.rules.iter().enumerate().map(|(index, rule)| {
            let entry = entry(rule_text(rule));
            read_rule(rule, entry, zone.as_ref(), zones)
                .map_err(|source| CalendarFault::Rule { index, source })
        });
        let rules = rules.collect::<Result<_, _>>()?;
        Ok(Self {
            name: spec.name.as_str().into(),
            zone,
            entries: texts.into(),
            once: disjoint(once),
            yearly,
            weekdays,
            weekly: disjoint(weekly),
            windows,
            rules,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What an entry says.
    #[must_use]
    pub fn entry(&self, index: u16) -> &str {
        self.entries.get(usize::from(index)).map_or("", |text| text)
    }

    /// What covers an instant, if anything does: a day before some hours. `asker` is the zone of a calendar that has none.
    #[must_use]
    pub fn cover(&self, at: Timestamp, asker: &Zone) -> Option<Cover> {
        self.cover_by_day(at, asker).or_else(|| self.cover_by_hours(at, asker))
    }

    /// The day that covers an instant.
    #[must_use]
    pub fn cover_by_day(&self, at: Timestamp, asker: &Zone) -> Option<Cover> {
        let wall = Wall::at(at, self.zone.as_ref().unwrap_or(asker));
        if let Some(entry) = self.day(wall.day()) {
            return Some(Cover { entry, kind: Kind::Day, until: wall.until((wall.day() + 1) * DAY_SECONDS) });
        }
        self.rules.iter().find_map(|rule| {
            let Lasts::Days(days) = rule.lasts else { return None };
            let wall = Wall::at(at, rule.zone.as_ref().or(self.zone.as_ref()).unwrap_or(asker));
            let first = (wall.day() - i64::from(days) + 1) * DAY_SECONDS;
            let found = rule.recurrence.next_wall(first)?;
            let until = wall.until((wall.day() + 1) * DAY_SECONDS);
            (day_of(found) <= wall.day()).then_some(Cover { entry: rule.entry, kind: Kind::Day, until })
        })
    }

    /// The hours that cover an instant.
    #[must_use]
    pub fn cover_by_hours(&self, at: Timestamp, asker: &Zone) -> Option<Cover> {
        let span = |entry, until| Cover { entry, kind: Kind::Span, until };
        let by_window = piece_at(&self.windows, at).map(|(_, to, entry)| span(entry, to));
        if by_window.is_some() {
            return by_window;
        }
        if !self.weekly.is_empty() {
            let wall = Wall::at(at, self.zone.as_ref().unwrap_or(asker));
            if let Some((_, to, entry)) = piece_at(&self.weekly, wall.minute_of_week()) {
                return Some(span(entry, wall.until(wall.week() + i64::from(to) * 60)));
            }
        }
        self.rules.iter().find_map(|rule| {
            let Lasts::Span(lasts) = rule.lasts else { return None };
            let zone = rule.zone.as_ref().or(self.zone.as_ref()).unwrap_or(asker);
            // what began then or before is over
            let over = at.minus(lasts).millis().div_euclid(1_000);
            let began = rule.recurrence.next_after(zone, RFC, over)?;
            let began = Timestamp::from_millis(began.checked_mul(1_000)?);
            (began <= at).then(|| span(rule.entry, began.plus(lasts)))
        })
    }

    /// The entry that covers a day.
    fn day(&self, day: i64) -> Option<u16> {
        if let Some((_, _, entry)) = piece_at(&self.once, day) {
            return Some(entry);
        }
        let by_weekday = self.weekdays[weekday(day)];
        by_weekday.or_else(|| self.yearly.as_ref().and_then(|days| days[day_of_year(day)]))
    }

    /// The first instant later than `at` that may be covered where `at` is not, and whether by a day. None if there is
    /// none ever again.
    #[must_use]
    pub fn next_start(&self, at: Timestamp, asker: &Zone) -> Option<(Timestamp, Kind)> {
        let zone = self.zone.as_ref().unwrap_or(asker);
        let wall = Wall::at(at, zone);
        let by_day = self.next_day(wall.day()).map(|day| (instant_of(zone, day * DAY_SECONDS), Kind::Day));
        let by_window = self.windows.get(self.windows.partition_point(|piece| piece.0 <= at));
        let by_window = by_window.map(|piece| (piece.0, Kind::Span));
        let by_hours = self.next_hours(&wall).map(|wall| (instant_of(zone, wall), Kind::Span));
        let by_rules = self.rules.iter().filter_map(|rule| {
            let zone = rule.zone.as_ref().or(self.zone.as_ref()).unwrap_or(asker);
            let second = at.millis().div_euclid(1_000);
            match rule.lasts {
                Lasts::Span(_) => {
                    let next = rule.recurrence.next_after(zone, RFC, second)?;
                    Some((Timestamp::from_millis(next.checked_mul(1_000)?), Kind::Span))
                }
                Lasts::Days(_) => {
                    let tomorrow = (Wall::at(at, zone).day() + 1) * DAY_SECONDS;
                    let day = day_of(rule.recurrence.next_wall(tomorrow)?);
                    Some((instant_of(zone, day * DAY_SECONDS), Kind::Day))
                }
            }
        });
        let all = by_rules.chain(by_day).chain(by_window).chain(by_hours);
        // at a fold the beginning of a day may have been before
        all.filter(|(start, _)| *start > at).min_by_key(|(start, _)| *start)
    }

    /// The first covered day after `day`, rules aside.
    fn next_day(&self, day: i64) -> Option<i64> {
        let by_date = self.once.get(self.once.partition_point(|piece| piece.1 <= day + 1));
        let by_date = by_date.map(|piece| piece.0.max(day + 1));
        let by_weekday = (day + 1..=day + 7).find(|day| self.weekdays[weekday(*day)].is_some());
        let by_year = self
            .yearly
            .as_ref()
            .and_then(|days| (day + 1..=day + YEARLY_DAYS_MAX).find(|day| days[day_of_year(*day)].is_some()));
        [by_date, by_weekday, by_year].into_iter().flatten().min()
    }

    /// The wall time at which hours of a week begin next.
    fn next_hours(&self, wall: &Wall) -> Option<i64> {
        let minute = wall.minute_of_week();
        let next = self.weekly.get(self.weekly.partition_point(|piece| piece.0 <= minute));
        let begins = |piece: &(u32, u32, u16)| i64::from(piece.0) * 60;
        let in_next_week = || self.weekly.first().map(|piece| begins(piece) + 7 * DAY_SECONDS);
        next.map(begins).or_else(in_next_week).map(|begins| wall.week() + begins)
    }
}

/// The piece that holds a value.
fn piece_at<T: PartialOrd + Copy>(pieces: &[(T, T, u16)], at: T) -> Option<(T, T, u16)> {
    let after = pieces.partition_point(|piece| piece.0 <= at);
    pieces.get(after.checked_sub(1)?).copied().filter(|piece| at < piece.1)
}

/// The same pieces without overlaps: where two meet, the one that began first stays.
fn disjoint<T: Ord + Copy>(mut pieces: Vec<(T, T, u16)>) -> Pieces<T> {
    pieces.sort_unstable();
    let mut kept: Vec<(T, T, u16)> = Vec::with_capacity(pieces.len());
    for (from, to, entry) in pieces {
        let from = kept.last().map_or(from, |last| last.1.max(from));
        if from < to {
            kept.push((from, to, entry));
        }
    }
    kept.into()
}

/// Adds the hours that begin on a weekday; what goes past Saturday comes back on Sunday.
fn add_hours(hours: &Weekly, day: usize, entry: u16, weekly: &mut Vec<(u32, u32, u16)>) {
    // a weekday, below 7
    let midnight = day as u32 * u32::from(DAY_MINUTES);
    let from = midnight + u32::from(hours.from);
    let next_day = if hours.to <= hours.from { u32::from(DAY_MINUTES) } else { 0 };
    let to = midnight + u32::from(hours.to) + next_day;
    weekly.push((from, to.min(WEEK_MINUTES), entry));
    if to > WEEK_MINUTES {
        weekly.push((0, to - WEEK_MINUTES, entry));
    }
}

/// The weekday of a day since 1970-01-01, from Sunday.
fn weekday(day: i64) -> usize {
    // below 7
    (day + 4).rem_euclid(7) as usize
}

/// The place of a day in a leap year, from 0.
fn leap_day(month: i64, day: i64) -> usize {
    const BEFORE: [i64; 12] = [0, 31, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335];
    let before = usize::try_from(month - 1).ok().and_then(|month| BEFORE.get(month)).copied().unwrap_or(0);
    usize::try_from(before + day - 1).unwrap_or(0).min(365)
}

fn day_of_year(day: i64) -> usize {
    let (_, month, day) = civil_from_days(day);
    leap_day(month, day)
}

/// Each day of a leap year from one to another, past its end if need be.
fn each_day(from: MonthDay, to: MonthDay, mut take: impl FnMut(usize)) {
    let place = |day: MonthDay| leap_day(day.month.into(), day.day.into());
    let (mut day, to) = (place(from), place(to));
    take(day);
    while day != to {
        day = (day + 1) % 366;
        take(day);
    }
}

fn noted(text: String, note: &str) -> String {
    if note.is_empty() { text } else { format!("{text} {note}") }
}

fn weekly_text(hours: &Weekly) -> String {
    let days = weekdays_text(hours.days);
    let text = if hours.is_whole_days() {
        days
    } else {
        format!("{days} {}-{}", clock_text(hours.from), clock_text(hours.to))
    };
    noted(text, &hours.note)
}

fn rule_text(rule: &CalendarRule) -> String {
    if !rule.note.is_empty() {
        return rule.note.clone();
    }
    let words: Vec<&str> = rule.rrule.split_whitespace().collect();
    let text: String = words.join(" ").chars().take(RULE_SHOWN).collect();
    match rule.lasts {
        Lasts::Span(span) => format!("{text} for {}", span_text(span)),
        Lasts::Days(1) => text,
        Lasts::Days(days) => format!("{text} for {days} days"),
    }
}

/// A rule; `zone` is its calendar's.
fn read_rule(
    rule: &CalendarRule,
    entry: u16,
    zone: Option<&Zone>,
    zones: &Zones,
) -> Result<Rule, RecurrenceError> {
    let utc = zones.zone("UTC")?;
    let (recurrence, named) = Recurrence::parse(&rule.rrule, zone.unwrap_or(&utc), zones)?;
    // Where neither the rule nor its calendar names a zone, the rule means wall times of whoever asks; one that says `Z`
    // means UTC, and is refused in any other zone.
    let is_floating = zone.is_none() && named == utc && {
        let elsewhere = zones.zone("fixed:+01:00")?;
        Recurrence::parse(&rule.rrule, &elsewhere, zones).is_ok()
    };
    let zone = Some(named).filter(|_| !is_floating);
    Ok(Rule { entry, recurrence, zone, lasts: rule.lasts })
}
