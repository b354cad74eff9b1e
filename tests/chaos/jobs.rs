//! The jobs of a run: every policy beside every other, drawn from the seed.
//!
//! The first jobs go through all values of each policy in turn, at different strides, so that none is left to
//! chance; edits draw anew.

use serde_json::{Value, json};

use super::chance::Chance;
use super::net::{HUB, TARGET_PORT};
use super::plan::GROUPS;

/// How many there are.
pub(crate) const JOBS: u64 = 36;

/// The name of a job.
pub(crate) fn name(number: u64) -> String {
    format!("job-{number:02}")
}

/// The one job of a group that is never deleted or given another breaker, so that the shared one lives on.
pub(crate) fn is_anchor(number: u64) -> bool {
    number < GROUPS.len() as u64
}

/// The job file of a job, in JSON. Its policies are those of `variant`: of the job's own number at first.
pub(crate) fn file(job: u64, variant: u64, chance: &mut Chance) -> Value {
    let group = GROUPS[job as usize % GROUPS.len()];
    let number = if is_anchor(job) { job } else { variant };
    let mut file = json!({
        "name": name(job),
        "target": {"http": {"method": "POST", "url": url(number, group, chance)}},
        "timeout": chance.pick(&["1s", "2s"]),
        "retention": {"runs": 100_000, "age": "30d"},
        "retry": {
            "max_attempts": chance.pick(&[1, 2, 4]), "initial": chance.pick(&["200ms", "1s"]), "max": "3s",
        },
        "on_lost": if (number / 3).is_multiple_of(2) { "rerun" } else { "fail" },
        "on_resume": if (number / 2).is_multiple_of(2) { "skip" } else { "catch_up" },
        "catch_up": catch_up(number / 4, chance),
        "overlap": overlap(number, chance),
        "breaker": breaker(job, number, group),
    });
    // An anchor of a group is on time and often, or its breaker would hardly ever move.
    if number.is_multiple_of(7) && !is_anchor(job) {
        file["start_within"] = json!(chance.pick(&["500ms", "3s"]));
    }
    if let Some(schedule) = schedule(job, number, chance) {
        file["schedule"] = schedule;
    }
    file
}

fn url(number: u64, group: &str, chance: &mut Chance) -> String {
    let (fails, hangs, resets) = match number % 4 {
        0 => (0, 0, 0),
        1 => (15, 0, 10),
        2 => (5, 5, 5),
        _ => (0, 0, 20),
    };
    let ms = chance.pick(&[5, 50, 400]);
    format!("http://{HUB}:{TARGET_PORT}/{group}/{fails}/{hangs}/{resets}/{ms}")
}

fn schedule(job: u64, number: u64, chance: &mut Chance) -> Option<Value> {
    if is_anchor(job) {
        return Some(json!([{"every": "1s"}]));
    }
    match number % 8 {
        0 => Some(json!([{"every": chance.pick(&["1s", "2s", "3s"])}])),
        1 => Some(json!([{"every": chance.pick(&["2s", "5s"]), "offset": chance.pick(&["500ms", "1s"])}])),
        2 => {
            Some(json!([{"cron": chance.pick(&["*/2 * * * * *", "*/7 * * * * *", "1,2,3,31-40 * * * * *"])}]))
        }
        3 => Some(
            json!([{"cron": "*/3 * * * * *", "timezone": chance.pick(&["Asia/Kolkata", "Europe/Berlin"])}]),
        ),
        4 => Some(json!([{"every": "3s", "jitter": chance.pick(&["800ms", "2s"])}])),
        5 => Some(json!([{"every": "4s"}, {"cron": "*/6 * * * * *", "timezone": "America/New_York"}])),
        6 => Some(json!([{"every": chance.pick(&["700ms", "1500ms"])}])),
        // Runs when it is triggered.
        _ => None,
    }
}

fn catch_up(number: u64, chance: &mut Chance) -> Value {
    match number % 4 {
        0 => json!({"runs": "none"}),
        1 => json!({"runs": "latest", "window": "1h"}),
        2 => json!({"runs": "all", "window": "1h", "max": chance.pick(&[3, 20])}),
        _ => json!({"runs": chance.pick(&["latest", "all"]), "window": "4s"}),
    }
}

fn overlap(number: u64, chance: &mut Chance) -> Value {
    match number % 5 {
        0 => json!({"policy": "skip"}),
        1 => json!({"policy": "allow"}),
        2 => {
            json!({"policy": "queue", "limit": chance.pick(&[1, 5]), "keep": chance.pick(&["newest", "oldest"])})
        }
        3 => json!({"policy": "replace"}),
        _ => json!({"policy": "queue", "limit": 3, "max_parallel": 2}),
    }
}

/// Which breaker a job has, and when that opens, never changes: an attempt counts for the breaker under which its run
/// was made, and whether it still does after the job has left that one is not promised.
fn breaker(job: u64, number: u64, group: &str) -> Value {
    let on_open = if (number / 6).is_multiple_of(2) { "skip" } else { "hold" };
    if job.is_multiple_of(2) || is_anchor(job) {
        // All that share a breaker say the same of it, for what was applied last counts.
        return json!({
            "name": group, "consecutive_failures": 3, "open_for": "2s", "max_open_for": "5s", "probes": 2,
            "on_open": on_open,
        });
    }
    match job % 3 {
        0 => json!({"consecutive_failures": 2, "open_for": "1s", "max_open_for": "4s", "on_open": on_open}),
        1 => json!({
            "consecutive_failures": 0, "failure_rate": 0.5, "minimum_attempts": 4, "window": "20s",
            "open_for": "2s", "max_open_for": "2s", "on_open": on_open,
        }),
        _ => json!({"consecutive_failures": 4, "open_for": "3s", "max_open_for": "6s", "on_open": on_open}),
    }
}
