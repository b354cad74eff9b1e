//! Decides occurrences, and makes runs by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::apply::{Applying, who};
use super::command::{Again, Due, Outcome, Request, Verdict};
use super::job::{Fault, Job};
use super::limits;
use super::rejection::Rejection;
use super::run::{Cause, JobId, Phase, Reason, Run, RunId, RunState};
use super::time::Timestamp;

/// What makes one run different from the next of its job.
pub(super) struct Birth {
    pub(super) id: RunId,
    /// The first instant that it stands for, if it stands for others.
    pub(super) from: Timestamp,
    pub(super) cause: Cause,
    pub(super) due_at: Timestamp,
    pub(super) stands_for: u64,
    pub(super) actor: String,
    pub(super) detail: String,
}

impl Applying<'_> {
    /// Decides the occurrences from the armed one up to the next that is to be armed.
    pub(super) fn fire(
        &mut self,
        id: JobId,
        version: u64,
        expect: Timestamp,
        (verdicts, next): (&[Verdict], Option<Due>),
    ) -> Result<Outcome, Rejection> {
        let job = self.live_job(id)?;
        if job.version != version || job.next.map(|armed| armed.scheduled_at) != Some(expect) {
            return Err(Rejection::Stale);
        }
        self.not_behind(&job)?;
        self.check(expect, verdicts, next)?;
        let mut armed = job.as_ref().clone();
        armed.next = next;
        armed.decided_until = verdicts.last().map_or(expect, Verdict::until);
        self.state.put_job(armed);

        let mut runs = Vec::with_capacity(verdicts.len());
        let mut started = 0;
        for verdict in verdicts {
            let run = match *verdict {
                Verdict::Run { from, scheduled_at, due_at, cause, stands_for } => {
                    let id = RunId { job: id, at: scheduled_at, seq: 0 };
                    let detail = if stands_for > 1 {
                        format!("stands for {stands_for} instants from {from} on")
                    } else {
                        String::new()
                    };
                    let actor = String::new();
                    self.enter_new(&job, Birth { id, from, cause, due_at, stands_for, actor, detail });
                    id
                }
                Verdict::Missed { from, until, count } => self.miss(&job, from, until, count),
            };
            started += u32::from(self.state.runs.contains_key(&run));
            runs.push(run);
        }
        Ok(Outcome::Fired { runs, started })
    }

    /// Arms what follows from the end of the last run, while no other runs.
    pub(super) fn arm(
        &mut self,
        id: JobId,
        version: u64,
        since: Timestamp,
        next: Due,
    ) -> Result<Outcome, Rejection> {
        let job = self.live_job(id)?;
        if job.version != version || job.rests_since() != since || !self.state.resting.contains(&id) {
            return Err(Rejection::Stale);
        }
        if next.scheduled_at <= since
            || next.scheduled_at <= job.decided_until
            || next.due_at < next.scheduled_at
        {
            return Err(Rejection::Malformed);
        }
        let mut armed = job.as_ref().clone();
        armed.next = Some(next);
        self.state.put_job(armed);
        Ok(Outcome::Done)
    }

    /// Nobody can say when the job is due again: one record for the armed instant, and a job that waits for
    /// someone to change it.
    pub(super) fn disarm(
        &mut self,
        id: JobId,
        version: u64,
        expect: Timestamp,
        why: &str,
    ) -> Result<Outcome, Rejection> {
        let job = self.live_job(id)?;
        let armed = job.next.filter(|armed| armed.scheduled_at == expect && job.version == version);
        let armed = armed.ok_or(Rejection::Stale)?;
        self.not_behind(&job)?;
        if armed.due_at > self.moment.at {
            return Err(Rejection::Early);
        }
        let mut why = why.to_owned();
        why.truncate(why.floor_char_boundary(limits::ERROR_BYTES));
        let mut faulty = job.as_ref().clone();
        faulty.next = None;
        faulty.decided_until = expect;
        faulty.fault = Some(Fault { since: self.moment.at, why: why.clone() });
        self.state.put_job(faulty);
        let run = RunId { job: id, at: expect, seq: 0 };
        let birth = Birth {
            id: run,
            from: expect,
            cause: Cause::Schedule,
            due_at: armed.due_at,
            stands_for: 1,
            actor: String::new(),
            detail: String::new(),
        };
        let detail = format!("the schedule cannot be evaluated: {why}");
        self.end(self.born(&job, birth), RunState::Skipped, Some(Reason::Schedule), detail);
        Ok(Outcome::Fired { runs: vec![run], started: 0 })
    }

    /// Nothing is decided that was computed with what has changed since.
    fn not_behind(&self, job: &Job) -> Result<(), Rejection> {
        if self.state.is_behind(job) { Err(Rejection::Stale) } else { Ok(()) }
    }

    /// Never early, in order, beginning with the armed instant, ending before the next.
    fn check(&self, expect: Timestamp, verdicts: &[Verdict], next: Option<Due>) -> Result<(), Rejection> {
        let mut last: Option<Timestamp> = None;
        for verdict in verdicts {
            let (first, until, due_at, count) = match *verdict {
                Verdict::Run { from, scheduled_at, due_at, stands_for, .. } => {
                    (from, scheduled_at, due_at, stands_for)
                }
                Verdict::Missed { from, until, count } => (from, until, until, count),
            };
            let in_order = match last {
                None => first == expect,
                Some(last) => first > last,
            };
            let adds_up = if count == 1 { first == until } else { first < until && count > 1 };
            if !in_order || !adds_up {
                return Err(Rejection::Malformed);
            }
            if due_at > self.moment.at {
                return Err(Rejection::Early);
            }
            last = Some(until);
        }
        match (last, next) {
            (None, _) => Err(Rejection::Malformed),
            (Some(last), Some(next)) if next.scheduled_at <= last => Err(Rejection::Malformed),
            (Some(_), _) => Ok(()),
        }
    }

    pub(super) fn born(&self, job: &Arc<Job>, birth: Birth) -> Run {
        Run {
            id: birth.id,
            namespace: job.spec.namespace.as_str().into(),
            job: job.spec.name.as_str().into(),
            version: job.version,
            queue: job.spec.queue.as_str().into(),
            cause: birth.cause,
            due_at: birth.due_at,
            fired_at: self.moment.at,
            scheduled_until: None,
            scheduled_from: Some(birth.from).filter(|from| *from < birth.id.at),
            stands_for: birth.stands_for,
            state: RunState::Pending,
            reason: None,
            detail: birth.detail,
            actor: birth.actor,
            finished_at: None,
            phase: Phase::Queued,
            attempts: Vec::new(),
            reruns: 0,
            cancel: None,
            breaker: job.breaker(),
            start_by: job.spec.start_within.map(|span| birth.due_at.plus(span)),
            overdue_at: None,
            params: job.spec.params.clone(),
            group: None,
            chain: None,
            upstream: Vec::new(),
            retry_of: None,
            backfill: None,
            inputs: BTreeMap::new(),
            place: None,
            parent: None,
            spread: None,
        }
    }

    fn enter_new(&mut self, job: &Arc<Job>, birth: Birth) {
        let run = self.born(job, birth);
        match run.start_by {
            Some(start_by) if start_by < self.moment.at => {
                let detail = format!("decided {} ms after it was due", run.lateness().as_millis());
                self.end(run, RunState::Skipped, Some(Reason::Expired), detail);
            }
            Some(_) | None => self.enter(job, run),
        }
    }

    /// One record for a range of instants that nobody wants any more.
    fn miss(&mut self, job: &Arc<Job>, from: Timestamp, until: Timestamp, count: u64) -> RunId {
        let id = RunId { job: job.id, at: from, seq: 0 };
        let detail = format!("missed {count} from {from} to {until}");
        let birth = Birth {
            id,
            from,
            cause: Cause::CatchUp,
            due_at: from,
            stands_for: count,
            actor: String::new(),
            detail: detail.clone(),
        };
        let mut run = self.born(job, birth);
        run.scheduled_until = Some(until);
        run.start_by = None;
        self.end(run, RunState::Skipped, Some(Reason::CatchUp), detail);
        id
    }

    /// Makes a run now.
    pub(super) fn trigger(
        &mut self,
        id: JobId,
        request: &Request,
        (params, again, place): (&BTreeMap<String, String>, Option<Again>, Option<&Arc<str>>),
    ) -> Result<Outcome, Rejection> {
        let job = self.live_job(id)?;
        if params.keys().any(|name| !job.spec.params.contains_key(name)) {
            return Err(Rejection::Malformed);
        }
        let at = self.moment.at;
        let id = RunId { job: id, at, seq: self.number.max(1) };
        let actor = request.actor.clone();
        let detail = match again {
            Some(again) => format!("made again of run {}{}", again.run, who(request)),
            None => format!("triggered{}", who(request)),
        };
        let mut run = self.born(
            &job,
            Birth { id, from: at, cause: Cause::Manual, due_at: at, stands_for: 1, actor, detail },
        );
        run.params.extend(params.iter().map(|(name, value)| (name.clone(), value.clone())));
        run.chain = again.map(|again| again.chain);
        run.retry_of = again.map(|again| again.run);
        run.place = place.cloned();
        if run.place.is_some() {
            run.start_by = Some(self.place_deadline(&job));
        }
        self.enter(&job, run);
        Ok(Outcome::Triggered { run: id })
    }

    /// Makes a run for each of these past instants. They wait for their turn, and what is due goes before them.
    pub(super) fn backfill(
        &mut self,
        id: JobId,
        version: u64,
        instants: &[Timestamp],
        request: &Request,
    ) -> Result<Outcome, Rejection> {
        let job = self.live_job(id)?;
        if job.version != version {
            return Err(Rejection::Stale);
        }
        let ascend = instants.windows(2).all(|pair| pair[0] < pair[1]);
        let is_past = instants.last().is_some_and(|last| *last <= self.moment.at);
        if !ascend || !is_past {
            return Err(Rejection::Malformed);
        }
        let live = self.state.runs_of(id).count();
        if instants.len() > limits::BACKFILL || live + instants.len() > limits::LIVE_RUNS_PER_JOB {
            return Err(Rejection::Limit);
        }
        if self.state.runs.len() + instants.len() > limits::LIVE_RUNS {
            return Err(Rejection::Limit);
        }
        let number = self.number.max(1);
        let outer = std::mem::replace(&mut self.admitting, true);
        for at in instants {
            let id = RunId { job: id, at: *at, seq: number };
            let birth = Birth {
                id,
                from: *at,
                cause: Cause::Backfill,
                due_at: self.moment.at,
                stands_for: 1,
                actor: request.actor.clone(),
                detail: format!("backfill {number}{}", who(request)),
            };
            let mut run = self.born(&job, birth);
            run.backfill = Some(number);
            run.start_by = None;
            self.enqueue(run);
        }
        self.admitting = outer;
        self.admit_queued(id);
        Ok(Outcome::Backfilled { backfill: number, runs: u32::try_from(instants.len()).unwrap_or(u32::MAX) })
    }
}
