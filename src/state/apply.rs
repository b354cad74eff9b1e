//! Applies entries: who may change what, and the commands of clients about jobs and breakers.
//!
//! The commands of the leader about occurrences are in `fire`, those about attempts in `attempt`;
//! what lets a run through or makes it wait is in `admission`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::breaker::{Breaker, Moment, Status, StatusKind, Why};
use super::calendar::Calendar;
use super::command::{BreakerKey, Change, Command, Due, Entry, Outcome, Request};
use super::job::{Job, Origin, Pause, undecided};
use super::limits;
use super::rejection::Rejection;
use super::run::{JobId, Reason, Run, RunId, TaskLeft};
use super::spec::JobSpec;
use super::time::Timestamp;
use super::{Applied, Leadership, State};

/// One entry being applied.
pub(super) struct Applying<'a> {
    pub(super) state: &'a mut State,
    pub(super) moment: Moment,
    /// Number of the command, unique for ever: from the entry's index and the place in it.
    pub(super) number: u64,
    pub(super) finished: Vec<Arc<Run>>,
    /// Queued runs are being let through: an end among them must not begin that anew.
    pub(super) admitting: bool,
    /// The command was answered from memory.
    pub(super) repeated: bool,
    /// Runs that ended and have not arrived at the jobs behind theirs.
    pub(super) ended: VecDeque<Arc<Run>>,
    /// Runs that came of others that ended.
    pub(super) made: Vec<RunId>,
}

impl State {
    /// Applies the entry at log index `index`. Deterministic and total.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Applied {
        self.before = self.now;
        self.now = self.now.max(entry.at);
        self.applied = index;
        let moment = Moment { at: self.now, index };
        let mut applying = Applying {
            state: self,
            moment,
            number: 0,
            finished: Vec::new(),
            admitting: false,
            repeated: false,
            ended: VecDeque::new(),
            made: Vec::new(),
        };
        let mut repeats = Vec::new();
        let outcomes = entry
            .commands
            .iter()
            .enumerate()
            .map(|(place, command)| match command_number(index, place) {
                Some(number) => {
                    (applying.number, applying.repeated) = (number, false);
                    let outcome = applying.once(command);
                    applying.follow_up();
                    repeats.extend(Some(place).filter(|_| applying.repeated));
                    outcome
                }
                None => Outcome::Rejected(Rejection::Limit),
            })
            .collect();
        let Applying { finished, made, .. } = applying;
        Applied { outcomes, finished, repeats, made }
    }
}

/// Unique for ever, as long as an entry holds no more commands than the limit.
fn command_number(index: u64, place: usize) -> Option<u64> {
    let place = u64::try_from(place).ok().filter(|_| place < limits::COMMANDS_PER_ENTRY)?;
    let number = index.checked_mul(limits::COMMANDS_PER_ENTRY as u64)?.checked_add(place)?;
    Some(number).filter(|number| *number <= RunId::NUMBER_MAX)
}

