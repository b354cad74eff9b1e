//! Hashes of states, and what differs between two of them.

use super::*;
use crate::state::breaker::StatusKind;
use crate::state::run::JobId;
use crate::state::time::Timestamp;
use crate::state::{Command, Entry, Outcome, Request};
use crate::view::fixture::minutely;

fn apply(state: &mut State, index: u64, command: Command) -> Outcome {
    let entry = Entry { at: Timestamp::from_millis(1_000), commands: vec![command] };
    state.apply(index, &entry).outcomes.remove(0)
}

fn put(name: &str) -> Command {
    Command::PutJob { spec: Arc::new(minutely(name)), next: None, request: Request::default(), reading: 0 }
}

#[test]
fn replicas_hash_alike_whether_they_applied_or_read_a_snapshot_and_others_do_not() {
    let (mut one, mut other) = (State::default(), State::default());
    for (index, name) in [(1, "a"), (2, "b")] {
        apply(&mut one, index, put(name));
        apply(&mut other, index, put(name));
    }
    let hash = one.hash().unwrap();
    assert_eq!(other.hash().unwrap(), hash);
    let mut bytes = Vec::new();
    one.write_to(&mut bytes).unwrap();
    assert_eq!(State::read_from(&mut bytes.as_slice()).unwrap().hash().unwrap(), hash);
    assert_eq!(StateHash(Sha256::digest(&bytes).into()), hash, "it is that of the snapshot form");
    // Even an entry that is refused moves the index of the state.
    apply(&mut other, 3, Command::Retry { run: "1-1".parse().unwrap() });
    assert_ne!(other.hash().unwrap(), hash);
    assert_eq!(hash.to_string().len(), 64);
}

#[test]
fn hash_of_the_empty_state_is_pinned() {
    // The form of snapshots is pinned with it: a change of either shows here.
    assert_eq!(State::default().hash().unwrap().to_string(), PINNED);
}

const PINNED: &str = "e5438ad6a5788ec69fcc0795f1d18cb8c21186cf3104387a0db5add81fe87d8b";

#[test]
fn a_large_state_is_hashed_more_rarely_but_at_indexes_that_a_small_one_has_too() {
    let mut state = State::default();
    let hashed = |state: &State| -> Vec<u64> {
        (0..=8 * limits::HASH_EVERY).filter(|index| state.is_hashed_at(*index)).collect()
    };
    let small = hashed(&state);
    assert_eq!(small.len(), 8, "{small:?}");
    assert!(!state.is_hashed_at(0));
    let spec = Arc::new(minutely("a"));
    for number in 0..=limits::HASHED_ITEMS as u64 {
        let job = crate::state::Job {
            id: JobId(number),
            spec: spec.clone(),
            version: 1,
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
            next: None,
            pause: None,
            deleted: true,
            last: None,
            decided_until: Timestamp::MIN,
            fault: None,
            origin: crate::state::Origin::default(),
            previous: Vec::new(),
        };
        state.jobs.insert(JobId(number), Arc::new(job));
    }
    let large = hashed(&state);
    assert_eq!(large.len(), 4);
    assert!(large.iter().all(|index| small.contains(index)), "{large:?}");
}

#[test]
fn only_the_breakers_that_an_entry_touched_are_told() {
    let mut state = State::default();
    let mut keys = Vec::new();
    for index in 1..=100 {
        let Outcome::Put { job, .. } = apply(&mut state, index, put(&format!("job-{index}"))) else {
            panic!("not put");
        };
        keys.push(BreakerKey::Job(job));
    }
    let trip = |breaker: &BreakerKey| Command::TripBreaker {
        breaker: breaker.clone(),
        open_for: None,
        request: Request::default(),
    };
    keys[..50].iter().zip(101..).for_each(|(key, index)| {
        apply(&mut state, index, trip(key));
    });
    let before = state.clone();
    apply(&mut state, 200, trip(&keys[70]));
    let reset = Command::ResetBreaker { breaker: keys[3].clone(), request: Request::default() };
    apply(&mut state, 201, reset);
    let kind = |breaker: Option<&Arc<Breaker>>| breaker.map(|breaker| breaker.kind());
    let changed: Vec<_> = state
        .breakers_changed_since(&before)
        .map(|change| (change.key.clone(), kind(change.before), kind(change.after)))
        .collect();
    let expected = [
        (keys[3].clone(), Some(StatusKind::Open), Some(StatusKind::Closed)),
        (keys[70].clone(), None, Some(StatusKind::Open)),
    ];
    assert_eq!(changed, expected);
    assert_eq!(before.breakers_changed_since(&before).count(), 0);
}
