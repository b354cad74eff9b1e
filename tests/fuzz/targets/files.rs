//! Files of the stores, opened by the shipped code. Random bytes would all fail their checksums, so an input is a
//! recipe: records with checksums that hold, whatever they say, and then bytes of the file that are changed.

use std::fs;
use std::path::{Path, PathBuf};

use chronarch::storage::snapshot_file::{SnapshotDir, SnapshotId, SnapshotReader};
use chronarch::storage::{Identity, StorageError, Wal, WalOptions};
use futures::executor::block_on;

const OURS: Identity = Identity { cluster_id: [7; 16], node_id: 1 };
/// Records of a recipe.
const RECORDS: usize = 40;
/// Bytes that are changed.
const CHANGES: usize = 4;

/// Bytes, taken from the front; zeros when they are used up.
struct Recipe<'a>(&'a [u8]);

impl Recipe<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Mostly small, at times at an end of what there is.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => u64::MAX - 1,
            253 => 1 << 40,
            252 => 1 << 32,
            small => u64::from(small),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let count = usize::from(self.byte()).min(self.0.len());
        let (bytes, rest) = self.0.split_at(count);
        self.0 = rest;
        bytes.to_vec()
    }
}

/// A folder in memory, where there is one: nothing here asks whether bytes survive.
fn folder() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("chronarch-fuzz-").tempdir_in(parent).expect("a temporary folder")
}

/// A segment of the write-ahead log and its watermark: opened with what it says, or refused by name; opened again,
/// it says the same.
pub(crate) fn wal(bytes: &[u8]) {
    let mut recipe = Recipe(bytes);
    let dir = folder();
    let mut segment = segment_header();
    let (records, mark) = (usize::from(recipe.byte()) % RECORDS, recipe.byte());
    for place in 0..records {
        record(&mut segment, place, &mut recipe);
    }
    let synced = if mark == 255 { u64::MAX } else { segment.len() as u64 * u64::from(mark) / 200 };
    change(&mut segment, &mut recipe);
    fs::write(dir.path().join(format!("{:020}.wal", 0)), segment).expect("room for a segment");
    fs::write(dir.path().join("synced"), watermark(synced)).expect("room for a watermark");
    let Some(first) = content(dir.path()) else { return };
    assert_eq!(content(dir.path()), Some(first), "opened again, the log says something else");
}

/// The vote, and the entries by term and index.
type Content = (Option<Vec<u8>>, Vec<(u64, u64, Vec<u8>)>);

/// What a log holds; none if it is refused.
fn content(dir: &Path) -> Option<Content> {
    let options = WalOptions { segment_bytes: 4_096, ..WalOptions::new(OURS, false) };
    let (wal, opened) = match Wal::open(dir, options) {
        Ok(opened) => opened,
        Err(StorageError::Io { op, source, .. }) => panic!("{op}: {source}"),
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty());
            return None;
        }
    };
    let entries = block_on(wal.read(0..u64::MAX, usize::MAX)).expect("what was verified is read");
    block_on(wal.close()).expect("a log without changes closes");
    for pair in entries.windows(2) {
        assert_eq!(pair[0].id.index + 1, pair[1].id.index, "a hole in the log");
    }
    if let (Some(newest), Some(last)) = (entries.last(), opened.last) {
        assert_eq!(newest.id, last);
    }
    let entries = entries.into_iter().map(|it| (it.id.term, it.id.index, it.payload.to_vec())).collect();
    Some((opened.vote.map(|vote| vote.to_vec()), entries))
}

