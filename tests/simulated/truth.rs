//! What an all-knowing observer sees: every entry as each node applies it, every effect as it begins and ends, and
//! every answer that a client got. Held against the invariants as it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chronarch::raft::Observed;
use chronarch::state::breaker::StatusKind;
use chronarch::state::run::{AttemptOutcome, RunState};
use chronarch::state::{Applied, Command, Entry, Outcome, State};

use crate::lab::invariants::{Committed, Held, Invariants};

/// The state of a node is compared after each so many entries.
const COMPARE_EVERY: u64 = 16;
/// An index that is so far ahead of the last one that a node applied has come with a snapshot.
const LEAP: u64 = 20;

/// What must have happened for seeds to prove anything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) leader_changes: u64,
    pub(crate) entries: u64,
    pub(crate) decided: u64,
    pub(crate) effects: u64,
    pub(crate) repeated_effects: u64,
    pub(crate) lost_attempts: u64,
    pub(crate) breaker_opens: u64,
    pub(crate) breakers_across_a_change: u64,
    pub(crate) snapshots_installed: u64,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) kills: u64,
    pub(crate) leader_kills: u64,
    pub(crate) leader_with_minority: u64,
    pub(crate) leader_with_majority: u64,
    pub(crate) clock_steps: u64,
}

impl Figures {
    /// By name, in the order of the fields.
    pub(crate) fn list(&self) -> [(&'static str, u64); 16] {
        [
            ("leader_changes", self.leader_changes),
            ("entries", self.entries),
            ("decided", self.decided),
            ("effects", self.effects),
            ("repeated_effects", self.repeated_effects),
            ("lost_attempts", self.lost_attempts),
            ("breaker_opens", self.breaker_opens),
            ("breakers_across_a_change", self.breakers_across_a_change),
            ("snapshots_installed", self.snapshots_installed),
            ("acknowledged", self.acknowledged),
            ("unknown", self.unknown),
            ("kills", self.kills),
            ("leader_kills", self.leader_kills),
            ("leader_with_minority", self.leader_with_minority),
            ("leader_with_majority", self.leader_with_majority),
            ("clock_steps", self.clock_steps),
        ]
    }
}

#[derive(Default)]
struct Inner {
    state: State,
    /// What was applied at each index by whoever was first there, with the state behind every so many.
    log: BTreeMap<u64, (Entry, Applied)>,
    states: BTreeMap<u64, State>,
    newest: u64,
    applied_by: BTreeMap<u64, u64>,
    leader: Option<(u64, u64)>,
    invariants: Invariants,
    /// Operations of clients that have taken effect, and those that a client was told to have.
    operations: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    effects_of: BTreeMap<chronarch::state::RunId, u64>,
    figures: Figures,
    hash: DefaultHasher,
}

/// The observer; a clone is another handle on it.
#[derive(Clone, Default)]
pub(crate) struct Truth(Arc<Mutex<Inner>>);

impl Truth {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A broken invariant panics under the lock: who comes later must not hide that.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has applied an entry.
    pub(crate) fn observed(&self, node: u64, it: &Observed<'_>) {
        let mut inner = self.inner();
        let last = inner.applied_by.insert(node, it.index).unwrap_or(0);
        if it.index > last + LEAP {
            inner.figures.snapshots_installed += u64::from(last > 0);
        }
        if it.index > inner.newest {
            inner.commit(it);
        }
        let (entry, applied) = inner.log.get(&it.index).expect("seen by somebody before, or just above");
        assert_eq!(entry, it.entry, "node {node} has another entry at {}", it.index);
        assert_eq!(applied, it.applied, "node {node} decides differently at {}", it.index);
        if let Some(state) = inner.states.get(&it.index) {
            assert!(state == it.after, "node {node} has another state at {}", it.index);
        }
    }

    /// An attempt is begun at its target.
    pub(crate) fn began(&self, held: Held) {
        let mut inner = self.inner();
        assert!(inner.state.knows_fence(held.1), "{held:?} begins and its start is not committed");
        let Inner { invariants, state, .. } = &mut *inner;
        invariants.began(held, state);
        inner.figures.effects += 1;
        let count = inner.effects_of.entry(held.0).or_insert(0);
        *count += 1;
        let repeated = *count > 1;
        inner.figures.repeated_effects += u64::from(repeated);
        ("began", held.1).hash(&mut inner.hash);
    }

