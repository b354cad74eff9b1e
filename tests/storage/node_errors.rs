//! A whole node on a disk that fails or is slow. The first error ends the process by name; no retry, no half-life.

use std::collections::BTreeMap;
use std::time::Duration;

use chronarch::client::Client;
use chronarch::pb::v1;
use tokio::time::{Instant, timeout};

use crate::folder::Kept;
use crate::nodes::{self, Nodes, PROGRAM, eventually};
use crate::shim::{Control, Shim};

/// Snapshots often, so that what belongs to them happens while a test looks.
const CONFIGURATION: &str =
    "\n[worker]\nallow_exec = true\n[raft]\nsnapshot_entries = 100\nkeep_entries = 20\n";
/// A node that met an error has to end within this time, whatever it was doing, on a busy machine too.
const ENDS: Duration = Duration::from_secs(240);
/// Jobs of this size are applied many at a time: they are there to fill a disk.
const LARGE: usize = 10_000;
const LARGE_AT_ONCE: usize = 30;

/// A node, the switch for its faults, and all that it has acknowledged.
pub(crate) struct Patient {
    pub(crate) nodes: Nodes,
    pub(crate) control: Control,
    jobs: BTreeMap<String, v1::JobSpec>,
    runs: Vec<String>,
    _kept: Kept,
}

impl Patient {
    pub(crate) async fn healthy() -> Self {
        let kept = Kept::new();
        let (folder, program) = (kept.path().join("cluster"), kept.path().join("program"));
        let control = Control::at(kept.path().join("faults"));
        Shim::of(&folder).control(&control).wrapper(PROGRAM.as_ref(), &program);
        let nodes = Nodes::prepare(&folder, 1, &program, CONFIGURATION);
        Self::admit(nodes, control, kept).await
    }

    /// Starts the node and gives it something to lose.
    pub(crate) async fn admit(nodes: Nodes, control: Control, kept: Kept) -> Self {
        let mut patient = Self { nodes, control, jobs: BTreeMap::new(), runs: Vec::new(), _kept: kept };
        patient.nodes.cluster.start(1).expect("a process");
        patient.nodes.ready(1).await;
        let client = patient.client();
        for n in 0..3 {
            patient.work(&client, n, 50).await.expect("it is healthy");
        }
        let run = patient.runs.last().expect("one was made").clone();
        nodes::run_ended(&client, &run).await;
        patient
    }

    pub(crate) fn client(&self) -> Client {
        self.nodes.client(&[1])
    }

    /// A job, or several large ones, and one run; what is acknowledged is noted.
    pub(crate) async fn work(
        &mut self,
        client: &Client,
        n: usize,
        bytes: usize,
    ) -> Result<(), chronarch::client::Error> {
        let count = if bytes < LARGE { 1 } else { LARGE_AT_ONCE };
        let name = |m: usize| format!("job-{n}-{m}");
        let specs: Vec<_> = (0..count).map(|m| nodes::job(&name(m), bytes)).collect();
        nodes::apply(client, specs.clone()).await?;
        self.jobs.extend(specs.into_iter().map(|spec| (spec.name.clone(), spec)));
        self.runs.push(nodes::trigger(client, &name(0)).await?);
        Ok(())
    }

    /// Works until the node has ended by itself. Returns what it wrote to its log meanwhile.
    pub(crate) async fn work_until_it_ends(&mut self, bytes: usize) -> String {
        let (client, from) = (self.client(), self.nodes.log(1).len());
        let deadline = Instant::now() + ENDS;
        let mut n = self.jobs.len();
        loop {
            assert!(Instant::now() < deadline, "it goes on: {}", self.nodes.log_since(1, from));
            // One call that is never answered would hide that the node has ended.
            let worked = timeout(Duration::from_secs(5), self.work(&client, n, bytes)).await;
            if !matches!(worked, Ok(Ok(()))) {
                let ended = timeout(Duration::from_secs(1), self.nodes.cluster.wait_any()).await;
                if let Ok(Some((_, status))) = ended {
                    let log = self.nodes.log_since(1, from);
                    assert_eq!(status.expect("it was started").code(), Some(1), "{log}");
                    return log;
                }
            }
            n += 1;
        }
    }

    /// Starts the node, which has to know all that was acknowledged.
    pub(crate) async fn has_lost_nothing(&mut self, what: &str) {
        self.nodes.cluster.start(1).expect("a process");
        self.nodes.ready(1).await;
        let client = self.client();
        for (name, spec) in &self.jobs {
            let found = nodes::definition(&client, name).await;
            assert!(found.as_ref().is_ok_and(|found| same(found, spec)), "{what}: {name}: {found:?}");
        }
        for run_id in &self.runs {
            let request = v1::GetRunRequest { run_id: run_id.clone(), stale: true };
            let found = client.get_run(request).await;
            assert!(found.is_ok(), "{what}: run {run_id}: {found:?}");
        }
        eprintln!("{what}: {} jobs and {} runs are there", self.jobs.len(), self.runs.len());
    }
}

