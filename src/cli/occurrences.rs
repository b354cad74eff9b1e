//! The occurrences of one schedule, as the leader would compute them.

use super::Failure;
use crate::pb::instant::write;
use crate::pb::v1::{NextOccurrencesResponse, Occurrence};
use crate::scheduler::rule::CompiledSchedule;
use crate::scheduler::spread::Spread;
use crate::state::schedule::Schedule;
use crate::state::time::Timestamp;

/// The next `count` occurrences after an instant; fewer when the schedule has no more.
///
/// # Errors
/// [`Failure::Schedule`] for a schedule that the scheduler refuses.
pub(super) fn next(
    schedule: &Schedule,
    spread: Spread,
    after: Timestamp,
    count: u32,
) -> Result<NextOccurrencesResponse, Failure> {
    let schedule = CompiledSchedule::compile(schedule, spread)
        .map_err(|error| Failure::Schedule { message: error.to_string(), hint: error.hint() })?;
    let mut occurrences = Vec::new();
    let mut last = after;
    for _ in 0..count {
        let Some(found) = schedule.describe_next(last) else { break };
        last = found.at;
        occurrences.push(Occurrence {
            at: Some(write(found.at)),
            local: found.local,
            note: found.note.unwrap_or_default(),
        });
    }
    Ok(NextOccurrencesResponse { occurrences })
}
