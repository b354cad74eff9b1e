//! Job data of Quartz, as its XML plugin reads it (`job-scheduling-data`, version 2.0 or 1.8), and that of Quartz.NET.
//!
//! A trigger becomes a schedule of its job: cron lines as they are, in the dialect `quartz`; simple and
//! calendar-interval triggers as recurrence rules from their start. What runs is a class of Java or .NET, which no worker
//! of ours can: the job becomes a payload for a worker of the user's own, with the class and its data. A
//! `NativeJob` is a command, and becomes one.
//!
//! # Sources
//! `job_scheduling_data_2_0.xsd` and the API documentation of Quartz 2.3 (`CronTrigger`, `SimpleTrigger`,
//! `CalendarIntervalTrigger` and their misfire instructions; `NativeJob`).

mod trigger;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::trigger::Trigger;
use super::xml::{Element, document};
use super::{BREAKER, Loss, Sheet, names, words};
use crate::api::limits;
use crate::pb::span;
use crate::pb::v1::{
    CatchUp, CatchUpRuns, ExecTarget, JobSpec, OnLost, Overlap, OverlapPolicy, QueueTarget, Target,
};

/// The class that runs a command, in Java and in .NET.
const NATIVE: [&str; 3] =
    ["org.quartz.jobs.NativeJob", "Quartz.Job.NativeJob, Quartz", "Quartz.Jobs.NativeJob, Quartz"];
/// The group of jobs and triggers that name none.
const GROUP: &str = "DEFAULT";

pub(super) fn read(text: &str, sheet: &mut Sheet<'_>) {
    document(text, sheet, |root, sheet| match root.name() {
        "job-scheduling-data" => data(root, sheet),
        _ => root.unread("job-scheduling-data", sheet),
    });
}

fn data(root: Element<'_>, sheet: &mut Sheet<'_>) {
    let (mut jobs, mut triggers) = (Vec::new(), Vec::new());
    for child in root.children() {
        match child.name() {
            "schedule" => {
                for child in child.children() {
                    match child.name() {
                        "job" => jobs.push(child),
                        "trigger" => {
                            triggers.extend(child.children().filter_map(|kind| trigger::read(kind, sheet)))
                        }
                        _ => child.lost("there is nothing like it here", sheet),
                    }
                }
            }
            "processing-directives" => {}
            _ => child.lost("there is nothing like it here", sheet),
        }
    }
    for element in jobs {
        job(element, &mut triggers, sheet);
    }
    for trigger in triggers {
        let what = format!("trigger: its job {} is not in the file", trigger.job.1);
        sheet.find(trigger.line, Loss::Lost, what);
    }
}

fn job(element: Element<'_>, triggers: &mut Vec<Trigger>, sheet: &mut Sheet<'_>) {
    let (mut name, mut group, mut class) = ("", GROUP, "");
    let mut spec = JobSpec::default();
    let mut values = BTreeMap::new();
    for child in element.children() {
        match child.name() {
            "name" => name = child.text(),
            "group" => group = child.text(),
            "description" => child.text().clone_into(&mut spec.description),
            // Quartz.NET names the class `job-type`, with the assembly behind it.
            "job-class" | "job-type" => class = child.text(),
            "durability" | "volatility" | "durable" => {}
            "recover" => {
                if child.flag() {
                    spec.on_lost = OnLost::Rerun.into();
                }
            }
            "job-data-map" => {
                for entry in child.children() {
                    let text = |name| entry.child(name).map(Element::text).unwrap_or_default().to_owned();
                    values.insert(text("key"), text("value"));
                }
            }
            _ => child.lost("there is nothing like it here", sheet),
        }
    }
    let key = (group.to_owned(), name.to_owned());
    let (mine, others): (Vec<Trigger>, Vec<Trigger>) =
        triggers.drain(..).partition(|trigger| trigger.job == key);
    *triggers = others;
    spec.name = names::of_text(&if group == GROUP { name.to_owned() } else { format!("{group}.{name}") });
    let mut choices = Vec::new();
    spec.target = Some(if NATIVE.contains(&class) {
        Target { exec: Some(native(element, &values, sheet)), ..Target::default() }
    } else {
        let what =
            format!("job-class: {class} is a payload for a worker of your own, in the queue {}", spec.name);
        sheet.find(element.line(), Loss::Approximated, what);
        spec.queue.clone_from(&spec.name);
        let payload = serde_json::json!({ "class": class, "data": values }).to_string();
        Target { queue: Some(QueueTarget { payload }), ..Target::default() }
    });
    spec.timeout = Some(span::write(limits::TIMEOUT));
    choices.push("timeout: the longest there is, for Quartz has none".to_owned());
    spec.overlap = Some(Overlap { policy: OverlapPolicy::Allow.into(), ..Overlap::default() });
    choices.push("overlap: allow; of a class with @DisallowConcurrentExecution it would be queue".to_owned());
    let runs: Vec<CatchUpRuns> = mine.iter().map(|trigger| trigger.catch_up).collect();
    if let Some(first) = runs.first() {
        let window = (*first != CatchUpRuns::None).then(|| span::write(limits::LATENESS));
        spec.catch_up = Some(CatchUp { runs: (*first).into(), window, ..CatchUp::default() });
        if runs.iter().any(|other| other != first) {
            let what = "misfire-instruction: a job has one for all its triggers, that of the first";
            sheet.find(element.line(), Loss::Approximated, what);
        }
    }
    if let Some(priority) = mine.iter().map(|trigger| trigger.priority).max() {
        spec.priority = priority.clamp(*limits::PRIORITY.start(), *limits::PRIORITY.end());
    }
    if mine.is_empty() {
        choices
            .push("schedule: none, for no trigger names it; it runs on `chronarch job trigger`".to_owned());
    }
    spec.schedule = mine.into_iter().map(|trigger| trigger.schedule).collect();
    choices.push(BREAKER.to_owned());
    sheet.draft(element.line(), spec, choices);
}

/// A command and its parameters, as `NativeJob` hands them to `/bin/sh`.
fn native(element: Element<'_>, values: &BTreeMap<String, String>, sheet: &mut Sheet<'_>) -> ExecTarget {
    let text = |key: &str| values.get(key).map(String::as_str).unwrap_or_default();
    for key in values
        .keys()
        .filter(|key| !matches!(key.as_str(), "command" | "parameters" | "waitForProcess" | "consumeStreams"))
    {
        sheet.find(element.line(), Loss::Lost, format!("job-data-map.{key}: there is nothing like it here"));
    }
    if text("waitForProcess") == "false" {
        let what = "waitForProcess: a run ends with its command";
        sheet.find(element.line(), Loss::Approximated, what);
    }
    let line = format!("{} {}", text("command"), text("parameters"));
    match words::split(&line) {
        Some(command) => ExecTarget { command, ..ExecTarget::default() },
        None => ExecTarget { shell: line, ..ExecTarget::default() },
    }
}
