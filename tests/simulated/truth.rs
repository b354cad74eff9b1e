//! What an all-knowing observer sees: every entry as each node applies it, every change of the membership, every
//! snapshot that a node takes its state from, every effect as it begins and ends, and every answer that a client got.
//! Held against the invariants as it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chronarch::raft::Observed;
use chronarch::state::breaker::StatusKind;
use chronarch::state::run::{AttemptOutcome, RunState};
use chronarch::state::{Applied, Command, Entry, Job, Outcome, State};

use crate::figures::Figures;
use crate::lab::invariants::{Committed, Held, Invariants};

/// The state of a node is compared after each so many entries, and whenever it comes from a snapshot.
const COMPARE_EVERY: u64 = 16;
/// No clock that the others contradict gets into the log: it would be off by more than this from what another shows.
/// That other may be off, too, and drifts until it is compared again.
const AHEAD_MS_MAX: i64 = 500 + 300;

/// Who belongs to the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) voters: BTreeSet<u64>,
    pub(crate) members: BTreeSet<u64>,
    /// It is between two memberships.
    pub(crate) is_joint: bool,
}

/// A moment at which a crash is worth more than at another.
#[derive(Clone, Debug)]
pub(crate) enum Moment {
    /// The leader has applied starts.
    Started { leader: u64, fences: Vec<u64> },
    /// A target has begun, or ended, an attempt of this machine.
    Effect { held: Held, machine: Arc<str> },
    /// A node has applied that another, or it, leads.
    Led { leader: u64 },
    /// A probe of a breaker that is half open was started for this worker.
    Probe { worker: Arc<str> },
}

#[derive(Default)]
struct Inner {
    state: State,
    /// What was applied at each index by whoever was first there, and the state with it.
    log: BTreeMap<u64, (Entry, Applied)>,
    states: BTreeMap<u64, State>,
    newest: u64,
    applied_by: BTreeMap<u64, u64>,
    /// As `applied_by`, in all lives of the node.
    furthest_by: BTreeMap<u64, u64>,
    /// Node, term and index.
    leader: Option<(u64, u64, u64)>,
    memberships: BTreeMap<u64, Members>,
    removed: BTreeSet<u64>,
    invariants: Invariants,
    /// Operations of clients that have taken effect, and those that a client was told to have.
    operations: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    effects_of: BTreeMap<chronarch::state::RunId, u64>,
    begun: BTreeSet<u64>,
    moments: Vec<Moment>,
    /// The true time.
    wall: i64,
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

    /// Something has happened to a node's replica.
    pub(crate) fn observed(&self, node: u64, it: &Observed<'_>) {
        let mut inner = self.inner();
        match it {
            Observed::Applied { index, entry, applied, after } => {
                inner.applied(node, *index, entry, applied, after);
            }
            Observed::Restored { index, state } => inner.restored(node, *index, state),
            Observed::Members { index, voters, members, is_joint } => {
                let (voters, members) = (voters.clone(), members.clone());
                inner.changed(node, *index, Members { voters, members, is_joint: *is_joint });
            }
        }
    }

    /// An attempt is begun at its target.
    pub(crate) fn began(&self, held: Held, machine: &Arc<str>) {
        let mut inner = self.inner();
        assert!(inner.state.knows_fence(held.1), "{held:?} begins and its start is not committed");
        let Inner { invariants, state, .. } = &mut *inner;
        invariants.began(held, state);
        inner.begun.insert(held.1);
        inner.figures.effects += 1;
        let count = inner.effects_of.entry(held.0).or_insert(0);
        *count += 1;
        let repeated = *count > 1;
        inner.figures.repeated_effects += u64::from(repeated);
        ("began", held.1).hash(&mut inner.hash);
        inner.moments.push(Moment::Effect { held, machine: Arc::clone(machine) });
    }

