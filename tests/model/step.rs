//! What may happen next: the protocol's own steps, and faults.

use std::collections::VecDeque;

use chronarch::state::run::{AttemptOutcome, Report, RunId, RunState};
use chronarch::state::{Applied, Command, Entry, Outcome, Rejection};
use std::sync::Arc;
use std::time::Duration;

use super::properties::Blot;
use super::world::{Effect, End, Fault, Key, Known, Landed, Letter, Mind, Proposal, Protocol, Stage, World};
use super::world::{NODES, WORKERS, number};

/// Proposals of a leader that may be under way.
const PIPELINE: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The second instant comes.
    Wait,
    /// The leader plans, and proposes what it planned.
    Plan {
        node: usize,
    },
    /// The oldest proposal is committed.
    Commit,
    /// The proposer is told, and acts on it: orders leave.
    Land {
        node: usize,
    },
    /// A node is followed by a majority, and has applied all that is committed.
    Elect {
        node: usize,
    },
    /// A deposed leader finds out.
    FindOut {
        node: usize,
    },
    /// A worker opens a stream to a node that says that it leads, and tells what it holds.
    Connect {
        worker: usize,
        node: usize,
    },
    Arrive {
        worker: usize,
        letter: Letter,
    },
    CarryOut {
        worker: usize,
        key: Key,
    },
    Report {
        worker: usize,
        key: Key,
    },
    /// Fault: a majority follows the leader no more. So many of its proposals have reached one.
    Depose {
        kept: usize,
        crash: bool,
    },
    /// Fault: a stream breaks. What is on its way is lost, or comes later.
    Break {
        worker: usize,
        lost: bool,
    },
    /// Fault: a worker dies.
    Die {
        worker: usize,
    },
    /// Fault: the leader gives a worker up that lives.
    Suspect {
        node: usize,
        worker: usize,
    },
    /// Fault: the proposer is never told.
    Unanswered {
        node: usize,
    },
}

impl Step {
    const fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Depose { .. }
                | Self::Break { .. }
                | Self::Die { .. }
                | Self::Suspect { .. }
                | Self::Unanswered { .. }
        )
    }
}

impl Protocol {
    /// Nothing happens any more, unless something breaks.
    pub(crate) fn is_quiet(&self, world: &World) -> bool {
        let mut steps = Vec::new();
        self.steps(world, &mut steps);
        steps.into_iter().filter(|step| !step.is_fault()).all(|step| self.next(world, step).is_none())
    }

    pub(crate) fn steps(&self, world: &World, steps: &mut Vec<Step>) {
        if !world.underway.is_empty() {
            steps.push(Step::Commit);
        }
        if !world.is_late {
            steps.push(Step::Wait);
        }
        for node in 0..NODES {
            if world.leads.is_none() {
                steps.push(Step::Elect { node });
            }
            let Some(mind) = &world.nodes[node].mind else { continue };
            if !mind.landed.is_empty() {
                steps.push(Step::Land { node });
                if world.budget.answers > 0 && world.leads == Some(node) {
                    steps.push(Step::Unanswered { node });
                }
            }
            if world.leads == Some(node) {
                steps.push(Step::Plan { node });
            } else {
                steps.push(Step::FindOut { node });
            }
        }
        (0..WORKERS).for_each(|worker| worker_steps(world, worker, steps));
        if world.leads.is_some() && world.budget.leaders > 0 {
            for kept in 0..=world.underway.len() {
                steps.extend([false, true].map(|crash| Step::Depose { kept, crash }));
            }
        }
    }

    /// The world after a step; none if it changes nothing.
    pub(crate) fn next(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        let changed = match step {
            Step::Wait => {
                world.is_late = true;
                true
            }
            Step::Plan { node } => self.plan(&mut world, node, None),
            Step::Suspect { node, worker } => {
                world.budget.suspicions -= 1;
                self.plan(&mut world, node, Some(worker))
            }
            Step::Commit => {
                let proposal = world.underway.pop_front()?;
                self.commit(&mut world, proposal);
                true
            }
            Step::Land { node } => self.land(&mut world, node, true),
            Step::Unanswered { node } => {
                world.budget.answers -= 1;
                self.land(&mut world, node, false)
            }
            Step::Elect { node } => {
                world.disconnect_all(node);
                world.nodes[node].state = world.truth.clone();
                world.nodes[node].mind = Some(Mind::default());
                world.leads = Some(node);
                true
            }
            Step::FindOut { node } => {
                world.disconnect_all(node);
                world.nodes[node].mind = None;
                true
            }
            Step::Connect { worker, node } => self.connect(&mut world, worker, node),
            Step::Arrive { worker, letter } => self.arrive(&mut world, worker, letter),
            Step::CarryOut { worker, key } => carry_out(&mut world, worker, key),
            Step::Report { worker, key } => self.report(&mut world, worker, key),
            Step::Depose { kept, crash } => self.depose(&mut world, kept, crash),
            Step::Break { worker, lost } => {
                world.budget.streams -= 1;
                world.disconnect(worker);
                if lost {
                    world.air.retain(|(to, _)| *to != worker);
                }
                true
            }
            Step::Die { worker } => self.die(&mut world, worker),
        };
        changed.then_some(world)
    }

