//! Limits that jobs share: how many attempts of a group run at the same time, and how often they start.
//!
//! The state refuses a start beyond a limit, whoever proposes it: so catch-up after an outage, retries and a new
//! leader obey them. The rate is a token bucket (as in RFC 2697, section 3, with one bucket): it holds as many tokens
//! as may start in its span, each start takes one, and it fills evenly with the log's time. All of it in integers: the
//! level is counted in parts of a token, of which one has as many as the span has milliseconds.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::State;
use super::spec::{JobSpec, Limits, Rate};
use super::time::Timestamp;

/// Identity of a group: its name, or `job:NAME` for a job's own limits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name; no job or group has a colon in its own.
    pub name: Arc<str>,
}

impl JobSpec {
    /// The group whose limits its attempts obey.
    #[must_use]
    pub fn group(&self) -> Option<GroupKey> {
        let name = match &self.limits.as_ref()?.group {
            Some(group) => group.as_str().into(),
            None => format!("job:{}", self.name).into(),
        };
        Some(GroupKey { namespace: self.namespace.as_str().into(), name })
    }
}

/// The limits of a group and how far they are used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Attempts that run at the same time.
    pub concurrency: Option<u32>,
    /// How often they start.
    pub rate: Option<Rate>,
    /// What the bucket held when it was last looked at, in parts of a token.
    level: u64,
    /// When that was.
    filled_at: Timestamp,
}

impl Group {
    pub(super) fn new(limits: &Limits, at: Timestamp) -> Self {
        let Limits { concurrency, rate, .. } = *limits;
        Self { concurrency, rate, level: rate.map_or(0, capacity), filled_at: at }
    }

    /// Takes over other limits. What has started lately still counts.
    pub(super) fn change(&mut self, limits: &Limits, at: Timestamp) {
        let Limits { concurrency, rate, .. } = *limits;
        self.concurrency = concurrency;
        if self.rate != rate {
            // So many tokens are gone from the bucket that was full.
            let gone = self
                .rate
                .map_or(0, |old| (capacity(old) - self.level_at(at).min(capacity(old))).div_ceil(token(old)));
            self.level = rate.map_or(0, |new| capacity(new).saturating_sub(gone.saturating_mul(token(new))));
            self.filled_at = at;
            self.rate = rate;
        }
    }

    fn level_at(&self, at: Timestamp) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let passed = u64::try_from(at.since(self.filled_at).as_millis()).unwrap_or(u64::MAX);
        self.level.saturating_add(passed.saturating_mul(u64::from(rate.starts))).min(capacity(rate))
    }

    /// How many attempts may start at `at`, by the rate alone.
    #[must_use]
    pub fn tokens(&self, at: Timestamp) -> u64 {
        self.rate.map_or(u64::MAX, |rate| self.level_at(at) / token(rate))
    }

    /// Whether one more may start at `at`, when so many run and `planned` of them have not taken their tokens.
    pub(super) fn has_room(&self, running: u32, planned: u32, at: Timestamp) -> bool {
        self.concurrency.is_none_or(|most| running < most) && self.tokens(at) > u64::from(planned)
    }

    /// When the rate lets the `nth` attempt from now on start, counted from 1.
    #[must_use]
    pub fn token_at(&self, nth: u64, at: Timestamp) -> Timestamp {
        let Some(rate) = self.rate else { return at };
        let lacking = token(rate).saturating_mul(nth).saturating_sub(self.level_at(at));
        at.plus(std::time::Duration::from_millis(lacking.div_ceil(u64::from(rate.starts.max(1)))))
    }

    pub(super) fn take(&mut self, at: Timestamp) {
        if let Some(rate) = self.rate {
            self.level = self.level_at(at).saturating_sub(token(rate));
            self.filled_at = at;
        }
    }
}

