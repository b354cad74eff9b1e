//! Work for the stores, drawn from a seed, and what must come of it.
//!
//! A *plan* is a row of operations that follows from a seed and from what the folder held before. Whoever knows both
//! knows every byte that may be found afterwards: after a crash the log must be what it was after some record of the
//! plan, and not an earlier one than the last that was acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use chronarch::state::BreakerKey;
use chronarch::state::run::{Cause, JobId, Phase, Run, RunId, RunState};
use chronarch::state::time::Timestamp;
use chronarch::storage::{EntryId, WalEntry};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

/// Jobs whose runs are in the run log.
const JOBS: u64 = 7;

/// What a store is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Append(Vec<WalEntry>),
    Vote(u64),
    Committed(u64),
    Truncate(u64),
    Purge(EntryId),
    /// A snapshot of everything through this entry.
    Snapshot(EntryId),
    /// The runs that the entry at this index of the run log ended.
    Runs(u64),
    /// All runs so far are to be durable.
    RunsBarrier,
}

/// How a vote is stored, so that it can be found among other bytes.
pub(crate) fn vote(number: u64) -> Bytes {
    Bytes::from(format!("<vote {number}>"))
}

/// The number in a vote.
pub(crate) fn vote_number(vote: &Bytes) -> u64 {
    let text = std::str::from_utf8(vote).expect("a vote of ours is text");
    let number = text.strip_prefix("<vote ").and_then(|rest| rest.strip_suffix('>'));
    number.expect("a vote of ours").parse().expect("a number")
}

fn payload(chance: &mut SmallRng, id: EntryId) -> Bytes {
    let length = match chance.random_range(0..40) {
        0 => chance.random_range(0..150_000),
        1..10 => chance.random_range(0..6_000),
        _ => chance.random_range(0..300),
    };
    let mut bytes = format!("<entry {} {}>", id.term, id.index).into_bytes();
    let filler = chance.next_u64().to_le_bytes();
    bytes.extend(filler.iter().cycle().take(length));
    Bytes::from(bytes)
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) vote: Option<Bytes>,
    pub(crate) purged: Option<EntryId>,
    pub(crate) last: Option<EntryId>,
    pub(crate) entries: VecDeque<WalEntry>,
}

impl Log {
    fn end(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    fn start(&self) -> u64 {
        self.entries.front().map_or(self.end(), |first| first.id.index)
    }

    /// The records of an operation, one by one: a crash may fall between any two of them.
    fn records(op: &Op) -> Vec<Op> {
        match op {
            Op::Append(entries) => entries.iter().map(|entry| Op::Append(vec![entry.clone()])).collect(),
            Op::Vote(_) | Op::Truncate(_) | Op::Purge(_) => vec![op.clone()],
            Op::Committed(_) | Op::Snapshot(_) | Op::Runs(_) | Op::RunsBarrier => Vec::new(),
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(entries) => {
                self.entries.extend(entries.iter().cloned());
                self.last = self.entries.back().map(|entry| entry.id).or(self.last);
            }
            Op::Vote(number) => self.vote = Some(vote(*number)),
            Op::Truncate(keep) => {
                self.entries.retain(|entry| entry.id.index <= *keep);
                self.last = self.entries.back().map(|entry| entry.id).or(self.purged);
            }
            Op::Purge(id) => {
                self.entries.retain(|entry| entry.id.index > id.index);
                self.purged = Some(*id);
                self.last = self.entries.back().map(|entry| entry.id).or(self.purged);
            }
            Op::Committed(_) | Op::Snapshot(_) | Op::Runs(_) | Op::RunsBarrier => {}
        }
    }

    /// Is this what is left of `before` and the operations of `plan`, of which those below `acknowledged` were
    /// acknowledged? Says what is wrong, or `None`.
    pub(crate) fn deviation(&self, before: &Self, plan: &[Op], acknowledged: usize) -> Option<String> {
        let mut model = before.clone();
        let mut nearest = None;
        let mut step = |model: &Self, done: usize| {
            if done < acknowledged {
                return false;
            }
            nearest.get_or_insert_with(|| model.clone());
            model == self
        };
        if step(&model, 0) {
            return None;
        }
        for (n, op) in plan.iter().enumerate() {
            let records = Self::records(op);
            for (m, record) in records.iter().enumerate() {
                model.apply(record);
                let whole = m + 1 == records.len();
                if step(&model, if whole { n + 1 } else { n }) {
                    return None;
                }
            }
            if records.is_empty() && step(&model, n + 1) {
                return None;
            }
        }
        let least = nearest.unwrap_or(model);
        Some(format!("at least {} must be there, found is {}", least.outline(), self.outline()))
    }

    fn outline(&self) -> String {
        let ids: Vec<_> = self.entries.iter().map(|entry| (entry.id.index, entry.id.term)).collect();
        let (first, last) = (ids.first(), ids.last());
        let vote = self.vote.as_ref().map(vote_number);
        format!("vote {vote:?}, purged {:?}, {} entries {first:?} to {last:?}", self.purged, ids.len())
    }
}

/// What a folder holds of ours, as a plan begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) log: Log,
    /// The last index of which runs are in the run log.
    pub(crate) runs: u64,
    /// The newest snapshot.
    pub(crate) snapshot: Option<EntryId>,
}

