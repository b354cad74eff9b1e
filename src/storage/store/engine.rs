//! sled itself, opened and called as the rules of `store` demand.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::row::{stored_key, stored_value, value_of};
use super::{Op, Order, RANGE_BYTES_MAX, Row, SMALL_VALUE_BYTES_MAX, Tree};
use crate::storage::error::StorageError;
use crate::storage::files::{self, LockedFile};
use crate::storage::manifest::{self, Form};
use crate::storage::mark::Mark;

const FORM: Form = Form {
    title: "chronarch key-value store",
    format: 1,
    keys: &["engine", "segment_bytes", "value_bytes_max", "trees"],
};
const ENGINE: &str = "sled-0.34";
const MANIFEST: &str = "manifest";
const LOCK: &str = "lock";
/// Left by a read that met a damaged row, so that the next opening begins anew.
const DAMAGED: &str = "damaged";
/// Where sled's files are.
const SLED: &str = "sled";

/// Holds the number of the newest barrier. No tree has this number.
const BARRIER_KEY: [u8; 1] = [u8::MAX];

const SEGMENT_BYTES_SMALL: usize = 2 << 20;
const SEGMENT_BYTES_LARGE: usize = 16 << 20;
const FLUSH_EVERY_MS: u64 = 500;

/// An open sled, with what it needs around it.
pub(super) struct Engine {
    path: PathBuf,
    db: sled::Db,
    /// Our own descriptor of sled's log. Errors of a sync are reported once per descriptor, so that one which
    /// sled's flusher met and swallowed is still seen here.
    log: File,
    /// The number of the newest barrier, outside of sled: sled may lose rows and not know it.
    mark: Mutex<Mark>,
    value_bytes_max: usize,
    _lock: LockedFile,
}

struct Layout {
    segment_bytes: usize,
    value_bytes_max: usize,
}

impl Engine {
    pub(super) fn open(
        path: &Path,
        trees: &'static [&'static str],
        value_bytes_max: usize,
        cache_bytes: u64,
    ) -> Result<Self, StorageError> {
        files::create_dir(path)?;
        let lock = LockedFile::open_or_create(&path.join(LOCK))?;
        files::remove_leftovers(path)?;
        let marker = path.join(DAMAGED);
        if let Ok(reason) = fs::read_to_string(&marker) {
            return Err(StorageError::damaged(&marker, 0, reason));
        }
        let sled_dir = path.join(SLED);
        let layout = read_layout(path, &sled_dir, trees, value_bytes_max)?;
        remove_generating(&sled_dir)?;
        let config = sled::Config::new()
            .path(&sled_dir)
            .segment_size(layout.segment_bytes)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = guarded(path, "open", || config.open())?;
        guarded(path, "flush", || db.flush())?;
        sync_files(&sled_dir)?;
        let mark = Mutex::new(check_barrier(path, &db)?);
        let log_path = sled_dir.join("db");
        let log = OpenOptions::new().read(true).write(true).open(&log_path);
        let log = log.map_err(StorageError::io(&log_path, "open"))?;
        let (path, value_bytes_max) = (path.to_path_buf(), layout.value_bytes_max);
        Ok(Self { path, db, log, mark, value_bytes_max, _lock: lock })
    }

    pub(super) fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }

    /// Applies changes as one: sled recovers all of them or none.
    pub(super) fn apply(&self, ops: Vec<Op>) -> Result<(), StorageError> {
        let mut batch = sled::Batch::default();
        for op in ops {
            match op {
                Op::Put { tree, key, value } => {
                    let key = stored_key(tree, &key);
                    let value = stored_value(&key, value);
                    batch.insert(key, value);
                }
                Op::Delete { tree, key } => batch.remove(stored_key(tree, &key)),
            }
        }
        guarded(&self.path, "write", || self.db.apply_batch(batch))
    }

    /// Makes all that was applied durable.
    pub(super) fn barrier(&self) -> Result<(), StorageError> {
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        let number = mark.synced() + 1;
        let value = stored_value(&BARRIER_KEY, number.to_le_bytes().to_vec());
        guarded(&self.path, "write", || self.db.insert(BARRIER_KEY, value))?;
        guarded(&self.path, "flush", || self.db.flush())?;
        if self.blob_files()? > 0 {
            // No limit of ours lets this happen; if it does, durable still means durable.
            sync_files(&self.path.join(SLED))?;
        }
        self.log.sync_data().map_err(StorageError::io(&self.path.join(SLED).join("db"), "sync"))?;
        mark.advance(number)
    }

    /// Closes sled and waits until it has let go of its files, which some thread of its own does a little later.
    pub(super) fn close(self) -> Result<(), StorageError> {
        let Self { path, db, log, _lock, .. } = self;
        guarded(&path, "close", move || {
            drop(db);
            Ok(())
        })?;
        let waited = log.lock().and_then(|()| log.unlock());
        waited.map_err(StorageError::io(&path, "wait for the end of"))
    }

    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let key = stored_key(tree, key);
        let Some(stored) = guarded(&self.path, "read", || self.db.get(&key))? else { return Ok(None) };
        self.verified(&key, &stored).map(|value| Some(value.to_vec()))
    }

    pub(super) fn range(
        &self,
        tree: Tree,
        keys: Range<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Row>, StorageError> {
        let (from, to) = (stored_key(tree, keys.start), stored_key(tree, keys.end));
        if from >= to {
            return Ok(Vec::new());
        }
        let stored = guarded(&self.path, "read", || {
            let mut rows = self.db.range(from..to);
            let (mut stored, mut bytes) = (Vec::new(), 0);
            while stored.len() < limit {
                let next = match order {
                    Order::Ascending => rows.next(),
                    Order::Descending => rows.next_back(),
                };
                let Some((key, value)) = next.transpose()? else { break };
                bytes += key.len() + value.len();
                if bytes > RANGE_BYTES_MAX && !stored.is_empty() {
                    break;
                }
                stored.push((key, value));
            }
            Ok(stored)
        })?;
        let row = |(key, value): &(sled::IVec, sled::IVec)| {
            self.verified(key, value).map(|value| (key[1..].to_vec(), value.to_vec()))
        };
        stored.iter().map(row).collect()
    }

    pub(super) fn blob_files(&self) -> Result<usize, StorageError> {
        Ok(files::list(&self.path.join(SLED).join("blobs"))?.len())
    }

    pub(super) fn size_bytes(&self) -> Result<u64, StorageError> {
        let length = self.log.metadata().map_err(StorageError::io(&self.path, "read the size of"))?.len();
        Ok(length)
    }

    fn verified<'a>(&self, key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], StorageError> {
        value_of(key, stored).map_err(|reason| {
            let error = StorageError::damaged(&self.path, 0, &reason);
            // Without the marker the next opening would find nothing wrong. If it cannot be written, the
            // disk has other problems, and the error itself is on its way already.
            let _ = files::atomic_write(&self.path.join(DAMAGED), reason.as_bytes());
            error
        })
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used, reason = "only tests spoil a row")]
    pub(super) fn spoil(&self, tree: Tree, key: &[u8]) {
        let key = stored_key(tree, key);
        let mut stored = self.db.get(&key).unwrap().unwrap().to_vec();
        stored[0] ^= 1;
        self.db.insert(key, stored).unwrap();
    }
}

