//! What a run must have seen to prove anything.

use std::collections::BTreeMap;

use super::attempts::Starts;
use super::history::{Command, Effect, History};

/// What happened, by name.
pub(crate) fn figures(history: &History, starts: &Starts, across: u64) -> BTreeMap<&'static str, u64> {
    let commands = || {
        let entries = history.log.iter().flat_map(|entry| &entry.commands);
        entries.filter(|command| command.decision.is_done())
    };
    let of_kind = |kind: &str| commands().filter(|command| command.kind == kind).count() as u64;
    let faults = |kind: &str| {
        history.faults.iter().filter(|fault| fault.phase == "begin" && fault.kind == kind).count() as u64
    };
    let lost = commands().map(|command| command.decision.lost.len() as u64).sum::<u64>()
        + commands().filter(|one| one.kind == "complete" && one.outcome == "lost").count() as u64;
    let refused = history.log.iter().flat_map(|entry| &entry.commands);
    let is_refused = |one: &&Command| {
        one.kind == "complete" && matches!(one.decision.rejection.as_str(), "fence" | "no_run")
    };
    let refused = refused.filter(is_refused).count();
    let begun = |effect: &&Effect| effect.phase == "begin";
    // A worker that was paused between its last look at the clock and the call: the fence is what tells.
    let is_late = |effect: &&Effect| {
        let start = starts.get(&effect.fence).filter(|start| start.outcome.as_deref() == Some("lost"));
        start.and_then(|start| start.ended_at).is_some_and(|ended| effect.at > ended)
    };
    BTreeMap::from([
        ("entries", history.log.len() as u64),
        ("leader_changes", of_kind("lead").saturating_sub(1)),
        ("starts", of_kind("start")),
        ("lost_attempts", lost),
        ("stale_reports_refused", refused as u64),
        ("breakers_open_across_a_takeover", across),
        ("records", history.records().len() as u64),
        ("calls_after_their_loss", history.effects.iter().filter(begun).filter(is_late).count() as u64),
        ("calls", history.effects.iter().filter(begun).count() as u64),
        ("operations", history.operations.len() as u64),
        ("faults", history.faults.iter().filter(|fault| fault.phase == "begin").count() as u64),
        ("leader_in_the_minority", faults("leader_alone")),
        ("leader_in_the_majority", faults("follower_alone")),
        ("clock_jumps", faults("clock")),
        ("full_disks", faults("full_disk")),
    ])
}
