//! What ends a node, and how the word gets out.
//!
//! Nothing in this module panics or carries on after a storage error, and nothing here ends the process either: the
//! first error is kept, everyone who asks gets it, and the node, which waits for it, ends the process.

use std::sync::Arc;

use tokio::sync::watch;

use super::codec::CodecError;
use super::formation::FormationError;
use crate::state::level::LevelError;
use crate::storage::StorageError;

/// Why a node has to end. Cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FatalError {
    /// The log, a snapshot or the run log.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Bytes whose checksum holds do not decode: written by another release.
    #[error("cannot read {what}: {source}")]
    Undecodable {
        /// What was read.
        what: &'static str,
        /// Why not.
        source: Arc<CodecError>,
    },
    /// A snapshot whose checksums hold does not decode: written by another release.
    #[error("cannot read a snapshot: {0}")]
    Snapshot(String),
    /// Applying an entry broke an invariant of the state. Every node will find the same.
    #[error("applying log index {index} failed: {message}")]
    Apply {
        /// The entry's index.
        index: u64,
        /// What the panic said.
        message: String,
    },
    /// The node must not take part in the cluster that it found.
    #[error(transparent)]
    Formation(#[from] FormationError),
    /// The cluster has been raised to a level that this release does not speak.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// The consensus library gave up.
    #[error("consensus stopped: {0}")]
    Consensus(String),
}

impl FatalError {
    /// Of bytes of `what`, whose checksum holds.
    pub(super) fn undecodable(what: &'static str, error: CodecError) -> Self {
        match error {
            CodecError::Level(error) => Self::Level(error),
            error => Self::Undecodable { what, source: Arc::new(error) },
        }
    }
}

/// The one place where a fatal error is left. The first stays.
#[derive(Clone, Debug)]
pub(super) struct Verdict(watch::Sender<Option<FatalError>>);

impl Verdict {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Leaves an error, unless there is one already.
    pub(super) fn reach(&self, error: FatalError) {
        self.0.send_if_modified(|verdict| {
            let first = verdict.is_none();
            if first {
                tracing::error!(%error, "this node has to end");
                *verdict = Some(error);
            }
            first
        });
    }

    /// The error, if there is one.
    pub(super) fn get(&self) -> Option<FatalError> {
        self.0.borrow().clone()
    }

    /// Resolves with the error once there is one.
    pub(super) async fn wait(&self) -> FatalError {
        let mut verdict = self.0.subscribe();
        match verdict.wait_for(Option::is_some).await.map(|error| error.clone()) {
            Ok(Some(error)) => error,
            // Cannot be: `self` holds the sender, and the condition asked for `Some`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_error_stays() {
        let verdict = Verdict::new();
        verdict.reach(StorageError::Closed.into());
        verdict.reach(FatalError::Consensus("later".into()));
        assert!(matches!(verdict.get(), Some(FatalError::Storage(StorageError::Closed))));
        assert!(matches!(verdict.wait().await, FatalError::Storage(StorageError::Closed)));
    }
}
