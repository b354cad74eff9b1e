//! The occurrences of a job's schedules: the instants that they name, whatever ran.

use std::collections::BTreeSet;

use tonic::Status;

use super::super::problem::Problems;
use super::super::spec::value;
use super::super::status;
use crate::pb::v1 as pb;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::coming;
use crate::scheduler::english::explain;
use crate::scheduler::set::ScheduleSet;
use crate::scheduler::spread::Spread;
use crate::state::Job;
use crate::state::schedule::Schedule;
use crate::state::spec::{JobSpec, OnExcluded};
use crate::state::time::Timestamp;
use crate::view;

/// What is said of an occurrence behind which none is known.
const ONE_AT_A_TIME: &str = "the next one is armed when its run has ended";

/// Which occurrences are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// The first ones later than an instant.
    After(Timestamp),
    /// The last ones earlier than an instant, the newest first.
    Before(Timestamp),
}

/// What a request asks for, if it names an instant.
pub(super) fn wanted(message: &pb::NextOccurrencesRequest) -> Result<Option<Wanted>, Status> {
    let mut problems = Problems::new();
    let after = value::instant("after", message.after.as_ref(), &mut problems);
    let before = value::instant("before", message.before.as_ref(), &mut problems);
    if after.is_some() && before.is_some() {
        problems.add("before", "does not go with `after`");
    }
    if !problems.is_empty() {
        return Err(status::invalid(&problems));
    }
    Ok(before.map(Wanted::Before).or(after.map(Wanted::After)))
}

/// The occurrences, odd days marked.
pub(super) fn described(job: &Job, set: &ScheduleSet, wanted: Wanted, count: usize) -> Vec<pb::Occurrence> {
    if set.is_after_completion() {
        return armed(job, set, wanted).into_iter().collect();
    }
    let (mut cursor, is_past) = match wanted {
        Wanted::After(after) => (after, false),
        Wanted::Before(before) => (before, true),
    };
    let step = |from| if is_past { set.last_before(from) } else { set.next_after(from) };
    let mut found = Vec::new();
    while found.len() < count
        && let Some((at, index)) = step(cursor)
        && let Some(schedule) = set.schedules().get(index)
    {
        cursor = at;
        let shown = schedule.describe(at);
        let excluded = coming::told(&job.spec, set, (at, index));
        let note = shown.note.into_iter().chain(excluded).collect::<Vec<_>>().join("; ");
        found.push(pb::Occurrence { at: Some(view::instant(at)), local: shown.local, note });
    }
    found
}

/// The one that is armed, where the next depends on the end of its run.
fn armed(job: &Job, set: &ScheduleSet, wanted: Wanted) -> Option<pb::Occurrence> {
    let at = job.armed()?.scheduled_at;
    let is_wanted = match wanted {
        Wanted::After(after) => at > after,
        Wanted::Before(before) => at < before,
    };
    let local = set.schedules().first()?.describe(at).local;
    let note = ONE_AT_A_TIME.to_owned();
    is_wanted.then(|| pb::Occurrence { at: Some(view::instant(at)), local, note })
}

/// What the schedules mean, in plain English.
pub(super) fn explained(spec: &JobSpec, almanac: &Almanac) -> Vec<String> {
    let spread = Spread::of(&spec.namespace, &spec.name);
    // all of them are compiled already
    let mut told: Vec<String> = spec
        .schedules
        .iter()
        .filter_map(|schedule| explain(schedule, spread, almanac).ok())
        .flatten()
        .collect();
    let calendars = |named: fn(&Schedule) -> &Vec<String>| {
        let names: BTreeSet<&str> = spec.schedules.iter().flat_map(named).map(String::as_str).collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    let (exclude, only) = (calendars(|schedule| &schedule.exclude), calendars(|schedule| &schedule.only));
    if !exclude.is_empty() {
        told.push(format!("Not when it is covered by: {exclude}."));
    }
    if !only.is_empty() {
        told.push(format!("Only when it is covered by: {only}."));
    }
    if !exclude.is_empty() || !only.is_empty() {
        told.push(
            match spec.on_excluded {
                OnExcluded::Skip => "What is excluded is skipped.",
                OnExcluded::NextAllowed => "What is excluded is put off until it is allowed.",
            }
            .to_owned(),
        );
    }
    told
}
