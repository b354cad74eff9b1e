//! Our own encodings of what the consensus library deals in, on the wire and on disk: a new release of the library
//! changes its structs and never our formats.
//!
//! Both use the messages of `chronarch.peer.v1`. What is stored begins with a version byte besides
//! ([`STORED_VERSION`]); an unknown version is an error and never skipped. Decoding is total: a peer's bytes end the
//! call that brought them, bytes from the disk end the process.

use std::collections::BTreeSet;

use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};

use super::types::{
    LogId, LoggedEntry, Membership, NodeAddress, Payload, RaftEntry, SnapshotMeta, StoredMembership, Vote,
    log_id,
};
use crate::pb::peer;
use crate::state;
use crate::state::level::LevelError;

/// Version of stored entries, votes and snapshot heads that this release writes and reads.
pub(super) const STORED_VERSION: u8 = 1;

/// Why bytes or a message mean nothing.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A field that must be there is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Stored by another release.
    #[error("stored form has version {found}, this release reads version {STORED_VERSION}")]
    Version {
        /// The version byte.
        found: u8,
    },
    /// No message of the expected kind.
    #[error("not a message: {0}")]
    Message(#[from] prost::DecodeError),
    /// An entry's payload does not decode.
    #[error("entry {index} does not decode: {source}")]
    Entry {
        /// Its log index.
        index: u64,
        /// What is wrong with it.
        source: state::CodecError,
    },
    /// It raises the level above what this release speaks.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// A membership that cannot be: no voters, or a voter without an address.
    #[error("membership is not valid: {0}")]
    Membership(String),
}

impl From<LogId> for peer::LogId {
    fn from(id: LogId) -> Self {
        Self { term: id.committed_leader_id().term, index: id.index }
    }
}

impl From<peer::LogId> for LogId {
    fn from(id: peer::LogId) -> Self {
        log_id(id.term, id.index)
    }
}

impl From<&Vote> for peer::Vote {
    fn from(vote: &Vote) -> Self {
        let leader = vote.leader_id();
        Self { term: leader.term, node_id: Some(leader.voted_for), committed: vote.committed }
    }
}

/// Reads a vote; it names a node in every case.
pub(super) fn vote_from(vote: Option<peer::Vote>) -> Result<Vote, CodecError> {
    let vote = vote.ok_or(CodecError::Missing("vote"))?;
    let node_id = vote.node_id.ok_or(CodecError::Missing("vote.node_id"))?;
    Ok(if vote.committed { Vote::new_committed(vote.term, node_id) } else { Vote::new(vote.term, node_id) })
}

impl From<&NodeAddress> for peer::NodeAddress {
    fn from(node: &NodeAddress) -> Self {
        Self { peer_address: node.peer_address.clone(), address: node.address.clone() }
    }
}

impl From<peer::NodeAddress> for NodeAddress {
    fn from(node: peer::NodeAddress) -> Self {
        Self { peer_address: node.peer_address, address: node.address }
    }
}

impl From<&Membership> for peer::Membership {
    fn from(membership: &Membership) -> Self {
        let config = |ids: &BTreeSet<u64>| peer::Config { node_ids: ids.iter().copied().collect() };
        Self {
            configs: membership.get_joint_config().iter().map(config).collect(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.into())).collect(),
        }
    }
}

/// Reads a membership. An empty one is what a node has before its cluster has formed.
fn membership_from(membership: peer::Membership) -> Result<Membership, CodecError> {
    if membership.configs.is_empty() && membership.nodes.is_empty() {
        return Ok(Membership::default());
    }
    let configs =
        membership.configs.into_iter().map(|config| config.node_ids.into_iter().collect()).collect();
    let nodes = membership.nodes.into_iter().map(|(id, node)| (id, NodeAddress::from(node)));
    Membership::new(configs, nodes.collect::<std::collections::BTreeMap<_, _>>())
        .map_err(|error| CodecError::Membership(error.to_string()))
}

impl From<&SnapshotMeta> for peer::SnapshotMeta {
    fn from(meta: &SnapshotMeta) -> Self {
        let last_membership = peer::StoredMembership {
            log_id: meta.last_membership.log_id().map(Into::into),
            membership: Some(meta.last_membership.membership().into()),
        };
        Self { last_log_id: meta.last_log_id.map(Into::into), last_membership: Some(last_membership) }
    }
}

