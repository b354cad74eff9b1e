//! The checker finds what is wrong, passes what is right, and agrees with another one.

use proptest::prelude::*;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::*;
use crate::linear::model::{Applied, Seen};

fn timed(step: Step, called: u64, returned: u64) -> Timed {
    Timed { step, called, returned: Some(returned), after: None }
}

fn pending(step: Step, called: u64) -> Timed {
    Timed { step, called, returned: None, after: None }
}

const fn apply(value: u64, told: Applied, version: u64) -> Step {
    Step::Apply { value, told: Some((told, version)) }
}

const fn look(version: u64, value: u64, paused: bool) -> Step {
    Step::Look(Some(Seen { incarnation: 7, version, value, paused }))
}

fn is_violated(history: &[Timed]) -> bool {
    match check(history) {
        Verdict::Violated(_) => true,
        Verdict::Linearizable => false,
        Verdict::Undecided => panic!("undecided"),
    }
}

#[test]
fn concurrent_steps_may_come_in_either_order_and_others_not() {
    let creation = timed(apply(1, Applied::Created, 1), 1, 10);
    for (look, violated) in [(Step::Look(None), false), (look(1, 1, false), false), (look(1, 2, false), true)]
    {
        assert_eq!(is_violated(&[creation.clone(), timed(look, 2, 9)]), violated, "{look:?}");
    }
    // What was acknowledged is there afterwards.
    assert!(is_violated(&[creation.clone(), timed(Step::Look(None), 11, 12)]));
    assert!(!is_violated(&[creation, timed(look(1, 1, false), 11, 12)]));
    assert!(!is_violated(&[]));
}

#[test]
fn reads_never_go_back() {
    let history = [
        timed(apply(1, Applied::Created, 1), 1, 2),
        timed(apply(2, Applied::Updated, 2), 3, 20),
        timed(look(2, 2, false), 4, 5),
        timed(look(1, 1, false), 6, 7),
    ];
    assert!(is_violated(&history));
    let swapped = [
        history[0].clone(),
        history[1].clone(),
        timed(look(1, 1, false), 4, 5),
        timed(look(2, 2, false), 6, 7),
    ];
    assert!(!is_violated(&swapped));
}

#[test]
fn lost_and_doubled_changes_are_found() {
    let created = timed(apply(1, Applied::Created, 1), 1, 2);
    let pause = |at| timed(Step::SetPaused { paused: true, done: true }, at, at + 1);
    assert!(is_violated(&[created.clone(), pause(3), timed(look(1, 1, false), 5, 6)]), "the pause is lost");
    assert!(is_violated(&[created.clone(), pause(3), timed(look(3, 1, true), 5, 6)]), "it is done twice");
    let delete = |at| timed(Step::Delete { told: Some(true) }, at, at + 1);
    assert!(is_violated(&[created.clone(), delete(3), delete(5)]), "two deleted the same job");
    let again = timed(apply(1, Applied::Created, 1), 3, 4);
    assert!(is_violated(&[created, again]), "two created the same job");
}

#[test]
fn a_change_of_unknown_result_may_happen_late_or_never_but_only_once() {
    let created = timed(apply(1, Applied::Created, 1), 1, 2);
    let unknown = pending(Step::Apply { value: 2, told: None }, 3);
    for (version, value, violated) in [(1, 1, false), (2, 2, false), (3, 2, true), (2, 3, true)] {
        let history = [created.clone(), unknown.clone(), timed(look(version, value, false), 90, 91)];
        assert_eq!(is_violated(&history), violated, "{version} {value}");
    }
    let seen_and_gone =
        [created, unknown, timed(look(2, 2, false), 50, 51), timed(look(1, 1, false), 90, 91)];
    assert!(is_violated(&seen_and_gone), "once it has happened it stays");
}

