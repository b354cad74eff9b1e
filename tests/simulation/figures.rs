//! What happened in a world.

/// What must have happened for a run of many seeds to prove anything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) leader_changes: u64,
    pub(crate) decided: u64,
    pub(crate) attempts: u64,
    pub(crate) lost_attempts: u64,
    pub(crate) late_reports: u64,
    pub(crate) breaker_opens: u64,
    pub(crate) breakers_across_a_change: u64,
    pub(crate) unknown_and_committed: u64,
    pub(crate) unknown_and_dropped: u64,
    pub(crate) restarts: u64,
    pub(crate) entries: u64,
    pub(crate) refused: u64,
    /// Runs and records that came of others that ended.
    pub(crate) made: u64,
    /// Leaders that began while a join waited for more.
    pub(crate) joins_across_a_change: u64,
    /// Runs that were made into one for each worker.
    pub(crate) spread: u64,
    /// Leaders that began while the parts of such a run were under way.
    pub(crate) spread_across_a_change: u64,
    /// Jobs that were armed anew, for the data of their zone had changed.
    pub(crate) reread: u64,
    /// Leaders that began while jobs were to be read anew.
    pub(crate) reread_across_a_change: u64,
    /// Entries after which a run waited for the limits of its group alone.
    pub(crate) kept_by_limits: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.leader_changes += other.leader_changes;
        self.decided += other.decided;
        self.attempts += other.attempts;
        self.lost_attempts += other.lost_attempts;
        self.late_reports += other.late_reports;
        self.breaker_opens += other.breaker_opens;
        self.breakers_across_a_change += other.breakers_across_a_change;
        self.unknown_and_committed += other.unknown_and_committed;
        self.unknown_and_dropped += other.unknown_and_dropped;
        self.restarts += other.restarts;
        self.entries += other.entries;
        self.refused += other.refused;
        self.made += other.made;
        self.joins_across_a_change += other.joins_across_a_change;
        self.spread += other.spread;
        self.spread_across_a_change += other.spread_across_a_change;
        self.reread += other.reread;
        self.reread_across_a_change += other.reread_across_a_change;
        self.kept_by_limits += other.kept_by_limits;
    }

    /// The floors, for each seed.
    pub(crate) fn suffices(&self, seeds: u64) -> bool {
        self.leader_changes >= 3 * seeds
            && self.decided >= 50 * seeds
            && self.attempts >= 20 * seeds
            && self.lost_attempts >= seeds / 2
            && self.late_reports >= seeds
            && self.breakers_across_a_change >= seeds
            && self.unknown_and_committed >= seeds
            && self.unknown_and_dropped >= seeds
            && self.restarts >= seeds / 2
            && self.made >= 10 * seeds
            && self.joins_across_a_change >= seeds / 4
            && self.spread >= 2 * seeds
            && self.spread_across_a_change >= seeds / 4
            && self.reread >= seeds
            && self.reread_across_a_change >= seeds / 20
            && self.kept_by_limits >= seeds
    }
}
