//! A cluster of the shipped program in a world made of one seed.
//!
//! # Shipped code
//! Nodes as `chronarch server` runs them (consensus, write-ahead log, snapshots, run log in sled, leader's loop, API,
//! embedded worker), stand-alone workers, and the client; all of them speak real gRPC.
//!
//! # Simulated
//! The network (turmoil: delay, loss, partitions of every shape, also one way, and held back), time (each machine has
//! a wall clock that is off, runs a little fast or slow, and is set), chance, processes that are stopped and go on
//! ([`crate::machine`]), power (a machine that crashes loses what its log had not synced; a write that was under way
//! may be there in part), the operator who changes the membership, and the targets of the jobs.
//!
//! # Not simulated
//! A disk that fails or lies (`tests/storage`), the run log's loss at a crash (its files are closed in order here), a
//! process that is stopped in the middle of a computation, threads that run at the same time, and a monotonic clock
//! that is wrong.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use turmoil::Sim;

use crate::clients::Person;
use crate::figures::Figures;
use crate::lab::chance::Chance;
use crate::lab::spec::MIDNIGHT;
use crate::machine::{self, Machine, Program};
use crate::nemesis::Nemesis;
use crate::operator::Operator;
use crate::target::Service;
use crate::truth::Truth;

/// What one step of the world takes.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// How long the world has to come to rest, and to be done with what it has.
const REST_MS: u64 = 60_000;
/// Longer than anything in here takes that is still being dealt with: a timeout, its grace, a cool-down, a lease.
const OVERDUE_MS: i64 = 5_000;

pub(crate) struct World<'a> {
    pub(crate) sim: Sim<'a>,
    /// The machines of the members, of those that are to be, and of those that were and are not gone yet.
    pub(crate) nodes: Vec<Machine>,
    pub(crate) workers: Vec<Machine>,
    pub(crate) operator: Operator,
    /// Of the next node; an id is used once.
    pub(crate) next_id: u64,
    pub(crate) truth: Truth,
    pub(crate) service: Service,
    pub(crate) chance: Chance,
    root: PathBuf,
    seed: u64,
}

