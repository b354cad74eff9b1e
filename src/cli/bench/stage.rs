//! Where a bench takes place: three node processes of this program, a folder, a client, a receiver.
//!
//! A [`Stage`] is opened for one run and closed after it, whatever the outcome; dropping it kills the
//! nodes as well, so that a panic leaves nothing behind. All that it waits for is a condition with a
//! limit, and a node that ends by itself meanwhile ends the bench.
//!
//! The nodes listen below the range from which the system takes ports for outgoing connections (32768 to
//! 60999 on Linux, ip(7)): while a killed node is down, one of the thousands of connections of a bench
//! could otherwise be given its port.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::error::BenchError;
use super::probe;
use super::process::Usage;
use super::receiver::Receiver;
use crate::client::{Client, Endpoint};
use crate::clock::Clock;
use crate::node::local::{LocalCluster, LocalError, LocalOptions, Logs, Ports};
use crate::pb::instant;
use crate::pb::v1::{ApplyJobsRequest, ClusterStatus, JobSpec};
use crate::state::time::Timestamp;

/// Nodes of the cluster.
pub(super) const NODES: u64 = 3;
/// Jobs in one request.
const BATCH: usize = 1_000;
/// How long the cluster may take to become ready, also after it was given 100,000 jobs.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a node may take to stop cleanly.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How long a call may take, all tries together.
const CALL_MAX: Duration = Duration::from_secs(60);
/// Between two looks at the cluster.
const POLL: Duration = Duration::from_millis(20);
/// The first client port is one of so many from the base on, at steps of [`PORT_STEP`].
const PORT_BASE: u16 = 20_000;
const PORT_PLACES: u64 = 1_000;
const PORT_STEP: u16 = 10;
/// Places that are tried when ports are taken.
const PORT_TRIES: u32 = 20;

/// What a run is opened with.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// Where the run's folder is made.
    pub(super) dir: PathBuf,
    /// Added to the nodes' configuration.
    pub(super) extra: String,
}

/// The leader, and what it says.
#[derive(Clone, Debug)]
pub(super) struct Leader {
    pub(super) node: u64,
    pub(super) term: u64,
}

/// The cluster of one run and what stands around it.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) clock: Clock,
    pub(super) client: Client,
    pub(super) receiver: Receiver,
    cluster: LocalCluster,
    processes: BTreeMap<u64, u32>,
    folder: PathBuf,
}

impl Stage {
    /// Starts the nodes, and waits for nothing.
    pub(super) async fn open(setup: &Setup, clock: Clock) -> Result<Self, BenchError> {
        let folder = setup.dir.join(format!("chronarch-bench-{:016x}", clock.random()));
        let cluster = prepare(setup, &folder, &clock)?;
        let endpoints: Result<Vec<Endpoint>, _> =
            cluster.endpoints().iter().map(|endpoint| endpoint.parse()).collect();
        let ids = clock.clone();
        let client = Client::new(&endpoints?, CALL_MAX, move || ids.random_id())?;
        let receiver = Receiver::listen(clock.clone()).await.map_err(BenchError::Receiver)?;
        let mut stage = Self { clock, client, receiver, cluster, processes: BTreeMap::new(), folder };
        for node in 1..=NODES {
            stage.start(node)?;
        }
        Ok(stage)
    }

