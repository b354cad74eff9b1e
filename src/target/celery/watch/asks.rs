//! What Celery's workers are told and asked, and what they answer: its remote control.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::super::super::broker::Failure;
use super::quiet::{Emptied, Lain};
use super::told::{Control, NAME_BYTES, cut, is_ours};
use super::{Side, TaskWatch, Unfound, WatchError, on};

/// How often workers are asked to send events: those that come later have not heard.
const ASK_FOR_EVENTS_EVERY: Duration = Duration::from_secs(30);
/// How often workers are asked what they run.
const ASK_WHAT_RUNS_EVERY: Duration = Duration::from_secs(30);
/// How long it may take to look into all queues: who says nothing for long is no more the one to listen.
const EMPTIED_WITHIN: Duration = Duration::from_secs(2);
/// How long such a request is worth hearing.
const REQUEST_LASTS: Duration = Duration::from_secs(60);

impl TaskWatch {
    /// Tells all workers not to run these tasks, and to stop them.
    ///
    /// # Errors
    /// [`WatchError`] where the broker does not answer.
    pub async fn revoke(&mut self, task_ids: &[String]) -> Result<(), WatchError> {
        if task_ids.is_empty() {
            return Ok(());
        }
        let arguments = json!({ "task_id": task_ids, "terminate": true, "signal": "SIGTERM" });
        self.broadcast("revoke", &arguments, None).await?;
        Ok(())
    }

    /// It is said, once, that events cannot be heard for lack of a right. What is missing comes with Celery's workers.
    pub(super) fn is_deaf(&mut self, failure: Option<&Failure>) {
        let why = match failure {
            Some(Failure::Refused(why)) if !why.contains("NOT_FOUND") => Some(why),
            Some(_) | None => None,
        };
        if let Some(why) = why.filter(|_| !self.is_refused) {
            tracing::warn!(
                connection = self.connection,
                why,
                "Celery's events are not heard: failures have no words, and who runs a task is not known; \
                 docs/effects.md lists the rights that the account needs"
            );
        }
        self.is_refused = why.is_some();
    }

