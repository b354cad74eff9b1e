//! The tree that each format is read into: values that know their line and column.
//!
//! It is also what serde reads messages from. Two things are worth a reader of its own instead of
//! each format's: a YAML scalar without quotes keeps its text until the message says what it should
//! be (a label `007` or `true` stays that text), and an error carries the path and position of the
//! value that caused it, taken from the tree and not from the words of another crate.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::later;
use super::problem::{Place, Problem, Reason};
use crate::pb::path::{self, KEY_CHARS, Step};

/// Line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// The documents of a file by their number, and where and why reading stopped before its end.
pub(crate) type Trees = (Vec<(usize, Node)>, Option<(usize, Refusal)>);

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) value: Value,
    /// Left aside because of a problem that is already reported.
    hidden: bool,
}

/// A value as its format tells it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// A number as written, decimal.
    Number(String),
    Text(String),
    /// A YAML scalar without quotes: what it is depends on who reads it.
    Plain(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Position,
    pub(crate) value: Node,
}

impl Entry {
    /// Whether a path means this entry; paths show the beginning of long keys.
    fn is_named(&self, key: &str) -> bool {
        self.key == key || (key.chars().count() == KEY_CHARS && self.key.starts_with(key))
    }

    /// What a problem of the entry points at: a value on one line, or the key of what is longer.
    fn at(&self) -> Position {
        match self.value.value {
            Value::Map(_) | Value::List(_) => self.key_at,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Plain(_) => {
                self.value.at
            }
        }
    }
}

/// Why a document is refused, and where in it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refusal {
    reason: Reason,
    position: Option<Position>,
    /// From the innermost step outwards.
    path: Vec<Step>,
}

impl Refusal {
    pub(super) fn new(reason: Reason) -> Self {
        Self { reason, position: None, path: Vec::new() }
    }

    /// The same, at a position, unless a more exact one is known.
    pub(super) fn at(mut self, position: Position) -> Self {
        self.position = self.position.or(Some(position));
        self
    }

    pub(crate) fn position(&self) -> Option<Position> {
        self.position
    }

    /// Whether it is about a key of the document itself, or something below it.
    pub(super) fn is_about(&self, key: &str) -> bool {
        matches!(self.path.last(), Some(Step::Key(outermost)) if outermost == key)
    }

    fn under(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }

    /// The problem in terms of the file. Names planned for later are told from other unknown ones.
    pub(super) fn into_problem(self, place: Place) -> Problem {
        let path = path::write(self.path.iter().rev());
        let mut keys = self.path.iter().filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Element(_) => None,
        });
        let (key, parent) = (keys.next().unwrap_or_default(), keys.next().unwrap_or_default());
        let reason = match self.reason {
            Reason::UnknownKey { .. } if later::is_later(parent, key) => {
                Reason::Later { key: key.to_owned() }
            }
            Reason::UnknownKey { known, .. } => {
                Reason::UnknownKey { near: later::nearest(key, known), known }
            }
            reason => reason,
        };
        Place { position: self.position, path, ..place }.problem(reason)
    }
}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Reason::Value(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
            Unexpected::Map => "a mapping".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Str(text) => quoted(text),
            Unexpected::Signed(number) => number.to_string(),
            Unexpected::Unsigned(number) => number.to_string(),
            Unexpected::Float(number) => number.to_string(),
            Unexpected::Bool(value) => value.to_string(),
            other => other.to_string(),
        };
        let expected = match expected.to_string().as_str() {
            "u32" | "u64" => "a whole number that is not negative".to_owned(),
            "f64" => "a number".to_owned(),
            other => other.to_owned(),
        };
        Self::new(Reason::Kind { expected, found })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(Reason::UnknownKey { near: None, known })
    }
}

/// A text in backquotes, cut to a length that fits a message.
fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

impl Node {
    pub(super) fn new(at: Position, value: Value) -> Self {
        Self { at, value, hidden: false }
    }

    /// How many values this one is, with those below it, and how deep they lie.
    pub(super) fn measure(&self) -> (usize, usize) {
        let below = |(count, height): (usize, usize), node: &Self| {
            let (more, deeper) = node.measure();
            (count + more, height.max(deeper + 1))
        };
        match &self.value {
            Value::List(elements) => elements.iter().fold((1, 0), below),
            Value::Map(entries) => entries.iter().map(|entry| &entry.value).fold((1, 0), below),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Plain(_) => (1, 0),
        }
    }

    /// The place of a field; of one that is not there, that of the mapping or list which would hold it.
    pub(super) fn position(&self, path: &[Step]) -> Position {
        self.position_from(self.at, path)
    }

    fn position_from(&self, at: Position, path: &[Step]) -> Position {
        let Some((step, rest)) = path.split_first() else { return at };
        match (&self.value, step) {
            (Value::Map(entries), Step::Key(key)) => match entries.iter().find(|entry| entry.is_named(key)) {
                Some(entry) => entry.value.position_from(entry.at(), rest),
                None => at,
            },
            (Value::List(elements), Step::Element(number)) => match elements.get(*number) {
                Some(element) => element.position_from(element.at, rest),
                None => at,
            },
            // A list of one may be written without being one, and the other way round.
            (Value::List(elements), Step::Key(_)) => match elements.as_slice() {
                [element] => element.position_from(element.at, path),
                _ => at,
            },
            (_, Step::Element(0)) => self.position_from(at, rest),
            (_, Step::Element(_) | Step::Key(_)) => at,
        }
    }

