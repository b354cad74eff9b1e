//! Every node tells the same, nothing that was acknowledged is missing, and nothing that was refused was done.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{At, History, Node, Operation, Record, is_same_but_for_fields};
use super::{Findings, Kind, READ_MS};

/// Compares what the nodes say.
pub(crate) fn check(history: &History, findings: &mut Findings) {
    let mut lines: BTreeMap<u64, (u64, &str)> = BTreeMap::new();
    let mut hashes: BTreeMap<u64, (u64, &str)> = BTreeMap::new();
    for (id, node) in &history.nodes {
        if history.setting.two_builds {
            // Hashes are compared among nodes of one build alone.
            compare(*id, &node.lines, &mut lines, ("entry", is_same_but_for_fields), findings);
        } else {
            let is_same = |one: &str, other: &str| one == other;
            compare(*id, &node.lines, &mut lines, ("entry", is_same), findings);
            compare(*id, &node.hashes, &mut hashes, ("the state hash at", is_same), findings);
        }
    }
    whole(&lines, findings);
    order(history, findings);
    for fault in history.faults.iter().filter(|fault| fault.kind == "ended_by_itself") {
        findings.add(Kind::NodeEnded, format!("node {:?} at {}: {}", fault.nodes, fault.at, fault.detail));
    }
}

/// Compares what the nodes said when nothing went on any more.
pub(crate) fn check_at_rest(history: &History, findings: &mut Findings) {
    run_logs(history, findings);
    acknowledgements(history, findings);
}

fn compare<'a>(
    id: u64,
    said: &'a BTreeMap<u64, String>,
    first: &mut BTreeMap<u64, (u64, &'a str)>,
    (what, is_same): (&str, fn(&str, &str) -> bool),
    findings: &mut Findings,
) {
    for (index, text) in said {
        let (other, before) = *first.entry(*index).or_insert((id, text));
        if before != text && !is_same(before, text) {
            findings.add(
                Kind::DivergedReplica,
                format!("{what} {index} of nodes {other} and {id}:\n    {before}\n    {text}"),
            );
        }
    }
}

fn whole(lines: &BTreeMap<u64, (u64, &str)>, findings: &mut Findings) {
    let mut expected = 0;
    for index in lines.keys() {
        // Index 0 is the first membership; a log may begin with it or with 1.
        if *index != expected && !(expected == 0 && *index == 1) {
            findings.lacks(format!("no node could tell the entries {expected} to {}", index - 1));
        }
        expected = index + 1;
    }
}

fn order(history: &History, findings: &mut Findings) {
    let (mut term, mut now) = (0, None);
    for entry in &history.log {
        if entry.term < term || (entry.now.is_some() && entry.now < now) {
            let what = format!(
                "entry {} has term {} after {term}, {:?} after {now:?}",
                entry.index, entry.term, entry.now
            );
            findings.add(Kind::TimeWentBack, what);
        }
        term = entry.term;
        now = entry.now.or(now);
    }
}

/// What each node's run log holds is what the log says ended, no more and no less.
fn run_logs(history: &History, findings: &mut Findings) {
    let mut ended: BTreeMap<&str, &Record> = BTreeMap::new();
    for record in history.log.iter().flat_map(|entry| &entry.finished) {
        if ended.insert(&record.run_id, record).is_some() {
            findings.add(Kind::Doubled, format!("run {} ended twice", record.run_id));
        }
    }
    for (id, Node { runs, .. }) in &history.nodes {
        let mut seen = BTreeSet::new();
        for run in runs {
            let is_new = seen.insert(run.run_id.as_str());
            match ended.get(run.run_id.as_str()) {
                Some(record) if *record == run && is_new => {}
                None if run.finished_at.is_none() && is_new => {}
                other => {
                    let what = format!("node {id} lists {run:?}\n    the log: {other:?}");
                    findings.add(Kind::DivergedReplica, what);
                }
            }
        }
        for run in ended.keys().filter(|run| !seen.contains(*run)) {
            findings.add(Kind::LostRecord, format!("node {id} has no record of run {run}, which has ended"));
        }
    }
}

/// What an operation did, by the log.
struct Done<'a> {
    kind: &'a str,
    run: &'a str,
    at: At,
}

fn acknowledgements(history: &History, findings: &mut Findings) {
    let mut done: BTreeMap<(&str, &str), Done<'_>> = BTreeMap::new();
    for (entry, command) in
        history.log.iter().flat_map(|entry| entry.commands.iter().map(move |one| (entry, one)))
    {
        if !command.operation_id.is_empty() && command.decision.is_done() {
            let run = command.decision.run.as_ref().map_or("", |run| run.run_id.as_str());
            let (kind, at) = (command.kind.as_str(), entry.now.unwrap_or_default());
            let twice = done.insert((&command.operation_id, operation_of(kind)), Done { kind, run, at });
            if twice.is_some() {
                let what =
                    format!("operation {} is done again by entry {}", command.operation_id, entry.index);
                findings.add(Kind::DoubledOperation, what);
            }
        }
    }
    for operation in &history.operations {
        acknowledged(history, operation, done.get(&(&operation.operation_id, &operation.op)), findings);
    }
    let sent: BTreeSet<&str> = history.operations.iter().map(|one| one.operation_id.as_str()).collect();
    for ((operation, _), done) in done.iter().filter(|((operation, _), _)| !sent.contains(operation)) {
        let what = format!("{} under operation {operation}, which nobody sent", done.kind);
        findings.add(Kind::UnexplainedChange, what);
    }
}

fn acknowledged(history: &History, operation: &Operation, done: Option<&Done<'_>>, findings: &mut Findings) {
    let name = format!("{} of {} ({})", operation.op, operation.name, operation.operation_id);
    match (operation.result.as_str(), done) {
        ("ok", None) => {
            findings.add(Kind::LostAcknowledgement, format!("{name} was acknowledged and is not in the log"));
        }
        ("ok", Some(done)) if operation.run_id.as_deref().is_some_and(|told| told != done.run) => {
            let what = format!("{name} was told another run than {}", done.run);
            findings.add(Kind::LostAcknowledgement, what);
        }
        ("refused" | "not_done", Some(_)) => {
            findings.add(Kind::RefusedYetDone, format!("{name} was {}, and was done", operation.result));
        }
        _ => {}
    }
    let allowance = history.setting.skew_ms + READ_MS;
    if let Some(done) = done.filter(|done| done.at.0 + allowance < operation.invoked_at.0) {
        let what = format!("{name} was done at {}, and sent at {}", done.at, operation.invoked_at);
        findings.add(Kind::UnexplainedChange, what);
    }
}

/// The client's word for a command.
fn operation_of(kind: &str) -> &str {
    match kind {
        "put_job" => "apply",
        "delete_job" => "delete",
        "pause_job" => "pause",
        "resume_job" => "resume",
        "trigger_job" => "trigger",
        "cancel_run" => "cancel",
        "trip_breaker" => "trip",
        "reset_breaker" => "reset",
        other => other,
    }
}
