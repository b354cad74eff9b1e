//! The cluster changes its members while all else goes wrong: nodes join, with or without a vote, some in the folder of
//! one that was removed (`--rejoin`); others are removed, alive or dead, leaders too. One that was removed comes back
//! from the dead, asks to be let in again, and is left alone for a while before its machine is taken away.

use std::path::PathBuf;

use super::{Nemesis, any_node, leader};
use crate::net;
use crate::operator::Change;
use crate::world::World;

/// The cluster is not made smaller than this.
const VOTERS_MIN: usize = 3;
/// Nor larger.
const VOTERS_MAX: usize = 5;

#[derive(Default)]
pub(super) struct Members {
    stage: Stage,
    /// Folders of nodes that are gone.
    folders: Vec<PathBuf>,
}

/// What the operator is at, and what follows.
#[derive(Clone, Debug, Default)]
enum Stage {
    #[default]
    Idle,
    Joining,
    Removing(String, u64),
    Returning(String),
    /// Until when the machine of a removed node stays.
    Parting(String, u64),
}

impl Members {
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }
}

fn id_of(name: &str) -> u64 {
    name[1..].parse().expect("nodes are called n1, n2 ...")
}

impl Nemesis {
    pub(super) fn change_members(&mut self, world: &mut World<'_>) {
        if !self.members.is_done() || world.operator.is_busy() {
            return;
        }
        let voters = world.truth.members().voters.len();
        let is_small = voters <= VOTERS_MIN || (voters < VOTERS_MAX && world.chance.one_in(2));
        if is_small && world.next_id <= net::NODES_MAX {
            self.join(world);
        } else {
            self.remove(world);
        }
    }

    fn join(&mut self, world: &mut World<'_>) {
        let folder = if world.chance.one_in(2) { self.members.folders.pop() } else { None };
        let votes = !world.chance.one_in(5);
        let node = world.add_node(folder);
        world.operator.ask(Change::Join { node, votes });
        self.members.stage = Stage::Joining;
    }

    fn remove(&mut self, world: &mut World<'_>) {
        let (how, any) = (world.chance.between(0, 2), any_node(world));
        let name = match how {
            0 => leader(world).unwrap_or(any),
            1 => self.power.down().find(|name| name.starts_with('n')).cloned().unwrap_or(any),
            _ => any,
        };
        let (node, members) = (id_of(&name), world.truth.members());
        let may_go = !members.voters.contains(&node) || members.voters.len() > VOTERS_MIN;
        if !may_go || !members.members.contains(&node) {
            return;
        }
        if how == 1 {
            self.crash(world, &name, u64::MAX);
        }
        // If it is down, it is so for good, as far as the cluster knows.
        self.power.forget(&name);
        world.operator.ask(Change::Remove { node });
        self.members.stage = Stage::Removing(name, node);
    }

    pub(super) fn follow_members(&mut self, world: &mut World<'_>, now: u64) {
        let is_asked =
            matches!(self.members.stage, Stage::Joining | Stage::Removing(..) | Stage::Returning(..));
        if is_asked && world.operator.is_busy() {
            return;
        }
        self.members.stage = match std::mem::take(&mut self.members.stage) {
            Stage::Idle | Stage::Joining => Stage::Idle,
            Stage::Removing(name, node) => self.removed(world, name, node, now),
            Stage::Returning(name) => {
                Stage::Parting(name, now.saturating_add(world.chance.between(0, 4_000)))
            }
            Stage::Parting(name, until) if until <= now => {
                self.power.forget(&name);
                self.pauses.forget(&name);
                self.members.folders.push(world.take_away(&name));
                Stage::Idle
            }
            Stage::Parting(name, until) => Stage::Parting(name, until),
        };
    }

    fn removed(&mut self, world: &mut World<'_>, name: String, node: u64, now: u64) -> Stage {
        let is_dead = !world.is_up(&name);
        if is_dead {
            world.truth.count(|figures| figures.dead_removed += 1);
        }
        // It may be down because of another fault, and then comes back by itself.
        if is_dead && !self.power.is_down(&name) && world.chance.one_in(2) {
            world.restart(&name);
        }
        // One that has never heard of the cluster has promised nothing: adding it again is completing what was begun.
        if world.is_up(&name) && world.truth.has_applied(node) {
            world.operator.ask(Change::Return { node });
            return Stage::Returning(name);
        }
        Stage::Parting(name, now.saturating_add(world.chance.between(0, 4_000)))
    }
}
