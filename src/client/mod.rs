//! The client library: the public API over any of several endpoints.
//!
//! Any node answers, for followers forward to the leader, so a [`Client`] only has to find a node
//! that lives. It stays with the endpoint that answered last; when that one is down, silent, or
//! says that it knows no leader, it asks the next, round after round, until the timeout of the call
//! is over. Called by `cli`, by the worker for finding the cluster, and by tests.
//!
//! Every write carries an operation id. A write whose result is unknown (the connection broke, the
//! node fell silent) is repeated with the same id, and the cluster answers with the first result:
//! repeating is never doubling. When time runs out in between, the caller is told so with the id
//! ([`Error::UnknownResult`]), apart from a refusal.
//!
//! The client has neither clock nor randomness of its own: ids come from a function that is handed
//! in, and time is tokio's, which a simulator controls. It does not page: [`paging`] does.

mod dial;
mod endpoint;
mod error;
mod export;
pub mod job_file;
mod output;
pub mod paging;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

pub use self::dial::{Connection, Dialer};
pub use self::endpoint::{ENDPOINTS_MAX, Endpoint, EndpointError};
pub use self::error::{Error, HINT, NOT_LEADER, Tried};
pub use self::export::Export;
pub use self::output::Output;
pub use self::watch::{Watch, is_ended};
use crate::pb::v1::{self, ClusterStatus};

/// The longest answer that is read; a page of 1,000 large jobs fits.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long one endpoint may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long one endpoint may take to answer before the next is asked. A write that waits for a slow
/// disk is repeated with its id and joins the first.
const TRY_MAX: Duration = Duration::from_secs(3);
/// The pause after a round in which no endpoint could answer, doubled from round to round.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// After so many rounds (about a second) in which every endpoint refused the connection, nobody is
/// there, and waiting out the timeout would only delay the message.
const REFUSED_ROUNDS_MAX: u32 = 5;

/// Where operation ids come from.
type FreshId = Box<dyn Fn() -> String + Send + Sync>;

/// A connection to a cluster; cheap to keep, connects when first used.
pub struct Client {
    channels: Vec<(Endpoint, Channel)>,
    /// Index of the endpoint that answered last.
    preferred: AtomicUsize,
    timeout: Duration,
    fresh_id: FreshId,
}

/// Declares one method for each call of the API. A `write` fills in its operation id.
macro_rules! calls {
    ($($(#[$doc:meta])* $kind:ident $client:ident :: $name:ident($request:ident) -> $answer:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`Error`], for every way in which no answer or a refusal came back.
                pub async fn $name(&self, request: v1::$request) -> Result<v1::$answer, Error> {
                    calls!(@$kind self, request);
                    let operation = calls!(@operation $kind request);
                    self.call(operation, |channel| {
                        let request = request.clone();
                        async move {
                            $client::new(channel)
                                .max_decoding_message_size(ANSWER_BYTES_MAX)
                                .$name(request)
                                .await
                        }
                    })
                    .await
                }
            )*
        }
    };
    (@read $client:expr, $request:ident) => {};
    (@write $client:expr, $request:ident) => {
        let mut $request = $request;
        if $request.operation_id.is_empty() {
            $request.operation_id = ($client.fresh_id)();
        }
        let $request = $request;
    };
    (@operation read $request:ident) => { None };
    (@operation write $request:ident) => { Some($request.operation_id.as_str()) };
}

use v1::breaker_service_client::BreakerServiceClient;
use v1::calendar_service_client::CalendarServiceClient;
use v1::cluster_service_client::ClusterServiceClient;
use v1::job_service_client::JobServiceClient;
use v1::namespace_service_client::NamespaceServiceClient;
use v1::queue_service_client::QueueServiceClient;
use v1::run_service_client::RunServiceClient;
use v1::worker_service_client::WorkerServiceClient;