fn segment_header() -> Vec<u8> {
    let mut out = b"CHRONWAL".to_vec();
    out.extend(1_u32.to_le_bytes());
    out.extend(64_u32.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    out.extend(OURS.cluster_id);
    out.extend(OURS.node_id.to_le_bytes());
    out.extend([0; 12]);
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out
}

/// The first record is a checkpoint, or nothing would be read at all; it need not be a sound one.
fn record(segment: &mut Vec<u8>, place: usize, recipe: &mut Recipe<'_>) {
    const CHECKPOINT: u8 = 6;
    let kind = if place == 0 { CHECKPOINT } else { recipe.byte() % 8 };
    let (term, index, node, synced) = (recipe.number(), recipe.number(), recipe.number(), recipe.number());
    let payload = if kind == CHECKPOINT { checkpoint(recipe) } else { recipe.bytes() };
    let start = segment.len();
    segment.extend([0xC7, 1, kind, 0]);
    segment.extend(u32::try_from(payload.len()).expect("a short payload").to_le_bytes());
    for number in [term, index, node, synced] {
        segment.extend(number.to_le_bytes());
    }
    segment.extend(crc32fast::hash(&payload).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(start as u64).to_le_bytes());
    hasher.update(&segment[start..]);
    segment.extend(hasher.finalize().to_le_bytes());
    segment.extend(payload);
}

fn checkpoint(recipe: &mut Recipe<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let form = recipe.byte();
    for bit in 0..2 {
        out.push(form >> bit & 1);
        for _ in 0..3 {
            let number = if form >> bit & 1 == 1 { recipe.number() } else { 0 };
            out.extend(number.to_le_bytes());
        }
    }
    let first = if form & 4 == 4 { recipe.number() } else { 0 };
    out.extend(first.to_le_bytes());
    for bit in 3..5 {
        out.push(form >> bit & 1);
        let value = if form >> bit & 1 == 1 { recipe.bytes() } else { Vec::new() };
        out.extend(u32::try_from(value.len()).expect("a short value").to_le_bytes());
        out.extend(value);
    }
    out
}

fn change(file: &mut Vec<u8>, recipe: &mut Recipe<'_>) {
    for _ in 0..usize::from(recipe.byte()) % (CHANGES + 1) {
        let at = recipe.byte() as usize * 256 + recipe.byte() as usize;
        match recipe.byte() {
            0 => file.truncate(at.max(1)),
            bits => {
                let place = at % file.len();
                file[place] ^= bits;
            }
        }
    }
}

fn watermark(synced: u64) -> Vec<u8> {
    let mut file = vec![0; 4_096 + 24];
    for (turn, offset) in [(0_u64, 0), (1, 4_096)] {
        let mut slot = b"CHWM".to_vec();
        slot.extend(turn.to_le_bytes());
        slot.extend(synced.to_le_bytes());
        slot.extend(crc32fast::hash(&slot).to_le_bytes());
        file[offset..offset + slot.len()].copy_from_slice(&slot);
    }
    file
}

/// A snapshot file as a peer sends it, then changed: all of it verifies and is what was written, or it is refused.
pub(crate) fn snapshot_file(bytes: &[u8]) {
    let mut recipe = Recipe(bytes);
    let dir = folder();
    let snapshots = SnapshotDir::open(dir.path()).expect("a folder of snapshots");
    let id = SnapshotId { index: 1, term: 1 };
    let mut file = b"CHRONSNP".to_vec();
    file.extend(1_u32.to_le_bytes());
    let meta = recipe.bytes();
    let claimed = if recipe.byte() == 255 { u32::MAX } else { u32::try_from(meta.len()).expect("short") };
    file.extend(claimed.to_le_bytes());
    file.extend(&meta);
    file.extend(crc32fast::hash(&file).to_le_bytes());
    let mut content = Vec::new();
    for number in 0..u64::from(recipe.byte() % 4) {
        let block = recipe.bytes();
        let mut hasher = crc32fast::Hasher::new();
        let length = u32::try_from(block.len()).expect("a short block").to_le_bytes();
        [&number.to_le_bytes()[..], &length, &block].iter().for_each(|part| hasher.update(part));
        file.extend(length);
        file.extend(hasher.finalize().to_le_bytes());
        file.extend(&block);
        content.extend(block);
    }
    file.extend(0_u32.to_le_bytes());
    let mut footer = (content.len() as u64).to_le_bytes().to_vec();
    footer.extend(crc32fast::hash(&content).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&0_u32.to_le_bytes());
    hasher.update(&footer);
    footer.extend(hasher.finalize().to_le_bytes());
    file.extend(footer);
    let whole = file.clone();
    change(&mut file, &mut recipe);
    let path = snapshots.file(id);
    fs::write(&path, &file).expect("room for a snapshot");
    let verified = SnapshotReader::open(&path).and_then(SnapshotReader::verify);
    match verified {
        Ok(bytes) => assert!(bytes == content.len() as u64 || file != whole, "content is missing"),
        Err(StorageError::Io { op, source, .. }) => panic!("{op}: {source}"),
        Err(refusal) => drop(refusal.to_string()),
    }
    let newest = snapshots.newest(|_| Some(id)).expect("the folder is read");
    assert_eq!(newest.found.is_some(), newest.refused.is_empty());
}
