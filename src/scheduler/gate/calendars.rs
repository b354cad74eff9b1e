//! All calendars of a cluster, compiled once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{CalendarFault, CompiledCalendar, Gate};
use crate::scheduler::zone::{Zone, Zones};
use crate::state::State;
use crate::state::calendar::CalendarSpec;
use crate::state::schedule::Schedule;
use crate::state::spec::JobSpec;

/// Why a schedule cannot be seen behind its calendars.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// A calendar that it names is not there.
    #[error("there is no calendar `{name}`")]
    Unknown {
        /// The name.
        name: String,
        /// The known name that is nearest.
        near: Option<String>,
    },
    /// This release cannot read a calendar.
    #[error("calendar `{name}`: {source}")]
    Calendar {
        /// The name.
        name: Arc<str>,
        /// What is wrong with it.
        source: CalendarFault,
    },
}

impl GateError {
    /// What would be right, where that can be told; without the word "hint".
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { near, .. } => near.as_ref().map(|near| format!("did you mean `{near}`?")),
            Self::Calendar { source, .. } => source.hint(),
        }
    }
}

type Compiled = Result<Arc<CompiledCalendar>, CalendarFault>;

/// The calendars of a cluster, by name; each is compiled when a schedule first names it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Calendars {
    all: Arc<BTreeMap<Arc<str>, Arc<CalendarSpec>>>,
    /// Those with `applies_to`.
    blackouts: Arc<[Arc<CalendarSpec>]>,
    compiled: Arc<Mutex<BTreeMap<Arc<str>, Compiled>>>,
}

impl Calendars {
    /// Those of a state.
    #[must_use]
    pub fn of(state: &State) -> Self {
        Self::new(state.calendars().map(|(_, calendar)| Arc::clone(&calendar.spec)))
    }

    /// These. One that cannot be read is an error of the schedules behind it.
    pub fn new(specs: impl Iterator<Item = Arc<CalendarSpec>>) -> Self {
        let all: BTreeMap<Arc<str>, _> = specs.map(|spec| (spec.name.as_str().into(), spec)).collect();
        let blackouts = all.values().filter(|spec| spec.applies_to.is_some()).cloned().collect();
        Self { all: Arc::new(all), blackouts, compiled: Arc::default() }
    }

    /// The same, compiled anew: with other zones.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self { compiled: Arc::default(), ..self.clone() }
    }

    /// Refuses a name that no calendar has.
    ///
    /// # Errors
    /// [`GateError::Unknown`].
    pub fn check(&self, name: &str) -> Result<(), GateError> {
        match self.all.contains_key(name) {
            true => Ok(()),
            false => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> GateError {
        GateError::Unknown { name: name.to_owned(), near: self.nearest(name) }
    }

    fn get(&self, name: &str, zones: &Zones) -> Result<Arc<CompiledCalendar>, GateError> {
        let Some((name, spec)) = self.all.get_key_value(name) else { return Err(self.unknown(name)) };
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let found = compiled
            .entry(Arc::clone(name))
            .or_insert_with(|| CompiledCalendar::compile(spec, zones).map(Arc::new));
        found.clone().map_err(|source| GateError::Calendar { name: Arc::clone(name), source })
    }

    /// The known name that is nearest: at most a third of it is different.
    fn nearest(&self, name: &str) -> Option<String> {
        let distances = self.all.keys().map(|known| (strsim::damerau_levenshtein(name, known), known));
        let (distance, known) = distances.min()?;
        (distance * 3 <= name.len().max(3)).then(|| known.to_string())
    }

    /// The names of the blackouts of a job.
    pub fn blackouts<'a>(&'a self, spec: &'a JobSpec) -> impl Iterator<Item = &'a str> {
        let matches = |of: &&Arc<CalendarSpec>| of.applies_to.as_ref().is_some_and(|it| it.matches(spec));
        self.blackouts.iter().filter(matches).map(|of| of.name.as_str())
    }

    /// What is in front of a schedule of a job.
    ///
    /// # Errors
    /// [`GateError`] for a calendar that is not there or cannot be read.
    pub(in crate::scheduler) fn gate(
        &self,
        spec: &JobSpec,
        schedule: &Schedule,
        (zone, zones): (&Zone, &Zones),
    ) -> Result<Gate, GateError> {
        let is_named = |name: &&str| schedule.exclude.iter().any(|named| named == name);
        let blackouts = self.blackouts(spec).filter(|name| !is_named(name));
        let named = schedule.exclude.iter().map(String::as_str);
        let exclude = named.chain(blackouts).map(|name| self.get(name, zones)).collect::<Result<_, _>>()?;
        let only = schedule.only.iter().map(|name| self.get(name, zones)).collect::<Result<_, _>>()?;
        Ok(Gate::new(exclude, only, zone.clone()))
    }
}
