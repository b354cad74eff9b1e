//! The whole module on real files and real connections: conformance of the stores, and clusters in one process.

mod cluster;
mod conformance;
mod export;
mod formation;
pub(crate) mod harness;
mod levels;
mod membership;
mod snapshots;
