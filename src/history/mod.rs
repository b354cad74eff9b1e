//! The run log: every run that has ended, on the disk of every node.
//!
//! Runs arrive at apply, in the order of the log, and never change. They are no part of the state
//! nor of its snapshots; a node that installs a snapshot fetches the runs that it lacks from another
//! one ([`RunLog::set_gap`], [`RunLog::fill`], [`RunLog::read`]). Retention bounds what is kept, by
//! count and age, as each job's definition and the limits of its namespace say ([`RunLog::prune`]).
//!
//! # How it is written
//! [`RunLog::append`] hands the rows to the store and returns; it waits only when the store's queue
//! is full. Readers see what is queued as if it were written. What is appended is durable after
//! [`RunLog::barrier`], not before: until then the Raft log can make it anew. So appending a run a
//! second time changes nothing.
//!
//! # Invariants
//! - All rows of a run are written in one batch, and removed in one.
//! - A run is found by its identity, by the time of its decision, and by the index of the entry that
//!   ended it, or not at all.
//!
//! # What it deliberately does not do
//! It decides nothing about runs, knows no live ones, and reads no clock.

mod append;
mod census;
mod keys;
#[cfg(test)]
mod namespace_tests;
mod namespaces;
mod read;
mod retain;
mod rows;
mod sink;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;

use self::census::Census;
pub use self::read::{Decided, INCARNATIONS};
pub use self::retain::{Kept, Pruned, RETENTION_OF_DELETED};
use self::rows::Rows;
pub use self::rows::TREES;
pub use self::transfer::{Gap, StoredRow};
use crate::state::CodecError;
use crate::state::run::{JobId, Run, RunId};
use crate::storage::StorageError;
use crate::storage::store::{CACHE_BYTES, Store, StoreOptions};

/// Largest value of a row, for the store's options: a run with all its attempts and their output.
pub const VALUE_BYTES_MAX: usize = crate::storage::store::VALUE_BYTES_MAX;
/// Jobs of which something is remembered; beyond, it is forgotten and learned again.
const JOBS: usize = 2_000_000;

/// Why the run log cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The disk. The node has to end.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A row that its checksum calls whole is no run.
    #[error("a row of the run log does not decode")]
    Codec(#[from] CodecError),
    /// A row that its checksum calls whole has another form.
    #[error("a row of the run log has a key or a length that it cannot have")]
    Form,
}

/// The run log. A clone is another handle on it.
#[derive(Clone)]
pub struct RunLog {
    shared: Arc<Shared>,
}

struct Shared {
    rows: Rows,
    memory: Mutex<Memory>,
    /// Held from the reading of rows that are there to the writing of what becomes of them.
    changing: tokio::sync::Mutex<()>,
    /// What ended the store: whoever waits for it is told, for a store that hangs never answers.
    failed: watch::Sender<Option<StorageError>>,
    path: PathBuf,
    begun_anew: bool,
}

/// A write on its way, with the index and the runs that it is for.
struct Write {
    written: BoxFuture<'static, Result<(), StorageError>>,
    index: u64,
    ids: Vec<RunId>,
}

/// What is not, or not only, on the disk.
#[derive(Default)]
struct Memory {
    /// Appended and not known to be written.
    queued: BTreeMap<RunId, (u64, Arc<Run>)>,
    /// The writes of those, in order.
    writes: VecDeque<Write>,
    /// The index that is being appended.
    appending: Option<u64>,
    /// The last index that was appended.
    last_index: u64,
    gap: Option<Gap>,
    /// Everything through this index is here, or in the gap. `None` in a store of a release that kept no such mark.
    through: Option<u64>,
    /// Runs that were appended for a job since it was last pruned.
    grown: HashMap<JobId, u32>,
    /// How many runs of a job are kept at most, where that was counted.
    counts: HashMap<JobId, u32>,
    /// How many runs there are of each namespace.
    census: Census,
    /// Where the slow walk over all jobs goes on.
    walked: Option<JobId>,
    /// Jobs whose name row is written.
    named: HashSet<JobId>,
}

impl Memory {
    /// Forgets what has been written.
    fn settle(&mut self) {
        while let Some(Write { written, index, ids }) = self.writes.front_mut() {
            match written.now_or_never() {
                None => return,
                // The store has told its owner; what is queued can still be read.
                Some(Err(_)) => {}
                Some(Ok(())) => {
                    for id in ids {
                        if self.queued.get(id).is_some_and(|(queued, _)| queued == index) {
                            self.queued.remove(id);
                        }
                    }
                }
            }
            self.writes.pop_front();
        }
    }

    fn grow(&mut self, job: JobId) {
        if self.grown.len() >= JOBS {
            self.grown.clear();
        }
        *self.grown.entry(job).or_insert(0) += 1;
        if let Some(count) = self.counts.get_mut(&job) {
            *count = count.saturating_add(1);
        }
    }
}

