//! G3: an attempt is started by at most one worker; under `on_lost: fail` a run is never begun again
//! after an attempt whose end nobody knows.

use std::collections::BTreeSet;

use chronarch::state::run::AttemptOutcome;
use chronarch::state::spec::OnLost;
use chronarch::state::{Command, Outcome};

use super::Committed;
use super::Held;

#[derive(Default)]
pub(crate) struct AtMostOnce {
    began: BTreeSet<Held>,
    last_fence: u64,
}

impl AtMostOnce {
    pub(crate) fn began(&mut self, held: Held) {
        assert!(self.began.insert(held), "attempt {held:?} is begun twice");
    }

    /// An accepted end is that of the attempt that ran; what is said to have happened was really begun, and
    /// nobody who was not asked to has stopped it.
    fn ended(&self, held: Held, outcome: AttemptOutcome, it: &Committed<'_>) {
        let has_happened = matches!(outcome, AttemptOutcome::Succeeded | AttemptOutcome::Failed);
        assert!(
            !has_happened || self.began.contains(&held),
            "attempt {held:?} ended as {outcome:?} and its order never arrived"
        );
        let Some(run) = it.before.run(held.0) else { return };
        let running = run.running().map(|attempt| attempt.fence);
        assert_eq!(running, Some(held.1), "a report under another fence was accepted");
        let asked = run.cancel.is_some() || outcome != AttemptOutcome::Cancelled;
        assert!(asked, "attempt {held:?} was stopped and nobody wanted that");
    }

    pub(crate) fn committed(&mut self, it: &Committed<'_>) {
        for (command, outcome) in it.entry.commands.iter().zip(&it.applied.outcomes) {
            if let (Command::Complete { run, fence, outcome, .. }, Outcome::Completed { .. }) =
                (command, outcome)
            {
                self.ended((*run, *fence), *outcome, it);
            }
        }
        for outcome in &it.applied.outcomes {
            let Outcome::Started { run, fence } = outcome else { continue };
            let last = std::mem::replace(&mut self.last_fence, *fence);
            assert!(last < *fence, "fence {fence} of {run} does not grow, after {last}");
            let Some(record) = it.after.run(*run) else { continue };
            // The policy that counts is that at the time of the loss, which an edit may have changed.
            let always = |spec: OnLost| {
                it.after
                    .job(run.job)
                    .is_some_and(|job| job.spec.on_lost == spec && job.version == record.version)
            };
            if always(OnLost::Fail) {
                let unknown = record
                    .attempts
                    .iter()
                    .any(|it| matches!(it.outcome, AttemptOutcome::Lost | AttemptOutcome::Cancelled));
                assert!(!unknown, "run {run} is begun again after a loss, and on_lost is fail");
            }
        }
    }
}
