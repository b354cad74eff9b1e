//! Schedules in plain English, for people who want to know whether a rule says what they mean.
//!
//! What is told is the compiled rule, not the text: who wrote `1-31` where `*` was meant, or `5` for a day of
//! the month where a weekday was meant, finds it out here. [`explain`] is asked by the command line alone.

mod recurrence;
mod words;

#[cfg(test)]
mod tests;

use self::words::{and, day_names, month_names, numbers, ordinal, times, weekday_name};
use super::almanac::Almanac;
use super::calendar;
use super::cron::{CronRule, Days};
use super::recurrence::Recurrence;
use super::rule::{CompiledSchedule, ScheduleError};
use super::solar::degrees;
use super::spread::Spread;
use super::zone::Zone;
use crate::state::schedule::{Fold, Gap, Rule, Schedule, SolarEvent};
use crate::state::time::span_text;

/// All days of a month, as bits 1 to 31.
const ALL_DATES: u32 = 0xffff_fffe;
const ALL_WEEKDAYS: u8 = 0x7f;
const ALL_MONTHS: u16 = 0x1ffe;
/// Instants of a list that are told.
const INSTANTS_TOLD: usize = 3;

/// What a schedule means, a sentence each.
///
/// # Errors
/// As [`CompiledSchedule::compile`].
pub fn explain(schedule: &Schedule, spread: Spread, almanac: &Almanac) -> Result<Vec<String>, ScheduleError> {
    let compiled = CompiledSchedule::compile(schedule, spread, almanac)?;
    let zones = almanac.zones();
    let mut zone = zones.zone(&schedule.timezone)?;
    let mut sentences = Vec::new();
    let is_wall_time = match &schedule.rule {
        Rule::Cron { line, dialect, day_rule } => {
            let rule = CronRule::parse(line, *dialect, *day_rule, spread)?;
            sentences.push(format!("{}, {}", cron(&rule), zone.name()));
            Some(rule.elastic)
        }
        Rule::Calendar(text) => {
            let rule;
            (rule, zone) = calendar::parse(text, &zone, zones)?;
            sentences.push(format!("{}, {}", cron(&rule), zone.name()));
            Some(rule.elastic)
        }
        Rule::Recurrence(text) => {
            let rule;
            (rule, zone) = Recurrence::parse(text, &zone, zones)?;
            sentences.extend(rule.explain(&zone));
            Some(false)
        }
        Rule::Every { period, offset } if offset.is_zero() => {
            sentences.push(format!("every {}, counted from 1970-01-01T00:00:00Z", span_text(*period)));
            None
        }
        Rule::Every { period, offset } => {
            let (period, offset) = (span_text(*period), span_text(*offset));
            sentences.push(format!("every {period}, counted from {offset} after 1970-01-01T00:00:00Z"));
            None
        }
        Rule::AfterCompletion { period } => {
            sentences.push(format!("{} after the end of each run", span_text(*period)));
            None
        }
        Rule::At(instants) => {
            let told = instants.iter().take(INSTANTS_TOLD).map(ToString::to_string).collect::<Vec<_>>();
            let more = instants.len().saturating_sub(INSTANTS_TOLD);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            sentences.push(format!("at {}{more}", told.join(", ")));
            None
        }
        Rule::Solar { event, place } => {
            let (latitude, longitude) = (degrees(place.latitude_micro), degrees(place.longitude_micro));
            sentences.push(format!("{} at latitude {latitude}, longitude {longitude}", sun(*event)));
            None
        }
    };
    if let Some(elastic) = is_wall_time.filter(|_| !zone.is_fixed()) {
        sentences.extend(odd_days(elastic, schedule, &zone));
    }
    sentences.extend(bounds(schedule, &compiled));
    Ok(sentences.into_iter().map(sentence).collect())
}

/// With a capital and a full stop.
fn sentence(text: String) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

fn sun(event: SolarEvent) -> &'static str {
    match event {
        SolarEvent::DawnAstronomical => "when the sun comes up to 18 degrees below the horizon",
        SolarEvent::DawnNautical => "when the sun comes up to 12 degrees below the horizon",
        SolarEvent::DawnCivil => "when the sun comes up to 6 degrees below the horizon",
        SolarEvent::Sunrise => "at sunrise",
        SolarEvent::SolarNoon => "when the sun is highest",
        SolarEvent::Sunset => "at sunset",
        SolarEvent::DuskCivil => "when the sun goes down to 6 degrees below the horizon",
        SolarEvent::DuskNautical => "when the sun goes down to 12 degrees below the horizon",
        SolarEvent::DuskAstronomical => "when the sun goes down to 18 degrees below the horizon",
    }
}

