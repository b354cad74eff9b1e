//! What is wrong with a request: all of it at once, each with the path of its field.

use std::fmt;

use super::limits;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, as in a job file: `target.http.url`, `schedule[1].cron`.
    pub path: String,
    /// What is wrong with it, without a full stop.
    pub reason: String,
    /// What would be right, where that can be told.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.path, self.reason)
        }
    }
}

/// All that is wrong, at most [`limits::PROBLEMS`] of it; of the rest only the number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    omitted: usize,
}

impl Problems {
    /// Nothing wrong yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The problems, in the order of the fields.
    #[must_use]
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Notes a problem.
    pub(super) fn add(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.push(Problem { path: path.into(), reason: reason.into(), hint: None });
    }

    pub(super) fn push(&mut self, problem: Problem) {
        if self.list.len() < limits::PROBLEMS {
            self.list.push(problem);
        } else {
            self.omitted += 1;
        }
    }

    /// Takes over the problems of a part, whose paths continue `prefix`.
    pub(super) fn absorb(&mut self, prefix: &str, part: Self) {
        self.omitted += part.omitted;
        for mut problem in part.list {
            if !prefix.is_empty() {
                problem.path = match problem.path.as_str() {
                    "" => prefix.to_owned(),
                    path => format!("{prefix}.{path}"),
                };
            }
            self.push(problem);
        }
    }

    /// `value`, if nothing is wrong.
    pub(super) fn or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            Some(_) | None => Err(self),
        }
    }
}

/// One problem a line, each with its hint on a line below it.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = 0;
        for (place, problem) in self.list.iter().enumerate() {
            let mut lines = problem.to_string();
            if let Some(hint) = &problem.hint {
                lines.push_str("\nhint: ");
                lines.push_str(hint);
            }
            bytes += encoded_len(&lines);
            if place > 0 && bytes > limits::REFUSAL_BYTES {
                return write!(f, "\nand {} more", self.list.len() - place + self.omitted);
            }
            write!(f, "{}{lines}", if place > 0 { "\n" } else { "" })?;
        }
        if self.omitted > 0 {
            write!(f, "\nand {} more", self.omitted)?;
        }
        Ok(())
    }
}

/// Bytes at most of a text and a line's end in a status, which is sent percent-encoded.
fn encoded_len(text: &str) -> usize {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.,:;/()[]".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { 1 } else { 3 }).sum::<usize>() + 3
}
