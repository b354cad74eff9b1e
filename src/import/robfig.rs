//! Schedules of robfig/cron 3, which Kubernetes and dkron share.
//!
//! Its days restrict each other unless one is a bare `*` or `?` ([`DayRule::OrBare`]); of wall times it skips those that
//! do not exist and takes both of those that come twice.
//!
//! Source: `parser.go` and `spec.go` of robfig/cron 3.0.1.

use super::{Loss, Sheet, cron};
use crate::pb::span;
use crate::pb::v1::{DayRule, Dst, Fold, Gap, Schedule};

/// A line of fields or a word such as `@daily`, without its zone.
pub(super) fn rule(text: &str, choices: &mut Vec<String>) -> Schedule {
    // `?` is `*` there.
    let fields: Vec<&str> =
        text.split_whitespace().map(|field| if field == "?" { "*" } else { field }).collect();
    let mut schedule = cron(&fields.join(" "), "");
    if !text.trim_start().starts_with('@') {
        schedule.day_rule = DayRule::OrBare.into();
    }
    schedule.dst = Some(Dst { gap: Gap::Skip.into(), fold: Fold::Both.into() });
    choices
        .push("dst: a wall time that is missing is skipped and a double one runs twice, as there".to_owned());
    schedule
}

/// `@every 90s`, if it is that; `Some(None)` if it is that and cannot be read, which is a finding.
pub(super) fn every(text: &str, path: &str, line: usize, sheet: &mut Sheet<'_>) -> Option<Option<Schedule>> {
    let period = text.strip_prefix("@every ")?;
    Some(match span::parse(period) {
        Ok(period) => {
            let what =
                format!("{path}: @every counts from the start of the scheduler there, from the epoch here");
            sheet.find(line, Loss::Approximated, what);
            Some(Schedule { every: Some(span::write(period)), ..Schedule::default() })
        }
        Err(error) => {
            sheet.find(line, Loss::Unread, format!("{path}: {error}"));
            None
        }
    })
}
