//! What must hold, a property a file. Each sees every committed entry with the state before and after
//! it, and what workers begin and end.
//!
//! Both simulations are held against these: the one of the cluster's decisions, and the one of the shipped program.

mod at_most_once;
mod breakers;
mod decided_once;
mod groups;
mod joins;
mod limits;
mod never_early;
mod one_at_a_time;
mod parts;

use chronarch::state::run::RunId;
use chronarch::state::{Applied, Entry, State};

/// An attempt: its run and its fence.
pub(crate) type Held = (RunId, u64);

/// A committed entry.
pub(crate) struct Committed<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) applied: &'a Applied,
    pub(crate) before: &'a State,
    pub(crate) after: &'a State,
}

#[derive(Default)]
pub(crate) struct Invariants {
    decided_once: decided_once::DecidedOnce,
    at_most_once: at_most_once::AtMostOnce,
    one_at_a_time: one_at_a_time::OneAtATime,
    limits: limits::Limits,
    groups: groups::Groups,
    parts: parts::Parts,
}

impl Invariants {
    pub(crate) fn committed(&mut self, it: &Committed<'_>) {
        self.decided_once.committed(it);
        never_early::committed(it);
        breakers::committed(it);
        self.limits.committed(it);
        self.groups.committed(it);
        self.parts.committed(it);
        joins::committed(it);
        self.at_most_once.committed(it);
    }

    pub(crate) fn began(&mut self, held: Held, truth: &State) {
        self.at_most_once.began(held);
        self.one_at_a_time.began(held, truth);
    }

    pub(crate) fn ended(&mut self, held: Held) {
        self.one_at_a_time.ended(held);
    }

    /// How many instants were decided.
    pub(crate) fn decided(&self) -> u64 {
        self.decided_once.count
    }
}