    /// The run's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills the nodes, and removes the folder unless it is to be kept.
    pub(super) async fn close(mut self, keep: bool) -> Result<(), BenchError> {
        for node in 1..=NODES {
            match self.cluster.kill(node).await {
                Ok(()) | Err(LocalError::NotRunning(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if keep {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.folder).map_err(|source| BenchError::File { path: self.folder, source })
    }

    /// Starts a node.
    pub(super) fn start(&mut self, node: u64) -> Result<(), BenchError> {
        let process = self.cluster.start(node)?;
        self.processes.insert(node, process);
        Ok(())
    }

    /// SIGKILLs a node.
    pub(super) async fn kill(&mut self, node: u64) -> Result<(), BenchError> {
        self.processes.remove(&node);
        Ok(self.cluster.kill(node).await?)
    }

    /// SIGTERMs a node, and says how long it took to end.
    pub(super) async fn stop(&mut self, node: u64) -> Result<Duration, BenchError> {
        self.processes.remove(&node);
        let start = Instant::now();
        match tokio::time::timeout(STOP_MAX, self.cluster.stop(node)).await {
            Ok(Ok(status)) if status.success() => Ok(start.elapsed()),
            Ok(Ok(status)) => Err(BenchError::Ended { node, status, log: self.cluster.log_file(node) }),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(BenchError::NotStopped { node, limit: STOP_MAX }),
        }
    }

    /// What a node has used since its start.
    pub(super) fn usage(&self, node: u64) -> Result<Usage, BenchError> {
        let process = self.processes.get(&node).ok_or(BenchError::NotRunning(node))?;
        Usage::of(Some(*process))
    }

    /// What each node has used, the leader first.
    pub(super) fn usages(&self, leader: u64) -> Result<Vec<Usage>, BenchError> {
        let followers = (1..=NODES).filter(|node| *node != leader);
        std::iter::once(leader).chain(followers).map(|node| self.usage(node)).collect()
    }

    /// Waits until a majority's newest term has a leader.
    pub(super) async fn leader(&mut self) -> Result<Leader, BenchError> {
        let client = &self.client;
        let look = || async move {
            let statuses = statuses(client).await;
            leader(&statuses).ok_or_else(|| "no leader is known".to_owned())
        };
        watched(&mut self.cluster, look).await
    }

    /// Where a node keeps its data.
    pub(super) fn data_dir(&self, node: u64) -> PathBuf {
        self.cluster.data_dir(node)
    }

    /// A client that asks this node alone.
    pub(super) fn client_of(&self, node: u64) -> Result<Client, BenchError> {
        let ids = self.clock.clone();
        Ok(Client::new(&[self.cluster.endpoint(node).parse()?], CALL_MAX, move || ids.random_id())?)
    }

    /// Waits until no run is live.
    pub(super) async fn quiet(&mut self) -> Result<(), BenchError> {
        let client = &self.client;
        let look = || async move {
            let statuses = statuses(client).await;
            match leading(&statuses) {
                Some(leader) if leader.live_runs == 0 => Ok(()),
                Some(leader) => Err(format!("{} runs are live", leader.live_runs)),
                None => Err("no leader is known".to_owned()),
            }
        };
        watched(&mut self.cluster, look).await
    }

    /// Waits until every node is ready, has applied what the leader had committed, and has its worker
    /// registered at the leader.
    pub(super) async fn ready(&mut self) -> Result<Leader, BenchError> {
        let client = &self.client;
        let endpoints = self.cluster.endpoints();
        let endpoints = &endpoints;
        let look = || async move {
            for endpoint in endpoints {
                match probe::status(endpoint, "/readyz").await {
                    Ok(200) => {}
                    Ok(code) => return Err(format!("{endpoint}/readyz answers {code}")),
                    Err(error) => return Err(format!("{endpoint}: {error}")),
                }
            }
            caught_up(client).await
        };
        watched(&mut self.cluster, look).await
    }

    /// Registers jobs; each one's next instant, in their order.
    pub(super) async fn apply(&self, jobs: Vec<JobSpec>) -> Result<Vec<Timestamp>, BenchError> {
        let mut next = Vec::with_capacity(jobs.len());
        let mut jobs = jobs.into_iter();
        loop {
            let batch: Vec<JobSpec> = jobs.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(next);
            }
            let request =
                ApplyJobsRequest { jobs: batch, actor: "bench".to_owned(), ..ApplyJobsRequest::default() };
            for applied in self.client.apply_jobs(request).await?.results {
                let at = applied.next_at.as_ref().map(instant::read);
                next.push(at.ok_or(BenchError::NoInstant(applied.name))?);
            }
        }
    }

    /// Waits until a request comes whose instant is `at` or later, so that the load has got there.
    pub(super) async fn reach(&self, at: Timestamp) -> Result<(), BenchError> {
        let limit = at.since(self.clock.now()) + READY_MAX;
        let mark = self.receiver.mark();
        let found = self
            .receiver
            .wait(mark, limit, |new| new.iter().any(|one| one.scheduled_at >= at).then_some(()))
            .await;
        found.ok_or(BenchError::Silent { what: "the load", limit })
    }

    /// Waits for a wall-clock instant: the end of an interval that is measured.
    pub(super) async fn pass(&self, at: Timestamp) {
        tokio::time::sleep(at.since(self.clock.now())).await;
    }

    /// Refuses figures that were made from an incomplete list of requests.
    pub(super) fn all_noted(&self) -> Result<(), BenchError> {
        match (self.receiver.beyond(), self.receiver.unreadable()) {
            (0, 0) => Ok(()),
            (beyond, unreadable) => Err(BenchError::Requests { beyond, unreadable }),
        }
    }
}

/// Finds ports and writes the configurations.
fn prepare(setup: &Setup, folder: &Path, clock: &Clock) -> Result<LocalCluster, BenchError> {
    let program = std::env::current_exe().map_err(BenchError::Program)?;
    let mut tries = 1;
    loop {
        let place = u16::try_from(clock.random() % PORT_PLACES).unwrap_or(0);
        let client = PORT_BASE + place * PORT_STEP;
        let options = LocalOptions {
            nodes: NODES,
            dir: folder.to_owned(),
            program: program.clone(),
            ports: Ports::From(client, client + PORT_STEP / 2),
            logs: Logs::File,
            log_format: "text".to_owned(),
            extra: setup.extra.clone(),
        };
        match LocalCluster::prepare(options) {
            Err(LocalError::Port { .. }) if tries < PORT_TRIES => tries += 1,
            prepared => return Ok(prepared?),
        }
    }
}

/// Looks again and again until it sees what it looks for. What is missing is told when the time is over.
async fn watched<T, F>(cluster: &mut LocalCluster, look: impl Fn() -> F) -> Result<T, BenchError>
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + READY_MAX;
    let looking = async {
        loop {
            match look().await {
                Ok(found) => return Ok(found),
                Err(missing) if Instant::now() >= deadline => {
                    return Err(BenchError::NotReady { limit: READY_MAX, missing });
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    };
    let ended = tokio::select! {
        found = looking => return found,
        Some(ended) = cluster.wait_any() => ended,
    };
    let (node, status) = ended;
    let status = status.map_err(|source| LocalError::Process { node, source })?;
    Err(BenchError::Ended { node, status, log: cluster.log_file(node) })
}

async fn statuses(client: &Client) -> Vec<ClusterStatus> {
    client.statuses().await.into_iter().filter_map(|(_, status)| status.ok()).collect()
}

/// The node that leads in the newest term that any node knows, if it says so itself.
fn leading(statuses: &[ClusterStatus]) -> Option<&ClusterStatus> {
    let term = statuses.iter().map(|status| status.term).max()?;
    statuses
        .iter()
        .find(|status| status.term == term && status.leader_id == status.node_id && status.node_id > 0)
}

fn leader(statuses: &[ClusterStatus]) -> Option<Leader> {
    leading(statuses).map(|status| Leader { node: status.node_id, term: status.term })
}

async fn caught_up(client: &Client) -> Result<Leader, String> {
    let before = statuses(client).await;
    let committed = match leading(&before) {
        Some(leader) if (leader.workers.len() as u64) < NODES => {
            return Err(format!("{} of {NODES} workers have registered", leader.workers.len()));
        }
        Some(leader) => leader.committed_index,
        None => return Err("no leader is known".to_owned()),
    };
    let after = statuses(client).await;
    match after.iter().filter(|status| status.applied_index >= committed).count() as u64 {
        NODES => leader(&after).ok_or_else(|| "no leader is known".to_owned()),
        count => Err(format!("{count} of {NODES} nodes have applied index {committed}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(node_id: u64, leader_id: u64, term: u64) -> ClusterStatus {
        ClusterStatus { node_id, leader_id, term, ..ClusterStatus::default() }
    }

    #[test]
    fn a_leader_of_an_older_term_is_not_the_leader() {
        let paused_and_back = [status(1, 1, 4), status(2, 2, 5), status(3, 2, 5)];
        assert_eq!(leading(&paused_and_back).map(|status| status.node_id), Some(2));
        let voting = [status(1, 1, 4), status(2, 0, 5), status(3, 1, 4)];
        assert_eq!(leading(&voting), None);
        assert_eq!(leading(&[]), None);
    }
}
