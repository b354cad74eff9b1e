//! CronJobs.

use serde_json::{Value, json};

use super::Page;
use super::cron::{Reader, line};
use crate::state::schedule::Rule;
use crate::state::spec::{CatchUpRuns, JobSpec, Keep, OverlapPolicy, Program, Target};

/// The longest name of a CronJob, to which the controller adds the instant.
const NAME_CHARS: usize = 52;

/// # Errors
/// Why Kubernetes has no words for it.
pub(super) fn write(spec: &JobSpec, is_next: bool, page: &mut Page<'_>) -> Result<String, String> {
    let Target::Exec { program, env, cwd, stdin } = &spec.target else {
        return Err(format!("target.{}: a CronJob runs commands alone", spec.target.kind()));
    };
    if spec.after.is_some() {
        return Err("after: Kubernetes knows no order of CronJobs".to_owned());
    }
    if spec.name.len() > NAME_CHARS || spec.name.contains('_') {
        return Err(format!(
            "name: a CronJob's has at most {NAME_CHARS} characters out of a-z, 0-9, `-` and `.`"
        ));
    }
    let [schedule] = spec.schedules.as_slice() else {
        return Err("schedule: a CronJob has one".to_owned());
    };
    if stdin.as_ref().is_some_and(|stdin| !stdin.is_empty()) {
        return Err("target.exec.stdin: a container has none".to_owned());
    }
    let rule = line(schedule, Reader::Robfig)?;
    if let Some(what) = rule.approximation {
        page.approximated(what);
    }
    let command = match program {
        Program::Command(words) => words.clone(),
        Program::Shell(line) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
    };
    // `$(NAME)` would be a variable there.
    let literal = |text: &String| text.replace("$(", "$$(");
    let command: Vec<String> = command.iter().map(literal).collect();
    let env: Vec<Value> =
        env.iter().map(|(name, value)| json!({"name": name, "value": literal(value)})).collect();
    let mut container = json!({"name": "job", "image": page.options.image, "command": command});
    if !env.is_empty() {
        container["env"] = env.into();
    }
    if let Some(cwd) = cwd {
        container["workingDir"] = cwd.clone().into();
    }
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [container]}});
    let mut body = json!({
        "schedule": rule.text,
        "concurrencyPolicy": concurrency(spec, page),
        "jobTemplate": {"spec": {
            "backoffLimit": spec.retry.max_attempts.saturating_sub(1),
            "activeDeadlineSeconds": spec.timeout.as_secs().max(1),
            "template": template,
        }},
    });
    // A period is counted in real time, and a line of minutes is the same in every zone.
    if !matches!(schedule.rule, Rule::Every { .. }) {
        body["timeZone"] =
            if schedule.timezone == "UTC" { "Etc/UTC".into() } else { schedule.timezone.clone().into() };
    }
    if let Some(start_within) = spec.start_within {
        body["startingDeadlineSeconds"] = start_within.as_secs().max(1).into();
    }
    if spec.retry.max_attempts > 1 {
        page.approximated("timeout: bounds all attempts together there, each of them here");
        page.approximated("retry: the pauses there are 10 s, doubled up to 6 min");
    }
    if spec.catch_up.runs != CatchUpRuns::Latest {
        page.approximated("catch_up: the latest that was missed runs there");
    }
    page.note_ours(spec);
    let mut metadata = json!({"name": spec.name, "namespace": spec.namespace});
    if !spec.labels.is_empty() {
        metadata["labels"] = json!(spec.labels);
    }
    let manifest = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": body});
    let text = serde_saphyr::to_string(&manifest).map_err(|error| error.to_string())?;
    Ok(if is_next { format!("---\n{text}") } else { text })
}

fn concurrency(spec: &JobSpec, page: &mut Page<'_>) -> &'static str {
    let overlap = &spec.overlap;
    match overlap.policy {
        OverlapPolicy::Allow => "Allow",
        OverlapPolicy::Replace => "Replace",
        OverlapPolicy::Queue
            if (overlap.limit, overlap.keep, overlap.max_parallel) == (1, Keep::Newest, 1) =>
        {
            "Forbid"
        }
        OverlapPolicy::Queue | OverlapPolicy::Skip => {
            page.approximated("overlap: with Forbid the newest of what comes meanwhile waits there");
            "Forbid"
        }
    }
}
