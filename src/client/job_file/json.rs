//! JSON into the tree. `serde_json` splits the text into raw values, whose place in the text is
//! that of the slice they borrow.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::Reason;
use super::tree::{Entry, Lines, Node, Position, Refusal, Trees, Value};
use super::{DEPTH_MAX, NODES_MAX};

/// Reads values one after another; at the first that is no JSON it stops with why.
pub(super) fn read(text: &str) -> Trees {
    let mut reader = Reader { text, lines: Lines::of(text), nodes: 0 };
    let mut trees = Vec::new();
    for (number, raw) in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>().enumerate() {
        let document = number + 1;
        match raw.map_err(|error| syntax(&error)).and_then(|raw| reader.node(raw, 0)) {
            Ok(node) => trees.push((document, node)),
            Err(refusal) => return (trees, Some((document, refusal))),
        }
    }
    (trees, None)
}

fn syntax(error: &serde_json::Error) -> Refusal {
    let position = Position { line: error.line().max(1), column: error.column().max(1) };
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
    Refusal::new(Reason::Syntax(message)).at(position)
}

struct Reader<'a> {
    text: &'a str,
    lines: Lines<'a>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    /// Where a slice of the text lies in it; none for text that was unescaped and is no slice.
    fn position(&self, part: &str) -> Option<Position> {
        let offset = part.as_ptr().addr().checked_sub(self.text.as_ptr().addr())?;
        (offset <= self.text.len()).then(|| self.lines.position(offset))
    }

    fn node(&mut self, raw: &'a RawValue, depth: usize) -> Result<Node, Refusal> {
        let at = self.position(raw.get()).unwrap_or(Position { line: 1, column: 1 });
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Refusal::new(Reason::TooManyNodes).at(at));
        }
        if depth > DEPTH_MAX {
            return Err(Refusal::new(Reason::TooDeep).at(at));
        }
        let text = raw.get();
        let inner = |error: serde_json::Error| Refusal::new(Reason::Syntax(error.to_string())).at(at);
        let value = match text.as_bytes().first() {
            Some(b'{') => {
                let pairs: Pairs<'a> = serde_json::from_str(text).map_err(inner)?;
                let mut entries = Vec::with_capacity(pairs.0.len());
                for (key, raw) in pairs.0 {
                    let value = self.node(raw, depth + 1)?;
                    let key_at = match &key {
                        Cow::Borrowed(slice) => self.position(slice),
                        Cow::Owned(_) => None,
                    };
                    // A key's slice begins behind its quote.
                    let key_at = key_at.map(|at| Position { column: at.column - 1, ..at });
                    let key_at = key_at.unwrap_or(value.at);
                    entries.push(Entry { key: key.into_owned(), key_at, value });
                }
                Value::Map(entries)
            }
            Some(b'[') => {
                let elements: Vec<&'a RawValue> = serde_json::from_str(text).map_err(inner)?;
                let nodes: Result<_, _> = elements.into_iter().map(|raw| self.node(raw, depth + 1)).collect();
                Value::List(nodes?)
            }
            Some(b'"') => Value::Text(serde_json::from_str(text).map_err(inner)?),
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'n') => Value::Null,
            _ => Value::Number(text.to_owned()),
        };
        Ok(Node::new(at, value))
    }
}

/// The entries of an object, doubled keys included.
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    pairs.push((key.0, value));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A key that borrows the text unless it holds escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}
