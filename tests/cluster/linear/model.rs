//! What one job is to a client that sees one thing happen after the other.
//!
//! Jobs are objects of their own: a history of several is linearizable if that of each is (Herlihy and Wing 1990,
//! theorem 1), so the model knows a single name.
//!
//! # Steps
//! An operation that changes a job and shows it is two steps of one client, in this order and both between call and
//! answer: the change, and a look. For the look comes after the change, and others may have changed the job between.
//! A change that was answered with "there is no such job" may still have been done, if the job was deleted before the
//! look: only the look then says anything.
//!
//! The incarnation of a job is not told by what creates it. It is bound by the first look at it, and must be greater
//! than that of every job of the name before it.

use serde::Serialize;

/// A job as it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Seen {
    pub(crate) incarnation: u64,
    pub(crate) version: u64,
    /// Stands for the whole definition.
    pub(crate) value: u64,
    pub(crate) paused: bool,
}

/// What became of an apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) enum Applied {
    Created,
    Updated,
    Unchanged,
}

/// What a client did, and what it was told; `None` where it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) enum Step {
    /// Applied this value.
    Apply { value: u64, told: Option<(Applied, u64)> },
    /// Deleted the job, or was told that there is none.
    Delete { told: Option<bool> },
    /// Paused or resumed the job; `done` if it was not told that there is none.
    SetPaused { paused: bool, done: bool },
    /// Looked at the job.
    Look(Option<Seen>),
    /// Looked at incarnation and version alone, as the record of a run shows them.
    Glance { incarnation: u64, version: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Job {
    incarnation: Option<u64>,
    version: u64,
    value: u64,
    paused: bool,
}

/// A job of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Model {
    job: Option<Job>,
    /// The greatest incarnation that was seen of the jobs before it.
    newest: u64,
}

impl Model {
    /// What is after the step, if it can be one from here.
    pub(crate) fn step(mut self, step: &Step) -> Option<Self> {
        let possible = match *step {
            Step::Apply { value, told } => {
                let did = self.apply(value);
                told.is_none_or(|told| told == did)
            }
            Step::Delete { told } => {
                let was = self.delete();
                told.is_none_or(|told| told == was)
            }
            Step::SetPaused { paused, done } => self.set_paused(paused) || !done,
            Step::Look(None) => self.job.is_none(),
            Step::Look(Some(seen)) => {
                let same = self.job.is_some_and(|job| (job.value, job.paused) == (seen.value, seen.paused));
                same && self.glance(seen.incarnation, seen.version)
            }
            Step::Glance { incarnation, version } => self.glance(incarnation, version),
        };
        possible.then_some(self)
    }

    fn apply(&mut self, value: u64) -> (Applied, u64) {
        match &mut self.job {
            None => {
                self.job = Some(Job { incarnation: None, version: 1, value, paused: false });
                (Applied::Created, 1)
            }
            Some(job) if job.value == value => (Applied::Unchanged, job.version),
            Some(job) => {
                (job.value, job.version) = (value, job.version + 1);
                (Applied::Updated, job.version)
            }
        }
    }

    fn delete(&mut self) -> bool {
        let gone = self.job.take();
        self.newest = gone.and_then(|job| job.incarnation).unwrap_or(self.newest);
        gone.is_some()
    }

    fn set_paused(&mut self, paused: bool) -> bool {
        let Some(job) = &mut self.job else { return false };
        job.version += u64::from(job.paused != paused);
        job.paused = paused;
        true
    }

    fn glance(&mut self, incarnation: u64, version: u64) -> bool {
        let newest = self.newest;
        let Some(job) = &mut self.job else { return false };
        let bound = *job.incarnation.get_or_insert(incarnation);
        bound == incarnation && bound > newest && job.version == version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steps: &[Step]) -> Option<Model> {
        steps.iter().try_fold(Model::default(), |model, step| model.step(step))
    }

    fn created(value: u64) -> Step {
        Step::Apply { value, told: Some((Applied::Created, 1)) }
    }

    fn look(incarnation: u64, version: u64, value: u64, paused: bool) -> Step {
        Step::Look(Some(Seen { incarnation, version, value, paused }))
    }

    #[test]
    fn a_job_is_what_was_done_to_it() {
        let steps = [
            Step::Look(None),
            created(1),
            look(5, 1, 1, false),
            Step::SetPaused { paused: true, done: true },
            Step::SetPaused { paused: true, done: true },
            look(5, 2, 1, true),
            Step::Apply { value: 2, told: Some((Applied::Updated, 3)) },
            Step::Apply { value: 2, told: Some((Applied::Unchanged, 3)) },
            Step::Glance { incarnation: 5, version: 3 },
            Step::SetPaused { paused: false, done: true },
            look(5, 4, 2, false),
            Step::Delete { told: Some(true) },
            Step::Delete { told: Some(false) },
            Step::SetPaused { paused: true, done: false },
            created(1),
            look(9, 1, 1, false),
        ];
        assert!(run(&steps).is_some());
    }

    #[test]
    fn what_contradicts_it_is_no_step() {
        let wrong: &[&[Step]] = &[
            &[look(5, 1, 1, false)],
            &[created(1), Step::Look(None)],
            &[created(1), created(1)],
            &[created(1), look(5, 2, 1, false)],
            &[created(1), look(5, 1, 2, false)],
            &[created(1), look(5, 1, 1, true)],
            &[created(1), look(5, 1, 1, false), look(6, 1, 1, false)],
            &[Step::SetPaused { paused: true, done: true }],
            &[Step::Delete { told: Some(true) }],
            &[created(1), Step::Delete { told: Some(false) }],
            // A job that was created anew has the incarnation of an older one.
            &[
                created(1),
                look(5, 1, 1, false),
                Step::Delete { told: Some(true) },
                created(1),
                look(4, 1, 1, false),
            ],
        ];
        for steps in wrong {
            assert_eq!(run(steps), None, "{steps:?}");
        }
    }
}
