//! `cluster`: what each endpoint says, leadership, who belongs to it, and its log as evidence.

pub(super) mod status;
mod tzdata;

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use tokio::time::Instant;

use super::args::Output;
use super::printer::Printer;
use super::{Context, Failure};
use crate::client::{Client, Endpoint, Error};
use crate::pb::v1::{
    AddNodeRequest, ExportLogRequest, GetStatusRequest, NodeRole, PromoteNodeRequest, RemoveNodeRequest,
    TransferLeaderRequest,
};

/// How long `add --promote` waits for the node to catch up; after that, `promote` does the rest.
const CATCH_UP_MAX: Duration = Duration::from_mins(10);
/// A new node that the leader has not heard for so long is not waited for.
const SILENCE_MAX_MS: u64 = 10_000;
/// How often the leader is asked again whether the node has caught up.
const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Asks every endpoint what it sees; the leader is marked with `*`. Exit code 3 when none answers, 1 when the
    /// states of two nodes differ at one log index
    Status,
    /// Hands leadership over to a voter that has caught up
    TransferLeader {
        /// The node to hand it to. Default: the voter that is furthest
        #[arg(value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
        node_id: Option<u64>,
        /// The same, as a flag
        #[arg(long, value_name = "NODE", conflicts_with = "node_id", value_parser = clap::value_parser!(u64).range(1..))]
        to: Option<u64>,
    },
    /// Adds a node that was started with `server --rejoin`, or without `peers`, and belongs to no cluster
    #[command(after_help = REPLACING)]
    Add {
        /// Its id, one that was never used in this cluster
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        node_id: u64,
        /// Where the other nodes reach it: its `peer_listen` address
        #[arg(value_name = "HOST:PORT")]
        peer_address: Endpoint,
        /// Also wait until it has caught up, and give it a vote
        #[arg(long)]
        promote: bool,
    },
    /// Gives a vote to a node that was added and has caught up
    Promote {
        /// Its id
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        node_id: u64,
    },
    /// Removes a node, alive or dead, for good: its id is never used again
    #[command(after_help = REPLACING)]
    Remove {
        /// Its id
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
        node_id: u64,
    },
    /// Pins the data of the time zones that all schedules are read with, and says which zones and jobs move.
    /// Occurrences whose instant has come stay as they were; those after it are computed anew
    SetTzdata(tzdata::SetTzdataArgs),
    /// Prints the applied entries of one node with what became of each: the first endpoint that answers, leader or
    /// not, asked of no other
    #[command(after_help = EXPORT)]
    ExportLog {
        /// The first log index. Default: the first that can be had
        #[arg(long, value_name = "INDEX")]
        from: Option<u64>,
        /// The last. Default: the last that is applied
        #[arg(long, value_name = "INDEX")]
        to: Option<u64>,
    },
}

const EXPORT: &str = "\
One JSON object a line, one line for each log index in order; `-o jsonl` is its only form. The last line is
  {\"through\": INDEX, \"state_hash\": \"…\"}
and all nodes of one release give the same lines for the same range. What is purged cannot be had any more.";

const REPLACING: &str = "\
To replace a node OLD whose data is lost, on the same machine or another:
  chronarch server --config FILE --node-id NEW --rejoin
  chronarch cluster add NEW HOST:PORT --promote
  chronarch cluster remove OLD";

pub(super) async fn carry_out(
    command: ClusterCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        ClusterCommand::Status => {
            let said = client.statuses().await;
            status::print(&said, printer)
        }
        ClusterCommand::TransferLeader { node_id, to } => {
            // 0 leaves the choice to the leader
            let to = node_id.or(to).unwrap_or(0);
            let answer = client.transfer_leader(TransferLeaderRequest { to }).await?;
            print_answer(&answer, &format!("leader: {}", answer.leader_id), printer)
        }
        ClusterCommand::Add { node_id, peer_address, promote } => {
            let request = AddNodeRequest { node_id, peer_address: peer_address.to_string() };
            let answer = client.add_node(request).await?;
            if !promote {
                return print_answer(&answer, &format!("node {node_id}: added, without a vote"), printer);
            }
            promote_when_caught_up(&client, node_id, printer).await?;
            print_answer(&answer, &format!("node {node_id}: added, with a vote"), printer)
        }
        ClusterCommand::Promote { node_id } => {
            let answer = client.promote_node(PromoteNodeRequest { node_id }).await?;
            print_answer(&answer, &format!("node {node_id}: has a vote"), printer)
        }
        ClusterCommand::Remove { node_id } => {
            let answer = client.remove_node(RemoveNodeRequest { node_id }).await?;
            print_answer(&answer, &format!("node {node_id}: removed"), printer)
        }
        ClusterCommand::SetTzdata(args) => tzdata::set(args, context, printer).await,
        ClusterCommand::ExportLog { from, to } => {
            export_log(&client, ExportLogRequest { from, to }, printer).await
        }
    }
}

async fn export_log(
    client: &Client,
    request: ExportLogRequest,
    printer: &mut Printer,
) -> Result<(), Failure> {
    if !matches!(printer.output(), Output::Table | Output::Jsonl) {
        let message = "the log is exported as `-o jsonl` alone".to_owned();
        return Err(Failure::Usage { message });
    }
    let mut export = client.export_log(request).await?;
    while let Some(text) = export.next().await? {
        printer.text(&text)?;
    }
    Ok(())
}

fn print_answer<T: Serialize>(answer: &T, words: &str, printer: &mut Printer) -> Result<(), Failure> {
    match printer.output() {
        Output::Table | Output::Wide => printer.line(words),
        Output::Json => printer.json(answer),
        Output::Jsonl => printer.json_line(answer),
        Output::Yaml => printer.yaml(answer),
    }
}

/// Promotes a learner, again and again while it is refused and the learner may yet catch up.
async fn promote_when_caught_up(client: &Client, node_id: u64, printer: &mut Printer) -> Result<(), Failure> {
    let deadline = Instant::now() + CATCH_UP_MAX;
    let mut told = false;
    loop {
        let refused = match client.promote_node(PromoteNodeRequest { node_id }).await {
            Ok(_) => return Ok(()),
            Err(refused @ Error::Refused { .. }) => refused,
            Err(error) => return Err(error.into()),
        };
        let status = client.get_status(GetStatusRequest {}).await?;
        let node = status.nodes.iter().find(|node| node.node_id == node_id);
        match node.map(|node| (node.role(), node.silent_ms)) {
            // An answer was lost on the way: it has its vote.
            Some((NodeRole::Voter | NodeRole::Leader, _)) => return Ok(()),
            Some((_, Some(silent))) if silent > SILENCE_MAX_MS => return Err(refused.into()),
            Some(_) if Instant::now() < deadline => {}
            _ => return Err(refused.into()),
        }
        if !told {
            printer.note(&format!("{refused}; waiting for up to {} minutes", CATCH_UP_MAX.as_secs() / 60));
            told = true;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}
