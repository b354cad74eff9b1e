//! Has the cluster pin the data of the time zones, once: that of its leader's binary, where nothing is pinned.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::{debug, info};

use crate::clock::trusted::TrustedClock;
use crate::raft::Raft;
use crate::scheduler::zone::Zones;
use crate::state::{Command, Entry, Request};

/// How often the leader looks whether it may.
const EVERY: Duration = Duration::from_millis(500);

/// Looks until something is pinned.
pub(super) async fn pin(raft: Raft, clock: TrustedClock) {
    raft.joined().await;
    clock.is_known().await;
    let mut leadership = raft.leadership();
    loop {
        let now = leadership.borrow_and_update().clone();
        let state = raft.state();
        if state.tzdata().is_some() {
            return;
        }
        if let Some(stamp) = clock.now().filter(|_| now.is_leader) {
            let command = Command::SetTzdata {
                data: Zones::bundled().data().clone(),
                shifts: BTreeMap::new(),
                expect: None,
                request: Request { reason: "what the leader ships".to_owned(), ..Request::default() },
            };
            let may_be = raft.check_level(command.need()).is_ok();
            let entry = Entry { at: stamp.max(state.now()), commands: vec![command] };
            if may_be {
                match raft.propose(Some(now.term), entry).await {
                    Ok(_) => {
                        info!(release = Zones::bundled().release(), "the data of the time zones is pinned")
                    }
                    Err(error) => debug!(%error, "the data of the time zones was not pinned"),
                }
            }
        }
        if matches!(tokio::time::timeout(EVERY, leadership.changed()).await, Ok(Err(_))) {
            return;
        }
    }
}
