//! What can be said of a state to those who compare replicas: its hash, and what an entry changed in it.
//!
//! The hash covers the snapshot form of the state ([`State::write_to`]), and so everything that is not derived,
//! in one order. Replicas of one release that have applied the same entries have the same hash at an index;
//! another release may write a field more.
//!
//! It costs the writing of the whole state, so it is not taken after each entry but at the indexes that
//! [`State::is_hashed_at`] names. Those depend on the state alone, so all nodes take it at the same ones.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::breaker::Breaker;
use super::command::BreakerKey;
use super::{State, limits};

/// SHA-256 of a state, or of data in it; as text 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A breaker before and after an entry; absent where it had nothing to say, or had gone.
#[derive(Clone, Copy, Debug)]
pub struct BreakerChange<'a> {
    /// Which.
    pub key: &'a BreakerKey,
    /// Before.
    pub before: Option<&'a Arc<Breaker>>,
    /// After.
    pub after: Option<&'a Arc<Breaker>>,
}

/// Hashes what is written.
struct Hashing(Sha256);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    /// The hash of the state as it is. Costs the writing of all of it.
    ///
    /// # Errors
    /// An item that is too long for the snapshot form.
    pub fn hash(&self) -> io::Result<StateHash> {
        let mut hashing = Hashing(Sha256::new());
        self.write_to(&mut hashing)?;
        Ok(StateHash(hashing.0.finalize().into()))
    }

    /// Whether this state, after the entry at `index`, is one whose hash nodes compare: at each multiple of
    /// [`limits::HASH_EVERY`], and of a large state at each second, fourth, eighth … of them, so that an entry's
    /// share of the cost stays the same.
    #[must_use]
    pub fn is_hashed_at(&self, index: u64) -> bool {
        if index == 0 || !index.is_multiple_of(limits::HASH_EVERY) {
            return false;
        }
        let items = self.jobs.len() + self.runs.len() + self.breakers.len();
        let share = items.div_ceil(limits::HASHED_ITEMS).max(1).next_power_of_two();
        index.is_multiple_of(limits::HASH_EVERY.saturating_mul(share as u64))
    }

    /// The breakers that differ from what they were in `before`. Cheap where one of the two states came of the
    /// other: what they share is passed over.
    pub fn breakers_changed_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = BreakerChange<'a>> + 'a {
        before.breakers.diff(&self.breakers).map(|item| match item {
            DiffItem::Add(key, after) => BreakerChange { key, before: None, after: Some(after) },
            DiffItem::Update { old: (key, before), new: (_, after) } => {
                BreakerChange { key, before: Some(before), after: Some(after) }
            }
            DiffItem::Remove(key, before) => BreakerChange { key, before: Some(before), after: None },
        })
    }
}

#[cfg(test)]
mod tests;
