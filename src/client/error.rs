//! Why a call gave no result, in the terms that a caller acts on.
//!
//! Servers answer with gRPC codes by one convention: `NOT_FOUND`; `INVALID_ARGUMENT`,
//! `FAILED_PRECONDITION`, `ALREADY_EXISTS`, `RESOURCE_EXHAUSTED` for refusals; `UNAVAILABLE` and
//! `DEADLINE_EXCEEDED` when another node or a later moment may answer; `UNAUTHENTICATED` and
//! `PERMISSION_DENIED`. What would help travels as text in the metadata key [`HINT`].

use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, ConnectError, Status};

use super::endpoint::Endpoint;

/// Metadata key of a status: what would help, ASCII.
pub const HINT: &str = "chronarch-hint";

/// Why a call gave no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The cluster refused, by a rule.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// What would help.
        hint: Option<String>,
    },
    /// The request makes no sense, whatever the state of the cluster.
    #[error("{message}")]
    InvalidArgument {
        /// Why.
        message: String,
        /// What would help.
        hint: Option<String>,
    },
    /// No such job, run, breaker or node.
    #[error("{message}")]
    NotFound {
        /// What there is none of.
        message: String,
        /// What would help.
        hint: Option<String>,
    },
    /// The caller may not do this.
    #[error("{message}")]
    PermissionDenied {
        /// Why.
        message: String,
        /// What would help.
        hint: Option<String>,
    },
    /// No endpoint could answer in time; a write was not done.
    #[error("no endpoint answered: {}", list(tried))]
    Unreachable {
        /// The newest try of each endpoint.
        tried: Vec<Tried>,
    },
    /// Time ran out after a write was sent; it may or may not be done.
    #[error("the result is unknown, for no endpoint answered in time: {}", list(tried))]
    UnknownResult {
        /// Asking again with this id tells the result, or does the work once.
        operation_id: String,
        /// The newest try of each endpoint.
        tried: Vec<Tried>,
    },
    /// The node failed in a way that the convention does not foresee.
    #[error("the node answered {code:?}: {message}")]
    Unexpected {
        /// The code.
        code: Code,
        /// Its message.
        message: String,
    },
}

/// Metadata key of a status: the node does not lead, and surely nothing was done.
pub const NOT_LEADER: &str = "chronarch-not-leader";

/// One try at one endpoint that brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{endpoint}: {reason}")]
pub struct Tried {
    /// The endpoint, as it was given.
    pub endpoint: String,
    /// What happened.
    pub reason: String,
    /// Whether the request certainly did not reach the node.
    pub refused: bool,
    /// Whether it certainly did nothing: it did not reach the node, or the node says so.
    pub not_done: bool,
}

impl Tried {
    pub(super) fn of(endpoint: &Endpoint, status: &Status) -> Self {
        let refused = causes(status).iter().any(|cause| cause.is::<ConnectError>());
        let innermost = causes(status).last().map(ToString::to_string);
        let reason = innermost.unwrap_or_else(|| status.message().to_owned());
        let not_done = refused || status.metadata().contains_key(NOT_LEADER);
        Self { endpoint: endpoint.to_string(), reason, refused, not_done }
    }

    pub(super) fn silent(endpoint: &Endpoint, limit: Duration) -> Self {
        let reason = format!("no answer in {} ms", limit.as_millis());
        Self { endpoint: endpoint.to_string(), reason, refused: false, not_done: false }
    }
}

fn list(tried: &[Tried]) -> String {
    tried.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What a status was made from, outermost first.
fn causes(status: &Status) -> Vec<&(dyn std::error::Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = status.source();
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    causes
}

/// Whether the next endpoint, or the same one later, may do better: the node is away, has no
/// leader, or the connection broke under the call.
pub(super) fn passes(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => true,
        // A status that this side made has the broken connection as its cause; one that a node
        // sent has none.
        Code::Unknown | Code::Internal | Code::Cancelled => !causes(status).is_empty(),
        _ => false,
    }
}

impl Error {
    pub(super) fn of(status: &Status) -> Self {
        let message = status.message().to_owned();
        let hint = status.metadata().get(HINT).and_then(|hint| hint.to_str().ok()).map(str::to_owned);
        match status.code() {
            Code::NotFound => Self::NotFound { message, hint },
            Code::InvalidArgument | Code::OutOfRange => Self::InvalidArgument { message, hint },
            Code::FailedPrecondition | Code::AlreadyExists | Code::ResourceExhausted | Code::Aborted => {
                Self::Refused { message, hint }
            }
            Code::Unauthenticated | Code::PermissionDenied => Self::PermissionDenied { message, hint },
            code => Self::Unexpected { code, message },
        }
    }

    /// What would help, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. }
            | Self::InvalidArgument { hint, .. }
            | Self::NotFound { hint, .. }
            | Self::PermissionDenied { hint, .. } => hint.clone(),
            Self::Unreachable { .. } => {
                Some("is the cluster up? `chronarch cluster status` asks every endpoint".to_owned())
            }
            Self::UnknownResult { operation_id, .. } => Some(format!(
                "repeat the command with `--operation-id {operation_id}`: it is done at most once"
            )),
            Self::Unexpected { .. } => None,
        }
    }
}
