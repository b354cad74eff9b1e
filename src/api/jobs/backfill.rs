//! `BackfillJob`: runs for the occurrences of a past range that have none.

use std::collections::BTreeSet;
use std::sync::Arc;

use tonic::Status;

use super::super::problem::Problems;
use super::super::spec::value;
use super::super::write::{Write as _, job};
use super::super::{Api, status};
use super::compiled;
use crate::history::{HistoryError, RunLog};
use crate::pb::v1 as pb;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::occurrences::WALK;
use crate::scheduler::set::ScheduleSet;
use crate::state::run::{Run, RunState};
use crate::state::spec::OnResume;
use crate::state::time::Timestamp;
use crate::state::{self, Command, Job, JobChange, Outcome, State};
use crate::view;

/// Records read at a time.
const CHUNK: usize = 250;
/// A millisecond before an instant: the walk over occurrences begins after it.
const BEFORE: std::time::Duration = std::time::Duration::from_millis(1);

/// From this instant on the schedule itself will decide.
fn decided_by_schedule(job: &Job) -> Option<Timestamp> {
    let resumes = job.pause.as_ref().filter(|_| job.spec.on_resume == OnResume::CatchUp);
    job.next.or_else(|| resumes.and_then(|pause| pause.armed)).map(|armed| armed.scheduled_at)
}

/// The occurrences of `from` to `to`, the latter not included.
fn occurrences(set: &ScheduleSet, from: Timestamp, to: Timestamp) -> Result<Vec<Timestamp>, Status> {
    let mut found = Vec::new();
    let mut cursor = from.minus(BEFORE);
    while let Some((at, _)) = set.next_after(cursor).filter(|(at, _)| *at < to) {
        if found.len() as u64 >= WALK {
            let status = Status::invalid_argument(format!("the range has more than {WALK} occurrences"));
            return Err(status::hinted(status, "name a shorter range"));
        }
        found.push(at);
        cursor = at;
    }
    Ok(found)
}

/// Takes out the occurrences that have a run, live or ended. One that was skipped never ran.
fn remove_present(
    (state, log): (&State, &RunLog),
    job: &Job,
    wanted: &mut BTreeSet<Timestamp>,
) -> Result<(), HistoryError> {
    let (Some(first), Some(last)) = (wanted.first().copied(), wanted.last().copied()) else { return Ok(()) };
    let mut take_out = |run: &Run| {
        if run.state == RunState::Skipped {
            return;
        }
        let from = run.scheduled_from.unwrap_or(run.id.at);
        let covered: Vec<Timestamp> = wanted.range(from..=run.id.at.max(from)).copied().collect();
        for at in covered {
            wanted.remove(&at);
        }
    };
    state.runs_of(job.id).for_each(|run| take_out(run));
    let mut incarnations = log.jobs_named(&job.spec.namespace, &job.spec.name)?;
    incarnations.push(job.id);
    incarnations.sort_unstable();
    incarnations.dedup();
    for id in incarnations {
        let mut cursor = None;
        loop {
            let found = log.newest_of(id, cursor, Some(first), CHUNK)?;
            for run in &found {
                take_out(run);
            }
            match found.last() {
                Some(run) => cursor = Some(run.id),
                None => break,
            }
        }
        // A run of `catch_up: latest` stands for instants before its own, so one behind the range may cover its end.
        if let Some(run) = log.first_after(id, last)? {
            take_out(&run);
        }
    }
    Ok(())
}

impl Api {
    pub(super) async fn backfill_here(
        self,
        mut message: pb::BackfillJobRequest,
    ) -> Result<pb::BackfillJobResponse, Status> {
        let request = message.request();
        let mut problems = Problems::new();
        let from = value::instant("from", message.from.as_ref(), &mut problems);
        let to = value::instant("to", message.to.as_ref(), &mut problems);
        if from.is_none() && problems.is_empty() {
            problems.add("from", "is missing");
        }
        if !problems.is_empty() {
            return Err(status::invalid(&problems));
        }
        let named = (message.namespace.as_str(), message.name.as_str());
        self.barrier().await?;
        self.whole_log()?;
        let state = self.shared.raft.state();
        let now = self.stamp(&state).await?;
        let job = Arc::clone(job(&state, named.0, named.1)?);
        let from = from.unwrap_or(now);
        let to = to.unwrap_or(now);
        if to > now {
            return Err(status::invalid_field(
                "to",
                "is in the future, and what is not due yet is not missing",
            ));
        }
        if job.spec.schedules.is_empty() {
            return Err(Status::failed_precondition(
                "the job has no schedule, so no occurrence of it is missing",
            ));
        }
        if job.spec.schedules.iter().any(|schedule| schedule.after_completion().is_some()) {
            let text =
                "the occurrences of `from: completion` follow from runs, so none of the past is missing";
            return Err(Status::failed_precondition(text));
        }
        let until = decided_by_schedule(&job).map_or(to, |armed| armed.min(to));
        let all = occurrences(&compiled(&job.spec, &Almanac::of(&state))?, from, until)?;
        let count = all.len();
        let (version, looked_at) = (job.version, Arc::clone(&job));
        let missing = self
            .look(move |log| {
                let mut wanted: BTreeSet<Timestamp> = all.into_iter().collect();
                remove_present((&state, log), &looked_at, &mut wanted)?;
                Ok(wanted.into_iter().collect::<Vec<_>>())
            })
            .await?;
        let present = u32::try_from(count - missing.len()).unwrap_or(u32::MAX);
        let scheduled_at = missing.iter().copied().map(view::instant).collect();
        let mut answer = pb::BackfillJobResponse { backfill: 0, scheduled_at, present };
        if missing.len() > state::limits::BACKFILL {
            let most = state::limits::BACKFILL;
            let text =
                format!("{} occurrences are missing, at most {most} can be made at once", missing.len());
            return Err(status::hinted(Status::resource_exhausted(text), "name a shorter range"));
        }
        if message.dry_run || missing.is_empty() {
            return Ok(answer);
        }
        let make = |job: &Job, _| {
            Ok(Command::Backfill {
                job: job.reference(),
                version,
                instants: missing.clone(),
                request: request.clone(),
            })
        };
        match self.decide_job(JobChange::Backfill, named, &request, make).await? {
            Outcome::Backfilled { backfill, .. } => answer.backfill = backfill,
            _ => return Err(status::unexpected()),
        }
        Ok(answer)
    }
}
