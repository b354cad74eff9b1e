//! From what a client sent to a calendar of the state: complete, within its limits, or refused with every problem and
//! the path that the field has in a calendar file.

use std::time::Duration;

use prost::Message as _;
use tonic::Status;

use super::super::problem::{Problem, Problems};
use super::super::spec::value;
use super::super::{limits, status};
use crate::pb::v1 as pb;
use crate::scheduler::gate::CompiledCalendar;
use crate::scheduler::zone::Zones;
use crate::state::calendar::{
    AppliesTo, CalendarRule, CalendarSpec, DAY_MINUTES, Dates, Lasts, Weekly, Window, clock_minutes, weekdays,
};
use crate::state::limits::{CALENDAR_DAYS, CALENDAR_ENTRIES, CALENDAR_RULES, CALENDAR_SPAN};

/// The definition, or all that is wrong with it.
pub(super) fn spec(message: &pb::CalendarSpec, zones: &Zones) -> Result<CalendarSpec, Status> {
    let mut problems = Problems::new();
    let read = read(message, zones, &mut problems);
    if problems.is_empty() { Ok(read) } else { Err(status::invalid(&problems)) }
}

fn read(message: &pb::CalendarSpec, zones: &Zones, problems: &mut Problems) -> CalendarSpec {
    let bytes = message.encoded_len();
    if bytes > limits::CALENDAR_BYTES {
        let most = limits::CALENDAR_BYTES;
        problems.add("", format!("the calendar has {bytes} bytes, at most {most} are allowed"));
    }
    value::name("name", &message.name, problems);
    value::length("description", &message.description, limits::DESCRIPTION_BYTES, problems);
    value::length("timezone", &message.timezone, limits::NAME_CHARS, problems);
    let entries = message.dates.len() + message.weekly.len() + message.windows.len() + message.rules.len();
    value::most("", "entries", entries, CALENDAR_ENTRIES, problems);
    value::most("rules", "rules", message.rules.len(), CALENDAR_RULES, problems);
    if entries == 0 && problems.is_empty() {
        problems.add("", "it has no entry: one of dates, weekly, windows and rules is needed");
    }
    if entries > CALENDAR_ENTRIES || message.rules.len() > CALENDAR_RULES {
        return CalendarSpec::default();
    }
    let read = CalendarSpec {
        name: message.name.clone(),
        description: message.description.clone(),
        timezone: Some(message.timezone.clone()).filter(|zone| !zone.is_empty()),
        dates: each("dates", &message.dates, |text, problems| dates(text, problems), problems),
        weekly: each("weekly", &message.weekly, weekly, problems),
        windows: each("windows", &message.windows, window, problems),
        rules: each("rules", &message.rules, rule, problems),
        applies_to: message.applies_to.as_ref().map(|asked| applies_to(asked, problems)),
    };
    compile(read.clone(), zones, problems);
    read
}

/// Reads each element of a list, with problems under its path.
fn each<T, R>(
    field: &str,
    list: &[T],
    read: impl Fn(&T, &mut Problems) -> Option<R>,
    problems: &mut Problems,
) -> Vec<R> {
    let mut found = Vec::with_capacity(list.len());
    for (place, element) in list.iter().enumerate() {
        let mut own = Problems::new();
        found.extend(read(element, &mut own));
        problems.absorb(&format!("{field}[{place}]"), own);
    }
    found
}

fn note(text: &str, problems: &mut Problems) -> String {
    value::length("note", text, limits::NOTE_BYTES, problems);
    if text.chars().any(char::is_control) {
        problems.add("note", "has control characters");
    }
    text.to_owned()
}

fn dates(text: &str, problems: &mut Problems) -> Option<Dates> {
    match text.parse::<Dates>() {
        Ok(dates) => Some(Dates { note: note(&dates.note, problems), ..dates }),
        Err(error) => {
            problems.add("", error.to_string());
            None
        }
    }
}

fn clock(field: &str, text: &str, default: u16, problems: &mut Problems) -> u16 {
    if text.is_empty() {
        return default;
    }
    clock_minutes(text).unwrap_or_else(|| {
        problems.add(field, format!("{text:?} is no time of day, expected HH:MM, 00:00 to 24:00"));
        default
    })
}

