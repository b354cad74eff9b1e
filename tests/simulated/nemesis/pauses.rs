//! Processes are stopped, and go on after a while as if nothing had happened, but for the clocks.

use std::collections::BTreeMap;

use super::{Nemesis, any_node, any_worker, leader};
use crate::world::World;

/// Until when a process is stopped, and whether it led then.
#[derive(Default)]
pub(super) struct Pauses(BTreeMap<String, (u64, bool)>);

impl Pauses {
    /// What has crashed does not go on.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}

impl Nemesis {
    pub(super) fn stop_leader(&mut self, world: &mut World<'_>, now: u64) {
        let Some(leader) = leader(world) else { return };
        if self.stop(world, &leader, now) {
            world.truth.count(|figures| figures.leader_pauses += 1);
        }
    }

    pub(super) fn stop_any(&mut self, world: &mut World<'_>, now: u64) {
        let name = any_node(world);
        self.stop(world, &name, now);
    }

    pub(super) fn stop_worker(&mut self, world: &mut World<'_>, now: u64) {
        let name = any_worker(world);
        if self.stop(world, &name, now) {
            world.truth.count(|figures| figures.worker_pauses += 1);
        }
    }

    /// Says whether it ran.
    fn stop(&mut self, world: &mut World<'_>, name: &str, now: u64) -> bool {
        if !world.is_up(name) || self.pauses.0.contains_key(name) {
            return false;
        }
        let longest = world.chance.pick(&[300, 1_500, 6_000]);
        let until = now + world.chance.between(20, longest);
        let leads = leader(world).is_some_and(|leader| leader == name);
        self.pauses.0.insert(name.to_owned(), (until, leads));
        world.set_stopped(name, true);
        world.truth.count(|figures| figures.pauses += 1);
        true
    }

    pub(super) fn wake(&mut self, world: &mut World<'_>, now: u64) {
        let back = self.pauses.0.extract_if(.., |_, (until, _)| *until <= now);
        for (name, (_, led)) in back.collect::<Vec<_>>() {
            let is_deposed = led && leader(world).is_some_and(|leader| leader != name);
            world.truth.count(|figures| figures.leaders_woken_deposed += u64::from(is_deposed));
            world.set_stopped(&name, false);
        }
    }
}
