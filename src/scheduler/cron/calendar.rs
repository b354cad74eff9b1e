//! The search in wall time: which second of the local calendar matches next.
//!
//! All days of a month are tested at once, as bits of one word, so that the search for
//! 29 February on a Monday (up to forty years away) looks at some 500 words.

use super::{CronRule, Days, Years};
use crate::scheduler::times::{bit_at_or_above, is_leap, month_length, weekday};
use crate::scheduler::walls::{DAY_SECONDS, Walls};
use crate::state::time::{civil_from_days, days_from_civil};

/// Months that a search looks at: the Gregorian calendar repeats after 400 years.
const MONTHS_MAX: u32 = 12 * 400 + 1;
/// Bits 0, 7, 14, 21, 28: a week, multiplied by it, repeats over a month.
const FIVE_WEEKS: u64 = 0x1020_4081;

/// The lowest set bits of `mask`, one after the other.
fn bits(mut mask: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros())?;
        mask &= mask - 1;
        Some(bit)
    })
}

impl Days {
    /// The matching days of a month with `length` days that begins on `first_weekday`, as bits 1 to 31.
    fn of(&self, length: u32, first_weekday: u32) -> u32 {
        // bit 0 is the weekday of the month's first day
        let rotated = |week: u8, first: u32| u64::from(week) >> first | u64::from(week) << (7 - first) & 0x7f;
        let mut by_weekday = (rotated(self.weekdays, first_weekday) * FIVE_WEEKS) << 1;
        for (week, weekdays) in self.counted_weekdays.iter().enumerate() {
            by_weekday |= rotated(*weekdays, first_weekday) << (7 * week + 1);
        }
        // the last seven days begin at `length - 6`
        by_weekday |= rotated(self.last_weekdays, (first_weekday + length) % 7) << (length - 6);
        // bit n of a mask from the end is day `length - n`
        let from_end = |mask: u32| u64::from(mask.reverse_bits()) >> (31 - length);
        let mut by_date = u64::from(self.dates) | from_end(self.dates_from_end);
        let near = u64::from(self.near) | from_end(self.near_from_end);
        // bit 0 and those beyond the month are days that it does not have
        for day in bits((near & ((2 << length) - 2)) as u32) {
            by_date |= 1 << nearest_workday(day, length, (first_weekday + day - 1) % 7);
        }
        let days = if self.both { by_date & by_weekday } else { by_date | by_weekday };
        // `days` is below 2^37; the mask keeps bits 1 to `length`
        (days & ((2 << length) - 2)) as u32
    }
}

/// The day from Monday to Friday that is nearest to `day`, in the same month.
fn nearest_workday(day: u32, length: u32, weekday: u32) -> u32 {
    match weekday {
        6 if day == 1 => 3,
        6 => day - 1,
        0 if day == length => day - 2,
        0 => day + 1,
        _ => day,
    }
}

impl Years {
    /// The first year at or after `year` that is among them.
    fn at_or_after(&self, year: i64) -> Option<i64> {
        let Some(words) = &self.0 else { return Some(year) };
        let from = u32::try_from((year - Self::FIRST).max(0)).ok()?;
        let first = (from / 64) as usize;
        words.iter().enumerate().skip(first).find_map(|(index, word)| {
            let bit = bit_at_or_above(*word, if index == first { from % 64 } else { 0 })?;
            Some(Self::FIRST + index as i64 * 64 + i64::from(bit))
        })
    }
}

impl CronRule {
    /// The year from which on the rule has to prove that it comes; `None` if it is bound to no year.
    pub(in crate::scheduler) fn first_year(&self) -> Option<i64> {
        self.years.0.and_then(|_| self.years.at_or_after(Years::FIRST))
    }

    /// The years that it is bound to, ascending; `None` if to none.
    pub(in crate::scheduler) fn years(&self) -> Option<Vec<u32>> {
        self.years.0?;
        let years = std::iter::successors(self.years.at_or_after(0), |year| self.years.at_or_after(year + 1));
        // 1970 to 2199
        Some(years.map(|year| year as u32).collect())
    }

    /// Whether some year has a matching day: seven first weekdays, leap or not, are all that the
    /// calendar has.
    pub(in crate::scheduler) fn has_any_day(&self) -> bool {
        let fits = |leap: bool, new_year: u32| {
            let mut first_weekday = new_year;
            (1..=12).any(|month| {
                let length = month_length(leap, month);
                let days =
                    if self.months >> month & 1 == 1 { self.days.of(length, first_weekday) } else { 0 };
                first_weekday = (first_weekday + length) % 7;
                days != 0
            })
        };
        if self.years.0.is_none() {
            return (0..7).any(|new_year| fits(false, new_year) || fits(true, new_year));
        }
        let years = self.years().into_iter().flatten().map(i64::from);
        years.into_iter().any(|year| fits(is_leap(year), weekday(days_from_civil(year, 1, 1))))
    }

    fn matches_day(&self, year: i64, month: usize, day: u32, month_start: i64) -> bool {
        let length = month_length(is_leap(year), month);
        self.months >> month & 1 == 1
            && self.years.at_or_after(year) == Some(year)
            && self.days.of(length, weekday(month_start)) >> day & 1 == 1
    }
}

impl Walls for CronRule {
    /// `None` if none comes within 400 years, which only a rule that is bound to some years can bring about.
    fn next_wall(&self, from: i64) -> Option<i64> {
        let today = from.div_euclid(DAY_SECONDS);
        let (mut year, month, day) = civil_from_days(today);
        let (mut month, day) = (month as usize, day as u32);
        let mut month_start = days_from_civil(year, month as i64, 1);
        let mut earliest = day;
        if self.matches_day(year, month, day, month_start) {
            if let Some(time) = self.times.at_or_after(from.rem_euclid(DAY_SECONDS) as u32) {
                return Some(today * DAY_SECONDS + i64::from(time));
            }
            earliest = day + 1;
        }
        let first_time = self.times.at_or_after(0)?;
        for _ in 0..MONTHS_MAX {
            let due = self.years.at_or_after(year)?;
            if due > year {
                (year, month, earliest) = (due, 1, 1);
                month_start = days_from_civil(year, 1, 1);
            }
            let length = month_length(is_leap(year), month);
            if self.months >> month & 1 == 1 {
                let days = self.days.of(length, weekday(month_start));
                if let Some(day) = bit_at_or_above(u64::from(days), earliest) {
                    return Some((month_start + i64::from(day) - 1) * DAY_SECONDS + i64::from(first_time));
                }
            }
            month_start += i64::from(length);
            earliest = 1;
            month += 1;
            if month > 12 {
                month = 1;
                year += 1;
            }
        }
        None
    }

    fn is_elastic(&self) -> bool {
        self.elastic
    }
}
