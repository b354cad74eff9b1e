//! Carries out the plan of faults, and heals everything in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use chronarch::client::Client;
use chronarch::clock::Clock;
use serde_json::json;
use tokio::time::Instant;

use super::chance::Chance;
use super::delay::Delay;
use super::journal::Journal;
use super::load;
use super::net::{Act, Cut, HUB, Network, Way};
use super::nodes::Nodes;
use super::plan::{Fault, GROUPS, Planned, Who};
use super::receiver::Receiver;

/// How often the nemesis looks for nodes that have ended, and for what is due.
const LOOK: Duration = Duration::from_millis(20);
/// A node that is silent for longer is not asked who leads.
const ASK: Duration = Duration::from_millis(400);
/// `EIO`.
const IO_ERROR: i32 = 5;
/// A node that ended by itself after a disk fault is started again after this.
const RESTART: Duration = Duration::from_millis(700);
/// A node that was told to stop drains first; one whose disk is well again may be ending still.
const DRAINS: Duration = Duration::from_secs(60);
const ENDING: Duration = Duration::from_secs(3);
/// Whom a fault befalls is settled so long before it begins.
const AHEAD: Duration = Duration::from_millis(600);
const FLAPS: Duration = Duration::from_millis(350);

/// A fault that is on.
struct Active {
    id: u64,
    fault: Fault,
    nodes: Vec<u64>,
    ends: Instant,
    flips: Instant,
}

/// The one who does it.
pub(crate) struct Nemesis {
    pub(crate) network: Network,
    pub(crate) nodes: Nodes,
    pub(crate) receiver: Receiver,
    journal: Journal,
    clock: Clock,
    client: Client,
    chance: Chance,
    active: Vec<Active>,
    delay: Option<Delay>,
    /// Nodes that may end until then: they were told to, or their disk was disturbed.
    may_end: BTreeMap<u64, Instant>,
    /// Of these, those that were told to: they end with status 0.
    told: BTreeSet<u64>,
    restarts: BTreeMap<u64, Instant>,
    /// Nodes that wait for their turn in a rolling restart.
    rolling: Vec<u64>,
    faults: u64,
}

impl Nemesis {
    pub(crate) fn new(
        network: Network,
        nodes: Nodes,
        receiver: Receiver,
        (journal, clock): (Journal, Clock),
        seed: u64,
    ) -> Self {
        let client = load::client(nodes.all(), ASK);
        Self {
            network,
            nodes,
            receiver,
            journal,
            clock,
            client,
            chance: Chance::new(seed ^ 0x6e65_6d65),
            active: Vec::new(),
            delay: None,
            may_end: BTreeMap::new(),
            told: BTreeSet::new(),
            restarts: BTreeMap::new(),
            rolling: Vec::new(),
            faults: 0,
        }
    }

    /// Who leads, as the newest term of those that answer has it.
    pub(crate) async fn leader(&self) -> Option<u64> {
        let statuses = self.client.statuses().await.into_iter();
        let seen =
            statuses.filter_map(|(_, status)| status.ok()).map(|status| (status.term, status.leader_id));
        seen.filter(|(_, leader)| *leader > 0).max().map(|(_, leader)| leader)
    }

    /// Carries out a plan.
    pub(crate) async fn carry_out(&mut self, plan: &[Planned], lasts: Duration) -> Result<(), String> {
        let begun = Instant::now();
        for planned in plan {
            let mut at = begun + Duration::from_millis(planned.at_ms);
            if let Some(off) = planned.off_second {
                at = self.near_a_second(at, off);
            }
            self.watch_until(at.checked_sub(AHEAD).unwrap_or(at)).await?;
            let nodes = self.whom(befalls(planned.fault)).await;
            self.watch_until(at).await?;
            self.begin(*planned, nodes).await?;
        }
        self.watch_until(begun + lasts).await
    }

    /// The first moment from `at` on that is so many milliseconds off a whole second of wall time.
    fn near_a_second(&self, at: Instant, off_ms: i64) -> Instant {
        let ahead = at.saturating_duration_since(Instant::now());
        let wall = self.clock.now().millis() + i64::try_from(ahead.as_millis()).unwrap_or(0);
        let wait = (off_ms - wall).rem_euclid(1_000);
        at + Duration::from_millis(wait.unsigned_abs())
    }

