//! Days, weekdays and times of day as people write them.

use std::fmt;
use std::str::FromStr;

use super::super::time::{civil_from_days, days_from_civil};
use super::{DAY_MINUTES, Date, Dates, Days, MonthDay};

/// The names of weekdays, Sunday first.
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// What parts the first of a range from the last.
const RANGE: &str = "..";

/// Why a text is no day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DaysError {
    /// Neither `2026-12-25` nor `12-25`.
    #[error("{found:?} is no day, expected one such as `2026-12-25`, or `12-25` for each year")]
    Day {
        /// What is there.
        found: String,
    },
    /// A day that the month does not have.
    #[error("{found:?} does not exist")]
    NoSuchDay {
        /// The day.
        found: String,
    },
    /// A range from a day of one year to one of each, or the other way round.
    #[error("{found:?} goes from a day of one year to one of each year")]
    Mixed {
        /// The range.
        found: String,
    },
    /// A range that ends before it begins.
    #[error("{found:?} ends before it begins")]
    Reversed {
        /// The range.
        found: String,
    },
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let is_number = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Days of a month in a year that has the most.
fn days_of(month: i64) -> i64 {
    match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

enum OneDay {
    Once(Date),
    Yearly(MonthDay),
}

impl FromStr for OneDay {
    type Err = DaysError;

    fn from_str(text: &str) -> Result<Self, DaysError> {
        let wrong = || DaysError::Day { found: shown(text) };
        let none = || DaysError::NoSuchDay { found: shown(text) };
        let parts: Vec<&str> = text.split('-').collect();
        let (year, month, day) = match parts[..] {
            [year, month, day] => (Some(digits(year, 4).ok_or_else(wrong)?), month, day),
            [month, day] => (None, month, day),
            _ => return Err(wrong()),
        };
        let (month, day) = (digits(month, 2).ok_or_else(wrong)?, digits(day, 2).ok_or_else(wrong)?);
        if !(1..=12).contains(&month) || !(1..=days_of(month)).contains(&day) {
            return Err(none());
        }
        let Some(year) = year else {
            // below 32
            return Ok(Self::Yearly(MonthDay { month: month as u8, day: day as u8 }));
        };
        let number = days_from_civil(year, month, day);
        if civil_from_days(number) != (year, month, day) {
            return Err(none());
        }
        i32::try_from(number).map(|number| Self::Once(Date(number))).map_err(|_| none())
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.into());
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl fmt::Display for MonthDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}-{:02}", self.month, self.day)
    }
}

impl FromStr for Days {
    type Err = DaysError;

    /// `2026-12-25`, `2026-12-24..2027-01-01`, `12-25`, `12-24..01-01`.
    fn from_str(text: &str) -> Result<Self, DaysError> {
        let (from, to) = text.split_once(RANGE).unwrap_or((text, text));
        match (from.parse()?, to.parse()?) {
            (OneDay::Once(from), OneDay::Once(to)) if from <= to => Ok(Self::Once { from, to }),
            (OneDay::Once(_), OneDay::Once(_)) => Err(DaysError::Reversed { found: shown(text) }),
            (OneDay::Yearly(from), OneDay::Yearly(to)) => Ok(Self::Yearly { from, to }),
            (OneDay::Once(_), OneDay::Yearly(_)) | (OneDay::Yearly(_), OneDay::Once(_)) => {
                Err(DaysError::Mixed { found: shown(text) })
            }
        }
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Once { from, to } if from == to => write!(f, "{from}"),
            Self::Once { from, to } => write!(f, "{from}{RANGE}{to}"),
            Self::Yearly { from, to } if from == to => write!(f, "{from}"),
            Self::Yearly { from, to } => write!(f, "{from}{RANGE}{to}"),
        }
    }
}

impl FromStr for Dates {
    type Err = DaysError;

    /// Days, and behind a blank what they are called.
    fn from_str(text: &str) -> Result<Self, DaysError> {
        let (days, note) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        Ok(Self { days: days.parse()?, note: note.trim().to_owned() })
    }
}

impl fmt::Display for Dates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.days)?;
        if self.note.is_empty() { Ok(()) } else { write!(f, " {}", self.note) }
    }
}

/// The weekdays of a list such as `mon..fri` or `sat,sun`, bit 0 is Sunday; `None` for anything else.
#[must_use]
pub fn weekdays(text: &str) -> Option<u8> {
    let number = |name: &str| WEEKDAYS.iter().position(|day| day.eq_ignore_ascii_case(name.trim()));
    let mut days = 0;
    for piece in text.split(',') {
        let (from, to) = piece.split_once(RANGE).unwrap_or((piece, piece));
        let (mut day, to) = (number(from)?, number(to)?);
        days |= 1 << day;
        while day != to {
            day = (day + 1) % WEEKDAYS.len();
            days |= 1 << day;
        }
    }
    Some(days)
}

/// The inverse of [`weekdays`]: days in a row as a range, Monday first.
#[must_use]
pub fn weekdays_text(days: u8) -> String {
    let has = |day: usize| days >> (day % 7) & 1 == 1;
    let name = |day: usize| WEEKDAYS[day % 7];
    let (mut pieces, mut day) = (Vec::new(), 1);
    while day <= 7 {
        if !has(day) {
            day += 1;
            continue;
        }
        let first = day;
        while day < 7 && has(day + 1) {
            day += 1;
        }
        pieces.push(match day - first {
            0 => name(first).to_owned(),
            1 => format!("{},{}", name(first), name(day)),
            _ => format!("{}{RANGE}{}", name(first), name(day)),
        });
        day += 1;
    }
    pieces.join(",")
}

/// Minutes since midnight of `HH:MM`, `24:00` included; `None` for anything else.
#[must_use]
pub fn clock_minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2).filter(|minutes| *minutes < 60)?);
    u16::try_from(hours * 60 + minutes).ok().filter(|total| *total <= DAY_MINUTES)
}

/// The inverse of [`clock_minutes`].
#[must_use]
pub fn clock_text(minutes: u16) -> String {
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}