    /// Sets the entry of a refusal aside; false when that is the document itself.
    pub(super) fn hide(&mut self, refusal: &Refusal) -> bool {
        let mut node = self;
        for step in refusal.path.iter().rev() {
            let next = match (&mut node.value, step) {
                (Value::List(elements), Step::Element(number)) => elements.get_mut(*number),
                (Value::Map(entries), Step::Key(key)) => entries
                    .iter_mut()
                    .map(|entry| (&entry.key, &mut entry.value))
                    .find_map(|(name, value)| (name == key && !value.hidden).then_some(value)),
                _ => None,
            };
            let Some(next) = next else { return false };
            node = next;
        }
        node.hidden = true;
        !refusal.path.is_empty()
    }

    /// Keys that a mapping holds twice, each set aside but for its first place.
    pub(super) fn doubled_keys(&mut self) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        match &mut self.value {
            Value::List(elements) => {
                for (number, element) in elements.iter_mut().enumerate() {
                    let below = element.doubled_keys().into_iter();
                    refusals.extend(below.map(|refusal| refusal.under(Step::Element(number))));
                }
            }
            Value::Map(entries) => {
                let mut seen = std::collections::BTreeMap::new();
                for Entry { key, key_at, value } in entries {
                    let below = value.doubled_keys().into_iter();
                    refusals.extend(below.map(|refusal| refusal.under(Step::Key(key.clone()))));
                    if let Some(first_line) = seen.get(key) {
                        value.hidden = true;
                        let refusal = Refusal::new(Reason::DoubledKey { first_line: *first_line });
                        refusals.push(refusal.at(*key_at).under(Step::Key(key.clone())));
                    } else {
                        seen.insert(key.clone(), key_at.line);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Plain(_) => {}
        }
        refusals
    }

    pub(crate) fn is_null(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Plain(text) => is_null(text),
            Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => false,
        }
    }

    /// What is there, for messages about a mapping or list that is not.
    fn refuse<T>(&self, expected: &str) -> Result<T, Refusal> {
        let found = match &self.value {
            Value::Map(_) => "a mapping".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Text(text) => quoted(text),
            Value::Plain(_) if self.is_null() => "nothing".to_owned(),
            Value::Plain(text) | Value::Number(text) => quoted(text),
            Value::Bool(value) => value.to_string(),
            Value::Null => "nothing".to_owned(),
        };
        Err(Refusal::new(Reason::Kind { expected: expected.to_owned(), found }))
    }
}

/// The spellings of nothing in the core schema of YAML 1.2 (section 10.3.2).
pub(super) fn is_null(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

/// Hands a number over as the smallest kind that holds it; none when the text is no number.
fn visit_number<'de, V: Visitor<'de>>(text: &str, visitor: V) -> Result<Result<V::Value, Refusal>, V> {
    if let Ok(number) = text.parse::<u64>() {
        return Ok(visitor.visit_u64(number));
    }
    if let Ok(number) = text.parse::<i64>() {
        return Ok(visitor.visit_i64(number));
    }
    // Rust also reads `inf` and `nan`, which are no numbers of a job file.
    if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
        && let Ok(number) = text.parse::<f64>()
        && number.is_finite()
    {
        return Ok(visitor.visit_f64(number));
    }
    Err(visitor)
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Plain(text) => match text.as_str() {
                text if is_null(text) => visitor.visit_unit(),
                "true" | "True" | "TRUE" => visitor.visit_bool(true),
                "false" | "False" | "FALSE" => visitor.visit_bool(false),
                text => {
                    visit_number(text, visitor).unwrap_or_else(|visitor| visitor.visit_borrowed_str(text))
                }
            },
            Value::Number(text) => {
                visit_number(text, visitor).unwrap_or_else(|visitor| visitor.visit_borrowed_str(text))
            }
            Value::List(elements) => visitor.visit_seq(Elements { elements: elements.iter().enumerate() }),
            Value::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), open: None }),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.value {
            Value::Plain(text) if !is_null(text) => visitor.visit_borrowed_str(text),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.value {
            Value::Map(_) => self.deserialize_any(visitor),
            _ => self.refuse("a mapping"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.deserialize_map(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match &self.value {
            Value::List(_) => self.deserialize_any(visitor),
            _ => self.refuse("a list"),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct enum ignored_any
    }
}

struct Elements<'de> {
    elements: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some((number, element)) = self.elements.find(|(_, element)| !element.hidden) else {
            return Ok(None);
        };
        let value = seed.deserialize(element);
        value.map(Some).map_err(|refusal| refusal.at(element.at).under(Step::Element(number)))
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, Entry>,
    /// The entry whose key was handed out last.
    open: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        self.open = self.entries.find(|entry| !entry.value.hidden);
        let Some(entry) = self.open else { return Ok(None) };
        let key = seed.deserialize(de::value::BorrowedStrDeserializer::new(&entry.key));
        key.map(Some).map_err(|refusal: Refusal| refusal.at(entry.key_at).under(Step::Key(entry.key.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let entry = self.open.take().expect("serde asks for a key before its value");
        let value = seed.deserialize(&entry.value);
        value.map_err(|refusal| refusal.at(entry.value.at).under(Step::Key(entry.key.clone())))
    }
}

/// Line and column of byte offsets in a text.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { text, starts: std::iter::once(0).chain(breaks.map(|(offset, _)| offset + 1)).collect() }
    }

    pub(super) fn position(&self, offset: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        let before = self.text.get(start..offset).unwrap_or_default();
        Position { line, column: before.chars().count() + 1 }
    }
}
