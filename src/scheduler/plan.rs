//! What the leader should propose now, and when it should look again.
//!
//! A pure function of the state, of who is connected, and of the time. It is called again whenever
//! one of them changes: there is no list of timers to keep or to rebuild, and nothing here knows
//! whether this leader is a new one. What it plans may be out of date when it is applied; each command
//! names what it expects, so the state refuses what no longer fits.
//!
//! Order within a plan: jobs that are read anew, jobs whose pause is over, jobs whose last run is over, breakers whose cool-down is over, runs whose
//! wait is over, workers whose lease is over, then runs that are for each worker that matches, then starts of what waits,
//! oldest first, then occurrences that are due, each with its
//! start in the same commit where a worker has room.

mod assign;
mod limits;
mod pauses;
mod reread;
mod rules;
mod spread;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

pub use self::rules::Rules;
use super::backoff;
use super::occurrences::{WALK, decide};
use crate::state::breaker::{Status, StatusKind};
use crate::state::group::GroupKey;
use crate::state::run::{AttemptOutcome, JobId, Phase, Report, Run, RunId};
use crate::state::spec::JobSpec;
use crate::state::spread::{is_spread, place_of};
use crate::state::time::Timestamp;
use crate::state::{BreakerKey, Command, Job, State, Verdict};

/// Commands in one plan; what is left is planned next, at once.
pub const COMMANDS: usize = 1_000;
/// Verdicts in one plan, so that an entry stays small when many jobs catch up; what is left is planned
/// next, at once.
pub const VERDICTS: usize = 4_000;
/// Classes of waiting runs that one plan looks at, for whether a worker may take them; the next plan goes
/// on with those behind, so each gets its turn.
pub const CLASSES: usize = 10_000;
/// When the next plan is due that looks at the classes behind those.
const CLASSES_AGAIN: Duration = Duration::from_millis(50);
/// The wait before an attempt that `retry` wants after its worker was lost.
pub const RETRY_AFTER_LOSS: Duration = Duration::from_secs(1);
/// 2^64 divided by the golden ratio (Knuth, TAOCP 6.4): neighbouring fences end up far apart.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A connected worker, as the leader sees it.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name, unique for this life of its process.
    pub worker: Arc<str>,
    /// The queues that it serves.
    pub queues: Arc<BTreeSet<Arc<str>>>,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// The kinds of targets that it carries out.
    pub kinds: Arc<BTreeSet<String>>,
    /// Attempts that it carries out at the same time.
    pub slots: u32,
    /// Slots that are free, with all that was planned for it taken off.
    pub free: u32,
    /// When it was last given an attempt, by a count of its leader's; 0: never.
    pub given: u64,
}

impl Session {
    /// Whether it has room for an attempt that needs just this.
    fn may_take(&self, spec: &JobSpec, queue: &str, place: Option<&str>) -> bool {
        self.free > 0
            && place.is_none_or(|place| place == place_of(&self.worker))
            && self.matches(spec, queue)
    }

    /// Whether it takes attempts that need just this, when it has room.
    fn matches(&self, spec: &JobSpec, queue: &str) -> bool {
        self.queues.contains(queue)
            && self.kinds.contains(spec.target.needs().as_ref())
            && spec.requires.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

/// Who is connected, and how long others have been silent.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    /// Workers that take new attempts.
    pub open: Vec<Session>,
    /// Workers that gave a sign of life lately.
    pub alive: HashSet<Arc<str>>,
    /// Workers that may not be declared lost yet, though their lease has ended: this leader has not
    /// listened long enough.
    pub spared: HashSet<Arc<str>>,
    /// Whether every worker that is alive has come to this leader: it has listened for a lease, after which one that
    /// has not come is given up.
    pub is_complete: bool,
    /// The length of a lease.
    pub lease: Duration,
}

/// What is proposed and not applied yet: it is not proposed a second time.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// Jobs with a `Fire`.
    pub jobs: HashSet<JobId>,
    /// How many such jobs there may be; what else is due waits until one of them has landed. Starts and reports
    /// do not wait for it.
    pub jobs_max: usize,
    /// Runs with any command.
    pub runs: HashSet<RunId>,
    /// Breakers with a `HalfOpen`.
    pub breakers: HashSet<BreakerKey>,
    /// A `Reread`.
    pub reread: bool,
    /// Workers with a `Renew` or `Lose`.
    pub workers: HashSet<Arc<str>>,
    /// Starts in flight, for each group whose limits they count against.
    pub groups: HashMap<GroupKey, u32>,
    /// The same for each queue that has limits.
    pub queues: HashMap<Arc<str>, u32>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            jobs: HashSet::new(),
            jobs_max: usize::MAX,
            runs: HashSet::new(),
            breakers: HashSet::new(),
            reread: false,
            workers: HashSet::new(),
            groups: HashMap::new(),
            queues: HashMap::new(),
        }
    }
}

