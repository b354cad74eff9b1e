//! Read models: what the state and the run log say, in the messages of the API.
//!
//! The CLI, the dashboard and every client see the same jobs, runs, breakers and explanations, for
//! all of them are made here and nowhere else. Everything is a function of a [`State`], a [`RunLog`]
//! and, where it matters, the workers that the leader knows; nothing here waits, proposes or reads a
//! clock: time is the state's own.
//!
//! Reading the run log reads the disk, so callers on a runtime do it where blocking is allowed.
//!
//! # Invariants
//! - A list visits each item once, whatever changes between its pages: its order is by keys that an
//!   item keeps for ever.
//! - A page costs at most a named number of looked-at items, whatever the filter.
//!
//! [`State`]: crate::state::State
//! [`RunLog`]: crate::history::RunLog

pub mod breaker;
pub mod broker;
pub mod cluster;
pub mod diff;
pub mod explain;
#[cfg(test)]
pub(crate) mod fixture;
pub mod job;
pub mod log;
pub mod namespace;
pub mod queue;
pub mod run;
pub mod runs;
pub mod spec;
mod words;

use crate::state::time::Timestamp;

/// An instant as the API's message.
#[must_use]
pub fn instant(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.millis();
    prost_types::Timestamp {
        seconds: millis.div_euclid(1_000),
        // below 1000, so that it fits
        nanos: (millis.rem_euclid(1_000) * 1_000_000) as i32,
    }
}

/// A span as the API's message.
#[must_use]
pub fn span(span: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: span.subsec_nanos().cast_signed(),
    }
}
