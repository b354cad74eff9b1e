//! Lines of a crontab.

use std::fmt::Write as _;

use super::super::words::quoted;
use super::Page;
use super::cron::{Line, Reader, line};
use crate::state::spec::{JobSpec, Program, Target};

/// What cron sets by itself.
const PATH: (&str, &str) = ("PATH", "/usr/bin:/bin");

/// # Errors
/// Why cron has no words for it.
pub(super) fn write(spec: &JobSpec, zone: &mut String, page: &mut Page<'_>) -> Result<String, String> {
    let command = command(spec)?;
    if spec.schedules.is_empty() {
        return Err("schedule: it has none".to_owned());
    }
    let lines: Vec<Line> =
        spec.schedules.iter().map(|schedule| line(schedule, Reader::Debian)).collect::<Result<_, _>>()?;
    let mut text = String::new();
    let description = spec.description.replace(['\n', '\r'], " ");
    let about = if description.is_empty() { String::new() } else { format!(": {description}") };
    writeln!(text, "# {}{about}", page.job).map_err(|error| error.to_string())?;
    for (schedule, Line { text: rule, approximation }) in spec.schedules.iter().zip(lines) {
        let wanted = if schedule.timezone == "UTC" { String::new() } else { schedule.timezone.clone() };
        if wanted != utc_is_empty(zone) {
            // cronie takes it for all lines below.
            writeln!(text, "CRON_TZ={}", schedule.timezone).map_err(|error| error.to_string())?;
            zone.clone_from(&schedule.timezone);
            page.approximated(
                "schedule.timezone: CRON_TZ is cronie's; Debian's cron goes by the zone of its machine",
            );
        }
        if let Some(what) = approximation {
            page.approximated(what);
        }
        writeln!(text, "{rule} {command}").map_err(|error| error.to_string())?;
    }
    page.note_ours(spec);
    page.note_policies(spec);
    Ok(text)
}

fn utc_is_empty(zone: &str) -> String {
    if zone == "UTC" { String::new() } else { zone.to_owned() }
}

fn command(spec: &JobSpec) -> Result<String, String> {
    let Target::Exec { program, env, cwd, stdin } = &spec.target else {
        return Err(format!("target.{}: cron runs commands alone", spec.target.kind()));
    };
    if !spec.schedules.is_empty() && spec.after.is_some() {
        return Err("after: cron knows no order".to_owned());
    }
    let program = match program {
        Program::Shell(line) => line.clone(),
        Program::Command(words) => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
    };
    let mut before = String::new();
    let set: Vec<String> = env
        .iter()
        .filter(|(name, value)| (name.as_str(), value.as_str()) != PATH)
        .map(|(name, value)| format!("{name}={}", quoted(value)))
        .collect();
    if !set.is_empty() {
        before = format!("export {}; ", set.join(" "));
    }
    if let Some(cwd) = cwd {
        before = format!("{before}cd {} || exit; ", quoted(cwd));
    }
    let command = format!("{before}{program}");
    if command.contains(['\n', '\r']) {
        return Err("target.exec: a line of a crontab has no line ends in it; put the command into a script"
            .to_owned());
    }
    let escape = |text: &str| text.replace('%', r"\%");
    let stdin = stdin.as_deref().filter(|stdin| !stdin.is_empty()).map(|stdin| {
        let lines: Vec<String> = stdin.strip_suffix('\n').unwrap_or(stdin).split('\n').map(escape).collect();
        format!("%{}", lines.join("%"))
    });
    Ok(escape(&command) + &stdin.unwrap_or_default())
}
