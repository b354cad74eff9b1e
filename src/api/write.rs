//! How a client's command gets decided: by the leader, under its own stamp, and only once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::problem::Problems;
use super::spec::value;
use super::{Api, forward, limits, status};
use crate::pb::v1 as pb;
use crate::raft::Proposed;
use crate::state::time::Timestamp;
use crate::state::{self, Command, Entry, Job, Outcome, Rejection, State};

/// The pause before a leader that did not answer is asked again; a change of leadership ends it early.
const AGAIN: Duration = Duration::from_millis(50);

/// A write.
pub(crate) trait Write: Clone + Send + 'static {
    /// The fields that say who asks, why, and under which id.
    fn asking(&mut self) -> BTreeMap<&'static str, &mut String>;

    /// For the record.
    fn request(&mut self) -> state::Request {
        let mut request = state::Request::default();
        for (name, text) in self.asking() {
            match name {
                "operation_id" => request.operation_id.clone_from(text),
                "actor" => request.actor.clone_from(text),
                _ => request.reason.clone_from(text),
            }
        }
        request
    }
}

macro_rules! writes {
    ($($message:ident { $($field:ident),* })*) => {
        $(
            impl Write for pb::$message {
                fn asking(&mut self) -> BTreeMap<&'static str, &mut String> {
                    BTreeMap::from([$((stringify!($field), &mut self.$field)),*])
                }
            }
        )*
    };
}

writes! {
    ApplyJobsRequest { operation_id, actor, reason }
    DeleteJobRequest { operation_id, actor, reason }
    PauseJobRequest { operation_id, actor, reason }
    ResumeJobRequest { operation_id, actor, reason }
    TriggerJobRequest { operation_id, actor, reason }
    PauseJobsRequest { operation_id, actor, reason }
    ResumeJobsRequest { operation_id, actor, reason }
    BackfillJobRequest { operation_id, actor, reason }
    RetryRunRequest { operation_id, actor, reason }
    SetQueueRequest { operation_id, actor, reason }
    SetNamespaceRequest { operation_id, actor, reason }
    DeleteNamespaceRequest { operation_id, actor, reason }
    SetCalendarRequest { operation_id, actor, reason }
    DeleteCalendarRequest { operation_id, actor, reason }
    CancelRunsRequest { operation_id, actor, reason }
    CancelRunRequest { operation_id, actor, reason }
    TripBreakerRequest { operation_id, actor, reason }
    ResetBreakerRequest { operation_id, actor, reason }
    TransferLeaderRequest {}
    AddNodeRequest {}
    SetTzdataRequest { operation_id, actor, reason }
    PromoteNodeRequest {}
    RemoveNodeRequest {}
    ListWorkersRequest {}
    ReportTasksRequest {}
    DrainWorkerRequest { actor, reason }
    ResumeWorkerRequest { actor, reason }
}

impl Api {
    /// Has the leader do it: this node, if it leads, or the one that does.
    pub(crate) async fn write<M, R, Here, HereDone, There, ThereDone>(
        &self,
        request: Request<M>,
        here: Here,
        there: There,
    ) -> Result<Response<R>, Status>
    where
        M: Write,
        Here: Fn(Self, M) -> HereDone,
        HereDone: Future<Output = Result<R, Status>> + Send,
        There: Fn(Channel, Request<M>) -> ThereDone,
        ThereDone: Future<Output = Result<Response<R>, Status>> + Send,
    {
        let may_forward = forward::may_forward(&request);
        let message = self.complete(request)?;
        let operation_id = message.clone().request().operation_id;
        let deadline = Instant::now() + limits::LEADER_WAIT;
        let mut leadership = self.shared.raft.leadership();
        let mut in_doubt = false;
        loop {
            let now = leadership.borrow_and_update().clone();
            let failed = if now.is_leader {
                match here(self.clone(), message.clone()).await {
                    Ok(answer) => return Ok(Response::new(answer)),
                    Err(failed) => failed,
                }
            } else if let Some(channel) = self.leader_channel() {
                if !may_forward {
                    return Err(status::not_leader(now.leader.map(|(id, _)| id)));
                }
                match there(channel, forward::handed_on(message.clone())).await {
                    Ok(answer) => return Ok(answer),
                    Err(failed) => failed,
                }
            } else {
                status::not_leader(None)
            };
            if !status::is_not_leader(&failed) {
                // Only a broken connection has a cause; a refusal of the leader has none.
                if now.is_leader || std::error::Error::source(&failed).is_none() {
                    return Err(failed);
                }
                in_doubt = true;
            }
            let again = deadline.min(Instant::now() + AGAIN);
            let _ = timeout_at(again, leadership.changed()).await;
            if Instant::now() >= deadline {
                return Err(if in_doubt { status::unknown(&operation_id) } else { status::not_leader(None) });
            }
        }
    }

    /// Fills in who asks and under which id, so that whoever does it does the same.
    fn complete<M: Write>(&self, request: Request<M>) -> Result<M, Status> {
        let peer = request.remote_addr();
        let mut message = request.into_inner();
        let mut problems = Problems::new();
        for (name, text) in message.asking() {
            check_asking(name, text, &mut problems);
            if text.is_empty() {
                match name {
                    "operation_id" => *text = self.shared.clock.clock().random_id(),
                    "actor" => *text = peer.map(|peer| peer.to_string()).unwrap_or_default(),
                    _ => {}
                }
            }
        }
        if problems.is_empty() { Ok(message) } else { Err(status::invalid(&problems)) }
    }

