//! Compares this node's clock with its peers', and keeps a node whose clock is wrong from leading.
//!
//! See [`crate::clock::trusted`] for the rule. A leader that is astray goes on by monotonic time, which is
//! right for a while, until another has taken over; so nothing is late because of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use crate::clock::trusted::{Reading, Standing, TrustedClock};
use crate::metrics::Metrics;
use crate::raft::{Raft, RaftStatus, Role};

/// How often clocks are compared.
const EVERY: Duration = Duration::from_secs(1);
/// How often until the first comparison: the cluster waits for it.
const EVERY_AT_FIRST: Duration = Duration::from_millis(100);

/// Compares clocks for the life of the node.
pub(super) async fn keep(raft: Raft, clock: TrustedClock, metrics: Arc<Metrics>) {
    raft.joined().await;
    let mut heard: BTreeMap<u64, Reading> = BTreeMap::new();
    let mut before = Standing::Unknown;
    let mut behind = false;
    loop {
        for answer in raft.read_clocks(clock.skew_max()).await {
            heard.insert(answer.node_id, Reading { at: answer.at, wall: answer.wall });
        }
        let status = raft.status();
        heard.retain(|id, _| status.nodes.contains_key(id));
        let others: Vec<Reading> = status.voters.iter().filter_map(|id| heard.get(id)).copied().collect();
        let standing = clock.compare(status.voters.len(), &others);
        let ahead: BTreeMap<u64, i64> =
            heard.iter().map(|(id, reading)| (*id, clock.ahead(reading))).collect();
        metrics.set_clocks(standing != Standing::Agrees, &ahead);
        if standing != before {
            report(before, standing, &ahead);
            before = standing;
        }
        raft.set_elects(standing == Standing::Agrees);
        if let (Standing::Astray(by), Role::Leader) = (standing, status.role) {
            hand_over(&raft, &status, by, &ahead).await;
        }
        let log_ahead = log_is_ahead(&raft, &clock);
        if log_ahead && !behind {
            error!(
                log_time = %raft.state().now(),
                "the replicated time is ahead of this node's clock: nothing fires before the clock is there"
            );
        }
        behind = log_ahead;
        let pause = if standing == Standing::Unknown { EVERY_AT_FIRST } else { EVERY };
        let _ = tokio::time::timeout(pause, clock.has_left()).await;
    }
}

fn log_is_ahead(raft: &Raft, clock: &TrustedClock) -> bool {
    clock.now().is_some_and(|now| raft.state().now().since(now) > clock.skew_max())
}

fn report(before: Standing, now: Standing, ahead: &BTreeMap<u64, i64>) {
    match now {
        Standing::Astray(ahead_ms) => {
            error!(ahead_ms, peers_ahead_ms = ?ahead, "this node's clock is wrong; it does not lead");
        }
        Standing::Unknown => warn!(peers_ahead_ms = ?ahead, "this node's clock cannot be compared"),
        Standing::Agrees if before == Standing::Unknown => info!(peers_ahead_ms = ?ahead, "clocks compared"),
        Standing::Agrees => info!(peers_ahead_ms = ?ahead, "this node's clock is right again"),
    }
}

/// To the voter whose clock is nearest to the median, of those that answer.
async fn hand_over(raft: &Raft, status: &RaftStatus, ahead_ms: i64, others_ahead: &BTreeMap<u64, i64>) {
    let answering = status.peers.iter().filter(|peer| {
        status.voters.contains(&peer.id) && peer.silent_for.is_some_and(|silence| silence < EVERY)
    });
    let distance = |id: &u64| others_ahead.get(id).map(|ahead| (ahead + ahead_ms).unsigned_abs());
    let nearest = answering.filter_map(|peer| Some((distance(&peer.id)?, peer.id))).min();
    let Some((_, to)) = nearest else {
        warn!("no voter answers that could lead instead of this node");
        return;
    };
    match raft.transfer_leader(Some(to)).await {
        Ok(leader) => info!(leader, "handed leadership over"),
        Err(error) => warn!(to, %error, "leadership was not handed over; tried again"),
    }
}
