//! Jobs that run after others: what has arrived of what a job waits for, and the runs that come of it.
//!
//! A job's `after` names the jobs before it. Each end of a run of theirs *arrives* at the job, in the entry that ends
//! it, and is kept in a *join*. Once enough has arrived the join is decided: into a run with cause `after`, or into a
//! record that was skipped with reason `upstream`, where what arrived is not what the job waits for. So nothing that
//! a job waits for is in a leader's memory, and nothing is decided twice.
//!
//! # What meets
//! The first run of a chain gives it its id, and all that comes of it carries that. Where the jobs of an `after` come
//! from one first job, only what belongs to one chain meets: what two runs of a slow and a quick branch bring is not
//! mixed. Where they come from several, each with a schedule of its own, the newest arrivals of each meet.
//!
//! # Runs that are made again
//! A decided join is kept for a while ([`limits::JOINS_DECIDED`]). A run that someone made again (`run retry`) belongs
//! to the chain of the first one and arrives like it: it takes its place in the join, which is decided anew.
//!
//! # Bounds
//! Ends arrive in a queue and not by recursion, and jobs form no cycle ([`Rejection::Cycle`]), so that an entry comes to
//! an end; a chain may pass through [`limits::ANCESTORS`] jobs, and [`limits::JOINS_OPEN`] joins of a job may be open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::apply::Applying;
use super::fire::Birth;
use super::job::Job;
use super::limits;
use super::pack::later;
use super::rejection::Rejection;
use super::run::{Cause, JobId, Reason, Run, RunId, RunState};
use super::spec::{After, AfterOn, AfterWhen, JobSpec};
use super::{State, time::Timestamp};

/// What has arrived of what a job waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// By the names of the jobs before it.
    pub arrived: BTreeMap<String, Arrival>,
    /// It has been decided, and waits for nothing.
    pub is_decided: bool,
}

/// The end of a run before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Which run.
    pub run: RunId,
    /// How it ended.
    pub state: RunState,
    /// Its parameters.
    pub params: BTreeMap<String, String>,
    /// When it ended.
    pub at: Timestamp,
    /// What it gave as its result, as JSON; empty: nothing.
    #[serde(default, serialize_with = "later")]
    pub result: String,
}

/// What an arrival makes of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It waits for more.
    Wait,
    /// The job runs.
    Run,
    /// It does not.
    Skip,
}

/// Which chain meets in a join; none where the newest of each meet.
pub(super) type JoinKey = (JobId, Option<RunId>);

fn wanted(on: AfterOn, state: RunState) -> bool {
    match on {
        AfterOn::Success => state == RunState::Succeeded,
        AfterOn::Failure => state == RunState::Failed,
        AfterOn::Always => true,
    }
}

impl Join {
    fn verdict(&self, after: &After) -> Verdict {
        let arrived = || after.jobs.iter().filter_map(|job| self.arrived.get(job));
        let good = arrived().filter(|arrival| wanted(after.on, arrival.state)).count();
        let is_whole = arrived().count() == after.jobs.len();
        match after.when {
            AfterWhen::Any if good > 0 => Verdict::Run,
            AfterWhen::All if good == after.jobs.len() => Verdict::Run,
            AfterWhen::Any | AfterWhen::All if is_whole => Verdict::Skip,
            AfterWhen::Any | AfterWhen::All => Verdict::Wait,
        }
    }

