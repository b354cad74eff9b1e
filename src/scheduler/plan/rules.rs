//! What one plan hands on to the next.

use std::collections::HashMap;
use std::sync::Arc;

use crate::scheduler::almanac::Almanac;
use crate::scheduler::set::ScheduleSet;
use crate::state::run::JobId;
use crate::state::spec::JobSpec;
use crate::state::{Job, Needs, State};

/// Compiled schedules that are remembered; beyond, all are forgotten and compiled again when due.
const RULES: usize = 50_000;

/// What one plan hands on to the next of the same leader. A new leader begins without it.
#[derive(Debug, Default)]
pub struct Rules {
    /// What they are read with; absent before the first plan.
    almanac: Option<Almanac>,
    /// Compiled schedules by job and definition.
    compiled: HashMap<JobId, (Arc<JobSpec>, Compiled)>,
    /// The class at which the last plan stopped, if it could not look at all of them.
    pub(super) looked_at: Option<Needs>,
}

/// The schedules of a job, or why they cannot be evaluated.
type Compiled = Result<Arc<ScheduleSet>, Arc<str>>;

impl Rules {
    /// The compiled schedules of a job. They cannot be evaluated only when this binary knows less than the one that
    /// accepted the job.
    pub(super) fn of(&mut self, job: &Job, state: &State) -> Compiled {
        let generation = state.reading().generation;
        let known = self.almanac.take().filter(|almanac| almanac.generation() == generation);
        let almanac = &*self.almanac.insert(known.unwrap_or_else(|| {
            self.compiled.clear();
            Almanac::of(state)
        }));
        if let Some((spec, set)) = self.compiled.get(&job.id)
            && Arc::ptr_eq(spec, &job.spec)
        {
            return set.clone();
        }
        let set = ScheduleSet::of(&job.spec, almanac).map(Arc::new);
        let set = set.map_err(|error| Arc::from(error.to_string()));
        if self.compiled.len() >= RULES {
            self.compiled.clear();
        }
        self.compiled.insert(job.id, (job.spec.clone(), set.clone()));
        set
    }
}
