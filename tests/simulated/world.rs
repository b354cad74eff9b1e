//! A cluster of the shipped program in a world made of one seed.
//!
//! # Shipped code
//! Nodes as `chronarch server` runs them (consensus, write-ahead log, snapshots, run log in sled, leader's loop, API,
//! embedded worker), stand-alone workers, and the client; all of them speak real gRPC.
//!
//! # Simulated
//! The network (turmoil: delay, loss, partitions of every shape, also one way, and held back), time (each machine has
//! a wall clock that is off, and is set), chance, power (a machine that crashes loses what its log had not synced; a
//! write that was under way may be there in part), and the targets of the jobs.
//!
//! # Not simulated
//! A process that is stopped and goes on (`tests/chaos` does that), a disk that fails or lies (`tests/storage`), and
//! the run log's loss at a crash: its files are closed in order here.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chronarch::clock::Clock;
use chronarch::config::{Config, Overrides};
use chronarch::node::worker::{ExecStreams, WorkerSetup, prepare};
use chronarch::node::{self, Listeners, Surroundings};
use chronarch::state::time::Timestamp;
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::clients::Person;
use crate::lab::chance::Chance;
use crate::lab::spec::MIDNIGHT;
use crate::nemesis::Nemesis;
use crate::net;
use crate::target::Service;
use crate::truth::{Figures, Truth};

/// What one step of the world takes.
const TICK: Duration = Duration::from_millis(1);
/// How long the world has to come to rest, and to be done with what it has.
const REST_MS: u64 = 60_000;
/// Longer than anything in here takes that is still being dealt with: a timeout, its grace, a cool-down, a lease.
const OVERDUE_MS: i64 = 5_000;

pub(crate) struct Machine {
    pub(crate) name: String,
    /// Its clock's error, in milliseconds.
    pub(crate) skew_ms: Arc<AtomicI64>,
    pub(crate) dir: PathBuf,
}

pub(crate) struct World<'a> {
    pub(crate) sim: Sim<'a>,
    pub(crate) nodes: Vec<Machine>,
    pub(crate) workers: Vec<Machine>,
    pub(crate) truth: Truth,
    pub(crate) service: Service,
    pub(crate) chance: Chance,
    seed: u64,
}

fn clock(skew_ms: &Arc<AtomicI64>, seed: u64) -> Clock {
    let skew_ms = Arc::clone(skew_ms);
    // Whole steps of the world, and what has passed on this machine since the last one.
    let (begun, at) = (tokio::time::Instant::now(), turmoil::sim_elapsed().unwrap_or_default());
    let wall = move || {
        let passed = at + begun.elapsed();
        let millis = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(MIDNIGHT + millis + skew_ms.load(Ordering::Relaxed))
    };
    Clock::new(wall, seed)
}

fn config(node: u64, nodes: u64, dir: &Path) -> Config {
    let peers: Vec<String> = (1..=nodes).map(|id| format!("{id} = \"n{id}:{}\"", net::PEER_PORT)).collect();
    let text = format!(
        "node_id = {node}\nlisten = \"n{node}:{}\"\npeer_listen = \"n{node}:{}\"\ndata_dir = \"{}\"\n\
         insecure = true\npeers = {{ {} }}\n\
         [raft]\nsnapshot_entries = 30\nkeep_entries = 8\n[worker]\nlease = \"2s\"\nslots = 8\n",
        net::CLIENT_PORT,
        net::PEER_PORT,
        dir.display(),
        peers.join(", "),
    );
    Config::read("node.toml", &text, Overrides::default()).expect("a sound configuration")
}

/// One life of a node. It ends by itself only when a store or consensus has failed, which nothing here makes them do.
async fn node(
    id: u64,
    nodes: u64,
    dir: PathBuf,
    skew_ms: Arc<AtomicI64>,
    seed: u64,
    with: (Truth, Service),
) -> turmoil::Result {
    let (truth, service) = with;
    let surroundings = Surroundings {
        clock: clock(&skew_ms, seed),
        peer_dialer: net::peer_dialer(),
        dialer: net::dialer(),
        carrier: Some(service.carrier()),
        observer: Some(Arc::new(move |it| truth.observed(id, it))),
    };
    let config = config(id, nodes, &dir);
    let here = config.listen.clone();
    let (clients, peers) = (net::listen(net::CLIENT_PORT).await?, net::listen(net::PEER_PORT).await?);
    let ended =
        node::run_in(config, surroundings, Listeners { clients, peers, here }, CancellationToken::new());
    let ended = ended.await;
    panic!("node {id} has ended: {ended:?}");
}

