//! The one thread that writes the log: drain, write, sync once, tell everyone, repeat.
//!
//! However many callers append, they share one `fdatasync` per round: while one is under way the next group
//! gathers. Any error ends the log at once; nothing is tried a second time.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use super::Completion;
use super::format::{Checkpoint, Kind};
use super::queue::{Counts, GROUP_BYTES_MAX, Item, Shared, Work};
use super::recovery::{create_segment, segment_path};
use crate::storage::error::StorageError;
use crate::storage::files;
use crate::storage::identity::Identity;
use crate::storage::mark::Mark;
use crate::threads::Turns;

/// The watermark file itself is synced after this many groups, off the path of any caller.
const MARK_SYNC_GROUPS: u64 = 1024;
/// Under load a segment is deleted after this many groups; otherwise as soon as nothing is queued.
const DELETE_EVERY_GROUPS: u64 = 64;

/// The writer's own state: no one else touches these files.
pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) identity: Identity,
    pub(super) shared: Arc<Shared>,
    pub(super) active: File,
    pub(super) base: u64,
    pub(super) written: u64,
    pub(super) synced: u64,
    pub(super) mark: Mark,
    pub(super) doomed: VecDeque<u64>,
    pub(super) buffer: Vec<u8>,
}

/// How many groups have been written, and at which one a segment was deleted last.
#[derive(Default)]
struct Rounds {
    groups: u64,
    deleted_at: u64,
}

impl Writer {
    /// Runs until the log is closed or fails.
    pub(super) fn run(mut self) {
        let _guard = PanicGuard { shared: Arc::clone(&self.shared), dir: self.dir.clone() };
        let result = self.work();
        self.end(result);
    }

    /// The same as a task of a simulation, where each group takes the disk some time. What is still on its way when
    /// the simulated machine loses its power has never reached the disk.
    pub(super) async fn run_in_turn(mut self, turns: &'static Turns) {
        let _guard = PanicGuard { shared: Arc::clone(&self.shared), dir: self.dir.clone() };
        let mut rounds = Rounds::default();
        let result = loop {
            let work = self.shared.work_in_turn(!self.doomed.is_empty()).await;
            if matches!(work, Work::Group(_)) {
                tokio::time::sleep(turns.disk_takes()).await;
            }
            if let Some(result) = self.round(work, &mut rounds).transpose() {
                break result;
            }
        };
        self.end(result);
    }

    fn end(self, result: Result<(), StorageError>) {
        if let Err(error) = &result {
            self.shared.fail(error);
        }
        let on_closed = std::mem::take(&mut self.shared.lock().on_closed);
        drop(self); // gives the lock on the folder back
        for waiter in on_closed {
            // Nobody may be waiting any more.
            let _ = waiter.send(result.clone());
        }
    }

    fn work(&mut self) -> Result<(), StorageError> {
        let mut rounds = Rounds::default();
        loop {
            let work = self.shared.next_work(!self.doomed.is_empty());
            if let Some(result) = self.round(work, &mut rounds).transpose() {
                return result;
            }
        }
    }

    /// Does what is to do next; `Some` when the log has been closed with that.
    fn round(&mut self, work: Work, rounds: &mut Rounds) -> Result<Option<()>, StorageError> {
        match work {
            Work::Group(items) => {
                let mut completions = Vec::new();
                let result = self.write_group(items, &mut completions);
                if let Err(error) = &result {
                    self.shared.fail(error); // before anybody hears of it and calls again
                }
                let room = completions.iter().map(|(_, room)| *room as usize).sum();
                self.shared.room.add_permits(room);
                for (done, _) in completions {
                    if let Some(done) = done {
                        done(result.clone());
                    }
                }
                result?;
                rounds.groups += 1;
                if rounds.groups.is_multiple_of(MARK_SYNC_GROUPS) {
                    self.mark.sync()?;
                }
                if rounds.groups - rounds.deleted_at >= DELETE_EVERY_GROUPS {
                    rounds.deleted_at = rounds.groups;
                    self.delete_one()?;
                }
            }
            Work::Idle => self.delete_one()?,
            Work::Close => return self.finish().map(Some),
        }
        Ok(None)
    }

    fn write_group(
        &mut self,
        items: Vec<Item>,
        completions: &mut Vec<(Option<Completion>, u32)>,
    ) -> Result<(), StorageError> {
        // Everyone in the group has to hear of an error, so the completions are taken out first.
        let mut work = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::Done { done, room } => completions.push((done, room)),
                other => work.push(other),
            }
        }
        let mut must_sync = false;
        let mut doomed = Vec::new();
        self.buffer.clear();
        for item in work {
            match item {
                Item::Record { position, record } => {
                    debug_assert_eq!(position, self.written + self.buffer.len() as u64);
                    record.encode(position, self.synced, &mut self.buffer);
                    must_sync |= record.kind != Kind::Committed;
                    Counts::add(&self.shared.counts.records, 1);
                }
                Item::Roll { base, checkpoint } => {
                    self.write_buffer()?;
                    self.roll(base, &checkpoint)?;
                }
                Item::Forget { base } => doomed.push(base),
                Item::Done { .. } => {}
            }
        }
        self.write_buffer()?;
        if must_sync {
            self.sync()?;
        }
        self.doomed.extend(doomed);
        Counts::add(&self.shared.counts.groups, 1);
        Ok(())
    }

    fn write_buffer(&mut self) -> Result<(), StorageError> {
        if !self.buffer.is_empty() {
            self.active
                .write_all_at(&self.buffer, self.written - self.base)
                .map_err(|error| self.io("write", error))?;
            self.written += self.buffer.len() as u64;
            Counts::add(&self.shared.counts.bytes, self.buffer.len() as u64);
            self.buffer.clear();
            self.buffer.shrink_to(2 * GROUP_BYTES_MAX as usize);
        }
        Ok(())
    }

    /// Makes what is written durable, notes it in the watermark, and only then lets it be known.
    fn sync(&mut self) -> Result<(), StorageError> {
        if self.synced < self.written {
            self.active.sync_data().map_err(|error| self.io("sync", error))?;
            Counts::add(&self.shared.counts.syncs, 1);
            self.synced = self.written;
            self.mark.advance(self.synced)?;
            self.shared.synced_to(self.synced);
        }
        Ok(())
    }

    fn roll(&mut self, base: u64, checkpoint: &Checkpoint) -> Result<(), StorageError> {
        self.sync()?;
        let (active, end) = create_segment(&self.dir, base, &self.identity, checkpoint)?;
        (self.active, self.base, self.written, self.synced) = (active, base, end, end);
        self.mark.advance(end)?;
        self.mark.sync()
    }

    fn delete_one(&mut self) -> Result<(), StorageError> {
        match self.doomed.pop_front() {
            Some(base) => files::remove(&segment_path(&self.dir, base)),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), StorageError> {
        self.sync()?;
        self.mark.sync()
    }

    fn io(&self, op: &'static str, error: std::io::Error) -> StorageError {
        StorageError::io(&segment_path(&self.dir, self.base), op)(error)
    }
}

/// A completion that panics takes the writer with it: then the log has failed, for nobody may wait for ever.
struct PanicGuard {
    shared: Arc<Shared>,
    dir: PathBuf,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.shared.fail(&StorageError::Panicked { path: self.dir.clone() });
            self.shared.lock().on_closed.clear();
        }
    }
}
