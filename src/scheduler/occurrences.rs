//! Which occurrences of a job are due, and what becomes of each: the questions of `Fire`.
//!
//! An occurrence is *missed* when it is found more than [`limits::GRACE`] after it was due. What
//! becomes of missed ones is the job's catch-up policy; those found in time simply run. All walks are
//! bounded: a backlog that is longer than one walk is decided in several `Fire`s, oldest part first,
//! each with its own range record.
//!
//! What a calendar excludes is skipped and nothing else: it is no candidate for catch-up, and no run of others stands
//! for it. So a backlog is decided stretch by stretch: with `catch_up: latest` the newest that is not excluded runs and
//! stands for those before it back to the last excluded one; those further back are missed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::coming::{self, Coming, Fate};
use super::rule::CompiledSchedule;
use super::set::ScheduleSet;
use crate::state::limits;
use crate::state::reading::Pass;
use crate::state::run::Cause;
use crate::state::spec::{CatchUpRuns, JobSpec, OnExcluded, OnResume};
use crate::state::time::Timestamp;
use crate::state::tzdata::Tzdata;
use crate::state::{Due, Job, Verdict};

/// Instants that one decision walks over at most; what is left is decided next.
pub const WALK: u64 = 100_000;
/// Runs that one decision makes at most; what is left is decided next.
pub const RUNS: usize = 1_000;

pub use super::coming::arm;

/// The occurrence to arm when the data of the zones, or a calendar, has changed; nothing where it is the one that is armed.
///
/// One whose instant had come at the moment of the change stays, but for what a calendar has put off and may put off
/// longer, or no longer. Otherwise it is the first that is not decided by the
/// new data, as long as it lies behind the last change of the job: one that the new data puts before the moment of the
/// change is late, and catch-up decides. Where the wall clock went back at that moment, a rule that keeps to it does
/// not come twice: what was decided in the time that was taken back counts.
#[must_use]
pub fn reread(job: &Job, set: &ScheduleSet, pass: &Pass, tzdata: Option<&Tzdata>) -> Option<Option<Due>> {
    let armed = job.armed();
    let has_come = armed.is_some_and(|armed| armed.scheduled_at <= pass.since);
    if set.is_after_completion() {
        return None;
    }
    if let Some(armed) = armed.filter(|_| has_come) {
        // A calendar may still put it off; one that is allowed by now is due at once, and never was before.
        let is_put_off = job.spec.on_excluded == OnExcluded::NextAllowed && armed.due_at > pass.since;
        let found = arm(&job.spec, set, armed.scheduled_at.minus(Duration::from_millis(1)));
        let found = found.filter(|found| is_put_off && found.scheduled_at == armed.scheduled_at)?;
        let next = Due { due_at: found.due_at.max(pass.since), ..found };
        return (next != armed).then_some(Some(next));
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
    let next = set.next_after_each(after).map(|found| coming::due(&job.spec, set, found));
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
    let mut walk = Walk { spec, set, now, cursor: Some(coming::armed(spec, set, armed)), steps: 0 };
    let mut verdicts = Vec::new();
    walk.too_old(&mut verdicts);
    walk.missed(&mut verdicts);
    walk.in_time(&mut verdicts);
    (verdicts, walk.cursor.map(|next| next.due()))
}

struct Walk<'a> {
    spec: &'a JobSpec,
    set: &'a ScheduleSet,
    now: Timestamp,
    /// The first occurrence not decided yet.
    cursor: Option<Coming>,
    steps: u64,
}

impl Walk<'_> {
    fn is_missed(&self, coming: &Coming) -> bool {
        coming.due_at.plus(limits::GRACE) < self.now
    }

    /// Whether the walk has gone far enough.
    fn is_over(&self, records: usize) -> bool {
        self.steps >= WALK || records >= RUNS
    }

    /// Takes the occurrence at the cursor off, where `wanted`.
    fn take(&mut self, wanted: impl Fn(&Self, &Coming) -> bool) -> Option<Coming> {
        let coming = self.cursor.take()?;
        if !wanted(self, &coming) {
            self.cursor = Some(coming);
            return None;
        }
        self.steps += coming.count;
        let goes_on = !self.set.is_after_completion();
        self.cursor = goes_on.then(|| coming::after(self.spec, self.set, coming.scheduled_at)).flatten();
        Some(coming)
    }

    /// Missed occurrences before the catch-up window: one record for all in a row.
    fn too_old(&mut self, verdicts: &mut Vec<Verdict>) {
        let window = match self.spec.catch_up.runs {
            CatchUpRuns::None => return,
            CatchUpRuns::Latest | CatchUpRuns::All => self.spec.catch_up.window,
        };
        let oldest = self.now.minus(window);
        let mut backlog = Backlog::new(0);
        while !self.is_over(verdicts.len() + backlog.stretches.len())
            && let Some(coming) = self.take(|walk, next| next.since() < oldest && walk.is_missed(next))
        {
            backlog.add(coming);
        }
        // nothing of it runs, so nothing is left
        backlog.close(CatchUpRuns::None, verdicts);
    }

    /// Missed occurrences within the window.
    fn missed(&mut self, verdicts: &mut Vec<Verdict>) {
        let runs = self.spec.catch_up.runs;
        let mut backlog = Backlog::new(match runs {
            CatchUpRuns::None => 0,
            CatchUpRuns::Latest => 1,
            CatchUpRuns::All => usize::try_from(self.spec.catch_up.max).unwrap_or(usize::MAX),
        });
        while let Some(true) = self.cursor.as_ref().map(|next| self.is_missed(next)) {
            if self.is_over(verdicts.len() + backlog.stretches.len()) {
                // The newest is not known yet, so nothing walked over so far may run.
                backlog.drop_all();
                break;
            }
            if let Some(coming) = self.take(|_, _| true) {
                backlog.add(coming);
            }
        }
        if let Some(left) = backlog.close(runs, verdicts) {
            self.cursor = Some(left);
        }
    }

    /// Occurrences that are due and were found in time.
    fn in_time(&mut self, verdicts: &mut Vec<Verdict>) {
        let is_due = |walk: &Self, next: &Coming| next.due_at <= walk.now && !walk.is_missed(next);
        while !self.is_over(verdicts.len())
            && let Some(coming) = self.take(is_due)
        {
            match coming.fate {
                Fate::Excluded(ref why) => exclude(verdicts, &coming, why),
                Fate::Allowed | Fate::PutOff(_) => verdicts.push(run(&coming, Cause::Schedule)),
            }
        }
    }
}

