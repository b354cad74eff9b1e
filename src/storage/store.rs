//! Ordered keys and values in a few trees, in sled 0.34.7 behind rules that make it safe to use.
//!
//! It holds what can be rebuilt from the log, a snapshot or a peer: when it is damaged it is set aside and begun
//! anew ([`Store::open_or_begin_anew`] says so, and the caller fills it again). Nothing that a node has promised
//! to others belongs here.
//!
//! # The rules, each of which prevents a failure that was measured
//! 1. An own lock, and no leftover `snap.*.generating`: sled takes one for damage at every later open (sled #1527).
//! 2. A segment size that keeps every page inside the log: larger pages go to files under `blobs/` that sled
//!    neither syncs nor deletes. It can never change, so it stands in a manifest. The flusher stays on: without it
//!    no space is ever reclaimed.
//! 3. Values above the limit are refused before sled sees them.
//! 4. Everything that sled creates is synced once, with its folders.
//! 5. Durable means `flush` *and* an `fdatasync` on a descriptor of our own: sled's flush calls `sync_file_range`
//!    only (sled #1351, #1452).
//! 6. One thread writes and flushes, with group commit; never `flush_async` (sled #1308), never a transaction.
//! 7. An error, or 30 s without progress (sled #1412), is fatal: `on_fatal` is told, and the caller exits the
//!    process *without dropping the store*, because sled's drop may wait for ever after an I/O error.
//! 8. sled reports damage by panicking: it is opened and called under `catch_unwind`, and opened on its own
//!    thread, with a time limit. Or it does not report it, and opens with fewer rows or none: so each barrier has
//!    a number, inside and outside of sled, and the two are compared.
//!
//! All trees share one sled tree, with the tree's number before each key, because only a batch within one sled
//! tree is atomic. Each value carries a checksum over its key and itself, which every read verifies.
//!
//! # What it deliberately does not do
//! No snapshot reads: a range that is read while others write may see some of their writes. Space of deleted rows
//! is used again, but the files never shrink.

mod engine;
mod row;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use self::engine::Engine;
use self::writer::{Command, Progress, Writer};
use super::error::StorageError;
use super::files;
use crate::threads;

/// Largest key, without the byte for its tree.
pub const KEY_BYTES_MAX: usize = 1 << 10;
/// Largest value that a store of large values takes.
pub const VALUE_BYTES_MAX: usize = 200 << 10;
/// Largest value for which a store may be opened with small segments: twenty of them, the most that sled keeps in
/// one page, have to fit into a quarter of a segment.
pub const SMALL_VALUE_BYTES_MAX: usize = 24 << 10;
/// Most trees in a store.
pub const TREES_MAX: usize = 64;
/// Bytes that may be queued but not yet written; a call beyond that waits.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;
/// What each queued request counts at least.
pub const QUEUE_REQUEST_BYTES_MIN: usize = 1 << 10;
/// Most bytes in one atomic request.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;
/// Most rows that one [`Store::range`] returns.
pub const RANGE_ROWS_MAX: usize = 10_000;
/// Most bytes that one [`Store::range`] returns (but always one row).
pub const RANGE_BYTES_MAX: usize = 16 << 20;
/// How long opening may take.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(120);
/// How long one write or flush may take.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// sled's cache, in bytes. It uses about twice that in memory.
pub const CACHE_BYTES: u64 = 128 << 20;

/// What the caller is told when the store can no longer be used. It exits the process; it does not drop the store.
pub type OnFatal = Box<dyn Fn(StorageError) + Send + Sync>;

/// A row: key and value.
pub type Row = (Vec<u8>, Vec<u8>);

/// How to open a store.
pub struct StoreOptions {
    /// Names of the trees. Their order is part of the format: new ones go to the end.
    pub trees: &'static [&'static str],
    /// Largest value; decides on the segment size when the store is created. At most [`VALUE_BYTES_MAX`].
    pub value_bytes_max: usize,
    /// See [`CACHE_BYTES`].
    pub cache_bytes: u64,
    /// Called at most once, from a thread of the store.
    pub on_fatal: OnFatal,
}

/// A tree of an open store. From [`Store::tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tree(u8);

/// One change of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets the value of a key.
    Put {
        /// The tree.
        tree: Tree,
        /// At most [`KEY_BYTES_MAX`].
        key: Vec<u8>,
        /// At most what the store was created for.
        value: Vec<u8>,
    },
    /// Removes a key, if it is there.
    Delete {
        /// The tree.
        tree: Tree,
        /// The key.
        key: Vec<u8>,
    },
}

/// In which order a range is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Smallest key first.
    Ascending,
    /// Largest key first.
    Descending,
}

/// A damaged store was moved away, and an empty one begun.
#[derive(Debug)]
pub struct BegunAnew {
    /// Where the damaged one is.
    pub moved_to: Option<PathBuf>,
    /// What was wrong with it.
    pub reason: StorageError,
}

