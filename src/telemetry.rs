//! Logging: what a process says about itself, to stderr.
//!
//! `CHRONARCH_LOG` chooses what is logged, by level and module (`info`, `chronarch::raft=debug`);
//! the format is text for people or JSON for machines. Stdout is never written to. Called once, by
//! `main`, before anything else runs. A log line that cannot be written is dropped: a full disk
//! behind stderr must not stop the scheduler.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Environment variable of the filter.
pub const FILTER: &str = "CHRONARCH_LOG";

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `CHRONARCH_LOG` is no filter.
    #[error("CHRONARCH_LOG: {0}")]
    Filter(#[from] ParseError),
    /// Set up already.
    #[error(transparent)]
    Twice(#[from] TryInitError),
}

/// Sets logging up for the whole process; `default` filters where `CHRONARCH_LOG` is not set.
///
/// # Errors
/// [`TelemetryError`] when the filter cannot be read, or logging is set up already.
pub fn start(format: LogFormat, default: &str) -> Result<(), TelemetryError> {
    let chosen = std::env::var(FILTER).ok().filter(|filter| !filter.is_empty());
    let chosen = chosen.as_deref().unwrap_or(default);
    let mut filter = EnvFilter::builder().parse(chosen)?;
    // It writes whole messages of jobs into the log, and each failure that an attempt reports as well.
    if !chosen.contains("lapin") {
        filter = filter.add_directive("lapin=off".parse()?);
    }
    // It calls errors what an attempt reports, and tells of each connection.
    if !chosen.contains("async_nats") {
        filter = filter.add_directive("async_nats=off".parse()?);
    }
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(false).finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
