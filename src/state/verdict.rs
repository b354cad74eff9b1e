//! What is decided of an occurrence, before overlap and breakers have their say.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::pack::later;
use super::run::Cause;
use super::time::Timestamp;

/// What becomes of an occurrence that is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It becomes a run, if overlap and breaker let it.
    Run {
        /// The first instant that it stands for; its own, where it stands for no other.
        from: Timestamp,
        /// The nominal instant.
        scheduled_at: Timestamp,
        /// Plus jitter.
        due_at: Timestamp,
        /// [`Cause::Schedule`] or [`Cause::CatchUp`].
        cause: Cause,
        /// How many instants it stands for: with `catch_up: latest` also the missed ones before it.
        stands_for: u64,
        /// The calendar that put it off, and why; absent where none did.
        #[serde(default, serialize_with = "later")]
        moved: Option<Arc<str>>,
    },
    /// These instants were missed, and catch-up does not want them: one record for all.
    Missed {
        /// The first.
        from: Timestamp,
        /// The last.
        until: Timestamp,
        /// How many.
        count: u64,
    },
    /// A calendar excludes these instants: one record for all.
    Excluded {
        /// The first.
        from: Timestamp,
        /// The last.
        until: Timestamp,
        /// How many.
        count: u64,
        /// Which calendar, and what in it; at most [`super::limits::ERROR_BYTES`] of it are kept.
        why: Arc<str>,
    },
}

impl Verdict {
    /// The newest nominal instant that it decides.
    #[must_use]
    pub const fn until(&self) -> Timestamp {
        match *self {
            Self::Run { scheduled_at, .. } => scheduled_at,
            Self::Missed { until, .. } | Self::Excluded { until, .. } => until,
        }
    }
}