async fn worker(
    name: String,
    nodes: u64,
    skew_ms: Arc<AtomicI64>,
    seed: u64,
    service: Service,
) -> turmoil::Result {
    let setup = WorkerSetup {
        place: name,
        queues: ["default".to_owned()].into(),
        labels: std::collections::BTreeMap::new(),
        slots: 4,
        allow_exec: false,
        exec_streams: ExecStreams::Together,
        output: None,
        endpoints: (1..=nodes).map(|node| format!("n{node}:{}", net::CLIENT_PORT)).collect(),
    };
    let mut surroundings = Surroundings::real(clock(&skew_ms, seed));
    surroundings.dialer = net::dialer();
    surroundings.carrier = Some(service.carrier());
    prepare(setup, &surroundings)?.run(CancellationToken::new()).await;
    Ok(())
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
        let mut machine = |name: String| Machine {
            dir: root.join(&name),
            skew_ms: Arc::new(AtomicI64::new(i64::try_from(chance.between(0, 160)).unwrap_or(0) - 80)),
            name,
        };
        let machines: Vec<Machine> = (1..=nodes).map(|id| machine(format!("n{id}"))).collect();
        let workers: Vec<Machine> = (1..=2).map(|id| machine(format!("w{id}"))).collect();
        for (id, place) in (1..).zip(&machines) {
            let (dir, skew_ms) = (place.dir.clone(), Arc::clone(&place.skew_ms));
            let (lives, with) = (seeds(chance.draw()), (truth.clone(), service.clone()));
            sim.host(place.name.as_str(), move || {
                node(id, nodes, dir.clone(), Arc::clone(&skew_ms), lives(), with.clone())
            });
        }
        for place in &workers {
            let (name, skew_ms) = (place.name.clone(), Arc::clone(&place.skew_ms));
            let (lives, service) = (seeds(chance.draw()), service.clone());
            sim.host(place.name.as_str(), move || {
                worker(name.clone(), nodes, Arc::clone(&skew_ms), lives(), service.clone())
            });
        }
        for person in ["p1", "p2"] {
            let (chance, truth) = (Chance::new(chance.draw()), truth.clone());
            let chance = RefCell::new(Some(chance));
            sim.host(person, move || {
                let chance = chance.borrow_mut().take();
                let truth = truth.clone();
                async move {
                    let Some(chance) = chance else { return Ok(()) };
                    Person::new(person, nodes, chance, truth).live().await;
                    Ok(())
                }
            });
        }
        Self { sim, nodes: machines, workers, truth, service, chance, seed }
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
        self.service.set_sick(false);
        let ids: Vec<u64> = (1..=self.nodes.len() as u64).collect();
        self.wait("nothing overdue, everything applied everywhere", |world| {
            let state = world.truth.state();
            let overdue = state.due().next().is_some_and(|(due, _)| {
                due.millis() + OVERDUE_MS < world.wall() || due.millis() + OVERDUE_MS < state.now().millis()
            });
            let is_level = state.now().millis() <= world.wall() + 200;
            !overdue && is_level && world.truth.in_step(ids.iter().copied())
        });
        self.delete_all();
        self.wait("the end of all runs", |world| {
            let state = world.truth.state();
            (state.run_count(), state.job_count(), state.leases().count()) == (0, 0, 0)
                && world.truth.in_step(ids.iter().copied())
        });
        self.truth.check_acknowledged();
        (self.truth.figures(), self.truth.hash())
    }

    /// The true time.
    fn wall(&self) -> i64 {
        MIDNIGHT + i64::try_from(self.sim.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    pub(crate) fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            panic!("seed {}: {error}", self.seed);
        }
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
            "in vain for {REST_MS} ms: {what}; now {}, log {}, live {runs:?}, due {due:?}",
            self.wall(),
            state.now()
        );
    }

    fn delete_all(&mut self) {
        let done = Rc::new(RefCell::new(false));
        let (told, truth, nodes) = (Rc::clone(&done), self.truth.clone(), self.nodes.len() as u64);
        let chance = Chance::new(self.chance.draw());
        self.sim.client("p3", async move {
            Person::new("p3", nodes, chance, truth).delete_all().await;
            *told.borrow_mut() = true;
            Ok(())
        });
        self.wait("the deletion of all jobs", |_| *done.borrow());
    }
}

/// A number for each life.
fn seeds(seed: u64) -> impl Fn() -> u64 {
    let chance = RefCell::new(Chance::new(seed));
    move || chance.borrow_mut().draw()
}