    /// The entry is in the log of a majority. Its index names jobs and breaker openings, of which the model
    /// makes none, so it stands still: ways that lead to the same state are one.
    fn commit(&self, world: &mut World, proposal: Proposal) {
        let mut state = world.truth.state.as_ref().clone();
        let mut commands = proposal.commands.as_ref().clone();
        if self.fault == Fault::FenceNotCompared {
            commands.iter_mut().for_each(|command| ignore_fence(&state, command));
        }
        let entry = Entry { at: Self::now(world.is_late), commands };
        let applied = state.apply(2, &entry);
        if state.verify().is_err() {
            world.blots.insert(Blot::Broken);
        }
        let started = world.note(&entry, &applied);
        world.truth = Known::new(state);
        if let Some(mind) = world.leads.and_then(|node| world.nodes[node].mind.as_mut()) {
            mind.landed.push_back(Landed { proposal, started, state: world.truth.clone() });
        }
    }

    /// What is done once an entry of one's own is applied; without an answer, what a sweep does later.
    fn land(&self, world: &mut World, node: usize, is_answered: bool) -> bool {
        let Some(mind) = world.nodes[node].mind.as_mut() else { return false };
        let Some(landed) = mind.landed.pop_front() else { return false };
        let sessions = mind.sessions.clone();
        if let Some((_, key)) = landed.proposal.report {
            mind.reported.remove(&key);
        }
        world.nodes[node].state = landed.state;
        let mut letters = Vec::new();
        if is_answered {
            letters.extend(landed.started.iter().map(|(worker, key)| (*worker, Letter::Order(*key))));
            letters.extend(landed.proposal.report.map(|(worker, key)| (worker, Letter::Acknowledge(key))));
        } else {
            for worker in &sessions {
                let carried = World::carried(&world.nodes[node].state.state, *worker);
                letters.extend(carried.into_iter().map(|key| (*worker, Letter::Order(key))));
            }
        }
        world.air.extend(letters.into_iter().filter(|(worker, _)| sessions.contains(worker)));
        true
    }

    /// A worker reports, again and again until it is acknowledged.
    fn report(&self, world: &mut World, worker: usize, key: Key) -> bool {
        let Some(node) = world.workers[worker].link else { return false };
        let outcome = match world.workers[worker].held.get(&key) {
            Some(Stage::Done) => AttemptOutcome::Succeeded,
            Some(Stage::Stopped) => AttemptOutcome::Cancelled,
            Some(Stage::Waiting) | None => return false,
        };
        let state = world.nodes[node].state.state.clone();
        let Some(mind) = world.nodes[node].mind.as_mut() else { return false };
        let is_awaited = state.run(key.0).and_then(|run| run.running()).is_some_and(|it| it.fence == key.1);
        let compares = self.fault != Fault::FenceNotCompared;
        if !is_awaited && state.knows_fence(key.1) && compares {
            return world.air.insert((worker, Letter::Acknowledge(key)));
        }
        if world.leads != Some(node) || world.underway.len() >= PIPELINE || !mind.reported.insert(key) {
            return false;
        }
        world.underway.push_back(Proposal::new(vec![complete(key, outcome)], Some((worker, key))));
        if self.fault == Fault::AcknowledgedTooEarly {
            world.air.insert((worker, Letter::Acknowledge(key)));
        }
        true
    }

    /// Whoever is deposed and does not crash goes on with its memory and its connections, and may yet be
    /// told of what was committed last.
    fn depose(&self, world: &mut World, kept: usize, crash: bool) -> bool {
        world.budget.leaders -= 1;
        let Some(node) = world.leads else { return false };
        for proposal in std::mem::take(&mut world.underway).into_iter().take(kept) {
            self.commit(world, proposal);
        }
        world.underway = VecDeque::new();
        world.leads = None;
        if crash {
            world.disconnect_all(node);
            world.nodes[node].mind = None;
        }
        true
    }

    fn die(&self, world: &mut World, worker: usize) -> bool {
        world.budget.deaths -= 1;
        world.disconnect(worker);
        world.air.retain(|(to, _)| *to != worker);
        let it = &mut world.workers[worker];
        it.held.clear();
        it.acknowledged.clear();
        it.is_dead = self.fault != Fault::NameKept;
        true
    }
}

