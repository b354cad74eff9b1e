//! What lies in the log, the run log and snapshots: entries, runs, states.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chronarch::scheduler::plan::{InFlight, Rules, Session, Sessions, plan};
use chronarch::state::run::Run;
use chronarch::state::time::Timestamp;
use chronarch::state::{Entry, State};
use chronarch::view;

/// 2026-01-01, when every scene begins.
const BEGIN: i64 = 1_767_225_600_000;
/// Entries that a leader may need until it rests. A backlog of a year is many.
const ENTRIES: u64 = 3;

/// An instant of the scene, in milliseconds from its begin.
pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(BEGIN + millis)
}

/// A state with jobs of each policy, runs in each phase and breakers of each kind; made by the leader's own plans.
pub(crate) fn scene() -> State {
    static SCENE: OnceLock<State> = OnceLock::new();
    SCENE.get_or_init(super::scene::make).clone()
}

fn sessions() -> Sessions {
    let session = Session {
        worker: "w1".into(),
        queues: Arc::new(BTreeSet::from(["default".into()])),
        labels: Arc::default(),
        kinds: Arc::new(BTreeSet::from(["exec".to_owned(), "http".to_owned()])),
        slots: 3,
        free: 3,
        given: 0,
    };
    let lease = Duration::from_secs(3);
    Sessions {
        open: vec![session],
        alive: HashSet::from(["w1".into()]),
        spared: HashSet::new(),
        is_complete: true,
        lease,
    }
}

/// Lets a leader do what it finds to do.
pub(crate) fn settle(state: &mut State) {
    let mut rules = Rules::default();
    for step in 0..ENTRIES {
        let now = state.now().plus(Duration::from_secs(1));
        let plan = plan(state, &mut sessions(), &InFlight::default(), now, &mut rules);
        if plan.commands.is_empty() {
            return;
        }
        let entry = Entry { at: now, commands: plan.commands };
        state.apply(state.applied_index().saturating_add(1 + step), &entry);
        assert_eq!(state.verify(), Ok(()), "after {:?}", entry.commands);
    }
}

/// An entry: whatever it holds, two replicas agree on it, the state's invariants hold, and a leader gets on.
pub(crate) fn entry(bytes: &[u8]) {
    let Ok(entry) = Entry::decode(bytes) else { return };
    assert_eq!(Entry::decode(&entry.encode()).as_ref().ok(), Some(&entry), "an entry reads back");
    let mut state = scene();
    let mut twin = state.clone();
    let applied = state.apply(100, &entry);
    assert_eq!(applied, twin.apply(100, &entry), "two replicas decide differently");
    assert_eq!(state, twin);
    assert_eq!(applied.outcomes.len(), entry.commands.len());
    assert_eq!(state.verify(), Ok(()), "after {:?}", entry.commands);
    applied.finished.iter().for_each(show);
    state.runs().for_each(show);
    reads_back(&state);
    settle(&mut state);
}

fn show(run: &Arc<Run>) {
    drop(view::run::to_pb(run));
    assert_eq!(Run::decode(&run.encode()).as_ref().ok(), Some(run.as_ref()), "a run reads back");
}

/// A record of the run log.
pub(crate) fn run(bytes: &[u8]) {
    if let Ok(run) = Run::decode(bytes) {
        show(&Arc::new(run));
    }
}

/// A snapshot. One whose state holds what it promises can be written again, and worked with.
pub(crate) fn snapshot(bytes: &[u8]) {
    let Ok(mut state) = State::read_from(&mut &*bytes) else { return };
    if state.verify().is_ok() {
        reads_back(&state);
        settle(&mut state);
    }
}

fn reads_back(state: &State) {
    let mut bytes = Vec::new();
    state.write_to(&mut bytes).expect("a vector takes all");
    let read = State::read_from(&mut bytes.as_slice()).expect("a snapshot reads back");
    assert!(read == *state, "a snapshot is read otherwise than it was written");
}
