//! The only writers of the maps of a state and of the sets that derive from them.

use std::sync::Arc;

use super::State;
use super::breaker::{Breaker, Status};
use super::command::BreakerKey;
use super::job::{Job, LastRun};
use super::run::{JobId, Phase, Run, RunId};
use super::time::Timestamp;

impl State {
    pub(super) fn put_job(&mut self, job: Job) {
        let id = job.id;
        let is_edit = self.jobs.get(&id).is_some_and(|old| !Arc::ptr_eq(&old.spec, &job.spec));
        let waiting = if is_edit { self.waiting_of(id) } else { Vec::new() };
        waiting.iter().for_each(|run| self.wait_no_more(run));
        self.unindex_job(id);
        self.index_job(&job);
        self.jobs.insert(id, Arc::new(job));
        waiting.iter().for_each(|run| self.wait(run));
        self.fit_resting(id);
    }

    /// What a job remembers of its newest record.
    pub(super) fn put_last(&mut self, id: JobId, last: LastRun) {
        let Some(old) = self.jobs.get(&id) else { return };
        let mut changed = old.as_ref().clone();
        changed.last = Some(last);
        self.jobs.insert(id, Arc::new(changed));
        self.fit_resting(id);
    }

    fn fit_resting(&mut self, id: JobId) {
        let rests = self.jobs.get(&id).is_some_and(|job| {
            let may_be_armed =
                !job.deleted && job.pause.is_none() && job.fault.is_none() && job.next.is_none();
            may_be_armed && job.goes_on_after_a_run() && self.runs_of(id).next().is_none()
        });
        if rests {
            self.resting.insert(id);
        } else {
            self.resting.remove(&id);
        }
    }

    pub(super) fn remove_job(&mut self, id: JobId) {
        self.unindex_job(id);
        self.resting.remove(&id);
        self.jobs.remove(&id);
        self.remove_joins(id);
        self.remove_breaker(&BreakerKey::Job(id));
    }

    fn index_job(&mut self, job: &Job) {
        if let Some(next) = job.next {
            self.due.insert((next.due_at, job.id));
        }
        if job.fault.is_some() {
            self.faulty.insert(job.id);
        }
        if !job.deleted {
            self.names.insert((job.spec.namespace.as_str().into(), job.spec.name.as_str().into()), job.id);
        }
        if let key @ BreakerKey::Shared(..) = job.breaker() {
            self.sharers.insert((key, job.id));
        }
        if let Some(group) = job.spec.group() {
            self.members.insert((group, job.id));
        }
        if !job.deleted {
            for row in upstream_rows(job) {
                self.followers.insert(row);
            }
        }
        if !job.deleted {
            for name in job.spec.calendars() {
                self.calendar_users.insert((name.into(), job.id));
            }
            if let Some(connection) = job.spec.hands_over() {
                self.handing.insert((connection.into(), job.id));
            }
        }
        if let Some(until) = job.pause.as_ref().and_then(|pause| pause.until).filter(|_| !job.deleted) {
            self.ending_pauses.insert((until, job.id));
        }
    }

