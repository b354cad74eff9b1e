//! A history that keeps every promise, small enough to be read, made from lines as files hold them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::history::{At, History, Node, merged};

/// When the history begins.
const T: i64 = 1_800_000_000_000;

/// The instant so many milliseconds after the beginning.
pub(super) fn at(ms: i64) -> Value {
    json!(At(T + ms).to_string())
}

pub(super) fn run_id(second: i64) -> String {
    format!("8192-{}", T + second * 1_000)
}

/// What a history is made from, before it is read.
#[derive(Clone)]
pub(super) struct Scene {
    pub(super) log: Vec<Value>,
    pub(super) operations: Vec<Value>,
    pub(super) faults: Vec<Value>,
    pub(super) effects: Vec<Value>,
    /// Lines that one node tells otherwise.
    pub(super) other: BTreeMap<usize, Value>,
    /// Records that one node lacks.
    pub(super) lacks: Vec<String>,
    pub(super) breakers: Vec<Value>,
    pub(super) settled: bool,
    pub(super) two_builds: bool,
    pub(super) load: f64,
    pub(super) floors: BTreeMap<String, u64>,
}

fn read<T: serde::de::DeserializeOwned>(values: &[Value]) -> Vec<T> {
    let one = |value: &Value| serde_json::from_value(value.clone()).expect("a sound line");
    values.iter().map(one).collect()
}

impl Scene {
    pub(super) fn history(&self) -> History {
        let records: Vec<Value> = self
            .log
            .iter()
            .flat_map(|line| line["finished"].as_array().cloned().unwrap_or_default())
            .collect();
        let nodes: BTreeMap<u64, Node> = (1..=3)
            .map(|id| {
                let line = |(place, line): (usize, &Value)| {
                    let line = self.other.get(&place).filter(|_| id == 2).unwrap_or(line);
                    (line["index"].as_u64().expect("an index"), line.to_string())
                };
                let is_kept = |record: &&Value| {
                    id != 3 || !self.lacks.iter().any(|lacks| record["run_id"] == lacks.as_str())
                };
                let kept: Vec<Value> = records.iter().filter(is_kept).cloned().collect();
                let node = Node {
                    lines: self.log.iter().enumerate().map(line).collect(),
                    hashes: BTreeMap::new(),
                    runs: read(&kept),
                    breakers: read(&self.breakers),
                };
                (id, node)
            })
            .collect();
        let setting = json!({
            "seed": 1, "profile": "planted", "nodes": 3, "healed_at": at(7_000), "quiet_at": at(8_000),
            "skew_ms": 0, "settled": self.settled, "load_per_processor": self.load, "floors": self.floors,
            "two_builds": self.two_builds,
        });
        History {
            setting: serde_json::from_value(setting).expect("a sound setting"),
            operations: read(&self.operations),
            faults: read(&self.faults),
            effects: read(&self.effects),
            log: merged(&nodes).expect("a sound log"),
            nodes,
        }
    }

    pub(super) fn entry(&mut self, term: u64, ms: i64, commands: Value) -> &mut Value {
        let index = self.log.len();
        self.log.push(json!({
            "index": index, "term": term, "kind": "commands", "at": at(ms), "now": at(ms), "commands": commands,
        }));
        self.log.last_mut().expect("just pushed")
    }

    pub(super) fn find(&mut self, is_it: impl Fn(&Value) -> bool) -> &mut Value {
        self.log.iter_mut().find(|line| is_it(line)).expect("the entry is there")
    }

    /// The record that ended for the instant of a second.
    pub(super) fn record(&mut self, second: i64) -> &mut Value {
        let id = run_id(second);
        let mut records =
            self.log.iter_mut().filter_map(|line| line.get_mut("finished")?.as_array_mut()).flatten();
        records.find(|record| record["run_id"] == id.as_str()).expect("the record is there")
    }

    /// The first command of a kind in an entry at or after a time.
    pub(super) fn command(&mut self, kind: &str, ms: i64) -> &mut Value {
        let from = at(ms);
        let late = self.log.iter_mut().filter(|line| line["now"].as_str() >= from.as_str());
        let mut commands = late.filter_map(|line| line.get_mut("commands")?.as_array_mut()).flatten();
        commands.find(|command| command["kind"] == kind).expect("the command is there")
    }
}

