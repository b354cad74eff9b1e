//! Job files: YAML, JSON or TOML in, [`JobSpec`]s out, with every problem named by its place. Calendar files are read
//! the same way ([`Definition`]).
//!
//! Each format is read into one small tree whose keys and values know their line and column
//! ([`tree`]); the messages of the protocol are then read from that tree by their textual form
//! (`crate::pb`). So the three formats accept the same names, and an error has a path and a
//! position whichever format it came from. After a problem the offending entry is left aside and
//! the document read again, so that one look shows all problems of all documents.
//!
//! A YAML file may hold several documents and a JSON file several values one after another, each a
//! job or a list of jobs; a TOML file holds one job.
//!
//! Invariant: nothing is guessed. Unknown keys, keys given twice, tags, and names that a later
//! version of the product will know are refused. Reading has limits ([`BYTES_MAX`], [`NODES_MAX`],
//! [`DEPTH_MAX`], [`PROBLEMS_MAX`]); at a limit the file is refused, never cut.
//!
//! What this does not do: check meaning. Whether a cron line, a URL or a range of numbers makes
//! sense is the server's answer, which any client gets alike.

mod json;
mod later;
mod problem;
#[cfg(test)]
mod tests;
mod toml;
mod tree;
mod yaml;

use serde::de::DeserializeOwned;

pub use self::problem::{Place, Problem, Reason};
use self::tree::Refusal;
pub(crate) use self::tree::{Node, Value};
use crate::pb::path::{self, Step};
use crate::pb::v1::{CalendarSpec, JobSpec};

/// The longest file that is read.
pub const BYTES_MAX: usize = 4 << 20;
/// Keys, values and list elements in one file at most, those that a YAML alias repeats included.
pub const NODES_MAX: usize = 500_000;
/// Mappings and lists inside each other at most.
pub const DEPTH_MAX: usize = 64;
/// Problems reported for one file at most.
pub const PROBLEMS_MAX: usize = 100;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2, several documents.
    Yaml,
    /// JSON, several values one after another.
    Json,
    /// TOML 1.1, one job.
    Toml,
}

impl Format {
    /// The format that a file name's ending tells; YAML for any other, for it reads most JSON too.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        match name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).as_deref() {
            Some("json" | "jsonl") => Self::Json,
            Some("toml") => Self::Toml,
            Some(_) | None => Self::Yaml,
        }
    }

    /// The format of a text without a name (standard input): JSON begins with a brace.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        if text.trim_start().starts_with('{') { Self::Json } else { Self::Yaml }
    }
}

/// What a document of a file defines.
pub trait Definition: DeserializeOwned {
    /// What it is called.
    const NOUN: &'static str;

    /// Its name; empty if it has none.
    fn name(&self) -> &str;
}

impl Definition for JobSpec {
    const NOUN: &'static str = "job";

    fn name(&self) -> &str {
        &self.name
    }
}

impl Definition for CalendarSpec {
    const NOUN: &'static str = "calendar";

    fn name(&self) -> &str {
        &self.name
    }
}

/// Where a job came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name as it was given; `-` for standard input.
    pub file: String,
    /// The document in the file, from 1; empty documents count.
    pub document: usize,
    /// The line of its first key, from 1.
    pub line: usize,
}

/// One job, or other definition, of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document<T = JobSpec> {
    /// Where it came from.
    pub source: Source,
    /// What it says. Fields that the file leaves out are unset: the server knows the defaults.
    pub spec: T,
    /// Where it says it.
    tree: Node,
}

impl<T> Document<T> {
    /// The place of a field, for what a server says about it; of a field that the file leaves out, the
    /// place of what would hold it.
    #[must_use]
    pub fn place(&self, path: &[Step]) -> Place {
        let Source { file, document, .. } = &self.source;
        let position = Some(self.tree.position(path));
        Place { file: file.clone(), document: *document, position, path: path::write(path) }
    }
}

/// Reads all jobs of one file.
///
/// # Errors
/// Every problem of every document, in the order of the file, at most [`PROBLEMS_MAX`] of them.
pub fn read(file: &str, format: Format, text: &str) -> Result<Vec<Document>, Vec<Problem>> {
    read_as(file, format, text)
}

