//! Why a job runs, or not: now, or at one instant.

use std::sync::Arc;
use std::time::Duration;

use super::{Explaining, Facts, words};
use crate::history::HistoryError;
use crate::pb::v1 as pb;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::set::ScheduleSet;
use crate::state::Job;
use crate::state::run::{Cause, Run, RunId};
use crate::state::time::Timestamp;

/// Live runs that an explanation speaks of.
const LIVE_RUNS: usize = 5;

impl Explaining<'_> {
    /// Explains a job: at an instant, or as it is.
    ///
    /// # Errors
    /// [`HistoryError`] when its records cannot be read.
    pub fn job(&self, job: &Job, at: Option<Timestamp>) -> Result<pb::Explanation, HistoryError> {
        let mut facts = Facts::default();
        let summary = match at {
            Some(at) => self.at(job, at, &mut facts)?,
            None => self.now(job, &mut facts)?,
        };
        Ok(facts.explanation(&summary))
    }

    fn pause(&self, job: &Job) -> Option<String> {
        let pause = job.pause.as_ref()?;
        let (who, why) = (words::by(&pause.request.actor), words::because(&pause.request.reason));
        let until = pause.until.map_or_else(String::new, |until| format!(" until {until}"));
        Some(format!("the job is paused{who} since {}{until}{why}", pause.paused_at))
    }

    fn next(&self, job: &Job) -> Option<String> {
        let next = job.next?;
        let now = self.state.now();
        let jitter = if next.due_at == next.scheduled_at {
            String::new()
        } else {
            format!(", due at {} with jitter", next.due_at)
        };
        Some(if next.due_at < now {
            let late = words::span(now.since(next.due_at));
            format!("the occurrence at {} is due since {late} and not decided yet", next.scheduled_at)
        } else {
            format!("the next occurrence is at {}{jitter}", next.scheduled_at)
        })
    }

    fn now(&self, job: &Job, facts: &mut Facts) -> Result<String, HistoryError> {
        self.after(job, facts);
        facts.maybe(self.breaker_of(job));
        facts.maybe(self.limits_of(&job.spec));
        let live: Vec<&Arc<Run>> = self.state.runs_of(job.id).take(LIVE_RUNS + 1).collect();
        for run in live.iter().take(LIVE_RUNS) {
            let mut behind = Facts::default();
            facts.add(self.run_facts(run, &mut behind));
            behind.0.into_iter().for_each(|fact| facts.add(fact));
        }
        if live.len() > LIVE_RUNS {
            facts.add("more runs of it are live");
        }
        if live.is_empty() && job.pause.is_none() && self.workers.is_some() {
            facts.maybe(self.workers_for(&job.spec));
        }
        if let Some(last) = job.last {
            match self.log.get(last.id)? {
                Some(run) => {
                    let mut behind = Facts::default();
                    facts.add(format!("the last record: {}", self.run_facts(&run, &mut behind)));
                    behind.0.into_iter().for_each(|fact| facts.add(fact));
                }
                None => facts.add(format!("the last run was {}; its record is not kept here", last.id)),
            }
        } else if live.is_empty() {
            facts.add(format!("it has no record yet; it was created at {}", job.created_at));
        }
        if let Some(paused) = self.pause(job) {
            return Ok(paused);
        }
        if let Some(next) = self.next(job) {
            return Ok(next);
        }
        if let Some(fault) = &job.fault {
            facts.add("apply the job again with a schedule that this release can read, or upgrade the nodes");
            let (since, why) = (fault.since, words::because(&fault.why));
            return Ok(format!("nothing is armed since {since}, for its schedule cannot be evaluated{why}"));
        }
        if job.spec.after.is_some() {
            return Ok("the job has no schedule: it runs after others".to_owned());
        }
        if job.spec.schedules.is_empty() {
            return Ok("the job has no schedule: it runs when it is triggered".to_owned());
        }
        if job.goes_on_after_a_run() {
            return Ok("its next occurrence is armed when the run that is live has ended".to_owned());
        }
        Ok("its schedule has no further occurrence".to_owned())
    }

    fn at(&self, job: &Job, at: Timestamp, facts: &mut Facts) -> Result<String, HistoryError> {
        let id = RunId { job: job.id, at, seq: 0 };
        let recorded = match self.state.run(id) {
            Some(run) => Some(Arc::clone(run)),
            None => self.log.get(id)?,
        };
        if let Some(run) = recorded {
            return Ok(self.run_facts(&run, facts));
        }
        if let Some(run) = self.covering(job, at)? {
            let summary = self.run_facts(&run, facts);
            facts.0.insert(0, words::sentence(&summary));
            let until = run.scheduled_until.unwrap_or(run.id.at);
            return Ok(match run.cause {
                Cause::CatchUp if run.scheduled_until.is_some() => {
                    format!(
                        "the occurrence at {at} is one of those from {} to {until} in record {}",
                        run.id.at, run.id
                    )
                }
                Cause::CatchUp | Cause::Schedule | Cause::Manual | Cause::Backfill | Cause::After => {
                    format!("run {} stands for the occurrence at {at} and others", run.id)
                }
            });
        }
        let Ok(set) = ScheduleSet::of(&job.spec, &Almanac::of(self.state)) else {
            return Ok("its schedule cannot be read by this node".to_owned());
        };
        let before = at.minus(Duration::from_millis(1));
        let is_occurrence = set.next_after(before).is_some_and(|(next, _)| next == at);
        if !is_occurrence {
            return Ok(self.no_occurrence(job, &set, at, facts));
        }
        Ok(self.no_record(job, at, facts))
    }

    /// The record that covers an instant together with others.
    fn covering(&self, job: &Job, at: Timestamp) -> Result<Option<Arc<Run>>, HistoryError> {
        let bound = RunId { job: job.id, at, seq: 0 };
        let older = self.log.newest_of(job.id, Some(bound), None, 1)?.pop();
        if let Some(older) = older.filter(|run| run.scheduled_until.is_some_and(|until| until >= at)) {
            return Ok(Some(older));
        }
        let live = self.state.runs_of(job.id).find(|run| run.id.at > at && run.id.seq == 0).cloned();
        let ended = self.log.first_after(job.id, at)?;
        let newer = [live, ended].into_iter().flatten().min_by_key(|run| run.id);
        Ok(newer.filter(|run| run.scheduled_from.is_some_and(|from| from <= at)))
    }

    fn no_occurrence(&self, job: &Job, set: &ScheduleSet, at: Timestamp, facts: &mut Facts) -> String {
        if job.spec.schedules.is_empty() {
            return "the job has no schedule: it runs when it is triggered".to_owned();
        }
        if set.is_after_completion() {
            return format!("{at} has no record; when the job is due follows from the ends of its runs");
        }
        let next = set.next_after(at).map(|(next, _)| next);
        let previous = set.last_before(at).map(|(previous, _)| previous);
        match (previous, next) {
            (Some(previous), Some(next)) => {
                facts.add(format!("the occurrences around it are {previous} and {next}"));
            }
            (Some(previous), None) => {
                facts.add(format!("the last occurrence before it is {previous}, and none follows"))
            }
            (None, Some(next)) => {
                facts.add(format!("the first occurrence after it is {next}, and none lies before it"))
            }
            (None, None) => facts.add("its schedule has no occurrence at all"),
        }
        facts.maybe(changed_since(job, at));
        format!("{at} is no occurrence of the schedule")
    }

    /// An occurrence of the schedule as it is, without a record.
    fn no_record(&self, job: &Job, at: Timestamp, facts: &mut Facts) -> String {
        let now = self.state.now();
        if let Some(pause) = &job.pause
            && at >= pause.paused_at
        {
            facts.maybe(self.pause(job));
            return if at > now {
                format!("the occurrence at {at} lies ahead, and will not fire while the job is paused")
            } else {
                format!("the occurrence at {at} did not fire: the job was paused")
            };
        }
        if let Some(next) = job.next {
            if next.scheduled_at == at {
                facts.maybe(self.leader_gap_words(next.due_at));
                return self.next(job).unwrap_or_default();
            }
            if at > next.scheduled_at {
                facts.maybe(self.next(job));
                facts.maybe(self.breaker_of(job));
                return format!("the occurrence at {at} lies ahead");
            }
        }
        if at < job.created_at {
            return format!("the job did not exist at {at}: it was created at {}", job.created_at);
        }
        facts.maybe(changed_since(job, at));
        self.add_retention(job, facts);
        if let Some(gap) = self.log.gap() {
            facts.add(format!(
                "this node still lacks the records of log index {} to {}",
                gap.after.saturating_add(1),
                gap.through
            ));
        }
        format!("there is no record of the occurrence at {at}")
    }

    /// How long records stay: that one is not there may mean that it is no longer.
    fn add_retention(&self, job: &Job, facts: &mut Facts) {
        let kept = job.spec.retention;
        let most = |runs: u32| format!("at most {}", words::counted(runs.into(), "record"));
        facts.add(format!("records are kept for {}, {}", words::span(kept.age), most(kept.runs)));
        if let Some(limited) = self.state.namespace(&job.spec.namespace) {
            let limits = limited.retention;
            let age = limits.age.map(|age| format!("for {}", words::span(age)));
            let both: Vec<String> = age.into_iter().chain(limits.runs.map(most)).collect();
            facts.add(format!("those of all jobs of its namespace are kept {}", both.join(", ")));
        }
    }
}

/// A later change may mean that the schedule was another one, or that the job was paused.
fn changed_since(job: &Job, at: Timestamp) -> Option<String> {
    (job.updated_at > at && job.updated_at > job.created_at).then(|| {
        format!("the job was changed after it, at {}: its schedule may have been another one", job.updated_at)
    })
}
