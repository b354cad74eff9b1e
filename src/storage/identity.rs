//! Whose folder this is: the lock on a node's data folder, and the manifest in it.
//!
//! A Raft node must never vote twice in one term. So two processes must not share a folder (the lock), a folder
//! must not be used under another name (the manifest), and a copy of a folder must not be used beside the
//! original (both, as far as one machine can tell; the rest is an operator's duty).
//!
//! Order at start: [`DataDir::lock`] → [`DataDir::check`] → open the log, with `create` only when the folder was
//! [`Claim::Fresh`] → [`DataDir::claim`]. The manifest comes last, so that a folder that has one has a log: a log
//! that is missing there was lost. A crash between the steps leaves a fresh folder with an unused log, which
//! carries the identity too.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{StorageError, rejoin_steps};
use super::files::{self, LockedFile};
use super::manifest::{self, Form};

const LOCK: &str = "lock";
const MANIFEST: &str = "manifest";
const LOG: &str = "log";
const SNAPSHOTS: &str = "snapshots";
const HISTORY: &str = "history";

const FORM: Form = Form { title: "chronarch data folder", format: 1, keys: &["cluster", "node"] };

/// Names a node among all nodes of all clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Chosen once per cluster, at random.
    pub cluster_id: [u8; 16],
    /// Chosen once per node, never used again for another.
    pub node_id: u64,
}

impl Identity {
    /// Is this, as found in `file`, the `expected` one?
    ///
    /// # Errors
    /// [`StorageError::OtherCluster`] or [`StorageError::OtherNode`].
    pub fn check(&self, expected: &Self, file: &Path) -> Result<(), StorageError> {
        let file = file.to_path_buf();
        if self.cluster_id != expected.cluster_id {
            let (found, expected) =
                (Hex(&self.cluster_id).to_string(), Hex(&expected.cluster_id).to_string());
            return Err(StorageError::OtherCluster { file, found, expected });
        }
        if self.node_id != expected.node_id {
            return Err(StorageError::OtherNode { file, found: self.node_id, expected: expected.node_id });
        }
        Ok(())
    }
}

/// What the manifest says about a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// There is none: the folder has not been used.
    Fresh,
    /// It is this node's folder: everything that was in it must still be there.
    Known,
}

/// A locked data folder. The lock is held until this is dropped or the process ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: LockedFile,
}

impl DataDir {
    /// Creates the folder if need be, and locks it against other processes.
    ///
    /// # Errors
    /// [`StorageError::Locked`] or [`StorageError::Io`].
    pub fn lock(path: &Path) -> Result<Self, StorageError> {
        files::create_dir(path)?;
        let lock_path = path.join(LOCK);
        let lock = LockedFile::open_or_create(&lock_path)?;
        files::remove_leftovers(path)?;
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// Who the folder belongs to, or `None` for an unused one.
    ///
    /// # Errors
    /// [`StorageError::UnknownFormat`], [`StorageError::Damaged`] or [`StorageError::Io`].
    pub fn identity(&self) -> Result<Option<Identity>, StorageError> {
        self.read_manifest().map_err(|error| error.hinted(&rejoin_steps("OLD")))
    }

    fn read_manifest(&self) -> Result<Option<Identity>, StorageError> {
        let path = self.path.join(MANIFEST);
        let Some(fields) = FORM.read(&path)? else { return Ok(None) };
        Ok(Some(Identity {
            cluster_id: manifest::field(&path, &fields, "cluster", parse_hex)?,
            node_id: manifest::field(&path, &fields, "node", |text| text.parse().ok())?,
        }))
    }

    /// Is the folder `identity`'s, or free to be claimed?
    ///
    /// # Errors
    /// Those of [`DataDir::identity`], [`StorageError::OtherCluster`], [`StorageError::OtherNode`]; and
    /// [`StorageError::Damaged`] when the manifest is missing but snapshots or a run log are there.
    pub fn check(&self, identity: &Identity) -> Result<Claim, StorageError> {
        let path = self.path.join(MANIFEST);
        match self.identity()? {
            Some(found) => found.check(identity, &path).map(|()| Claim::Known),
            None if self.snapshots_dir().exists() || self.history_dir().exists() => {
                let reason = "the manifest is missing from a folder that is in use";
                Err(StorageError::damaged(&path, 0, reason).hinted(&rejoin_steps("OLD")))
            }
            None => Ok(Claim::Fresh),
        }
    }

    /// Writes the manifest. Only after the log has been created: see the module's essay.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn claim(&self, identity: &Identity) -> Result<(), StorageError> {
        let values = [Hex(&identity.cluster_id).to_string(), identity.node_id.to_string()];
        FORM.write(&self.path.join(MANIFEST), &values)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the log is.
    pub fn log_dir(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where the snapshots are.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// Where the run log is.
    pub fn history_dir(&self) -> PathBuf {
        self.path.join(HISTORY)
    }

    /// Moves everything a node is made of out of the way, for `--rejoin`: the folder is as good as new then, and
    /// the node has to join under a new id, for the old one's promises are lost. The manifest is moved first: a
    /// crash in between leaves a folder that is not mistaken for a complete one. Returns where things went.
    ///
    /// # Errors
    /// Those of [`files::set_aside`].
    pub fn set_aside(&self, reason: &str) -> Result<Vec<PathBuf>, StorageError> {
        let parts = [self.path.join(MANIFEST), self.log_dir(), self.snapshots_dir(), self.history_dir()];
        let mut moved = Vec::new();
        for part in parts {
            moved.extend(files::set_aside(&part, reason)?);
        }
        Ok(moved)
    }
}

struct Hex<'a>(&'a [u8; 16]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.is_ascii() && text.len() == 32;
    digits.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(u128::to_be_bytes)
}
