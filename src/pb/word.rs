//! Enums as lower-case words: `GAP_RUN_AT_END` is `run_at_end`.
//!
//! The unspecified value is `null`. A number that this version has no word for (a newer node sent
//! it) is written as that number, so that a listing never fails because of one record; read are
//! words alone.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};

/// A generated enum and its words.
pub trait Words {
    /// Number and word of each value but the unspecified one, in the order of the proto.
    const WORDS: &'static [(i32, &'static str)];
}

include!(concat!(env!("OUT_DIR"), "/words.rs"));

/// The word for a number; `None` for the unspecified value and for numbers without a word.
#[must_use]
pub fn of<E: Words>(number: i32) -> Option<&'static str> {
    E::WORDS.iter().find(|(known, _)| *known == number).map(|(_, word)| *word)
}

/// The number for a word.
#[must_use]
pub fn number<E: Words>(text: &str) -> Option<i32> {
    E::WORDS.iter().find(|(_, word)| *word == text).map(|(number, _)| *number)
}

/// Every word of the enum, for messages: `` `skip`, `allow` ``.
#[must_use]
pub fn choices<E: Words>() -> String {
    E::WORDS.iter().map(|(_, word)| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

struct WordText<E>(PhantomData<E>);

impl<E: Words> Visitor<'_> for WordText<E> {
    type Value = i32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if E::WORDS.len() == 1 {
            return f.write_str(&choices::<E>());
        }
        write!(f, "one of {}", choices::<E>())
    }

    fn visit_str<X: de::Error>(self, text: &str) -> Result<i32, X> {
        number::<E>(text).ok_or_else(|| X::invalid_value(de::Unexpected::Str(text), &self))
    }
}

struct One<E>(i32, PhantomData<E>);

impl<E: Words> serde::Serialize for One<E> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match of::<E>(self.0) {
            Some(word) => serializer.serialize_str(word),
            None => serializer.serialize_i32(self.0),
        }
    }
}

impl<'de, E: Words> Deserialize<'de> for One<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(deserializer.deserialize_str(WordText::<E>(PhantomData))?, PhantomData))
    }
}

/// The textual form of a field that holds one value of the enum.
pub(crate) struct Word<E>(PhantomData<E>);

impl<E: Words> Word<E> {
    pub(crate) fn serialize<S: Serializer>(number: &i32, serializer: S) -> Result<S::Ok, S::Error> {
        match number {
            0 => serializer.serialize_none(),
            number => serializer.serialize_some(&One::<E>(*number, PhantomData)),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
        let value: Option<One<E>> = Deserialize::deserialize(deserializer)?;
        Ok(value.map_or(0, |one| one.0))
    }
}

/// The textual form of a field that holds any number of values of the enum.
pub(crate) struct WordList<E>(PhantomData<E>);

impl<E: Words> WordList<E> {
    pub(crate) fn serialize<S: Serializer>(numbers: &[i32], serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(numbers.len()))?;
        for number in numbers {
            seq.serialize_element(&One::<E>(*number, PhantomData))?;
        }
        seq.end()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i32>, D::Error> {
        deserializer.deserialize_seq(ListOf::<E>(PhantomData))
    }
}

struct ListOf<E>(PhantomData<E>);

impl<'de, E: Words> Visitor<'de> for ListOf<E> {
    type Value = Vec<i32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", choices::<E>())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<i32>, A::Error> {
        let mut numbers = Vec::new();
        while let Some(one) = seq.next_element::<One<E>>()? {
            numbers.push(one.0);
        }
        Ok(numbers)
    }
}
