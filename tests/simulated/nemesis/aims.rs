//! Crashes at the moments that matter: between the commit of a start and its order, between an effect and its report,
//! in the middle of a takeover, and while a breaker is half open and its probe under way.
//!
//! What a process does in one tick leaves its machine in the next at the earliest. So a machine that crashes right
//! after the tick in which something was seen has done it, and has told nobody.

use super::{Nemesis, leader};
use crate::truth::Moment;
use crate::world::World;

/// How long a moment is waited for.
const PATIENCE_MS: u64 = 6_000;

/// What is waited for.
#[derive(Default)]
pub(super) struct Aims(Option<Aim>);

#[derive(Clone, Debug)]
struct Aim {
    at: At,
    until: u64,
    /// The leader's machine is meant, where it could be the worker's.
    leader: bool,
    /// Whom to crash, and when.
    next: Option<(String, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Order,
    Report,
    Takeover,
    Probe,
}

impl Nemesis {
    pub(super) fn aim(&mut self, world: &mut World<'_>, now: u64) {
        let at = world.chance.pick(&[At::Order, At::Report, At::Takeover, At::Probe]);
        let leader = world.chance.one_in(2);
        if self.aims.0.is_none() {
            self.aims.0 = Some(Aim { at, until: now + PATIENCE_MS, leader, next: None });
        }
    }

    /// Looks at what the last tick has brought.
    pub(super) fn take_aim(&mut self, world: &mut World<'_>, now: u64) {
        let moments = world.truth.moments();
        let Some(mut aim) = self.aims.0.take_if(|aim| aim.until > now) else {
            self.aims.0 = None;
            return;
        };
        if aim.next.is_none() {
            aim.next = moments.iter().find_map(|moment| target(world, &aim, moment, now));
        }
        match aim.next.take_if(|(_, when)| *when <= now) {
            Some((name, _)) => self.hit(world, aim.at, &name, now),
            None => self.aims.0 = Some(aim),
        }
    }

    fn hit(&mut self, world: &mut World<'_>, at: At, name: &str, now: u64) {
        let is_lost = at == At::Probe && !is_probed(world);
        let is_leader = leader(world).is_some_and(|leader| leader == name);
        let until = Self::downtime(world, now);
        if is_lost || !self.crash(world, name, until) {
            return;
        }
        world.truth.count(|figures| {
            figures.leader_kills += u64::from(is_leader);
            match at {
                At::Order => figures.kills_before_order += 1,
                At::Report => figures.kills_before_report += 1,
                At::Takeover => figures.kills_in_takeover += 1,
                At::Probe => figures.kills_in_probe += 1,
            }
        });
    }
}

/// Whether a breaker is half open and a probe under way.
fn is_probed(world: &World<'_>) -> bool {
    let state = world.truth.state();
    let mut probes = state.runs().filter_map(|run| run.running()?.probe);
    probes.any(|index| {
        state.breakers().any(|(_, breaker)| {
            matches!(breaker.status, chronarch::state::breaker::Status::HalfOpen { index: at, .. } if at == index)
        })
    })
}

/// Which machine to crash because of what has happened, and when.
fn target(world: &mut World<'_>, aim: &Aim, moment: &Moment, now: u64) -> Option<(String, u64)> {
    match (aim.at, moment) {
        (At::Order, Moment::Started { leader, fences }) => {
            let none_has_begun = !fences.iter().any(|fence| world.truth.has_begun(*fence));
            none_has_begun.then(|| (format!("n{leader}"), now))
        }
        (At::Report, Moment::Effect { held, machine }) => {
            let state = world.truth.state();
            let running = state.run(held.0).and_then(|run| run.running()).map(|attempt| attempt.fence);
            let name = if aim.leader { leader(world)? } else { machine.to_string() };
            (running == Some(held.1)).then_some((name, now))
        }
        (At::Takeover, Moment::Led { leader }) => {
            let members = world.truth.members().members;
            let up = members.into_iter().filter(|node| world.is_up(&format!("n{node}")));
            let is_complete = world.truth.know_the_leader(up.collect::<Vec<_>>());
            (!is_complete && world.chance.one_in(2)).then(|| (format!("n{leader}"), now))
        }
        (At::Probe, Moment::Probe { worker }) => {
            let name = if aim.leader { leader(world)? } else { machine_of(worker)? };
            Some((name, now + world.chance.between(0, 60)))
        }
        _ => None,
    }
}

/// The machine of a worker, which is called `w1/…`, or `node-1/…` where it is part of a node.
fn machine_of(worker: &str) -> Option<String> {
    let (place, _) = worker.split_once('/')?;
    Some(place.replace("node-", "n"))
}
