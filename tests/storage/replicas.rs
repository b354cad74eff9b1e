//! Spoiled files of a real node in a cluster of three: it starts and is right, or it refuses by name and is replaced
//! from its peers as its own hint says. What it then knows is compared with the others, record by record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chronarch::pb::v1;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::process::Command;
use tokio::time::timeout;

use crate::fault::{Fault, files};
use crate::folder::{Kept, copy, rounds, seed};
use crate::nodes::{self, Nodes, PROGRAM, eventually};

const CONFIGURATION: &str =
    "\n[worker]\nallow_exec = true\n[raft]\nsnapshot_entries = 100\nkeep_entries = 20\n";
/// Of the refusals every so many-th is mended by the node's own hint; after the others the files are put back.
const MENDED_EVERY: usize = 3;

/// Spoils a data folder, and says how.
type Spoil = fn(&Path) -> String;

type Everything = (Vec<v1::Job>, Vec<v1::Run>);

struct Trio {
    nodes: Nodes,
    kept: Kept,
    expected: Everything,
    victim: u64,
    next_id: u64,
    refused: usize,
    mended: usize,
    started: usize,
}

impl Trio {
    /// Three nodes with jobs, runs and snapshots, which agree and have come to rest.
    async fn at_rest() -> Self {
        let kept = Kept::new();
        let mut nodes = Nodes::prepare(&kept.path().join("cluster"), 3, PROGRAM.as_ref(), CONFIGURATION);
        nodes.cluster.start_all().expect("processes");
        for node in 1..=3 {
            nodes.ready(node).await;
        }
        let client = nodes.client(&[1, 2, 3]);
        let mut last = String::new();
        for n in 0..60 {
            let name = format!("job-{}", n % 20);
            nodes::apply(&client, vec![nodes::job(&name, 10 + n)]).await.expect("it is healthy");
            last = nodes::trigger(&client, &name).await.expect("it is healthy");
            nodes::run_ended(&client, &last).await;
        }
        let expected = nodes::everything(&client).await.expect("it is healthy");
        let leader = nodes.ready(1).await.leader_id;
        let victim = (1..=3).find(|node| *node != leader).expect("two of three follow");
        let trio = Self { nodes, kept, expected, victim, next_id: 4, refused: 0, mended: 0, started: 0 };
        for node in 1..=3 {
            trio.knows_everything(node, "at rest").await;
            let snapshots = trio.nodes.cluster.data_dir(node).join("snapshots");
            assert!(!files(&snapshots, false).is_empty(), "node {node} has taken no snapshot: {last}");
        }
        trio
    }

