//! Disks that fail, and disks that are slow. After the first error nothing more is acknowledged, the process ends and
//! says why, and nothing is tried again; what was acknowledged before is there at the next start.

use crate::child::{Said, Task, verify};
use crate::folder::{Kept, rounds, seed};
use crate::shim::Shim;
use crate::work::Before;

/// Which calls fail, on which files, with what.
const STORE_FAULTS: &[(&str, &str)] = &[
    ("write */log/*.wal", "EIO"),
    ("write */log/*.wal", "ENOSPC"),
    ("sync */log/*.wal", "EIO"),
    ("write */log/synced", "EIO"),
    ("sync */log/*.tmp", "ENOSPC"),
    ("rename */log/*", "EIO"),
    ("unlink */log/*", "EIO"),
    ("sync */log", "EIO"),
    ("write */snapshots/*", "ENOSPC"),
    ("sync */snapshots/*", "EIO"),
    ("rename */snapshots/*", "EIO"),
    ("write */history/*", "EIO"),
    ("write */history/*", "ENOSPC"),
    ("fdatasync */history/*", "EIO"),
    ("range */history/*", "EIO"),
    ("write */history/synced", "ENOSPC"),
];

/// One fault, at the n-th such call; then a start without it.
async fn fails_once(fault: (&str, &str), after: u64, seed: u64) -> bool {
    let kept = Kept::new();
    let (calls, error) = fault;
    let task = Task {
        root: kept.path().join("data"),
        acks: kept.path().join("acks"),
        seed,
        length: 160,
        run_log: calls.contains("history"),
    };
    let rules = format!("{calls} error={error} after={after} times=1");
    let shim = Shim::of(&task.root).rules(rules.clone());
    let ended = task.command(Some(&shim)).status().await.expect("it starts");
    let said = Said::read(&task.acks);
    let whole = verify(&task.root, &Before::default(), &task, &said).await;
    whole.unwrap_or_else(|wrong| panic!("seed {seed}, {rules}: {wrong}"));
    match &said.failed {
        None => {
            assert!(ended.success() && said.closed, "seed {seed}, {rules}: {ended}, {said:?}");
            false
        }
        Some(told) => {
            assert_eq!(ended.code(), Some(3), "seed {seed}, {rules}: {told}");
            let folder = if calls.contains("log") {
                "log"
            } else if calls.contains("snap") {
                "snapshots"
            } else {
                "history"
            };
            assert!(told.contains(&format!("/data/{folder}")), "seed {seed}, {rules}: which file? {told}");
            true
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_error_of_any_call_ends_a_store_and_nothing_acknowledged_is_lost() {
    let seed = seed(6_000);
    for (fault, n) in STORE_FAULTS.iter().zip(0..) {
        let mut met = 0;
        for (after, m) in [0, 1, 3, 9].into_iter().zip(0..) {
            for round in 0..rounds(1) {
                met += u32::from(fails_once(*fault, after, seed + n * 100 + m * 10 + round * 10_000).await);
            }
        }
        assert!(met > 0, "no child ever met {fault:?}");
    }
}
