//! The one thread that writes to sled, and the one that watches it.
//!
//! Requests that wait together become one sled batch, and barriers that wait together one flush. The batch stays
//! atomic: it holds whole requests only.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::engine::Engine;
use super::{Fatal, Op, STALL_TIMEOUT};
use crate::storage::error::StorageError;

/// A batch is closed for more once it has this many bytes or changes.
const BATCH_BYTES_MAX: usize = 4 << 20;
const BATCH_OPS_MAX: usize = 4096;
/// The watchdog looks this often within the time a call is given.
const LOOKS: u32 = 6;

/// A request to the storage thread.
pub(super) enum Command {
    Write { ops: Vec<Op>, bytes: usize, visible: oneshot::Sender<()>, room: u32 },
    Barrier { done: oneshot::Sender<()>, room: u32 },
    Close { done: oneshot::Sender<()> },
}

/// What the watchdog sees of the storage thread.
#[derive(Default)]
pub(super) struct Progress {
    busy: AtomicBool,
    steps: AtomicU64,
    ended: Mutex<bool>,
    bell: Condvar,
}

impl Progress {
    fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
        let result = call();
        self.busy.store(false, Ordering::Relaxed);
        result
    }

    fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }
}

/// The storage thread's state.
pub(super) struct Writer {
    pub(super) engine: Arc<Engine>,
    pub(super) fatal: Arc<Fatal>,
    pub(super) progress: Arc<Progress>,
    pub(super) room: Arc<Semaphore>,
}

#[derive(Default)]
struct Batch {
    ops: Vec<Op>,
    bytes: usize,
    room: u32,
    visible: Vec<oneshot::Sender<()>>,
    barriers: Vec<oneshot::Sender<()>>,
    close: Option<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, command: Command) {
        match command {
            Command::Write { mut ops, bytes, visible, room } => {
                self.ops.append(&mut ops);
                self.visible.push(visible);
                (self.bytes, self.room) = (self.bytes + bytes, self.room + room);
            }
            Command::Barrier { done, room } => {
                self.barriers.push(done);
                self.room += room;
            }
            Command::Close { done } => self.close = Some(done),
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES_MAX || self.ops.len() >= BATCH_OPS_MAX || self.close.is_some()
    }
}

impl Writer {
    /// Runs until the store is closed or fails.
    pub(super) fn run(self, mut requests: mpsc::Receiver<Command>) {
        let mut writer = self;
        while let Some(first) = requests.blocking_recv() {
            let mut batch = Batch::default();
            batch.add(first);
            while !batch.is_full()
                && let Ok(next) = requests.try_recv()
            {
                batch.add(next);
            }
            match writer.serve_or_end(batch) {
                Some(going_on) => writer = going_on,
                None => return,
            }
        }
        writer.end();
    }

    /// Serves one request at once, in a simulation; the writer, unless the store has ended with it.
    pub(super) fn serve_in_turn(self, command: Command) -> Option<Self> {
        let mut batch = Batch::default();
        batch.add(command);
        self.serve_or_end(batch)
    }

    fn serve_or_end(self, mut batch: Batch) -> Option<Self> {
        let close = batch.close.take();
        if let Err(error) = self.serve(batch) {
            self.fatal.report(error);
            self.end();
            return None;
        }
        match close {
            Some(done) => {
                self.close(done);
                None
            }
            None => Some(self),
        }
    }

    fn end(self) {
        self.room.close();
        self.progress.end();
        if self.fatal.check().is_err() {
            // Dropping sled may wait for ever after an error; the process is about to exit.
            std::mem::forget(self.engine);
        }
    }

    fn close(self, done: oneshot::Sender<()>) {
        self.room.close();
        let closed = self.progress.during(|| Arc::into_inner(self.engine).map_or(Ok(()), Engine::close));
        self.progress.end();
        match closed {
            Ok(()) => tell(vec![done]),
            Err(error) => self.fatal.report(error),
        }
    }

    fn serve(&self, batch: Batch) -> Result<(), StorageError> {
        let Batch { ops, visible, barriers, room, .. } = batch;
        if !ops.is_empty() {
            self.progress.during(|| self.engine.apply(ops))?;
        }
        self.room.add_permits(room as usize);
        tell(visible);
        if !barriers.is_empty() {
            self.progress.during(|| self.engine.barrier())?;
            tell(barriers);
        }
        Ok(())
    }
}

fn tell(waiting: Vec<oneshot::Sender<()>>) {
    for waiter in waiting {
        let _ = waiter.send(()); // Whoever asked may have gone away.
    }
}

/// Starts the watchdog of the store in `path`. It reads no clock: it counts waits in which nothing moved.
pub(super) fn watch(path: &Path, fatal: Arc<Fatal>, progress: Arc<Progress>) -> Result<(), StorageError> {
    let folder = path.to_path_buf();
    let watchdog = thread::Builder::new().name("store-watchdog".into()).spawn(move || {
        let (mut seen, mut looks) = (0, 0);
        let mut ended = progress.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            let wait = progress.bell.wait_timeout(ended, STALL_TIMEOUT / LOOKS);
            ended = wait.unwrap_or_else(PoisonError::into_inner).0;
            let steps = progress.steps.load(Ordering::Relaxed);
            let stuck = progress.busy.load(Ordering::Relaxed) && steps == seen;
            (seen, looks) = (steps, if stuck { looks + 1 } else { 0 });
            if looks > LOOKS {
                let (path, op, after) = (folder, "writing to the store", STALL_TIMEOUT);
                fatal.report(StorageError::Stalled { path, op, after });
                return;
            }
        }
    });
    watchdog.map(drop).map_err(StorageError::io(path, "start a thread for"))
}
