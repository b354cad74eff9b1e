//! Cron lines of three dialects: read once, searched often.
//!
//! A line is read by [`CronRule::parse`] into bit masks and searched by
//! [`Walls::next_after`](super::walls::Walls::next_after), which allocates nothing. [`super::rule`] is the
//! only caller.
//!
//! # The language
//! Fields, separated by blanks or tabs:
//!
//! | dialect | fields |
//! |---|---|
//! | `unix` | five: minute, hour, day of month, month, day of week; six: the second before them; seven: the year after those |
//! | `quartz` | six: second, minute, hour, day of month, month, day of week; seven: the year after them |
//! | `aws` | six: minute, hour, day of month, month, day of week, year; `cron(` and `)` around them may be left out |
//!
//! The second is 0 where there is none. Years are 1970 to 2199. A field is a list of items, parted by
//! commas:
//!
//! | item | means |
//! |---|---|
//! | `*`, `*/n` | all values; each nth, counted from the smallest |
//! | `a`, `a/n` | one value; each nth from `a` to the largest |
//! | `a-b`, `a-b/n` | a range; it may wrap, as in `22-2` or `fri-mon`, but for years |
//! | `H`, `H(a-b)`, `H/n`, `H(a-b)/n` | `unix` alone: a value, or each nth from one, that is the job's own ([`Spread`]); days of the month are 1 to 28 |
//! | `~`, `a~`, `~b`, `a~b`, each with `/n` | the same, as cronie and OpenBSD write it; without `b` days of the month are up to 28 |
//! | `?` | `quartz` and `aws`: any day; needed in exactly one of the two day fields |
//! | `L`, `L-n`, `LW`, `nW`, `L-nW` | `quartz` and `aws`, day of month: the last day; n days before it; the day from Monday to Friday nearest to the last day, to day n, to n days before the last. A month without the day has no match |
//! | `L`, `aL`, `a#n` | `quartz` and `aws`, day of week: Saturday; the last such day of the month; the nth, which not each month has |
//!
//! Month and day of week also take English names of three letters in any case. In `unix` 0 and 7 are
//! both Sunday and `a/n` ends at 6; in `quartz` and `aws` 1 is Sunday and 7 Saturday.
//! `@yearly @annually @monthly @weekly @daily @midnight @hourly` stand for the usual lines of `unix`.
//! `@reboot` is refused, for a cluster has no boot.
//!
//! The reader is strict, since the lenient ones err in silence: Debian's cron drops what follows
//! a complete item (`1-2-3`), and never runs `22-2`. A rule that no calendar can satisfy is
//! refused as well ([`CronError::NeverFires`]), and so each search ends.
//!
//! # Odd days
//! A rule is *elastic* if the text of its seconds, minutes or hours begins with `*`. An elastic
//! rule follows real time: a wall time inside a gap does not exist, and one inside a fold comes
//! twice. Any other rule is *fixed* and follows [`Gap`] and [`Fold`]. With the default
//! [`Gap::RunAtEnd`], all wall times of a rule inside one gap become a single occurrence at the
//! first instant after it. A gap of more than [`GAP_SECONDS_MAX`] is a lost day (Pacific/Apia,
//! 2011-12-30), which no fixed rule makes up for.
//!
//! # Sources
//! crontab(5) and `cron.c` of Debian's cron 3.0pl1 for the fields, the day rule and the defaults
//! on odd days; RFC 5545, section 3.3.5, for [`Gap::Shift`]; `parser.go` of robfig/cron 3 for
//! [`DayRule::OrBare`]; the API documentation of Quartz 2.3 (`CronExpression`) and the EventBridge
//! Scheduler User Guide ("Cron-based schedules") for their dialects; Jenkins' help on cron syntax for `H`
//! and crontab(5) of cronie 1.7 for `~`. In two points Quartz is followed in what it says rather than in
//! what it does: `31W` is no day in a month of 30 days, as in its documentation, and lists may mix `L`
//! with other days.
//!
//! [`Spread`]: crate::scheduler::spread::Spread
//! [`Gap`]: crate::state::schedule::Gap
//! [`Gap::RunAtEnd`]: crate::state::schedule::Gap::RunAtEnd
//! [`Gap::Shift`]: crate::state::schedule::Gap::Shift
//! [`Fold`]: crate::state::schedule::Fold
//! [`DayRule::OrBare`]: crate::state::schedule::DayRule::OrBare
//! [`GAP_SECONDS_MAX`]: super::walls::GAP_SECONDS_MAX

mod advice;
mod calendar;
mod error;
mod field;
mod parse;

#[cfg(test)]
mod dialect_tests;
#[cfg(test)]
mod parse_tests;
#[cfg(test)]
mod search_tests;

pub use error::{CronError, Field};

use super::times::Times;

/// Longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 256;
/// Most items in the list of one field.
pub const FIELD_ITEMS_MAX: usize = 64;

/// A compiled cron line, or the like of one. Each mask has the bit `1 << value` for each value that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CronRule {
    pub(super) times: Times,
    /// Bits 1 to 12.
    pub(super) months: u16,
    pub(super) days: Days,
    pub(super) years: Years,
    pub(super) elastic: bool,
}

/// Which days of a month match. In masks of weekdays bit 0 is Sunday.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Days {
    /// Bits 1 to 31.
    pub(super) dates: u32,
    /// Bit n is the nth day before the last; bit 0 the last.
    pub(super) dates_from_end: u32,
    /// Days whose nearest day from Monday to Friday matches; bits 1 to 31.
    pub(super) near: u32,
    /// The same, counted as `dates_from_end`.
    pub(super) near_from_end: u32,
    pub(super) weekdays: u8,
    /// The first to the fifth of a weekday.
    pub(super) counted_weekdays: [u8; 5],
    /// The last of a weekday.
    pub(super) last_weekdays: u8,
    /// Whether date and weekday must both match; else either does.
    pub(super) both: bool,
}

/// Years as bits, counted from [`Years::FIRST`]; `None` for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Years(pub(super) Option<[u64; 4]>);

impl Years {
    /// The years that Quartz, AWS and systemd know: 1970 to 2199.
    pub(super) const FIRST: i64 = 1970;
    pub(super) const LAST: i64 = 2199;
}
