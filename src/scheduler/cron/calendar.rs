//! The search in wall time: which second of the local calendar matches next.
//!
//! A wall time is a count of seconds since 1970-01-01T00:00:00 on the local calendar, without any
//! zone. All days of a month are tested at once, as bits of one word, so that the search for
//! 29 February on a Monday (up to forty years away) looks at some 500 words.

use super::CronRule;
use crate::state::time::{civil_from_days, days_from_civil};

/// Seconds of a day of the local calendar.
pub(super) const DAY_SECONDS: i64 = 86_400;
/// Months that a search looks at: the Gregorian calendar repeats after 400 years.
const MONTHS_MAX: u32 = 12 * 400 + 1;
const MONTH_LENGTHS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
/// Bits 0, 7, 14, 21, 28: a week, multiplied by it, repeats over a month.
const FIVE_WEEKS: u64 = 0x1020_4081;

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days of `month` (1 to 12).
const fn month_length(leap: bool, month: usize) -> u32 {
    if leap && month == 2 { 29 } else { MONTH_LENGTHS[month - 1] }
}

/// Day of the week, 0 = Sunday; 1970-01-01 was a Thursday.
const fn weekday(days: i64) -> u32 {
    (days + 4).rem_euclid(7) as u32
}

/// The lowest bit of `mask` at or above `from`.
fn bit_at_or_above(mask: u64, from: u32) -> Option<u32> {
    let rest = mask & u64::MAX.checked_shl(from)?;
    (rest != 0).then(|| rest.trailing_zeros())
}

impl CronRule {
    /// The matching days of a month with `length` days that begins on `first_weekday`, as bits 1
    /// to 31; the month itself is not looked at.
    fn days_of(&self, length: u32, first_weekday: u32) -> u32 {
        let week = u64::from(self.weekdays);
        let week = (week >> first_weekday | week << (7 - first_weekday)) & 0x7f;
        let by_weekday = (week * FIVE_WEEKS) << 1;
        let by_date = u64::from(self.days);
        let days = if self.both_days { by_date & by_weekday } else { by_date | by_weekday };
        // `days` is below 2^36; the mask keeps bits 1 to `length`
        (days & ((2 << length) - 2)) as u32
    }

    /// Whether some year has a matching day: seven first weekdays, leap or not, are all that the
    /// calendar has.
    pub(super) fn has_any_day(&self) -> bool {
        let fits = |leap: bool, new_year: u32| {
            let mut first_weekday = new_year;
            (1..=12).any(|month| {
                let length = month_length(leap, month);
                let days =
                    if self.months >> month & 1 == 1 { self.days_of(length, first_weekday) } else { 0 };
                first_weekday = (first_weekday + length) % 7;
                days != 0
            })
        };
        (0..7).any(|new_year| fits(false, new_year) || fits(true, new_year))
    }

    /// The first matching time of a day at or after `from` seconds past midnight.
    fn time_of_day(&self, from: u32) -> Option<u32> {
        let (hour, minute, second) = (from / 3_600, from / 60 % 60, from % 60);
        let first_second = self.seconds.trailing_zeros();
        let first_minute = self.minutes.trailing_zeros();
        if u64::from(self.hours) >> hour & 1 == 1 {
            if self.minutes >> minute & 1 == 1
                && let Some(second) = bit_at_or_above(self.seconds, second)
            {
                return Some(hour * 3_600 + minute * 60 + second);
            }
            if let Some(minute) = bit_at_or_above(self.minutes, minute + 1) {
                return Some(hour * 3_600 + minute * 60 + first_second);
            }
        }
        let hour = bit_at_or_above(u64::from(self.hours), hour + 1)?;
        Some(hour * 3_600 + first_minute * 60 + first_second)
    }

    /// The first matching wall time at or after `from`; `None` if none comes within 400 years,
    /// which a rule that the parser accepted cannot bring about.
    pub(super) fn next_wall(&self, from: i64) -> Option<i64> {
        let today = from.div_euclid(DAY_SECONDS);
        let (mut year, month, day) = civil_from_days(today);
        let (mut month, day) = (month as usize, day as u32);
        let mut month_start = days_from_civil(year, month as i64, 1);
        let mut earliest = day;
        if self.matches_day(year, month, day, month_start) {
            if let Some(time) = self.time_of_day(from.rem_euclid(DAY_SECONDS) as u32) {
                return Some(today * DAY_SECONDS + i64::from(time));
            }
            earliest = day + 1;
        }
        let first_time = self.time_of_day(0)?;
        for _ in 0..MONTHS_MAX {
            let length = month_length(is_leap(year), month);
            if self.months >> month & 1 == 1 {
                let days = self.days_of(length, weekday(month_start));
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

    fn matches_day(&self, year: i64, month: usize, day: u32, month_start: i64) -> bool {
        let length = month_length(is_leap(year), month);
        self.months >> month & 1 == 1 && self.days_of(length, weekday(month_start)) >> day & 1 == 1
    }
}
