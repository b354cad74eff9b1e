//! What the callers and the writer share: the index, and the queue of what is still to be written.
//!
//! Invariant: one lock covers the index, the queue and the position that the next record will have. So the order
//! of the queue is the order of the calls, each record's position is final when it is queued, and a checkpoint
//! that is queued between two records describes exactly the state between them. The writer decides nothing: it
//! puts bytes where they were promised to go.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, oneshot};

use super::Completion;
use super::format::{Checkpoint, Kind, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES};
use super::index::Index;
use crate::storage::error::StorageError;

/// A group is closed for more once it has this many bytes.
pub const GROUP_BYTES_MAX: u64 = 4 << 20;

/// Something for the writer to do.
pub(super) enum Item {
    /// Write a record at its position.
    Record { position: u64, record: Record },
    /// Tell that all before is durable, and give the queue's room back.
    Done { done: Option<Completion>, room: u32 },
    /// Begin a segment at `base`.
    Roll { base: u64, checkpoint: Checkpoint },
    /// Delete a segment once all before is durable.
    Forget { base: u64 },
}

/// What the writer is to do next.
pub(super) enum Work {
    /// Write these, sync once, complete.
    Group(Vec<Item>),
    /// Nothing is queued: there is time to delete.
    Idle,
    /// The log was closed, and all that was queued is written.
    Close,
}

/// Everything behind the lock.
pub(super) struct State {
    pub(super) index: Index,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) bases: VecDeque<u64>,
    /// Position of the next record.
    pub(super) end: u64,
    pub(super) closing: bool,
    pub(super) failed: Option<StorageError>,
    pub(super) on_closed: Vec<oneshot::Sender<Result<(), StorageError>>>,
    queue: VecDeque<Item>,
    committed_queued: bool,
    committed_stale: bool,
    segment_bytes: u64,
}

impl State {
    pub(super) fn new(index: Index, bases: Vec<u64>, end: u64, segment_bytes: u64) -> Self {
        Self {
            index,
            vote: None,
            committed: None,
            bases: bases.into(),
            end,
            closing: false,
            failed: None,
            on_closed: Vec::new(),
            queue: VecDeque::new(),
            committed_queued: false,
            committed_stale: false,
            segment_bytes,
        }
    }

