//! Every fuzz target on its stored corpus, and on seeded mutations of it: what `scripts/fuzz` does for hours, for a
//! moment in each run of the tests, without libFuzzer. `MUTATIONS=n` asks for n times as many, `SEED=n` for others.
//!
//! An input that panics, takes longer than [`PATIENCE`] or more than [`MEMORY_BYTES`] fails the test. It lies in the
//! file that the failure names, also when the process was ended by it.

#[path = "lab/chance.rs"]
mod chance;
#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use chance::Chance;

/// Mutations of a target's corpus.
const MUTATIONS: u64 = 400;
/// Mutations laid on top of each other, at most.
const LAYERS: u64 = 6;
/// Bytes of an input.
const BYTES: usize = 64 << 10;
/// What no input may take, even where many tests share the machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What all inputs together may take at once.
const MEMORY_BYTES: u64 = 2 << 30;

macro_rules! each {
    ($($target:ident)*) => {
        const NAMED: &[&str] = &[$(stringify!($target)),*];
        mod survives_its_corpus {
            $(#[test] fn $target() { super::replay(stringify!($target)); })*
        }
    };
}

each! { schedule value job_file foreign config request worker peer entry run snapshot wal snapshot_file }

#[test]
fn every_target_has_its_test_its_corpus_and_its_binary() {
    let names: BTreeSet<&str> = targets::ALL.iter().map(|target| target.name).collect();
    assert_eq!(names, NAMED.iter().copied().collect());
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).expect("the manifest of the fuzz crate");
    for name in names {
        assert!(!corpus(name).is_empty(), "{name} has no corpus");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} has no binary");
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder().join("corpus").join(target)).expect("the corpus of a target");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry of it").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("an input")).collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn replay(target: &'static str) {
    let stored = corpus(target);
    let seed = number("SEED", 1);
    let mutations = MUTATIONS * number("MUTATIONS", 1);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("corpus-{target}"));
    let (done, progress) = mpsc::channel();
    let path = kept.clone();
    let worker = thread::spawn(move || {
        let mut chance = Chance::new(seed);
        let fresh = (0..mutations).map(|_| mutated(&stored, &mut chance));
        for input in stored.clone().into_iter().chain(fresh) {
            fs::write(&path, &input).expect("room for an input");
            targets::run(target, &input);
            if done.send(()).is_err() {
                return;
            }
        }
    });
    let told = format!("{target} fails with seed {seed} on the input in {}", kept.display());
    loop {
        match progress.recv_timeout(PATIENCE) {
            Ok(()) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{told}: it does not end"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    assert!(worker.join().is_ok(), "{told}");
    let peak = peak_memory_bytes();
    assert!(peak < MEMORY_BYTES, "{told}, or on one before it: {peak} bytes of memory");
}

fn peak_memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the status of this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1_024
}

/// Texts that the formats know: what a blind change rarely makes.
const WORDS: &[&str] = &[
    "*/0",
    "0-59/1",
    "29 2 *",
    "@yearly",
    "fri-mon",
    "L",
    "\n---\n",
    "&a [*a]",
    "<<: *a",
    "!!x",
    "{}",
    "[]",
    "\\u0000",
    "1e999",
    "-0",
    "0x7f",
    "nan",
    "9999-12-31T23:59:59.999Z",
    "0000-01-01T00:00:00Z",
    "18446744073709551616",
    "1w2d",
    "Europe/Berlin",
    "America/New_York",
    "fixed:+25:59",
    "schedule: ",
    "every: ",
    "\"\"\"",
    "'''",
    "[raft]",
    "é",
    "\u{0}",
];

fn mutated(stored: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let place = |chance: &mut Chance| chance.between(0, stored.len() as u64 - 1) as usize;
    let mut input = stored[place(chance)].clone();
    let other = &stored[place(chance)];
    for _ in 0..chance.between(1, LAYERS) {
        mutate(&mut input, other, chance);
        input.truncate(BYTES);
    }
    input
}

fn mutate(input: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = |length: usize, chance: &mut Chance| chance.between(0, length as u64) as usize;
    let from = at(input.len().saturating_sub(1), chance);
    let to = from + at((input.len() - from).min(64), chance);
    match chance.between(0, 8) {
        0 if !input.is_empty() => input[from] ^= 1 << chance.between(0, 7),
        1 if !input.is_empty() => input[from] = chance.pick(&[0, 1, 0x7f, 0x80, 0xff, b' ', b'*', b'9']),
        2 => drop(input.drain(from..to)),
        3 => {
            let part: Vec<u8> = input[from..to].to_vec();
            input.splice(from..from, part);
        }
        4 => input.truncate(from),
        5 => drop(input.splice(from..to, chance.pick(WORDS).bytes())),
        6 => {
            let number =
                chance.pick(&[0, 1, u64::MAX, u64::MAX - 1, 1 << 63, 1 << 32, i64::MAX.cast_unsigned()]);
            let bytes = if chance.one_in(2) { number.to_be_bytes() } else { number.to_le_bytes() };
            drop(input.splice(from..to, bytes));
        }
        7 => {
            let start = at(other.len(), chance);
            let end = start + at(other.len() - start, chance);
            drop(input.splice(from..to, other[start..end].iter().copied()));
        }
        _ => input.push(chance.draw() as u8),
    }
}
