//! Chronarch: a replicated job scheduler that fires every due job exactly once.

pub mod cli;
pub mod client;
pub mod pb;
pub mod scheduler;
pub mod state;
pub mod telemetry;
