//! The rows of the run log in the store, and nothing else of it.

use crate::storage::StorageError;
use crate::storage::store::{Op, Order, REQUEST_BYTES_MAX, Row, Store, Tree, Written};

/// Names of the trees, for the store's options; their order is part of the format.
pub const TREES: &[&str] = &["runs", "decisions", "indexes", "names", "marks"];

/// Behind every key.
pub(super) const END: &[u8] = &[0xff; 64];

/// The trees of the run log.
pub(super) struct Rows {
    store: Store,
    pub(super) runs: Tree,
    pub(super) decisions: Tree,
    pub(super) indexes: Tree,
    pub(super) names: Tree,
    pub(super) marks: Tree,
}

/// The first key behind `key`.
pub(super) fn above(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

fn size(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key, .. } => key.len(),
    }
}

impl Rows {
    pub(super) fn new(store: Store) -> Result<Self, StorageError> {
        Ok(Self {
            runs: store.tree("runs")?,
            decisions: store.tree("decisions")?,
            indexes: store.tree("indexes")?,
            names: store.tree("names")?,
            marks: store.tree("marks")?,
            store,
        })
    }

    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.store.get(tree, key)
    }

    /// At least one row with `low <= key < high`, if there is any, and at most `limit`, the smallest first.
    pub(super) fn oldest(
        &self,
        tree: Tree,
        low: &[u8],
        high: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, StorageError> {
        self.store.range(tree, low..high, Order::Ascending, limit)
    }

    /// The same, the largest first.
    pub(super) fn newest(
        &self,
        tree: Tree,
        low: &[u8],
        high: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, StorageError> {
        self.store.range(tree, low..high, Order::Descending, limit)
    }

    /// Queues changes in this order, in as few atomic requests as their size allows.
    pub(super) async fn write(&self, ops: Vec<Op>) -> Result<Option<Written>, StorageError> {
        let mut last = None;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for op in ops {
            let more = size(&op);
            if bytes + more > REQUEST_BYTES_MAX && !batch.is_empty() {
                last = Some(self.store.write(std::mem::take(&mut batch)).await?);
                bytes = 0;
            }
            bytes += more;
            batch.push(op);
        }
        if !batch.is_empty() {
            last = Some(self.store.write(batch).await?);
        }
        Ok(last)
    }

    /// Writes changes and waits until they can be read.
    pub(super) async fn write_visibly(&self, ops: Vec<Op>) -> Result<(), StorageError> {
        match self.write(ops).await? {
            Some(written) => written.visible().await,
            None => Ok(()),
        }
    }

    pub(super) async fn barrier(&self) -> Result<(), StorageError> {
        self.store.barrier().await
    }

    pub(super) async fn close(self) -> Result<(), StorageError> {
        self.store.close().await
    }
}
