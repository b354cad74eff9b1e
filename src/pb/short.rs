//! The short forms of job files.
//!
//! `catch_up: latest` and `overlap: skip` stand for a mapping with that policy alone; `schedule`
//! takes one mapping or a list, `after` a name or a list of names. Written is always the long form.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::v1::{After, CatchUp, CatchUpRuns, Overlap, OverlapPolicy};
use super::word;

/// Whether a field of a job file is as good as not written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A message that one word may stand for.
pub(crate) trait FromWord: Sized {
    /// The message for a word.
    fn from_word(text: &str) -> Option<Self>;
    /// The words, for messages.
    fn choices() -> String;
}

impl FromWord for CatchUp {
    fn from_word(text: &str) -> Option<Self> {
        word::number::<CatchUpRuns>(text).map(|runs| Self { runs, ..Self::default() })
    }

    fn choices() -> String {
        word::choices::<CatchUpRuns>()
    }
}

impl FromWord for Overlap {
    fn from_word(text: &str) -> Option<Self> {
        word::number::<OverlapPolicy>(text).map(|policy| Self { policy, ..Self::default() })
    }

    fn choices() -> String {
        word::choices::<OverlapPolicy>()
    }
}

struct WordOrMapping<T>(PhantomData<T>);

impl<'de, T: FromWord + Deserialize<'de>> Visitor<'de> for WordOrMapping<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of {}, or a mapping", T::choices())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        match T::from_word(text) {
            Some(value) => Ok(Some(value)),
            None => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Some)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Reads a message or the word that stands for it; `null` is no message.
pub(crate) fn word_or_mapping<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromWord + Deserialize<'de>,
{
    deserializer.deserialize_any(WordOrMapping(PhantomData))
}

struct OneOrList<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrList<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping or a list of mappings")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element()? {
            values.push(value);
        }
        Ok(values)
    }
}

/// Reads a list of messages, or one that stands for a list of one.
pub(crate) fn one_or_list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_any(OneOrList(PhantomData))
}

struct NamesOrMapping;

impl<'de> Visitor<'de> for NamesOrMapping {
    type Value = Option<After>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a job, a list of names, or a mapping")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(After { jobs: vec![text.to_owned()], ..After::default() }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut jobs = Vec::new();
        while let Some(name) = seq.next_element()? {
            jobs.push(name);
        }
        Ok(Some(After { jobs, ..After::default() }))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        After::deserialize(MapAccessDeserializer::new(map)).map(Some)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Reads what a job runs after, or the names that stand for it; `null` is nothing.
pub(crate) fn names_or_mapping<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<After>, D::Error> {
    deserializer.deserialize_any(NamesOrMapping)
}