fn weekly(hours: &pb::WeeklyHours, problems: &mut Problems) -> Option<Weekly> {
    let days = weekdays(&hours.days);
    if days.is_none() {
        problems
            .add("days", format!("{:?} is no list of weekdays such as `mon..fri` or `sat,sun`", hours.days));
    }
    let from = clock("from", &hours.from, 0, problems);
    let to = clock("to", &hours.to, DAY_MINUTES, problems);
    if from == DAY_MINUTES || to == 0 || from == to {
        let reason = "from 00:00 to 23:59 and to 00:01 to 24:00, different from each other, are allowed";
        problems.add("", reason);
    }
    Some(Weekly { days: days?, from, to, note: note(&hours.note, problems) })
}

fn window(window: &pb::CalendarWindow, problems: &mut Problems) -> Option<Window> {
    let mut end = |field: &str, at: Option<&prost_types::Timestamp>| {
        if at.is_none() {
            problems.add(field, "is missing");
        }
        value::instant(field, at, problems)
    };
    let (from, to) = (end("from", window.from.as_ref()), end("to", window.to.as_ref()));
    let (from, to) = (from?, to?);
    if to <= from {
        problems.add("to", format!("{to} is not later than from, {from}"));
    }
    Some(Window { from, to, note: note(&window.note, problems) })
}

fn rule(rule: &pb::CalendarRule, problems: &mut Problems) -> Option<CalendarRule> {
    let spans = Duration::from_secs(1)..=CALENDAR_SPAN;
    let span = value::span("duration", rule.duration.as_ref(), spans, problems);
    let lasts = match (rule.duration.is_some(), rule.days) {
        (true, 0) => span.map(Lasts::Span),
        (false, 0) | (true, _) => {
            problems.add("", "exactly one of duration and days is needed");
            None
        }
        (false, days) => {
            value::within("days", days, &(1..=CALENDAR_DAYS.into()), problems);
            u16::try_from(days).ok().map(Lasts::Days)
        }
    };
    Some(CalendarRule { rrule: rule.rrule.clone(), lasts: lasts?, note: note(&rule.note, problems) })
}

fn applies_to(asked: &pb::AppliesTo, problems: &mut Problems) -> AppliesTo {
    if asked.namespaces.is_empty() && asked.labels.is_empty() {
        problems.add("applies_to", "one of namespaces and labels is needed");
    }
    value::most("applies_to.namespaces", "namespaces", asked.namespaces.len(), limits::LABELS, problems);
    for (place, name) in asked.namespaces.iter().take(limits::LABELS).enumerate() {
        value::name(&format!("applies_to.namespaces[{place}]"), name, problems);
    }
    value::labels("applies_to.labels", &asked.labels, problems);
    AppliesTo { namespaces: asked.namespaces.clone(), labels: asked.labels.clone() }
}

/// Notes what only shows when it is compiled: zones, and rules one by one.
fn compile(mut spec: CalendarSpec, zones: &Zones, problems: &mut Problems) {
    let rules = std::mem::take(&mut spec.rules);
    let fault = |spec: &CalendarSpec| CompiledCalendar::compile(spec, zones).err();
    let is_zone_wrong = match fault(&spec) {
        Some(fault) => {
            let (reason, hint) = (fault.to_string(), fault.hint());
            let reason = reason.strip_prefix("timezone: ").unwrap_or(&reason).to_owned();
            problems.push(Problem { path: "timezone".to_owned(), reason, hint });
            true
        }
        None => false,
    };
    if is_zone_wrong {
        spec.timezone = None;
    }
    for (place, rule) in rules.into_iter().enumerate() {
        let alone =
            CalendarSpec { timezone: spec.timezone.clone(), rules: vec![rule], ..CalendarSpec::default() };
        if let Some(fault) = fault(&alone) {
            let (reason, hint) = (fault.to_string(), fault.hint());
            let reason = reason.strip_prefix("rules[0].rrule: ").unwrap_or(&reason).to_owned();
            problems.push(Problem { path: format!("rules[{place}].rrule"), reason, hint });
        }
    }
}
