//! Triggers as schedules.

use super::super::xml::Element;
use super::super::{Loss, Sheet};
use super::GROUP;
use crate::pb::span;
use crate::pb::v1::{CatchUpRuns, Dialect, Dst, Fold, Gap, Schedule};

/// The priority that triggers have by themselves.
const PRIORITY: i32 = 5;
/// The last day that each month has.
const LAST_DAY: &str = "28";

/// A trigger.
pub(super) struct Trigger {
    pub(super) line: usize,
    /// Group and name of its job.
    pub(super) job: (String, String),
    pub(super) schedule: Schedule,
    pub(super) catch_up: CatchUpRuns,
    pub(super) priority: i32,
}

/// What a trigger says, as texts.
#[derive(Default)]
struct Said<'a> {
    job: &'a str,
    group: Option<&'a str>,
    rule: Option<Element<'a>>,
    timezone: &'a str,
    start: Option<Element<'a>>,
    end: Option<Element<'a>>,
    count: Option<&'a str>,
    interval: Option<&'a str>,
    unit: &'a str,
    catch_up: Option<CatchUpRuns>,
    priority: i32,
}

/// Reads a trigger; none for one that is lost, which is a finding.
pub(super) fn read(trigger: Element<'_>, sheet: &mut Sheet<'_>) -> Option<Trigger> {
    let mut said = Said::default();
    for child in trigger.children() {
        match child.name() {
            "name" | "group" | "description" | "volatility" => {}
            "job-name" => said.job = child.text(),
            "job-group" => said.group = Some(child.text()),
            "cron-expression" => said.rule = Some(child),
            "time-zone" => said.timezone = child.text(),
            "start-time" => said.start = Some(child),
            "end-time" => said.end = Some(child),
            "repeat-count" => said.count = Some(child.text()),
            "repeat-interval" => said.interval = Some(child.text()),
            "repeat-interval-unit" => said.unit = child.text(),
            "misfire-instruction" => said.catch_up = Some(misfire(child, sheet)),
            "priority" => match child.text().parse::<i32>() {
                Ok(priority) => said.priority = priority.saturating_sub(PRIORITY),
                Err(_) => child.unread("a whole number", sheet),
            },
            "start-time-seconds-in-future" => child.lost("it counts from the start of the scheduler", sheet),
            "calendar-name" => {
                child.lost("there are no shared calendars, and its days are not left out", sheet)
            }
            _ => child.lost("there is nothing like it here", sheet),
        }
    }
    let schedule = match trigger.name() {
        "cron" => cron(&said, trigger, sheet),
        "simple" => simple(&said, trigger, sheet),
        "calendar-interval" => interval(&said, trigger, sheet),
        _ => {
            trigger.lost("there is nothing like it here", sheet);
            None
        }
    }?;
    Some(Trigger {
        line: trigger.line(),
        job: (said.group.unwrap_or(GROUP).to_owned(), said.job.to_owned()),
        schedule,
        // The smart policies fire once for all that was missed.
        catch_up: said.catch_up.unwrap_or(CatchUpRuns::Latest),
        priority: said.priority,
    })
}

fn misfire(element: Element<'_>, sheet: &mut Sheet<'_>) -> CatchUpRuns {
    match element.text() {
        // In .NET they are called without the prefix.
        "MISFIRE_INSTRUCTION_DO_NOTHING" | "DoNothing" => CatchUpRuns::None,
        "MISFIRE_INSTRUCTION_IGNORE_MISFIRE_POLICY" | "IgnoreMisfirePolicy" => CatchUpRuns::All,
        "MISFIRE_INSTRUCTION_SMART_POLICY"
        | "MISFIRE_INSTRUCTION_FIRE_ONCE_NOW"
        | "MISFIRE_INSTRUCTION_FIRE_NOW"
        | "SmartPolicy"
        | "FireOnceNow"
        | "FireNow" => CatchUpRuns::Latest,
        other => {
            element.approximated(
                &format!("{other}: the latest that was missed runs, and the rest at its instants"),
                sheet,
            );
            CatchUpRuns::Latest
        }
    }
}

/// The zone of a trigger: what it names, or that of the machine.
fn zone(said: &Said<'_>, trigger: Element<'_>, sheet: &mut Sheet<'_>) -> String {
    if !said.timezone.is_empty() {
        return said.timezone.to_owned();
    }
    let zone = sheet.options.timezone.clone();
    if zone.is_none() {
        trigger
            .approximated("it is in the zone of its machine; taken as UTC, --timezone says another", sheet);
    }
    zone.unwrap_or_default()
}

