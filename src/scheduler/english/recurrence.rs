//! Recurrence rules in plain English.

use super::words::{TIMES_TOLD, and, day_names, month_names, numbers, ordinal, times, weekday_name};
use crate::scheduler::recurrence::{Counted, Freq, Recurrence, Rule};
use crate::scheduler::zone::Zone;
use crate::state::time::Timestamp;

const ALL_MONTHS: u16 = 0x1ffe;

impl Recurrence {
    /// What it means, a sentence each, without capital and full stop.
    pub(super) fn explain(&self, zone: &Zone) -> Vec<String> {
        let mut told = Vec::new();
        if let Some(rule) = &self.rule {
            told.push(format!("{}, {}", phrase(rule), zone.name()));
            let ends = rule.last.map(|last| format!(", until {}", wall(last)));
            told.push(format!("counted from {}{}", wall(rule.start), ends.unwrap_or_default()));
        }
        let dates = |count: usize| format!("{count} date{}", if count == 1 { "" } else { "s" });
        let left_out = self.left_out.len() + self.days_left_out.len();
        if left_out > 0 {
            told.push(format!("{} left out", dates(left_out)));
        }
        if !self.added.is_empty() {
            told.push(format!("{} added", dates(self.added.len())));
        }
        told
    }
}

fn wall(seconds: i64) -> String {
    Timestamp::from_millis(seconds.saturating_mul(1_000)).to_string()[..16].replace('T', " ")
}

fn phrase(rule: &Rule) -> String {
    let unit = match rule.freq {
        Freq::Secondly => "second",
        Freq::Minutely => "minute",
        Freq::Hourly => "hour",
        Freq::Daily => "day",
        Freq::Weekly => "week",
        Freq::Monthly => "month",
        Freq::Yearly => "year",
    };
    let mut text = match rule.interval {
        1 => format!("every {unit}"),
        interval => format!("every {} {unit}", ordinal(u32::try_from(interval).unwrap_or(u32::MAX))),
    };
    let days = days(rule);
    if !days.is_empty() {
        text.push_str(" on ");
        // each restricts what the others leave
        text.push_str(&days.join(", if it is "));
    }
    if rule.months != 0 && rule.months & ALL_MONTHS != ALL_MONTHS {
        text.push_str(" in ");
        text.push_str(&month_names(rule.months));
    }
    if rule.freq >= Freq::Daily || rule.times.count() <= TIMES_TOLD {
        text.push(' ');
        text.push_str(&times(&rule.times));
    } else if rule.times.count() < 86_400 {
        text.push_str(", if it is ");
        text.push_str(&times(&rule.times));
    }
    if !rule.positions.is_empty() {
        let positions: Vec<String> = rule.positions.iter().map(|position| place(*position)).collect();
        text.push_str(&format!("; of these {} in each {unit}", and(&positions)));
    }
    text
}

/// `the 2nd`, `the last`, `the 2nd to last`.
fn place(position: i32) -> String {
    match position {
        -1 => "the last".to_owned(),
        position if position < 0 => format!("the {} to last", ordinal(position.unsigned_abs())),
        position => format!("the {}", ordinal(position.unsigned_abs())),
    }
}

/// Numbers from the front, then from the end.
fn counted(list: &Counted, what: &str) -> String {
    let bits = |words: &[u64; 6]| {
        (0..384_u32).filter(|bit| words[(bit / 64) as usize] >> (bit % 64) & 1 == 1).collect::<Vec<u32>>()
    };
    let (front, back) = (bits(&list.front), bits(&list.back));
    let mut told = Vec::new();
    if !front.is_empty() {
        told.push(format!("{what}{} {}", if front.len() == 1 { "" } else { "s" }, and(&numbers(&front))));
    }
    // counted from 1
    told.extend(back.into_iter().map(|number| format!("{} {what}", place(-(number as i32)))));
    and(&told)
}

/// What restricts days, each by itself.
fn days(rule: &Rule) -> Vec<String> {
    let mut told = Vec::new();
    if !rule.month_days.is_empty() {
        told.push(format!("{} of the month", counted(&rule.month_days, "day")));
    }
    if let Some(days) = &rule.year_days {
        told.push(format!("{} of the year", counted(days, "day")));
    }
    if !rule.weeks.is_empty() {
        told.push(format!("{} of the year", counted(&rule.weeks, "week")));
    }
    let mut weekdays = Vec::new();
    if rule.weekdays != 0 {
        weekdays.push(day_names(rule.weekdays));
    }
    let whole = if rule.nth_in_month { "month" } else { "year" };
    for (nth, day) in &rule.nth_weekdays {
        weekdays.push(format!("{} {} of the {whole}", place(*nth), weekday_name(*day)));
    }
    if !weekdays.is_empty() {
        told.push(and(&weekdays));
    }
    told
}
