//! How the log looks on disk: segment headers and records, little-endian.
//!
//! A *position* is a byte's place in the whole log, counted from its creation and never reused; a segment holds
//! the positions from its base on, so the place in the file is `position - base`. Each record's checksum is taken
//! over its position too: a block that the disk delivers from elsewhere, and a payload that happens to contain a
//! log, are never taken for a record of this place.
//!
//! ```text
//! segment header (64): magic 8 | format 4 | header length 4 | base 8 | cluster 16 | node 8 | zero 12 | crc 4
//! record header  (48): magic 1 | format 1 | kind 1 | zero 1 | payload length 4 | term 8 | index 8 | node 8
//!                      | synced 8 | crc of the payload 4 | crc of position and header 4
//! ```
//!
//! `synced` is the position up to which the log was durable when the record was written. That makes every record
//! a witness for what lies before it: see `recovery`.

use std::path::Path;

use bytes::{Buf, BufMut, Bytes};

use crate::storage::error::StorageError;
use crate::storage::identity::Identity;

/// Format of segments and records that this release writes and reads.
pub(super) const FORMAT: u32 = 1;
/// Bytes before the first record of a segment.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 64;
/// Bytes before a record's payload.
pub(super) const RECORD_HEADER_BYTES: usize = 48;

const SEGMENT_MAGIC: &[u8; 8] = b"CHRONWAL";
const RECORD_MAGIC: u8 = 0xC7;

/// Largest index of an entry: no log gets there, and the one after it can be counted.
pub(super) const INDEX_MAX: u64 = 1 << 62;

/// Names an entry: where it stands, in which term it was proposed, and by which node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryId {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// That leader's node id, or 0 where the caller keeps no such thing.
    pub node: u64,
    /// Place in the log.
    pub index: u64,
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A log entry.
    Entry,
    /// The vote.
    Vote,
    /// How far the log was known to be committed: a hint, never synced for its own sake.
    Committed,
    /// Everything up to and with this id is forgotten.
    Purge,
    /// Everything from this index on is forgotten.
    Truncate,
    /// All but the entries as of here; the first record of each segment.
    Checkpoint,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Vote => 2,
            Self::Committed => 3,
            Self::Purge => 4,
            Self::Truncate => 5,
            Self::Checkpoint => 6,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::Committed,
            4 => Self::Purge,
            5 => Self::Truncate,
            6 => Self::Checkpoint,
            _ => return None,
        })
    }
}

/// A record, in memory.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) id: EntryId,
    pub(super) payload: Bytes,
}

impl Record {
    /// A record that concerns no entry.
    pub(super) fn of(kind: Kind, payload: Bytes) -> Self {
        Self { kind, id: EntryId { term: 0, node: 0, index: 0 }, payload }
    }

    /// Bytes on disk.
    pub(super) fn stored_bytes(&self) -> u64 {
        (RECORD_HEADER_BYTES + self.payload.len()) as u64
    }

    /// Appends the record as it is stored at `position`.
    pub(super) fn encode(&self, position: u64, synced: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_slice(&[RECORD_MAGIC, FORMAT as u8, self.kind.code(), 0]);
        out.put_u32_le(self.payload.len() as u32);
        out.put_u64_le(self.id.term);
        out.put_u64_le(self.id.index);
        out.put_u64_le(self.id.node);
        out.put_u64_le(synced);
        out.put_u32_le(crc32fast::hash(&self.payload));
        let crc = header_crc(position, &out[start..]);
        out.put_u32_le(crc);
        out.put_slice(&self.payload);
    }
}

fn header_crc(position: u64, header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&position.to_le_bytes());
    hasher.update(header);
    hasher.finalize()
}

/// A record header whose checksum holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    pub(super) id: EntryId,
    pub(super) payload_bytes: usize,
    pub(super) synced: u64,
    payload_crc: u32,
}

/// Reads the header at the start of `bytes`, which stand at `position`. `Err` says what is wrong with it.
pub(super) fn decode_header(position: u64, bytes: &[u8]) -> Result<RecordHeader, String> {
    let Some(header) = bytes.get(..RECORD_HEADER_BYTES) else {
        return Err(format!("a record header was cut off after {} bytes", bytes.len()));
    };
    if header[0] != RECORD_MAGIC || u32::from(header[1]) != FORMAT {
        return Err(format!("no record starts here (found {:02x}{:02x})", header[0], header[1]));
    }
    let (mut fields, mut crc) = (&header[4..44], &header[44..]);
    let (expected, actual) = (header_crc(position, &header[..44]), crc.get_u32_le());
    if expected != actual {
        return Err(format!("header checksum is {actual:08x}, its bytes give {expected:08x}"));
    }
    let kind = Kind::from_code(header[2]).ok_or_else(|| format!("unknown record kind {}", header[2]))?;
    let payload_bytes = fields.get_u32_le() as usize;
    let (term, index, node) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le());
    if index > INDEX_MAX {
        return Err(format!("the record names an entry {index}"));
    }
    let synced = fields.get_u64_le();
    Ok(RecordHeader {
        kind,
        id: EntryId { term, node, index },
        payload_bytes,
        synced,
        payload_crc: fields.get_u32_le(),
    })
}

/// Is this a whole record header, of a form that this release does not know? Then a newer one has written it, and it
/// is not a torn tail, wherever it stands. Says what form it is.
pub(super) fn unknown_form(position: u64, bytes: &[u8]) -> Option<String> {
    let header = bytes.get(..RECORD_HEADER_BYTES).filter(|header| header[0] == RECORD_MAGIC)?;
    let (content, mut crc) = header.split_at(RECORD_HEADER_BYTES - 4);
    let whole = header_crc(position, content) == crc.get_u32_le();
    if whole && u32::from(header[1]) != FORMAT {
        return Some(header[1].to_string());
    }
    (whole && Kind::from_code(header[2]).is_none())
        .then(|| format!("{FORMAT} with record kind {}", header[2]))
}

