//! What may happen to jobs, workers and leaders, as small numbers, so that a failure shrinks to few and plain steps.

use std::time::Duration;

use chronarch::state::run::AttemptOutcome;
use chronarch::state::spec::{CatchUpRuns, JobSpec, Keep, OnLost, OnOpen, OnResume, OverlapPolicy};
use proptest::prelude::*;

use super::lab;

pub(crate) const NAMES: [&str; 3] = ["ant", "bee", "cat"];
/// All that happens, happens at a multiple of this, but for the ends of `start_within`.
pub(crate) const STEP_MS: i64 = 500;

/// A definition, as far as it varies.
#[derive(Clone, Debug)]
pub(crate) struct Knobs {
    period: u8,
    catch_up: u8,
    overlap: u8,
    lost_and_resume: u8,
    retry: u8,
    breaker: u8,
    start_within: bool,
}

fn knobs() -> impl Strategy<Value = Knobs> {
    let small = || 0..12_u8;
    (0..4_u8, small(), 0..24_u8, 0..4_u8, 0..4_u8, 0..32_u8, any::<bool>()).prop_map(
        |(period, catch_up, overlap, lost_and_resume, retry, breaker, start_within)| Knobs {
            period,
            catch_up,
            overlap,
            lost_and_resume,
            retry,
            breaker,
            start_within,
        },
    )
}

pub(crate) fn spec(name: u8, knobs: &Knobs) -> JobSpec {
    let seconds = |count: u8| Duration::from_secs(u64::from(count));
    let mut spec = lab::spec::job(NAMES[usize::from(name)]);
    if knobs.period > 0 {
        spec.schedules = vec![lab::spec::every(seconds(knobs.period))];
    }
    // Longer than a case.
    spec.timeout = Duration::from_secs(86_400);
    spec.catch_up.runs =
        [CatchUpRuns::Latest, CatchUpRuns::None, CatchUpRuns::All][usize::from(knobs.catch_up % 3)];
    spec.catch_up.window = seconds(knobs.catch_up / 3 * 3);
    spec.catch_up.max = u32::from(knobs.catch_up / 3);
    let policies = [OverlapPolicy::Allow, OverlapPolicy::Skip, OverlapPolicy::Queue, OverlapPolicy::Replace];
    spec.overlap.policy = policies[usize::from(knobs.overlap % 4)];
    spec.overlap.limit = u32::from(knobs.overlap / 4 % 3);
    spec.overlap.keep = if knobs.overlap & 8 == 0 { Keep::Newest } else { Keep::Oldest };
    spec.overlap.max_parallel = 1 + u32::from(knobs.overlap / 12);
    spec.on_lost = if knobs.lost_and_resume & 1 == 0 { OnLost::Rerun } else { OnLost::Fail };
    spec.on_resume = if knobs.lost_and_resume & 2 == 0 { OnResume::Skip } else { OnResume::CatchUp };
    spec.retry.max_attempts = 1 + u32::from(knobs.retry % 3);
    spec.retry.multiplier_milli = 1_000;
    spec.breaker.consecutive_failures = u32::from(knobs.breaker % 4);
    spec.breaker.open_for = seconds(1 + knobs.breaker / 4 % 2);
    spec.breaker.max_open_for = seconds(3);
    spec.breaker.probes = u32::from(knobs.breaker / 8 % 2) + 1;
    spec.breaker.on_open = if knobs.breaker / 16 == 0 { OnOpen::Skip } else { OnOpen::Hold };
    spec.start_within = knobs.start_within.then(|| Duration::from_millis(1_700));
    spec
}

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Put(u8, Knobs),
    Delete(u8, bool),
    Pause(u8),
    Resume(u8),
    /// By hand; under an operation id, if there is one.
    Trigger(u8, Option<u8>),
    Cancel(u8),
    Report(u8, AttemptOutcome),
    Trip(u8),
    Reset(u8),
    /// Time passes, under a leader.
    Advance(u8),
    /// Time passes, under none; then another one leads.
    Gap(u8),
    Silence,
    Revive,
    /// What a leader had proposed some time ago, and was done, is proposed again.
    Stale(u16),
    /// The last operation of a client is asked for again.
    Again,
}

pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    let name = || 0..NAMES.len() as u8;
    let outcome = prop_oneof![
        4 => Just(AttemptOutcome::Succeeded),
        4 => Just(AttemptOutcome::Failed),
        1 => Just(AttemptOutcome::TimedOut),
        1 => Just(AttemptOutcome::Cancelled),
        1 => Just(AttemptOutcome::Lost),
    ];
    prop_oneof![
        6 => (name(), knobs()).prop_map(|(name, knobs)| Operation::Put(name, knobs)),
        2 => (name(), any::<bool>()).prop_map(|(name, cancel)| Operation::Delete(name, cancel)),
        1 => name().prop_map(Operation::Pause),
        2 => name().prop_map(Operation::Resume),
        2 => (name(), prop::option::of(0..3_u8)).prop_map(|(name, id)| Operation::Trigger(name, id)),
        2 => any::<u8>().prop_map(Operation::Cancel),
        12 => (any::<u8>(), outcome).prop_map(|(run, outcome)| Operation::Report(run, outcome)),
        1 => name().prop_map(Operation::Trip),
        1 => name().prop_map(Operation::Reset),
        10 => (1..8_u8).prop_map(Operation::Advance),
        3 => (1..24_u8).prop_map(Operation::Gap),
        1 => Just(Operation::Silence),
        2 => Just(Operation::Revive),
        2 => any::<u16>().prop_map(Operation::Stale),
        1 => Just(Operation::Again),
    ]
}
