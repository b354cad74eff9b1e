//! What a log says of itself: its size, its counts, and that it has failed.

use std::future::Future;
use std::sync::atomic::Ordering;

use super::Wal;
use crate::storage::error::StorageError;

/// Counts since the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalStats {
    /// Groups written.
    pub groups: u64,
    /// `fdatasync` calls made for them.
    pub syncs: u64,
    /// Records written.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
}

impl Wal {
    /// Resolves with the error that ended the log, as soon as anybody met it; never for a log that was closed.
    ///
    /// The writer works by itself too: it deletes purged segments and syncs the watermark. An error there would stay
    /// unheard until the next append or vote, and the node would go on half alive.
    pub fn failed(&self) -> impl Future<Output = StorageError> + Send + use<> {
        // The receiver alone, so that waiting does not keep the log open.
        let mut failure = self.shared.failure.subscribe();
        async move {
            match failure.wait_for(Option::is_some).await.map(|error| error.clone()) {
                Ok(Some(error)) => error,
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
    }

    /// Bytes from the start of the oldest segment to the end of the newest: what a snapshot and a purge can free.
    pub fn size_bytes(&self) -> u64 {
        let state = self.shared.lock();
        state.end - state.bases.front().copied().unwrap_or_default()
    }

    /// Counts since the log was opened.
    pub fn stats(&self) -> WalStats {
        let counts = &self.shared.counts;
        WalStats {
            groups: counts.groups.load(Ordering::Relaxed),
            syncs: counts.syncs.load(Ordering::Relaxed),
            records: counts.records.load(Ordering::Relaxed),
            bytes: counts.bytes.load(Ordering::Relaxed),
        }
    }
}
