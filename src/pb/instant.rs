//! Instants: [`prost_types::Timestamp`] on the wire, [`Timestamp`] inside, RFC 3339 as text.
//!
//! The wire could carry nanoseconds and years beyond 9999; the product does not. What is finer than
//! a millisecond is cut off, what lies outside is clamped, as `state::time` does.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};

use crate::state::time::Timestamp;

/// The instant of a message.
#[must_use]
pub fn read(wire: &prost_types::Timestamp) -> Timestamp {
    let fraction = i64::from(wire.nanos.clamp(0, 999_999_999)) / 1_000_000;
    Timestamp::from_millis(wire.seconds.saturating_mul(1_000).saturating_add(fraction))
}

/// The message for an instant.
#[must_use]
pub fn write(at: Timestamp) -> prost_types::Timestamp {
    let fraction = i32::try_from(at.millis().rem_euclid(1_000)).expect("a remainder of 1,000 fits");
    prost_types::Timestamp { seconds: at.millis().div_euclid(1_000), nanos: fraction * 1_000_000 }
}

struct InstantText;

impl Visitor<'_> for InstantText {
    type Value = prost_types::Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an RFC 3339 instant such as 2026-03-29T01:00:00.000Z")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map(write).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// One instant as a value that serde reads and writes.
struct Instant(prost_types::Timestamp);

impl serde::Serialize for Instant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&read(&self.0))
    }
}

impl<'de> serde::Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(InstantText).map(Self)
    }
}

/// A field that may be absent (`null`).
pub(crate) mod option {
    use super::{Deserializer, Instant, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<prost_types::Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(wire) => serializer.serialize_some(&Instant(*wire)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<prost_types::Timestamp>, D::Error> {
        let value: Option<Instant> = serde::Deserialize::deserialize(deserializer)?;
        Ok(value.map(|instant| instant.0))
    }
}

/// A field that holds any number of instants; a single one may be written without a list.
pub(crate) mod list {
    use super::{Deserializer, Instant, InstantText, SeqAccess, SerializeSeq, Serializer, Visitor, de, fmt};

    pub(crate) fn serialize<S: Serializer>(
        values: &[prost_types::Timestamp],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(values.len()))?;
        for wire in values {
            seq.serialize_element(&Instant(*wire))?;
        }
        seq.end()
    }

    struct OneOrList;

    impl<'de> Visitor<'de> for OneOrList {
        type Value = Vec<prost_types::Timestamp>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an RFC 3339 instant such as 2026-03-29T01:00:00.000Z, or a list of them")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            InstantText.visit_str(text).map(|wire| vec![wire])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut values = Vec::new();
            while let Some(Instant(wire)) = seq.next_element()? {
                values.push(wire);
            }
            Ok(values)
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<prost_types::Timestamp>, D::Error> {
        deserializer.deserialize_any(OneOrList)
    }
}
