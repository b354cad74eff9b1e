//! CronJobs of Kubernetes, as `kubectl get cronjob -o yaml` writes them and as people do: `batch/v1`, and `batch/v1beta1`,
//! which differs in nothing that matters here.
//!
//! The instants are those of the controller: robfig/cron 3, in which `*/2` for a day restricts it
//! ([`DayRule::OrBare`]), a wall time that does not exist is skipped and one that comes twice runs twice. What runs is
//! the command of the container, by a worker and without the container; a job whose image names the command is lost.
//!
//! # Sources
//! The API reference of `batch/v1` ("CronJobSpec", "JobSpec"), and of the page on CronJobs what it says on missed
//! schedules and on `concurrencyPolicy`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::yaml::{Item, documents};
use super::{BREAKER, Loss, Sheet, robfig};
use crate::api::limits;
use crate::pb::span;
use crate::pb::v1::{
    CatchUp, CatchUpRuns, ExecTarget, JobSpec, Keep, OnLost, Overlap, OverlapPolicy, Retry, Schedule, Target,
};

/// Successful and failed jobs that are kept unless the manifest says otherwise.
const KEPT: (u64, u64) = (3, 1);
/// Retries unless the manifest says otherwise.
const BACKOFF_LIMIT: u64 = 6;
/// The pause before the first retry, which doubles up to the second of the two.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(360));

/// What a cluster writes into an object for itself.
const BOOKKEEPING: &[&str] =
    &["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"];

/// What a manifest has said so far.
#[derive(Default)]
struct CronJob {
    spec: JobSpec,
    choices: Vec<String>,
    rule: Option<String>,
    timezone: Option<String>,
    starting_deadline: Option<Duration>,
    kept: (Option<u64>, Option<u64>),
    retries: Option<u64>,
    /// The line, and how long all attempts of a run may take together.
    deadline: Option<(usize, Duration)>,
    exec: ExecTarget,
    /// Whether anything makes it no job of ours; a finding says what.
    is_lost: bool,
}

pub(super) fn read(text: &str, sheet: &mut Sheet<'_>) {
    for document in documents(text, sheet) {
        object(&Item::root(&document), sheet);
    }
}

fn object(item: &Item<'_>, sheet: &mut Sheet<'_>) {
    match (item.get("kind"), item.get("apiVersion")) {
        (Some("List" | "CronJobList"), _) => {
            for (_, items) in item.entries(sheet).iter().filter(|(key, _)| *key == "items") {
                for element in items.elements(sheet) {
                    object(&element, sheet);
                }
            }
        }
        (Some("CronJob"), Some("batch/v1" | "batch/v1beta1")) => cron_job(item, sheet),
        (Some("CronJob"), version) => {
            let what = format!("a CronJob of {}, expected batch/v1", version.unwrap_or("no apiVersion"));
            sheet.find(item.line, Loss::Unread, what);
        }
        (Some(kind), _) => {
            sheet.find(item.line, Loss::Noted, format!("a {kind} is no schedule, and is left out"));
        }
        (None, _) => sheet.find(item.line, Loss::Unread, "expected a manifest, which has a `kind`"),
    }
}

fn cron_job(item: &Item<'_>, sheet: &mut Sheet<'_>) {
    let mut job = CronJob::default();
    for (key, item) in item.entries(sheet) {
        match key {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => metadata(&item, &mut job, sheet),
            "spec" => cron_job_spec(&item, &mut job, sheet),
            _ => item.lost("unknown", sheet),
        }
    }
    let Some(schedule) = schedule(item.line, &mut job, sheet) else { return };
    if job.exec.command.is_empty() && !job.is_lost {
        let what = "no container with a command: what an image runs by itself is not known here; name it in `command`";
        sheet.find(item.line, Loss::Lost, what);
        job.is_lost = true;
    }
    if !job.is_lost {
        let (spec, choices) = job.finish(schedule, sheet);
        sheet.draft(item.line, spec, choices);
    }
}

