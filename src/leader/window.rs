//! How many occurrences may be on their way through the log.
//!
//! Fires, starts and reports go the same way, in order. When more is due than can be recorded, fires without a
//! limit would fill the log, and each start and each report would wait behind them for seconds: the slots of all
//! workers would stand still most of the time, and less would be carried out the more is due. So the fires in
//! flight are limited by how long they take, as a sender limits what is in flight on a network (additive increase,
//! multiplicative decrease: Chiu and Jain, 1989). What waits outside of the log is not lost: it is due, and is
//! decided by its catch-up when its turn comes.

use std::time::Duration;

use tokio::time::Instant;

/// The fewest and the most jobs in flight.
const FEWEST: usize = 128;
const MOST: usize = 16_384;
/// Entries that land sooner let the window grow.
const QUICK: Duration = Duration::from_millis(50);
/// Entries that take longer make it smaller.
const SLOW: Duration = Duration::from_millis(100);

/// The limit as it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    jobs: usize,
    /// When it was last made smaller: what was proposed before tells nothing about its size now.
    shrunk_at: Option<Instant>,
}

impl Default for Window {
    fn default() -> Self {
        Self { jobs: 2_048, shrunk_at: None }
    }
}

impl Window {
    /// Jobs that may be in flight.
    pub(super) fn jobs(self) -> usize {
        self.jobs
    }

    /// An entry with so many fires that was proposed then has been applied now.
    pub(super) fn landed(&mut self, fires: usize, proposed_at: Instant, now: Instant) {
        let took = now.saturating_duration_since(proposed_at);
        if took > SLOW {
            if self.shrunk_at.is_none_or(|shrunk_at| shrunk_at <= proposed_at) {
                self.jobs = (self.jobs / 2).max(FEWEST);
                self.shrunk_at = Some(now);
            }
        } else if took < QUICK {
            // By as much as landed, over a window's worth of entries: no faster than it doubles.
            self.jobs = (self.jobs + fires).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_follows_what_the_log_can_take() {
        let (mut window, begun) = (Window::default(), Instant::now());
        let after = |millis| begun + Duration::from_millis(millis);
        for _ in 0..100 {
            window.landed(500, begun, after(10));
        }
        assert_eq!(window.jobs(), MOST);
        window.landed(500, begun, after(70));
        assert_eq!(window.jobs(), MOST);
        // What was in flight together makes it smaller once.
        for late in 0..30 {
            window.landed(500, begun, after(200 + late));
        }
        assert_eq!(window.jobs(), MOST / 2);
        for round in 1..100 {
            window.landed(500, after(round * 1_000), after(round * 1_000 + 500));
        }
        assert_eq!(window.jobs(), FEWEST);
        // Reports and starts that are quick say nothing of fires.
        window.landed(0, begun, after(1));
        assert_eq!(window.jobs(), FEWEST);
    }
}
