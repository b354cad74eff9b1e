//! All schedules of a job, taken as one: the union of their occurrences.
//!
//! Two schedules that name the same instant yield one occurrence; the first of the list counts
//! as its source.

use super::almanac::Almanac;
use super::rule::{CompiledSchedule, ScheduleError, before, count_by_walking};
use super::spread::Spread;
use crate::state::schedule::Schedule;
use crate::state::spec::JobSpec;
use crate::state::time::Timestamp;

/// Most schedules of one job.
pub const SCHEDULES_MAX: usize = 64;

/// Why a list of schedules was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleSetError {
    /// One of them is wrong.
    #[error("schedule {}: {source}", index + 1)]
    Schedule {
        /// Its index in the list, from 0.
        index: usize,
        /// What is wrong.
        source: ScheduleError,
    },
    /// More than [`SCHEDULES_MAX`].
    #[error("found {found} schedules, expected at most {SCHEDULES_MAX}")]
    TooMany {
        /// How many there are.
        found: usize,
    },
}

/// The compiled schedules of one job; an empty set has no occurrences.
#[derive(Clone, Debug)]
pub struct ScheduleSet {
    schedules: Box<[CompiledSchedule]>,
}

impl ScheduleSet {
    /// Compiles the schedules of a job.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn of(spec: &JobSpec, almanac: &Almanac) -> Result<Self, ScheduleSetError> {
        Self::compile(&spec.schedules, Spread::of(&spec.namespace, &spec.name), almanac)
    }

    /// Compiles schedules; `spread` is their job's, `almanac` what they are read with.
    ///
    /// # Errors
    /// [`ScheduleSetError`] with the index of the first schedule that is refused.
    pub fn compile(
        schedules: &[Schedule],
        spread: Spread,
        almanac: &Almanac,
    ) -> Result<Self, ScheduleSetError> {
        if schedules.len() > SCHEDULES_MAX {
            return Err(ScheduleSetError::TooMany { found: schedules.len() });
        }
        let compile = |(index, schedule)| {
            CompiledSchedule::compile(schedule, spread, almanac)
                .map_err(|source| ScheduleSetError::Schedule { index, source })
        };
        let schedules = schedules.iter().enumerate().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { schedules })
    }

    /// The compiled schedules, in the order of the job.
    #[must_use]
    pub fn schedules(&self) -> &[CompiledSchedule] {
        &self.schedules
    }

    /// The first occurrence strictly later than `after`, and the index of its schedule; `None` if
    /// there is none ever again.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<(Timestamp, usize)> {
        self.next_after_each(|_| after)
    }

    /// As [`Self::next_after`], with an instant for each schedule.
    #[must_use]
    pub fn next_after_each(
        &self,
        after: impl Fn(&CompiledSchedule) -> Timestamp,
    ) -> Option<(Timestamp, usize)> {
        let next = |(index, schedule): (usize, &CompiledSchedule)| {
            Some((schedule.next_after(after(schedule))?, index))
        };
        self.schedules.iter().enumerate().filter_map(next).min()
    }

    /// The last occurrence strictly before `before`; `None` if there is none, or none that is known.
    #[must_use]
    pub fn last_before(&self, before: Timestamp) -> Option<(Timestamp, usize)> {
        let last = |(index, schedule): (usize, &CompiledSchedule)| {
            Some((schedule.last_before(before)?, std::cmp::Reverse(index)))
        };
        let (at, index) = self.schedules.iter().enumerate().filter_map(last).max()?;
        Some((at, index.0))
    }

    /// Whether it is due so long after the end of a run.
    #[must_use]
    pub fn is_after_completion(&self) -> bool {
        self.schedules.iter().any(CompiledSchedule::is_after_completion)
    }

    /// How many occurrences lie between two instants, both inclusive, but at most `limit`.
    ///
    /// A set of one costs what its schedule costs; the union of several is walked, up to `limit`.
    #[must_use]
    pub fn count_between(&self, from: Timestamp, to: Timestamp, limit: u64) -> u64 {
        match &*self.schedules {
            [] => 0,
            [one] => one.count_between(from, to, limit),
            _ => count_by_walking(|after| Some(self.next_after(after)?.0), before(from), to, limit),
        }
    }
}
