//! What must hold in every state, and what must be possible.

use chronarch::state::spec::OnLost;
use stateright::{Model, Property};

use super::step::Step;
use super::world::{Protocol, World};

pub(crate) const COMMITTED_FIRST: &str = "no effect happens without a committed start";
pub(crate) const AT_MOST_ONCE: &str = "with `on_lost: fail` a run has at most one effect";
pub(crate) const AT_LEAST_ONCE: &str = "with `on_lost: rerun` each occurrence has its effect in the end";
pub(crate) const ENDS: &str = "each occurrence ends, with one record";
pub(crate) const RECORDS_ARE_TRUE: &str = "an attempt that is recorded as succeeded has had its effect";
pub(crate) const NO_BLOT: &str = "nothing happened that never may";

/// What no state can show once it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Blot {
    /// A fence that is not larger than all before it.
    FenceShrank,
    /// A run ended a second time.
    EndedTwice,
    /// An attempt was begun a second time by the worker that had it.
    BegunTwice,
    /// A worker began an attempt of a run of which it had a newer one.
    OlderBegun,
    /// A running attempt was recorded as stopped, and nobody had asked for that.
    WantedAndStopped,
    /// An invariant of the state does not hold.
    Broken,
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![self.begin()]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.steps(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        self.next(world, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(COMMITTED_FIRST, |_, world: &World| {
                world.effects.iter().all(|(fence, effect)| world.starts.get(fence) == Some(&effect.run))
            }),
            Property::always(NO_BLOT, |_, world: &World| world.blots.is_empty()),
            Property::always(RECORDS_ARE_TRUE, |_, world: &World| {
                world.ends.iter().all(|(run, end)| {
                    end.succeeded
                        .is_none_or(|fence| world.effects.get(&fence).is_some_and(|it| it.run == *run))
                })
            }),
            Property::always(ENDS, |protocol: &Self, world: &World| {
                let ended = |world: &World| {
                    world.truth.state.run_count() == 0
                        && world.occurrences(protocol).iter().all(|run| world.ends.contains_key(run))
                };
                ended(world) || !protocol.is_quiet(world)
            }),
            Property::sometimes("all is over", |protocol: &Self, world: &World| {
                world.truth.state.run_count() == 0
                    && world.occurrences(protocol).iter().all(|run| world.ends.contains_key(run))
                    && protocol.is_quiet(world)
            }),
        ];
        match self.promise {
            OnLost::Fail => all.push(Property::always(AT_MOST_ONCE, |protocol: &Self, world: &World| {
                world.occurrences(protocol).iter().all(|run| world.effects_of(*run) <= 1)
            })),
            OnLost::Rerun => {
                all.push(Property::always(AT_LEAST_ONCE, |protocol: &Self, world: &World| {
                    let runs = world.occurrences(protocol);
                    runs.iter().all(|run| world.effects_of(*run) > 0 || !world.ends.contains_key(run))
                }));
                all.push(Property::sometimes("an effect is repeated", |protocol: &Self, world: &World| {
                    world.occurrences(protocol).iter().any(|run| world.effects_of(*run) > 1)
                }));
            }
        }
        all
    }
}

impl World {
    fn effects_of(&self, run: chronarch::state::run::RunId) -> u32 {
        self.effects.values().filter(|it| it.run == run).map(|it| u32::from(it.times)).sum()
    }
}
