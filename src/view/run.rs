//! A run as the API's message.

use super::instant;
use crate::pb::v1 as pb;
use crate::state::State;
use crate::state::run::{Attempt, AttemptOutcome, Cause, HandedOver, Phase, Reason, Run, RunState, TaskNews};

/// What a live run waits for, or why it ended as it did.
#[must_use]
pub fn reason(run: &Run) -> Option<Reason> {
    match run.phase {
        Phase::Queued => Some(Reason::Overlap),
        Phase::Held => Some(Reason::BreakerOpen),
        Phase::Waiting => Some(Reason::Worker),
        Phase::Backoff { .. } => Some(Reason::Backoff),
        Phase::Running | Phase::Spread => run.cancel.as_ref().map(|cancel| cancel.reason),
        Phase::Ended => run.reason,
    }
}

/// The state as the API's message.
#[must_use]
pub const fn state(state: RunState) -> pb::RunState {
    match state {
        RunState::Pending => pb::RunState::Pending,
        RunState::Running => pb::RunState::Running,
        RunState::Succeeded => pb::RunState::Succeeded,
        RunState::Failed => pb::RunState::Failed,
        RunState::Cancelled => pb::RunState::Cancelled,
        RunState::Skipped => pb::RunState::Skipped,
    }
}

/// What made a run, as the API's message.
#[must_use]
pub const fn cause(cause: Cause) -> pb::Cause {
    match cause {
        Cause::Schedule => pb::Cause::Schedule,
        Cause::Manual => pb::Cause::Manual,
        Cause::CatchUp => pb::Cause::CatchUp,
        Cause::Backfill => pb::Cause::Backfill,
        Cause::After => pb::Cause::After,
    }
}

/// The end of an attempt as the API's message.
#[must_use]
pub const fn outcome(outcome: AttemptOutcome) -> pb::Outcome {
    match outcome {
        AttemptOutcome::Running => pb::Outcome::Running,
        AttemptOutcome::Succeeded => pb::Outcome::Succeeded,
        AttemptOutcome::Failed => pb::Outcome::Failed,
        AttemptOutcome::TimedOut => pb::Outcome::Timeout,
        AttemptOutcome::Cancelled => pb::Outcome::Cancelled,
        AttemptOutcome::Lost => pb::Outcome::Lost,
    }
}

/// The message of a run.
#[must_use]
pub fn to_pb(run: &Run) -> pb::Run {
    let retry_at = match run.phase {
        Phase::Backoff { retry_at } => Some(retry_at),
        Phase::Queued | Phase::Held | Phase::Waiting | Phase::Running | Phase::Spread | Phase::Ended => None,
    };
    let is_under_way = matches!(run.phase, Phase::Running | Phase::Spread);
    let cancel = run.cancel.as_ref().filter(|_| is_under_way);
    pb::Run {
        run_id: run.id.to_string(),
        namespace: run.namespace.to_string(),
        job: run.job.to_string(),
        scheduled_at: Some(instant(run.id.at)),
        fired_at: Some(instant(run.fired_at)),
        finished_at: run.finished_at.map(instant),
        cause: cause(run.cause).into(),
        state: state(run.state).into(),
        reason: reason(run).map(Reason::as_str).unwrap_or_default().to_owned(),
        stands_for: run.stands_for,
        attempts: run.attempts.iter().map(attempt).collect(),
        detail: cancel.map_or(&run.detail, |cancel| &cancel.detail).clone(),
        scheduled_until: run.scheduled_until.map(instant),
        incarnation: run.id.job.0,
        version: run.version,
        queue: run.queue.to_string(),
        due_at: Some(instant(run.due_at)),
        retry_at: retry_at.map(instant),
        actor: run.actor.clone(),
        scheduled_from: run.scheduled_from.map(instant),
        params: run.params.clone(),
        chain_id: run.chain.unwrap_or(run.id).to_string(),
        upstream: run.upstream.iter().map(ToString::to_string).collect(),
        retry_of: run.retry_of.map(|run| run.to_string()).unwrap_or_default(),
        backfill: run.backfill.unwrap_or(0),
        inputs: run.inputs.clone(),
        place: run.place.as_deref().unwrap_or_default().to_owned(),
        parent: run.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        spread: run.spread.as_deref().map(|spread| pb::Spread {
            places: spread.places,
            ended: spread.ended,
            succeeded: spread.succeeded,
        }),
    }
}

/// The message of a run in a state, which knows whether a pending one waits for a worker or for the limits of its group.
#[must_use]
pub fn in_state(state: &State, run: &Run) -> pb::Run {
    let mut message = to_pb(run);
    let is_kept = || {
        let group = state.job(run.id.job).and_then(|job| job.spec.group());
        let has_group_room = group.is_none_or(|group| state.has_group_room(&group, 0, state.now()));
        !has_group_room || !state.has_queue_room(&run.queue, 0, state.now())
    };
    if run.phase == Phase::Waiting && is_kept() {
        message.reason = Reason::Limit.as_str().to_owned();
    }
    message
}

fn standing(handed: &HandedOver) -> pb::TaskStanding {
    let connection = handed.connection.to_string();
    let expires_at = handed.expires_at.map(instant);
    let Some(heard) = &handed.heard else {
        return pb::TaskStanding { connection, expires_at, ..Default::default() };
    };
    pb::TaskStanding {
        connection,
        expires_at,
        by: heard.by.to_string(),
        heard_at: Some(instant(heard.at)),
        begun: heard.runs(),
        retries: heard.retries,
        error: match &heard.news {
            TaskNews::Begun { .. } => String::new(),
            TaskNews::Retried { error, .. } => error.to_string(),
        },
    }
}

fn attempt(attempt: &Attempt) -> pb::Attempt {
    let report = attempt.report.as_deref();
    pb::Attempt {
        number: attempt.number,
        fence: attempt.fence,
        worker: attempt.worker.to_string(),
        started_at: Some(instant(attempt.started_at)),
        finished_at: attempt.finished_at.map(instant),
        outcome: outcome(attempt.outcome).into(),
        exit_code: report.and_then(|report| report.exit_code),
        http_status: report.and_then(|report| report.http_status).map(u32::from),
        error: report.map(|report| report.error.clone()).unwrap_or_default(),
        output: report.map(|report| String::from_utf8_lossy(&report.output).into_owned()).unwrap_or_default(),
        output_truncated: report.is_some_and(|report| report.output_truncated),
        probe: attempt.probe.is_some(),
        grpc_status: report.and_then(|report| report.grpc_status).map(u32::from),
        result: report.map(|report| report.result.clone()).unwrap_or_default(),
        task_id: attempt.handed.as_ref().map(|handed| handed.task.to_string()).unwrap_or_default(),
        handed_over_at: attempt.handed.as_ref().map(|handed| instant(handed.at)),
        task: attempt.handed.as_ref().map(standing),
    }
}
