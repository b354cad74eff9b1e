//! What can go wrong with files, as a closed list.
//!
//! Two groups matter to a caller. *Refusals* ([`StorageError::OutOfOrder`], [`StorageError::TooLarge`]) say that
//! one request was wrong; the store goes on. Everything else is *fatal*: the store is poisoned, each later call
//! returns the same error, and the process has to end. Nothing here is ever retried, because after a failed sync
//! nobody knows which pages the kernel has dropped ("fsyncgate", <https://lwn.net/Articles/752063/>).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How a machine whose node has lost its data comes back, step by step. `old` is the lost node's id.
pub fn rejoin_steps(old: impl fmt::Display) -> String {
    format!(
        "choose a node id NEW that was never used; start this machine with \
         `chronarch server --config ... --node-id NEW --rejoin` (what is left of the data is set aside, not deleted), \
         then `chronarch cluster add NEW PEER_ADDRESS --promote`, then `chronarch cluster remove {old}`"
    )
}

/// A place in a file whose bytes are not what was written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The damaged, or missing, file.
    pub file: PathBuf,
    /// Byte in the file at which the first bad record starts.
    pub offset: u64,
    /// Log index at which the good part ends, where the file holds log entries and it is known.
    pub index: Option<u64>,
    /// What was expected and what was found.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at byte {}", self.file.display(), self.offset)?;
        if let Some(index) = self.index {
            write!(f, " (log index {index})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Every failure of this module. Cheap to clone: a poisoned store hands the same error to each caller.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused an operation on a file: a full disk, a dying disk, missing rights.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operation, as a verb.
        op: &'static str,
        /// The system's own error.
        source: Arc<io::Error>,
    },
    /// The log, or the vote in it, lost something that had been synced.
    #[error(
        "{0}; this node may have promised what it can no longer prove, so it does not start with what is left\n\
         hint: {steps}",
        steps = rejoin_steps("OLD")
    )]
    LogDamaged(Box<Damage>),
    /// A file that can be rebuilt (a snapshot, the run log, the manifest) is damaged.
    #[error("{0}")]
    Damaged(Box<Damage>),
    /// The log begins behind the newest whole snapshot: what the state was made of is gone.
    #[error(
        "the newest whole snapshot in {} is of log index {found}, but the log begins after index {purged}: the state \
         cannot be made again{refused}\nhint: {steps}",
        dir.display(),
        refused = listed(refused),
        steps = rejoin_steps("OLD")
    )]
    SnapshotLost {
        /// The folder of the snapshots.
        dir: PathBuf,
        /// Index of the newest whole snapshot; 0 when there is none.
        found: u64,
        /// The newest index that the log has forgotten.
        purged: u64,
        /// Why newer snapshots cannot be used.
        refused: Vec<StorageError>,
    },
    /// The file was written by another release, or is not ours at all.
    #[error("{} has format {found}, this release reads format {known}", file.display())]
    UnknownFormat {
        /// The file.
        file: PathBuf,
        /// The version, or the leading bytes, found in it.
        found: String,
        /// The version that this release reads.
        known: u32,
    },
    /// The files belong to another cluster.
    #[error(
        "{} belongs to cluster {found}, this node is configured for cluster {expected}\n\
         hint: check `data_dir`; never point a node at another cluster's files", file.display()
    )]
    OtherCluster {
        /// The file that says so.
        file: PathBuf,
        /// Cluster id in the file.
        found: String,
        /// Cluster id of this node.
        expected: String,
    },
    /// The files belong to another node: most likely a copied folder.
    #[error(
        "{} belongs to node {found}, this node is {expected}\n\
         hint: a copied data folder would vote twice under one name; give the new node an empty `data_dir`",
        file.display()
    )]
    OtherNode {
        /// The file that says so.
        file: PathBuf,
        /// Node id in the file.
        found: u64,
        /// Node id of this node.
        expected: u64,
    },
    /// Another process has the folder open.
    #[error("{} is in use by another process\nhint: stop the other node, or check `data_dir`", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Refusal: an entry, truncation or purge does not fit what the log holds.
    #[error("{op} at log index {found} does not fit: expected {expected}")]
    OutOfOrder {
        /// The operation.
        op: &'static str,
        /// The index that was handed in.
        found: u64,
        /// What would have been right.
        expected: String,
    },
    /// Refusal: a payload, key, value or request exceeds its named limit.
    #[error("{what} of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Refusal: a tree that was not named when the store was opened.
    #[error("the store has no tree {name}")]
    NoSuchTree {
        /// The name asked for.
        name: &'static str,
    },
    /// A thread of the store panicked, so that nothing more can be promised.
    #[error("the thread that writes {} panicked", path.display())]
    Panicked {
        /// The store.
        path: PathBuf,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// An operation made no progress for so long that waiting on is pointless.
    #[error("{op} in {} made no progress for {after:?}", path.display())]
    Stalled {
        /// The store.
        path: PathBuf,
        /// The operation.
        op: &'static str,
        /// How long it was given.
        after: Duration,
    },
    /// The key-value engine reported an error.
    #[error("cannot {op} in {}: {source}", path.display())]
    Engine {
        /// The store.
        path: PathBuf,
        /// The operation.
        op: &'static str,
        /// The engine's own error.
        source: sled::Error,
    },
    /// The key-value engine panicked, which is how it reports damage.
    #[error("the engine of {} panicked: {message}", path.display())]
    EnginePanic {
        /// The store.
        path: PathBuf,
        /// The panic's message.
        message: String,
    },
}

fn listed(refused: &[StorageError]) -> String {
    refused.iter().map(|error| format!("; {error}")).collect()
}

impl StorageError {
    /// Is only the request at fault? Otherwise the process has to end.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::OutOfOrder { .. } | Self::TooLarge { .. } | Self::NoSuchTree { .. })
    }

    /// Does the error say that bytes on disk are not what was written? The engine says it in many ways: a file that
    /// it takes for another release's is one, for the release is pinned, and stands in the store's manifest.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::LogDamaged(_) | Self::Damaged(_) | Self::EnginePanic { .. })
            || matches!(self, Self::Engine { source, .. } if !matches!(source, sled::Error::Io(_)))
    }

    pub(super) fn io(path: &Path, op: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_path_buf(), op, source: Arc::new(source) }
    }

    pub(super) fn log_damaged(
        file: &Path,
        offset: u64,
        index: Option<u64>,
        reason: impl Into<String>,
    ) -> Self {
        Self::LogDamaged(Box::new(Damage { file: file.to_path_buf(), offset, index, reason: reason.into() }))
    }

    /// The same damage, where it concerns the log.
    pub(super) fn of_log(self) -> Self {
        match self {
            Self::Damaged(damage) => Self::LogDamaged(damage),
            other => other,
        }
    }

    /// The same damage, with the way out.
    pub(super) fn hinted(mut self, hint: &str) -> Self {
        if let Self::Damaged(damage) = &mut self {
            damage.reason.push_str("\nhint: ");
            damage.reason.push_str(hint);
        }
        self
    }

    pub(super) fn damaged(file: &Path, offset: u64, reason: impl Into<String>) -> Self {
        Self::Damaged(Box::new(Damage {
            file: file.to_path_buf(),
            offset,
            index: None,
            reason: reason.into(),
        }))
    }
}
