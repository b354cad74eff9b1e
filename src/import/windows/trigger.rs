//! Triggers as recurrence rules.
//!
//! A trigger with a repetition inside a day has a set of times a day, and there is a rule for each group of hours
//! that have the same minutes: `08:05` every 20 minutes for three hours is one rule, every 25 minutes three.

use std::collections::BTreeMap;

use super::super::Sheet;
use super::super::xml::Element;
use crate::pb::span as pb_span;
use crate::pb::v1::Schedule;

/// A day.
const DAY: u64 = 86_400;
/// As many schedules as a job has.
const RULES_MAX: usize = crate::api::limits::SCHEDULES;
/// Months and weekdays, as both sides call them.
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [(&str, &str); 7] = [
    ("Sunday", "SU"),
    ("Monday", "MO"),
    ("Tuesday", "TU"),
    ("Wednesday", "WE"),
    ("Thursday", "TH"),
    ("Friday", "FR"),
    ("Saturday", "SA"),
];

/// A wall time, or with `Z` an instant: `2026-01-05T09:00:00`.
struct Boundary {
    date: String,
    second: u64,
    is_utc: bool,
}

/// How often a trigger fires again.
struct Repetition {
    interval: u64,
    /// In seconds; none: for ever.
    duration: Option<u64>,
}

/// The schedules of a trigger; none for one that is lost, which is a finding.
pub(super) fn read(trigger: Element<'_>, sheet: &mut Sheet<'_>) -> Vec<Schedule> {
    let is_calendar = trigger.name() == "CalendarTrigger";
    if !is_calendar && trigger.name() != "TimeTrigger" {
        trigger.lost("it has no instants; run the job from what happens, by `chronarch job trigger`", sheet);
        return Vec::new();
    }
    let (mut start, mut end, mut jitter, mut repetition, mut rule) = (None, None, None, None, None);
    for child in trigger.children() {
        match child.name() {
            "StartBoundary" => start = boundary(child, sheet),
            "EndBoundary" => end = boundary(child, sheet),
            "RandomDelay" => jitter = child.span(sheet),
            "Repetition" => match read_repetition(child, sheet) {
                Ok(read) => repetition = read,
                Err(()) => return Vec::new(),
            },
            "Enabled" => {
                if !child.flag() {
                    trigger.lost("it is not enabled, and left out", sheet);
                    return Vec::new();
                }
            }
            "ScheduleByDay" | "ScheduleByWeek" | "ScheduleByMonth" | "ScheduleByMonthDayOfWeek" => {
                rule = days(child, sheet);
            }
            _ => child.lost("there is nothing like it here", sheet),
        }
    }
    let Some(start) = start else {
        trigger.unread("a StartBoundary", sheet);
        return Vec::new();
    };
    let zone = if start.is_utc { "Z" } else { "" };
    let time = time_text(start.second);
    let begin = format!("DTSTART:{}T{time}{zone}", start.date);
    let until = end.map_or_else(String::new, |end| {
        let zone = if end.is_utc { "Z" } else { "" };
        format!(";UNTIL={}T{}{zone}", end.date, time_text(end.second))
    });
    let rules = match (is_calendar, rule) {
        (true, None) => {
            trigger.lost("it has no schedule", sheet);
            return Vec::new();
        }
        (true, Some(rule)) => {
            match times(&start, repetition.as_ref(), rule.starts_with("FREQ=DAILY;INTERVAL=1")) {
                Some(times) => {
                    times.into_iter().map(|times| format!("{begin} RRULE:{rule}{times}{until}")).collect()
                }
                None => {
                    trigger.lost(
                        "its repetition goes on past the day, or has more times than a job has schedules",
                        sheet,
                    );
                    return Vec::new();
                }
            }
        }
        (false, _) => vec![match repetition {
            None => format!("{begin} RRULE:FREQ=DAILY;COUNT=1"),
            Some(Repetition { interval, duration }) => {
                if !start.is_utc {
                    trigger
                        .approximated("Repetition goes by the wall clock, also over a change of it", sheet);
                }
                let count = duration.map_or_else(
                    || until.clone(),
                    |duration| format!(";COUNT={}", duration.div_ceil(interval)),
                );
                format!("{begin} RRULE:{}{count}", frequency(interval))
            }
        }],
    };
    rules
        .into_iter()
        .map(|rrule| Schedule { rrule, jitter: jitter.map(pb_span::write), ..Schedule::default() })
        .collect()
}

fn boundary(element: Element<'_>, sheet: &mut Sheet<'_>) -> Option<Boundary> {
    let read = || {
        let (date, time) = element.text().split_once('T')?;
        let zone = time.find(['Z', '+', '-']).map_or("", |at| &time[at..]);
        let time = time.strip_suffix(zone)?.split('.').next()?;
        let numbers: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        let &[hour, minute, second] = numbers.as_slice() else { return None };
        let is_date = date.len() == 10 && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let is_time = hour < 24 && minute < 60 && second < 60;
        let boundary = Boundary {
            date: date.replace('-', ""),
            second: hour * 3_600 + minute * 60 + second,
            is_utc: zone == "Z",
        };
        (is_date && is_time).then_some((boundary, zone))
    };
    let Some((boundary, zone)) = read() else {
        element.unread("a time such as 2026-01-05T09:00:00", sheet);
        return None;
    };
    if !matches!(zone, "" | "Z") {
        element.approximated(
            &format!("the offset {zone} is left out, and the time is on the wall clock"),
            sheet,
        );
    }
    Some(boundary)
}

