//! The replicated state.
pub mod schedule;
pub mod time;
