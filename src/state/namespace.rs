//! Namespaces with limits: how much of what their jobs did the run log keeps.
//!
//! A namespace is there when a job names it. What is set here holds over all records of the namespace, beside what
//! each job says of its own; the run log removes what either of the two no longer wants. Nothing is decided by it,
//! so the state only remembers what was asked for, by whom and why.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::State;
use super::apply::{Applying, origin};
use super::command::{Outcome, Request};
use super::job::Origin;
use super::limits;
use super::rejection::Rejection;

/// What is kept of a namespace; everything where both are absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceLimits {
    /// The newest so many records of all its jobs together.
    pub runs: Option<u32>,
    /// None that ended longer ago.
    pub age: Option<Duration>,
}

/// A namespace with limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// What is kept of it.
    pub retention: NamespaceLimits,
    /// Who set that, why and when.
    pub origin: Origin,
}

impl State {
    /// The limits of a namespace, if it has any.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// All namespaces with limits, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Namespace>)> {
        self.namespaces.iter()
    }

    /// Whether the limits of namespaces were not touched between this state and another. Costs nothing.
    #[must_use]
    pub fn has_namespaces_of(&self, other: &Self) -> bool {
        self.namespaces.ptr_eq(&other.namespaces) || self.namespaces.is_empty() && other.namespaces.is_empty()
    }
}

impl Applying<'_> {
    /// Sets the limits of a namespace, or takes them away.
    pub(super) fn set_namespace(
        &mut self,
        name: &Arc<str>,
        retention: NamespaceLimits,
        request: &Request,
    ) -> Result<Outcome, Rejection> {
        let namespaces = &mut self.state.namespaces;
        if retention == NamespaceLimits::default() {
            namespaces.remove(name).ok_or(Rejection::NoNamespace)?;
            return Ok(Outcome::Done);
        }
        if namespaces.len() >= limits::NAMESPACES && !namespaces.contains_key(name) {
            return Err(Rejection::Limit);
        }
        let origin = origin(1, self.moment.at, request);
        namespaces.insert(name.clone(), Arc::new(Namespace { retention, origin }));
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::time::Timestamp;
    use crate::state::{Command, Entry};

    #[test]
    fn a_namespace_too_many_gets_no_limits_and_those_that_have_some_can_change() {
        let mut state = State::default();
        let mut set = |name: usize, runs| {
            let limits = NamespaceLimits { runs, age: None };
            let (namespace, request) = (format!("n{name}").into(), Request::default());
            let commands = vec![Command::SetNamespace { namespace, limits, request }];
            let index = state.applied_index() + 1;
            state.apply(index, &Entry { at: Timestamp::EPOCH, commands }).outcomes.remove(0)
        };
        for name in 0..limits::NAMESPACES {
            assert_eq!(set(name, Some(1)), Outcome::Done);
        }
        assert_eq!(set(limits::NAMESPACES, Some(1)), Outcome::Rejected(Rejection::Limit));
        assert_eq!(set(0, Some(2)), Outcome::Done);
        assert_eq!(set(0, None), Outcome::Done);
        assert_eq!(set(limits::NAMESPACES, Some(1)), Outcome::Done, "one has made room");
    }
}
