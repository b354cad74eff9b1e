//! What a job's schedule does when it is read with other zones: the first of its occurrences that moves.

use super::set::ScheduleSet;
use crate::state::time::Timestamp;

/// Occurrences of one job that are compared at most.
pub const COMPARED: u32 = 4_000;

/// An occurrence of the one reading that the other has at another instant, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// By the old zones.
    pub old: Option<Timestamp>,
    /// By the new ones.
    pub new: Option<Timestamp>,
}

/// The first occurrence after `after` that moves, and how many were compared.
#[must_use]
pub fn first_move(old: &ScheduleSet, new: &ScheduleSet, after: Timestamp) -> (Option<Move>, u32) {
    let mut cursor = after;
    for compared in 1..=COMPARED {
        let next = |set: &ScheduleSet| set.next_after(cursor).map(|(at, _)| at);
        let (ours, theirs) = (next(old), next(new));
        match ours {
            Some(at) if ours == theirs => cursor = at,
            None if theirs.is_none() => return (None, compared),
            _ => return (Some(Move { old: ours, new: theirs }), compared),
        }
    }
    (None, COMPARED)
}
