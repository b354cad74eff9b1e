//! What a service runs, and how.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Loss, Sheet, names, words};
use super::unit::{Assignment, Span, flag, span as read_span};
use super::unreadable;
use crate::api::limits;
use crate::pb::span;
use crate::pb::v1::{ExecTarget, JobSpec, Retry, Target};

/// The pause before a restart unless the unit says otherwise.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// Restarts in ten seconds after which systemd gives up, unless the unit says otherwise.
const BURST: u32 = 5;

/// What a service has said so far.
#[derive(Default)]
struct Service {
    exec: ExecTarget,
    /// Those of `ExecStart=`, with their lines.
    commands: Vec<(usize, String)>,
    is_oneshot: bool,
    start_timeout: Option<Span>,
    run_timeout: Option<Span>,
    restarts: bool,
    pause: Option<Duration>,
    burst: Option<u32>,
    user: Option<(usize, String)>,
}

/// Adds a service to a job. Returns whether it is whole; if not, a finding says why.
pub(super) fn add(
    assignments: &[Assignment],
    spec: &mut JobSpec,
    choices: &mut Vec<String>,
    sheet: &mut Sheet<'_>,
) -> bool {
    let mut service = Service::default();
    for assignment in assignments {
        service.take(assignment, spec, sheet);
    }
    let commands: Vec<Option<Vec<String>>> =
        service.commands.iter().map(|command| read_command(command, &service.exec.env, sheet)).collect();
    let Some(mut commands) = commands.into_iter().collect::<Option<Vec<_>>>() else { return false };
    let mut exec = service.exec;
    match commands.len() {
        0 => {
            sheet.find(1, Loss::Lost, "it has no ExecStart");
            return false;
        }
        1 => exec.command = commands.remove(0),
        _ => {
            let lines: Vec<String> = commands
                .iter()
                .map(|words| words.iter().map(|word| words::quoted(word)).collect::<Vec<_>>().join(" "))
                .collect();
            exec.shell = lines.join(" &&\n");
            choices.push("shell: one ExecStart after the other, for as long as they end well".to_owned());
        }
    }
    if exec.cwd.is_empty() {
        let what = "a service starts in /, a worker's command in the worker's folder; WorkingDirectory or `cwd` says where";
        sheet.find(1, Loss::Approximated, what);
    }
    spec.target = Some(Target { exec: Some(exec), ..Target::default() });
    // A oneshot service is starting for as long as it runs, with no bound unless it sets one.
    let bound =
        if service.is_oneshot { service.start_timeout.or(service.run_timeout) } else { service.run_timeout };
    let timeout = match bound {
        Some(Span::For(timeout)) => timeout,
        Some(Span::Endless) | None => {
            choices.push("timeout: the longest there is, for the service has none".to_owned());
            limits::TIMEOUT
        }
    };
    spec.timeout = Some(span::write(timeout.min(limits::TIMEOUT)));
    if service.restarts {
        let pause = span::write(service.pause.unwrap_or(RESTART_PAUSE));
        spec.retry = Some(Retry {
            max_attempts: Some(service.burst.unwrap_or(BURST).clamp(1, crate::state::limits::ATTEMPTS)),
            initial: Some(pause),
            multiplier: Some(1.0),
            max: Some(pause),
            jitter: Some(0.0),
            on: Vec::new(),
        });
        choices.push("retry: as often as StartLimitBurst says".to_owned());
    }
    if let Some((line, user)) = service.user {
        spec.queue = names::of_text(&format!("user-{user}"));
        let what = format!(
            "User={user}: a command has the user of its worker; it waits for one that serves the queue {}, to be started \
             as {user}",
            spec.queue
        );
        sheet.find(line, Loss::Approximated, what);
    }
    true
}