calls! {
    /// Creates or replaces jobs.
    write JobServiceClient::apply_jobs(ApplyJobsRequest) -> ApplyJobsResponse;
    /// One job.
    read JobServiceClient::get_job(GetJobRequest) -> Job;
    /// One page of jobs.
    read JobServiceClient::list_jobs(ListJobsRequest) -> ListJobsResponse;
    /// Deletes a job.
    write JobServiceClient::delete_job(DeleteJobRequest) -> DeleteJobResponse;
    /// Stops the creation of occurrences.
    write JobServiceClient::pause_job(PauseJobRequest) -> Job;
    /// Lets a paused job go on.
    write JobServiceClient::resume_job(ResumeJobRequest) -> Job;
    /// Makes a run now; the operation id is the idempotency key.
    write JobServiceClient::trigger_job(TriggerJobRequest) -> Run;
    /// Pauses all jobs with some labels.
    write JobServiceClient::pause_jobs(PauseJobsRequest) -> ChangedJobs;
    /// Lets all paused jobs with some labels go on.
    write JobServiceClient::resume_jobs(ResumeJobsRequest) -> ChangedJobs;
    /// Makes runs for the occurrences of a past range that have none.
    write JobServiceClient::backfill_job(BackfillJobRequest) -> BackfillJobResponse;
    /// The definitions of a job that are kept.
    read JobServiceClient::list_versions(ListVersionsRequest) -> ListVersionsResponse;
    /// The next occurrences of a job.
    read JobServiceClient::next_occurrences(NextOccurrencesRequest) -> NextOccurrencesResponse;
    /// Why a job did or did not run.
    read JobServiceClient::explain_job(ExplainJobRequest) -> Explanation;
    /// One page of runs, newest first.
    read RunServiceClient::list_runs(ListRunsRequest) -> ListRunsResponse;
    /// One run.
    read RunServiceClient::get_run(GetRunRequest) -> Run;
    /// Cancels a run.
    write RunServiceClient::cancel_run(CancelRunRequest) -> Run;
    /// Cancels all live runs that fit.
    write RunServiceClient::cancel_runs(CancelRunsRequest) -> CancelRunsResponse;
    /// Makes an ended run again.
    write RunServiceClient::retry_run(RetryRunRequest) -> Run;
    /// What a run waits for, or why it ended as it did.
    read RunServiceClient::explain_run(ExplainRunRequest) -> Explanation;
    /// Queues that have limits, and those that live runs are in.
    read QueueServiceClient::list_queues(ListQueuesRequest) -> ListQueuesResponse;
    /// Sets the limits of a queue.
    write QueueServiceClient::set_queue(SetQueueRequest) -> Queue;
    /// One page of namespaces.
    read NamespaceServiceClient::list_namespaces(ListNamespacesRequest) -> ListNamespacesResponse;
    /// One namespace.
    read NamespaceServiceClient::get_namespace(GetNamespaceRequest) -> Namespace;
    /// Sets the limits of a namespace.
    write NamespaceServiceClient::set_namespace(SetNamespaceRequest) -> Namespace;
    /// Takes the limits of a namespace away.
    write NamespaceServiceClient::delete_namespace(DeleteNamespaceRequest) -> DeleteNamespaceResponse;
    /// One page of calendars.
    read CalendarServiceClient::list_calendars(ListCalendarsRequest) -> ListCalendarsResponse;
    /// One calendar.
    read CalendarServiceClient::get_calendar(GetCalendarRequest) -> Calendar;
    /// Defines a calendar.
    write CalendarServiceClient::set_calendar(SetCalendarRequest) -> SetCalendarResponse;
    /// Deletes a calendar.
    write CalendarServiceClient::delete_calendar(DeleteCalendarRequest) -> DeleteCalendarResponse;
    /// One page of breakers.
    read BreakerServiceClient::list_breakers(ListBreakersRequest) -> ListBreakersResponse;
    /// One breaker.
    read BreakerServiceClient::get_breaker(GetBreakerRequest) -> Breaker;
    /// Opens a breaker by hand.
    write BreakerServiceClient::trip_breaker(TripBreakerRequest) -> Breaker;
    /// Closes a breaker by hand.
    write BreakerServiceClient::reset_breaker(ResetBreakerRequest) -> Breaker;
    /// One page of the workers that the leader knows.
    read WorkerServiceClient::list_workers(ListWorkersRequest) -> ListWorkersResponse;
    /// Has a worker take nothing new. Repeating it is harmless.
    read WorkerServiceClient::drain_worker(DrainWorkerRequest) -> Worker;
    /// Has a worker take orders again. Repeating it is harmless.
    read WorkerServiceClient::resume_worker(ResumeWorkerRequest) -> Worker;
    /// What the first node that answers sees of the cluster.
    read ClusterServiceClient::get_status(GetStatusRequest) -> ClusterStatus;
    /// Hands leadership over. Repeating it is harmless where the target is named.
    read ClusterServiceClient::transfer_leader(TransferLeaderRequest) -> TransferLeaderResponse;
    /// Adds a node without a vote. Repeating it is harmless.
    read ClusterServiceClient::add_node(AddNodeRequest) -> AddNodeResponse;
    /// Gives a node a vote. Repeated after it was done, it is refused.
    read ClusterServiceClient::promote_node(PromoteNodeRequest) -> PromoteNodeResponse;
    /// Pins the data of the time zones.
    write ClusterServiceClient::set_tzdata(SetTzdataRequest) -> SetTzdataResponse;
    /// Tells how tasks have ended. Repeating it is harmless.
    read WorkerServiceClient::report_tasks(ReportTasksRequest) -> ReportTasksResponse;
    /// Removes a node. Repeated after it was done, there is no such node.
    read ClusterServiceClient::remove_node(RemoveNodeRequest) -> RemoveNodeResponse;
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.channels.iter().map(|(endpoint, _)| endpoint.to_string());
        f.debug_tuple("Client").field(&endpoints.collect::<Vec<_>>()).finish()
    }
}