fn cron(said: &Said<'_>, trigger: Element<'_>, sheet: &mut Sheet<'_>) -> Option<Schedule> {
    let Some(rule) = said.rule else {
        trigger.unread("a cron-expression", sheet);
        return None;
    };
    for bound in [said.start, said.end].into_iter().flatten() {
        bound.lost("a line has no bounds of its own; set start_at and end_at of the schedule", sheet);
    }
    Some(Schedule {
        cron: rule.text().split_whitespace().collect::<Vec<_>>().join(" "),
        dialect: Dialect::Quartz.into(),
        timezone: zone(said, trigger, sheet),
        // Of a double wall time Quartz takes the second.
        dst: Some(Dst { gap: Gap::Skip.into(), fold: Fold::Second.into() }),
        ..Schedule::default()
    })
}

fn simple(said: &Said<'_>, trigger: Element<'_>, sheet: &mut Sheet<'_>) -> Option<Schedule> {
    let number = |text: Option<&str>| match text {
        None => Some(0),
        Some("REPEAT_INDEFINITELY") => Some(-1),
        Some(text) => text.parse::<i64>().ok(),
    };
    let (Some(count), Some(millis)) = (number(said.count), number(said.interval)) else {
        trigger.unread("repeat-count and repeat-interval as whole numbers", sheet);
        return None;
    };
    let millis = u64::try_from(millis).unwrap_or_default();
    let Some(start) = said.start else {
        if count >= 0 || millis == 0 {
            trigger.lost("it counts from the start of the scheduler, of which a cluster has none", sheet);
            return None;
        }
        trigger.approximated("it counts from the start of the scheduler there, from the epoch here", sheet);
        let every = Some(span::write(std::time::Duration::from_millis(millis)));
        return Some(Schedule { every, ..Schedule::default() });
    };
    if count != 0 && (millis == 0 || millis % 1_000 != 0) {
        trigger.lost("its interval is not of whole seconds", sheet);
        return None;
    }
    let count = match count {
        -1 => until(said, sheet)?,
        count => format!(";COUNT={}", count.unsigned_abs().saturating_add(1)),
    };
    let rule = format!("FREQ=SECONDLY;INTERVAL={}{count}", (millis / 1_000).max(1));
    from(said, start, &rule, trigger, sheet)
}

fn interval(said: &Said<'_>, trigger: Element<'_>, sheet: &mut Sheet<'_>) -> Option<Schedule> {
    let frequency = match said.unit {
        "SECOND" => "SECONDLY",
        "MINUTE" => "MINUTELY",
        "HOUR" => "HOURLY",
        "DAY" => "DAILY",
        "WEEK" => "WEEKLY",
        "MONTH" => "MONTHLY",
        "YEAR" => "YEARLY",
        _ => {
            trigger.unread("a repeat-interval-unit from SECOND to YEAR", sheet);
            return None;
        }
    };
    let Some(start) = said.start else {
        trigger.lost("it counts from the start of the scheduler, of which a cluster has none", sheet);
        return None;
    };
    let Some(interval) =
        said.interval.and_then(|text| text.parse::<u32>().ok()).filter(|interval| *interval > 0)
    else {
        trigger.unread("a repeat-interval", sheet);
        return None;
    };
    let day = start.text().get(8..10).unwrap_or_default();
    if matches!(frequency, "MONTHLY" | "YEARLY") && day > LAST_DAY {
        trigger.approximated("a month without the day has no run here, and one on its last day there", sheet);
    }
    let rule = format!("FREQ={frequency};INTERVAL={interval}{}", until(said, sheet)?);
    from(said, start, &rule, trigger, sheet)
}

/// A rule that begins at a time.
fn from(
    said: &Said<'_>,
    start: Element<'_>,
    rule: &str,
    trigger: Element<'_>,
    sheet: &mut Sheet<'_>,
) -> Option<Schedule> {
    let begin = time(start, sheet)?;
    let timezone = if begin.ends_with('Z') { String::new() } else { zone(said, trigger, sheet) };
    Some(Schedule { rrule: format!("DTSTART:{begin} RRULE:{rule}"), timezone, ..Schedule::default() })
}

fn until(said: &Said<'_>, sheet: &mut Sheet<'_>) -> Option<String> {
    Some(match said.end {
        Some(end) => format!(";UNTIL={}", time(end, sheet)?),
        None => String::new(),
    })
}

/// A time of XML Schema in the form of iCalendar: `20260105T090000`, with `Z` for an instant.
fn time(element: Element<'_>, sheet: &mut Sheet<'_>) -> Option<String> {
    let text = element.text();
    let (wall, zone) = text.split_at_checked(19).unwrap_or((text, ""));
    let is_wall = wall.len() == 19
        && wall.char_indices().all(|(place, c)| match place {
            4 | 7 => c == '-',
            10 => c == 'T',
            13 | 16 => c == ':',
            _ => c.is_ascii_digit(),
        });
    let zone = zone.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    if !is_wall || !matches!(zone, "" | "Z") {
        let what = format!("{}: expected a time such as 2026-01-05T09:00:00, found {text:?}", element.name());
        sheet.find(element.line(), Loss::Unread, what);
        return None;
    }
    Some(wall.replace(['-', ':'], "") + zone)
}
