//! Plain HTTP on the client listener, beside gRPC: metrics and health.
//!
//! `/metrics` is OpenMetrics text. `/healthz` says that the process lives. `/readyz` says that the node
//! has a leader that a majority follows, has applied what it knows to be committed, and has its whole run log; what is missing
//! is named in the body.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Extract;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::leader::Leader;
use crate::metrics::Metrics;
use crate::raft::Raft;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::set::ScheduleSet;
use crate::state::State;
use crate::state::breaker::StatusKind;

/// Entries that a node may lag behind what it knows to be committed and still be ready.
const LAG: u64 = 1_000;

/// How long the leader may take to confirm that a majority follows it.
const LEADER_ANSWERS: Duration = Duration::from_secs(1);

/// What the pages read.
#[derive(Clone)]
pub struct Pages {
    /// Consensus.
    pub raft: Raft,
    /// The leader's loop.
    pub leader: Leader,
    /// The figures.
    pub metrics: Arc<Metrics>,
}

/// The routes.
pub fn routes(pages: Pages) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(pages)
}

/// Answers for everything that is not served here.
pub async fn unknown(headers: HeaderMap) -> Response {
    let is_grpc =
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return tonic::Status::unimplemented("there is no such method").into_http();
    }
    (StatusCode::NOT_FOUND, "no such page\n").into_response()
}

async fn ready(Extract(pages): Extract<Pages>) -> Response {
    let mut missing = missing(&pages.raft);
    // Knowing a leader is not having one: it may be gone, or cut off from the majority.
    let led = tokio::time::timeout(LEADER_ANSWERS, pages.raft.read_barrier()).await;
    if missing.is_empty() && !matches!(led, Ok(Ok(()))) {
        missing.push("no leader answers that a majority follows".to_owned());
    }
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", missing.join("\n"))).into_response()
}

fn missing(raft: &Raft) -> Vec<String> {
    let status = raft.status();
    let mut missing = Vec::new();
    if status.leader.is_none() {
        missing.push("no leader is known".to_owned());
    }
    let (applied, committed) = (status.applied_index.unwrap_or(0), status.committed_index.unwrap_or(0));
    if applied + LAG < committed {
        missing.push(format!("applied index {applied} is behind the committed index {committed}"));
    }
    if let Some(gap) = status.run_log_gap {
        missing.push(format!("the run log lacks the entries from {} to {}", gap.after + 1, gap.through));
    }
    missing
}

async fn metrics(Extract(pages): Extract<Pages>) -> Response {
    measure(&pages);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], pages.metrics.text()).into_response()
}

/// Brings the gauges up to date.
fn measure(pages: &Pages) {
    let (state, status, metrics) = (pages.raft.state(), pages.raft.status(), &pages.metrics);
    let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    let index = |value: Option<u64>| i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX);
    metrics.jobs.set(gauge(state.job_count()));
    metrics.live_runs.set(gauge(state.run_count()));
    metrics.waiting_runs.set(gauge(state.waiting_count()));
    metrics.running_attempts.set(gauge(state.running_count()));
    metrics.workers.set(gauge(pages.leader.workers().len()));
    metrics.term.set(i64::try_from(status.term).unwrap_or(i64::MAX));
    metrics.committed_index.set(index(status.committed_index));
    metrics.applied_index.set(index(status.applied_index));
    metrics.is_leader.set(i64::from(pages.raft.leadership().borrow().is_leader));
    let mut counts = [0usize; 3];
    for (_, breaker) in state.breakers() {
        match breaker.kind() {
            StatusKind::Closed => counts[0] += 1,
            StatusKind::Open => counts[1] += 1,
            StatusKind::HalfOpen => counts[2] += 1,
        }
    }
    for (state, count) in ["closed", "open", "half_open"].into_iter().zip(counts) {
        metrics.set_breakers(state, count);
    }
    metrics.faulty_jobs.set(gauge(state.faulty_count()));
    metrics.unarmed_jobs.set(gauge(unarmed(&state)));
}

/// Enabled jobs whose schedule has a further occurrence and that have none armed. There is no way to
/// get there, so each is a bug that somebody must hear of (G7).
fn unarmed(state: &State) -> usize {
    if state.armed_count() == state.job_count() {
        return 0;
    }
    let almanac = Almanac::of(state);
    state
        .jobs_after(None)
        .filter(|job| job.is_exhausted())
        .filter(|job| {
            let set = ScheduleSet::of(&job.spec, &almanac);
            set.is_ok_and(|set| set.next_after(state.now()).is_some())
        })
        .count()
}
