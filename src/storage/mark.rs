//! The durable watermark: a small file that says how far a store has been synced.
//!
//! Without it a log whose end was cut off looks like a shorter log, and a node would vote with it; and sled opens
//! what it cannot read as if it were empty. The mark is overwritten in place after each sync of the store and
//! before anybody is told, in two slots by turns, so that a torn write leaves the other. It is not synced each
//! time: after the death of the process it is exact, for the page cache survives; after a power cut it may be a
//! little old, but it is never ahead of the store.
//! The same file carries a lock that keeps a second writer out.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};

use crate::storage::error::StorageError;
use crate::storage::files::{self, LockedFile};

const NAME: &str = "synced";
const MAGIC: &[u8; 4] = b"CHWM";
const SLOT_BYTES: usize = 24;
/// The slots stand in different blocks, so that one torn block leaves the other slot whole.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// The open watermark file.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    file: LockedFile,
    turn: u64,
    synced: u64,
}

impl Mark {
    /// Is there a watermark in `dir`?
    pub(super) fn exists(dir: &Path) -> bool {
        dir.join(NAME).exists()
    }

    /// Writes the first watermark of a new store.
    pub(super) fn create(dir: &Path, synced: u64) -> Result<(), StorageError> {
        let mut bytes = vec![0; SLOT_OFFSETS[1] as usize + SLOT_BYTES];
        for (turn, offset) in SLOT_OFFSETS.iter().enumerate() {
            let start = *offset as usize;
            bytes[start..start + SLOT_BYTES].copy_from_slice(&encode(turn as u64, synced));
        }
        files::atomic_write(&dir.join(NAME), &bytes)
    }

    /// Opens and locks the watermark of `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, StorageError> {
        let path = dir.join(NAME);
        let file = LockedFile::open(&path)?;
        let slots = SLOT_OFFSETS.into_iter().filter_map(|offset| {
            let mut bytes = [0; SLOT_BYTES];
            file.read_exact_at(&mut bytes, offset).ok()?;
            decode(&bytes)
        });
        let Some((turn, synced)) = slots.max() else {
            return Err(StorageError::log_damaged(
                &path,
                0,
                None,
                "neither copy of the watermark is readable",
            ));
        };
        Ok(Self { path, file, turn, synced })
    }

    /// How far the store was synced.
    pub(super) fn synced(&self) -> u64 {
        self.synced
    }

    /// Notes that the store is durable up to `synced`.
    pub(super) fn advance(&mut self, synced: u64) -> Result<(), StorageError> {
        self.turn += 1;
        self.synced = synced;
        let offset = SLOT_OFFSETS[(self.turn % 2) as usize];
        self.file
            .write_all_at(&encode(self.turn, synced), offset)
            .map_err(StorageError::io(&self.path, "write"))
    }

    /// Makes the note itself durable.
    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(StorageError::io(&self.path, "sync"))
    }
}

fn encode(turn: u64, synced: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    let mut out = &mut slot[..];
    out.put_slice(MAGIC);
    out.put_u64_le(turn);
    out.put_u64_le(synced);
    let crc = crc32fast::hash(&slot[..20]);
    slot[20..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(u64, u64)> {
    let mut fields = &slot[4..];
    let (turn, synced, crc) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u32_le());
    (slot.starts_with(MAGIC) && crc == crc32fast::hash(&slot[..20])).then_some((turn, synced))
}
