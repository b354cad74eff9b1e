//! Opening the log: every record of every segment is read and verified, then replayed into the index.
//!
//! A record that does not verify is a *torn tail* only if it can be one: it stands in the newest segment, at or
//! beyond the watermark, and no later record testifies that the log was durable beyond it. Then it was never
//! acknowledged, and is cut off. Everything else is *damage*: something acknowledged is gone, and the log is refused.
//!
//! What was read from a segment may have been in the page cache only, so the newest segment is synced again
//! before anybody is told that it is durable.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::format::{
    self, Checkpoint, Kind, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES, check_segment_header,
    encode_segment_header,
};
use super::index::Index;
use super::{Repair, WalOptions};
use crate::storage::error::StorageError;
use crate::storage::files;
use crate::storage::identity::Identity;
use crate::storage::mark::Mark;

const ENDING: &str = "wal";

/// What opening found.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    /// First position of each segment, oldest first.
    pub(super) bases: Vec<u64>,
    pub(super) active: File,
    pub(super) end: u64,
    pub(super) mark: Mark,
    pub(super) repair: Option<Repair>,
}

/// The file of the segment that starts at `base`.
pub(super) fn segment_path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.{ENDING}"))
}

/// Creates a segment with its checkpoint, complete and durable before it has its name. Returns it with its end.
pub(super) fn create_segment(
    dir: &Path,
    base: u64,
    identity: &Identity,
    checkpoint: &Checkpoint,
) -> Result<(File, u64), StorageError> {
    let path = segment_path(dir, base);
    let mut bytes = encode_segment_header(base, identity);
    Record::of(Kind::Checkpoint, checkpoint.encode()).encode(base + SEGMENT_HEADER_BYTES, base, &mut bytes);
    files::atomic_write(&path, &bytes)?;
    let file = OpenOptions::new().write(true).open(&path).map_err(StorageError::io(&path, "open"))?;
    Ok((file, base + bytes.len() as u64))
}

/// Opens the log in `dir`. See the module's essay for what is repaired and what is refused.
pub(super) fn recover(dir: &Path, options: &WalOptions) -> Result<Recovered, StorageError> {
    if options.create {
        files::create_dir(dir)?;
    } else if !dir.is_dir() {
        return Err(StorageError::log_damaged(dir, 0, None, "the folder of the log is gone"));
    }
    files::remove_leftovers(dir)?;
    let mut bases = list_segments(dir)?;
    prepare(dir, options, &mut bases)?;
    let mark = Mark::open(dir).map_err(StorageError::of_log)?;

    let mut replay = Replay { index: Index::default(), vote: None, committed: None };
    let mut end = bases.first().copied().unwrap_or_default();
    let mut repair = None;
    for (n, base) in bases.iter().copied().enumerate() {
        let path = segment_path(dir, base);
        if base != end {
            let reason = format!("the segment that holds positions {end} to {base} is missing");
            return Err(StorageError::log_damaged(&segment_path(dir, end), 0, replay.next_index(), reason));
        }
        let bytes = Bytes::from(fs::read(&path).map_err(StorageError::io(&path, "read"))?);
        check_segment_header(&path, &bytes, base, &options.identity)?;
        let scan =
            Scan { path: &path, base, bytes, next_base: bases.get(n + 1).copied(), synced: mark.synced() };
        (end, repair) = scan.run(&mut replay, n == 0)?;
    }
    if let Some(index) = replay.index.first_absent() {
        let oldest = segment_path(dir, bases[0]);
        return Err(StorageError::log_damaged(&oldest, 0, Some(index), "an older segment is missing"));
    }
    let active = open_active(dir, &bases, end, repair.is_some())?;
    let Replay { index, vote, committed } = replay;
    let mut recovered = Recovered { index, vote, committed, bases, active, end, mark, repair };
    recovered.mark.advance(end)?;
    recovered.mark.sync()?;
    Ok(recovered)
}

/// Sees to it that there is a segment and a watermark, or explains why there cannot be.
fn prepare(dir: &Path, options: &WalOptions, bases: &mut Vec<u64>) -> Result<(), StorageError> {
    match (bases.as_slice(), Mark::exists(dir)) {
        ([_, ..], true) => Ok(()),
        ([], false) if options.create => {
            let (_, end) = create_segment(dir, 0, &options.identity, &Checkpoint::default())?;
            bases.push(0);
            Mark::create(dir, end)
        }
        // The process ended between the two steps above: nothing can have been written yet.
        ([0], false) if is_untouched(&segment_path(dir, 0))? => Mark::create(dir, 0),
        ([_, ..], false) => {
            let file = segment_path(dir, bases[0]);
            Err(StorageError::log_damaged(&file, 0, None, "the file `synced` beside it is missing"))
        }
        ([], _) => Err(StorageError::log_damaged(dir, 0, None, "the folder holds no segment of the log")),
    }
}

fn is_untouched(path: &Path) -> Result<bool, StorageError> {
    let length = fs::metadata(path).map_err(StorageError::io(path, "read the size of"))?.len();
    let checkpoint = Checkpoint::default().encode().len() as u64;
    Ok(length == SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES as u64 + checkpoint)
}

fn list_segments(dir: &Path) -> Result<Vec<u64>, StorageError> {
    let mut bases = Vec::new();
    for path in files::list(dir)? {
        if path.extension().is_some_and(|ending| ending == ENDING)
            && let Some(base) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
        {
            bases.push(base);
        }
    }
    Ok(bases)
}

