//! How tasks that attempts have left with others have ended.

mod news;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::problem::Problems;
use super::spec::value;
use super::{Api, limits, status};
use crate::pb::v1 as pb;
use crate::pb::v1::worker_service_client::WorkerServiceClient;
use crate::scheduler::backoff;
use crate::state::run::{Attempt, AttemptOutcome, Report, Run, RunId};
use crate::state::spec::Target;
use crate::state::time::Timestamp;
use crate::state::{self, Command, Outcome, State};

/// A listener that says nothing for so long is replaced by another one.
const LISTENS_FOR: Duration = Duration::from_secs(5);
/// Connections whose listeners are remembered; of further ones everybody listens, which is harmless.
const LISTENERS_MAX: usize = 1_000;

/// Who listens for each connection, since when it was last heard; each leader remembers its own.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<BTreeMap<String, (String, Instant)>>);

impl Listeners {
    /// Whether this one is to listen: it does already, or nobody does.
    fn choose(&self, connection: &str, worker: &str) -> bool {
        let now = Instant::now();
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|_, (_, heard)| now.duration_since(*heard) < LISTENS_FOR);
        if let Some((listener, heard)) = listeners.get_mut(connection) {
            if listener != worker {
                return false;
            }
            *heard = now;
        } else if listeners.len() < LISTENERS_MAX {
            listeners.insert(connection.to_owned(), (worker.to_owned(), now));
        }
        true
    }
}

/// What an end is to the state.
enum Met {
    /// It ends this attempt; one that is not known to have left its task has done so.
    Ends(RunId, u64, bool),
    /// The run's next attempt will say that it has left this task.
    Early,
    /// It makes no difference any more.
    Over,
}

impl Api {
    /// `ReportTasks`. `ended` is told of each attempt that ended by it.
    pub(crate) async fn report_tasks(
        &self,
        request: Request<pb::ReportTasksRequest>,
        ended: Arc<dyn Fn(AttemptOutcome) + Send + Sync>,
    ) -> Result<Response<pb::ReportTasksResponse>, Status> {
        let here = move |api: Self, message| {
            let ended = Arc::clone(&ended);
            async move { api.tasks_here(message, ended.as_ref()).await }
        };
        let there =
            |channel, request| async { WorkerServiceClient::new(channel).report_tasks(request).await };
        self.write(request, here, there).await
    }

    async fn tasks_here(
        self,
        message: pb::ReportTasksRequest,
        count: &(dyn Fn(AttemptOutcome) + Send + Sync),
    ) -> Result<pb::ReportTasksResponse, Status> {
        check(&message)?;
        let cluster = self.shared.raft.cluster_id().ok_or_else(|| status::not_leader(None))?;
        let is_told_nothing = message.ended.is_empty()
            && message.heard.is_empty()
            && message.holders.is_empty()
            && [&message.unfound, &message.unregistered].iter().all(|it| it.is_none());
        if !is_told_nothing {
            // A leader that was deposed and does not know it would take what the next one knows for over.
            self.barrier().await?;
        }
        let taken = match message.ended.is_empty() {
            true => Vec::new(),
            false => self.take_ends(&self.shared.raft.state(), &message, count).await?,
        };
        let connection = Arc::from(message.connection.as_str());
        self.take_news(&message).await?;
        self.lose_tasks(&connection, &message.holders, count).await?;
        if let Some(unfound) = &message.unfound {
            self.expire_tasks(unfound, count).await?;
        }
        if let Some(unfound) = &message.unregistered {
            self.drop_unregistered(unfound, count).await?;
        }
        let state = self.shared.raft.state();
        let now = self.shared.clock.now().map_or_else(|| state.now(), |now| now.max(state.now()));
        let expired_by = now.minus(limits::EXPIRED_FOR);
        let expired = state.expired_unheard(&connection, expired_by);
        let task = |id: RunId| Some(state.run(id)?.handed()?.task.to_string());
        let to_end =
            state.ending_tasks(&connection).filter_map(|id| to_end(state.run(id)?)).take(limits::TASKS);
        let listen =
            !message.only_tells && self.shared.listeners.choose(&message.connection, &message.worker);
        Ok(pb::ReportTasksResponse {
            taken: taken.into_iter().map(Into::into).collect(),
            listen,
            holders: state
                .task_holders(&connection)
                .take(limits::TASKS)
                .map(|(by, process)| pb::TaskHolder { by: by.to_string(), process })
                .collect(),
            to_find: expired.filter_map(task).take(limits::TASKS).collect(),
            to_seek: match message.seeks && listen {
                true => to_seek(&state, &connection, now),
                false => Vec::new(),
            },
            awaited: state.awaits_tasks(&connection),
            expected: state.hands_over(&connection),
            to_end: to_end.collect(),
            cluster_id: cluster.to_string(),
        })
    }

