//! Arguments of the commands that run until they are stopped: a node, a local cluster, a worker.
//!
//! Only what a person would type is a flag; everything else about a node is in its TOML file, which
//! the flags override. What the values mean is the node's business, so they are checked no further
//! than their form.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::args::{pair, positive_span, span};
use crate::config::Overrides;
use crate::node::worker::ExecStreams;
use crate::node::worker::limits::{OUTPUT_BYTES_DEFAULT, OUTPUT_BYTES_MIN, TOTAL_BYTES_DEFAULT};
use crate::telemetry::LogFormat;

/// Arguments of `server`.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// The node's TOML file; a flag given beside it wins over the same key in the file
    #[arg(long, value_name = "FILE", env = "CHRONARCH_CONFIG")]
    pub config: Option<PathBuf>,
    /// This node's number, from 1; it is the node's identity, whatever its address
    #[arg(long, value_name = "N", env = "CHRONARCH_NODE_ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub node_id: Option<u64>,
    /// Where clients connect: gRPC, metrics, health
    #[arg(long, value_name = "IP:PORT", env = "CHRONARCH_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Where other nodes connect: replication and nothing else
    #[arg(long, value_name = "IP:PORT", env = "CHRONARCH_PEER_LISTEN")]
    pub peer_listen: Option<SocketAddr>,
    /// Folder of this node's log and records; created when missing
    #[arg(long, value_name = "DIR", env = "CHRONARCH_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The first members of the cluster, the same on each node; later starts ignore them in favour
    /// of the replicated membership
    #[arg(long, value_name = "ID=HOST:PORT", value_delimiter = ',', env = "CHRONARCH_PEERS")]
    pub peers: Vec<PeerArg>,
    /// Starts over after the data was lost or damaged: sets what the folder holds aside, and waits to be added with
    /// `chronarch cluster add`. Needs a --node-id that was never used; `peers` is ignored
    #[arg(long)]
    pub rejoin: bool,
    /// For tests of rolling upgrades: speaks no feature level above this, as an older release would. It can only lower
    /// what this release speaks
    #[arg(long, value_name = "LEVEL", env = "CHRONARCH_FEATURE_LEVEL_MAX", hide = true)]
    pub feature_level_max: Option<u32>,
    /// How the node logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl ServerArgs {
    /// What goes before the file: each flag that was given. Of a node named twice in `--peers` the
    /// last address wins.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        let peers = self.peers.iter().map(|peer| (peer.node_id, peer.address.clone()));
        Overrides {
            node_id: self.node_id,
            listen: self.listen.map(|address| address.to_string()),
            peer_listen: self.peer_listen.map(|address| address.to_string()),
            data_dir: self.data_dir.clone(),
            peers: (!self.peers.is_empty()).then(|| peers.collect()),
            rejoin: self.rejoin,
            feature_level_max: self.feature_level_max,
        }
    }
}

/// One of the first members: `1=127.0.0.1:7501`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerArg {
    /// Its number.
    pub node_id: u64,
    /// Where its peers reach it.
    pub address: String,
}

impl FromStr for PeerArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || "expected ID=HOST:PORT, such as 1=127.0.0.1:7501".to_owned();
        let (node_id, address) = text.split_once('=').ok_or_else(wrong)?;
        let node_id = node_id.trim().parse().map_err(|_| wrong())?;
        let endpoint: crate::client::Endpoint = address.parse().map_err(|_| wrong())?;
        if node_id == 0 { Err(wrong()) } else { Ok(Self { node_id, address: endpoint.to_string() }) }
    }
}

