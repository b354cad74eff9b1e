//! Recurrence rules of RFC 5545, the ones of calendars.
//!
//! A rule is a text of iCalendar properties, one a line or parted by blanks:
//!
//! ```text
//! DTSTART:20260105T090000
//! RRULE:FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1
//! EXDATE:20260227T090000,20261230
//! RDATE:20260302T090000
//! ```
//!
//! [`Recurrence::parse`] reads it; `RRULE:` may be left out where nothing else is there. The search is
//! [`Walls`](super::walls::Walls), so a zone treats its wall times as any other. By RFC 5545, section
//! 3.3.5, a wall time inside a gap is read with the offset before it and one inside a fold is the first
//! pass: `gap: shift` and `fold: first`, which are the defaults for this kind.
//!
//! # What is read how
//! - Without `DTSTART` a rule begins on 1970-01-01 at midnight. It is refused if the beginning matters:
//!   with `INTERVAL`, `COUNT`, or a day that `DTSTART` would have to tell.
//! - `DTSTART;TZID=…` names the zone; a schedule's `timezone` must then be the same, or `UTC` (the
//!   default). A date that ends with `Z` goes with `UTC` alone, but in `UNTIL`.
//! - `UNTIL` is inclusive; with `Z` it is an instant, else a wall time. A date is its midnight.
//! - A date in `EXDATE` leaves out the whole day. A date in `RDATE` is its midnight.
//! - What counts for `COUNT` counts before `EXDATE` and without `RDATE`. `DTSTART` counts only if the
//!   rule matches it, and comes only then.
//! - With `BYWEEKNO` and no `BYDAY` each day of the week matches. The first week of a weekly rule with
//!   `BYSETPOS` begins with the day of `DTSTART`. RFC 5545 leaves these two open; python-dateutil, rrule.js,
//!   rrule-go and the crate `rrule` agree on them.
//! - `BYDAY` with and without numbers is a union; python-dateutil takes the intersection.
//! - Refused: what RFC 5545 forbids together, second 60, `BYEASTER`, `RSCALE` and `SKIP`, `EXRULE`, a second
//!   `RRULE` (write a second schedule), `RDATE` with periods.
//!
//! # Why not a crate
//! The crate `rrule` 0.14 walks from `DTSTART` to where it is asked (0.1 s for a rule of seconds that began
//! a year ago), has no bound for a rule that never matches, and brings a zone database of its own. Here a
//! search goes from where it is asked, in whole periods, and costs some hundred nanoseconds for the usual
//! rules. It allocates nothing and looks no further than [`HORIZON_DAYS`].

mod parse;
mod period;
mod text;
mod walk;

#[cfg(test)]
mod tests;

use super::times::Times;
use super::zone::ZoneError;

/// Longest text, in bytes.
pub const TEXT_BYTES_MAX: usize = 16 << 10;
/// Most dates in all `EXDATE`s, and in all `RDATE`s.
pub const DATES_MAX: usize = 1_000;
/// Largest `COUNT`: reading a rule walks over them.
pub const COUNT_MAX: u32 = 10_000;
/// Most numbers in one `BY…`.
pub const NUMBERS_MAX: usize = 400;
/// How far a search looks: 400 years, in which the calendar repeats, and one more.
pub const HORIZON_DAYS: i64 = 401 * 366;