    /// What came before, for people: `run 17-1 of a succeeded, run 18-1 of b failed`.
    fn told(&self) -> String {
        let each = self.arrived.iter().map(|(job, arrival)| {
            let state = match arrival.state {
                RunState::Succeeded => "succeeded",
                RunState::Failed => "failed",
                RunState::Cancelled => "was cancelled",
                RunState::Skipped => "was skipped",
                RunState::Pending | RunState::Running => "is live",
            };
            format!("run {} of {job} {state}", arrival.run)
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

impl State {
    /// The jobs that run after the job of this name.
    pub fn followers<'a>(
        &'a self,
        namespace: &'a Arc<str>,
        name: &'a Arc<str>,
    ) -> impl Iterator<Item = JobId> + 'a {
        self.followers
            .range((namespace.clone(), name.clone(), JobId(0))..)
            .take_while(move |(of, job, _)| (of, job) == (namespace, name))
            .map(|(_, _, job)| *job)
    }

    /// The joins of a job that wait for more, with the chain that each is for.
    pub fn joins_of(&self, job: JobId) -> impl Iterator<Item = (Option<RunId>, &Arc<Join>)> {
        self.joins
            .range((job, None)..)
            .take_while(move |((of, _), _)| *of == job)
            .map(|((_, chain), join)| (*chain, join))
    }

    /// The names of the jobs before a job, nearest first, at most [`limits::ANCESTORS`] and one more.
    fn ancestors(&self, spec: &JobSpec) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open: Vec<String> = spec.after.iter().flat_map(|after| after.jobs.clone()).collect();
        while let Some(name) = open.pop() {
            if found.len() > limits::ANCESTORS || !found.insert(name.clone()) {
                continue;
            }
            if let Some(after) =
                self.job_named(&spec.namespace, &name).and_then(|job| job.spec.after.as_ref())
            {
                open.extend(after.jobs.iter().cloned());
            }
        }
        found
    }

    /// Whether a definition may stand: no job runs after itself, however far.
    ///
    /// # Errors
    /// [`Rejection::Cycle`], and [`Rejection::Limit`] for a chain that is too long.
    pub fn check_after(&self, spec: &JobSpec) -> Result<(), Rejection> {
        if spec.after.is_none() {
            return Ok(());
        }
        let ancestors = self.ancestors(spec);
        if ancestors.contains(&spec.name) {
            return Err(Rejection::Cycle);
        }
        if ancestors.len() > limits::ANCESTORS { Err(Rejection::Limit) } else { Ok(()) }
    }

    /// Whether all that a job waits for comes from one first job, so that a run of that one is a chain of its own.
    fn is_one_chain(&self, spec: &JobSpec, after: &After) -> bool {
        if after.jobs.len() == 1 {
            return true;
        }
        let is_first =
            |name: &String| self.job_named(&spec.namespace, name).is_none_or(|job| job.spec.after.is_none());
        self.ancestors(spec).iter().filter(|name| is_first(name)).count() == 1
    }
}

impl Applying<'_> {
    /// Lets what has ended arrive at the jobs behind it, until nothing more comes of it.
    pub(super) fn follow_up(&mut self) {
        while let Some(run) = self.ended.pop_front() {
            let followers: Vec<JobId> = self.state.followers(&run.namespace, &run.job).collect();
            for id in followers {
                if let Some(job) = self.state.jobs.get(&id).filter(|job| !job.deleted).cloned() {
                    self.arrive(&job, &run);
                }
            }
        }
    }

    fn arrive(&mut self, job: &Arc<Job>, run: &Arc<Run>) {
        let Some(after) = job.spec.after.clone() else { return };
        let chain = run.chain.unwrap_or(run.id);
        let is_one_chain = self.state.is_one_chain(&job.spec, &after);
        let key: JoinKey = (job.id, is_one_chain.then_some(chain));
        let mut join = self.state.joins.get(&key).map(|join| join.as_ref().clone()).unwrap_or_default();
        if join.is_decided && run.retry_of.is_none() {
            if is_one_chain && after.when == AfterWhen::Any && join.verdict(&after) == Verdict::Run {
                // The chain has had its run.
                join.arrived.insert(run.job.to_string(), arrival(run));
                return self.state.put_join(key, join);
            }
            if !is_one_chain {
                // What was decided together is spent; this one begins anew.
                join = Join::default();
            }
        }
        join.arrived.insert(run.job.to_string(), arrival(run));
        let verdict = join.verdict(&after);
        join.is_decided = verdict != Verdict::Wait;
        self.state.put_join(key, join.clone());
        self.forget_joins(job);
        if verdict != Verdict::Wait {
            self.decide_join(job, (&after, &join), chain, verdict == Verdict::Run);
        }
    }

    /// Makes the run, or the record that says why there is none.
    fn decide_join(&mut self, job: &Arc<Job>, (after, join): (&After, &Join), chain: RunId, runs: bool) {
        if !runs && after.on == AfterOn::Failure {
            // All is well, and what is there for failures has nothing to do.
            return;
        }
        let mut run = self.born_after(job, (after, join), chain);
        if runs && job.pause.is_none() {
            run.detail = format!("after {}", join.told());
            return self.enter(job, run);
        }
        let detail = if runs {
            format!("the job is paused; {}", join.told())
        } else {
            format!("does not run after this: {}", join.told())
        };
        run.start_by = None;
        self.end(run, RunState::Skipped, Some(Reason::Upstream), detail);
    }

