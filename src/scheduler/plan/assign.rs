//! Who is given an attempt.
//!
//! Of the workers that may take it, the one with the largest part of its slots free: so small and large ones are
//! loaded alike, and a worker of 4 slots is not left idle because one of 100 still has 5 free. Where that part is the
//! same, the one that has waited longest since it was last given something: on an idle cluster all take turns.

use std::cmp::Ordering;

use super::Session;

/// The greater one is given the attempt.
pub(super) fn order(one: &Session, other: &Session) -> Ordering {
    // a/b against c/d is a·d against c·b. A worker may have more free than it has slots only where a test says so.
    let slots = |session: &Session| u64::from(session.slots.max(session.free).max(1));
    let part = u64::from(one.free) * slots(other);
    part.cmp(&(u64::from(other.free) * slots(one)))
        .then_with(|| other.given.cmp(&one.given))
        .then_with(|| one.free.cmp(&other.free))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn session(worker: &str, (free, slots): (u32, u32), given: u64) -> Session {
        Session {
            worker: worker.into(),
            queues: Arc::default(),
            labels: Arc::default(),
            kinds: Arc::default(),
            slots,
            free,
            given,
        }
    }

    /// What so many attempts leave free, when none ends.
    fn given(sessions: &[((u32, u32), u64)], attempts: u64) -> Vec<u32> {
        let mut sessions: Vec<Session> =
            sessions.iter().map(|&(free, given)| session("w", free, given)).collect();
        for count in 1..=attempts {
            let able = sessions.iter_mut().filter(|session| session.free > 0);
            let next = able.max_by(|one, other| order(one, other)).expect("a free slot");
            next.free -= 1;
            next.given = 1_000 + count;
        }
        sessions.iter().map(|session| session.free).collect()
    }

    #[test]
    fn workers_of_uneven_size_are_loaded_alike() {
        let idle = [((100, 100), 0), ((10, 10), 0), ((4, 4), 0)];
        assert_eq!(given(&idle, 57), [50, 5, 2]);
        assert_eq!(given(&idle, 114), [0, 0, 0]);
    }

    #[test]
    fn a_small_idle_worker_goes_before_a_large_busy_one() {
        assert_eq!(given(&[((50, 100), 0), ((4, 4), 0)], 1), [50, 3]);
    }

    #[test]
    fn idle_workers_take_turns() {
        let mut sessions = [session("a", (4, 4), 7), session("b", (4, 4), 3), session("c", (4, 4), 5)];
        let mut turns = Vec::new();
        for count in 8..=13 {
            let next = sessions.iter_mut().max_by(|one, other| order(one, other)).expect("one");
            next.given = count;
            turns.push(next.worker.to_string());
        }
        assert_eq!(turns.concat(), "bcabca");
    }
}
