//! Bytes on disk, and nothing but bytes: the only module that touches files.
//!
//! | part | holds | when it is damaged |
//! |---|---|---|
//! | [`wal`] | the Raft log and the vote | the node refuses to start; `--rejoin` sets it aside |
//! | [`snapshot_file`] | snapshots of the replicated state | the next older one is used, or another node's |
//! | [`store`] | ordered keys and values: the run log | it is set aside and rebuilt |
//! | [`identity`] | whose folder this is, and the lock on it | the node refuses to start |
//!
//! The log is what a node has promised to others, so it knows torn from damaged and never guesses. Everything
//! else can be rebuilt from the log, a snapshot or a peer, so it only has to notice.
//!
//! # Invariants
//! - What is acknowledged as durable has been synced: the file, and the folder where a name was made.
//! - Every record carries a checksum over its content *and its place* (position, block number, key), and each read
//!   verifies it.
//! - An I/O error ends the store, and the caller ends the process. Nothing is retried.
//! - No queue, payload, group or answer is without a limit, and each limit is a constant with a name.
//!
//! # What it deliberately does not do
//! It knows no state, no Raft and no protobuf: who calls it encodes and decodes. It reads no clock and draws no
//! random number; its watchdogs count waits. It does not log: what an operator should hear is returned.

pub mod error;
pub mod files;
pub mod identity;
mod manifest;
mod mark;
pub mod snapshot_file;
pub mod store;

pub mod wal;

pub use self::error::{Damage, StorageError, rejoin_steps};
pub use self::identity::{DataDir, Identity};
pub use self::store::{Store, StoreOptions};

pub use self::wal::{EntryId, Wal, WalEntry, WalOptions};

#[cfg(test)]
mod tests;
