//! Jobs whose schedule is read with something that has changed: what they are armed with is computed anew.

use super::{Planning, Rules};
use crate::scheduler::occurrences::reread;
use crate::state::{Command, Rearmed};

/// Jobs that one plan goes over at most.
const GONE_OVER: usize = 50_000;
/// Of those, schedules that it reads: some 10 µs each.
const READ: usize = 2_000;

impl Planning<'_> {
    /// Goes on with the jobs behind those that were gone over last. One range at a time is under way.
    pub(super) fn reread(&mut self, rules: &mut Rules) {
        let Some(pass) = self.state.reading().pass.as_ref().filter(|_| !self.flight.reread) else { return };
        let (mut armed, mut through, mut gone_over, mut read) = (Vec::new(), pass.through, 0, 0);
        let mut is_end = true;
        for job in self.state.jobs_by_id(pass.through) {
            if gone_over == GONE_OVER || read == READ {
                is_end = false;
                break;
            }
            gone_over += 1;
            through = Some(job.id);
            if job.deleted || !pass.touched.touches(job) {
                continue;
            }
            read += 1;
            // What cannot be read stays armed, and is told of when it is due.
            let Ok(set) = rules.of(job, self.state) else { continue };
            if let Some(next) = reread(job, &set, pass, self.state.tzdata().map(|tzdata| &**tzdata)) {
                armed.push(Rearmed { job: job.id, version: job.version, next });
            }
        }
        self.plan.commands.push(Command::Reread {
            generation: self.state.reading().generation,
            after: pass.through,
            through: through.filter(|_| !is_end),
            armed,
        });
    }
}
