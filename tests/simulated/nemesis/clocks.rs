//! Clocks of nodes are set wrong, or run fast or slow, and are set right after a while. One at a time: no majority can
//! tell which of two is right. A clock that runs 5 % fast is out of its bounds after 10 s.

use super::Nemesis;
use crate::machine;
use crate::world::World;

#[derive(Default)]
pub(super) struct Clocks {
    wrong_until: Option<u64>,
}

impl Nemesis {
    pub(super) fn set_clock(&mut self, world: &mut World<'_>, now: u64) {
        let by: i64 = world.chance.pick(&[60, 300, 700, 5_000, 3_600_000]);
        let by = if world.chance.one_in(2) { by } else { -by };
        let place = world.chance.draw() as usize % world.nodes.len();
        if self.clocks.wrong_until.is_none() {
            world.nodes[place].wall.set(machine::now(&world.sim), by);
            world.truth.count(|figures| figures.clock_steps += 1);
            self.clocks.wrong_until = Some(now + world.chance.between(500, 8_000));
        }
    }

    pub(super) fn drift(&mut self, world: &mut World<'_>, now: u64) {
        let rate_ppm: i64 = world.chance.pick(&[2_000, 10_000, 50_000]);
        let rate_ppm = if world.chance.one_in(2) { rate_ppm } else { -rate_ppm };
        let place = world.chance.draw() as usize % world.nodes.len();
        if self.clocks.wrong_until.is_none() {
            world.nodes[place].wall.run_at(machine::now(&world.sim), rate_ppm);
            world.truth.count(|figures| figures.clock_drifts += 1);
            self.clocks.wrong_until = Some(now + world.chance.between(2_000, 15_000));
        }
    }

    pub(super) fn set_clocks_right(&mut self, world: &World<'_>, now: u64) {
        if self.clocks.wrong_until.take_if(|until| *until <= now).is_some() {
            set_all_right(world);
        }
    }
}

pub(super) fn set_all_right(world: &World<'_>) {
    for machine in world.nodes.iter().chain(&world.workers) {
        let now = machine::now(&world.sim);
        machine.wall.set(now, 0);
        machine.wall.run_at(now, machine.rate_ppm);
    }
}
