//! The wall clocks of the machines: each shows the true time and an error of its own, which grows while the clock runs
//! fast or slow. Monotonic time is right.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chronarch::clock::Clock;
use chronarch::state::time::Timestamp;
use tokio::time::Instant;

use crate::lab::spec::MIDNIGHT;

/// How a clock is wrong from some moment on.
#[derive(Clone, Copy)]
struct Course {
    /// Its error at that moment.
    error_us: i64,
    /// How much it gains from then on, in millionths.
    rate_ppm: i64,
    /// That moment, since the world began.
    from_ms: i64,
}

impl Course {
    fn error_us(self, at_ms: i64) -> i64 {
        // A millisecond times a millionth is a nanosecond.
        self.error_us + (at_ms - self.from_ms) * self.rate_ppm / 1_000
    }
}

/// One machine's clock; a clone is another handle on it.
#[derive(Clone)]
pub(crate) struct Wall(Arc<Mutex<Course>>);

impl Wall {
    pub(crate) fn new(error_ms: i64, rate_ppm: i64) -> Self {
        Self(Arc::new(Mutex::new(Course { error_us: error_ms * 1_000, rate_ppm, from_ms: 0 })))
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody sets it.
    pub(crate) fn set(&self, now_ms: i64, error_ms: i64) {
        let mut course = self.course();
        (course.error_us, course.from_ms) = (error_ms * 1_000, now_ms);
    }

    /// It runs at another rate from now on.
    pub(crate) fn run_at(&self, now_ms: i64, rate_ppm: i64) {
        let mut course = self.course();
        *course = Course { error_us: course.error_us(now_ms), rate_ppm, from_ms: now_ms };
    }

    /// What it shows.
    fn show(&self, at_ms: i64) -> Timestamp {
        Timestamp::from_millis(MIDNIGHT + at_ms + self.course().error_us(at_ms).div_euclid(1_000))
    }

    /// As a process reads it that begins so long after the world; to be called in its runtime.
    pub(crate) fn read_from(&self, begun_ms: i64, seed: u64) -> Clock {
        let (wall, begun) = (self.clone(), Instant::now());
        let show = move || {
            let passed = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
            wall.show(begun_ms.saturating_add(passed))
        };
        Clock::new(show, seed)
    }
}

#[test]
fn a_clock_that_runs_fast_goes_on_from_where_it_is() {
    let (clock, shows) = (Wall::new(80, 0), |clock: &Wall, at| clock.show(at).millis() - MIDNIGHT - at);
    clock.run_at(1_000, 50_000);
    assert_eq!((shows(&clock, 1_000), shows(&clock, 11_000)), (80, 580));
    clock.run_at(11_000, -500);
    assert_eq!((shows(&clock, 11_000), shows(&clock, 13_000)), (580, 579));
    clock.set(13_000, 0);
    assert_eq!((shows(&clock, 13_000), shows(&clock, 15_000)), (0, -1));
}
