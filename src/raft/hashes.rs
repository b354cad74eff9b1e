//! The hashes of this node's state at the indexes at which all nodes take one, so that replicas can be compared.
//!
//! A hash is computed from a clone, beside apply, on a thread that may block. While one is being computed the next
//! is left out rather than queued: a node that is slower than its log has fewer hashes, not more work. After an
//! installed snapshot the next one is that of the next such index.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::state::{State, StateHash};
use crate::threads;

/// Hashes that are kept, the newest: two nodes that lag behind one another by less still share an index.
pub const HASHES_KEPT: usize = 8;

/// The newest hashes of a node. A clone is another handle on them.
#[derive(Clone, Debug, Default)]
pub(super) struct Hashes(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    newest: Mutex<VecDeque<(u64, StateHash)>>,
    computing: AtomicBool,
}

impl Hashes {
    /// Looks at the state after the entry at `index`, and has it hashed if it is due. Returns at once.
    pub(super) fn look(&self, index: u64, state: &State) {
        if !state.is_hashed_at(index) || self.0.computing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (inner, state) = (Arc::clone(&self.0), state.clone());
        tokio::spawn(async move {
            match threads::blocking(move || state.hash()).await {
                Ok(Ok(hash)) => inner.add(index, hash),
                Ok(Err(error)) => tracing::warn!(index, %error, "the state cannot be hashed"),
                // The runtime ends.
                Err(_) => {}
            }
            inner.computing.store(false, Ordering::Release);
        });
    }

    /// The newest hashes with their indexes, the newest last.
    pub(super) fn newest(&self) -> Vec<(u64, StateHash)> {
        let newest = self.0.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.iter().copied().collect()
    }
}

impl Inner {
    fn add(&self, index: u64, hash: StateHash) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.len() == HASHES_KEPT {
            newest.pop_front();
        }
        newest.push_back((index, hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::tests::harness::{entry, eventually};
    use crate::state::limits::HASH_EVERY;

    #[tokio::test(flavor = "multi_thread")]
    async fn newest_hashes_are_kept_with_their_indexes() {
        let (hashes, mut state) = (Hashes::default(), State::default());
        let mut expected = Vec::new();
        for round in 1..=HASHES_KEPT as u64 + 2 {
            let index = round * HASH_EVERY;
            state.apply(index, &entry(round.cast_signed()));
            hashes.look(index - 1, &state);
            hashes.look(index, &state);
            expected.push((index, state.hash().unwrap()));
            eventually("the hash", || hashes.newest().last().map(|(index, _)| *index) == Some(index)).await;
            eventually("room for the next", || !hashes.0.computing.load(Ordering::Acquire)).await;
        }
        assert_eq!(hashes.newest(), expected.split_off(2));
    }

    #[tokio::test]
    async fn one_that_is_due_while_another_is_computed_is_left_out() {
        let (hashes, state) = (Hashes::default(), State::default());
        hashes.0.computing.store(true, Ordering::Release);
        hashes.look(HASH_EVERY, &state);
        assert!(hashes.0.computing.load(Ordering::Acquire), "it is still the other's");
        hashes.0.computing.store(false, Ordering::Release);
        hashes.look(2 * HASH_EVERY, &state);
        eventually("the hash", || !hashes.newest().is_empty()).await;
        assert_eq!(hashes.newest(), [(2 * HASH_EVERY, state.hash().unwrap())]);
    }
}
