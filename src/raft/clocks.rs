//! Asking the peers what their clocks show, and not leading with a clock that is wrong. Who is wrong is decided
//! elsewhere (`clock::trusted`): consensus has no use for the time itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::handle::Raft;
use super::{guard, network};
use crate::pb::peer;
use crate::state::time::Timestamp;

/// What a peer's clock showed.
#[derive(Clone, Copy, Debug)]
pub struct PeerClock {
    /// The peer.
    pub node_id: u64,
    /// Half-way between question and answer, by this node's monotonic time.
    pub at: Instant,
    /// What it showed then, give or take half of the way.
    pub wall: Timestamp,
}

impl Raft {
    /// Asks all members for their clocks. What takes longer than `limit` says too little and is left out, as is a
    /// peer that cannot be reached.
    pub async fn read_clocks(&self, limit: Duration) -> Vec<PeerClock> {
        let nodes = self.status().nodes;
        let others = nodes.iter().filter(|(id, _)| **id != self.node_id());
        let asked = others.map(|(&id, node)| async move {
            let asked_at = Instant::now();
            let wall = timeout(limit, self.ask_clock(id, &node.peer_address)).await.ok().flatten()?;
            let took = asked_at.elapsed();
            (took <= limit).then_some(PeerClock { node_id: id, at: asked_at + took / 2, wall })
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn ask_clock(&self, id: u64, address: &str) -> Option<Timestamp> {
        let channels = self.connections().to(address).ok()?;
        let mut client = network::client(channels.control);
        let request = guard::label(peer::ReadClockRequest {}, self.cluster_id(), self.node_id(), id);
        let answer = client.read_clock(request).await.ok()?;
        let answer = answer.into_inner();
        self.hear(id, answer.speaks);
        Some(Timestamp::from_millis(answer.unix_ms))
    }

    /// Whether this node asks for votes, and takes leadership when it is offered. It votes in any case.
    pub fn set_elects(&self, elects: bool) {
        self.elects_flag().store(elects, Ordering::Relaxed);
        self.tell_elects();
    }

    /// Tells the library.
    pub(super) fn tell_elects(&self) {
        if let Some(core) = self.core() {
            core.raft.runtime_config().elect(self.elects());
        }
    }

    /// See [`Raft::set_elects`].
    pub fn elects(&self) -> bool {
        self.elects_flag().load(Ordering::Relaxed)
    }
}
