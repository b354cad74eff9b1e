//! The few file operations that everything else is made of, each durable when it returns.
//!
//! A name in a folder is as durable as the last sync of the *folder*: a new, renamed or removed file needs both.
//! [`set_aside`] and [`remove_leftovers`] exist so that no other module deletes anything.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use super::error::StorageError;

/// Ending of files that are being written. What still has it at start is a leftover of a crash.
pub const UNFINISHED: &str = "tmp";

/// How many damaged copies of one folder are kept; an operator has to look before there can be more.
pub const SET_ASIDE_MAX: u32 = 100;

/// A file that is locked against every other opening of it, until this is dropped.
///
/// It is unlocked by name, not by being closed: a lock belongs to the open file, which each process that this one
/// forks has too until it executes its program (`flock(2)`), and a close here would leave it locked until then.
#[derive(Debug)]
pub struct LockedFile(File);

impl LockedFile {
    /// Opens `path` to be read and written, and created if need be, and locks it.
    ///
    /// # Errors
    /// [`StorageError::Locked`] when it is locked already, [`StorageError::Io`].
    pub fn open_or_create(path: &Path) -> Result<Self, StorageError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        Self::lock(options.open(path).map_err(StorageError::io(path, "open"))?, path)
    }

    /// As [`LockedFile::open_or_create`], of a file that is there.
    ///
    /// # Errors
    /// [`StorageError::Locked`] when it is locked already, [`StorageError::Io`].
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let mut options = OpenOptions::new();
        Self::lock(options.read(true).write(true).open(path).map_err(StorageError::io(path, "open"))?, path)
    }

    fn lock(file: File, path: &Path) -> Result<Self, StorageError> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StorageError::Locked { path: path.to_path_buf() }),
            Err(TryLockError::Error(error)) => Err(StorageError::io(path, "lock")(error)),
        }
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Should it fail, the close that follows does what it can.
        let _ = self.0.unlock();
    }
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// [`StorageError::Io`] when the folder cannot be opened or synced.
pub fn fsync_dir(dir: &Path) -> Result<(), StorageError> {
    let folder = File::open(dir).map_err(StorageError::io(dir, "open"))?;
    folder.sync_all().map_err(StorageError::io(dir, "sync"))
}

/// Creates `dir` with its parents; each new name is durable when this returns.
///
/// # Errors
/// [`StorageError::Io`] when a folder cannot be created or synced.
pub fn create_dir(dir: &Path) -> Result<(), StorageError> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(StorageError::io(dir, "create")(error)),
        _ => fsync_dir(parent.unwrap_or(Path::new("."))),
    }
}

/// Replaces the content of `path`: after a crash it holds the old bytes or the new ones, never a mixture.
///
/// # Errors
/// [`StorageError::Io`] when the file cannot be written, synced or renamed.
pub fn atomic_write(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let unfinished = unfinished_name(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&unfinished)
        .map_err(StorageError::io(&unfinished, "create"))?;
    file.write_all(bytes).map_err(StorageError::io(&unfinished, "write"))?;
    publish(&file, &unfinished, path)
}

/// Syncs the finished `file` and gives it its name, durably.
pub(super) fn publish(file: &File, unfinished: &Path, path: &Path) -> Result<(), StorageError> {
    file.sync_all().map_err(StorageError::io(unfinished, "sync"))?;
    fs::rename(unfinished, path).map_err(StorageError::io(path, "rename a finished file to"))?;
    fsync_dir(parent_of(path))
}

/// The name a file has while it is written.
pub(super) fn unfinished_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    PathBuf::from(name)
}

/// The folder of a file.
pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Deletes a file and makes that durable. A file that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(StorageError::io(path, "delete")(error)),
        _ => fsync_dir(parent_of(path)),
    }
}

/// Deletes what a crash left unfinished in `dir`; returns how many files that were.
pub(super) fn remove_leftovers(dir: &Path) -> Result<usize, StorageError> {
    let mut removed = 0;
    for path in list(dir)? {
        if path.extension().is_some_and(|ending| ending == UNFINISHED) {
            remove(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The paths in `dir`, sorted by name.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(StorageError::io(dir, "list"))? {
        paths.push(entry.map_err(StorageError::io(dir, "list"))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Moves a folder (or file) out of the way, to `<name>.damaged-<n>`, and leaves a note with the reason beside it.
/// Returns the new path, or `None` when there was nothing to move.
///
/// # Errors
/// [`StorageError::Io`] when it cannot be renamed; [`StorageError::TooLarge`] when [`SET_ASIDE_MAX`] copies exist.
pub fn set_aside(path: &Path, reason: &str) -> Result<Option<PathBuf>, StorageError> {
    if !path.exists() {
        return Ok(None);
    }
    for n in 1..=SET_ASIDE_MAX {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{n}"));
        let target = PathBuf::from(name);
        if target.exists() {
            continue;
        }
        fs::rename(path, &target).map_err(StorageError::io(path, "set aside"))?;
        fsync_dir(parent_of(path))?;
        let mut note = target.as_os_str().to_owned();
        note.push(".reason");
        atomic_write(Path::new(&note), format!("{reason}\n").as_bytes())?;
        return Ok(Some(target));
    }
    let limit = u64::from(SET_ASIDE_MAX);
    Err(StorageError::TooLarge { what: "number of damaged copies kept", bytes: limit + 1, limit })
}
