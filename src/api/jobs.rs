//! `JobService`.

mod after;
pub(super) mod apply;
mod backfill;
pub(super) mod many;
mod next;

use std::sync::{Arc, Mutex, PoisonError};

use tonic::{Request, Response, Status};

use super::problem::Problems;
use super::spec::value;
use super::write::{Write as _, job};
use super::{Api, forward, limits, page, status};
use crate::pb::v1 as pb;
use crate::pb::v1::job_service_client::JobServiceClient;
use crate::pb::v1::job_service_server::JobService;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::occurrences;
use crate::scheduler::set::ScheduleSet;
use crate::state::spec::JobSpec;
use crate::state::time::Timestamp;
use crate::state::{self, Command, Due, Job, JobChange, Outcome, State};
use crate::view;
use crate::view::explain::Explaining;

/// The compiled schedules of a job in the state; they were checked when the job was applied.
pub(super) fn compiled(spec: &JobSpec, almanac: &Almanac) -> Result<ScheduleSet, Status> {
    ScheduleSet::of(spec, almanac).map_err(|error| {
        let status = Status::failed_precondition(format!("this node cannot read the schedule: {error}"));
        status::hinted(status, "apply the job again, or upgrade this node")
    })
}

/// The occurrence to arm when a job is resumed.
pub(super) fn resumed(job: &Job, almanac: &Almanac, now: Timestamp) -> Result<Option<Due>, Status> {
    Ok(occurrences::resumed(job, &compiled(&job.spec, almanac)?, now))
}

/// The command that resumes a job.
pub(super) fn resume(
    job: &Job,
    almanac: &Almanac,
    now: Timestamp,
    request: &state::Request,
) -> Result<Command, Status> {
    Ok(Command::ResumeJob {
        job: job.reference(),
        version: job.version,
        next: resumed(job, almanac, now)?,
        request: request.clone(),
        reading: almanac.generation(),
    })
}

impl Api {
    /// What schedules are read with now.
    pub(super) fn almanac(&self) -> Almanac {
        Almanac::of(&self.shared.raft.state())
    }

    async fn shown(&self, state: Arc<State>, namespace: &str, name: &str) -> Result<pb::Job, Status> {
        let job = Arc::clone(job(&state, namespace, name)?);
        self.look(move |log| view::job::to_pb(&state, log, &job)).await
    }

    /// Decides a change of a job that a client names. A repeat is told the first outcome, also when the
    /// job is gone or another one stands under its name.
    pub(super) async fn decide_job(
        &self,
        change: JobChange,
        (namespace, name): (&str, &str),
        request: &state::Request,
        make: impl Fn(&Job, Timestamp) -> Result<Command, Status>,
    ) -> Result<Outcome, Status> {
        let named = (value::namespace(namespace), name);
        let first = || self.shared.raft.state().first_outcome(change, named, &request.operation_id).cloned();
        if let Some(outcome) = first() {
            return Ok(outcome);
        }
        let make = |state: &State, now| make(job(state, namespace, name)?, now);
        match self.decide(&request.operation_id, make).await {
            Ok(outcome) => Ok(outcome),
            // The first may have been under way when this one was looked at.
            Err(refused) => first().ok_or(refused),
        }
    }

    async fn delete_here(self, mut message: pb::DeleteJobRequest) -> Result<pb::DeleteJobResponse, Status> {
        let request = message.request();
        let named = (message.namespace.as_str(), message.name.as_str());
        let cancel_runs = message.cancel_runs;
        // Its name is gone when its runs are counted.
        let deleted = Mutex::new(None);
        self.decide_job(JobChange::Delete, named, &request, |job, _| {
            *deleted.lock().unwrap_or_else(PoisonError::into_inner) = Some(job.id);
            Ok(Command::DeleteJob { job: job.reference(), cancel_runs, request: request.clone() })
        })
        .await?;
        let deleted = deleted.into_inner().unwrap_or_else(PoisonError::into_inner);
        let live_runs = deleted.map_or(0, |job| self.shared.raft.state().runs_of(job).count());
        Ok(pb::DeleteJobResponse { live_runs: u32::try_from(live_runs).unwrap_or(u32::MAX) })
    }