fn metadata(item: &Item<'_>, job: &mut CronJob, sheet: &mut Sheet<'_>) {
    for (key, item) in item.entries(sheet) {
        match key {
            "name" => job.spec.name = item.text(sheet).unwrap_or_default().to_owned(),
            "namespace" => job.spec.namespace = item.text(sheet).unwrap_or_default().to_owned(),
            "labels" => {
                for (key, item) in item.entries(sheet) {
                    if key.len() > limits::LABEL_KEY_BYTES {
                        item.lost(&format!("the key has more than {} bytes", limits::LABEL_KEY_BYTES), sheet);
                    } else if let Some(value) = item.text(sheet) {
                        job.spec.labels.insert(key.to_owned(), value.to_owned());
                    }
                }
            }
            "annotations" => {
                for (key, item) in item.entries(sheet) {
                    if key != "kubectl.kubernetes.io/last-applied-configuration" {
                        item.lost("jobs have no annotations", sheet);
                    }
                }
            }
            key if BOOKKEEPING.contains(&key) => {}
            _ => item.lost("there is nothing like it here", sheet),
        }
    }
}

fn cron_job_spec(item: &Item<'_>, job: &mut CronJob, sheet: &mut Sheet<'_>) {
    for (key, item) in item.entries(sheet) {
        match key {
            "schedule" => job.rule = item.text(sheet).map(ToOwned::to_owned),
            "timeZone" => job.timezone = item.text(sheet).map(ToOwned::to_owned),
            "startingDeadlineSeconds" => job.starting_deadline = item.number(sheet).map(Duration::from_secs),
            "concurrencyPolicy" => concurrency(&item, job, sheet),
            "suspend" => {
                if item.flag(sheet) == Some(true) {
                    item.lost(
                        "a job file cannot say it; `chronarch job pause` the job when it is applied",
                        sheet,
                    );
                }
            }
            "successfulJobsHistoryLimit" => job.kept.0 = item.number(sheet),
            "failedJobsHistoryLimit" => job.kept.1 = item.number(sheet),
            "jobTemplate" => {
                for (key, item) in item.entries(sheet) {
                    match key {
                        "metadata" => template_metadata(&item, sheet),
                        "spec" => job_spec(&item, job, sheet),
                        _ => item.lost("unknown", sheet),
                    }
                }
            }
            _ => item.lost("unknown", sheet),
        }
    }
}

fn concurrency(item: &Item<'_>, job: &mut CronJob, sheet: &mut Sheet<'_>) {
    let policy = match item.text(sheet) {
        Some("Allow") | None => return,
        Some("Forbid") => {
            let choice = "overlap: the newest of what comes meanwhile waits, as with Forbid until the starting deadline";
            job.choices.push(choice.to_owned());
            Overlap {
                policy: OverlapPolicy::Queue.into(),
                limit: Some(1),
                keep: Keep::Newest.into(),
                ..Overlap::default()
            }
        }
        Some("Replace") => Overlap { policy: OverlapPolicy::Replace.into(), ..Overlap::default() },
        Some(other) => {
            let what = format!("{}: expected Allow, Forbid or Replace, found {other:?}", item.path);
            return sheet.find(item.line, Loss::Unread, what);
        }
    };
    job.spec.overlap = Some(policy);
}

/// Labels and annotations of what the controller makes: nobody sees them here.
fn template_metadata(item: &Item<'_>, sheet: &mut Sheet<'_>) {
    for (key, item) in item.entries(sheet) {
        if !BOOKKEEPING.contains(&key) {
            item.lost("runs have neither names nor labels of their own", sheet);
        }
    }
}

