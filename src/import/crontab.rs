//! crontab(5), as Debian's cron 3.0pl1 reads it, and what cronie 1.7 has besides (`CRON_TZ`, `RANDOM_DELAY`, `~`, `-`
//! before the minute, `-n` before the command).
//!
//! A line keeps its instants: our `unix` dialect with its defaults is Debian's cron, on odd days too. What cron has not
//! is switched off: runs that were missed are not made up for, and runs overlap.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::{BREAKER, Loss, Sheet, cron, names};
use crate::api::limits;
use crate::pb::span;
use crate::pb::v1::{CatchUp, CatchUpRuns, ExecTarget, JobSpec, Overlap, OverlapPolicy, Schedule, Target};

/// What cron sets for its jobs where the crontab does not.
const PATH: &str = "/usr/bin:/bin";
/// The fields before the command.
const FIELDS: usize = 5;
/// As good as none.
const TIMEOUT: Duration = limits::TIMEOUT;

/// What the lines so far have set; a line knows what stands above it.
#[derive(Clone, Default)]
struct Settings {
    /// Without those below.
    variables: BTreeMap<String, String>,
    shell: Option<String>,
    timezone: Option<String>,
    random_delay: Option<Duration>,
}

/// One job of the file.
struct Line<'a> {
    number: usize,
    rule: &'a str,
    rest: &'a str,
    comment: String,
}

pub(super) fn read(text: &str, sheet: &mut Sheet<'_>) {
    let with_user = sheet.options.names_users.unwrap_or_else(|| is_system_file(sheet.file));
    let mut settings = Settings::default();
    let mut comment = Vec::new();
    let before = sheet.imported.drafts.len();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start_matches([' ', '\t']);
        if let Some(said) = line.strip_prefix('#') {
            comment.extend(prose(said));
        } else if line.trim().is_empty() {
            comment.clear();
        } else if let Some((name, value)) = variable(line) {
            set(&mut settings, name, value, number, sheet);
            comment.clear();
        } else {
            let comment = std::mem::take(&mut comment).join(" ");
            match split(line) {
                Some((rule, rest)) => {
                    let line = Line { number, rule, rest, comment };
                    job(&line, &settings, with_user, sheet);
                }
                None => sheet.find(
                    number,
                    Loss::Unread,
                    "expected five fields, or a word such as @daily, and a command",
                ),
            }
        }
    }
    if sheet.imported.drafts.len() == before {
        return;
    }
    if sheet.options.timezone.is_none()
        && sheet.imported.drafts[before..].iter().any(|draft| is_utc(&draft.spec))
    {
        sheet.find(
            1,
            Loss::Approximated,
            "the wall times are taken as UTC; --timezone says in which zone that cron runs",
        );
    }
    if sheet.imported.drafts[before..].iter().any(|draft| cwd(&draft.spec).is_empty()) {
        let what = "cron starts a command in its user's home directory, a worker in its own; HOME above a line, or `cwd` \
                    in its job file, says where";
        sheet.find(1, Loss::Approximated, what);
    }
    if !text.ends_with('\n') {
        let what = "cron does not run a last line without a line end; here it runs";
        sheet.find(text.lines().count(), Loss::Approximated, what);
    }
}

/// `/etc/crontab` and the files of `cron.d` name a user before the command.
fn is_system_file(file: &str) -> bool {
    let path = Path::new(file);
    let parent = path.parent().and_then(Path::file_name);
    path.ends_with("etc/crontab") || parent.is_some_and(|name| name == "cron.d")
}

fn is_utc(spec: &JobSpec) -> bool {
    spec.schedule.iter().any(|schedule| schedule.timezone.is_empty())
}

fn cwd(spec: &JobSpec) -> &str {
    let exec = spec.target.as_ref().and_then(|target| target.exec.as_ref());
    exec.map_or("", |exec| exec.cwd.as_str())
}

/// What a comment says about the job below it; none for a heading, a drawing, and a line that is commented out.
fn prose(comment: &str) -> Option<String> {
    let text = comment.trim_matches(['#', ' ', '\t']);
    let is_heading =
        text.starts_with("m h") || text.starts_with('|') || text.starts_with('.') || text.contains("---");
    let is_line = split(text)
        .is_some_and(|(rule, _)| rule.starts_with(|c: char| c == '*' || c == '@' || c.is_ascii_digit()));
    (!text.is_empty() && !is_heading && !is_line && variable(text).is_none()).then(|| text.to_owned())
}

