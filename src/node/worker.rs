//! Runs the worker: inside a node, and as `chronarch worker`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Surroundings;
use crate::target::{Targets, TargetsConfig, TargetsError};
use crate::worker::{OptionsError, Worker, WorkerEnd, WorkerOptions};

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
    /// Where nodes answer clients.
    pub endpoints: Vec<String>,
    /// The node that it is part of.
    pub node: Option<u64>,
    /// How long it waits for what runs when it is ended.
    pub drain_grace: Duration,
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
}

/// Makes a worker, to be run.
///
/// # Errors
/// [`WorkerError`] when its setup cannot be put into effect.
pub fn prepare(setup: WorkerSetup, with: &Surroundings) -> Result<Worker, WorkerError> {
    let carrier = match &with.carrier {
        Some(carrier) => carrier.clone(),
        None => {
            let config = TargetsConfig { allow_exec: setup.allow_exec, ..TargetsConfig::default() };
            Arc::new(Targets::new(&config)?).into()
        }
    };
    let clock = &with.clock;
    let mut kinds = BTreeSet::from(["http".to_owned()]);
    if setup.allow_exec {
        kinds.insert("exec".to_owned());
    }
    let options = WorkerOptions {
        name: format!("{}/{:08x}", setup.place, clock.random() & 0xffff_ffff),
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