/// What to propose, and when to look again.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In order.
    pub commands: Vec<Command>,
    /// Look again then, if nothing changes before.
    pub wake_at: Option<Timestamp>,
    /// There is more to propose at once.
    pub more: bool,
}

/// Plans. `sessions.open` loses the slots that the plan uses.
pub fn plan(
    state: &State,
    sessions: &mut Sessions,
    flight: &InFlight,
    now: Timestamp,
    rules: &mut Rules,
) -> Plan {
    let now = now.max(state.now());
    let mut planning = Planning {
        state,
        sessions,
        flight,
        now,
        plan: Plan::default(),
        taken: HashSet::new(),
        groups: HashMap::new(),
        queues: HashMap::new(),
        verdicts: 0,
        walked: 0,
    };
    planning.reread(rules);
    planning.pauses(rules);
    planning.resting(rules);
    planning.breakers();
    planning.deadlines();
    planning.leases();
    planning.probes();
    planning.spreads();
    planning.waiting(rules);
    planning.due(rules);
    planning.plan
}

struct Planning<'a> {
    state: &'a State,
    sessions: &'a mut Sessions,
    flight: &'a InFlight,
    now: Timestamp,
    plan: Plan,
    /// Runs that this plan already has a command for.
    taken: HashSet<RunId>,
    /// Starts that this plan has, for each group.
    groups: HashMap<GroupKey, u32>,
    /// The same for each queue that has limits.
    queues: HashMap<Arc<str>, u32>,
    verdicts: usize,
    /// Instants that these verdicts cover.
    walked: u64,
}

/// How many instants a verdict covers: so many were walked over for it.
const fn covered(verdict: &Verdict) -> u64 {
    match *verdict {
        Verdict::Run { stands_for, .. } => stands_for,
        Verdict::Missed { count, .. } | Verdict::Excluded { count, .. } => count,
    }
}