/// `NAME = value`, with or without quotes around either.
fn variable(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = match line.strip_prefix(['"', '\'']) {
        Some(quoted) => {
            let quote = line.chars().next()?;
            let (name, rest) = quoted.split_once(quote)?;
            (name, rest)
        }
        None => line.split_at(line.find([' ', '\t', '='])?),
    };
    let value = rest.trim_start_matches([' ', '\t']).strip_prefix('=')?.trim();
    if name.is_empty() {
        return None;
    }
    let unquoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    Some((name, unquoted.unwrap_or(value)))
}

fn set(settings: &mut Settings, name: &str, value: &str, number: usize, sheet: &mut Sheet<'_>) {
    match name {
        "CRON_TZ" => settings.timezone = Some(value.to_owned()).filter(|zone| !zone.is_empty()),
        "SHELL" => settings.shell = Some(value.to_owned()),
        "MAILTO" | "MAILFROM" => {
            if name == "MAILTO" && !value.is_empty() {
                let what = format!(
                    "MAILTO={value}: output is not mailed; it is kept with each run (`chronarch run logs`)"
                );
                sheet.find(number, Loss::Lost, what);
            }
        }
        "RANDOM_DELAY" => match value.parse::<u64>() {
            Ok(minutes) => {
                settings.random_delay = Some(Duration::from_secs(minutes.saturating_mul(60)));
                if minutes > 0 {
                    let what = format!(
                        "RANDOM_DELAY={value}: each run is late by up to {value} min, by its instant; cronie draws once \
                         when it starts"
                    );
                    sheet.find(number, Loss::Approximated, what);
                }
            }
            Err(_) => {
                sheet.find(number, Loss::Unread, format!("RANDOM_DELAY: expected minutes, found {value:?}"))
            }
        },
        _ => {
            let is_known = settings.variables.contains_key(name);
            if value.len() > limits::PAIR_BYTES || (!is_known && settings.variables.len() == limits::PAIRS) {
                let most = (limits::PAIRS, limits::PAIR_BYTES);
                let what = format!(
                    "{name}: a job has at most {} variables of {} bytes; it is not set",
                    most.0, most.1
                );
                return sheet.find(number, Loss::Unread, what);
            }
            settings.variables.insert(name.to_owned(), value.to_owned());
        }
    }
}

/// The rule of a line and what comes after it.
fn split(line: &str) -> Option<(&str, &str)> {
    let fields = if line.starts_with('@') { 1 } else { FIELDS };
    let mut end = 0;
    for field in 0..fields {
        let rest = &line[end..];
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let width = rest[blanks..].find([' ', '\t'])?;
        if field > 0 && blanks == 0 {
            return None;
        }
        end += blanks + width;
    }
    let rest = line[end..].trim_start_matches([' ', '\t']);
    (!rest.trim().is_empty()).then(|| (&line[..end], rest))
}

fn job(line: &Line<'_>, settings: &Settings, with_user: bool, sheet: &mut Sheet<'_>) {
    let mut choices = Vec::new();
    let Some(schedule) = schedule(line, settings, &mut choices, sheet) else { return };
    let (user, command) = if with_user {
        match line.rest.split_once([' ', '\t']) {
            Some((user, command)) if !command.trim().is_empty() => (Some(user), command.trim()),
            _ => {
                let what = format!("expected a user and a command, found {:?}", line.rest);
                return sheet.find(line.number, Loss::Unread, what);
            }
        }
    } else {
        (None, line.rest.trim_end())
    };
    let command = command.strip_prefix("-n ").map_or(command, |command| {
        choices.push("-n: nothing is mailed in any case".to_owned());
        command.trim_start()
    });
    let (command, stdin) = percents(command);
    let mut spec = JobSpec {
        name: names::of_command(&command),
        description: line.comment.clone(),
        schedule: vec![schedule],
        target: Some(Target {
            exec: Some(exec(command, stdin, settings, &mut choices)),
            ..Target::default()
        }),
        timeout: Some(span::write(TIMEOUT)),
        catch_up: Some(CatchUp { runs: CatchUpRuns::None.into(), ..CatchUp::default() }),
        overlap: Some(Overlap { policy: OverlapPolicy::Allow.into(), ..Overlap::default() }),
        ..JobSpec::default()
    };
    choices.push("timeout: the longest there is, for cron has none".to_owned());
    choices.push("catch_up: none, for cron does not make up for what it missed".to_owned());
    choices.push("overlap: allow, for cron starts a command whether or not it still runs".to_owned());
    choices.push(BREAKER.to_owned());
    if let Some(user) = user {
        spec.queue = names::of_text(&format!("user-{user}"));
        let what = format!(
            "user {user}: a command has the user of its worker; it waits for one that serves the queue {}, to be started \
             as {user}",
            spec.queue
        );
        sheet.find(line.number, Loss::Approximated, what);
    }
    sheet.draft(line.number, spec, choices);
}