fn read_repetition(element: Element<'_>, sheet: &mut Sheet<'_>) -> Result<Option<Repetition>, ()> {
    let (mut interval, mut duration) = (None, None);
    for child in element.children() {
        match child.name() {
            "Interval" => interval = Some(child.span(sheet).ok_or(())?.as_secs()),
            "Duration" => {
                duration = Some(child.span(sheet).ok_or(())?.as_secs()).filter(|duration| *duration > 0)
            }
            "StopAtDurationEnd" => {
                if child.flag() {
                    child.lost("a run ends with its command, or by ExecutionTimeLimit", sheet);
                }
            }
            _ => child.lost("there is nothing like it here", sheet),
        }
    }
    Ok(interval.filter(|interval| *interval > 0).map(|interval| Repetition { interval, duration }))
}

/// The days of a trigger, as a rule without its times.
fn days(element: Element<'_>, sheet: &mut Sheet<'_>) -> Option<String> {
    let (mut interval, mut months, mut dates, mut weeks, mut weekdays) =
        (1_u32, vec![], vec![], vec![], vec![]);
    for child in element.children() {
        match child.name() {
            "DaysInterval" | "WeeksInterval" => match child.text().parse() {
                Ok(number) => interval = number,
                Err(_) => child.unread("a whole number", sheet),
            },
            "Months" => {
                let numbers =
                    child.children().filter_map(|month| MONTHS.iter().position(|name| *name == month.name()));
                months.extend(numbers.map(|number| (number + 1).to_string()));
            }
            "DaysOfMonth" => {
                dates
                    .extend(child.children().map(|day| if day.text() == "Last" { "-1" } else { day.text() }));
            }
            "Weeks" => weeks
                .extend(child.children().map(|week| if week.text() == "Last" { "-1" } else { week.text() })),
            "DaysOfWeek" => {
                let words =
                    child.children().filter_map(|day| WEEKDAYS.iter().find(|(name, _)| *name == day.name()));
                weekdays.extend(words.map(|(_, word)| *word));
            }
            _ => child.lost("there is nothing like it here", sheet),
        }
    }
    let months = match months.len() {
        0 | 12 => String::new(),
        _ => format!(";BYMONTH={}", months.join(",")),
    };
    let rule = match element.name() {
        "ScheduleByDay" => Some(format!("FREQ=DAILY;INTERVAL={interval}")),
        "ScheduleByWeek" if !weekdays.is_empty() => {
            Some(format!("FREQ=WEEKLY;INTERVAL={interval};WKST=SU;BYDAY={}", weekdays.join(",")))
        }
        "ScheduleByMonth" if !dates.is_empty() => {
            Some(format!("FREQ=MONTHLY{months};BYMONTHDAY={}", dates.join(",")))
        }
        "ScheduleByMonthDayOfWeek" if !weeks.is_empty() && !weekdays.is_empty() => {
            let days: Vec<String> = weeks
                .iter()
                .flat_map(|week| weekdays.iter().map(move |day| format!("{week}{day}")))
                .collect();
            Some(format!("FREQ=MONTHLY{months};BYDAY={}", days.join(",")))
        }
        _ => None,
    };
    if rule.is_none() {
        element.lost("it names no days", sheet);
    }
    rule
}

/// The times of a day, each group as the end of a rule; none if there are too many, or some of the next day where that
/// is not each day.
fn times(start: &Boundary, repetition: Option<&Repetition>, is_daily: bool) -> Option<Vec<String>> {
    let Some(Repetition { interval, duration }) = repetition else { return Some(vec![String::new()]) };
    let duration = duration.unwrap_or(DAY).min(DAY);
    let mut by_hour: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut at = start.second;
    while at < start.second + duration {
        if at >= DAY && !is_daily {
            return None;
        }
        let second = at % DAY;
        if second % 60 != start.second % 60 {
            return None;
        }
        by_hour.entry(second / 3_600).or_default().push(second / 60 % 60);
        at += interval;
    }
    let mut by_minutes: BTreeMap<Vec<u64>, Vec<u64>> = BTreeMap::new();
    for (hour, mut minutes) in by_hour {
        minutes.sort_unstable();
        minutes.dedup();
        by_minutes.entry(minutes).or_default().push(hour);
    }
    let list = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let groups = by_minutes
        .iter()
        .map(|(minutes, hours)| format!(";BYHOUR={};BYMINUTE={}", list(hours), list(minutes)));
    (by_minutes.len() <= RULES_MAX).then(|| groups.collect())
}

/// So many seconds as a frequency.
fn frequency(seconds: u64) -> String {
    let (word, unit) = match seconds {
        seconds if seconds.is_multiple_of(DAY) => ("DAILY", DAY),
        seconds if seconds.is_multiple_of(3_600) => ("HOURLY", 3_600),
        seconds if seconds.is_multiple_of(60) => ("MINUTELY", 60),
        _ => ("SECONDLY", 1),
    };
    format!("FREQ={word};INTERVAL={}", seconds / unit)
}

fn time_text(second: u64) -> String {
    format!("{:02}{:02}{:02}", second / 3_600, second / 60 % 60, second % 60)
}

/// The arguments of a command line of Windows: parted by blanks, except in double quotes; `\"` is a quote.
pub(super) fn arguments(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if characters.peek() == Some(&'"') => word.get_or_insert_default().extend(characters.next()),
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !is_quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}
