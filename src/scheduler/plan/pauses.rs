//! Jobs that go on by themselves: their pause is over, or their last run.

use super::{Planning, Rules};
use crate::scheduler::occurrences::{arm, resumed};
use crate::state::{Command, Request};

impl Planning<'_> {
    /// Arms what follows from the end of a run.
    pub(super) fn resting(&mut self, rules: &mut Rules) {
        for id in self.state.resting() {
            if self.full() {
                return;
            }
            if self.flight.jobs.contains(&id) {
                continue;
            }
            let Some(job) = self.state.job(id).cloned() else { continue };
            // A schedule that this leader cannot read rests until one leads that can.
            let Ok(set) = rules.of(&job, self.state) else { continue };
            let since = job.rests_since();
            if let Some(next) = arm(&job.spec, &set, since) {
                self.plan.commands.push(Command::Arm { job: id, version: job.version, since, next });
            }
        }
    }

    /// Jobs whose pause ends by itself go on.
    pub(super) fn pauses(&mut self, rules: &mut Rules) {
        for (until, id) in self.state.ending_pauses() {
            if until > self.now {
                return self.wake(until);
            }
            if self.full() {
                return;
            }
            if self.flight.jobs.contains(&id) {
                continue;
            }
            let Some(job) = self.state.job(id).cloned() else { continue };
            // A schedule that cannot be evaluated is told of when someone resumes the job, or applies it again.
            let Ok(set) = rules.of(&job, self.state) else { continue };
            let next = resumed(&job, &set, self.now);
            let request = Request { reason: "its pause is over".to_owned(), ..Request::default() };
            self.plan.commands.push(Command::ResumeJob {
                job: job.reference(),
                version: job.version,
                next,
                request,
                reading: self.state.reading().generation,
            });
        }
    }
}
