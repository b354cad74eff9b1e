//! A cluster of real processes for one test, and what a test asks of it.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use chronarch::client::{Client, job_file};
use chronarch::clock::Clock;
use chronarch::node::local::{LocalCluster, LocalOptions, Logs, Ports};
use chronarch::pb::v1;
use tokio::time::Instant;

/// How long anything may take that a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Harness {
    pub(crate) cluster: LocalCluster,
    pub(crate) client: Client,
    dir: Option<tempfile::TempDir>,
}

impl Drop for Harness {
    #[expect(clippy::print_stderr, reason = "who looks at a failed test must find its folder")]
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            let path: PathBuf = dir.keep();
            eprintln!("kept: {}", path.display());
        }
    }
}

impl Harness {
    /// Three nodes that have a leader. `extra` is added to each node's configuration.
    pub(crate) async fn start(extra: &str) -> Self {
        Self::start_with(extra, 0, &[]).await
    }

    /// As [`Self::start`]; node `other` has `args` on its command line.
    pub(crate) async fn start_with(extra: &str, other: u64, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut cluster = LocalCluster::prepare(LocalOptions {
            nodes: 3,
            dir: dir.path().to_path_buf(),
            program: env!("CARGO_BIN_EXE_chronarch").into(),
            ports: Ports::Free,
            logs: Logs::File,
            log_format: "text".to_owned(),
            extra: extra.to_owned(),
        })
        .expect("ports and files");
        for node in cluster.nodes() {
            let args = if node == other { args } else { &[] };
            cluster.start_with(node, args).expect("a process");
        }
        let ids = Clock::system();
        let endpoints: Vec<_> =
            cluster.endpoints().iter().map(|endpoint| endpoint.parse().expect("an endpoint")).collect();
        let client =
            Client::new(&endpoints, Duration::from_secs(20), move || ids.random_id()).expect("endpoints");
        let harness = Self { cluster, client, dir: Some(dir) };
        harness.leader().await;
        harness
    }

    /// The leader that every reachable node agrees on, once they do.
    pub(crate) async fn leader(&self) -> u64 {
        eventually("a leader that all nodes agree on", || async {
            let mut leaders = Vec::new();
            for (_, status) in self.client.statuses().await {
                leaders.extend(status.ok().map(|status| (status.term, status.leader_id)));
            }
            let newest = leaders.iter().max().copied().filter(|(_, leader)| *leader > 0)?;
            let majority = leaders.iter().filter(|seen| **seen == newest).count() >= 2;
            majority.then_some(newest.1)
        })
        .await
    }

    /// Nodes that run and do not lead.
    pub(crate) async fn followers(&self) -> Vec<u64> {
        let leader = self.leader().await;
        self.cluster.nodes().filter(|node| *node != leader && self.cluster.is_started(*node)).collect()
    }

    /// A client that knows this node alone.
    pub(crate) fn client_of(&self, node: u64) -> Client {
        let ids = Clock::system();
        let endpoint = self.cluster.endpoint(node).parse().expect("an endpoint");
        Client::new(&[endpoint], Duration::from_secs(20), move || ids.random_id()).expect("endpoints")
    }

    pub(crate) async fn status(&self, node: u64) -> Option<v1::ClusterStatus> {
        let endpoint = self.cluster.endpoint(node);
        let statuses = self.client.statuses().await;
        statuses.into_iter().find(|(of, _)| of.to_string() == endpoint).and_then(|(_, status)| status.ok())
    }

    /// Waits until the node has applied what the others have committed.
    pub(crate) async fn caught_up(&self, node: u64) {
        let target = self.client.statuses().await;
        let target =
            target.iter().filter_map(|(_, status)| status.as_ref().ok()).map(|status| status.committed_index);
        let target = target.max().unwrap_or(0);
        eventually("the node to catch up", || async {
            self.status(node).await.filter(|status| status.applied_index >= target).map(drop)
        })
        .await;
    }

    /// Applies job files in YAML.
    pub(crate) async fn apply(&self, yaml: &str) -> Vec<v1::AppliedJob> {
        let documents = job_file::read("test.yaml", job_file::Format::Yaml, yaml).expect("a sound job file");
        let jobs = documents.into_iter().map(|document| document.spec).collect();
        let request = v1::ApplyJobsRequest { jobs, ..v1::ApplyJobsRequest::default() };
        self.client.apply_jobs(request).await.expect("the jobs are accepted").results
    }

    pub(crate) async fn job(&self, name: &str) -> v1::Job {
        let request = v1::GetJobRequest { namespace: "default".into(), name: name.into(), stale: false };
        self.client.get_job(request).await.expect("the job is there")
    }

    pub(crate) async fn resume(&self, name: &str) {
        let request = v1::ResumeJobRequest { name: name.to_owned(), ..v1::ResumeJobRequest::default() };
        self.client.resume_job(request).await.expect("it is there");
    }

    pub(crate) async fn pause(&self, name: &str) {
        let request = v1::PauseJobRequest {
            namespace: "default".into(),
            name: name.into(),
            reason: "the test counts".into(),
            ..v1::PauseJobRequest::default()
        };
        self.client.pause_job(request).await.expect("the job is paused");
    }

    pub(crate) async fn trigger(&self, name: &str) -> v1::Run {
        let request = v1::TriggerJobRequest {
            namespace: "default".into(),
            name: name.into(),
            ..v1::TriggerJobRequest::default()
        };
        self.client.trigger_job(request).await.expect("the run is made")
    }

    pub(crate) async fn run(&self, run_id: &str) -> v1::Run {
        let request = v1::GetRunRequest { run_id: run_id.to_owned(), stale: false };
        self.client.get_run(request).await.expect("the run is there")
    }

    /// The run, once it has ended.
    pub(crate) async fn ended(&self, run_id: &str) -> v1::Run {
        eventually("the run to end", || async {
            let run = self.run(run_id).await;
            chronarch::client::is_ended(&run).then_some(run)
        })
        .await
    }

    /// All records of a job, newest first.
    pub(crate) async fn runs(&self, job: &str) -> Vec<v1::Run> {
        let request = v1::ListRunsRequest {
            namespace: "default".into(),
            job: job.into(),
            page_size: 1_000,
            ..v1::ListRunsRequest::default()
        };
        chronarch::client::paging::runs(&self.client, request, 100_000).await.expect("the run log").runs
    }

    pub(crate) async fn breaker(&self, name: &str) -> v1::Breaker {
        let request = v1::GetBreakerRequest { namespace: "default".into(), name: name.into(), stale: false };
        self.client.get_breaker(request).await.expect("the breaker is there")
    }

    /// The cluster's, for ever.
    pub(crate) async fn cluster_id(&self) -> String {
        let leader = self.leader().await;
        self.status(leader).await.expect("the leader answers").cluster_id
    }

    pub(crate) async fn cancel(&self, run_id: &str) {
        let request = v1::CancelRunRequest { run_id: run_id.to_owned(), ..v1::CancelRunRequest::default() };
        self.client.cancel_run(request).await.expect("the run is there");
    }

    /// Waits until nothing is live, so that counting makes sense.
    pub(crate) async fn quiet(&self) {
        eventually("all runs to end", || async {
            let leader = self.leader().await;
            self.status(leader).await.filter(|status| status.live_runs == 0).map(drop)
        })
        .await;
    }
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
