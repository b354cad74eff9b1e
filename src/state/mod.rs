//! The replicated state: what every node agrees on, and the only place where anything is decided.
//!
//! Every node runs [`State::apply`] over the same entries in the same order, so it must come to the
//! same result everywhere: it reads no clock, no zone, no random number and no configuration, does no
//! I/O and logs nothing. Time is the stamp of the entry, and never goes back:
//! `now = max(now, entry.at)`. Apply is total: what may not be is an [`Outcome::Rejected`].
//!
//! # Words
//! A *job* yields *occurrences*; `Fire` decides them, each into one *run* (or a range of missed ones
//! into one record). A run has *attempts*; each has its number among all that were ever started in the
//! cluster as its *fence*. A *breaker* guards the target of a job, or of several that share it.
//!
//! # Invariants
//! - A run of the schedule is keyed by (job incarnation, nominal instant): it can exist once.
//! - `Fire` names the armed instant and arms the next; no instant can be decided twice or passed over.
//! - An attempt is running only if a `Start` for it is in the log; its end is accepted only under its
//!   fence.
//! - A run in `waiting` has a closed breaker; one behind a breaker that is not closed is in `held`.
//! - The sets at the end of [`State`] are derived from the maps before them, and only
//!   [`State::put_job`], [`State::put_run`] and their like write either.
//! - A run that has ended leaves the state in [`Applied::finished`] and nothing here refers to it but
//!   [`job::LastRun`].
//!
//! # What is not here
//! Finished runs (the run log), who is connected (the leader's sessions), when the next occurrence is
//! (the scheduler), Raft's own membership.
//!
//! The maps are persistent: cloning the state costs nothing, so a snapshot is written and a query is
//! answered from a clone while apply goes on.

mod admission;
mod apply;
mod attempt;
pub mod breaker;
pub mod broker;
pub mod calendar;
pub mod celery;
mod codec;
mod command;
mod evidence;
mod fire;
pub mod group;
mod index;
mod job;
pub mod join;
pub mod level;
pub mod limits;
pub mod namespace;
mod operation;
mod outcome;
mod pack;
pub mod queue;
pub mod reading;
mod rejection;
pub mod run;
pub mod schedule;
mod snapshot;
pub mod spec;
pub mod spread;
pub mod template;
pub mod time;
pub mod tzdata;
mod verdict;
mod verify;
mod waiting;

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use breaker::{Breaker, StatusKind};
use calendar::Calendar;
pub use command::{
    Again, BreakerKey, Change, CodecError, Command, Due, Entry, JobRef, Outcome, Rearmed, Request,
};
pub use evidence::{BreakerChange, StateHash};
use group::{Group, GroupKey};
pub use job::{Fault, Job, LastRun, Origin, Pause};
use join::Join;
use namespace::Namespace;
pub use operation::JobChange;
use operation::Remembered;
use queue::{Queue, QueueLoad};
use reading::Reading;
pub use rejection::Rejection;
pub use run::{JobId, RunId};
use run::{Phase, Run};
use time::Timestamp;
use tzdata::Tzdata;
pub use verdict::Verdict;
pub use verify::Broken;
pub use waiting::Needs;

/// What an entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// One for each command, in order.
    pub outcomes: Vec<Outcome>,
    /// Runs that ended, in order, for the run log.
    pub finished: Vec<Arc<Run>>,
    /// Places of commands that were known by their operation id: nothing was done again, and the outcome is that
    /// of the first time.
    pub repeats: Vec<usize>,
    /// Runs and records that came of runs that ended: those of jobs that run `after` others, in order.
    pub made: Vec<RunId>,
}

/// A term of leadership, as its leader recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// The leader.
    pub node: u64,
    /// Its term.
    pub term: u64,
    /// When it began.
    pub at: Timestamp,
    /// When its node last heard the leader before it: between the two nothing could fire. Where the node does
    /// not know, the newest stamp before it, which on an idle cluster is older.
    pub silent_since: Timestamp,
    /// The node knows.
    pub is_exact: bool,
}

