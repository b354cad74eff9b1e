//! Which entries the log holds, and where: an array in memory, with the newest payloads.
//!
//! Purely in memory and always ahead of the disk: an entry is in here from the moment it is queued. An entry's
//! position is known by then, for positions are given out in the order of the queue. Payloads leave memory
//! oldest first, once they are durable and the newer ones fill their allowance.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::format::{Checkpoint, EntryId};

/// Position of an entry that the oldest segment's checkpoint names but no segment holds.
pub(super) const ABSENT: u64 = u64::MAX;

/// Where an entry is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) term: u64,
    pub(super) node: u64,
    pub(super) position: u64,
    pub(super) stored_bytes: u32,
}

/// Why an entry or a truncation does not fit.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) expected: String,
}

/// The index of the live entries `purged+1..=last`.
#[derive(Debug, Default)]
pub(super) struct Index {
    purged: Option<EntryId>,
    last: Option<EntryId>,
    first_index: u64,
    slots: VecDeque<Slot>,
    /// Payloads of the newest entries: the last of these is the last entry's.
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
}

impl Index {
    /// An index as a checkpoint describes it, with all entries absent.
    pub(super) fn at_checkpoint(checkpoint: &Checkpoint) -> Self {
        let absent = Slot { term: 0, node: 0, position: ABSENT, stored_bytes: 0 };
        let end_index = checkpoint.last.map_or(0, |last| last.index + 1);
        Self {
            purged: checkpoint.purged,
            last: checkpoint.last,
            first_index: checkpoint.first_index,
            slots: (checkpoint.first_index..end_index).map(|_| absent).collect(),
            ..Self::default()
        }
    }

    pub(super) fn purged(&self) -> Option<EntryId> {
        self.purged
    }

    pub(super) fn last(&self) -> Option<EntryId> {
        self.last
    }

    pub(super) fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// Indexes that the log holds.
    pub(super) fn live(&self) -> Range<u64> {
        self.first_index..self.first_index + self.slots.len() as u64
    }

    /// The first entry of which no byte is left, if any.
    pub(super) fn first_absent(&self) -> Option<u64> {
        self.slots.front().filter(|slot| slot.position == ABSENT).map(|_| self.first_index)
    }

    /// Is the last entry one of which no byte is left, and which a truncation has made the last? Then its term is not
    /// known: the segment that held it is gone, and a later record will tell that the entry has been purged.
    pub(super) fn last_is_nameless(&self) -> bool {
        let nameless = |slot: &Slot| (slot.position, slot.term, slot.node) == (ABSENT, 0, 0);
        self.slots.back().is_some_and(nameless)
            && self.last.is_some_and(|last| (last.term, last.node) == (0, 0))
    }

    /// Names the last entry, which has the right index already.
    pub(super) fn name_last(&mut self, id: EntryId) {
        self.last = Some(id);
    }

    /// Position of the oldest live entry.
    pub(super) fn first_position(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.position)
    }

    /// May `id` follow the last entry?
    pub(super) fn check_next(&self, id: EntryId, last: Option<EntryId>) -> Result<(), Misfit> {
        match last {
            Some(last) if id.index != last.index + 1 => {
                Err(Misfit { expected: format!("index {}", last.index + 1) })
            }
            Some(last) if id.term < last.term => {
                Err(Misfit { expected: format!("a term of at least {}, not {}", last.term, id.term) })
            }
            _ => Ok(()),
        }
    }

    /// Adds an entry; the caller has asked [`Index::check_next`].
    pub(super) fn push(&mut self, id: EntryId, position: u64, stored_bytes: u32, payload: Option<Bytes>) {
        if self.slots.is_empty() {
            self.first_index = id.index;
        }
        self.slots.push_back(Slot { term: id.term, node: id.node, position, stored_bytes });
        self.last = Some(id);
        if let Some(payload) = payload {
            self.tail_bytes += payload.len();
            self.tail.push_back(payload);
        }
    }

    /// May the entries from `from` on be dropped?
    pub(super) fn check_truncation(&self, from: u64) -> Result<(), Misfit> {
        match self.purged {
            Some(purged) if from <= purged.index => {
                Err(Misfit { expected: format!("an index of at least {}", purged.index + 1) })
            }
            _ => Ok(()),
        }
    }

    /// Drops the entries from `from` on; the caller has asked [`Index::check_truncation`].
    pub(super) fn truncate_from(&mut self, from: u64) {
        while self.live().end > from && self.slots.pop_back().is_some() {
            if let Some(payload) = self.tail.pop_back() {
                self.tail_bytes -= payload.len();
            }
        }
        let newest = self.slots.back().map(|slot| EntryId {
            term: slot.term,
            node: slot.node,
            index: self.first_index + self.slots.len() as u64 - 1,
        });
        self.last = newest.or(self.purged);
    }

    /// Drops the entries up to and with `id`; what lies behind the last entry moves the last along.
    /// Returns whether anything changed.
    pub(super) fn purge_through(&mut self, id: EntryId) -> bool {
        if self.purged.is_some_and(|purged| purged.index >= id.index) {
            return false;
        }
        while self.first_index <= id.index && self.slots.pop_front().is_some() {
            self.first_index += 1;
            if self.tail.len() > self.slots.len()
                && let Some(payload) = self.tail.pop_front()
            {
                self.tail_bytes -= payload.len();
            }
        }
        self.purged = Some(id);
        if self.slots.is_empty() {
            self.first_index = id.index + 1;
            self.last = Some(id);
        }
        true
    }

    /// Where the entry at `index` is.
    pub(super) fn slot(&self, index: u64) -> Option<Slot> {
        self.slots.get(index.checked_sub(self.first_index)? as usize).copied()
    }

    /// The id of the entry at `index`, or of the last purged one.
    pub(super) fn id_at(&self, index: u64) -> Option<EntryId> {
        let purged = self.purged.filter(|purged| purged.index == index);
        purged.or_else(|| self.slot(index).map(|slot| EntryId { term: slot.term, node: slot.node, index }))
    }

    /// The payload of the entry at `index`, if it is in memory.
    pub(super) fn payload(&self, index: u64) -> Option<&Bytes> {
        let tail_starts = self.live().end - self.tail.len() as u64;
        self.tail.get(index.checked_sub(tail_starts)? as usize)
    }

    /// Forgets durable payloads, oldest first, until at most `allowance` bytes are left.
    pub(super) fn evict(&mut self, synced: u64, allowance: usize) {
        while self.tail_bytes > allowance {
            let Some(slot) = self.slots.get(self.slots.len() - self.tail.len()) else { return };
            if slot.position + u64::from(slot.stored_bytes) > synced {
                return;
            }
            let Some(payload) = self.tail.pop_front() else { return };
            self.tail_bytes -= payload.len();
        }
    }
}
