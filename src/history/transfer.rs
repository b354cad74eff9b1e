//! From node to node: the part of the run log that a node lacks, and how it gets it.
//!
//! A node that installs a snapshot never applies the entries below it; the runs that they ended are
//! its *gap*. It is stored, so that a restart does not forget it, and filled from another node.

use std::collections::{BTreeMap, BTreeSet};

use super::append::{KEYS_PER_ROW, index_ops, run_ops, split_value};
use super::census::named_in;
use super::rows::above;
use super::{HistoryError, RunLog, Shared, keys};
use crate::state::run::{Run, RunId};
use crate::storage::StorageError;
use crate::storage::store::Op;

/// Rows of the index that are read at a time.
const ROWS: usize = 256;

/// The indexes `(after, through]` whose runs this node lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Last index before the gap.
    pub after: u64,
    /// Last index in it.
    pub through: u64,
}

/// A run as one node hands it to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Index of the entry that ended it.
    pub index: u64,
    /// Its identity, in the order of the log for equal indexes.
    pub key: Vec<u8>,
    /// The run.
    pub value: Vec<u8>,
}

pub(super) fn read_number(bytes: &[u8]) -> Result<u64, HistoryError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| HistoryError::Form)
}

pub(super) fn read_gap(bytes: &[u8]) -> Result<Gap, HistoryError> {
    let (after, through) = bytes.split_at_checked(8).ok_or(HistoryError::Form)?;
    Ok(Gap { after: read_number(after)?, through: read_number(through)? })
}

impl Shared {
    /// What the entry at `index` ended, as far as it is known here, in order.
    pub(super) fn ids_at(&self, index: u64) -> Result<BTreeSet<RunId>, HistoryError> {
        let rows = &self.rows;
        let high = above(&keys::index(index, u32::MAX));
        // the state's limit on the commands of an entry keeps this far below what one range returns
        let found = rows.oldest(rows.indexes, &keys::index(index, 0), &high, usize::MAX)?;
        let mut ids = BTreeSet::new();
        for (_, value) in found {
            for id in named_in(&value) {
                ids.insert(id?);
            }
        }
        Ok(ids)
    }

    /// The changes that make the rows of an index, which named `before` runs, say exactly `after`.
    pub(super) fn reindex(&self, index: u64, before: usize, after: &BTreeSet<RunId>) -> Vec<Op> {
        let ids: Vec<RunId> = after.iter().copied().collect();
        let mut ops = index_ops(&self.rows, index, &ids);
        for part in ids.len().div_ceil(KEYS_PER_ROW)..before.div_ceil(KEYS_PER_ROW) {
            let key = keys::index(index, u32::try_from(part).unwrap_or(u32::MAX));
            ops.push(Op::Delete { tree: self.rows.indexes, key });
        }
        ops
    }

    fn fill(&self, stored: &[StoredRow]) -> Result<Vec<Op>, HistoryError> {
        let rows = &self.rows;
        let mut ops = Vec::new();
        let mut by_index: BTreeMap<u64, BTreeSet<RunId>> = BTreeMap::new();
        let mut grown = Vec::new();
        for row in stored {
            let run = Run::decode(&row.value)?;
            if keys::identified(&row.key) != Some(run.id) {
                return Err(HistoryError::Form);
            }
            if rows.get(rows.runs, &keys::run(run.id))?.is_none() {
                ops.extend(run_ops(rows, row.index, &run, &row.value));
                ops.push(Op::Put { tree: rows.names, key: keys::named(&run), value: Vec::new() });
                grown.push(run.id.job);
            }
            by_index.entry(row.index).or_default().insert(run.id);
        }
        for (index, mut ids) in by_index {
            let known = self.ids_at(index)?;
            let before = known.len();
            ids.extend(known);
            ops.extend(self.reindex(index, before, &ids));
        }
        let mut memory = self.memory();
        grown.into_iter().for_each(|job| memory.grow(job));
        Ok(ops)
    }
}