/// The parts of a definition that the test has written; the rest are defaults.
fn same(found: &v1::JobSpec, written: &v1::JobSpec) -> bool {
    found.name == written.name && found.target == written.target
}

/// While it works: which calls fail, and what the node's last words have to name.
const AT_WORK: &[(&str, &[&str])] = &[
    ("write */log/*.wal error=EIO times=1", &["cannot write", ".wal", "Input/output error"]),
    ("sync */log/*.wal error=EIO times=1", &["cannot sync", ".wal", "Input/output error"]),
    ("sync */log/*.wal error=ENOSPC times=1", &["cannot sync", ".wal", "No space left on device"]),
    ("write */log/synced error=EIO times=1", &["cannot write", "log/synced"]),
    ("write */snapshots/* error=ENOSPC times=1", &["cannot write", "snapshots", "No space left on device"]),
    ("sync */snapshots/* error=EIO times=1", &["cannot sync", "snapshots"]),
    ("fdatasync */history/* error=EIO times=1", &["cannot sync", "history", "Input/output error"]),
    ("write */history/* error=EIO", &["history"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_ends_at_the_first_error_of_its_disk_and_comes_back_whole() {
    for (fault, words) in AT_WORK {
        let mut patient = Patient::healthy().await;
        patient.control.set(fault);
        let log = patient.work_until_it_ends(50).await;
        for word in *words {
            assert!(log.contains(word), "{fault}: {word} is not in {log}");
        }
        patient.control.clear();
        patient.has_lost_nothing(fault).await;
    }
}

/// While it starts.
const AT_START: &[(&str, &[&str])] = &[
    ("read */log/*.wal error=EIO", &["cannot read", ".wal", "Input/output error"]),
    ("open */manifest error=EACCES", &["cannot read", "manifest", "Permission denied"]),
    ("sync */log/* error=EIO", &["cannot sync", "log", "Input/output error"]),
    ("read */snapshots/* error=EIO", &["cannot read", "snapshots", "Input/output error"]),
    ("write */history/* error=ENOSPC", &["history", "No space left on device"]),
    ("read */history/sled/db error=EIO", &["history", "Input/output error"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_does_not_start_on_a_disk_that_fails_and_says_which_file_it_was() {
    let mut patient = Patient::healthy().await;
    let client = patient.client();
    for n in 3..70 {
        patient.work(&client, n, 50).await.expect("it is healthy");
    }
    eventually("a snapshot", || async {
        let (_, status) = client.statuses().await.pop()?;
        status.ok().filter(|status| status.snapshot_index > 0).map(drop)
    })
    .await;
    patient.nodes.cluster.kill(1).await.expect("it ran");
    for (fault, words) in AT_START {
        let from = patient.nodes.log(1).len();
        patient.control.set(fault);
        patient.nodes.cluster.start(1).expect("a process");
        let ended = patient.nodes.ended(1).await;
        let log = patient.nodes.log_since(1, from);
        assert_eq!(ended.code(), Some(1), "{fault}: {log}");
        for word in *words {
            assert!(log.contains(word), "{fault}: {word} is not in {log}");
        }
    }
    patient.control.clear();
    patient.has_lost_nothing("after six starts on a failing disk").await;
    let aside = std::fs::read_dir(patient.nodes.cluster.data_dir(1)).expect("a folder");
    let aside = aside.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains("damaged"))
    });
    assert_eq!(aside.count(), 0, "a disk that does not answer is no reason to set anything aside");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_makes_a_node_slow_and_nothing_else() {
    const DELAY: Duration = Duration::from_millis(150);
    let mut patient = Patient::healthy().await;
    patient.control.set(&format!("sync * delay={}", DELAY.as_millis()));
    let client = patient.client();
    for n in 3..13 {
        let begun = Instant::now();
        patient.work(&client, n, 50).await.expect("slow is not broken");
        assert!(begun.elapsed() >= 2 * DELAY, "two entries, each synced: {:?}", begun.elapsed());
    }
    let run = patient.runs.last().expect("runs were made").clone();
    nodes::run_ended(&client, &run).await;
    patient.nodes.cluster.kill(1).await.expect("it ran");
    patient.control.clear();
    patient.has_lost_nothing("after a time with a slow disk").await;
}
