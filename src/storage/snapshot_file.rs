//! Snapshot files: one stream of bytes, cut into checked blocks, complete or not there at all.
//!
//! ```text
//! magic 8 | format 4 | length of meta 4 | meta | crc of all before 4
//! block:  length 4 (1..=1 MiB) | crc of block number, length and content 4 | content        (any number)
//! footer: zero 4 | content bytes 8 | crc of all content 4 | crc of the footer 4
//! ```
//!
//! A file gets its name only when it is complete and synced. `meta` is the caller's: what the snapshot is of. The
//! two newest are kept, so that a damaged one leaves another. What a peer sends is a snapshot file byte for byte:
//! it is written under an unfinished name and verified as a whole before it gets its own.
//!
//! All of this blocks: call it from a thread that may.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::StorageError;
use super::files;

mod read;
mod send;

pub use self::read::SnapshotReader;
pub use self::send::OutgoingSnapshot;

const MAGIC: &[u8; 8] = b"CHRONSNP";
/// Format of the files that this release writes and reads.
pub const FORMAT: u32 = 1;
/// Most content in a block.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Largest description of a snapshot.
pub const META_BYTES_MAX: usize = 1 << 20;
/// Snapshots that are kept.
pub const SNAPSHOTS_KEPT: usize = 2;

const ENDING: &str = "snapshot";

/// Names a snapshot: the last entry in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId {
    /// Index of the last entry in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
}

/// The newest snapshot that is whole, and those that were not.
#[derive(Debug, Default)]
pub struct Newest {
    /// Its id and its file.
    pub found: Option<(SnapshotId, PathBuf)>,
    /// Why newer ones were passed over: worth a line in the node's log each.
    pub refused: Vec<StorageError>,
}

/// The folder of a node's snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotDir {
    path: PathBuf,
}

impl SnapshotDir {
    /// Opens the folder, and deletes what a crash left unfinished.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        files::create_dir(path)?;
        files::remove_leftovers(path)?;
        Ok(Self { path: path.to_path_buf() })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that the snapshot `id` has, or would have.
    pub fn file(&self, id: SnapshotId) -> PathBuf {
        self.path.join(format!("{:020}-{:020}.{ENDING}", id.index, id.term))
    }

    /// All snapshots by name, newest first.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn list(&self) -> Result<Vec<SnapshotId>, StorageError> {
        let mut ids: Vec<_> = files::list(&self.path)?.iter().filter_map(|path| parse_name(path)).collect();
        ids.sort_by(|a, b| b.cmp(a));
        Ok(ids)
    }

    /// The newest snapshot of which every byte verifies, and which is what its name says: `id_of` reads that from the
    /// description. A file that has changed names would make a node begin with a state that its log does not follow.
    ///
    /// # Errors
    /// [`StorageError::Io`]; damage is not an error here but told in [`Newest::refused`].
    pub fn newest(&self, id_of: impl Fn(Bytes) -> Option<SnapshotId>) -> Result<Newest, StorageError> {
        let mut newest = Newest::default();
        for id in self.list()? {
            let file = self.file(id);
            let verified = SnapshotReader::open(&file).and_then(|reader| {
                let meta = reader.meta();
                reader.verify()?;
                match id_of(meta) {
                    Some(own) if own != id => {
                        let reason =
                            format!("it is the snapshot of log index {} under another name", own.index);
                        Err(StorageError::damaged(&file, 0, reason))
                    }
                    // What is whole and does not decode is for the caller to tell.
                    Some(_) | None => Ok(()),
                }
            });
            match verified {
                Ok(()) => {
                    newest.found = Some((id, file));
                    break;
                }
                Err(error @ StorageError::Io { .. }) => return Err(error),
                Err(error) => newest.refused.push(error),
            }
        }
        Ok(newest)
    }

    /// Begins to write the snapshot `id`. Nothing is seen of it before [`SnapshotWriter::finish`].
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] for a `meta` above [`META_BYTES_MAX`], or [`StorageError::Io`].
    pub fn create(&self, id: SnapshotId, meta: &[u8]) -> Result<SnapshotWriter, StorageError> {
        if meta.len() > META_BYTES_MAX {
            let (bytes, limit) = (meta.len() as u64, META_BYTES_MAX as u64);
            return Err(StorageError::TooLarge { what: "description of a snapshot", bytes, limit });
        }
        let mut unfinished = Unfinished::create(self.file(id), "building")?;
        let mut header = Vec::with_capacity(meta.len() + 20);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&(meta.len() as u32).to_le_bytes());
        header.extend_from_slice(meta);
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        unfinished.write(&header)?;
        Ok(SnapshotWriter {
            unfinished,
            block: Vec::new(),
            blocks: 0,
            content_bytes: 0,
            content: crc32fast::Hasher::new(),
        })
    }

    /// Begins to receive the snapshot `id` from a peer, byte for byte.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn receive(&self, id: SnapshotId) -> Result<IncomingSnapshot, StorageError> {
        Ok(IncomingSnapshot { unfinished: Unfinished::create(self.file(id), "receiving")? })
    }

    /// Deletes all but the [`SNAPSHOTS_KEPT`] newest. One that is being read stays readable until it is closed.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn delete_old(&self) -> Result<(), StorageError> {
        for id in self.list()?.into_iter().skip(SNAPSHOTS_KEPT) {
            files::remove(&self.file(id))?;
        }
        Ok(())
    }
}

