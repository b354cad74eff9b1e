//! The one map from errors to gRPC statuses.
//!
//! | code | means |
//! |---|---|
//! | `INVALID_ARGUMENT` | the request makes no sense, whatever the state; one problem a line, `path: reason`, and below it a line `hint: …` where something would be right |
//! | `NOT_FOUND` | no such job, run, breaker or node |
//! | `FAILED_PRECONDITION`, `RESOURCE_EXHAUSTED` | refused by a rule, by a limit |
//! | `ALREADY_EXISTS` | the node is what it would be made |
//! | `UNAVAILABLE` | another node, or a later moment, may answer |
//!
//! What would help against any other refusal travels as text in [`HINT`].

use tonic::Status;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};

use super::problem::Problems;
use crate::client::NOT_LEADER;
use crate::history::{Gap, HistoryError};
use crate::raft::{ExportError, MembershipError, ProposeError, ReadError, TransferError};
use crate::state::Rejection;
use crate::view::breaker::NoBreaker;

/// Metadata key of a status: what would help, ASCII.
pub const HINT: &str = "chronarch-hint";
/// Bytes of a hint; a longer one is cut.
const HINT_BYTES: usize = 1_024;

/// A status with a hint.
pub(crate) fn hinted(mut status: Status, hint: &str) -> Status {
    let plain: String =
        hint.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' }).take(HINT_BYTES).collect();
    if let Ok(value) = AsciiMetadataValue::try_from(plain) {
        status.metadata_mut().insert(AsciiMetadataKey::from_static(HINT), value);
    }
    status
}

/// The same refusal, of one thing among several.
pub(super) fn within(what: &str, refused: &Status) -> Status {
    let message = format!("{what}: {}", refused.message());
    Status::with_metadata(refused.code(), message, refused.metadata().clone())
}

/// All that is wrong with a request. What would be right stands below each problem.
pub(super) fn invalid(problems: &Problems) -> Status {
    Status::invalid_argument(problems.to_string())
}

/// One thing that is wrong with a request.
pub(crate) fn invalid_field(path: &str, reason: &str) -> Status {
    Status::invalid_argument(format!("{path}: {reason}"))
}

pub(super) fn no_job(namespace: &str, name: &str) -> Status {
    let shown: String = name.chars().take(128).collect();
    let of: String = namespace.chars().take(128).collect();
    let status = Status::not_found(format!("there is no job {shown:?} in namespace {of:?}"));
    hinted(status, "`chronarch job list` shows the jobs; -n names another namespace")
}

pub(super) fn no_run(id: &str) -> Status {
    let shown: String = id.chars().take(64).collect();
    let status = Status::not_found(format!("there is no run {shown:?}"));
    hinted(status, "records are removed after the job's `retention`")
}

/// A part of the run log is still being fetched from other nodes.
pub(super) fn lacking(gap: Gap) -> Status {
    let first = gap.after.saturating_add(1);
    let text = format!("this node still lacks the records of log index {first} to {}", gap.through);
    hinted(Status::unavailable(text), "another node may have them; `--stale` shows what is here")
}

/// The text has not the form of a run's id.
pub(super) fn no_such_id(text: &str) -> Status {
    let shown: String = text.chars().take(64).collect();
    let status = Status::not_found(format!("there is no run {shown:?}: run ids look different"));
    hinted(status, "`chronarch run list` shows the ids of runs; of a job, `chronarch job get NAME`")
}

pub(super) fn no_breaker(namespace: &str, name: &str, error: &NoBreaker) -> Status {
    let shown: String = name.chars().take(128).collect();
    let of: String = namespace.chars().take(128).collect();
    let status = Status::not_found(format!("there is no breaker {shown:?} in namespace {of:?}"));
    match error {
        NoBreaker::Unknown => hinted(status, "a job's own breaker is called job:NAME"),
        NoBreaker::Shared { name } => hinted(status, &format!("the job shares the breaker {name}")),
    }
}

pub(super) fn no_namespace(name: &str) -> Status {
    let shown: String = name.chars().take(128).collect();
    let status = Status::not_found(format!("there is no namespace {shown:?}"));
    hinted(status, "a namespace is there while it has jobs, records or limits")
}

pub(super) fn no_calendar(name: &str) -> Status {
    let shown: String = name.chars().take(128).collect();
    let status = Status::not_found(format!("there is no calendar {shown:?}"));
    hinted(status, "`chronarch calendar list` shows the calendars")
}

/// Surely nothing was done: this node does not lead.
pub(crate) fn not_leader(leader: Option<u64>) -> Status {
    let message = match leader {
        Some(leader) => format!("this node does not lead, node {leader} does"),
        None => "the cluster has no leader that this node knows of".to_owned(),
    };
    let mut status = Status::unavailable(message);
    status.metadata_mut().insert(NOT_LEADER, AsciiMetadataValue::from_static("1"));
    status
}

