//! Tasks of the Windows Task Scheduler, as `schtasks /query /xml` and its window export them.
//!
//! Each trigger by the calendar becomes a recurrence rule ([`trigger`]) that begins at its `StartBoundary`, on the wall
//! clock of the machine. Triggers by an event (boot, logon, idle, the event log) have no instants and are lost.
//!
//! # Sources
//! The Task Scheduler Schema of Microsoft (`Task`, `TriggerBaseType`, `SettingsType` and below), with its defaults.

mod trigger;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use roxmltree::Node;

use super::xml::{Element, document};
use super::{BREAKER, Loss, Sheet, names};
use crate::api::limits;
use crate::pb::span;
use crate::pb::v1::{
    CatchUp, CatchUpRuns, ExecTarget, JobSpec, Keep, Overlap, OverlapPolicy, Retry, Schedule, Target,
};

/// How long a task may run unless it says otherwise.
const EXECUTION_TIME: Duration = Duration::from_secs(72 * 3_600);

pub(super) fn read(text: &str, sheet: &mut Sheet<'_>) {
    document(text, sheet, |root, sheet| match root.name() {
        "Task" => task(root, sheet),
        "Tasks" => {
            root.children().filter(|child| child.name() == "Task").for_each(|child| task(child, sheet))
        }
        _ => root.unread("a Task, or Tasks", sheet),
    });
}

/// What a task is called: the last part of its path, which stands in it, in a comment above it, or as the file's name.
fn name_of(task: Element<'_>, file: &str) -> String {
    let uri = task.child("RegistrationInfo").and_then(|info| info.child("URI")).map(Element::text);
    let comment = task.node.prev_siblings().skip(1).find(|node| node.is_comment() || node.is_element());
    let comment = comment.filter(Node::is_comment).and_then(|node| node.text());
    let path = uri.filter(|uri| !uri.is_empty()).or(comment).map(str::trim);
    let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or("task");
    names::of_text(path.map_or(stem, |path| path.rsplit('\\').next().unwrap_or(path)))
}

fn task(task: Element<'_>, sheet: &mut Sheet<'_>) {
    let mut spec = JobSpec { name: name_of(task, sheet.file), ..JobSpec::default() };
    let mut choices = Vec::new();
    let mut schedules = Vec::new();
    let mut has_target = false;
    for child in task.children() {
        match child.name() {
            "RegistrationInfo" => registration(child, &mut spec, sheet),
            "Triggers" => {
                for trigger in child.children() {
                    schedules.extend(trigger::read(trigger, sheet));
                }
            }
            "Principals" => principals(child, sheet),
            "Settings" => {}
            "Actions" => {
                spec.target = action(child, sheet);
                has_target = spec.target.is_some();
            }
            _ => child.lost("there is nothing like it here", sheet),
        }
    }
    settings(task.child("Settings"), &mut spec, &mut choices, sheet);
    if schedules.is_empty() {
        return sheet.find(task.line(), Loss::Lost, "no trigger by the calendar, and so no job");
    }
    if !has_target {
        return;
    }
    let needs_zone = schedules.iter().any(|schedule: &Schedule| !schedule.rrule.contains('Z'));
    for schedule in &mut schedules {
        if let Some(zone) = sheet.options.timezone.as_ref().filter(|_| !schedule.rrule.contains('Z')) {
            schedule.timezone.clone_from(zone);
        }
    }
    if needs_zone && sheet.options.timezone.is_none() {
        let what =
            "StartBoundary: is on the wall clock of its machine; taken as UTC, --timezone says another";
        sheet.find(task.line(), Loss::Approximated, what);
    }
    spec.schedule = schedules;
    choices.push(BREAKER.to_owned());
    sheet.draft(task.line(), spec, choices);
}

fn registration(info: Element<'_>, spec: &mut JobSpec, sheet: &mut Sheet<'_>) {
    for child in info.children() {
        match child.name() {
            "Description" => child.text().clone_into(&mut spec.description),
            "URI" | "Date" | "Author" | "Version" | "Source" => {}
            _ => child.lost("there is nothing like it here", sheet),
        }
    }
}

fn principals(principals: Element<'_>, sheet: &mut Sheet<'_>) {
    for child in principals.children().flat_map(Element::children) {
        match child.name() {
            "UserId" | "GroupId" => {
                let how = format!("{}: a command has the user of its worker", child.text());
                child.approximated(&how, sheet);
            }
            "LogonType" | "DisplayName" => {}
            "RunLevel" if child.text() == "LeastPrivilege" => {}
            _ => child.lost("a command has the rights of its worker", sheet),
        }
    }
}

