//! The search: from a wall time to the next one that matches.
//!
//! Rules of days or longer periods go through the periods that count, and through the days of each; a
//! month that cannot match is leapt over. Rules of hours or shorter periods leap over days, hours and
//! minutes that cannot match, so that what remains is a handful of steps.
//!
//! Invariant: each step goes on by at least one period, and none goes beyond the horizon. A rule whose
//! periods and times never meet is found out by [`Rule::meets`] beforehand, since its steps would be many.

use super::{Freq, HORIZON_DAYS, Recurrence, Rule};
use crate::scheduler::times::{Day, Times};
use crate::scheduler::walls::{DAY_SECONDS, Walls};

/// Most steps of a search of a rule of hours or shorter periods: some for each day of 400 years.
const STEPS_MAX: u32 = 1 << 20;
/// Most days of a period.
const DAYS_MAX: usize = 366;

impl Walls for Recurrence {
    fn next_wall(&self, from: i64) -> Option<i64> {
        let mut from = from;
        loop {
            let by_rule = self.rule.as_ref().and_then(|rule| rule.next(from));
            let added = self.added.get(self.added.partition_point(|wall| *wall < from)).copied();
            let wall = match (by_rule, added) {
                (Some(one), Some(other)) => one.min(other),
                (one, other) => one.or(other)?,
            };
            // each round leaves a date of EXDATE behind, of which there are few
            let day = wall.div_euclid(DAY_SECONDS);
            if self.days_left_out.binary_search(&day).is_ok() {
                from = (day + 1) * DAY_SECONDS;
            } else if self.left_out.binary_search(&wall).is_ok() {
                from = wall + 1;
            } else {
                return Some(wall);
            }
        }
    }

    /// RFC 5545 knows wall times alone.
    fn is_elastic(&self) -> bool {
        false
    }
}

impl Rule {
    /// The first match at or after `from`.
    pub(super) fn next(&self, from: i64) -> Option<i64> {
        let from = from.max(self.start);
        let found = if self.freq >= Freq::Daily { self.next_in_days(from) } else { self.next_in_hours(from) };
        found.filter(|wall| self.last.is_none_or(|last| *wall <= last))
    }

    fn next_in_days(&self, from: i64) -> Option<i64> {
        let from_day = from.div_euclid(DAY_SECONDS);
        let horizon = from_day + HORIZON_DAYS;
        let mut period = self.aligned(self.period_of(from_day));
        loop {
            let (first, end) = self.days_of(period);
            if first > horizon {
                return None;
            }
            let found = if self.positions.is_empty() {
                self.first_of(first, end, from)
            } else {
                self.first_by_position(first, end, from)
            };
            if found.is_some() {
                return found;
            }
            // a year is searched month by month as it is
            let last = Day::of(end - 1);
            let next = period.saturating_add(self.interval);
            period = if self.has_month(last.month) || self.freq >= Freq::Monthly {
                next
            } else {
                next.max(self.aligned(self.period_of(last.next_month())))
            };
        }
    }

    /// The first match at or after `from` in the days from `first` to before `end`.
    fn first_of(&self, first: i64, end: i64, from: i64) -> Option<i64> {
        let from_day = from.div_euclid(DAY_SECONDS);
        let mut day = Day::of(first.max(from_day));
        while day.number < end {
            if !self.has_month(day.month) {
                day = Day::of(day.next_month());
                continue;
            }
            if self.has_day(&day) {
                let earliest = if day.number == from_day { from.rem_euclid(DAY_SECONDS) as u32 } else { 0 };
                if let Some(time) = self.times.at_or_after(earliest) {
                    return Some(day.number * DAY_SECONDS + i64::from(time));
                }
            }
            day = day.next();
        }
        None
    }

    /// The same, where only some places in the row of all matches of the period count.
    fn first_by_position(&self, first: i64, end: i64, from: i64) -> Option<i64> {
        let mut days = [0_u16; DAYS_MAX];
        let mut count = 0;
        // the first week has no days before the start
        let begin =
            if self.freq == Freq::Weekly { first.max(self.start.div_euclid(DAY_SECONDS)) } else { first };
        let mut day = Day::of(begin);
        while day.number < end {
            if self.has_day(&day) {
                // at most 366
                *days.get_mut(count)? = (day.number - first) as u16;
                count += 1;
            }
            day = day.next();
        }
        let times = self.times.count();
        let places = count as u32 * times;
        let wall = |place: u32| {
            let day = first + i64::from(*days.get((place / times) as usize)?);
            Some(day * DAY_SECONDS + i64::from(self.times.nth(place % times)?))
        };
        let places = self.positions.iter().filter_map(|position| place_of(*position, places));
        places.filter_map(wall).filter(|wall| *wall >= from).min()
    }

