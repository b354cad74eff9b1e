//! Who leads, as this node sees it, and the small tasks that watch the library.
//!
//! Knowing that one leads is advice: only a committed entry is authority. A leader that is cut off hears nothing
//! and goes on believing; [`Raft::quorum_acked_within`] tells sooner, and a proposal with a term tells for sure.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use super::fatal::{FatalError, Verdict};
use super::handle::Raft;
use super::state_machine::SnapshotClock;
use super::types::{LogPosition, NodeAddress, OpenRaft};

/// A due snapshot is asked for at most this often: while one is being built the library ignores the next.
const SNAPSHOT_PACE: Duration = Duration::from_millis(100);

/// Who leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The current term; 0 before the cluster has formed.
    pub term: u64,
    /// The leader of that term, if it is known.
    pub leader: Option<(u64, NodeAddress)>,
    /// Whether this node leads *and* has applied an entry of this term, and with it all that was committed before.
    pub is_leader: bool,
}

/// When this node last took something from another leader, or led itself. By monotonic time, so that what comes of
/// it does not depend on how well clocks agree.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<Option<Instant>>);

impl Heard {
    pub(super) fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn elapsed(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }
}

impl Raft {
    /// How long ago this node last heard another leader, or led itself; `None` if it has done neither since it
    /// started. On a leader it grows from its election on.
    pub fn leader_silent_for(&self) -> Option<Duration> {
        self.heard().elapsed()
    }

    /// The leadership, and its changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership_sender().subscribe()
    }

    /// Did a majority answer this leader within the last `span`? False on a node that does not lead.
    pub fn quorum_acked_within(&self, span: Duration) -> bool {
        let Some(core) = self.core() else { return false };
        let metrics = core.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return false;
        }
        // The library counts answers, and the only voter waits for none.
        let configs = metrics.membership_config.get_joint_config();
        let alone = configs.iter().all(|voters| voters.iter().eq([&self.node_id()]));
        alone || metrics.last_quorum_acked.is_some_and(|acked| openraft::Instant::elapsed(&*acked) <= span)
    }
}

/// Keeps `leadership` up to date until the library ends.
pub(super) async fn follow(
    raft: OpenRaft,
    mut applied: watch::Receiver<Option<LogPosition>>,
    leadership: watch::Sender<Leadership>,
    heard: Arc<Heard>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let applied_term = applied.borrow_and_update().map(|applied| applied.term);
        let now = {
            let metrics = metrics.borrow_and_update();
            let term = metrics.vote.leader_id().term;
            let node = |id| metrics.membership_config.membership().get_node(&id).cloned();
            let leader = metrics.current_leader.and_then(|id| Some((id, node(id)?)));
            let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(metrics.id);
            Leadership { term, leader, is_leader: leads && applied_term == Some(term) }
        };
        let leads = now.is_leader;
        leadership.send_if_modified(|before| {
            if before.is_leader && !leads {
                heard.now();
            }
            let changed = *before != now;
            *before = now;
            changed
        });
        // Entries come by the thousand; what they can change is whether a leader has caught up.
        let caught_up = leads || metrics.borrow_watched().state != ServerState::Leader;
        let alive = tokio::select! {
            changed = metrics.changed() => changed.is_ok(),
            changed = applied.changed(), if !caught_up => changed.is_ok(),
        };
        if !alive {
            leadership.send_modify(|last| (last.leader, last.is_leader) = (None, false));
            return;
        }
    }
}

/// Tells the verdict when the library ends without having been asked to.
pub(super) async fn watch_life(raft: OpenRaft, closing: watch::Receiver<bool>, verdict: Verdict) {
    let mut metrics = raft.metrics();
    loop {
        let ended = metrics.borrow_and_update().running_state.clone().err().map(|error| error.to_string());
        let ended = match ended {
            Some(error) => error,
            None if metrics.changed().await.is_ok() => continue,
            None => "its task has ended".to_owned(),
        };
        if !*closing.borrow() {
            verdict.reach(FatalError::Consensus(ended));
        }
        return;
    }
}

/// Asks for snapshots when they are due.
pub(super) async fn take_snapshots(raft: OpenRaft, clock: Arc<SnapshotClock>) {
    loop {
        clock.due.notified().await;
        if clock.is_due() && raft.trigger().snapshot().await.is_err() {
            return;
        }
        tokio::time::sleep(SNAPSHOT_PACE).await;
    }
}
