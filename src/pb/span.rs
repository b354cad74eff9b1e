//! Spans of time: [`prost_types::Duration`] on the wire, [`Duration`] inside, `1h30m` as text.
//!
//! Read is what `humantime` reads: `90s`, `1h30m`, `1h 30m`, `1.5h`, `250ms`, `2weeks`. A number
//! without a unit is refused, for it would be seconds to one reader and milliseconds to the next;
//! only `0` needs none. Written are days, hours, minutes, seconds and what is finer, without spaces
//! and without months and years, whose length nobody agrees on.

use std::fmt;
use std::time::Duration;

use serde::Deserializer;
use serde::de::{self, Visitor};
use serde::ser::Serializer;

use crate::state::time::span_text;

/// Why a message or a text is no span of time.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpanError {
    /// A message with a negative part.
    #[error("a duration cannot be negative")]
    Negative,
    /// A number without a unit.
    #[error("a duration needs a unit, such as {0}s or {0}m")]
    NoUnit(String),
    /// Any other text.
    #[error("expected a duration such as 90s or 1h30m, found `{0}`")]
    Text(String),
}

/// Characters of a text that is no span which its refusal shows.
const SHOWN_CHARS: usize = 60;
/// The longest span that a message can hold: 10,000 years, as the proto's documentation says.
const SECONDS_MAX: u64 = 315_576_000_000;

/// The span of a message.
///
/// # Errors
/// [`SpanError::Negative`] when either part is negative.
pub fn read(wire: &prost_types::Duration) -> Result<Duration, SpanError> {
    let seconds = u64::try_from(wire.seconds).map_err(|_| SpanError::Negative)?;
    let nanos = u32::try_from(wire.nanos).map_err(|_| SpanError::Negative)?;
    Ok(Duration::from_secs(seconds).saturating_add(Duration::from_nanos(u64::from(nanos))))
}

/// The message for a span; what is longer than 10,000 years becomes 10,000 years.
#[must_use]
pub fn write(span: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(span.as_secs().min(SECONDS_MAX)).expect("the limit fits");
    let nanos = i32::try_from(span.subsec_nanos()).expect("less than a second of nanoseconds fits");
    prost_types::Duration { seconds, nanos }
}

/// Reads the textual form.
///
/// # Errors
/// [`SpanError::NoUnit`] for a bare number, [`SpanError::Text`] for anything else that is no span; what
/// it shows is cut to 60 characters.
pub fn parse(text: &str) -> Result<Duration, SpanError> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(SpanError::NoUnit(text.to_owned()));
    }
    humantime::parse_duration(text).map_err(|_| SpanError::Text(text.chars().take(SHOWN_CHARS).collect()))
}

/// The textual form: `1d2h3m4s5ms`, parts that are zero left out; `0s` for no time.
#[must_use]
pub fn format(span: Duration) -> String {
    span_text(span)
}

struct SpanText;

impl Visitor<'_> for SpanText {
    type Value = prost_types::Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 90s or 1h30m")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        parse(text).map(write).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }
}

struct Span(prost_types::Duration);

impl serde::Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(read(&self.0).map_err(serde::ser::Error::custom)?))
    }
}

impl<'de> serde::Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SpanText).map(Self)
    }
}

/// A field that may be absent (`null`).
pub(crate) mod option {
    use super::{Deserializer, Serializer, Span};

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<prost_types::Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(wire) => serializer.serialize_some(&Span(*wire)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<prost_types::Duration>, D::Error> {
        let value: Option<Span> = serde::Deserialize::deserialize(deserializer)?;
        Ok(value.map(|span| span.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_without_spaces() {
        for (ms, text) in [
            (0, "0s"),
            (90_000, "1m30s"),
            (5_400_000, "1h30m"),
            (86_400_000, "1d"),
            (2_592_000_000, "30d"),
            (1_250, "1s250ms"),
        ] {
            assert_eq!(format(Duration::from_millis(ms)), text);
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn other_spellings_are_understood() {
        for (text, ms) in
            [("1h 30m", 5_400_000), ("1.5h", 5_400_000), ("2min", 120_000), ("0", 0), (" 90s ", 90_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        let error = parse("90").expect_err("no unit");
        assert_eq!(error.to_string(), "a duration needs a unit, such as 90s or 90m");
        let error = parse("soon").expect_err("no number");
        assert_eq!(error.to_string(), "expected a duration such as 90s or 1h30m, found `soon`");
        for text in ["", "-5s", "soon", "5 parsecs"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
