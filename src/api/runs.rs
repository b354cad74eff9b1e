//! `RunService`.

mod control;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::problem::Problems;
use super::spec::value;
use super::write::Write as _;
use super::{Api, forward, limits, page, status};
use crate::pb::v1 as pb;
use crate::pb::v1::run_service_client::RunServiceClient;
use crate::pb::v1::run_service_server::RunService;
use crate::state::run::{Cause, JobId, Reason, Run, RunId, RunState};
use crate::state::time::Timestamp;
use crate::state::{Command, Job, Rejection, State};
use crate::view;
use crate::view::explain::Explaining;

/// States of a watched run that wait for a slow client; it is sent the newest when it has room.
const WATCHED: usize = 1;
/// States that a filter may name.
const STATES: usize = 16;

/// An id of a form that no run has names no run.
pub(super) fn run_id(text: &str) -> Result<RunId, Status> {
    text.parse().map_err(|_| status::no_such_id(text))
}

pub(super) fn filter(message: &pb::ListRunsRequest) -> Result<view::runs::Filter, Status> {
    let mut problems = Problems::new();
    let some = |text: &str| Some(text).filter(|text| !text.is_empty()).map(str::to_owned);
    let job = some(&message.job);
    // a job's name means nothing without a namespace
    let namespace = if job.is_some() {
        Some(value::namespace(&message.namespace).to_owned())
    } else {
        some(&message.namespace)
    };
    value::most("states", "states", message.states.len(), STATES, &mut problems);
    let mut states = Vec::new();
    for (place, number) in message.states.iter().take(STATES).enumerate() {
        let path = format!("states[{place}]");
        match value::word(&path, *number, &mut problems) {
            Some(pb::RunState::Pending) => states.push(RunState::Pending),
            Some(pb::RunState::Running) => states.push(RunState::Running),
            Some(pb::RunState::Succeeded) => states.push(RunState::Succeeded),
            Some(pb::RunState::Failed) => states.push(RunState::Failed),
            Some(pb::RunState::Cancelled) => states.push(RunState::Cancelled),
            Some(pb::RunState::Skipped) => states.push(RunState::Skipped),
            Some(pb::RunState::Unspecified) | None => {}
        }
    }
    let from = value::instant("from", message.from.as_ref(), &mut problems);
    let to = value::instant("to", message.to.as_ref(), &mut problems);
    let spans = std::time::Duration::ZERO..=limits::TIMEOUT;
    let min_duration = value::span("min_duration", message.min_duration.as_ref(), spans, &mut problems);
    value::labels("labels", &message.labels, &mut problems);
    value::most("causes", "causes", message.causes.len(), STATES, &mut problems);
    let mut causes = Vec::new();
    for (place, number) in message.causes.iter().take(STATES).enumerate() {
        match value::word(&format!("causes[{place}]"), *number, &mut problems) {
            Some(pb::Cause::Schedule) => causes.push(Cause::Schedule),
            Some(pb::Cause::Manual) => causes.push(Cause::Manual),
            Some(pb::Cause::Backfill) => causes.push(Cause::Backfill),
            Some(pb::Cause::CatchUp) => causes.push(Cause::CatchUp),
            Some(pb::Cause::After) => causes.push(Cause::After),
            Some(pb::Cause::Unspecified) | None => {}
        }
    }
    if !message.reason.is_empty() && !Reason::ALL.iter().any(|reason| reason.as_str() == message.reason) {
        problems.add("reason", unknown_reason(&message.reason));
    }
    if problems.is_empty() {
        let named = |id: &str| Some(id).filter(|id| !id.is_empty()).map(run_id).transpose();
        let (chain, parent) = (named(&message.chain_id)?, named(&message.parent)?);
        Ok(view::runs::Filter {
            namespace,
            job,
            states,
            from,
            to,
            reason: some(&message.reason),
            worker: some(&message.worker),
            min_duration,
            now: Timestamp::MIN,
            jobs: None,
            chain,
            parent,
            backfill: Some(message.backfill).filter(|backfill| *backfill != 0),
            causes,
        })
    } else {
        Err(status::invalid(&problems))
    }
}

fn unknown_reason(word: &str) -> String {
    let word: String = word.chars().take(64).collect();
    let words: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    let hint = match word.starts_with("broker_") || word == "message_invalid" {
        true => " (that begins the `error` of an attempt; its run has the reason `error`, or `lost`)",
        false => "",
    };
    format!("unknown word {word:?}; expected one of {}{hint}", words.join(", "))
}

/// The jobs that have these labels now; none where no label is asked for.
fn labelled(
    state: &State,
    filter: &view::runs::Filter,
    labels: &BTreeMap<String, String>,
) -> Option<BTreeSet<JobId>> {
    let fits = |job: &&Arc<Job>| {
        filter.namespace.as_ref().is_none_or(|namespace| job.spec.namespace == *namespace)
            && labels.iter().all(|(key, value)| job.spec.labels.get(key) == Some(value))
    };
    (!labels.is_empty()).then(|| state.jobs_after(None).filter(fits).map(|job| job.id).collect())
}

impl Api {
    async fn run_shown(&self, state: &State, id: RunId) -> Result<pb::Run, Status> {
        let found = self.find_run(state, id).await?;
        found.map(|run| view::run::in_state(state, &run)).ok_or_else(|| status::no_run(&id.to_string()))
    }