pub(super) fn record(
    second: i64,
    fired: i64,
    ended: i64,
    state: &str,
    reason: &str,
    attempts: Value,
) -> Value {
    json!({
        "run_id": run_id(second), "job": "a", "incarnation": 8192, "scheduled_at": at(second * 1_000),
        "scheduled_from": null, "scheduled_until": null, "due_at": at(second * 1_000), "fired_at": at(fired),
        "finished_at": at(ended), "cause": "schedule", "state": state, "reason": reason, "stands_for": 1,
        "attempts": attempts,
    })
}

pub(super) fn attempt(fence: u64, started: i64, ended: i64, outcome: &str) -> Value {
    json!([{"number": 1, "fence": fence, "started_at": at(started), "finished_at": at(ended), "outcome": outcome}])
}

pub(super) fn fire(second: i64) -> Value {
    let brief = json!({
        "run_id": run_id(second), "incarnation": 8192, "scheduled_at": at(second * 1_000),
        "due_at": at(second * 1_000), "cause": "schedule",
    });
    json!({
        "kind": "fire", "job": "a", "incarnation": 8192,
        "verdicts": [{"verdict": "run", "cause": "schedule"}],
        "decision": {"outcome": "fired", "runs": [brief]},
    })
}

pub(super) fn start(run: &str, fence: u64, probe: bool) -> Value {
    json!({
        "kind": "start", "job": "a", "incarnation": 8192, "run_id": run, "attempt": 1,
        "decision": {"outcome": "started", "fence": fence, "probe": probe},
    })
}

pub(super) fn complete(run: &str, fence: u64, outcome: &str) -> Value {
    json!({
        "kind": "complete", "job": "a", "incarnation": 8192, "run_id": run, "fence": fence, "outcome": outcome,
        "decision": {"outcome": "completed", "ended": true},
    })
}

pub(super) fn effect(phase: &str, ms: i64, run: &str, fence: u64, answer: &str) -> Value {
    json!({
        "at": at(ms), "phase": phase, "job": "a", "run_id": run, "scheduled_at": at(ms / 1_000 * 1_000),
        "attempt": 1, "fence": fence, "answer": answer,
    })
}

pub(super) fn moves(from: &str, to: &str, until: Option<i64>) -> Value {
    let mut said = json!({"breaker": "job:a", "incarnation": 8192, "from": from, "to": to});
    if let Some(until) = until {
        said["open_until"] = at(until);
    }
    json!([said])
}

fn lead(node: u64) -> Value {
    json!([{"kind": "lead", "node_id": node, "decision": {"outcome": "done"}}])
}

/// A job every second, at most once, whose breaker opens after two failures: it succeeds, fails twice, is held off by
/// its breaker over a takeover, loses its first probe, passes the second, is triggered, and is paused.
pub(super) fn good() -> Scene {
    let mut scene = Scene {
        log: vec![
            json!({"index": 0, "term": 0, "kind": "membership"}),
            json!({"index": 1, "term": 1, "kind": "blank"}),
        ],
        operations: Vec::new(),
        faults: vec![
            json!({"at": at(2_400), "id": 1, "phase": "begin", "kind": "kill", "nodes": [1]}),
            json!({"at": at(2_600), "id": 1, "phase": "end", "kind": "kill", "nodes": [1]}),
        ],
        effects: Vec::new(),
        other: BTreeMap::new(),
        lacks: Vec::new(),
        breakers: vec![json!({"name": "job:a", "state": "closed", "consecutive_failures": 0})],
        settled: true,
        two_builds: false,
        load: 1.0,
        floors: BTreeMap::from([("leader_changes".to_owned(), 1)]),
    };
    scene.entry(1, -900, lead(1));
    scene.put();
    for (second, fence, outcome) in [(0, 1, "succeeded"), (1, 2, "failed"), (2, 3, "failed")] {
        scene.attempt(1, second, fence, outcome, false);
    }
    scene.log.last_mut().expect("the second failure")["breakers"] = moves("closed", "open", Some(4_050));
    scene.entry(2, 2_900, lead(2));
    for second in [3, 4] {
        let ms = second * 1_000 + 5;
        let line = scene.entry(2, ms, json!([fire(second)]));
        line["finished"] = json!([record(second, ms, ms, "skipped", "breaker_open", json!([]))]);
    }
    let half_open = json!({
        "kind": "half_open", "breaker": "job:a", "incarnation": 8192, "decision": {"outcome": "done"},
    });
    scene.entry(2, 4_060, json!([half_open]))["breakers"] = moves("open", "half_open", None);
    scene.lose_probe();
    scene.attempt(2, 6, 5, "succeeded", true);
    scene.log.last_mut().expect("the probe")["breakers"] = moves("half_open", "closed", None);
    scene.trigger();
    let pause = json!({
        "kind": "pause_job", "job": "a", "incarnation": 8192, "operation_id": "three",
        "decision": {"outcome": "done"},
    });
    scene.entry(2, 6_900, json!([pause]));
    scene.operations.push(json!({
        "op": "pause", "operation_id": "three", "invoked_at": at(6_890), "result": "ok", "name": "a",
    }));
    scene.entry(2, 20_000, json!([]));
    scene
}

