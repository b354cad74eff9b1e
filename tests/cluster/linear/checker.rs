//! Whether a history is linearizable: whether its steps can be put into one order in which each comes between its
//! call and its return and gives what was told.
//!
//! The algorithm is that of Wing and Gong (1993) with the improvements of Lowe (2017): depth first over the steps
//! that may come next, with a memory of the sets of steps and the states that were met already. It decides; where it
//! would take too long, it says so, which is neither yes nor no.

use std::collections::HashSet;

use super::model::{Model, Step};

/// Sets of steps with their states that are remembered before the check gives up.
const CONFIGURATIONS: usize = 4_000_000;

/// A step in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timed {
    pub(crate) step: Step,
    /// Moments are numbers that no two calls or returns share.
    pub(crate) called: u64,
    /// Absent: it may yet happen at any time, or never.
    pub(crate) returned: Option<u64>,
    /// The place of the step of the same operation that comes before it.
    pub(crate) after: Option<usize>,
}

/// What a history is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// The longest order that was found, as places in the history.
    Violated(Vec<usize>),
    /// The check gave up.
    Undecided,
}

#[derive(Clone, Copy)]
struct Event {
    place: usize,
    is_call: bool,
}

/// The calls and returns that are left, in the order of time, as a list that is taken out of and put back into.
struct Events {
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where the return of each step is.
    returns: Vec<Option<usize>>,
    /// Returns that are left.
    open: usize,
}

/// The place in front of the first event.
const HEAD: usize = 0;

impl Events {
    fn of(history: &[Timed]) -> Self {
        let mut timed: Vec<(u64, usize, Event)> = Vec::new();
        for (place, step) in history.iter().enumerate() {
            // Two steps of one operation share their moments: the earlier one is called first.
            timed.push((step.called, place, Event { place, is_call: true }));
            timed.extend(step.returned.map(|at| (at, place, Event { place, is_call: false })));
        }
        timed.sort_by_key(|(at, place, event)| (*at, !event.is_call, *place));
        let events: Vec<Event> = timed.into_iter().map(|(_, _, event)| event).collect();
        let mut returns = vec![None; history.len()];
        for (at, event) in events.iter().enumerate().filter(|(_, event)| !event.is_call) {
            returns[event.place] = Some(at + 1);
        }
        let end = events.len() + 1;
        let open = returns.iter().flatten().count();
        Self {
            next: (1..=end + 1).collect(),
            previous: (0..=end).map(|at| at.saturating_sub(1)).collect(),
            events,
            returns,
            open,
        }
    }

    fn end(&self) -> usize {
        self.events.len() + 1
    }

    fn event(&self, at: usize) -> Event {
        self.events[at - 1]
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn relink(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = at;
        self.previous[next] = at;
    }

    /// Takes a call and its return out.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if let Some(at) = self.returns[self.event(call).place] {
            self.unlink(at);
            self.open -= 1;
        }
    }

    /// The inverse, in the opposite order.
    fn unlift(&mut self, call: usize) {
        if let Some(at) = self.returns[self.event(call).place] {
            self.relink(at);
            self.open += 1;
        }
        self.relink(call);
    }
}

/// A set of places.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Places(Box<[u64]>);

impl Places {
    fn none(of: usize) -> Self {
        Self(vec![0; of.div_ceil(64)].into())
    }

    fn has(&self, place: usize) -> bool {
        self.0[place / 64] >> (place % 64) & 1 == 1
    }

    fn flip(&mut self, place: usize) {
        self.0[place / 64] ^= 1 << (place % 64);
    }
}

/// Decides about a history.
pub(crate) fn check(history: &[Timed]) -> Verdict {
    check_within(history, CONFIGURATIONS)
}

fn check_within(history: &[Timed], most: usize) -> Verdict {
    let mut events = Events::of(history);
    let mut model = Model::default();
    let mut done = Places::none(history.len());
    let mut met: HashSet<(Places, Model)> = HashSet::new();
    let mut order: Vec<(usize, Model)> = Vec::new();
    let mut longest: Vec<usize> = Vec::new();
    let mut at = events.next[HEAD];
    while events.open > 0 {
        let event = (at < events.end()).then(|| events.event(at)).filter(|event| event.is_call);
        let Some(Event { place, .. }) = event else {
            // Some step had to come before this return, and none of those that could is possible.
            let Some((call, before)) = order.pop() else { return Verdict::Violated(longest) };
            model = before;
            done.flip(events.event(call).place);
            events.unlift(call);
            at = events.next[call];
            continue;
        };
        let step = &history[place];
        let may = step.after.is_none_or(|before| done.has(before));
        // One that may never have happened and changes nothing need not happen here: the fewer sets are met.
        let idle = |after: &Model| step.returned.is_none() && *after == model;
        if let Some(after) = model.step(&step.step).filter(|after| may && !idle(after)) {
            done.flip(place);
            if met.len() >= most {
                return Verdict::Undecided;
            }
            if met.insert((done.clone(), after)) {
                order.push((at, model));
                model = after;
                events.lift(at);
                at = events.next[HEAD];
                if order.len() > longest.len() {
                    longest = order.iter().map(|(call, _)| events.event(*call).place).collect();
                }
                continue;
            }
            done.flip(place);
        }
        at = events.next[at];
    }
    Verdict::Linearizable
}

#[cfg(test)]
mod tests;
