//! YAML into the tree, from the events of `granit-parser`.
//!
//! Anchors and aliases work inside a document; what an alias repeats counts against
//! [`NODES_MAX`], so that a small file cannot unfold into a huge one. Tags other than `!!str`,
//! keys that are no scalars, and merge keys are refused: none of them can say anything in a job
//! file that the plain form cannot.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::problem::Reason;
use super::tree::{Entry, Node, Position, Refusal, Trees, Value, is_null};
use super::{DEPTH_MAX, NODES_MAX};

/// Reads all documents up to the first that is no YAML; empty ones are left out, but count.
pub(super) fn read(text: &str) -> Trees {
    let options = granit_parser::options! { emit_comments: false };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { parser, nodes: 0, anchors: HashMap::new() };
    let mut trees = Vec::new();
    let mut document = 1;
    loop {
        match reader.document() {
            Ok(Some(node)) if matches!(&node.value, Value::Plain(text) if is_null(text)) => {}
            Ok(Some(node)) => trees.push((document, node)),
            Ok(None) => return (trees, None),
            Err(refusal) => return (trees, Some((document, refusal))),
        }
        document += 1;
    }
}

fn position(marker: &Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

fn syntax(error: &ScanError) -> Refusal {
    Refusal::new(Reason::Syntax(error.info())).at(position(error.marker()))
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    nodes: usize,
    anchors: HashMap<usize, Node>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Refusal> {
        self.parser.next().transpose().map_err(|error| syntax(&error))
    }

    /// The root of the next document.
    fn document(&mut self) -> Result<Option<Node>, Refusal> {
        self.anchors.clear();
        while let Some((event, span)) = self.next()? {
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => return Ok(None),
                event => return self.node(event, span, 0).map(Some),
            }
        }
        Ok(None)
    }

    fn spend(&mut self, nodes: usize, at: Position) -> Result<(), Refusal> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX { Err(Refusal::new(Reason::TooManyNodes).at(at)) } else { Ok(()) }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Refusal> {
        let at = position(&span.start);
        self.spend(1, at)?;
        if depth > DEPTH_MAX {
            return Err(Refusal::new(Reason::TooDeep).at(at));
        }
        let (anchor, value) = match event {
            Event::Alias(anchor) => {
                // An alias inside its own anchor finds nothing: the node is not complete yet.
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(unsupported("an alias cannot stand inside what it repeats", at));
                };
                let (count, height) = node.measure();
                if depth + height > DEPTH_MAX {
                    return Err(Refusal::new(Reason::TooDeep).at(at));
                }
                let node = Node::new(at, node.value.clone());
                self.spend(count, at)?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let text = text.into_owned();
                let value = match tag {
                    Some(tag) if tag.core_suffix() == Some("str") => Value::Text(text),
                    Some(_) => return Err(unsupported("tags are not supported", at)),
                    None if style == ScalarStyle::Plain => Value::Plain(text),
                    None => Value::Text(text),
                };
                (anchor, value)
            }
            Event::SequenceStart(_, anchor, None) => (anchor, Value::List(self.list(depth)?)),
            Event::MappingStart(_, anchor, None) => (anchor, Value::Map(self.map(depth)?)),
            _ => return Err(unsupported("tags are not supported", at)),
        };
        let node = Node::new(at, value);
        if anchor > 0 {
            self.spend(node.measure().0, at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Refusal> {
        let mut elements = Vec::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::SequenceEnd {
                break;
            }
            elements.push(self.node(event, span, depth + 1)?);
        }
        Ok(elements)
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Refusal> {
        let mut entries = Vec::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span, depth + 1)?;
            let name = match key.value {
                Value::Plain(name) if name == "<<" => {
                    return Err(unsupported("merge keys are not supported", key.at));
                }
                Value::Plain(name) | Value::Text(name) => name,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => {
                    return Err(unsupported("a key must be a text", key.at));
                }
            };
            let Some((event, span)) = self.next()? else { break };
            let value = self.node(event, span, depth + 1)?;
            entries.push(Entry { key: name, key_at: key.at, value });
        }
        Ok(entries)
    }
}

fn unsupported(what: &'static str, at: Position) -> Refusal {
    Refusal::new(Reason::Unsupported(what)).at(at)
}
