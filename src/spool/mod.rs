//! The complete output of attempts, on the worker's own disk.
//!
//! A worker keeps what its attempts write (standard output and standard error of a process, the body of a response)
//! in a folder of its own, one file an attempt, and reads it back for whoever asks. The record of a run has the last
//! 4 KiB; everything else is only here, and never in the log.
//!
//! Words: a *sink* takes what one attempt writes; a *piece* is a run of bytes of one stream that were read at one
//! time; output is counted in *offsets*, bytes from the start of the attempt, kept or not; a *life* is one run of the
//! worker's process, and has a folder of its own below the spool's.
//!
//! # What is kept
//! Of one attempt [`SpoolOptions::output_bytes`]: the first part, and of what is beyond it the last [`END_BYTES`].
//! The process goes on meanwhile; what lies between is counted and said. Of all attempts together
//! [`SpoolOptions::total_bytes`], [`FILES_MAX`] files and [`SpoolOptions::age`]: the oldest ended ones go first, at
//! start, when room is needed, and every [`SWEEP_EVERY`]. When only attempts that run are left, they keep no more.
//!
//! # Invariants
//! - Nothing that happens here fails an attempt: a disk that is full, slow or broken costs output and no more. A
//!   sink waits for a slow disk, so that output is lost only by one that takes nothing for [`STALL_MAX`].
//! - Memory of an attempt is bounded by [`QUEUED_PIECES`] pieces and [`END_BYTES`], whatever it writes.
//! - A file ends with a mark, so that one that was torn by the worker's death is known as such. Each record has a
//!   checksum: what is read back is what was written, or is said to be damaged.
//! - Files that are not of its making are left alone.
//!
//! What it does not do: sync (output survives the process, but not the loss of power), compress, or know what an
//! attempt is beyond its run and fence.

mod folder;
mod format;
mod index;
mod reading;
mod sink;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::index::Index;
pub use self::reading::{Ending, Reading, Taken, Wanted};
pub use self::sink::Sink;
use crate::clock::Clock;
use crate::state::time::Timestamp;
use crate::storage::StorageError;
use crate::threads;

/// Kept of one attempt on disk, unless configured otherwise.
pub const OUTPUT_BYTES_DEFAULT: u64 = 64 << 20;
/// A smaller limit would leave no room beside the end.
pub const OUTPUT_BYTES_MIN: u64 = 256 << 10;
/// Kept of all attempts, unless configured otherwise.
pub const TOTAL_BYTES_DEFAULT: u64 = 4 << 30;
/// How long it is kept, unless configured otherwise.
pub const AGE_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Of an output that is too long: the end that is kept beside the first part.
pub const END_BYTES: usize = 64 << 10;
/// Files; the oldest makes room for a further one.
pub const FILES_MAX: usize = 20_000;
/// Earlier lives that are told; output of older ones is not found any more.
pub const LIVES_MAX: usize = 64;
/// Bytes of one piece.
pub const PIECE_BYTES: usize = 64 << 10;
/// Pieces of one attempt on their way to the disk.
const QUEUED_PIECES: usize = 2;
/// How long a disk may take nothing before output is dropped instead of holding up the attempt.
const STALL_MAX: Duration = Duration::from_secs(5);
/// How often what is too old is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Characters of a run id that names a file.
const RUN_ID_CHARS: usize = 128;

/// What is kept, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    /// The folder, for one worker alone; made when it is missing.
    pub folder: PathBuf,
    /// The name of this life of the worker.
    pub life: String,
    /// Bytes on disk of one attempt, at least [`OUTPUT_BYTES_MIN`].
    pub output_bytes: u64,
    /// Bytes on disk of all attempts.
    pub total_bytes: u64,
    /// How long output is kept after its attempt has ended.
    pub age: Duration,
}

/// Why output cannot be kept at all.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder cannot be made, read or locked.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The folder cannot be read.
    #[error("{}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The runtime is ending.
    #[error("the worker is ending")]
    Ending,
}

/// Names an attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its run.
    pub run_id: Arc<str>,
    /// Its fence.
    pub fence: u64,
}

/// What wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output and standard error through one pipe.
    Both,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The body of a response.
    Body,
}

/// Why bytes are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// More than is kept.
    Limit,
    /// The disk did not take it.
    Disk,
    /// The file ends without its mark, or is damaged.
    Torn,
}

