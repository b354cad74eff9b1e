//! The types that the consensus library is told about, and the few of ours that cross this module's border.

use std::fmt;
use std::sync::Arc;

use openraft::OptionalSend;
use openraft::vote::leader_id_std::{CommittedLeaderId, LeaderId};
use prost::bytes::Bytes;

use crate::state::{Applied, CodecError, Entry};

/// Largest encoded entry. Proposers batch far below it (256 KiB), so that one entry never delays a heartbeat.
pub const ENTRY_BYTES_MAX: usize = crate::storage::wal::ENTRY_BYTES_MAX - ENTRY_OVERHEAD_BYTES;

/// What the stored form adds to an entry, and more.
const ENTRY_OVERHEAD_BYTES: usize = 1 << 10;

/// One leader a term, so that the term alone names a leader's reign.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TypeConfig;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = LoggedEntry;
    type R = Answer;
    type NodeId = u64;
    type Node = NodeAddress;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = RaftEntry;
    type AsyncRuntime = super::runtime::Runtime;
    type Responder<T>
        = super::submit::Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

type LeaderTerm = CommittedLeaderId<u64>;

pub(super) type LogId = openraft::LogId<LeaderTerm>;
pub(super) type Vote = openraft::Vote<LeaderId<u64, u64>>;
pub(super) type Payload = openraft::EntryPayload<LoggedEntry, u64, NodeAddress>;
pub(super) type RaftEntry = openraft::Entry<LeaderTerm, Payload>;
pub(super) type Membership = openraft::Membership<u64, NodeAddress>;
pub(super) type StoredMembership = openraft::StoredMembership<LeaderTerm, u64, NodeAddress>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<LeaderTerm, u64, NodeAddress>;
pub(super) type OpenRaft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;

/// Builds the id of the entry at `index` that the leader of `term` proposed.
pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// Where a node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddress {
    /// `host:port` of its peer listener.
    pub peer_address: String,
    /// `host:port` where clients reach it.
    pub address: String,
}

/// An entry together with its encoded form, so that the log and each follower share one encoding and one decoding.
/// A clone costs a reference count.
#[derive(Clone)]
pub(super) struct LoggedEntry(Arc<Inner>);

struct Inner {
    entry: Entry,
    encoded: Bytes,
}

impl LoggedEntry {
    /// Encodes `entry`; the caller checks the length.
    pub(super) fn new(entry: Entry) -> Self {
        let encoded = Bytes::from(entry.encode());
        Self(Arc::new(Inner { entry, encoded }))
    }

    /// Takes over bytes from the log or from a peer.
    ///
    /// # Errors
    /// [`CodecError`] when they are no entry.
    pub(super) fn decode(encoded: Bytes) -> Result<Self, CodecError> {
        let entry = Entry::decode(&encoded)?;
        Ok(Self(Arc::new(Inner { entry, encoded })))
    }

    /// The entry.
    pub(super) fn entry(&self) -> &Entry {
        &self.0.entry
    }

    /// Its encoding.
    pub(super) fn encoded(&self) -> &Bytes {
        &self.0.encoded
    }
}

impl fmt::Debug for LoggedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.0.entry.commands.len())
    }
}

impl fmt::Display for LoggedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl PartialEq for LoggedEntry {
    fn eq(&self, other: &Self) -> bool {
        self.0.encoded == other.0.encoded
    }
}

/// What applying an entry gave; nothing for the entries of the protocol itself.
pub(super) type Answer = Option<Arc<Applied>>;

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Term in which the entry was proposed.
    pub term: u64,
    /// Its index; the first entry of a cluster, its membership, has index 0.
    pub index: u64,
}

impl From<&LogId> for LogPosition {
    fn from(id: &LogId) -> Self {
        Self { term: id.committed_leader_id().term, index: id.index }
    }
}

/// Names a cluster: chosen at random when it forms, never changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// Reads the 32 hexadecimal digits that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
