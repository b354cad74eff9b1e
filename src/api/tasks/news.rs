//! Tasks that have not ended: what is heard of them, and whether those who run them live.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::super::{Api, limits};
use crate::pb::v1 as pb;
use crate::state::limits::CELERY_LOST_AFTER;
use crate::state::run::{Attempt, AttemptOutcome, Report, Run, TaskNews};
use crate::state::spec::Target;
use crate::state::time::Timestamp;
use crate::state::{Command, Outcome, State};

/// The first job that leaves tasks has them listened to, within seconds. Who is cut off in so short a time is heard again.
const LISTENING_BEGINS_WITHIN: Duration = Duration::from_secs(10);

impl Api {
    /// What is heard of tasks is told in their records.
    pub(super) async fn take_news(&self, message: &pb::ReportTasksRequest) -> Result<(), Status> {
        let state = self.shared.raft.state();
        let commands: Vec<Command> = message.heard.iter().filter_map(|heard| news(&state, heard)).collect();
        if !commands.is_empty() {
            self.propose(self.stamp(&state).await?, commands, "").await?;
        }
        Ok(())
    }

    /// Attempts whose tasks nobody runs any more, as far as their jobs trust signs of life.
    pub(super) async fn lose_tasks(
        &self,
        connection: &Arc<str>,
        holders: &[pb::TaskHolderSeen],
        count: &(dyn Fn(AttemptOutcome) + Send + Sync),
    ) -> Result<(), Status> {
        if holders.is_empty() {
            return Ok(());
        }
        let state = self.shared.raft.state();
        let now = self.stamp(&state).await?;
        let mut commands = Vec::new();
        for seen in holders {
            let Some(holder) = &seen.holder else { continue };
            let by = Arc::from(holder.by.as_str());
            let signs = Signs::of(seen);
            for id in state.tasks_of_holder(connection, (&by, holder.process)) {
                let Some(run) = state.run(id) else { continue };
                let Some((outcome, error)) = signs.verdict(&state, run, now) else { continue };
                let Some(attempt) = run.running() else { continue };
                let report = Report { error, ..Report::default() };
                commands.push(self.closes(&state, (id, attempt.fence), outcome, report));
                if commands.len() >= limits::TASKS {
                    break;
                }
            }
        }
        self.close_tasks(now, commands, count).await
    }

    /// Attempts whose tasks had expired before any worker took them.
    pub(super) async fn expire_tasks(
        &self,
        unfound: &pb::TasksUnfound,
        count: &(dyn Fn(AttemptOutcome) + Send + Sync),
    ) -> Result<(), Status> {
        self.close_unfound(unfound, count, |search, state, run, now| {
            let attempt = search.proves_expired(state, run, now)?;
            Some((attempt.fence, "the task had expired before any worker took it".to_owned()))
        })
        .await
    }

    /// Attempts whose tasks are gone from their queues, and registered nowhere: whoever took them has dropped them.
    pub(super) async fn drop_unregistered(
        &self,
        unfound: &pb::TasksUnfound,
        count: &(dyn Fn(AttemptOutcome) + Send + Sync),
    ) -> Result<(), Status> {
        self.close_unfound(unfound, count, |search, state, run, now| {
            let (attempt, queue, name) = search.proves_quiet(state, run, now)?;
            let error = format!(
                "task {name:?} is registered with none of the {} workers of queue {queue}, and was dropped by one of them",
                search.answered
            );
            Some((attempt.fence, error))
        })
        .await
    }

    async fn close_unfound(
        &self,
        unfound: &pb::TasksUnfound,
        count: &(dyn Fn(AttemptOutcome) + Send + Sync),
        proves: impl Fn(&Search, &State, &Run, Timestamp) -> Option<(u64, String)>,
    ) -> Result<(), Status> {
        let state = self.shared.raft.state();
        let now = self.stamp(&state).await?;
        let search = Search::of(unfound);
        let commands = unfound.task_ids.iter().filter_map(|task| {
            let run = state.run(state.run_of_task(task)?)?;
            let (fence, error) = proves(&search, &state, run, now)?;
            let report = Report { error, ..Report::default() };
            Some(self.closes(&state, (run.id, fence), AttemptOutcome::Failed, report))
        });
        self.close_tasks(now, commands.collect(), count).await
    }

    async fn close_tasks(
        &self,
        now: Timestamp,
        commands: Vec<Command>,
        count: &(dyn Fn(AttemptOutcome) + Send + Sync),
    ) -> Result<(), Status> {
        if commands.is_empty() {
            return Ok(());
        }
        let proposed = self.propose(now, commands.clone(), "").await?;
        for (command, outcome) in commands.iter().zip(&proposed.applied.outcomes) {
            if let (Command::Complete { outcome: how, .. }, Outcome::Completed { .. }) = (command, outcome) {
                count(*how);
            }
        }
        Ok(())
    }
}

/// How a search for tasks went that nobody was found to have.
struct Search {
    heard_for: Duration,
    silent_for: Option<Duration>,
    nobody_came: bool,
    answered: u32,
}

impl Search {
    fn of(unfound: &pb::TasksUnfound) -> Self {
        let span = |span: Option<prost_types::Duration>| Duration::try_from(span?).ok();
        Self {
            heard_for: span(unfound.heard_for).unwrap_or_default(),
            silent_for: span(unfound.silent_for),
            nobody_came: unfound.nobody_came,
            answered: unfound.answered,
        }
    }