/// Arguments of `dev`.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// Folder for the nodes' data, kept afterwards. Default: a temporary folder, removed afterwards
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How the nodes log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Arguments of `worker`.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// What it is called, for people, before what makes the name of this life unique. Default: the machine's name
    #[arg(long, value_name = "NAME", env = "CHRONARCH_WORKER_NAME", value_parser = place, hide_env_values = true)]
    pub name: Option<String>,
    /// Queues to serve; may be given several times
    #[arg(long = "queue", value_name = "NAME", value_delimiter = ',', required = true)]
    pub queues: Vec<String>,
    /// Labels that jobs may require; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    /// Attempts carried out at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: u32,
    /// Also carry out exec targets: anyone who may apply jobs can then run programs here
    #[arg(long)]
    pub allow_exec: bool,
    /// TOML file with the brokers that it can reach, as `[connections.NAME]` in a node's file: it then also carries out
    /// redis, amqp, nats and celery targets that name one of them
    #[arg(long, value_name = "FILE", env = "CHRONARCH_WORKER_CONNECTIONS")]
    pub connections: Option<PathBuf>,
    /// How long what runs may go on when the worker is ended by SIGTERM or Ctrl-C; then it is stopped, and its jobs'
    /// `on_lost` decides
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = span)]
    pub drain_timeout: Duration,
    /// Folder for the output of attempts, this worker's alone. Default: one below $STATE_DIRECTORY,
    /// $XDG_STATE_HOME or ~/.local/state
    #[arg(long, value_name = "DIR", env = "CHRONARCH_WORKER_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Output that is kept of one attempt, in bytes; beyond it the first part and the last 64 KiB
    #[arg(long, value_name = "BYTES", default_value_t = OUTPUT_BYTES_DEFAULT, value_parser = clap::value_parser!(u64).range(OUTPUT_BYTES_MIN..=1 << 40))]
    pub output_bytes: u64,
    /// Output that is kept of all attempts, in bytes; the oldest goes first
    #[arg(long, value_name = "BYTES", default_value_t = TOTAL_BYTES_DEFAULT, value_parser = clap::value_parser!(u64).range(OUTPUT_BYTES_MIN..=1 << 40))]
    pub output_total_bytes: u64,
    /// How long output is kept after its attempt has ended
    #[arg(long, value_name = "SPAN", default_value = "7d", value_parser = positive_span)]
    pub output_age: Duration,
    /// How standard output and standard error of a process are taken: together, in the order of writing, or
    /// apart, in the order of reading
    #[arg(long, value_name = "HOW", default_value = "together", value_parser = exec_streams)]
    pub exec_streams: ExecStreams,
    /// How the worker logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Characters of a worker's given name; what makes it unique is added.
const PLACE_CHARS: usize = 128;

/// Reads what a worker is called.
fn place(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match (1..=PLACE_CHARS).contains(&text.len()) && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected 1 to {PLACE_CHARS} letters, digits, dots, dashes and underscores")),
    }
}

fn exec_streams(text: &str) -> Result<ExecStreams, String> {
    match text {
        "together" => Ok(ExecStreams::Together),
        "apart" => Ok(ExecStreams::Apart),
        _ => Err("expected together or apart".to_owned()),
    }
}

impl WorkerArgs {
    /// The labels by key; the last of doubled ones wins.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect()
    }
}

/// A label: `zone=eu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// What is before the first `=`.
    pub key: String,
    /// What is behind it; may be empty.
    pub value: String,
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        pair(text).map(|(key, value)| Self { key, value })
    }
}

/// How a process logs. What it logs is set by `CHRONARCH_LOG`.
#[derive(Clone, Copy, Debug, Args)]
pub struct LogArgs {
    /// How log lines are written, to stderr. The environment variable CHRONARCH_LOG says which:
    /// `info` (default), `debug`, `chronarch::raft=debug,warn`
    #[arg(long, value_name = "FORMAT", env = "CHRONARCH_LOG_FORMAT", default_value = "text", value_enum)]
    pub log_format: LogFormat,
}

impl ValueEnum for LogFormat {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Text, Self::Json]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Text => PossibleValue::new("text").help("A line for people"),
            Self::Json => PossibleValue::new("json").help("A JSON object a line"),
        })
    }
}