/// A mark; one that does not read was not written by this release.
fn marked<T>(
    rows: &Rows,
    key: &[u8],
    read: impl Fn(&[u8]) -> Result<T, HistoryError>,
) -> Result<Option<T>, StorageError> {
    let Some(bytes) = rows.get(rows.marks, key)? else { return Ok(None) };
    match read(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(HistoryError::Storage(error)) => Err(error),
        Err(HistoryError::Codec(_) | HistoryError::Form) => Err(StorageError::UnknownFormat {
            file: "history/marks".into(),
            found: format!("{} bytes", bytes.len()),
            known: 1,
        }),
    }
}

impl Shared {
    /// Waits for the store, but not for one that has failed.
    async fn unless_failed<T>(
        &self,
        work: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let mut failed = self.failed.subscribe();
        tokio::select! {
            done = work => done,
            error = failed.wait_for(Option::is_some) => {
                Err(error.ok().and_then(|error| error.clone()).unwrap_or(StorageError::Closed))
            }
        }
    }

    /// No code that holds this lock can panic in between two changes that belong together.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.settle();
        memory
    }
}

impl RunLog {
    /// Opens the run log in a folder, or creates it. A damaged one is set aside and begun anew:
    /// [`RunLog::begun_anew`]. Blocks.
    ///
    /// # Errors
    /// [`StorageError`]; the node has to end.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let failed = watch::Sender::new(None);
        let options = || {
            let failed = failed.clone();
            StoreOptions {
                trees: TREES,
                value_bytes_max: VALUE_BYTES_MAX,
                cache_bytes: CACHE_BYTES,
                on_fatal: Box::new(move |error: StorageError| {
                    tracing::error!(%error, "the run log has failed");
                    failed.send_replace(Some(error));
                }),
            }
        };
        let (store, begun_anew) = Store::open_or_begin_anew(path, options)?;
        if let Some(begun) = &begun_anew {
            tracing::warn!(reason = %begun.reason, moved_to = ?begun.moved_to, "the run log is begun anew");
        }
        let rows = Rows::new(store)?;
        let last = marked(&rows, keys::LAST, transfer::read_number)?;
        let gap = marked(&rows, keys::GAP, transfer::read_gap)?;
        let through = marked(&rows, keys::THROUGH, transfer::read_number)?;
        // An empty store is complete through nothing; one with runs and without the mark is an earlier release's.
        let is_empty = last.is_none() && gap.is_none();
        let through = through.or(is_empty.then_some(0));
        let memory = Memory { last_index: last.unwrap_or(0), gap, through, ..Memory::default() };
        let (path, begun_anew) = (path.to_path_buf(), begun_anew.is_some());
        let shared = Shared {
            rows,
            memory: Mutex::new(memory),
            changing: tokio::sync::Mutex::default(),
            failed,
            path,
            begun_anew,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether a damaged run log was set aside when this one was opened.
    #[must_use]
    pub fn begun_anew(&self) -> bool {
        self.shared.begun_anew
    }

    /// What this run log lacks beside a snapshot of everything through `snapshot`, with the gap that it knows of. The
    /// runs that the snapshot stands for never come again, so they are here, or in the gap, or lost with the folder:
    /// it was damaged, removed, or is an older one.
    #[must_use]
    pub fn lacking(&self, snapshot: u64) -> Option<Gap> {
        let memory = self.shared.memory();
        let after = memory.through.unwrap_or(u64::MAX);
        let lost = (after < snapshot).then_some(Gap { after, through: snapshot });
        match (memory.gap, lost) {
            (Some(gap), Some(lost)) => {
                Some(Gap { after: gap.after.min(lost.after), through: gap.through.max(lost.through) })
            }
            (gap, lost) => gap.or(lost),
        }
    }

    /// Resolves with the error that ended the store, whoever met it.
    pub fn failed(&self) -> impl Future<Output = StorageError> + Send + use<> {
        let mut failed = self.shared.failed.subscribe();
        async move {
            match failed.wait_for(Option::is_some).await.map(|error| error.clone()) {
                Ok(Some(error)) => error,
                // The store was closed: it cannot fail any more.
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
    }

    /// Makes everything durable and closes the store, if this is the last handle. Not after an error:
    /// the process exits then.
    ///
    /// # Errors
    /// The error that ended the store.
    pub async fn close(self) -> Result<(), StorageError> {
        match Arc::try_unwrap(self.shared) {
            Ok(shared) => shared.rows.close().await,
            Err(shared) => shared.rows.barrier().await,
        }
    }

    /// The last index of which runs were appended; 0 when there is none.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.shared.memory().last_index
    }

    /// Does what may block where that is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, HistoryError> {
        let shared = Arc::clone(&self.shared);
        // A join fails when the runtime ends, and then nobody reads the answer.
        let done = crate::threads::blocking(move || work(&shared)).await;
        done.unwrap_or(Err(HistoryError::Storage(StorageError::Closed)))
    }
}
