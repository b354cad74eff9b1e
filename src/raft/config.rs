//! What can be set about consensus, and what the library is told.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

/// Entries in one request to a follower; the bytes are capped as well (`log_store::READ_BYTES_MAX`).
const ENTRIES_PER_REQUEST: u64 = 1000;
/// Entries that are purged at once: fewer would be a record in the log for each.
const PURGE_BATCH: u64 = 256;
/// How far a learner may be behind and still count as caught up, in entries.
const LAG_MAX: u64 = 200;
/// A snapshot is given this long to arrive and be loaded.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_mins(10);

/// Times and sizes of consensus. The defaults suit a local network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// How often the leader tells that it lives.
    pub heartbeat: Duration,
    /// A follower waits between this ...
    pub election_min: Duration,
    /// ... and this long for a leader, after `election_max` during which it trusts the last one. A leader is
    /// replaced after about `election_max + (election_min + election_max) / 2`.
    pub election_max: Duration,
    /// A snapshot is due after so many entries ...
    pub snapshot_entries: u64,
    /// ... or so many bytes of entries, whichever comes first.
    pub snapshot_bytes: u64,
    /// Entries kept below a snapshot, so that a node that was away briefly needs no snapshot.
    pub kept_entries: u64,
    /// When a proposal without an answer counts as unknown.
    pub propose_timeout: Duration,
    /// When a linearizable read gives up.
    pub read_timeout: Duration,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(300),
            snapshot_entries: 50_000,
            snapshot_bytes: 64 << 20,
            kept_entries: 20_000,
            propose_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(5),
        }
    }
}

impl RaftConfig {
    /// The library's configuration.
    pub(super) fn library(&self) -> Result<Config, openraft::ConfigError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            cluster_name: "chronarch".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            // Without it a node that was cut off deposes a healthy leader when it comes back.
            enable_pre_vote: Some(true),
            // With it a leader that restarts goes on in the same term, and a term would no longer be one reign.
            enable_leader_restore: Some(false),
            // Entries vary a thousandfold in size: `SnapshotClock` counts bytes too.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.kept_entries,
            purge_batch_size: PURGE_BATCH.min(self.kept_entries.max(1)),
            max_payload_entries: ENTRIES_PER_REQUEST,
            replication_lag_threshold: LAG_MAX,
            install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
            ..Config::default()
        };
        config.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_reversed_election_times_are_not() {
        let config = RaftConfig::default().library().unwrap();
        assert_eq!((config.enable_pre_vote, config.enable_leader_restore), (Some(true), Some(false)));
        let reversed = RaftConfig { election_min: Duration::from_secs(1), ..RaftConfig::default() };
        assert!(reversed.library().is_err());
    }
}