    /// What a node answers may be old while it catches up, but never wrong; and in the end it is everything.
    async fn knows_everything(&self, node: u64, told: &str) {
        let client = self.nodes.client(&[node]);
        let runs: BTreeMap<&str, &v1::Run> =
            self.expected.1.iter().map(|run| (run.run_id.as_str(), run)).collect();
        let mut latest = None;
        let whole = timeout(Duration::from_secs(240), async {
            loop {
                if let Ok(found) = nodes::everything(&client).await {
                    for run in &found.1 {
                        let known = runs.get(run.run_id.as_str());
                        let ended = chronarch::client::is_ended(run);
                        assert!(
                            known.is_some() && (!ended || known == Some(&run)),
                            "{told}: {run:?} is {known:?}"
                        );
                    }
                    if found == self.expected {
                        return;
                    }
                    latest = Some(found);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if whole.await.is_err() {
            let found = latest.map(|(jobs, runs)| (jobs.len(), runs.len()));
            let expected = (self.expected.0.len(), self.expected.1.len());
            panic!("{told}: node {node} knows {found:?} of {expected:?}: {}", self.nodes.log(node));
        }
    }

    /// Stops the victim, spoils a file of it, and starts it.
    async fn suffer(&mut self, told: &str, spoil: impl FnOnce(&Path) -> String) {
        let victim = self.victim;
        let (data, backup) = (self.nodes.cluster.data_dir(victim), self.kept.path().join("backup"));
        assert!(self.nodes.cluster.stop(victim).await.expect("it ran").success(), "{told}");
        replace(&backup, &data);
        let told = format!("{told}: {}", spoil(&data));
        let from = self.nodes.log(victim).len();
        self.nodes.cluster.start(victim).expect("a process");
        let client = self.nodes.client(&[victim]);
        let refused = eventually("the node to serve or to end", || async {
            let log = self.nodes.log_since(victim, from);
            if log.contains("error: ") {
                return Some(Some(log));
            }
            let (_, status) = client.statuses().await.pop()?;
            status.ok().filter(|status| status.applied_index > 0).map(|_| None)
        })
        .await;
        let Some(log) = refused else {
            self.started += 1;
            return self.knows_everything(victim, &told).await;
        };
        assert_eq!(self.nodes.ended(victim).await.code(), Some(1), "{told}: {log}");
        assert!(log.contains(&*data.to_string_lossy()) && log.contains("hint: "), "{told}: {log}");
        self.refused += 1;
        if self.refused % MENDED_EVERY == 1 {
            assert!(log.contains("--rejoin"), "{told}: {log}");
            self.mend(&told).await;
        } else {
            replace(&data, &backup);
            self.nodes.cluster.start(victim).expect("a process");
            self.knows_everything(victim, &told).await;
        }
    }

    /// Replaces the victim by a new node in its place, by the words of the hint.
    async fn mend(&mut self, told: &str) {
        let (old, new) = (self.victim, self.next_id);
        self.nodes.cluster.rejoin(old, new).expect("a process");
        let (id, address) = (new.to_string(), self.nodes.cluster.peer_address(new));
        eventually("the node to be added", || async {
            let added = self.command(&["add", &id, &address, "--promote"]).await;
            added.is_ok().then_some(())
        })
        .await;
        self.command(&["remove", &old.to_string()]).await.expect("it is a member, and not needed");
        self.knows_everything(new, told).await;
        // It has to come back from its own files, too.
        self.nodes.cluster.kill(new).await.expect("it ran");
        self.nodes.cluster.start(new).expect("a process");
        self.knows_everything(new, told).await;
        (self.victim, self.next_id, self.mended) = (new, new + 1, self.mended + 1);
    }

    async fn command(&self, args: &[&str]) -> Result<(), String> {
        let endpoints = self.nodes.cluster.endpoints().join(",");
        let ended = Command::new(PROGRAM)
            .arg("cluster")
            .args(args)
            .args(["--endpoints", &endpoints])
            .kill_on_drop(true)
            .output()
            .await
            .expect("it starts");
        if ended.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ended.stderr).into_owned()) }
    }
}

/// Puts a copy of `from` in the place of `to`.
fn replace(to: &Path, from: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).expect("our own folder");
    }
    copy(from, to);
}

fn remove(path: PathBuf) -> String {
    let told = format!("{} removed", path.display());
    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
        .expect("it is there");
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_spoiled_files_is_right_or_refuses_and_is_mended_from_its_peers() {
    let seed = seed(9_000);
    let mut trio = Trio::at_rest().await;
    let whole: [(&str, Spoil); 5] = [
        ("the run log", |data| remove(data.join("history"))),
        ("the engine's files", |data| remove(data.join("history/sled"))),
        ("all snapshots", |data| {
            files(&data.join("snapshots"), false).into_iter().map(remove).collect::<Vec<_>>().join(", ")
        }),
        ("the newest snapshot", |data| remove(files(&data.join("snapshots"), false).pop().expect("one"))),
        ("the lock", |data| remove(data.join("lock"))),
    ];
    for (what, removed) in whole {
        trio.suffer(what, removed).await;
    }
    for n in 0..rounds(14) {
        let mut chance = SmallRng::seed_from_u64(seed + n);
        let part = ["/log/", "/snapshots/", "/history/", "manifest", "/sled/", "/log/"][n as usize % 6];
        let fault = Fault::ALL[chance.random_range(0..Fault::ALL.len())];
        let spoil = |data: &Path| {
            let fits = |file: &PathBuf| {
                file.strip_prefix(data).is_ok_and(|inside| format!("/{}", inside.display()).contains(part))
            };
            let candidates: Vec<_> = files(data, true).into_iter().filter(fits).collect();
            fault.on(&candidates[chance.random_range(0..candidates.len())], &mut chance)
        };
        trio.suffer(&format!("seed {seed}, fault {n}"), spoil).await;
    }
    let Trio { refused, mended, started, .. } = trio;
    eprintln!(
        "seed {seed}: {started} started and were right, {refused} refused by name, {mended} of them mended"
    );
    assert!(refused > 2 && mended > 0 && started > 5, "the faults miss");
}
