//! Spoiled, removed and exchanged files of a store that was closed: it opens as it was, or is refused by name.

use std::path::PathBuf;

use chronarch::history::RunLog;
use chronarch::storage::StorageError;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::child::{Said, Task};
use crate::fault::{Fault, files};
use crate::folder::{Folder, Kept, copy, rounds, seed};
use crate::work::Log;

/// A folder with everything in it, closed.
struct Original {
    kept: Kept,
    seed: u64,
    runs: u64,
}

impl Original {
    async fn made(seed: u64, run_log: bool) -> Self {
        let kept = Kept::new();
        let (root, acks) = (kept.path().join("data"), kept.path().join("acks"));
        let task = Task { root, acks, seed, length: 260, run_log };
        let ended = task.command(None).status().await.expect("it starts");
        assert!(ended.success(), "seed {seed}: {ended}");
        let runs = Said::read(&task.acks).runs;
        Self { kept, seed, runs }
    }

    fn copied(&self) -> PathBuf {
        let copied = self.kept.path().join("copy");
        if copied.exists() {
            std::fs::remove_dir_all(&copied).expect("our own folder");
        }
        copy(&self.kept.path().join("data"), &copied);
        copied
    }

    /// A copy with one fault, below the folder or file `part`. Says what it is.
    fn spoiled(&self, n: u64, part: &str) -> (PathBuf, String) {
        let copied = self.copied();
        let mut chance = SmallRng::seed_from_u64(self.seed + n);
        let fault = Fault::ALL[n as usize % Fault::ALL.len()];
        let candidates: Vec<_> =
            files(&copied, true).into_iter().filter(|file| file.to_string_lossy().contains(part)).collect();
        let told = fault.on(&candidates[chance.random_range(0..candidates.len())], &mut chance);
        (copied, format!("seed {}, fault {n}: {told}", self.seed))
    }
}

