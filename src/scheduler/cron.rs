//! Cron lines of the unix dialect: read once, searched often.
//!
//! A line is read by [`CronRule::parse`] into bit masks and searched by
//! [`CronRule::next_after`], which allocates nothing. [`super::rule`] is the only caller.
//!
//! # The language
//! Five fields (minute, hour, day of month, month, day of week), or six with seconds first,
//! separated by blanks or tabs. A field is a list of items, parted by commas:
//!
//! | item | means |
//! |---|---|
//! | `*`, `*/n` | all values; each nth, counted from the smallest |
//! | `a`, `a/n` | one value; each nth from `a` to the largest (6 in the day of week) |
//! | `a-b`, `a-b/n` | a range; it may wrap, as in `22-2` or `fri-mon` |
//!
//! Month and day of week also take English names of three letters in any case; 0 and 7 are both
//! Sunday. `@yearly @annually @monthly @weekly @daily @midnight @hourly` stand for the usual
//! lines. `@reboot` is refused, for a cluster has no boot. So are `L`, `W`, `#` and `?`, which
//! belong to Quartz, `H` (Jenkins) and `~` (cronie).
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
//! [`DayRule::OrBare`].
//!
//! Not here: years, month ends and counted weekdays (other dialects), and every other kind of
//! rule.
//!
//! [`Gap`]: crate::state::schedule::Gap
//! [`Gap::RunAtEnd`]: crate::state::schedule::Gap::RunAtEnd
//! [`Gap::Shift`]: crate::state::schedule::Gap::Shift
//! [`Fold`]: crate::state::schedule::Fold
//! [`DayRule::OrBare`]: crate::state::schedule::DayRule::OrBare

mod calendar;
mod error;
mod parse;
mod search;

#[cfg(test)]
mod parse_tests;
#[cfg(test)]
mod search_tests;

pub use error::{CronError, Field};
pub use search::{Dst, GAP_SECONDS_MAX, Oddity};

/// Longest line, in bytes.
pub const LINE_BYTES_MAX: usize = 256;
/// Most items in the list of one field.
pub const FIELD_ITEMS_MAX: usize = 64;

/// A compiled cron line. Each mask has the bit `1 << value` for each value that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CronRule {
    seconds: u64,
    minutes: u64,
    hours: u32,
    /// Bits 1 to 31.
    days: u32,
    /// Bits 1 to 12.
    months: u16,
    /// Bits 0 (Sunday) to 6.
    weekdays: u8,
    /// Whether day of month and day of week must both match; else either does.
    both_days: bool,
    elastic: bool,
}

impl CronRule {
    /// Whether the rule follows real time on odd days; see the module's essay.
    #[must_use]
    pub fn is_elastic(&self) -> bool {
        self.elastic
    }
}