    /// Has workers send events, and say what they run: some began before they sent any.
    pub(super) async fn ask_workers(&mut self) {
        if self.ask_again_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.asked_for_events = None;
            self.asked_what_runs = None;
        }
        let mut has_new = false;
        while self.ask_for_events_at.pop_front_if(|at| *at <= Instant::now()).is_some() {
            has_new = true;
        }
        let is_time = has_new || self.asked_for_events.is_none_or(|at| at.elapsed() >= ASK_FOR_EVENTS_EVERY);
        if is_time && self.broadcast("enable_events", &json!({}), None).await.is_ok() {
            self.asked_for_events = Some(Instant::now());
        }
        let reply_to = on!(&self.side, side => side.reply_to());
        if reply_to.is_some()
            && self.asked_what_runs.is_none_or(|at| at.elapsed() >= ASK_WHAT_RUNS_EVERY)
            && self.broadcast("active", &json!({ "safe": true }), reply_to).await.is_ok()
        {
            self.asked_what_runs = Some(Instant::now());
        }
    }

    /// Has all workers asked whether they have these tasks, which had expired when nobody had been heard of them. One
    /// search lasts some seconds, and what is asked for meanwhile waits for the next one.
    ///
    /// # Errors
    /// [`WatchError`] where the broker does not answer.
    pub async fn find(&mut self, task_ids: &[String]) -> Result<(), WatchError> {
        if !self.search.is_due(task_ids, Instant::now()) {
            return Ok(());
        }
        if on!(&self.side, side => side.nobody_came()) {
            self.search.begin(task_ids, String::new(), Instant::now());
            return Ok(());
        }
        let Some(reply_to) = on!(&self.side, side => side.reply_to()) else { return Ok(()) };
        let ticket = self.broadcast("query_task", &json!({ "ids": task_ids }), Some(reply_to)).await?;
        self.search.begin(task_ids, ticket, Instant::now());
        Ok(())
    }

    /// What the last search has not found, once.
    pub fn unfound(&mut self) -> Option<Unfound> {
        self.search.end(&self.holders, Instant::now())
    }

    /// Whether it is time to look for tasks of which nobody was heard.
    #[must_use]
    pub fn is_to_seek(&self) -> bool {
        self.quiet.is_due(Instant::now())
    }

    /// Looks which of these, of which nobody was heard, are gone from their queues, and asks all workers for those.
    ///
    /// # Errors
    /// [`WatchError`] where the broker does not answer.
    pub async fn seek(&mut self, tasks: Vec<Lain>) -> Result<(), WatchError> {
        self.quiet.looked(Instant::now());
        let Some(reply_to) = on!(&self.side, side => side.reply_to()) else { return Ok(()) };
        let emptied = self.emptied(&tasks).await;
        let is_gone =
            |task: &Lain| emptied.get(&task.queue).is_some_and(|it| it.gone.contains(&task.task_id));
        let sought: Vec<Lain> = tasks.into_iter().filter(is_gone).collect();
        if sought.is_empty() {
            return Ok(());
        }
        let registered = json!({ "taskinfoitems": ["rate_limit"], "builtins": true });
        let registered = self.broadcast("registered", &registered, Some(reply_to.clone())).await?;
        let queues = self.broadcast("active_queues", &json!({}), Some(reply_to)).await?;
        self.quiet.begin(sought, [registered, queues], Instant::now());
        Ok(())
    }

    /// Of the last look the tasks that are registered nowhere, once.
    pub async fn sought(&mut self) -> Option<Unfound> {
        let mut round = self.quiet.end(Instant::now())?;
        // It runs, or has ended: the cluster will be told.
        round.tasks.retain(|task| {
            !self.heard.contains_key(&task.task_id) && !self.wordless.contains_key(&task.task_id)
        });
        let emptied = self.emptied(&round.tasks).await;
        round.verdict(&emptied, &self.holders, Instant::now())
    }

    /// What is gone of these, by their queues. Nothing of those of which the broker does not tell in time: it is looked for
    /// again.
    async fn emptied(&mut self, tasks: &[Lain]) -> BTreeMap<String, Emptied> {
        let until = Instant::now() + EMPTIED_WITHIN;
        let mut emptied = BTreeMap::new();
        for tasks in tasks.chunk_by(|one, next| one.queue == next.queue) {
            let queue = &tasks[0].queue;
            let asked = async { on!(&mut self.side, side => side.gone(queue, tasks).await) };
            match tokio::time::timeout_at(until, asked).await {
                Ok(Ok(said)) => emptied.insert(queue.clone(), said),
                Ok(Err(why)) => {
                    tracing::debug!(queue, %why, "it is not known what lies in a queue");
                    continue;
                }
                Err(_) => break,
            };
        }
        emptied
    }

    /// The answer of a worker to what it runs: its name, and a list.
    pub(super) fn hear_what_runs(&mut self, reply: &Value) {
        let Value::Object(reply) = reply else { return };
        for (name, tasks) in reply {
            let Value::Array(tasks) = tasks else { continue };
            let ids = tasks.iter().filter_map(|task| task["id"].as_str()).filter(|id| is_ours(id));
            let ids: Vec<String> = ids.map(str::to_owned).collect();
            let name = cut(name, NAME_BYTES);
            for id in &ids {
                // Also what is known: the cluster may not have been told, as while it had no leader.
                if self.heard.get(id).is_none_or(|heard| heard.failed.is_none()) {
                    self.hear_one(&json!({ "type": "task-started", "uuid": id, "hostname": name }));
                }
            }
            self.holders.runs(&name, ids, Instant::now());
        }
    }

    /// Tells all workers something; those that come later do not hear it. What their answers have as `ticket`.
    async fn broadcast(
        &mut self,
        method: &str,
        arguments: &Value,
        reply_to: Option<String>,
    ) -> Result<String, WatchError> {
        let now = self.clock.now().millis();
        let mut body = json!({
            "method": method, "arguments": arguments, "destination": null, "pattern": null, "matcher": null,
        });
        let tag = self.clock.random();
        let tag = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("chronarch:control:{now}:{tag}").as_bytes());
        if let Some(queue) = reply_to {
            // The default exchange, which nobody needs to declare.
            body["reply_to"] = json!({ "exchange": "", "routing_key": queue });
            body["ticket"] = json!(tag.to_string());
        }
        let control = Control {
            body: body.to_string(),
            tag,
            // Seconds with a fraction, as kombu has it.
            expires: (now as f64 + REQUEST_LASTS.as_millis() as f64) / 1_000.0,
        };
        on!(&mut self.side, side => side.broadcast(&control).await?);
        Ok(tag.to_string())
    }
}
