//! A message that a Celery app has built once, in place of a task and its arguments.

use serde_json::Value;

use super::super::super::limits;
use super::super::super::problem::{Problem, Problems};
use super::value;
use crate::pb::v1 as pb;
use crate::state::broker::CeleryPlace;
use crate::state::celery::{self, CeleryTemplate};

const PATH: &str = "target.celery.template";
const IDS: &str = "target.celery.template_ids";

/// What a job has of its template.
pub(super) struct Built {
    pub(super) template: CeleryTemplate,
    pub(super) task: String,
    /// Where the app would send it.
    pub(super) to: CeleryPlace,
}

/// The template of a job that has one. What is wrong with it, and with what stands beside it, is told with its place.
pub(super) fn read(target: &pb::CeleryTarget, problems: &mut Problems) -> Option<Built> {
    if target.template.is_empty() {
        if !target.template_ids.is_empty() {
            problems.add(IDS, "belong to a template");
        }
        return None;
    }
    refuse_beside(target, problems);
    value::length(PATH, &target.template, limits::TEMPLATE_BYTES, problems);
    if target.template.len() > limits::TEMPLATE_BYTES {
        return None;
    }
    let read = match celery::read(&target.template, &target.template_ids) {
        Ok(read) => read,
        Err(flaw) => {
            let path = match flaw.path.strip_prefix("ids") {
                Some(rest) => format!("{IDS}{rest}"),
                None if flaw.path.is_empty() => PATH.to_owned(),
                None => format!("{PATH}.{}", flaw.path),
            };
            problems.push(Problem { path, reason: flaw.reason, hint: flaw.hint.map(str::to_owned) });
            return None;
        }
    };
    let task = read.header("task").to_owned();
    if !target.task.is_empty() && target.task != task {
        problems.add("target.celery.task", format!("is another one than that of the template, {task:?}"));
    }
    match (target.wait_for_completion.unwrap_or(true), read.tells()) {
        (true, false) => {
            let hint = "wait_for_completion: false ends the run when the broker has the message; \
                chronarch-celery sync builds messages that tell";
            let reason = "the template asks no worker to tell of its end".to_owned();
            let path = "target.celery.wait_for_completion".to_owned();
            problems.push(Problem { path, reason, hint: Some(hint.to_owned()) });
        }
        (false, true) => problems.add(
            "target.celery.wait_for_completion",
            "is false, and the template asks workers to tell of its end, which nobody would hear",
        ),
        (true, true) | (false, false) => {}
    }
    let to = match read.place() {
        ("", queue) => CeleryPlace::Queue(queue.to_owned()),
        (name, routing_key) => {
            CeleryPlace::Exchange { name: name.to_owned(), routing_key: routing_key.to_owned() }
        }
    };
    // In one spelling of all that mean the same.
    let message = match serde_json::from_str::<Value>(&target.template) {
        Ok(message) => message.to_string(),
        Err(_) => target.template.clone(),
    };
    Some(Built { template: CeleryTemplate { message, ids: target.template_ids.clone() }, task, to })
}

/// What the message says already; said twice one of the two would not count.
fn refuse_beside(target: &pb::CeleryTarget, problems: &mut Problems) {
    for (name, is_there) in [
        ("args", !target.args.is_empty()),
        ("kwargs", !target.kwargs.is_empty()),
        ("headers", !target.headers.is_empty()),
        ("time_limit", target.time_limit.is_some()),
        ("soft_time_limit", target.soft_time_limit.is_some()),
        ("ignore_result", target.ignore_result.is_some()),
        ("shadow", !target.shadow.is_empty()),
        ("reply_to", !target.reply_to.is_empty()),
        ("transient", target.transient),
        // It would be an argument of what tells of the end, whose place is in the message.
        ("capture_result", target.capture_result),
    ] {
        if is_there {
            problems.add(format!("target.celery.{name}"), "has no place beside a template, which says it");
        }
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
