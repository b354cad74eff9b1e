//! SIGKILL at any moment: everything that was acknowledged is there, and nothing that was taken back returns.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::child::{Said, Task, verify};
use crate::folder::{Kept, rounds, seed};
use crate::shim::Shim;
use crate::work::Before;

/// Rounds with the same folder, before an empty one is taken: the first moments are moments too.
const ROUNDS_A_FOLDER: u64 = 12;
const PLAN: usize = 160;

/// Lets the child work until it has said enough, then kills it.
async fn kill_when_it_has_said(task: &Task, bytes: u64) {
    let mut child = task.command(None).spawn().expect("it starts");
    let enough = async {
        while std::fs::metadata(&task.acks).map_or(0, |about| about.len()) < bytes {
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    };
    tokio::select! {
        () = enough => child.kill().await.expect("it is ours"),
        ended = child.wait() => drop(ended.expect("it is ours")),
    }
}

/// Kills the child at a call that the seed chooses: instead of it, behind it, or in the middle of it.
async fn kill_at_a_call(task: &Task, chance: &mut SmallRng) {
    let calls = ["change", "write", "sync", "rename,unlink,mkdir,truncate", "open"];
    let call = calls[chance.random_range(0..calls.len())];
    let action = match call {
        "write" => ["kill", "killafter", "torn"][chance.random_range(0..3)],
        _ => ["kill", "killafter"][chance.random_range(0..2)],
    };
    let after = match call {
        "change" | "write" | "sync" => chance.random_range(0..260),
        _ => chance.random_range(0..25),
    };
    let shim = Shim::of(&task.root).rules(format!("{call} * {action} after={after}"));
    let mut child = task.command(Some(&shim)).spawn().expect("it starts");
    child.wait().await.expect("it is ours");
}

async fn killed_over_and_over(seed: u64, rounds: u64, run_log: bool) {
    let (mut kept, mut known) = (Kept::new(), Before::default());
    let (mut killed, mut acknowledged) = (0, 0);
    for round in 0..rounds {
        if round % ROUNDS_A_FOLDER == 0 {
            (kept, known) = (Kept::new(), Before::default());
        }
        let mut chance = SmallRng::seed_from_u64(seed + round);
        let (root, acks) = (kept.path().join("data"), kept.path().join("acks"));
        let _ = std::fs::remove_file(&acks);
        let task = Task { root: root.clone(), acks, seed: seed + round, length: PLAN, run_log };
        if chance.random_bool(0.5) {
            kill_at_a_call(&task, &mut chance).await;
        } else {
            kill_when_it_has_said(&task, chance.random_range(0..1_800)).await;
        }
        let said = Said::read(&task.acks);
        assert_eq!(said.failed, None, "seed {seed}, round {round}");
        killed += u64::from(!said.closed);
        acknowledged += said.log;
        known = verify(&root, &known, &task, &said)
            .await
            .unwrap_or_else(|wrong| panic!("seed {seed}, round {round}: {wrong}"));
    }
    eprintln!(
        "seed {seed}: {rounds} rounds, {killed} killed, {acknowledged} operations acknowledged, none lost"
    );
    assert!(killed * 2 > rounds, "{killed} of {rounds} were killed before they were done: too few");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_has_lost_nothing_that_its_log_acknowledged() {
    killed_over_and_over(seed(1_000), rounds(120), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_has_lost_nothing_that_any_of_its_stores_acknowledged() {
    killed_over_and_over(seed(2_000), rounds(80), true).await;
}
