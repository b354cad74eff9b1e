//! The account of what was due and what arrived, kept at the receiving end and not in our own records.
//!
//! [`Expected`] says which instants each job has; [`Account`] is told every [`Arrival`] and sorts it:
//!
//! * *received*: the first request for an instant, whatever its attempt number is; an attempt that was
//!   lost with its node before it sent anything is never seen, and the next one counts;
//! * *repeat*: a further attempt of the same run, which `on_lost: rerun` and `retry` ask for;
//! * *duplicate*: another run for the same instant, or the same attempt of the same run once more.
//!   Neither may ever happen;
//! * *unexpected*: a job or an instant that nobody registered.
//!
//! What is due and was not received is *lost*. Only instants up to the end of the measurement count,
//! which [`Account::close`] sets, for the jobs go on firing while the last requests are waited for.

use std::time::Duration;

use serde::Serialize;

use super::receiver::Arrival;
use crate::state::run::RunId;
use crate::state::time::Timestamp;

/// Examples of losses, duplicates and unexpected requests that are told, of each at most.
const EXAMPLES_MAX: usize = 5;
/// Attempts of a run that are told apart; a run has at most 100 and 10 repeats of lost ones.
const ATTEMPTS_MAX: u32 = 127;

/// Which instants are due: for each job, by its number, the first one, and then one each period.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    first: Vec<Timestamp>,
    period_ms: i64,
}

impl Expected {
    /// Job number N has its first instant at `first[N]`; the period is one millisecond at least.
    pub(super) fn new(first: Vec<Timestamp>, period: Duration) -> Self {
        let period_ms = i64::try_from(period.as_millis()).unwrap_or(i64::MAX).max(1);
        Self { first, period_ms }
    }

    /// Which instant of its job this is, from 0; `None` when the job has no such instant.
    fn place(&self, job: u32, at: Timestamp) -> Option<usize> {
        let since = at.millis() - self.first.get(job as usize)?.millis();
        let is_on_grid = since >= 0 && since % self.period_ms == 0;
        is_on_grid.then(|| usize::try_from(since / self.period_ms).ok())?
    }

    fn instant(&self, job: usize, place: usize) -> Timestamp {
        let place = i64::try_from(place).unwrap_or(i64::MAX);
        let first = self.first.get(job).copied().unwrap_or_default();
        Timestamp::from_millis(first.millis().saturating_add(place.saturating_mul(self.period_ms)))
    }

    /// How many instants of the job there are up to `until`, which is included.
    fn count(&self, job: usize, until: Timestamp) -> usize {
        let Some(first) = self.first.get(job) else { return 0 };
        let span = until.millis() - first.millis();
        if span < 0 { 0 } else { usize::try_from(span / self.period_ms).map_or(0, |count| count + 1) }
    }

    /// How many instants of all jobs there are from `from` on and before `until`.
    pub(super) fn due(&self, from: Timestamp, until: Timestamp) -> usize {
        let before = |end: Timestamp| Timestamp::from_millis(end.millis() - 1);
        let count = |end| (0..self.first.len()).map(|job| self.count(job, before(end))).sum::<usize>();
        count(until).saturating_sub(count(from))
    }
}

/// What has arrived for one instant.
#[derive(Clone, Copy, Debug)]
struct Seen {
    run: RunId,
    /// Attempts of that run, as bits.
    attempts: u128,
    /// When the first request arrived.
    at: Timestamp,
    repeats: u32,
    duplicates: u32,
}

/// Sorts what arrives.
#[derive(Clone, Debug)]
pub(super) struct Account {
    expected: Expected,
    /// By job and place.
    seen: Vec<Vec<Option<Seen>>>,
    unexpected: usize,
    unexpected_examples: Vec<String>,
    /// The end of what counts, and how much of it is missing.
    closed: Option<(Timestamp, usize)>,
}

/// The account as figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    /// Instants due.
    pub(super) due: usize,
    /// Instants for which at least one request arrived.
    pub(super) received: usize,
    /// Further attempts of the same run.
    pub(super) repeats: usize,
    /// A second run for an instant, or the same attempt once more.
    pub(super) duplicates: usize,
    /// Instants due for which nothing arrived.
    pub(super) lost: usize,
    /// Requests for jobs or instants that nobody registered.
    pub(super) unexpected: usize,
    /// Some of the losses, duplicates and unexpected ones.
    pub(super) examples: Vec<String>,
}

impl Tally {
    /// Adds another run's account.
    pub(super) fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.received += other.received;
        self.repeats += other.repeats;
        self.duplicates += other.duplicates;
        self.lost += other.lost;
        self.unexpected += other.unexpected;
        let room = (3 * EXAMPLES_MAX).saturating_sub(self.examples.len());
        self.examples.extend(other.examples.iter().take(room).cloned());
    }
}

