//! What is wrong with a job file, and where.

use std::fmt;

use super::tree::Position;
use super::{BYTES_MAX, DEPTH_MAX, NODES_MAX};

/// A place in a job file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name as it was given.
    pub file: String,
    /// The document in it, from 1.
    pub document: usize,
    /// Line and column; none where the file as a whole is meant.
    pub position: Option<Position>,
    /// The path of keys, such as `target.http.url` or `schedule[1].cron`; empty for the whole
    /// document.
    pub path: String,
}

impl Place {
    /// A problem here.
    pub(super) fn problem(self, reason: Reason) -> Problem {
        Problem { place: self, reason }
    }
}

/// One problem of a job file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What.
    pub reason: Reason,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        Ok(())
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Longer than [`BYTES_MAX`].
    #[error("the file is longer than {BYTES_MAX} bytes")]
    TooLong,
    /// More than [`NODES_MAX`] keys and values.
    #[error("the file holds more than {NODES_MAX} keys and values, those that aliases repeat included")]
    TooManyNodes,
    /// Deeper than [`DEPTH_MAX`].
    #[error("more than {DEPTH_MAX} mappings and lists inside each other")]
    TooDeep,
    /// Not one document with a definition.
    #[error("the file holds no {noun}")]
    Nothing {
        /// What was looked for.
        noun: &'static str,
    },
    /// The text is not in the format.
    #[error("{0}")]
    Syntax(String),
    /// A YAML feature that job files do without.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A key twice in one mapping.
    #[error("the key is given twice, first on line {first_line}")]
    DoubledKey {
        /// Where it is first.
        first_line: usize,
    },
    /// No such key here; perhaps a slip of the pen.
    #[error("unknown key{}; known here: {}", near_words(near), known.join(", "))]
    UnknownKey {
        /// The known key that looks most like it.
        near: Option<&'static str>,
        /// The keys that exist here.
        known: &'static [&'static str],
    },
    /// A key that the product plans to have.
    #[error("this version does not support `{key}`")]
    Later {
        /// The key.
        key: String,
    },
    /// A key without which there is no job.
    #[error("the key `{key}` is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value of another kind.
    #[error("expected {expected}, found {found}")]
    Kind {
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A value that the message's own reader refused, in its words.
    #[error("{0}")]
    Value(String),
    /// Two jobs with one name.
    #[error("the job `{name}` is defined twice, first in {file}:{line}")]
    NamedTwice {
        /// The name.
        name: String,
        /// The file of the first definition.
        file: String,
        /// Its line.
        line: usize,
    },
}

fn near_words(near: &Option<&'static str>) -> String {
    near.map_or_else(String::new, |key| format!("; did you mean `{key}`?"))
}
