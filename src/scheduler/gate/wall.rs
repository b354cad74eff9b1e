//! Wall time and instants, both ways.

use crate::scheduler::walls::DAY_SECONDS;
use crate::scheduler::zone::{Segment, Zone};
use crate::state::time::Timestamp;

/// A wall time and its instant differ by less.
const OFFSET_SECONDS_MAX: i64 = 26 * 3_600;
/// The first Sunday of the calendar's count of days, in days since 1970-01-01, a Thursday.
const SUNDAY: i64 = -4;

/// The day of a wall time, since 1970-01-01.
pub(super) const fn day_of(wall: i64) -> i64 {
    wall.div_euclid(DAY_SECONDS)
}

/// An instant as the clocks of a zone show it.
pub(super) struct Wall {
    /// Seconds since 1970-01-01T00:00:00 on the local calendar.
    seconds: i64,
    segment: Segment,
}

impl Wall {
    pub(super) fn at(at: Timestamp, zone: &Zone) -> Self {
        let second = at.millis().div_euclid(1_000);
        let segment = zone.segment(second);
        Self { seconds: second + segment.offset, segment }
    }

    pub(super) const fn day(&self) -> i64 {
        day_of(self.seconds)
    }

    /// The wall time of the beginning of its Sunday.
    pub(super) const fn week(&self) -> i64 {
        ((self.day() - SUNDAY).div_euclid(7) * 7 + SUNDAY) * DAY_SECONDS
    }

    pub(super) const fn minute_of_week(&self) -> u32 {
        // below 10 080
        (self.seconds - self.week()).div_euclid(60) as u32
    }

    /// The instant at which the clocks come to show `wall`, or change, whichever is first.
    pub(super) fn until(&self, wall: i64) -> Timestamp {
        let second = wall.saturating_sub(self.segment.offset).min(self.segment.end);
        Timestamp::from_millis(second.saturating_mul(1_000))
    }
}

/// The first instant at which the clocks of a zone show `wall`, or more where they skip it.
pub(super) fn instant_of(zone: &Zone, wall: i64) -> Timestamp {
    let mut segment = zone.segment(wall.saturating_sub(OFFSET_SECONDS_MAX));
    loop {
        let second = wall.saturating_sub(segment.offset);
        if second < segment.end {
            return Timestamp::from_millis(second.max(segment.start).saturating_mul(1_000));
        }
        segment = zone.segment(segment.end);
    }
}

/// The instant on the day of `day_at`, or the next one, at which the clocks show the time of day that they show at `at`;
/// not before `day_at`, and later than `at`.
pub(super) fn same_time(zone: &Zone, at: Timestamp, day_at: Timestamp) -> Timestamp {
    let wall = Wall::at(at, zone);
    let time = wall.seconds.rem_euclid(DAY_SECONDS);
    let millis = at.millis().rem_euclid(1_000);
    let day = Wall::at(day_at, zone).day();
    let on = |day: i64| {
        let second = instant_of(zone, day * DAY_SECONDS + time);
        Timestamp::from_millis(second.millis().saturating_add(millis))
    };
    let found = on(day);
    if found > at && found >= day_at { found } else { on(day + 1) }
}
