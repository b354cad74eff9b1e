//! Lists, numbers and times as people say them.

use crate::scheduler::times::Times;

/// Times of day that are told one by one.
pub(super) const TIMES_TOLD: u32 = 6;
const ALL_SIXTY: u64 = (1 << 60) - 1;
const ALL_HOURS: u32 = (1 << 24) - 1;

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
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

/// `a, b and c`.
pub(super) fn and(list: &[String]) -> String {
    match list {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Ascending numbers, three or more in a row as `a to c`.
pub(super) fn numbers(list: &[u32]) -> Vec<String> {
    runs(list)
        .into_iter()
        .flat_map(|(first, last)| spoken(first, last, |number| number.to_string()))
        .collect()
}

/// First and last of what is in a row.
fn runs(list: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in list {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    runs
}

fn spoken(first: u32, last: u32, name: impl Fn(u32) -> String) -> Vec<String> {
    match last - first {
        0 => vec![name(first)],
        1 => vec![name(first), name(last)],
        _ => vec![format!("{} to {}", name(first), name(last))],
    }
}

/// `1st`, `2nd`, `3rd`, `11th`.
pub(super) fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// 0 is Sunday.
pub(super) fn weekday_name(day: u32) -> &'static str {
    WEEKDAYS.get(day as usize).copied().unwrap_or_default()
}

/// Weekdays from Monday on; bit 0 is Sunday.
pub(super) fn day_names(mask: u8) -> String {
    let monday_first: Vec<u32> = (1..=7).filter(|day| mask >> (day % 7) & 1 == 1).collect();
    let name = |day: u32| weekday_name(day % 7).to_owned();
    and(&runs(&monday_first)
        .into_iter()
        .flat_map(|(first, last)| spoken(first, last, name))
        .collect::<Vec<_>>())
}

/// Bits 1 to 12.
pub(super) fn month_names(mask: u16) -> String {
    let months: Vec<u32> = (1..=12).filter(|month| mask >> month & 1 == 1).collect();
    let name = |month: u32| MONTHS.get(month as usize - 1).copied().unwrap_or_default().to_owned();
    and(&runs(&months).into_iter().flat_map(|(first, last)| spoken(first, last, name)).collect::<Vec<_>>())
}

/// `HH:MM`, or `HH:MM:SS` where there are seconds.
pub(super) fn clock(second_of_day: u32) -> String {
    let (hour, minute, second) = (second_of_day / 3_600, second_of_day / 60 % 60, second_of_day % 60);
    if second == 0 { format!("{hour:02}:{minute:02}") } else { format!("{hour:02}:{minute:02}:{second:02}") }
}

/// The step of values that divide their whole evenly, from 0 on: 15 of 0, 15, 30 and 45.
fn step(values: &[u32], whole: u32) -> Option<u32> {
    let step = whole.checked_div(u32::try_from(values.len()).ok()?)?;
    let is_even = values.len() > 1
        && step > 1
        && whole.is_multiple_of(step)
        && values.iter().copied().eq((0..whole).step_by(step as usize));
    is_even.then_some(step)
}

fn bits(mask: u64) -> Vec<u32> {
    (0..64).filter(|bit| mask >> bit & 1 == 1).collect()
}

/// Times of day: one by one where they are few.
pub(super) fn times(times: &Times) -> String {
    if times.count() <= TIMES_TOLD {
        let each: Vec<String> = (0..times.count()).filter_map(|place| times.nth(place)).map(clock).collect();
        return format!("at {}", and(&each));
    }
    let (seconds, minutes, hours) = (bits(times.seconds), bits(times.minutes), bits(u64::from(times.hours)));
    let mut parts = Vec::new();
    if times.seconds == ALL_SIXTY {
        parts.push("every second".to_owned());
    } else if times.seconds != 1 {
        parts.push(some(&seconds, "second"));
    }
    if times.minutes == ALL_SIXTY {
        if times.seconds != ALL_SIXTY {
            parts.push("every minute".to_owned());
        }
    } else {
        parts.push(some(&minutes, "minute"));
    }
    if times.hours != ALL_HOURS {
        parts.push(match step(&hours, 24) {
            Some(step) => format!("every {} hour from midnight", ordinal(step)),
            None => format!("the hour{} {}", if hours.len() == 1 { "" } else { "s" }, and(&numbers(&hours))),
        });
    } else if times.minutes != ALL_SIXTY && step(&minutes, 60).is_none() {
        parts.push("every hour".to_owned());
    }
    parts.join(" of ")
}

/// `every 15 minutes`, or `minutes 5 and 35`.
fn some(values: &[u32], unit: &str) -> String {
    match (step(values, 60), values) {
        (Some(step), _) => format!("every {step} {unit}s"),
        (None, [_]) => format!("{unit} {}", and(&numbers(values))),
        (None, _) => format!("{unit}s {}", and(&numbers(values))),
    }
}
