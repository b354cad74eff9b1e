//! Chronarch: a replicated job scheduler that fires every due job exactly once.

pub mod pb;
pub mod raft;
pub mod state;
pub mod storage;