impl Planning<'_> {
    fn full(&mut self) -> bool {
        if self.plan.commands.len() >= COMMANDS || self.verdicts >= VERDICTS || self.walked >= WALK {
            self.plan.more = true;
        }
        self.plan.more
    }

    fn wake(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |wake| wake.min(at)));
    }

    fn breakers(&mut self) {
        for (until, key) in self.state.cooling() {
            if until > self.now {
                return self.wake(until);
            }
            if self.full() {
                return;
            }
            if self.flight.breakers.contains(key) {
                continue;
            }
            if let Some(Status::Open { index, .. }) = self.state.breaker(key).map(|breaker| breaker.status) {
                self.plan.commands.push(Command::HalfOpen { breaker: key.clone(), opened: index });
            }
        }
    }

    fn deadlines(&mut self) {
        for (at, id) in self.state.deadlines() {
            if at > self.now {
                return self.wake(at);
            }
            if self.full() {
                return;
            }
            if self.flight.runs.contains(&id) {
                continue;
            }
            let Some(run) = self.state.run(id) else { continue };
            match run.phase {
                Phase::Backoff { .. } => {
                    self.plan.commands.push(Command::Retry { run: id });
                    if self.breaker_kind(&run.breaker) == StatusKind::Closed {
                        self.start(run.as_ref(), id);
                    }
                    self.taken.insert(id);
                }
                Phase::Running => self.overdue(run),
                Phase::Queued | Phase::Held | Phase::Waiting => {
                    self.plan.commands.push(Command::Expire { run: id });
                    self.taken.insert(id);
                }
                Phase::Spread | Phase::Ended => {}
            }
        }
    }

    /// The worker says nothing of an attempt that should long have ended: it hangs, or it has vanished and no leader
    /// since has listened for long enough to say so.
    fn overdue(&mut self, run: &Run) {
        let Some(attempt) = run.running() else { return };
        if run.cancel.is_none() && attempt.handed.as_ref().is_some_and(|task| task.overdue_since.is_none()) {
            self.plan.commands.push(Command::StopTask { run: run.id, fence: attempt.fence });
            self.taken.insert(run.id);
            return;
        }
        let retry_after = self.state.job(run.id.job).map_or(RETRY_AFTER_LOSS, |job| {
            // The fence is as good as chance here: it spreads, and nothing here may draw a number.
            backoff::after(run, job, attempt.fence.wrapping_mul(SPREAD))
        });
        let lease = self.state.lease(&attempt.worker);
        let is_gone =
            !self.sessions.alive.contains(&attempt.worker) && lease.is_none_or(|until| until <= self.now);
        let (outcome, error) = if let Some(handed) = &attempt.handed {
            (AttemptOutcome::TimedOut, format!("nobody has told how task {} ended", handed.task))
        } else if is_gone {
            // As of a worker whose lease ends: nobody has told anything.
            (AttemptOutcome::Lost, String::new())
        } else {
            (AttemptOutcome::TimedOut, "its worker did not end it in time".to_owned())
        };
        let report = Report { error, ..Report::default() };
        self.plan.commands.push(Command::Complete {
            run: run.id,
            fence: attempt.fence,
            outcome,
            report: Arc::new(report),
            retry_after,
        });
        self.taken.insert(run.id);
    }

    fn leases(&mut self) {
        let lease = self.sessions.lease;
        for (worker, until) in self.state.leases() {
            if self.full() {
                return;
            }
            if self.flight.workers.contains(worker) {
                continue;
            }
            let renew_from = until.minus(lease.mul_f32(0.66));
            if self.sessions.alive.contains(worker) {
                if renew_from <= self.now {
                    let lease_until = self.now.plus(lease);
                    self.plan.commands.push(Command::Renew { worker: worker.clone(), lease_until });
                } else {
                    self.wake(renew_from);
                }
            } else if until > self.now {
                self.wake(until);
            } else if self.sessions.spared.contains(worker) {
                self.wake(self.now.plus(lease / 10));
            } else {
                self.plan.commands.push(Command::Lose {
                    worker: worker.clone(),
                    expect: until,
                    retry_after: RETRY_AFTER_LOSS,
                });
            }
        }
    }

    /// Half-open breakers let their probes start.
    fn probes(&mut self) {
        for key in self.state.probing() {
            let Some(breaker) = self.state.breaker(key) else { continue };
            let Status::HalfOpen { running, passed, .. } = breaker.status else { continue };
            let mut room = breaker.policy.probes.max(1).saturating_sub(running.saturating_add(passed));
            room = room.saturating_sub(self.probes_in_flight(key));
            for id in self.state.held_by(key) {
                if room == 0 || self.full() {
                    break;
                }
                if self.flight.runs.contains(&id) || self.taken.contains(&id) {
                    continue;
                }
                if let Some(run) = self.state.run(id)
                    && self.start(run.as_ref(), id)
                {
                    room -= 1;
                }
            }
        }
    }

    fn probes_in_flight(&self, key: &BreakerKey) -> u32 {
        let held = self.state.held_by(key).filter(|id| self.flight.runs.contains(id)).count();
        u32::try_from(held).unwrap_or(u32::MAX)
    }

    fn start(&mut self, run: &Run, id: RunId) -> bool {
        let attempt = run.attempts.last().map_or(1, |last| last.number.saturating_add(1));
        let Some(job) = self.state.job(id.job).cloned() else { return false };
        if is_spread(&job.spec, run) {
            return self.spread(&job, id, &run.queue);
        }
        self.start_attempt(&job, id, (&run.queue, run.place.as_deref()), attempt)
    }

    fn start_attempt(
        &mut self,
        job: &Job,
        run: RunId,
        (queue, place): (&str, Option<&str>),
        attempt: u32,
    ) -> bool {
        if !self.has_room(&job.spec, queue) {
            return false;
        }
        let Some(worker) = self.assign(&job.spec, queue, place) else { return false };
        if let Some(group) = job.spec.group() {
            *self.groups.entry(group).or_insert(0) += 1;
        }
        if self.state.queue(queue).is_some() {
            *self.queues.entry(queue.into()).or_insert(0) += 1;
        }
        let lease_until = self.now.plus(self.sessions.lease);
        self.plan.commands.push(Command::Start { run, attempt, worker, lease_until });
        self.taken.insert(run);
        true
    }

    /// Takes a slot off the worker that is to carry it out; see [`assign`].
    fn assign(&mut self, spec: &JobSpec, queue: &str, place: Option<&str>) -> Option<Arc<str>> {
        let able = self.sessions.open.iter_mut().filter(|session| session.may_take(spec, queue, place));
        let session = able.max_by(|one, other| assign::order(one, other))?;
        session.free -= 1;
        Some(session.worker.clone())
    }

    fn breaker_kind(&self, key: &BreakerKey) -> StatusKind {
        self.state.breaker(key).map_or(StatusKind::Closed, |breaker| breaker.kind())
    }

    fn due(&mut self, rules: &mut Rules) {
        let mut room = self.flight.jobs_max.saturating_sub(self.flight.jobs.len());
        for (due_at, id) in self.state.due() {
            if due_at > self.now {
                return self.wake(due_at);
            }
            // The landing of what is in flight wakes the caller.
            if room == 0 || self.full() {
                return;
            }
            if self.flight.jobs.contains(&id) {
                continue;
            }
            let Some(job) = self.state.job(id).cloned() else { continue };
            // It fires once it is read anew, and takes no room from those that need not be.
            if self.state.is_behind(&job) {
                continue;
            }
            room -= 1;
            self.fire(&job, rules);
        }
    }

    fn fire(&mut self, job: &Arc<Job>, rules: &mut Rules) {
        let Some(armed) = job.next else { return };
        let set = match rules.of(job, self.state) {
            Ok(set) => set,
            Err(why) => {
                let (id, version, expect) = (job.id, job.version, armed.scheduled_at);
                self.verdicts += 1;
                return self.plan.commands.push(Command::Disarm { job: id, version, expect, why });
            }
        };
        let (verdicts, next) = decide(&job.spec, &set, armed, self.now);
        let runs: Vec<RunId> = verdicts
            .iter()
            .filter_map(|verdict| match *verdict {
                Verdict::Run { scheduled_at, .. } => Some(RunId { job: job.id, at: scheduled_at, seq: 0 }),
                Verdict::Missed { .. } | Verdict::Excluded { .. } => None,
            })
            .collect();
        self.verdicts += verdicts.len();
        self.walked += verdicts.iter().map(covered).sum::<u64>();
        self.plan.commands.push(Command::Fire {
            job: job.id,
            version: job.version,
            expect: armed.scheduled_at,
            verdicts,
            next,
        });
        if self.breaker_kind(&job.breaker()) != StatusKind::Closed {
            return;
        }
        for run in runs.into_iter().take(self.parallel_room(job)) {
            let queue = &job.spec.queue;
            let is_planned = if job.spec.every_node {
                !self.full() && self.spread(job, run, queue)
            } else {
                !self.full() && self.start_attempt(job, run, (queue, None), 1)
            };
            if !is_planned {
                return;
            }
        }
    }

    /// How many new runs of the job overlap would let start now.
    fn parallel_room(&self, job: &Job) -> usize {
        let parallel = job.spec.overlap.parallel();
        parallel.saturating_sub(self.state.runs_of(job.id).take(parallel).count())
    }
}
