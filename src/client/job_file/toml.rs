//! TOML into the tree, by the spans that the `toml` crate keeps.

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use super::problem::Reason;
use super::tree::{Entry, Lines, Node, Refusal, Trees, Value};
use super::{DEPTH_MAX, NODES_MAX};

/// Reads the one job of a TOML file.
pub(super) fn read(text: &str) -> Trees {
    let lines = Lines::of(text);
    let mut reader = Reader { lines, nodes: 0 };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let offset = error.span().map_or(0, |span| span.start);
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            let refusal = Refusal::new(Reason::Syntax(message)).at(reader.lines.position(offset));
            return (Vec::new(), Some((1, refusal)));
        }
    };
    if table.get_ref().is_empty() {
        return (Vec::new(), None);
    }
    match reader.table(table.get_ref(), 0) {
        Ok(value) => (vec![(1, Node::new(reader.lines.position(0), value))], None),
        Err(refusal) => (Vec::new(), Some((1, refusal))),
    }
}

struct Reader<'a> {
    lines: Lines<'a>,
    nodes: usize,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, depth: usize) -> Result<Value, Refusal> {
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let value = self.node(value, depth + 1)?;
            let key_at = self.lines.position(key.span().start);
            entries.push(Entry { key: key.get_ref().to_string(), key_at, value });
        }
        entries.sort_by_key(|entry| entry.key_at);
        Ok(Value::Map(entries))
    }

    fn node(&mut self, item: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, Refusal> {
        let at = self.lines.position(item.span().start);
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Refusal::new(Reason::TooManyNodes).at(at));
        }
        if depth > DEPTH_MAX {
            return Err(Refusal::new(Reason::TooDeep).at(at));
        }
        let value = match item.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => {
                let digits = i128::from_str_radix(number.as_str(), number.radix());
                Value::Number(digits.map_or_else(|_| number.as_str().to_owned(), |digits| digits.to_string()))
            }
            DeValue::Float(number) => Value::Number(number.as_str().to_owned()),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(at) => Value::Text(at.to_string()),
            DeValue::Array(elements) => {
                Value::List(elements.iter().map(|item| self.node(item, depth + 1)).collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => self.table(table, depth)?,
        };
        Ok(Node::new(at, value))
    }
}