impl Service {
    fn take(&mut self, assignment: &Assignment, spec: &mut JobSpec, sheet: &mut Sheet<'_>) {
        let Assignment { line, section, key, value } = assignment;
        let line = *line;
        match (section.as_str(), key.as_str()) {
            ("Unit", "Description") => {
                if spec.description.is_empty() {
                    spec.description.clone_from(value);
                }
            }
            ("Unit", "Documentation") | ("Install", _) => {}
            ("Unit" | "Service", "StartLimitBurst") => self.burst = value.parse().ok(),
            ("Unit" | "Service", "StartLimitIntervalSec") => {}
            ("Service", "Type") => match value.as_str() {
                "oneshot" => self.is_oneshot = true,
                "simple" | "exec" => {}
                other => {
                    let what = format!("Type={other}: a run ends when its command does");
                    sheet.find(line, Loss::Approximated, what);
                }
            },
            ("Service", "ExecStart") => self.commands.push((line, value.clone())),
            ("Service", "Environment") => match words::split(value) {
                Some(words) => {
                    let pairs = words.iter().filter_map(|word| word.split_once('='));
                    self.exec.env.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
                }
                None => unreadable(assignment, "words with quotes that end", sheet),
            },
            ("Service", "WorkingDirectory") => self.exec.cwd = value.trim_start_matches('-').to_owned(),
            ("Service", "User") => self.user = Some((line, value.clone())),
            ("Service", "TimeoutStartSec" | "TimeoutSec") => {
                self.start_timeout = self.bound(assignment, sheet)
            }
            ("Service", "RuntimeMaxSec") => self.run_timeout = self.bound(assignment, sheet),
            ("Service", "Restart") => {
                self.restarts = value != "no";
                if !matches!(value.as_str(), "no" | "on-failure" | "on-abnormal" | "on-abort" | "on-watchdog")
                {
                    let what = format!(
                        "Restart={value}: it is tried again when it fails, and not when it ends well"
                    );
                    sheet.find(line, Loss::Approximated, what);
                }
            }
            ("Service", "RestartSec") => match read_span(value) {
                Some(Span::For(pause)) => self.pause = Some(pause),
                Some(Span::Endless) | None => unreadable(assignment, "a span such as 5min", sheet),
            },
            ("Service", "StandardOutput" | "StandardError" | "SyslogIdentifier") => {}
            ("Service", "RemainAfterExit") if flag(value) == Some(false) => {}
            (section, key) => {
                sheet.find(line, Loss::Lost, format!("[{section}] {key}: there is nothing like it here"));
            }
        }
    }

    fn bound(&self, assignment: &Assignment, sheet: &mut Sheet<'_>) -> Option<Span> {
        let bound = read_span(&assignment.value);
        if bound.is_none() {
            unreadable(assignment, "a span such as 5min, or infinity", sheet);
        }
        bound
    }
}

/// The words of a command, with what stands for something else put in.
fn read_command(
    (line, command): &(usize, String),
    env: &BTreeMap<String, String>,
    sheet: &mut Sheet<'_>,
) -> Option<Vec<String>> {
    let plain = command.trim_start_matches(['-', '@', '+', '!', ':', '|']);
    let prefix = &command[..command.len() - plain.len()];
    if prefix.contains('-') {
        sheet.find(
            *line,
            Loss::Lost,
            "ExecStart=-: what fails is a failure here; end the command with `|| true`",
        );
    }
    if prefix.contains(['+', '!']) {
        sheet.find(*line, Loss::Lost, format!("ExecStart={prefix}: a command has the rights of its worker"));
    }
    let Some(mut read) = words::split(plain).filter(|words| !words.is_empty()) else {
        sheet.find(*line, Loss::Unread, "ExecStart: expected a command, with quotes that end");
        return None;
    };
    if prefix.contains('@') && read.len() > 1 {
        // The second word is what the process calls itself.
        read.remove(1);
    }
    let expands = !prefix.contains(':');
    let read: Vec<Result<String, String>> = read.iter().map(|word| expand(word, expands, env)).collect();
    match read.into_iter().collect() {
        Ok(words) => Some(words),
        Err(what) => {
            sheet.find(*line, Loss::Lost, format!("ExecStart: {what}, so there is no job of it"));
            None
        }
    }
}

/// `$$` and `%%` are the signs; `${NAME}` and `$NAME` the variables that the unit sets. Others, and what `%` stands for
/// else, are known to the machine alone.
fn expand(word: &str, expands: bool, env: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['$', '%']) {
        out.push_str(&rest[..at]);
        let sign = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix(sign) {
            out.push_str(sign);
            rest = behind;
        } else if sign == "%" {
            let named: String = rest.chars().take(1).collect();
            return Err(format!("`%{named}` stands for something that only the machine knows"));
        } else if !expands {
            out.push('$');
        } else {
            let (name, behind) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some((name, behind)) => (name, behind),
                None => {
                    let end =
                        rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                    rest.split_at(end)
                }
            };
            if name.is_empty() {
                out.push('$');
                continue;
            }
            let value = env.get(name).ok_or_else(|| format!("the unit does not set the variable {name}"))?;
            out.push_str(value);
            rest = behind;
        }
    }
    Ok(out + rest)
}
