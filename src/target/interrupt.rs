//! What ends an attempt from outside: its timeout, or a cancellation.
//!
//! Every target waits for [`Limit::reached`] beside its own work, so that the two endings mean the same everywhere.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Outcome, Report};

/// Why an attempt was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// It ran for longer than this.
    Timeout(Duration),
    Cancel,
}

impl Interrupt {
    /// The report of an attempt that was stopped while doing `what`.
    pub(super) fn report(self, what: &str) -> Report {
        match self {
            Self::Timeout(after) => {
                Report::of(Outcome::TimedOut).with_error(format_args!("timed out after {after:?}{what}"))
            }
            Self::Cancel => Report::of(Outcome::Cancelled).with_error(format_args!("cancelled{what}")),
        }
    }
}

/// When an attempt is stopped; counted from the limit's making.
pub(super) struct Limit<'a> {
    timeout: Option<(Duration, Instant)>,
    cancel: &'a CancellationToken,
}

impl<'a> Limit<'a> {
    /// A timeout beyond what the clock can express is none.
    pub(super) fn starting_now(timeout: Option<Duration>, cancel: &'a CancellationToken) -> Self {
        let timeout = timeout.and_then(|after| Some((after, Instant::now().checked_add(after)?)));
        Self { timeout, cancel }
    }

    /// What is left until then; None: no bound.
    pub(super) fn left(&self) -> Option<Duration> {
        self.timeout.map(|(_, at)| at.saturating_duration_since(Instant::now()))
    }

    /// Whether the timeout is over.
    pub(super) fn is_over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// Resolves when the attempt must stop; safe to drop and call again.
    pub(super) async fn reached(&self) -> Interrupt {
        let timeout = async {
            match self.timeout {
                Some((after, at)) => {
                    tokio::time::sleep_until(at).await;
                    after
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Interrupt::Cancel,
            after = timeout => Interrupt::Timeout(after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_timeout_too_long_for_the_clock_is_no_timeout() {
        let cancel = CancellationToken::new();
        let limit = Limit::starting_now(Some(Duration::MAX), &cancel);
        assert!(limit.timeout.is_none());
        cancel.cancel();
        assert_eq!(limit.reached().await, Interrupt::Cancel);
    }
}
