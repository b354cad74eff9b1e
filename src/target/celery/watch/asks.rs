//! What Celery's workers are told and asked, and what they answer: its remote control.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::told::{Control, NAME_BYTES, cut, is_ours};
use super::{Side, TaskWatch, Unfound, WatchError, on};

/// How often workers are asked to send events: those that come later have not heard.
const ASK_FOR_EVENTS_EVERY: Duration = Duration::from_secs(30);
/// How often workers are asked what they run.
const ASK_WHAT_RUNS_EVERY: Duration = Duration::from_secs(30);
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

    /// Has workers send events, and say what they run: some began before they sent any.
    pub(super) async fn ask_workers(&mut self) {
        if self.ask_again_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.asked_for_events = None;
            self.asked_what_runs = None;
        }
        if self.asked_for_events.is_none_or(|at| at.elapsed() >= ASK_FOR_EVENTS_EVERY)
            && self.broadcast("enable_events", &json!({}), None).await.is_ok()
        {
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
