//! The library's own suite for stores, on ours.

use std::sync::Arc;

use openraft::StorageError;
use openraft::errors::ErrorSource;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::harness::MemoryRunLog;
use crate::raft::fatal::Verdict;
use crate::raft::hashes::Hashes;
use crate::raft::log_store::LogStore;
use crate::raft::state_machine::{Published, SnapshotClock, StateMachine, Surroundings};
use crate::raft::types::TypeConfig;
use crate::storage::Identity;
use crate::storage::snapshot_file::SnapshotDir;
use crate::storage::wal::{Wal, WalOptions};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = TempDir::new().map_err(|error| StorageError::read(ErrorSource::from_error(&error)))?;
        let verdict = Verdict::new();
        let identity = Identity { cluster_id: [7; 16], node_id: 1 };
        let (wal, _) = Wal::open(&dir.path().join("log"), WalOptions::new(identity, true)).unwrap();
        let surroundings = Surroundings {
            published: Published::default(),
            sink: Arc::new(MemoryRunLog::default()),
            snapshots: SnapshotDir::open(&dir.path().join("snapshots")).unwrap(),
            clock: Arc::new(SnapshotClock::new(u64::MAX, u64::MAX)),
            hashes: Hashes::default(),
            verdict: verdict.clone(),
            observer: None,
            levels: crate::state::level::SPOKEN,
        };
        let machine = StateMachine::open(surroundings, None).await.unwrap();
        Ok((dir, LogStore::new(wal, verdict), machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_pass_the_suite_of_the_library() {
    Suite::test_all(Builder).await.unwrap();
}