/// A write on its way. Dropping it does not take the write back.
#[derive(Debug)]
pub struct Written(oneshot::Receiver<()>);

impl Written {
    /// Returns when the write can be read. It is not durable by that: see [`Store::barrier`].
    ///
    /// # Errors
    /// [`StorageError::Closed`] when the store failed before; `on_fatal` was told why.
    pub async fn visible(self) -> Result<(), StorageError> {
        self.0.await.map_err(|_| StorageError::Closed)
    }
}

/// The error that ended the store, told once.
pub(super) struct Fatal {
    first: OnceLock<StorageError>,
    on_fatal: Mutex<OnFatal>,
}

impl Fatal {
    fn report(&self, error: StorageError) {
        if self.first.set(error.clone()).is_ok() {
            (self.on_fatal.lock().unwrap_or_else(PoisonError::into_inner))(error);
        }
    }

    fn check(&self) -> Result<(), StorageError> {
        self.first.get().map_or(Ok(()), |error| Err(error.clone()))
    }
}

/// Who serves the requests.
enum Commands {
    /// The storage thread, which is sent them.
    Thread(mpsc::Sender<Command>),
    /// The caller, in a simulation; nobody once the store has ended.
    Turn(Mutex<Option<Writer>>),
}

impl Commands {
    fn send(&self, command: Command) -> Result<(), StorageError> {
        match self {
            // Each request has taken its room, so the channel is never full.
            Self::Thread(requests) => requests.try_send(command).map_err(|_| StorageError::Closed),
            Self::Turn(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                *writer = writer.take().ok_or(StorageError::Closed)?.serve_in_turn(command);
                Ok(())
            }
        }
    }
}

/// A handle on an open store. [`Store::close`] before dropping it, or exit the process.
pub struct Store {
    engine: Arc<Engine>,
    fatal: Arc<Fatal>,
    commands: Commands,
    room: Arc<Semaphore>,
    trees: &'static [&'static str],
}

impl Store {
    /// Opens the store in `path`, or creates it. Blocks, for seconds if it is large.
    ///
    /// # Errors
    /// [`StorageError::Locked`], [`StorageError::UnknownFormat`], [`StorageError::Damaged`],
    /// [`StorageError::EnginePanic`], [`StorageError::Engine`], [`StorageError::Stalled`] after [`OPEN_TIMEOUT`],
    /// [`StorageError::TooLarge`] for options above a limit, or [`StorageError::Io`].
    pub fn open(path: &Path, options: StoreOptions) -> Result<Self, StorageError> {
        check_size("number of trees", options.trees.len(), TREES_MAX)?;
        check_size("value limit", options.value_bytes_max, VALUE_BYTES_MAX)?;
        let StoreOptions { trees, value_bytes_max, cache_bytes, on_fatal } = options;
        let fatal = Arc::new(Fatal { first: OnceLock::new(), on_fatal: Mutex::new(on_fatal) });
        let progress = Arc::new(Progress::default());
        // Each request takes a unit of room before it is sent, so that the channel is never full.
        let units = QUEUE_BYTES_MAX / QUEUE_REQUEST_BYTES_MIN;
        let room = Arc::new(Semaphore::new(units));
        let (commands, requests) = mpsc::channel(units + 1);
        let (opened, opening) = std_mpsc::sync_channel(1);
        let folder = path.to_path_buf();
        let shared = (Arc::clone(&fatal), Arc::clone(&progress), Arc::clone(&room));
        let in_turn = threads::turns().is_some();
        let storage_thread = thread::Builder::new().name("store-writer".into()).spawn(move || {
            let result = Engine::open(&folder, trees, value_bytes_max, cache_bytes).map(Arc::new);
            let engine = result.as_ref().ok().cloned();
            let wanted = opened.send(result).is_ok();
            if let (Some(engine), true, false) = (engine, wanted, in_turn) {
                let (fatal, progress, room) = shared;
                Writer { engine, fatal, progress, room }.run(requests);
            }
        });
        storage_thread.map_err(StorageError::io(path, "start a thread for"))?;
        let engine = opening.recv_timeout(OPEN_TIMEOUT).map_err(|_| StorageError::Stalled {
            path: path.to_path_buf(),
            op: "opening the store",
            after: OPEN_TIMEOUT,
        })??;
        let commands = if in_turn {
            let (engine, fatal, room) = (Arc::clone(&engine), Arc::clone(&fatal), Arc::clone(&room));
            Commands::Turn(Mutex::new(Some(Writer { engine, fatal, progress, room })))
        } else {
            writer::watch(path, Arc::clone(&fatal), progress)?;
            Commands::Thread(commands)
        };
        Ok(Self { engine, fatal, commands, room, trees })
    }

