//! Has the cluster's feature level raised, once all members speak more: see `raft::levels`.

use std::time::Duration;

use tracing::{debug, info, warn};

use crate::clock::trusted::TrustedClock;
use crate::config::Config;
use crate::raft::{Raft, RaiseError, Speech};

/// How often the leader looks whether the level may be raised; members tell each other about as often.
const EVERY: Duration = Duration::from_millis(500);

/// What this node speaks.
pub(super) fn speech(config: &Config) -> Speech {
    let mut speech = Speech::default();
    if let Some(newest) = config.feature_level_max {
        speech.levels = speech.levels.up_to(newest);
        warn!(levels = %speech.levels, "this node pretends to be of an older release");
    }
    speech
}

/// Looks for the life of the node.
pub(super) async fn keep(raft: Raft, clock: TrustedClock) {
    raft.joined().await;
    clock.is_known().await;
    let mut leadership = raft.leadership();
    let mut held = None;
    loop {
        let now = leadership.borrow_and_update().clone();
        let stamp = clock.now().filter(|_| now.is_leader && raft.may_raise_level());
        if let Some(stamp) = stamp {
            match raft.raise_level(now.term, stamp.max(raft.state().now())).await {
                Ok(level) => info!(level, "the feature level is raised"),
                Err(RaiseError::Held(hold)) => {
                    if held.as_ref() != Some(&hold) {
                        info!(%hold, "the feature level stays as it is");
                        held = Some(hold);
                    }
                }
                Err(error) => debug!(%error, "the feature level was not raised"),
            }
        }
        if matches!(tokio::time::timeout(EVERY, leadership.changed()).await, Ok(Err(_))) {
            return;
        }
    }
}
