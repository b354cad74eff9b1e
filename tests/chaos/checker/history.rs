//! What was observed, as plain files: the only thing that the checker knows.
//!
//! | file | holds |
//! |---|---|
//! | `run.json` | seed, profile, when the undisturbed end began, allowances |
//! | `client.jsonl` | each operation: when it was sent and answered, with what, and the job file |
//! | `faults.jsonl` | each fault: when it began and ended, on which nodes, who led |
//! | `effects.jsonl` | what the target saw: when each call began and how it ended |
//! | `node-N/log.jsonl` | the entries that the node applied, with what became of each command |
//! | `node-N/runs.jsonl`, `breakers.jsonl` | what the node says of runs and breakers at the end |
//!
//! Keys that the checker does not need are not read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At(pub(crate) i64);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(at.as_millisecond()))
    }
}

/// `run.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Setting {
    pub(crate) seed: u64,
    pub(crate) profile: String,
    pub(crate) nodes: u64,
    /// All faults were over, and every node ran.
    pub(crate) healed_at: At,
    /// How far the clock of a node that leads may be off.
    pub(crate) skew_ms: i64,
    /// Nothing was live any more when the records were taken.
    pub(crate) settled: bool,
    /// Some nodes were of another build: one that knows a field more tells it.
    #[serde(default)]
    pub(crate) two_builds: bool,
    /// How many processes wanted each processor of the machine.
    #[serde(default)]
    pub(crate) load_per_processor: f64,
    #[serde(default)]
    pub(crate) floors: BTreeMap<String, u64>,
}

/// A line of `client.jsonl`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Operation {
    /// `apply`, `delete`, `pause`, `resume`, `trigger`, `trip`, `reset`.
    pub(crate) op: String,
    pub(crate) operation_id: String,
    pub(crate) invoked_at: At,
    /// `ok`, `refused`, `unknown`, `not_done`.
    pub(crate) result: String,
    /// The job or breaker.
    pub(crate) name: String,
    /// The job file of an `apply`.
    pub(crate) file: Option<super::file::JobFile>,
    /// The run that a `trigger` made.
    pub(crate) run_id: Option<String>,
}

/// A line of `faults.jsonl`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Fault {
    pub(crate) at: At,
    pub(crate) id: u64,
    /// `begin`, `end`; `note` for what was seen, not done.
    pub(crate) phase: String,
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) nodes: Vec<u64>,
    #[serde(default)]
    pub(crate) detail: String,
}

/// A line of `effects.jsonl`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Effect {
    pub(crate) at: At,
    /// `begin`, `end`.
    pub(crate) phase: String,
    pub(crate) job: String,
    pub(crate) run_id: String,
    pub(crate) scheduled_at: At,
    pub(crate) attempt: u32,
    pub(crate) fence: u64,
    /// Of an end: `ok`, `failed`, `reset`, `cut`.
    #[serde(default)]
    pub(crate) answer: String,
}

/// A line of `log.jsonl` that is an entry.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Entry {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) kind: String,
    pub(crate) now: Option<At>,
    pub(crate) commands: Vec<Command>,
    pub(crate) breakers: Vec<Transition>,
    pub(crate) finished: Vec<Record>,
}

/// A command and its decision. Which fields are there depends on its kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Command {
    pub(crate) kind: String,
    pub(crate) operation_id: String,
    pub(crate) namespace: String,
    pub(crate) job: String,
    pub(crate) incarnation: u64,
    pub(crate) run_id: String,
    pub(crate) attempt: u32,
    pub(crate) fence: u64,
    pub(crate) outcome: String,
    pub(crate) cancel_runs: bool,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) breaker: String,
    pub(crate) open_for: Option<super::file::Span>,
    pub(crate) decision: Decision,
}

/// What a `fire` says of an instant.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Verdict {
    pub(crate) verdict: String,
    pub(crate) cause: String,
}

/// What became of a command.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Decision {
    pub(crate) outcome: String,
    pub(crate) rejection: String,
    pub(crate) repeat: bool,
    pub(crate) incarnation: u64,
    pub(crate) change: String,
    pub(crate) runs: Vec<Brief>,
    pub(crate) run: Option<Brief>,
    pub(crate) fence: u64,
    pub(crate) probe: bool,
    pub(crate) lost: Vec<Lost>,
}

impl Decision {
    /// It changed something, now and not the first time.
    pub(crate) fn is_done(&self) -> bool {
        self.outcome != "rejected" && !self.outcome.is_empty() && !self.repeat
    }
}

/// A run in a decision.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Brief {
    pub(crate) run_id: String,
    pub(crate) incarnation: u64,
    pub(crate) scheduled_at: Option<At>,
    pub(crate) due_at: Option<At>,
    pub(crate) cause: String,
    pub(crate) reason: String,
}

/// An attempt that a `lose` gave up.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Lost {
    pub(crate) run_id: String,
    pub(crate) fence: u64,
}

/// A change of a breaker.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Transition {
    pub(crate) breaker: String,
    pub(crate) incarnation: u64,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) open_until: Option<At>,
}

/// The record of a run.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Record {
    pub(crate) run_id: String,
    pub(crate) job: String,
    pub(crate) incarnation: u64,
    pub(crate) scheduled_at: At,
    pub(crate) scheduled_from: Option<At>,
    pub(crate) scheduled_until: Option<At>,
    pub(crate) due_at: At,
    pub(crate) fired_at: At,
    pub(crate) finished_at: Option<At>,
    pub(crate) cause: String,
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) stands_for: u64,
    pub(crate) attempts: Vec<Attempt>,
}

