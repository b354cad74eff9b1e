//! Going over YAML and JSON key by key, so that nothing of it is passed over in silence.

use super::{Loss, Sheet};
use crate::client::job_file::{Node, Value, values};

/// Characters of a value that a message shows.
const SHOWN_CHARS: usize = 60;

/// All documents of a text, and as a finding why it could not be read to its end.
pub(super) fn documents(text: &str, sheet: &mut Sheet<'_>) -> Vec<Node> {
    let (documents, broken) = values(text);
    if let Some((line, why)) = broken {
        sheet.find(line, Loss::Unread, why);
    }
    documents
}

/// A value with its path in its document.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub(super) path: String,
    /// The line that a message about it names: that of its key.
    pub(super) line: usize,
    node: &'a Node,
}

impl<'a> Item<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self { path: String::new(), line: node.at.line, node }
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether it is a mapping that says something of that.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// What a mapping says of that.
    pub(super) fn entry(&self, key: &str) -> Option<Self> {
        let Value::Map(entries) = &self.node.value else { return None };
        let entry = entries.iter().find(|entry| entry.key == key && !entry.value.is_null())?;
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Some(Self { path, line: entry.key_at.line, node: &entry.value })
    }

    /// What is in a mapping, by key; what is there and says nothing is left out.
    pub(super) fn entries(&self, sheet: &mut Sheet<'_>) -> Vec<(&'a str, Self)> {
        let Value::Map(entries) = &self.node.value else {
            self.unexpected("a mapping", sheet);
            return Vec::new();
        };
        let said = entries.iter().filter(|entry| !entry.value.is_null());
        said.map(|entry| {
            let path = match self.path.as_str() {
                "" => entry.key.clone(),
                above => format!("{above}.{}", entry.key),
            };
            (entry.key.as_str(), Self { path, line: entry.key_at.line, node: &entry.value })
        })
        .collect()
    }

    /// What is in a list.
    pub(super) fn elements(&self, sheet: &mut Sheet<'_>) -> Vec<Self> {
        let Value::List(elements) = &self.node.value else {
            self.unexpected("a list", sheet);
            return Vec::new();
        };
        (0_usize..)
            .zip(elements)
            .map(|(number, node)| Self { path: format!("{}[{number}]", self.path), line: node.at.line, node })
            .collect()
    }

    /// One entry of a mapping, if it is one and has it.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        let Value::Map(entries) = &self.node.value else { return None };
        entries.iter().find(|entry| entry.key == key).and_then(|entry| scalar(&entry.value))
    }

    /// Its text, if it is one.
    pub(super) fn get_self(&self) -> Option<&'a str> {
        scalar(self.node)
    }

    /// The texts of a list, or the one that stands in its place.
    pub(super) fn one_or_more(&self, sheet: &mut Sheet<'_>) -> Vec<String> {
        if self.is_list() {
            self.texts(sheet)
        } else {
            self.text(sheet).map(str::to_owned).into_iter().collect()
        }
    }

    /// A text as it is, or else JSON.
    pub(super) fn json_text(&self) -> String {
        self.get_self().map_or_else(|| json(self), str::to_owned)
    }

    /// A text, or whatever stands without quotes.
    pub(super) fn text(&self, sheet: &mut Sheet<'_>) -> Option<&'a str> {
        let text = scalar(self.node);
        if text.is_none() {
            self.unexpected("a text", sheet);
        }
        text
    }

    /// A list of texts.
    pub(super) fn texts(&self, sheet: &mut Sheet<'_>) -> Vec<String> {
        self.elements(sheet).iter().filter_map(|element| element.text(sheet).map(ToOwned::to_owned)).collect()
    }

    /// A whole number that is not negative.
    pub(super) fn number(&self, sheet: &mut Sheet<'_>) -> Option<u64> {
        let number = scalar(self.node).and_then(|text| text.parse().ok());
        if number.is_none() {
            self.unexpected("a whole number that is not negative", sheet);
        }
        number
    }

    /// Yes or no.
    pub(super) fn flag(&self, sheet: &mut Sheet<'_>) -> Option<bool> {
        match scalar(self.node) {
            Some("true" | "True" | "TRUE") => Some(true),
            Some("false" | "False" | "FALSE") => Some(false),
            _ => {
                self.unexpected("true or false", sheet);
                None
            }
        }
    }

    /// Says that it is not carried over.
    pub(super) fn lost(&self, why: &str, sheet: &mut Sheet<'_>) {
        sheet.find(self.line, Loss::Lost, format!("{}: {why}", self.path));
    }

    /// Says that it is carried over, and not quite.
    pub(super) fn approximated(&self, how: &str, sheet: &mut Sheet<'_>) {
        sheet.find(self.line, Loss::Approximated, format!("{}: {how}", self.path));
    }

    fn unexpected(&self, expected: &str, sheet: &mut Sheet<'_>) {
        let found = match &self.node.value {
            Value::Map(_) => "a mapping".to_owned(),
            Value::List(_) => "a list".to_owned(),
            _ => format!(
                "{:?}",
                scalar(self.node).unwrap_or_default().chars().take(SHOWN_CHARS).collect::<String>()
            ),
        };
        sheet.find(self.line, Loss::Unread, format!("{}: expected {expected}, found {found}", self.path));
    }
}

/// The same as JSON, on one line.
pub(super) fn json(item: &Item<'_>) -> String {
    let mut text = String::new();
    write_json(item.node, &mut text);
    text
}

fn write_json(node: &Node, text: &mut String) {
    let quoted = |value: &str| serde_json::Value::from(value).to_string();
    match &node.value {
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(value) => text.push_str(value),
        Value::Text(value) => text.push_str(&quoted(value)),
        // Without quotes it is what JSON would take it for.
        Value::Plain(value) => match serde_json::from_str::<serde_json::Value>(value) {
            Ok(value) => text.push_str(&value.to_string()),
            Err(_) => text.push_str(&quoted(value)),
        },
        Value::List(elements) => {
            text.push('[');
            for (place, element) in elements.iter().enumerate() {
                text.push_str(if place > 0 { "," } else { "" });
                write_json(element, text);
            }
            text.push(']');
        }
        Value::Map(entries) => {
            text.push('{');
            for (place, entry) in entries.iter().enumerate() {
                text.push_str(if place > 0 { "," } else { "" });
                text.push_str(&quoted(&entry.key));
                text.push(':');
                write_json(&entry.value, text);
            }
            text.push('}');
        }
    }
}

fn scalar(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Bool(true) => Some("true"),
        Value::Bool(false) => Some("false"),
        Value::Number(text) | Value::Text(text) | Value::Plain(text) => Some(text),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}
