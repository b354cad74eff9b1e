//! `cluster status`: what each endpoint says, and whether the replicas are the same.

use std::collections::BTreeMap;

use comfy_table::Table;
use serde::Serialize;

use crate::cli::args::Output;
use crate::cli::printer::Printer;
use crate::cli::{Failure, tables};
use crate::client::{Endpoint, Error};
use crate::pb::v1::{ClusterStatus, StateHash};

/// Digits of a hash that tell two of them apart at a glance.
pub(in crate::cli) const HASH_DIGITS: usize = 12;

/// What `-o json` prints: the status of the first node that answered, all endpoints, and where replicas differ.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    status: &'a ClusterStatus,
    endpoints: Vec<EndpointReport>,
    diverged: Vec<Divergence>,
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
    state_hashes: Option<Vec<StateHash>>,
    error: Option<String>,
}

/// A log index at which nodes of one release have different states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Divergence {
    index: u64,
    nodes: Vec<NodeHash>,
}

/// The state of a node at that index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct NodeHash {
    node_id: u64,
    hash: String,
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
            state_hashes: status.map(|status| status.state_hashes.clone()),
            error: said.as_ref().err().map(reason),
        }
    }

    /// Its hash at `index`, or else its newest.
    fn hash(&self, index: Option<u64>) -> Option<&StateHash> {
        let hashes = self.state_hashes.as_deref().unwrap_or_default();
        hashes.iter().find(|hash| Some(hash.index) == index).or(hashes.last())
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

/// Where the states of nodes differ. Releases are compared among themselves: another may write a field more.
fn divergences<'a>(statuses: impl Iterator<Item = &'a ClusterStatus>) -> Vec<Divergence> {
    let mut seen: BTreeMap<(&str, u64), BTreeMap<u64, &str>> = BTreeMap::new();
    for status in statuses {
        for StateHash { index, hash } in &status.state_hashes {
            seen.entry((&status.version, *index)).or_default().insert(status.node_id, hash);
        }
    }
    let differ = |nodes: &BTreeMap<u64, &str>| {
        let first = nodes.values().next();
        nodes.values().any(|hash| Some(hash) != first)
    };
    let told = seen.into_iter().filter(|(_, nodes)| differ(nodes)).map(|((_, index), nodes)| {
        let hash = |(node_id, hash): (u64, &str)| NodeHash { node_id, hash: hash.to_owned() };
        Divergence { index, nodes: nodes.into_iter().map(hash).collect() }
    });
    told.collect()
}

impl Divergence {
    /// `at log index 2048: node 1 3f…, node 2 a0…`.
    fn words(&self) -> String {
        let node = |node: &NodeHash| format!("node {} {}", node.node_id, short(&node.hash));
        let nodes: Vec<String> = self.nodes.iter().map(node).collect();
        format!("at log index {}: {}", self.index, nodes.join(", "))
    }
}

fn short(hash: &str) -> &str {
    hash.get(..HASH_DIGITS).unwrap_or(hash)
}

pub(super) fn print(
    said: &[(Endpoint, Result<ClusterStatus, Error>)],
    printer: &mut Printer,
) -> Result<(), Failure> {
    let endpoints: Vec<EndpointReport> = said.iter().map(EndpointReport::of).collect();
    // A node that knows the leader knows more than one that does not, and the leader most of all.
    let answers = || said.iter().filter_map(|(_, status)| status.as_ref().ok());
    let knowing = answers().find(|status| status.node_id == status.leader_id && status.leader_id > 0);
    let people = matches!(printer.output(), Output::Table | Output::Wide);
    let first = if people { knowing.or_else(|| answers().next()) } else { answers().next() };
    let diverged = divergences(answers());
    if people {
        print_tables(first, &endpoints, printer)?;
    } else {
        let nothing = ClusterStatus::default();
        let report = Report { status: first.unwrap_or(&nothing), endpoints, diverged: diverged.clone() };
        printer.object(&report, |_| Table::new())?;
    }
    match first {
        None => Err(Failure::NoEndpoint),
        Some(_) if !diverged.is_empty() => {
            let places: Vec<String> = diverged.iter().map(Divergence::words).collect();
            Err(Failure::Diverged { places: places.join("; ") })
        }
        Some(_) => Ok(()),
    }
}

