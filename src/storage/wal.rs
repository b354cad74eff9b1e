//! The write-ahead log: the Raft log and the vote, in segment files, synced before anything is promised.
//!
//! # Words
//! An *entry* is a payload with an [`EntryId`]. A *record* is what is written: an entry, a vote, a truncation, a
//! purge. Records stand one behind the other in *segments* of 64 MiB; a record's *position* counts all bytes of
//! the log since its creation. The *watermark* is the position up to which the log has been synced. A *group* is
//! what is written and synced in one go.
//!
//! # Who calls it
//! The log store of `raft` alone. Calls take effect in the order in which they are made: an entry can be read,
//! a truncation and a purge are seen, as soon as the call returns; they are durable in the same order, later.
//! No call waits for a disk on the caller's thread, but for [`Wal::open`].
//!
//! # Invariants
//! - Nobody is told "durable" before an `fdatasync` that began after the write has returned without error.
//! - Votes, entries, truncations and purges share one queue, one writer and one file.
//! - What was acknowledged is there after reopening, or opening is refused ([`StorageError::LogDamaged`]). What
//!   was never acknowledged may be there or not, but never an entry without all those before it.
//! - After any error the log is dead: each call returns that error. The process has to end.
//! - The queue, a group, a payload, a read and the memory for the newest entries all have a limit with a name.
//!
//! # What it deliberately does not do
//! It does not retry, repair damage, or reopen. It does not interpret payloads, votes or the commit mark. It does
//! not reuse or shrink files: a segment is deleted as a whole once all its entries are purged.

mod format;
mod index;
mod queue;
mod reader;
mod recovery;
mod writer;

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::format::{Kind, Record};
use self::index::Misfit;
use self::queue::{Shared, State};
use self::reader::{Location, READ_QUEUE_MAX, ReadResult, Reader, Reading};
use self::writer::Writer;
use super::error::StorageError;
use super::identity::Identity;
use crate::threads;

pub use self::format::EntryId;
pub use self::queue::GROUP_BYTES_MAX;

/// Size from which on a new segment is begun.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Payloads of the newest entries that are kept in memory.
pub const TAIL_BYTES: usize = 64 << 20;
/// Bytes that may be queued but not yet written; a call beyond that waits.
pub const QUEUE_BYTES_MAX: usize = 32 << 20;
/// What each queued record counts at least, so that small ones are limited in number as well.
pub const QUEUE_RECORD_BYTES_MIN: usize = 1 << 10;
/// Largest payload of an entry.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Largest vote, and largest commit mark.
pub const VOTE_BYTES_MAX: usize = 4 << 10;
/// Most that one read returns, whatever it asks for (but always one entry).
pub const READ_BYTES_MAX: usize = 64 << 20;
/// Most entries that one read returns.
pub const READ_ENTRIES_MAX: u64 = 16_384;

/// Called once an append is durable, or has failed. It runs on the writer's thread: it must only pass on the word.
pub type Completion = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalEntry {
    /// Its name and place.
    pub id: EntryId,
    /// What it says; opaque here. At most [`ENTRY_BYTES_MAX`].
    pub payload: Bytes,
}

/// How to open a log.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// Whose log it is; another one's is refused.
    pub identity: Identity,
    /// Whether a folder without a log gets a new one. Without it, a missing log is damage.
    pub create: bool,
    /// See [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// See [`TAIL_BYTES`].
    pub tail_bytes: usize,
    /// See [`QUEUE_BYTES_MAX`].
    pub queue_bytes: usize,
}

impl WalOptions {
    /// The usual sizes.
    pub fn new(identity: Identity, create: bool) -> Self {
        Self {
            identity,
            create,
            segment_bytes: SEGMENT_BYTES,
            tail_bytes: TAIL_BYTES,
            queue_bytes: QUEUE_BYTES_MAX,
        }
    }
}

/// A torn tail that was cut off when the log was opened: bytes that were never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The segment.
    pub file: PathBuf,
    /// Where it ends now.
    pub offset: u64,
    /// How much was cut off.
    pub dropped_bytes: u64,
    /// What was wrong with it.
    pub reason: String,
}

/// What a log held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The torn tail that was cut off, if there was one: worth a line in the node's log.
    pub repair: Option<Repair>,
    /// The last vote.
    pub vote: Option<Bytes>,
    /// The last commit mark that reached the disk. It may be behind what was set last, and may name an entry that
    /// a crash has cut off: clamp it.
    pub committed: Option<Bytes>,
    /// The newest purged entry.
    pub purged: Option<EntryId>,
    /// The last entry, or the newest purged one when no entry is left.
    pub last: Option<EntryId>,
}