/// The operations that follow from `seed`.
pub(crate) fn plan(seed: u64, before: &Before, length: usize, run_log: bool) -> Vec<Op> {
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut log = before.log.clone();
    let mut runs = before.runs;
    let mut votes = log.vote.as_ref().map_or(0, vote_number);
    let mut ops: Vec<Op> = Vec::new();
    while ops.len() < length {
        let live = log.end() - log.start();
        let op = match chance.random_range(0..24) {
            0..10 => Op::Append(batch(&mut chance, &log)),
            10..13 => {
                votes += chance.random_range(1..5);
                Op::Vote(votes)
            }
            13 => Op::Committed(log.end().saturating_sub(1)),
            14 if live > 3 => Op::Truncate(chance.random_range(log.start()..log.end())),
            15 if live > 20 => {
                let through = log.start() + chance.random_range(0..live / 2);
                let entry = log.entries[(through - log.start()) as usize].id;
                ops.push(Op::Snapshot(entry));
                Op::Purge(entry)
            }
            // The installation of a snapshot that is ahead of the log.
            16 if chance.random_range(0..6) == 0 => {
                let term = log.last.map_or(1, |last| last.term);
                let ahead = EntryId { term: term + 1, node: 1, index: log.end() + 5 };
                ops.push(Op::Snapshot(ahead));
                Op::Purge(ahead)
            }
            17..23 if run_log => {
                runs += chance.random_range(1..4);
                Op::Runs(runs)
            }
            23 if run_log => Op::RunsBarrier,
            _ => continue,
        };
        log.apply(&op);
        ops.push(op);
    }
    ops
}

fn batch(chance: &mut SmallRng, log: &Log) -> Vec<WalEntry> {
    let mut term = log.last.map_or(1, |last| last.term);
    let count = if chance.random_range(0..4) == 0 { chance.random_range(1..12) } else { 1 };
    let entries = (log.end()..log.end() + count).map(|index| {
        term += u64::from(chance.random_range(0..9) == 0);
        let id = EntryId { term, node: 1, index };
        WalEntry { id, payload: payload(chance, id) }
    });
    entries.collect()
}