    /// The error that each call has to return from now on, if there is one.
    pub(super) fn check_open(&self) -> Result<(), StorageError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.closing => Err(StorageError::Closed),
            None => Ok(()),
        }
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            purged: self.index.purged(),
            last: self.index.last(),
            first_index: self.index.live().start,
            vote: self.vote.clone(),
            committed: self.committed.clone(),
        }
    }

    /// First position of the segment that is being written.
    pub(super) fn active_base(&self) -> u64 {
        self.bases.back().copied().unwrap_or_default()
    }

    /// Queues a record and returns its position. The caller updates the index *afterwards*, so that the
    /// checkpoint of a segment that begins here describes the state without this record.
    pub(super) fn enqueue(&mut self, record: Record) -> u64 {
        let used = self.end - self.active_base();
        if used + record.stored_bytes() > self.segment_bytes {
            self.roll();
        }
        let position = self.end;
        self.end += record.stored_bytes();
        self.queue.push_back(Item::Record { position, record });
        position
    }

    fn roll(&mut self) {
        let (base, checkpoint) = (self.end, self.checkpoint());
        let head = SEGMENT_HEADER_BYTES + (RECORD_HEADER_BYTES + checkpoint.encode().len()) as u64;
        if self.end - self.active_base() <= head {
            return; // The segment is as good as new: a larger record than a segment gets one of its own.
        }
        self.bases.push_back(base);
        self.end = base + head;
        self.queue.push_back(Item::Roll { base, checkpoint });
    }

    pub(super) fn enqueue_done(&mut self, done: Option<Completion>, room: u32) {
        self.queue.push_back(Item::Done { done, room });
    }

    /// Queues the deletion of all segments that hold no live entry.
    pub(super) fn enqueue_forget(&mut self) {
        let needed = self.index.first_position().unwrap_or(u64::MAX);
        while self.bases.get(1).is_some_and(|next| *next <= needed) {
            if let Some(base) = self.bases.pop_front() {
                self.queue.push_back(Item::Forget { base });
            }
        }
    }

    /// Notes how far the log is committed; written soon, never synced for its own sake. At most one such record
    /// is queued at a time, however often this is called.
    pub(super) fn set_committed(&mut self, committed: Bytes) {
        self.committed = Some(committed);
        self.committed_stale = true;
        self.enqueue_committed();
    }

    fn enqueue_committed(&mut self) {
        if self.committed_stale
            && !self.committed_queued
            && let Some(committed) = self.committed.clone()
        {
            (self.committed_stale, self.committed_queued) = (false, true);
            self.enqueue(Record::of(Kind::Committed, committed));
        }
    }

    fn next_work(&mut self, deletions: bool) -> Option<Work> {
        if !self.queue.is_empty() {
            return Some(Work::Group(self.take_group()));
        }
        match (deletions, self.closing) {
            (true, _) => Some(Work::Idle),
            (false, true) => Some(Work::Close),
            (false, false) => None,
        }
    }

    fn take_group(&mut self) -> Vec<Item> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(item) = self.queue.pop_front() {
            if let Item::Record { record, .. } = &item {
                bytes += record.stored_bytes();
                self.committed_queued &= record.kind != Kind::Committed;
            }
            group.push(item);
            let rolls = matches!(self.queue.front(), Some(Item::Roll { .. }));
            if bytes >= GROUP_BYTES_MAX || rolls {
                break;
            }
        }
        self.enqueue_committed();
        group
    }
}

/// Counts since the log was opened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) groups: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) bytes: AtomicU64,
}

impl Counts {
    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// The lock, the writer's bell, and the room in the queue.
pub(super) struct Shared {
    state: Mutex<State>,
    bell: Condvar,
    /// The bell of a writer that is a task.
    pub(super) chime: Notify,
    pub(super) room: Semaphore,
    pub(super) counts: Counts,
    tail_bytes: usize,
}

impl Shared {
    pub(super) fn new(state: State, room: usize, tail_bytes: usize) -> Self {
        Self {
            state: Mutex::new(state),
            bell: Condvar::new(),
            chime: Notify::new(),
            room: Semaphore::new(room),
            counts: Counts::default(),
            tail_bytes,
        }
    }

    /// The state. A panic elsewhere cannot leave it half-changed in a way that matters: nothing in here panics.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the writer. Call it after queuing.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
        self.chime.notify_one();
    }

    /// Waits for something to do; with `deletions` to make, an empty queue is [`Work::Idle`].
    pub(super) fn next_work(&self, deletions: bool) -> Work {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.next_work(deletions) {
                return work;
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As [`Shared::next_work`], for a writer that is a task.
    pub(super) async fn work_in_turn(&self, deletions: bool) -> Work {
        loop {
            let work = self.lock().next_work(deletions);
            match work {
                Some(work) => return work,
                None => self.chime.notified().await,
            }
        }
    }

    /// The log is durable up to `synced`.
    pub(super) fn synced_to(&self, synced: u64) {
        let mut state = self.lock();
        if state.index.tail_bytes() > self.tail_bytes {
            state.index.evict(synced, self.tail_bytes);
        }
    }

    /// Ends the log: `error` is what everyone waiting and every later call gets.
    pub(super) fn fail(&self, error: &StorageError) {
        let queued = {
            let mut state = self.lock();
            state.failed.get_or_insert_with(|| error.clone());
            std::mem::take(&mut state.queue)
        };
        self.room.close();
        for item in queued {
            if let Item::Done { done: Some(done), .. } = item {
                done(Err(error.clone()));
            }
        }
    }
}