fn worker_steps(world: &World, worker: usize, steps: &mut Vec<Step>) {
    let it = &world.workers[worker];
    if it.is_dead {
        return;
    }
    match it.link {
        Some(_) if world.budget.streams > 0 => {
            steps.extend([false, true].map(|lost| Step::Break { worker, lost }));
        }
        Some(_) => {}
        None => {
            let leading = (0..NODES).filter(|node| world.nodes[*node].mind.is_some());
            steps.extend(leading.map(|node| Step::Connect { worker, node }));
        }
    }
    for (key, stage) in &it.held {
        match stage {
            Stage::Waiting => steps.push(Step::CarryOut { worker, key: *key }),
            Stage::Done | Stage::Stopped => steps.push(Step::Report { worker, key: *key }),
        }
    }
    let letters = world.air.iter().filter(|(to, _)| *to == worker);
    steps.extend(letters.map(|(_, letter)| Step::Arrive { worker, letter: *letter }));
    if world.budget.deaths > 0 {
        steps.push(Step::Die { worker });
    }
    if let Some(node) = world.leads.filter(|_| world.budget.suspicions > 0) {
        steps.push(Step::Suspect { node, worker });
    }
}

fn carry_out(world: &mut World, worker: usize, key: Key) -> bool {
    let it = &mut world.workers[worker];
    if it.held.get(&key) != Some(&Stage::Waiting) {
        return false;
    }
    it.held.insert(key, Stage::Done);
    let is_newer = |other: &Key| other.0 == key.0 && other.1 > key.1;
    if it.held.keys().chain(&it.acknowledged).any(is_newer) {
        world.blots.insert(Blot::OlderBegun);
    }
    let effect = world.effects.entry(key.1).or_insert(Effect { run: key.0, times: 0 });
    // Two stand for more: a worker that never learns would make endless states.
    effect.times = (effect.times + 1).min(2);
    if effect.times > 1 {
        world.blots.insert(Blot::BegunTwice);
    }
    true
}

pub(crate) fn complete((run, fence): Key, outcome: AttemptOutcome) -> Command {
    let report = Arc::new(Report::default());
    Command::Complete { run, fence, outcome, report, retry_after: Duration::ZERO }
}

fn ignore_fence(state: &chronarch::state::State, command: &mut Command) {
    if let Command::Complete { run, fence, .. } = command
        && let Some(attempt) = state.run(*run).and_then(|run| run.running())
    {
        *fence = attempt.fence;
    }
}

impl World {
    /// Keeps what the properties ask about; returns the attempts that were started.
    fn note(&mut self, entry: &Entry, applied: &Applied) -> Vec<(usize, Key)> {
        let mut started = Vec::new();
        for (command, outcome) in entry.commands.iter().zip(&applied.outcomes) {
            match (command, outcome) {
                (Command::Start { worker, .. }, Outcome::Started { run, fence }) => {
                    if self.starts.last_key_value().is_some_and(|(last, _)| last >= fence) {
                        self.blots.insert(Blot::FenceShrank);
                    }
                    self.starts.insert(*fence, *run);
                    started.push((number(worker), (*run, *fence)));
                }
                (Command::Complete { outcome: AttemptOutcome::Cancelled, .. }, Outcome::Completed { .. }) => {
                    self.blots.insert(Blot::WantedAndStopped);
                }
                (_, Outcome::Rejected(Rejection::Malformed | Rejection::Limit)) => {
                    self.blots.insert(Blot::Broken);
                }
                _ => {}
            }
        }
        for run in &applied.finished {
            let succeeded = run.attempts.last().filter(|_| run.state == RunState::Succeeded);
            let end = End { succeeded: succeeded.map(|attempt| attempt.fence) };
            if self.ends.insert(run.id, end).is_some() {
                self.blots.insert(Blot::EndedTwice);
            }
        }
        started
    }

    fn disconnect(&mut self, worker: usize) {
        if let Some(node) = self.workers[worker].link.take()
            && let Some(mind) = self.nodes[node].mind.as_mut()
        {
            mind.sessions.remove(&worker);
        }
    }

    fn disconnect_all(&mut self, node: usize) {
        let linked = (0..WORKERS).filter(|worker| self.workers[*worker].link == Some(node));
        linked.collect::<Vec<_>>().into_iter().for_each(|worker| self.disconnect(worker));
    }

    pub(crate) fn is_room(&self) -> bool {
        self.underway.len() < PIPELINE
    }

    /// Whether two runs are one run.
    pub(crate) fn is_of(run: RunId, key: &Key) -> bool {
        key.0 == run
    }
}
