//! A seeded simulation of the cluster's decisions, thousands of leader changes a second.
//!
//! `SEED=n` replays one seed, `SEEDS=n` runs so many from `FIRST`. One number derives everything, so a
//! failure prints the command that replays it. A run that saw too little (see [`Figures`]) proves
//! nothing and fails as inconclusive. What is shipped code and what is model: see [`world`].

#[path = "../lab/mod.rs"]
mod lab;

mod figures;
mod jobs;
mod leader;
mod worker;
mod world;

use figures::Figures;
use world::World;

/// How long a worker may be silent.
pub(crate) const LEASE_MS: u64 = 3_000;
const CHAOS_MS: u64 = 20_000;
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn simulate(seed: u64) -> (Figures, u64) {
    let run = || World::new(seed).run(CHAOS_MS);
    std::panic::catch_unwind(run).unwrap_or_else(|_| {
        panic!("seed {seed} fails; replay it with: SEED={seed} cargo test --test simulation promises -- --nocapture")
    })
}

#[test]
fn promises_hold_whatever_happens() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("FIRST").unwrap_or(1);
            first..first + number("SEEDS").unwrap_or(SEEDS)
        }
    };
    let count = seeds.end - seeds.start;
    let mut sum = Figures::default();
    for seed in seeds {
        let (figures, _) = simulate(seed);
        sum.add(&figures);
    }
    println!("{count} seeds: {sum:?}");
    assert!(
        count < SEEDS || sum.suffices(count),
        "inconclusive, too little happened in {count} seeds: {sum:?}"
    );
}

#[test]
fn one_seed_is_one_history() {
    for seed in [3, 14, 159] {
        assert_eq!(simulate(seed).1, simulate(seed).1, "seed {seed} has two histories");
    }
}