    /// Ends what is over, starts what has ended, and waits a little.
    async fn look(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let rolls = !self.rolling.is_empty() || !self.restarts.is_empty();
        let is_over = |active: &Active| active.ends <= now && !(active.fault == Fault::Roll && rolls);
        while let Some(place) = self.active.iter().position(is_over) {
            let over = self.active.remove(place);
            self.end(&over).await?;
        }
        self.flap(now)?;
        self.reap(now)?;
        tokio::time::sleep(LOOK).await;
        Ok(())
    }

    fn flap(&mut self, now: Instant) -> Result<(), String> {
        let flapping = self.active.iter_mut().filter(|one| one.fault == Fault::Flap && one.flips <= now);
        for active in flapping {
            active.flips = now + FLAPS;
            // Mending tells whether it was cut.
            let alone = alone(active.nodes[0], &self.nodes.all());
            match self.network.is_cut(active.id) {
                true => self.network.mend(active.id)?,
                false => self.network.cut(active.id, alone)?,
            }
        }
        Ok(())
    }

    fn reap(&mut self, now: Instant) -> Result<(), String> {
        for (node, status) in self.nodes.reap() {
            let is_meant = self.may_end.get(&node).is_some_and(|until| *until >= now);
            let is_sick = self.active.iter().any(|one| is_of_disk(one.fault) && one.nodes.contains(&node));
            if !is_sick {
                self.may_end.remove(&node);
            }
            let is_clean = status.success() || !self.told.remove(&node);
            let kind = if is_meant && is_clean { "ended" } else { "ended_by_itself" };
            self.write(0, "note", kind, &[node], &status.to_string());
            self.restarts.entry(node).or_insert(now + RESTART);
        }
        let due: Vec<u64> =
            self.restarts.iter().filter(|(_, at)| **at <= now).map(|(node, _)| *node).collect();
        for node in due {
            self.restarts.remove(&node);
            // Whoever was killed on purpose comes back when that fault ends.
            let is_down = self.active.iter().any(|one| is_ending(one.fault) && one.nodes.contains(&node));
            if !is_down {
                self.nodes.start(&self.network, node)?;
            }
        }
        if self.rolling.first().is_some_and(|node| self.nodes.is_up(*node)) && self.restarts.is_empty() {
            let node = self.rolling.remove(0);
            self.nodes.renew(node);
            self.terminate(node, now);
            self.restarts.insert(node, now + RESTART);
        }
        Ok(())
    }

    fn terminate(&mut self, node: u64, now: Instant) {
        self.may_end.insert(node, now + DRAINS);
        // One that a disk has ended, or that is down, is not told anything.
        if self.nodes.is_up(node) && !self.active.iter().any(|one| is_of_disk(one.fault)) {
            self.told.insert(node);
        }
        self.nodes.terminate(node);
    }

    /// Stops all nodes cleanly. What does not end so is noted.
    pub(crate) async fn stop_all(&mut self) {
        let deadline = Instant::now() + DRAINS;
        for node in self.nodes.all() {
            self.terminate(node, Instant::now());
        }
        let mut left = self.nodes.all();
        while !left.is_empty() && Instant::now() < deadline {
            for (node, status) in self.nodes.reap() {
                left.retain(|other| *other != node);
                let kind = if status.success() { "ended" } else { "ended_by_itself" };
                self.write(0, "note", kind, &[node], &status.to_string());
            }
            tokio::time::sleep(LOOK).await;
        }
        for node in left {
            self.write(0, "note", "ended_by_itself", &[node], "told to stop, and did not end");
        }
    }

    fn write(&self, id: u64, phase: &str, kind: &str, nodes: &[u64], detail: &str) {
        self.journal.write(&json!({
            "at": self.journal.now(), "id": id, "phase": phase, "kind": kind, "nodes": nodes, "detail": detail,
        }));
    }

    async fn whom(&mut self, who: Who) -> Vec<u64> {
        let all = self.nodes.all();
        let leader = match self.leader().await {
            Some(leader) => leader,
            None => self.chance.pick(&all),
        };
        let others: Vec<u64> = all.iter().copied().filter(|node| *node != leader).collect();
        let other = self.chance.pick(&others);
        match who {
            Who::Leader => vec![leader],
            Who::Follower => vec![other],
            Who::Two => vec![leader, other],
            Who::All => all,
        }
    }

