//! What goes wrong, and when: many things at once, and gladly just before something is due.

mod aims;
mod clocks;
mod members;
mod network;
mod pauses;
mod power;

use crate::world::World;

/// Jobs are due at multiples of this.
const BEAT_MS: u64 = 500;

/// Faults that wait to be undone, a kind a field.
#[derive(Default)]
pub(crate) struct Nemesis {
    next: u64,
    power: power::Power,
    network: network::Network,
    pauses: pauses::Pauses,
    clocks: clocks::Clocks,
    members: members::Members,
    aims: aims::Aims,
    sick_until: Option<u64>,
}

impl Nemesis {
    /// Called for each millisecond of the chaos.
    pub(crate) fn strike(&mut self, world: &mut World<'_>, now: u64) {
        self.take_aim(world, now);
        self.undo(world, now);
        if now < self.next {
            return;
        }
        match world.chance.between(0, 26) {
            0..=3 => self.kill_leader(world, now),
            4 => self.kill_any(world, now),
            5 => self.kill_all(world, now),
            6 => self.kill_worker(world, now),
            7 | 8 => self.isolate_leader(world, now),
            9 => self.isolate_any(world, now),
            10 => self.halve(world, now),
            11 => self.hold_back(world, now),
            12 => self.set_clock(world, now),
            13 => self.drift(world, now),
            14 => self.sicken(world, now),
            15 | 16 => self.stop_leader(world, now),
            17 => self.stop_any(world, now),
            18 => self.stop_worker(world, now),
            19 | 20 => self.change_members(world),
            _ => self.aim(world, now),
        }
        self.next = now + world.chance.between(100, 1_800);
        if world.chance.one_in(3) {
            // Within 50 ms of something being due.
            self.next = self.next.next_multiple_of(BEAT_MS) + world.chance.between(0, 100);
            self.next = self.next.saturating_sub(50);
        }
    }

    /// Everything is well again; a change of the membership that was begun is seen through.
    pub(crate) fn heal(&mut self, world: &mut World<'_>) {
        self.aims = aims::Aims::default();
        self.undo(world, u64::MAX);
        world.sim.set_fail_rate(0.0);
        clocks::set_all_right(world);
    }

    /// Called until [`Nemesis::is_done`], when everything is well.
    pub(crate) fn go_on(&mut self, world: &mut World<'_>) {
        self.undo(world, u64::MAX);
    }

    /// Whether nobody waits to be added or removed.
    pub(crate) fn is_done(&self, world: &World<'_>) -> bool {
        self.members.is_done() && !world.operator.is_busy()
    }

    fn undo(&mut self, world: &mut World<'_>, now: u64) {
        self.switch_on(world, now);
        self.wake(world, now);
        self.mend(world, now);
        self.set_clocks_right(world, now);
        self.follow_members(world, now);
        if self.sick_until.is_some_and(|until| until <= now) {
            self.sick_until = None;
            world.service.set_sick(false);
        }
    }

    fn sicken(&mut self, world: &mut World<'_>, now: u64) {
        world.service.set_sick(true);
        self.sick_until = Some(now + world.chance.between(1_000, 6_000));
    }
}

/// The name of the machine that leads, as far as anyone knows; it may be on its way out of the cluster.
fn leader(world: &World<'_>) -> Option<String> {
    let name = format!("n{}", world.truth.leader()?);
    world.nodes.iter().any(|node| node.name == name).then_some(name)
}

fn any_node(world: &mut World<'_>) -> String {
    let place = world.chance.draw() as usize % world.nodes.len();
    world.nodes[place].name.clone()
}

fn any_worker(world: &mut World<'_>) -> String {
    let place = world.chance.draw() as usize % world.workers.len();
    world.workers[place].name.clone()
}
