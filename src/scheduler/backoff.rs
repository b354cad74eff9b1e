//! The wait before the next attempt.

use std::time::Duration;

use crate::state::Job;
use crate::state::run::Run;
use crate::state::spec::Retry;

/// The wait after the running attempt of a run, should it end and another one follow; `chance` is a random number.
#[must_use]
pub fn after(run: &Run, job: &Job, chance: u64) -> Duration {
    let ended = u32::try_from(run.attempts.len()).unwrap_or(u32::MAX).saturating_sub(run.reruns);
    backoff(&job.spec.retry, ended.max(1), chance)
}

/// `initial * multiplier^(attempts - 1)`, at most `max`, then less a random part of up to `jitter`.
///
/// `attempts` counts the attempts that have ended, from 1; `chance` is a random number. Subtracting
/// keeps `max` a bound ("equal jitter" of the AWS Architecture Blog's "Exponential backoff and
/// jitter", with the share chosen by the job).
#[must_use]
pub fn backoff(retry: &Retry, attempts: u32, chance: u64) -> Duration {
    let mut wait_ms = retry.initial.as_millis();
    let max_ms = retry.max.as_millis().max(1);
    for _ in 1..attempts.min(128) {
        wait_ms = wait_ms.saturating_mul(u128::from(retry.multiplier_milli)) / 1_000;
        if wait_ms >= max_ms {
            break;
        }
    }
    let wait_ms = u64::try_from(wait_ms.min(max_ms)).unwrap_or(u64::MAX);
    let spread_ms = u64::try_from(u128::from(wait_ms) * u128::from(retry.jitter_milli) / 1_000).unwrap_or(0);
    let less_ms = if spread_ms == 0 { 0 } else { chance % (spread_ms + 1) };
    Duration::from_millis(wait_ms - less_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Retry {
        Retry {
            max_attempts: 9,
            initial: Duration::from_secs(1),
            multiplier_milli: 2_000,
            max: Duration::from_secs(10),
            jitter_milli: 0,
            on: Vec::new(),
        }
    }

    #[test]
    fn waits_grow_by_the_multiplier_up_to_max() {
        let waits: Vec<u64> = (1..=6).map(|n| backoff(&retry(), n, 0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff(&retry(), u32::MAX, 0), Duration::from_secs(10));
    }

    #[test]
    fn jitter_only_shortens_and_by_no_more_than_its_share() {
        let retry = Retry { jitter_milli: 200, ..retry() };
        for chance in 0..5_000 {
            let wait = backoff(&retry, 3, chance);
            assert!((3_200..=4_000).contains(&wait.as_millis()), "{wait:?}");
        }
    }
}
