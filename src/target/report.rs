//! What is known of an attempt after its end.

use std::fmt;

use super::{ERROR_BYTES_MAX, tail};
use crate::state::time::Timestamp;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0, or a status code that means success.
    Succeeded,
    /// It was tried and did not succeed.
    Failed,
    /// It ran longer than the order's timeout and was stopped.
    TimedOut,
    /// The token was cancelled and it was stopped.
    Cancelled,
    /// The worker's configuration or the order itself forbids it; nothing was touched.
    Refused,
    /// It was asked for, and nobody answered: it may have happened, and `on_lost` decides.
    Unknown,
    /// It has not ended: it has left a task with others, who tell how that ends.
    HandedOver,
}

/// A task that was left with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// The connection by which it was left.
    pub connection: String,
    /// What it is called there.
    pub task_id: String,
    /// When it is worth running no more; None: never.
    pub expires_at: Option<Timestamp>,
    /// The queue that it waits in; None: nobody can say where, or for what else, it waits.
    pub queue: Option<String>,
}

/// What is known of an attempt after its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// exec: the code with which the process ended by itself, also after a timeout.
    pub exit_code: Option<i32>,
    /// exec: the signal that ended the process.
    pub signal: Option<i32>,
    /// http: the status of the last response.
    pub http_status: Option<u16>,
    /// grpc: the number of the status.
    pub grpc_status: Option<u8>,
    /// What went wrong, or a remark on a success; one line, at most [`ERROR_BYTES_MAX`].
    pub error: Option<String>,
    /// The last bytes of the output or response body, at most [`super::OUTPUT_TAIL_BYTES`].
    pub output: Vec<u8>,
    /// There was more output than `output` holds.
    pub output_truncated: bool,
    /// What the attempt gave as its result: JSON text, at most [`super::RESULT_BYTES_MAX`].
    pub result: Option<String>,
    /// What was left with others; of [`Outcome::HandedOver`].
    pub handed: Option<Handed>,
}

impl Report {
    /// A report that carries no more than how the attempt ended.
    pub fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            exit_code: None,
            signal: None,
            http_status: None,
            grpc_status: None,
            error: None,
            output: Vec::new(),
            output_truncated: false,
            result: None,
            handed: None,
        }
    }

    /// The same with something more in its error text.
    pub(super) fn with_remark(self, remark: impl fmt::Display) -> Self {
        match self.error.clone() {
            Some(error) => self.with_error(format_args!("{error}; {remark}")),
            None => self.with_error(remark),
        }
    }

    /// The same with an error text, cut at [`ERROR_BYTES_MAX`] and freed of control characters: it ends up in
    /// terminals and logs.
    #[must_use]
    pub fn with_error(mut self, error: impl std::fmt::Display) -> Self {
        let mut text: String =
            error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.truncate(text.floor_char_boundary(ERROR_BYTES_MAX));
        self.error = Some(text);
        self
    }

    pub(super) fn with_output(mut self, tail: tail::Tail) -> Self {
        self.output_truncated = tail.is_truncated();
        self.output = tail.into_bytes();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_text_is_one_line_and_is_cut_at_its_limit_between_characters() {
        let report = Report::of(Outcome::Failed).with_error(format!("a\nb\u{1b}{}", "é".repeat(400)));
        let error = report.error.expect("set above");
        assert!(error.starts_with("a b é"));
        assert_eq!(error.len(), ERROR_BYTES_MAX, "4 bytes and 254 characters of two");
        assert!(!error.contains(char::is_control));
    }
}
