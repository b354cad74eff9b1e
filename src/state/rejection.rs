//! Why a command was refused.

use serde::{Deserialize, Serialize};

/// Why a command was refused: deterministic, the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// No such job.
    #[error("no such job")]
    NoJob,
    /// No such live run.
    #[error("no such live run")]
    NoRun,
    /// No such breaker.
    #[error("no such breaker")]
    NoBreaker,
    /// The namespace has no limits.
    #[error("the namespace has no limits")]
    NoNamespace,
    /// Something has changed since the command was computed.
    #[error("the state has moved on")]
    Stale,
    /// An occurrence of the job is due and must be decided first.
    #[error("an occurrence of the job is being decided")]
    OccurrenceDue,
    /// The report's fence is not that of the running attempt.
    #[error("stale fence")]
    Fence,
    /// The breaker does not let it through.
    #[error("the breaker is open")]
    BreakerOpen,
    /// It is too early.
    #[error("too early")]
    Early,
    /// A limit of the cluster is reached.
    #[error("a limit of the cluster is reached")]
    Limit,
    /// The command contradicts itself.
    #[error("malformed command")]
    Malformed,
    /// The job would run after itself.
    #[error("the job would run after itself")]
    Cycle,
    /// No such calendar.
    #[error("no such calendar")]
    NoCalendar,
    /// A job names the calendar.
    #[error("jobs name the calendar")]
    CalendarInUse,
}

impl Rejection {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoJob => "no_job",
            Self::NoRun => "no_run",
            Self::NoBreaker => "no_breaker",
            Self::NoNamespace => "no_namespace",
            Self::Stale => "stale",
            Self::OccurrenceDue => "occurrence_due",
            Self::Fence => "fence",
            Self::BreakerOpen => "breaker_open",
            Self::Early => "early",
            Self::Limit => "limit",
            Self::Malformed => "malformed",
            Self::Cycle => "cycle",
            Self::NoCalendar => "no_calendar",
            Self::CalendarInUse => "calendar_in_use",
        }
    }
}