/// Opens the newest segment for writing, cut off at `end` if there was a torn tail, and durable.
fn open_active(dir: &Path, bases: &[u64], end: u64, torn: bool) -> Result<File, StorageError> {
    let base = bases.last().copied().unwrap_or_default();
    let path = segment_path(dir, base);
    let file = OpenOptions::new().write(true).open(&path).map_err(StorageError::io(&path, "open"))?;
    if torn {
        file.set_len(end - base).map_err(StorageError::io(&path, "truncate"))?;
    }
    file.sync_all().map_err(StorageError::io(&path, "sync"))?;
    files::fsync_dir(dir)?;
    Ok(file)
}

/// One segment, being verified.
struct Scan<'a> {
    path: &'a Path,
    base: u64,
    bytes: Bytes,
    next_base: Option<u64>,
    synced: u64,
}

impl Scan<'_> {
    /// Replays all records; returns where the good part ends and what has to be cut off behind it.
    fn run(&self, replay: &mut Replay, oldest: bool) -> Result<(u64, Option<Repair>), StorageError> {
        let length = self.bytes.len() as u64;
        if let Some(next) = self.next_base.filter(|next| *next != self.base + length) {
            let reason =
                format!("the segment has {length} bytes, its successor starts after {}", next - self.base);
            return Err(self.damaged(length.min(next - self.base), replay, reason));
        }
        let mut at = SEGMENT_HEADER_BYTES;
        while at < length {
            let position = self.base + at;
            let record = match format::decode(position, &self.bytes.slice(at as usize..)) {
                Ok((_, record)) => record,
                Err(reason) => return self.bad_record(at, replay, reason),
            };
            let stored_bytes = record.stored_bytes();
            replay
                .apply(record, position, oldest && at == SEGMENT_HEADER_BYTES)
                .map_err(|reason| self.damaged(at, replay, reason))?;
            at += stored_bytes;
        }
        if self.next_base.is_none() && self.base + length < self.synced {
            let reason = format!("the log ends here, but was synced up to byte {}", self.synced - self.base);
            return Err(self.damaged(length, replay, reason));
        }
        Ok((self.base + length, None))
    }

    fn bad_record(
        &self,
        at: u64,
        replay: &Replay,
        why: String,
    ) -> Result<(u64, Option<Repair>), StorageError> {
        let position = self.base + at;
        if let Some(found) = format::unknown_form(position, &self.bytes[at as usize..]) {
            let file = self.path.to_path_buf();
            return Err(StorageError::UnknownFormat { file, found, known: format::FORMAT });
        }
        if self.next_base.is_some() || position < self.synced {
            return Err(self.damaged(at, replay, why));
        }
        if let Some(witness) = self.find_witness(at) {
            let reason = format!("{why}, and the record at byte {witness} was written when this was durable");
            return Err(self.damaged(at, replay, reason));
        }
        let file = self.path.to_path_buf();
        let dropped_bytes = self.bytes.len() as u64 - at;
        Ok((position, Some(Repair { file, offset: at, dropped_bytes, reason: why })))
    }

    /// A record behind `at` that was written after `at` had been synced.
    fn find_witness(&self, at: u64) -> Option<u64> {
        let after = at as usize + 1..self.bytes.len();
        after.map(|offset| offset as u64).find(|offset| {
            let header = format::decode_header(self.base + offset, &self.bytes[*offset as usize..]);
            header.is_ok_and(|header| header.synced > self.base + at)
        })
    }

    fn damaged(&self, offset: u64, replay: &Replay, reason: String) -> StorageError {
        StorageError::log_damaged(self.path, offset, replay.next_index(), reason)
    }
}

/// What the records so far amount to.
struct Replay {
    index: Index,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
}

impl Replay {
    fn next_index(&self) -> Option<u64> {
        Some(self.index.last().map_or(0, |last| last.index + 1))
    }

    /// `starts` says that the record is the very first, whose checkpoint stands for all that was before it.
    fn apply(&mut self, record: Record, position: u64, starts: bool) -> Result<(), String> {
        if starts != (starts && record.kind == Kind::Checkpoint) {
            return Err("the log does not start with a checkpoint".into());
        }
        let stored_bytes = record.stored_bytes() as u32;
        match record.kind {
            Kind::Entry => {
                let check = self.index.check_next(record.id, self.index.last());
                check.map_err(|misfit| format!("entry {:?} where {} belongs", record.id, misfit.expected))?;
                self.index.push(record.id, position, stored_bytes, None);
            }
            Kind::Vote => self.vote = Some(record.payload),
            Kind::Committed => self.committed = Some(record.payload),
            Kind::Purge => {
                self.index.purge_through(record.id);
            }
            Kind::Truncate => {
                let check = self.index.check_truncation(record.id.index);
                check.map_err(|misfit| format!("truncation where {} belongs", misfit.expected))?;
                self.index.truncate_from(record.id.index);
            }
            Kind::Checkpoint => {
                let checkpoint = Checkpoint::decode(record.payload).ok_or("unreadable checkpoint")?;
                if self.index.last_is_nameless()
                    && let (Some(last), Some(named)) = (self.index.last(), checkpoint.last)
                    && last.index == named.index
                {
                    self.index.name_last(named);
                }
                if starts {
                    // Whatever the checkpoint says is allocated for, so it must be possible.
                    let live = checkpoint.live_entries();
                    if live > position / RECORD_HEADER_BYTES as u64 {
                        return Err(format!("the checkpoint names {live} entries before byte {position}"));
                    }
                    self.index = Index::at_checkpoint(&checkpoint);
                } else if (checkpoint.purged, checkpoint.last) != (self.index.purged(), self.index.last()) {
                    return Err(format!("checkpoint {checkpoint:?} contradicts the records before it"));
                }
                (self.vote, self.committed) = (checkpoint.vote, checkpoint.committed);
            }
        }
        Ok(())
    }
}