/// Counts since the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalStats {
    /// Groups written.
    pub groups: u64,
    /// `fdatasync` calls made for them.
    pub syncs: u64,
    /// Records written.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// A handle on an open log. Dropping it lets the writer finish what is queued; [`Wal::close`] waits for that.
pub struct Wal {
    shared: Arc<Shared>,
    reading: Reading,
    room: u32,
}

impl Wal {
    /// Opens the log in `dir`, verifying every byte of it, and starts its writer and its reader thread.
    /// Blocks; about one second per GiB.
    ///
    /// # Errors
    /// [`StorageError::LogDamaged`] when something acknowledged is missing or altered, [`StorageError::Locked`],
    /// [`StorageError::UnknownFormat`], [`StorageError::OtherCluster`], [`StorageError::OtherNode`], or
    /// [`StorageError::Io`].
    pub fn open(dir: &Path, options: WalOptions) -> Result<(Self, Opened), StorageError> {
        let recovered = recovery::recover(dir, &options)?;
        let opened = Opened {
            repair: recovered.repair,
            vote: recovered.vote.clone(),
            committed: recovered.committed.clone(),
            purged: recovered.index.purged(),
            last: recovered.index.last(),
        };
        let mut state = State::new(recovered.index, recovered.bases, recovered.end, options.segment_bytes);
        (state.vote, state.committed) = (recovered.vote, recovered.committed);
        state.enqueue_forget();
        let base = state.active_base();
        let room = (options.queue_bytes / QUEUE_RECORD_BYTES_MIN).max(1);
        let shared = Arc::new(Shared::new(state, room, options.tail_bytes));
        let writer = Writer {
            dir: dir.to_path_buf(),
            identity: options.identity,
            shared: Arc::clone(&shared),
            active: recovered.active,
            base,
            written: recovered.end,
            synced: recovered.end,
            mark: recovered.mark,
            doomed: VecDeque::new(),
            buffer: Vec::new(),
        };
        let reader = Reader::new(dir.to_path_buf());
        let reading = match threads::turns() {
            None => {
                let (reads, requests) = mpsc::channel(READ_QUEUE_MAX);
                let threads = [
                    thread::Builder::new().name("wal-writer".into()).spawn(move || writer.run()),
                    thread::Builder::new().name("wal-reader".into()).spawn(move || reader.run(requests)),
                ];
                for thread in threads {
                    thread.map_err(StorageError::io(dir, "start a thread for"))?;
                }
                Reading::Thread(reads)
            }
            Some(turns) => {
                tokio::spawn(writer.run_in_turn(turns));
                Reading::Turn(Mutex::new(reader))
            }
        };
        Ok((Self { shared, reading, room: room.min(u32::MAX as usize) as u32 }, opened))
    }

    /// Adds entries behind the last one. When this returns they can be read; `done` is called when they are
    /// durable. Waits while the queue is full. If it returns an error, nothing was added and `done` is not called.
    ///
    /// # Errors
    /// [`StorageError::OutOfOrder`] unless the indexes follow the last entry's without a gap and the terms never
    /// fall (an empty log that was never purged may start at any index); [`StorageError::TooLarge`] for a payload
    /// above [`ENTRY_BYTES_MAX`]; otherwise the error that ended the log.
    pub async fn append(&self, entries: Vec<WalEntry>, done: Completion) -> Result<(), StorageError> {
        let mut bytes = 0;
        for entry in &entries {
            check_size("log entry", entry.payload.len(), ENTRY_BYTES_MAX)?;
            bytes += entry.payload.len() + QUEUE_RECORD_BYTES_MIN;
        }
        let room = self.take_room(bytes).await?;
        let mut state = self.shared.lock();
        if let Err(error) = state.check_open().and_then(|()| check_order(&state, &entries)) {
            drop(state);
            self.shared.room.add_permits(room as usize);
            return Err(error);
        }
        for WalEntry { id, payload } in entries {
            let record = Record { kind: Kind::Entry, id, payload: payload.clone() };
            let stored_bytes = record.stored_bytes() as u32;
            let position = state.enqueue(record);
            state.index.push(id, position, stored_bytes, Some(payload));
        }
        state.enqueue_done(Some(done), room);
        drop(state);
        self.shared.ring();
        Ok(())
    }

    /// Saves the vote; returns when it is durable, and with it everything that was queued before.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] above [`VOTE_BYTES_MAX`]; otherwise the error that ended the log.
    pub async fn save_vote(&self, vote: Bytes) -> Result<(), StorageError> {
        check_size("vote", vote.len(), VOTE_BYTES_MAX)?;
        let durable = self.submit(|state| {
            state.enqueue(Record::of(Kind::Vote, vote.clone()));
            state.vote = Some(vote);
            Ok(())
        });
        durable.await?.wait().await
    }

