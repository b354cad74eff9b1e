//! Times of a day and days of the calendar: what every rule in wall time is made of.

use crate::state::time::{civil_from_days, days_from_civil};

const MONTH_LENGTHS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

pub(super) const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days of `month` (1 to 12).
pub(super) const fn month_length(leap: bool, month: usize) -> u32 {
    if leap && month == 2 { 29 } else { MONTH_LENGTHS[month - 1] }
}

/// Day of the week, 0 = Sunday; 1970-01-01 was a Thursday.
pub(super) const fn weekday(days: i64) -> u32 {
    (days + 4).rem_euclid(7) as u32
}

/// The lowest bit of `mask` at or above `from`.
pub(super) fn bit_at_or_above(mask: u64, from: u32) -> Option<u32> {
    let rest = mask & u64::MAX.checked_shl(from)?;
    (rest != 0).then(|| rest.trailing_zeros())
}

/// The `index`th set bit, from 0.
fn nth_bit(mut mask: u64, index: u32) -> Option<u32> {
    for _ in 0..index {
        mask &= mask.wrapping_sub(1);
    }
    (mask != 0).then(|| mask.trailing_zeros())
}

/// Times of day: each hour with each minute with each second. Bit n is the value n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) seconds: u64,
    pub(super) minutes: u64,
    pub(super) hours: u32,
}

impl Times {
    /// The first at or after `from` seconds past midnight.
    pub(super) fn at_or_after(&self, from: u32) -> Option<u32> {
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

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.hours.count_ones() * self.minutes.count_ones() * self.seconds.count_ones()
    }

    /// The `index`th, from 0.
    pub(super) fn nth(&self, index: u32) -> Option<u32> {
        let (seconds, minutes) = (self.seconds.count_ones().max(1), self.minutes.count_ones().max(1));
        let second = nth_bit(self.seconds, index % seconds)?;
        let minute = nth_bit(self.minutes, index / seconds % minutes)?;
        let hour = nth_bit(u64::from(self.hours), index / seconds / minutes)?;
        Some(hour * 3_600 + minute * 60 + second)
    }
}

/// A day of the calendar, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Day {
    /// Since 1970-01-01.
    pub(super) number: i64,
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u32,
    /// 1 to 31.
    pub(super) day: u32,
    /// 1 to 366.
    pub(super) of_year: u32,
    /// 0 is Sunday.
    pub(super) weekday: u32,
    /// Days of the month.
    pub(super) month_length: u32,
    /// Days of the year.
    pub(super) year_length: u32,
}

impl Day {
    /// The day with this number.
    pub(super) fn of(number: i64) -> Self {
        let (year, month, day) = civil_from_days(number);
        let leap = is_leap(year);
        Self {
            number,
            year,
            month: month as u32,
            day: day as u32,
            of_year: (number - days_from_civil(year, 1, 1) + 1) as u32,
            weekday: weekday(number),
            month_length: month_length(leap, month as usize),
            year_length: if leap { 366 } else { 365 },
        }
    }

    /// The day after it.
    pub(super) fn next(self) -> Self {
        if self.day == self.month_length {
            return Self::of(self.number + 1);
        }
        Self {
            number: self.number + 1,
            day: self.day + 1,
            of_year: self.of_year + 1,
            weekday: (self.weekday + 1) % 7,
            ..self
        }
    }

    /// The number of the first day of the month after it.
    pub(super) fn next_month(&self) -> i64 {
        self.number + i64::from(self.month_length - self.day) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_by_place_as_they_are_one_after_the_other() {
        let times = Times { seconds: 1 | 1 << 30, minutes: 1 << 5 | 1 << 59, hours: 1 | 1 << 23 | 1 << 12 };
        let walked: Vec<u32> =
            std::iter::successors(times.at_or_after(0), |time| times.at_or_after(time + 1)).collect();
        let counted: Vec<u32> = (0..).map_while(|index| times.nth(index)).collect();
        assert_eq!(walked, counted);
        assert_eq!(walked.len(), times.count() as usize);
        assert_eq!((walked[0], walked[11]), (300, 23 * 3_600 + 59 * 60 + 30));
    }

    #[test]
    fn days_are_the_same_one_by_one_and_by_number() {
        let first = days_from_civil(1999, 12, 31);
        let mut day = Day::of(first);
        for number in first..first + 3_000 {
            assert_eq!(day, Day::of(number));
            day = day.next();
        }
        assert_eq!(Day::of(days_from_civil(2024, 12, 31)).of_year, 366);
        assert_eq!(Day::of(days_from_civil(2024, 2, 3)).next_month(), days_from_civil(2024, 3, 1));
    }
}
