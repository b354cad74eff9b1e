//! Jobs of dkron, as its API (`GET /v1/jobs`) writes them: one, a list, or one after another.
//!
//! The instants are those of robfig/cron 3 with seconds, as for Kubernetes. Without a count in its tags a job of dkron
//! runs on every node that has them, and so it does here ([`JobSpec::every_node`]).
//!
//! # Sources
//! dkron's documentation of its API, of "Target nodes spec", of the executors `shell` and `http`, and of its schedules.

use std::time::Duration;

use super::yaml::{Item, documents};
use super::{BREAKER, Loss, Sheet, robfig, words};
use crate::api::limits;
use crate::pb::v1::{
    After, AfterOn, CatchUp, CatchUpRuns, ExecTarget, HttpTarget, JobSpec, Overlap, OverlapPolicy, Retry,
    Schedule, Target,
};
use crate::pb::{instant, span};
use crate::state::time::Timestamp;

/// What dkron writes into a job for itself.
const BOOKKEEPING: &[&str] = &[
    "id",
    "success_count",
    "error_count",
    "last_success",
    "last_error",
    "dependent_jobs",
    "status",
    "next",
    "children",
    "running_jobs",
];

/// What a job has said so far.
#[derive(Default)]
struct Job {
    spec: JobSpec,
    choices: Vec<String>,
    rule: Option<String>,
    timezone: Option<String>,
    parent: Option<String>,
    executor: Option<String>,
    /// `executor_config`, and in old jobs what stands beside it.
    config: Vec<(String, usize, String)>,
    forbids: bool,
    ends_at: Option<(usize, String)>,
    starts_at: Option<(usize, String)>,
    /// The least count of its tags; none: all nodes.
    count: Option<u64>,
}

pub(super) fn read(text: &str, sheet: &mut Sheet<'_>) {
    for document in documents(text, sheet) {
        let item = Item::root(&document);
        if item.is_list() {
            for job in item.elements(sheet) {
                read_job(&job, sheet);
            }
        } else {
            read_job(&item, sheet);
        }
    }
}

fn read_job(item: &Item<'_>, sheet: &mut Sheet<'_>) {
    let mut job = Job::default();
    for (key, item) in item.entries(sheet) {
        job.take(key, &item, sheet);
    }
    let line = item.line;
    if let Some(parent) = job.parent.take() {
        if job.rule.take().is_some_and(|rule| !rule.is_empty()) {
            job.choices.push(
                "schedule: left out, for dkron does not look at that of a job with a parent".to_owned(),
            );
        }
        let on = AfterOn::Success.into();
        job.spec.after = Some(After { jobs: vec![parent], on, ..After::default() });
    } else {
        match job.schedule(line, sheet) {
            Ok(schedules) => job.spec.schedule = schedules,
            Err(()) => return,
        }
    }
    let Some(target) = job.target(line, sheet) else { return };
    job.spec.target = Some(target);
    let policy = if job.forbids { OverlapPolicy::Skip } else { OverlapPolicy::Allow };
    job.spec.overlap = Some(Overlap { policy: policy.into(), ..Overlap::default() });
    job.spec.catch_up = Some(CatchUp { runs: CatchUpRuns::None.into(), ..CatchUp::default() });
    match job.count {
        None => {
            job.spec.every_node = true;
            job.choices.push(
                "every_node: without a count in its tags it runs on every node that has them".to_owned(),
            );
        }
        Some(1) => {}
        Some(count) => {
            let what = format!("tags: it runs on one worker that has them, and not on {count}");
            sheet.find(line, Loss::Approximated, what);
        }
    }
    job.choices.push("catch_up: none, for dkron does not make up for what it missed".to_owned());
    job.choices.push(BREAKER.to_owned());
    sheet.draft(line, job.spec, job.choices);
}

