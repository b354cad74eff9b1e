//! Tells the cluster how tasks have ended that were left by one connection, and ends those that it wants ended.
//!
//! Every worker asks the leader, once a second, whether it is the one to listen. Two that both believe it do no harm:
//! each end is told until the cluster has it in its log, and is removed by what it says. A worker that dies takes nothing
//! with it.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::pb::v1 as pb;
use crate::target::{Lain, Signs, TASKS_MAX, TaskEnd, TaskWatch, TaskWord, Unfound};

/// How long a call may take, all tries together.
pub const CALL_MAX: Duration = Duration::from_secs(5);
/// How often the leader is asked, with nothing to tell too.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often the broker is looked at while tasks are awaited.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long it is looked at after the last task was awaited, though no job leaves any more: what is told twice comes late.
const LINGER: Duration = Duration::from_secs(60);

/// What the leader last said, and what is told next.
#[derive(Debug, Default)]
struct Standing {
    /// Known once the leader has answered.
    cluster: Option<String>,
    listens: bool,
    awaited: bool,
    /// When a task was last awaited, or a job was there that leaves some. Before that, and long after, the broker is left
    /// alone: it may have no Celery.
    last_expected: Option<Instant>,
    asked: Option<Instant>,
    /// Tasks that workers were told to stop.
    stopped: Vec<pb::TaskToEnd>,
    /// So many of the oldest of the list are not wanted yet.
    later: usize,
    /// Who runs tasks, as far as the leader knows.
    holders: Vec<pb::TaskHolder>,
    /// The last trouble, so that a lasting one is logged once.
    trouble: Option<String>,
}