impl RunLog {
    /// The gap, as stored.
    #[must_use]
    pub fn gap(&self) -> Option<Gap> {
        self.shared.memory().gap
    }

    /// Stores the gap, or that there is none; it is durable when this returns, with all that was
    /// appended or filled before.
    ///
    /// # Errors
    /// The error that ended the store; the node has to end.
    pub async fn set_gap(&self, gap: Option<Gap>) -> Result<(), StorageError> {
        let rows = &self.shared.rows;
        let (tree, key) = (rows.marks, keys::GAP.to_vec());
        let through = self.shared.memory().through.max(gap.map(|gap| gap.through));
        let mut ops = vec![match gap {
            Some(gap) => {
                let value = [gap.after.to_be_bytes(), gap.through.to_be_bytes()].concat();
                Op::Put { tree, key, value }
            }
            None => Op::Delete { tree, key },
        }];
        if let Some(through) = through {
            let (key, value) = (keys::THROUGH.to_vec(), through.to_be_bytes().to_vec());
            ops.push(Op::Put { tree, key, value });
        }
        rows.write(ops).await?;
        self.barrier().await?;
        let mut memory = self.shared.memory();
        (memory.gap, memory.through) = (gap, through);
        Ok(())
    }

    /// Takes runs of another node; those that are here stay as they are. Durable at the next
    /// [`RunLog::set_gap`].
    ///
    /// # Errors
    /// [`HistoryError`]; when a row is no run, nothing is taken.
    pub async fn fill(&self, stored: Vec<StoredRow>) -> Result<(), HistoryError> {
        let _changing = self.shared.changing.lock().await;
        let ops = self.blocking(move |shared| shared.fill(&stored)).await?;
        self.shared.rows.write_visibly(ops).await?;
        self.shared.memory().census.begin_anew();
        Ok(())
    }

    /// Runs with an index in `(after, through]` in the order of the log, beyond `cursor` if there is
    /// one; at most `max_bytes` of keys and values, but one at least if there is any.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn read(
        &self,
        gap: Gap,
        cursor: Option<(u64, Vec<u8>)>,
        max_bytes: usize,
    ) -> Result<Vec<StoredRow>, HistoryError> {
        // What is queued is written before this: the store keeps the order of its requests.
        self.barrier().await?;
        self.blocking(move |shared| shared.read(gap, cursor.as_ref(), max_bytes)).await
    }
}

impl Shared {
    fn read(
        &self,
        gap: Gap,
        cursor: Option<&(u64, Vec<u8>)>,
        max_bytes: usize,
    ) -> Result<Vec<StoredRow>, HistoryError> {
        let rows = &self.rows;
        let mut taken: Vec<StoredRow> = Vec::new();
        let mut bytes = 0;
        let first = cursor.map_or(gap.after.saturating_add(1), |(index, _)| *index);
        let mut low = keys::index(first, 0);
        let high = above(&keys::index(gap.through, u32::MAX));
        while low < high {
            let found = rows.oldest(rows.indexes, &low, &high, ROWS)?;
            let Some((last, _)) = found.last() else { break };
            low = above(last);
            for (key, ids) in &found {
                let index = keys::indexed(key).ok_or(HistoryError::Form)?;
                for key in ids.chunks(keys::RUN_KEY) {
                    if cursor.is_some_and(|(at, of)| (index, key) <= (*at, of.as_slice())) {
                        continue;
                    }
                    let Some(value) = rows.get(rows.runs, key)? else { continue };
                    let (_, run) = split_value(&value)?;
                    bytes += key.len() + run.len();
                    if bytes > max_bytes && !taken.is_empty() {
                        return Ok(taken);
                    }
                    taken.push(StoredRow { index, key: key.to_vec(), value: run.to_vec() });
                }
            }
        }
        Ok(taken)
    }
}