/// A part of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of its first byte.
    pub offset: u64,
    /// When it was read.
    pub at: Timestamp,
    /// What it is.
    pub part: Part,
}

/// Bytes, or the want of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What was written.
    Data(Stream, Vec<u8>),
    /// So many bytes were here and are not kept; 0 where nobody knows.
    Gap(u64, Loss),
}

impl Piece {
    /// The offset behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        let length = match &self.part {
            Part::Data(_, bytes) => bytes.len() as u64,
            Part::Gap(bytes, _) => *bytes,
        };
        self.offset.saturating_add(length)
    }
}

/// How far the file of an attempt that runs has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Bytes of the file that are whole records.
    file_bytes: u64,
    /// Nothing more comes.
    ended: bool,
    /// Bytes of output that even the file's gaps do not tell of, for it could not be written.
    untold: u64,
}

/// When a file is made for an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With its first byte.
    AtOnce,
    /// When there are more bytes than these; fewer are in the record of the run, and are not kept here.
    Beyond(usize),
}

/// The spool. A clone is another handle on the same.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
}

struct Shared {
    options: SpoolOptions,
    clock: Clock,
    /// Where the files of this life are.
    own: PathBuf,
    earlier: Vec<String>,
    index: Mutex<Index>,
    /// The disk takes nothing at the moment; so that it is said once.
    failing: AtomicBool,
    /// Moves when an attempt that ran has ended.
    ended: watch::Sender<u64>,
    _lock: crate::storage::files::LockedFile,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spool").field(&self.shared.options.folder).finish()
    }
}

impl Spool {
    /// Opens the folder, looks through what earlier lives have left, and removes what is too old or too much.
    ///
    /// # Errors
    /// [`SpoolError`] when the folder cannot be used, or another worker uses it.
    pub async fn open(options: SpoolOptions, clock: Clock) -> Result<Self, SpoolError> {
        let opened = threads::blocking(move || folder::open(options, clock)).await;
        let spool = Self { shared: Arc::new(opened.map_err(|_| SpoolError::Ending)??) };
        spool.sweep().await;
        let weak = Arc::downgrade(&spool.shared);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                let Some(shared) = weak.upgrade() else { return };
                Self { shared }.sweep().await;
            }
        });
        Ok(spool)
    }

    /// The names of earlier lives whose output is still here, the newest first.
    #[must_use]
    pub fn earlier(&self) -> &[String] {
        &self.shared.earlier
    }

    /// Where the output of an attempt goes.
    #[must_use]
    pub fn sink(&self, key: Key, beginning: Beginning) -> Sink {
        if folder::file_name(&key).is_none() {
            return Sink::nowhere();
        }
        Sink::new(Arc::clone(&self.shared), key, beginning)
    }

    /// Begins to read what an attempt wrote; `None` when there is nothing of it here.
    #[must_use]
    pub fn read(&self, key: &Key, wanted: Wanted) -> Option<Reading> {
        let found = self.shared.index().find(key)?;
        Some(Reading::new(found, wanted))
    }

    /// Waits until the files of all attempts that have ended are complete, at most until `deadline`.
    pub async fn settle(&self, deadline: Instant) {
        let mut ended = self.shared.ended.subscribe();
        let settled = ended.wait_for(|_| !self.shared.index().has_live());
        // What is not complete by then is torn, and will be said to be.
        let _ = timeout_at(deadline, settled).await;
    }

    /// Removes what is too old or too much.
    async fn sweep(&self) {
        let shared = Arc::clone(&self.shared);
        // A runtime that ends has no use for it.
        let _ = threads::blocking(move || {
            let too_old = shared.clock.now().minus(shared.options.age);
            let surplus = shared.index().sweep(too_old, shared.options.total_bytes);
            folder::remove(&surplus, &shared.own);
        })
        .await;
    }
}

impl Shared {
    /// Held for moments only, and never while a file is touched.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the disk fails, or works again; once each.
    fn tell(&self, failure: Option<&std::io::Error>) {
        let was_failing = self.failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_failing => {
                tracing::warn!(folder = %self.options.folder.display(), %error, "output of attempts is dropped: the disk does not take it");
            }
            None if was_failing => tracing::info!("output of attempts is kept again"),
            Some(_) | None => {}
        }
    }
}