impl Client {
    /// A client for these endpoints.
    ///
    /// `timeout` bounds each call, all tries together. `fresh_id` yields operation ids: texts that no
    /// other client will ever use, such as 128 random bits in hexadecimal.
    ///
    /// # Errors
    /// [`EndpointError`] for no endpoint or more than [`ENDPOINTS_MAX`].
    pub fn new(
        endpoints: &[Endpoint],
        timeout: Duration,
        fresh_id: impl Fn() -> String + Send + Sync + 'static,
    ) -> Result<Self, EndpointError> {
        Self::over(&Dialer::tcp(), endpoints, timeout, fresh_id)
    }

    /// As [`Client::new`], over connections of the caller's making.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn over(
        dialer: &Dialer,
        endpoints: &[Endpoint],
        timeout: Duration,
        fresh_id: impl Fn() -> String + Send + Sync + 'static,
    ) -> Result<Self, EndpointError> {
        if endpoints.is_empty() || endpoints.len() > ENDPOINTS_MAX {
            return Err(EndpointError::Count { found: endpoints.len() });
        }
        let channels =
            endpoints.iter().map(|endpoint| (endpoint.clone(), endpoint.channel(dialer, CONNECT_MAX)));
        Ok(Self {
            channels: channels.collect(),
            preferred: AtomicUsize::new(0),
            timeout,
            fresh_id: Box::new(fresh_id),
        })
    }

    /// Follows a run until it has ended.
    #[must_use]
    pub fn watch_run(&self, run_id: String) -> Watch<'_> {
        Watch::new(self, run_id)
    }

    /// What each endpoint itself says, asked all at once; one that is silent costs 3 s at most.
    pub async fn statuses(&self) -> Vec<(Endpoint, Result<ClusterStatus, Error>)> {
        let asked = self.channels.iter().map(|(endpoint, channel)| async {
            let mut client = ClusterServiceClient::new(channel.clone());
            let limit = TRY_MAX.min(self.timeout);
            let status = match tokio::time::timeout(limit, client.get_status(v1::GetStatusRequest {})).await {
                Ok(Ok(answer)) => Ok(answer.into_inner()),
                Ok(Err(status)) if error::passes(&status) => {
                    Err(Error::Unreachable { tried: vec![Tried::of(endpoint, &status)] })
                }
                Ok(Err(status)) => Err(Error::of(&status)),
                Err(_) => Err(Error::Unreachable { tried: vec![Tried::silent(endpoint, limit)] }),
            };
            (endpoint.clone(), status)
        });
        futures::future::join_all(asked).await
    }

    /// Asks endpoint after endpoint until one answers; `operation` is the id of a write.
    async fn call<T, F>(&self, operation: Option<&str>, send: impl Fn(Channel) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut tries = Tries::default();
        let mut pause = PAUSE_MIN;
        loop {
            let mut refused = true;
            for _ in 0..self.channels.len() {
                let index = self.preferred.load(Ordering::Relaxed) % self.channels.len();
                let (endpoint, channel) = &self.channels[index];
                let limit = TRY_MAX.min(deadline.saturating_duration_since(Instant::now()));
                let tried = match tokio::time::timeout(limit, send(channel.clone())).await {
                    Ok(Ok(answer)) => return Ok(answer.into_inner()),
                    Ok(Err(status)) if !error::passes(&status) => return Err(Error::of(&status)),
                    Ok(Err(status)) => Tried::of(endpoint, &status),
                    Err(_) => Tried::silent(endpoint, limit),
                };
                refused &= tried.refused;
                tries.add(tried);
                // Another call may have moved on already; then its choice stays.
                let next = (index + 1) % self.channels.len();
                let order = Ordering::Relaxed;
                self.preferred.compare_exchange(index, next, order, order).ok();
                if Instant::now() >= deadline {
                    return Err(tries.into_error(operation));
                }
            }
            tries.refused_rounds = if refused { tries.refused_rounds + 1 } else { 0 };
            if tries.refused_rounds >= REFUSED_ROUNDS_MAX {
                return Err(tries.into_error(operation));
            }
            tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(PAUSE_MAX);
            // A try without time would be one whose result is in doubt.
            if Instant::now() >= deadline {
                return Err(tries.into_error(operation));
            }
        }
    }
}

/// What the tries of one call came to.
#[derive(Default)]
struct Tries {
    /// The newest of each endpoint.
    tried: Vec<Tried>,
    /// Whether a request may have reached a node.
    perhaps_done: bool,
    refused_rounds: u32,
}

impl Tries {
    fn add(&mut self, tried: Tried) {
        self.perhaps_done |= !tried.not_done;
        self.tried.retain(|older| older.endpoint != tried.endpoint);
        self.tried.push(tried);
    }

    fn into_error(self, operation: Option<&str>) -> Error {
        match operation {
            Some(id) if self.perhaps_done => {
                Error::UnknownResult { operation_id: id.to_owned(), tried: self.tried }
            }
            _ => Error::Unreachable { tried: self.tried },
        }
    }
}
