//! The protocol as generated from `proto/`, and nothing else.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]

/// The public API.
pub mod v1 {
    tonic::include_proto!("chronarch.v1");
    /// File descriptors of this package, for the reflection service.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chronarch.v1.bin"));
}

/// Raft between nodes.
pub mod peer {
    tonic::include_proto!("chronarch.peer.v1");
}
