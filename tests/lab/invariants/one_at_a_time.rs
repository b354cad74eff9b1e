//! G3: at most one attempt of a run is carried out at a time, unless the cluster has given the older
//! one up as lost or timed out: then its fence is stale, which is what a target can compare.

use std::collections::BTreeSet;

use chronarch::state::State;
use chronarch::state::run::AttemptOutcome;

use super::Held;

#[derive(Default)]
pub(crate) struct OneAtATime {
    running: BTreeSet<Held>,
}

impl OneAtATime {
    pub(crate) fn began(&mut self, held: Held, truth: &State) {
        let others: Vec<Held> = self.running.iter().filter(|other| other.0 == held.0).copied().collect();
        for other in others {
            // A run that has ended has given up all of its attempts.
            let Some(run) = truth.run(other.0) else { continue };
            let given_up = run.attempts.iter().any(|it| {
                it.fence == other.1 && matches!(it.outcome, AttemptOutcome::Lost | AttemptOutcome::TimedOut)
            });
            assert!(given_up, "{held:?} begins while {other:?} runs");
        }
        self.running.insert(held);
    }

    pub(crate) fn ended(&mut self, held: Held) {
        self.running.remove(&held);
    }
}