/// Reads the record at the start of `bytes`, which stand at `position`. `Err` says what is wrong with it.
pub(super) fn decode(position: u64, bytes: &Bytes) -> Result<(RecordHeader, Record), String> {
    let header = decode_header(position, bytes)?;
    let end = RECORD_HEADER_BYTES + header.payload_bytes;
    if bytes.len() < end {
        return Err(format!("a record of {end} bytes was cut off after {}", bytes.len()));
    }
    let payload = bytes.slice(RECORD_HEADER_BYTES..end);
    let actual = crc32fast::hash(&payload);
    if actual != header.payload_crc {
        let expected = header.payload_crc;
        return Err(format!("payload checksum should be {expected:08x}, its bytes give {actual:08x}"));
    }
    Ok((header, Record { kind: header.kind, id: header.id, payload }))
}

/// The first bytes of a segment.
pub(super) fn encode_segment_header(base: u64, identity: &Identity) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
    out.put_slice(SEGMENT_MAGIC);
    out.put_u32_le(FORMAT);
    out.put_u32_le(SEGMENT_HEADER_BYTES as u32);
    out.put_u64_le(base);
    out.put_slice(&identity.cluster_id);
    out.put_u64_le(identity.node_id);
    out.put_bytes(0, 12);
    let crc = crc32fast::hash(&out);
    out.put_u32_le(crc);
    out
}

/// Verifies the first bytes of the segment `file`, which is named after `base`.
///
/// # Errors
/// [`StorageError::UnknownFormat`], [`StorageError::LogDamaged`], [`StorageError::OtherCluster`] or
/// [`StorageError::OtherNode`].
pub(super) fn check_segment_header(
    file: &Path,
    bytes: &[u8],
    base: u64,
    identity: &Identity,
) -> Result<(), StorageError> {
    let damaged = |reason: &str| StorageError::log_damaged(file, 0, None, reason);
    let Some(header) = bytes.get(..SEGMENT_HEADER_BYTES as usize) else {
        return Err(damaged("the segment header is cut off"));
    };
    let (content, mut crc) = header.split_at(header.len() - 4);
    let whole = crc32fast::hash(content) == crc.get_u32_le();
    let mut fields = content;
    if fields.copy_to_bytes(8).as_ref() != SEGMENT_MAGIC {
        return Err(damaged("the segment does not start with its magic"));
    }
    let format = fields.get_u32_le();
    if format != FORMAT {
        return Err(StorageError::UnknownFormat {
            file: file.to_path_buf(),
            found: format.to_string(),
            known: FORMAT,
        });
    }
    if !whole {
        return Err(damaged("the checksum of the segment header does not match"));
    }
    fields.advance(4);
    if fields.get_u64_le() != base {
        return Err(damaged("the segment starts at another position than its name says"));
    }
    let mut cluster_id = [0; 16];
    fields.copy_to_slice(&mut cluster_id);
    Identity { cluster_id, node_id: fields.get_u64_le() }.check(identity, file)
}

/// Everything but the entries, as of one position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) purged: Option<EntryId>,
    pub(super) last: Option<EntryId>,
    /// Index of the oldest live entry, if there is one.
    pub(super) first_index: u64,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
}

impl Checkpoint {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        for id in [self.purged, self.last] {
            out.put_u8(u8::from(id.is_some()));
            let id = id.unwrap_or(EntryId { term: 0, node: 0, index: 0 });
            out.put_u64_le(id.term);
            out.put_u64_le(id.node);
            out.put_u64_le(id.index);
        }
        out.put_u64_le(self.first_index);
        for value in [&self.vote, &self.committed] {
            out.put_u8(u8::from(value.is_some()));
            out.put_u32_le(value.as_ref().map_or(0, |value| value.len() as u32));
            out.put_slice(value.as_deref().unwrap_or_default());
        }
        Bytes::from(out)
    }

    /// How many entries are live.
    pub(super) fn live_entries(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1).saturating_sub(self.first_index)
    }

    /// `None` when the bytes are no checkpoint.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        let (purged, last) = (take_id(&mut bytes)?, take_id(&mut bytes)?);
        let first_index = bytes.try_get_u64_le().ok()?;
        let (vote, committed) = (take_value(&mut bytes)?, take_value(&mut bytes)?);
        // What is live comes after what is purged, or an index would name two entries.
        let follows = purged.is_none_or(|purged| {
            purged.index < first_index && last.is_some_and(|last| last.index >= purged.index)
        });
        (bytes.is_empty() && follows).then_some(Self { purged, last, first_index, vote, committed })
    }
}

fn take_id(bytes: &mut Bytes) -> Option<Option<EntryId>> {
    if bytes.len() < 25 {
        return None;
    }
    let present = bytes.get_u8() == 1;
    let id = EntryId { term: bytes.get_u64_le(), node: bytes.get_u64_le(), index: bytes.get_u64_le() };
    (id.index <= INDEX_MAX).then_some(present.then_some(id))
}

fn take_value(bytes: &mut Bytes) -> Option<Option<Bytes>> {
    if bytes.len() < 5 {
        return None;
    }
    let (present, length) = (bytes.get_u8() == 1, bytes.get_u32_le() as usize);
    if bytes.len() < length {
        return None;
    }
    let value = bytes.split_to(length);
    Some(present.then_some(value))
}
