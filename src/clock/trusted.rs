//! The wall time that a node may act on: its own clock, as long as the others do not contradict it.
//!
//! The replicated time never goes back, so a clock that jumps ahead must not get into the log: instants
//! would fire early, and then none until real time has caught up. A clock that falls back would stop the
//! firing for as long. So nodes compare their clocks, and:
//!
//! - [`TrustedClock::now`] is the machine's clock while it goes on from where the last comparison found
//!   it right. When it has left that course by more than `skew_max`, the course is what counts, measured
//!   by monotonic time, until a comparison has decided.
//! - A node is *astray* when its clock differs from the median of the clocks of the voters by more than
//!   `skew_max`. It must not lead. Where two clocks stand against each other, the one that has left its
//!   course is astray; a node that has no course yet does not decide.
//! - Before the first comparison with a majority there is no time at all.
//!
//! What a peer said is kept as a course too: where its clock stood at a moment of our monotonic time. So
//! a clock that jumps is seen against peers that cannot be asked just now.
//!
//! What this does not do: set a clock, or make an average of clocks. The leader's counts, as long as it
//! is not astray; so an instant may fire early or late by `skew_max`, as the machines' clocks are.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Clock;
use crate::state::time::Timestamp;

/// What a node said of its clock counts for so long; machines drift apart by some 10 ms in it.
pub const HEARD_MAX: Duration = Duration::from_mins(5);
/// Wall and monotonic time are read together when one reading of the latter encloses the former so
/// closely.
const TOGETHER: Duration = Duration::from_millis(2);
/// Attempts at that; on a machine that is too busy for it the last counts.
const READINGS: usize = 5;

/// What a comparison has found of this node's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing yet: fewer than a majority of the voters have been heard, or two stand against each other.
    Unknown,
    /// It agrees with the median.
    Agrees,
    /// It is ahead of the median by so many milliseconds; negative: behind.
    Astray(i64),
}

/// A clock at a moment of our monotonic time.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The moment.
    pub at: Instant,
    /// What the clock showed.
    pub wall: Timestamp,
}

impl Reading {
    /// What the clock shows at `moment`, if nobody has set it.
    fn at(&self, moment: Instant) -> i64 {
        let on = moment.saturating_duration_since(self.at).as_millis();
        let back = self.at.saturating_duration_since(moment).as_millis();
        let change = i64::try_from(on).unwrap_or(i64::MAX) - i64::try_from(back).unwrap_or(i64::MAX);
        self.wall.millis().saturating_add(change)
    }

    /// How far this clock is ahead of the other, in milliseconds, when the other is read.
    fn ahead_of(&self, other: &Self) -> i64 {
        self.at(other.at).saturating_sub(other.wall.millis())
    }
}

/// What is known of this node's clock; the rules, without a clock.
#[derive(Clone, Debug)]
struct Course {
    skew_max: Duration,
    /// Where a comparison last found this node's clock right.
    right: Option<Reading>,
    standing: Standing,
    /// It has left its course since then, and that was told.
    left_is_told: bool,
}

impl Course {
    /// The time to act on when the clock shows `own`, and whether the clock has left its course.
    fn time(&self, own: Reading) -> Option<(Timestamp, bool)> {
        let expected = self.right?.at(own.at);
        match self.is_within(own.wall.millis().saturating_sub(expected)) {
            true => Some((own.wall, false)),
            false => Some((Timestamp::from_millis(expected), true)),
        }
    }

    fn compare(&mut self, own: Reading, voters: usize, others: &[Reading]) -> Standing {
        let fresh = others.iter().filter(|other| own.at.saturating_duration_since(other.at) <= HEARD_MAX);
        let ahead: Vec<i64> = fresh.map(|other| other.ahead_of(&own)).collect();
        let left = self.time(own).map(|(_, left)| left);
        if let Some(found) = self.judge(voters, ahead, left) {
            self.standing = found;
            if found == Standing::Agrees {
                self.right = Some(own);
                self.left_is_told = false;
            }
        }
        self.standing
    }

    /// The rule. `left`: whether this clock has left its course, if it has one. None: not decided.
    fn judge(&self, voters: usize, others_ahead: Vec<i64>, left: Option<bool>) -> Option<Standing> {
        let mut ahead = others_ahead;
        ahead.push(0);
        if voters == 0 || ahead.len() < voters / 2 + 1 {
            return None;
        }
        ahead.sort_unstable();
        let (low, high) = (ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]);
        match (self.is_within(low), self.is_within(high)) {
            (true, true) => Some(Standing::Agrees),
            // The median lies between two clocks, of which one is ours or agrees with it.
            (true, false) | (false, true) => match left? {
                true => Some(Standing::Astray(if self.is_within(low) { -high } else { -low })),
                false => Some(Standing::Agrees),
            },
            // This clock is in the list with 0, so both are on one side of it.
            (false, false) => Some(Standing::Astray(if low > 0 { -low } else { -high })),
        }
    }

    fn is_within(&self, millis: i64) -> bool {
        u128::from(millis.unsigned_abs()) <= self.skew_max.as_millis()
    }
}