fn parse_name(path: &Path) -> Option<SnapshotId> {
    if path.extension()? != ENDING {
        return None;
    }
    let (index, term) = path.file_stem()?.to_str()?.split_once('-')?;
    Some(SnapshotId { index: index.parse().ok()?, term: term.parse().ok()? })
}

/// A file without its name yet; deleted when it is dropped unfinished.
#[derive(Debug)]
struct Unfinished {
    target: PathBuf,
    path: PathBuf,
    file: BufWriter<File>,
    published: bool,
}

impl Unfinished {
    /// `purpose` keeps a snapshot that is built apart from one with the same name that is received.
    fn create(target: PathBuf, purpose: &str) -> Result<Self, StorageError> {
        let path = files::unfinished_name(&target.with_extension(purpose));
        let open = OpenOptions::new().write(true).create(true).truncate(true).open(&path);
        let file = open.map_err(StorageError::io(&path, "create"))?;
        Ok(Self { target, path, file: BufWriter::with_capacity(BLOCK_BYTES_MAX, file), published: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file.write_all(bytes).map_err(StorageError::io(&self.path, "write"))
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.file.flush().map_err(StorageError::io(&self.path, "write"))
    }

    fn publish(mut self) -> Result<PathBuf, StorageError> {
        self.flush()?;
        files::publish(self.file.get_ref(), &self.path, &self.target)?;
        self.published = true;
        Ok(self.target.clone())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be deleted here is deleted when the folder is opened again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a snapshot. Also a [`Write`], for encoders that want one.
#[derive(Debug)]
pub struct SnapshotWriter {
    unfinished: Unfinished,
    block: Vec<u8>,
    blocks: u64,
    content_bytes: u64,
    content: crc32fast::Hasher,
}

impl SnapshotWriter {
    /// Adds content, of any length.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn add(&mut self, mut bytes: &[u8]) -> Result<(), StorageError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES_MAX - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK_BYTES_MAX {
                self.write_block()?;
            }
        }
        Ok(())
    }

    /// Completes, syncs and names the snapshot. Returns its file.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn finish(mut self) -> Result<PathBuf, StorageError> {
        self.write_block()?;
        let mut footer = Vec::with_capacity(20);
        footer.extend_from_slice(&0_u32.to_le_bytes());
        footer.extend_from_slice(&self.content_bytes.to_le_bytes());
        footer.extend_from_slice(&self.content.finalize().to_le_bytes());
        footer.extend_from_slice(&crc32fast::hash(&footer).to_le_bytes());
        self.unfinished.write(&footer)?;
        self.unfinished.publish()
    }

    fn write_block(&mut self) -> Result<(), StorageError> {
        if !self.block.is_empty() {
            self.unfinished.write(&(self.block.len() as u32).to_le_bytes())?;
            self.unfinished.write(&block_crc(self.blocks, &self.block).to_le_bytes())?;
            self.unfinished.write(&self.block)?;
            self.content.update(&self.block);
            self.content_bytes += self.block.len() as u64;
            self.blocks += 1;
            self.block.clear();
        }
        Ok(())
    }
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes).map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // Nothing counts before `finish`.
    }
}

/// A snapshot that arrives from a peer, in pieces of any size.
#[derive(Debug)]
pub struct IncomingSnapshot {
    unfinished: Unfinished,
}

impl IncomingSnapshot {
    /// Adds bytes of the *file*, as they were read from the peer's.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.unfinished.write(bytes)
    }

    /// Verifies every byte, syncs the file and names it. Returns it.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] or [`StorageError::UnknownFormat`] for what arrived, or [`StorageError::Io`].
    pub fn finish(mut self) -> Result<PathBuf, StorageError> {
        self.unfinished.flush()?;
        SnapshotReader::open(&self.unfinished.path)?.verify()?;
        self.unfinished.publish()
    }
}

fn block_crc(number: u64, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&(content.len() as u32).to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}
