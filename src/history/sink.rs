//! The run log as consensus hands it runs.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use prost::bytes::Bytes;

use super::{Gap, HistoryError, RunLog, StoredRow};
use crate::raft::{RunLogGap, RunSink, StoredRun};
use crate::state::run::Run;
use crate::storage::StorageError;

impl From<RunLogGap> for Gap {
    fn from(gap: RunLogGap) -> Self {
        Self { after: gap.after, through: gap.through }
    }
}

impl From<Gap> for RunLogGap {
    fn from(gap: Gap) -> Self {
        Self { after: gap.after, through: gap.through }
    }
}

impl RunLog {
    /// Rows that do not read are damage: the store can be rebuilt, but not gone on with.
    fn damaged(&self, error: HistoryError) -> StorageError {
        match error {
            HistoryError::Storage(error) => error,
            HistoryError::Codec(_) | HistoryError::Form => {
                StorageError::Damaged(Box::new(crate::storage::Damage {
                    file: self.shared.path.clone(),
                    offset: 0,
                    index: None,
                    reason: error.to_string(),
                }))
            }
        }
    }
}

impl RunSink for RunLog {
    fn append(&self, index: u64, runs: Vec<Arc<Run>>) -> BoxFuture<'_, Result<(), StorageError>> {
        Self::append(self, index, runs).boxed()
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), StorageError>> {
        Self::barrier(self).boxed()
    }

    fn complete(&self, through: u64) -> BoxFuture<'_, Result<(), StorageError>> {
        Self::complete(self, through).boxed()
    }

    fn failed(&self) -> BoxFuture<'static, StorageError> {
        Self::failed(self).boxed()
    }

    fn gap(&self) -> Option<RunLogGap> {
        Self::gap(self).map(RunLogGap::from)
    }

    fn set_gap(&self, gap: Option<RunLogGap>) -> BoxFuture<'_, Result<(), StorageError>> {
        Self::set_gap(self, gap.map(Gap::from)).boxed()
    }

    fn fill(&self, runs: Vec<StoredRun>) -> BoxFuture<'_, Result<(), StorageError>> {
        let row =
            |run: StoredRun| StoredRow { index: run.index, key: run.key.into(), value: run.value.into() };
        let rows = runs.into_iter().map(row).collect();
        async move { Self::fill(self, rows).await.map_err(|error| self.damaged(error)) }.boxed()
    }

    fn read(
        &self,
        gap: RunLogGap,
        cursor: Option<(u64, Bytes)>,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredRun>, StorageError>> {
        let cursor = cursor.map(|(index, key)| (index, key.into()));
        async move {
            let rows = Self::read(self, gap.into(), cursor, max_bytes).await;
            let run =
                |row: StoredRow| StoredRun { index: row.index, key: row.key.into(), value: row.value.into() };
            rows.map(|rows| rows.into_iter().map(run).collect()).map_err(|error| self.damaged(error))
        }
        .boxed()
    }
}
