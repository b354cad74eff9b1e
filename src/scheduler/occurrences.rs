//! Which occurrences of a job are due, and what becomes of each: the questions of `Fire`.
//!
//! An occurrence is *missed* when it is found more than [`limits::GRACE`] after it was due. What
//! becomes of missed ones is the job's catch-up policy; those found in time simply run. All walks are
//! bounded: a backlog that is longer than one walk is decided in several `Fire`s, oldest part first,
//! each with its own range record.

use std::collections::VecDeque;
use std::time::Duration;

use super::jitter;
use super::rule::CompiledSchedule;
use super::set::ScheduleSet;
use super::spread::Spread;
use crate::state::limits;
use crate::state::reading::Pass;
use crate::state::run::Cause;
use crate::state::spec::{CatchUpRuns, JobSpec, OnResume};
use crate::state::time::Timestamp;
use crate::state::tzdata::Tzdata;
use crate::state::{Due, Job, Verdict};

/// Instants that one decision walks over at most; what is left is decided next.
pub const WALK: u64 = 100_000;
/// Runs that one decision makes at most; what is left is decided next.
pub const RUNS: usize = 1_000;

/// The first occurrence whose nominal instant is later than `after`, with its due instant.
#[must_use]
pub fn arm(spec: &JobSpec, set: &ScheduleSet, after: Timestamp) -> Option<Due> {
    due(spec, set, set.next_after(after)?)
}

/// An occurrence of the schedule of that index, with its due instant.
fn due(spec: &JobSpec, set: &ScheduleSet, (scheduled_at, index): (Timestamp, usize)) -> Option<Due> {
    let schedule = spec.schedules.get(index)?;
    let due_at = if schedule.jitter.is_zero() {
        scheduled_at
    } else {
        let following = set.next_after(scheduled_at).map(|(at, _)| at);
        jitter::due_at(schedule, Spread::of(&spec.namespace, &spec.name).seed(), scheduled_at, following)
    };
    Some(Due { due_at, scheduled_at })
}

/// The occurrence to arm when the data of the zones has changed; nothing where it is the one that is armed.
///
/// One whose instant had come at the moment of the change stays. Otherwise it is the first that is not decided by the
/// new data, as long as it lies behind the last change of the job: one that the new data puts before the moment of the
/// change is late, and catch-up decides. Where the wall clock went back at that moment, a rule that keeps to it does
/// not come twice: what was decided in the time that was taken back counts.
#[must_use]
pub fn reread(job: &Job, set: &ScheduleSet, pass: &Pass, tzdata: Option<&Tzdata>) -> Option<Option<Due>> {
    let armed = job.armed();
    let has_come = armed.is_some_and(|armed| armed.scheduled_at <= pass.since);
    if has_come || set.is_after_completion() {
        return None;
    }
    let decided = job.decided_until;
    let after = |schedule: &CompiledSchedule| {
        let shift = tzdata.filter(|_| pass.touched.zones && schedule.keeps_wall_time());
        let shift = shift.and_then(|tzdata| tzdata.shifts.get(schedule.zone().name())).copied();
        let back = Duration::from_secs(u64::try_from(shift.unwrap_or(0)).unwrap_or(0));
        // Before anything is decided there is nothing to count.
        let decided = if decided == Timestamp::MIN { decided } else { decided.plus(back) };
        decided.max(job.updated_at)
    };
    let next = set.next_after_each(after).and_then(|found| due(&job.spec, set, found));
    (next != armed || job.fault.is_some()).then_some(next)
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
