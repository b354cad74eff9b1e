//! `cluster`: what each endpoint says, leadership, and who belongs to it.

use std::time::Duration;

use clap::Subcommand;
use comfy_table::Table;
use serde::Serialize;
use tokio::time::Instant;

use super::args::Output;
use super::printer::Printer;
use super::{Context, Failure, tables};
use crate::client::{Client, Endpoint, Error};
use crate::pb::v1::{
    AddNodeRequest, ClusterStatus, GetStatusRequest, NodeRole, PromoteNodeRequest, RemoveNodeRequest,
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
    /// Asks every endpoint what it sees; the leader is marked with `*`. Exit code 3 when none answers
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
}

const REPLACING: &str = "\
To replace a node OLD whose data is lost, on the same machine or another:
  chronarch server --config FILE --node-id NEW --rejoin
  chronarch cluster add NEW HOST:PORT --promote
  chronarch cluster remove OLD";

/// What `-o json` prints: the status of the first node that answered, and all endpoints.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    status: &'a ClusterStatus,
    endpoints: Vec<EndpointReport>,
}

/// One endpoint. Where it is unreachable, what the node would have said is absent (`null`).
#[derive(Serialize)]
struct EndpointReport {
    endpoint: String,
    reachable: bool,
    node_id: Option<u64>,
    leader_id: Option<u64>,
    term: Option<u64>,
    applied_index: Option<u64>,
    error: Option<String>,
}

impl EndpointReport {
    fn of((endpoint, said): &(Endpoint, Result<ClusterStatus, Error>)) -> Self {
        let status = said.as_ref().ok();
        Self {
            endpoint: endpoint.to_string(),
            reachable: status.is_some(),
            node_id: status.map(|status| status.node_id),
            leader_id: status.map(|status| status.leader_id),
            term: status.map(|status| status.term),
            applied_index: status.map(|status| status.applied_index),
            error: said.as_ref().err().map(reason),
        }
    }
}

/// Why one endpoint gave no status, without the words about all endpoints.
fn reason(error: &Error) -> String {
    match error {
        Error::Unreachable { tried } => match tried.first() {
            Some(tried) => tried.reason.clone(),
            None => error.to_string(),
        },
        error => error.to_string(),
    }
}

pub(super) async fn carry_out(
    command: ClusterCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        ClusterCommand::Status => {
            let said = client.statuses().await;
            print_status(&said, printer)
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
    }
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

fn print_status(
    said: &[(Endpoint, Result<ClusterStatus, Error>)],
    printer: &mut Printer,
) -> Result<(), Failure> {
    let endpoints: Vec<EndpointReport> = said.iter().map(EndpointReport::of).collect();
    // A node that knows the leader knows more than one that does not, and the leader most of all.
    let answers = || said.iter().filter_map(|(_, status)| status.as_ref().ok());
    let knowing = answers().find(|status| status.node_id == status.leader_id && status.leader_id > 0);
    let people = matches!(printer.output(), Output::Table | Output::Wide);
    let first = if people { knowing.or_else(|| answers().next()) } else { answers().next() };
    if !people {
        let nothing = ClusterStatus::default();
        let report = Report { status: first.unwrap_or(&nothing), endpoints };
        printer.object(&report, |_| Table::new())?;
        return if first.is_some() { Ok(()) } else { Err(Failure::NoEndpoint) };
    }
    let wide = printer.output() == Output::Wide;
    if let Some(status) = first {
        printer.table(tables::cluster(status))?;
        printer.line("")?;
        printer.table(tables::nodes(status, wide))?;
        printer.line("")?;
        if wide && !status.workers.is_empty() {
            printer.table(tables::workers(status))?;
            printer.line("")?;
        }
    }
    printer.table(endpoint_table(&endpoints))?;
    if first.is_some() { Ok(()) } else { Err(Failure::NoEndpoint) }
}

fn endpoint_table(endpoints: &[EndpointReport]) -> Table {
    let mut table = Table::new();
    table.set_header(["ENDPOINT", "REACHABLE", "NODE", "LEADER", "TERM", "APPLIED", "ERROR"]);
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for report in endpoints {
        let leads = report.node_id.is_some() && report.node_id == report.leader_id;
        table.add_row([
            report.endpoint.clone(),
            if report.reachable { "yes" } else { "no" }.to_owned(),
            format!("{}{}", number(report.node_id), if leads { "*" } else { "" }),
            number(report.leader_id.filter(|leader| *leader > 0)),
            number(report.term),
            number(report.applied_index),
            report.error.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}
