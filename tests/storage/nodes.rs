//! Real node processes whose disks fail, and what is asked of them.

use std::future::Future;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use chronarch::client::{Client, job_file, paging};
use chronarch::clock::Clock;
use chronarch::node::local::{LocalCluster, LocalOptions, Logs, Ports};
use chronarch::pb::v1;
use tokio::time::{Instant, timeout};

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long a node is given to answer something that it can answer.
const ANSWERS: Duration = Duration::from_secs(20);

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_chronarch");

/// Nodes in one folder.
pub(crate) struct Nodes {
    pub(crate) cluster: LocalCluster,
}

impl Nodes {
    /// Prepares nodes that run `program`, with `extra` in each configuration. Starts none.
    pub(crate) fn prepare(dir: &Path, count: u64, program: &Path, extra: &str) -> Self {
        let cluster = LocalCluster::prepare(LocalOptions {
            nodes: count,
            dir: dir.to_path_buf(),
            program: program.to_path_buf(),
            ports: Ports::Free,
            logs: Logs::File,
            log_format: "text".to_owned(),
            extra: extra.to_owned(),
        });
        Self { cluster: cluster.expect("ports and files") }
    }

    /// A client of some nodes alone.
    pub(crate) fn client(&self, nodes: &[u64]) -> Client {
        let endpoints: Vec<_> =
            nodes.iter().map(|node| self.cluster.endpoint(*node).parse().expect("an endpoint")).collect();
        let ids = Clock::system();
        Client::new(&endpoints, ANSWERS, move || ids.random_id()).expect("endpoints")
    }

    /// Waits until a node says that a leader is known and that it has applied what is committed.
    pub(crate) async fn ready(&self, node: u64) -> v1::ClusterStatus {
        let client = self.client(&[node]);
        eventually("the node to be ready", || async {
            let (_, status) = client.statuses().await.pop()?;
            status
                .ok()
                .filter(|status| status.leader_id > 0 && status.applied_index >= status.committed_index)
        })
        .await
    }

    /// Waits for the end of a node that is expected to end by itself.
    pub(crate) async fn ended(&mut self, node: u64) -> ExitStatus {
        let ended = timeout(PATIENCE, self.cluster.wait(node)).await;
        let log = self.log(node);
        ended.unwrap_or_else(|_| panic!("node {node} did not end: {log}")).expect("it was started")
    }

    /// What a node has written to its log so far.
    pub(crate) fn log(&self, node: u64) -> String {
        std::fs::read_to_string(self.cluster.log_file(node)).unwrap_or_default()
    }

    /// What a node has written since it was `from` bytes long.
    pub(crate) fn log_since(&self, node: u64, from: usize) -> String {
        self.log(node).split_off(from)
    }
}

/// A job that is triggered by hand, with so many bytes in its definition.
pub(crate) fn job(name: &str, bytes: usize) -> v1::JobSpec {
    let body = body(name, bytes);
    let yaml = format!(
        "name: {name}\ntarget: {{exec: {{command: [\"true\"], stdin: \"{body}\"}}}}\non_lost: rerun\nretention: {{runs: 10000}}\n"
    );
    let documents = job_file::read("test.yaml", job_file::Format::Yaml, &yaml).expect("a sound job file");
    documents.into_iter().next().expect("one job").spec
}

/// Text that follows from a name, and does not compress to nothing.
fn body(name: &str, bytes: usize) -> String {
    let seed = name.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(131).wrapping_add(u64::from(byte)));
    let letter = |n: usize| char::from(b'a' + ((seed.rotate_left((n % 61) as u32) ^ n as u64) % 26) as u8);
    (0..bytes).map(letter).collect()
}

/// Applies jobs.
pub(crate) async fn apply(client: &Client, jobs: Vec<v1::JobSpec>) -> Result<(), chronarch::client::Error> {
    let request = v1::ApplyJobsRequest { jobs, ..v1::ApplyJobsRequest::default() };
    client.apply_jobs(request).await.map(drop)
}

/// Makes a run of a job; its id.
pub(crate) async fn trigger(client: &Client, job: &str) -> Result<String, chronarch::client::Error> {
    let request = v1::TriggerJobRequest {
        namespace: "default".into(),
        name: job.into(),
        ..v1::TriggerJobRequest::default()
    };
    client.trigger_job(request).await.map(|run| run.run_id)
}

/// The run, once it has ended.
pub(crate) async fn run_ended(client: &Client, run_id: &str) -> v1::Run {
    eventually("the run to end", || async {
        let request = v1::GetRunRequest { run_id: run_id.to_owned(), stale: false };
        client.get_run(request).await.ok().filter(chronarch::client::is_ended)
    })
    .await
}

/// The definition of a job, as the nodes of the client know it themselves.
pub(crate) async fn definition(client: &Client, name: &str) -> Result<v1::JobSpec, chronarch::client::Error> {
    let request = v1::GetJobRequest { namespace: "default".into(), name: name.into(), stale: true };
    client.get_job(request).await.map(|job| job.spec.unwrap_or_default())
}

/// All jobs and all runs, as the nodes of the client know them themselves.
pub(crate) async fn everything(
    client: &Client,
) -> Result<(Vec<v1::Job>, Vec<v1::Run>), chronarch::client::Error> {
    let jobs = v1::ListJobsRequest { stale: true, ..v1::ListJobsRequest::default() };
    let runs = v1::ListRunsRequest { stale: true, ..v1::ListRunsRequest::default() };
    let jobs = paging::jobs(client, jobs, 100_000).await?.jobs;
    let mut runs = paging::runs(client, runs, 100_000).await?.runs;
    runs.sort_by(|a, b| a.run_id.cmp(&b.run_id));
    Ok((jobs, runs))
}

/// Asks until there is an answer.
///
/// # Panics
/// When there is none within [`PATIENCE`].
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
