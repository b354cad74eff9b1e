//! Reading a snapshot file as it is, for a peer that stores it as it is.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::storage::error::StorageError;

/// A snapshot file on its way to a peer. Opened once, so that a newer snapshot may take its place meanwhile.
///
/// Nothing is verified here: the peer verifies what it got, every byte of it.
#[derive(Debug)]
pub struct OutgoingSnapshot {
    path: PathBuf,
    file: File,
    file_bytes: u64,
}

impl OutgoingSnapshot {
    /// Opens a snapshot file.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let file = File::open(path).map_err(StorageError::io(path, "open"))?;
        let file_bytes = file.metadata().map_err(StorageError::io(path, "measure"))?.len();
        Ok(Self { path: path.to_path_buf(), file, file_bytes })
    }

    /// Size of the file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The next `bytes_max` bytes, fewer at the end, `None` behind it.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn read(&mut self, bytes_max: usize) -> Result<Option<Bytes>, StorageError> {
        let mut bytes = Vec::with_capacity(bytes_max);
        let read = self.file.by_ref().take(bytes_max as u64).read_to_end(&mut bytes);
        read.map_err(StorageError::io(&self.path, "read"))?;
        Ok((!bytes.is_empty()).then(|| bytes.into()))
    }
}
