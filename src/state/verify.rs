//! Whether a state holds what it promises: the check behind the invariants that `state` names.
//!
//! Nothing here changes anything, and no path of production relies on it; tests ask after every
//! entry. It costs a rebuild of all derived sets.

use super::breaker::{Status, StatusKind};
use super::run::{AttemptOutcome, JobId, Phase, Run, RunId};
use super::{BreakerKey, State};

/// A promise that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A derived set differs from the maps that it derives from.
    #[error("the derived set `{0}` is out of step")]
    Derived(&'static str),
    /// A live run without its job.
    #[error("run {0} has no job")]
    NoJob(RunId),
    /// A run that has ended is still here, or its phase contradicts its attempts.
    #[error("run {0} is in a phase that its attempts contradict")]
    Phase(RunId),
    /// A run waits for a worker though its breaker is not closed, or is held though it is.
    #[error("run {0} waits on the wrong side of its breaker")]
    WrongSide(RunId),
    /// The runs that a run made, one for each worker, do not add up, or one lives without it.
    #[error("run {0} and the runs for its workers do not add up")]
    Spread(RunId),
    /// Attempts out of order, or two that run.
    #[error("the attempts of run {0} are out of order")]
    Attempts(RunId),
    /// A queued run though its job has room: nothing would ever let it through.
    #[error("job {} has room and a queued run", .0.0)]
    Stranded(JobId),
    /// An armed instant that is decided already.
    #[error("job {} is armed at an instant that is decided", .0.0)]
    ArmedTwice(JobId),
    /// A paused, faulty or deleted job that is armed, or a deleted one that nothing needs.
    #[error("job {} is armed or kept without a reason", .0.0)]
    Idle(JobId),
    /// A lease without an attempt, or attempts without a lease.
    #[error("the lease of worker {0} does not match what it carries")]
    Lease(String),
    /// A half-open breaker that counts probes which do not run, or can never close.
    #[error("the probes of breaker {0:?} do not add up")]
    Probes(BreakerKey),
}

impl State {
    /// Checks every invariant of the state.
    ///
    /// # Errors
    /// [`Broken`], the first that does not hold.
    pub fn verify(&self) -> Result<(), Broken> {
        self.verify_derived()?;
        self.runs.values().try_for_each(|run| self.verify_run(run))?;
        self.jobs.keys().try_for_each(|id| self.verify_job(*id))?;
        for worker in self.leases.keys().chain(self.loads.keys()) {
            if !self.leases.contains_key(worker) || !self.loads.contains_key(worker) {
                return Err(Broken::Lease(worker.to_string()));
            }
        }
        self.breakers.keys().try_for_each(|key| self.verify_probes(key))?;
        self.verify_groups()
    }

    /// Groups are those that jobs name, and joins are those of jobs.
    fn verify_groups(&self) -> Result<(), Broken> {
        let named: std::collections::BTreeSet<_> = self.members.iter().map(|(group, _)| group).collect();
        if !named.iter().copied().eq(self.groups.keys()) {
            return Err(Broken::Derived("groups"));
        }
        if self.calendar_users.iter().any(|(name, _)| !self.calendars.contains_key(name)) {
            return Err(Broken::Derived("calendars"));
        }
        match self.joins.keys().find(|(job, _)| !self.jobs.contains_key(job)) {
            Some((job, _)) => Err(Broken::Idle(*job)),
            None => Ok(()),
        }
    }

    fn verify_derived(&self) -> Result<(), Broken> {
        let mut anew = Self::default();
        for (name, queue) in &self.queues {
            anew.put_queue(name.clone(), queue.as_ref().clone());
        }
        self.jobs.values().for_each(|job| anew.put_job(job.as_ref().clone()));
        self.runs.values().for_each(|run| anew.put_run(run.as_ref().clone()));
        for (key, breaker) in &self.breakers {
            anew.put_breaker(key.clone(), breaker.as_ref().clone());
        }
        let sets = [
            ("names", self.names == anew.names),
            ("due", self.due == anew.due),
            ("faulty", self.faulty == anew.faulty),
            ("waiting", self.waiting == anew.waiting),
            ("spreading", self.spreading == anew.spreading),
            ("held", self.held == anew.held),
            ("deadlines", self.deadlines == anew.deadlines),
            ("carried", self.carried == anew.carried),
            ("loads", self.loads == anew.loads),
            ("stopping", self.stopping == anew.stopping),
            ("handed", self.handed == anew.handed),
            ("ending", self.ending == anew.ending),
            ("tasks", self.tasks == anew.tasks),
            ("held_by", self.held_by == anew.held_by),
            ("unheard", self.unheard == anew.unheard),
            ("quiet", self.quiet == anew.quiet),
            ("breakers", self.breakers == anew.breakers),
            ("cooling", self.cooling == anew.cooling),
            ("probing", self.probing == anew.probing),
            ("sharers", self.sharers == anew.sharers),
            ("members", self.members == anew.members),
            ("group_loads", self.group_loads == anew.group_loads),
            ("queue_loads", self.queue_loads == anew.queue_loads),
            ("followers", self.followers == anew.followers),
            ("ending_pauses", self.ending_pauses == anew.ending_pauses),
            ("resting", self.resting == anew.resting),
            ("calendar_users", self.calendar_users == anew.calendar_users),
            ("handing", self.handing == anew.handing),
            ("operations", self.operations_by_age.len() == self.operations.len()),
        ];
        sets.into_iter().find(|(_, same)| !same).map_or(Ok(()), |(name, _)| Err(Broken::Derived(name)))
    }

