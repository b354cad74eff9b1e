//! The model of the leader's loop: the rules of `src/leader` over `scheduler::plan`, which is the
//! shipped code. Sessions, what is in flight and reports are kept as there; streams and Raft are not.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chronarch::scheduler::backoff::backoff;
use chronarch::scheduler::plan::{InFlight, Rules, Session, Sessions, plan};
use chronarch::state::run::{AttemptOutcome, Report};
use chronarch::state::time::Timestamp;
use chronarch::state::{Applied, Command, Outcome, State};

use crate::LEASE_MS;
use crate::lab::invariants::Held;
use crate::worker::ToWorker;

const SLOTS: u32 = 3;

pub(crate) struct Open {
    session: u64,
    last_heard: u64,
    cancelled: HashSet<Held>,
}

pub(crate) struct Leader {
    pub(crate) term: u64,
    since: u64,
    announced: bool,
    sessions: BTreeMap<Arc<str>, Open>,
    heard: BTreeMap<Arc<str>, u64>,
    in_flight: InFlight,
    starts: HashMap<Arc<str>, u32>,
    landed: Vec<(u64, Vec<Command>)>,
    reports: Vec<(Arc<str>, Held, AttemptOutcome)>,
    reported: BTreeSet<Held>,
    rules: Rules,
    /// What leaves for workers.
    pub(crate) out: Vec<(Arc<str>, ToWorker)>,
    /// Answers out of the ordinary call for a new hello of everyone.
    pub(crate) dismiss: bool,
}

impl Leader {
    pub(crate) fn new(term: u64, since: u64) -> Self {
        Self {
            term,
            since,
            announced: false,
            sessions: BTreeMap::new(),
            heard: BTreeMap::new(),
            in_flight: InFlight::default(),
            starts: HashMap::new(),
            landed: Vec::new(),
            reports: Vec::new(),
            reported: BTreeSet::new(),
            rules: Rules::default(),
            out: Vec::new(),
            dismiss: false,
        }
    }

    pub(crate) fn knows(&self, worker: &Arc<str>, session: u64) -> bool {
        self.sessions.get(worker).is_some_and(|open| open.session == session)
    }

    /// For how long this leader has heard nothing of a worker.
    pub(crate) fn silence(&self, worker: &Arc<str>, now: u64) -> u64 {
        now - self.heard.get(worker).copied().unwrap_or(self.since).max(self.since)
    }

    /// `sessions::open` and `dispatch::reconcile`.
    pub(crate) fn hello(
        &mut self,
        state: &State,
        worker: &Arc<str>,
        session: u64,
        held: &BTreeSet<Held>,
        now: u64,
    ) {
        let open = Open { session, last_heard: now, cancelled: HashSet::new() };
        self.sessions.insert(worker.clone(), open);
        self.heard.insert(worker.clone(), now);
        let wanted: BTreeSet<Held> = state
            .carried_by(worker)
            .filter_map(|run| state.run(run).and_then(|run| run.running().map(|it| (run.id, it.fence))))
            .collect();
        for held in held.difference(&wanted) {
            self.out.push((worker.clone(), ToWorker::Cancel(*held)));
        }
        for order in wanted.difference(held) {
            self.out.push((worker.clone(), ToWorker::Order(*order)));
        }
    }

    pub(crate) fn heartbeat(&mut self, worker: &Arc<str>, now: u64) {
        if let Some(open) = self.sessions.get_mut(worker) {
            open.last_heard = now;
            self.heard.insert(worker.clone(), now);
            self.out.push((worker.clone(), ToWorker::Heartbeat));
        }
    }

    pub(crate) fn report(&mut self, worker: &Arc<str>, held: Held, outcome: AttemptOutcome, now: u64) {
        if let Some(open) = self.sessions.get_mut(worker) {
            open.last_heard = now;
            self.heard.insert(worker.clone(), now);
            if self.reported.insert(held) {
                self.reports.push((worker.clone(), held, outcome));
            }
        }
    }

    /// `turn::turn`: everything that the loop proposes now, an entry each.
    pub(crate) fn turn(
        &mut self,
        node: u64,
        state: &State,
        now: u64,
        wall: Timestamp,
        room: usize,
        chance: u64,
    ) -> Vec<Vec<Command>> {
        let (seen, landed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.landed)
            .into_iter()
            .partition(|(index, _)| *index <= state.applied_index());
        self.landed = landed;
        for (_, commands) in seen {
            self.forget(&commands);
        }
        self.stop_attempts(state);
        let mut entries = Vec::new();
        if !self.announced {
            self.announced = true;
            entries.push(vec![Command::Lead { node, term: self.term, silent_for: None }]);
        }
        let reports = std::mem::take(&mut self.reports);
        if !reports.is_empty() {
            entries.push(
                reports.iter().map(|(_, held, outcome)| complete(state, *held, *outcome, chance)).collect(),
            );
        }
        for commands in &entries {
            self.take_off(commands);
        }
        while entries.len() < room {
            let mut view = self.view(state, now);
            let plan = plan(state, &mut view, &self.in_flight, wall, &mut self.rules);
            if plan.commands.is_empty() {
                break;
            }
            self.take_off(&plan.commands);
            entries.push(plan.commands);
            if !plan.more {
                break;
            }
        }
        entries
    }

