//! The occurrences of one schedule, as the leader would compute them.

use super::args::Output;
use super::printer::Printer;
use super::{Failure, tables};
use crate::pb::instant::write;
use crate::pb::v1::{NextOccurrencesResponse, Occurrence};
use crate::scheduler::almanac::Almanac;
use crate::scheduler::english::explain;
use crate::scheduler::rule::{CompiledSchedule, Described, ScheduleError};
use crate::scheduler::spread::Spread;
use crate::state::schedule::Schedule;
use crate::state::time::Timestamp;

/// Which occurrences are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The first ones later than an instant.
    After(Timestamp),
    /// The last ones earlier than an instant, the newest first.
    Before(Timestamp),
}

/// A schedule that the scheduler refuses.
fn refused(error: &ScheduleError) -> Failure {
    Failure::Schedule { message: error.to_string(), hint: error.hint() }
}

/// `count` occurrences; fewer when the schedule has no more.
///
/// # Errors
/// [`Failure::Schedule`] for a schedule that the scheduler refuses.
pub(super) fn find(
    schedule: &Schedule,
    spread: Spread,
    wanted: Wanted,
    count: u32,
) -> Result<NextOccurrencesResponse, Failure> {
    let compiled =
        CompiledSchedule::compile(schedule, spread, &Almanac::bundled()).map_err(|error| refused(&error))?;
    let (step, from): (fn(&CompiledSchedule, Timestamp) -> Option<Timestamp>, _) = match wanted {
        Wanted::After(after) => (CompiledSchedule::next_after, after),
        Wanted::Before(before) => (CompiledSchedule::last_before, before),
    };
    // what comes after the end of a run that has not begun is not known
    let count = if compiled.is_after_completion() { 1 } else { count };
    let instants = std::iter::successors(step(&compiled, from), |at| step(&compiled, *at));
    let shown = |at| {
        let Described { at, local, note } = compiled.describe(at);
        Occurrence { at: Some(write(at)), local, note: note.unwrap_or_default() }
    };
    let occurrences = instants.take(count as usize).map(shown).collect();
    Ok(NextOccurrencesResponse { occurrences, explanation: Vec::new() })
}

/// Prints the explanation, where one was asked for, and the occurrences below it.
pub(super) fn print(found: &NextOccurrencesResponse, printer: &mut Printer) -> Result<(), Failure> {
    if matches!(printer.output(), Output::Table | Output::Wide) {
        found.explanation.iter().try_for_each(|sentence| printer.line(sentence))?;
    }
    printer.list(found, &found.occurrences, |_| tables::occurrences(&found.occurrences))
}

/// What a schedule means, a sentence each.
///
/// # Errors
/// [`Failure::Schedule`] for a schedule that the scheduler refuses.
pub(super) fn explained(schedule: &Schedule, spread: Spread) -> Result<Vec<String>, Failure> {
    explain(schedule, spread, &Almanac::bundled()).map_err(|error| refused(&error))
}
