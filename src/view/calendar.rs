//! Calendars as the API's messages.

use std::sync::Arc;

use super::{instant, span};
use crate::pb::v1 as pb;
use crate::state::State;
use crate::state::calendar::{Calendar, CalendarSpec, DAY_MINUTES, Lasts, Weekly, clock_text, weekdays_text};

/// The message of a calendar's definition. Read again, it gives the same definition.
#[must_use]
pub fn spec(spec: &CalendarSpec) -> pb::CalendarSpec {
    let applies_to = spec.applies_to.as_ref();
    pb::CalendarSpec {
        name: spec.name.clone(),
        description: spec.description.clone(),
        timezone: spec.timezone.clone().unwrap_or_default(),
        dates: spec.dates.iter().map(ToString::to_string).collect(),
        weekly: spec.weekly.iter().map(weekly).collect(),
        windows: spec
            .windows
            .iter()
            .map(|window| pb::CalendarWindow {
                from: Some(instant(window.from)),
                to: Some(instant(window.to)),
                note: window.note.clone(),
            })
            .collect(),
        rules: spec
            .rules
            .iter()
            .map(|rule| {
                let (duration, days) = match rule.lasts {
                    Lasts::Span(lasts) => (Some(span(lasts)), 0),
                    Lasts::Days(days) => (None, days.into()),
                };
                pb::CalendarRule { rrule: rule.rrule.clone(), duration, days, note: rule.note.clone() }
            })
            .collect(),
        applies_to: applies_to.map(|applies_to| pb::AppliesTo {
            namespaces: applies_to.namespaces.clone(),
            labels: applies_to.labels.clone(),
        }),
    }
}

fn weekly(hours: &Weekly) -> pb::WeeklyHours {
    let clock = |minutes: u16, default: u16| {
        if minutes == default { String::new() } else { clock_text(minutes) }
    };
    pb::WeeklyHours {
        days: weekdays_text(hours.days),
        from: clock(hours.from, 0),
        to: clock(hours.to, DAY_MINUTES),
        note: hours.note.clone(),
    }
}

/// The message of a calendar.
#[must_use]
pub fn to_pb(state: &State, calendar: &Calendar) -> pb::Calendar {
    let name: Arc<str> = calendar.spec.name.as_str().into();
    pb::Calendar {
        spec: Some(spec(&calendar.spec)),
        version: calendar.origin.version,
        created_at: Some(instant(calendar.created_at)),
        actor: calendar.origin.actor.clone(),
        reason: calendar.origin.reason.clone(),
        set_at: Some(instant(calendar.origin.at)),
        jobs: state.calendar_users(&name).count() as u64,
    }
}
