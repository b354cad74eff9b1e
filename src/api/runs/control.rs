//! Changes of many runs, and runs that are made again.

use std::collections::BTreeSet;
use std::sync::Arc;

use tonic::Status;

use super::super::jobs::many;
use super::super::spec::value;
use super::super::write::Write as _;
use super::super::{Api, status};
use super::run_id;
use crate::pb::v1 as pb;
use crate::state::run::{JobId, Run};
use crate::state::{Again, Command, JobChange, Outcome, State};

impl Api {
    pub(super) async fn cancel_many(
        self,
        mut message: pb::CancelRunsRequest,
    ) -> Result<pb::CancelRunsResponse, Status> {
        let request = message.request();
        let chain = Some(message.chain_id.as_str()).filter(|id| !id.is_empty()).map(run_id).transpose()?;
        let is_bounded = !message.job.is_empty() || !message.labels.is_empty();
        if !is_bounded && message.backfill == 0 && chain.is_none() {
            let reason = "at least one of job, labels, backfill and chain_id must be named";
            return Err(status::invalid_field("job", reason));
        }
        let namespace = value::namespace(&message.namespace);
        let make = |state: &State, _| {
            let labelled: Option<BTreeSet<JobId>> = if message.labels.is_empty() {
                None
            } else {
                let jobs = many::labelled(state, namespace, &message.labels)?;
                Some(jobs.into_iter().map(|job| job.id).collect())
            };
            let fits = |run: &&Arc<Run>| {
                &*run.namespace == namespace
                    && (message.job.is_empty() || *run.job == *message.job)
                    && labelled.as_ref().is_none_or(|jobs| jobs.contains(&run.id.job))
                    && (message.backfill == 0 || run.backfill == Some(message.backfill))
                    && chain.is_none_or(|chain| run.chain.unwrap_or(run.id) == chain)
                    && run.cancel.is_none()
            };
            let command = |run: &Arc<Run>| Command::CancelRun { run: run.id, request: request.clone() };
            Ok(state.runs().filter(fits).map(command).collect())
        };
        let done = self.decide_all(&request.operation_id, make).await?;
        let ids = done.iter().filter_map(|command| match command {
            Command::CancelRun { run, .. } => Some(run.to_string()),
            _ => None,
        });
        Ok(pb::CancelRunsResponse { run_ids: ids.collect() })
    }

    pub(super) async fn retry_here(self, mut message: pb::RetryRunRequest) -> Result<pb::Run, Status> {
        let request = message.request();
        let id = run_id(&message.run_id)?;
        self.barrier().await?;
        let state = self.shared.raft.state();
        let run = self.find_run(&state, id).await?.ok_or_else(|| status::no_run(&message.run_id))?;
        if !run.has_ended() {
            let status = Status::failed_precondition("the run has not ended");
            return Err(status::hinted(status, "`chronarch run cancel` ends it"));
        }
        let again = Again { run: id, chain: run.chain.unwrap_or(id) };
        let make = |job: &crate::state::Job, _| {
            many::known_params(job, &message.params)?;
            // What the job does not have any more is left out.
            let mut params = run.params.clone();
            params.retain(|name, _| job.spec.params.contains_key(name));
            params.extend(message.params.iter().map(|(name, value)| (name.clone(), value.clone())));
            let (job, request, place) = (job.reference(), request.clone(), run.place.clone());
            Ok(Command::TriggerJob { job, request, params, again: Some(again), place })
        };
        let named = (&*run.namespace, &*run.job);
        match self.decide_job(JobChange::Trigger, named, &request, make).await? {
            Outcome::Triggered { run } => self.run_shown(&self.shared.raft.state(), run).await,
            _ => Err(status::unexpected()),
        }
    }
}
