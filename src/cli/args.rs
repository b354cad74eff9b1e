//! Flags that many commands share, and how their values are read.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::client::Endpoint;
use crate::pb::span;
use crate::state::time::Timestamp;

/// Flags of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Client flags")]
pub struct Global {
    /// Nodes to ask, in turn until one answers; any node will do
    #[arg(
        long,
        global = true,
        env = "CHRONARCH_ENDPOINTS",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403",
        hide_env_values = true
    )]
    pub endpoints: Vec<Endpoint>,
    /// How results are written: `json` is one document, `jsonl` one item a line
    #[arg(
        short,
        long,
        global = true,
        env = "CHRONARCH_OUTPUT",
        value_name = "FORMAT",
        default_value = "table",
        hide_env_values = true
    )]
    pub output: Output,
    /// Namespace of the jobs and breakers that are named
    #[arg(
        short,
        long,
        global = true,
        env = "CHRONARCH_NAMESPACE",
        value_name = "NAME",
        default_value = "default",
        hide_env_values = true
    )]
    pub namespace: String,
    /// How long a call may take, all tries at all endpoints together, such as 500ms or 1m
    #[arg(
        long,
        global = true,
        env = "CHRONARCH_TIMEOUT",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = positive_span,
        hide_env_values = true
    )]
    pub timeout: Duration,
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    Table,
    /// More columns.
    Wide,
    /// One JSON document.
    Json,
    /// One JSON document a line, one for each item.
    Jsonl,
    /// One YAML document.
    Yaml,
}

/// Flags of reads.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct ReadFlags {
    /// Answer from the asked node's own state, which may be old, without asking the leader
    #[arg(long)]
    pub(super) stale: bool,
}

/// Flags of lists.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct ListFlags {
    /// Look in every namespace
    #[arg(short = 'A', long)]
    pub(super) all_namespaces: bool,
    #[command(flatten)]
    pub(super) read: ReadFlags,
}

/// Flags of writes.
#[derive(Clone, Debug, Args)]
pub(super) struct WriteFlags {
    /// Why; shown in the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(super) reason: String,
    #[command(flatten)]
    pub(super) identity: IdentityFlags,
}

/// Who asks, and under which id.
#[derive(Clone, Debug, Args)]
pub(super) struct IdentityFlags {
    /// Who asks; shown in the record. Default: the user name, or the address that the node sees
    #[arg(long, env = "CHRONARCH_ACTOR", value_name = "NAME", hide_env_values = true)]
    actor: Option<String>,
    /// The same call on the same job, run or breaker with an id that the cluster has seen is not done
    /// again; its first result is told, also when the job is gone or created anew. The cluster remembers
    /// the last 10,000 changes (each job of an apply is one) for an hour at most.
    /// Default: a random id
    #[arg(
        long,
        visible_alias = "idempotency-key",
        value_name = "ID",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) operation_id: String,
}

impl IdentityFlags {
    /// Who asks; empty to let the node see for itself.
    pub(super) fn actor(&self) -> String {
        Self::actor_or_user(self.actor.clone())
    }

    /// The same, of a change that has no operation id.
    pub(super) fn actor_or_user(actor: Option<String>) -> String {
        let user = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
        actor.or_else(|| user().ok()).unwrap_or_default()
    }
}

/// Reads an instant.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|error: crate::state::time::TimestampError| error.to_string())
}

/// Reads a span of time, zero included.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    span::parse(text).map_err(|error| error.to_string())
}

/// Reads a span of time longer than nothing.
pub(super) fn positive_span(text: &str) -> Result<Duration, String> {
    match span(text)? {
        Duration::ZERO => Err("it must be longer than 0s".to_owned()),
        span => Ok(span),
    }
}

/// Reads `KEY=VALUE`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected KEY=VALUE".to_owned()),
    }
}
