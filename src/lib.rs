//! Chronarch: a replicated job scheduler that fires every due job exactly once.

pub mod client;
pub mod pb;
pub mod state;
