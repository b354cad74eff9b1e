//! G1 and G2: every instant at which an enabled job is due has exactly one record; none is early.
//!
//! Around a change of a job a margin is left open: an instant inside may be decided or not, but not twice. The
//! margin covers the time between the leader's reading of its clock and the stamp of the entry, and what jitter
//! puts off past a pause or a deletion.

use std::collections::{BTreeMap, BTreeSet};

use super::faults::Calm;
use super::history::{At, Command, History, Record};
use super::lives::{Is, Life};
use super::schedule::instants;
use super::{Findings, Kind};

/// Between the reading of a clock and the stamp.
const MARGIN_MS: i64 = 2_000;
/// What is due later than this before the end of the log need not be decided yet.
const END_MS: i64 = 3_000;
/// An instant that is due in undisturbed time is decided within this.
const LATE_MS: i64 = 5_000;
/// Found later than this it is a missed one (the documented grace of 1 s), and so much may lie between the plan
/// and the stamp.
const GRACE_MS: i64 = 1_000;
const STAMP_MS: i64 = 4_000;

/// What must, and what may, have a record.
#[derive(Default)]
struct Expected {
    must: BTreeSet<i64>,
    may: BTreeSet<i64>,
}

impl Expected {
    /// `end`: what is due later need not be decided yet.
    fn of(life: &Life, end: i64) -> Self {
        let mut expected = Self::default();
        for (place, step) in life.steps.iter().enumerate() {
            let next = life.steps.get(place + 1);
            let until = next.map_or(end, |next| next.now);
            match step.is {
                Is::Deleted => {}
                Is::Active => expected.active(life, place, until),
                Is::Paused => {
                    let missed = instants(&step.file, step.now, until);
                    let resumes = next.is_some_and(|next| next.is == Is::Active);
                    if step.file.on_resume != "catch_up" {
                        expected.may.extend(instants(&step.file, until - MARGIN_MS, until));
                    } else if resumes && !is_edited_in_pause(life, place) {
                        expected.must.extend(missed);
                    } else {
                        expected.may.extend(missed);
                    }
                }
            }
        }
        let must = &expected.must;
        expected.may.retain(|instant| !must.contains(instant));
        expected
    }

    fn active(&mut self, life: &Life, place: usize, until: i64) {
        let step = &life.steps[place];
        let before = place.checked_sub(1).map_or(0, |before| life.steps[before].file.jitter_ms());
        let jitter = step.file.jitter_ms();
        // What lies shortly before the change may be decided by it too.
        self.may.extend(instants(&step.file, step.now - before.max(jitter) - MARGIN_MS, step.now));
        self.must.extend(instants(&step.file, step.now, until));
        match life.steps.get(place + 1) {
            Some(next) if next.is == Is::Active => {}
            // What jitter has put off when the job ends or pauses may be dropped with it.
            Some(_) => self.loosen(until - jitter, until),
            None => {
                self.loosen(until - jitter, until);
                self.may.extend(instants(&step.file, until, until + END_MS));
            }
        }
    }

    fn loosen(&mut self, from: i64, until: i64) {
        let loose: Vec<i64> = self.must.range(from + 1..).copied().filter(|at| *at <= until).collect();
        for at in loose {
            self.must.remove(&at);
            self.may.insert(at);
        }
    }
}

/// A job that is edited while it is paused forgets what its earlier schedule missed.
fn is_edited_in_pause(life: &Life, place: usize) -> bool {
    place > 0 && life.steps[place - 1].is == Is::Paused
}

/// Checks the records of every job against what was to be expected.
pub(crate) fn check(history: &History, lives: &BTreeMap<u64, Life>, calm: &Calm, findings: &mut Findings) {
    let end = history.last_now().0 - END_MS;
    let mut by_job: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in history.records().into_values().filter(|record| record.cause != "manual") {
        by_job.entry(record.incarnation).or_default().push(record);
    }
    for (incarnation, life) in lives {
        let records = by_job.remove(incarnation).unwrap_or_default();
        coverage(life, &Expected::of(life, end), &records, findings);
        for record in records {
            timing(life, record, calm, findings);
        }
    }
    for record in by_job.into_values().flatten() {
        findings.add(Kind::Unexplained, format!("run {} is of no job that was created", record.run_id));
    }
}