    /// An attempt is over at its target; or, where nothing was reported, its worker is gone.
    pub(crate) fn ended(&self, held: Held, reported_by: Option<&Arc<str>>) {
        let mut inner = self.inner();
        inner.invariants.ended(held);
        ("ended", held.1).hash(&mut inner.hash);
        if let Some(machine) = reported_by {
            inner.moments.push(Moment::Effect { held, machine: Arc::clone(machine) });
        }
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

    /// The true time goes on.
    pub(crate) fn set_wall(&self, wall: i64) {
        self.inner().wall = wall;
    }

    /// The moments since this was last asked.
    pub(crate) fn moments(&self) -> Vec<Moment> {
        std::mem::take(&mut self.inner().moments)
    }

    /// The node that leads, as far as anyone has applied that.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.inner().leader.map(|(node, _, _)| node)
    }

    /// Whether each of these nodes has applied that the leader leads.
    pub(crate) fn know_the_leader(&self, nodes: impl IntoIterator<Item = u64>) -> bool {
        let inner = self.inner();
        let led = inner.leader.map_or(0, |(_, _, index)| index);
        nodes.into_iter().all(|node| inner.applied_by.get(&node).is_some_and(|applied| *applied >= led))
    }

    pub(crate) fn state(&self) -> State {
        self.inner().state.clone()
    }

    /// The newest membership that anyone has applied.
    pub(crate) fn members(&self) -> Members {
        self.inner().memberships.last_key_value().map(|(_, members)| members.clone()).unwrap_or_default()
    }

    pub(crate) fn has_begun(&self, fence: u64) -> bool {
        self.inner().begun.contains(&fence)
    }

    /// Whether the cluster has one membership, and each member has applied all that any node has.
    pub(crate) fn in_step(&self) -> bool {
        let Members { members, is_joint, .. } = self.members();
        let inner = self.inner();
        !is_joint && members.iter().all(|node| inner.applied_by.get(node) == Some(&inner.newest))
    }

    /// Whether a node has ever applied anything.
    pub(crate) fn has_applied(&self, node: u64) -> bool {
        self.inner().furthest_by.contains_key(&node)
    }

