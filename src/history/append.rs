//! Appending: from finished runs to rows.

use std::sync::Arc;

use super::rows::Rows;
use super::{HistoryError, JOBS, RunLog, Write, keys, transfer};
use crate::state::run::{Run, RunId};
use crate::storage::StorageError;
use crate::storage::store::Op;

/// Run keys in one row of an index, so that no row is large.
pub(super) const KEYS_PER_ROW: usize = 256;
/// Bytes of a run's value before the run: the log index.
const VALUE_HEAD: usize = 8;

/// The rows of one run but for that of its index. They share a request with all of its entry.
pub(super) fn run_ops(rows: &Rows, index: u64, run: &Run, encoded: &[u8]) -> [Op; 2] {
    let value = [index.to_be_bytes().as_slice(), encoded].concat();
    [
        Op::Put { tree: rows.runs, key: keys::run(run.id), value },
        Op::Put { tree: rows.decisions, key: keys::decision(run.fired_at, run.id), value: Vec::new() },
    ]
}

/// The rows of all that the entry at `index` ended; `ids` in order.
pub(super) fn index_ops(rows: &Rows, index: u64, ids: &[RunId]) -> Vec<Op> {
    let parts = ids.chunks(KEYS_PER_ROW).zip(0u32..);
    let put = |(part, number): (&[RunId], u32)| Op::Put {
        tree: rows.indexes,
        key: keys::index(index, number),
        value: part.iter().flat_map(|id| keys::identity(*id)).collect(),
    };
    parts.map(put).collect()
}

/// The index and the run's bytes in a value.
pub(super) fn split_value(value: &[u8]) -> Result<(u64, &[u8]), HistoryError> {
    let (head, run) = value.split_at_checked(VALUE_HEAD).ok_or(HistoryError::Form)?;
    Ok((transfer::read_number(head)?, run))
}

impl RunLog {
    /// Takes the runs that the entry at `index` ended, all of them at once; the same ones may come
    /// again. Waits while the store's queue is full. Calls must come one after the other.
    ///
    /// # Errors
    /// The error that ended the store; the node has to end.
    pub async fn append(&self, index: u64, runs: Vec<Arc<Run>>) -> Result<(), StorageError> {
        if runs.is_empty() {
            return Ok(());
        }
        let rows = &self.shared.rows;
        let mut ops = Vec::with_capacity(runs.len() * 2 + 3);
        let mut ids: Vec<RunId> = runs.iter().map(|run| run.id).collect();
        ids.sort_unstable();
        for run in &runs {
            ops.extend(run_ops(rows, index, run, &run.encode()));
        }
        {
            let mut memory = self.shared.memory();
            memory.last_index = memory.last_index.max(index);
            memory.appending = Some(index);
            if index <= memory.census.through() {
                memory.census.begin_anew();
            }
            if memory.named.len() + runs.len() > JOBS {
                memory.named.clear();
            }
            for run in &runs {
                memory.grow(run.id.job);
                memory.queued.insert(run.id, (index, Arc::clone(run)));
                if memory.named.insert(run.id.job) {
                    ops.push(Op::Put { tree: rows.names, key: keys::named(run), value: Vec::new() });
                }
            }
            let last = memory.last_index.to_be_bytes().to_vec();
            ops.push(Op::Put { tree: rows.marks, key: keys::LAST.to_vec(), value: last });
            if memory.through == Some(0) {
                // From its first run on a store says that it is complete through nothing: see `RunLog::open`.
                let (key, value) = (keys::THROUGH.to_vec(), 0_u64.to_be_bytes().to_vec());
                ops.push(Op::Put { tree: rows.marks, key, value });
            }
        }
        // Last, so that a run that the index names is there even when a crash splits the requests.
        ops.extend(index_ops(rows, index, &ids));
        if let Some(written) = self.shared.unless_failed(rows.write(ops)).await? {
            let write = Write { written: Box::pin(written.visible()), index, ids };
            self.shared.memory().writes.push_back(write);
        }
        self.shared.memory().appending = None;
        Ok(())
    }

    /// Says that everything through `index` was appended, and waits until that is durable, with all that was.
    ///
    /// # Errors
    /// The error that ended the store; the node has to end.
    pub async fn complete(&self, index: u64) -> Result<(), StorageError> {
        let rows = &self.shared.rows;
        let through = self.shared.memory().through.unwrap_or(0).max(index);
        let (tree, key, value) = (rows.marks, keys::THROUGH.to_vec(), through.to_be_bytes().to_vec());
        self.shared.unless_failed(rows.write(vec![Op::Put { tree, key, value }])).await?;
        self.barrier().await?;
        self.shared.memory().through = Some(through);
        Ok(())
    }

    /// Waits until all that was appended so far is durable.
    ///
    /// # Errors
    /// The error that ended the store; the node has to end.
    pub async fn barrier(&self) -> Result<(), StorageError> {
        self.shared.unless_failed(self.shared.rows.barrier()).await
    }
}