    fn view(&self, state: &State, now: u64) -> Sessions {
        let mut view = Sessions { lease: Duration::from_millis(LEASE_MS), ..Sessions::default() };
        for (name, open) in &self.sessions {
            if now - open.last_heard < LEASE_MS / 2 {
                view.alive.insert(name.clone());
            }
            let busy = state.load(name) + self.starts.get(name).copied().unwrap_or(0);
            view.open.push(Session {
                worker: name.clone(),
                queues: Arc::new(BTreeSet::from(["default".into()])),
                labels: Arc::default(),
                kinds: Arc::new(BTreeSet::from(["exec".to_owned()])),
                slots: SLOTS,
                free: SLOTS.saturating_sub(busy),
                given: 0,
            });
        }
        view.is_complete = now - self.since >= LEASE_MS;
        for (name, _) in state.leases() {
            if self.silence(name, now) < LEASE_MS {
                view.spared.insert(name.clone());
            }
        }
        view
    }

    fn stop_attempts(&mut self, state: &State) {
        for id in state.stopping() {
            let Some(attempt) = state.run(id).and_then(|run| run.running()) else { continue };
            let held = (id, attempt.fence);
            if let Some(open) = self.sessions.get_mut(&attempt.worker)
                && open.cancelled.insert(held)
            {
                self.out.push((attempt.worker.clone(), ToWorker::Cancel(held)));
            }
        }
    }

    /// `dispatch::dispatch`.
    pub(crate) fn landed(&mut self, index: u64, commands: &[Command], applied: &Applied, state: &State) {
        self.landed.push((index, commands.to_vec()));
        for (command, outcome) in commands.iter().zip(&applied.outcomes) {
            match (command, outcome) {
                (Command::Start { worker, .. }, Outcome::Started { run, fence }) => {
                    self.out.push((worker.clone(), ToWorker::Order((*run, *fence))));
                }
                (Command::Complete { run, fence, .. }, _) => {
                    let held = (*run, *fence);
                    // Closed for a worker that hangs: it is told to stop. Reported: it is told so.
                    let reported = self.reported.remove(&held);
                    let holder = state
                        .run(*run)
                        .and_then(|run| run.attempts.iter().find(|it| it.fence == held.1))
                        .or_else(|| ended(applied, held))
                        .map(|attempt| attempt.worker.clone());
                    if let Some(worker) = holder {
                        let message =
                            if reported { ToWorker::Acknowledged(held) } else { ToWorker::Cancel(held) };
                        self.out.push((worker, message));
                    } else if reported {
                        for worker in self.sessions.keys() {
                            self.out.push((worker.clone(), ToWorker::Acknowledged(held)));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// The answer to a proposal is that it failed, or that nobody knows.
    pub(crate) fn unknown(&mut self, commands: &[Command]) {
        self.forget(commands);
        for command in commands {
            if let Command::Complete { run, fence, .. } = command {
                // The worker repeats what was not acknowledged.
                self.reported.remove(&(*run, *fence));
            }
        }
        // It may have committed, and then its orders have never left.
        self.dismiss =
            commands.iter().any(|command| matches!(command, Command::Start { .. })) || self.dismiss;
    }

    pub(crate) fn drop_sessions(&mut self) {
        for worker in std::mem::take(&mut self.sessions).into_keys() {
            self.out.push((worker, ToWorker::Bye));
        }
    }

    fn take_off(&mut self, commands: &[Command]) {
        let flight = &mut self.in_flight;
        for command in commands {
            match command {
                Command::Fire { job, .. } => drop(flight.jobs.insert(*job)),
                Command::Start { run, worker, .. } => {
                    flight.runs.insert(*run);
                    *self.starts.entry(worker.clone()).or_insert(0) += 1;
                }
                Command::Complete { run, .. } | Command::Retry { run } | Command::Expire { run } => {
                    flight.runs.insert(*run);
                }
                Command::HalfOpen { breaker, .. } => drop(flight.breakers.insert(breaker.clone())),
                Command::Reread { .. } => flight.reread = true,
                Command::Renew { worker, .. } | Command::Lose { worker, .. } => {
                    flight.workers.insert(worker.clone());
                }
                _ => {}
            }
        }
    }

    fn forget(&mut self, commands: &[Command]) {
        let flight = &mut self.in_flight;
        for command in commands {
            match command {
                Command::Fire { job, .. } => drop(flight.jobs.remove(job)),
                Command::Start { run, worker, .. } => {
                    flight.runs.remove(run);
                    if let Some(starts) = self.starts.get_mut(worker) {
                        *starts = starts.saturating_sub(1);
                    }
                }
                Command::Complete { run, .. } | Command::Retry { run } | Command::Expire { run } => {
                    flight.runs.remove(run);
                }
                Command::HalfOpen { breaker, .. } => drop(flight.breakers.remove(breaker)),
                Command::Reread { .. } => flight.reread = false,
                Command::Renew { worker, .. } | Command::Lose { worker, .. } => {
                    flight.workers.remove(worker);
                }
                _ => {}
            }
        }
    }
}

fn ended(applied: &Applied, held: Held) -> Option<&chronarch::state::run::Attempt> {
    let run = applied.finished.iter().find(|run| run.id == held.0)?;
    run.attempts.iter().find(|attempt| attempt.fence == held.1)
}

fn complete(state: &State, (run, fence): Held, outcome: AttemptOutcome, chance: u64) -> Command {
    let retry_after = state.run(run).zip(state.job(run.job)).map_or(Duration::ZERO, |(run, job)| {
        let ended = u32::try_from(run.attempts.len()).unwrap_or(u32::MAX).saturating_sub(run.reruns);
        backoff(&job.spec.retry, ended.max(1), chance)
    });
    Command::Complete { run, fence, outcome, report: Arc::new(Report::default()), retry_after }
}