/// Surely nothing was done: there is no time to stamp it with.
pub(super) fn no_time() -> Status {
    let status = Status::unavailable("this node does not know yet whether its clock is right");
    hinted(status, "clocks are compared once a majority of the nodes can be reached")
}

/// Whether surely nothing was done, for the node does not lead.
pub(super) fn is_not_leader(status: &Status) -> bool {
    status.metadata().contains_key(NOT_LEADER)
}

/// The same refusal behind something else of the request that may be done: then it is not true that nothing was.
pub(super) fn in_part(refused: Status, operation_id: &str) -> Status {
    if is_not_leader(&refused) { unknown(operation_id) } else { refused }
}

/// It may be done, or not, or yet be.
pub(super) fn unknown(operation_id: &str) -> Status {
    if operation_id.is_empty() {
        return Status::unavailable("the result is unknown");
    }
    let message = format!(
        "the result is unknown; repeating the request with operation_id {operation_id:?} is safe and tells it"
    );
    hinted(Status::unavailable(message), &format!("repeat with operation_id {operation_id}"))
}

pub(super) fn proposed(error: &ProposeError, operation_id: &str) -> Status {
    match error {
        ProposeError::NotLeader { leader } => not_leader(leader.as_ref().map(|(id, _)| *id)),
        ProposeError::Unknown | ProposeError::Fatal => unknown(operation_id),
        ProposeError::Overloaded => Status::unavailable("too many changes are under way; nothing was done"),
        ProposeError::Level { .. } => hinted(
            Status::failed_precondition(error.to_string()),
            "`chronarch cluster status` shows what each node speaks; the level rises by itself once all speak more",
        ),
        ProposeError::TooLarge { .. } => Status::invalid_argument(error.to_string()),
    }
}

pub(crate) fn read(error: &ReadError) -> Status {
    let status = Status::unavailable(error.to_string());
    hinted(status, "--stale answers from this node's own state")
}

pub(super) fn rejected(rejection: Rejection) -> Status {
    let text = rejection.to_string();
    match rejection {
        Rejection::NoJob
        | Rejection::NoRun
        | Rejection::NoBreaker
        | Rejection::NoNamespace
        | Rejection::NoCalendar => Status::not_found(text),
        Rejection::Stale | Rejection::OccurrenceDue => {
            Status::unavailable(format!("{text}; nothing was done, try again"))
        }
        Rejection::Limit => Status::resource_exhausted(text),
        Rejection::Fence
        | Rejection::BreakerOpen
        | Rejection::Early
        | Rejection::Malformed
        | Rejection::Cycle
        | Rejection::CalendarInUse => Status::failed_precondition(text),
    }
}

pub(super) fn history(error: &HistoryError) -> Status {
    tracing::error!(%error, "the run log cannot be read");
    Status::unavailable(format!("this node cannot read its run log: {error}"))
}

pub(super) fn transfer(error: &TransferError) -> Status {
    match error {
        TransferError::NotLeader { leader } => not_leader(leader.as_ref().map(|(id, _)| *id)),
        TransferError::NotAVoter(_) | TransferError::NoCandidate => {
            Status::failed_precondition(error.to_string())
        }
        TransferError::Timeout => Status::unavailable(error.to_string()),
    }
}

pub(super) fn membership(error: &MembershipError) -> Status {
    let text = error.to_string();
    let (message, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
    let status = match error {
        MembershipError::NotLeader { leader } => return not_leader(leader.as_ref().map(|(id, _)| *id)),
        MembershipError::Member(_) | MembershipError::Voter(_) => Status::already_exists(message),
        MembershipError::NotMember(_) => Status::not_found(message),
        MembershipError::LastVoter(_)
        | MembershipError::LosesMajority { .. }
        | MembershipError::NotPristine { .. }
        | MembershipError::Level { .. }
        | MembershipError::NotJoined { .. }
        | MembershipError::Behind { .. } => Status::failed_precondition(message),
        MembershipError::InProgress | MembershipError::Unknown => Status::unavailable(message),
    };
    if hint.is_empty() { status } else { hinted(status, hint) }
}

pub(super) fn export(error: &ExportError) -> Status {
    let text = error.to_string();
    match error {
        ExportError::Reversed { .. } => invalid_field("to", &text),
        ExportError::Gone { first, .. } => hinted(
            Status::failed_precondition(text),
            &format!("--from {first}; another node may have kept more"),
        ),
        ExportError::NotApplied { .. } => Status::failed_precondition(text),
        ExportError::NoLog | ExportError::Fatal(_) => Status::unavailable(text),
    }
}

/// The answer is not what the command can have: a bug, and the client's result is unknown to it.
pub(super) fn unexpected() -> Status {
    Status::internal("the state answered something that this request cannot have")
}

/// This node belongs to no cluster.
pub(super) fn pristine() -> Status {
    Status::unavailable("this node does not belong to a cluster yet")
}