impl World<'_> {
    /// A cluster of so many nodes, in folders below `root`.
    pub(crate) fn new(seed: u64, root: &Path) -> Self {
        let mut chance = Chance::new(seed);
        let nodes = if chance.one_in(4) { 5 } else { 3 };
        let truth = Truth::default();
        let service = Service::new(truth.clone(), Chance::new(chance.draw()));
        let mut sim = turmoil::Builder::new()
            .rng_seed(chance.draw())
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(86_400))
            .min_message_latency(Duration::from_millis(0))
            .max_message_latency(Duration::from_millis(chance.pick(&[2, 5, 20])))
            .tcp_capacity(1 << 16)
            .fail_rate(chance.pick(&[0.0, 0.0, 0.000_5, 0.002]))
            .repair_rate(0.1)
            .build();
        for person in ["p1", "p2"] {
            let (chance, truth) = (Chance::new(chance.draw()), truth.clone());
            let chance = RefCell::new(Some(chance));
            sim.host(person, move || {
                let chance = chance.borrow_mut().take();
                let truth = truth.clone();
                async move {
                    let Some(chance) = chance else { return Ok(()) };
                    Person::new(person, chance, truth).live().await;
                    Ok(())
                }
            });
        }
        let (operator, life) = Operator::new(truth.clone());
        sim.client("operator", life);
        let mut world = Self {
            sim,
            nodes: Vec::new(),
            workers: Vec::new(),
            operator,
            next_id: nodes + 1,
            truth,
            service,
            chance,
            root: root.to_path_buf(),
            seed,
        };
        for id in 1..=nodes {
            let node =
                world.machine(format!("n{id}"), None, Program::Node { id, first: nodes, rejoins: false });
            world.nodes.push(node);
        }
        for id in 1..=2 {
            let worker = world.machine(format!("w{id}"), None, Program::Worker);
            world.workers.push(worker);
        }
        world
    }

    fn machine(&mut self, name: String, folder: Option<PathBuf>, program: Program) -> Machine {
        let dir = folder.unwrap_or_else(|| self.root.join(&name));
        let chance = Chance::new(self.chance.draw());
        Machine::new(&mut self.sim, name, dir, program, chance, (self.truth.clone(), self.service.clone()))
    }

    /// Switches on a node that waits to be added; in the folder of another, it is told to begin anew.
    pub(crate) fn add_node(&mut self, folder: Option<PathBuf>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let rejoins = folder.is_some() || self.chance.one_in(2);
        let node = self.machine(format!("n{id}"), folder, Program::Node { id, first: 0, rejoins });
        self.nodes.push(node);
        id
    }

    /// The machine of a removed node is switched off for good; its folder stays.
    pub(crate) fn take_away(&mut self, name: &str) -> PathBuf {
        if self.is_up(name) {
            self.crash(name);
        }
        let place = self.nodes.iter().position(|node| node.name == name).expect("it is there");
        self.nodes.remove(place).dir
    }

    /// Does something with a machine, if there is one of this name.
    fn at<T>(&mut self, name: &str, what: impl FnOnce(&mut Machine, &mut Sim<'_>) -> T) -> Option<T> {
        let Self { sim, nodes, workers, .. } = self;
        let machine = nodes.iter_mut().chain(workers).find(|machine| machine.name == name)?;
        Some(what(machine, sim))
    }

    pub(crate) fn is_up(&self, name: &str) -> bool {
        self.nodes.iter().chain(&self.workers).any(|machine| machine.name == name && machine.is_up())
    }

    pub(crate) fn crash(&mut self, name: &str) {
        self.at(name, Machine::crash);
    }

    pub(crate) fn restart(&mut self, name: &str) {
        self.at(name, Machine::restart);
    }

    /// Stops a process, or lets it go on.
    pub(crate) fn set_stopped(&mut self, name: &str, is_stopped: bool) {
        self.at(name, |machine, _| machine.set_stopped(is_stopped));
    }

    /// Chaos, then peace: what is due is decided, every answer that was given holds, and after the deletion of all
    /// jobs nothing lives on.
    pub(crate) fn run(mut self, chaos_ms: u64) -> (Figures, u64) {
        self.wait("a leader", |world| world.truth.leader().is_some());
        let mut nemesis = Nemesis::default();
        for now in 0..chaos_ms {
            nemesis.strike(&mut self, now);
            self.step();
        }
        nemesis.heal(&mut self);
        for person in ["p1", "p2"] {
            self.sim.crash(person);
        }
        self.settle(&mut nemesis);
        self.wait("nothing overdue, everything applied everywhere", |world| {
            let state = world.truth.state();
            let overdue = state.due().next().is_some_and(|(due, _)| {
                due.millis() + OVERDUE_MS < world.wall() || due.millis() + OVERDUE_MS < state.now().millis()
            });
            let is_level = state.now().millis() <= world.wall() + 200;
            !overdue && is_level && world.truth.in_step()
        });
        self.delete_all();
        self.wait("the end of all runs", |world| {
            let state = world.truth.state();
            (state.run_count(), state.job_count(), state.leases().count()) == (0, 0, 0)
                && world.truth.in_step()
        });
        self.truth.check_acknowledged();
        (self.truth.figures(), self.truth.hash())
    }

    /// The true time.
    fn wall(&self) -> i64 {
        MIDNIGHT + machine::now(&self.sim)
    }

    pub(crate) fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            panic!("seed {}: {error}", self.seed);
        }
        self.truth.set_wall(self.wall());
        for machine in self.nodes.iter_mut().chain(&mut self.workers) {
            machine.step();
        }
    }

    /// A change of the membership that was begun comes to its end, now that nothing is in its way.
    fn settle(&mut self, nemesis: &mut Nemesis) {
        for _ in 0..REST_MS {
            if nemesis.is_done(self) {
                return;
            }
            nemesis.go_on(self);
            self.step();
        }
        panic!("in vain for {REST_MS} ms: the end of a change; members {:?}", self.truth.members());
    }

    fn wait(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for now in 0..REST_MS {
            // Looking costs more than a step.
            if now % 50 == 0 && is_so(self) {
                return;
            }
            self.step();
        }
        let state = self.truth.state();
        let runs: Vec<_> = state.runs().map(|run| (run.id.to_string(), run.phase)).collect();
        let due: Vec<_> = state.due().take(5).collect();
        panic!(
            "in vain for {REST_MS} ms: {what}; now {}, log {}, live {runs:?}, due {due:?}, {}",
            self.wall(),
            state.now(),
            self.truth.progress(),
        );
    }

    fn delete_all(&mut self) {
        let done = Rc::new(RefCell::new(false));
        let (told, truth) = (Rc::clone(&done), self.truth.clone());
        let chance = Chance::new(self.chance.draw());
        self.sim.client("p3", async move {
            Person::new("p3", chance, truth).delete_all().await;
            *told.borrow_mut() = true;
            Ok(())
        });
        self.wait("the deletion of all jobs", |_| *done.borrow());
    }
}