impl Job {
    fn take(&mut self, key: &str, item: &Item<'_>, sheet: &mut Sheet<'_>) {
        let text = |sheet: &mut Sheet<'_>| item.text(sheet).unwrap_or_default().to_owned();
        match key {
            "name" => self.spec.name = text(sheet),
            "displayname" => self.spec.description = text(sheet),
            "schedule" => self.rule = Some(text(sheet)),
            "timezone" => self.timezone = Some(text(sheet)).filter(|zone| !zone.is_empty()),
            "parent_job" => self.parent = Some(text(sheet)).filter(|parent| !parent.is_empty()),
            "owner" => {
                let owner = text(sheet);
                if !owner.is_empty() {
                    self.spec.labels.insert("owner".to_owned(), owner);
                }
            }
            "owner_email" => {
                if !text(sheet).is_empty() {
                    item.lost("nobody is mailed", sheet);
                }
            }
            "disabled" => {
                if item.flag(sheet) == Some(true) {
                    item.lost(
                        "a job file cannot say it; `chronarch job pause` the job when it is applied",
                        sheet,
                    );
                }
            }
            "tags" => {
                for (tag, item) in item.entries(sheet) {
                    self.tag(tag, &item, sheet);
                }
            }
            "metadata" => {
                for (key, item) in item.entries(sheet) {
                    let value = item.text(sheet).unwrap_or_default().to_owned();
                    self.spec.labels.insert(key.to_owned(), value);
                }
            }
            "retries" => {
                let retries = item.number(sheet).unwrap_or_default();
                let attempts = u32::try_from(retries.saturating_add(1)).unwrap_or(u32::MAX);
                if retries > 0 {
                    let at_once = Some(span::write(Duration::ZERO));
                    self.spec.retry = Some(Retry {
                        max_attempts: Some(attempts.min(crate::state::limits::ATTEMPTS)),
                        initial: at_once,
                        max: at_once,
                        ..Retry::default()
                    });
                    self.choices.push("retry: at once, as dkron does".to_owned());
                }
            }
            "concurrency" => match item.text(sheet) {
                Some("forbid") => self.forbids = true,
                Some("allow" | "") | None => {}
                Some(other) => {
                    let what = format!("concurrency: expected allow or forbid, found {other:?}");
                    sheet.find(item.line, Loss::Unread, what);
                }
            },
            "processors" => {
                for (_, item) in item.entries(sheet) {
                    item.lost(
                        "output is kept with each run (`chronarch run logs`), and goes nowhere else",
                        sheet,
                    );
                }
            }
            "ephemeral" => {
                if item.flag(sheet) == Some(true) {
                    item.lost("a job whose instants are past stays, and does nothing", sheet);
                }
            }
            "starts_at" => {
                self.starts_at = Some((item.line, text(sheet))).filter(|(_, text)| !text.is_empty())
            }
            "expires_at" => {
                self.ends_at = Some((item.line, text(sheet))).filter(|(_, text)| !text.is_empty())
            }
            "executor" => self.executor = Some(text(sheet)).filter(|executor| !executor.is_empty()),
            "executor_config" => {
                for (key, item) in item.entries(sheet) {
                    let value = item.text(sheet).unwrap_or_default().to_owned();
                    self.config.push((key.to_owned(), item.line, value));
                }
            }
            // Of dkron 1, which had no executors.
            "command" | "shell" | "environment_variables" => {
                let key = if key == "environment_variables" { "env" } else { key };
                self.config.push((key.to_owned(), item.line, text(sheet)));
            }
            key if BOOKKEEPING.contains(&key) => {}
            _ => item.lost("unknown", sheet),
        }
    }

    fn tag(&mut self, tag: &str, item: &Item<'_>, sheet: &mut Sheet<'_>) {
        let value = item.text(sheet).unwrap_or_default();
        let (value, count) = match value.rsplit_once(':').map(|(value, count)| (value, count.parse::<u64>()))
        {
            Some((value, Ok(count))) => (value, Some(count)),
            Some((_, Err(_))) | None => (value, None),
        };
        self.spec.requires.insert(tag.to_owned(), value.to_owned());
        self.choices
            .push(format!("requires.{tag}: a label of workers, `chronarch worker --label {tag}={value}`"));
        self.count = match (self.count, count) {
            (Some(least), Some(count)) => Some(least.min(count)),
            (least, count) => least.or(count),
        };
    }

    /// The schedules; none for a job that only runs when it is told.
    fn schedule(&mut self, line: usize, sheet: &mut Sheet<'_>) -> Result<Vec<Schedule>, ()> {
        let rule = self.rule.take().unwrap_or_default();
        let mut schedule = match rule.trim() {
            "" => {
                sheet.find(line, Loss::Unread, "it has neither a schedule nor a parent_job");
                return Err(());
            }
            "@manually" => return Ok(Vec::new()),
            "@minutely" => robfig::rule("0 * * * * *", &mut self.choices),
            rule => match rule.strip_prefix("@at ").map(|at| at.trim().parse::<Timestamp>()) {
                Some(Ok(at)) => Schedule { at: vec![instant::write(at)], ..Schedule::default() },
                Some(Err(error)) => {
                    sheet.find(line, Loss::Unread, format!("schedule: {error}"));
                    return Err(());
                }
                None => match robfig::every(rule, "schedule", line, sheet) {
                    Some(every) => every.ok_or(())?,
                    None if rule.split_whitespace().count() == 5 => {
                        let what = "schedule: has five fields, and dkron wants six, the second first";
                        sheet.find(line, Loss::Unread, what);
                        return Err(());
                    }
                    None => robfig::rule(rule, &mut self.choices),
                },
            },
        };
        if !schedule.cron.is_empty() {
            let timezone = self.timezone.clone().or_else(|| sheet.options.timezone.clone());
            if timezone.is_none() {
                let what = "timezone: is missing; taken as UTC, --timezone says another";
                sheet.find(line, Loss::Approximated, what);
            }
            schedule.timezone = timezone.unwrap_or_default();
            if schedule.cron.contains('~') {
                self.choices
                    .push("~: the value is drawn by the job's name, and is another than dkron's".to_owned());
            }
        }
        for (bound, said) in
            [(&mut schedule.start_at, &self.starts_at), (&mut schedule.end_at, &self.ends_at)]
        {
            if let Some((line, text)) = said {
                match text.parse::<Timestamp>() {
                    Ok(at) => *bound = Some(instant::write(at)),
                    Err(error) => sheet.find(*line, Loss::Unread, error.to_string()),
                }
            }
        }
        Ok(vec![schedule])
    }