    async fn begin(&mut self, planned: Planned, nodes: Vec<u64>) -> Result<(), String> {
        let fault = planned.fault;
        self.faults += 1;
        let id = self.faults;
        let ends = Instant::now() + Duration::from_millis(planned.lasts_ms);
        if matches!(fault, Fault::Clock(..)) {
            self.right_other_clocks().await?;
        }
        if is_of_disk(fault) {
            self.may_end.extend(nodes.iter().map(|node| (*node, ends + DRAINS)));
        }
        self.write(id, "begin", fault.word(), &nodes, &format!("{fault:?} for {} ms", planned.lasts_ms));
        match fault {
            Fault::Kill(_) => {
                for node in &nodes {
                    self.nodes.kill(*node).await;
                }
            }
            Fault::Pause(_) => nodes.iter().for_each(|node| self.nodes.pause(*node)),
            Fault::Stop(_) => nodes.iter().for_each(|node| self.terminate(*node, Instant::now())),
            Fault::Transfer => {
                let request = chronarch::pb::v1::TransferLeaderRequest { to: 0 };
                // It may be refused: nobody has caught up, or there is no leader.
                self.client.transfer_leader(request).await.ok();
            }
            Fault::Roll => self.rolling = self.nodes.all(),
            Fault::Clock(_, off) => nodes.iter().try_for_each(|node| self.nodes.set_clock(*node, off))?,
            Fault::SlowDisk(_, ms) => {
                nodes.iter().try_for_each(|node| self.nodes.disturb_syncs(*node, ms, 0))?
            }
            Fault::FailingDisk(_) => {
                nodes.iter().try_for_each(|node| self.nodes.disturb_syncs(*node, 0, IO_ERROR))?;
            }
            Fault::FullDisk(_) => nodes.iter().try_for_each(|node| self.nodes.fill_disk(*node, true))?,
            Fault::Sick(group) => self.receiver.set_sick(GROUPS[group], true),
            Fault::Delay(least, most) => self.delay((least, most)).await?,
            Fault::Narrow(kbit) => self.network.narrow(nodes[0], Some(kbit))?,
            _ => {
                let cuts = self.cuts(fault, nodes[0]);
                self.network.cut(id, cuts)?;
            }
        }
        self.active.push(Active { id, fault, nodes, ends, flips: Instant::now() + FLAPS });
        Ok(())
    }

    /// One clock is wrong at a time: of three, two that agree are right by definition.
    async fn right_other_clocks(&mut self) -> Result<(), String> {
        while let Some(place) = self.active.iter().position(|one| matches!(one.fault, Fault::Clock(..))) {
            let over = self.active.remove(place);
            self.end(&over).await?;
        }
        Ok(())
    }

    async fn delay(&mut self, span_ms: (u64, u64)) -> Result<(), String> {
        let nodes = self.nodes.all();
        let count = nodes.len() as u64;
        let delay =
            Delay::open(count, span_ms, self.chance.draw()).await.map_err(|error| error.to_string())?;
        for node in nodes {
            self.network.detour(node, &delay.ports[&node])?;
        }
        // Connections that are there take the detour when they are made anew.
        let reset = self.cuts(Fault::Reset, 1);
        self.network.cut(0, reset)?;
        tokio::time::sleep(LOOK * 5).await;
        self.network.mend(0)?;
        self.delay = Some(delay);
        Ok(())
    }

    async fn end(&mut self, over: &Active) -> Result<(), String> {
        if is_of_disk(over.fault) {
            let until = Instant::now() + ENDING;
            self.may_end.extend(over.nodes.iter().map(|node| (*node, until)));
        }
        match over.fault {
            Fault::Kill(_) | Fault::Stop(_) => {
                for node in &over.nodes {
                    self.nodes.start(&self.network, *node)?;
                }
            }
            Fault::Pause(_) => over.nodes.iter().for_each(|node| self.nodes.resume(*node)),
            Fault::Clock(..) => over.nodes.iter().try_for_each(|node| self.nodes.set_clock(*node, 0))?,
            Fault::SlowDisk(..) | Fault::FailingDisk(_) => {
                over.nodes.iter().try_for_each(|node| self.nodes.disturb_syncs(*node, 0, 0))?;
            }
            Fault::FullDisk(_) => {
                over.nodes.iter().try_for_each(|node| self.nodes.fill_disk(*node, false))?
            }
            Fault::Sick(group) => self.receiver.set_sick(GROUPS[group], false),
            Fault::Delay(..) => {
                self.nodes.all().iter().try_for_each(|node| self.network.detour(*node, &BTreeMap::new()))?;
                let carried = self.delay.take().map_or(0, |delay| delay.carried.load(Ordering::Relaxed));
                self.write(over.id, "note", "delayed", &[], &format!("{carried} bytes"));
            }
            Fault::Narrow(_) => self.network.narrow(over.nodes[0], None)?,
            _ => self.network.mend(over.id)?,
        }
        self.write(over.id, "end", over.fault.word(), &over.nodes, "");
        Ok(())
    }

