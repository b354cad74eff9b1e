//! The leader's turn, and the two ends of a worker's stream.

use std::collections::{BTreeMap, BTreeSet};

use chronarch::scheduler::plan::{InFlight, Rules, Session, Sessions, plan};
use chronarch::state::run::AttemptOutcome;
use chronarch::state::{Command, State};

use super::step::complete;
use super::world::{Fault, Key, Letter, Proposal, Protocol, SLOTS, Stage, WORKERS, World, name, number};

impl Protocol {
    /// Proposes what the shipped plan says. A worker that is dead has been silent for as long as it takes;
    /// `suspect` is one of which the leader believes so.
    pub(crate) fn plan(&self, world: &mut World, node: usize, suspect: Option<usize>) -> bool {
        if !world.is_room() {
            return false;
        }
        let state = world.nodes[node].state.state.clone();
        if suspect.is_some_and(|worker| state.lease(&name(worker)).is_none()) {
            return false;
        }
        let Some(mind) = &world.nodes[node].mind else { return false };
        let landed = mind.landed.iter().map(|landed| &landed.proposal);
        let (flight, starts) = in_flight(world.underway.iter().chain(landed));
        let mut view = Sessions { lease: World::LEASE, ..Sessions::default() };
        for worker in &mind.sessions {
            let busy = state.load(&name(*worker)) + starts.get(worker).copied().unwrap_or(0);
            view.open.push(session(*worker, SLOTS.saturating_sub(busy)));
        }
        let spared = |worker: &usize| !world.workers[*worker].is_dead && Some(*worker) != suspect;
        view.spared = (0..WORKERS).filter(spared).map(name).collect();
        let now = Self::now(world.is_late);
        let mut commands = plan(&state, &mut view, &flight, now, &mut Rules::default()).commands;
        self.spoil(&state, &mut commands);
        if commands.is_empty() {
            return false;
        }
        if self.fault == Fault::OrderBeforeCommit {
            order_at_once(world, &commands);
        }
        world.underway.push_back(Proposal::new(commands, None));
        true
    }

    fn spoil(&self, state: &State, commands: &mut Vec<Command>) {
        match self.fault {
            Fault::InDoubtLeftOpen => commands.retain(|it| !matches!(it, Command::Lose { .. })),
            Fault::InDoubtCountsAsDone => {
                let done = |command: Command| match command {
                    Command::Lose { worker, .. } => World::carried(state, number(&worker))
                        .into_iter()
                        .map(|key| complete(key, AttemptOutcome::Succeeded))
                        .collect(),
                    other => vec![other],
                };
                *commands = std::mem::take(commands).into_iter().flat_map(done).collect();
            }
            _ => {}
        }
    }

    /// What a leader answers to a worker that says what it holds: stop what is not wanted, carry out what is.
    pub(crate) fn connect(&self, world: &mut World, worker: usize, node: usize) -> bool {
        let Some(mind) = world.nodes[node].mind.as_mut() else { return false };
        mind.sessions.insert(worker);
        let reported = mind.reported.clone();
        let state = world.nodes[node].state.state.clone();
        world.workers[worker].link = Some(node);
        let held: BTreeSet<Key> = world.workers[worker].held.keys().copied().collect();
        let carried = World::carried(&state, worker);
        let mut letters = Vec::new();
        for key in &held {
            let running = state.run(key.0).and_then(|run| run.running());
            let is_wanted = running.is_some_and(|attempt| attempt.fence == key.1);
            let is_known = state.knows_fence(key.1) || self.fault == Fault::UnknownIsStopped;
            if !is_wanted && is_known {
                letters.push(Letter::Stop(*key));
            }
        }
        if self.fault != Fault::OrderNotRepeated {
            let missing = carried.into_iter().filter(|key| !held.contains(key) && !reported.contains(key));
            letters.extend(missing.map(Letter::Order));
        }
        world.air.extend(letters.into_iter().map(|letter| (worker, letter)));
        true
    }

    /// The worker's ledger.
    pub(crate) fn arrive(&self, world: &mut World, worker: usize, letter: Letter) -> bool {
        let it = &mut world.workers[worker];
        match letter {
            Letter::Order(key) => {
                let is_done = it.acknowledged.contains(&key) && self.fault != Fault::OrderTakenTwice;
                if it.held.contains_key(&key) || is_done {
                    return false;
                }
                let is_newer = |other: &Key| World::is_of(key.0, other) && other.1 > key.1;
                let knows_newer = it.held.keys().chain(&it.acknowledged).any(is_newer);
                if knows_newer && self.fault != Fault::OlderOrderTaken {
                    it.held.insert(key, Stage::Stopped);
                    return true;
                }
                for (other, stage) in &mut it.held {
                    if World::is_of(key.0, other) && other.1 < key.1 && *stage == Stage::Waiting {
                        *stage = Stage::Stopped;
                    }
                }
                it.held.insert(key, Stage::Waiting);
                true
            }
            Letter::Stop(key) => match it.held.get(&key) {
                Some(Stage::Waiting) => {
                    it.held.insert(key, Stage::Stopped);
                    true
                }
                None if !it.acknowledged.contains(&key) => {
                    it.held.insert(key, Stage::Stopped);
                    true
                }
                Some(Stage::Done | Stage::Stopped) | None => false,
            },
            Letter::Acknowledge(key) => match it.held.get(&key) {
                Some(Stage::Done | Stage::Stopped) => {
                    it.held.remove(&key);
                    it.acknowledged.insert(key);
                    true
                }
                Some(Stage::Waiting) | None => false,
            },
        }
    }
}

fn session(worker: usize, free: u32) -> Session {
    Session { worker: name(worker), free, ..super::lab::single::session("", "default", "exec") }
}

/// What a leader keeps of its own proposals: `leader::flight`.
fn in_flight<'a>(proposals: impl Iterator<Item = &'a Proposal>) -> (InFlight, BTreeMap<usize, u32>) {
    let (mut flight, mut starts) = (InFlight::default(), BTreeMap::new());
    for command in proposals.flat_map(|proposal| proposal.commands.iter()) {
        match command {
            Command::Fire { job, .. } => drop(flight.jobs.insert(*job)),
            Command::Start { run, worker, .. } => {
                flight.runs.insert(*run);
                *starts.entry(number(worker)).or_insert(0) += 1;
            }
            Command::Complete { run, .. } => drop(flight.runs.insert(*run)),
            Command::Lose { worker, .. } => drop(flight.workers.insert(worker.clone())),
            _ => {}
        }
    }
    (flight, starts)
}

fn order_at_once(world: &mut World, commands: &[Command]) {
    let is_start = |command: &&Command| matches!(command, Command::Start { .. });
    let before = world.underway.iter().flat_map(|it| it.commands.iter()).filter(is_start).count();
    let last = world.starts.keys().max().copied().unwrap_or(0) + before as u64;
    for (place, command) in commands.iter().filter(is_start).enumerate() {
        if let Command::Start { run, worker, .. } = command {
            let key = (*run, last + 1 + place as u64);
            world.air.insert((number(worker), Letter::Order(key)));
        }
    }
}
