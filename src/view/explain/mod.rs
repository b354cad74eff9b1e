//! Why a job did or did not run, in plain words, from the replicated record.
//!
//! An explanation is a sentence that answers the question, and the facts behind it, the deciding one
//! first. It says only what the record shows: where a fact is known to the leader alone, or not kept
//! any more, it says that.

mod job;
mod run;
mod sharing;
#[cfg(test)]
mod tests;
mod waiting;

use super::cluster::WorkerInfo;
use super::words;
use crate::history::RunLog;
use crate::pb::v1 as pb;
use crate::state::run::Run;
use crate::state::time::Timestamp;
use crate::state::{Leadership, State, limits};

/// A lateness below this is no wonder and needs no reason.
const WORTH_A_WORD: std::time::Duration = std::time::Duration::from_millis(100);
/// How long before a due instant a silence must have begun to be blamed whole, where the new leader does not know
/// when it heard the last one: an idle cluster is silent too, while its leader lives.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// What an explanation is made from.
#[derive(Clone, Copy)]
pub struct Explaining<'a> {
    /// The state.
    pub state: &'a State,
    /// The run log.
    pub log: &'a RunLog,
    /// Who is connected, where that is known.
    pub workers: Option<&'a [WorkerInfo]>,
}

/// Sentences, the deciding one first.
#[derive(Default)]
struct Facts(Vec<String>);

impl Facts {
    fn add(&mut self, text: impl AsRef<str>) {
        let sentence = words::sentence(text.as_ref());
        if !sentence.is_empty() && !self.0.contains(&sentence) {
            self.0.push(sentence);
        }
    }

    fn maybe(&mut self, text: Option<String>) {
        if let Some(text) = text {
            self.add(text);
        }
    }

    fn explanation(self, summary: &str) -> pb::Explanation {
        let summary = words::sentence(summary);
        let reasons = self.0.into_iter().filter(|reason| *reason != summary).collect();
        pb::Explanation { summary, reasons }
    }
}

impl Explaining<'_> {
    /// The time without a leader that an instant fell into, if it is remembered.
    fn leader_gap(&self, due_at: Timestamp) -> Option<&Leadership> {
        self.state.leaderships().iter().find(|reign| reign.silent_since < due_at && due_at < reign.at)
    }

    fn leader_gap_words(&self, due_at: Timestamp) -> Option<String> {
        let reign = self.leader_gap(due_at)?;
        let is_vague = !reign.is_exact && due_at.since(reign.silent_since) > SILENCE;
        let since = if is_vague { due_at } else { reign.silent_since };
        let span = words::span(reign.at.since(since));
        let at_least = if since == due_at { " at least" } else { "" };
        Some(format!(
            "no leader could fire between {since} and {} ({span}{at_least}); node {} leads since then, in term {}",
            reign.at, reign.node, reign.term
        ))
    }

    /// Why a decision came late, if it did.
    fn lateness(&self, run: &Run) -> Option<String> {
        let late = run.lateness();
        if late < WORTH_A_WORD {
            return None;
        }
        let span = words::span(late);
        match self.leader_gap_words(run.due_at) {
            Some(gap) => Some(format!("it was decided {span} after it was due: {gap}")),
            None if late > limits::GRACE => Some(format!("it was decided {span} after it was due")),
            None => None,
        }
    }
}