#[test]
fn the_look_of_a_change_comes_after_it() {
    let created = timed(apply(1, Applied::Created, 1), 1, 2);
    let pause = timed(Step::SetPaused { paused: true, done: true }, 3, 9);
    let shown = |step| Timed { after: Some(1), ..timed(step, 3, 9) };
    let resumed = timed(Step::SetPaused { paused: false, done: true }, 4, 8);
    assert!(!is_violated(&[created.clone(), pause.clone(), shown(look(2, 1, true)), resumed.clone()]));
    assert!(!is_violated(&[created.clone(), pause.clone(), shown(look(3, 1, false)), resumed.clone()]));
    // Before the pause the job looked so; after it, never.
    assert!(is_violated(&[created.clone(), pause.clone(), shown(look(1, 1, false)), resumed]));
    // It was done, and the job deleted before the look: others may see it paused.
    let told_none = Timed { step: Step::SetPaused { paused: true, done: false }, ..pause };
    let deleted = timed(Step::Delete { told: Some(true) }, 6, 7);
    let between = timed(look(2, 1, true), 4, 5);
    let history = [created.clone(), told_none.clone(), shown(Step::Look(None)), between.clone(), deleted];
    assert!(!is_violated(&history));
    assert!(is_violated(&[created, told_none, shown(Step::Look(None)), between]), "nobody deleted it");
}

#[test]
fn a_check_that_would_take_too_long_says_so() {
    let mut history: Vec<Timed> =
        (0..12).map(|at| pending(Step::Apply { value: at, told: None }, at)).collect();
    history.push(timed(look(40, 1, false), 100, 101));
    assert_eq!(check_within(&history, 1_000), Verdict::Undecided);
    assert!(matches!(check_within(&history, 10_000_000), Verdict::Violated(_)));
}

/// The model as another checker wants it.
#[derive(Clone)]
struct Spec(Model);

impl SequentialSpec for Spec {
    type Op = Step;
    type Ret = ();

    fn invoke(&mut self, step: &Step) {
        self.0 = self.0.step(step).unwrap_or(self.0);
    }

    fn is_valid_step(&mut self, step: &Step, (): &()) -> bool {
        match self.0.step(step) {
            Some(after) => {
                self.0 = after;
                true
            }
            None => false,
        }
    }
}

/// The verdict of the checker of `stateright`, which knows no memory and no steps of two parts.
fn other_verdict(history: &[Timed]) -> bool {
    let mut moments: Vec<(u64, usize, bool)> = Vec::new();
    for (place, step) in history.iter().enumerate() {
        moments.push((step.called, place, true));
        moments.extend(step.returned.map(|at| (at, place, false)));
    }
    moments.sort_unstable();
    let mut tester = LinearizabilityTester::new(Spec(Model::default()));
    for (_, place, is_call) in moments {
        if is_call {
            tester.on_invoke(place, history[place].step).expect("a client for each step");
        } else {
            tester.on_return(place, ()).expect("it was called");
        }
    }
    tester.is_consistent()
}

fn any_step() -> impl Strategy<Value = Step> {
    let told = prop_oneof![
        Just(None),
        Just(Some((Applied::Created, 1))),
        (1..4u64).prop_map(|version| Some((Applied::Updated, version))),
        (1..4u64).prop_map(|version| Some((Applied::Unchanged, version))),
    ];
    prop_oneof![
        3 => (1..3u64, told).prop_map(|(value, told)| Step::Apply { value, told }),
        1 => any::<Option<bool>>().prop_map(|told| Step::Delete { told }),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(paused, done)| Step::SetPaused { paused, done }),
        1 => Just(Step::Look(None)),
        3 => (1..4u64, 1..3u64, any::<bool>()).prop_map(|(version, value, paused)| look(version, value, paused)),
    ]
}

/// Calls and returns at distinct moments.
fn any_history() -> impl Strategy<Value = Vec<Timed>> {
    let step = (any_step(), 0..20u64, proptest::option::weighted(0.9, 1..12u64));
    proptest::collection::vec(step, 1..7).prop_map(|steps| {
        let count = steps.len() as u64;
        let timed = |(place, (step, called, length)): (usize, (Step, u64, Option<u64>))| Timed {
            step,
            called: (called * 2) * count + place as u64,
            returned: length.map(|length| ((called + length) * 2 + 1) * count + place as u64),
            after: None,
        };
        steps.into_iter().enumerate().map(timed).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn verdicts_agree_with_those_of_another_checker(history in any_history()) {
        prop_assert_eq!(check(&history) == Verdict::Linearizable, other_verdict(&history));
    }
}
