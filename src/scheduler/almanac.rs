//! What schedules are read with besides their own text: the zones.
//!
//! An almanac is made from the replicated state, so that every node that computes an occurrence does so with the same
//! data, whatever its binary ships; [`Almanac::bundled`] is for where there is no cluster. It carries the generation of
//! what it was made from: what is computed with it is refused once that has changed ([`crate::state::reading`]).

use super::zone::Zones;
use crate::state::State;

/// What schedules are read with; cheap to clone.
#[derive(Clone, Debug)]
pub struct Almanac {
    generation: u64,
    zones: Zones,
}

impl Almanac {
    /// That of this binary, for schedules outside of a cluster.
    #[must_use]
    pub fn bundled() -> Self {
        Self { generation: 0, zones: Zones::bundled() }
    }

    /// That of a cluster.
    #[must_use]
    pub fn of(state: &State) -> Self {
        Self { generation: state.reading().generation, zones: Zones::of(state) }
    }

    /// The same with other zones: what a change of theirs would do.
    #[must_use]
    pub fn with_zones(&self, zones: Zones) -> Self {
        Self { zones, ..self.clone() }
    }

    /// The number of the last change of what it was made from.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The zones.
    #[must_use]
    pub const fn zones(&self) -> &Zones {
        &self.zones
    }
}
