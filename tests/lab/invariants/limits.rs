//! No more attempts of a job run than its overlap policy allowed in any version of it so far.

use std::collections::BTreeMap;

use chronarch::state::run::{JobId, Phase};

use super::Committed;

#[derive(Default)]
pub(crate) struct Limits {
    widest: BTreeMap<JobId, usize>,
    seen: u64,
}

impl Limits {
    pub(crate) fn committed(&mut self, it: &Committed<'_>) {
        self.seen += 1;
        let mut running: BTreeMap<JobId, usize> = BTreeMap::new();
        for run in it.after.runs() {
            let counts =
                matches!(run.phase, Phase::Running | Phase::Waiting | Phase::Spread | Phase::Backoff { .. });
            // What it made for one of its workers is in the place of a run.
            *running.entry(run.id.job).or_insert(0) += usize::from(counts && run.parent.is_none());
        }
        for (id, count) in running {
            let Some(job) = it.after.job(id) else { continue };
            let widest = self.widest.entry(id).or_insert(0);
            *widest = (*widest).max(job.spec.overlap.parallel());
            assert!(count <= *widest, "job {} has {count} runs under way, at most {widest} may", id.0);
        }
    }
}
