//! Which occurrences of a job are due, and what becomes of each: the questions of `Fire`.
//!
//! An occurrence is *missed* when it is found more than [`limits::GRACE`] after it was due. What
//! becomes of missed ones is the job's catch-up policy; those found in time simply run. All walks are
//! bounded: a backlog that is longer than one walk is decided in several `Fire`s, oldest part first,
//! each with its own range record.

use std::collections::VecDeque;

use super::jitter;
use super::set::ScheduleSet;
use super::spread::Spread;
use crate::state::limits;
use crate::state::run::Cause;
use crate::state::spec::{CatchUpRuns, JobSpec, OnResume};
use crate::state::time::Timestamp;
use crate::state::{Due, Job, Verdict};

/// Instants that one decision walks over at most; what is left is decided next.
pub const WALK: u64 = 100_000;
/// Runs that one decision makes at most; what is left is decided next.
pub const RUNS: usize = 1_000;

/// The first occurrence whose nominal instant is later than `after`, with its due instant.
#[must_use]
pub fn arm(spec: &JobSpec, set: &ScheduleSet, after: Timestamp) -> Option<Due> {
    let (scheduled_at, index) = set.next_after(after)?;
    let schedule = spec.schedules.get(index)?;
    let due_at = if schedule.jitter.is_zero() {
        scheduled_at
    } else {
        let following = set.next_after(scheduled_at).map(|(at, _)| at);
        jitter::due_at(schedule, Spread::of(&spec.namespace, &spec.name).seed(), scheduled_at, following)
    };
    Some(Due { due_at, scheduled_at })
}

/// The occurrence to arm when a job is resumed.
#[must_use]
pub fn resumed(job: &Job, set: &ScheduleSet, now: Timestamp) -> Option<Due> {
    match (job.spec.on_resume, &job.pause) {
        (OnResume::CatchUp, Some(pause)) => pause.armed.or_else(|| arm(&job.spec, set, pause.paused_at)),
        (OnResume::Skip | OnResume::CatchUp, _) => arm(&job.spec, set, now),
    }
}

/// Decides the occurrences of a job from the armed one on; `armed` must be due.
///
/// Returns the verdicts, at least one, and the occurrence to arm next. Where that follows from the end of a run,
/// it is armed when that has come ([`Command::Arm`](crate::state::Command::Arm)).
#[must_use]
pub fn decide(spec: &JobSpec, set: &ScheduleSet, armed: Due, now: Timestamp) -> (Vec<Verdict>, Option<Due>) {
    let mut walk = Walk { spec, set, now, cursor: Some(armed), steps: 0 };
    let mut verdicts = Vec::new();
    walk.too_old(&mut verdicts);
    walk.missed(&mut verdicts);
    walk.in_time(&mut verdicts);
    (verdicts, walk.cursor)
}

struct Walk<'a> {
    spec: &'a JobSpec,
    set: &'a ScheduleSet,
    now: Timestamp,
    /// The first occurrence not decided yet.
    cursor: Option<Due>,
    steps: u64,
}

impl Walk<'_> {
    fn is_missed(&self, due: Due) -> bool {
        due.due_at.plus(limits::GRACE) < self.now
    }

    fn advance(&mut self) {
        self.steps += 1;
        if self.set.is_after_completion() {
            self.cursor = None;
            return;
        }
        self.cursor = self.cursor.and_then(|due| arm(self.spec, self.set, due.scheduled_at));
    }

    /// Missed occurrences before the catch-up window: one record for all.
    fn too_old(&mut self, verdicts: &mut Vec<Verdict>) {
        let window = match self.spec.catch_up.runs {
            CatchUpRuns::None => return,
            CatchUpRuns::Latest | CatchUpRuns::All => self.spec.catch_up.window,
        };
        let oldest = self.now.minus(window);
        let mut range = Range::default();
        while let Some(due) = self.cursor.filter(|due| due.scheduled_at < oldest && self.is_missed(*due)) {
            if self.steps == WALK {
                break;
            }
            range.add(due);
            self.advance();
        }
        range.close(verdicts);
    }

    /// Missed occurrences within the window.
    fn missed(&mut self, verdicts: &mut Vec<Verdict>) {
        let keep = match self.spec.catch_up.runs {
            CatchUpRuns::None => 0,
            CatchUpRuns::Latest => 1,
            CatchUpRuns::All => usize::try_from(self.spec.catch_up.max).unwrap_or(usize::MAX),
        };
        let mut kept = VecDeque::new();
        let mut dropped = Range::default();
        while let Some(due) = self.cursor.filter(|due| self.is_missed(*due)) {
            if self.steps == WALK {
                // The newest is not known yet, so nothing walked over so far may run.
                kept.drain(..).for_each(|due| dropped.add(due));
                break;
            }
            kept.push_back(due);
            if kept.len() > keep
                && let Some(oldest) = kept.pop_front()
            {
                dropped.add(oldest);
            }
            self.advance();
        }
        if self.spec.catch_up.runs == CatchUpRuns::Latest {
            if let Some(due) = kept.pop_front() {
                let from = dropped.ends.map_or(due.scheduled_at, |(from, _)| from);
                let (cause, stands_for) = (Cause::CatchUp, dropped.count + 1);
                let Due { scheduled_at, due_at } = due;
                verdicts.push(Verdict::Run { from, scheduled_at, due_at, cause, stands_for });
            } else {
                dropped.close(verdicts);
            }
            return;
        }
        dropped.close(verdicts);
        for due in kept {
            if verdicts.len() >= RUNS {
                self.cursor = Some(due);
                return;
            }
            verdicts.push(run(due, Cause::CatchUp));
        }
    }

    /// Occurrences that are due and were found in time.
    fn in_time(&mut self, verdicts: &mut Vec<Verdict>) {
        while let Some(due) = self.cursor.filter(|due| due.due_at <= self.now && !self.is_missed(*due)) {
            if verdicts.len() >= RUNS || self.steps == WALK {
                return;
            }
            verdicts.push(run(due, Cause::Schedule));
            self.advance();
        }
    }
}

const fn run(due: Due, cause: Cause) -> Verdict {
    let Due { scheduled_at, due_at } = due;
    Verdict::Run { from: scheduled_at, scheduled_at, due_at, cause, stands_for: 1 }
}

/// Instants that one record covers.
#[derive(Default)]
struct Range {
    ends: Option<(Timestamp, Timestamp)>,
    count: u64,
}

impl Range {
    fn add(&mut self, due: Due) {
        let from = self.ends.map_or(due.scheduled_at, |(from, _)| from);
        self.ends = Some((from, due.scheduled_at));
        self.count += 1;
    }

    fn close(self, verdicts: &mut Vec<Verdict>) {
        if let Some((from, until)) = self.ends {
            verdicts.push(Verdict::Missed { from, until, count: self.count });
        }
    }
}