fn print_tables(
    first: Option<&ClusterStatus>,
    endpoints: &[EndpointReport],
    printer: &mut Printer,
) -> Result<(), Failure> {
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
    printer.table(endpoint_table(endpoints, wide))
}

/// The newest index at which every node that answers has a hash.
fn common_index(endpoints: &[EndpointReport]) -> Option<u64> {
    let mut all = endpoints.iter().filter_map(|report| report.state_hashes.as_deref());
    let first = all.next()?;
    let rest: Vec<&[StateHash]> = all.collect();
    let has = |hashes: &[StateHash], index| hashes.iter().any(|hash| hash.index == index);
    first.iter().rev().map(|hash| hash.index).find(|index| rest.iter().all(|hashes| has(hashes, *index)))
}

fn endpoint_table(endpoints: &[EndpointReport], wide: bool) -> Table {
    let mut table = Table::new();
    let header =
        ["ENDPOINT", "REACHABLE", "NODE", "LEADER", "TERM", "APPLIED", "HASHED", "STATE HASH", "ERROR"];
    table.set_header(header);
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let common = common_index(endpoints);
    for report in endpoints {
        let leads = report.node_id.is_some() && report.node_id == report.leader_id;
        let hash = report.hash(common);
        let shown = hash.map(|hash| if wide { &hash.hash } else { short(&hash.hash) });
        table.add_row([
            report.endpoint.clone(),
            if report.reachable { "yes" } else { "no" }.to_owned(),
            format!("{}{}", number(report.node_id), if leads { "*" } else { "" }),
            number(report.leader_id.filter(|leader| *leader > 0)),
            number(report.term),
            number(report.applied_index),
            number(hash.map(|hash| hash.index)),
            shown.unwrap_or("-").to_owned(),
            report.error.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(node_id: u64, version: &str, hashes: &[(u64, &str)]) -> ClusterStatus {
        let hash = |(index, hash): &(u64, &str)| StateHash { index: *index, hash: (*hash).to_owned() };
        ClusterStatus {
            node_id,
            version: version.to_owned(),
            state_hashes: hashes.iter().map(hash).collect(),
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn nodes_of_one_release_that_differ_at_one_index_are_told_and_no_others() {
        let agreed = [
            status(1, "1.0", &[(1024, "aa"), (2048, "bb")]),
            status(2, "1.0", &[(2048, "bb"), (3072, "cc")]),
            status(3, "1.1", &[(2048, "other"), (3072, "cc")]),
        ];
        assert_eq!(divergences(agreed.iter()), []);
        let differ = [agreed[0].clone(), agreed[1].clone(), status(4, "1.0", &[(2048, "xx"), (3072, "cc")])];
        let told = divergences(differ.iter());
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].words(), "at log index 2048: node 1 bb, node 2 bb, node 4 xx");
    }

    #[test]
    fn rows_are_compared_at_an_index_that_all_have() {
        let report =
            |status: ClusterStatus| EndpointReport::of(&("h:1".parse().expect("an endpoint"), Ok(status)));
        let mut rows = vec![
            report(status(1, "1.0", &[(1024, "a1"), (2048, "a2"), (3072, "a3")])),
            report(status(2, "1.0", &[(1024, "b1"), (2048, "b2")])),
        ];
        assert_eq!(common_index(&rows), Some(2048));
        assert_eq!(rows[0].hash(Some(2048)).map(|hash| hash.hash.as_str()), Some("a2"));
        rows.push(report(status(3, "1.0", &[])));
        assert_eq!(common_index(&rows), None);
        assert_eq!(
            rows[0].hash(None).map(|hash| hash.hash.as_str()),
            Some("a3"),
            "then each shows its newest"
        );
    }
}
