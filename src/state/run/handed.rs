//! Attempts that have left a task with others, and wait for their word.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Attempt, AttemptOutcome, Run};
use crate::state::time::Timestamp;

impl Attempt {
    /// Whether it runs, and this is its fence.
    #[must_use]
    pub fn runs_under(&self, fence: u64) -> bool {
        self.outcome == AttemptOutcome::Running && self.fence == fence
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
