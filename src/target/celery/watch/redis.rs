//! With Redis: a list, and what is published.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};

use super::super::super::broker::Failure;
use super::super::super::redis::{Link, Listening};
use super::super::{completion, route};
use super::Place;
use super::quiet::{Emptied, Lain};
use super::told::Control;

/// Answers that are read at once, at most; the rest waits for the next look.
const ANSWERS_MAX: isize = 100;
/// Where kombu keeps what was taken and not confirmed (`unacked_key` of its transport).
const UNCONFIRMED: &str = "unacked";
/// How long answers are kept after the last look.
const ANSWERS_LAST: Duration = Duration::from_secs(120);

pub(super) struct Redis {
    link: Arc<Link>,
    listening: Option<Listening>,
    /// Where workers answer, once they are asked.
    answers: Option<String>,
    /// What they answered.
    answered: VecDeque<(Value, Option<String>)>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("link", &self.link).finish_non_exhaustive()
    }
}

impl Redis {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, listening: None, answers: None, answered: VecDeque::new() }
    }

    pub(super) async fn rest(&mut self) {
        self.listening = None;
        self.answers = None;
        self.answered.clear();
    }

    pub(super) async fn look(
        &mut self,
        cluster: &str,
        from: usize,
        most: usize,
    ) -> Result<Vec<(Place, Option<Value>)>, Failure> {
        let mut commands = redis::pipe();
        // Workers push to the head; the oldest lie at the end.
        let (first, last) = (-isize(from + most), -isize(from + 1));
        commands.cmd("LRANGE").arg(self.list(cluster)).arg(first).arg(last);
        let answers =
            self.answers.as_ref().map(|queue| format!("{}{queue}", self.link.celery().global_keyprefix));
        if let Some(list) = &answers {
            commands.cmd("LRANGE").arg(list).arg(0).arg(ANSWERS_MAX - 1);
            commands.cmd("LTRIM").arg(list).arg(ANSWERS_MAX).arg(-1).ignore();
            commands.cmd("EXPIRE").arg(list).arg(ANSWERS_LAST.as_secs()).ignore();
        }
        let texts: Vec<String> = match &answers {
            None => self.link.ask::<(Vec<String>,)>(&commands).await?.0,
            Some(_) => {
                let (texts, answered): (Vec<String>, Vec<String>) = self.link.ask(&commands).await?;
                self.answered
                    .extend(answered.iter().filter_map(|text| Some((body_of(text)?, ticket_of(text)))));
                texts
            }
        };
        self.answers.get_or_insert_with(|| format!("chronarch.answers.{cluster}"));
        let read = |text: String| {
            let body = body_of(&text);
            (Place::Text(text), body)
        };
        Ok(texts.into_iter().rev().map(read).collect())
    }

    pub(super) async fn remove(&mut self, cluster: &str, places: &[Place]) -> Result<(), Failure> {
        let list = self.list(cluster);
        let mut commands = redis::pipe();
        for place in places {
            if let Place::Text(text) = place {
                // From the end, where it lies. By what it says: another listener may have removed what lay behind it.
                commands.cmd("LREM").arg(&list).arg(-1).arg(text).ignore();
            }
        }
        self.link.ask::<()>(&commands).await
    }

    pub(super) async fn bind(&mut self, cluster: &str) -> Result<(), Failure> {
        self.link.ask::<()>(&completion::bindings(cluster, self.link.celery())).await
    }

    pub(super) const fn hears(&self) -> bool {
        self.listening.is_some()
    }

    /// Nobody can tell of a server that has no memory of whom it has served.
    pub(super) const fn nobody_came(&self) -> bool {
        false
    }

    pub(super) async fn listen(&mut self, _: &str) -> Result<(), Failure> {
        let pattern = format!("{}celeryev/*", self.channel_prefix());
        self.listening = Some(self.link.listen(&pattern).await?);
        Ok(())
    }

    /// Of these the ones that do not lie in the queue, nor where kombu keeps what a worker has taken and not confirmed: a
    /// worker that dies leaves it there for as long as `visibility_timeout`. Nobody can tell how many take from a list.
    pub(super) async fn gone(&mut self, queue: &str, tasks: &[Lain]) -> Result<Emptied, Failure> {
        let options = self.link.celery();
        let lists: BTreeSet<String> = (0..=9).map(|priority| route::list(queue, priority, options)).collect();
        let unconfirmed = format!("{}{UNCONFIRMED}", options.global_keyprefix);
        let tags: Vec<Vec<String>> = tasks.iter().map(Lain::tags).collect();
        let mut commands = redis::pipe();
        // Before, and after: a message goes from here to there, and back.
        for is_after in [false, true] {
            for tag in tags.iter().flatten() {
                commands.cmd("HEXISTS").arg(&unconfirmed).arg(tag);
            }
            for list in lists.iter().filter(|_| !is_after) {
                commands.cmd("LLEN").arg(list);
            }
        }
        let said = self.link.ask::<Vec<u64>>(&commands).await?;
        let count = tags.iter().map(Vec::len).sum::<usize>();
        let (before, said) = said.split_at(count.min(said.len()));
        let (waiting, after) = said.split_at(lists.len().min(said.len()));
        if waiting.iter().any(|length| *length > 0) {
            return Ok(Emptied::default());
        }
        let (mut gone, mut at) = (Vec::new(), 0);
        for (task, tags) in tasks.iter().zip(&tags) {
            let of = at..at + tags.len();
            at = of.end;
            let is_kept = tags.is_empty()
                || [before, after].iter().any(|said| {
                    said.get(of.clone()).is_none_or(|said| said.iter().any(|is_there| *is_there > 0))
                });
            if !is_kept {
                gone.push(task.task_id.clone());
            }
        }
        Ok(Emptied { gone, takers: None })
    }

    /// Where workers answer: a list.
    pub(super) fn reply_to(&self) -> Option<String> {
        self.answers.clone()
    }

    /// What was said, and what an answer has as `ticket`.
    pub(super) fn next_event(&mut self) -> Option<(Value, Option<String>)> {
        if let Some(answer) = self.answered.pop_front() {
            return Some(answer);
        }
        loop {
            match self.listening.as_mut()?.next().now_or_never()? {
                Some(message) => {
                    let text = message.get_payload::<String>().ok();
                    if let Some(body) = text.as_deref().and_then(body_of) {
                        return Some((body, None));
                    }
                }
                None => self.listening = None,
            }
        }
    }

    pub(super) async fn broadcast(&mut self, control: &Control) -> Result<(), Failure> {
        let message = json!({
            "body": STANDARD.encode(&control.body),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": { "clock": 1, "expires": control.expires },
            "properties": {
                "delivery_mode": 2,
                "delivery_info": { "exchange": "celery.pidbox", "routing_key": "" },
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": control.tag.to_string(),
            },
        });
        let mut commands = redis::pipe();
        let channel = format!("{}celery.pidbox", self.channel_prefix());
        commands.cmd("PUBLISH").arg(channel).arg(message.to_string()).ignore();
        self.link.ask::<()>(&commands).await
    }

    fn list(&self, cluster: &str) -> String {
        completion::list(cluster, self.link.celery())
    }

    /// kombu tells databases apart, which Redis does not for what is published.
    fn channel_prefix(&self) -> String {
        format!("{}/{}.", self.link.celery().global_keyprefix, self.link.database())
    }
}

