//! The power goes, and comes back after a while. A machine that crashes loses what its log had not synced; a write that
//! was under way may be there in part.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::{Nemesis, any_node, any_worker, leader};
use crate::world::World;

/// When a machine comes back; never, if it is removed from the cluster first.
#[derive(Default)]
pub(super) struct Power(BTreeMap<String, u64>);

impl Power {
    pub(super) fn is_down(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// One of the machines that are down.
    pub(super) fn down(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Whatever becomes of it, it does not come back by itself.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}

impl Nemesis {
    pub(super) fn switch_on(&mut self, world: &mut World<'_>, now: u64) {
        let back: Vec<String> =
            self.power.0.iter().filter(|(_, until)| **until <= now).map(|(name, _)| name.clone()).collect();
        for name in back {
            self.power.0.remove(&name);
            world.restart(&name);
        }
    }

    /// Says whether the machine was up.
    pub(super) fn crash(&mut self, world: &mut World<'_>, name: &str, until: u64) -> bool {
        if !world.is_up(name) {
            return false;
        }
        world.crash(name);
        self.pauses.forget(name);
        world.truth.count(|figures| figures.kills += 1);
        self.power.0.insert(name.to_owned(), until);
        if let Some(node) = world.nodes.iter().find(|node| node.name == name)
            && world.chance.one_in(3)
        {
            let length = world.chance.between(1, 200);
            let bytes: Vec<u8> = (0..length).map(|_| world.chance.draw() as u8).collect();
            tear(&node.dir.join("log"), &bytes);
        }
        true
    }

    pub(super) fn downtime(world: &mut World<'_>, now: u64) -> u64 {
        let longest = world.chance.pick(&[200, 1_000, 6_000]);
        now + world.chance.between(20, longest)
    }

    pub(super) fn kill_leader(&mut self, world: &mut World<'_>, now: u64) {
        let Some(leader) = leader(world) else { return };
        let until = Self::downtime(world, now);
        if self.crash(world, &leader, until) {
            world.truth.count(|figures| figures.leader_kills += 1);
        }
    }

    pub(super) fn kill_any(&mut self, world: &mut World<'_>, now: u64) {
        let (name, until) = (any_node(world), Self::downtime(world, now));
        self.crash(world, &name, until);
    }

    pub(super) fn kill_all(&mut self, world: &mut World<'_>, now: u64) {
        let names: Vec<String> = world.nodes.iter().map(|node| node.name.clone()).collect();
        for name in names {
            let until = Self::downtime(world, now);
            self.crash(world, &name, until);
        }
    }

    pub(super) fn kill_worker(&mut self, world: &mut World<'_>, now: u64) {
        let (name, until) = (any_worker(world), Self::downtime(world, now));
        self.crash(world, &name, until);
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
