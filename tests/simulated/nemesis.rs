//! What goes wrong, and when: many things at once, and gladly just before something is due.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::world::World;

/// Jobs are due at multiples of this.
const BEAT_MS: u64 = 500;

/// Faults that wait to be undone.
#[derive(Default)]
pub(crate) struct Nemesis {
    next: u64,
    /// When a machine comes back.
    down: BTreeMap<String, u64>,
    cut: Vec<(u64, Cut)>,
    clocks_until: Option<u64>,
    sick_until: Option<u64>,
}

#[derive(Clone, Debug)]
enum Cut {
    Between(Vec<String>, Vec<String>),
    OneWay(Vec<String>, Vec<String>),
    Held(Vec<String>, Vec<String>),
}

impl Nemesis {
    /// Called for each millisecond of the chaos.
    pub(crate) fn strike(&mut self, world: &mut World<'_>, now: u64) {
        self.undo(world, now);
        if now < self.next {
            return;
        }
        match world.chance.between(0, 15) {
            0..=4 => self.kill_leader(world, now),
            5 | 6 => self.kill_any(world, now),
            7 => self.kill_all(world, now),
            8 | 9 => self.isolate_leader(world, now),
            10 => self.isolate_any(world, now),
            11 => self.halve(world, now),
            12 => self.hold_back(world, now),
            13 => self.kill_worker(world, now),
            14 => self.set_clock(world, now),
            _ => self.sicken(world, now),
        }
        self.next = now + world.chance.between(100, 2_500);
        if world.chance.one_in(3) {
            // Within 50 ms of something being due.
            self.next = self.next.next_multiple_of(BEAT_MS) + world.chance.between(0, 100);
            self.next = self.next.saturating_sub(50);
        }
    }

    /// Everything is well again.
    pub(crate) fn heal(&mut self, world: &mut World<'_>) {
        self.undo(world, u64::MAX);
        world.sim.set_fail_rate(0.0);
        for machine in world.nodes.iter().chain(&world.workers) {
            machine.skew_ms.store(0, Ordering::Relaxed);
        }
    }

