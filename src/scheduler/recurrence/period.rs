//! Which days match, and which days make up a period.

use super::{Freq, Rule};
use crate::scheduler::times::{Day, is_leap};
use crate::scheduler::walls::DAY_SECONDS;
use crate::state::time::{civil_from_days, days_from_civil};

/// The week that a day is in.
struct Week {
    number: u32,
    /// Weeks of its year.
    count: u32,
}

impl Week {
    /// By ISO 8601, but for the weekday that a week begins with: the year of a week is that of its fourth day.
    fn of(day: &Day, week_start: u32) -> Self {
        let since_start = (day.weekday + 7 - week_start) % 7;
        let fourth = i64::from(day.of_year) - i64::from(since_start) + 3;
        let length = |year: i64| if is_leap(year) { 366 } else { 365 };
        let (fourth, length) = if fourth < 1 {
            (fourth + length(day.year - 1), length(day.year - 1))
        } else if fourth > i64::from(day.year_length) {
            (fourth - i64::from(day.year_length), length(day.year + 1))
        } else {
            (fourth, i64::from(day.year_length))
        };
        let first = (fourth - 1) % 7 + 1;
        // 1 to 53
        Self { number: ((fourth - 1) / 7 + 1) as u32, count: ((length - first) / 7 + 1) as u32 }
    }
}

impl Rule {
    pub(super) fn has_month(&self, month: u32) -> bool {
        self.months == 0 || self.months >> month & 1 == 1
    }

    /// Whether the day passes all that restricts days.
    pub(super) fn has_day(&self, day: &Day) -> bool {
        self.has_month(day.month)
            && self.has_weekday(day)
            && self.month_days.has(day.day, day.month_length)
            && self.year_days.as_ref().is_none_or(|days| days.has(day.of_year, day.year_length))
            && self.has_week(day)
    }

    fn has_week(&self, day: &Day) -> bool {
        if self.weeks.is_empty() {
            return true;
        }
        let week = Week::of(day, self.week_start);
        self.weeks.has(week.number, week.count)
    }

    fn has_weekday(&self, day: &Day) -> bool {
        if self.weekdays == 0 && self.nth_weekdays.is_empty() {
            return true;
        }
        if self.weekdays >> day.weekday & 1 == 1 {
            return true;
        }
        let (place, count) =
            if self.nth_in_month { (day.day, day.month_length) } else { (day.of_year, day.year_length) };
        // below 54
        let (from_front, from_back) = ((place - 1) / 7 + 1, (count - place) / 7 + 1);
        self.nth_weekdays.iter().any(|(nth, weekday)| {
            let place = if *nth > 0 { from_front } else { from_back };
            *weekday == day.weekday && nth.unsigned_abs() == place
        })
    }

    /// The day that the weeks are counted from.
    fn first_week(&self) -> i64 {
        let start = Day::of(self.start.div_euclid(DAY_SECONDS));
        start.number - i64::from((start.weekday + 7 - self.week_start) % 7)
    }

    /// The period of a day, counted from that of the start; of a rule of days or longer periods.
    pub(super) fn period_of(&self, day: i64) -> i64 {
        let start = self.start.div_euclid(DAY_SECONDS);
        match self.freq {
            Freq::Yearly => civil_from_days(day).0 - civil_from_days(start).0,
            Freq::Monthly => month_number(day) - month_number(start),
            Freq::Weekly => (day - self.first_week()).div_euclid(7),
            Freq::Daily | Freq::Hourly | Freq::Minutely | Freq::Secondly => day - start,
        }
    }

    /// The first day of a period, and the first day after it.
    pub(super) fn days_of(&self, period: i64) -> (i64, i64) {
        let start = self.start.div_euclid(DAY_SECONDS);
        match self.freq {
            Freq::Yearly => {
                let year = civil_from_days(start).0 + period;
                (days_from_civil(year, 1, 1), days_from_civil(year + 1, 1, 1))
            }
            Freq::Monthly => {
                let month = month_number(start) + period;
                (month_start(month), month_start(month + 1))
            }
            Freq::Weekly => {
                let first = self.first_week() + period * 7;
                (first, first + 7)
            }
            Freq::Daily | Freq::Hourly | Freq::Minutely | Freq::Secondly => {
                (start + period, start + period + 1)
            }
        }
    }

    /// The first period at or after `period` that counts.
    pub(super) fn aligned(&self, period: i64) -> i64 {
        let number = period.div_euclid(self.interval) + i64::from(period.rem_euclid(self.interval) != 0);
        number.saturating_mul(self.interval)
    }
}

fn month_number(day: i64) -> i64 {
    let (year, month, _) = civil_from_days(day);
    year * 12 + month - 1
}

fn month_start(number: i64) -> i64 {
    days_from_civil(number.div_euclid(12), number.rem_euclid(12) + 1, 1)
}