impl Scene {
    fn put(&mut self) {
        let file = json!({
            "name": "a", "schedule": [{"every": "1s"}], "on_lost": "fail",
            "breaker": {"consecutive_failures": 2, "open_for": "2s", "max_open_for": "8s"},
        });
        let put = json!({
            "kind": "put_job", "job": "a", "operation_id": "one",
            "decision": {"outcome": "put", "incarnation": 8192, "change": "created"},
        });
        self.entry(1, -500, json!([put]));
        self.operations.push(json!({
            "op": "apply", "operation_id": "one", "invoked_at": at(-510), "result": "ok", "name": "a", "file": file,
        }));
    }

    /// An instant that is fired, tried once, and ends.
    fn attempt(&mut self, term: u64, second: i64, fence: u64, outcome: &str, probe: bool) {
        let (ms, run) = (second * 1_000, run_id(second));
        self.entry(term, ms + 5, json!([fire(second), start(&run, fence, probe)]));
        let state = if outcome == "succeeded" { "succeeded" } else { "failed" };
        let ended = record(second, ms + 5, ms + 50, state, "", attempt(fence, ms + 5, ms + 50, outcome));
        self.entry(term, ms + 50, json!([complete(&run, fence, outcome)]))["finished"] = json!([ended]);
        let answer = if outcome == "succeeded" { "ok" } else { "failed" };
        self.effects.push(effect("begin", ms + 10, &run, fence, ""));
        self.effects.push(effect("end", ms + 40, &run, fence, answer));
    }

    fn lose_probe(&mut self) {
        let run = run_id(5);
        self.entry(2, 5_005, json!([fire(5), start(&run, 4, true)]));
        let lose = json!({
            "kind": "lose", "decision": {"outcome": "done", "lost": [{"run_id": run, "attempt": 1, "fence": 4}]},
        });
        let lost = record(5, 5_005, 5_900, "failed", "lost", attempt(4, 5_005, 5_900, "lost"));
        self.entry(2, 5_900, json!([lose]))["finished"] = json!([lost]);
        self.effects.push(effect("begin", 5_010, &run, 4, ""));
    }

    fn trigger(&mut self) {
        let run = format!("8192-{}-m7", T + 6_500);
        let brief = json!({"run_id": run, "incarnation": 8192, "cause": "manual"});
        let trigger = json!({
            "kind": "trigger_job", "job": "a", "incarnation": 8192, "operation_id": "two",
            "decision": {"outcome": "triggered", "run": brief},
        });
        self.entry(2, 6_500, json!([trigger, start(&run, 6, false)]));
        let mut ended = record(6, 6_500, 6_550, "succeeded", "", attempt(6, 6_500, 6_550, "succeeded"));
        for (key, value) in [("run_id", json!(run)), ("cause", json!("manual"))] {
            ended[key] = value;
        }
        for key in ["scheduled_at", "due_at"] {
            ended[key] = at(6_500);
        }
        self.entry(2, 6_550, json!([complete(&run, 6, "succeeded")]))["finished"] = json!([ended]);
        self.operations.push(json!({
            "op": "trigger", "operation_id": "two", "invoked_at": at(6_490), "result": "ok", "name": "a",
            "run_id": run,
        }));
        self.effects.push(effect("begin", 6_510, &run, 6, ""));
        self.effects.push(effect("end", 6_540, &run, 6, "ok"));
    }
}
