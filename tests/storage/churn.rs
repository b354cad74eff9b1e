//! The key-value store under so much writing that its engine uses its space again, and then the power goes.
//!
//! This is where sled alone would lose rows: it moves old pages with `sync_file_range`, which is no sync, and then
//! writes over the place where they were. The rows of a plan are functions of its seed; after a cut each row has to
//! be as some step left it, and not one before the last that was acknowledged.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use chronarch::storage::store::{Op, Order, SMALL_VALUE_BYTES_MAX, Tree};
use chronarch::storage::{StorageError, Store, StoreOptions};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::process::Command;

use crate::disk::{Disk, Fate};
use crate::folder::{Kept, rounds, seed};
use crate::shim::Shim;
use crate::trace::{self, Did, Event};

const TASK: &str = "CHRONARCH_STORAGE_CHURN";
const KEYS: u64 = 300;
const ROWS_A_STEP: usize = 10;
const STEPS: u64 = 700;

/// The rows that a step writes; `None` deletes.
fn step(seed: u64, number: u64) -> Vec<(u64, Option<Vec<u8>>)> {
    let mut chance = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003) + number);
    let mut row = || {
        let key = chance.random_range(0..KEYS);
        let length = if chance.random_bool(0.1) { 20_000 } else { chance.random_range(0..6_000) };
        let filler = chance.next_u64().to_le_bytes();
        let mut value = number.to_be_bytes().to_vec();
        value.extend(filler.iter().cycle().take(length));
        (key, chance.random_bool(0.8).then_some(value))
    };
    // Within one batch the last row of a key counts.
    (0..ROWS_A_STEP).map(|_| row()).collect::<BTreeMap<_, _>>().into_iter().collect()
}

fn open(path: &Path) -> Result<(Store, Tree), StorageError> {
    let store = Store::open(
        path,
        StoreOptions {
            trees: &["rows"],
            value_bytes_max: SMALL_VALUE_BYTES_MAX,
            cache_bytes: 8 << 20,
            on_fatal: Box::new(|error| eprintln!("the store has failed: {error}")),
        },
    )?;
    let tree = store.tree("rows")?;
    Ok((store, tree))
}

async fn churn(root: &Path, acks: &Path, seed: u64) {
    let mut said = File::options().create(true).append(true).open(acks).expect("a file for its words");
    let (store, tree) = open(&root.join("store")).expect("a new store");
    for number in 1..=STEPS {
        let ops = step(seed, number).into_iter().map(|(key, value)| {
            let key = key.to_be_bytes().to_vec();
            match value {
                Some(value) => Op::Put { tree, key, value },
                None => Op::Delete { tree, key },
            }
        });
        store.write(ops.collect()).await.expect("it is healthy");
        if number % 4 == 0 {
            store.barrier().await.expect("it is healthy");
            said.write_all(format!("{number}\n").as_bytes()).expect("another disk");
        }
    }
    store.close().await.expect("it is healthy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_churns() {
    let Ok(task) = std::env::var(TASK) else { return };
    let lines: Vec<&str> = task.lines().collect();
    let [root, acks, seed] = lines[..] else { panic!("three lines: {task}") };
    churn(Path::new(root), Path::new(acks), seed.parse().expect("a number")).await;
}

/// Every row has to be as some step left it, from the last acknowledged one on.
async fn verify(image: &Path, seed: u64, acknowledged: u64) -> Result<(), String> {
    let (store, tree) = open(&image.join("store")).map_err(|error| format!("it does not open: {error}"))?;
    let (low, high) = (0_u64.to_be_bytes(), u64::MAX.to_be_bytes());
    let rows = store.range(tree, &low[..]..&high[..], Order::Ascending, usize::MAX);
    let rows: BTreeMap<Vec<u8>, Vec<u8>> = rows.map_err(|error| error.to_string())?.into_iter().collect();
    store.close().await.map_err(|error| error.to_string())?;
    let mut allowed: BTreeMap<u64, Vec<Option<Vec<u8>>>> = (0..KEYS).map(|key| (key, vec![None])).collect();
    for number in 1..=STEPS {
        for (key, value) in step(seed, number) {
            let values = allowed.entry(key).or_default();
            if number <= acknowledged {
                values.clear();
            }
            values.push(value);
        }
    }
    for (key, values) in allowed {
        let found = rows.get(&key.to_be_bytes()[..]);
        if !values.iter().any(|value| value.as_ref() == found) {
            let step = found.map(|value| u64::from_be_bytes(value[..8].try_into().expect("a number first")));
            return Err(format!("row {key} is as step {step:?} left it; {acknowledged} was acknowledged"));
        }
    }
    Ok(())
}

/// How often a place in the engine's log was written again, a segment or more behind the end.
fn used_again(events: &[Event]) -> usize {
    const SEGMENT: u64 = 2 << 20;
    let (mut end, mut again) = (0, 0);
    for event in events.iter().filter(|event| event.path.ends_with("sled/db")) {
        if let Did::Wrote { offset, bytes } = &event.did {
            again += usize::from(offset + SEGMENT < end);
            end = end.max(offset + bytes.len() as u64);
        }
    }
    again
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_survive_a_power_cut_while_the_engine_uses_its_space_again() {
    let (mut images, mut again) = (0, 0);
    for life in 0..rounds(1) {
        let (kept, seed) = (Kept::new(), seed(10_000) + life);
        let file = |name: &str| kept.path().join(name);
        let (root, acks, noted) = (file("data"), file("acks"), file("trace"));
        std::fs::create_dir(&root).expect("a folder");
        let mut disk = Disk::with(&root);
        let shim = Shim::of(&root).trace(&noted).acks(&acks);
        let ended = Command::new(std::env::current_exe().expect("this program"))
            .args(["churn::a_child_churns", "--exact", "--test-threads=1"])
            .env(TASK, format!("{}\n{}\n{seed}", root.display(), acks.display()))
            .envs(shim.environment())
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .status();
        assert!(ended.await.expect("it starts").success(), "seed {seed}");
        let events = trace::read(&noted);
        again += used_again(&events);
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut moments: Vec<usize> = (0..14).map(|_| chance.random_range(0..=events.len())).collect();
        moments.sort_unstable();
        let (mut followed, mut acknowledged) = (0, 0);
        for at in moments {
            for event in &events[followed..at] {
                if let Did::Acknowledges { bytes } = &event.did {
                    acknowledged =
                        std::str::from_utf8(bytes).expect("text").trim().parse().expect("a number");
                }
                disk.follow(event);
            }
            followed = at;
            for fate in [Fate::Lost, Fate::Torn, Fate::Scattered] {
                let image = file("image");
                disk.image(&image, fate, &mut chance);
                let whole = verify(&image, seed, acknowledged).await;
                whole.unwrap_or_else(|wrong| panic!("seed {seed}, cut at call {at}, {fate:?}: {wrong}"));
                std::fs::remove_dir_all(&image).expect("our own folder");
                images += 1;
            }
        }
    }
    eprintln!("{images} images, {again} writes to places that were used before, nothing acknowledged lost");
    assert!(again > 20, "the engine did not use its space again: {again}");
}
