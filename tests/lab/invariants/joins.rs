//! G4: nothing that a job waits for is lost. Each end of a run is at each of the jobs behind it in the very entry that
//! ended it: kept in a join, or in a run or record that came of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronarch::state::State;
use chronarch::state::run::{Run, RunId, RunState};
use chronarch::state::spec::AfterOn;

use super::Committed;

/// What became of the runs before it, by the run that came of them.
fn upstream(it: &Committed<'_>) -> BTreeSet<(chronarch::state::JobId, RunId)> {
    let ended = it.applied.finished.iter().map(Arc::as_ref);
    let live = it.applied.made.iter().filter_map(|id| it.after.run(*id)).map(Arc::as_ref);
    ended.chain(live).flat_map(|run: &Run| run.upstream.iter().map(|before| (run.id.job, *before))).collect()
}

fn waits(state: &State, job: chronarch::state::JobId, run: &Run) -> bool {
    let mut joins = state.joins_of(job);
    joins.any(|(_, join)| join.arrived.get(&*run.job).is_some_and(|arrival| arrival.run == run.id))
}

pub(crate) fn committed(it: &Committed<'_>) {
    if it.applied.finished.is_empty() {
        return;
    }
    let used = upstream(it);
    // What one worker made of a run is not the run.
    let whole = || it.applied.finished.iter().filter(|run| run.place.is_none());
    for run in whole() {
        for follower in it.after.followers(&run.namespace, &run.job) {
            // One that came to wait for this job with a later command of the entry did not hear of it.
            let waited = it.before.followers(&run.namespace, &run.job).any(|before| before == follower);
            let is_known = used.contains(&(follower, run.id)) || waits(it.after, follower, run);
            // The newest of several ends in one entry takes the place of the older ones.
            let is_newest = whole().rfind(|other| other.job == run.job);
            let is_newest = is_newest.is_some_and(|newest| newest.id == run.id);
            // What is there for failures says nothing where there is none, and may have been forgotten since.
            // So may a failure be that met one which was none, once the next end of the entry has begun the join anew.
            let after = it.after.job(follower).and_then(|job| job.spec.after.clone());
            let after = after.filter(|after| after.on == AfterOn::Failure);
            if after.is_some_and(|after| {
                run.state != RunState::Failed
                    || whole()
                        .any(|other| other.job != run.job && after.jobs.iter().any(|job| **job == *other.job))
            }) {
                continue;
            }
            assert!(
                !waited || is_known || !is_newest,
                "the end of {} did not arrive at {follower:?}",
                run.id
            );
        }
    }
}
