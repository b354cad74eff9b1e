//! Chronarch: a replicated job scheduler that fires every due job exactly once.
//!
//! ARCHITECTURE.md is the map; each module opens with what it is for.

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod history;
pub mod import;
pub mod leader;
pub mod metrics;
pub mod node;
pub mod pb;
pub mod raft;
pub mod scheduler;
pub mod spool;
pub mod state;
pub mod storage;
pub mod target;
pub mod telemetry;
pub mod threads;
pub mod view;
pub mod worker;
