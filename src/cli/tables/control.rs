//! What commands that steer jobs and runs show.

use comfy_table::Table;

use super::{at, columns, length, or_dash};
use crate::pb::v1::{Calendar, Change, JobVersion, Namespace, Queue, Run, SetCalendarResponse, Spread};
use crate::pb::word;

/// Names, one a line.
pub(in crate::cli) fn names(header: &str, names: &[String]) -> Table {
    let mut table = columns(&[header]);
    for name in names {
        table.add_row([name]);
    }
    table
}

/// Definitions of a job, one a line, with what each changed.
pub(in crate::cli) fn versions(versions: &[JobVersion]) -> Table {
    let mut table = columns(&["VERSION", "APPLIED", "ACTOR", "REASON", "CHANGED"]);
    for version in versions {
        let paths: Vec<&str> = version.changes.iter().map(|change| change.path.as_str()).collect();
        table.add_row([
            version.version.to_string(),
            at(version.applied_at.as_ref()),
            or_dash(&version.actor).to_owned(),
            or_dash(&version.reason).to_owned(),
            or_dash(&paths.join(", ")).to_owned(),
        ]);
    }
    table
}

/// Queues, one a line.
pub(in crate::cli) fn queues(queues: &[Queue], wide: bool) -> Table {
    let narrow = ["QUEUE", "WAITING", "RUNNING", "CONCURRENCY", "RATE", "MAX WAITING"];
    let mut table =
        if wide { columns(&[&narrow[..], &["SET", "ACTOR", "REASON"]].concat()) } else { columns(&narrow) };
    let or_none = |limit: Option<u32>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
    for queue in queues {
        let mut row = vec![
            queue.name.clone(),
            queue.waiting.to_string(),
            queue.running.to_string(),
            or_none(queue.concurrency),
            or_dash(&queue.rate).to_owned(),
            or_none(queue.max_waiting),
        ];
        if wide {
            row.extend([
                at(queue.set_at.as_ref()),
                or_dash(&queue.actor).to_owned(),
                or_dash(&queue.reason).to_owned(),
            ]);
        }
        table.add_row(row);
    }
    table
}

/// Namespaces, one a line.
pub(in crate::cli) fn namespaces(namespaces: &[Namespace], wide: bool) -> Table {
    let narrow = ["NAMESPACE", "JOBS", "LIVE RUNS", "RECORDS", "KEEPS", "KEEPS FOR"];
    let mut table =
        if wide { columns(&[&narrow[..], &["SET", "ACTOR", "REASON"]].concat()) } else { columns(&narrow) };
    for namespace in namespaces {
        let kept = namespace.retention.unwrap_or_default();
        let or_none = |limit: Option<u32>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
        let mut row = vec![
            namespace.name.clone(),
            namespace.jobs.to_string(),
            namespace.live_runs.to_string(),
            namespace.records.map_or_else(|| "?".to_owned(), |records| records.to_string()),
            or_none(kept.runs),
            length(kept.age.as_ref()),
        ];
        if wide {
            row.extend([
                at(namespace.set_at.as_ref()),
                or_dash(&namespace.actor).to_owned(),
                or_dash(&namespace.reason).to_owned(),
            ]);
        }
        table.add_row(row);
    }
    table
}

/// Calendars, one a line.
pub(in crate::cli) fn calendars(calendars: &[Calendar], wide: bool) -> Table {
    let narrow = ["CALENDAR", "VERSION", "TIMEZONE", "ENTRIES", "JOBS", "BLACKOUT FOR"];
    let mut table =
        if wide { columns(&[&narrow[..], &["SET", "ACTOR", "REASON"]].concat()) } else { columns(&narrow) };
    for calendar in calendars {
        let spec = calendar.spec.clone().unwrap_or_default();
        let mut row = vec![
            spec.name,
            calendar.version.to_string(),
            or_dash(&spec.timezone).to_owned(),
            crate::cli::calendar::summary(calendar),
            calendar.jobs.to_string(),
            or_dash(&blackout(calendar)).to_owned(),
        ];
        if wide {
            row.extend([
                at(calendar.set_at.as_ref()),
                or_dash(&calendar.actor).to_owned(),
                or_dash(&calendar.reason).to_owned(),
            ]);
        }
        table.add_row(row);
    }
    table
}

