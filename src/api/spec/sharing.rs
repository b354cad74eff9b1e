//! What a job shares with others: limits, and what it runs after.

use std::time::Duration;

use super::super::limits;
use super::super::problem::Problems;
use super::value;
use crate::pb::span;
use crate::pb::v1 as pb;
use crate::state::limits as state_limits;
use crate::state::spec::{After, AfterOn, AfterWhen, Limits, Rate};

/// `limits`; without it nothing is limited.
pub(super) fn limits(limits: Option<&pb::Limits>, problems: &mut Problems) -> Option<Limits> {
    let pb::Limits { group, concurrency, rate } = limits?;
    if !group.is_empty() {
        value::name("limits.group", group, problems);
    }
    if let Some(concurrency) = concurrency {
        value::within("limits.concurrency", *concurrency, &(1..=limits::CONCURRENCY), problems);
    }
    let read = self::rate("limits.rate", rate, problems);
    if concurrency.is_none() && rate.is_empty() {
        problems.add("limits", "neither concurrency nor rate is set: nothing would be limited");
    }
    Some(Limits {
        group: Some(group.clone()).filter(|group| !group.is_empty()),
        concurrency: *concurrency,
        rate: read,
    })
}

/// A rate; empty for none.
pub(in crate::api) fn rate(path: &str, text: &str, problems: &mut Problems) -> Option<Rate> {
    if text.is_empty() {
        return None;
    }
    let rate = read_rate(text);
    if rate.is_none() {
        let shown: String = text.chars().take(64).collect();
        let reason = format!(
            "{shown:?} is no rate, expected a number from 1 to {}, `/`, and a span of 1ms to 1d: 100/s, 10/m, 5/30s",
            limits::RATE_STARTS
        );
        problems.add(path, reason);
    }
    rate
}

fn read_rate(text: &str) -> Option<Rate> {
    let (starts, per) = text.split_once('/')?;
    let starts = starts.trim().parse().ok().filter(|starts| (1..=limits::RATE_STARTS).contains(starts))?;
    let per = per.trim();
    let per = match per {
        "s" | "m" | "h" | "d" => span::parse(&format!("1{per}")),
        _ => span::parse(per),
    };
    let spans = Duration::from_millis(1)..=limits::RATE_SPAN;
    per.ok()
        .filter(|per| spans.contains(per) && per.subsec_nanos() % 1_000_000 == 0)
        .map(|per| Rate { starts, per })
}

/// `after`; without it the job runs on its schedule, or on trigger.
pub(super) fn after(spec: &pb::JobSpec, problems: &mut Problems) -> Option<After> {
    let after = spec.after.as_ref()?;
    if !spec.schedule.is_empty() {
        problems.add("after", "the job has a schedule too; it runs on either of the two");
    }
    value::most("after.jobs", "jobs", after.jobs.len(), state_limits::AFTER, problems);
    if after.jobs.is_empty() {
        problems.add("after.jobs", "is missing");
    }
    for (place, name) in after.jobs.iter().take(state_limits::AFTER).enumerate() {
        let path = format!("after.jobs[{place}]");
        value::name(&path, name, problems);
        if *name == spec.name {
            problems.add(&path, "is the job itself");
        } else if after.jobs[..place].contains(name) {
            problems.add(&path, format!("{name:?} is there twice"));
        }
    }
    let when = value::word("after.when", after.when, problems);
    let on = value::word("after.on", after.on, problems);
    Some(After {
        jobs: after.jobs.clone(),
        when: when.map_or(AfterWhen::All, |when| match when {
            pb::AfterWhen::Unspecified | pb::AfterWhen::All => AfterWhen::All,
            pb::AfterWhen::Any => AfterWhen::Any,
        }),
        on: on.map_or(AfterOn::Success, |on| match on {
            pb::AfterOn::Unspecified | pb::AfterOn::Success => AfterOn::Success,
            pb::AfterOn::Failure => AfterOn::Failure,
            pb::AfterOn::Always => AfterOn::Always,
        }),
    })
}