impl Record {
    /// The first and last instant that it stands for.
    pub(crate) fn range(&self) -> (At, At) {
        (self.scheduled_from.unwrap_or(self.scheduled_at), self.scheduled_until.unwrap_or(self.scheduled_at))
    }
}

/// An attempt in a record.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Attempt {
    pub(crate) number: u32,
    pub(crate) fence: u64,
    pub(crate) started_at: At,
    pub(crate) finished_at: Option<At>,
    pub(crate) outcome: String,
}

/// A breaker as a node shows it at the end.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Breaker {
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) consecutive_failures: u32,
    #[serde(default)]
    pub(crate) transitions: Vec<Moved>,
}

/// When a breaker moved, as a node shows it at the end.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Moved {
    pub(crate) index: u64,
}

/// What one node says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    /// By index: the line as it is, for comparison.
    pub(crate) lines: BTreeMap<u64, String>,
    /// By the index that an export went through.
    pub(crate) hashes: BTreeMap<u64, String>,
    pub(crate) runs: Vec<Record>,
    pub(crate) breakers: Vec<Breaker>,
}

/// Everything.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) setting: Setting,
    pub(crate) operations: Vec<Operation>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) nodes: BTreeMap<u64, Node>,
    /// The entries of all nodes, by index; where they differ, that of the first node.
    pub(crate) log: Vec<Entry>,
}

impl History {
    /// Reads the folder of a run.
    ///
    /// # Errors
    /// What file is missing or malformed, and where.
    pub(crate) fn read(dir: &Path) -> Result<Self, String> {
        let setting = read_text(&dir.join("run.json"))?;
        let setting: Setting =
            serde_json::from_str(&setting).map_err(|error| format!("run.json: {error}"))?;
        let mut nodes = BTreeMap::new();
        for node in 1..=setting.nodes {
            let folder = dir.join(format!("node-{node}"));
            let mut read = read_log(&folder.join("log.jsonl"), setting.two_builds)?;
            read.runs = lines(&folder.join("runs.jsonl"))?;
            read.breakers = lines(&folder.join("breakers.jsonl"))?;
            nodes.insert(node, read);
        }
        let log = merged(&nodes)?;
        Ok(Self {
            setting,
            operations: lines(&dir.join("client.jsonl"))?,
            faults: lines(&dir.join("faults.jsonl"))?,
            effects: lines(&dir.join("effects.jsonl"))?,
            nodes,
            log,
        })
    }

    /// The newest replicated time.
    pub(crate) fn last_now(&self) -> At {
        self.log.iter().filter_map(|entry| entry.now).max().unwrap_or_default()
    }

    /// Every record of the log, and those of runs that were live at the end.
    pub(crate) fn records(&self) -> BTreeMap<&str, &Record> {
        let mut records = BTreeMap::new();
        for node in self.nodes.values() {
            records.extend(node.runs.iter().map(|run| (run.run_id.as_str(), run)));
        }
        let finished = self.log.iter().flat_map(|entry| &entry.finished);
        records.extend(finished.map(|run| (run.run_id.as_str(), run)));
        records
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, String> {
    let text = read_text(path)?;
    let read = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| format!("{}:{}: {error}", path.display(), number + 1))
    };
    text.lines().enumerate().map(read).collect()
}

/// An entry's index, or how far an export went and what the state was then.
#[derive(Deserialize)]
struct Head {
    index: Option<u64>,
    through: Option<u64>,
    state_hash: Option<String>,
}

/// Whether two builds mean the same entry: all that one of them tells the other tells too, and maybe more.
pub(crate) fn is_same_but_for_fields(one: &str, other: &str) -> bool {
    let read = |line| serde_json::from_str::<Value>(line).ok();
    let (Some(one), Some(other)) = (read(one), read(other)) else { return false };
    tells_all(&one, &other) || tells_all(&other, &one)
}

fn tells_all(newer: &Value, older: &Value) -> bool {
    match (newer, older) {
        (Value::Object(newer), Value::Object(older)) => {
            older.iter().all(|(key, value)| newer.get(key).is_some_and(|newer| tells_all(newer, value)))
        }
        (Value::Array(newer), Value::Array(older)) => {
            newer.len() == older.len()
                && newer.iter().zip(older).all(|(newer, older)| tells_all(newer, older))
        }
        (newer, older) => newer == older,
    }
}

fn read_log(path: &Path, two_builds: bool) -> Result<Node, String> {
    let mut node = Node::default();
    for (number, line) in read_text(path)?.lines().enumerate() {
        let wrong = |what: String| format!("{}:{}: {what}", path.display(), number + 1);
        let head: Head = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        match (head.index, head.through, head.state_hash) {
            (Some(index), None, None) => {
                let before = node.lines.insert(index, line.to_owned());
                let told_alike =
                    |before: &String| before == line || (two_builds && is_same_but_for_fields(before, line));
                if !before.as_ref().is_none_or(told_alike) {
                    return Err(wrong(format!("entry {index} is told in two ways by one node")));
                }
            }
            (None, Some(through), Some(hash)) => {
                node.hashes.insert(through, hash);
            }
            _ => return Err(wrong("neither an entry nor an end".to_owned())),
        }
    }
    Ok(node)
}

pub(crate) fn merged(nodes: &BTreeMap<u64, Node>) -> Result<Vec<Entry>, String> {
    let mut lines: BTreeMap<u64, &str> = BTreeMap::new();
    for node in nodes.values() {
        for (index, line) in &node.lines {
            lines.entry(*index).or_insert(line);
        }
    }
    let read = |(index, line): (&u64, &&str)| {
        serde_json::from_str(line).map_err(|error| format!("{index}: {error}"))
    };
    lines.iter().map(read).collect()
}
