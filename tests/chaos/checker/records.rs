//! What the record of each run says: the same as the log, and what the job's policies make of it.

use std::collections::BTreeMap;

use super::attempts::Starts;
use super::file::JobFile;
use super::history::{History, Record};
use super::lives::Life;
use super::{Findings, Kind};

/// Attempts that `on_lost: rerun` gives a run beyond those of `retry`, at least.
const RERUNS: usize = 10;

/// Checks every record.
pub(crate) fn check(
    history: &History,
    lives: &BTreeMap<u64, Life>,
    starts: &Starts,
    findings: &mut Findings,
) {
    for record in history.records().values() {
        as_the_log(record, starts, findings);
        if let Some(life) = lives.get(&record.incarnation) {
            attempts(life, record, findings);
            failure(life, record, findings);
        }
    }
}

fn as_the_log(record: &Record, starts: &Starts, findings: &mut Findings) {
    let name = format!("run {} of {}", record.run_id, record.job);
    for (place, attempt) in record.attempts.iter().enumerate() {
        let agrees = starts.get(&attempt.fence).is_some_and(|start| {
            start.run_id == record.run_id
                && start.attempt == attempt.number
                && start.outcome.as_deref().unwrap_or("running") == attempt.outcome
        });
        if !agrees || attempt.number as usize != place + 1 {
            let what = format!("{name} has attempt {attempt:?}, which the log tells otherwise");
            findings.add(Kind::Unexplained, what);
        }
        if attempt.started_at < record.fired_at || attempt.started_at < record.due_at {
            findings.add(Kind::Early, format!("{name} started before it was due"));
        }
    }
    if record.state == "succeeded" && record.attempts.last().is_none_or(|last| last.outcome != "succeeded") {
        findings.add(Kind::Unexplained, format!("{name} succeeded without an attempt that did"));
    }
}

/// How many of its attempts count for `retry`.
fn counted(record: &Record) -> usize {
    record.attempts.iter().filter(|one| !is_lost(&one.outcome)).count()
}

fn is_lost(outcome: &str) -> bool {
    matches!(outcome, "lost" | "cancelled")
}

/// A policy may have been edited while the run was live: each of its values allows what it allows.
fn attempts(life: &Life, record: &Record, findings: &mut Findings) {
    let name = format!("run {} of {}", record.run_id, life.name);
    let most = life.files().map(|file| file.retry.max_attempts as usize).max().unwrap_or(1);
    if counted(record) > most {
        findings.add(Kind::TooManyAttempts, format!("{name} was tried more than {most} times"));
    }
    let within = life.files().map(|file| file.start_within.map_or(i64::MAX, |within| within.0)).max();
    let first = record.attempts.first().map(|first| first.started_at.0 - record.due_at.0);
    if first > within {
        let what = format!("{name} started {first:?} ms after it was due, start_within is {within:?}");
        findings.add(Kind::StartedTooLate, what);
    }
    // The wait is `initial` at least, less its random part.
    let shortest = |file: &JobFile| (file.retry.initial.0 as f64 * (1.0 - file.retry.jitter)) as i64;
    let wait = life.files().map(shortest).min().unwrap_or(0);
    for pair in record.attempts.windows(2) {
        let gap = pair[0].finished_at.map(|ended| pair[1].started_at.0 - ended.0);
        if !is_lost(&pair[0].outcome) && gap.is_some_and(|gap| gap < wait) {
            let what = format!("{name} was tried again after {gap:?} ms, {wait} ms at least were to pass");
            findings.add(Kind::RetriedTooEarly, what);
        }
    }
}

/// A run that failed was tried as often as its job wants.
fn failure(life: &Life, record: &Record, findings: &mut Findings) {
    if record.state != "failed" {
        return;
    }
    let name = format!("run {} of {}", record.run_id, life.name);
    let least = life.files().map(|file| file.retry.max_attempts as usize).min().unwrap_or(1);
    let lost = record.attempts.iter().filter(|one| is_lost(&one.outcome)).count();
    let is_reruns = life.files().all(|file| file.on_lost == "rerun");
    let is_lost_at_last = record.attempts.last().is_some_and(|last| is_lost(&last.outcome));
    if is_lost_at_last && is_reruns && lost <= RERUNS {
        findings.add(Kind::GaveUp, format!("{name} was lost {lost} times and not run again"));
    }
    if !is_lost_at_last && counted(record) < least {
        let what = format!("{name} failed after {} attempts, {least} were to be made", counted(record));
        findings.add(Kind::GaveUp, what);
    }
    // After an attempt of which nobody knows what it did, one that failed tells nothing of it: the run is lost still.
    if record.reason == "lost" && lost == 0 {
        findings.add(Kind::Unexplained, format!("{name} is lost, and none of its attempts was"));
    }
}
