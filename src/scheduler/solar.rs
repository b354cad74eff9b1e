//! Events of the sun: when it rises, culminates and sets at a place, and the twilights around that.
//!
//! The positions are those of NREL's solar position algorithm, by the crate `solar-positioning`: its arithmetic is
//! written out in Rust (feature `libm`), so that one binary finds the same second on every machine. That matters
//! when the leader changes: an event that two nodes found a second apart would run twice.
//!
//! Time is cut into days from one midnight of the mean sun to the next, at the place itself. The events of a day
//! are searched from its begin on, whatever instant was asked for, and rounded to the second, so that the answer
//! does not depend on the question. A day may have none (the polar night) or, where the sun grazes the horizon,
//! two. Days that clearly have none are passed over without a search.
//!
//! Sunrise and sunset are those of the upper limb with 34′ of refraction, at sea level: 50′ below the horizon for
//! the centre, as in Celery. A zone has no say in any of it. Beyond the year 3000 nobody knows how the Earth's
//! rotation slows down; there the events end.

use solar_positioning::{Horizon, Location, SolarEvents, delta_t};

use crate::state::schedule::{SolarEvent, SolarPlace};

/// How far a search looks: at the poles the sun rises once a year.
const DAYS_MAX: i64 = 400;
/// The Julian date of the Unix epoch.
const EPOCH_JULIAN: f64 = 2_440_587.5;
const DAY_SECONDS: i64 = 86_400;
/// Crossings of one kind that a day may have; two where the sun grazes the horizon.
const CROSSINGS_MAX: usize = 4;
/// Degrees by which the rough declination may be off: it changes by 0.4 in a day, and the tilt of the axis by half a
/// degree until the year 6000.
const MARGIN: f64 = 1.5;

/// Why a place is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SolarError {
    /// Beyond a pole.
    #[error("latitude: {} is out of range, expected -90 to 90", degrees(*found))]
    Latitude {
        /// In millionths of a degree.
        found: i32,
    },
    /// More than half a turn.
    #[error("longitude: {} is out of range, expected -180 to 180", degrees(*found))]
    Longitude {
        /// In millionths of a degree.
        found: i32,
    },
    /// Not a word and two numbers.
    #[error("found `{found}`, expected an event, a latitude and a longitude, such as `sunset 52.52 13.405`")]
    Form {
        /// What is there.
        found: String,
    },
    /// None of the events.
    #[error("unknown event `{found}`, expected one of {}", names())]
    Event {
        /// What is there.
        found: String,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// Nowhere near the place.
    #[error("{} never comes at this place: the rule would never fire", event.name())]
    NeverFires {
        /// The event.
        event: SolarEvent,
    },
}

impl SolarError {
    /// What would be right, where that can be told; without the word "hint".
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Event { hint, .. } => hint.clone(),
            Self::Latitude { .. } => {
                Some("the latitude comes first, north of the equator positive".to_owned())
            }
            Self::Longitude { .. } | Self::Form { .. } | Self::NeverFires { .. } => None,
        }
    }
}

/// Millionths of a degree as people write them.
#[must_use]
pub fn degrees(micro: i32) -> String {
    let text = format!(
        "{}{}.{:06}",
        if micro < 0 { "-" } else { "" },
        micro.unsigned_abs() / 1_000_000,
        micro.unsigned_abs() % 1_000_000
    );
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn names() -> String {
    SolarEvent::ALL.map(SolarEvent::name).join(", ")
}

/// Reads `sunset 52.52 13.405`; blanks or commas part the three.
///
/// # Errors
/// [`SolarError`] for anything else.
pub fn parse(text: &str) -> Result<(SolarEvent, SolarPlace), SolarError> {
    let form = || SolarError::Form { found: text.chars().take(64).collect() };
    let words: Vec<&str> = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let [name, latitude, longitude] = words[..] else { return Err(form()) };
    let Some(event) = SolarEvent::ALL.into_iter().find(|event| event.name().eq_ignore_ascii_case(name))
    else {
        let lower = name.to_ascii_lowercase();
        let near =
            SolarEvent::ALL.map(|event| (strsim::damerau_levenshtein(&lower, event.name()), event.name()));
        let near = near.into_iter().min().filter(|(distance, name)| distance * 3 <= name.len());
        let hint = near.map(|(_, name)| format!("did you mean `{name}`?"));
        return Err(SolarError::Event { found: name.chars().take(32).collect(), hint });
    };
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(form);
    Ok((event, place(number(latitude)?, number(longitude)?)))
}

/// A place in degrees; what no `i32` holds is far out of range, and stays so.
#[must_use]
pub fn place(latitude: f64, longitude: f64) -> SolarPlace {
    // saturates
    let micro = |degrees: f64| (degrees * 1e6).round() as i32;
    SolarPlace { latitude_micro: micro(latitude), longitude_micro: micro(longitude) }
}

/// A compiled event at a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolarRule {
    event: SolarEvent,
    place: Location,
}

