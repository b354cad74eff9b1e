//! Schedules of a request: one rule each, compiled once so that a rule that never comes is refused.

use std::time::Duration;

use super::super::limits;
use super::super::problem::{Problem, Problems};
use super::value;
use crate::pb::v1 as pb;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::rule::{CompiledSchedule, EVERY_PERIOD_MAX, JITTER_MAX, ScheduleError};
use crate::scheduler::solar::place;
use crate::scheduler::spread::Spread;
use crate::state::schedule::{DayRule, Dialect, Fold, Gap, Rule, Schedule, SolarEvent};
use crate::state::time::Timestamp;

/// A rule that nothing is wrong with, in the place of one that is refused.
const ANY_RULE: Rule = Rule::Every { period: Duration::from_secs(60), offset: Duration::ZERO };

/// All schedules of a job.
///
/// `spread` is the job's.
pub(super) fn schedules(
    list: &[pb::Schedule],
    with: (Spread, &Almanac),
    problems: &mut Problems,
) -> Vec<Schedule> {
    value::most("schedule", "schedules", list.len(), limits::SCHEDULES, problems);
    let mut read = Vec::new();
    for (place, schedule) in list.iter().take(limits::SCHEDULES).enumerate() {
        // a job file with one schedule does not write it as a list
        let path = if list.len() == 1 { "schedule".to_owned() } else { format!("schedule[{place}]") };
        let mut own = Problems::new();
        read.extend(one(schedule, with, &mut own));
        problems.absorb(&path, own);
    }
    if list.len() > 1 && read.iter().any(|schedule: &Schedule| schedule.after_completion().is_some()) {
        problems.add("schedule", "`from: completion` must be the only schedule of its job");
    }
    read
}

fn one(schedule: &pb::Schedule, with: (Spread, &Almanac), problems: &mut Problems) -> Option<Schedule> {
    let rule = rule(schedule, problems);
    let dst = schedule.dst.unwrap_or_default();
    let usual_gap = rule.as_ref().map_or(Gap::default(), Rule::usual_gap);
    let gap = value::word("dst.gap", dst.gap, problems).map_or(usual_gap, |gap| match gap {
        pb::Gap::Unspecified => usual_gap,
        pb::Gap::RunAtEnd => Gap::RunAtEnd,
        pb::Gap::Shift => Gap::Shift,
        pb::Gap::Skip => Gap::Skip,
    });
    let fold = value::word("dst.fold", dst.fold, problems).map_or(Fold::default(), |fold| match fold {
        pb::Fold::Unspecified | pb::Fold::First => Fold::First,
        pb::Fold::Second => Fold::Second,
        pb::Fold::Both => Fold::Both,
    });
    value::length("timezone", &schedule.timezone, limits::NAME_CHARS, problems);
    let timezone = if schedule.timezone.is_empty() { "UTC" } else { schedule.timezone.as_str() };
    let jitter = value::span("jitter", schedule.jitter.as_ref(), Duration::ZERO..=JITTER_MAX, problems);
    let is_known = rule.is_some();
    let read = Schedule {
        start_at: value::instant("start_at", schedule.start_at.as_ref(), problems),
        end_at: value::instant("end_at", schedule.end_at.as_ref(), problems),
        rule: rule.unwrap_or(ANY_RULE),
        timezone: timezone.to_owned(),
        gap,
        fold,
        jitter: jitter.unwrap_or_default(),
        count: schedule.count,
    };
    compile(&read, with, problems);
    is_known.then_some(read)
}

