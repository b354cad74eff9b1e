//! Circuit breakers, in integers and log time alone, so that a follower takes over in mid-cool-down.
//!
//! What counts is each attempt, for each is a call on the target. Closed → open after a row of
//! failures or at a failure rate; open → half open when the cool-down is over (the leader proposes
//! it, the stamp proves it); half open lets `probes` attempts through: all good → closed, one bad →
//! open again, for twice as long up to a bound. Only a probe's own result moves a half-open breaker:
//! a probe carries the index at which the breaker turned half open, so that one of an earlier time,
//! or an attempt started before the opening, changes nothing.
//!
//! What becomes of the waiting runs when a breaker moves is not decided here but in `admission`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits;
use super::run::AttemptOutcome;
use super::spec::BreakerPolicy;
use super::time::Timestamp;

/// A breaker. One that is closed and has counted nothing need not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Its rules: of the job, or of the job that was applied last among those that share it.
    pub policy: BreakerPolicy,
    /// What it is.
    pub status: Status,
    /// Failed attempts since the last success.
    pub consecutive_failures: u32,
    /// Openings in a row without a closing between them.
    pub reopened: u32,
    /// Outcomes of the policy's window, the oldest slice first; only kept for a failure rate.
    pub slices: Vec<Slice>,
    /// The newest last, at most [`limits::TRANSITIONS`].
    pub transitions: Vec<Transition>,
}

/// What a breaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// All pass.
    Closed,
    /// None pass.
    Open {
        /// When the cool-down is over.
        until: Timestamp,
        /// Log index of the opening.
        index: u64,
    },
    /// Probes pass.
    HalfOpen {
        /// Log index of the change.
        index: u64,
        /// Probes that run.
        running: u32,
        /// Probes that succeeded.
        passed: u32,
    },
}

/// Outcomes of a tenth of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Number of the slice since the epoch.
    pub number: i64,
    /// Attempts that counted.
    pub attempts: u32,
    /// Of these, failed.
    pub failures: u32,
}

/// A change of a breaker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// When.
    pub at: Timestamp,
    /// Log index of the entry.
    pub index: u64,
    /// What it became.
    pub to: StatusKind,
    /// Why.
    pub why: Why,
    /// Who, and why, where a person did it.
    pub actor: String,
    /// The person's reason.
    pub reason: String,
}

/// [`Status`] without its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatusKind {
    /// All pass.
    Closed,
    /// None pass.
    Open,
    /// Probes pass.
    HalfOpen,
}

/// Why a breaker changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// Too large a share of failures.
    FailureRate,
    /// A probe failed.
    ProbeFailed,
    /// All probes succeeded.
    ProbesPassed,
    /// The cool-down is over.
    CoolDownOver,
    /// By hand.
    Tripped,
    /// By hand.
    Reset,
}

impl Why {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailureRate => "failure_rate",
            Self::ProbeFailed => "probe_failed",
            Self::ProbesPassed => "probes_passed",
            Self::CoolDownOver => "cool_down_over",
            Self::Tripped => "tripped",
            Self::Reset => "reset",
        }
    }
}

/// When an entry was stamped, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The state's time.
    pub at: Timestamp,
    /// The log index.
    pub index: u64,
}

/// Slices that a window is cut into.
const SLICES: i64 = 10;