impl TryFrom<peer::SnapshotMeta> for SnapshotMeta {
    type Error = CodecError;

    fn try_from(meta: peer::SnapshotMeta) -> Result<Self, CodecError> {
        let stored = meta.last_membership.ok_or(CodecError::Missing("last_membership"))?;
        let membership = membership_from(stored.membership.ok_or(CodecError::Missing("membership"))?)?;
        let last_membership = StoredMembership::new(stored.log_id.map(Into::into), membership);
        Ok(Self { last_log_id: meta.last_log_id.map(Into::into), last_membership })
    }
}

/// Writes an entry.
pub(super) fn entry_to(entry: &RaftEntry) -> peer::Entry {
    let payload = match &entry.payload {
        Payload::Blank => peer::entry::Payload::Blank(peer::Blank {}),
        Payload::Normal(logged) => peer::entry::Payload::Normal(logged.encoded().clone()),
        Payload::Membership(membership) => peer::entry::Payload::Membership(membership.into()),
    };
    peer::Entry { log_id: Some(entry.log_id.into()), payload: Some(payload) }
}

/// Reads an entry.
pub(super) fn entry_from(entry: peer::Entry) -> Result<RaftEntry, CodecError> {
    let log_id: LogId = entry.log_id.ok_or(CodecError::Missing("log_id"))?.into();
    let payload = match entry.payload.ok_or(CodecError::Missing("payload"))? {
        peer::entry::Payload::Blank(_) => Payload::Blank,
        peer::entry::Payload::Normal(encoded) => Payload::Normal(
            LoggedEntry::decode(encoded)
                .map_err(|source| CodecError::Entry { index: log_id.index, source })?,
        ),
        peer::entry::Payload::Membership(membership) => Payload::Membership(membership_from(membership)?),
    };
    Ok(RaftEntry { log_id, payload })
}

/// The stored form of a message: its version, then its bytes.
pub(super) fn to_stored(message: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + message.encoded_len());
    out.put_u8(STORED_VERSION);
    message.encode(&mut out).expect("a growing buffer takes every message");
    out.freeze()
}

/// The inverse of [`to_stored`].
pub(super) fn from_stored<M: Message + Default>(mut stored: Bytes) -> Result<M, CodecError> {
    let Some(&found) = stored.first() else {
        return Err(CodecError::Missing("version"));
    };
    if found != STORED_VERSION {
        return Err(CodecError::Version { found });
    }
    Ok(M::decode(stored.split_off(1))?)
}

/// The stored form of an entry.
pub(super) fn store_entry(entry: &RaftEntry) -> Bytes {
    to_stored(&entry_to(entry))
}

/// The inverse of [`store_entry`].
pub(super) fn load_entry(stored: Bytes) -> Result<RaftEntry, CodecError> {
    entry_from(from_stored(stored)?)
}

/// The stored form of the vote.
pub(super) fn store_vote(vote: &Vote) -> Bytes {
    to_stored(&peer::Vote::from(vote))
}

/// The inverse of [`store_vote`].
pub(super) fn load_vote(stored: Bytes) -> Result<Vote, CodecError> {
    vote_from(Some(from_stored(stored)?))
}

/// The stored form of a log id; `None` is stored as the version alone.
pub(super) fn store_log_id(id: Option<LogId>) -> Bytes {
    match id {
        Some(id) => to_stored(&peer::StoredMembership { log_id: Some(id.into()), membership: None }),
        None => Bytes::from_static(&[STORED_VERSION]),
    }
}

/// The inverse of [`store_log_id`].
pub(super) fn load_log_id(stored: Bytes) -> Result<Option<LogId>, CodecError> {
    Ok(from_stored::<peer::StoredMembership>(stored)?.log_id.map(Into::into))
}

/// The stored form of what heads a snapshot.
pub(super) fn store_meta(meta: &SnapshotMeta) -> Bytes {
    to_stored(&peer::SnapshotMeta::from(meta))
}

