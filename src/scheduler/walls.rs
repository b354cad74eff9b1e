//! From wall time to instants: the search across a zone's offsets.
//!
//! Cron lines, calendars and recurrence rules are [`Walls`]: each knows which wall times match. A wall
//! time is a count of seconds since 1970-01-01T00:00:00 on the local calendar, without any zone.
//!
//! A zone is a row of [`Segment`]s, spans of real time with one offset each. Inside a segment
//! the two kinds of time differ by a constant, so the search asks [`Walls::next_wall`] for the
//! first match of the segment's wall times, and goes on to the next segment if there is none.
//! What is odd about a day is decided at the border of two segments: walls that neither has are
//! a gap, walls that both have are a fold.
//!
//! Invariant: each round begins later than the one before, and no round begins later than
//! [`HORIZON_SECONDS`] after the second, so each search ends. Between two rounds the search leaps
//! to a day before the next match in wall time, so a rule for 29 February costs a round or two.

use super::zone::{Segment, Zone};
use crate::state::schedule::{Fold, Gap};
use crate::state::time::Timestamp;

/// Seconds of a day of the local calendar.
pub(super) const DAY_SECONDS: i64 = 86_400;
/// The longest gap that a fixed rule makes up for; a longer one is a lost day.
pub const GAP_SECONDS_MAX: i64 = 3 * 3_600;
/// A wall time and its instant differ by no more than this; jiff allows 25:59:59.
const OFFSET_SECONDS_MAX: i64 = 26 * 3_600;
/// How far a search looks: zones and calendar repeat after 400 years, give or take an offset.
const HORIZON_SECONDS: i64 = 401 * 366 * 86_400;
const SECOND_MAX: i64 = Timestamp::MAX.millis() / 1_000;

/// What becomes of odd wall times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dst {
    /// Of those that a zone skips.
    pub gap: Gap,
    /// Of those that a zone repeats.
    pub fold: Fold,
}

/// What is odd about an occurrence. Wall times are seconds since midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// It makes up for wall times that do not exist.
    Gap {
        /// The earliest of them.
        missing: u32,
        /// How many there are, up to 2, which stands for any larger number.
        count: u8,
        /// When it runs instead.
        runs: u32,
    },
    /// Its wall time comes twice, and this is the first pass.
    FirstOfTwo,
    /// Its wall time comes twice, and this is the second pass.
    SecondOfTwo,
}

/// A rule that is read in wall time.
pub trait Walls {
    /// The first matching wall time at or after `from`; `None` if there is none before the year 10000, or
    /// none for so long that the rule counts as over.
    fn next_wall(&self, from: i64) -> Option<i64>;

    /// Whether the rule follows real time on odd days; see [`super::cron`].
    fn is_elastic(&self) -> bool;

    /// The first occurrence strictly after `after`, both in seconds since the Unix epoch.
    ///
    /// `None` if there is none before the year 10000, or within 401 years of the first match in wall time.
    /// It allocates nothing.
    #[must_use]
    fn next_after(&self, zone: &Zone, dst: Dst, after: i64) -> Option<i64> {
        let mut from = after.checked_add(1)?;
        let mut horizon = SECOND_MAX;
        while from <= horizon {
            let segment = zone.segment(from);
            if let Some(found) = first_in(self, &segment, dst, from) {
                return (found <= SECOND_MAX).then_some(found);
            }
            // every wall time of later instants is at least this
            let wall = self.next_wall(segment.end.checked_sub(OFFSET_SECONDS_MAX)?)?;
            let leapt = segment.end.max(wall - OFFSET_SECONDS_MAX);
            if horizon == SECOND_MAX {
                // counted from the first match in wall time, for a rule may begin centuries later
                horizon = leapt.saturating_add(HORIZON_SECONDS).min(SECOND_MAX - 1);
            }
            from = leapt;
        }
        None
    }

    /// What is odd about `at`, an occurrence of this rule in seconds since the Unix epoch.
    #[must_use]
    fn oddity(&self, zone: &Zone, dst: Dst, at: i64) -> Option<Oddity> {
        let segment = zone.segment(at);
        let wall = at + segment.offset;
        if !self.is_elastic() && first_from_gap(self, &segment, dst.gap, at) == Some(at) {
            let (first_wall, end_wall) = segment.gap()?;
            let first = match dst.gap {
                Gap::Shift => at + segment.offset_before,
                Gap::RunAtEnd | Gap::Skip => first_wall,
            };
            let missing = first_match(self, first, end_wall)?;
            let more = dst.gap == Gap::RunAtEnd && first_match(self, missing + 1, end_wall).is_some();
            return Some(Oddity::Gap {
                missing: second_of_day(missing),
                count: if more { 2 } else { 1 },
                runs: second_of_day(wall),
            });
        }
        if segment.folds_from().is_some_and(|folds_from| wall >= folds_from) {
            return Some(Oddity::FirstOfTwo);
        }
        segment.folded_until().is_some_and(|until| wall < until).then_some(Oddity::SecondOfTwo)
    }
}

/// The first occurrence at or after `from`, which lies in the segment, and before its end.
fn first_in(rule: &(impl Walls + ?Sized), segment: &Segment, dst: Dst, from: i64) -> Option<i64> {
    let mut first_wall = from + segment.offset;
    let mut end_wall = segment.end.saturating_add(segment.offset);
    let mut from_gap = None;
    if !rule.is_elastic() {
        match dst.fold {
            Fold::First => first_wall = first_wall.max(segment.folded_until().unwrap_or(i64::MIN)),
            Fold::Second => end_wall = end_wall.min(segment.folds_from().unwrap_or(i64::MAX)),
            Fold::Both => {}
        }
        from_gap = first_from_gap(rule, segment, dst.gap, from);
    }
    let regular = first_match(rule, first_wall, end_wall).map(|wall| wall - segment.offset);
    match (from_gap, regular) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// The first occurrence at or after `from` that stands for wall times in the gap at the
/// segment's start.
fn first_from_gap(rule: &(impl Walls + ?Sized), segment: &Segment, gap: Gap, from: i64) -> Option<i64> {
    let (first_wall, end_wall) = segment.gap()?;
    if end_wall - first_wall > GAP_SECONDS_MAX {
        return None;
    }
    match gap {
        Gap::Skip => None,
        Gap::RunAtEnd if from > segment.start => None,
        Gap::RunAtEnd => first_match(rule, first_wall, end_wall).map(|_| segment.start),
        Gap::Shift => {
            let wall = first_match(rule, first_wall.max(from + segment.offset_before), end_wall)?;
            Some(wall - segment.offset_before).filter(|instant| *instant < segment.end)
        }
    }
}

/// The first match of the wall times from `first` to before `end`.
fn first_match(rule: &(impl Walls + ?Sized), first: i64, end: i64) -> Option<i64> {
    rule.next_wall(first).filter(|wall| *wall < end)
}

fn second_of_day(wall: i64) -> u32 {
    // below 86 400
    wall.rem_euclid(DAY_SECONDS) as u32
}
