//! The schedule as the replicated state holds it: validated text and numbers, never evaluated here.
//!
//! `scheduler::rule` compiles these into something that can be asked for the next occurrence. The
//! state only carries them, for an occurrence is computed by the leader and travels in the log.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pack::later;
use super::time::Timestamp;

/// One schedule of a job: a rule, the zone that its wall times are read in, and its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// What yields the occurrences.
    pub rule: Rule,
    /// IANA name as the user wrote it, for example `Europe/Berlin`, or a fixed offset such as
    /// `fixed:+03:00`; `UTC` by default.
    pub timezone: String,
    /// What becomes of a wall time that a zone skips in spring.
    pub gap: Gap,
    /// What becomes of a wall time that a zone repeats in autumn.
    pub fold: Fold,
    /// No occurrence before this instant.
    pub start_at: Option<Timestamp>,
    /// No occurrence at or after this instant.
    pub end_at: Option<Timestamp>,
    /// Upper bound of the deterministic spread between the nominal instant and the due one.
    pub jitter: Duration,
    /// How many occurrences there are from `start_at` on; all of them if absent.
    #[serde(default, serialize_with = "later")]
    pub count: Option<u32>,
    /// Calendars whose instants are excluded, by name.
    #[serde(default, serialize_with = "later")]
    pub exclude: Vec<String>,
    /// Calendars of which one has to cover an instant, or it is excluded; none: no such restriction.
    #[serde(default, serialize_with = "later")]
    pub only: Vec<String>,
}

impl Schedule {
    /// How long after the end of a run the next one is due, where that is the rule.
    #[must_use]
    pub const fn after_completion(&self) -> Option<Duration> {
        match self.rule {
            Rule::AfterCompletion { period } => Some(period),
            Rule::Cron { .. }
            | Rule::Every { .. }
            | Rule::At(_)
            | Rule::Recurrence(_)
            | Rule::Calendar(_)
            | Rule::Solar { .. } => None,
        }
    }
}

/// The kinds of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// A cron line, or a macro such as `@daily`.
    Cron {
        /// The line as the user wrote it.
        line: String,
        /// How to read it.
        dialect: Dialect,
        /// How day-of-month and day-of-week combine; the unix dialect alone has a choice.
        day_rule: DayRule,
    },
    /// Every `period`, counted from the Unix epoch plus `offset`; a zone has no say in it.
    Every {
        /// Distance of two occurrences, in whole milliseconds, from 100 ms to 36 525 days.
        period: Duration,
        /// Phase, in whole milliseconds; smaller than `period`.
        offset: Duration,
    },
    /// These instants, in ascending order, without repetition.
    At(Vec<Timestamp>),
    /// So long after the last run ended; each is armed when its predecessor is over. The only schedule of its job.
    AfterCompletion {
        /// From the end of a run to the next occurrence, in whole milliseconds, from 100 ms to 36 525 days.
        period: Duration,
    },
    /// Properties of RFC 5545, as the user wrote them; see `scheduler::recurrence`.
    Recurrence(String),
    /// A calendar event as systemd writes it; see `scheduler::calendar`.
    Calendar(String),
    /// An event of the sun at a place; see `scheduler::solar`.
    Solar {
        /// Which.
        event: SolarEvent,
        /// Where.
        place: SolarPlace,
    },
}

impl Rule {
    /// What becomes of a wall time inside a gap where the schedule does not say: RFC 5545 has an answer of its own.
    #[must_use]
    pub const fn usual_gap(&self) -> Gap {
        match self {
            Self::Recurrence(_) => Gap::Shift,
            Self::Cron { .. }
            | Self::Every { .. }
            | Self::At(_)
            | Self::AfterCompletion { .. }
            | Self::Calendar(_)
            | Self::Solar { .. } => Gap::RunAtEnd,
        }
    }
}

/// A place on Earth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SolarPlace {
    /// Millionths of a degree, from the equator to the north; -90 to 90 degrees.
    pub latitude_micro: i32,
    /// Millionths of a degree, from Greenwich to the east; -180 to 180 degrees.
    pub longitude_micro: i32,
}

/// What the sun does; the names are Celery's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SolarEvent {
    /// It comes up to 18 degrees below the horizon.
    DawnAstronomical,
    /// It comes up to 12 degrees below the horizon.
    DawnNautical,
    /// It comes up to 6 degrees below the horizon.
    DawnCivil,
    /// Its upper limb appears.
    Sunrise,
    /// It crosses the meridian.
    SolarNoon,
    /// Its upper limb disappears.
    Sunset,
    /// It goes down to 6 degrees below the horizon.
    DuskCivil,
    /// It goes down to 12 degrees below the horizon.
    DuskNautical,
    /// It goes down to 18 degrees below the horizon.
    DuskAstronomical,
}

impl SolarEvent {
    /// All of them, in the order of a day.
    pub const ALL: [Self; 9] = [
        Self::DawnAstronomical,
        Self::DawnNautical,
        Self::DawnCivil,
        Self::Sunrise,
        Self::SolarNoon,
        Self::Sunset,
        Self::DuskCivil,
        Self::DuskNautical,
        Self::DuskAstronomical,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DawnAstronomical => "dawn_astronomical",
            Self::DawnNautical => "dawn_nautical",
            Self::DawnCivil => "dawn_civil",
            Self::Sunrise => "sunrise",
            Self::SolarNoon => "solar_noon",
            Self::Sunset => "sunset",
            Self::DuskCivil => "dusk_civil",
            Self::DuskNautical => "dusk_nautical",
            Self::DuskAstronomical => "dusk_astronomical",
        }
    }

    /// Whether the sun goes up.
    #[must_use]
    pub const fn is_rise(self) -> bool {
        matches!(self, Self::DawnAstronomical | Self::DawnNautical | Self::DawnCivil | Self::Sunrise)
    }
}

/// The dialect of a cron line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    /// Debian cron's fields; see `scheduler::cron`.
    #[default]
    Unix,
    /// Seconds first, weekdays from 1, `?`, `L`, `W`, `#`, years.
    Quartz,
    /// As Quartz, without seconds and always with a year (EventBridge).
    Aws,
}

/// How a restricted day-of-month and a restricted day-of-week combine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DayRule {
    /// Either matches, unless one of the two texts begins with `*`, then both must (Vixie cron).
    #[default]
    OrVixie,
    /// Either matches, unless one of the two has an item `*` or `*/1`; `*/2` is a restriction like
    /// any other (Kubernetes, robfig/cron).
    OrBare,
    /// Both must match (Celery).
    And,
}

/// What becomes of a wall time inside a gap, when clocks go forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gap {
    /// It runs once at the first instant after the gap, as Debian's cron does.
    #[default]
    RunAtEnd,
    /// It runs as much later as the gap is long (RFC 5545, section 3.3.5).
    Shift,
    /// It does not run that day.
    Skip,
}

/// Which of two equal wall times runs, when clocks go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fold {
    /// The first pass, as Debian's cron does.
    #[default]
    First,
    /// The second pass.
    Second,
    /// Both passes.
    Both,
}