/// The inverse of [`store_meta`].
pub(super) fn load_meta(stored: Bytes) -> Result<SnapshotMeta, CodecError> {
    from_stored::<peer::SnapshotMeta>(stored)?.try_into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::state::Entry;
    use crate::state::time::Timestamp;

    fn node(port: u16) -> NodeAddress {
        NodeAddress {
            peer_address: format!("127.0.0.1:75{port:02}"),
            address: format!("127.0.0.1:74{port:02}"),
        }
    }

    fn membership() -> Membership {
        let nodes: BTreeMap<u64, NodeAddress> = (1..=3).map(|id| (id, node(id as u16))).collect();
        Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], nodes).unwrap()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Bytes {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn stored_vote_is_pinned() {
        let (candidate, leader) = (Vote::new(7, 2), Vote::new_committed(300, 3));
        assert_eq!(hex(&store_vote(&candidate)), "0108071002");
        assert_eq!(hex(&store_vote(&leader)), "0108ac0210031801");
        assert_eq!(load_vote(unhex("0108071002")).unwrap(), candidate);
        assert_eq!(load_vote(unhex("0108ac0210031801")).unwrap(), leader);
    }

    #[test]
    fn stored_log_id_is_pinned() {
        assert_eq!(hex(&store_log_id(None)), "01");
        assert_eq!(hex(&store_log_id(Some(log_id(0, 0)))), "010a00");
        assert_eq!(hex(&store_log_id(Some(log_id(5, 1000)))), "010a05080510e807");
        for id in [None, Some(log_id(0, 0)), Some(log_id(5, 1000))] {
            assert_eq!(load_log_id(store_log_id(id)).unwrap(), id);
        }
    }

    #[test]
    fn stored_blank_and_membership_entries_are_pinned() {
        let blank = RaftEntry { log_id: log_id(2, 9), payload: Payload::Blank };
        assert_eq!(hex(&store_entry(&blank)), "010a04080210091200");
        assert_eq!(load_entry(unhex("010a04080210091200")).unwrap(), blank);

        let entry = RaftEntry { log_id: log_id(0, 0), payload: Payload::Membership(membership()) };
        let pinned = "010a00227e\
            0a040a0201020a040a02020312240801 1220\
            0a0e3132372e302e302e313a37353031120e3132372e302e302e313a3734303112240802 1220\
            0a0e3132372e302e302e313a37353032120e3132372e302e302e313a3734303212240803 1220\
            0a0e3132372e302e302e313a37353033120e3132372e302e302e313a37343033"
            .replace(' ', "");
        assert_eq!(hex(&store_entry(&entry)), pinned);
        assert_eq!(load_entry(unhex(&pinned)).unwrap(), entry);
    }

    #[test]
    fn stored_normal_entry_carries_the_bytes_of_the_state_module_unchanged() {
        let logged = LoggedEntry::new(Entry { at: Timestamp::from_millis(5), commands: Vec::new() });
        let entry = RaftEntry { log_id: log_id(1, 3), payload: Payload::Normal(logged.clone()) };
        let stored = store_entry(&entry);
        let encoded = logged.encoded();
        let head = format!("010a04080110031a{:02x}", encoded.len());
        assert_eq!(hex(&stored), format!("{head}{}", hex(encoded)));
        assert_eq!(load_entry(stored).unwrap(), entry);
    }

    #[test]
    fn snapshot_head_survives_a_round_trip() {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(4, 17)),
            last_membership: StoredMembership::new(Some(log_id(3, 12)), membership()),
        };
        assert_eq!(load_meta(store_meta(&meta)).unwrap(), meta);
        assert_eq!(load_meta(store_meta(&SnapshotMeta::default())).unwrap(), SnapshotMeta::default());
    }

    #[test]
    fn foreign_versions_and_broken_messages_are_refused() {
        assert!(matches!(load_vote(unhex("0208071002")), Err(CodecError::Version { found: 2 })));
        assert!(matches!(load_vote(Bytes::new()), Err(CodecError::Missing("version"))));
        assert!(matches!(load_vote(unhex("010807")), Err(CodecError::Missing("vote.node_id"))));
        assert!(matches!(load_vote(unhex("01ffff")), Err(CodecError::Message(_))));
        assert!(matches!(load_entry(unhex("010a0408021009")), Err(CodecError::Missing("payload"))));
        let garbled = unhex("010a04080210091a03ffffff");
        assert!(matches!(load_entry(garbled), Err(CodecError::Entry { index: 9, .. })));
    }

    #[test]
    fn membership_with_a_voter_that_has_no_address_is_refused() {
        let wire = peer::Membership {
            configs: vec![peer::Config { node_ids: vec![1, 2] }],
            nodes: BTreeMap::from([(1, (&node(1)).into())]),
        };
        assert!(matches!(membership_from(wire), Err(CodecError::Membership(_))));
    }
}