fn coverage(life: &Life, expected: &Expected, records: &[&Record], findings: &mut Findings) {
    let mut covered: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for record in records {
        let (from, until) = record.range();
        let stands: Vec<i64> = expected
            .must
            .union(&expected.may)
            .copied()
            .filter(|at| (from.0..=until.0).contains(at))
            .collect();
        let least = stands.iter().filter(|at| expected.must.contains(at)).count() as u64;
        let name = format!("run {} of {} ({from} to {until})", record.run_id, life.name);
        if !stands.contains(&from.0) || !stands.contains(&until.0) {
            findings.add(Kind::Unexplained, format!("{name} stands for an instant at which nothing was due"));
        } else if record.stands_for < least || record.stands_for > stands.len() as u64 {
            let what = format!("{name} says it stands for {}, but {least} were due", record.stands_for);
            findings.add(Kind::Unexplained, what);
        }
        for at in stands {
            covered.entry(at).or_default().push(&record.run_id);
        }
    }
    for at in expected.must.iter().filter(|at| !covered.contains_key(at)) {
        findings.add(Kind::Missed, format!("{} at {} has no record", life.name, At(*at)));
    }
    for (at, by) in covered.iter().filter(|(_, by)| by.len() > 1) {
        findings.add(Kind::Doubled, format!("{} at {} has the records {by:?}", life.name, At(*at)));
    }
}

fn timing(life: &Life, record: &Record, calm: &Calm, findings: &mut Findings) {
    let name = format!("run {} of {}", record.run_id, life.name);
    let late = record.fired_at.0 - record.due_at.0;
    let jitter = life.files().map(super::file::JobFile::jitter_ms).max().unwrap_or(0);
    if late < 0 {
        findings.add(Kind::Early, format!("{name} was decided {} ms before it was due", -late));
    }
    if record.due_at < record.scheduled_at || record.due_at.0 > record.scheduled_at.0 + jitter {
        findings.add(Kind::Unexplained, format!("{name} is due at {}, beyond its jitter", record.due_at));
    }
    // A range record begins with its oldest instant.
    let newest = record.due_at.0.max(record.range().1.0);
    let by = At(newest + LATE_MS);
    if record.fired_at > by && calm.holds(At(newest), by) && !was_paused(life, newest, record.fired_at.0) {
        findings.add(Kind::Late, format!("{name} was decided {late} ms late, and nothing disturbed it"));
    }
    if record.cause == "schedule" && late > GRACE_MS + STAMP_MS {
        findings.add(Kind::Unexplained, format!("{name} fired as in time, {late} ms late"));
    }
    if record.cause == "catch_up" && record.fired_at.0 - newest <= GRACE_MS && record.stands_for == 1 {
        findings.add(Kind::Unexplained, format!("{name} counts as missed, but was only {late} ms late"));
    }
}

/// What passed while the job was paused is decided when it is resumed.
fn was_paused(life: &Life, from: i64, until: i64) -> bool {
    life.steps.iter().enumerate().any(|(place, step)| {
        let ends = life.steps.get(place + 1).map_or(i64::MAX, |next| next.now);
        step.is == Is::Paused && step.now <= until && ends >= from
    })
}

/// Catch-up: as many runs as the policy wants, in its window.
pub(crate) fn check_catch_up(life: &Life, command: &Command, entry: (u64, At), findings: &mut Findings) {
    let file = &life.at(entry.0).file;
    let caught_up = command.verdicts.iter().filter(|one| one.verdict == "run" && one.cause == "catch_up");
    let count = caught_up.count() as u64;
    let most = match file.catch_up.runs.as_str() {
        "none" => 0,
        "latest" => 1,
        _ => file.catch_up.max,
    };
    if count > most {
        let what = format!("entry {} catches up with {count} runs of {}, at most {most}", entry.0, life.name);
        findings.add(Kind::CatchUp, what);
    }
    for run in command.decision.runs.iter().filter(|run| run.cause == "catch_up" && run.reason != "catch_up")
    {
        let age = entry.1.0 - run.scheduled_at.unwrap_or_default().0;
        if age > file.catch_up.window.0 + STAMP_MS {
            let what = format!(
                "entry {} runs {} {age} ms after it was due, outside its window",
                entry.0, run.run_id
            );
            findings.add(Kind::CatchUp, what);
        }
    }
}
