//! When an entry is due, as Celery says it, and as a schedule of ours.

use std::time::Duration;

use super::crontab::Fields;
use super::recurrence;
use crate::import::Sheet;
use crate::import::yaml::Item;
use crate::pb::v1::{DayRule, Dst, Fold, Gap, Schedule, Solar, SolarEvent};
use crate::pb::{instant, span};
use crate::state::time::Timestamp;

/// When an entry is due.
#[derive(Clone, Debug)]
pub(super) enum Timing {
    /// `crontab`.
    Crontab(Fields),
    /// `schedule`, a number or a `timedelta`: after each run, or on the multiples of it.
    Interval { period: Duration, is_aligned: bool },
    /// `clocked`.
    At(Timestamp),
    /// `solar`.
    Solar(Solar),
    /// RedBeat's `rrule`, as properties of RFC 5545.
    Recurrence(String),
}

/// The units of django-celery-beat.
#[derive(Clone, Copy)]
pub(super) struct Unit(Duration);

impl Unit {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(Self(match name {
            "days" => Duration::from_secs(86_400),
            "hours" => Duration::from_secs(3_600),
            "minutes" => Duration::from_secs(60),
            "seconds" => Duration::from_secs(1),
            "microseconds" => Duration::from_micros(1),
            _ => return None,
        }))
    }

    pub(super) fn times(self, count: &str) -> Option<Duration> {
        self.0.checked_mul(count.parse().ok()?)
    }
}

/// Seconds, with a fraction where there is one.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}

impl Timing {
    /// The schedule of an entry: seconds, or an object with its class in `__type__`, as [`super::DUMP`] and RedBeat
    /// write it.
    ///
    /// # Errors
    /// Why it is none that can be carried over.
    pub(super) fn read(item: &Item<'_>, sheet: &mut Sheet<'_>) -> Result<Self, String> {
        if !item.is_map() {
            let text = item.text(sheet).unwrap_or_default();
            let period =
                seconds(text).ok_or_else(|| format!("{}: expected seconds, found {text:?}", item.path))?;
            return Ok(Self::Interval { period, is_aligned: false });
        }
        let arguments: Vec<String> = item.entry("args").map_or_else(Vec::new, |args| args.texts(sheet));
        let argument = |place: usize| arguments.get(place).map_or("", String::as_str);
        let period = || {
            let text = item.get("every").or_else(|| item.get("seconds")).unwrap_or_default();
            seconds(text).ok_or_else(|| format!("{}: expected seconds, found {text:?}", item.path))
        };
        match item.get("__type__").unwrap_or_default() {
            "crontab" => {
                let mut fields = Fields::default();
                let named = ["minute", "hour", "day_of_week", "day_of_month", "month_of_year"];
                for (place, name) in named.into_iter().enumerate() {
                    let said = item.entry(name).map(|item| item.json_text());
                    let said = said.or_else(|| arguments.get(place).cloned());
                    if let (Some(field), Some(said)) = (fields.of(name), said) {
                        *field = said;
                    }
                }
                Ok(Self::Crontab(fields))
            }
            "schedule" => Ok(Self::Interval { period: period()?, is_aligned: argument(1) == "True" }),
            "interval" => {
                Ok(Self::Interval { period: period()?, is_aligned: item.get("relative") == Some("true") })
            }
            "solar" => Self::solar(argument(0), argument(1), argument(2)),
            "rrule" => recurrence::read(item, sheet).map(Self::Recurrence),
            class => Err(format!(
                "{}: {class:?} is a class of the app's own; when it is due only Python knows",
                item.path
            )),
        }
    }

    pub(super) fn solar(event: &str, latitude: &str, longitude: &str) -> Result<Self, String> {
        let event = match event {
            "dawn_astronomical" => SolarEvent::DawnAstronomical,
            "dawn_nautical" => SolarEvent::DawnNautical,
            "dawn_civil" => SolarEvent::DawnCivil,
            "sunrise" => SolarEvent::Sunrise,
            "solar_noon" => SolarEvent::SolarNoon,
            "sunset" => SolarEvent::Sunset,
            "dusk_civil" => SolarEvent::DuskCivil,
            "dusk_nautical" => SolarEvent::DuskNautical,
            "dusk_astronomical" => SolarEvent::DuskAstronomical,
            other => return Err(format!("event: {other:?} is none of Celery's")),
        };
        let degrees = |name: &str, text: &str| {
            let degrees = text.parse::<f64>().ok().filter(|degrees| degrees.is_finite());
            degrees.ok_or_else(|| format!("{name}: expected degrees, found {text:?}"))
        };
        let (latitude, longitude) = (degrees("latitude", latitude)?, degrees("longitude", longitude)?);
        Ok(Self::Solar(Solar { event: event.into(), latitude: Some(latitude), longitude: Some(longitude) }))
    }

    /// The schedule without its bounds.
    ///
    /// # Errors
    /// Why Celery would refuse it.
    pub(super) fn schedule(
        &self,
        last_run_at: Option<Timestamp>,
        choices: &mut Vec<String>,
    ) -> Result<Schedule, String> {
        let mut schedule = Schedule::default();
        match self {
            Self::Crontab(fields) => {
                schedule.cron = fields.line()?;
                if fields.restricts_days_twice() {
                    schedule.day_rule = DayRule::And.into();
                }
                schedule.dst = Some(Dst { gap: Gap::Shift.into(), fold: Fold::First.into() });
            }
            Self::Interval { period, is_aligned } => {
                schedule.every = Some(span::write(*period));
                if let Some(at) = last_run_at.filter(|_| !is_aligned)
                    && let Some(offset) = offset(at, *period)
                {
                    schedule.offset = Some(span::write(offset));
                    choices.push(format!("offset: counted from its last run, at {at}"));
                }
            }
            Self::At(at) => schedule.at = vec![instant::write(*at)],
            Self::Solar(solar) => schedule.solar = Some(*solar),
            Self::Recurrence(text) => schedule.rrule.clone_from(text),
        }
        Ok(schedule)
    }
}

/// How far an instant lies behind the multiples of a period.
fn offset(at: Timestamp, period: Duration) -> Option<Duration> {
    let period = i64::try_from(period.as_millis()).ok().filter(|period| *period > 0)?;
    let offset = u64::try_from(at.millis().rem_euclid(period)).ok()?;
    (offset > 0).then(|| Duration::from_millis(offset))
}
