//! What is told of tasks, and how that is found in the words of Celery's workers.

use serde_json::Value;
use uuid::Uuid;

use super::super::super::ERROR_BYTES_MAX;
use super::Place;

/// The words of an exception, at most.
const WORDS_BYTES: usize = ERROR_BYTES_MAX;
/// The name of a worker, at most: what the leader takes.
pub(super) const NAME_BYTES: usize = 255;

/// How a task has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// Its run; empty where only the task is known.
    pub run_id: String,
    /// Which of the run's tasks.
    pub delivery: u32,
    /// What it is called.
    pub task_id: String,
    /// How it ended.
    pub succeeded: bool,
    /// The exception, or why it was not run.
    pub error: String,
    /// What it returned, as JSON text; empty: nothing, or nobody asked.
    pub result: String,
    /// Who ran it; empty: nobody has said.
    pub by: String,
    /// Where it lies; None: it was heard.
    pub(super) place: Option<Place>,
}

impl TaskEnd {
    /// Whether it need not be told again, whatever the cluster says: it was heard so long ago that a run which waits for it
    /// would be known.
    #[must_use]
    pub const fn is_told_once(&self) -> bool {
        self.succeeded && self.place.is_none()
    }
}

/// What was heard of a task that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskWord {
    /// What it is called.
    pub task_id: String,
    /// Who runs it, or did.
    pub by: String,
    /// The number of the process, where it gives signs of life; else 0.
    pub process: u32,
    /// Why it has asked to be run again later; None: it runs.
    pub retried: Option<String>,
}

/// An end that was heard and that no queue may tell.
pub(super) fn failed(task_id: &str, words: &str, by: &str) -> TaskEnd {
    TaskEnd {
        run_id: String::new(),
        delivery: 0,
        task_id: task_id.to_owned(),
        succeeded: false,
        error: words.to_owned(),
        result: String::new(),
        by: by.to_owned(),
        place: None,
    }
}

/// The same of one that ended well. What it returned is not known by that.
pub(super) fn succeeded(task_id: &str, by: &str) -> TaskEnd {
    TaskEnd { succeeded: true, ..failed(task_id, "", by) }
}

pub(super) fn is_ours(id: &str) -> bool {
    Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 5)
}

/// The exception; of a process that was killed the last line of the traceback, for Celery has it nowhere else.
pub(super) fn exception(event: &Value) -> String {
    let (exception, traceback) = (event["exception"].as_str(), event["traceback"].as_str());
    let last = traceback.and_then(|text| {
        text.lines()
            .rev()
            .map(|line| line.trim_matches(|c: char| c == '"' || c.is_whitespace()))
            .find(|line| !line.is_empty())
    });
    match (exception, last) {
        (Some(exception), Some(last)) if exception.starts_with("ExceptionWithTraceback(") => {
            cut(last, WORDS_BYTES)
        }
        (exception, _) => cut(exception.unwrap_or("the task has failed"), WORDS_BYTES),
    }
}

pub(super) fn cut(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

/// A request of Celery's remote control.
pub(super) struct Control {
    pub(super) body: String,
    /// Tells it from all others.
    pub(super) tag: Uuid,
    /// Until when it is worth hearing: seconds since 1970.
    pub(super) expires: f64,
}