/// See the module. A clone is another handle on the same.
#[derive(Clone, Debug)]
pub struct TrustedClock {
    clock: Clock,
    course: Arc<Mutex<Course>>,
    standing: watch::Sender<Standing>,
    left: Arc<Notify>,
}

impl TrustedClock {
    /// A clock of which nothing is known yet, and how far it may be off.
    #[must_use]
    pub fn new(clock: Clock, skew_max: Duration) -> Self {
        let course = Course { skew_max, right: None, standing: Standing::Unknown, left_is_told: false };
        let (course, left) = (Arc::new(Mutex::new(course)), Arc::default());
        Self { clock, course, standing: watch::Sender::new(Standing::Unknown), left }
    }

    /// The machine's clock, with nobody to contradict it.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        let clock = Self::new(Clock::system(), Duration::from_millis(500));
        clock.compare(1, &[]);
        clock
    }

    /// The clock itself, trusted or not; and chance.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How far a clock may be off.
    #[must_use]
    pub fn skew_max(&self) -> Duration {
        self.course().skew_max
    }

    /// The wall time to act on; none before this node's clock was first found right.
    #[must_use]
    pub fn now(&self) -> Option<Timestamp> {
        let own = self.read();
        let mut course = self.course();
        let (time, left) = course.time(own)?;
        if left && !std::mem::replace(&mut course.left_is_told, true) {
            self.left.notify_one();
        }
        Some(time)
    }

    /// Resolves when the clock was found to have left its course by [`TrustedClock::now`]: once, until a comparison
    /// has found it right again.
    pub async fn has_left(&self) {
        self.left.notified().await;
    }

    /// What the comparisons have found, as it changes.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Resolves when the clock has been compared.
    pub async fn is_known(&self) {
        // The sender lives in `self`, so the channel cannot close.
        let _ = self.standing.subscribe().wait_for(|standing| *standing != Standing::Unknown).await;
    }

    /// How far the clock of a peer is ahead of this node's, in milliseconds.
    #[must_use]
    pub fn ahead(&self, peer: &Reading) -> i64 {
        peer.ahead_of(&self.read())
    }

    /// Compares this node's clock with those of the other voters; `voters` counts this node too if it has
    /// a vote. Readings that are too old do not count, and without voters nothing is found.
    pub fn compare(&self, voters: usize, others: &[Reading]) -> Standing {
        let own = self.read();
        let found = self.course().compare(own, voters, others);
        self.standing.send_if_modified(|now| std::mem::replace(now, found) != found);
        found
    }

    fn read(&self) -> Reading {
        let mut reading = Reading { at: Instant::now(), wall: self.clock.now() };
        for _ in 1..READINGS {
            if reading.at.elapsed() <= TOGETHER {
                break;
            }
            reading = Reading { at: Instant::now(), wall: self.clock.now() };
        }
        reading
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 10_000_000;

    fn course() -> Course {
        Course {
            skew_max: Duration::from_millis(500),
            right: None,
            standing: Standing::Unknown,
            left_is_told: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_leaves_its_course_is_told_once_until_it_is_right_again() {
        let off = Arc::new(std::sync::atomic::AtomicI64::new(0));
        let shown = Arc::clone(&off);
        let order = std::sync::atomic::Ordering::Relaxed;
        let wall = move || Timestamp::from_millis(START + shown.load(order));
        let clock = TrustedClock::new(Clock::new(wall, 1), Duration::from_millis(500));
        let peer = || Reading { at: Instant::now(), wall: Timestamp::from_millis(START) };
        let is_told = || futures::FutureExt::now_or_never(clock.has_left()).is_some();
        assert_eq!(clock.compare(3, &[peer(), peer()]), Standing::Agrees);
        for _ in 0..2 {
            off.store(3_600_000, order);
            assert!(clock.now().is_some() && is_told(), "it has left its course");
            // Whoever is told compares the clocks and acts on the time again: that must not wake it at once.
            assert_eq!(clock.compare(3, &[peer(), peer()]), Standing::Astray(3_600_000));
            assert!(clock.now().is_some() && !is_told(), "it is known");
            off.store(0, order);
            assert_eq!(clock.compare(3, &[peer(), peer()]), Standing::Agrees);
            assert!(clock.now().is_some() && !is_told(), "it is right");
        }
    }

    /// Clocks at a moment: `seconds` after `begun`, they show the milliseconds `walls`.
    fn at(begun: Instant, seconds: u64, walls: &[i64]) -> Vec<Reading> {
        let at = begun + Duration::from_secs(seconds);
        walls.iter().map(|wall| Reading { at, wall: Timestamp::from_millis(*wall) }).collect()
    }

    #[test]
    fn there_is_no_time_before_a_majority_was_heard() {
        let (mut course, begun) = (course(), Instant::now());
        let own = at(begun, 0, &[START])[0];
        assert_eq!(course.compare(own, 3, &[]), Standing::Unknown);
        assert_eq!(course.compare(own, 0, &[]), Standing::Unknown);
        assert_eq!(course.time(own), None);
        assert_eq!(course.compare(own, 3, &at(begun, 0, &[START + 100])), Standing::Agrees);
        assert_eq!(course.time(own), Some((own.wall, false)));
        assert_eq!(super::tests::course().compare(own, 1, &[]), Standing::Agrees);
    }

    #[test]
    fn a_jump_does_not_count_before_the_others_confirm_it() {
        for jump in [3_600_000, -3_600_000] {
            let (mut course, begun) = (course(), Instant::now());
            let heard = at(begun, 0, &[START, START + 20]);
            course.compare(at(begun, 0, &[START])[0], 3, &heard);
            let jumped = at(begun, 2, &[START + 2_000 + jump])[0];
            assert_eq!(course.time(jumped), Some((Timestamp::from_millis(START + 2_000), true)));
            // What was heard before the jump tells it too.
            let Standing::Astray(by) = course.compare(jumped, 3, &heard) else { panic!("not astray") };
            assert!((by - jump).abs() <= 20, "{by}");
            let later = at(begun, 3, &[START + 3_000 + jump])[0];
            assert_eq!(course.time(later), Some((Timestamp::from_millis(START + 3_000), true)));
            // All were set, as after a night in which the whole host slept.
            let told = at(begun, 3, &[START + 3_000 + jump; 2]);
            assert_eq!(course.compare(later, 3, &told), Standing::Agrees);
            assert_eq!(course.time(later), Some((later.wall, false)));
        }
    }

    #[test]
    fn small_steps_and_drift_are_followed() {
        let (mut course, begun) = (course(), Instant::now());
        for step in 0..10 {
            let wall = START + i64::try_from(step).unwrap() * 1_400;
            let own = at(begun, step, &[wall])[0];
            assert!(course.time(own).is_none_or(|time| time == (own.wall, false)));
            assert_eq!(course.compare(own, 3, &at(begun, step, &[wall, wall])), Standing::Agrees);
        }
    }

    #[test]
    fn the_median_decides_who_is_astray() {
        let standing = |others_ahead: &[i64]| course().judge(3, others_ahead.to_vec(), Some(false));
        assert_eq!(standing(&[0, 3_600_000]), Some(Standing::Agrees));
        assert_eq!(standing(&[-3_600_000, -3_600_100]), Some(Standing::Astray(3_600_000)));
        assert_eq!(standing(&[700, 900]), Some(Standing::Astray(-700)));
        // No two agree: the one in the middle leads.
        assert_eq!(standing(&[-60_000, 60_000]), Some(Standing::Agrees));
        assert_eq!(standing(&[60_000, 120_000]), Some(Standing::Astray(-60_000)));
        let of_five = |others_ahead: &[i64]| course().judge(5, others_ahead.to_vec(), Some(false));
        assert_eq!(of_five(&[0, 60_000, 60_000, 60_000]), Some(Standing::Astray(-60_000)));
        assert_eq!(of_five(&[0, 0, 60_000, 60_000]), Some(Standing::Agrees));
    }

    #[test]
    fn of_two_the_one_that_left_its_course_is_astray() {
        let standing = |others_ahead: &[i64], left| course().judge(3, others_ahead.to_vec(), left);
        assert_eq!(standing(&[-60_000], Some(true)), Some(Standing::Astray(60_000)));
        assert_eq!(standing(&[-60_000], Some(false)), Some(Standing::Agrees));
        // Both have just started: nobody can tell, and a wrong time in the log could not be taken back.
        assert_eq!(standing(&[-60_000], None), None);
    }

    #[test]
    fn what_was_heard_long_ago_does_not_count() {
        let begun = Instant::now();
        let heard = at(begun, 0, &[START, START]);
        let own = at(begun, HEARD_MAX.as_secs() + 1, &[START])[0];
        assert_eq!(course().compare(own, 3, &heard), Standing::Unknown);
    }

    #[tokio::test]
    async fn a_clock_that_is_found_off_its_course_wakes_who_compares() {
        let set = Arc::new(std::sync::atomic::AtomicI64::new(START));
        let shown = Arc::clone(&set);
        let wall = move || Timestamp::from_millis(shown.load(std::sync::atomic::Ordering::Relaxed));
        let clock = TrustedClock::new(Clock::new(wall, 1), Duration::from_secs(60));
        assert_eq!(clock.now(), None);
        assert_eq!(clock.compare(1, &[]), Standing::Agrees);
        clock.is_known().await;
        set.fetch_add(3_600_000, std::sync::atomic::Ordering::Relaxed);
        assert!(clock.now().unwrap().millis() < START + 60_000);
        clock.has_left().await;
    }
}
