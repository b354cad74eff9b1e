//! The log as the consensus library sees it, over the write-ahead log of `storage`.
//!
//! # Invariants
//! - An append is reported as flushed when its group's `fdatasync` has returned, never before. Votes go through the
//!   same queue, so that no vote overtakes an entry.
//! - `committed` as read back never lies behind the last entry: a follower applies before its own sync, so after a
//!   crash the mark may name entries that are gone; the library would refuse to start.
//! - Each entry is decoded once in a node's life: the newest stay in memory ([`TAIL_BYTES_MAX`]) and serve apply and
//!   replication alike; older ones come from disk.
//! - Reads are capped ([`READ_BYTES_MAX`]) but never empty where there is an entry.
//! - The first error of the log goes to the [`Verdict`], for the library alone would only stop.
//!
//! What it does not do: delete or copy files, or wait for a disk on the caller's task; that is `storage`'s.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt, TryStreamExt};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use prost::bytes::Bytes;

use super::codec::{self, CodecError};
use super::fatal::{FatalError, Verdict};
use super::levels::check_entry;
use super::types::{LogId, RaftEntry, TypeConfig, Vote, log_id};
use crate::state::level::Levels;
use crate::storage::StorageError;
use crate::storage::wal::{EntryId, Wal, WalEntry};

/// Most that one read for replication or apply returns, in encoded bytes.
pub(super) const READ_BYTES_MAX: usize = 4 << 20;
/// Decoded entries in memory, by their encoded size.
pub(super) const TAIL_BYTES_MAX: usize = 32 << 20;
/// What an entry costs in memory besides its encoding.
const TAIL_ENTRY_BYTES: usize = 256;
/// What an entry that raises the level takes at most: it is proposed alone.
const RAISE_BYTES_MAX: usize = 128;
/// Encoded payloads that the log below keeps as well: only what a slow disk may still have to take.
pub(super) const WAL_TAIL_BYTES: usize = 4 << 20;

/// The log; a clone is another handle on the same one.
#[derive(Clone)]
pub(super) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    wal: Wal,
    tail: Mutex<Tail>,
    verdict: Verdict,
}

impl LogStore {
    /// A log store over an open log.
    pub(super) fn new(wal: Wal, verdict: Verdict) -> Self {
        Self { shared: Arc::new(Shared { wal, tail: Mutex::default(), verdict }) }
    }

    /// Writes and syncs what is queued and gives the folder back.
    pub(super) async fn close(&self) -> Result<(), StorageError> {
        self.shared.wal.close().await
    }

    /// Resolves with the error that ended the log, whoever met it.
    pub(super) fn failed(&self) -> impl Future<Output = StorageError> + Send + use<> {
        self.shared.wal.failed()
    }

    /// Bytes on disk.
    pub(super) fn size_bytes(&self) -> u64 {
        self.shared.wal.size_bytes()
    }