impl Account {
    /// An account in which nothing has arrived.
    pub(super) fn new(expected: Expected) -> Self {
        let seen = vec![Vec::new(); expected.first.len()];
        Self { expected, seen, unexpected: 0, unexpected_examples: Vec::new(), closed: None }
    }

    /// Takes a request down.
    pub(super) fn note(&mut self, arrival: &Arrival) {
        let Some(place) = self.expected.place(arrival.job, arrival.scheduled_at) else {
            self.unexpected += 1;
            if self.unexpected_examples.len() < EXAMPLES_MAX {
                let example = format!("unexpected: job {} at {}", arrival.job, arrival.scheduled_at);
                self.unexpected_examples.push(example);
            }
            return;
        };
        let job = &mut self.seen[arrival.job as usize];
        if job.len() <= place {
            job.resize(place + 1, None);
        }
        let attempt = 1u128 << arrival.attempt.min(ATTEMPTS_MAX);
        match &mut job[place] {
            Some(seen) if seen.run != arrival.run || seen.attempts & attempt != 0 => seen.duplicates += 1,
            Some(seen) => {
                seen.attempts |= attempt;
                seen.repeats += 1;
            }
            empty @ None => {
                let (run, at) = (arrival.run, arrival.at);
                *empty = Some(Seen { run, attempts: attempt, at, repeats: 0, duplicates: 0 });
                if let Some((until, missing)) = &mut self.closed
                    && arrival.scheduled_at <= *until
                {
                    *missing = missing.saturating_sub(1);
                }
            }
        }
    }

    /// Ends what counts at `until`, which is included.
    pub(super) fn close(&mut self, until: Timestamp) {
        let missing = (0..self.seen.len()).map(|job| self.missing(job, until).count()).sum();
        self.closed = Some((until, missing));
    }