fn schedule(
    line: &Line<'_>,
    settings: &Settings,
    choices: &mut Vec<String>,
    sheet: &mut Sheet<'_>,
) -> Option<Schedule> {
    let rule = line.rule.strip_prefix('-').map_or(line.rule, |rule| {
        choices.push("the `-` before the minute: nothing is written to syslog in any case".to_owned());
        rule
    });
    let rule = rule.split_whitespace().collect::<Vec<_>>().join(" ");
    if rule == "@reboot" {
        let what = "@reboot: a cluster has no boot; start it with the machine, by a unit of systemd";
        sheet.find(line.number, Loss::Lost, what);
        return None;
    }
    if let Some(range) = rule.split([' ', ',']).find(|item| wraps(item)) {
        let what =
            format!("{range} is a range that is empty to cron, which never ran this line; here it wraps");
        sheet.find(line.number, Loss::Approximated, what);
    }
    if rule.contains('~') {
        let what =
            "~: the value is drawn by the job's name and stays; cronie draws anew whenever it reads the file";
        choices.push(what.to_owned());
    }
    let timezone = settings.timezone.as_ref().or(sheet.options.timezone.as_ref());
    let mut schedule = cron(&rule, timezone.map_or("", String::as_str));
    schedule.jitter = settings.random_delay.filter(|delay| !delay.is_zero()).map(span::write);
    Some(schedule)
}

/// Whether a range of numbers or weekdays runs backwards: `22-2`, `fri-mon`.
fn wraps(item: &str) -> bool {
    let range = item.split('/').next().unwrap_or(item);
    let Some((first, last)) = range.split_once('-') else { return false };
    let value = |text: &str| {
        const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
        const MONTHS: [&str; 12] =
            ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
        let lower = text.to_ascii_lowercase();
        let name = |names: &[&str]| names.iter().position(|name| *name == lower);
        text.parse::<usize>().ok().or_else(|| name(&WEEKDAYS)).or_else(|| name(&MONTHS))
    };
    matches!((value(first), value(last)), (Some(first), Some(last)) if first > last)
}

/// The command, and what stands behind its first `%`: its standard input, with a line end for each further one. `\%`
/// is a percent sign.
fn percents(text: &str) -> (String, String) {
    let mut parts = [String::new(), String::new()];
    let mut part = 0;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if characters.peek() == Some(&'%') => parts[part].extend(characters.next()),
            '%' if part == 0 => part = 1,
            '%' => parts[part].push('\n'),
            c => parts[part].push(c),
        }
    }
    let [command, mut stdin] = parts;
    if !stdin.is_empty() && !stdin.ends_with('\n') {
        stdin.push('\n');
    }
    (command.trim_end().to_owned(), stdin)
}

fn exec(command: String, stdin: String, settings: &Settings, choices: &mut Vec<String>) -> ExecTarget {
    let mut env = settings.variables.clone();
    if !env.contains_key("PATH") && env.len() < limits::PAIRS {
        env.insert("PATH".to_owned(), PATH.to_owned());
        choices.push("env.PATH: as cron sets it".to_owned());
    }
    let cwd = env.get("HOME").cloned().unwrap_or_default();
    let mut exec = ExecTarget { env, cwd, stdin, ..ExecTarget::default() };
    match settings.shell.as_deref() {
        None | Some("" | "/bin/sh") => exec.shell = command,
        Some(shell) => exec.command = vec![shell.to_owned(), "-c".to_owned(), command],
    }
    exec
}
