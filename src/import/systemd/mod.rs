//! Timers of systemd with the services that they start.
//!
//! A timer becomes a job, by the name of the timer; the service that it starts must be among the files. `OnCalendar=`
//! stays as it is, for our `calendar` rules are systemd's. On odd days systemd passes over what a gap skips, and so
//! does the job; what systemd leaves out after a fold (the second pass of an hour) runs for rules that begin with `*`.
//!
//! # Sources
//! systemd.timer(5), systemd.service(5), systemd.exec(5) and systemd.unit(5) of systemd 252.

mod service;
#[cfg(test)]
mod tests;
mod unit;

use std::path::Path;
use std::time::Duration;

use self::unit::{Assignment, Span};
use super::{BREAKER, Imported, Loss, Options, Sheet, names};
use crate::api::limits;
use crate::pb::span;
use crate::pb::v1::{CatchUp, CatchUpRuns, Dst, EveryFrom, Fold, Gap, JobSpec, Schedule};

/// A unit file.
struct Unit<'a> {
    /// As it was given.
    file: &'a str,
    /// Without its folder.
    name: &'a str,
    assignments: Vec<Assignment>,
}

/// Reads all files together, for a timer and its service are two.
pub(super) fn read(files: &[(String, String)], options: &Options) -> Imported {
    let mut all = Imported::default();
    let mut units = Vec::new();
    for (file, text) in files {
        let mut sheet = Sheet { file, options, imported: Imported::default() };
        if sheet.is_readable(text) {
            let (assignments, strange) = unit::read(text);
            for line in strange {
                sheet.find(line, Loss::Unread, "expected `Key=value` below a `[Section]`");
            }
            let name = Path::new(file).file_name().and_then(|name| name.to_str()).unwrap_or(file);
            units.push(Unit { file, name, assignments });
        }
        all.findings.extend(sheet.imported.findings);
    }
    let mut started = Vec::new();
    for timer in units.iter().filter(|unit| unit.name.ends_with(".timer")) {
        let mut sheet = Sheet { file: timer.file, options, imported: Imported::default() };
        started.extend(job(timer, &units, &mut sheet));
        let Imported { drafts, findings } = sheet.imported;
        all.drafts.extend(drafts);
        all.findings.extend(findings);
    }
    for unit in units.iter().filter(|unit| !unit.name.ends_with(".timer") && !started.contains(&unit.name)) {
        let mut sheet = Sheet { file: unit.file, options, imported: Imported::default() };
        sheet.find(1, Loss::Noted, "no timer among the files starts it, and it is left out");
        all.findings.extend(sheet.imported.findings);
    }
    all
}

/// What a timer has said so far.
#[derive(Default)]
struct Timer {
    description: String,
    starts: Option<String>,
    schedules: Vec<Schedule>,
    is_persistent: bool,
    jitter: Option<Duration>,
    choices: Vec<String>,
}

/// Makes a job of a timer. Returns the name of the unit that it starts, if that is there.
fn job<'a>(timer: &Unit<'_>, units: &[Unit<'a>], sheet: &mut Sheet<'_>) -> Option<&'a str> {
    let mut said = Timer::default();
    for assignment in &timer.assignments {
        said.take(assignment, sheet);
    }
    let stem = timer.name.trim_end_matches(".timer");
    let starts = said.starts.clone().unwrap_or_else(|| format!("{stem}.service"));
    let Some(service) = units.iter().find(|unit| unit.name == starts) else {
        sheet.find(1, Loss::Lost, format!("it starts {starts}, which is not among the files"));
        return None;
    };
    if said.schedules.is_empty() {
        sheet.find(1, Loss::Lost, "nothing in it is a schedule of its own");
        return Some(service.name);
    }
    let mut spec =
        JobSpec { name: names::of_text(stem), description: said.description, ..JobSpec::default() };
    let choices = &mut said.choices;
    spec.schedule = said.schedules;
    for schedule in &mut spec.schedule {
        schedule.jitter = said.jitter.map(span::write);
    }
    let runs = if said.is_persistent { CatchUpRuns::Latest } else { CatchUpRuns::None };
    let window = said.is_persistent.then(|| span::write(limits::LATENESS));
    spec.catch_up = Some(CatchUp { runs: runs.into(), window, ..CatchUp::default() });
    choices.push(match said.is_persistent {
        true => "catch_up: the latest that was missed, as with Persistent".to_owned(),
        false => "catch_up: none, for there is no Persistent".to_owned(),
    });
    choices.push("overlap: skip, for a unit that is active is not started again".to_owned());
    let is_whole = {
        let mut of_service =
            Sheet { file: service.file, options: sheet.options, imported: Imported::default() };
        let is_whole = service::add(&service.assignments, &mut spec, choices, &mut of_service);
        sheet.imported.findings.extend(of_service.imported.findings);
        is_whole
    };
    choices.push(BREAKER.to_owned());
    if is_whole {
        let choices = std::mem::take(choices);
        sheet.draft(1, spec, choices);
    }
    Some(service.name)
}