fn rule(schedule: &pb::Schedule, problems: &mut Problems) -> Option<Rule> {
    let (cron, every) = (!schedule.cron.is_empty(), schedule.every.is_some());
    let kinds = [
        (cron, "cron"),
        (every, "every"),
        (!schedule.at.is_empty(), "at"),
        (!schedule.rrule.is_empty(), "rrule"),
        (!schedule.calendar.is_empty(), "calendar"),
        (schedule.solar.is_some(), "solar"),
    ];
    let named: Vec<&str> = kinds.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    let [kind] = named[..] else {
        let found = if named.is_empty() { "none".to_owned() } else { named.join(" and ") };
        let expected = "exactly one of cron, every, at, rrule, calendar and solar is needed";
        problems.add("", format!("{expected}, found {found}"));
        return None;
    };
    let strange = [
        (schedule.dialect != 0 && !cron, "dialect", "cron"),
        (schedule.day_rule != 0 && !cron, "day_rule", "cron"),
        (schedule.offset.is_some() && !every, "offset", "every"),
        (schedule.from != 0 && !every, "from", "every"),
    ];
    for (_, field, of) in strange.into_iter().filter(|(is, _, _)| *is) {
        problems.add(field, format!("belongs to `{of}` alone"));
    }
    match kind {
        "cron" => Some(cron_line(schedule, problems)),
        "every" => every_so_often(schedule, problems),
        "at" => instants(&schedule.at, problems).map(Rule::At),
        "rrule" => Some(Rule::Recurrence(schedule.rrule.clone())),
        "calendar" => Some(Rule::Calendar(schedule.calendar.clone())),
        _ => sun(schedule.solar?, problems),
    }
}

fn cron_line(schedule: &pb::Schedule, problems: &mut Problems) -> Rule {
    let dialect: Option<pb::Dialect> = value::word("dialect", schedule.dialect, problems);
    let day_rule: Option<pb::DayRule> = value::word("day_rule", schedule.day_rule, problems);
    if day_rule.is_some() && matches!(dialect, Some(pb::Dialect::Quartz | pb::Dialect::Aws)) {
        problems.add("day_rule", "belongs to `dialect: unix` alone");
    }
    Rule::Cron {
        line: schedule.cron.clone(),
        dialect: match dialect {
            None | Some(pb::Dialect::Unspecified | pb::Dialect::Unix) => Dialect::Unix,
            Some(pb::Dialect::Quartz) => Dialect::Quartz,
            Some(pb::Dialect::Aws) => Dialect::Aws,
        },
        day_rule: match day_rule {
            None | Some(pb::DayRule::Unspecified | pb::DayRule::OrVixie) => DayRule::OrVixie,
            Some(pb::DayRule::OrBare) => DayRule::OrBare,
            Some(pb::DayRule::And) => DayRule::And,
        },
    }
}

fn every_so_often(schedule: &pb::Schedule, problems: &mut Problems) -> Option<Rule> {
    let range = Duration::ZERO..=EVERY_PERIOD_MAX;
    let offset = value::span("offset", schedule.offset.as_ref(), range.clone(), problems);
    let from: Option<pb::EveryFrom> = value::word("from", schedule.from, problems);
    let period = value::span("every", schedule.every.as_ref(), range, problems)?;
    match from {
        None | Some(pb::EveryFrom::Unspecified | pb::EveryFrom::Epoch) => {
            Some(Rule::Every { period, offset: offset.unwrap_or_default() })
        }
        Some(pb::EveryFrom::Completion) => {
            if schedule.offset.is_some() {
                problems.add("offset", "belongs to `from: epoch` alone");
            }
            Some(Rule::AfterCompletion { period })
        }
    }
}

fn sun(solar: pb::Solar, problems: &mut Problems) -> Option<Rule> {
    let event: Option<pb::SolarEvent> = value::word("solar.event", solar.event, problems);
    let missing = [
        (solar.event == 0, "solar.event"),
        (solar.latitude.is_none(), "solar.latitude"),
        (solar.longitude.is_none(), "solar.longitude"),
    ];
    for (_, field) in missing.into_iter().filter(|(is, _)| *is) {
        problems.add(field, "is missing");
    }
    for (degrees, field) in [(solar.latitude, "solar.latitude"), (solar.longitude, "solar.longitude")] {
        if degrees.is_some_and(|degrees| !degrees.is_finite()) {
            problems.add(field, "is no number");
            return None;
        }
    }
    let event = match event? {
        pb::SolarEvent::Unspecified => return None,
        pb::SolarEvent::DawnAstronomical => SolarEvent::DawnAstronomical,
        pb::SolarEvent::DawnNautical => SolarEvent::DawnNautical,
        pb::SolarEvent::DawnCivil => SolarEvent::DawnCivil,
        pb::SolarEvent::Sunrise => SolarEvent::Sunrise,
        pb::SolarEvent::SolarNoon => SolarEvent::SolarNoon,
        pb::SolarEvent::Sunset => SolarEvent::Sunset,
        pb::SolarEvent::DuskCivil => SolarEvent::DuskCivil,
        pb::SolarEvent::DuskNautical => SolarEvent::DuskNautical,
        pb::SolarEvent::DuskAstronomical => SolarEvent::DuskAstronomical,
    };
    Some(Rule::Solar { event, place: place(solar.latitude?, solar.longitude?) })
}

