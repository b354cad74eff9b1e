//! The protocol as generated from `proto/`, and its textual form.
//!
//! Job files, `-o json` and the JSON API write the same messages as text, by the same rules:
//!
//! - field names are the proto's, in `snake_case`; unknown ones are refused;
//! - an instant is RFC 3339 in UTC with milliseconds ([`instant`]), a span of time a text such as
//!   `90s` or `1h30m` ([`span`]), an enum a lower-case word ([`word`]);
//! - what a job file is made of leaves out what is not set, so that an exported job is short; every
//!   other message writes all its fields, absent ones as `null`, so that no script has to guess;
//! - a job file may use short forms ([`short`]): `catch_up: latest`, `overlap: skip`, one schedule
//!   or a list, one instant or a list; a field that holds JSON may be written as its value ([`json`]).
//!
//! Which field gets which rule is decided by its type in `build.rs`; nothing is declared twice. The
//! messages of the worker stream and of the peers have no textual form.
//!
//! Invariant: a value read from its textual form and written again is the same text, and what is
//! written can be read. Nothing here checks meaning (a cron line, a URL): that is the server's part.

pub mod instant;
mod json;
pub mod path;
pub mod protocol;
pub mod short;
pub mod span;
pub mod word;

/// The public API.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("chronarch.v1");
    /// File descriptors of this package, for the reflection service.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chronarch.v1.bin"));
}

/// Raft between nodes.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod peer {
    tonic::include_proto!("chronarch.peer.v1");
}

#[cfg(test)]
mod tests;
