//! A machine: a kernel in turmoil's runtime, a process in one of its own, a disk and a wall clock.
//!
//! Since the process has its own runtime it can be stopped, as SIGSTOP does: none of its tasks is polled and none of
//! its timers ends, while the kernel goes on ([`crate::kernel`]). When it goes on, its clocks have gone on without it:
//! monotonic time jumps by as long as it was stopped, and so does wall time. A process stops between two polls of its
//! tasks, never inside one.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use chronarch::client::Dialer;
use chronarch::clock::Clock;
use chronarch::config::{Config, Overrides};
use chronarch::node::worker::{ExecStreams, WorkerSetup, prepare};
use chronarch::node::{self, Listeners, Surroundings};
use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::time::{advance, sleep};
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::kernel::{self, Sockets};
use crate::lab::chance::Chance;
use crate::net;
use crate::target::Service;
use crate::truth::Truth;
use crate::wall::Wall;
use crate::world::TICK;

/// What all clocks may gain or lose for good, in millionths; NTP allows as much.
const RATE_PPM: u64 = 500;
/// What all clocks may be off at the beginning.
const ERROR_MS: u64 = 80;

/// A process with a runtime, and so a time, of its own.
struct Process {
    runtime: Runtime,
    is_stopped: bool,
    /// How far its time is behind, for it was stopped.
    behind: Duration,
}

impl Process {
    fn start(seed: u64, main: impl Future<Output = ()> + Send + 'static) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&seed.to_be_bytes()))
            .build()
            .expect("a runtime without files or threads");
        // Timers count whole milliseconds: from here on the runtime's time does, too.
        runtime.block_on(async { sleep(Duration::from_millis(1)).await });
        runtime.spawn(main);
        Self { runtime, is_stopped: false, behind: Duration::ZERO }
    }

    /// Lives for a tick.
    fn step(&mut self) {
        if self.is_stopped {
            self.behind += TICK;
            return;
        }
        let behind = std::mem::take(&mut self.behind);
        self.runtime.block_on(async {
            if !behind.is_zero() {
                advance(behind).await;
            }
            sleep(TICK).await;
        });
    }
}

/// What runs on a machine.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// A node.
    Node {
        id: u64,
        /// How many first members there are; none on a node that waits to be added.
        first: u64,
        /// It begins anew in a folder that may hold another node's data; in its first life alone.
        rejoins: bool,
    },
    /// A stand-alone worker, and the nodes that it knows.
    Worker { endpoints: Vec<String> },
}

/// See the module.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) wall: Wall,
    /// What its clock gains when nothing is wrong with it.
    pub(crate) rate_ppm: i64,
    program: Program,
    sockets: Rc<RefCell<Option<Sockets>>>,
    process: Option<Process>,
    chance: Chance,
    with: (Truth, Service),
}

impl Machine {
    /// A machine that is switched on now.
    pub(crate) fn new(
        sim: &mut Sim<'_>,
        name: String,
        dir: PathBuf,
        program: Program,
        mut chance: Chance,
        with: (Truth, Service),
    ) -> Self {
        let around = |chance: &mut Chance, most: u64| {
            i64::try_from(chance.between(0, 2 * most)).unwrap_or(0) - i64::try_from(most).unwrap_or(0)
        };
        let rate_ppm = around(&mut chance, RATE_PPM);
        let wall = Wall::new(around(&mut chance, ERROR_MS), 0);
        wall.run_at(now(sim), rate_ppm);
        let sockets = Rc::<RefCell<Option<Sockets>>>::default();
        let booted = Rc::clone(&sockets);
        sim.host(name.as_str(), move || {
            let (sockets, kernel) = kernel::boot();
            *booted.borrow_mut() = Some(sockets);
            kernel
        });
        let mut machine = Self { name, dir, wall, rate_ppm, program, sockets, process: None, chance, with };
        machine.start(now(sim));
        machine
    }

    fn start(&mut self, now_ms: i64) {
        let sockets = self.sockets.borrow_mut().take().expect("the kernel runs");
        let life = Life {
            sockets,
            wall: self.wall.clone(),
            begun_ms: now_ms,
            seed: self.chance.draw(),
            with: self.with.clone(),
        };
        let seed = self.chance.draw();
        let (name, dir) = (self.name.clone(), self.dir.clone());
        self.process = Some(match &mut self.program {
            Program::Node { id, first, rejoins } => {
                Process::start(seed, node(*id, *first, std::mem::take(rejoins), dir, life))
            }
            Program::Worker { endpoints } => Process::start(seed, worker(name, endpoints.clone(), life)),
        });
    }