    fn verify_run(&self, run: &Run) -> Result<(), Broken> {
        if !self.jobs.contains_key(&run.id.job) {
            return Err(Broken::NoJob(run.id));
        }
        if (run.phase == Phase::Running) != run.running().is_some() || run.has_ended() {
            return Err(Broken::Phase(run.id));
        }
        let closed = self.breakers.get(&run.breaker).is_none_or(|it| it.kind() == StatusKind::Closed);
        // A run that is still to be spread starts nothing itself; a half-open breaker keeps those that come of it.
        let may_wait = closed || (self.spreads(run) && !self.is_open(&run.breaker));
        if (run.phase == Phase::Waiting && !may_wait) || (run.phase == Phase::Held && closed) {
            return Err(Broken::WrongSide(run.id));
        }
        self.verify_spread(run)?;
        let ascending = run
            .attempts
            .windows(2)
            .all(|pair| pair[0].fence < pair[1].fence && pair[0].number < pair[1].number);
        let running =
            run.attempts.iter().filter(|attempt| attempt.outcome == AttemptOutcome::Running).count();
        if ascending && running <= 1 { Ok(()) } else { Err(Broken::Attempts(run.id)) }
    }

    /// What a run made and has not ended is live, and nothing lives without the run that made it.
    fn verify_spread(&self, run: &Run) -> Result<(), Broken> {
        let parts = || self.runs_of(run.id.job).filter(|part| part.parent == Some(run.id)).count();
        let has_parent = |parent: RunId| self.runs.get(&parent).is_some_and(|it| it.phase == Phase::Spread);
        let sound = match (run.phase, &run.spread) {
            (Phase::Spread, Some(spread)) => {
                spread.ended < spread.places && u32::try_from(parts()) == Ok(spread.places - spread.ended)
            }
            (Phase::Spread, None) | (_, Some(_)) => false,
            (_, None) => run.parent.is_none_or(|parent| has_parent(parent) && run.place.is_some()),
        };
        if sound { Ok(()) } else { Err(Broken::Spread(run.id)) }
    }

    fn is_open(&self, key: &BreakerKey) -> bool {
        self.breakers.get(key).is_some_and(|it| it.kind() == StatusKind::Open)
    }

    fn verify_job(&self, id: JobId) -> Result<(), Broken> {
        let Some(job) = self.jobs.get(&id) else { return Ok(()) };
        let (mut queued, mut active) = (0, 0);
        for run in self.runs_of(id) {
            if run.phase == Phase::Queued {
                queued += 1;
            } else if self.takes_place(run) {
                active += 1;
            }
        }
        if queued > 0 && active < job.spec.overlap.parallel() {
            return Err(Broken::Stranded(id));
        }
        if job.armed().is_some_and(|armed| armed.scheduled_at <= job.decided_until) {
            return Err(Broken::ArmedTwice(id));
        }
        let must_rest = job.pause.is_some() || job.deleted || job.fault.is_some();
        let armed = job.next.is_some() && must_rest;
        let needless = job.deleted && self.runs_of(id).next().is_none();
        if armed || needless { Err(Broken::Idle(id)) } else { Ok(()) }
    }

    fn verify_probes(&self, key: &BreakerKey) -> Result<(), Broken> {
        let Some(breaker) = self.breakers.get(key) else { return Ok(()) };
        let Status::HalfOpen { index, running, passed } = breaker.status else { return Ok(()) };
        let probes = self
            .runs
            .values()
            .filter(|run| run.breaker == *key && run.running().is_some_and(|it| it.probe == Some(index)))
            .count();
        let adds_up = u32::try_from(probes) == Ok(running) && passed < breaker.policy.probes.max(1);
        if adds_up { Ok(()) } else { Err(Broken::Probes(key.clone())) }
    }
}