impl Breaker {
    /// A closed breaker that has counted nothing.
    #[must_use]
    pub const fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            status: Status::Closed,
            consecutive_failures: 0,
            reopened: 0,
            slices: Vec::new(),
            transitions: Vec::new(),
        }
    }

    /// What it is, without numbers.
    #[must_use]
    pub const fn kind(&self) -> StatusKind {
        match self.status {
            Status::Closed => StatusKind::Closed,
            Status::Open { .. } => StatusKind::Open,
            Status::HalfOpen { .. } => StatusKind::HalfOpen,
        }
    }

    /// Whether it says no more than that nothing happened yet.
    #[must_use]
    pub const fn is_trivial(&self) -> bool {
        matches!(self.status, Status::Closed)
            && self.consecutive_failures == 0
            && self.slices.is_empty()
            && self.transitions.is_empty()
    }

    /// Lets an attempt through as a probe, if it is half open and has room for one.
    pub(super) fn admit_probe(&mut self) -> Option<u64> {
        let Status::HalfOpen { index, running, passed } = &mut self.status else { return None };
        if running.saturating_add(*passed) >= self.policy.probes.max(1) {
            return None;
        }
        *running += 1;
        Some(*index)
    }

    /// Counts an attempt that ended; `probe` as [`Self::admit_probe`] gave it.
    pub(super) fn count(&mut self, outcome: AttemptOutcome, probe: Option<u64>, moment: Moment) {
        let failed = match outcome {
            AttemptOutcome::Succeeded => Some(false),
            AttemptOutcome::Failed | AttemptOutcome::TimedOut => Some(true),
            AttemptOutcome::Running | AttemptOutcome::Cancelled | AttemptOutcome::Lost => None,
        };
        match self.status {
            Status::Closed => {
                if let Some(failed) = failed {
                    self.count_closed(failed, moment);
                }
            }
            Status::Open { .. } => {}
            Status::HalfOpen { index, running, passed } => {
                if probe == Some(index) {
                    let running = running.saturating_sub(1);
                    match failed {
                        None => self.status = Status::HalfOpen { index, running, passed },
                        Some(true) => {
                            self.reopened = self.reopened.saturating_add(1);
                            self.open(self.cool_down(), Why::ProbeFailed, ("", ""), moment);
                        }
                        Some(false) => {
                            let passed = passed.saturating_add(1);
                            self.status = Status::HalfOpen { index, running, passed };
                            self.close_if_passed(moment);
                        }
                    }
                }
            }
        }
    }

    /// Closes it if as many probes have passed as the policy wants.
    pub(super) fn close_if_passed(&mut self, moment: Moment) {
        if let Status::HalfOpen { passed, .. } = self.status
            && passed >= self.policy.probes.max(1)
        {
            self.close(Why::ProbesPassed, ("", ""), moment);
        }
    }

    fn count_closed(&mut self, failed: bool, moment: Moment) {
        self.consecutive_failures = if failed { self.consecutive_failures.saturating_add(1) } else { 0 };
        if self.policy.failure_rate_milli > 0 {
            self.slide(moment.at);
            let number = self.slice_number(moment.at);
            match self.slices.last_mut().filter(|slice| slice.number == number) {
                Some(slice) => {
                    slice.attempts = slice.attempts.saturating_add(1);
                    slice.failures = slice.failures.saturating_add(u32::from(failed));
                }
                None => self.slices.push(Slice { number, attempts: 1, failures: u32::from(failed) }),
            }
        }
        if !failed {
            return;
        }
        let in_a_row = self.policy.consecutive_failures;
        if in_a_row > 0 && self.consecutive_failures >= in_a_row {
            self.open(self.cool_down(), Why::ConsecutiveFailures, ("", ""), moment);
        } else if self.rate_is_reached() {
            self.open(self.cool_down(), Why::FailureRate, ("", ""), moment);
        }
    }

    fn slice_number(&self, at: Timestamp) -> i64 {
        let width = i64::try_from(self.policy.window.as_millis()).unwrap_or(i64::MAX) / SLICES;
        at.millis().div_euclid(width.max(1))
    }

    fn slide(&mut self, at: Timestamp) {
        let oldest = self.slice_number(at) - SLICES + 1;
        self.slices.retain(|slice| slice.number >= oldest);
    }

    /// Attempts and failures in the window, as of its last change.
    #[must_use]
    pub fn window_counts(&self) -> (u32, u32) {
        self.slices.iter().fold((0u32, 0u32), |(attempts, failures), slice| {
            (attempts.saturating_add(slice.attempts), failures.saturating_add(slice.failures))
        })
    }

    fn rate_is_reached(&self) -> bool {
        let (attempts, failures) = self.window_counts();
        self.policy.failure_rate_milli > 0
            && attempts >= self.policy.minimum_attempts.max(1)
            && u64::from(failures) * 1_000 >= u64::from(attempts) * u64::from(self.policy.failure_rate_milli)
    }

    /// `open_for`, doubled for each re-opening, at most `max_open_for`.
    fn cool_down(&self) -> Duration {
        let factor = 1u32.checked_shl(self.reopened.min(31)).unwrap_or(u32::MAX);
        self.policy.open_for.saturating_mul(factor).min(self.policy.max_open_for.max(self.policy.open_for))
    }

    /// Opens it by hand, for `open_for` or the policy's cool-down.
    pub(super) fn trip(&mut self, open_for: Option<Duration>, who: (&str, &str), moment: Moment) {
        let span = open_for.unwrap_or_else(|| self.cool_down());
        self.open(span, Why::Tripped, who, moment);
    }

    fn open(&mut self, span: Duration, why: Why, who: (&str, &str), moment: Moment) {
        self.status = Status::Open { until: moment.at.plus(span), index: moment.index };
        self.note(StatusKind::Open, why, who, moment);
    }

    /// Lets probes through.
    pub(super) fn half_open(&mut self, moment: Moment) {
        self.status = Status::HalfOpen { index: moment.index, running: 0, passed: 0 };
        self.note(StatusKind::HalfOpen, Why::CoolDownOver, ("", ""), moment);
    }

    /// Closes it and forgets what it counted.
    pub(super) fn close(&mut self, why: Why, who: (&str, &str), moment: Moment) {
        self.status = Status::Closed;
        self.consecutive_failures = 0;
        self.reopened = 0;
        self.slices.clear();
        self.note(StatusKind::Closed, why, who, moment);
    }

    fn note(&mut self, to: StatusKind, why: Why, (actor, reason): (&str, &str), moment: Moment) {
        if self.transitions.len() == limits::TRANSITIONS {
            self.transitions.remove(0);
        }
        self.transitions.push(Transition {
            at: moment.at,
            index: moment.index,
            to,
            why,
            actor: actor.to_owned(),
            reason: reason.to_owned(),
        });
    }
}