    /// Whether everything due up to the end has arrived; never before [`Self::close`].
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.closed, Some((_, 0)))
    }

    /// The places of a job that are due up to `until` and have not arrived.
    fn missing(&self, job: usize, until: Timestamp) -> impl Iterator<Item = usize> {
        let seen = &self.seen[job];
        (0..self.expected.count(job, until)).filter(|place| !matches!(seen.get(*place), Some(Some(_))))
    }

    /// What has arrived for the instants up to `until`, with job and instant.
    fn counted(&self, until: Timestamp) -> impl Iterator<Item = (usize, Timestamp, &Seen)> {
        self.seen.iter().enumerate().flat_map(move |(job, places)| {
            let due = self.expected.count(job, until);
            let places = places.iter().take(due).enumerate();
            places.filter_map(move |(place, seen)| {
                Some((job, self.expected.instant(job, place), seen.as_ref()?))
            })
        })
    }

    /// How long after its instant each first request came that was due from `from` on and before
    /// `until`, in milliseconds; negative when it came early.
    pub(super) fn lateness(&self, from: Timestamp, until: Timestamp) -> impl Iterator<Item = i64> {
        self.counted(until)
            .filter(move |(_, due, _)| (from..until).contains(due))
            .map(|(_, due, seen)| seen.at.millis() - due.millis())
    }

    /// The account up to its end.
    pub(super) fn tally(&self) -> Tally {
        let until = self.closed.map_or(Timestamp::MIN, |(until, _)| until);
        let mut tally = Tally { unexpected: self.unexpected, ..Tally::default() };
        let mut doubled = Vec::new();
        for (job, due, seen) in self.counted(until) {
            tally.received += 1;
            tally.repeats += seen.repeats as usize;
            tally.duplicates += seen.duplicates as usize;
            if seen.duplicates > 0 && doubled.len() < EXAMPLES_MAX {
                doubled.push(format!("duplicate: job {job} at {due}, run {}", seen.run));
            }
        }
        let mut lost = Vec::new();
        for job in 0..self.seen.len() {
            tally.due += self.expected.count(job, until);
            let room = EXAMPLES_MAX - lost.len();
            let places = self.missing(job, until).take(room);
            lost.extend(
                places.map(|place| format!("lost: job {job} at {}", self.expected.instant(job, place))),
            );
        }
        tally.lost = tally.due - tally.received;
        tally.examples = [lost, doubled, self.unexpected_examples.clone()].concat();
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::run::RunId;

    const PERIOD: Duration = Duration::from_millis(200);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// Two jobs: at 1000, 1200, … and at 1010, 1210, …
    fn account() -> Account {
        Account::new(Expected::new(vec![at(1_000), at(1_010)], PERIOD))
    }

    fn run(job: u32, scheduled_at: i64, seq: u64) -> RunId {
        let id = format!("{job}-{scheduled_at}{}", if seq > 0 { format!("-m{seq}") } else { String::new() });
        id.parse().expect("a run id")
    }

    fn arrival(job: u32, scheduled_at: i64, attempt: u32, late: i64) -> Arrival {
        Arrival {
            job,
            scheduled_at: at(scheduled_at),
            run: run(job, scheduled_at, 0),
            attempt,
            at: at(scheduled_at + late),
        }
    }

    #[test]
    fn what_is_due_and_arrives_once_is_neither_lost_nor_doubled() {
        let mut account = account();
        for (job, scheduled_at) in [(0, 1_000), (1, 1_010), (0, 1_200), (1, 1_210), (0, 1_400)] {
            account.note(&arrival(job, scheduled_at, 1, 3));
        }
        account.close(at(1_400));
        assert!(account.is_complete());
        assert_eq!(account.tally(), Tally { due: 5, received: 5, ..Tally::default() });
    }

    #[test]
    fn an_instant_without_a_request_is_lost() {
        let mut account = account();
        account.note(&arrival(0, 1_000, 1, 3));
        account.note(&arrival(0, 1_400, 1, 3));
        account.close(at(1_400));
        assert!(!account.is_complete());
        let tally = account.tally();
        assert_eq!((tally.due, tally.received, tally.lost), (5, 2, 3));
        assert_eq!(tally.examples[0], "lost: job 0 at 1970-01-01T00:00:01.200Z");
    }

    #[test]
    fn a_further_attempt_of_the_run_is_a_repeat() {
        let mut account = account();
        account.note(&arrival(0, 1_000, 1, 3));
        account.note(&arrival(0, 1_000, 2, 5_003));
        account.note(&arrival(0, 1_000, 3, 6_003));
        account.close(at(1_000));
        let tally = account.tally();
        assert_eq!((tally.received, tally.repeats, tally.duplicates), (1, 2, 0));
    }

    #[test]
    fn the_same_attempt_once_more_is_a_duplicate() {
        let mut account = account();
        account.note(&arrival(0, 1_000, 1, 3));
        account.note(&arrival(0, 1_000, 2, 4));
        account.note(&arrival(0, 1_000, 1, 5));
        account.close(at(1_000));
        let tally = account.tally();
        assert_eq!((tally.received, tally.repeats, tally.duplicates), (1, 1, 1));
        assert!(tally.examples[0].starts_with("duplicate: job 0"));
    }

    #[test]
    fn another_run_of_the_instant_is_a_duplicate_whatever_its_attempt() {
        let mut account = account();
        account.note(&arrival(0, 1_000, 1, 3));
        account.note(&Arrival { run: run(0, 1_000, 7), ..arrival(0, 1_000, 2, 9) });
        account.close(at(1_000));
        assert_eq!((account.tally().repeats, account.tally().duplicates), (0, 1));
    }

    #[test]
    fn a_run_whose_first_attempt_was_never_seen_is_received_by_its_second() {
        let mut account = account();
        account.close(at(1_000));
        account.note(&arrival(0, 1_000, 2, 5_000));
        assert!(account.is_complete());
        assert_eq!(account.lateness(at(1_000), at(1_001)).collect::<Vec<_>>(), [5_000]);
    }

    #[test]
    fn only_instants_up_to_the_end_count() {
        let mut account = account();
        for scheduled_at in [1_000, 1_200, 1_200] {
            account.note(&arrival(0, scheduled_at, 1, 3));
        }
        account.close(at(1_005));
        assert_eq!(account.tally(), Tally { due: 1, received: 1, ..Tally::default() });
    }

    #[test]
    fn what_nobody_registered_is_unexpected() {
        let mut account = account();
        for (job, scheduled_at) in [(0, 1_001), (0, 800), (2, 1_000)] {
            account.note(&arrival(job, scheduled_at, 1, 3));
        }
        account.close(at(999));
        assert_eq!((account.tally().unexpected, account.tally().received), (3, 0));
        assert_eq!(account.tally().examples.len(), 3);
    }

    #[test]
    fn lateness_is_that_of_the_first_request_within_the_window() {
        let mut account = account();
        account.note(&arrival(0, 1_000, 1, 50));
        account.note(&arrival(0, 1_200, 1, 7));
        account.note(&arrival(0, 1_200, 2, 90));
        account.note(&arrival(0, 1_400, 1, 60));
        assert_eq!(account.lateness(at(1_001), at(1_400)).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn due_counts_the_instants_of_a_window_without_its_end() {
        let expected = Expected::new(vec![at(1_000), at(1_010)], PERIOD);
        assert_eq!(expected.due(at(1_000), at(1_200)), 2);
        assert_eq!(expected.due(at(1_001), at(1_211)), 3);
        assert_eq!(expected.due(at(0), at(1_000)), 0);
    }
}
