//! Changes of many jobs at once, and what they share with changes of one.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonic::Status;

use super::super::problem::Problems;
use super::super::spec::value;
use super::super::write::Write as _;
use super::super::{Api, status};
use super::resume;
use crate::pb::v1 as pb;
use crate::scheduler::almanac::Almanac;
use crate::state::time::Timestamp;
use crate::state::{Command, Job, State};

/// When a pause is to end.
pub(super) fn until(until: Option<&prost_types::Timestamp>) -> Result<Option<Timestamp>, Status> {
    let mut problems = Problems::new();
    let until = value::instant("until", until, &mut problems);
    if problems.is_empty() { Ok(until) } else { Err(status::invalid(&problems)) }
}

/// Refuses parameters that the job does not have, and values that none may have.
pub(in crate::api) fn known_params(job: &Job, params: &BTreeMap<String, String>) -> Result<(), Status> {
    let mut problems = Problems::new();
    value::params("params", params, &mut problems);
    for name in params.keys().filter(|name| !job.spec.params.contains_key(*name)) {
        let known: Vec<&str> = job.spec.params.keys().map(String::as_str).collect();
        let reason = if known.is_empty() {
            "the job has no parameters".to_owned()
        } else {
            format!("the job has no such parameter; it has {}", known.join(", "))
        };
        problems.add(crate::pb::path::keyed("params", name), reason);
    }
    if problems.is_empty() { Ok(()) } else { Err(status::invalid(&problems)) }
}

/// The jobs of a namespace that have all of these labels; at least one must be named, for nobody means all by naming none.
pub(in crate::api) fn labelled<'a>(
    state: &'a State,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> Result<Vec<&'a Arc<Job>>, Status> {
    let namespace = value::namespace(namespace);
    if labels.is_empty() {
        return Err(status::invalid_field("labels", "at least one label must be named"));
    }
    let of_namespace =
        state.jobs_after(Some((namespace, ""))).take_while(|job| job.spec.namespace == namespace);
    let fits = |job: &&Arc<Job>| labels.iter().all(|(key, value)| job.spec.labels.get(key) == Some(value));
    Ok(of_namespace.filter(fits).collect())
}

fn changed(done: &[Command]) -> pb::ChangedJobs {
    let names = done.iter().filter_map(|command| match command {
        Command::PauseJob { job, .. } | Command::ResumeJob { job, .. } => Some(job.name.to_string()),
        _ => None,
    });
    pb::ChangedJobs { jobs: names.collect() }
}

impl Api {
    pub(super) async fn pause_many(
        self,
        mut message: pb::PauseJobsRequest,
    ) -> Result<pb::ChangedJobs, Status> {
        let request = message.request();
        let until = until(message.until.as_ref())?;
        let make = |state: &State, _| {
            let jobs = labelled(state, &message.namespace, &message.labels)?;
            let is_wanted = |job: &&Arc<Job>| job.pause.as_ref().is_none_or(|pause| pause.until != until);
            let command =
                |job: &Arc<Job>| Command::PauseJob { job: job.reference(), request: request.clone(), until };
            Ok(jobs.into_iter().filter(is_wanted).map(command).collect())
        };
        self.decide_all(&request.operation_id, make).await.map(|done| changed(&done))
    }

    pub(super) async fn resume_many(
        self,
        mut message: pb::ResumeJobsRequest,
    ) -> Result<pb::ChangedJobs, Status> {
        let request = message.request();
        let make = |state: &State, now| {
            let paused = labelled(state, &message.namespace, &message.labels)?;
            let paused = paused.into_iter().filter(|job| job.pause.is_some());
            let almanac = Almanac::of(state);
            paused.map(|job| resume(job, &almanac, now, &request)).collect()
        };
        self.decide_all(&request.operation_id, make).await.map(|done| changed(&done))
    }
}