    fn unindex_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        if let Some(next) = job.next {
            self.due.remove(&(next.due_at, id));
        }
        self.faulty.remove(&id);
        if !job.deleted {
            self.names.remove(&(job.spec.namespace.as_str().into(), job.spec.name.as_str().into()));
        }
        self.sharers.remove(&(job.breaker(), id));
        if let Some(group) = job.spec.group() {
            self.members.remove(&(group, id));
        }
        for row in upstream_rows(job) {
            self.followers.remove(&row);
        }
        for name in job.spec.calendars() {
            self.calendar_users.remove(&(name.into(), id));
        }
        if let Some(connection) = job.spec.hands_over() {
            self.handing.remove(&(connection.into(), id));
        }
        if let Some(until) = job.pause.as_ref().and_then(|pause| pause.until) {
            self.ending_pauses.remove(&(until, id));
        }
    }

    pub(super) fn put_run(&mut self, run: Run) {
        if let Some(old) = self.runs.get(&run.id).cloned() {
            self.unindex_run(&old);
        }
        self.index_run(&run);
        self.resting.remove(&run.id.job);
        self.runs.insert(run.id, Arc::new(run));
    }

    pub(super) fn remove_run(&mut self, id: RunId) {
        if let Some(old) = self.runs.remove(&id) {
            self.unindex_run(&old);
            self.fit_resting(id.job);
        }
    }

    fn index_run(&mut self, run: &Run) {
        self.count_in_queue(run, |count| count.saturating_add(1));
        match run.phase {
            Phase::Waiting => self.wait(run),
            Phase::Held => {
                self.held.insert((run.breaker.clone(), run.id));
            }
            Phase::Running => {
                if let Some(handed) = run.handed() {
                    let row = (handed.connection.clone(), run.id);
                    if run.cancel.is_some() || handed.overdue_since.is_some() {
                        self.ending.insert(row.clone());
                    }
                    self.tasks.insert(handed.task.clone(), run.id);
                    if let Some((holder, process)) = handed.holder() {
                        self.held_by.insert((handed.connection.clone(), holder.clone(), process, run.id));
                    }
                    if let Some(expires_at) = handed.unheard_until() {
                        self.unheard.insert((handed.connection.clone(), expires_at, run.id));
                    }
                    if let Some(since) = handed.quiet_since() {
                        self.quiet.insert((handed.connection.clone(), since, run.id));
                    }
                    self.handed.insert(row);
                } else if let Some(attempt) = run.running() {
                    self.carried.insert((attempt.worker.clone(), run.id));
                    let load = self.load(&attempt.worker);
                    self.loads.insert(attempt.worker.clone(), load + 1);
                    if run.cancel.is_some() {
                        self.stopping.insert(run.id);
                    }
                }
                if let Some(group) = &run.group {
                    self.group_loads.insert(group.clone(), self.group_load(group) + 1);
                }
            }
            Phase::Queued | Phase::Backoff { .. } | Phase::Spread | Phase::Ended => {}
        }
        if let Some(at) = deadline(run) {
            self.deadlines.insert((at, run.id));
        }
    }

    fn unindex_run(&mut self, run: &Run) {
        self.count_in_queue(run, |count| count.saturating_sub(1));
        match run.phase {
            Phase::Waiting => self.wait_no_more(run),
            Phase::Held => {
                self.held.remove(&(run.breaker.clone(), run.id));
            }
            Phase::Running => {
                if let Some(handed) = run.handed() {
                    let row = (handed.connection.clone(), run.id);
                    self.ending.remove(&row);
                    self.tasks.remove(&handed.task);
                    if let Some((holder, process)) = handed.holder() {
                        self.held_by.remove(&(handed.connection.clone(), holder.clone(), process, run.id));
                    }
                    if let Some(expires_at) = handed.unheard_until() {
                        self.unheard.remove(&(handed.connection.clone(), expires_at, run.id));
                    }
                    if let Some(since) = handed.quiet_since() {
                        self.quiet.remove(&(handed.connection.clone(), since, run.id));
                    }
                    self.handed.remove(&row);
                } else if let Some(attempt) = run.running() {
                    self.carried.remove(&(attempt.worker.clone(), run.id));
                    match self.load(&attempt.worker) {
                        0 | 1 => self.loads.remove(&attempt.worker),
                        load => self.loads.insert(attempt.worker.clone(), load - 1),
                    };
                }
                if let Some(group) = &run.group {
                    match self.group_load(group) {
                        0 | 1 => self.group_loads.remove(group),
                        load => self.group_loads.insert(group.clone(), load - 1),
                    };
                }
                self.stopping.remove(&run.id);
            }
            Phase::Queued | Phase::Backoff { .. } | Phase::Spread | Phase::Ended => {}
        }
        if let Some(at) = deadline(run) {
            self.deadlines.remove(&(at, run.id));
        }
    }

    pub(super) fn put_breaker(&mut self, key: BreakerKey, breaker: Breaker) {
        self.unindex_breaker(&key);
        if breaker.is_trivial() && matches!(key, BreakerKey::Job(_)) {
            self.breakers.remove(&key);
            return;
        }
        self.index_breaker(&key, &breaker);
        self.breakers.insert(key, Arc::new(breaker));
    }

    pub(super) fn remove_breaker(&mut self, key: &BreakerKey) {
        self.unindex_breaker(key);
        self.breakers.remove(key);
    }

    fn index_breaker(&mut self, key: &BreakerKey, breaker: &Breaker) {
        match breaker.status {
            Status::Closed => {}
            Status::Open { until, .. } => {
                self.cooling.insert((until, key.clone()));
            }
            Status::HalfOpen { .. } => {
                self.probing.insert(key.clone());
            }
        }
    }

    fn unindex_breaker(&mut self, key: &BreakerKey) {
        match self.breakers.get(key).map(|breaker| breaker.status) {
            Some(Status::Open { until, .. }) => {
                self.cooling.remove(&(until, key.clone()));
            }
            Some(Status::HalfOpen { .. }) => {
                self.probing.remove(key);
            }
            Some(Status::Closed) | None => {}
        }
    }
}

/// The rows that say which jobs a job runs after.
fn upstream_rows(job: &Job) -> impl Iterator<Item = (Arc<str>, Arc<str>, JobId)> {
    let names = job.spec.after.iter().flat_map(|after| &after.jobs);
    names.map(|name| (job.spec.namespace.as_str().into(), name.as_str().into(), job.id))
}

/// When a live run needs a look: its wait ends, it expires, or its attempt is overdue.
fn deadline(run: &Run) -> Option<Timestamp> {
    match run.phase {
        Phase::Backoff { retry_at } => Some(retry_at),
        Phase::Running => run.overdue_at,
        Phase::Queued | Phase::Held | Phase::Waiting => run.must_start_by(),
        Phase::Spread | Phase::Ended => None,
    }
}
