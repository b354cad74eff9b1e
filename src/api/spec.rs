//! From what a client sent to what the state holds: complete, within its limits, or refused.
//!
//! [`from_pb`] fills in every default and collects all that is wrong with a job at once, each with
//! the path that the field has in a job file. Nothing downstream checks again, and nothing a client
//! can send makes this panic. The inverse, for reads, is [`crate::view::spec`]; the two are each
//! other's inverse on all that this accepts.

mod broker;
mod grpc;
mod policy;
mod schedule;
pub(super) mod sharing;
mod target;
mod template;
#[cfg(test)]
mod tests;
pub(super) mod value;

use std::time::Duration;

use prost::Message as _;

use super::limits;
use super::problem::Problems;
use crate::pb::v1 as pb;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::spread::Spread;
use crate::state::spec::{JobSpec, OnExcluded, OnLost, OnResume, Target};

/// Reads and checks a job where there is no cluster: with what this binary ships.
///
/// # Errors
/// All [`Problems`] of the job, in the order of its fields.
pub fn from_pb(spec: &pb::JobSpec) -> Result<JobSpec, Problems> {
    read_with(spec, &Almanac::bundled())
}

/// Reads and checks a job; its schedules are read with `almanac`.
///
/// # Errors
/// As [`from_pb`].
pub fn read_with(spec: &pb::JobSpec, almanac: &Almanac) -> Result<JobSpec, Problems> {
    let mut problems = Problems::new();
    let bytes = spec.encoded_len();
    if bytes > limits::SPEC_BYTES {
        let reason = format!("the job has {bytes} bytes, at most {} are allowed", limits::SPEC_BYTES);
        problems.add("", reason);
    }
    let read = read(spec, almanac, &mut problems);
    problems.or(read)
}

fn read(spec: &pb::JobSpec, almanac: &Almanac, problems: &mut Problems) -> Option<JobSpec> {
    value::name("name", &spec.name, problems);
    let namespace = value::namespace(&spec.namespace);
    value::name("namespace", namespace, problems);
    value::length("description", &spec.description, limits::DESCRIPTION_BYTES, problems);
    value::labels("labels", &spec.labels, problems);
    let spread = Spread::of(namespace, &spec.name);
    let schedules = schedule::schedules(&spec.schedule, (spread, almanac), problems);
    let target = target::target(spec.target.as_ref(), &spec.params, problems);
    let queue = if spec.queue.is_empty() { "default" } else { spec.queue.as_str() };
    value::name("queue", queue, problems);
    value::labels("requires", &spec.requires, problems);
    let millisecond = Duration::from_millis(1);
    let timeout = value::span("timeout", spec.timeout.as_ref(), millisecond..=limits::TIMEOUT, problems);
    let retry = policy::retry(spec.retry.as_ref(), problems);
    let catch_up = policy::catch_up(spec.catch_up.as_ref(), problems);
    let waits = millisecond..=limits::LATENESS;
    let start_within = value::span("start_within", spec.start_within.as_ref(), waits, problems);
    let overlap = policy::overlap(spec.overlap.as_ref(), problems);
    let on_lost: Option<pb::OnLost> = value::word("on_lost", spec.on_lost, problems);
    let on_lost = broker::on_lost(spec.target.as_ref(), on_lost, problems);
    let on_resume: Option<pb::OnResume> = value::word("on_resume", spec.on_resume, problems);
    let on_excluded: Option<pb::OnExcluded> = value::word("on_excluded", spec.on_excluded, problems);
    let breaker = policy::breaker(spec.breaker.as_ref(), problems);
    let retention = policy::retention(spec.retention.as_ref(), problems);
    value::params("params", &spec.params, problems);
    if let Some(target) = &target {
        template::check(target, &spec.params, problems);
    }
    let limits = sharing::limits(spec.limits.as_ref(), problems);
    let after = sharing::after(spec, problems);
    value::within("priority", spec.priority, &limits::PRIORITY, problems);
    let target = target?;
    let timeout = timeout.unwrap_or(match &target {
        // What is stopped then is a task of the user's, which has run for as long as it likes so far.
        Target::Celery(celery) if celery.wait_for_completion => limits::TASK_TIMEOUT_DEFAULT,
        _ => limits::TIMEOUT_DEFAULT,
    });
    Some(JobSpec {
        namespace: namespace.to_owned(),
        name: spec.name.clone(),
        description: spec.description.clone(),
        labels: spec.labels.clone(),
        schedules,
        on_lost: match (on_lost, &target) {
            (Some(pb::OnLost::Rerun), _) => OnLost::Rerun,
            (Some(pb::OnLost::Fail), _) => OnLost::Fail,
            (None | Some(pb::OnLost::Unspecified), Target::Exec { .. }) => OnLost::Fail,
            (
                None | Some(pb::OnLost::Unspecified),
                Target::Http { .. }
                | Target::Queue { .. }
                | Target::Grpc { .. }
                | Target::Redis(_)
                | Target::Celery(_)
                | Target::Amqp(_)
                | Target::Nats(_),
            ) => OnLost::Rerun,
        },
        target,
        queue: queue.to_owned(),
        requires: spec.requires.clone(),
        timeout,
        retry,
        catch_up,
        start_within,
        overlap,
        on_resume: match on_resume {
            None | Some(pb::OnResume::Unspecified | pb::OnResume::Skip) => OnResume::Skip,
            Some(pb::OnResume::CatchUp) => OnResume::CatchUp,
        },
        breaker,
        retention,
        params: spec.params.clone(),
        limits,
        after,
        priority: spec.priority,
        every_node: spec.every_node,
        on_excluded: match on_excluded {
            None | Some(pb::OnExcluded::Unspecified | pb::OnExcluded::Skip) => OnExcluded::Skip,
            Some(pb::OnExcluded::NextAllowed) => OnExcluded::NextAllowed,
        },
    })
}