fn job_spec(item: &Item<'_>, job: &mut CronJob, sheet: &mut Sheet<'_>) {
    for (key, item) in item.entries(sheet) {
        match key {
            "backoffLimit" => job.retries = item.number(sheet),
            "activeDeadlineSeconds" => {
                job.deadline = item.number(sheet).map(|seconds| (item.line, Duration::from_secs(seconds)));
            }
            "ttlSecondsAfterFinished" => {
                // Records live for a while in any case: they are the answer to what happened.
                let age = item.number(sheet).map(|seconds| Duration::from_secs(seconds.max(1)));
                job.spec.retention.get_or_insert_default().age = age.map(span::write);
            }
            "parallelism" | "completions" => {
                if item.number(sheet).is_some_and(|count| count != 1) {
                    item.lost("a run is one attempt at a time, that ends well once", sheet);
                }
            }
            "completionMode" => {
                if item.text(sheet).is_some_and(|mode| mode != "NonIndexed") {
                    item.lost("a run has no index", sheet);
                }
            }
            "template" => {
                for (key, item) in item.entries(sheet) {
                    match key {
                        "metadata" => template_metadata(&item, sheet),
                        "spec" => pod_spec(&item, job, sheet),
                        _ => item.lost("unknown", sheet),
                    }
                }
            }
            _ => item.lost("there is nothing like it here", sheet),
        }
    }
}

fn pod_spec(item: &Item<'_>, job: &mut CronJob, sheet: &mut Sheet<'_>) {
    for (key, item) in item.entries(sheet) {
        match key {
            "containers" => {
                let containers = item.elements(sheet);
                match containers.as_slice() {
                    [one] => container(one, job, sheet),
                    _ => {
                        item.lost("a run is one command, not several containers", sheet);
                        job.is_lost = true;
                    }
                }
            }
            "restartPolicy" => {
                if item.text(sheet) == Some("OnFailure") {
                    job.choices.push(
                        "retry: as with restartPolicy OnFailure, an attempt is a new process".to_owned(),
                    );
                }
            }
            // Defaults that a cluster writes into each object.
            "dnsPolicy" | "schedulerName" | "terminationGracePeriodSeconds" => {}
            "securityContext" if item.entries(sheet).is_empty() => {}
            _ => item.lost("a worker runs a command and no pod", sheet),
        }
    }
}

fn container(item: &Item<'_>, job: &mut CronJob, sheet: &mut Sheet<'_>) {
    let (mut command, mut arguments) = (Vec::new(), Vec::new());
    for (key, item) in item.entries(sheet) {
        match key {
            "name" | "imagePullPolicy" | "terminationMessagePath" | "terminationMessagePolicy" => {}
            "image" => {
                let image = item.text(sheet).unwrap_or_default();
                let what =
                    format!("the command runs on a worker, and not in {image}: what it needs must be there");
                item.approximated(&what, sheet);
            }
            "command" => command = item.texts(sheet),
            "args" => arguments = item.texts(sheet),
            "workingDir" => job.exec.cwd = item.text(sheet).unwrap_or_default().to_owned(),
            "env" => {
                for element in item.elements(sheet) {
                    variable(&element, job, sheet);
                }
            }
            "resources" if item.entries(sheet).is_empty() => {}
            _ => item.lost("a worker runs a command and no container", sheet),
        }
    }
    if !command.is_empty() {
        command.append(&mut arguments);
        job.exec.command = command.iter().map(|word| expand(word, &job.exec.env)).collect();
    }
}

fn variable(item: &Item<'_>, job: &mut CronJob, sheet: &mut Sheet<'_>) {
    let Some(name) = item.get("name") else {
        return sheet.find(item.line, Loss::Unread, format!("{}: expected a name", item.path));
    };
    let mut value = String::new();
    for (key, item) in item.entries(sheet) {
        match key {
            "name" => {}
            "value" => value = item.text(sheet).unwrap_or_default().to_owned(),
            _ => return item.lost(&format!("{name} comes from elsewhere; set it for the worker"), sheet),
        }
    }
    job.exec.env.insert(name.to_owned(), expand(&value, &job.exec.env));
}

/// `$(NAME)` is the value of a variable that stands above, `$$(NAME)` is `$(NAME)`, and what is not known stays.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let named = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
        if let Some(escaped) = rest.strip_prefix("$$") {
            out.push('$');
            rest = escaped;
        } else if let Some((value, behind)) =
            named.and_then(|(name, behind)| variables.get(name).map(|value| (value, behind)))
        {
            out.push_str(value);
            rest = behind;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out + rest
}