    fn undo(&mut self, world: &mut World<'_>, now: u64) {
        let back: Vec<String> =
            self.down.iter().filter(|(_, until)| **until <= now).map(|(name, _)| name.clone()).collect();
        for name in back {
            self.down.remove(&name);
            world.sim.bounce(name.as_str());
        }
        let healed: Vec<(u64, Cut)> = self.cut.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, cut) in healed {
            mend(world, &cut);
        }
        if self.clocks_until.is_some_and(|until| until <= now) {
            self.clocks_until = None;
            for node in &world.nodes {
                node.skew_ms.store(0, Ordering::Relaxed);
            }
        }
        if self.sick_until.is_some_and(|until| until <= now) {
            self.sick_until = None;
            world.service.set_sick(false);
        }
    }

    fn crash(&mut self, world: &mut World<'_>, name: &str, until: u64) {
        if self.down.contains_key(name) {
            return;
        }
        world.sim.crash(name);
        world.truth.count(|figures| figures.kills += 1);
        self.down.insert(name.to_owned(), until);
        if let Some(node) = world.nodes.iter().find(|node| node.name == name)
            && world.chance.one_in(3)
        {
            let length = world.chance.between(1, 200);
            let bytes: Vec<u8> = (0..length).map(|_| world.chance.draw() as u8).collect();
            tear(&node.dir.join("log"), &bytes);
        }
    }

    fn leader(world: &World<'_>) -> Option<String> {
        world.truth.leader().map(|node| format!("n{node}"))
    }

    fn downtime(world: &mut World<'_>, now: u64) -> u64 {
        let longest = world.chance.pick(&[200, 1_000, 6_000]);
        now + world.chance.between(20, longest)
    }

    fn kill_leader(&mut self, world: &mut World<'_>, now: u64) {
        let Some(leader) = Self::leader(world) else { return };
        if !self.down.contains_key(&leader) {
            world.truth.count(|figures| figures.leader_kills += 1);
        }
        let until = Self::downtime(world, now);
        self.crash(world, &leader, until);
    }

    fn kill_any(&mut self, world: &mut World<'_>, now: u64) {
        let place = world.chance.draw() as usize % world.nodes.len();
        let (name, until) = (world.nodes[place].name.clone(), Self::downtime(world, now));
        self.crash(world, &name, until);
    }

    fn kill_all(&mut self, world: &mut World<'_>, now: u64) {
        let names: Vec<String> = world.nodes.iter().map(|node| node.name.clone()).collect();
        for name in names {
            let until = Self::downtime(world, now);
            self.crash(world, &name, until);
        }
    }

    fn kill_worker(&mut self, world: &mut World<'_>, now: u64) {
        let place = world.chance.draw() as usize % world.workers.len();
        let (name, until) = (world.workers[place].name.clone(), Self::downtime(world, now));
        self.crash(world, &name, until);
    }

    /// The leader is cut from its peers, but not from clients and workers, or the other way round.
    fn isolate_leader(&mut self, world: &mut World<'_>, now: u64) {
        let Some(leader) = Self::leader(world) else { return };
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
        self.make(world, cut, now);
    }

    fn isolate_any(&mut self, world: &mut World<'_>, now: u64) {
        let place = world.chance.draw() as usize % world.nodes.len();
        let name = world.nodes[place].name.clone();
        if Self::leader(world).is_some_and(|leader| leader != name) {
            world.truth.count(|figures| figures.leader_with_majority += 1);
        }
        let others = world.nodes.iter().map(|it| it.name.clone()).filter(|other| *other != name).collect();
        self.make(world, Cut::Between(vec![name], others), now);
    }

    /// Two halves, with machines of every kind on both sides.
    fn halve(&mut self, world: &mut World<'_>, now: u64) {
        let mut sides = (Vec::new(), Vec::new());
        let names: Vec<String> = world.nodes.iter().chain(&world.workers).map(|it| it.name.clone()).collect();
        for name in names {
            if world.chance.one_in(2) { sides.0.push(name) } else { sides.1.push(name) }
        }
        if let Some(leader) = Self::leader(world) {
            let beside = sides.0.contains(&leader);
            let side = if beside { &sides.0 } else { &sides.1 };
            let voters = side.iter().filter(|name| name.starts_with('n')).count();
            let is_majority = voters > world.nodes.len() / 2;
            world.truth.count(|figures| {
                figures.leader_with_majority += u64::from(is_majority);
                figures.leader_with_minority += u64::from(!is_majority);
            });
        }
        self.make(world, Cut::Between(sides.0, sides.1), now);
    }

    /// Messages between two machines are late, and then come all at once.
    fn hold_back(&mut self, world: &mut World<'_>, now: u64) {
        let names: Vec<String> = world.nodes.iter().map(|it| it.name.clone()).collect();
        let (a, b) = (world.chance.draw() as usize % names.len(), world.chance.draw() as usize % names.len());
        if a != b {
            self.make(world, Cut::Held(vec![names[a].clone()], vec![names[b].clone()]), now);
        }
    }

    fn make(&mut self, world: &mut World<'_>, cut: Cut, now: u64) {
        // One at a time: turmoil knows no two reasons for one broken link.
        if !self.cut.is_empty() {
            return;
        }
        let longest = world.chance.pick(&[300, 1_000, 4_000]);
        let until = now + world.chance.between(50, longest);
        for (a, b) in pairs(&cut) {
            match &cut {
                Cut::Between(..) => world.sim.partition(a, b),
                Cut::OneWay(..) => world.sim.partition_oneway(a, b),
                Cut::Held(..) => world.sim.hold(a, b),
            }
        }
        self.cut.push((until, cut));
    }

    fn set_clock(&mut self, world: &mut World<'_>, now: u64) {
        let by: i64 = world.chance.pick(&[60, 300, 700, 5_000, 3_600_000]);
        let by = if world.chance.one_in(2) { by } else { -by };
        let place = world.chance.draw() as usize % world.nodes.len();
        // One wrong clock at a time: no majority can tell which of two is right.
        if self.clocks_until.is_none() {
            world.nodes[place].skew_ms.store(by, Ordering::Relaxed);
            world.truth.count(|figures| figures.clock_steps += 1);
            self.clocks_until = Some(now + world.chance.between(500, 8_000));
        }
    }

    fn sicken(&mut self, world: &mut World<'_>, now: u64) {
        world.service.set_sick(true);
        self.sick_until = Some(now + world.chance.between(1_000, 6_000));
    }
}

fn pairs(cut: &Cut) -> Vec<(&str, &str)> {
    let (Cut::Between(a, b) | Cut::OneWay(a, b) | Cut::Held(a, b)) = cut;
    a.iter().flat_map(|a| b.iter().map(move |b| (a.as_str(), b.as_str()))).collect()
}

fn mend(world: &World<'_>, cut: &Cut) {
    for (a, b) in pairs(cut) {
        match cut {
            Cut::Between(..) => world.sim.repair(a, b),
            Cut::OneWay(..) => world.sim.repair_oneway(a, b),
            Cut::Held(..) => world.sim.release(a, b),
        }
    }
}

/// A write was under way when the power went: some of it is behind the end of the log.
fn tear(log: &Path, bytes: &[u8]) {
    let Ok(files) = fs::read_dir(log) else { return };
    let segments = files.filter_map(Result::ok).map(|file| file.path());
    let newest = segments.filter(|path| path.extension().is_some_and(|ending| ending == "wal")).max();
    if let Some(path) = newest {
        let mut file = OpenOptions::new().append(true).open(path).expect("a segment can be written");
        file.write_all(bytes).expect("a segment can be written");
    }
}
