//! Reading one TOML table: each value with its kind and range, each problem with its line.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Overrides};

pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// A file that is being read.
pub(super) struct Reader<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    /// Where the values of the file are, by their path, but for those that a flag goes before.
    pub(super) places: BTreeMap<String, usize>,
    /// Each with its line; those without one come last.
    pub(super) problems: Vec<(Option<usize>, String)>,
}

pub(super) type Table<'a> = DeTable<'a>;
type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    pub(super) fn problem(&mut self, at: Option<usize>, key: &str, reason: &str) {
        let line = at.or(self.places.get(key).copied()).map(|at| line_of(self.text, at));
        let place = line.map_or_else(|| self.name.to_owned(), |line| format!("{}:{line}", self.name));
        self.problems.push((line, format!("{place}: {key}: {reason}")));
    }

    pub(super) fn finish<T>(mut self, config: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() {
            return Ok(config);
        }
        self.problems.sort_by_key(|(line, _)| line.unwrap_or(usize::MAX));
        Err(ConfigError { problems: self.problems.into_iter().map(|(_, problem)| problem).collect() })
    }

    /// Notes where everything is, for problems that are found once all is read.
    pub(super) fn note_places(&mut self, table: &Table<'_>, above: &str, overrides: &Overrides) {
        for (key, value) in table {
            let key = format!("{above}{}", key.get_ref());
            let is_overridden = match key.as_str() {
                "listen" => overrides.listen.is_some(),
                "peer_listen" => overrides.peer_listen.is_some(),
                key => key.split('.').next() == Some("peers") && overrides.peers.is_some(),
            };
            if let DeValue::Table(below) = value.get_ref() {
                self.note_places(below, &format!("{key}."), overrides);
            }
            if !is_overridden {
                self.places.insert(key, value.span().start);
            }
        }
    }

    pub(super) fn take<'t>(&mut self, table: &mut Table<'t>, key: &str) -> Option<Value<'t>> {
        let name = table.keys().find(|name| name.get_ref() == key)?.clone();
        table.remove(&name)
    }

    pub(super) fn section<'t>(&mut self, table: &mut Table<'t>, key: &str) -> Option<Table<'t>> {
        let value = self.take(table, key)?;
        let at = value.span().start;
        match value.into_inner() {
            DeValue::Table(section) => Some(section),
            _ => {
                self.problem(Some(at), key, "expected a table");
                None
            }
        }
    }

    pub(super) fn string(&mut self, table: &mut Table<'_>, section: &str, key: &str) -> Option<String> {
        let value = self.take(table, key)?;
        match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => Some(text.to_string()),
            _ => {
                self.problem(
                    Some(value.span().start),
                    &path(section, key),
                    "expected a string that is not empty",
                );
                None
            }
        }
    }

    pub(super) fn strings(&mut self, table: &mut Table<'_>, section: &str, key: &str) -> Option<Vec<String>> {
        let value = self.take(table, key)?;
        let texts: Option<Vec<String>> = match value.get_ref() {
            DeValue::Array(items) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) if !text.is_empty() => Some(text.to_string()),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        if texts.as_ref().is_none_or(Vec::is_empty) {
            self.problem(Some(value.span().start), &path(section, key), "expected a list of strings");
            return None;
        }
        texts
    }

    pub(super) fn address(&mut self, table: &mut Table<'_>, key: &str) -> Option<String> {
        let at = self.place(table, key);
        let text = self.string(table, "", key)?;
        if is_address(&text) {
            return Some(text);
        }
        self.problem(at, key, "expected host:port");
        None
    }

    pub(super) fn place(&self, table: &Table<'_>, key: &str) -> Option<usize> {
        table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value.span().start)
    }

    pub(super) fn boolean(&mut self, table: &mut Table<'_>, section: &str, key: &str) -> Option<bool> {
        let value = self.take(table, key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.problem(Some(value.span().start), &path(section, key), "expected true or false");
                None
            }
        }
    }

    pub(super) fn integer(
        &mut self,
        table: &mut Table<'_>,
        section: &str,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = self.take(table, key)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let found = number.filter(|number| range.contains(number));
        if found.is_none() {
            let expected = if *range.end() == u64::MAX {
                format!("expected an integer from {}", range.start())
            } else {
                format!("expected an integer from {} to {}", range.start(), range.end())
            };
            self.problem(Some(value.span().start), &path(section, key), &expected);
        }
        found
    }

    pub(super) fn duration(
        &mut self,
        table: &mut Table<'_>,
        section: &str,
        key: &str,
        range: std::ops::RangeInclusive<Duration>,
        field: &mut Duration,
    ) {
        let at = self.place(table, key);
        let Some(text) = self.string(table, section, key) else { return };
        match humantime::parse_duration(&text) {
            Ok(span) if range.contains(&span) => *field = span,
            Ok(_) | Err(_) => {
                let expected = format!("expected a duration from {:?} to {:?}", range.start(), range.end());
                self.problem(at, &path(section, key), &expected);
            }
        }
    }

    pub(super) fn nothing_left(&mut self, table: &Table<'_>, section: &str) {
        for (key, value) in table {
            let path = format!("{section}{}", key.get_ref());
            self.problem(Some(value.span().start), &path, "unknown key");
        }
    }

    /// The same, where it is told which keys there are.
    pub(super) fn nothing_left_of(&mut self, known: &[&str], table: &Table<'_>, section: &str) {
        for (key, value) in table {
            let key = key.get_ref().as_ref();
            let near = known.iter().map(|known| (strsim::damerau_levenshtein(key, known), known)).min();
            let reason = match near {
                Some((distance, near)) if distance <= key.chars().count().max(3) / 3 => {
                    format!("unknown key; did you mean `{near}`?")
                }
                _ => format!("unknown key; there are {}", known.join(", ")),
            };
            self.problem(Some(value.span().start), &format!("{section}{key}"), &reason);
        }
    }
}

fn path(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

pub(super) fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}
