//! A job file, as far as the checker needs it: read by its own code from what the client sent.

use serde::{Deserialize, Deserializer};

use super::history::At;

/// Milliseconds, written `1m30s`, `250ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(pub(crate) i64);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = humantime::parse_duration(&text).map_err(serde::de::Error::custom)?;
        i64::try_from(span.as_millis()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// A job file. Absent keys have the documented defaults.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct JobFile {
    #[serde(default)]
    pub(crate) schedule: Vec<Schedule>,
    #[serde(default)]
    pub(crate) retry: Retry,
    #[serde(default)]
    pub(crate) catch_up: CatchUp,
    pub(crate) start_within: Option<Span>,
    #[serde(default)]
    pub(crate) overlap: Overlap,
    #[serde(default = "rerun")]
    pub(crate) on_lost: String,
    #[serde(default = "skip")]
    pub(crate) on_resume: String,
    #[serde(default)]
    pub(crate) breaker: Breaker,
}

fn rerun() -> String {
    "rerun".to_owned()
}

fn skip() -> String {
    "skip".to_owned()
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Schedule {
    pub(crate) cron: Option<String>,
    pub(crate) every: Option<Span>,
    pub(crate) offset: Span,
    pub(crate) at: Vec<At>,
    pub(crate) timezone: Option<String>,
    pub(crate) jitter: Span,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Retry {
    pub(crate) max_attempts: u32,
    pub(crate) initial: Span,
    pub(crate) jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: 1, initial: Span(1_000), jitter: 0.2 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct CatchUp {
    /// `none`, `latest`, `all`.
    pub(crate) runs: String,
    pub(crate) window: Span,
    pub(crate) max: u64,
}

impl Default for CatchUp {
    fn default() -> Self {
        Self { runs: "latest".to_owned(), window: Span(3_600_000), max: 100 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Overlap {
    /// `skip`, `allow`, `queue`, `replace`.
    pub(crate) policy: String,
    pub(crate) max_parallel: usize,
}

impl Default for Overlap {
    fn default() -> Self {
        Self { policy: "skip".to_owned(), max_parallel: 1 }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Breaker {
    pub(crate) name: Option<String>,
    pub(crate) consecutive_failures: u32,
    pub(crate) failure_rate: f64,
    pub(crate) open_for: Span,
    pub(crate) max_open_for: Span,
    pub(crate) probes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            name: None,
            consecutive_failures: 5,
            failure_rate: 0.0,
            open_for: Span(60_000),
            max_open_for: Span(3_600_000),
            probes: 1,
        }
    }
}

impl JobFile {
    /// The longest that jitter puts an instant off.
    pub(crate) fn jitter_ms(&self) -> i64 {
        self.schedule.iter().map(|schedule| schedule.jitter.0).max().unwrap_or(0)
    }
}
