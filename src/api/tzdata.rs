//! `SetTzdata`: which zones and jobs move with other data of the time zones, and the change itself.

use std::collections::HashMap;
use std::sync::Arc;

use tonic::Status;

use super::write::Write as _;
use super::{Api, limits, status};
use crate::pb::v1 as pb;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::moves::first_move;
use crate::scheduler::set::ScheduleSet;
use crate::scheduler::zone::Zones;
use crate::scheduler::zone::data::Moved;
use crate::state::time::Timestamp;
use crate::state::tzdata::{ZoneData, ZoneFile};
use crate::state::{Command, Job, State};
use crate::view;

/// Jobs that an answer names.
const JOBS_NAMED: usize = 1_000;
/// Jobs that a refusal names.
const JOBS_REFUSED: usize = 5;
/// Occurrences that are compared for one answer: some seconds of one core.
const COMPARED: u64 = 20_000_000;
/// The wall time of an instant is on its day or on one beside it.
const DAY: std::time::Duration = std::time::Duration::from_secs(2 * 86_400);

/// The database that a request names, checked.
fn read(data: Option<pb::ZoneData>) -> Result<Zones, Status> {
    let Some(pb::ZoneData { release, files }) = data else { return Ok(Zones::bundled()) };
    let mut files: Vec<ZoneFile> = files
        .into_iter()
        .map(|pb::ZoneFile { mut names, tzif }| {
            names.sort_unstable();
            ZoneFile { names, tzif }
        })
        .collect();
    files.sort_unstable_by(|one, other| one.names.cmp(&other.names));
    if let Some(place) = files.iter().position(|file| file.names.is_empty()) {
        return Err(status::invalid_field(&format!("data.files[{place}].names"), "is empty"));
    }
    Zones::checked(Arc::new(ZoneData { release, files }))
        .map_err(|error| status::invalid_field("data", &error.to_string()))
}

/// What a change would do.
struct Compared {
    zones: Vec<Moved>,
    jobs: Vec<pb::MovedJob>,
    moved: u64,
    unknown: u64,
}

/// Compares all jobs.
///
/// # Errors
/// FAILED_PRECONDITION when a job could not be read any more.
fn compare(state: &State, new: &Zones, at: Timestamp) -> Result<Compared, Status> {
    let old = Almanac::of(state);
    let new = old.with_zones(new.clone());
    let zones = old.zones().moved(new.zones(), at);
    let from: HashMap<&str, Timestamp> = zones.iter().map(|zone| (zone.name.as_str(), zone.from)).collect();
    let mut compared = Compared { zones: Vec::new(), jobs: Vec::new(), moved: 0, unknown: 0 };
    let (mut steps, mut unread) = (0, Vec::new());
    for job in state.jobs_after(None).filter(|job| job.is_zoned()) {
        let Ok(before) = ScheduleSet::of(&job.spec, &old) else { continue };
        // The first instant at which one of its zones differs.
        let first = before.schedules().iter().filter_map(|schedule| from.get(schedule.zone().name())).min();
        let Some(first) = first else { continue };
        let after = match ScheduleSet::of(&job.spec, &new) {
            Ok(after) => after,
            Err(error) => {
                unread.push(format!("{}: {error}", named(job)));
                if unread.len() > JOBS_REFUSED {
                    break;
                }
                continue;
            }
        };
        if steps >= COMPARED {
            compared.unknown += 1;
            continue;
        }
        let (moved, count) = first_move(&before, &after, at.max(first.minus(DAY)));
        steps += u64::from(count);
        let Some(moved) = moved else { continue };
        compared.moved += 1;
        if compared.jobs.len() < JOBS_NAMED {
            compared.jobs.push(pb::MovedJob {
                namespace: job.spec.namespace.clone(),
                name: job.spec.name.clone(),
                old_at: moved.old.map(view::instant),
                new_at: moved.new.map(view::instant),
            });
        }
    }
    if !unread.is_empty() {
        let more = unread.len() > JOBS_REFUSED;
        unread.truncate(JOBS_REFUSED);
        let more = if more { "; and more" } else { "" };
        let text = format!("jobs could not be read with this data: {}{more}", unread.join("; "));
        let refused = Status::failed_precondition(text);
        return Err(status::hinted(refused, "give these jobs zones that the data has, or set other data"));
    }
    compared.zones = zones;
    Ok(compared)
}

fn named(job: &Job) -> String {
    format!("{}/{}", job.spec.namespace, job.spec.name)
}

impl Api {
    pub(super) async fn set_tzdata_here(
        self,
        mut message: pb::SetTzdataRequest,
    ) -> Result<pb::SetTzdataResponse, Status> {
        let request = message.request();
        let data = message.data.take();
        let state = self.state(false).await?;
        let at = self.stamp(&state).await?;
        let comparing = {
            let state = Arc::clone(&state);
            move || {
                let new = read(data)?;
                let compared = compare(&state, &new, at)?;
                Ok::<_, Status>((new, compared))
            }
        };
        let compared = crate::threads::blocking(comparing).await;
        let (new, compared) = compared.map_err(|_| Status::unavailable("the node is ending"))??;
        let old = Zones::of(&state);
        let unchanged = state.tzdata().is_some_and(|tzdata| tzdata.hash == new.hash());
        let mut moment = at;
        if !message.dry_run && !unchanged {
            let make = |state: &State, at| {
                let expect = state.tzdata().map(|tzdata| tzdata.hash);
                let shifts = Zones::of(state).shifts(&new, at);
                Ok(Command::SetTzdata { data: new.data().clone(), shifts, expect, request: request.clone() })
            };
            self.decide(&request.operation_id, make).await?;
            let set = self.shared.raft.state().tzdata().filter(|set| set.hash == new.hash()).cloned();
            moment = set.map_or(at, |set| set.origin.at);
        }
        let zones = compared.zones.into_iter().map(|zone| pb::MovedZone {
            name: zone.name,
            from: Some(view::instant(zone.from)),
            old_offset: i32::try_from(zone.old_offset).unwrap_or_default(),
            new_offset: zone.new_offset.and_then(|offset| i32::try_from(offset).ok()),
        });
        Ok(pb::SetTzdataResponse {
            release: new.release().to_owned(),
            hash: new.hash().to_string(),
            release_before: old.release().to_owned(),
            hash_before: old.hash().to_string(),
            at: Some(view::instant(moment)),
            zones: zones.take(limits::ZONES_NAMED).collect(),
            jobs: compared.jobs,
            moved_jobs: compared.moved,
            unknown_jobs: compared.unknown,
            unchanged,
        })
    }
}
