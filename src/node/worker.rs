//! Runs the worker: inside a node, and as `chronarch worker`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Surroundings;
pub use super::worker_output::{Folder, Output, OutputLimits, keep};
use crate::client::{Client, Endpoint, EndpointError};
use crate::clock::Clock;
use crate::config::connections::Connections;
use crate::spool::SpoolError;
pub use crate::target::ExecStreams;
use crate::target::{Targets, TargetsConfig, TargetsError, TaskWatch};
use crate::worker::{OptionsError, Worker, WorkerEnd, WorkerOptions, WorkerStatus, tasks};

/// Bounds of the output that a worker keeps.
pub mod limits {
    pub use crate::spool::{OUTPUT_BYTES_DEFAULT, OUTPUT_BYTES_MIN, TOTAL_BYTES_DEFAULT};
}

/// What a worker is started with.
#[derive(Clone, Debug)]
pub struct WorkerSetup {
    /// Where it runs, for people: `node-1`, or the machine's name. The rest of its name is random.
    pub place: String,
    /// Queues that it serves.
    pub queues: BTreeSet<String>,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Attempts at the same time.
    pub slots: u32,
    /// Whether jobs may run processes here.
    pub allow_exec: bool,
    /// Whether their standard output and standard error are told apart.
    pub exec_streams: ExecStreams,
    /// Where output is kept; None: nowhere. It also says how the worker is called in this life.
    pub output: Option<Output>,
    /// Where nodes answer clients.
    pub endpoints: Vec<String>,
    /// The node that it is part of.
    pub node: Option<u64>,
    /// How long it waits for what runs when it is ended.
    pub drain_grace: Duration,
    /// The brokers that it can reach.
    pub connections: Connections,
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// What it is to carry out.
    #[error(transparent)]
    Targets(#[from] TargetsError),
    /// What it is to say of itself.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Whom it is to ask.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Where it is to keep output.
    #[error("output cannot be kept: {0}")]
    Output(#[from] SpoolError),
}

/// The name of a new life of the worker at `place`.
pub(super) fn life(place: &str, clock: &Clock) -> String {
    format!("{place}/{:08x}", clock.random() & 0xffff_ffff)
}

/// A worker that can be run, and what watches the tasks that it and others leave by its connections.
#[derive(Debug)]
pub struct Prepared {
    worker: Worker,
    watches: Vec<(TaskWatch, Client)>,
    name: String,
}

impl Prepared {
    /// What the worker is doing.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<WorkerStatus> {
        self.worker.status()
    }

    /// Serves until `stop` is cancelled and the worker has drained; see [`Worker::run`].
    pub async fn run(self, stop: CancellationToken) -> WorkerEnd {
        let rest = CancellationToken::new();
        let mut watching = tokio::task::JoinSet::new();
        for (watch, client) in self.watches {
            watching.spawn(tasks::watch(watch, client, self.name.clone(), rest.clone()));
        }
        let end = self.worker.run(stop).await;
        // What they have not told stays with the broker, for others.
        rest.cancel();
        watching.shutdown().await;
        end
    }
}

/// Makes a worker, to be run.
///
/// # Errors
/// [`WorkerError`] when its setup cannot be put into effect.
pub fn prepare(setup: WorkerSetup, with: &Surroundings) -> Result<Prepared, WorkerError> {
    let mut watches = Vec::new();
    let carrier = match &with.carrier {
        Some(carrier) => carrier.clone(),
        None => {
            let output = setup.output.as_ref();
            let config = TargetsConfig {
                allow_exec: setup.allow_exec,
                exec_streams: setup.exec_streams,
                spool: output.map(|output| output.spool.clone()),
                result_dir: output.and_then(|output| output.result_dir.clone()),
                connections: setup.connections.clone(),
                origin: format!("chronarch@{}", setup.place),
                clock: with.clock.clone(),
                ..TargetsConfig::default()
            };
            let targets = Arc::new(Targets::new(&config)?);
            for watch in targets.task_watches() {
                watches.push((watch, client(&setup, with)?));
            }
            targets.into()
        }
    };
    let clock = &with.clock;
    let mut kinds = BTreeSet::from(["http".to_owned(), "grpc".to_owned()]);
    if setup.allow_exec {
        kinds.insert("exec".to_owned());
    }
    // What the state says that a target needs: its kind, and behind it the connection.
    kinds.extend(setup.connections.iter().flat_map(|(name, connection)| {
        let broker = connection.broker();
        let celery = broker.has_celery().then(|| format!("celery:{name}"));
        [format!("{}:{name}", broker.kind())].into_iter().chain(celery)
    }));
    let options = WorkerOptions {
        name: setup.output.as_ref().map_or_else(|| life(&setup.place, clock), |output| output.life.clone()),
        queues: setup.queues,
        labels: setup.labels,
        kinds,
        slots: setup.slots,
        endpoints: setup.endpoints,
        dialer: with.dialer.clone(),
        seed: clock.random(),
        node: setup.node,
        drain_grace: setup.drain_grace,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        spool: setup.output.map(|output| output.spool),
    };
    let name = options.name.clone();
    Ok(Prepared { worker: Worker::new(options, carrier)?, watches, name })
}

/// For the calls that a worker makes beside its stream.
fn client(setup: &WorkerSetup, with: &Surroundings) -> Result<Client, WorkerError> {
    let endpoints: Result<Vec<Endpoint>, EndpointError> =
        setup.endpoints.iter().map(|endpoint| endpoint.parse()).collect();
    let clock = with.clock.clone();
    Ok(Client::over(&with.dialer, &endpoints?, tasks::CALL_MAX, move || clock.random_id())?)
}

/// Runs a stand-alone worker until `stop` is cancelled and it has drained.
///
/// # Errors
/// [`WorkerError`] when its setup cannot be put into effect.
pub async fn run(
    setup: WorkerSetup,
    with: &Surroundings,
    stop: CancellationToken,
) -> Result<WorkerEnd, WorkerError> {
    Ok(prepare(setup, with)?.run(stop).await)
}
