//! Reading a snapshot file: nothing is handed out before its checksum was verified.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};

use super::{BLOCK_BYTES_MAX, FORMAT, MAGIC, META_BYTES_MAX, block_crc};
use crate::storage::error::StorageError;

/// Reads a snapshot block by block. Also a [`Read`], for decoders that want one.
///
/// Content counts as whole only once the end was reached without an error: [`SnapshotReader::next_block`] returned
/// `None`, or a read returned 0.
#[derive(Debug)]
pub struct SnapshotReader {
    path: PathBuf,
    file: BufReader<File>,
    meta: Bytes,
    offset: u64,
    blocks: u64,
    content_bytes: u64,
    content: crc32fast::Hasher,
    block: Bytes,
    ended: bool,
}

impl SnapshotReader {
    /// Opens a snapshot file and verifies its header.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], [`StorageError::UnknownFormat`] or [`StorageError::Io`].
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let file = File::open(path).map_err(StorageError::io(path, "open"))?;
        let mut reader = Self {
            path: path.to_path_buf(),
            file: BufReader::with_capacity(BLOCK_BYTES_MAX, file),
            meta: Bytes::new(),
            offset: 0,
            blocks: 0,
            content_bytes: 0,
            content: crc32fast::Hasher::new(),
            block: Bytes::new(),
            ended: false,
        };
        reader.read_header()?;
        Ok(reader)
    }

    /// The caller's description of the snapshot.
    pub fn meta(&self) -> Bytes {
        self.meta.clone()
    }

    /// The next block of content, or `None` after the last one, when all of it has been verified.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] with the place of the first bad byte range, or [`StorageError::Io`].
    pub fn next_block(&mut self) -> Result<Option<Bytes>, StorageError> {
        if self.ended {
            return Ok(None);
        }
        let start = self.offset;
        let length = self.take(4, "a block")?.get_u32_le() as usize;
        if length == 0 {
            return self.read_footer(start).map(|()| None);
        }
        if length > BLOCK_BYTES_MAX {
            return Err(self.damaged(start, format!("a block claims {length} bytes")));
        }
        let crc = self.take(4, "a block")?.get_u32_le();
        let content = self.take(length, "a block")?;
        let expected = block_crc(self.blocks, &content);
        if crc != expected {
            let reason = format!("block checksum is {crc:08x}, its bytes give {expected:08x}");
            return Err(self.damaged(start, reason));
        }
        self.blocks += 1;
        self.content_bytes += content.len() as u64;
        self.content.update(&content);
        Ok(Some(content))
    }

    /// Reads to the end; returns how much content there is.
    ///
    /// # Errors
    /// Those of [`SnapshotReader::next_block`].
    pub fn verify(mut self) -> Result<u64, StorageError> {
        while self.next_block()?.is_some() {}
        Ok(self.content_bytes)
    }

    fn read_header(&mut self) -> Result<(), StorageError> {
        let fixed = self.take(16, "the header")?;
        if !fixed.starts_with(MAGIC) {
            return Err(self.damaged(0, "the file does not start with a snapshot's magic"));
        }
        let mut fields = fixed.slice(8..);
        let (format, meta_bytes) = (fields.get_u32_le(), fields.get_u32_le() as usize);
        if format != FORMAT {
            let (file, found) = (self.path.clone(), format.to_string());
            return Err(StorageError::UnknownFormat { file, found, known: FORMAT });
        }
        if meta_bytes > META_BYTES_MAX {
            return Err(self.damaged(12, format!("the description claims {meta_bytes} bytes")));
        }
        self.meta = self.take(meta_bytes, "the description")?;
        let crc = self.take(4, "the header")?.get_u32_le();
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&fixed);
        hasher.update(&self.meta);
        if crc != hasher.finalize() {
            return Err(self.damaged(0, "the checksum of the header does not match"));
        }
        Ok(())
    }

    fn read_footer(&mut self, start: u64) -> Result<(), StorageError> {
        let footer = self.take(16, "the footer")?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&0_u32.to_le_bytes());
        hasher.update(&footer[..12]);
        let mut fields = footer;
        let (content_bytes, crc, own) = (fields.get_u64_le(), fields.get_u32_le(), fields.get_u32_le());
        if own != hasher.finalize() {
            return Err(self.damaged(start, "the checksum of the footer does not match"));
        }
        if (content_bytes, crc) != (self.content_bytes, self.content.clone().finalize()) {
            let reason = format!(
                "the content is not what was written: {} of {content_bytes} bytes",
                self.content_bytes
            );
            return Err(self.damaged(start, reason));
        }
        let more = self.file.read(&mut [0]).map_err(StorageError::io(&self.path, "read"))?;
        if more != 0 {
            return Err(self.damaged(self.offset, "there is something behind the footer"));
        }
        self.ended = true;
        Ok(())
    }

    fn take(&mut self, length: usize, what: &str) -> Result<Bytes, StorageError> {
        let mut bytes = vec![0; length];
        match self.file.read_exact(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(self.damaged(self.offset, format!("the file ends within {what}")));
            }
            other => other.map_err(StorageError::io(&self.path, "read"))?,
        }
        self.offset += length as u64;
        Ok(bytes.into())
    }

    fn damaged(&self, offset: u64, reason: impl Into<String>) -> StorageError {
        StorageError::damaged(&self.path, offset, reason)
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() {
            match self.next_block().map_err(io::Error::other)? {
                Some(block) => self.block = block,
                None => return Ok(0),
            }
        }
        let length = out.len().min(self.block.len());
        self.block.copy_to_slice(&mut out[..length]);
        Ok(length)
    }
}