/// In ascending order, each once, whatever order the client wrote them in.
fn instants(list: &[prost_types::Timestamp], problems: &mut Problems) -> Option<Vec<Timestamp>> {
    value::most("at", "instants", list.len(), limits::INSTANTS, problems);
    let mut read = Vec::with_capacity(list.len().min(limits::INSTANTS));
    for (place, at) in list.iter().take(limits::INSTANTS).enumerate() {
        read.push(value::instant(&format!("at[{place}]"), Some(at), problems)?);
    }
    read.sort_unstable();
    read.dedup();
    Some(read)
}

/// Notes all that is wrong with a schedule: a field that is refused is set to one that is right, and the
/// rest compiled again.
fn compile(schedule: &Schedule, (spread, almanac): (Spread, &Almanac), problems: &mut Problems) {
    let mut rest = schedule.clone();
    loop {
        match CompiledSchedule::compile(&rest, spread, almanac) {
            Ok(compiled) => {
                if problems.is_empty() && compiled.next_after(Timestamp::MIN).is_none() {
                    problems.add("", "no occurrence lies between start_at and end_at");
                }
                return;
            }
            Err(error) => {
                let hint = error.hint();
                let (path, reason) = field(&error);
                problems.push(Problem { path: path.to_owned(), reason, hint });
                set_right(&error, &mut rest);
            }
        }
    }
}

/// Sets the field that an error is about to a value that is refused under no circumstances.
fn set_right(error: &ScheduleError, schedule: &mut Schedule) {
    match error {
        ScheduleError::Cron(_)
        | ScheduleError::Recurrence(_)
        | ScheduleError::Calendar(_)
        | ScheduleError::Solar(_)
        | ScheduleError::Period { .. }
        | ScheduleError::Fraction { .. }
        | ScheduleError::Offset { .. }
        | ScheduleError::InstantCount { .. }
        | ScheduleError::InstantOrder { .. } => schedule.rule = ANY_RULE,
        ScheduleError::Zone(_) => "UTC".clone_into(&mut schedule.timezone),
        ScheduleError::Bounds { .. } => schedule.end_at = None,
        ScheduleError::Count { .. } | ScheduleError::CountFrom | ScheduleError::CountCompletions => {
            schedule.count = None;
        }
        ScheduleError::Jitter { .. } => schedule.jitter = Duration::ZERO,
    }
}

/// The field that a schedule error is about, and the error without that field's name.
fn field(error: &ScheduleError) -> (&'static str, String) {
    let text = error.to_string();
    let (path, reason) = match error {
        ScheduleError::Cron(cron) => ("cron", cron.to_string()),
        ScheduleError::Recurrence(error) => ("rrule", error.to_string()),
        ScheduleError::Calendar(error) => ("calendar", error.to_string()),
        ScheduleError::Solar(error) => ("solar", error.to_string()),
        ScheduleError::Zone(zone) => ("timezone", zone.to_string()),
        ScheduleError::Period { .. } | ScheduleError::Fraction { .. } => ("every", text),
        ScheduleError::Offset { .. } => ("offset", text),
        ScheduleError::InstantCount { .. } | ScheduleError::InstantOrder { .. } => ("at", text),
        ScheduleError::Bounds { start_at, end_at } => {
            ("end_at", format!("{end_at} is not later than start_at, {start_at}"))
        }
        ScheduleError::Count { .. } | ScheduleError::CountFrom | ScheduleError::CountCompletions => {
            ("count", text)
        }
        ScheduleError::Jitter { .. } => ("jitter", text),
    };
    let bare = reason.strip_prefix(path).and_then(|rest| rest.strip_prefix(": "));
    (path, bare.map_or(reason.clone(), str::to_owned))
}

#[cfg(test)]
mod tests;