    /// Ends every fault and starts every node that is down; nodes that are stopping come back too.
    pub(crate) async fn heal(&mut self) -> Result<(), String> {
        self.rolling.clear();
        for over in std::mem::take(&mut self.active) {
            self.end(&over).await?;
        }
        self.nodes.resume_all();
        for node in self.nodes.all() {
            self.nodes.start(&self.network, node)?;
        }
        Ok(())
    }

    /// Looks after the nodes while nothing is done to them, until this is over.
    pub(crate) async fn watch_until(&mut self, deadline: Instant) -> Result<(), String> {
        while Instant::now() < deadline {
            self.look().await?;
        }
        Ok(())
    }

    fn cuts(&mut self, fault: Fault, node: u64) -> Vec<Cut> {
        let all = self.nodes.all();
        let others: Vec<u64> = all.iter().copied().filter(|other| *other != node).collect();
        let pairs = |apart: &dyn Fn(u64, u64) -> bool| {
            let every = all.iter().flat_map(|one| all.iter().map(move |other| (*one, *other)));
            every
                .filter(|(one, other)| one < other && apart(*one, *other))
                .flat_map(|(one, other)| Cut::both(one, other))
                .collect::<Vec<_>>()
        };
        let everywhere = |act: Act| {
            let every = all.iter().flat_map(|one| all.iter().map(move |other| (*one, *other)));
            every
                .filter(|(one, other)| one != other)
                .map(|(one, other)| Cut { act, ..Cut::one_way(one, other) })
                .collect::<Vec<_>>()
        };
        match fault {
            Fault::LeaderDark => {
                let hub = [Way::In, Way::Out].map(|way| Cut {
                    node,
                    way,
                    other: HUB.to_owned(),
                    target_only: false,
                    act: Act::Drop,
                });
                alone(node, &all).into_iter().chain(hub).collect()
            }
            Fault::LeaderFromTarget => vec![Cut::target(node)],
            Fault::LeaderDeaf => others.iter().map(|other| Cut::one_way(*other, node)).collect(),
            Fault::LeaderDumb => others.iter().map(|other| Cut::one_way(node, *other)).collect(),
            Fault::Halves => {
                let part: BTreeSet<u64> = all.iter().copied().filter(|_| self.chance.one_in(2)).collect();
                pairs(&|one, other| part.contains(&one) != part.contains(&other))
            }
            Fault::Ring => {
                let count = all.len() as u64;
                pairs(&|one, other| other - one > 1 && other - one < count - 1)
            }
            Fault::Bridge => {
                let bridge = self.chance.pick(&all);
                let rest: Vec<u64> = all.iter().copied().filter(|other| *other != bridge).collect();
                let (left, _) = rest.split_at(rest.len() / 2);
                pairs(&|one, other| {
                    one != bridge && other != bridge && left.contains(&one) != left.contains(&other)
                })
            }
            Fault::Loss(percent) => everywhere(Act::Lose(percent)),
            Fault::Reset => everywhere(Act::Reset),
            _ => alone(node, &all),
        }
    }
}

/// A node without its peers.
fn alone(node: u64, all: &[u64]) -> Vec<Cut> {
    all.iter().filter(|other| **other != node).flat_map(|other| Cut::both(node, *other)).collect()
}

/// Who is looked up for a fault.
fn befalls(fault: Fault) -> Who {
    match fault {
        Fault::Kill(who)
        | Fault::Stop(who)
        | Fault::Pause(who)
        | Fault::Clock(who, _)
        | Fault::SlowDisk(who, _)
        | Fault::FailingDisk(who)
        | Fault::FullDisk(who) => who,
        Fault::FollowerAlone => Who::Follower,
        _ => Who::Leader,
    }
}

/// The nodes of such a fault are down until it ends.
fn is_ending(fault: Fault) -> bool {
    matches!(fault, Fault::Kill(_) | Fault::Stop(_))
}

/// A node ends at the first error of its store.
fn is_of_disk(fault: Fault) -> bool {
    matches!(fault, Fault::FailingDisk(_) | Fault::FullDisk(_))
}
