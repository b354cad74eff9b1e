//! When a job is due, computed anew from its file: by trying every second, so that nothing is shared with the
//! product's search.
//!
//! `every` counts from the epoch. Cron has six fields (seconds first) or five; each is `*`, `*/n`, `a`, `a-b`, or
//! a list of these. Only rules for which real time and wall time agree are used in the runs: no zone here changes
//! its clock within a run.

use std::collections::BTreeSet;

use super::file::{JobFile, Schedule};

/// The nominal instants of a job, later than `from` and up to `to`, in milliseconds.
pub(crate) fn instants(file: &JobFile, from: i64, to: i64) -> BTreeSet<i64> {
    file.schedule.iter().flat_map(|schedule| instants_of(schedule, from, to)).collect()
}

fn instants_of(schedule: &Schedule, from: i64, to: i64) -> Vec<i64> {
    if let Some(period) = schedule.every {
        let (period, offset) = (period.0.max(1), schedule.offset.0);
        let first = (from - offset).div_euclid(period) + 1;
        let last = (to - offset).div_euclid(period);
        return (first..=last).map(|number| number * period + offset).collect();
    }
    if let Some(cron) = &schedule.cron {
        return cron_instants(cron, schedule.timezone.as_deref().unwrap_or("UTC"), from, to);
    }
    schedule.at.iter().map(|at| at.0).filter(|at| *at > from && *at <= to).collect()
}

fn cron_instants(line: &str, zone: &str, from: i64, to: i64) -> Vec<i64> {
    let mut fields: Vec<&str> = line.split_whitespace().collect();
    if fields.len() == 5 {
        fields.insert(0, "0");
    }
    assert_eq!(fields.len(), 6, "a cron line has five or six fields: {line}");
    let zone = jiff::tz::TimeZone::get(zone).expect("a known zone");
    let seconds = from.div_euclid(1_000) + 1..=to.div_euclid(1_000);
    let is_due = |second: &i64| {
        let at = zone.to_datetime(jiff::Timestamp::from_second(*second).expect("an instant"));
        let date = [
            (i64::from(at.second()), fields[0]),
            (i64::from(at.minute()), fields[1]),
            (i64::from(at.hour()), fields[2]),
            (i64::from(at.day()), fields[3]),
            (i64::from(at.month()), fields[4]),
            (i64::from(at.weekday().to_sunday_zero_offset()), fields[5]),
        ];
        date.iter().all(|(value, field)| matches(field, *value))
    };
    seconds.filter(is_due).map(|second| second * 1_000).collect()
}

fn matches(field: &str, value: i64) -> bool {
    field.split(',').any(|part| {
        let number = |text: &str| text.parse::<i64>().expect("a number in a cron field");
        match (part, part.split_once('/'), part.split_once('-')) {
            ("*", ..) => true,
            (_, Some(("*", step)), _) => value % number(step) == 0,
            (_, _, Some((first, last))) => (number(first)..=number(last)).contains(&value),
            _ => number(part) == value,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(schedule: &str) -> JobFile {
        serde_json::from_str(&format!(r#"{{"name":"a","schedule":[{schedule}]}}"#)).expect("a job file")
    }

    #[test]
    fn every_counts_from_the_epoch_and_excludes_its_start() {
        let due = instants(&file(r#"{"every":"3s","offset":"1s"}"#), 4_000, 10_000);
        assert_eq!(Vec::from_iter(due), [7_000, 10_000]);
    }

    #[test]
    fn cron_is_read_in_its_zone() {
        // 2026-01-01T00:00:00Z is 05:30 in Kolkata
        let midnight = 1_767_225_600_000;
        let due = instants(
            &file(r#"{"cron":"*/25 30 5 * * *","timezone":"Asia/Kolkata"}"#),
            midnight - 1,
            midnight + 120_000,
        );
        assert_eq!(Vec::from_iter(due), [0, 25_000, 50_000].map(|after| midnight + after));
    }

    #[test]
    fn several_schedules_are_one_set() {
        let due =
            instants(&file(r#"{"every":"2s"},{"at":["1970-01-01T00:00:04Z"]},{"every":"3s"}"#), 0, 6_000);
        assert_eq!(Vec::from_iter(due), [2_000, 3_000, 4_000, 6_000]);
    }
}