    async fn take_ends(
        &self,
        state: &State,
        message: &pb::ReportTasksRequest,
        count: &(dyn Fn(AttemptOutcome) + Send + Sync),
    ) -> Result<Vec<pb::TaskTaken>, Status> {
        let at = self.stamp(state).await?;
        let mut taken = Vec::with_capacity(message.ended.len());
        let mut commands = Vec::new();
        // The place of what each command that ends an attempt is about.
        let mut places = Vec::new();
        let mut met = HashSet::new();
        for (place, end) in message.ended.iter().enumerate() {
            let (answer, found) = match self.meet(state, end) {
                Met::Ends(run, fence, is_handed) if met.insert(run) => {
                    (pb::TaskTaken::Later, Some((run, fence, is_handed)))
                }
                Met::Ends(..) | Met::Early => (pb::TaskTaken::Later, None),
                Met::Over => (pb::TaskTaken::Done, None),
            };
            taken.push(answer);
            let Some((run, fence, is_handed)) = found else { continue };
            if !is_handed {
                let (connection, task) = (message.connection.as_str().into(), end.task_id.as_str().into());
                // It ends with the next command, expired or not.
                let (expires_at, queue) = (None, None);
                commands.push(Command::HandOver { run, fence, connection, task, expires_at, queue });
                places.push(None);
            }
            commands.push(self.ends(state, (run, fence), end));
            places.push(Some(place));
        }
        // Both commands about one attempt stay in one entry, or the second waits for the next call.
        let mut outcomes = Vec::with_capacity(commands.len());
        let proposed = match commands.is_empty() {
            true => None,
            false => Some(self.propose(at, commands.clone(), "").await?),
        };
        outcomes.extend(proposed.iter().flat_map(|proposed| &proposed.applied.outcomes));
        for ((command, outcome), place) in commands.iter().zip(outcomes).zip(places) {
            if let (Command::Complete { outcome: how, .. }, Outcome::Completed { .. }, Some(place)) =
                (command, outcome, place)
            {
                taken[place] = pb::TaskTaken::Done;
                count(*how);
            }
        }
        Ok(taken)
    }

    fn meet(&self, state: &State, end: &pb::TaskEnded) -> Met {
        let by_task = || state.run_of_task(&end.task_id);
        let id = end.run_id.parse().ok().or_else(by_task);
        let Some(run) = id.and_then(|id: RunId| state.run(id)) else {
            // Of an event nobody can tell; whoever has heard it gives up in time.
            return if end.run_id.is_empty() { Met::Early } else { Met::Over };
        };
        match run.running() {
            Some(Attempt { handed: Some(handed), fence, .. }) if *handed.task == *end.task_id => {
                Met::Ends(run.id, *fence, true)
            }
            Some(Attempt { handed: Some(_), .. }) => Met::Over,
            _ if end.run_id.is_empty() || run.delivery() != end.delivery => Met::Over,
            // It was quicker than the word of the worker that has left it.
            Some(attempt) => Met::Ends(run.id, attempt.fence, false),
            None => Met::Early,
        }
    }

    fn ends(&self, state: &State, (run, fence): (RunId, u64), end: &pb::TaskEnded) -> Command {
        let live = state.run(run);
        let is_cancelled = live.is_some_and(|live| live.cancel.is_some());
        let handed = live.and_then(|live| live.handed());
        let is_overdue = handed.is_some_and(|handed| handed.overdue_since.is_some());
        let outcome = match pb::Outcome::try_from(end.outcome) {
            Ok(pb::Outcome::Succeeded) => AttemptOutcome::Succeeded,
            // Of one that is being ended, in whatever words its end is told: the event of its revocation may come first.
            _ if is_cancelled => AttemptOutcome::Cancelled,
            Ok(pb::Outcome::Cancelled) => AttemptOutcome::TimedOut,
            _ if is_overdue => AttemptOutcome::TimedOut,
            _ => AttemptOutcome::Failed,
        };
        let error = match (end.error.as_str(), end.by.as_str()) {
            (error, "") => error.to_owned(),
            ("", by) => format!("run by {by}"),
            (error, by) => format!("{error}; run by {by}"),
        };
        let report = Report { error, result: end.result.clone(), ..Report::default() };
        self.closes(state, (run, fence), outcome, report)
    }

    fn closes(
        &self,
        state: &State,
        (run, fence): (RunId, u64),
        outcome: AttemptOutcome,
        report: Report,
    ) -> Command {
        let chance = || self.shared.clock.clock().random();
        let both = state.run(run).zip(state.job(run.job));
        let retry_after = both.map_or(Duration::ZERO, |(live, job)| backoff::after(live, job, chance()));
        Command::Complete { run, fence, outcome, report: Arc::new(report), retry_after }
    }
}

