//! The way of a request from its bytes to what it proposes, without a cluster around it. For fuzzing.

use std::time::Duration;

use prost::Message;
use tonic::Status;

use super::jobs::apply;
use super::problem::Problems;
use super::spec::value;
use super::write::{Write, check_asking, job};
use super::{breakers, limits, page, runs, status};
use crate::pb::v1 as pb;
use crate::scheduler::almanac::Almanac;
use crate::state::time::Timestamp;
use crate::state::{Command, State};

/// How many kinds of requests [`commands`] knows.
pub const KINDS: u8 = 10;

/// What the request in `bytes` proposes at `now`; nothing, if it only reads.
///
/// # Errors
/// The refusal that the client would get.
pub fn commands(kind: u8, bytes: &[u8], state: &State, now: Timestamp) -> Result<Vec<Command>, Status> {
    match kind {
        0 => {
            let mut message = decode::<pb::ApplyJobsRequest>(bytes)?;
            let request = asked(&mut message)?;
            let wanted = apply::check(&message.jobs, &Almanac::of(state))?;
            apply::dry_run(state, &wanted, now)?;
            Ok(wanted.iter().map(|wanted| wanted.command(&request, now)).collect())
        }
        1 => {
            let mut message = decode::<pb::DeleteJobRequest>(bytes)?;
            let (request, cancel_runs) = (asked(&mut message)?, message.cancel_runs);
            let job = job(state, &message.namespace, &message.name)?.reference();
            Ok(vec![Command::DeleteJob { job, cancel_runs, request }])
        }
        2 => {
            let mut message = decode::<pb::PauseJobRequest>(bytes)?;
            let request = asked(&mut message)?;
            let job = job(state, &message.namespace, &message.name)?.reference();
            Ok(vec![Command::PauseJob { job, request, until: None }])
        }
        3 => {
            let mut message = decode::<pb::ResumeJobRequest>(bytes)?;
            let request = asked(&mut message)?;
            let job = job(state, &message.namespace, &message.name)?;
            Ok(vec![super::jobs::resume(job, &Almanac::of(state), now, &request)?])
        }
        4 => {
            let mut message = decode::<pb::TriggerJobRequest>(bytes)?;
            let request = asked(&mut message)?;
            let job = job(state, &message.namespace, &message.name)?.reference();
            let params = [].into();
            Ok(vec![Command::TriggerJob { job, request, params, again: None, place: None }])
        }
        5 => {
            let mut message = decode::<pb::CancelRunRequest>(bytes)?;
            let run = runs::run_id(&message.run_id)?;
            Ok(vec![Command::CancelRun { run, request: asked(&mut message)? }])
        }
        6 => {
            let mut message = decode::<pb::TripBreakerRequest>(bytes)?;
            let request = asked(&mut message)?;
            let mut problems = Problems::new();
            let range = Duration::from_millis(1)..=limits::OPEN_FOR;
            let open_for = value::span("open_for", message.open_for.as_ref(), range, &mut problems);
            if !problems.is_empty() {
                return Err(status::invalid(&problems));
            }
            let breaker = breakers::find(state, &message.namespace, &message.name)?;
            Ok(vec![Command::TripBreaker { breaker, open_for, request }])
        }
        7 => {
            let mut message = decode::<pb::ResetBreakerRequest>(bytes)?;
            let request = asked(&mut message)?;
            let breaker = breakers::find(state, &message.namespace, &message.name)?;
            Ok(vec![Command::ResetBreaker { breaker, request }])
        }
        _ => read(kind, bytes),
    }
}

fn read(kind: u8, bytes: &[u8]) -> Result<Vec<Command>, Status> {
    if kind == 8 {
        let message = decode::<pb::ListRunsRequest>(bytes)?;
        page::page_size(message.page_size)?;
        page::run(&message.page_token)?;
        runs::filter(&message)?;
    } else {
        let message = decode::<pb::ListJobsRequest>(bytes)?;
        page::page_size(message.page_size)?;
        page::name(&message.page_token)?;
    }
    Ok(Vec::new())
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Status> {
    if bytes.len() > limits::REQUEST_BYTES {
        return Err(Status::resource_exhausted("the request is too long"));
    }
    M::decode(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn asked<M: Write>(message: &mut M) -> Result<crate::state::Request, Status> {
    let mut problems = Problems::new();
    for (name, text) in message.asking() {
        check_asking(name, text, &mut problems);
    }
    if problems.is_empty() { Ok(message.request()) } else { Err(status::invalid(&problems)) }
}
