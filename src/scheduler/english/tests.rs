//! What is said of a schedule.

use std::time::Duration;

use super::*;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::solar::parse;
use crate::state::schedule::{DayRule, Dialect};
use crate::state::time::Timestamp;

fn schedule(rule: Rule, timezone: &str) -> Schedule {
    Schedule {
        gap: rule.usual_gap(),
        rule,
        timezone: timezone.to_owned(),
        fold: Fold::First,
        start_at: None,
        end_at: None,
        jitter: Duration::ZERO,
        count: None,
    }
}

fn told(rule: Rule) -> String {
    explain(&schedule(rule, "UTC"), Spread::default(), &Almanac::bundled())
        .expect("a sound schedule")
        .join(" ")
}

fn cron_line(line: &str, dialect: Dialect, day_rule: DayRule) -> Rule {
    Rule::Cron { line: line.to_owned(), dialect, day_rule }
}

#[test]
fn a_cron_line_is_told_in_plain_english() {
    use DayRule::{And, OrVixie};
    use Dialect::{Quartz, Unix};
    for (line, dialect, day_rule, expected) in [
        ("30 2 * * *", Unix, OrVixie, "At 02:30 every day, UTC."),
        ("* * * * *", Unix, OrVixie, "Every minute, UTC."),
        ("* * * * * *", Unix, OrVixie, "Every second, UTC."),
        (
            "*/15 9-17 * * 1-5",
            Unix,
            OrVixie,
            "Every 15 minutes of the hours 9 to 17 on Monday to Friday, UTC.",
        ),
        ("5,35 * * * *", Unix, OrVixie, "Minutes 5 and 35 of every hour, UTC."),
        ("0 */2 * * *", Unix, OrVixie, "Minute 0 of every 2nd hour from midnight, UTC."),
        ("0 12 13 * 5", Unix, OrVixie, "At 12:00 on day 13 of the month, and also on Friday, UTC."),
        ("0 12 13 * 5", Unix, And, "At 12:00 on day 13 of the month, if it is Friday, UTC."),
        ("0 12 1-31 * 1", Unix, OrVixie, "At 12:00 every day, UTC."),
        (
            "0 0 1 1,6-8 *",
            Unix,
            OrVixie,
            "At 00:00 on day 1 of the month in January and June to August, UTC.",
        ),
        ("15 0 0 1 1 ? 2030", Quartz, OrVixie, "At 00:00:15 on day 1 of the month in January of 2030, UTC."),
        (
            "0 0 9 ? * FRI#3,MONL",
            Quartz,
            OrVixie,
            "At 09:00 on the 3rd Friday of the month and the last Monday of the month, UTC.",
        ),
        (
            "0 0 9 L-2,15W * ?",
            Quartz,
            OrVixie,
            "At 09:00 on the 2nd day before the last and the day from Monday to Friday nearest to day 15 of the month, UTC.",
        ),
    ] {
        assert_eq!(told(cron_line(line, dialect, day_rule)), expected, "{line}");
    }
}

#[test]
fn every_other_kind_is_told_too() {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let (event, place) = parse("sunset 52.52 -13.405").expect("a place");
    let instants = (1..=5).map(|day| Timestamp::from_millis(day * 86_400_000)).collect();
    for (rule, expected) in [
        (Rule::Every { period: minutes(360), offset: minutes(30) }, "Every 6h, counted from 30m after 1970-01-01T00:00:00Z."),
        (Rule::AfterCompletion { period: minutes(10) }, "10m after the end of each run."),
        (
            Rule::At(instants),
            "At 1970-01-02T00:00:00.000Z, 1970-01-03T00:00:00.000Z, 1970-01-04T00:00:00.000Z and 2 more.",
        ),
        (Rule::Solar { event, place }, "At sunset at latitude 52.52, longitude -13.405."),
        (Rule::Calendar("Mon *-05~07/1 9:00".to_owned()), "At 09:00 on the last day, the day before the last, the 2nd day before the last, the 3rd day before the last, the 4th day before the last, the 5th day before the last and the 6th day before the last of the month, if it is Monday in May, UTC."),
        (
            Rule::Recurrence("DTSTART:20260105T090000 RRULE:FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1 EXDATE:20260227T090000".to_owned()),
            "Every month on Monday to Friday at 09:00; of these the last in each month, UTC. Counted from 2026-01-05 09:00. 1 date left out.",
        ),
        (
            Rule::Recurrence("DTSTART:20260105T090000 RRULE:FREQ=YEARLY;INTERVAL=2;BYMONTH=5;BYDAY=-1MO,2TU;UNTIL=20400101".to_owned()),
            "Every 2nd year on the last Monday of the month and the 2nd Tuesday of the month in May at 09:00, UTC. Counted from 2026-01-05 09:00, until 2040-01-01 00:00.",
        ),
    ] {
        assert_eq!(told(rule), expected);
    }
}

#[test]
fn odd_days_and_bounds_are_told() {
    let at = |text: &str| Some(text.parse::<Timestamp>().expect(text));
    let daily = schedule(cron_line("30 2 * * *", Dialect::Unix, DayRule::OrVixie), "Europe/Berlin");
    let daily = Schedule {
        start_at: at("2026-01-01T00:00:00Z"),
        count: Some(3),
        jitter: Duration::from_secs(300),
        ..daily
    };
    assert_eq!(
        explain(&daily, Spread::default(), &Almanac::bundled()).expect("sound"),
        [
            "At 02:30 every day, Europe/Berlin.",
            "A time that does not exist, when clocks go forward, runs at the end of the gap; one that comes twice runs the first time.",
            "Not before 2026-01-01T00:00:00.000Z, 3 times in all.",
            "Each run is put off by up to 5m, always the same for the same instant.",
        ]
    );
    let elastic = schedule(cron_line("*/5 * * * *", Dialect::Unix, DayRule::OrVixie), "Europe/Berlin");
    let told = explain(&elastic, Spread::default(), &Almanac::bundled()).expect("sound");
    assert!(told[1].starts_with("When clocks change it follows real time"), "{told:?}");
}