fn run(coming: &Coming, cause: Cause) -> Verdict {
    let Coming { from, scheduled_at, due_at, count: stands_for, .. } = *coming;
    let moved = match &coming.fate {
        Fate::PutOff(why) => Some(Arc::clone(why)),
        Fate::Allowed | Fate::Excluded(_) => None,
    };
    Verdict::Run { from, scheduled_at, due_at, cause, stands_for, moved }
}

/// Adds excluded occurrences to the record before, if that is of the same and for the same reason.
fn exclude(verdicts: &mut Vec<Verdict>, coming: &Coming, why: &Arc<str>) {
    match verdicts.last_mut() {
        Some(Verdict::Excluded { until, count, why: before, .. }) if before == why => {
            (*until, *count) = (coming.scheduled_at, *count + coming.count);
        }
        Some(_) | None => verdicts.push(Verdict::Excluded {
            from: coming.from,
            until: coming.scheduled_at,
            count: coming.count,
            why: Arc::clone(why),
        }),
    }
}

/// Missed occurrences, of which the newest are kept that no calendar excludes.
struct Backlog {
    keep: usize,
    kept: VecDeque<(usize, Coming)>,
    stretches: Vec<Stretch>,
}

/// Occurrences in a row of which all are excluded for one reason, or none is.
struct Stretch {
    from: Timestamp,
    until: Timestamp,
    count: u64,
    excluded: Option<Arc<str>>,
    /// How many of them do not run, and the newest of those.
    dropped: (u64, Timestamp),
}

impl Backlog {
    const fn new(keep: usize) -> Self {
        Self { keep, kept: VecDeque::new(), stretches: Vec::new() }
    }

    fn add(&mut self, coming: Coming) {
        let Coming { from, scheduled_at: until, count, .. } = coming;
        let excluded = match &coming.fate {
            Fate::Excluded(why) => Some(Arc::clone(why)),
            Fate::Allowed | Fate::PutOff(_) => None,
        };
        match self.stretches.last_mut().filter(|last| last.excluded == excluded) {
            Some(last) => (last.until, last.count) = (until, last.count + count),
            None => {
                let excluded = excluded.clone();
                self.stretches.push(Stretch { from, until, count, excluded, dropped: (0, from) });
            }
        }
        if excluded.is_none() {
            self.kept.push_back((self.stretches.len() - 1, coming));
            if self.kept.len() > self.keep {
                self.drop_oldest();
            }
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((stretch, coming)) = self.kept.pop_front()
            && let Some(stretch) = self.stretches.get_mut(stretch)
        {
            stretch.dropped = (stretch.dropped.0 + coming.count, coming.scheduled_at);
        }
    }

    fn drop_all(&mut self) {
        while !self.kept.is_empty() {
            self.drop_oldest();
        }
    }

    /// Turns all into verdicts; returns the first that would be a run too many.
    fn close(mut self, runs: CatchUpRuns, verdicts: &mut Vec<Verdict>) -> Option<Coming> {
        for (place, stretch) in self.stretches.iter().enumerate() {
            let Stretch { from, until, count, excluded, dropped } = stretch;
            if let Some(why) = excluded {
                verdicts.push(Verdict::Excluded {
                    from: *from,
                    until: *until,
                    count: *count,
                    why: Arc::clone(why),
                });
                continue;
            }
            let mut inside = std::iter::from_fn(|| {
                self.kept.pop_front_if(|(stretch, _)| *stretch == place).map(|(_, coming)| coming)
            });
            if runs == CatchUpRuns::Latest
                && let Some(newest) = inside.next()
            {
                let newest = Coming { from: *from, count: *count, ..newest };
                verdicts.push(run(&newest, Cause::CatchUp));
                continue;
            }
            if dropped.0 > 0 {
                verdicts.push(Verdict::Missed { from: *from, until: dropped.1, count: dropped.0 });
            }
            for coming in inside {
                if verdicts.len() >= RUNS {
                    return Some(coming);
                }
                verdicts.push(run(&coming, Cause::CatchUp));
            }
        }
        None
    }
}