    /// Returns when all that was queued before is durable.
    ///
    /// # Errors
    /// The error that ended the log.
    pub async fn barrier(&self) -> Result<(), StorageError> {
        self.submit(|_| Ok(())).await?.wait().await
    }

    /// Drops all entries behind index `keep`, or all of them for `None`. Returns at once; appends that follow are
    /// acknowledged only when the truncation is durable as well.
    ///
    /// # Errors
    /// [`StorageError::OutOfOrder`] for an index that is purged; otherwise the error that ended the log.
    pub async fn truncate_after(&self, keep: Option<u64>) -> Result<(), StorageError> {
        let from = keep.map_or(0, |keep| keep.saturating_add(1));
        let queued = self.submit(|state| {
            let from = if keep.is_none() { state.index.live().start } else { from };
            state.index.check_truncation(from).map_err(|misfit| out_of_order("truncation", from, misfit))?;
            if from < state.index.live().end {
                let id = EntryId { term: 0, node: 0, index: from };
                state.enqueue(Record { kind: Kind::Truncate, id, payload: Bytes::new() });
                state.index.truncate_from(from);
            }
            Ok(())
        });
        queued.await.map(drop)
    }

    /// Forgets all entries up to and with `id`. An `id` behind the last entry, as after the installation of a
    /// snapshot, empties the log and moves its end there. Returns at once; segments are deleted in between groups.
    /// What is purged already stays so: not an error.
    ///
    /// # Errors
    /// The error that ended the log.
    pub async fn purge_through(&self, id: EntryId) -> Result<(), StorageError> {
        let queued = self.submit(|state| {
            if state.index.purged().is_none_or(|purged| purged.index < id.index) {
                state.enqueue(Record { kind: Kind::Purge, id, payload: Bytes::new() });
                state.index.purge_through(id);
                state.enqueue_forget();
            }
            Ok(())
        });
        queued.await.map(drop)
    }

    /// Notes how far the log is committed. A hint: it is written soon, but nothing waits for it.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] above [`VOTE_BYTES_MAX`]; otherwise the error that ended the log.
    pub fn save_committed(&self, committed: Bytes) -> Result<(), StorageError> {
        check_size("commit mark", committed.len(), VOTE_BYTES_MAX)?;
        let mut state = self.shared.lock();
        state.check_open()?;
        state.set_committed(committed);
        drop(state);
        self.shared.ring();
        Ok(())
    }

    /// Returns the entries in `range` that the log holds, in order and without a gap, at most `max_bytes` (and
    /// [`READ_BYTES_MAX`]) of payload and [`READ_ENTRIES_MAX`], but at least one if there is one. The newest come from memory, older ones from disk.
    ///
    /// # Errors
    /// [`StorageError::LogDamaged`] or [`StorageError::Io`], which end the log; or the error that ended it.
    pub async fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<WalEntry>, StorageError> {
        loop {
            let (locations, newest) = self.plan_read(&range, max_bytes.min(READ_BYTES_MAX))?;
            if locations.is_empty() {
                return Ok(newest);
            }
            match self.reading.read(locations).await {
                Ok(ReadResult::Entries(mut entries)) => {
                    entries.extend(newest);
                    return Ok(entries);
                }
                // The plan was made before a purge: the next one knows better.
                Ok(ReadResult::Vanished) => {}
                Err(error) => {
                    self.shared.fail(&error);
                    return Err(error);
                }
            }
        }
    }