impl SolarRule {
    /// Checks an event and a place.
    ///
    /// # Errors
    /// [`SolarError`] for a place that is none, or one where the event never comes.
    pub fn new(event: SolarEvent, place: SolarPlace) -> Result<Self, SolarError> {
        if !(-90_000_000..=90_000_000).contains(&place.latitude_micro) {
            return Err(SolarError::Latitude { found: place.latitude_micro });
        }
        if !(-180_000_000..=180_000_000).contains(&place.longitude_micro) {
            return Err(SolarError::Longitude { found: place.longitude_micro });
        }
        let (latitude, longitude) =
            (f64::from(place.latitude_micro) / 1e6, f64::from(place.longitude_micro) / 1e6);
        let rule = Self { event, place: Location { latitude, longitude } };
        if rule.next_after(0).is_none() { Err(SolarError::NeverFires { event }) } else { Ok(rule) }
    }

    /// The first event strictly after `after`, both in seconds since the Unix epoch.
    pub(super) fn next_after(&self, after: i64) -> Option<i64> {
        let day = self.day_of(after);
        (day..day + DAYS_MAX).filter(|day| self.may_come(*day)).find_map(|day| self.event_of(day, after))
    }

    /// Seconds by which the mean sun is ahead of that of Greenwich.
    fn ahead(&self) -> i64 {
        // 240 seconds a degree
        (self.place.longitude * 240.0).round() as i64
    }

    /// The day at the place that holds an instant, counted from 1970-01-01.
    fn day_of(&self, at: i64) -> i64 {
        (at + self.ahead()).div_euclid(DAY_SECONDS)
    }

    /// Whether the height that the sun reaches, at noon and at midnight, allows for the event at all.
    fn may_come(&self, day: i64) -> bool {
        let Some(height) = horizon(self.event).map(|horizon| horizon.elevation_angle()) else { return true };
        let since_2000 = (day - 10_957) as f64;
        // The Astronomical Almanac's low-precision formulas, good to 0.01 degrees around 2000
        let anomaly = (357.528 + 0.985_600_3 * since_2000).to_radians();
        let longitude =
            280.460 + 0.985_647_4 * since_2000 + 1.915 * anomaly.sin() + 0.020 * (2.0 * anomaly).sin();
        let declination = (23.44_f64.to_radians().sin() * longitude.to_radians().sin()).asin().to_degrees();
        let noon = 90.0 - (self.place.latitude - declination).abs();
        let midnight = (self.place.latitude + declination).abs() - 90.0;
        noon + MARGIN > height && midnight - MARGIN < height
    }

    /// The first event of a day that is later than `after`, both in seconds since the Unix epoch.
    fn event_of(&self, day: i64, after: i64) -> Option<i64> {
        let julian = |at: i64| EPOCH_JULIAN + at as f64 / DAY_SECONDS as f64;
        let begin = day * DAY_SECONDS - self.ahead();
        let (mut from, end) = (julian(begin), julian(begin + DAY_SECONDS));
        let year = 1970.0 + day as f64 / 365.2425;
        let delta_t = delta_t::estimate(year).ok()?;
        let events = SolarEvents::new();
        for _ in 0..CROSSINGS_MAX {
            let found = match horizon(self.event) {
                None => events.next_transit_from_julian(from, end, self.place.longitude, delta_t),
                Some(horizon) if self.event.is_rise() => {
                    events.next_rise_from_julian(from, end, self.place, delta_t, horizon)
                }
                Some(horizon) => events.next_set_from_julian(from, end, self.place, delta_t, horizon),
            };
            from = found.ok()??;
            let at = ((from - EPOCH_JULIAN) * DAY_SECONDS as f64).round() as i64;
            if at > after {
                return Some(at);
            }
        }
        None
    }
}

/// The height that the sun's centre crosses; none for noon.
fn horizon(event: SolarEvent) -> Option<Horizon> {
    match event {
        SolarEvent::SolarNoon => None,
        SolarEvent::Sunrise | SolarEvent::Sunset => Some(Horizon::SunriseSunset),
        SolarEvent::DawnCivil | SolarEvent::DuskCivil => Some(Horizon::CivilTwilight),
        SolarEvent::DawnNautical | SolarEvent::DuskNautical => Some(Horizon::NauticalTwilight),
        SolarEvent::DawnAstronomical | SolarEvent::DuskAstronomical => Some(Horizon::AstronomicalTwilight),
    }
}

#[cfg(test)]
mod tests;
