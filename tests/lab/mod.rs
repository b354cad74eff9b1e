//! What the scripts, the properties and the simulation share: jobs in few words, and a lab bench with
//! one state on it.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod chance;
pub(crate) mod invariants;
pub(crate) mod names;
pub(crate) mod single;
pub(crate) mod spec;
pub(crate) mod zones;
