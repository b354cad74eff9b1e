//! Everything that arrives from a peer or lies in a store, from its bytes to what the library is handed. For
//! fuzzing.

use prost::Message;
use prost::bytes::Bytes;

use super::codec::{self, CodecError};
use super::network;
use super::types::{LogId, SnapshotMeta};
use crate::pb::peer;
use crate::state::level::SPOKEN;

/// How many kinds of messages and records [`read`] knows.
pub const KINDS: u8 = 10;

/// Reads a message of a peer, or a stored record; what is read must be written as it can be read again.
///
/// # Errors
/// [`CodecError`] when the bytes mean nothing.
///
/// # Panics
/// When a stored record is read otherwise than it was written.
pub fn read(kind: u8, bytes: &[u8]) -> Result<(), CodecError> {
    let stored = Bytes::copy_from_slice(bytes);
    match kind {
        0 => drop(network::append_request_from(peer::AppendRequest::decode(bytes)?, SPOKEN)?),
        1 => {
            let _ = network::append_result(peer::AppendResponse::decode(bytes)?)?;
        }
        2 => {
            let _ = network::vote_request_from(peer::VoteRequest::decode(bytes)?)?;
        }
        3 => {
            let _ = network::vote_response(peer::VoteResponse::decode(bytes)?)?;
        }
        4 => {
            let head = peer::SnapshotChunk::decode(bytes)?;
            codec::vote_from(head.vote)?;
            SnapshotMeta::try_from(head.meta.ok_or(CodecError::Missing("meta"))?)?;
        }
        5 => {
            let answer = peer::ReadIndexResponse::decode(bytes)?;
            let _ = answer.read_log_id.map(LogId::from);
            peer::RunsChunk::decode(bytes)?;
            peer::IdentifyResponse::decode(bytes)?;
        }
        6 => {
            let entry = codec::load_entry(stored)?;
            assert_eq!(codec::load_entry(codec::store_entry(&entry))?.log_id, entry.log_id);
        }
        7 => {
            let vote = codec::load_vote(stored)?;
            assert_eq!(codec::load_vote(codec::store_vote(&vote))?, vote);
        }
        8 => {
            let id = codec::load_log_id(stored)?;
            assert_eq!(codec::load_log_id(codec::store_log_id(id))?, id);
        }
        _ => {
            let meta = codec::load_meta(stored)?;
            assert_eq!(codec::load_meta(codec::store_meta(&meta))?, meta);
        }
    }
    Ok(())
}
