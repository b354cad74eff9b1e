//! What the target saw, against the log: no call without a committed start before it, none twice, none early, and
//! no success that the target did not give.

use std::collections::{BTreeMap, BTreeSet};

use super::attempts::Starts;
use super::history::{Effect, History};
use super::lives::Life;
use super::{Findings, Kind, READ_MS};

/// Checks every call.
pub(crate) fn check(
    history: &History,
    lives: &BTreeMap<u64, Life>,
    starts: &Starts,
    findings: &mut Findings,
) {
    let skew = history.setting.skew_ms + READ_MS;
    let mut calls: BTreeMap<(&str, u32), u32> = BTreeMap::new();
    let mut of_run: BTreeMap<&str, u32> = BTreeMap::new();
    for begin in history.effects.iter().filter(|effect| effect.phase == "begin") {
        *calls.entry((&begin.run_id, begin.attempt)).or_default() += 1;
        *of_run.entry(&begin.run_id).or_default() += 1;
        started(begin, (lives, starts), skew, findings);
    }
    for ((run, attempt), count) in calls.iter().filter(|(_, count)| **count > 1) {
        findings.add(Kind::DoubledEffect, format!("attempt {attempt} of run {run} called {count} times"));
    }
    for (run, count) in of_run.iter().filter(|(_, count)| **count > 1) {
        if is_at_most_once(starts, lives, run) {
            findings.add(Kind::SecondEffect, format!("run {run} called {count} times, and on_lost is fail"));
        }
    }
    successes(history, starts, findings);
}

fn started(
    begin: &Effect,
    (lives, starts): (&BTreeMap<u64, Life>, &Starts),
    skew: i64,
    findings: &mut Findings,
) {
    let name =
        format!("the call of attempt {} of run {} (fence {})", begin.attempt, begin.run_id, begin.fence);
    match starts.get(&begin.fence) {
        Some(start) if start.run_id == begin.run_id && start.attempt == begin.attempt => {
            if lives.get(&start.incarnation).is_none_or(|life| life.name != begin.job) {
                findings.add(Kind::Unexplained, format!("{name} names the job {}", begin.job));
            }
            if begin.at.0 + skew < start.at.0 {
                let what = format!("{name} came at {}, its start is of {}", begin.at, start.at);
                findings.add(Kind::EffectWithoutStart, what);
            }
        }
        _ => findings.add(Kind::EffectWithoutStart, format!("{name} has no start in the log")),
    }
    if begin.at.0 + skew < begin.scheduled_at.0 {
        findings.add(Kind::Early, format!("{name} came at {}, before {}", begin.at, begin.scheduled_at));
    }
}

/// One attempt is all that the job ever allowed, and a lost one is not repeated.
fn is_at_most_once(starts: &Starts, lives: &BTreeMap<u64, Life>, run: &str) -> bool {
    let start = starts.values().find(|start| start.run_id == run);
    let life = start.and_then(|start| lives.get(&start.incarnation));
    life.is_some_and(|life| life.files().all(|file| file.on_lost == "fail" && file.retry.max_attempts == 1))
}

fn successes(history: &History, starts: &Starts, findings: &mut Findings) {
    let good: BTreeSet<(&str, u64)> = history
        .effects
        .iter()
        .filter(|effect| effect.phase == "end" && effect.answer == "ok")
        .map(|effect| (effect.run_id.as_str(), effect.fence))
        .collect();
    for (fence, start) in starts {
        if start.outcome.as_deref() == Some("succeeded") && !good.contains(&(&start.run_id, *fence)) {
            let what = format!(
                "attempt {} of run {} succeeded, which the target did not say",
                start.attempt, start.run_id
            );
            findings.add(Kind::SuccessWithoutEffect, what);
        }
    }
}
