//! Runs of jobs that say `every_node`: one occurrence, carried out once on each worker that matches.
//!
//! The occurrence has one run, as any other, and overlap, `start_within` and an open breaker decide about that one.
//! Once it waits for a worker, the leader names the places of all workers that match then, and the run is *spread*: it
//! makes one run for each, its *parts*, which no other worker may carry out, and waits for them. A part has attempts, a
//! retry policy, limits and a breaker like any run, and no part waits for another. When all have ended the run ends: it
//! succeeded if all of them did.
//!
//! Which workers match is decided once, in the log, so no leader change adds or forgets one. A worker that comes
//! later has no part in the run. One that goes is waited for: for `start_within`, or [`limits::PLACE_WAIT`], each time that
//! an attempt is to start; then its part ends as `expired`, so that a place that never returns keeps nothing for ever.

use std::sync::Arc;

use super::State;
use super::apply::Applying;
use super::command::Outcome;
use super::job::Job;
use super::limits;
use super::rejection::Rejection;
use super::run::{CancelRequest, JobId, Phase, Reason, Run, RunId, RunState, Spread};
use super::spec::JobSpec;
use super::time::Timestamp;

/// The place of a worker: what is before the last `/` of its name, which changes with each life of its process.
#[must_use]
pub fn place_of(worker: &str) -> &str {
    worker.rsplit_once('/').map_or(worker, |(place, _)| place)
}

/// Whether a run of such a job, which waits for a worker, is to be spread first.
#[must_use]
pub fn is_spread(spec: &JobSpec, run: &Run) -> bool {
    spec.every_node && run.place.is_none() && run.is_untouched()
}

impl State {
    /// Whether a run is to be spread before anything of it starts.
    #[must_use]
    pub fn spreads(&self, run: &Run) -> bool {
        self.jobs.get(&run.id.job).is_some_and(|job| is_spread(&job.spec, run))
    }
}

impl Applying<'_> {
    /// Makes a run for each place, if the run waits for that.
    pub(super) fn spread(&mut self, id: RunId, places: &[Arc<str>]) -> Result<Outcome, Rejection> {
        let run = self.state.runs.get(&id).cloned().ok_or(Rejection::NoRun)?;
        let expired = run.must_start_by().is_some_and(|start_by| start_by < self.moment.at);
        if run.phase != Phase::Waiting || expired || !self.state.spreads(&run) {
            return Err(Rejection::Stale);
        }
        let ascend = places.windows(2).all(|pair| pair[0] < pair[1]);
        if places.is_empty() || !ascend {
            return Err(Rejection::Malformed);
        }
        let job = self.state.jobs.get(&id.job).cloned().ok_or(Rejection::NoJob)?;
        let run = run.as_ref().clone();
        let full = if places.len() > limits::PLACES {
            Some(format!("more than {} workers match", limits::PLACES))
        } else if self.state.runs.len() + places.len() > limits::LIVE_RUNS {
            Some(format!("{} runs are live in the cluster", limits::LIVE_RUNS))
        } else {
            None
        };
        if let Some(detail) = full {
            self.end(run, RunState::Skipped, Some(Reason::Limit), detail);
            return Ok(Outcome::Spread { runs: 0 });
        }
        let parts: Vec<Run> =
            (1..).zip(places).map(|(number, place)| self.part(&job, &run, (number, place))).collect();
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        let mut parent = run;
        parent.phase = Phase::Spread;
        parent.state = RunState::Running;
        parent.spread = Some(Box::new(Spread { places: count, ..Spread::default() }));
        self.state.put_run(parent);
        // All of them live before the first is admitted, for an open breaker ends it at once.
        for part in &parts {
            self.state.put_run(part.clone());
        }
        let outer = std::mem::replace(&mut self.admitting, true);
        for part in parts {
            self.admit(part);
        }
        self.admitting = outer;
        self.admit_queued(id.job);
        Ok(Outcome::Spread { runs: count })
    }

    fn part(&self, job: &Job, run: &Run, (number, place): (u16, &Arc<str>)) -> Run {
        Run {
            id: run.id.at_place(number),
            // The instant is the run's, and is counted there.
            stands_for: 0,
            scheduled_from: None,
            detail: format!("the part of run {} for {place}", run.id),
            phase: Phase::Queued,
            start_by: Some(self.place_deadline(job)),
            chain: Some(run.chain.unwrap_or(run.id)),
            place: Some(place.clone()),
            parent: Some(run.id),
            spread: None,
            ..run.clone()
        }
    }

    /// Until when a run that only one place may carry out must start.
    pub(super) fn place_deadline(&self, job: &Job) -> Timestamp {
        self.moment.at.plus(job.spec.start_within.unwrap_or(limits::PLACE_WAIT))
    }

    /// Another attempt is to start: its place has as long as for the first.
    pub(super) fn wait_for_place(&self, run: &mut Run) {
        if run.place.is_some()
            && let Some(job) = self.state.jobs.get(&run.id.job)
        {
            run.start_by = Some(self.place_deadline(job));
        }
    }

    /// Ends what a run made; with the last of it the run ends.
    pub(super) fn stop_spread(&mut self, mut run: Run, reason: Reason, detail: &str) {
        let id = run.id;
        if run.cancel.is_some() {
            return;
        }
        run.cancel = Some(CancelRequest { at: self.moment.at, reason, detail: detail.to_owned() });
        self.state.put_run(run);
        let parts = self.state.runs_of(id.job).filter(|part| part.parent == Some(id));
        let parts: Vec<RunId> = parts.map(|part| part.id).collect();
        for part in parts {
            self.stop(part, reason, detail);
        }
    }

    /// Counts an ended part at the run that made it, which ends with the last.
    pub(super) fn part_ended(&mut self, part: &Run) {
        let parent = part.parent.and_then(|parent| self.state.runs.get(&parent)).cloned();
        let Some(mut run) = parent.map(|parent| parent.as_ref().clone()) else { return };
        let Some(spread) = run.spread.as_mut() else { return };
        spread.ended += 1;
        match part.state {
            RunState::Succeeded => spread.succeeded += 1,
            RunState::Skipped => spread.skipped += 1,
            RunState::Failed | RunState::Cancelled | RunState::Pending | RunState::Running => {}
        }
        if part.state != RunState::Succeeded && spread.first.is_none() {
            spread.first = Some((part.id, part.reason));
        }
        let spread = spread.as_ref().clone();
        if spread.ended < spread.places {
            return self.state.put_run(run);
        }
        let Some((first, why)) = spread.first else {
            let detail = match spread.places {
                1 => "succeeded on the one worker that matched".to_owned(),
                places => format!("succeeded on all {places} workers that matched"),
            };
            return self.end(run, RunState::Succeeded, None, detail);
        };
        if let Some(cancel) = run.cancel.clone() {
            return self.end(run, RunState::Cancelled, Some(cancel.reason), cancel.detail);
        }
        let state = if spread.skipped == spread.places { RunState::Skipped } else { RunState::Failed };
        let detail = format!(
            "succeeded on {} of {} workers; run {first} was the first that did not",
            spread.succeeded, spread.places
        );
        self.end(run, state, why, detail);
    }

    /// A definition that says otherwise of `every_node` stands: what waits goes to where it waits now.
    pub(super) fn admit_anew(&mut self, job: JobId) {
        let is_kept =
            |run: &&Arc<Run>| matches!(run.phase, Phase::Waiting | Phase::Held) && run.parent.is_none();
        let kept: Vec<Arc<Run>> = self.state.runs_of(job).filter(is_kept).cloned().collect();
        for run in kept {
            self.admit(run.as_ref().clone());
        }
    }
}
