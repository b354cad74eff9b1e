//! Chronarch: a replicated job scheduler that fires every due job exactly once.

pub mod scheduler;
pub mod state;