    /// The power goes.
    pub(crate) fn crash(&mut self, sim: &mut Sim<'_>) {
        self.process = None;
        sim.crash(self.name.as_str());
        wait_for_sled(&self.dir);
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// It is switched on again.
    pub(crate) fn restart(&mut self, sim: &mut Sim<'_>) {
        sim.bounce(self.name.as_str());
        self.start(now(sim));
    }

    /// SIGSTOP, or SIGCONT.
    pub(crate) fn set_stopped(&mut self, is_stopped: bool) {
        if let Some(process) = &mut self.process {
            process.is_stopped = is_stopped;
        }
    }

    pub(crate) fn step(&mut self) {
        if let Some(process) = &mut self.process {
            process.step();
        }
    }
}

/// Since the world began.
pub(crate) fn now(sim: &Sim<'_>) -> i64 {
    i64::try_from(sim.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// A process that dies lets go of its files at once; here some thread of sled's does it a little later, in real time.
fn wait_for_sled(dir: &Path) {
    if let Ok(log) = OpenOptions::new().read(true).write(true).open(dir.join("history/sled/db")) {
        log.lock().and_then(|()| log.unlock()).expect("a file can be locked");
    }
}

/// One life of a process.
struct Life {
    sockets: Sockets,
    wall: Wall,
    begun_ms: i64,
    seed: u64,
    with: (Truth, Service),
}

impl Life {
    /// To be called in the process's runtime.
    fn clock(&self) -> Clock {
        self.wall.read_from(self.begun_ms, self.seed)
    }

    fn dialer(&self) -> Dialer {
        self.sockets.dialer()
    }
}

fn config(id: u64, first: u64, rejoin: bool, dir: &Path) -> Config {
    let peers: Vec<String> = (1..=first).map(|id| format!("{id} = \"n{id}:{}\"", net::PEER_PORT)).collect();
    let text = format!(
        "node_id = {id}\nlisten = \"n{id}:{}\"\npeer_listen = \"n{id}:{}\"\ndata_dir = \"{}\"\n\
         insecure = true\npeers = {{ {} }}\n\
         [raft]\nsnapshot_entries = 30\nkeep_entries = 8\n[worker]\nlease = \"2s\"\nslots = 8\n",
        net::CLIENT_PORT,
        net::PEER_PORT,
        dir.display(),
        peers.join(", "),
    );
    let overrides = Overrides { rejoin, ..Overrides::default() };
    Config::read("node.toml", &text, overrides).expect("a sound configuration")
}

/// A node's life. It ends by itself only when a store or consensus has failed, which nothing here makes them do.
async fn node(id: u64, first: u64, rejoin: bool, dir: PathBuf, life: Life) {
    let (truth, service) = life.with.clone();
    let surroundings = Surroundings {
        clock: life.clock(),
        peer_dialer: life.sockets.peer_dialer(),
        dialer: life.dialer(),
        carrier: Some(service.carrier(format!("n{id}"))),
        observer: Some(std::sync::Arc::new(move |it| truth.observed(id, it))),
    };
    let config = config(id, first, rejoin, &dir);
    let here = config.listen.clone();
    let clients = life.sockets.listen(net::CLIENT_PORT).await.expect("the kernel runs");
    let peers = life.sockets.listen(net::PEER_PORT).await.expect("the kernel runs");
    let listeners = Listeners { clients, peers, here };
    let ended = node::run_in(config, surroundings, listeners, CancellationToken::new()).await;
    panic!("node {id} has ended: {ended:?}");
}

async fn worker(name: String, endpoints: Vec<String>, life: Life) {
    let setup = WorkerSetup {
        place: name.clone(),
        queues: ["default".to_owned()].into(),
        labels: std::collections::BTreeMap::new(),
        slots: 4,
        allow_exec: false,
        exec_streams: ExecStreams::Together,
        output: None,
        endpoints,
        node: None,
        drain_grace: Duration::from_secs(30),
        connections: [].into(),
    };
    let mut surroundings = Surroundings::real(life.clock());
    surroundings.dialer = life.dialer();
    surroundings.carrier = Some(life.with.1.carrier(name.clone()));
    let ended = prepare(setup, &surroundings).expect("a sound setup").run(CancellationToken::new()).await;
    panic!("worker {name} has ended: {ended:?}");
}

#[test]
fn a_stopped_process_does_nothing_and_wakes_as_much_later() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    let (beats, shown) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let (beaten, showing) = (Arc::clone(&beats), Arc::clone(&shown));
    let mut process = Process::start(1, async move {
        let begun = tokio::time::Instant::now();
        loop {
            sleep(Duration::from_millis(10)).await;
            beaten.fetch_add(1, Ordering::Relaxed);
            let passed = u64::try_from(begun.elapsed().as_millis()).expect("a short while");
            showing.store(passed, Ordering::Relaxed);
        }
    });
    let mut live = |ticks: u64, is_stopped| {
        process.is_stopped = is_stopped;
        (0..ticks).for_each(|_| process.step());
        (beats.load(Ordering::Relaxed), shown.load(Ordering::Relaxed))
    };
    assert_eq!(live(25, false), (2, 20));
    assert_eq!(live(1_000, true), (2, 20));
    // The sleep that it was in is over at once, the next takes its time.
    assert_eq!(live(1, false), (3, 1_025));
    assert_eq!(live(10, false), (4, 1_035));
}
