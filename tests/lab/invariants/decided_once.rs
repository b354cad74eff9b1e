//! G1: every due instant is decided exactly once.
//!
//! The instants are enumerated from the schedule by `ScheduleSet` alone, from the armed one on; an
//! accepted `Fire` must cover them without a gap up to the one that it arms. Between two fires only
//! an edit, a pause or a resumption may arm another instant, and never one that is decided.

use std::collections::{BTreeMap, BTreeSet};

use chronarch::scheduler::almanac::Almanac;
use chronarch::scheduler::set::ScheduleSet;
use chronarch::state::run::JobId;
use chronarch::state::time::Timestamp;
use chronarch::state::{Command, Outcome, Verdict};

use super::Committed;

#[derive(Default)]
pub(crate) struct DecidedOnce {
    decided: BTreeMap<JobId, BTreeSet<Timestamp>>,
    pub(crate) count: u64,
}

impl DecidedOnce {
    pub(crate) fn committed(&mut self, it: &Committed<'_>) {
        for (command, outcome) in it.entry.commands.iter().zip(&it.applied.outcomes) {
            let (Command::Fire { job, expect, verdicts, next, .. }, Outcome::Fired { runs, .. }) =
                (command, outcome)
            else {
                continue;
            };
            let spec =
                &it.before.job(*job).or_else(|| it.after.job(*job)).expect("a job that fires exists").spec;
            let set = ScheduleSet::of(spec, &Almanac::of(it.before)).expect("a sound schedule");
            let mut instants = vec![*expect];
            let last = verdicts.last().expect("a fire decides").until();
            while let Some((at, _)) =
                set.next_after(*instants.last().expect("one at least")).filter(|it| it.0 <= last)
            {
                instants.push(at);
            }
            assert_eq!(
                set.next_after(last).map(|it| it.0),
                next.map(|due| due.scheduled_at),
                "armed past an instant"
            );
            let mut walked = instants.iter();
            for verdict in verdicts {
                let covered = match *verdict {
                    Verdict::Run { stands_for, .. } => stands_for,
                    Verdict::Missed { count, .. } => count,
                };
                let ends: Vec<_> = (0..covered).filter_map(|_| walked.next().copied()).collect();
                let (Verdict::Run { from, .. } | Verdict::Missed { from, .. }) = *verdict;
                assert_eq!(
                    (ends.first(), ends.last()),
                    (Some(&from), Some(&verdict.until())),
                    "a verdict does not cover what it says: {verdict:?}"
                );
            }
            assert_eq!(walked.next(), None, "an instant has no verdict");
            assert_eq!(runs.len(), verdicts.len(), "a verdict without a record");
            for at in instants {
                assert!(
                    self.decided.entry(*job).or_default().insert(at),
                    "job {} is decided twice at {at}",
                    job.0
                );
                self.count += 1;
            }
        }
    }
}
