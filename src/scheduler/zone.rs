//! Time zones: names, and the offsets that they stand for.
//!
//! The database is never the machine's: it is the one that the cluster is pinned to, or, before it has pinned one and
//! where there is no cluster, the one inside the binary ([`Zones::bundled`]; DESIGN, section 5). A [`Zone`] is a table of
//! all offset changes of a zone: a lookup is one binary search, where the underlying library works out the
//! rule of the year each time. Rules for the far future repeat with the Gregorian calendar, so
//! the table ends after one cycle of 400 years, and later instants are mapped into it.
//!
//! The tables are made when first asked for and kept for as long as their database. Their number is
//! bounded by that of the names in it (some 600, of about 15 kB each if every one of
//! them is used).
//!
//! # Names
//! IANA names in any case, `UTC`, and `fixed:+03:00`. Refused, with the nearest name as a hint:
//! `EST`, `MST` and `HST`, which the database has, but as fixed offsets, while those who write
//! them mostly expect summer time; and `UTC+3`, whose sign POSIX reads the other way round.

pub mod data;

use std::sync::Arc;

use jiff::tz::TimeZone;

pub use self::data::Zones;
use crate::state::time::Timestamp;

/// Prefix of a fixed offset.
const FIXED: &str = "fixed:";
/// Longest name, in bytes; the longest of the database has some 30.
const NAME_BYTES_MAX: usize = 64;
/// 2100-01-01T00:00:00Z: from here on every zone follows a rule that repeats.
const REPEATS_FROM: i64 = 4_102_444_800;
/// 400 years of the Gregorian calendar, a whole number of weeks.
const CYCLE: i64 = 146_097 * 86_400;

/// Abbreviations that people write, and the zones that they mostly mean.
const ABBREVIATIONS: [(&str, &str); 17] = [
    ("EST", "America/New_York"),
    ("EDT", "America/New_York"),
    ("CST", "America/Chicago"),
    ("CDT", "America/Chicago"),
    ("MST", "America/Denver"),
    ("MDT", "America/Denver"),
    ("PST", "America/Los_Angeles"),
    ("PDT", "America/Los_Angeles"),
    ("HST", "Pacific/Honolulu"),
    ("BST", "Europe/London"),
    ("CEST", "Europe/Berlin"),
    ("EEST", "Europe/Athens"),
    ("MSK", "Europe/Moscow"),
    ("IST", "Asia/Kolkata"),
    ("JST", "Asia/Tokyo"),
    ("AEST", "Australia/Sydney"),
    ("Z", "UTC"),
];
/// Names of the database that are no zone to schedule in.
const REFUSED: [&str; 6] = ["EST", "MST", "HST", "Factory", "Etc/Unknown", "localtime"];

/// Why a name is no time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// Not in the database.
    #[error("unknown time zone `{name}`")]
    Unknown {
        /// The name as given, cut to 64 bytes.
        name: String,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// In the database, but not what people expect under this name.
    #[error("`{name}` is not a time zone to schedule in")]
    Refused {
        /// The name as given.
        name: String,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// Not `fixed:+HH:MM` or `fixed:-HH:MM`, up to 23:59.
    #[error("`{name}` is not a fixed offset, expected one such as `fixed:+03:00`")]
    FixedOffset {
        /// The text as given, cut to 64 bytes.
        name: String,
    },
}

impl ZoneError {
    /// What would be right, where that can be told; without the word "hint".
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Unknown { hint, .. } | Self::Refused { hint, .. } => hint.as_deref(),
            Self::FixedOffset { .. } => None,
        }
    }
}

impl Zones {
    /// The zone of that name; see the module's essay for the names.
    ///
    /// # Errors
    /// [`ZoneError`] for anything else, with the nearest name as a hint.
    pub fn zone(&self, name: &str) -> Result<Zone, ZoneError> {
        if let Some(offset) = name.strip_prefix(FIXED) {
            let offset =
                fixed_offset(offset).ok_or_else(|| ZoneError::FixedOffset { name: shorten(name) })?;
            return Ok(Zone(Arc::new(Table::fixed(name, offset))));
        }
        let refused = REFUSED.iter().any(|refused| refused.eq_ignore_ascii_case(name));
        if refused {
            return Err(ZoneError::Refused { name: shorten(name), hint: self.hint(name) });
        }
        let found = if name.len() <= NAME_BYTES_MAX { self.find(name) } else { None };
        found.ok_or_else(|| ZoneError::Unknown { name: shorten(name), hint: self.hint(name) })
    }