/// Watches until `stop`; `worker` is who says so.
pub async fn watch(mut watch: TaskWatch, client: Client, worker: String, stop: CancellationToken) {
    let mut standing = Standing::default();
    loop {
        let pause = match standing.turn(&mut watch, &client, &worker).await {
            Ok(pause) => {
                standing.trouble = None;
                pause
            }
            Err(trouble) => {
                if standing.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(
                        connection = watch.connection(),
                        trouble,
                        "the ends of tasks are not told"
                    );
                    standing.trouble = Some(trouble);
                }
                ASK_EVERY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Standing {
    /// Looks, tells and asks once; how long to wait then.
    async fn turn(
        &mut self,
        watch: &mut TaskWatch,
        client: &Client,
        worker: &str,
    ) -> Result<Duration, String> {
        let lingers = self.last_expected.is_some_and(|last| last.elapsed() < LINGER);
        let cluster = self.cluster.clone().filter(|_| self.listens && lingers);
        let (found, trouble) = match &cluster {
            None => (Vec::new(), None),
            // The leader is asked all the same: it has to know who is there.
            Some(cluster) => match watch.look(cluster, self.later).await {
                Ok(found) => (found, None),
                Err(error) => (Vec::new(), Some(error.to_string())),
            },
        };
        let is_time = self.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY);
        if found.is_empty() && self.stopped.is_empty() && !is_time {
            let pause = if self.awaited { LOOK_EVERY } else { ASK_EVERY };
            return trouble.map_or(Ok(pause), Err);
        }
        // Behind a full page there may lie the end of what nobody has any more.
        let is_all = trouble.is_none() && found.len() < TASKS_MAX && self.later == 0;
        let (found, stopped) = self.fitting(found);
        let (heard, holders, unfound, sought) = match &cluster {
            None => (Vec::new(), Vec::new(), None, None),
            Some(_) => {
                let named = self.holders.iter().map(|holder| (holder.by.as_str(), holder.process));
                let signs = watch.signs(named);
                let words = watch.words();
                let unfound = watch.unfound().filter(|_| is_all).map(not_found);
                let sought = watch.sought().await.filter(|_| is_all).map(not_found);
                (
                    words.into_iter().map(heard).collect(),
                    signs.into_iter().map(seen).collect(),
                    unfound,
                    sought,
                )
            }
        };
        let request = pb::ReportTasksRequest {
            connection: watch.connection().to_owned(),
            worker: worker.to_owned(),
            ended: found.iter().map(told).chain(stopped.iter().map(was_stopped)).collect(),
            heard,
            holders,
            only_tells: false,
            unfound,
            unregistered: sought,
            seeks: cluster.is_some() && watch.is_to_seek(),
        };
        let seeks = request.seeks;
        let answer = client.report_tasks(request).await.map_err(|error| error.to_string())?;
        self.asked = Some(Instant::now());
        self.awaited = answer.awaited;
        self.holders.clone_from(&answer.holders);
        let done = |place: usize| answer.taken.get(place) == Some(&pb::TaskTaken::Done.into());
        // What was stopped and is not known yet is among what is to be ended again.
        let is_over = |(place, end): &(usize, &TaskEnd)| done(*place) || end.is_told_once();
        let settled: Vec<TaskEnd> =
            found.iter().enumerate().filter(is_over).map(|(_, end)| end.clone()).collect();
        self.later = match settled.is_empty() && found.len() >= TASKS_MAX {
            true => self.later + found.len(),
            false => 0,
        };
        if answer.awaited || answer.expected {
            self.last_expected = Some(Instant::now());
        }
        let is_needed = answer.listen && self.last_expected.is_some_and(|last| last.elapsed() < LINGER);
        if cluster.is_some() && !is_needed {
            watch.rest().await;
        }
        self.listens = answer.listen;
        self.cluster = Some(answer.cluster_id.clone()).filter(|id| !id.is_empty());
        let Some(cluster) = self.cluster.clone().filter(|_| is_needed) else { return Ok(ASK_EVERY) };
        watch.bind(&cluster).await.map_err(|error| error.to_string())?;
        watch.forget(&cluster, &settled).await.map_err(|error| error.to_string())?;
        let ids: Vec<String> = answer.to_end.iter().map(|task| task.task_id.clone()).collect();
        watch.revoke(&ids).await.map_err(|error| error.to_string())?;
        watch.find(&answer.to_find).await.map_err(|error| error.to_string())?;
        self.stopped = answer.to_end;
        if seeks {
            let quiet = answer.to_seek.into_iter();
            let quiet = quiet.map(|pb::TaskToSeek { task_id, queue, name, fences }| Lain {
                task_id,
                queue,
                name,
                fences,
            });
            watch.seek(quiet.collect()).await.map_err(|error| error.to_string())?;
        }
        match (trouble, settled.is_empty() && self.stopped.is_empty()) {
            (Some(trouble), _) => Err(trouble),
            (None, false) => Ok(Duration::ZERO),
            (None, true) if self.awaited => Ok(LOOK_EVERY),
            (None, true) => Ok(ASK_EVERY),
        }
    }

    /// What one call may tell.
    fn fitting(&mut self, mut found: Vec<TaskEnd>) -> (Vec<TaskEnd>, Vec<pb::TaskToEnd>) {
        let mut stopped = std::mem::take(&mut self.stopped);
        stopped.truncate(TASKS_MAX / 2);
        found.truncate(TASKS_MAX - stopped.len());
        (found, stopped)
    }
}

fn told(end: &TaskEnd) -> pb::TaskEnded {
    let outcome = if end.succeeded { pb::Outcome::Succeeded } else { pb::Outcome::Failed };
    pb::TaskEnded {
        run_id: end.run_id.clone(),
        delivery: end.delivery,
        task_id: end.task_id.clone(),
        outcome: outcome.into(),
        error: end.error.clone(),
        result: end.result.clone(),
        by: end.by.clone(),
    }
}

fn heard(word: TaskWord) -> pb::TaskNews {
    let TaskWord { task_id, by, process, retried } = word;
    pb::TaskNews { task_id, by, process, retried: retried.is_some(), error: retried.unwrap_or_default() }
}

fn not_found(unfound: Unfound) -> pb::TasksUnfound {
    let Unfound { task_ids, heard_for, silent_for, nobody_came, answered } = unfound;
    let (heard_for, silent_for) = (span(Some(heard_for)), span(silent_for));
    let answered = u32::try_from(answered).unwrap_or(u32::MAX);
    pb::TasksUnfound { task_ids, heard_for, silent_for, nobody_came, answered }
}

fn span(span: Option<Duration>) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(span?).ok()
}

fn seen(signs: Signs) -> pb::TaskHolderSeen {
    pb::TaskHolderSeen {
        holder: Some(pb::TaskHolder { by: signs.by, process: signs.process }),
        silent_for: span(signs.silent_for),
        gone: signs.gone,
        active: signs.active.map(|active| pb::TasksActive {
            task_ids: active.task_ids,
            since: span(Some(active.since)),
            heard_for: span(Some(active.heard_for)),
        }),
        anew_for: span(signs.anew_for),
    }
}

fn was_stopped(task: &pb::TaskToEnd) -> pb::TaskEnded {
    pb::TaskEnded {
        run_id: task.run_id.clone(),
        delivery: task.delivery,
        task_id: task.task_id.clone(),
        outcome: pb::Outcome::Cancelled.into(),
        error: "its task was revoked".to_owned(),
        ..pb::TaskEnded::default()
    }
}
