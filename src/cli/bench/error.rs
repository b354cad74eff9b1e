//! Why a bench ends without figures, or with figures that break the product's promise.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::receiver::ARRIVALS_MAX;
use crate::client::{EndpointError, Error};
use crate::node::local::LocalError;

/// Why a bench fails.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A node's process or its files.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A call on the cluster.
    #[error(transparent)]
    Call(#[from] Error),
    /// An address that no client can use.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// This program's own file is unknown.
    #[error("this program's own file cannot be found: {0}")]
    Program(#[source] io::Error),
    /// The receiving server does not start.
    #[error("the receiver cannot listen on 127.0.0.1: {0}")]
    Receiver(#[source] io::Error),
    /// A worker's process cannot be made or waited for.
    #[error("a worker's process: {0}")]
    Worker(#[source] io::Error),
    /// The limit of open files cannot be raised.
    #[error("the limit of open files cannot be raised: {0}")]
    Files(#[source] io::Error),
    /// A worker's stream cannot be connected.
    #[error("a stream of a worker: {0}")]
    Connect(#[source] tonic::transport::Error),
    /// A worker's stream is not what it should be.
    #[error("a stream of a worker: {0}")]
    Stream(String),
    /// Signals cannot be waited for.
    #[error("signals cannot be received: {0}")]
    Signals(#[source] io::Error),
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of `/proc` has another form than expected.
    #[error("{}: cannot be understood", path.display())]
    Proc {
        /// Which.
        path: PathBuf,
    },
    /// A node has ended by itself.
    #[error("node {node} has ended by itself ({status}); its log is {}", log.display())]
    Ended {
        /// Which.
        node: u64,
        /// How.
        status: ExitStatus,
        /// Where its log is.
        log: PathBuf,
    },
    /// A node did not stop.
    #[error("node {node} did not stop within {limit:?} and was killed")]
    NotStopped {
        /// Which.
        node: u64,
        /// How long it had.
        limit: Duration,
    },
    /// A node that does not run was asked about.
    #[error("node {0} does not run")]
    NotRunning(u64),
    /// The cluster did not become ready.
    #[error("the cluster is not ready after {limit:?}: {missing}")]
    NotReady {
        /// How long it had.
        limit: Duration,
        /// What is missing.
        missing: String,
    },
    /// What had to arrive did not.
    #[error("{what} did not arrive within {limit:?}")]
    Silent {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// A job was registered without an instant.
    #[error("job {0} has no next instant")]
    NoInstant(String),
    /// Registering took so long that the instant of the jobs came before its end.
    #[error("registering {jobs} jobs took longer than the lead of {lead:?}")]
    Lead {
        /// How many.
        jobs: u32,
        /// How long before their instant it began.
        lead: Duration,
    },
    /// More requests than can be noted, or such that do not say what a target must be told.
    #[error(
        "{beyond} requests came beyond the limit of {ARRIVALS_MAX}, {unreadable} did not say what a target must be told"
    )]
    Requests {
        /// Beyond the limit.
        beyond: usize,
        /// Malformed.
        unreadable: usize,
    },
    /// A signal ended the bench.
    #[error("interrupted; everything that was started has been ended")]
    Interrupted,
    /// The figures are there, and with them the proof of a fault.
    #[error("{lost} instants were lost, {duplicates} requests were duplicates, {unexpected} were unexpected")]
    Promise {
        /// Instants for which nothing arrived.
        lost: usize,
        /// Second runs of an instant, or the same attempt twice.
        duplicates: usize,
        /// For jobs or instants that nobody registered.
        unexpected: usize,
    },
}

impl BenchError {
    /// What would help.
    pub(in crate::cli) fn hint(&self) -> Option<String> {
        match self {
            Self::Call(error) => error.hint(),
            Self::Lead { .. } => Some("`--lead` gives it more time".to_owned()),
            Self::Requests { beyond, .. } if *beyond > 0 => {
                Some("fewer jobs or seconds make fewer requests".to_owned())
            }
            Self::NotReady { .. } | Self::Silent { .. } => {
                Some("the nodes' logs are in the folder that is kept".to_owned())
            }
            Self::Promise { .. } => Some("`--keep` keeps the nodes' data and logs".to_owned()),
            Self::Local(_)
            | Self::Endpoint(_)
            | Self::Program(_)
            | Self::Receiver(_)
            | Self::Worker(_)
            | Self::Files(_)
            | Self::Connect(_)
            | Self::Stream(_)
            | Self::Signals(_)
            | Self::File { .. }
            | Self::Proc { .. }
            | Self::Ended { .. }
            | Self::NotStopped { .. }
            | Self::NotRunning(_)
            | Self::NoInstant(_)
            | Self::Requests { .. }
            | Self::Interrupted => None,
        }
    }
}