/// As [`read`], of any kind of definition.
///
/// # Errors
/// As [`read`].
pub fn read_as<T: Definition>(
    file: &str,
    format: Format,
    text: &str,
) -> Result<Vec<Document<T>>, Vec<Problem>> {
    let place = |document| Place { file: file.to_owned(), document, position: None, path: String::new() };
    if text.len() > BYTES_MAX {
        return Err(vec![place(1).problem(Reason::TooLong)]);
    }
    let (trees, broken) = match format {
        Format::Yaml => yaml::read(text),
        Format::Json => json::read(text),
        Format::Toml => toml::read(text),
    };
    let mut problems = Vec::new();
    let mut documents = Vec::new();
    for (document, mut root) in trees.into_iter().flat_map(jobs_of) {
        let line = root.at.line;
        match read_document::<T>(&mut root) {
            Ok(spec) => {
                let source = Source { file: file.to_owned(), document, line };
                documents.push(Document { source, spec: *spec, tree: root });
            }
            Err(refusals) => {
                problems.extend(refusals.into_iter().map(|refusal| refusal.into_problem(place(document))));
            }
        }
    }
    problems.extend(broken.map(|(document, refusal)| refusal.into_problem(place(document))));
    if problems.is_empty() && documents.is_empty() {
        problems.push(place(1).problem(Reason::Nothing { noun: T::NOUN }));
    }
    if problems.is_empty() {
        return Ok(documents);
    }
    problems.truncate(PROBLEMS_MAX);
    Err(problems)
}

/// All documents of a YAML or JSON text, whatever they say, up to the first that is none: with its line, and why.
pub(crate) fn values(text: &str) -> (Vec<Node>, Option<(usize, String)>) {
    let (trees, broken) = match Format::of_text(text) {
        Format::Json => json::read(text),
        Format::Yaml | Format::Toml => yaml::read(text),
    };
    let broken = broken.map(|(_, refusal)| (refusal.position().map_or(1, |at| at.line), refusal.to_string()));
    (trees.into_iter().map(|(_, node)| node).collect(), broken)
}

/// Names that more than one document gives to its job; each later one is a problem.
///
/// Call this after the namespace of jobs that name none is filled in.
#[must_use]
pub fn doubled(documents: &[Document]) -> Vec<Problem> {
    let mut seen = std::collections::BTreeMap::new();
    let mut problems = Vec::new();
    for document in documents {
        let spec = &document.spec;
        if let Some(first) = seen.insert((&spec.namespace, &spec.name), &document.source) {
            let place = document.place(&[Step::Key("name".to_owned())]);
            let (name, file, line) = (spec.name.clone(), first.file.clone(), first.line);
            problems.push(place.problem(Reason::NamedTwice { name, file, line }));
        }
    }
    problems
}

/// The jobs of a document that lists several.
fn jobs_of((document, root): (usize, Node)) -> Vec<(usize, Node)> {
    match root.value {
        tree::Value::List(jobs) => jobs.into_iter().map(|job| (document, job)).collect(),
        _ => vec![(document, root)],
    }
}

/// What one document holds at most problems until it is given up, so that reading it again after
/// each stays cheap.
const REFUSALS_MAX: usize = 20;

fn read_document<T: Definition>(root: &mut Node) -> Result<Box<T>, Vec<Refusal>> {
    let mut refusals = root.doubled_keys();
    while refusals.len() < REFUSALS_MAX {
        match T::deserialize(&*root) {
            Ok(spec) => {
                // a name that was refused is not missing
                if spec.name().is_empty() && !refusals.iter().any(|refusal| refusal.is_about("name")) {
                    refusals.push(Refusal::new(Reason::Missing { key: "name" }).at(root.at));
                }
                if refusals.is_empty() {
                    return Ok(Box::new(spec));
                }
                break;
            }
            Err(refusal) => {
                let refusal = refusal.at(root.at);
                let more = root.hide(&refusal);
                refusals.push(refusal);
                if !more {
                    break;
                }
            }
        }
    }
    refusals.sort_by_key(Refusal::position);
    Err(refusals)
}