fn action(actions: Element<'_>, sheet: &mut Sheet<'_>) -> Option<Target> {
    let (mut exec, mut line) = (None, None);
    for action in actions.children() {
        if action.name() != "Exec" {
            action.lost("only commands can be run", sheet);
        } else if exec.is_some() {
            action.lost("a run is one command; put them into one script", sheet);
        } else {
            line = Some(action);
            exec = Some(command(action, sheet));
        }
    }
    let Some(exec) = exec else {
        actions.lost("no command, and so no job", sheet);
        return None;
    };
    if let Some(action) = line {
        action.approximated("the command runs on a worker, which must have what it names", sheet);
    }
    Some(Target { exec: Some(exec), ..Target::default() })
}

fn command(action: Element<'_>, sheet: &mut Sheet<'_>) -> ExecTarget {
    let mut exec = ExecTarget::default();
    let mut arguments = Vec::new();
    for child in action.children() {
        match child.name() {
            "Command" => exec.command.insert(0, child.text().trim_matches('"').to_owned()),
            "Arguments" => arguments = trigger::arguments(child.text()),
            "WorkingDirectory" => child.text().clone_into(&mut exec.cwd),
            _ => child.lost("there is nothing like it here", sheet),
        }
    }
    exec.command.extend(arguments);
    exec
}

fn settings(
    settings: Option<Element<'_>>,
    spec: &mut JobSpec,
    choices: &mut Vec<String>,
    sheet: &mut Sheet<'_>,
) {
    let (mut policy, mut limit) = (OverlapPolicy::Skip, None);
    let mut time = EXECUTION_TIME;
    let mut catches_up = false;
    for child in settings.into_iter().flat_map(Element::children) {
        match child.name() {
            "MultipleInstancesPolicy" => match child.text() {
                "Parallel" => policy = OverlapPolicy::Allow,
                "Queue" => (policy, limit) = (OverlapPolicy::Queue, Some(limits::PARALLEL)),
                "IgnoreNew" => policy = OverlapPolicy::Skip,
                "StopExisting" => policy = OverlapPolicy::Replace,
                _ => child.unread("Parallel, Queue, IgnoreNew or StopExisting", sheet),
            },
            "StartWhenAvailable" => catches_up = child.flag(),
            "ExecutionTimeLimit" => time = child.span(sheet).unwrap_or(EXECUTION_TIME),
            "RestartOnFailure" => spec.retry = retry(child, sheet),
            "Enabled" => {
                if !child.flag() {
                    child.lost(
                        "a job file cannot say it; `chronarch job pause` the job when it is applied",
                        sheet,
                    );
                }
            }
            // What they say by default means nothing to a worker.
            "DisallowStartIfOnBatteries"
            | "StopIfGoingOnBatteries"
            | "AllowHardTerminate"
            | "AllowStartOnDemand"
            | "Hidden"
            | "Priority"
            | "IdleSettings"
            | "UseUnifiedSchedulingEngine"
            | "Compatibility"
            | "DisallowStartOnRemoteAppSession"
            | "Volatile" => {}
            "RunOnlyIfIdle" | "RunOnlyIfNetworkAvailable" | "WakeToRun" if !child.flag() => {}
            _ => child.lost("there is nothing like it here", sheet),
        }
    }
    let keep = if limit.is_some() { Keep::Oldest } else { Keep::Unspecified };
    spec.overlap = Some(Overlap { policy: policy.into(), limit, keep: keep.into(), ..Overlap::default() });
    spec.timeout = Some(span::write(match time {
        // `PT0S` is none.
        Duration::ZERO => limits::TIMEOUT,
        time => time.min(limits::TIMEOUT),
    }));
    let runs = if catches_up { CatchUpRuns::Latest } else { CatchUpRuns::None };
    let window = catches_up.then(|| span::write(limits::LATENESS));
    spec.catch_up = Some(CatchUp { runs: runs.into(), window, ..CatchUp::default() });
    choices.push(match catches_up {
        true => "catch_up: the latest that was missed, as with StartWhenAvailable".to_owned(),
        false => "catch_up: none, for there is no StartWhenAvailable".to_owned(),
    });
}

fn retry(element: Element<'_>, sheet: &mut Sheet<'_>) -> Option<Retry> {
    let interval = element.child("Interval")?.span(sheet)?;
    let count: u32 = element.child("Count")?.text().parse().ok()?;
    let pause = Some(span::write(interval.min(limits::RETRY_WAIT)));
    Some(Retry {
        max_attempts: Some(count.saturating_add(1).min(crate::state::limits::ATTEMPTS)),
        initial: pause,
        multiplier: Some(1.0),
        max: pause,
        jitter: Some(0.0),
        on: Vec::new(),
    })
}
