//! Attempts that have left a task with others, and wait for their word.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Attempt, AttemptOutcome, Run};
use crate::state::pack::later;
use crate::state::spec::{JobSpec, Target};
use crate::state::time::Timestamp;

impl Attempt {
    /// Whether it runs, and this is its fence.
    #[must_use]
    pub fn runs_under(&self, fence: u64) -> bool {
        self.outcome == AttemptOutcome::Running && self.fence == fence
    }

    /// Whether its end was told, by its worker or of its task; one of a worker that vanished was not.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.report.as_ref().is_some_and(|report| !report.error.is_empty())
    }
}

/// A task that an attempt has left with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// When that was recorded.
    pub at: Timestamp,
    /// The name of the connection by which it was left.
    pub connection: Arc<str>,
    /// What it is called there.
    pub task: Arc<str>,
    /// Since when it is to end, because its time is over.
    pub overdue_since: Option<Timestamp>,
    /// What was last heard of it before its end.
    #[serde(default, serialize_with = "later")]
    pub heard: Option<TaskHeard>,
    /// When it is worth running no more: whoever comes to it after that drops it. Absent: never.
    #[serde(default, serialize_with = "later")]
    pub expires_at: Option<Timestamp>,
    /// The queue that it was left in, where it is known of nothing else that it waits for.
    #[serde(default, serialize_with = "later")]
    pub queue: Option<Arc<str>>,
}

/// What was heard of a task that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskHeard {
    /// When that was recorded.
    pub at: Timestamp,
    /// Who said so.
    pub by: Arc<str>,
    /// What.
    pub news: TaskNews,
    /// How often it was put off by itself until then.
    pub retries: u32,
}

/// What is told of a task that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskNews {
    /// It runs.
    Begun {
        /// In a process of this number, if that process gives signs of life; 0: nobody can say whether it lives.
        process: u32,
    },
    /// It asked to be run again later.
    Retried {
        /// How often that makes, from 1.
        count: u32,
        /// Why.
        error: Arc<str>,
    },
}

impl TaskHeard {
    /// Whether it ran when that was heard.
    #[must_use]
    pub const fn runs(&self) -> bool {
        matches!(self.news, TaskNews::Begun { .. })
    }
}

/// What an attempt says of a task when it has left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLeft {
    /// The name of the connection by which it was left.
    pub connection: Arc<str>,
    /// What it is called there.
    pub task: Arc<str>,
    /// As in [`HandedOver`].
    pub expires_at: Option<Timestamp>,
    /// As in [`HandedOver`].
    pub queue: Option<Arc<str>>,
}

impl HandedOver {
    /// Who runs it, and in which process, as far as signs of life of that tell anything.
    #[must_use]
    pub fn holder(&self) -> Option<(&Arc<str>, u32)> {
        match self.heard.as_ref()? {
            TaskHeard { by, news: TaskNews::Begun { process }, .. } if *process > 0 => Some((by, *process)),
            TaskHeard { .. } => None,
        }
    }
}

impl HandedOver {
    /// When it expires, if it does and nothing was heard of it.
    #[must_use]
    pub fn unheard_until(&self) -> Option<Timestamp> {
        self.expires_at.filter(|_| self.heard.is_none())
    }

    /// Since when nothing was heard of it, where it can be told whether it waits in its queue.
    #[must_use]
    pub fn quiet_since(&self) -> Option<Timestamp> {
        (self.heard.is_none() && self.queue.is_some()).then_some(self.at)
    }
}

impl JobSpec {
    /// The connection by which its runs leave tasks whose ends they wait for.
    #[must_use]
    pub fn hands_over(&self) -> Option<&str> {
        match &self.target {
            Target::Celery(celery) if celery.wait_for_completion => Some(&celery.broker),
            _ => None,
        }
    }
}

impl Run {
    /// The task of the attempt that runs, if it has left one with others.
    #[must_use]
    pub fn handed(&self) -> Option<&HandedOver> {
        self.running().and_then(|attempt| attempt.handed.as_ref())
    }

    /// Which of the run's tasks its next or running attempt leaves, from 0. An attempt whose task has ended, or was
    /// given up, is followed by another task; one of which nobody knows whether it has left its task repeats the same.
    #[must_use]
    pub fn delivery(&self) -> u32 {
        let left = self
            .attempts
            .iter()
            .filter(|attempt| attempt.handed.is_some() && attempt.outcome != AttemptOutcome::Running);
        u32::try_from(left.count()).unwrap_or(u32::MAX)
    }
}