/// The parts of a token.
fn token(rate: Rate) -> u64 {
    u64::try_from(rate.per.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// What a full bucket holds, in parts.
fn capacity(rate: Rate) -> u64 {
    token(rate).saturating_mul(u64::from(rate.starts))
}

impl State {
    /// A group that some job names.
    #[must_use]
    pub fn group(&self, key: &GroupKey) -> Option<&Arc<Group>> {
        self.groups.get(key)
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupKey, &Arc<Group>)> {
        self.groups.iter()
    }

    /// How many attempts of a group run.
    #[must_use]
    pub fn group_load(&self, key: &GroupKey) -> u32 {
        self.group_loads.get(key).copied().unwrap_or(0)
    }

    /// Whether the limits of a group let an attempt start at `at`, when `planned` others will have before it.
    #[must_use]
    pub fn has_group_room(&self, key: &GroupKey, planned: u32, at: Timestamp) -> bool {
        let Some(group) = self.groups.get(key) else { return true };
        group.has_room(self.group_load(key).saturating_add(planned), planned, at)
    }

    /// Brings the group of a job in line with what the job says; the last job that was applied decides.
    pub(super) fn fit_group(&mut self, spec: &JobSpec, at: Timestamp) {
        let (Some(key), Some(limits)) = (spec.group(), &spec.limits) else { return };
        let group = match self.groups.get(&key) {
            Some(old) => {
                let mut group = old.as_ref().clone();
                group.change(limits, at);
                group
            }
            None => Group::new(limits, at),
        };
        self.groups.insert(key, Arc::new(group));
    }

    /// A group that no job names any more is gone.
    pub(super) fn drop_ungrouped(&mut self, key: &GroupKey) {
        let from = (key.clone(), super::JobId(0));
        if self.members.range(from..).next().is_none_or(|(of, _)| of != key) {
            self.groups.remove(key);
        }
    }

    /// Takes what a start costs; whether there is room was asked before.
    pub(super) fn take_token(&mut self, key: &GroupKey, at: Timestamp) {
        if let Some(group) = self.groups.get(key).filter(|group| group.rate.is_some()) {
            let mut group = group.as_ref().clone();
            group.take(at);
            self.groups.insert(key.clone(), Arc::new(group));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn group(starts: u32, per: Duration) -> Group {
        let limits = Limits { group: None, concurrency: None, rate: Some(Rate { starts, per }) };
        Group::new(&limits, Timestamp::from_millis(0))
    }

    #[test]
    fn no_more_start_in_any_span_than_the_bucket_and_its_filling_hold() {
        let mut bucket = group(3, Duration::from_secs(1));
        let mut started = Vec::new();
        for millis in 0..5_000 {
            let at = Timestamp::from_millis(millis);
            while bucket.tokens(at) > 0 {
                bucket.take(at);
                started.push(millis);
            }
        }
        assert_eq!(&started[..6], [0, 0, 0, 334, 667, 1_000]);
        assert_eq!(started.len(), 3 + 14, "a full bucket, and three a second for just under five");
    }

    #[test]
    fn the_instant_of_a_token_is_the_first_at_which_it_is_there() {
        let mut bucket = group(7, Duration::from_secs(10));
        let begin = Timestamp::from_millis(50);
        (0..7).for_each(|_| bucket.take(begin));
        for nth in 1..=7 {
            let at = bucket.token_at(nth, begin);
            assert!(bucket.tokens(at) >= nth);
            assert!(bucket.tokens(at.minus(Duration::from_millis(1))) < nth);
        }
    }

    #[test]
    fn a_change_of_the_rate_does_not_fill_the_bucket() {
        let mut bucket = group(4, Duration::from_secs(60));
        let at = Timestamp::from_millis(0);
        (0..3).for_each(|_| bucket.take(at));
        let limits = Limits {
            group: None,
            concurrency: Some(1),
            rate: Some(Rate { starts: 5, per: Duration::from_secs(1) }),
        };
        bucket.change(&limits, at);
        assert_eq!(bucket.tokens(at), 2);
        assert_eq!(bucket.concurrency, Some(1));
    }
}