    fn wal(&self) -> &Wal {
        &self.shared.wal
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.shared.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn storage(&self, error: StorageError) -> io::Error {
        failed(&self.shared.verdict, error.into())
    }

    fn undecodable(&self, what: &'static str, error: CodecError) -> io::Error {
        failed(&self.shared.verdict, FatalError::undecodable(what, error))
    }

    fn decode<T>(
        &self,
        what: &'static str,
        stored: Option<Bytes>,
        decode: impl FnOnce(Bytes) -> Result<T, CodecError>,
    ) -> io::Result<Option<T>> {
        stored.map(|bytes| decode(bytes).map_err(|error| self.undecodable(what, error))).transpose()
    }

    /// The first index behind what is purged; `None` while nothing was ever in the log.
    pub(super) fn first_index(&self) -> Option<u64> {
        match self.wal().bounds() {
            (Some(purged), _) => Some(purged.index.saturating_add(1)),
            (None, _) => self.wal().id_at(0).map(|id| id.index),
        }
    }

    /// The entries of `range` that the log holds, up to [`READ_BYTES_MAX`] but one at least.
    pub(super) async fn read_some(&self, range: Range<u64>) -> io::Result<Vec<RaftEntry>> {
        let on_disk = match self.tail().read(range.clone()) {
            TailRead::Entries(entries) => return Ok(entries),
            TailRead::OnDisk(range) => range,
        };
        let behind = on_disk.end..range.end;
        let stored = self.wal().read(on_disk, READ_BYTES_MAX).await.map_err(|error| self.storage(error))?;
        let decode = |entry: WalEntry| {
            codec::load_entry(entry.payload).map_err(|error| self.undecodable("a log entry", error))
        };
        if stored.is_empty() && !behind.is_empty() {
            // The log begins where the tail does: nothing before it was left, or ever there.
            return match self.tail().read(behind) {
                TailRead::Entries(entries) => Ok(entries),
                TailRead::OnDisk(_) => Ok(Vec::new()),
            };
        }
        stored.into_iter().map(decode).collect()
    }

    /// Looks for an entry from index `from` on that raises the cluster's level above `levels`, before anything else is
    /// read: the library begins at the end of the log, with entries that may not decode here.
    pub(super) async fn check_levels(&self, from: u64, levels: Levels) -> Result<(), FatalError> {
        let Some(end) = self.wal().bounds().1.map(|last| last.index.saturating_add(1)) else { return Ok(()) };
        let mut next = from.max(self.first_index().unwrap_or(from));
        while next < end {
            let stored = self.wal().read(next..end, READ_BYTES_MAX).await?;
            let Some(last) = stored.last() else { return Ok(()) };
            next = last.id.index.saturating_add(1);
            for entry in stored.into_iter().filter(|entry| entry.payload.len() <= RAISE_BYTES_MAX) {
                // Others that do not decode are met, and named, when it is their turn.
                let Ok(entry) = codec::load_entry(entry.payload) else { continue };
                check_entry(&entry, levels).map_err(|error| FatalError::undecodable("a log entry", error))?;
            }
        }
        Ok(())
    }

    /// All entries of `range` that the log holds, read piece by piece.
    fn stream(&self, range: Range<u64>) -> impl Stream<Item = io::Result<RaftEntry>> + Send + use<> {
        let store = self.clone();
        futures::stream::try_unfold(range, move |range| {
            let store = store.clone();
            async move {
                if range.is_empty() {
                    return Ok::<_, io::Error>(None);
                }
                let entries = store.read_some(range.clone()).await?;
                let Some(last) = entries.last() else {
                    return Ok(None);
                };
                let rest = last.log_id.index + 1..range.end;
                Ok(Some((futures::stream::iter(entries).map(Ok), rest)))
            }
        })
        .try_flatten()
    }
}

fn failed(verdict: &Verdict, error: FatalError) -> io::Error {
    let told = io::Error::other(error.clone());
    verdict.reach(error);
    told
}

fn entry_id(id: LogId) -> EntryId {
    EntryId { term: id.committed_leader_id().term, node: 0, index: id.index }
}

fn from_entry_id(id: EntryId) -> LogId {
    log_id(id.term, id.index)
}

fn indexes(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<RaftEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.stream(indexes(&range)).try_collect().await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<RaftEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.stream(indexes(&range))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.decode("the vote", self.wal().vote(), codec::load_vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        self.read_some(start..end).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let (purged, last) = self.wal().bounds();
        Ok(LogState { last_purged_log_id: purged.map(from_entry_id), last_log_id: last.map(from_entry_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.wal().save_vote(codec::store_vote(vote)).await.map_err(|error| self.storage(error))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.wal().save_committed(codec::store_log_id(committed)).map_err(|error| self.storage(error))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let stored = self.wal().committed();
        let committed = self.decode("the commit mark", stored, codec::load_log_id)?.flatten();
        let (_, last) = self.wal().bounds();
        Ok(committed.min(last.map(from_entry_id)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        let stored = entries
            .iter()
            .map(|entry| WalEntry { id: entry_id(entry.log_id), payload: codec::store_entry(entry) });
        let stored = stored.collect();
        let verdict = self.shared.verdict.clone();
        let done = move |result: Result<(), StorageError>| {
            callback.io_completed(result.map_err(|error| failed(&verdict, error.into())));
        };
        let appended = self.wal().append(stored, Box::new(done)).await;
        appended.map_err(|error| self.storage(error))?;
        self.tail().push(entries);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let keep = last_log_id.map(|id| id.index);
        self.tail().truncate_from(keep.map_or(0, |keep| keep + 1));
        self.wal().truncate_after(keep).await.map_err(|error| self.storage(error))
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.tail().purge_through(log_id.index);
        self.wal().purge_through(entry_id(log_id)).await.map_err(|error| self.storage(error))
    }
}

/// The newest entries, decoded: without a gap and up to the end of the log.
#[derive(Default)]
struct Tail {
    entries: VecDeque<RaftEntry>,
    bytes: usize,
}

/// Where the start of a range is to be found.
enum TailRead {
    Entries(Vec<RaftEntry>),
    OnDisk(Range<u64>),
}

impl Tail {
    fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    fn cost(entry: &RaftEntry) -> usize {
        let encoded = match &entry.payload {
            EntryPayload::Normal(logged) => logged.encoded().len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        };
        TAIL_ENTRY_BYTES + encoded
    }

    fn push(&mut self, entries: Vec<RaftEntry>) {
        for entry in entries {
            if self.entries.back().is_some_and(|last| last.log_id.index + 1 != entry.log_id.index) {
                (self.entries, self.bytes) = (VecDeque::new(), 0);
            }
            self.bytes += Self::cost(&entry);
            self.entries.push_back(entry);
        }
        while self.bytes > TAIL_BYTES_MAX && self.drop_first() {}
    }

    fn drop_first(&mut self) -> bool {
        let first = self.entries.pop_front();
        self.bytes -= first.as_ref().map_or(0, Self::cost);
        first.is_some()
    }

    fn truncate_from(&mut self, from: u64) {
        while self.entries.back().is_some_and(|last| last.log_id.index >= from) {
            self.bytes -= self.entries.pop_back().as_ref().map_or(0, Self::cost);
        }
    }

    fn purge_through(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) && self.drop_first() {}
    }

    fn read(&self, range: Range<u64>) -> TailRead {
        let Some(first) = self.first().filter(|first| *first <= range.start) else {
            let end = self.first().map_or(range.end, |first| first.min(range.end));
            return TailRead::OnDisk(range.start..end);
        };
        let mut bytes = 0;
        let wanted = self.entries.iter().skip((range.start - first) as usize);
        let entries = wanted.take_while(|entry| {
            let fits = bytes == 0 || bytes + Self::cost(entry) <= READ_BYTES_MAX;
            bytes += Self::cost(entry);
            fits && entry.log_id.index < range.end
        });
        let entries: Vec<RaftEntry> = entries.cloned().collect();
        // Behind the tail: the log below has the last word on what there is.
        if entries.is_empty() { TailRead::OnDisk(range) } else { TailRead::Entries(entries) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{LoggedEntry, Payload};
    use crate::state::time::Timestamp;
    use crate::state::{Command, Entry};

    fn blank(index: u64) -> RaftEntry {
        RaftEntry { log_id: log_id(1, index), payload: Payload::Blank }
    }

    fn indexes_of(read: TailRead) -> Result<Vec<u64>, Range<u64>> {
        match read {
            TailRead::Entries(entries) => Ok(entries.iter().map(|entry| entry.log_id.index).collect()),
            TailRead::OnDisk(range) => Err(range),
        }
    }

    #[test]
    fn tail_serves_what_it_has_and_names_what_is_on_disk() {
        let mut tail = Tail::default();
        assert_eq!(indexes_of(tail.read(0..9)), Err(0..9));
        tail.push((5..10).map(blank).collect());
        assert_eq!(indexes_of(tail.read(6..8)), Ok(vec![6, 7]));
        assert_eq!(indexes_of(tail.read(8..99)), Ok(vec![8, 9]));
        assert_eq!(indexes_of(tail.read(10..11)), Err(10..11));
        assert_eq!(indexes_of(tail.read(2..8)), Err(2..5));
        assert_eq!(indexes_of(tail.read(2..4)), Err(2..4));
    }

    #[test]
    fn tail_follows_truncation_purge_and_a_jump() {
        let mut tail = Tail::default();
        tail.push((5..10).map(blank).collect());
        tail.truncate_from(8);
        tail.purge_through(5);
        assert_eq!(indexes_of(tail.read(6..99)), Ok(vec![6, 7]));
        tail.push(vec![blank(20)]);
        assert_eq!(indexes_of(tail.read(6..99)), Err(6..20));
        tail.purge_through(30);
        assert_eq!(tail.bytes, 0);
    }

    #[test]
    fn tail_and_reads_are_bounded_by_bytes() {
        let renew = Command::Renew { worker: "w".repeat(900_000).into(), lease_until: Timestamp::default() };
        let fat = Entry { at: Timestamp::default(), commands: vec![renew] };
        let logged = LoggedEntry::new(fat);
        let size = logged.encoded().len() + TAIL_ENTRY_BYTES;
        let entry = |index| RaftEntry { log_id: log_id(1, index), payload: Payload::Normal(logged.clone()) };
        let mut tail = Tail::default();
        tail.push((0..100).map(entry).collect());
        assert!(tail.bytes <= TAIL_BYTES_MAX && tail.bytes + size > TAIL_BYTES_MAX);
        let read = indexes_of(tail.read(95..100)).unwrap();
        assert_eq!(read.len(), READ_BYTES_MAX / size);
        assert_eq!(read[0], 95);
    }
}