/// The schedule in our words.
fn schedule(line: usize, job: &mut CronJob, sheet: &mut Sheet<'_>) -> Option<Schedule> {
    let Some(rule) = job.rule.take() else {
        sheet.find(line, Loss::Unread, "spec.schedule: is missing");
        return None;
    };
    let mut rule = rule.trim();
    for prefix in ["TZ=", "CRON_TZ="] {
        if let Some((zone, behind)) = rule.strip_prefix(prefix).and_then(|rest| rest.split_once(' ')) {
            job.choices.push(format!(
                "timezone: from `{prefix}{zone}` in the schedule, which newer releases refuse"
            ));
            job.timezone.get_or_insert_with(|| zone.to_owned());
            rule = behind.trim();
        }
    }
    if let Some(every) = robfig::every(rule, "spec.schedule", line, sheet) {
        return every;
    }
    let timezone = job.timezone.clone().or_else(|| sheet.options.timezone.clone());
    if timezone.is_none() {
        let what = "spec.timeZone: is missing, which means the zone of the controller; taken as UTC, --timezone says another";
        sheet.find(line, Loss::Approximated, what);
    }
    let mut schedule = robfig::rule(rule, &mut job.choices);
    schedule.timezone = timezone.unwrap_or_default();
    Some(schedule)
}

impl CronJob {
    /// The job, with the defaults that the manifest leaves to the cluster.
    fn finish(self, schedule: Schedule, sheet: &mut Sheet<'_>) -> (JobSpec, Vec<String>) {
        let Self { mut spec, mut choices, starting_deadline, kept, retries, deadline, exec, .. } = self;
        let mut choose = |choice: &str| choices.push(choice.to_owned());
        spec.schedule = vec![schedule];
        spec.target = Some(Target { exec: Some(exec), ..Target::default() });
        if spec.overlap.is_none() {
            spec.overlap = Some(Overlap { policy: OverlapPolicy::Allow.into(), ..Overlap::default() });
        }
        let window = starting_deadline.unwrap_or(limits::LATENESS).min(limits::LATENESS);
        if starting_deadline.is_none() {
            choose(
                "catch_up: the latest that was missed, however late, for there is no startingDeadlineSeconds",
            );
        }
        spec.catch_up = Some(CatchUp {
            runs: CatchUpRuns::Latest.into(),
            window: Some(span::write(window)),
            ..CatchUp::default()
        });
        spec.start_within =
            starting_deadline.map(|deadline| span::write(deadline.max(Duration::from_secs(1))));
        let retries = retries.unwrap_or(BACKOFF_LIMIT);
        let attempts = u32::try_from(retries.saturating_add(1)).unwrap_or(u32::MAX);
        spec.retry = Some(Retry {
            max_attempts: Some(attempts.min(crate::state::limits::ATTEMPTS)),
            initial: Some(span::write(BACKOFF.0)),
            multiplier: Some(2.0),
            max: Some(span::write(BACKOFF.1)),
            jitter: Some(0.0),
            on: Vec::new(),
        });
        spec.on_lost = OnLost::Rerun.into();
        choose("on_lost: rerun, as a lost pod is replaced");
        let timeout = match deadline {
            Some((line, deadline)) => {
                if retries > 0 {
                    let what = "activeDeadlineSeconds: bounds each attempt here, all of them together there";
                    sheet.find(line, Loss::Approximated, what);
                }
                deadline
            }
            None => {
                choose("timeout: the longest there is, for there is no activeDeadlineSeconds");
                limits::TIMEOUT
            }
        };
        spec.timeout = Some(span::write(timeout.min(limits::TIMEOUT)));
        let kept = kept.0.unwrap_or(KEPT.0).saturating_add(kept.1.unwrap_or(KEPT.1));
        let kept = u32::try_from(kept).unwrap_or(u32::MAX).clamp(1, limits::RETENTION_RUNS);
        spec.retention.get_or_insert_default().runs = Some(kept);
        choose("retention: successful and failed ones together");
        choose(BREAKER);
        (spec, choices)
    }
}
