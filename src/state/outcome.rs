//! What becomes of a command.

use serde::{Deserialize, Serialize};

use super::rejection::Rejection;
use super::run::{JobId, RunId};

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is so.
    Done,
    /// The job stands.
    Put {
        /// Its incarnation.
        job: JobId,
        /// Its version.
        version: u64,
        /// What the command changed.
        change: Change,
    },
    /// The occurrences are decided; these runs came of it, skipped ones included.
    Fired {
        /// In the order of the verdicts.
        runs: Vec<RunId>,
        /// How many of them wait to start.
        started: u32,
    },
    /// The run was made by hand.
    Triggered {
        /// Its identity.
        run: RunId,
    },
    /// The runs of a backfill wait for their turn.
    Backfilled {
        /// Its number, by which they can be told.
        backfill: u64,
        /// How many.
        runs: u32,
    },
    /// The run waits for those that it made.
    Spread {
        /// How many; 0 where it was skipped.
        runs: u32,
    },
    /// The attempt may leave for its worker.
    Started {
        /// The run.
        run: RunId,
        /// The fence of the attempt.
        fence: u64,
    },
    /// The end of the attempt is recorded.
    Completed {
        /// Whether the run has ended with it.
        ended: bool,
    },
    /// Nothing changed, by rule.
    Rejected(Rejection),
}

/// What [`Command::PutJob`] changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// There was no job of this name.
    Created,
    /// It had another definition.
    Updated,
    /// It had this very definition.
    Unchanged,
}
