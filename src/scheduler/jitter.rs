//! The spread between the nominal instant and the due one.
//!
//! Thousands of jobs at `0 * * * *` should not all start in one millisecond. Each occurrence is
//! put off by a number that depends on the job and the nominal instant alone, so that every node
//! finds the same one, before and after a failover.

use super::spread::mix;
use crate::state::schedule::Schedule;
use crate::state::time::Timestamp;

/// When the occurrence at `nominal` is due.
///
/// It is `nominal + mix(mix(job_seed) ^ nominal_ms) mod span`, in milliseconds, where `span` is the
/// smaller of `jitter + 1 ms` and the time to `next_nominal`: at most `jitter` late, and never at
/// or past the next occurrence, so that jitter does not reorder them. `mix` is SplitMix64 ([`super::spread`]).
///
/// `job_seed` must be the same on every node and for the life of the job.
#[must_use]
pub fn due_at(
    schedule: &Schedule,
    job_seed: u64,
    nominal: Timestamp,
    next_nominal: Option<Timestamp>,
) -> Timestamp {
    let jitter_ms = u64::try_from(schedule.jitter.as_millis()).unwrap_or(u64::MAX);
    let mut span_ms = jitter_ms.saturating_add(1);
    if let Some(next) = next_nominal {
        // `next` is later than `nominal`; if a caller mixes them up there is no spread
        let room_ms = next.millis().saturating_sub(nominal.millis());
        span_ms = span_ms.min(u64::try_from(room_ms).unwrap_or(1)).max(1);
    }
    let hash = mix(mix(job_seed) ^ nominal.millis().cast_unsigned());
    let late_ms = i64::try_from(hash % span_ms).unwrap_or(i64::MAX);
    Timestamp::from_millis(nominal.millis().saturating_add(late_ms))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::state::schedule::{Fold, Gap, Rule};

    fn with_jitter(ms: u64) -> Schedule {
        Schedule {
            rule: Rule::Every { period: Duration::from_secs(60), offset: Duration::ZERO },
            timezone: "UTC".to_owned(),
            gap: Gap::default(),
            fold: Fold::default(),
            start_at: None,
            end_at: None,
            jitter: Duration::from_millis(ms),
            count: None,
            exclude: Vec::new(),
            only: Vec::new(),
        }
    }

    #[test]
    fn due_stays_before_the_next_nominal_and_within_the_jitter() {
        let schedule = with_jitter(90_000);
        let mut seen_late = false;
        for minute in 0..1_000 {
            let nominal = Timestamp::from_millis(minute * 60_000);
            let next = Timestamp::from_millis((minute + 1) * 60_000);
            let due = due_at(&schedule, 7, nominal, Some(next));
            assert!(nominal <= due && due < next, "{due}");
            let last = due_at(&schedule, 7, nominal, None);
            assert!(nominal <= last && last.since(nominal) <= schedule.jitter, "{last}");
            seen_late |= last >= next;
        }
        assert!(seen_late, "without a next occurrence the whole jitter is used");
    }

    #[test]
    fn due_depends_on_job_and_instant_alone_and_is_pinned() {
        let schedule = with_jitter(300_000);
        let nominal = Timestamp::from_millis(1_774_746_000_000);
        let due = |seed| due_at(&schedule, seed, nominal, None).since(nominal).as_millis();
        assert_eq!([due(1), due(2), due(1)], [141_606, 251_923, 141_606]);
        assert_eq!(due_at(&with_jitter(0), 1, nominal, None), nominal);
        assert_eq!(due_at(&schedule, 1, nominal, Some(nominal)), nominal);
    }
}