/// The jobs that a calendar is a blackout for.
fn blackout(calendar: &Calendar) -> String {
    let Some(applies_to) = calendar.spec.as_ref().and_then(|spec| spec.applies_to.as_ref()) else {
        return String::new();
    };
    let namespaces = applies_to.namespaces.iter().cloned();
    let labels = applies_to.labels.iter().map(|(key, value)| format!("{key}={value}"));
    namespaces.chain(labels).collect::<Vec<_>>().join(" ")
}

/// A calendar, with all its entries.
pub(in crate::cli) fn calendar(calendar: &Calendar) -> Table {
    let spec = calendar.spec.clone().unwrap_or_default();
    let mut rows = vec![
        ("name", spec.name),
        ("version", calendar.version.to_string()),
        ("description", spec.description),
        ("timezone", spec.timezone),
        ("jobs", calendar.jobs.to_string()),
        ("blackout for", blackout(calendar)),
        ("set", at(calendar.set_at.as_ref())),
        ("actor", calendar.actor.clone()),
        ("reason", calendar.reason.clone()),
    ];
    rows.extend(spec.dates.into_iter().map(|dates| ("dates", dates)));
    rows.extend(spec.weekly.into_iter().map(|hours| {
        let clock = match (hours.from.as_str(), hours.to.as_str()) {
            ("", "") => String::new(),
            (from, to) => format!(
                " {}-{}",
                if from.is_empty() { "00:00" } else { from },
                if to.is_empty() { "24:00" } else { to }
            ),
        };
        ("weekly", format!("{}{clock} {}", hours.days, hours.note))
    }));
    rows.extend(spec.windows.into_iter().map(|window| {
        let (from, to) = (at(window.from.as_ref()), at(window.to.as_ref()));
        ("window", format!("{from} to {to} {}", window.note))
    }));
    rows.extend(spec.rules.into_iter().map(|rule| {
        let lasts = match rule.duration {
            Some(span) => length(Some(&span)),
            None => format!("{} days", rule.days),
        };
        ("rule", format!("{} for {lasts} {}", rule.rrule.replace('\n', " "), rule.note))
    }));
    let mut table = columns(&["FIELD", "VALUE"]);
    for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([name, value.trim()]);
    }
    table
}

/// What became of calendars that were applied.
pub(in crate::cli) fn set_calendars(answers: &[SetCalendarResponse]) -> Table {
    let mut table = columns(&["CALENDAR", "VERSION", "CHANGE"]);
    for answer in answers {
        let calendar = answer.calendar.clone().unwrap_or_default();
        table.add_row([
            calendar.spec.unwrap_or_default().name,
            calendar.version.to_string(),
            word::of::<Change>(answer.change).unwrap_or("unknown").to_owned(),
        ]);
    }
    table
}

/// Where a run comes from, besides its schedule, and with which parameters.
pub(super) fn origin(run: &Run) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(spread) = &run.spread {
        let Spread { places, ended, succeeded } = spread;
        let told = format!("{ended} of {places} have ended, {succeeded} of them well");
        rows.push(("workers", told));
    }
    if !run.parent.is_empty() {
        rows.push(("parent", run.parent.clone()));
    }
    if !run.place.is_empty() {
        rows.push(("place", run.place.clone()));
    }
    if run.chain_id != run.run_id {
        rows.push(("chain_id", run.chain_id.clone()));
    }
    if !run.upstream.is_empty() {
        rows.push(("upstream", run.upstream.join(" ")));
    }
    if !run.retry_of.is_empty() {
        rows.push(("retry_of", run.retry_of.clone()));
    }
    if run.backfill != 0 {
        rows.push(("backfill", run.backfill.to_string()));
    }
    if !run.params.is_empty() {
        let each = run.params.iter().map(|(name, value)| format!("{name}={value}"));
        rows.push(("params", each.collect::<Vec<_>>().join(" ")));
    }
    rows
}
