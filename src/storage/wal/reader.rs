//! The thread that reads old entries back from disk, so that no caller ever waits for a disk on its own thread.
//!
//! Each read verifies the checksum, the index and the term again: a disk may go bad long after the log was opened.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::WalEntry;
use super::format::{self, EntryId, Kind};
use super::recovery::segment_path;
use crate::storage::error::StorageError;

/// Reads waiting for the reader; a caller beyond that waits for room.
pub(super) const READ_QUEUE_MAX: usize = 256;
/// Segments that are kept open for reading.
const OPEN_FILES_MAX: usize = 8;

/// Where an entry stands on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Location {
    pub(super) base: u64,
    pub(super) position: u64,
    pub(super) stored_bytes: u32,
    pub(super) id: EntryId,
}

/// What a read came to.
pub(super) enum ReadResult {
    Entries(Vec<WalEntry>),
    /// A segment was deleted meanwhile, because its entries were purged.
    Vanished,
}

/// A request to read some entries.
pub(super) struct ReadRequest {
    pub(super) locations: Vec<Location>,
    pub(super) reply: oneshot::Sender<Result<ReadResult, StorageError>>,
}

/// Reads from the segments of one log.
pub(super) struct Reader {
    dir: PathBuf,
    open: VecDeque<(u64, File)>,
}

/// Who reads.
pub(super) enum Reading {
    /// A thread of its own, which is sent requests.
    Thread(mpsc::Sender<ReadRequest>),
    /// The caller, in a simulation.
    Turn(Mutex<Reader>),
}

impl Reading {
    pub(super) async fn read(&self, locations: Vec<Location>) -> Result<ReadResult, StorageError> {
        match self {
            Self::Thread(requests) => {
                let (reply, answer) = oneshot::channel();
                let request = ReadRequest { locations, reply };
                requests.send(request).await.map_err(|_| StorageError::Closed)?;
                answer.await.map_err(|_| StorageError::Closed)?
            }
            Self::Turn(reader) => reader.lock().unwrap_or_else(PoisonError::into_inner).read(&locations),
        }
    }
}

impl Reader {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, open: VecDeque::new() }
    }

    /// Serves requests until all senders are gone.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<ReadRequest>) {
        while let Some(request) = requests.blocking_recv() {
            // The caller may have gone away; then nobody needs the answer.
            let _ = request.reply.send(self.read(&request.locations));
        }
    }

    fn read(&mut self, locations: &[Location]) -> Result<ReadResult, StorageError> {
        let mut entries = Vec::with_capacity(locations.len());
        let mut rest = locations;
        while let Some(first) = rest.first() {
            // Entries that stand side by side are read in one go.
            let (mut run, mut end) = (0, first.position);
            for next in rest.iter().take_while(|next| next.base == first.base) {
                if next.position != end {
                    break;
                }
                (run, end) = (run + 1, end + u64::from(next.stored_bytes));
            }
            let (now, later) = rest.split_at(run);
            let Some(bytes) = self.read_bytes(first, (end - first.position) as usize)? else {
                return Ok(ReadResult::Vanished);
            };
            for location in now {
                let start = (location.position - first.position) as usize;
                entries.push(self.decode(location, &bytes.slice(start..))?);
            }
            rest = later;
        }
        Ok(ReadResult::Entries(entries))
    }

    fn decode(&self, location: &Location, bytes: &Bytes) -> Result<WalEntry, StorageError> {
        let reason = match format::decode(location.position, bytes) {
            Ok((_, record)) if record.kind == Kind::Entry && record.id == location.id => {
                return Ok(WalEntry { id: record.id, payload: record.payload });
            }
            Ok((_, record)) => format!("holds {:?} where {:?} was written", record.id, location.id),
            Err(reason) => reason,
        };
        let path = segment_path(&self.dir, location.base);
        let offset = location.position - location.base;
        Err(StorageError::log_damaged(&path, offset, Some(location.id.index), reason))
    }

    fn read_bytes(&mut self, at: &Location, length: usize) -> Result<Option<Bytes>, StorageError> {
        let path = segment_path(&self.dir, at.base);
        if !self.open.iter().any(|(base, _)| *base == at.base) {
            let file = match File::open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                other => other.map_err(StorageError::io(&path, "open"))?,
            };
            if self.open.len() == OPEN_FILES_MAX {
                self.open.pop_front();
            }
            self.open.push_back((at.base, file));
        }
        let mut bytes = vec![0; length];
        let offset = at.position - at.base;
        for (_, file) in self.open.iter().filter(|(base, _)| *base == at.base) {
            match file.read_exact_at(&mut bytes, offset) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    let reason = "the segment ends before this entry does";
                    return Err(StorageError::log_damaged(&path, offset, Some(at.id.index), reason));
                }
                other => other.map_err(StorageError::io(&path, "read"))?,
            }
        }
        Ok(Some(bytes.into()))
    }
}