/// Refused, by the name of a file in the folder, and with a way out where it is the log.
fn is_refused_by_name(error: &StorageError, told: &str) {
    let text = error.to_string();
    assert!(text.contains("/copy"), "{told}: which file? {text}");
    match error {
        StorageError::LogDamaged(damage) => {
            assert!(text.contains("--rejoin") && text.contains(&damage.offset.to_string()), "{told}: {text}");
        }
        StorageError::Damaged(_) | StorageError::UnknownFormat { .. } | StorageError::OtherNode { .. } => {}
        other => panic!("{told}: a strange refusal: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spoiled_log_snapshot_or_manifest_is_refused_by_name_or_harmless() {
    let original = Original::made(seed(7_000), false).await;
    let open = |root: &std::path::Path| Folder::open(root, false);
    let whole = open(&original.kept.path().join("data")).expect("it was closed well");
    let expected: Log = whole.log().await.expect("it reads");
    let (newest, _) = whole.snapshot().expect("it reads");
    whole.close().await.expect("it closes");
    let (mut refused, mut harmless, mut older) = (0, 0, 0);
    for n in 0..rounds(300) {
        let (root, told) = original.spoiled(n, "");
        let folder = match open(&root) {
            Err(error) => {
                is_refused_by_name(&error, &told);
                refused += 1;
                continue;
            }
            Ok(folder) => folder,
        };
        assert_eq!(folder.log().await.expect("it was verified").deviation(&expected, &[], 0), None, "{told}");
        let (found, _) = folder.snapshot().expect("damage is passed over");
        assert!(found.map(|id| id.index) <= newest.map(|id| id.index), "{told}: {found:?}");
        if found == newest {
            harmless += 1;
        } else {
            // The node compares it with the log (`raft::state_machine`), and refuses by name where it must.
            older += 1;
        }
        folder.close().await.expect("it closes");
    }
    eprintln!(
        "seed {}: {refused} refused by name, {older} with an older snapshot, {harmless} harmless",
        original.seed
    );
    assert!(refused > 20 && older > 20, "the faults miss: {refused}, {older}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spoiled_run_log_is_begun_anew_or_harmless_and_never_silently_shorter() {
    let original = Original::made(seed(8_000), true).await;
    let (mut anew, mut harmless, mut refused, mut at_reading) = (0, 0, 0, 0);
    for n in 0..rounds(70) {
        let (root, told) = original.spoiled(n, "/history/");
        let folder = match Folder::open(&root, true) {
            // What a newer release has written is not thrown away.
            Err(error @ StorageError::UnknownFormat { .. }) => {
                is_refused_by_name(&error, &told);
                refused += 1;
                continue;
            }
            opened => opened.unwrap_or_else(|error| panic!("{told}: it can be rebuilt, but {error}")),
        };
        let log = folder.run_log.as_ref().expect("it was asked for");
        // A snapshot of everything tells what is missing: a gap that is fetched from other nodes.
        if log.lacking(original.runs).is_some() {
            anew += 1;
        } else if let Err(wrong) = folder.check_runs(original.runs, original.runs).await {
            assert!(wrong.contains("checksum") || wrong.contains("panicked"), "{told}: {wrong}");
            at_reading += 1;
            std::mem::forget(folder); // as after any error of a store
            continue;
        } else {
            harmless += 1;
        }
        folder.close().await.expect("it closes");
    }
    eprintln!(
        "seed {}: {anew} begun anew, {at_reading} found at reading, {refused} refused by name, {harmless} harmless",
        original.seed
    );
    assert!(anew > 10, "the faults miss: {anew}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_log_that_was_removed_or_is_an_older_one_is_known_to_lack_what_the_snapshot_stands_for() {
    let kept = Kept::new();
    let (history, older) = (kept.path().join("history"), kept.path().join("older"));
    let log = RunLog::open(&history).expect("a new one");
    assert_eq!(log.lacking(0), None);
    log.append(3, crate::work::runs_at(3)).await.expect("it is healthy");
    log.complete(5).await.expect("it is healthy");
    log.close().await.expect("it closes");
    copy(&history, &older);
    let log = RunLog::open(&history).expect("it was closed well");
    log.append(8, crate::work::runs_at(8)).await.expect("it is healthy");
    log.complete(9).await.expect("it is healthy");
    assert_eq!(log.lacking(9), None);
    log.close().await.expect("it closes");

    let lacking = |after| Some(chronarch::history::Gap { after, through: 9 });
    let log = RunLog::open(&older).expect("it is whole");
    assert_eq!(log.lacking(9), lacking(5));
    log.close().await.expect("it closes");
    std::fs::remove_dir_all(&history).expect("our own folder");
    let log = RunLog::open(&history).expect("a new one");
    assert_eq!(log.lacking(9), lacking(0));
    // The gap is stored, and stays one however often the node starts before it is filled.
    log.set_gap(lacking(0)).await.expect("it is healthy");
    log.close().await.expect("it closes");
    let log = RunLog::open(&history).expect("it is whole");
    assert_eq!((log.gap(), log.lacking(9)), (lacking(0), lacking(0)));
    log.set_gap(None).await.expect("it is filled");
    assert_eq!(log.lacking(9), None);
    log.close().await.expect("it closes");
}

/// Where each kind of file says its format, and what a newer release might have put there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_a_newer_format_is_refused_by_name() {
    let original = Original::made(seed(7_500), true).await;
    let text = |bytes: &mut Vec<u8>| {
        let newer = String::from_utf8_lossy(bytes).replace("format 1", "format 2");
        *bytes = newer.into_bytes();
    };
    let number = |bytes: &mut Vec<u8>| bytes[8] = 2;
    type Change = fn(&mut Vec<u8>);
    let kinds: [(&str, Change); 4] =
        [("/copy/manifest", text), ("/history/manifest", text), (".wal", number), (".snapshot", number)];
    for (part, change) in kinds {
        let root = original.copied();
        let fits = |file: &PathBuf| file.to_string_lossy().contains(part);
        let newest = files(&root, true).into_iter().rfind(fits).expect("there is one of each kind");
        let mut bytes = std::fs::read(&newest).expect("a file");
        change(&mut bytes);
        std::fs::write(&newest, bytes).expect("a file");
        let error = match Folder::open(&root, true) {
            Err(error) => error,
            // Of snapshots the one before is used, if the log allows it; the other is told.
            Ok(folder) => folder.snapshots.newest(|_| None).expect("it reads").refused.remove(0),
        };
        let StorageError::UnknownFormat { file, found, known: 1 } = &error else { panic!("{part}: {error}") };
        assert_eq!((file, found.as_str()), (&newest, "2"));
    }
}
