//! How far a worker is on its way out.

use std::time::Duration;

use tokio::time::Instant;

use super::{FAREWELL_MAX, STOP_MAX};

/// Each step but the first has a deadline, and leads to the next; a drain that was asked for has none, and may be
/// taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Takes orders.
    Serving,
    /// Waits for what it holds to end.
    Draining { until: Option<Instant> },
    /// Waits for what it stopped to end.
    Stopping { until: Instant },
    /// Waits for the last acknowledgements.
    Farewell { until: Instant },
}

/// What to do at a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Give back what waits, and stop what runs.
    Leave,
    /// Drop what does not stop.
    Abandon,
}

impl Phase {
    pub(super) const fn deadline(self) -> Option<Instant> {
        match self {
            Self::Serving => None,
            Self::Draining { until } => until,
            Self::Stopping { until } | Self::Farewell { until } => Some(until),
        }
    }

    /// Whether nothing begins any more.
    pub(super) const fn is_leaving(self) -> bool {
        matches!(self, Self::Stopping { .. } | Self::Farewell { .. })
    }

    /// The process is being ended: what runs has so long. A later deadline comes nearer, never an earlier one later.
    pub(super) fn end(&mut self, now: Instant, grace: Duration) {
        match self {
            Self::Serving | Self::Draining { until: None } => {
                *self = Self::Draining { until: Some(now + grace) }
            }
            Self::Draining { until: Some(_) } | Self::Stopping { .. } | Self::Farewell { .. } => {}
        }
    }

    /// The deadline has come.
    pub(super) fn pass(&mut self, now: Instant) -> Due {
        let (next, due) = match *self {
            Self::Serving => (Self::Serving, Due::Nothing),
            Self::Draining { .. } => (Self::Stopping { until: now + STOP_MAX }, Due::Leave),
            Self::Stopping { .. } => (Self::Farewell { until: now + FAREWELL_MAX }, Due::Abandon),
            Self::Farewell { .. } => (Self::Farewell { until: now }, Due::Nothing),
        };
        *self = next;
        due
    }
}