impl Applying<'_> {
    pub(super) fn command(&mut self, command: &Command) -> Outcome {
        let done = match command {
            Command::Lead { node, term, silent_for } => self.lead(*node, *term, *silent_for),
            Command::RaiseLevel { from, to } => self.raise(*from, *to),
            Command::PutJob { spec, next, request, reading } => self.put(spec, (*next, *reading), request),
            Command::DeleteJob { job, cancel_runs, request } => self.delete(job.id, *cancel_runs, request),
            Command::PauseJob { job, request, until } => self.pause(job.id, request, *until),
            Command::ResumeJob { job, version, next, reading, .. } => {
                self.resume(job.id, *version, (*next, *reading))
            }
            Command::TriggerJob { job, request, params, again, place } => {
                self.trigger(job.id, request, (params, *again, place.as_ref()))
            }
            Command::Backfill { job, version, instants, request } => {
                self.backfill(job.id, *version, instants, request)
            }
            Command::Fire { job, version, expect, verdicts, next } => {
                self.fire(*job, *version, *expect, (verdicts, *next))
            }
            Command::Disarm { job, version, expect, why } => self.disarm(*job, *version, *expect, why),
            Command::Start { run, attempt, worker, lease_until } => {
                self.start(*run, *attempt, worker, *lease_until)
            }
            Command::Spread { run, places } => self.spread(*run, places),
            Command::Complete { run, fence, outcome, report, retry_after } => {
                self.complete((*run, *fence), *outcome, report, *retry_after)
            }
            Command::HandOver { run, fence, connection, task, expires_at, queue } => {
                let (connection, task, queue) = (connection.clone(), task.clone(), queue.clone());
                self.hand_over((*run, *fence), TaskLeft { connection, task, expires_at: *expires_at, queue })
            }
            Command::StopTask { run, fence } => self.stop_task(*run, *fence),
            Command::HearTask { run, fence, by, news } => self.hear_task((*run, *fence), by, news),
            Command::Renew { worker, lease_until } => self.renew(worker, *lease_until),
            Command::Lose { worker, expect, retry_after } => self.lose(worker, *expect, *retry_after),
            Command::Retry { run } => self.retry(*run),
            Command::Expire { run } => self.expire(*run),
            Command::CancelRun { run, request } => self.cancel(*run, request),
            Command::HalfOpen { breaker, opened } => self.half_open(breaker, *opened),
            Command::SetQueue { queue, limits, request } => self.set_queue(queue, limits, request),
            Command::SetNamespace { namespace, limits, request } => {
                self.set_namespace(namespace, *limits, request)
            }
            Command::TripBreaker { breaker, open_for, request } => self.trip(breaker, *open_for, request),
            Command::ResetBreaker { breaker, request } => self.reset(breaker, request),
            Command::Arm { job, version, since, next } => self.arm(*job, *version, *since, *next),
            Command::PutCalendar { spec, request } => self.put_calendar(spec, request),
            Command::DeleteCalendar { calendar, request: _ } => self.delete_calendar(calendar),
            Command::SetTzdata { data, shifts, expect, request } => {
                self.set_tzdata(data, shifts, expect.as_ref(), request)
            }
            Command::Reread { generation, after, through, armed } => {
                self.reread(*generation, (*after, *through), armed)
            }
        };
        done.unwrap_or_else(Outcome::Rejected)
    }

    fn lead(&mut self, node: u64, term: u64, silent_for: Option<Duration>) -> Result<Outcome, Rejection> {
        let mut leaderships = self.state.leaderships.as_ref().clone();
        if leaderships.last().is_some_and(|last| last.term >= term) {
            return Err(Rejection::Stale);
        }
        // The stamp of this very entry has already moved `now`.
        let before = self.state.before;
        let at = self.moment.at;
        // Its predecessor stamped an entry then, so it was not silent before that.
        let silent_since = silent_for.map_or(before, |span| at.minus(span).max(before));
        if leaderships.len() == limits::LEADERSHIPS {
            leaderships.remove(0);
        }
        let is_exact = silent_for.is_some();
        leaderships.push(Leadership { node, term, at, silent_since, is_exact });
        self.state.leaderships = Arc::new(leaderships);
        Ok(Outcome::Done)
    }

    fn raise(&mut self, from: u32, to: u32) -> Result<Outcome, Rejection> {
        if from != self.state.level {
            return Err(Rejection::Stale);
        }
        if to <= from {
            return Err(Rejection::Malformed);
        }
        self.state.level = to;
        Ok(Outcome::Done)
    }

    /// The job, if it is there and not deleted.
    pub(super) fn live_job(&self, id: JobId) -> Result<Arc<Job>, Rejection> {
        self.state.jobs.get(&id).filter(|job| !job.deleted).cloned().ok_or(Rejection::NoJob)
    }

    /// A change of a job would lose an occurrence that is due and not decided yet.
    fn nothing_due(&self, job: &Job) -> Result<(), Rejection> {
        match job.next {
            Some(next) if next.due_at <= self.moment.at => Err(Rejection::OccurrenceDue),
            Some(_) | None => Ok(()),
        }
    }

    fn put(
        &mut self,
        spec: &Arc<JobSpec>,
        (next, reading): (Option<Due>, u64),
        request: &Request,
    ) -> Result<Outcome, Rejection> {
        let now = self.moment.at;
        self.check_reading(reading)?;
        self.state.check_after(spec)?;
        self.state.check_calendars(spec)?;
        let existing = self.state.job_named(&spec.namespace, &spec.name).cloned();
        let Some(old) = existing else {
            if self.state.names.len() >= limits::JOBS {
                return Err(Rejection::Limit);
            }
            // The first instant of all stands for none decided yet.
            if next.is_some_and(|next| next.scheduled_at <= undecided()) {
                return Err(Rejection::Malformed);
            }
            return Ok(self.create(spec, next, request));
        };
        // What could not be evaluated is armed anew by applying it again, once it can be.
        if old.spec == *spec && old.fault.is_none() {
            return Ok(Outcome::Put { job: old.id, version: old.version, change: Change::Unchanged });
        }
        self.nothing_due(&old)?;
        if old.spec.after != spec.after {
            self.give_up_joins(&old);
        }
        let (old_breaker, old_group) = (old.breaker(), old.spec.group());
        let mut job = old.as_ref().clone();
        // Editing a job never fires it, and never loses what its unchanged schedule has armed, or an instant
        // that has come and is only put off by its jitter.
        let has_come = old.pause.is_none() && old.next.is_some_and(|armed| armed.scheduled_at <= now);
        let keeps =
            old.fault.is_none() && old.spec.schedules == spec.schedules && self.sees_same(&old.spec, spec);
        let armed = if has_come || keeps { old.armed() } else { next };
        not_decided(&old, armed)?;
        match &mut job.pause {
            Some(pause) => pause.armed = armed,
            None => job.next = armed,
        }
        job.fault = None;
        job.version += 1;
        job.updated_at = now;
        let before = std::mem::replace(&mut job.origin, origin(job.version, now, request));
        job.previous.push((before, std::mem::replace(&mut job.spec, spec.clone())));
        let surplus = job.previous.len().saturating_sub(limits::VERSIONS - 1);
        job.previous.drain(..surplus);
        let (id, version) = (job.id, job.version);
        self.state.put_job(job);
        if old.spec.every_node != spec.every_node {
            self.admit_anew(id);
        }
        self.fit_breaker(id);
        self.drop_unshared(&old_breaker);
        self.state.fit_group(spec, now);
        if let Some(group) = old_group {
            self.state.drop_ungrouped(&group);
        }
        self.admit_queued(id);
        Ok(Outcome::Put { job: id, version, change: Change::Updated })
    }

    /// Whether calendars mean the same for two definitions with the same schedules.
    fn sees_same(&self, old: &JobSpec, spec: &JobSpec) -> bool {
        let is_blackout = |calendar: &Arc<Calendar>| calendar.spec.applies_to.is_some();
        old.on_excluded == spec.on_excluded
            && (old.labels == spec.labels || !self.state.calendars.values().any(is_blackout))
    }

    fn create(&mut self, spec: &Arc<JobSpec>, next: Option<Due>, request: &Request) -> Outcome {
        let (id, now) = (JobId(self.number), self.moment.at);
        self.state.put_job(Job {
            id,
            spec: spec.clone(),
            version: 1,
            created_at: now,
            updated_at: now,
            next,
            pause: None,
            deleted: false,
            last: None,
            decided_until: undecided(),
            fault: None,
            origin: origin(1, now, request),
            previous: Vec::new(),
        });
        self.fit_breaker(id);
        self.state.fit_group(spec, now);
        Outcome::Put { job: id, version: 1, change: Change::Created }
    }

    /// Brings the breaker of a job in line with the job's policy.
    fn fit_breaker(&mut self, id: JobId) {
        let Some(job) = self.state.jobs.get(&id) else { return };
        let (key, policy) = (job.breaker(), job.spec.breaker.clone());
        match self.state.breakers.get(&key) {
            Some(breaker) if breaker.policy == policy => {}
            Some(breaker) => {
                let mut breaker = Breaker { policy, ..breaker.as_ref().clone() };
                let before = breaker.kind();
                // Fewer probes may be wanted than have passed: no further one would ever close it.
                breaker.close_if_passed(self.moment);
                let after = breaker.kind();
                self.state.put_breaker(key.clone(), breaker);
                if before != after {
                    self.closed(&key, before);
                }
            }
            None if matches!(key, BreakerKey::Shared(..)) => {
                self.state.put_breaker(key, Breaker::new(policy));
            }
            None => {}
        }
    }

    /// A shared breaker that no job names any more is gone, and what it held may go.
    fn drop_unshared(&mut self, key: &BreakerKey) {
        if matches!(key, BreakerKey::Shared(..)) && self.state.sharers(key).next().is_none() {
            let before = self.breaker_kind(key);
            self.state.remove_breaker(key);
            self.closed(key, before);
        }
    }

    fn delete(&mut self, id: JobId, cancel_runs: bool, request: &Request) -> Result<Outcome, Rejection> {
        let job = self.live_job(id)?;
        self.nothing_due(&job)?;
        let mut gone = job.as_ref().clone();
        gone.deleted = true;
        gone.next = None;
        gone.fault = None;
        gone.updated_at = self.moment.at;
        self.state.put_job(gone);
        if cancel_runs {
            let detail = format!("the job was deleted{}", who(request));
            for run in self.live_of(id) {
                self.stop(run, Reason::Cancelled, &detail);
            }
        }
        self.drop_if_done(id);
        Ok(Outcome::Done)
    }

    /// Removes a deleted job once its last live run has ended.
    pub(super) fn drop_if_done(&mut self, id: JobId) {
        let Some(job) = self.state.jobs.get(&id).filter(|job| job.deleted) else { return };
        let (breaker, group) = (job.breaker(), job.spec.group());
        if self.state.runs_of(id).next().is_none() {
            self.state.remove_job(id);
            self.drop_unshared(&breaker);
            if let Some(group) = group {
                self.state.drop_ungrouped(&group);
            }
        }
    }

    fn pause(
        &mut self,
        id: JobId,
        request: &Request,
        until: Option<Timestamp>,
    ) -> Result<Outcome, Rejection> {
        let job = self.live_job(id)?;
        let mut paused = job.as_ref().clone();
        if let Some(pause) = &mut paused.pause {
            // One that is paused already is paused for as long as was asked for last.
            if pause.until != until {
                pause.until = until;
                paused.updated_at = self.moment.at;
                paused.version += 1;
                self.state.put_job(paused);
            }
            return Ok(Outcome::Done);
        }
        self.nothing_due(&job)?;
        let (request, paused_at) = (request.clone(), self.moment.at);
        paused.pause = Some(Pause { request, paused_at, armed: job.next, until });
        paused.next = None;
        paused.updated_at = self.moment.at;
        paused.version += 1;
        self.state.put_job(paused);
        Ok(Outcome::Done)
    }

    fn resume(
        &mut self,
        id: JobId,
        version: u64,
        (next, reading): (Option<Due>, u64),
    ) -> Result<Outcome, Rejection> {
        let job = self.live_job(id)?;
        if job.pause.is_none() {
            return Ok(Outcome::Done);
        }
        if job.version != version {
            return Err(Rejection::Stale);
        }
        self.check_reading(reading)?;
        not_decided(&job, next)?;
        let mut resumed = job.as_ref().clone();
        resumed.pause = None;
        resumed.updated_at = self.moment.at;
        resumed.fault = None;
        resumed.next = next;
        resumed.version += 1;
        self.state.put_job(resumed);
        Ok(Outcome::Done)
    }

    fn cancel(&mut self, id: RunId, request: &Request) -> Result<Outcome, Rejection> {
        if !self.state.runs.contains_key(&id) {
            return Err(Rejection::NoRun);
        }
        self.stop(id, Reason::Cancelled, &format!("cancelled{}", who(request)));
        Ok(Outcome::Done)
    }

    fn half_open(&mut self, key: &BreakerKey, opened: u64) -> Result<Outcome, Rejection> {
        let breaker = self.state.breakers.get(key).ok_or(Rejection::NoBreaker)?;
        match breaker.status {
            Status::Open { index, .. } if index != opened => Err(Rejection::Stale),
            Status::Open { until, .. } if until > self.moment.at => Err(Rejection::Early),
            Status::Open { .. } => {
                let mut breaker = breaker.as_ref().clone();
                breaker.half_open(self.moment);
                self.state.put_breaker(key.clone(), breaker);
                self.release_kept(key);
                Ok(Outcome::Done)
            }
            Status::Closed | Status::HalfOpen { .. } => Err(Rejection::Stale),
        }
    }

    /// The breaker as it is, or a closed one for a job that has given it no cause yet.
    fn breaker_of(&self, key: &BreakerKey) -> Result<Breaker, Rejection> {
        if let Some(breaker) = self.state.breakers.get(key) {
            return Ok(breaker.as_ref().clone());
        }
        match key {
            BreakerKey::Job(id) => {
                let job = self.live_job(*id).map_err(|_| Rejection::NoBreaker)?;
                Ok(Breaker::new(job.spec.breaker.clone()))
            }
            BreakerKey::Shared(..) => Err(Rejection::NoBreaker),
        }
    }

    /// The breaker was `before` and is closed or gone.
    fn closed(&mut self, key: &BreakerKey, before: StatusKind) {
        match before {
            StatusKind::Open => self.release_kept(key),
            StatusKind::HalfOpen | StatusKind::Closed => self.release_held(key),
        }
    }

    fn trip(
        &mut self,
        key: &BreakerKey,
        open_for: Option<Duration>,
        request: &Request,
    ) -> Result<Outcome, Rejection> {
        let mut breaker = self.breaker_of(key)?;
        breaker.trip(open_for, (&request.actor, &request.reason), self.moment);
        self.state.put_breaker(key.clone(), breaker);
        self.hold_waiting(key);
        Ok(Outcome::Done)
    }

    fn reset(&mut self, key: &BreakerKey, request: &Request) -> Result<Outcome, Rejection> {
        let mut breaker = self.breaker_of(key)?;
        let before = breaker.kind();
        breaker.close(Why::Reset, (&request.actor, &request.reason), self.moment);
        self.state.put_breaker(key.clone(), breaker);
        self.closed(key, before);
        Ok(Outcome::Done)
    }
}

pub(super) fn origin(version: u64, at: Timestamp, request: &Request) -> Origin {
    Origin { version, at, actor: request.actor.clone(), reason: request.reason.clone() }
}

/// An occurrence computed before the last one was decided would be decided twice.
pub(super) fn not_decided(job: &Job, next: Option<Due>) -> Result<(), Rejection> {
    match next {
        Some(next) if next.scheduled_at <= job.decided_until => Err(Rejection::Stale),
        Some(_) | None => Ok(()),
    }
}

/// ` by ACTOR: REASON`, as far as they are known.
pub(super) fn who(request: &Request) -> String {
    let mut text = String::new();
    if !request.actor.is_empty() {
        text.push_str(" by ");
        text.push_str(&request.actor);
    }
    if !request.reason.is_empty() {
        text.push_str(": ");
        text.push_str(&request.reason);
    }
    text
}