    /// Like [`Store::open`]; but a damaged store is moved away and an empty one begun, for the caller to fill.
    /// `options` is called once for each attempt.
    ///
    /// # Errors
    /// Those of [`Store::open`] other than damage, and those of [`files::set_aside`].
    pub fn open_or_begin_anew(
        path: &Path,
        options: impl Fn() -> StoreOptions,
    ) -> Result<(Self, Option<BegunAnew>), StorageError> {
        match Self::open(path, options()) {
            Err(reason) if reason.is_damage() => {
                let moved_to = files::set_aside(path, &reason.to_string())?;
                Ok((Self::open(path, options())?, Some(BegunAnew { moved_to, reason })))
            }
            other => Ok((other?, None)),
        }
    }

    /// The tree of that name.
    ///
    /// # Errors
    /// [`StorageError::NoSuchTree`] unless it was named when the store was opened.
    pub fn tree(&self, name: &'static str) -> Result<Tree, StorageError> {
        let number = self.trees.iter().position(|tree| *tree == name);
        number.map(|number| Tree(number as u8)).ok_or(StorageError::NoSuchTree { name })
    }

    /// Queues changes: all of them take effect, in memory and after a crash, or none. Requests take effect in the
    /// order of the calls. Waits while the queue is full.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] for a key, a value or a request above its limit; or the error that ended the store.
    pub async fn write(&self, ops: Vec<Op>) -> Result<Written, StorageError> {
        let mut bytes = 0;
        for op in &ops {
            let (key, value) = match op {
                Op::Put { key, value, .. } => (key.len(), value.len()),
                Op::Delete { key, .. } => (key.len(), 0),
            };
            check_size("key", key, KEY_BYTES_MAX)?;
            check_size("value", value, self.engine.value_bytes_max())?;
            bytes += key + value;
        }
        check_size("request", bytes, REQUEST_BYTES_MAX)?;
        let (visible, written) = oneshot::channel();
        self.send(bytes, |room| Command::Write { ops, bytes, visible, room }).await?;
        Ok(Written(written))
    }

    /// Returns when all that was queued before is durable.
    ///
    /// # Errors
    /// The error that ended the store.
    pub async fn barrier(&self) -> Result<(), StorageError> {
        let (done, durable) = oneshot::channel();
        self.send(0, |room| Command::Barrier { done, room }).await?;
        durable.await.map_err(|_| self.fatal.check().err().unwrap_or(StorageError::Closed))
    }

    /// The value of a key. May read from the disk: call it from a thread that may block.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] when the row is not what was written (and the store is begun anew at the next
    /// opening); or the error that ended the store.
    pub fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.fatal.check()?;
        self.reported(self.engine.get(tree, key))
    }

    /// The rows with `from <= key < to`, at most `limit` (and [`RANGE_ROWS_MAX`], [`RANGE_BYTES_MAX`]). May read
    /// from the disk: call it from a thread that may block. Writes in between may be seen in part.
    ///
    /// # Errors
    /// As for [`Store::get`].
    pub fn range(
        &self,
        tree: Tree,
        keys: std::ops::Range<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Row>, StorageError> {
        self.fatal.check()?;
        self.reported(self.engine.range(tree, keys, order, limit.min(RANGE_ROWS_MAX)))
    }

    /// Files that sled keeps beside its log. Always 0, or a limit is wrong: worth an alert.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn blob_files(&self) -> Result<usize, StorageError> {
        self.engine.blob_files()
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn size_bytes(&self) -> Result<u64, StorageError> {
        self.engine.size_bytes()
    }

    /// Makes everything durable, ends the threads and closes sled. Not after an error: exit the process then.
    ///
    /// # Errors
    /// The error that ended the store.
    pub async fn close(self) -> Result<(), StorageError> {
        self.barrier().await?;
        let (done, ended) = oneshot::channel();
        let Self { engine, fatal, commands, .. } = self;
        drop(engine); // The writer's is the last one then.
        commands.send(Command::Close { done })?;
        ended.await.map_err(|_| fatal.check().err().unwrap_or(StorageError::Closed))
    }

    #[cfg(test)]
    pub(super) fn spoil(&self, tree: Tree, key: &[u8]) {
        self.engine.spoil(tree, key);
    }

    async fn send(&self, bytes: usize, command: impl FnOnce(u32) -> Command) -> Result<(), StorageError> {
        self.fatal.check()?;
        let room = (bytes / QUEUE_REQUEST_BYTES_MIN).max(1) as u32;
        let failed = || self.fatal.check().err().unwrap_or(StorageError::Closed);
        self.room.acquire_many(room).await.map_err(|_| failed())?.forget();
        self.commands.send(command(room)).map_err(|_| failed())
    }

    fn reported<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &result {
            self.fatal.report(error.clone());
        }
        result
    }
}

fn check_size(what: &'static str, bytes: usize, limit: usize) -> Result<(), StorageError> {
    if bytes > limit {
        return Err(StorageError::TooLarge { what, bytes: bytes as u64, limit: limit as u64 });
    }
    Ok(())
}