impl Timer {
    fn take(&mut self, assignment: &Assignment, sheet: &mut Sheet<'_>) {
        let Assignment { line, section, key, value } = assignment;
        let line = *line;
        match (section.as_str(), key.as_str()) {
            ("Unit", "Description") => self.description.clone_from(value),
            ("Unit", "Documentation") | ("Install", _) => {}
            ("Timer", "OnCalendar") => self.schedules.push(calendar(value, line, sheet)),
            ("Timer", "OnUnitActiveSec" | "OnUnitInactiveSec") => self.every(assignment, sheet),
            ("Timer", "OnBootSec" | "OnStartupSec" | "OnActiveSec") => {
                sheet.find(line, Loss::Lost, format!("{key}: a cluster has no boot and no start"));
            }
            ("Timer", "Unit") => self.starts = Some(value.clone()),
            ("Timer", "Persistent") => self.is_persistent = unit::flag(value) == Some(true),
            ("Timer", "RandomizedDelaySec") => match unit::span(value) {
                Some(Span::For(delay)) => {
                    self.jitter = Some(delay);
                    self.choices.push("jitter: by the instant, so that it is known beforehand".to_owned());
                }
                Some(Span::Endless) | None => unreadable(assignment, "a span such as 5min", sheet),
            },
            ("Timer", "FixedRandomDelay") => {
                if unit::flag(value) == Some(true) {
                    let what = "FixedRandomDelay: the delay is another for each instant";
                    sheet.find(line, Loss::Approximated, what);
                }
            }
            // It runs on time, which no accuracy forbids.
            ("Timer", "AccuracySec" | "RemainAfterElapse") => {}
            (section, key) => {
                sheet.find(line, Loss::Lost, format!("[{section}] {key}: there is nothing like it here"));
            }
        }
    }

    fn every(&mut self, assignment: &Assignment, sheet: &mut Sheet<'_>) {
        let Some(Span::For(period)) = unit::span(&assignment.value) else {
            return unreadable(assignment, "a span such as 5min", sheet);
        };
        let from = match assignment.key.as_str() {
            "OnUnitInactiveSec" => EveryFrom::Completion,
            _ => {
                let what = "OnUnitActiveSec: counts from the last start there, from the epoch here";
                sheet.find(assignment.line, Loss::Approximated, what);
                EveryFrom::Unspecified
            }
        };
        self.schedules.push(Schedule {
            every: Some(span::write(period)),
            from: from.into(),
            ..Schedule::default()
        });
    }
}

fn unreadable(Assignment { line, key, value, .. }: &Assignment, expected: &str, sheet: &mut Sheet<'_>) {
    sheet.find(*line, Loss::Unread, format!("{key}: expected {expected}, found {value:?}"));
}

/// `OnCalendar=`; where it names no zone it has that of the machine.
fn calendar(value: &str, line: usize, sheet: &mut Sheet<'_>) -> Schedule {
    let last = value.split_whitespace().next_back().unwrap_or_default();
    let names_zone =
        last == "UTC" || last.contains('/') && last.starts_with(|c: char| c.is_ascii_uppercase());
    let mut schedule = Schedule { calendar: value.to_owned(), ..Schedule::default() };
    schedule.dst = Some(Dst { gap: Gap::Skip.into(), fold: Fold::First.into() });
    match &sheet.options.timezone {
        Some(zone) if !names_zone => schedule.timezone.clone_from(zone),
        None if !names_zone => {
            let what = "OnCalendar: is in the zone of its machine; taken as UTC, --timezone says another";
            sheet.find(line, Loss::Approximated, what);
        }
        Some(_) | None => {}
    }
    schedule
}