/// The runs that the entry at `index` ended: a function of the index alone, as replay needs it.
pub(crate) fn runs_at(index: u64) -> Vec<Arc<Run>> {
    let mut chance = SmallRng::seed_from_u64(index);
    let count = if chance.random_range(0..5) == 0 { chance.random_range(2..40) } else { 1 };
    let run = |n: u64| {
        let job = JobId(1 + (index + n) % JOBS);
        let at = Timestamp::from_millis((index * 1_000 + n) as i64);
        let length = if chance.random_range(0..30) == 0 { 20_000 } else { chance.random_range(0..900) };
        let letter = char::from(b'a' + (chance.random_range(0..26)) as u8);
        Arc::new(Run {
            id: RunId { job, at, seq: n },
            namespace: "default".into(),
            job: format!("job-{}", job.0).into(),
            version: 1,
            queue: "default".into(),
            cause: Cause::Schedule,
            due_at: at,
            fired_at: at,
            scheduled_until: None,
            scheduled_from: None,
            stands_for: 1,
            state: RunState::Succeeded,
            reason: None,
            detail: letter.to_string().repeat(length),
            actor: String::new(),
            finished_at: Some(at),
            phase: Phase::Ended,
            attempts: Vec::new(),
            reruns: 0,
            cancel: None,
            breaker: BreakerKey::Job(job),
            start_by: None,
            overdue_at: None,
            params: [].into(),
            group: None,
            chain: None,
            upstream: Vec::new(),
            retry_of: None,
            backfill: None,
            inputs: [].into(),
            place: None,
            parent: None,
            spread: None,
        })
    };
    (0..count).map(run).collect()
}

/// The content of a snapshot: a function of what it is of.
pub(crate) fn snapshot_content(id: EntryId) -> Vec<u8> {
    let mut chance = SmallRng::seed_from_u64(id.index * 31 + id.term);
    let length = if chance.random_range(0..4) == 0 { 2_500_000 } else { chance.random_range(0..50_000) };
    let filler = chance.next_u64().to_le_bytes();
    filler.iter().copied().cycle().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long_plan() -> Vec<Op> {
        plan(3, &Before::default(), 300, true)
    }

    fn after(ops: &[Op]) -> Log {
        let mut log = Log::default();
        ops.iter().for_each(|op| log.apply(op));
        log
    }

    #[test]
    fn a_plan_has_everything_in_it_and_is_the_same_each_time() {
        let ops = long_plan();
        assert_eq!(ops, long_plan());
        let count = |fits: fn(&Op) -> bool| ops.iter().filter(|op| fits(op)).count();
        assert!(count(|op| matches!(op, Op::Truncate(_))) > 3);
        assert!(count(|op| matches!(op, Op::Purge(_))) > 3);
        assert!(count(|op| matches!(op, Op::RunsBarrier)) > 3);
        assert!(count(|op| matches!(op, Op::Append(entries) if entries.len() > 1)) > 10);
    }

    #[test]
    fn a_log_between_two_records_is_right_and_one_before_the_last_acknowledged_is_not() {
        let ops = long_plan();
        let before = Log::default();
        for done in [0, 100, 299, 300] {
            let log = after(&ops[..done]);
            assert_eq!(log.deviation(&before, &ops, done), None);
            assert_eq!(log.deviation(&before, &ops, done / 2), None);
            let acknowledged = ops.iter().skip(done).position(|op| !Log::records(op).is_empty());
            if let Some(next) = acknowledged {
                assert!(log.deviation(&before, &ops, done + next + 1).is_some(), "{done}");
            }
        }
    }

    #[test]
    fn an_altered_a_lost_and_a_returned_entry_and_an_old_vote_are_seen() {
        let ops = long_plan();
        let whole = after(&ops);
        let wrong = |change: fn(&mut Log)| {
            let mut log = whole.clone();
            change(&mut log);
            log.deviation(&Log::default(), &ops, ops.len()).is_some()
        };
        assert!(wrong(|log| log.entries[1].payload = Bytes::from_static(b"other")));
        assert!(wrong(|log| drop(log.entries.pop_back())));
        assert!(wrong(|log| log.entries[2] = log.entries[1].clone()));
        assert!(wrong(|log| log.vote = Some(vote(1))));
        assert!(wrong(|log| log.purged = None));
    }
}
