//! The bytes of entries, runs and the items of snapshots.

use serde::{Deserialize, Serialize};

use super::level::LevelError;
use super::pack;

/// Why bytes are no entry, no run or no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Written by a version that this one does not know.
    #[error("unknown format version {found}, this version reads {known}")]
    Version {
        /// The version byte found.
        found: u8,
        /// The one known here.
        known: u8,
    },
    /// Not of the form that the version says.
    #[error("malformed record")]
    Malformed(#[source] rmp_serde::decode::Error),
    /// It ends before it is whole.
    #[error("the record ends early")]
    Truncated(#[source] std::io::Error),
    /// No bytes at all.
    #[error("the record is empty")]
    Empty,
    /// Of a cluster in which this release takes no part.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// A section of a snapshot that this version does not know.
    #[error("unknown snapshot section {0}")]
    Section(u8),
}

/// Format of entries and runs on disk and wire; the first byte of each.
const FORMAT: u8 = 2;

/// MessagePack with structs as arrays, behind a version byte. A field may be added at the end of a struct with
/// `#[serde(default, serialize_with = "later")]`; see [`pack`]. What is written with one of these has to be allowed by
/// the cluster's level: see [`super::level`].
pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    pack::write(&mut bytes, value).expect("a vector takes all, and no type here fails to serialise");
    bytes
}

pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => rmp_serde::from_slice(rest).map_err(CodecError::Malformed),
        Some((&found, _)) => Err(CodecError::Version { found, known: FORMAT }),
        None => Err(CodecError::Empty),
    }
}
