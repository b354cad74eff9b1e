//! A node's data folder: opened in the order in which a node opens it, and read to the last byte.

use std::path::Path;

use bytes::Bytes;
use chronarch::history::{Gap, RunLog};
use chronarch::storage::identity::Claim;
use chronarch::storage::snapshot_file::{SnapshotDir, SnapshotId, SnapshotReader};
use chronarch::storage::wal::Opened;
use chronarch::storage::{DataDir, EntryId, Identity, StorageError, Wal, WalOptions};

use crate::work::{Log, runs_at, snapshot_content};

/// Whose folder it is.
pub(crate) const OURS: Identity = Identity { cluster_id: [0xC7; 16], node_id: 3 };

/// An open folder.
pub(crate) struct Folder {
    pub(crate) wal: Wal,
    pub(crate) opened: Opened,
    pub(crate) snapshots: SnapshotDir,
    pub(crate) run_log: Option<RunLog>,
    _dir: DataDir,
}

/// Segments so small that many begin and end.
fn options(create: bool) -> WalOptions {
    WalOptions { segment_bytes: 32 << 10, tail_bytes: 16 << 10, ..WalOptions::new(OURS, create) }
}

impl Folder {
    /// Opens what a node opens (`raft::startup`), in its order; the run log only if it is asked for.
    pub(crate) fn open(root: &Path, run_log: bool) -> Result<Self, StorageError> {
        let dir = DataDir::lock(root)?;
        let claim = dir.check(&OURS)?;
        let (wal, opened) = Wal::open(&dir.log_dir(), options(claim == Claim::Fresh))?;
        if claim == Claim::Fresh {
            dir.claim(&OURS)?;
        }
        let run_log = run_log.then(|| RunLog::open(&dir.history_dir())).transpose()?;
        let snapshots = SnapshotDir::open(&dir.snapshots_dir())?;
        Ok(Self { wal, opened, snapshots, run_log, _dir: dir })
    }

    /// Everything in the log, from the first entry to the last.
    pub(crate) async fn log(&self) -> Result<Log, StorageError> {
        let mut log = Log {
            vote: self.opened.vote.clone(),
            purged: self.opened.purged,
            last: self.opened.last,
            ..Log::default()
        };
        let mut from = 0;
        loop {
            let entries = self.wal.read(from..u64::MAX, 1 << 20).await?;
            let Some(last) = entries.last() else { break };
            from = last.id.index + 1;
            log.entries.extend(entries);
        }
        let newest = log.entries.back().map(|entry| entry.id).or(log.purged);
        assert_eq!(newest, log.last, "the entries end where the log says");
        Ok(log)
    }

    /// The newest snapshot, of which every byte is right; and how many were passed over.
    pub(crate) fn snapshot(&self) -> Result<(Option<EntryId>, usize), StorageError> {
        let newest = self.snapshots.newest(id_of)?;
        let refused = newest.refused.len();
        let Some((id, file)) = newest.found else { return Ok((None, refused)) };
        let mut reader = SnapshotReader::open(&file)?;
        assert_eq!(reader.meta(), meta(id), "the description of {id:?}");
        let mut content = Vec::new();
        while let Some(block) = reader.next_block()? {
            content.extend_from_slice(&block);
        }
        let id = EntryId { term: id.term, node: 1, index: id.index };
        assert!(content == snapshot_content(id), "the content of snapshot {id:?}");
        Ok((Some(id), refused))
    }

    /// Writes the snapshot of everything through `id`.
    pub(crate) fn take_snapshot(&self, id: EntryId) -> Result<(), StorageError> {
        let name = SnapshotId { index: id.index, term: id.term };
        let mut writer = self.snapshots.create(name, &meta(name))?;
        for piece in snapshot_content(id).chunks(70_000) {
            writer.add(piece)?;
        }
        writer.finish()?;
        self.snapshots.delete_old()
    }

    /// The run log must have all runs through `acknowledged`, whichever way it is asked, and of those behind it, up
    /// to `written`, none that is altered.
    pub(crate) async fn check_runs(&self, acknowledged: u64, written: u64) -> Result<(), String> {
        let Some(log) = &self.run_log else { return Ok(()) };
        let fail = |error: &dyn std::fmt::Display| error.to_string();
        let everything = Gap { after: 0, through: u64::MAX };
        let (mut by_index, mut cursor) = (Vec::new(), None);
        loop {
            let rows = log.read(everything, cursor, 1 << 20).await.map_err(|error| fail(&error))?;
            let Some(last) = rows.last() else { break };
            cursor = Some((last.index, last.key.clone()));
            by_index.extend(rows);
        }
        let by_decision = log.newest(None, usize::MAX >> 1).map_err(|error| fail(&error))?;
        for index in 1..=written {
            for run in runs_at(index) {
                let found = log.get(run.id).map_err(|error| fail(&error))?;
                let encoded = run.encode();
                let indexed = by_index.iter().any(|row| row.index == index && row.value == *encoded);
                match found {
                    Some(found) if *found != *run => return Err(format!("run {:?} is altered", run.id)),
                    None if index <= acknowledged => {
                        return Err(format!("run {:?} of index {index} is lost", run.id));
                    }
                    _ if index > acknowledged => {}
                    _ if !indexed => {
                        return Err(format!("run {:?} is not found by its index {index}", run.id));
                    }
                    _ if !by_decision.contains(&run) => {
                        return Err(format!("run {:?} is not found by its decision", run.id));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Closes everything, so that the folder can be copied, or opened again.
    pub(crate) async fn close(self) -> Result<(), StorageError> {
        self.wal.close().await?;
        match self.run_log {
            Some(log) => log.close().await,
            None => Ok(()),
        }
    }
}

fn id_of(meta: Bytes) -> Option<SnapshotId> {
    let text = std::str::from_utf8(&meta).ok()?;
    let (index, term) = text.strip_prefix("snapshot ")?.split_once(' ')?;
    Some(SnapshotId { index: index.parse().ok()?, term: term.parse().ok()? })
}

fn meta(id: SnapshotId) -> Bytes {
    Bytes::from(format!("snapshot {} {}", id.index, id.term))
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file");
        }
    }
}

/// A folder for one test; it stays, and says where, when the test fails.
pub(crate) struct Kept(Option<tempfile::TempDir>);

impl Kept {
    pub(crate) fn new() -> Self {
        Self(Some(tempfile::tempdir().expect("a folder")))
    }

    /// Its path, without symbolic links.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        let dir = self.0.as_ref().expect("it is given up only when it is dropped");
        dir.path().canonicalize().expect("it is there")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.0.take()
        {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

/// How many rounds a test makes, and its seed: both can be set from outside, for long runs and to repeat one.
pub(crate) fn rounds(usual: u64) -> u64 {
    number("CHRONARCH_STORAGE_FACTOR").map_or(usual, |factor| usual * factor)
}

/// The seed of a test.
pub(crate) fn seed(usual: u64) -> u64 {
    number("CHRONARCH_STORAGE_SEED").unwrap_or(usual)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
