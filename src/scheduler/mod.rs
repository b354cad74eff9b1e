//! What the leader alone computes: when each job is due.
//!
//! The modules here are pure. They read a [`Schedule`](crate::state::schedule::Schedule), what it
//! is to be read with ([`almanac::Almanac`]), and the instants that the caller hands in; they
//! know no clock, draw no random number and do no I/O. What they find travels through the log as
//! plain instants, so followers never evaluate a rule (DESIGN, section 5).

pub mod almanac;
pub mod backoff;
pub mod calendar;
pub mod cron;
pub mod english;
pub mod jitter;
pub mod moves;
pub mod occurrences;
pub mod plan;
pub mod recurrence;
pub mod rule;
pub mod set;
pub mod solar;
pub mod spread;
mod times;
pub mod walls;
pub mod zone;