fn odd_days(elastic: bool, schedule: &Schedule, zone: &Zone) -> Vec<String> {
    if elastic {
        let text =
            "when clocks change it follows real time, for its seconds, minutes or hours begin with `*`";
        return vec![format!(
            "{text}: what {} skips does not come, and what comes twice runs twice",
            zone.name()
        )];
    }
    let gap = match schedule.gap {
        Gap::RunAtEnd => "runs at the end of the gap",
        Gap::Shift => "runs as much later as the gap is long",
        Gap::Skip => "does not run that day",
    };
    let fold = match schedule.fold {
        Fold::First => "the first time",
        Fold::Second => "the second time",
        Fold::Both => "both times",
    };
    vec![format!(
        "a time that does not exist, when clocks go forward, {gap}; one that comes twice runs {fold}"
    )]
}

fn bounds(schedule: &Schedule, compiled: &CompiledSchedule) -> Vec<String> {
    let mut told = Vec::new();
    let starts = schedule.start_at.map(|start| format!("not before {start}"));
    let ends = match (schedule.count, compiled.end_at()) {
        (Some(count), _) => Some(format!("{count} times in all")),
        (None, Some(end)) => Some(format!("not at or after {end}")),
        (None, None) => None,
    };
    let bounds: Vec<String> = starts.into_iter().chain(ends).collect();
    if !bounds.is_empty() {
        told.push(bounds.join(", "));
    }
    if !schedule.jitter.is_zero() {
        told.push(format!(
            "each run is put off by up to {}, always the same for the same instant",
            span_text(schedule.jitter)
        ));
    }
    told
}

/// A cron line or a calendar event.
fn cron(rule: &CronRule) -> String {
    let mut parts = vec![times(&rule.times)];
    let days = days(&rule.days);
    match days {
        Some(days) => parts.push(days),
        None if rule.times.count() <= words::TIMES_TOLD => parts.push("every day".to_owned()),
        None => {}
    }
    let mut text = parts.join(" ");
    if rule.months & ALL_MONTHS != ALL_MONTHS {
        text.push_str(" in ");
        text.push_str(&month_names(rule.months));
    }
    if let Some(years) = rule.years() {
        let years: Vec<String> = numbers(&years);
        text.push_str(if years.len() == 1 { " of " } else { " of the years " });
        text.push_str(&and(&years));
    }
    text
}

/// Which days; none if all of them.
fn days(days: &Days) -> Option<String> {
    let dates = dates(days);
    let weekdays = weekdays(days);
    match (dates, weekdays) {
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => days.both.then_some(one),
        (Some(dates), Some(weekdays)) if days.both => {
            Some(format!("{dates}, if it is {}", weekdays.trim_start_matches("on ")))
        }
        (Some(dates), Some(weekdays)) => Some(format!("{dates}, and also {weekdays}")),
    }
}

fn dates(days: &Days) -> Option<String> {
    if days.dates & ALL_DATES == ALL_DATES {
        return None;
    }
    let bits = |mask: u32| (0..32).filter(move |bit| mask >> bit & 1 == 1).collect::<Vec<u32>>();
    let mut told = Vec::new();
    let dates = bits(days.dates);
    if !dates.is_empty() {
        let word = if dates.len() == 1 { "day" } else { "days" };
        told.push(format!("{word} {}", and(&numbers(&dates))));
    }
    let from_end = |before: u32| match before {
        0 => "the last day".to_owned(),
        1 => "the day before the last".to_owned(),
        before => format!("the {} day before the last", ordinal(before)),
    };
    told.extend(bits(days.dates_from_end).into_iter().map(from_end));
    told.extend(
        bits(days.near).into_iter().map(|day| format!("the day from Monday to Friday nearest to day {day}")),
    );
    told.extend(
        bits(days.near_from_end)
            .into_iter()
            .map(|before| format!("the day from Monday to Friday nearest to {}", from_end(before))),
    );
    Some(format!("on {} of the month", and(&told)))
}

fn weekdays(days: &Days) -> Option<String> {
    if days.weekdays & ALL_WEEKDAYS == ALL_WEEKDAYS {
        return None;
    }
    let of = |mask: u8| (0..7).filter(move |day| mask >> day & 1 == 1);
    let mut told = Vec::new();
    if days.weekdays != 0 {
        told.push(day_names(days.weekdays));
    }
    for (place, mask) in days.counted_weekdays.iter().enumerate() {
        // at most the fifth
        told.extend(
            of(*mask)
                .map(|day| format!("the {} {} of the month", ordinal(place as u32 + 1), weekday_name(day))),
        );
    }
    told.extend(of(days.last_weekdays).map(|day| format!("the last {} of the month", weekday_name(day))));
    Some(format!("on {}", and(&told)))
}
