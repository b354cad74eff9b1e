//! Limits that jobs share are never exceeded, whoever leads: no more attempts of a group run than any limit of it so
//! far allowed, and no more start within the span of its rate than a full bucket and its filling give.

use std::collections::{BTreeMap, VecDeque};

use chronarch::state::Outcome;
use chronarch::state::group::GroupKey;
use chronarch::state::spec::Rate;
use chronarch::state::time::Timestamp;

use super::Committed;

#[derive(Default)]
pub(crate) struct Groups {
    widest: BTreeMap<GroupKey, u32>,
    /// Starts under the rate that stands.
    started: BTreeMap<GroupKey, (Option<Rate>, VecDeque<Timestamp>)>,
}

impl Groups {
    pub(crate) fn committed(&mut self, it: &Committed<'_>) {
        for (key, group) in it.after.groups() {
            let widest = self.widest.entry(key.clone()).or_insert(0);
            *widest = (*widest).max(group.concurrency.unwrap_or(u32::MAX));
            let (load, widest) = (it.after.group_load(key), *widest);
            assert!(load <= widest, "{load} attempts of {key:?} run, at most {widest} may");
            let (rate, started) = self.started.entry(key.clone()).or_default();
            if *rate != group.rate {
                *rate = group.rate;
                started.clear();
            }
        }
        for outcome in &it.applied.outcomes {
            let Outcome::Started { run, .. } = outcome else { continue };
            // The attempt may have ended in the same entry; its job's limits are what counts.
            let Some(key) = it.after.job(run.job).and_then(|job| job.spec.group()) else { continue };
            let Some((Some(rate), started)) = self.started.get_mut(&key) else { continue };
            let now = it.after.now();
            started.push_back(now);
            while started.front().is_some_and(|first| now.since(*first) >= rate.per) {
                started.pop_front();
            }
            let most = 2 * rate.starts as usize;
            assert!(started.len() <= most, "{} starts of {key:?} within {:?}", started.len(), rate.per);
        }
    }
}