    async fn cancel_here(self, mut message: pb::CancelRunRequest) -> Result<pb::Run, Status> {
        let run = run_id(&message.run_id)?;
        let request = message.request();
        let make = |_: &State, _| Ok(Command::CancelRun { run, request: request.clone() });
        match self.decide(&request.operation_id, make).await {
            Ok(_) => self.run_shown(&self.shared.raft.state(), run).await,
            // It has ended: that is what was wanted, and the record says how.
            Err(refused) if refused.message() == Rejection::NoRun.to_string() => {
                self.run_shown(&self.shared.raft.state(), run).await
            }
            Err(refused) => Err(refused),
        }
    }

    async fn explain_run_here(&self, message: &pb::ExplainRunRequest) -> Result<pb::Explanation, Status> {
        let id = run_id(&message.run_id)?;
        let state = self.state(message.stale).await?;
        let run = self.find_run(&state, id).await?.ok_or_else(|| status::no_run(&message.run_id))?;
        let workers = self.workers();
        self.look(move |log| Ok(Explaining { state: &state, log, workers: workers.as_deref() }.run(&run)))
            .await
    }

    /// Sends each state of a run that differs from the one before, until it has ended.
    async fn follow(&self, id: RunId, first: Arc<Run>, client: mpsc::Sender<Result<pb::Run, Status>>) {
        let mut states = self.shared.raft.watch_state();
        let mut shown = first;
        loop {
            let ended = shown.has_ended();
            if client.send(Ok(view::run::to_pb(&shown))).await.is_err() || ended {
                return;
            }
            let changed = states.wait_for(|now| now.run(id).is_none_or(|run| *run != shown));
            let found = tokio::select! {
                () = client.closed() => return,
                changed = changed => match changed {
                    Ok(now) => now.run(id).cloned(),
                    Err(_) => return,
                },
            };
            let found = match found {
                Some(run) => Ok(Some(run)),
                None => self.look(move |log| log.get(id)).await,
            };
            shown = match found {
                Ok(Some(run)) => run,
                Ok(None) => {
                    // This node took over a snapshot, and fetches the record later.
                    let status =
                        Status::unavailable("the run has ended, and its record is not on this node yet");
                    let _ = client.send(Err(status)).await;
                    return;
                }
                Err(status) => {
                    let _ = client.send(Err(status)).await;
                    return;
                }
            };
        }
    }
}

#[tonic::async_trait]
impl RunService for Api {
    type ReadOutputStream = super::output::Pieces;
    type WatchRunStream = Pin<Box<dyn Stream<Item = Result<pb::Run, Status>> + Send>>;

    async fn read_output(
        &self,
        request: Request<pb::ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        self.read_output_here(request).await
    }

    async fn list_runs(
        &self,
        request: Request<pb::ListRunsRequest>,
    ) -> Result<Response<pb::ListRunsResponse>, Status> {
        let message = request.into_inner();
        let limit = page::page_size(message.page_size)?;
        let after = page::run(&message.page_token)?;
        let mut filter = filter(&message)?;
        let state = self.state(message.stale).await?;
        filter.now = self.shared.clock.now().unwrap_or_else(|| state.now());
        filter.jobs = labelled(&state, &filter, &message.labels);
        if !message.stale {
            self.whole_log()?;
        }
        let found = self.look(move |log| view::runs::page((&state, log), &filter, after, limit)).await?;
        let next_page_token = page::after_run(found.next);
        Ok(Response::new(pb::ListRunsResponse { runs: found.runs, next_page_token }))
    }

    async fn get_run(&self, request: Request<pb::GetRunRequest>) -> Result<Response<pb::Run>, Status> {
        let message = request.into_inner();
        let id = run_id(&message.run_id)?;
        let state = self.state(message.stale).await?;
        self.run_shown(&state, id).await.map(Response::new)
    }

    async fn watch_run(
        &self,
        request: Request<pb::WatchRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        let id = run_id(&request.get_ref().run_id)?;
        let room = Arc::clone(&self.shared.watches).try_acquire_owned();
        let room = room.map_err(|_| {
            Status::resource_exhausted(format!(
                "{} runs are watched through this node already",
                limits::WATCHES
            ))
        })?;
        let state = self.state(false).await?;
        let first =
            self.find_run(&state, id).await?.ok_or_else(|| status::no_run(&request.get_ref().run_id))?;
        let (client, stream) = mpsc::channel(WATCHED);
        let api = self.clone();
        tokio::spawn(async move {
            api.follow(id, first, client).await;
            drop(room);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn cancel_run(&self, request: Request<pb::CancelRunRequest>) -> Result<Response<pb::Run>, Status> {
        let there = |channel, request| async { RunServiceClient::new(channel).cancel_run(request).await };
        self.write(request, Self::cancel_here, there).await
    }

    async fn cancel_runs(
        &self,
        request: Request<pb::CancelRunsRequest>,
    ) -> Result<Response<pb::CancelRunsResponse>, Status> {
        let there = |channel, request| async { RunServiceClient::new(channel).cancel_runs(request).await };
        self.write(request, Self::cancel_many, there).await
    }

    async fn retry_run(&self, request: Request<pb::RetryRunRequest>) -> Result<Response<pb::Run>, Status> {
        let there = |channel, request| async { RunServiceClient::new(channel).retry_run(request).await };
        self.write(request, Self::retry_here, there).await
    }

    async fn explain_run(
        &self,
        request: Request<pb::ExplainRunRequest>,
    ) -> Result<Response<pb::Explanation>, Status> {
        let may_forward = forward::may_forward(&request) && !request.get_ref().stale;
        let message = request.into_inner();
        let ask = |channel, request| async { RunServiceClient::new(channel).explain_run(request).await };
        match self.ask_leader(may_forward, message.clone(), ask).await {
            Some(explanation) => Ok(Response::new(explanation)),
            None => self.explain_run_here(&message).await.map(Response::new),
        }
    }
}
