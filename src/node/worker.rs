//! Runs the worker: inside a node, and as `chronarch worker`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Surroundings;
pub use super::worker_output::{Folder, Output, OutputLimits, keep};
use crate::clock::Clock;
use crate::config::connections::Connections;
use crate::spool::SpoolError;
pub use crate::target::ExecStreams;
use crate::target::{Targets, TargetsConfig, TargetsError};
use crate::worker::{OptionsError, Worker, WorkerEnd, WorkerOptions};

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
    /// Where it is to keep output.
    #[error("output cannot be kept: {0}")]
    Output(#[from] SpoolError),
}

/// The name of a new life of the worker at `place`.
pub(super) fn life(place: &str, clock: &Clock) -> String {
    format!("{place}/{:08x}", clock.random() & 0xffff_ffff)
}

/// Makes a worker, to be run.
///
/// # Errors
/// [`WorkerError`] when its setup cannot be put into effect.
pub fn prepare(setup: WorkerSetup, with: &Surroundings) -> Result<Worker, WorkerError> {
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
            Arc::new(Targets::new(&config)?).into()
        }
    };
    let clock = &with.clock;
    let mut kinds = BTreeSet::from(["http".to_owned(), "grpc".to_owned()]);
    if setup.allow_exec {
        kinds.insert("exec".to_owned());
    }
    // What the state says that a target needs: its kind, and behind it the connection.
    kinds.extend(setup.connections.iter().flat_map(|(name, connection)| {
        [format!("{}:{name}", connection.broker().kind()), format!("celery:{name}")]
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
    Ok(Worker::new(options, carrier)?)
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