    fn target(&mut self, line: usize, sheet: &mut Sheet<'_>) -> Option<Target> {
        let config = std::mem::take(&mut self.config);
        match self.executor.as_deref() {
            Some("shell") | None => self.exec(config, line, sheet),
            Some("http") => Some(self.http(config, sheet)),
            Some(other) => {
                let what = format!(
                    "executor {other}: there is none here, and so no job; a target `queue` hands a payload to \
                     a worker of your own"
                );
                sheet.find(line, Loss::Lost, what);
                None
            }
        }
    }

    fn timeout(&mut self, timeout: Option<Duration>) {
        if timeout.is_none() {
            self.choices.push("timeout: the longest there is, for the job has none".to_owned());
        }
        self.spec.timeout = Some(span::write(timeout.unwrap_or(limits::TIMEOUT).min(limits::TIMEOUT)));
    }

    fn exec(
        &mut self,
        config: Vec<(String, usize, String)>,
        line: usize,
        sheet: &mut Sheet<'_>,
    ) -> Option<Target> {
        let mut exec = ExecTarget::default();
        let (mut command, mut is_shell, mut timeout) = (String::new(), false, None);
        for (key, line, value) in config.into_iter().filter(|(_, _, value)| !value.is_empty()) {
            match key.as_str() {
                "command" => command = value,
                "shell" => is_shell = matches!(value.as_str(), "true" | "1" | "t" | "T" | "TRUE" | "True"),
                "cwd" => exec.cwd = value,
                "env" => {
                    let pairs = value.split(',').filter_map(|pair| pair.split_once('='));
                    exec.env.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
                }
                "timeout" => match span::parse(&value) {
                    Ok(span) => timeout = Some(span),
                    Err(error) => sheet.find(line, Loss::Unread, format!("executor_config.timeout: {error}")),
                },
                _ => sheet.find(
                    line,
                    Loss::Lost,
                    format!("executor_config.{key}: there is nothing like it here"),
                ),
            }
        }
        if is_shell {
            exec.shell = command;
        } else {
            let words = words::split(&command).unwrap_or_default();
            if words.is_empty() {
                sheet.find(
                    line,
                    Loss::Unread,
                    "executor_config.command: expected a command, with quotes that end",
                );
                return None;
            }
            exec.command = words;
        }
        self.timeout(timeout);
        Some(Target { exec: Some(exec), ..Target::default() })
    }

    fn http(&mut self, config: Vec<(String, usize, String)>, sheet: &mut Sheet<'_>) -> Target {
        let mut http = HttpTarget::default();
        let mut timeout = None;
        for (key, line, value) in config.into_iter().filter(|(_, _, value)| !value.is_empty()) {
            match key.as_str() {
                "method" => http.method = value,
                "url" => http.url = value,
                "body" => http.body = value,
                "expectCode" => http.success = value,
                "timeout" => match value.parse() {
                    Ok(seconds) => timeout = Some(Duration::from_secs(seconds)),
                    Err(_) => {
                        let what = format!("executor_config.timeout: expected seconds, found {value:?}");
                        sheet.find(line, Loss::Unread, what);
                    }
                },
                "headers" => match serde_json::from_str::<Vec<String>>(&value) {
                    Ok(headers) => {
                        let pairs = headers.iter().filter_map(|header| header.split_once(':'));
                        http.headers.extend(
                            pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())),
                        );
                    }
                    Err(_) => {
                        let what = "executor_config.headers: expected a list of texts, as JSON";
                        sheet.find(line, Loss::Unread, what);
                    }
                },
                "debug" => {}
                _ => sheet.find(
                    line,
                    Loss::Lost,
                    format!("executor_config.{key}: there is nothing like it here"),
                ),
            }
        }
        self.timeout(timeout);
        Target { http: Some(http), ..Target::default() }
    }
}
