//! The public API: gRPC services over consensus, the state and the run log.
//!
//! Every node answers. A write is made by the leader: a follower hands it on, once, with the
//! operation id and the actor filled in. A read is answered from this node's own state after a read
//! barrier, so it shows everything that was acknowledged before, or without one if the client takes
//! a `stale` answer.
//!
//! [`spec`] turns what a client sent into what the state holds, or says all that is wrong with it;
//! [`status`] is the one map from errors to gRPC codes; [`write`] is how a command gets decided;
//! the services are in `jobs`, `runs`, `output`, `breakers`, `cluster` and `export`; what they show comes from
//! [`crate::view`].
//!
//! # Invariants
//! - Nothing that a client sends can panic a node, and everything it sends has a limit with a name
//!   ([`limits`]).
//! - A write whose result is unknown is told apart from one that was refused, and repeating it with
//!   its operation id is safe.
//!
//! # What it deliberately does not do
//! It decides nothing: a command may be refused by the state, and the refusal is passed on. It serves
//! no workers.

mod breakers;
mod calendars;
mod cluster;
mod export;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
mod jobs;
pub mod limits;
mod namespaces;
mod output;
pub(crate) mod page;
pub mod problem;
mod queues;
mod reads;
mod runs;
pub mod spec;
pub mod status;
mod tasks;
mod tzdata;
mod write;

use std::sync::{Arc, Mutex, OnceLock};

use futures::FutureExt;
use tokio::sync::Semaphore;
use tonic::service::Routes;
use tonic::transport::{Channel, Server};

pub use self::output::{AskOutput, Asked};
use crate::client::Dialer;
use crate::clock::trusted::TrustedClock;
use crate::history::RunLog;
use crate::pb::v1::breaker_service_server::BreakerServiceServer;
use crate::pb::v1::calendar_service_server::CalendarServiceServer;
use crate::pb::v1::cluster_service_server::ClusterServiceServer;
use crate::pb::v1::job_service_server::JobServiceServer;
use crate::pb::v1::namespace_service_server::NamespaceServiceServer;
use crate::pb::v1::queue_service_server::QueueServiceServer;
use crate::pb::v1::run_service_server::RunServiceServer;
use crate::raft::Raft;
use crate::view::cluster::WorkerInfo;

/// The workers that are connected to this node.
pub type Workers = Arc<dyn Fn() -> Vec<WorkerInfo> + Send + Sync>;

/// The services of one node. A clone is another handle on the same.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
}

struct Shared {
    raft: Raft,
    log: Arc<OnceLock<Arc<RunLog>>>,
    clock: TrustedClock,
    workers: Workers,
    watches: Arc<Semaphore>,
    exports: Arc<Semaphore>,
    outputs: Arc<output::Outputs>,
    /// How workers are asked for output; set once.
    ask_output: OnceLock<AskOutput>,
    dialer: Dialer,
    listeners: tasks::Listeners,
    /// The connection to the last leader that something was forwarded to.
    channel: Mutex<Option<(String, Channel)>>,
}

/// Why the services cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    /// The descriptors of the reflection service.
    #[error("the reflection service does not accept its descriptors: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl Api {
    /// The services of a node. The run log is there once the node belongs to a cluster.
    #[must_use]
    pub fn new(
        raft: Raft,
        log: Arc<OnceLock<Arc<RunLog>>>,
        clock: TrustedClock,
        workers: Workers,
        dialer: Dialer,
    ) -> Self {
        let watches = Arc::new(Semaphore::new(limits::WATCHES));
        let exports = Arc::new(Semaphore::new(limits::EXPORTS));
        let shared = Shared {
            raft,
            log,
            clock,
            workers,
            watches,
            exports,
            outputs: output::Outputs::new(),
            ask_output: OnceLock::new(),
            dialer,
            listeners: tasks::Listeners::default(),
            channel: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }
}

/// A server with the limits of the API; what it serves is added by the caller.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        // metrics and health are asked for with plain HTTP/1.1
        .accept_http1(true)
        .concurrency_limit_per_connection(limits::REQUESTS_PER_CONNECTION)
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
        .tcp_nodelay(true)
}

/// All services of the API, with health and reflection. `WorkerService` is the caller's.
///
/// # Errors
/// [`RoutesError`].
pub fn routes(api: Api) -> Result<Routes, RoutesError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(crate::pb::v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    let reported = async {
        health.set_serving::<JobServiceServer<Api>>().await;
        health.set_serving::<RunServiceServer<Api>>().await;
        health.set_serving::<BreakerServiceServer<Api>>().await;
        health.set_serving::<QueueServiceServer<Api>>().await;
        health.set_serving::<NamespaceServiceServer<Api>>().await;
        health.set_serving::<CalendarServiceServer<Api>>().await;
        health.set_serving::<ClusterServiceServer<Api>>().await;
    };
    // Nobody else holds the reporter yet, so it never waits.
    let _ = reported.now_or_never();
    macro_rules! limited {
        ($server:ident) => {
            $server::new(api.clone())
                .max_decoding_message_size(limits::REQUEST_BYTES)
                .max_encoding_message_size(limits::RESPONSE_BYTES)
        };
    }
    Ok(Routes::new(limited!(JobServiceServer))
        .add_service(limited!(RunServiceServer))
        .add_service(limited!(BreakerServiceServer))
        .add_service(limited!(QueueServiceServer))
        .add_service(limited!(NamespaceServiceServer))
        .add_service(limited!(CalendarServiceServer))
        .add_service(limited!(ClusterServiceServer))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}
