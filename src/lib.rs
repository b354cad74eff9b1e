//! Chronarch: a replicated job scheduler that fires every due job exactly once.

pub mod clock;
pub mod pb;
pub mod scheduler;
pub mod state;