    /// The attempt of a run whose task nobody has run, and nobody will.
    ///
    /// Who has a task says so when asked. One that is cut off from the broker does not, nor one whose pool says nothing
    /// while a task runs: it was heard before it took the task, if it was listened to by then, and counts as lost only
    /// when it was silent for as long as the job says.
    fn proves_expired<'a>(&self, state: &State, run: &'a Run, now: Timestamp) -> Option<&'a Attempt> {
        let Target::Celery(celery) = &state.job(run.id.job)?.spec.target else { return None };
        let handed = run.handed().filter(|handed| run.cancel.is_none() && handed.overdue_since.is_none())?;
        handed.unheard_until().filter(|expires_at| *expires_at <= now.minus(limits::EXPIRED_FOR))?;
        let attempt = run.running()?;
        // One that was silent for so long; a job that trusts no silence does not trust this one either.
        let is_lost = |silent| celery.lost_after.is_some_and(|lost_after| silent >= lost_after);
        let heard_all = self.nobody_came
            || self.heard_for + LISTENING_BEGINS_WITHIN >= now.since(attempt.started_at)
            || is_lost(self.heard_for);
        (heard_all && self.silent_for.is_none_or(is_lost)).then_some(attempt)
    }

    /// The attempt of a run whose task was left in a queue and that nobody knows, the queue, and the name of the task.
    ///
    /// A worker whose pool says nothing while a task runs is not heard if it began before the listening, and may have taken
    /// more: so it has to be listened for as long as the job says that one may be silent.
    fn proves_quiet<'a>(
        &self,
        state: &'a State,
        run: &'a Run,
        now: Timestamp,
    ) -> Option<(&'a Attempt, &'a str, &'a str)> {
        let job = state.job(run.id.job).filter(|job| job.version == run.version)?;
        let Target::Celery(celery) = &job.spec.target else { return None };
        let handed = run.handed().filter(|handed| run.cancel.is_none() && handed.overdue_since.is_none())?;
        handed.quiet_since().filter(|since| *since <= now.minus(limits::QUIET_FOR))?;
        let queue = handed.queue.as_deref()?;
        let attempt = run.running()?;
        let is_lost = |silent| celery.lost_after.is_some_and(|lost_after| silent >= lost_after);
        let heard_all = self.heard_for >= celery.lost_after.unwrap_or(CELERY_LOST_AFTER);
        let is_nobodys = heard_all && self.answered > 0 && self.silent_for.is_none_or(is_lost);
        is_nobodys.then_some((attempt, queue, celery.task.as_str()))
    }
}

/// What one that runs tasks gave as signs of life.
struct Signs<'a> {
    by: &'a str,
    silent_for: Option<Duration>,
    gone: bool,
    /// What it ran when it was asked, how long ago that was, and for how long it was heard.
    active: Option<(&'a [String], Duration, Duration)>,
    anew_for: Option<Duration>,
}

impl<'a> Signs<'a> {
    fn of(seen: &'a pb::TaskHolderSeen) -> Self {
        let span = |span: Option<prost_types::Duration>| Duration::try_from(span?).ok();
        Self {
            by: seen.holder.as_ref().map(|holder| holder.by.as_str()).unwrap_or_default(),
            silent_for: span(seen.silent_for),
            gone: seen.gone,
            active: seen.active.as_ref().and_then(|active| {
                Some((active.task_ids.as_slice(), span(active.since)?, span(active.heard_for)?))
            }),
            anew_for: span(seen.anew_for),
        }
    }

    /// How the attempt of a run ends whose task they are of, if it does.
    fn verdict(&self, state: &State, run: &Run, now: Timestamp) -> Option<(AttemptOutcome, String)> {
        let Target::Celery(celery) = &state.job(run.id.job)?.spec.target else { return None };
        let lost_after = celery.lost_after?;
        // One that is being ended already ends as that.
        let handed = run.handed().filter(|handed| run.cancel.is_none() && handed.overdue_since.is_none())?;
        let begun = handed.heard.as_ref()?.at;
        let by = self.by;
        let anew = self.anew_for.is_some_and(|anew| begun < now.minus(anew));
        if self.gone || anew {
            let error = format!("{by} has ended, and its task with it");
            return Some((AttemptOutcome::Lost, error));
        }
        if let Some(silent) = self.silent_for.filter(|silent| *silent >= lost_after) {
            let error = format!("{by}, which ran the task, was silent for {} s", silent.as_secs());
            return Some((AttemptOutcome::Lost, error));
        }
        let (runs, since, heard_for) = self.active?;
        let was_there = begun < now.minus(since) && begun > now.minus(heard_for);
        let runs_it = runs.iter().any(|task| **task == *handed.task);
        (was_there && !runs_it).then(|| {
            let error = format!("{by} no longer runs the task, and told no end of it, as with Ignore");
            (AttemptOutcome::Failed, error)
        })
    }
}

/// What is recorded of a task that was heard of: None where that is known, or the task is not.
fn news(state: &State, heard: &pb::TaskNews) -> Option<Command> {
    let run = state.run(state.run_of_task(&heard.task_id)?)?;
    let handed = run.handed()?;
    let (runs, retries) = handed.heard.as_ref().map_or((false, 0), |heard| (heard.runs(), heard.retries));
    let news = match heard.retried {
        true => TaskNews::Retried { count: retries.checked_add(1)?, error: heard.error.as_str().into() },
        false if runs => return None,
        false => TaskNews::Begun { process: heard.process },
    };
    let fence = run.running()?.fence;
    Some(Command::HearTask { run: run.id, fence, by: heard.by.as_str().into(), news })
}
