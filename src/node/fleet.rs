//! What people ask about workers: `ListWorkers`, `DrainWorker` and `ResumeWorker`, answered by the leader's loop.
//!
//! Any node is asked; one that does not lead hands the request on, as with every write.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use crate::api::{Api, page, status};
use crate::leader::{self, DrainAsked, FleetAsk, FleetError, SessionEvent, WorkerInfo};
use crate::metrics::Metrics;
use crate::pb::v1 as pb;
use crate::pb::v1::worker_service_client::WorkerServiceClient;
use crate::raft::Raft;
use crate::state::State;
use crate::view::cluster::{self, DrainSeen};

/// Bytes of a worker's name in a request.
const NAME_BYTES: usize = 256;
/// How long the loop, and the worker, may take to answer: less than a client waits before it asks another node.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Names that a refusal lists where a place has several workers.
const NAMES_SHOWN: usize = 5;

/// See the module.
#[derive(Clone)]
pub(super) struct Fleet {
    api: Api,
    raft: Raft,
    events: mpsc::Sender<SessionEvent>,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fleet")
    }
}

impl Fleet {
    pub(super) const fn new(
        api: Api,
        raft: Raft,
        events: mpsc::Sender<SessionEvent>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { api, raft, events, metrics }
    }

    /// `ListWorkers`.
    pub(super) async fn list(
        &self,
        request: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        let this = self.clone();
        let here = move |_, message| this.clone().list_here(message);
        let there =
            |channel, request| async { WorkerServiceClient::new(channel).list_workers(request).await };
        self.api.write(request, here, there).await
    }

    /// `ReportTasks`.
    pub(super) async fn report_tasks(
        &self,
        request: Request<pb::ReportTasksRequest>,
    ) -> Result<Response<pb::ReportTasksResponse>, Status> {
        let metrics = Arc::clone(&self.metrics);
        let count = move |outcome| metrics.attempt_ended(leader::outcome_word(outcome));
        self.api.report_tasks(request, Arc::new(count)).await
    }

    /// `DrainWorker`.
    pub(super) async fn drain(
        &self,
        request: Request<pb::DrainWorkerRequest>,
    ) -> Result<Response<pb::Worker>, Status> {
        let this = self.clone();
        let here = move |_, message| this.clone().drain_here(message);
        let there =
            |channel, request| async { WorkerServiceClient::new(channel).drain_worker(request).await };
        self.api.write(request, here, there).await
    }

    /// `ResumeWorker`.
    pub(super) async fn resume(
        &self,
        request: Request<pb::ResumeWorkerRequest>,
    ) -> Result<Response<pb::Worker>, Status> {
        let this = self.clone();
        let here = move |_, message| this.clone().resume_here(message);
        let there =
            |channel, request| async { WorkerServiceClient::new(channel).resume_worker(request).await };
        self.api.write(request, here, there).await
    }

    async fn list_here(self, message: pb::ListWorkersRequest) -> Result<pb::ListWorkersResponse, Status> {
        let limit = page::page_size(message.page_size)?;
        let after = page::name(&message.page_token)?.map(|(_, name)| name);
        // A leader without a majority may not know where the workers are by now.
        self.raft.read_barrier().await.map_err(|error| status::read(&error))?;
        let (answer, answered) = oneshot::channel();
        let infos = self.ask(FleetAsk::List { answer }, answered, "").await?;
        let is_wanted = |info: &&WorkerInfo| {
            let serves = message.queue.is_empty() || info.queues.contains(message.queue.as_str());
            let mut labels = message.labels.iter();
            serves
                && labels.all(|(key, value)| info.labels.get(key) == Some(value))
                && after.as_deref().is_none_or(|after| info.worker.as_ref() > after)
        };
        let mut wanted = infos.iter().filter(is_wanted);
        let workers: Vec<pb::Worker> =
            wanted.by_ref().take(limit).map(|info| cluster::worker(&seen(info))).collect();
        let last = workers.last().filter(|_| wanted.next().is_some());
        let last = last.map(|last| (String::new(), last.worker.clone()));
        Ok(pb::ListWorkersResponse { workers, next_page_token: page::after_name(last.as_ref()) })
    }

