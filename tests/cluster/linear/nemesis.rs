//! Faults while clients work: one at a time, healed before the next, so that a majority comes back each time.

use std::time::Duration;

use chronarch::pb::v1::TransferLeaderRequest;

use crate::chance::Chance;
use crate::harness::{Harness, eventually};

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillLeader,
    PauseLeader,
    HandOver,
    PauseFollower,
    KillAll,
}

/// What happens before anything happens again. Leaders are what it is about.
const DECK: [Fault; 7] = [
    Fault::KillLeader,
    Fault::PauseLeader,
    Fault::HandOver,
    Fault::PauseFollower,
    Fault::KillLeader,
    Fault::PauseLeader,
    Fault::KillAll,
];

/// Deals faults, by chance but none much more often than another.
pub(crate) struct Nemesis {
    chance: Chance,
    deck: Vec<Fault>,
    pub(crate) done: Done,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) kills: u32,
    pub(crate) pauses: u32,
    pub(crate) handovers: u32,
}

impl Done {
    /// Whether each kind of fault has met a leader.
    pub(crate) fn suffices(&self) -> bool {
        self.kills > 0 && self.pauses > 0 && self.handovers > 0
    }
}

impl Nemesis {
    pub(crate) fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed), deck: Vec::new(), done: Done::default() }
    }

    fn deal(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck = DECK.to_vec();
        }
        let place = self.chance.draw() as usize % self.deck.len();
        self.deck.swap_remove(place)
    }

    async fn wait(&mut self, from_ms: u64, to_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.chance.between(from_ms, to_ms))).await;
    }

    /// Does one thing to the cluster, and heals it.
    pub(crate) async fn strike(&mut self, harness: &mut Harness) {
        let leader = harness.leader().await;
        match self.deal() {
            Fault::KillLeader => {
                harness.cluster.kill(leader).await.expect("it ran");
                self.wait(0, 1_500).await;
                harness.cluster.start(leader).expect("it starts");
                self.done.kills += 1;
            }
            // For longer than the others wait for it: it wakes in the belief that it leads.
            Fault::PauseLeader => {
                harness.cluster.pause(leader).expect("it runs");
                self.wait(300, 2_000).await;
                harness.cluster.resume(leader).expect("it runs");
                self.done.pauses += 1;
            }
            Fault::HandOver => {
                // It is refused while no follower has caught up.
                eventually("leadership to be handed over", || async {
                    harness.client.transfer_leader(TransferLeaderRequest { to: 0 }).await.ok()
                })
                .await;
                self.done.handovers += 1;
            }
            Fault::PauseFollower => {
                let follower = self.chance.pick(&harness.followers().await);
                harness.cluster.pause(follower).expect("it runs");
                self.wait(100, 1_000).await;
                harness.cluster.resume(follower).expect("it runs");
            }
            Fault::KillAll => {
                for node in harness.cluster.nodes() {
                    harness.cluster.kill(node).await.expect("it ran");
                }
                harness.cluster.start_all().expect("they start");
            }
        }
        self.wait(100, 600).await;
    }
}