    fn hint(&self, name: &str) -> Option<String> {
        if let Some(offset) = offset_hint(name) {
            return Some(format!("write `{FIXED}{offset}`"));
        }
        let abbreviation = ABBREVIATIONS.iter().find(|(short, _)| short.eq_ignore_ascii_case(name));
        if let Some((_, meant)) = abbreviation {
            return Some(format!("did you mean `{meant}`?"));
        }
        self.nearest(name).map(|meant| format!("did you mean `{meant}`?"))
    }

    /// The name of the database that is nearest to `name`, as a whole or by its last part.
    fn nearest(&self, name: &str) -> Option<String> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return None;
        }
        let wanted = name.to_ascii_lowercase().replace(' ', "_");
        self.names()
            .filter(|known| !REFUSED.contains(known))
            .map(|known| {
                let lower = known.to_ascii_lowercase();
                let city = lower.rsplit('/').next().unwrap_or(&lower);
                let distance = strsim::damerau_levenshtein(&wanted, &lower);
                let by_city = strsim::damerau_levenshtein(&wanted, city);
                (distance.min(by_city), known.to_owned())
            })
            .min()
            .filter(|(distance, _)| distance * 3 <= wanted.len())
            .map(|(_, known)| known)
    }
}

/// A time zone; cheap to clone.
#[derive(Clone, Debug)]
pub struct Zone(Arc<Table>);

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Zone {}

impl Zone {
    /// The name as the database spells it, or the fixed offset as given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the zone ever changes its offset.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.0.starts.len() == 1
    }

    /// The segment that holds an instant, in seconds since the Unix epoch.
    #[must_use]
    pub fn segment(&self, at: i64) -> Segment {
        let table = &*self.0;
        if table.repeats && at >= REPEATS_FROM + CYCLE {
            let cycles = (at - REPEATS_FROM).div_euclid(CYCLE) * CYCLE;
            let segment = table.segment(at - cycles);
            return Segment {
                start: segment.start + cycles,
                end: segment.end.saturating_add(cycles),
                ..segment
            };
        }
        table.segment(at)
    }

    /// An instant as local time: RFC 3339 with milliseconds and the offset. The offset is cut to
    /// the minute, which is all that RFC 3339 can write; only before the twentieth century do
    /// zones have seconds.
    #[must_use]
    pub fn local(&self, at: Timestamp) -> String {
        let offset = self.segment(at.millis().div_euclid(1_000)).offset;
        let minutes = offset / 60;
        let wall = Timestamp::from_millis(at.millis() + minutes * 60_000).to_string();
        let sign = if minutes < 0 { '-' } else { '+' };
        let minutes = minutes.abs();
        format!("{}{sign}{:02}:{:02}", wall.trim_end_matches('Z'), minutes / 60, minutes % 60)
    }
}

/// A span of real time with one offset. Instants, offsets and wall times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First instant; `i64::MIN` if there is no earlier segment.
    pub start: i64,
    /// The first instant after it; `i64::MAX` if there is no later segment.
    pub end: i64,
    /// Local time minus UTC.
    pub offset: i64,
    /// That of the segment before; equal to `offset` if there is none.
    pub offset_before: i64,
    /// That of the segment after; equal to `offset` if there is none.
    pub offset_after: i64,
}

impl Segment {
    /// The wall times that the change at its start skips: the first, and the first after them.
    pub(crate) fn gap(&self) -> Option<(i64, i64)> {
        let is_gap = self.offset > self.offset_before;
        is_gap.then(|| (self.start + self.offset_before, self.start + self.offset))
    }