/// Why a text is no rule.
///
/// `at` is a byte offset, counted from 0, into the text with its folded lines joined. Messages show it as a
/// column, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecurrenceError {
    /// Nothing but blanks.
    #[error("the rule is empty")]
    Empty,
    /// More than [`TEXT_BYTES_MAX`] bytes.
    #[error("the rule has {found} bytes; at most {TEXT_BYTES_MAX} are allowed")]
    TooLong {
        /// Bytes of the text.
        found: usize,
    },
    /// Something that does not belong where it is.
    #[error("column {}: {part}: found {found}, expected {expected}", at + 1)]
    Unexpected {
        /// Where it is.
        at: usize,
        /// The property, or the part of `RRULE`.
        part: &'static str,
        /// What is there, in backquotes.
        found: String,
        /// What may stand there.
        expected: &'static str,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// More than there may be.
    #[error("column {}: {part}: more than {most} values", at + 1)]
    TooMany {
        /// Where the first one too many is.
        at: usize,
        /// The property or part.
        part: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// A property or part that is there a second time.
    #[error("column {}: {part} is given twice", at + 1)]
    Twice {
        /// Where the second one is.
        at: usize,
        /// The property or part.
        part: &'static str,
    },
    /// Parts that do not go together (RFC 5545, section 3.3.10).
    #[error("column {}: {part} does not go with {with}", at + 1)]
    Conflict {
        /// Where the first of them is.
        at: usize,
        /// The one.
        part: &'static str,
        /// The other.
        with: &'static str,
    },
    /// No `FREQ`, or neither `RRULE` nor `RDATE`.
    #[error("{part} is missing")]
    Missing {
        /// What is missing.
        part: &'static str,
    },
    /// Without `DTSTART` the rule does not say enough.
    #[error("DTSTART is missing: {part} is counted from it")]
    NeedsStart {
        /// What depends on it.
        part: &'static str,
    },
    /// A date in UTC and a schedule in another zone.
    #[error("{part} is in UTC, but timezone is {timezone}")]
    StartInUtc {
        /// The property.
        part: &'static str,
        /// The schedule's zone.
        timezone: String,
    },
    /// `TZID` and `timezone` differ.
    #[error("{part}: TZID is {tzid}, but timezone is {timezone}")]
    OtherZone {
        /// The property.
        part: &'static str,
        /// The zone of the property.
        tzid: String,
        /// The schedule's zone.
        timezone: String,
    },
    /// The zone in `TZID`.
    #[error("TZID: {0}")]
    Zone(#[from] ZoneError),
    /// No date ever matches.
    #[error("the rule would never fire: nothing matches within 400 years of its start")]
    NeverFires,
    /// Wall times that the zone skips every time.
    #[error("the rule would never fire: its wall times are always in the hour that {zone} skips")]
    NeverInZone {
        /// The zone's name.
        zone: String,
    },
}

impl RecurrenceError {
    /// What would be right, where that can be told; without the word "hint".
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unexpected { hint, .. } => hint.clone(),
            Self::Twice { part: "RRULE", .. } => {
                Some("a job may have several schedules: write a list".to_owned())
            }
            Self::Missing { part: "FREQ" } => Some("write `FREQ=DAILY`, or another period".to_owned()),
            Self::NeedsStart { .. } => Some("begin with `DTSTART:20260101T090000`".to_owned()),
            Self::StartInUtc { .. } => {
                Some("leave the `Z` out, so that it is a wall time of that zone, or the timezone".to_owned())
            }
            Self::OtherZone { .. } => Some("name the zone once".to_owned()),
            Self::NeverInZone { .. } => Some("use `gap: run_at_end`, or another hour".to_owned()),
            Self::Zone(error) => error.hint().map(str::to_owned),
            Self::Empty
            | Self::TooLong { .. }
            | Self::TooMany { .. }
            | Self::Twice { .. }
            | Self::Conflict { .. }
            | Self::Missing { .. }
            | Self::NeverFires => None,
        }
    }
}

/// How long a period is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Freq {
    Secondly,
    Minutely,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

/// A compiled recurrence rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recurrence {
    pub(super) rule: Option<Rule>,
    /// Wall times of `RDATE`, ascending.
    pub(super) added: Box<[i64]>,
    /// Wall times of `EXDATE`, ascending.
    pub(super) left_out: Box<[i64]>,
    /// Days of `EXDATE`, ascending.
    pub(super) days_left_out: Box<[i64]>,
}

/// `RRULE`, with what it takes from `DTSTART` written out. No bit set means no restriction, but for times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) freq: Freq,
    pub(super) interval: i64,
    /// The wall time of `DTSTART`.
    pub(super) start: i64,
    /// The last wall time.
    pub(super) last: Option<i64>,
    /// 0 is Sunday.
    pub(super) week_start: u32,
    /// Bits 1 to 12.
    pub(super) months: u16,
    pub(super) month_days: Counted,
    pub(super) year_days: Option<Box<Counted>>,
    pub(super) weeks: Counted,
    /// Any of that weekday; bit 0 is Sunday.
    pub(super) weekdays: u8,
    /// The nth of a weekday, from the end if negative: `2MO`, `-1FR`.
    pub(super) nth_weekdays: Box<[(i32, u32)]>,
    /// Whether those count in the month; else in the year.
    pub(super) nth_in_month: bool,
    /// Of a sub-daily rule: which of its periods count.
    pub(super) times: Times,
    /// `BYSETPOS`.
    pub(super) positions: Box<[i32]>,
}

/// Numbers that count from the front, bit n, and from the back, bit n for -n; up to 383.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) front: [u64; 6],
    pub(super) back: [u64; 6],
}

impl Counted {
    fn add(&mut self, number: i32) {
        let place = number.unsigned_abs();
        let words = if number > 0 { &mut self.front } else { &mut self.back };
        if let Some(word) = words.get_mut((place / 64) as usize) {
            *word |= 1 << (place % 64);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the `place`th of `count` is among them, or there is no restriction.
    fn has(&self, place: u32, count: u32) -> bool {
        let bit = |words: &[u64; 6], place: u32| {
            words.get((place / 64) as usize).is_some_and(|word| word >> (place % 64) & 1 == 1)
        };
        self.is_empty() || bit(&self.front, place) || bit(&self.back, count + 1 - place)
    }
}