/// The replicated state. Fields are read through methods; see the module's invariants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    level: u32,
    now: Timestamp,
    /// `now` before the last applied entry.
    before: Timestamp,
    applied: u64,
    /// The newest fence: how many attempts were ever started.
    fences: u64,
    leaderships: Arc<Vec<Leadership>>,
    jobs: OrdMap<JobId, Arc<Job>>,
    runs: OrdMap<RunId, Arc<Run>>,
    breakers: OrdMap<BreakerKey, Arc<Breaker>>,
    leases: OrdMap<Arc<str>, Timestamp>,
    operations: OrdMap<Arc<str>, Remembered>,
    operations_by_age: OrdMap<u64, Arc<str>>,
    groups: OrdMap<GroupKey, Arc<Group>>,
    queues: OrdMap<Arc<str>, Arc<Queue>>,
    joins: OrdMap<join::JoinKey, Arc<Join>>,
    namespaces: OrdMap<Arc<str>, Arc<Namespace>>,
    calendars: OrdMap<Arc<str>, Arc<Calendar>>,
    tzdata: Option<Arc<Tzdata>>,
    reading: Reading,
    // Derived from the above.
    names: OrdMap<(Arc<str>, Arc<str>), JobId>,
    due: OrdSet<(Timestamp, JobId)>,
    faulty: OrdSet<JobId>,
    waiting: OrdSet<(Needs, Timestamp, RunId)>,
    spreading: OrdSet<(Timestamp, RunId)>,
    held: OrdSet<(BreakerKey, RunId)>,
    deadlines: OrdSet<(Timestamp, RunId)>,
    carried: OrdSet<(Arc<str>, RunId)>,
    loads: OrdMap<Arc<str>, u32>,
    stopping: OrdSet<RunId>,
    handed: OrdSet<(Arc<str>, RunId)>,
    ending: OrdSet<(Arc<str>, RunId)>,
    tasks: OrdMap<Arc<str>, RunId>,
    held_by: OrdSet<(Arc<str>, Arc<str>, u32, RunId)>,
    unheard: OrdSet<(Arc<str>, Timestamp, RunId)>,
    quiet: OrdSet<(Arc<str>, Timestamp, RunId)>,
    cooling: OrdSet<(Timestamp, BreakerKey)>,
    probing: OrdSet<BreakerKey>,
    sharers: OrdSet<(BreakerKey, JobId)>,
    members: OrdSet<(GroupKey, JobId)>,
    group_loads: OrdMap<GroupKey, u32>,
    queue_loads: OrdMap<Arc<str>, QueueLoad>,
    followers: OrdSet<(Arc<str>, Arc<str>, JobId)>,
    ending_pauses: OrdSet<(Timestamp, JobId)>,
    resting: OrdSet<JobId>,
    calendar_users: OrdSet<(Arc<str>, JobId)>,
    handing: OrdSet<(Arc<str>, JobId)>,
}

impl State {
    /// The replicated time: the newest stamp of an applied entry.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The feature level: what may be written into the log. It only ever rises.
    #[must_use]
    pub const fn level(&self) -> u32 {
        self.level
    }

    /// Log index of the last applied entry that carried commands.
    #[must_use]
    pub const fn applied_index(&self) -> u64 {
        self.applied
    }

    /// Whether the attempt of this fence was started by an entry that is applied: then this state knows
    /// whether it still runs.
    #[must_use]
    pub const fn knows_fence(&self, fence: u64) -> bool {
        fence <= self.fences
    }

    /// The last terms of leadership, oldest first.
    #[must_use]
    pub fn leaderships(&self) -> &[Leadership] {
        &self.leaderships
    }

    /// The job of this incarnation, deleted ones with live runs included.
    #[must_use]
    pub fn job(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// The job of this name.
    #[must_use]
    pub fn job_named(&self, namespace: &str, name: &str) -> Option<&Arc<Job>> {
        self.names.get(&(namespace.into(), name.into())).and_then(|id| self.jobs.get(id))
    }

    /// Jobs after the given (namespace, name) in that order, deleted ones not included.
    pub fn jobs_after(&self, after: Option<(&str, &str)>) -> impl Iterator<Item = &Arc<Job>> {
        use std::ops::Bound;
        let start = match after {
            Some((namespace, name)) => Bound::Excluded((Arc::from(namespace), Arc::from(name))),
            None => Bound::Unbounded,
        };
        self.names
            .range::<_, (Arc<str>, Arc<str>)>((start, Bound::Unbounded))
            .filter_map(|(_, id)| self.jobs.get(id))
    }

    /// All jobs after one, in the order of their ids, deleted ones with live runs included.
    pub fn jobs_by_id(&self, after: Option<JobId>) -> impl Iterator<Item = &Arc<Job>> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.jobs.range((start, Bound::Unbounded)).map(|(_, job)| job)
    }

    /// How many jobs there are.
    #[must_use]
    pub fn job_count(&self) -> usize {
        self.names.len()
    }

    /// The live run of this identity.
    #[must_use]
    pub fn run(&self, id: RunId) -> Option<&Arc<Run>> {
        self.runs.get(&id)
    }