/// The body of a message of kombu.
fn body_of(text: &str) -> Option<Value> {
    let message: Value = serde_json::from_str(text).ok()?;
    let body = message["body"].as_str()?;
    match message["properties"]["body_encoding"].as_str() {
        Some("base64") => completion::unpacked(&STANDARD.decode(body).ok()?),
        Some(_) | None => serde_json::from_str(body).ok(),
    }
}

fn ticket_of(text: &str) -> Option<String> {
    let message: Value = serde_json::from_str(text).ok()?;
    message["headers"]["ticket"].as_str().map(str::to_owned)
}

fn isize(length: usize) -> isize {
    isize::try_from(length).unwrap_or(isize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_in_both_encodings_and_anything_else_is_none() {
        let body = json!([["1-1", 0], {}, {}]);
        let message = |body: &str, encoding: Option<&str>| {
            json!({ "body": body, "properties": { "body_encoding": encoding } }).to_string()
        };
        assert_eq!(body_of(&message(&STANDARD.encode(body.to_string()), Some("base64"))), Some(body.clone()));
        assert_eq!(body_of(&message(&body.to_string(), None)), Some(body));
        for text in ["", "{}", "[1]", "{\"body\": 3}", &message("!", Some("base64")), &message("!", None)] {
            assert_eq!(body_of(text), None, "{text}");
        }
    }
}