    fn born_after(&mut self, job: &Arc<Job>, (after, join): (&After, &Join), chain: RunId) -> Run {
        let at = self.moment.at;
        let id = self.fresh_id(job.id);
        let birth = Birth {
            id,
            from: at,
            cause: Cause::After,
            due_at: at,
            stands_for: 1,
            actor: String::new(),
            detail: String::new(),
        };
        let mut run = self.born(job, birth);
        run.chain = Some(chain);
        run.upstream = join.arrived.values().map(|arrival| arrival.run).collect();
        for arrival in after.jobs.iter().filter_map(|name| join.arrived.get(name)) {
            for (name, value) in &arrival.params {
                if let Some(own) = run.params.get_mut(name) {
                    own.clone_from(value);
                }
            }
        }
        let results = join.arrived.iter().filter(|(_, arrival)| !arrival.result.is_empty());
        run.inputs = results.map(|(job, arrival)| (job.clone(), arrival.result.clone())).collect();
        self.made.push(id);
        run
    }

    /// An identity that no run has: that of the command, moved on by milliseconds where the command has made several
    /// runs of one job.
    pub(super) fn fresh_id(&self, job: JobId) -> RunId {
        let mut id = RunId { job, at: self.moment.at, seq: self.number.max(1) };
        let is_taken = |id: RunId| self.state.runs.contains_key(&id) || self.made.contains(&id);
        while is_taken(id) {
            id.at = id.at.plus(std::time::Duration::from_millis(1));
        }
        id
    }

    /// Keeps the joins of a job within their limits.
    fn forget_joins(&mut self, job: &Arc<Job>) {
        let (decided, open): (Vec<_>, Vec<_>) = self
            .state
            .joins_of(job.id)
            .map(|(chain, join)| (chain, join.is_decided))
            .partition(|(_, is)| *is);
        let surplus = decided.len().saturating_sub(limits::JOINS_DECIDED);
        for (chain, _) in decided.into_iter().take(surplus) {
            self.state.joins.remove(&(job.id, chain));
        }
        let surplus = open.len().saturating_sub(limits::JOINS_OPEN);
        let why = format!("more than {} chains are open", limits::JOINS_OPEN);
        for (chain, _) in open.into_iter().take(surplus) {
            self.give_up(job, chain, &why);
        }
    }

    /// Forgets what has arrived at a job that waits for other jobs now; a record tells of each join that was open.
    pub(super) fn give_up_joins(&mut self, job: &Arc<Job>) {
        let joins: Vec<_> =
            self.state.joins_of(job.id).map(|(chain, join)| (chain, join.is_decided)).collect();
        for (chain, is_decided) in joins {
            if is_decided {
                self.state.joins.remove(&(job.id, chain));
            } else {
                self.give_up(job, chain, "the job waits for other jobs now");
            }
        }
    }

    fn give_up(&mut self, job: &Arc<Job>, chain: Option<RunId>, why: &str) {
        let (Some(join), Some(after)) = (self.state.joins.remove(&(job.id, chain)), job.spec.after.clone())
        else {
            return;
        };
        let chain = chain.or_else(|| join.arrived.values().map(|arrival| arrival.run).next());
        let Some(chain) = chain else { return };
        let mut run = self.born_after(job, (&after, &join), chain);
        run.start_by = None;
        self.end(run, RunState::Skipped, Some(Reason::Upstream), format!("{why}; {}", join.told()));
    }
}

/// What the last attempt of a run gave as its result.
fn result(run: &Run) -> String {
    let report = run.attempts.last().and_then(|attempt| attempt.report.as_deref());
    report.map(|report| report.result.clone()).unwrap_or_default()
}

fn arrival(run: &Run) -> Arrival {
    Arrival {
        run: run.id,
        state: run.state,
        params: run.params.clone(),
        at: run.finished_at.unwrap_or(run.fired_at),
        result: result(run),
    }
}

impl State {
    pub(super) fn put_join(&mut self, key: JoinKey, join: Join) {
        self.joins.insert(key, Arc::new(join));
    }

    /// Forgets what has arrived at a job that is gone, or waits for other jobs.
    pub(super) fn remove_joins(&mut self, job: JobId) {
        let keys: Vec<JoinKey> = self.joins_of(job).map(|(chain, _)| (job, chain)).collect();
        for key in keys {
            self.joins.remove(&key);
        }
    }
}