    /// How far everybody is, for people.
    pub(crate) fn progress(&self) -> String {
        let inner = self.inner();
        let members = inner.memberships.last_key_value();
        format!("newest {}, applied {:?}, {members:?}", inner.newest, inner.applied_by)
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
    fn applied(&mut self, node: u64, index: u64, entry: &Entry, applied: &Applied, after: &State) {
        self.applied_by.insert(node, index);
        if index > self.newest {
            self.commit(index, entry);
        }
        let (known, decided) = self.log.get(&index).expect("seen by somebody before, or just above");
        assert_eq!(known, entry, "node {node} has another entry at {index}");
        assert_eq!(decided, applied, "node {node} decides differently at {index}");
        if index.is_multiple_of(COMPARE_EVERY) {
            assert!(self.states.get(&index) == Some(after), "node {node} has another state at {index}");
        }
        let furthest = self.furthest_by.entry(node).or_insert(0);
        if index > *furthest {
            *furthest = index;
            self.look(node, index, applied);
        }
    }

    /// A node has applied an entry for the first time.
    fn look(&mut self, node: u64, index: u64, applied: &Applied) {
        let Some((leader, _, led)) = self.leader else { return };
        if index == led {
            self.moments.push(Moment::Led { leader });
        }
        if node == leader && index > led {
            let started = applied.outcomes.iter().filter_map(|outcome| match outcome {
                Outcome::Started { fence, .. } => Some(*fence),
                _ => None,
            });
            let fences: Vec<u64> = started.collect();
            if !fences.is_empty() {
                self.moments.push(Moment::Started { leader, fences });
            }
        }
    }

    fn restored(&mut self, node: u64, index: u64, state: &State) {
        let (&newest, known) = self.states.range(..=index).next_back().expect("it stands for something");
        assert!(known == state, "node {node} takes another state from its snapshot of {index}");
        self.applied_by.insert(node, newest);
        let furthest = self.furthest_by.entry(node).or_insert(0);
        if newest > *furthest {
            *furthest = newest;
            self.figures.snapshots_installed += 1;
        }
    }

    fn changed(&mut self, node: u64, index: u64, now: Members) {
        if let Some(known) = self.memberships.get(&index) {
            assert_eq!(*known, now, "node {node} has another membership at {index}");
            return;
        }
        let Some((last, before)) = self.memberships.last_key_value() else {
            self.memberships.insert(index, now);
            return;
        };
        assert!(*last < index, "node {node} has a membership at {index} that nobody else has");
        let back: Vec<&u64> = now.members.intersection(&self.removed).collect();
        assert!(back.is_empty(), "removed nodes are members again at {index}: {back:?}");
        let gone: Vec<u64> = before.members.difference(&now.members).copied().collect();
        self.figures.members_added += now.members.difference(&before.members).count() as u64;
        self.figures.members_removed += gone.len() as u64;
        self.figures.leaders_removed += u64::from(self.leader.is_some_and(|(node, ..)| gone.contains(&node)));
        self.removed.extend(gone);
        (index, &now.voters, &now.members).hash(&mut self.hash);
        self.memberships.insert(index, now);
    }

    fn commit(&mut self, index: u64, entry: &Entry) {
        let before = self.state.clone();
        let applied = self.state.apply(index, entry);
        self.newest = index;
        let ahead = entry.at.millis() - self.wall;
        assert!(ahead <= AHEAD_MS_MAX, "entry {index} is stamped {ahead} ms ahead of the true time");
        self.invariants.committed(&Committed {
            entry,
            applied: &applied,
            before: &before,
            after: &self.state,
        });
        self.state.verify().unwrap_or_else(|broken| panic!("{broken} after {entry:?}"));
        for (command, outcome) in entry.commands.iter().zip(&applied.outcomes) {
            self.note(index, command, outcome, &before);
        }
        self.figures.made += applied.made.len() as u64;
        let (state, now) = (&self.state, self.state.now());
        let is_kept = state.groups().any(|(key, _)| !state.has_group_room(key, 0, now))
            || state.queues().any(|(name, _)| !state.has_queue_room(name, 0, now));
        self.figures.kept_by_limits += u64::from(is_kept);
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
        (index, entry.encode()).hash(&mut self.hash);
        self.states.insert(index, self.state.clone());
        self.log.insert(index, (entry.clone(), applied));
    }

    fn note(&mut self, index: u64, command: &Command, outcome: &Outcome, before: &State) {
        if let (Command::Lead { node, term, .. }, Outcome::Done) = (command, outcome) {
            assert!(self.leader.is_none_or(|(_, old, _)| old < *term), "two leaders in term {term}");
            let carried = before.breakers().any(|(_, breaker)| breaker.kind() != StatusKind::Closed);
            self.figures.breakers_across_a_change += u64::from(carried && self.leader.is_some());
            let waits = |job: &Arc<Job>| before.joins_of(job.id).any(|(_, join)| !join.is_decided);
            let joins = before.jobs_after(None).any(waits);
            self.figures.joins_across_a_change += u64::from(joins && self.leader.is_some());
            let is_spread = before.runs().any(|run| run.spread.is_some());
            self.figures.spread_across_a_change += u64::from(is_spread && self.leader.is_some());
            self.figures.leader_changes += u64::from(self.leader.is_some());
            self.leader = Some((*node, *term, index));
        }
        if let Outcome::Spread { runs } = outcome {
            self.figures.spread += u64::from(*runs > 1);
        }
        if let Outcome::Started { run, .. } = outcome
            && let Some(attempt) = self.state.run(*run).and_then(|run| run.running())
            && attempt.probe.is_some()
        {
            self.moments.push(Moment::Probe { worker: attempt.worker.clone() });
        }
        if let (Some(request), false) = (command.request(), matches!(outcome, Outcome::Rejected(_)))
            && !request.operation_id.is_empty()
        {
            self.operations.insert(request.operation_id.clone());
        }
    }
}