    async fn drain_here(self, message: pb::DrainWorkerRequest) -> Result<pb::Worker, Status> {
        check_name(&message.worker)?;
        let at = self.api.stamp(&self.raft.state()).await?;
        let asked = DrainAsked { actor: message.actor, reason: message.reason, at: Some(at) };
        let (answer, answered) = oneshot::channel();
        let ask = FleetAsk::Drain { worker: message.worker.clone(), asked, answer };
        let drained = self.ask(ask, answered, &message.worker).await?;
        Ok(cluster::worker(&seen(&drained)))
    }

    async fn resume_here(self, message: pb::ResumeWorkerRequest) -> Result<pb::Worker, Status> {
        check_name(&message.worker)?;
        let (answer, answered) = oneshot::channel();
        let ask = FleetAsk::Resume { worker: message.worker.clone(), answer };
        let resumed = self.ask(ask, answered, &message.worker).await?;
        Ok(cluster::worker(&seen(&resumed)))
    }

    async fn ask<T>(
        &self,
        ask: FleetAsk,
        answered: oneshot::Receiver<Result<T, FleetError>>,
        worker: &str,
    ) -> Result<T, Status> {
        let stopping = |_| Status::unavailable("this node is stopping");
        self.events.send(SessionEvent::Fleet(ask)).await.map_err(stopping)?;
        match timeout(ANSWER_MAX, answered).await {
            Ok(Ok(answer)) => answer.map_err(|error| refused(&error, worker)),
            Ok(Err(_)) => Err(refused(&FleetError::Unconfirmed, worker)),
            Err(_) => Err(Status::aborted(format!(
                "worker {worker:?} has not confirmed it within {ANSWER_MAX:?}: it may be stopped or cut off; ask again"
            ))),
        }
    }
}

fn check_name(name: &str) -> Result<(), Status> {
    match (1..=NAME_BYTES).contains(&name.len()) {
        true => Ok(()),
        false => Err(status::invalid_field("worker", "expected 1 to 256 bytes")),
    }
}

fn refused(error: &FleetError, worker: &str) -> Status {
    let text = format!("worker {worker:?}: {error}");
    match error {
        FleetError::NotLeading => status::not_leader(None),
        FleetError::NoWorker => {
            status::hinted(Status::not_found(text), "`chronarch worker list` shows the workers")
        }
        FleetError::Ambiguous(names) => {
            let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(AsRef::as_ref).collect();
            let more = if names.len() > NAMES_SHOWN { ", …" } else { "" };
            let hint = format!("name one of them in full: {}{more}", shown.join(", "));
            status::hinted(Status::failed_precondition(text), &hint)
        }
        FleetError::TooOld(_) => status::hinted(
            Status::failed_precondition(text),
            "end its process with SIGTERM: it drains before it ends",
        ),
        FleetError::Ending => Status::failed_precondition(text),
        // It is back in a moment, and can be asked again.
        FleetError::Unconfirmed => Status::unavailable(text),
    }
}

/// A worker of the leader's sessions in the words of the view.
pub(super) fn seen(worker: &WorkerInfo) -> cluster::WorkerInfo {
    cluster::WorkerInfo {
        worker: worker.worker.to_string(),
        queues: worker.queues.iter().map(ToString::to_string).collect(),
        labels: worker.labels.as_ref().clone(),
        kinds: worker.kinds.as_ref().clone(),
        slots: worker.slots,
        running: worker.running,
        draining: worker.draining,
        free: worker.free,
        standing: match worker.standing {
            leader::Standing::Serving => cluster::Standing::Serving,
            leader::Standing::Draining => cluster::Standing::Draining,
            leader::Standing::Silent => cluster::Standing::Silent,
            leader::Standing::Away => cluster::Standing::Away,
        },
        drain: worker.drain.as_ref().map(|drain| DrainSeen {
            actor: drain.actor.clone(),
            reason: drain.reason.clone(),
            asked_at: drain.at,
        }),
        node_id: worker.node,
        connected_to: worker.connected_to,
        address: worker.address.clone(),
        version: worker.version.clone(),
        protocol: worker.protocol,
        connected_at: worker.connected_at,
        last_heard_at: worker.last_heard_at,
    }
}

/// The same, with what runs there now: who is connected is published when it changes, not for each attempt, nor whenever
/// something is heard. So the latter is not told.
pub(super) fn seen_now(worker: &WorkerInfo, state: &State) -> cluster::WorkerInfo {
    cluster::WorkerInfo { running: state.load(&worker.worker), last_heard_at: None, ..seen(worker) }
}
