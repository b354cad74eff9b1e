//! Instants of the schedule: milliseconds since the Unix epoch, UTC.
//!
//! The replicated state knows no clock and no time zone. It knows this one number, which the
//! proposer of an entry stamps and which every node therefore sees alike. The textual form is
//! RFC 3339 in UTC with milliseconds (`2026-03-29T01:00:00.000Z`), years 0000 to 9999.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// An instant: milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Timestamp(i64);

/// Clamped as by [`Timestamp::from_millis`]: an instant that a peer or a file made up is one that can be computed
/// with.
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer).map(Self::from_millis)
    }
}

impl Timestamp {
    /// The Unix epoch; what a fresh state believes the time to be.
    pub const EPOCH: Self = Self(0);
    /// 0000-01-01T00:00:00.000Z, the earliest instant that RFC 3339 can write.
    pub const MIN: Self = Self(-62_167_219_200_000);
    /// 9999-12-31T23:59:59.999Z, the latest instant that RFC 3339 can write.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// The instant `millis` after the epoch, clamped to [`Self::MIN`]..=[`Self::MAX`].
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        if millis < Self::MIN.0 {
            Self::MIN
        } else if millis > Self::MAX.0 {
            Self::MAX
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// This instant plus `span`, clamped to [`Self::MAX`].
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// This instant minus `span`, clamped to [`Self::MIN`].
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(self.0.saturating_sub(millis))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Days from 1970-01-01 to the civil date, proleptic Gregorian (Howard Hinnant, `days_from_civil`).
pub(crate) const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The civil date (year, month, day) of a day count from 1970-01-01; the inverse of the above.
pub(crate) const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

const DAY_MS: i64 = 86_400_000;

/// A span as text: `1d2h3m4s5ms`, parts that are zero left out; `0s` for no time. Months and years are
/// no parts, for nobody agrees on their length.
#[must_use]
pub fn span_text(span: Duration) -> String {
    let seconds = span.as_secs();
    let nanos = u64::from(span.subsec_nanos());
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (nanos / 1_000_000, "ms"),
        (nanos / 1_000 % 1_000, "us"),
        (nanos % 1_000, "ns"),
    ];
    let text: String =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(DAY_MS));
        let ms = self.0.rem_euclid(DAY_MS);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
    }
}

/// Why a text is no RFC 3339 instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an RFC 3339 instant such as 2026-03-29T01:00:00.000Z")]
pub struct TimestampError;

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// Reads an RFC 3339 `date-time` (section 5.6), with `Z` or a numeric offset; digits of the
    /// fraction beyond the millisecond are cut off.
    ///
    /// # Errors
    /// [`TimestampError`] for any other text, a date that does not exist, a leap second (`:60`,
    /// which POSIX time cannot hold), or an instant outside the years 0000 to 9999.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or(TimestampError)
    }
}

fn digits(bytes: &[u8], from: usize, count: usize) -> Option<i64> {
    let mut value = 0;
    for byte in bytes.get(from..from + count)? {
        value = value * 10 + i64::from(byte.is_ascii_digit().then(|| byte - b'0')?);
    }
    Some(value)
}

fn is_at(bytes: &[u8], at: usize, allowed: &[u8]) -> Option<()> {
    allowed.contains(bytes.get(at)?).then_some(())
}

fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let (year, month, day) = (digits(bytes, 0, 4)?, digits(bytes, 5, 2)?, digits(bytes, 8, 2)?);
    is_at(bytes, 4, b"-")?;
    is_at(bytes, 7, b"-")?;
    is_at(bytes, 10, b"Tt ")?;
    let (hour, minute, second) = (digits(bytes, 11, 2)?, digits(bytes, 14, 2)?, digits(bytes, 17, 2)?);
    is_at(bytes, 13, b":")?;
    is_at(bytes, 16, b":")?;
    let days = days_from_civil(year, month, day);
    if civil_from_days(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut fraction_ms = 0;
    if bytes.get(at) == Some(&b'.') {
        let count = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if count == 0 {
            return None;
        }
        for place in 0..3 {
            let digit = if place < count { digits(bytes, at + 1 + place, 1)? } else { 0 };
            fraction_ms = fraction_ms * 10 + digit;
        }
        at += 1 + count;
    }
    let offset_minutes = match bytes.get(at..)? {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), rest @ ..] if rest.len() == 5 => {
            let (hours, minutes) = (digits(rest, 0, 2)?, digits(rest, 3, 2)?);
            is_at(rest, 2, b":")?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let total = hours * 60 + minutes;
            if *sign == b'-' { -total } else { total }
        }
        _ => return None,
    };
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset_minutes * 60;
    let millis = seconds * 1_000 + fraction_ms;
    (Timestamp::MIN.0..=Timestamp::MAX.0).contains(&millis).then_some(Timestamp(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<i64> {
        text.parse::<Timestamp>().ok().map(Timestamp::millis)
    }

    #[test]
    fn text_and_number_agree_in_both_directions() {
        for (text, millis) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2026-03-29T01:00:00.000Z", 1_774_746_000_000),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
            ("1969-12-31T23:59:59.999Z", -1),
            ("0000-01-01T00:00:00.000Z", Timestamp::MIN.0),
            ("9999-12-31T23:59:59.999Z", Timestamp::MAX.0),
        ] {
            assert_eq!(read(text), Some(millis), "{text}");
            assert_eq!(Timestamp(millis).to_string(), text);
        }
    }

    #[test]
    fn offsets_and_fractions_are_understood() {
        assert_eq!(read("2026-03-29T03:00:00+02:00"), Some(1_774_746_000_000));
        assert_eq!(read("2026-03-28T20:30:00.5-04:30"), Some(1_774_746_000_500));
        assert_eq!(read("2026-03-29T01:00:00.1239Z"), Some(1_774_746_000_123));
    }

    #[test]
    fn an_instant_beyond_all_years_is_read_as_the_last_one() {
        for (millis, read) in [
            (i64::MIN, Timestamp::MIN),
            (Timestamp::MIN.0 - 1, Timestamp::MIN),
            (1_774_746_000_000, Timestamp(1_774_746_000_000)),
            (i64::MAX, Timestamp::MAX),
        ] {
            let bytes = super::super::command::encode(&Timestamp(millis));
            assert_eq!(super::super::command::decode::<Timestamp>(&bytes).ok(), Some(read), "{millis}");
        }
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "",
            "2026-03-29",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-03-29T24:00:00Z",
            "2026-12-31T23:59:60Z",
            "2026-03-29T01:00:00",
            "2026-03-29T01:00:00.Z",
            "2026-03-29T01:00:00+0200",
            "2026-03-29T01:00:00Zx",
            "0000-01-01T00:00:00+01:00",
            "২026-03-29T01:00:00Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