    /// The live runs of a job, oldest first.
    pub fn runs_of(&self, job: JobId) -> impl Iterator<Item = &Arc<Run>> {
        self.runs.range(RunId::range_of(job)).map(|(_, run)| run)
    }

    /// All live runs.
    pub fn runs(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.runs.values()
    }

    /// How many live runs there are.
    #[must_use]
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// A breaker that has something to say; one that is absent is closed and has counted nothing.
    #[must_use]
    pub fn breaker(&self, key: &BreakerKey) -> Option<&Arc<Breaker>> {
        self.breakers.get(key)
    }

    /// All breakers that have something to say.
    pub fn breakers(&self) -> impl Iterator<Item = (&BreakerKey, &Arc<Breaker>)> {
        self.breakers.iter()
    }

    /// The jobs that share a breaker.
    pub fn sharers<'a>(&'a self, key: &'a BreakerKey) -> impl Iterator<Item = JobId> + 'a {
        self.sharers.range((key.clone(), JobId(0))..=(key.clone(), JobId(u64::MAX))).map(|(_, job)| *job)
    }

    /// Jobs with an armed occurrence, the earliest due first.
    pub fn due(&self) -> impl Iterator<Item = (Timestamp, JobId)> + '_ {
        self.due.iter().copied()
    }

    /// How many jobs have an armed occurrence.
    #[must_use]
    pub fn armed_count(&self) -> usize {
        self.due.len()
    }

    /// How many jobs have nothing armed because a leader could not evaluate their schedule.
    #[must_use]
    pub fn faulty_count(&self) -> usize {
        self.faulty.len()
    }

    /// Runs that wait behind a breaker, oldest job first.
    pub fn held_by<'a>(&'a self, key: &'a BreakerKey) -> impl Iterator<Item = RunId> + 'a {
        let lowest = RunId { job: JobId(0), at: Timestamp::MIN, seq: 0 };
        self.held.range((key.clone(), lowest)..).take_while(move |(of, _)| of == key).map(|(_, run)| *run)
    }

    /// Instants at which a live run needs a look, the earliest first.
    pub fn deadlines(&self) -> impl Iterator<Item = (Timestamp, RunId)> + '_ {
        self.deadlines.iter().copied()
    }

    /// Runs whose running attempt is with this worker.
    pub fn carried_by<'a>(&'a self, worker: &'a Arc<str>) -> impl Iterator<Item = RunId> + 'a {
        rows_of(&self.carried, worker)
    }

    /// How many attempts run with this worker.
    #[must_use]
    pub fn load(&self, worker: &Arc<str>) -> u32 {
        self.loads.get(worker).copied().unwrap_or(0)
    }

    /// Runs that someone wants to end while an attempt runs.
    pub fn stopping(&self) -> impl Iterator<Item = RunId> + '_ {
        self.stopping.iter().copied()
    }

    /// How many attempts run, with a worker or as a task that was left with others.
    #[must_use]
    pub fn running_count(&self) -> usize {
        self.carried.len() + self.handed.len()
    }

    /// Whether a task that was left by this connection has not ended.
    #[must_use]
    pub fn awaits_tasks(&self, connection: &Arc<str>) -> bool {
        rows_of(&self.handed, connection).next().is_some()
    }

    /// Whether a job leaves tasks by this connection and waits for their ends.
    #[must_use]
    pub fn hands_over(&self, connection: &Arc<str>) -> bool {
        let first = self.handing.range((connection.clone(), JobId(0))..).next();
        first.is_some_and(|(of, _)| of == connection)
    }

    /// The run of which a task is called so, if an attempt has left it that runs.
    #[must_use]
    pub fn run_of_task(&self, task: &str) -> Option<RunId> {
        self.tasks.get(task).copied()
    }

    /// Runs whose tasks were left by this connection and are to end: the runs are cancelled, or their time is over.
    pub fn ending_tasks<'a>(&'a self, connection: &'a Arc<str>) -> impl Iterator<Item = RunId> + 'a {
        rows_of(&self.ending, connection)
    }

    /// Who runs tasks that were left by this connection, each with the number of its process, in order.
    pub fn task_holders<'a>(
        &'a self,
        connection: &'a Arc<str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, u32)> + 'a {
        let mut next = self.held_by.range((connection.clone(), "".into(), 0, RunId::FIRST)..).next();
        std::iter::from_fn(move || {
            let (of, holder, process, _) = next.filter(|(of, ..)| of == connection)?;
            let behind = (of.clone(), holder.clone(), process.checked_add(1)?, RunId::FIRST);
            next = self.held_by.range(behind..).next();
            Some((holder, *process))
        })
    }

    /// Runs whose tasks were left by this connection and run in that process.
    pub fn tasks_of_holder<'a>(
        &'a self,
        connection: &Arc<str>,
        (holder, process): (&Arc<str>, u32),
    ) -> impl Iterator<Item = RunId> + use<'a> {
        let key = (connection.clone(), holder.clone(), process);
        let rows = self.held_by.range((key.0.clone(), key.1.clone(), key.2, RunId::FIRST)..);
        rows.take_while(move |(of, holder, process, _)| (of, holder, *process) == (&key.0, &key.1, key.2))
            .map(|(.., run)| *run)
    }

    /// Runs whose tasks were left by this connection, had expired at `by`, and of which nobody was heard, the oldest
    /// expiry first.
    pub fn expired_unheard<'a>(
        &'a self,
        connection: &'a Arc<str>,
        by: Timestamp,
    ) -> impl Iterator<Item = RunId> + 'a {
        until(&self.unheard, connection, by)
    }

    /// Runs whose tasks were left by this connection, in a queue and until `by`, and of which nobody was heard since; the
    /// oldest first.
    pub fn quiet_tasks<'a>(
        &'a self,
        connection: &'a Arc<str>,
        by: Timestamp,
    ) -> impl Iterator<Item = RunId> + 'a {
        until(&self.quiet, connection, by)
    }

    /// Runs whose tasks were left by this connection and have not ended, in the order of their ids, behind `after`.
    pub fn tasks_awaited<'a>(
        &'a self,
        connection: &'a Arc<str>,
        after: Option<RunId>,
    ) -> impl Iterator<Item = RunId> + 'a {
        let rows = self.handed.range((connection.clone(), after.unwrap_or(RunId::FIRST))..);
        let rows = rows.take_while(move |(of, _)| of == connection).map(|(_, run)| *run);
        rows.skip_while(move |run| Some(*run) == after)
    }

    /// Workers that carry attempts, with the ends of their leases.
    pub fn leases(&self) -> impl Iterator<Item = (&Arc<str>, Timestamp)> {
        self.leases.iter().map(|(worker, until)| (worker, *until))
    }

    /// The end of a worker's lease, if it carries attempts.
    #[must_use]
    pub fn lease(&self, worker: &Arc<str>) -> Option<Timestamp> {
        self.leases.get(worker).copied()
    }

    /// Open breakers with the ends of their cool-downs, the earliest first.
    pub fn cooling(&self) -> impl Iterator<Item = (Timestamp, &BreakerKey)> {
        self.cooling.iter().map(|(until, key)| (*until, key))
    }

    /// Pauses that end by themselves, with their jobs, the earliest first.
    pub fn ending_pauses(&self) -> impl Iterator<Item = (Timestamp, JobId)> + '_ {
        self.ending_pauses.iter().copied()
    }

    /// Jobs without a live run whose next occurrence follows from the end of the last one and is not armed.
    pub fn resting(&self) -> impl Iterator<Item = JobId> + '_ {
        self.resting.iter().copied()
    }

    /// Half-open breakers.
    pub fn probing(&self) -> impl Iterator<Item = &BreakerKey> {
        self.probing.iter()
    }

    /// Whether a live run counts against its job's parallelism. One that is queued does not; nor does
    /// one that an open breaker keeps and that has not started: it asks again when the breaker lets go.
    fn takes_place(&self, run: &Run) -> bool {
        match run.phase {
            // What a run made for one of its workers is in the place of that run.
            _ if run.parent.is_some() => false,
            Phase::Queued | Phase::Ended => false,
            Phase::Held => {
                let open = self.breakers.get(&run.breaker).is_some_and(|it| it.kind() == StatusKind::Open);
                !(open && run.is_untouched())
            }
            Phase::Waiting | Phase::Backoff { .. } | Phase::Running | Phase::Spread => true,
        }
    }
}

/// The runs of a connection whose instants are over.
fn until<'a>(
    rows: &'a OrdSet<(Arc<str>, Timestamp, RunId)>,
    connection: &'a Arc<str>,
    by: Timestamp,
) -> impl Iterator<Item = RunId> + 'a {
    let rows = rows.range((connection.clone(), Timestamp::MIN, RunId::FIRST)..);
    rows.take_while(move |(of, at, _)| of == connection && *at <= by).map(|(.., run)| *run)
}

/// The runs that stand under a name.
fn rows_of<'a>(
    rows: &'a OrdSet<(Arc<str>, RunId)>,
    name: &'a Arc<str>,
) -> impl Iterator<Item = RunId> + use<'a> {
    rows.range((name.clone(), RunId::FIRST)..).take_while(move |(of, _)| of == name).map(|(_, run)| *run)
}