    async fn pause_here(self, mut message: pb::PauseJobRequest) -> Result<pb::Job, Status> {
        let request = message.request();
        let until = many::until(message.until.as_ref())?;
        let named = (message.namespace.as_str(), message.name.as_str());
        self.decide_job(JobChange::Pause, named, &request, |job, _| {
            Ok(Command::PauseJob { job: job.reference(), request: request.clone(), until })
        })
        .await?;
        self.shown(self.shared.raft.state(), &message.namespace, &message.name).await
    }

    async fn resume_here(self, mut message: pb::ResumeJobRequest) -> Result<pb::Job, Status> {
        let request = message.request();
        let named = (message.namespace.as_str(), message.name.as_str());
        self.decide_job(JobChange::Resume, named, &request, |job, now| {
            resume(job, &self.almanac(), now, &request)
        })
        .await?;
        self.shown(self.shared.raft.state(), &message.namespace, &message.name).await
    }

    async fn trigger_here(self, mut message: pb::TriggerJobRequest) -> Result<pb::Run, Status> {
        let request = message.request();
        let params = std::mem::take(&mut message.params);
        let named = (message.namespace.as_str(), message.name.as_str());
        let make = |job: &Job, _| {
            many::known_params(job, &params)?;
            let (job, request, params) = (job.reference(), request.clone(), params.clone());
            Ok(Command::TriggerJob { job, request, params, again: None, place: None })
        };
        let done = self.decide_job(JobChange::Trigger, named, &request, make).await?;
        let Outcome::Triggered { run } = done else {
            return Err(status::unexpected());
        };
        let state = self.shared.raft.state();
        let found = self.find_run(&state, run).await?;
        found.map(|run| view::run::in_state(&state, &run)).ok_or_else(|| status::no_run(&run.to_string()))
    }

    async fn explain_job_here(&self, message: &pb::ExplainJobRequest) -> Result<pb::Explanation, Status> {
        let mut problems = Problems::new();
        let at = value::instant("at", message.at.as_ref(), &mut problems);
        if !problems.is_empty() {
            return Err(status::invalid(&problems));
        }
        let state = self.state(message.stale).await?;
        let job = Arc::clone(job(&state, &message.namespace, &message.name)?);
        let workers = self.workers();
        self.look(move |log| Explaining { state: &state, log, workers: workers.as_deref() }.job(&job, at))
            .await
    }
}

