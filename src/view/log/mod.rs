//! Entries of the log with what became of them, as lines of JSON: what `ClusterService.ExportLog` sends.
//!
//! A line says of an entry where it lies, when it was stamped, what was proposed and how that was decided; which
//! breakers moved, and the whole records of the runs that ended with it. Its form is described at the method in
//! `cluster.proto`; names, words, instants and spans are those of the API's messages. What does not apply is left out.
//!
//! # Invariants
//! - A line is a function of the entry and of the states around it alone, so all nodes write the same bytes.
//! - A run or a job is shown as it stands after the whole entry: a later command of it may have moved it on.

mod breakers;
mod command;
mod decision;
mod names;
#[cfg(test)]
mod tests;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use self::breakers::Moved;
use self::command::Proposed;
use self::names::RunSeen;
use self::text::At;
use super::run;
use crate::pb::v1 as pb;
use crate::raft::{Content, NodeAddress, Replayed};
use crate::state::run::{Run, RunId};
use crate::state::{Applied, Entry, Job, State, StateHash};

/// An entry and the states around it.
struct Scene<'a> {
    before: &'a State,
    after: &'a State,
    finished: BTreeMap<RunId, &'a Arc<Run>>,
}

impl<'a> Scene<'a> {
    /// A run that is live after the entry, or ended with it.
    fn run(&self, id: RunId) -> Option<&'a Run> {
        let ended = || self.finished.get(&id).copied();
        self.after.run(id).or_else(ended).map(Arc::as_ref)
    }

    /// A job that is there after the entry, or was before it.
    fn job(&self, id: crate::state::run::JobId) -> Option<&'a Job> {
        self.after.job(id).or_else(|| self.before.job(id)).map(Arc::as_ref)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    index: u64,
    term: u64,
    #[serde(flatten)]
    content: Said<'a>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Said<'a> {
    Blank,
    Membership {
        voters: &'a BTreeSet<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        voters_before: Option<&'a BTreeSet<u64>>,
        learners: &'a BTreeSet<u64>,
        nodes: Vec<Member<'a>>,
    },
    Commands {
        at: At,
        now: At,
        commands: Vec<Proposed<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        breakers: Vec<Moved<'a>>,
        /// Runs that came of others that ended: those of jobs that run after them.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        made: Vec<RunSeen<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        finished: Vec<pb::Run>,
    },
}

#[derive(Serialize)]
struct Member<'a> {
    node_id: u64,
    peer_address: &'a str,
    address: &'a str,
}

#[derive(Serialize)]
struct End {
    through: u64,
    state_hash: String,
}

/// Writes the line of an entry.
pub fn write_entry(replayed: &Replayed<'_>, text: &mut Vec<u8>) {
    let content = match &replayed.content {
        Content::Blank => Said::Blank,
        Content::Membership { voters, learners, nodes } => membership(voters, learners, nodes),
        Content::Commands { entry, applied } => {
            commands((entry, applied), replayed.position.index, (replayed.before, replayed.after))
        }
    };
    let line = Line { index: replayed.position.index, term: replayed.position.term, content };
    write(&line, text);
}

/// Writes the last line: the export is whole, and the state is this one.
pub fn write_end(through: u64, hash: StateHash, text: &mut Vec<u8>) {
    write(&End { through, state_hash: hash.to_string() }, text);
}

fn write<T: Serialize>(line: &T, text: &mut Vec<u8>) {
    serde_json::to_writer(&mut *text, line).expect("a vector takes all, and all keys here are text");
    text.push(b'\n');
}

fn membership<'a>(
    voters: &'a [BTreeSet<u64>],
    learners: &'a BTreeSet<u64>,
    nodes: &'a BTreeMap<u64, NodeAddress>,
) -> Said<'a> {
    static NONE: BTreeSet<u64> = BTreeSet::new();
    let member = |(id, node): (&u64, &'a NodeAddress)| Member {
        node_id: *id,
        peer_address: &node.peer_address,
        address: &node.address,
    };
    Said::Membership {
        voters: voters.last().unwrap_or(&NONE),
        voters_before: voters.split_last().and_then(|(_, before)| before.first()),
        learners,
        nodes: nodes.iter().map(member).collect(),
    }
}

fn commands<'a>(
    (entry, applied): (&'a Entry, &'a Applied),
    index: u64,
    (before, after): (&'a State, &'a State),
) -> Said<'a> {
    let finished = applied.finished.iter().map(|run| (run.id, run)).collect();
    let scene = Scene { before, after, finished };
    let repeats: BTreeSet<usize> = applied.repeats.iter().copied().collect();
    let decided = entry.commands.iter().zip(&applied.outcomes).enumerate();
    Said::Commands {
        at: At(entry.at),
        now: At(after.now()),
        commands: decided
            .map(|(place, (command, outcome))| {
                let decision = decision::of(command, outcome, repeats.contains(&place), &scene);
                command::of(command, decision, &scene)
            })
            .collect(),
        breakers: breakers::moved(index, &scene),
        made: applied.made.iter().map(|id| RunSeen::of(*id, &scene)).collect(),
        finished: applied.finished.iter().map(|run| run::to_pb(run)).collect(),
    }
}
