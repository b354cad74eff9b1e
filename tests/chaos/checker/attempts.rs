//! G3: attempts as the log tells them: one at a time, under a fence that only grows, as often and as many beside
//! each other as the job allows; and the reason of each end.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{At, Command, Entry, History, Record};
use super::lives::Life;
use super::{Findings, Kind, instants};

/// A start that the log holds.
pub(crate) struct Start {
    pub(crate) run_id: String,
    pub(crate) attempt: u32,
    /// The replicated time of its entry.
    pub(crate) at: At,
    pub(crate) incarnation: u64,
    /// How the log says that it ended, and when.
    pub(crate) outcome: Option<String>,
    pub(crate) ended_at: Option<At>,
}

/// All starts, by fence.
pub(crate) type Starts = BTreeMap<u64, Start>;

struct Replay<'a> {
    lives: &'a BTreeMap<u64, Life>,
    findings: &'a mut Findings,
    starts: Starts,
    /// The fence of the attempt that runs, by run.
    running: BTreeMap<String, u64>,
    /// Runs with an attempt that was lost while the job was `on_lost: fail`.
    given_up: BTreeSet<String>,
    /// Fired and not ended, by job.
    live: BTreeMap<u64, BTreeSet<String>>,
}

/// Replays the log.
pub(crate) fn replay(history: &History, lives: &BTreeMap<u64, Life>, findings: &mut Findings) -> Starts {
    let mut replay = Replay {
        lives,
        findings,
        starts: Starts::new(),
        running: BTreeMap::new(),
        given_up: BTreeSet::new(),
        live: BTreeMap::new(),
    };
    for entry in &history.log {
        replay.entry(entry);
    }
    replay.starts
}

impl Replay<'_> {
    fn entry(&mut self, entry: &Entry) {
        let before = self.live.clone();
        for command in entry.commands.iter().filter(|command| command.decision.is_done()) {
            self.command(entry, command);
        }
        for record in &entry.finished {
            self.end_is_justified(entry, record, &before);
        }
        for record in &entry.finished {
            self.live.entry(record.incarnation).or_default().remove(&record.run_id);
        }
    }

    fn command(&mut self, entry: &Entry, command: &Command) {
        match command.kind.as_str() {
            "fire" => {
                for run in &command.decision.runs {
                    self.live.entry(run.incarnation).or_default().insert(run.run_id.clone());
                }
                if let Some(life) = self.lives.get(&command.incarnation) {
                    let place = (entry.index, entry.now.unwrap_or_default());
                    instants::check_catch_up(life, command, place, self.findings);
                }
            }
            "trigger_job" => {
                if let Some(run) = &command.decision.run {
                    self.live.entry(run.incarnation).or_default().insert(run.run_id.clone());
                }
            }
            "start" => self.start(entry, command),
            "complete" => {
                let runs = self.running.get(&command.run_id).copied();
                if runs != Some(command.fence) {
                    let what = format!(
                        "entry {} accepts the end of fence {} of run {}, while {runs:?} runs",
                        entry.index, command.fence, command.run_id
                    );
                    self.findings.add(Kind::StaleFenceAccepted, what);
                }
                self.ended(entry, &command.run_id, command.fence, &command.outcome);
            }
            "lose" => {
                for lost in &command.decision.lost {
                    self.ended(entry, &lost.run_id, lost.fence, "lost");
                }
            }
            _ => {}
        }
    }

    fn start(&mut self, entry: &Entry, command: &Command) {
        let fence = command.decision.fence;
        let name = format!("entry {} starts attempt {} of {}", entry.index, command.attempt, command.run_id);
        if self.starts.last_key_value().is_some_and(|(last, _)| *last >= fence) {
            self.findings.add(Kind::FenceDidNotGrow, format!("{name} under fence {fence}"));
        }
        if let Some(other) = self.running.get(&command.run_id) {
            let what = format!("{name} while the one with fence {other} runs");
            self.findings.add(Kind::TwoAttemptsAtOnce, what);
        }
        if self.given_up.contains(&command.run_id) {
            self.findings.add(Kind::AttemptAfterLoss, format!("{name}, which was lost and on_lost is fail"));
        }
        let Some(life) = self.lives.get(&command.incarnation) else {
            return self.findings.add(Kind::Unexplained, format!("{name} of a job that was never created"));
        };
        let is_live = self.live.get(&command.incarnation).is_some_and(|runs| runs.contains(&command.run_id));
        if !is_live {
            self.findings.add(Kind::Unexplained, format!("{name}, which is not live"));
        }
        let beside = self.running.keys().filter(|run| self.is_of(run, command.incarnation)).count();
        let most = life.files().map(|file| match file.overlap.policy.as_str() {
            "allow" => usize::MAX,
            _ => file.overlap.max_parallel,
        });
        if beside >= most.max().unwrap_or(1) {
            self.findings.add(Kind::Overlap, format!("{name} of {} beside {beside} others", life.name));
        }
        self.running.insert(command.run_id.clone(), fence);
        let at = entry.now.unwrap_or_default();
        let (run_id, attempt) = (command.run_id.clone(), command.attempt);
        let incarnation = command.incarnation;
        self.starts.insert(fence, Start { run_id, attempt, at, incarnation, outcome: None, ended_at: None });
    }

    fn is_of(&self, run: &str, incarnation: u64) -> bool {
        self.live.get(&incarnation).is_some_and(|runs| runs.contains(run))
    }

    fn ended(&mut self, entry: &Entry, run_id: &str, fence: u64, outcome: &str) {
        self.running.remove(run_id);
        let Some(start) = self.starts.get_mut(&fence) else { return };
        start.outcome = Some(outcome.to_owned());
        start.ended_at = entry.now;
        let fails =
            self.lives.get(&start.incarnation).map(|life| life.at(entry.index).file.on_lost == "fail");
        if matches!(outcome, "lost" | "cancelled") && fails == Some(true) {
            self.given_up.insert(run_id.to_owned());
        }
    }

    fn end_is_justified(&mut self, entry: &Entry, record: &Record, before: &BTreeMap<u64, BTreeSet<String>>) {
        let Some(life) = self.lives.get(&record.incarnation) else { return };
        let name = format!("run {} of {} is {}: {:?}", record.run_id, life.name, record.state, record.reason);
        let others = |live: &BTreeMap<u64, BTreeSet<String>>| {
            live.get(&record.incarnation).is_some_and(|runs| runs.iter().any(|run| *run != record.run_id))
        };
        let file = &life.at(entry.index).file;
        let is_justified = match (record.state.as_str(), record.reason.as_str()) {
            ("skipped", "overlap") => others(before) || others(&self.live),
            ("skipped", "expired") => life.files().any(|file| file.start_within.is_some()),
            // What the breaker was is told by its model.
            ("skipped", "breaker_open" | "catch_up") => true,
            ("cancelled", "superseded") => life.files().any(|file| file.overlap.policy == "replace"),
            ("cancelled", "cancelled") => life.cancels,
            ("succeeded" | "failed", _) => true,
            _ => false,
        };
        let is_untouched = record.state != "skipped" || record.attempts.is_empty();
        if !is_justified || !is_untouched {
            self.findings
                .add(Kind::Unexplained, format!("{name} without cause (overlap {:?})", file.overlap));
        }
    }
}