    /// Seconds of a period of a rule of hours or shorter periods.
    fn period_seconds(&self) -> i64 {
        match self.freq {
            Freq::Secondly => 1,
            Freq::Minutely => 60,
            Freq::Hourly | Freq::Daily | Freq::Weekly | Freq::Monthly | Freq::Yearly => 3_600,
        }
    }

    fn next_in_hours(&self, from: i64) -> Option<i64> {
        let seconds = self.period_seconds();
        let first = self.start.div_euclid(seconds);
        let horizon = from.div_euclid(DAY_SECONDS) + HORIZON_DAYS;
        // the first period that counts and begins at or after a wall time
        let begin_at = |wall: i64| {
            let period = wall.div_euclid(seconds) + i64::from(wall.rem_euclid(seconds) != 0) - first;
            first.saturating_add(self.aligned(period)).saturating_mul(seconds)
        };
        let mut begin = begin_at(from.div_euclid(seconds) * seconds);
        for _ in 0..STEPS_MAX {
            let day = Day::of(begin.div_euclid(DAY_SECONDS));
            if day.number > horizon {
                return None;
            }
            if !self.has_day(&day) {
                let next = if self.has_month(day.month) { day.number + 1 } else { day.next_month() };
                begin = begin_at(next * DAY_SECONDS);
                continue;
            }
            let of_day = begin.rem_euclid(DAY_SECONDS) as u32;
            let midnight = day.number * DAY_SECONDS;
            match self.earliest(of_day) {
                Some(time) if time > of_day => {
                    begin = begin_at(midnight + i64::from(time));
                    continue;
                }
                Some(_) => {}
                None => {
                    begin = begin_at(midnight + DAY_SECONDS);
                    continue;
                }
            }
            if let Some(found) = self.first_within(begin, from) {
                return Some(found);
            }
            begin = begin_at(begin.saturating_add(seconds));
        }
        None
    }

    /// The first period of the day at or after `of_day` that the times do not exclude.
    fn earliest(&self, of_day: u32) -> Option<u32> {
        match self.freq {
            Freq::Secondly => self.times,
            Freq::Minutely => Times { seconds: 1, ..self.times },
            Freq::Hourly | Freq::Daily | Freq::Weekly | Freq::Monthly | Freq::Yearly => {
                Times { seconds: 1, minutes: 1, ..self.times }
            }
        }
        .at_or_after(of_day)
    }

    /// The first match at or after `from` of the period that begins at `begin`.
    fn first_within(&self, begin: i64, from: i64) -> Option<i64> {
        let within = self.within();
        if self.positions.is_empty() {
            // below an hour
            return within.at_or_after((from - begin).max(0) as u32).map(|time| begin + i64::from(time));
        }
        let places = self.positions.iter().filter_map(|position| place_of(*position, within.count()));
        let walls = places.filter_map(|place| Some(begin + i64::from(within.nth(place)?)));
        walls.filter(|wall| *wall >= from).min()
    }

    /// Whether `BYSETPOS` names a place that some period has, where all periods of a rule have as many: there are
    /// too many days and seconds to try each of them.
    fn has_place(&self) -> bool {
        let places = match self.freq {
            Freq::Daily => self.times.count(),
            Freq::Secondly | Freq::Minutely | Freq::Hourly => self.within().count(),
            Freq::Weekly | Freq::Monthly | Freq::Yearly => return true,
        };
        self.positions.is_empty()
            || self.positions.iter().any(|position| place_of(*position, places).is_some())
    }

    /// The times inside a period of an hour or less, counted from its begin.
    fn within(&self) -> Times {
        match self.freq {
            Freq::Secondly => Times { seconds: 1, minutes: 1, hours: 1 },
            Freq::Minutely => Times { minutes: 1, hours: 1, ..self.times },
            Freq::Hourly | Freq::Daily | Freq::Weekly | Freq::Monthly | Freq::Yearly => {
                Times { hours: 1, ..self.times }
            }
        }
    }

    /// Whether the periods that count and the times that match ever fall on each other: of `INTERVAL=2`
    /// seconds from an even one, none is odd.
    pub(super) fn meets(&self) -> bool {
        if !self.has_place() {
            return false;
        }
        if self.freq >= Freq::Daily {
            return true;
        }
        let seconds = self.period_seconds();
        let common = gcd(self.interval, DAY_SECONDS / seconds);
        let rest = self.start.div_euclid(seconds).rem_euclid(common);
        let mut times = std::iter::successors(self.earliest(0), |time| self.earliest(time + 1));
        times.any(|time| (i64::from(time) / seconds).rem_euclid(common) == rest)
    }
}

fn gcd(one: i64, other: i64) -> i64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

/// A position of `BYSETPOS` as a place, from 0, in a row of `count`.
fn place_of(position: i32, count: u32) -> Option<u32> {
    let place = position.unsigned_abs() - 1;
    if place >= count {
        return None;
    }
    Some(if position > 0 { place } else { count - 1 - place })
}