#[tonic::async_trait]
impl JobService for Api {
    async fn apply_jobs(
        &self,
        request: Request<pb::ApplyJobsRequest>,
    ) -> Result<Response<pb::ApplyJobsResponse>, Status> {
        let there = |channel, request| async { limited(channel).apply_jobs(request).await };
        self.write(request, Self::apply_here, there).await
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::Job>, Status> {
        let message = request.into_inner();
        let state = self.state(message.stale).await?;
        self.shown(state, &message.namespace, &message.name).await.map(Response::new)
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let message = request.into_inner();
        let limit = page::page_size(message.page_size)?;
        let after = page::name(&message.page_token)?;
        let namespace = Some(message.namespace).filter(|namespace| !namespace.is_empty());
        let filter = view::job::Filter { namespace, labels: message.labels };
        let state = self.state(message.stale).await?;
        let look = move |log: &_| view::job::page((&state, log), &filter, after.as_ref(), limit);
        let found = self.look(look).await?;
        let next_page_token = page::after_name(found.next.as_ref());
        Ok(Response::new(pb::ListJobsResponse { jobs: found.jobs, next_page_token }))
    }

    async fn delete_job(
        &self,
        request: Request<pb::DeleteJobRequest>,
    ) -> Result<Response<pb::DeleteJobResponse>, Status> {
        let there = |channel, request| async { limited(channel).delete_job(request).await };
        self.write(request, Self::delete_here, there).await
    }

    async fn pause_job(&self, request: Request<pb::PauseJobRequest>) -> Result<Response<pb::Job>, Status> {
        let there = |channel, request| async { limited(channel).pause_job(request).await };
        self.write(request, Self::pause_here, there).await
    }

    async fn resume_job(&self, request: Request<pb::ResumeJobRequest>) -> Result<Response<pb::Job>, Status> {
        let there = |channel, request| async { limited(channel).resume_job(request).await };
        self.write(request, Self::resume_here, there).await
    }

    async fn trigger_job(
        &self,
        request: Request<pb::TriggerJobRequest>,
    ) -> Result<Response<pb::Run>, Status> {
        let there = |channel, request| async { limited(channel).trigger_job(request).await };
        self.write(request, Self::trigger_here, there).await
    }

    async fn pause_jobs(
        &self,
        request: Request<pb::PauseJobsRequest>,
    ) -> Result<Response<pb::ChangedJobs>, Status> {
        let there = |channel, request| async { limited(channel).pause_jobs(request).await };
        self.write(request, Self::pause_many, there).await
    }

    async fn resume_jobs(
        &self,
        request: Request<pb::ResumeJobsRequest>,
    ) -> Result<Response<pb::ChangedJobs>, Status> {
        let there = |channel, request| async { limited(channel).resume_jobs(request).await };
        self.write(request, Self::resume_many, there).await
    }

    async fn backfill_job(
        &self,
        request: Request<pb::BackfillJobRequest>,
    ) -> Result<Response<pb::BackfillJobResponse>, Status> {
        let there = |channel, request| async { limited(channel).backfill_job(request).await };
        self.write(request, Self::backfill_here, there).await
    }

    async fn list_versions(
        &self,
        request: Request<pb::ListVersionsRequest>,
    ) -> Result<Response<pb::ListVersionsResponse>, Status> {
        let message = request.into_inner();
        let state = self.state(message.stale).await?;
        let job = job(&state, &message.namespace, &message.name)?;
        Ok(Response::new(pb::ListVersionsResponse { versions: view::job::versions(job) }))
    }

    async fn next_occurrences(
        &self,
        request: Request<pb::NextOccurrencesRequest>,
    ) -> Result<Response<pb::NextOccurrencesResponse>, Status> {
        let message = request.into_inner();
        let count = page::size("count", message.count, limits::OCCURRENCES)?;
        let wanted = next::wanted(&message)?;
        let state = self.state(message.stale).await?;
        let job = job(&state, &message.namespace, &message.name)?;
        let almanac = Almanac::of(&state);
        let set = compiled(&job.spec, &almanac)?;
        let now = || self.shared.clock.now().unwrap_or_else(|| state.now());
        let occurrences =
            next::described(job, &set, wanted.unwrap_or_else(|| next::Wanted::After(now())), count);
        let explanation = if message.explain { next::explained(&job.spec, &almanac) } else { Vec::new() };
        Ok(Response::new(pb::NextOccurrencesResponse { occurrences, explanation }))
    }

    async fn explain_job(
        &self,
        request: Request<pb::ExplainJobRequest>,
    ) -> Result<Response<pb::Explanation>, Status> {
        let may_forward = forward::may_forward(&request) && !request.get_ref().stale;
        let message = request.into_inner();
        let ask = |channel, request| async { limited(channel).explain_job(request).await };
        match self.ask_leader(may_forward, message.clone(), ask).await {
            Some(explanation) => Ok(Response::new(explanation)),
            None => self.explain_job_here(&message).await.map(Response::new),
        }
    }
}

fn limited(channel: tonic::transport::Channel) -> JobServiceClient<tonic::transport::Channel> {
    JobServiceClient::new(channel).max_decoding_message_size(limits::RESPONSE_BYTES)
}
