//! The shipped program, real gRPC included, in a simulated world: see [`world`].
//!
//! One number derives everything, and each seed runs in a process of its own, so that its history is the same alone
//! and among others. `SEED=n` replays one; `SEEDS=n` runs so many from `FIRST`. Seeds that have failed once are in
//! `seeds`, and are run every time. A run that saw too little proves nothing, and fails as inconclusive.

#[path = "../lab/mod.rs"]
mod lab;

mod clients;
mod figures;
mod kernel;
mod machine;
mod nemesis;
mod net;
mod operator;
mod target;
mod truth;
mod wall;
mod world;

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use chronarch::threads;

use lab::chance::Chance;
use world::World;

const CHAOS_MS: u64 = 30_000;
const SEEDS: u64 = 40;
/// What ten worlds must have seen, or they prove nothing. Of all else that is counted they must have seen some.
const FLOORS: &[(&str, u64)] = &[
    ("leader_changes", 100),
    ("decided", 400),
    ("effects", 300),
    ("lost_attempts", 20),
    ("breakers_across_a_change", 30),
    ("snapshots_installed", 10),
    ("made", 20),
    ("joins_across_a_change", 3),
    ("kept_by_limits", 100),
    ("acknowledged", 300),
    ("leader_kills", 30),
    ("leader_with_minority", 8),
    ("leader_with_majority", 5),
    ("clock_steps", 2),
    ("clock_drifts", 3),
    ("leader_pauses", 8),
    ("leaders_woken_deposed", 4),
    ("worker_pauses", 4),
    ("members_added", 5),
    ("members_removed", 3),
    ("dead_removed", 1),
    ("returns_refused", 2),
    ("kills_before_order", 4),
    ("kills_before_report", 5),
    ("kills_in_takeover", 4),
    ("kills_in_probe", 2),
];
/// Set for the process of a seed.
const CHILD: &str = "CHRONARCH_SIMULATED_SEED";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The life of one world; in the process of its seed alone.
#[test]
fn one_world() {
    let Some(seed) = number(CHILD) else { return };
    let (mut disk, mut other) = (Chance::new(seed ^ 0xd15c), Chance::new(seed ^ 0x07e5));
    let slow = disk.pick(&[1, 3, 12]);
    let (disk, other) = (Mutex::new(disk.draw()), Mutex::new(other.draw()));
    let draw = |from: &Mutex<u64>| {
        let mut state = from.lock().expect("nobody panics with it");
        let mut chance = Chance::new(*state);
        *state = chance.draw();
        *state
    };
    threads::take_turns(
        move || Duration::from_micros(100 + draw(&disk) % (slow * 1_000)),
        move || draw(&other),
    );
    end_on_panic();
    if let Ok(filter) = std::env::var("SIM_LOG") {
        let _ = chronarch::telemetry::start(chronarch::telemetry::LogFormat::Text, &filter);
    }
    let memory = std::path::Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let root = tempfile::Builder::new().prefix("chronarch-simulated-").tempdir_in(root).expect("a folder");
    let (figures, hash) = World::new(seed, root.path()).run(CHAOS_MS);
    let list: Vec<String> = figures.list().iter().map(|(name, value)| format!("{name}={value}")).collect();
    println!("FIGURES {}", list.join(" "));
    println!("HISTORY {hash:016x}");
}

/// A broken promise ends the world at once, wherever it is found: what runs on is of no interest.
fn end_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        #[expect(clippy::disallowed_methods, reason = "the tasks of other machines would panic in turn")]
        std::process::exit(101);
    }));
}

/// Runs a seed in a process of its own.
fn run(seed: u64) -> Output {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args(["--exact", "one_world", "--nocapture"]).env(CHILD, seed.to_string()).stdin(Stdio::null());
    command.output().expect("a process")
}

/// What a seed's process printed behind a word.
fn said<'a>(output: &'a str, word: &str) -> Option<&'a str> {
    output.lines().find_map(|line| line.strip_prefix(word)).map(str::trim)
}

fn failed(seed: u64, output: &Output) -> ! {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    panic!(
        "seed {seed} fails; replay it with: SEED={seed} cargo test --test simulated seeds -- --nocapture\n{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// The seeds that have failed once.
fn kept() -> Vec<u64> {
    include_str!("seeds").lines().filter_map(|line| line.split('#').next()?.trim().parse().ok()).collect()
}

/// Runs seeds on as many threads as there are cores; the sums of their figures.
fn run_all(seeds: Vec<u64>) -> BTreeMap<String, u64> {
    let queue = Mutex::new(seeds);
    let sums = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(seed) = { queue.lock().expect("nobody panics with it").pop() } {
            let output = run(seed);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let figures = said(&text, "FIGURES").filter(|_| output.status.success());
            let Some(figures) = figures else { failed(seed, &output) };
            let mut sums = sums.lock().expect("nobody panics with it");
            for (name, value) in figures.split(' ').filter_map(|pair| pair.split_once('=')) {
                *sums.entry(name.to_owned()).or_insert(0) += value.parse::<u64>().expect("a number");
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    sums.into_inner().expect("nobody panics with it")
}

#[test]
fn promises_hold_in_all_seeds() {
    if number(CHILD).is_some() {
        return;
    }
    if let Some(seed) = number("SEED") {
        let sums = run_all(vec![seed]);
        println!("seed {seed}: {sums:?}");
        return;
    }
    let (first, count) = (number("FIRST").unwrap_or(1), number("SEEDS").unwrap_or(SEEDS));
    let mut seeds: Vec<u64> = (first..first + count).collect();
    seeds.extend(kept());
    let worlds = seeds.len() as u64;
    let sums = run_all(seeds);
    println!("{worlds} seeds: {sums:?}");
    let short: Vec<_> = FLOORS
        .iter()
        .filter(|(name, floor)| sums.get(*name).copied().unwrap_or(0) * 10 < floor * worlds)
        .collect();
    assert!(count < SEEDS || short.is_empty(), "inconclusive, below the floors {short:?}: {sums:?}");
    let never: Vec<_> = sums.iter().filter(|(_, sum)| **sum == 0).map(|(name, _)| name).collect();
    assert!(count < SEEDS || never.is_empty(), "inconclusive, never seen: {never:?}");
}

#[test]
fn one_seed_is_one_history() {
    if number(CHILD).is_some() || number("SEED").is_some() {
        return;
    }
    for seed in [2, 71] {
        let histories: Vec<String> = (0..2)
            .map(|_| {
                let output = run(seed);
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                match said(&text, "HISTORY") {
                    Some(hash) if output.status.success() => hash.to_owned(),
                    _ => failed(seed, &output),
                }
            })
            .collect();
        assert_eq!(histories[0], histories[1], "seed {seed} has two histories");
    }
}
