//! Calendar events as systemd writes them (`OnCalendar=`).
//!
//! `Mon..Fri *-*-01..07 09:00:00 Europe/Berlin`: weekdays, a date, a time and a zone, each of which may be left
//! out, but not all. [`parse`] reads them into the masks of a [`CronRule`], so the search is the one of cron
//! lines. A day must match both the weekdays and the date.
//!
//! | part | forms |
//! |---|---|
//! | weekdays | names, short or long, in any case; `Mon,Fri`, `Mon..Fri` (also `Mon-Fri`) |
//! | date | `YEAR-MONTH-DAY` or `MONTH-DAY`; with `~` in place of the last `-` days count from the end of the month, `~01` being the last |
//! | time | `HOUR:MINUTE` or `HOUR:MINUTE:SECOND`; midnight where left out |
//! | zone | an IANA name; a schedule's `timezone` must then be the same, or `UTC` (the default) |
//! | one word | `minutely hourly daily weekly monthly quarterly semiannually yearly annually`, also with a zone |
//!
//! Each number is a list of `*`, `a`, `a..b`, `a/n` (from `a` on) and `a..b/n`. Of days from the end `~a/n` goes
//! on towards the end: `Mon *-05~07/1` is the last Monday in May. Years are 1970 to 2199, or two digits from 1970
//! to 2069.
//!
//! # Odd days
//! As for cron lines ([`super::cron`]): an expression whose hours, minutes or seconds begin with `*` follows real
//! time, any other goes by `gap` and `fold`. systemd itself passes over what a gap skips (`gap: skip`) and leaves
//! an hour out after a fold, which no setting here does.
//!
//! # Differences from systemd
//! Fractions of seconds are refused, and an expression that never comes (`2026-02-30`). A step may be larger than
//! the range.
//!
//! Source: systemd.time(7) and `calendarspec.c` of systemd 252, whose answers are the test data.

mod parse;

#[cfg(test)]
mod tests;

pub use parse::parse;

use super::cron::CronRule;
use super::zone::ZoneError;

/// Longest expression, in bytes.
pub const TEXT_BYTES_MAX: usize = 256;
/// Most items of a list.
pub const ITEMS_MAX: usize = 64;

/// A part of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `Mon..Fri`.
    Weekday,
    /// 1970 to 2199.
    Year,
    /// 1 to 12.
    Month,
    /// 1 to 31.
    Day,
    /// 1 to 28, the last being 1.
    DayFromEnd,
    /// 0 to 23.
    Hour,
    /// 0 to 59.
    Minute,
    /// 0 to 59.
    Second,
}

impl Part {
    /// Its name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weekday => "weekday",
            Self::Year => "year",
            Self::Month => "month",
            Self::Day => "day",
            Self::DayFromEnd => "day from the end",
            Self::Hour => "hour",
            Self::Minute => "minute",
            Self::Second => "second",
        }
    }

    /// The smallest and the largest number of it.
    #[must_use]
    pub const fn range(self) -> (u32, u32) {
        match self {
            Self::Weekday => (0, 6),
            Self::Year => (1_970, 2_199),
            Self::Month => (1, 12),
            Self::Day => (1, 31),
            Self::DayFromEnd => (1, 28),
            Self::Hour => (0, 23),
            Self::Minute | Self::Second => (0, 59),
        }
    }
}

/// Why a text is no calendar event.
///
/// `at` is a byte offset into the text, counted from 0. Messages show it as a column, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// Nothing but blanks.
    #[error("the expression is empty")]
    Empty,
    /// More than [`TEXT_BYTES_MAX`] bytes.
    #[error("the expression has {found} bytes; at most {TEXT_BYTES_MAX} are allowed")]
    TooLong {
        /// Bytes of the text.
        found: usize,
    },
    /// A word that is no part, or a part out of order.
    #[error("column {}: found `{found}`, expected {expected}", at + 1)]
    Word {
        /// Where it begins.
        at: usize,
        /// The word.
        found: String,
        /// What may stand there.
        expected: &'static str,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// Something inside a part that does not belong where it is.
    #[error("column {}: {}: found {found}, expected {expected}", at + 1, part.name())]
    Unexpected {
        /// The part.
        part: Part,
        /// Where it is.
        at: usize,
        /// What is there, in backquotes, or `the end`.
        found: String,
        /// What may stand there.
        expected: &'static str,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// A number that the part does not have.
    #[error("column {}: {}: {found} is out of range, expected {} to {}",
        at + 1, part.name(), part.range().0, part.range().1)]
    OutOfRange {
        /// The part.
        part: Part,
        /// Where the number begins.
        at: usize,
        /// Its digits.
        found: String,
    },
    /// More than [`ITEMS_MAX`] items in a list.
    #[error("column {}: {}: more than {ITEMS_MAX} list items", at + 1, part.name())]
    TooManyItems {
        /// The part.
        part: Part,
        /// Where the first item too many begins.
        at: usize,
    },
    /// The zone at the end.
    #[error("column {}: {error}", at + 1)]
    Zone {
        /// Where it begins.
        at: usize,
        /// What is wrong with it.
        error: ZoneError,
    },
    /// The zone at the end and the schedule's differ.
    #[error("the expression is in {found}, but timezone is {timezone}")]
    OtherZone {
        /// The zone of the expression.
        found: String,
        /// The schedule's.
        timezone: String,
    },
    /// No day matches.
    #[error("no year has a day that matches: the rule would never fire")]
    NeverFires,
    /// Wall times that the zone skips every time.
    #[error("the rule would never fire: its wall times are always in the hour that {zone} skips")]
    NeverInZone {
        /// The zone's name.
        zone: String,
    },
}

impl CalendarError {
    /// What would be right, where that can be told; without the word "hint".
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Word { hint, .. } | Self::Unexpected { hint, .. } => hint.clone(),
            Self::OutOfRange { part: Part::Hour, found, .. } if found == "24" => {
                Some("midnight is `00:00`".to_owned())
            }
            Self::Zone { error, .. } => error.hint().map(str::to_owned),
            Self::OtherZone { .. } => Some("name the zone once".to_owned()),
            Self::NeverInZone { .. } => Some("use `gap: run_at_end`, or another hour".to_owned()),
            Self::Empty
            | Self::TooLong { .. }
            | Self::OutOfRange { .. }
            | Self::TooManyItems { .. }
            | Self::NeverFires => None,
        }
    }
}
