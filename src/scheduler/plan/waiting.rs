//! Starts of what waits for a worker.
//!
//! The plan walks classes of runs that need the same of a worker. One that no worker with room may take
//! is passed over with all its runs; the heads of the others are merged, so that the run that was due
//! first starts first, whatever it needs and in whatever queue; a higher priority goes before that. A class whose limits are
//! reached is passed over too.
//!
//! Cost: at most [`CLASSES`] classes are looked at, each against every open session; then one step for
//! each start, and for each run that is in flight.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Bound;
use std::sync::Arc;

use super::{CLASSES, CLASSES_AGAIN, Planning, Rules};
use crate::state::{Needs, State};

impl<'a> Planning<'a> {
    /// Runs that wait for a worker, where a worker with room may take them.
    pub(super) fn waiting(&mut self, rules: &mut Rules) {
        let state: &'a State = self.state;
        let servable = self.servable(rules);
        let mut lines: Vec<_> =
            servable.into_iter().map(|needs| (needs.priority(), state.waiting_like(needs))).collect();
        let mut heads: BinaryHeap<_> = lines
            .iter_mut()
            .enumerate()
            .filter_map(|(line, (priority, runs))| runs.next().map(|head| (*priority, Reverse((head, line)))))
            .collect();
        while let Some((priority, Reverse(((_, id), line)))) = heads.pop() {
            if self.full() {
                return;
            }
            let is_planned = self.flight.runs.contains(&id) || self.taken.contains(&id);
            let is_passed = is_planned || state.run(id).is_none_or(|run| self.start(run, id));
            // No worker with room is left for this class, or its limits are reached.
            if !is_passed {
                continue;
            }
            if let Some(head) = lines.get_mut(line).and_then(|(_, runs)| runs.next()) {
                heads.push((priority, Reverse((head, line))));
            }
        }
    }

    /// The classes that a worker with room may take, of those that this plan looks at.
    fn servable(&mut self, rules: &mut Rules) -> Vec<&'a Needs> {
        let state: &'a State = self.state;
        let with_room = self.sessions.open.iter().filter(|session| session.free > 0);
        let queues: BTreeSet<Arc<str>> =
            with_room.flat_map(|session| session.queues.iter().cloned()).collect();
        let begin = rules.looked_at.take();
        let mut found = Vec::new();
        // From the class after `begin` to the last, then from the first up to `begin`.
        let mut at: Option<&Needs> = begin.as_ref();
        let mut is_round = begin.is_none();
        let mut looks = 0;
        loop {
            let Some(class) = class_after(state, &queues, at) else {
                if is_round {
                    return found;
                }
                (at, is_round) = (None, true);
                continue;
            };
            if is_round && begin.as_ref().is_some_and(|begin| class > begin) {
                return found;
            }
            if looks == CLASSES {
                rules.looked_at = at.cloned();
                self.wake(self.now.plus(CLASSES_AGAIN));
                return found;
            }
            looks += 1;
            let place = class.place().map(AsRef::as_ref);
            let able = |spec| self.sessions.open.iter().any(|it| it.may_take(spec, class.queue(), place));
            if let Some(spec) = class.spec()
                && able(spec)
                && self.has_room(spec, class.queue())
            {
                found.push(class);
            }
            at = Some(class);
        }
    }
}

/// The next class in these queues, or their first.
fn class_after<'a>(state: &'a State, queues: &BTreeSet<Arc<str>>, at: Option<&Needs>) -> Option<&'a Needs> {
    let Some(at) = at else {
        return queues.iter().find_map(|queue| state.waiting_class(queue, None));
    };
    let later = (Bound::Excluded(at.queue().clone()), Bound::Unbounded);
    let same = queues.contains(at.queue()).then(|| state.waiting_class(at.queue(), Some(at))).flatten();
    same.or_else(|| queues.range(later).find_map(|queue| state.waiting_class(queue, None)))
}