    /// The stamp of an entry made now.
    ///
    /// # Errors
    /// UNAVAILABLE while this node's clock has not been compared with the others'.
    pub(crate) async fn stamp(&self, state: &State) -> Result<Timestamp, Status> {
        let clock = &self.shared.clock;
        let known = tokio::time::timeout(limits::SETTLE_WAIT, clock.is_known()).await;
        let now = known.ok().and_then(|()| clock.now()).ok_or_else(status::no_time)?;
        Ok(now.max(state.now()))
    }

    /// Proposes commands under one stamp, in a cluster that was formed a moment ago once it is at their level.
    pub(super) async fn propose(
        &self,
        at: Timestamp,
        commands: Vec<Command>,
        operation_id: &str,
    ) -> Result<Proposed, Status> {
        let (raft, entry) = (&self.shared.raft, Entry { at, commands });
        let proposed = match raft.await_level(entry.need(), limits::SETTLE_WAIT).await {
            Ok(()) => raft.propose(None, entry).await,
            Err(refused) => Err(refused),
        };
        proposed.map_err(|error| status::proposed(&error, operation_id))
    }

    /// Proposes the one command that `make` computes from the state, again as long as the state moves
    /// on underneath it.
    pub(super) async fn decide(
        &self,
        operation_id: &str,
        make: impl Fn(&State, Timestamp) -> Result<Command, Status>,
    ) -> Result<Outcome, Status> {
        let deadline = Instant::now() + limits::SETTLE_WAIT;
        let mut confirmed = false;
        loop {
            let state = self.shared.raft.state();
            let at = self.stamp(&state).await?;
            let command = match make(&state, at) {
                Ok(command) => command,
                // Only a leader that a majority follows can tell that something is not there.
                Err(_) if !confirmed => {
                    self.barrier().await?;
                    confirmed = true;
                    continue;
                }
                Err(status) => return Err(status),
            };
            let proposed = self.propose(at, vec![command], operation_id).await?;
            let outcome = proposed.applied.outcomes.first().cloned().ok_or_else(status::unexpected)?;
            match outcome {
                Outcome::Rejected(rejection @ (Rejection::Stale | Rejection::OccurrenceDue)) => {
                    self.moved_on(rejection, proposed.index, deadline).await?;
                }
                Outcome::Rejected(rejection) => return Err(status::rejected(rejection)),
                outcome => return Ok(outcome),
            }
        }
    }

    /// Proposes all the commands that `make` computes from the state, in few entries, and again what the state has
    /// moved on underneath. Returns those that took effect.
    pub(super) async fn decide_all(
        &self,
        operation_id: &str,
        make: impl Fn(&State, Timestamp) -> Result<Vec<Command>, Status>,
    ) -> Result<Vec<Command>, Status> {
        let deadline = Instant::now() + limits::SETTLE_WAIT;
        // Only a leader that a majority follows can tell which there are.
        self.barrier().await?;
        let mut done = Vec::new();
        loop {
            let state = self.shared.raft.state();
            let at = self.stamp(&state).await?;
            let wanted = make(&state, at)?;
            if done.len() + wanted.len() > limits::BULK {
                let most = limits::BULK;
                return Err(Status::resource_exhausted(format!("more than {most} would be changed at once")));
            }
            let mut again = None;
            for commands in wanted.chunks(limits::COMMANDS_PER_ENTRY) {
                let proposed = self.propose(at, commands.to_vec(), operation_id).await;
                let proposed = proposed.map_err(|refused| match done.is_empty() {
                    true => refused,
                    false => status::in_part(refused, operation_id),
                })?;
                for (command, outcome) in commands.iter().zip(&proposed.applied.outcomes) {
                    match outcome {
                        Outcome::Rejected(rejection @ (Rejection::Stale | Rejection::OccurrenceDue)) => {
                            again = Some((*rejection, proposed.index));
                        }
                        // It has ended or gone by itself.
                        Outcome::Rejected(Rejection::NoRun | Rejection::NoJob) => {}
                        Outcome::Rejected(rejection) => return Err(status::rejected(*rejection)),
                        _ => done.push(command.clone()),
                    }
                }
            }
            match again {
                Some((rejection, index)) => self.moved_on(rejection, index, deadline).await?,
                None => return Ok(done),
            }
        }
    }

    /// Waits until what the entry at `index` was refused for may be over.
    ///
    /// A stale command was computed from a state that is gone already. One that met an undecided
    /// occurrence waits for the leader's loop, whose next entry decides it.
    pub(super) async fn moved_on(
        &self,
        rejection: Rejection,
        index: u64,
        deadline: Instant,
    ) -> Result<(), Status> {
        if rejection == Rejection::OccurrenceDue {
            let mut states = self.shared.raft.watch_state();
            let moved = states.wait_for(|now| now.applied_index() > index);
            // Whether it came or not is looked at below.
            let _ = timeout_at(deadline, moved).await;
        }
        if Instant::now() >= deadline { Err(status::rejected(rejection)) } else { Ok(()) }
    }
}

/// Notes what is wrong with a field of [`Write::asking`].
pub(super) fn check_asking(name: &str, text: &str, problems: &mut Problems) {
    let most = match name {
        "operation_id" => limits::OPERATION_ID_BYTES,
        "actor" => limits::ACTOR_BYTES,
        _ => limits::REASON_BYTES,
    };
    value::length(name, text, most, problems);
    if text.chars().any(char::is_control) {
        problems.add(name, "has control characters");
    }
}

/// The job of a name, or the refusal.
pub(super) fn job<'a>(state: &'a State, namespace: &str, name: &str) -> Result<&'a Arc<Job>, Status> {
    let namespace = value::namespace(namespace);
    state.job_named(namespace, name).ok_or_else(|| status::no_job(namespace, name))
}
