//! Machines are cut off, one way or both, alone or in halves; or their messages are late, and then come all at once.

use super::{Nemesis, any_node, leader};
use crate::world::World;

#[derive(Default)]
pub(super) struct Network(Option<(u64, Cut)>);

#[derive(Clone, Debug)]
enum Cut {
    Between(Vec<String>, Vec<String>),
    OneWay(Vec<String>, Vec<String>),
    Held(Vec<String>, Vec<String>),
}

impl Cut {
    fn pairs(&self) -> Vec<(&str, &str)> {
        let (Self::Between(a, b) | Self::OneWay(a, b) | Self::Held(a, b)) = self;
        a.iter().flat_map(|a| b.iter().map(move |b| (a.as_str(), b.as_str()))).collect()
    }

    fn make(&self, world: &World<'_>) {
        for (a, b) in self.pairs() {
            match self {
                Self::Between(..) => world.sim.partition(a, b),
                Self::OneWay(..) => world.sim.partition_oneway(a, b),
                Self::Held(..) => world.sim.hold(a, b),
            }
        }
    }

    fn mend(&self, world: &World<'_>) {
        for (a, b) in self.pairs() {
            match self {
                Self::Between(..) => world.sim.repair(a, b),
                Self::OneWay(..) => world.sim.repair_oneway(a, b),
                Self::Held(..) => world.sim.release(a, b),
            }
        }
    }
}

impl Nemesis {
    /// The leader is cut from its peers, but not from clients and workers, or the other way round.
    pub(super) fn isolate_leader(&mut self, world: &mut World<'_>, now: u64) {
        let Some(leader) = leader(world) else { return };
        let others = world.nodes.iter().chain(&world.workers).map(|it| it.name.clone());
        let peers_only = world.chance.one_in(2);
        let others: Vec<String> =
            others.filter(|name| *name != leader && (!peers_only || name.starts_with('n'))).collect();
        let cut = match world.chance.between(0, 2) {
            0 => Cut::Between(vec![leader], others),
            1 => Cut::OneWay(vec![leader], others),
            _ => Cut::OneWay(others, vec![leader]),
        };
        world.truth.count(|figures| figures.leader_with_minority += 1);
        self.cut(world, cut, now);
    }

    pub(super) fn isolate_any(&mut self, world: &mut World<'_>, now: u64) {
        let name = any_node(world);
        if leader(world).is_some_and(|leader| leader != name) {
            world.truth.count(|figures| figures.leader_with_majority += 1);
        }
        let others = world.nodes.iter().map(|it| it.name.clone()).filter(|other| *other != name).collect();
        self.cut(world, Cut::Between(vec![name], others), now);
    }

    /// Two halves, with machines of every kind on both sides.
    pub(super) fn halve(&mut self, world: &mut World<'_>, now: u64) {
        let mut sides = (Vec::new(), Vec::new());
        let names: Vec<String> = world.nodes.iter().chain(&world.workers).map(|it| it.name.clone()).collect();
        for name in names {
            if world.chance.one_in(2) { sides.0.push(name) } else { sides.1.push(name) }
        }
        if let Some(leader) = leader(world) {
            let side = if sides.0.contains(&leader) { &sides.0 } else { &sides.1 };
            let voters = world.truth.members().voters;
            let beside = voters.iter().filter(|voter| side.contains(&format!("n{voter}"))).count();
            let is_majority = beside > voters.len() / 2;
            world.truth.count(|figures| {
                figures.leader_with_majority += u64::from(is_majority);
                figures.leader_with_minority += u64::from(!is_majority);
            });
        }
        self.cut(world, Cut::Between(sides.0, sides.1), now);
    }

    /// Messages between two machines are late, and then come all at once.
    pub(super) fn hold_back(&mut self, world: &mut World<'_>, now: u64) {
        let (a, b) = (any_node(world), any_node(world));
        if a != b {
            self.cut(world, Cut::Held(vec![a], vec![b]), now);
        }
    }

    fn cut(&mut self, world: &mut World<'_>, cut: Cut, now: u64) {
        // One at a time: turmoil knows no two reasons for one broken link.
        if self.network.0.is_some() {
            return;
        }
        let longest = world.chance.pick(&[300, 1_000, 4_000]);
        let until = now + world.chance.between(50, longest);
        cut.make(world);
        self.network.0 = Some((until, cut));
    }

    pub(super) fn mend(&mut self, world: &World<'_>, now: u64) {
        if let Some((_, cut)) = self.network.0.take_if(|(until, _)| *until <= now) {
            cut.mend(world);
        }
    }
}
