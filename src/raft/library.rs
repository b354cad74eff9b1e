//! What the consensus library is told.

use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

use crate::config::RaftTiming;

/// When a proposal without an answer counts as unknown.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// When a linearizable read gives up.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Entries in one request to a follower; the bytes are capped as well (`log_store::READ_BYTES_MAX`).
const ENTRIES_PER_REQUEST: u64 = 1000;
/// Entries that are purged at once: fewer would be a record in the log for each.
const PURGE_BATCH: u64 = 256;
/// How far a learner may be behind and still count as caught up, in entries.
pub(super) const LAG_MAX: u64 = 200;
/// A snapshot is given this long to arrive and be loaded.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_mins(10);

/// The library's configuration.
///
/// # Errors
/// When the times do not fit together.
pub(super) fn library(timing: &RaftTiming) -> Result<Config, ConfigError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "chronarch".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        // Without it a node that was cut off deposes a healthy leader when it comes back.
        enable_pre_vote: Some(true),
        // With it a leader that restarts goes on in the same term, and a term would no longer be one reign.
        enable_leader_restore: Some(false),
        // Entries vary a thousandfold in size: `SnapshotClock` counts bytes too.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: timing.keep_entries,
        purge_batch_size: PURGE_BATCH.min(timing.keep_entries.max(1)),
        max_payload_entries: ENTRIES_PER_REQUEST,
        replication_lag_threshold: LAG_MAX,
        install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
        ..Config::default()
    };
    config.validate()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_reversed_election_times_are_not() {
        let config = library(&RaftTiming::default()).unwrap();
        assert_eq!((config.enable_pre_vote, config.enable_leader_restore), (Some(true), Some(false)));
        let reversed = RaftTiming { election_min: Duration::from_secs(1), ..RaftTiming::default() };
        assert!(library(&reversed).is_err());
    }
}
