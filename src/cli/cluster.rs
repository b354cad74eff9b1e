//! `cluster`: what each endpoint says, and leadership.

use clap::Subcommand;
use comfy_table::Table;
use serde::Serialize;

use super::args::Output;
use super::printer::Printer;
use super::{Context, Failure, tables};
use crate::client::{Endpoint, Error};
use crate::pb::v1::{ClusterStatus, TransferLeaderRequest};

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Asks every endpoint what it sees; the leader is marked with `*`. Exit code 3 when none answers
    Status,
    /// Hands leadership over to a voter that has caught up
    TransferLeader {
        /// The node to hand it to. Default: the voter that is furthest
        #[arg(long, value_name = "NODE", default_value_t = 0, hide_default_value = true)]
        to: u64,
    },
}

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
        ClusterCommand::TransferLeader { to } => {
            let answer = client.transfer_leader(TransferLeaderRequest { to }).await?;
            match printer.output() {
                Output::Table | Output::Wide => printer.line(&format!("leader: {}", answer.leader_id)),
                Output::Json => printer.json(&answer),
                Output::Jsonl => printer.json_line(&answer),
                Output::Yaml => printer.yaml(&answer),
            }
        }
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
