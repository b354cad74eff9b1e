//! Reading schedules anew, when what they are read with has changed.
//!
//! The armed occurrence of a job was computed with the data of the zones ([`super::tzdata`]) as it was. When that
//! changes, the state cannot compute it again, for it reads no zone. So it notes what has changed ([`Pass`]) and lets
//! no job that is touched fire until the leader has gone over it: [`Command::Reread`](super::Command::Reread) names a
//! range of jobs in the order of their ids, and those among them whose armed occurrence is another now. What has been
//! gone over is one number, so a leader that takes over goes on where the last one was.
//!
//! # The moment
//! The change has a moment, the stamp of its entry. An occurrence whose instant had come by then stays as it was
//! computed; those after it are computed anew. An instant is never decided twice: `Job::decided_until` sees to that.
//!
//! # Who computes with what
//! Each change has a number, the *generation*. Commands of clients that arm an occurrence (`PutJob`, `ResumeJob`) name
//! the generation that they were computed with, and are refused as stale under another. The leader's own need none: it
//! proposes a `Reread` behind all that it computed before, and what it computed is refused while the job is behind.

use serde::{Deserialize, Serialize};

use super::State;
use super::apply::{Applying, not_decided};
use super::command::{Due, Outcome, Rearmed};
use super::job::Job;
use super::pack::later;
use super::rejection::Rejection;
use super::run::JobId;
use super::schedule::Rule;
use super::time::Timestamp;

/// What schedules are read with, by number, and how far they have been read anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The number of the last change; 0 before the first.
    pub generation: u64,
    /// The jobs that are still to be read anew; absent when all are read.
    pub pass: Option<Pass>,
}

/// A way over all jobs in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// When the first change was made that not all jobs are read with yet.
    pub since: Timestamp,
    /// The last job that has been gone over.
    pub through: Option<JobId>,
    /// What has changed.
    pub touched: Touched,
}

/// What has changed of what schedules are read with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// The data of the zones.
    #[serde(default, serialize_with = "later")]
    pub zones: bool,
}

impl Touched {
    pub(super) const fn zones() -> Self {
        Self { zones: true }
    }

    /// Both.
    fn and(self, other: Self) -> Self {
        Self { zones: self.zones || other.zones }
    }

    /// Whether the job may have another occurrence by it.
    #[must_use]
    pub fn touches(&self, job: &Job) -> bool {
        self.zones && job.is_zoned()
    }
}

impl Pass {
    /// Whether the job has to be read anew and was not.
    #[must_use]
    pub fn is_ahead_of(&self, job: &Job) -> bool {
        self.through.is_none_or(|through| job.id > through) && self.touched.touches(job)
    }
}

impl Job {
    /// Whether the instants of its schedule depend on the data of a zone.
    #[must_use]
    pub fn is_zoned(&self) -> bool {
        self.spec.schedules.iter().any(|schedule| match &schedule.rule {
            Rule::Cron { .. } => schedule.timezone != "UTC" && !schedule.timezone.starts_with("fixed:"),
            // They may name a zone of their own.
            Rule::Recurrence(_) | Rule::Calendar(_) => true,
            // They see a zone for display alone; one that is gone makes them unreadable all the same.
            Rule::Every { .. } | Rule::At(_) | Rule::AfterCompletion { .. } | Rule::Solar { .. } => {
                self.fault.is_some()
            }
        })
    }
}

impl State {
    /// What schedules are read with.
    #[must_use]
    pub const fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Whether the armed occurrence of a job was computed with what has changed since: nothing of it is decided now.
    #[must_use]
    pub fn is_behind(&self, job: &Job) -> bool {
        self.reading.pass.as_ref().is_some_and(|pass| pass.is_ahead_of(job))
    }
}

impl Applying<'_> {
    /// All jobs that are touched are to be read anew.
    pub(super) fn read_anew(&mut self, touched: Touched) {
        let (number, at) = (self.number.max(1), self.moment.at);
        let reading = &mut self.state.reading;
        reading.generation = number;
        // What the last pass left undone is as it was before the first of the changes.
        let (since, touched) = match reading.pass.take() {
            Some(pass) => (pass.since, pass.touched.and(touched)),
            None => (at, touched),
        };
        let any = !self.state.jobs.is_empty();
        self.state.reading.pass = any.then_some(Pass { since, through: None, touched });
    }

    /// Refuses what was computed with something that has changed since.
    pub(super) const fn check_reading(&self, generation: u64) -> Result<(), Rejection> {
        if generation == self.state.reading.generation { Ok(()) } else { Err(Rejection::Stale) }
    }

    /// The jobs from `after` on, up to `through` or the last one, have been read; those that are named have another
    /// armed occurrence. All of it or nothing.
    pub(super) fn reread(
        &mut self,
        generation: u64,
        (after, through): (Option<JobId>, Option<JobId>),
        armed: &[Rearmed],
    ) -> Result<Outcome, Rejection> {
        self.check_reading(generation)?;
        let pass = self.state.reading.pass.as_ref().filter(|pass| pass.through == after);
        let pass = pass.ok_or(Rejection::Stale)?;
        if through.is_some_and(|through| Some(through) <= after) {
            return Err(Rejection::Malformed);
        }
        let mut jobs = Vec::with_capacity(armed.len());
        for Rearmed { job: id, version, next } in armed {
            let job = self.live_job(*id).ok().filter(|job| job.version == *version);
            let job = job.ok_or(Rejection::Stale)?;
            if !pass.is_ahead_of(&job) || through.is_some_and(|through| job.id > through) {
                return Err(Rejection::Malformed);
            }
            if next.is_some_and(|Due { due_at, scheduled_at }| due_at < scheduled_at) {
                return Err(Rejection::Malformed);
            }
            not_decided(&job, *next)?;
            jobs.push((job, *next));
        }
        for (job, next) in jobs {
            let mut read = job.as_ref().clone();
            read.fault = None;
            match &mut read.pause {
                Some(pause) => pause.armed = next,
                None => read.next = next,
            }
            self.state.put_job(read);
        }
        match (&mut self.state.reading.pass, through) {
            (Some(pass), Some(_)) => pass.through = through,
            (pass, _) => *pass = None,
        }
        Ok(Outcome::Done)
    }
}