    /// An attempt is over at its target, or its worker is gone.
    pub(crate) fn ended(&self, held: Held) {
        let mut inner = self.inner();
        inner.invariants.ended(held);
        ("ended", held.1).hash(&mut inner.hash);
    }

    /// A client was told that its operation took effect.
    pub(crate) fn acknowledged(&self, operation: &str) {
        let mut inner = self.inner();
        inner.figures.acknowledged += 1;
        inner.acknowledged.insert(operation.to_owned());
    }

    /// A client was told that nobody knows.
    pub(crate) fn unknown(&self) {
        self.inner().figures.unknown += 1;
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut self.inner().figures);
    }

    /// The node that leads, as far as anyone has applied that.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.inner().leader.map(|(node, _)| node)
    }

    pub(crate) fn state(&self) -> State {
        self.inner().state.clone()
    }

    /// Whether each of these nodes has applied all that any node has.
    pub(crate) fn in_step(&self, nodes: impl IntoIterator<Item = u64>) -> bool {
        let inner = self.inner();
        nodes.into_iter().all(|node| inner.applied_by.get(&node) == Some(&inner.newest))
    }

    /// Each operation that was acknowledged is in the log (G6).
    pub(crate) fn check_acknowledged(&self) {
        let inner = self.inner();
        let missing: Vec<&String> = inner.acknowledged.difference(&inner.operations).collect();
        assert!(missing.is_empty(), "acknowledged and not in the log: {missing:?}");
    }

    pub(crate) fn figures(&self) -> Figures {
        let inner = self.inner();
        Figures { decided: inner.invariants.decided(), entries: inner.log.len() as u64, ..inner.figures }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.inner().hash.finish()
    }
}

impl Inner {
    fn commit(&mut self, it: &Observed<'_>) {
        let before = self.state.clone();
        let applied = self.state.apply(it.index, it.entry);
        self.newest = it.index;
        self.invariants.committed(&Committed {
            entry: it.entry,
            applied: &applied,
            before: &before,
            after: &self.state,
        });
        self.state.verify().unwrap_or_else(|broken| panic!("{broken} after {:?}", it.entry));
        for (command, outcome) in it.entry.commands.iter().zip(&applied.outcomes) {
            self.note(command, outcome, &before);
        }
        for run in &applied.finished {
            assert!(
                run.state != RunState::Pending && run.state != RunState::Running,
                "a run ends unfinished"
            );
            let lost = run.attempts.iter().filter(|attempt| attempt.outcome == AttemptOutcome::Lost);
            self.figures.lost_attempts += lost.count() as u64;
        }
        for (key, breaker) in self.state.breakers() {
            let was = before.breaker(key).map_or(StatusKind::Closed, |breaker| breaker.kind());
            let opens = was != StatusKind::Open && breaker.kind() == StatusKind::Open;
            self.figures.breaker_opens += u64::from(opens);
        }
        (it.index, it.entry.encode()).hash(&mut self.hash);
        if it.index.is_multiple_of(COMPARE_EVERY) {
            self.states.insert(it.index, self.state.clone());
        }
        self.log.insert(it.index, (it.entry.clone(), applied));
    }

    fn note(&mut self, command: &Command, outcome: &Outcome, before: &State) {
        if let (Command::Lead { node, term, .. }, Outcome::Done) = (command, outcome) {
            assert!(self.leader.is_none_or(|(_, old)| old < *term), "two leaders in term {term}");
            let carried = before.breakers().any(|(_, breaker)| breaker.kind() != StatusKind::Closed);
            self.figures.breakers_across_a_change += u64::from(carried && self.leader.is_some());
            self.figures.leader_changes += u64::from(self.leader.is_some());
            self.leader = Some((*node, *term));
        }
        if let (Some(request), false) = (command.request(), matches!(outcome, Outcome::Rejected(_)))
            && !request.operation_id.is_empty()
        {
            self.operations.insert(request.operation_id.clone());
        }
    }
}