    /// The term of the entry at `index`, or of the newest purged one.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.id_at(index).map(|id| id.term)
    }

    /// The id of the entry at `index`, or of the newest purged one.
    pub fn id_at(&self, index: u64) -> Option<EntryId> {
        self.shared.lock().index.id_at(index)
    }

    /// The newest purged entry, and the last entry (or the newest purged one when no entry is left).
    pub fn bounds(&self) -> (Option<EntryId>, Option<EntryId>) {
        let state = self.shared.lock();
        (state.index.purged(), state.index.last())
    }

    /// The vote that was saved last, durable or not.
    pub fn vote(&self) -> Option<Bytes> {
        self.shared.lock().vote.clone()
    }

    /// The commit mark that was set last.
    pub fn committed(&self) -> Option<Bytes> {
        self.shared.lock().committed.clone()
    }

    /// Bytes from the start of the oldest segment to the end of the newest: what a snapshot and a purge can free.
    pub fn size_bytes(&self) -> u64 {
        let state = self.shared.lock();
        state.end - state.bases.front().copied().unwrap_or_default()
    }

    /// Counts since the log was opened.
    pub fn stats(&self) -> WalStats {
        let counts = &self.shared.counts;
        WalStats {
            groups: counts.groups.load(Ordering::Relaxed),
            syncs: counts.syncs.load(Ordering::Relaxed),
            records: counts.records.load(Ordering::Relaxed),
            bytes: counts.bytes.load(Ordering::Relaxed),
        }
    }

    /// Writes and syncs what is queued and gives the folder back. Later calls return [`StorageError::Closed`].
    ///
    /// # Errors
    /// The error that ended the log.
    pub async fn close(&self) -> Result<(), StorageError> {
        let (sender, closed) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            state.check_open()?;
            state.closing = true;
            state.on_closed.push(sender);
        }
        self.shared.ring();
        closed.await.map_err(|_| StorageError::Closed)?
    }

    /// Waits for room in the queue, to be put into an item of the queue, or given back.
    async fn take_room(&self, bytes: usize) -> Result<u32, StorageError> {
        // What is larger than the queue gets all of it to itself.
        let room = u32::try_from(bytes / QUEUE_RECORD_BYTES_MIN).unwrap_or(u32::MAX).clamp(1, self.room);
        match self.shared.room.acquire_many(room).await {
            Ok(permits) => permits.forget(),
            Err(_) => return Err(self.shared.lock().check_open().err().unwrap_or(StorageError::Closed)),
        }
        Ok(room)
    }

    /// Changes the state and queues what belongs to it, in one step.
    async fn submit(
        &self,
        change: impl FnOnce(&mut State) -> Result<(), StorageError>,
    ) -> Result<Durable, StorageError> {
        let room = self.take_room(QUEUE_RECORD_BYTES_MIN).await?;
        let (sender, durable) = oneshot::channel();
        let mut state = self.shared.lock();
        let result = state.check_open().and_then(|()| change(&mut state));
        if result.is_ok() {
            // The caller may have stopped waiting.
            let done: Completion = Box::new(move |result| drop(sender.send(result)));
            state.enqueue_done(Some(done), room);
        } else {
            self.shared.room.add_permits(room as usize);
        }
        drop(state);
        self.shared.ring();
        result.map(|()| Durable(durable))
    }

    /// Where the wanted entries are: first those on disk, then those in memory.
    fn plan_read(
        &self,
        range: &Range<u64>,
        max_bytes: usize,
    ) -> Result<(Vec<Location>, Vec<WalEntry>), StorageError> {
        let state = self.shared.lock();
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let live = state.index.live();
        let (mut locations, mut newest, mut bytes) = (Vec::new(), Vec::new(), 0);
        let start = range.start.max(live.start);
        for index in start..range.end.min(live.end).min(start.saturating_add(READ_ENTRIES_MAX)) {
            let (Some(slot), Some(id)) = (state.index.slot(index), state.index.id_at(index)) else { break };
            bytes += slot.stored_bytes as usize - format::RECORD_HEADER_BYTES;
            if bytes > max_bytes && !(locations.is_empty() && newest.is_empty()) {
                break;
            }
            if let Some(payload) = state.index.payload(index) {
                newest.push(WalEntry { id, payload: payload.clone() });
                continue;
            }
            let segment = state.bases.partition_point(|base| *base <= slot.position);
            let base = segment.checked_sub(1).and_then(|n| state.bases.get(n)).copied().unwrap_or_default();
            let (position, stored_bytes) = (slot.position, slot.stored_bytes);
            locations.push(Location { base, position, stored_bytes, id });
        }
        Ok((locations, newest))
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.ring();
    }
}

/// Something queued that will be durable.
struct Durable(oneshot::Receiver<Result<(), StorageError>>);

impl Durable {
    async fn wait(self) -> Result<(), StorageError> {
        self.0.await.map_err(|_| StorageError::Closed)?
    }
}

fn check_size(what: &'static str, bytes: usize, limit: usize) -> Result<(), StorageError> {
    if bytes > limit {
        return Err(StorageError::TooLarge { what, bytes: bytes as u64, limit: limit as u64 });
    }
    Ok(())
}

fn check_order(state: &State, entries: &[WalEntry]) -> Result<(), StorageError> {
    let mut last = state.index.last();
    for entry in entries {
        let check = state.index.check_next(entry.id, last);
        check.map_err(|misfit| out_of_order("append", entry.id.index, misfit))?;
        last = Some(entry.id);
    }
    Ok(())
}

fn out_of_order(op: &'static str, found: u64, misfit: Misfit) -> StorageError {
    StorageError::OutOfOrder { op, found, expected: misfit.expected }
}