/// Calls sled, which panics where others return an error.
fn guarded<T>(
    path: &Path,
    op: &'static str,
    call: impl FnOnce() -> Result<T, sled::Error>,
) -> Result<T, StorageError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|source| StorageError::Engine { path: path.to_path_buf(), op, source }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let message = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            let message = message.unwrap_or_else(|| "no message".into());
            Err(StorageError::EnginePanic { path: path.to_path_buf(), message })
        }
    }
}

/// What the manifest says; a store that has none yet gets one before sled creates anything.
fn read_layout(
    path: &Path,
    sled_dir: &Path,
    trees: &[&str],
    value_bytes_max: usize,
) -> Result<Layout, StorageError> {
    let file = path.join(MANIFEST);
    let Some(fields) = FORM.read(&file)? else {
        if sled_dir.exists() {
            return Err(StorageError::damaged(&file, 0, "the manifest is missing beside the engine's files"));
        }
        Mark::create(path, 0)?;
        let small = value_bytes_max <= SMALL_VALUE_BYTES_MAX;
        let segment_bytes = if small { SEGMENT_BYTES_SMALL } else { SEGMENT_BYTES_LARGE };
        let (segment, value) = (segment_bytes.to_string(), value_bytes_max.to_string());
        FORM.write(&file, &[ENGINE.into(), segment, value, trees.join(",")])?;
        return Ok(Layout { segment_bytes, value_bytes_max });
    };
    let engine: String = manifest::field(&file, &fields, "engine", |text| Some(text.into()))?;
    let known: String = manifest::field(&file, &fields, "trees", |text| Some(text.into()))?;
    if engine != ENGINE || known.split(',').zip(trees).any(|(known, tree)| known != *tree) {
        let found = format!("engine {engine} with trees {known}");
        return Err(StorageError::UnknownFormat { file, found, known: FORM.format });
    }
    let number = |key| manifest::field(&file, &fields, key, |text| text.parse().ok());
    Ok(Layout { segment_bytes: number("segment_bytes")?, value_bytes_max: number("value_bytes_max")? })
}

/// Compares the newest barrier that sled knows with the one that was durable: sled opens a file that it cannot
/// read, or whose end is missing, without a word and with fewer rows.
fn check_barrier(path: &Path, db: &sled::Db) -> Result<Mark, StorageError> {
    if !Mark::exists(path) {
        return Err(StorageError::damaged(path, 0, "the file `synced` is missing beside the engine's files"));
    }
    let mut mark = Mark::open(path)?;
    let stored = guarded(path, "read", || db.get(BARRIER_KEY))?;
    let number = stored.map_or(Ok([0; 8]), |stored| {
        let value = value_of(&BARRIER_KEY, &stored)?;
        value.try_into().map_err(|_| "the number of the barrier has a wrong length".to_string())
    });
    let number = u64::from_le_bytes(number.map_err(|reason| StorageError::damaged(path, 0, reason))?);
    if number < mark.synced() {
        let durable = mark.synced();
        let reason = format!("barrier {durable} was durable, but the engine remembers barrier {number} only");
        return Err(StorageError::damaged(path, 0, reason));
    }
    mark.advance(number)?;
    mark.sync()?;
    Ok(mark)
}

/// Deletes what an opening that was cut short left behind; sled would call it damage for ever.
fn remove_generating(sled_dir: &Path) -> Result<(), StorageError> {
    if sled_dir.exists() {
        for file in files::list(sled_dir)? {
            if file.extension().is_some_and(|ending| ending == "generating") {
                files::remove(&file)?;
            }
        }
    }
    Ok(())
}

/// Syncs every file that sled has, and the folders that hold them.
fn sync_files(dir: &Path) -> Result<(), StorageError> {
    for path in files::list(dir)? {
        if path.is_dir() {
            sync_files(&path)?;
        } else {
            let file = File::open(&path).map_err(StorageError::io(&path, "open"))?;
            file.sync_all().map_err(StorageError::io(&path, "sync"))?;
        }
    }
    files::fsync_dir(dir)?;
    files::fsync_dir(files::parent_of(dir))
}
