//! What a worker reports of an attempt, read.

use std::sync::Arc;

use tonic::Status;

use super::worker_service::cut;
use crate::leader::{SessionEvent, SessionId};
use crate::pb::{instant, v1 as pb};
use crate::state::limits;
use crate::state::run::{AttemptOutcome, Report, RunId, TaskLeft};
use crate::state::spec::GRPC_CODES;

pub(super) fn read_report(session: SessionId, report: pb::Report) -> Result<SessionEvent, Status> {
    let invalid = |text: &str| Status::invalid_argument(format!("report.{text}"));
    let run: RunId = report.run_id.parse().map_err(|_| invalid("run_id: expected a run id"))?;
    let outcome = match pb::Outcome::try_from(report.outcome) {
        Ok(pb::Outcome::Succeeded) => AttemptOutcome::Succeeded,
        Ok(pb::Outcome::Failed) => AttemptOutcome::Failed,
        Ok(pb::Outcome::Timeout) => AttemptOutcome::TimedOut,
        Ok(pb::Outcome::Cancelled) => AttemptOutcome::Cancelled,
        Ok(pb::Outcome::Lost) => AttemptOutcome::Lost,
        Ok(pb::Outcome::Running) if report.handed_over.is_some() => AttemptOutcome::Running,
        Ok(pb::Outcome::Running | pb::Outcome::Unspecified) | Err(_) => {
            return Err(invalid("outcome: expected SUCCEEDED, FAILED, TIMEOUT, CANCELLED or LOST"));
        }
    };
    let handed = match report.handed_over.filter(|_| outcome == AttemptOutcome::Running) {
        None => None,
        Some(handed)
            if (1..=limits::CONNECTION_NAME_BYTES).contains(&handed.connection.len())
                && (1..=limits::TASK_ID_BYTES).contains(&handed.task_id.len())
                && handed.queue.len() <= limits::QUEUE_OF_TASK_BYTES =>
        {
            let expires_at = handed.expires_at.as_ref().map(instant::read);
            let queue = Some(handed.queue).filter(|queue| !queue.is_empty()).map(Arc::from);
            let (connection, task) = (handed.connection.into(), handed.task_id.into());
            Some(TaskLeft { connection, task, expires_at, queue })
        }
        Some(_) => return Err(invalid("handed_over: expected a connection and the id of a task")),
    };
    let http_status = match report.http_status {
        None => None,
        Some(status) => {
            Some(u16::try_from(status).map_err(|_| invalid("http_status: expected a status code"))?)
        }
    };
    let error = cut(report.error, limits::ERROR_BYTES);
    let mut output = report.output;
    let surplus = output.len().saturating_sub(limits::OUTPUT_BYTES);
    let output_truncated = report.output_truncated || surplus > 0;
    output.drain(..surplus);
    let (fence, exit_code) = (report.fence, report.exit_code);
    let (result, remark) = read_result(report.result);
    let whole =
        if error.is_empty() || remark.is_empty() { error + &remark } else { format!("{error}; {remark}") };
    let error = cut(whole, limits::ERROR_BYTES);
    let grpc_status = match report.grpc_status {
        None => None,
        Some(status) => {
            let status = u8::try_from(status).ok().filter(|status| usize::from(*status) < GRPC_CODES.len());
            Some(status.ok_or_else(|| invalid("grpc_status: expected 0 to 16"))?)
        }
    };
    let report =
        Arc::new(Report { exit_code, http_status, error, output, output_truncated, result, grpc_status });
    Ok(SessionEvent::Report { session, run, fence, outcome, report, handed })
}

/// The result, or none and why. The attempt has ended whatever it says of itself, so that is no reason to refuse the
/// report.
fn read_result(text: String) -> (String, String) {
    if text.len() > limits::RESULT_BYTES {
        let why = format!("result: {} bytes are more than {}; not kept", text.len(), limits::RESULT_BYTES);
        return (String::new(), why);
    }
    if !text.is_empty() && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
        return (String::new(), "result: no JSON; not kept".to_owned());
    }
    (text, String::new())
}