/// Tasks of which nobody was heard, the oldest of each queue: they wait there, if anything does. Where there are more queues
/// than fit, others have their turn with time.
fn to_seek(state: &State, connection: &Arc<str>, now: Timestamp) -> Vec<pb::TaskToSeek> {
    let mut of_queue: BTreeMap<Arc<str>, Vec<pb::TaskToSeek>> = BTreeMap::new();
    for id in state.quiet_tasks(connection, now.minus(limits::QUIET_FOR)).take(limits::QUIET_TASKS) {
        let Some((task, queue)) = state.run(id).and_then(|run| sought(state, run)) else { continue };
        let tasks = of_queue.entry(queue).or_default();
        if tasks.len() < limits::TASKS_OF_QUEUE {
            tasks.push(task);
        }
    }
    let turn = now.millis() / limits::SOUGHT_FOR.as_millis() as i64;
    let queues: Vec<_> = of_queue.into_values().collect();
    let first = usize::try_from(turn).unwrap_or_default() % queues.len().max(1);
    let (before, behind) = queues.split_at(first);
    let sought = behind.iter().chain(before).take(limits::QUEUES_SOUGHT).flatten();
    sought.take(limits::TASKS).cloned().collect()
}

/// A task as it is looked for. What it is registered under is known by its job, if that is still the one of the run.
fn sought(state: &State, run: &Run) -> Option<(pb::TaskToSeek, Arc<str>)> {
    let handed = run.handed()?;
    let queue = handed.queue.clone()?;
    let job = state.job(run.id.job).filter(|job| job.version == run.version)?;
    let Target::Celery(celery) = &job.spec.target else { return None };
    let (task_id, name) = (handed.task.to_string(), celery.task.clone());
    let fences = run.attempts.iter().rev().take(limits::FENCES_SOUGHT).map(|attempt| attempt.fence).collect();
    Some((pb::TaskToSeek { task_id, queue: queue.to_string(), name, fences }, queue))
}

fn to_end(run: &Arc<Run>) -> Option<pb::TaskToEnd> {
    let handed = run.handed()?;
    Some(pb::TaskToEnd {
        run_id: run.id.to_string(),
        delivery: run.delivery(),
        task_id: handed.task.to_string(),
    })
}

fn check(message: &pb::ReportTasksRequest) -> Result<(), Status> {
    let mut problems = Problems::default();
    for (name, text) in [("connection", &message.connection), ("worker", &message.worker)] {
        if text.is_empty() {
            problems.add(name, "is missing");
        }
        value::length(name, text, limits::BROKER_NAME_BYTES, &mut problems);
    }
    value::most("ended", "tasks", message.ended.len(), limits::TASKS, &mut problems);
    for (place, end) in message.ended.iter().take(limits::TASKS).enumerate() {
        let path = |name: &str| format!("ended[{place}].{name}");
        if end.task_id.is_empty() {
            problems.add(path("task_id"), "is missing");
        }
        value::length(&path("task_id"), &end.task_id, state::limits::TASK_ID_BYTES, &mut problems);
        if !end.run_id.is_empty() && end.run_id.parse::<RunId>().is_err() {
            problems.add(path("run_id"), "is no run id");
        }
        let how = pb::Outcome::try_from(end.outcome);
        if !matches!(how, Ok(pb::Outcome::Succeeded | pb::Outcome::Failed | pb::Outcome::Cancelled)) {
            problems.add(path("outcome"), "expected SUCCEEDED, FAILED or CANCELLED");
        }
        let texts = [
            ("by", &end.by, limits::BROKER_NAME_BYTES),
            ("result", &end.result, state::limits::RESULT_BYTES),
        ];
        for (name, text, most) in texts {
            value::length(&path(name), text, most, &mut problems);
        }
    }
    value::most("heard", "tasks", message.heard.len(), limits::TASKS, &mut problems);
    for (place, heard) in message.heard.iter().take(limits::TASKS).enumerate() {
        for (name, text, most) in [
            ("task_id", &heard.task_id, state::limits::TASK_ID_BYTES),
            ("by", &heard.by, limits::BROKER_NAME_BYTES),
            ("error", &heard.error, state::limits::ERROR_BYTES),
        ] {
            value::length(&format!("heard[{place}].{name}"), text, most, &mut problems);
        }
    }
    value::most("holders", "holders", message.holders.len(), limits::TASKS, &mut problems);
    for (place, seen) in message.holders.iter().take(limits::TASKS).enumerate() {
        let active = seen.active.as_ref().map_or(0, |active| active.task_ids.len());
        value::most(
            &format!("holders[{place}].active.task_ids"),
            "tasks",
            active,
            limits::ACTIVE,
            &mut problems,
        );
    }
    for (name, unfound) in [("unfound", &message.unfound), ("unregistered", &message.unregistered)] {
        let length = unfound.as_ref().map_or(0, |unfound| unfound.task_ids.len());
        value::most(&format!("{name}.task_ids"), "tasks", length, limits::TASKS, &mut problems);
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(status::invalid(&problems)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_listens_until_it_falls_silent() {
        let listeners = Listeners::default();
        assert!(listeners.choose("main", "one"));
        assert!(!listeners.choose("main", "other"));
        assert!(listeners.choose("second", "other"), "of another connection");
        tokio::time::advance(LISTENS_FOR / 2).await;
        assert!(listeners.choose("main", "one"));
        tokio::time::advance(LISTENS_FOR / 2).await;
        assert!(!listeners.choose("main", "other"));
        tokio::time::advance(LISTENS_FOR / 2).await;
        assert!(listeners.choose("main", "other"));
        assert!(!listeners.choose("main", "one"));
    }
}