    /// Wall times of this segment below the result are the second pass of a fold.
    pub(crate) fn folded_until(&self) -> Option<i64> {
        (self.offset < self.offset_before).then(|| self.start + self.offset_before)
    }

    /// Wall times of this segment from the result on are the first pass of a fold.
    pub(crate) fn folds_from(&self) -> Option<i64> {
        (self.offset_after < self.offset).then(|| self.end + self.offset_after)
    }
}

#[derive(Debug)]
struct Table {
    name: String,
    /// First instants of the segments, ascending; the first is `i64::MIN`.
    starts: Box<[i64]>,
    offsets: Box<[i32]>,
    /// Whether the changes go on for ever.
    repeats: bool,
}

impl Table {
    fn fixed(name: &str, offset: i32) -> Self {
        Self {
            name: name.to_owned(),
            starts: Box::new([i64::MIN]),
            offsets: Box::new([offset]),
            repeats: false,
        }
    }

    /// The changes up to one year after the first cycle, so that a segment of the cycle has an end.
    fn new(name: &str, time_zone: &TimeZone) -> Self {
        let last = REPEATS_FROM + CYCLE + 366 * 86_400;
        let mut starts = vec![i64::MIN];
        let mut offsets = vec![time_zone.to_offset(jiff::Timestamp::MIN).seconds()];
        for change in time_zone.following(jiff::Timestamp::MIN) {
            let (start, offset) = (change.timestamp().as_second(), change.offset().seconds());
            if start > last {
                break;
            }
            // a change of the abbreviation alone is none
            if offsets.last() != Some(&offset) {
                starts.push(start);
                offsets.push(offset);
            }
        }
        let repeats = starts.last().is_some_and(|start| *start >= REPEATS_FROM);
        Self { name: name.to_owned(), starts: starts.into(), offsets: offsets.into(), repeats }
    }

    fn segment(&self, at: i64) -> Segment {
        // at least one, for the first start is the smallest number
        let after = self.starts.partition_point(|start| *start <= at).max(1);
        let index = after - 1;
        let offset = |index: usize| self.offsets.get(index).map(|offset| i64::from(*offset));
        let here = i64::from(self.offsets[index]);
        Segment {
            start: self.starts[index],
            end: self.starts.get(after).copied().unwrap_or(i64::MAX),
            offset: here,
            offset_before: index.checked_sub(1).and_then(offset).unwrap_or(here),
            offset_after: offset(after).unwrap_or(here),
        }
    }
}

/// `+HH:MM` or `-HH:MM` in seconds.
fn fixed_offset(text: &str) -> Option<i32> {
    let [sign @ (b'+' | b'-'), h1, h0, b':', m1, m0] = text.as_bytes() else { return None };
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| i32::from(byte - b'0'));
    let (hours, minutes) = (digit(h1)? * 10 + digit(h0)?, digit(m1)? * 10 + digit(m0)?);
    let seconds = (hours <= 23 && minutes <= 59).then_some(hours * 3_600 + minutes * 60)?;
    Some(if *sign == b'-' { -seconds } else { seconds })
}

/// At most [`NAME_BYTES_MAX`] bytes of a name, for an error.
fn shorten(name: &str) -> String {
    name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}

/// The offset that is meant by `UTC+3`, `GMT-5:30` or `+03:00`.
fn offset_hint(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let rest = upper.trim_start_matches("UTC").trim_start_matches("GMT");
    let sign = rest.chars().next().filter(|sign| matches!(sign, '+' | '-'))?;
    let (hours, minutes) = rest[1..].split_once(':').unwrap_or((&rest[1..], "0"));
    let (hours, minutes) = match (hours.len(), minutes) {
        (4, "0") if hours.is_ascii() => hours.split_at(2),
        _ => (hours, minutes),
    };
    let (hours, minutes): (u8, u8) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours <= 23 && minutes <= 59).then(|| format!("{sign}{hours:02}:{minutes:02}"))
}

/// The zone of the bundled database.
#[cfg(test)]
pub fn zone(name: &str) -> Result<Zone, ZoneError> {
    Zones::bundled().zone(name)
}

#[cfg(test)]
mod tests;
