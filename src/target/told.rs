//! What a target is told about the attempt that it serves.
//!
//! The names are part of the product's outside: jobs, services and consumers read them. They come in two spellings,
//! of which each target uses one: variables for a process, lower-case headers or metadata for everything else.
//! The one header that goes by a name that is not ours, `idempotency-key`, is a second spelling of the run id.

use std::borrow::Cow;

use super::Order;

/// One thing that a target is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// The name in a process's environment.
    pub(super) variable: Cow<'static, str>,
    /// The name as a header.
    pub(super) header: Cow<'static, str>,
    pub(super) value: String,
}

/// The header under which services recognise a repeated request.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// All that a target is told, in a fixed order.
pub(super) fn told(order: &Order) -> Vec<Told> {
    let say = |variable: &'static str, header: &'static str, value| Told {
        variable: variable.into(),
        header: header.into(),
        value,
    };
    let mut all = vec![
        say("CHRONARCH_JOB", "chronarch-job", order.job.clone()),
        say("CHRONARCH_NAMESPACE", "chronarch-namespace", order.namespace.clone()),
        say("CHRONARCH_RUN_ID", "chronarch-run-id", order.run_id.clone()),
        say("CHRONARCH_SCHEDULED_AT", "chronarch-scheduled-at", order.scheduled_at.clone()),
        say("CHRONARCH_ATTEMPT", "chronarch-attempt", order.attempt.to_string()),
        say("CHRONARCH_FENCE", "chronarch-fence", order.fence.to_string()),
    ];
    if let Some(chain_id) = &order.chain_id {
        all.push(say("CHRONARCH_CHAIN_ID", "chronarch-chain-id", chain_id.clone()));
    }
    if let Some(traceparent) = &order.traceparent {
        all.push(say("TRACEPARENT", "traceparent", traceparent.clone()));
    }
    all.extend(order.params.iter().map(|(name, value)| Told {
        variable: format!("CHRONARCH_PARAM_{}", name.to_ascii_uppercase()).into(),
        header: format!("chronarch-param-{}", name.replace('_', "-")).into(),
        value: value.clone(),
    }));
    all
}

/// Whether a job may not set this variable itself: what a target is told must be believable.
pub(super) fn is_reserved_variable(name: &str) -> bool {
    name.starts_with("CHRONARCH_") || name == "TRACEPARENT"
}

/// Whether a job may not set this header itself; `name` in lower case.
pub(super) fn is_reserved_header(name: &str) -> bool {
    name.starts_with("chronarch-") || name == IDEMPOTENCY_KEY || name == "traceparent"
}
