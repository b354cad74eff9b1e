//! Recurrence rules against python-dateutil's answers, against trying each second, and what is refused where.

use proptest::prelude::*;

use super::*;
use crate::scheduler::walls::{Dst, Walls as _};
use crate::scheduler::zone::{Zone, Zones, zone};
use crate::state::schedule::{Fold, Gap};
use crate::state::time::Timestamp;

/// That of RFC 5545, section 3.3.5.
const DST: Dst = Dst { gap: Gap::Shift, fold: Fold::First };

fn seconds(text: &str) -> i64 {
    text.parse::<Timestamp>().expect(text).millis() / 1_000
}

fn utc() -> Zone {
    zone("UTC").expect("UTC")
}

fn read(text: &str) -> Result<Recurrence, RecurrenceError> {
    Recurrence::parse(text, &utc(), &Zones::bundled()).map(|(rule, _)| rule)
}

/// The first so many occurrences in the zone of the rule.
fn first(text: &str, count: usize) -> Vec<String> {
    let (rule, zone) =
        Recurrence::parse(text, &utc(), &Zones::bundled()).unwrap_or_else(|error| panic!("{text}: {error}"));
    let from = rule.first_wall() - 2 * 86_400;
    let next = |after: i64| rule.next_after(&zone, DST, after);
    let all = std::iter::successors(next(from), |at| next(*at));
    all.take(count).map(|at| zone.local(Timestamp::from_millis(at * 1_000)).replace(":00.000", "")).collect()
}

#[test]
fn dateutil_gives_the_same_answers() {
    for row in include_str!("dateutil_vectors.txt").lines().filter(|row| !row.starts_with('#')) {
        let parts: Vec<&str> = row.split(" | ").collect();
        let [text, after, expected] = parts[..] else { panic!("{row}") };
        let rule = match read(text) {
            Ok(rule) => rule,
            // nothing matches up to `UNTIL`
            Err(RecurrenceError::NeverFires) if expected == "end" => continue,
            Err(error) => panic!("{text}: {error}"),
        };
        let mut after = seconds(&format!("{after}Z"));
        for expected in expected.split(' ') {
            let found = rule.next_wall(after + 1);
            if expected == "end" {
                assert_eq!(found, None, "{row}");
            } else {
                assert_eq!(found, Some(seconds(&format!("{expected}Z"))), "{row}");
            }
            after = found.unwrap_or(after);
        }
    }
}

#[test]
fn a_gap_is_read_with_the_offset_before_it_and_a_fold_is_its_first_pass() {
    // RFC 5545, section 3.3.5
    let spring = "DTSTART;TZID=America/New_York:20260307T023000 RRULE:FREQ=DAILY";
    assert_eq!(
        first(spring, 3),
        ["2026-03-07T02:30-05:00", "2026-03-08T03:30-04:00", "2026-03-09T02:30-04:00"]
    );
    let autumn = "DTSTART;TZID=America/New_York:20261031T013000 RRULE:FREQ=DAILY";
    assert_eq!(
        first(autumn, 3),
        ["2026-10-31T01:30-04:00", "2026-11-01T01:30-04:00", "2026-11-02T01:30-05:00"]
    );
}

#[test]
fn until_is_an_instant_with_z_and_a_wall_time_without() {
    let days = |until: &str| {
        first(&format!("DTSTART;TZID=Asia/Tokyo:20260301T090000 RRULE:FREQ=DAILY;UNTIL={until}"), 9).len()
    };
    // 09:00 in Tokyo is 00:00 in UTC
    assert_eq!(days("20260303T000000Z"), 3);
    assert_eq!(days("20260302T235959Z"), 2);
    assert_eq!(days("20260303T090000"), 3);
    assert_eq!(days("20260303T085959"), 2);
    assert_eq!(days("20260303"), 2);
}

#[test]
fn dates_are_left_out_and_added() {
    let text = "DTSTART:20260105T090000\nRRULE:FREQ=DAILY;COUNT=5\nEXDATE:20260106T090000,20260107T100000\n\
                EXDATE;VALUE=DATE:20260108\nRDATE:20260106T120000,20260109T090000,20260201\n";
    let expected = ["05T09:00", "06T12:00", "07T09:00", "09T09:00"].map(|at| format!("2026-01-{at}+00:00"));
    let found = first(text, 9);
    assert_eq!(found[..4], expected);
    assert_eq!(found[4..], ["2026-02-01T00:00+00:00"]);
    // folded lines, as in a file
    let folded = "DTSTART:20260105T0\r\n 90000\r\nRRULE:FREQ=DAILY;\r\n\tCOUNT=2\r\n";
    assert_eq!(first(folded, 9), ["2026-01-05T09:00+00:00", "2026-01-06T09:00+00:00"]);
    assert_eq!(first("RDATE:20260201T120000", 9), ["2026-02-01T12:00+00:00"]);
}

#[test]
fn without_a_start_a_rule_says_all_itself() {
    assert_eq!(read("FREQ=DAILY;BYHOUR=9"), read("RRULE:freq=daily;byhour=9"));
    assert!(read("FREQ=WEEKLY;BYDAY=MO").is_ok());
    for (text, part) in [
        ("FREQ=DAILY;INTERVAL=2", "INTERVAL"),
        ("FREQ=DAILY;COUNT=2", "COUNT"),
        ("FREQ=WEEKLY", "the day of the week"),
        ("FREQ=MONTHLY", "the day of the month"),
        ("FREQ=YEARLY;BYMONTH=5", "the day of the year"),
    ] {
        assert_eq!(read(text), Err(RecurrenceError::NeedsStart { part }), "{text}");
    }
}

#[test]
fn a_refusal_names_the_place_and_the_nearest_valid_form() {
    for (text, message, hint) in [
        ("", "the rule is empty", ""),
        ("daily", "column 1: property: found `daily`, expected `NAME:VALUE`, such as `RRULE:FREQ=DAILY`", ""),
        ("RRULE:INTERVAL=2", "FREQ is missing", "write `FREQ=DAILY`, or another period"),
        ("DTSTART:20260101", "RRULE is missing", ""),
        (
            "RRULE:FREQ=DAYLY",
            "column 12: FREQ: found `DAYLY`, expected SECONDLY, MINUTELY, HOURLY, DAILY, WEEKLY, MONTHLY or YEARLY",
            "did you mean `DAILY`?",
        ),
        ("FREQ=DAILY;BYHOUR=24", "column 19: BYHOUR: found `24`, expected numbers from 0 to 23", ""),
        ("FREQ=DAILY;BYSECOND=60", "column 21: BYSECOND: found `60`, expected numbers from 0 to 59", ""),
        ("FREQ=DAILY;FREQ=DAILY", "column 12: FREQ is given twice", ""),
        (
            "FREQ=DAILY;BYHOUR=9 RRULE:FREQ=DAILY",
            "column 21: RRULE is given twice",
            "a job may have several schedules: write a list",
        ),
        (
            "DTSTART:20260230 FREQ=DAILY",
            "column 9: DTSTART: found `20260230`, expected a date such as `20260105` or `20260105T090000`",
            "",
        ),
        ("FREQ=DAILY;COUNT=2;UNTIL=20260101", "column 12: COUNT does not go with UNTIL", ""),
        (
            "FREQ=WEEKLY;BYDAY=2MO",
            "column 13: BYDAY does not go with a number before the weekday and FREQ below MONTHLY",
            "",
        ),
        ("FREQ=WEEKLY;BYMONTHDAY=1", "column 13: BYMONTHDAY does not go with FREQ=WEEKLY", ""),
        ("FREQ=DAILY;BYSETPOS=1", "column 12: BYSETPOS does not go with a rule without another BY… part", ""),
        ("FREQ=MONTHLY;BYDAY=XX", "column 20: BYDAY: found `XX`, expected SU, MO, TU, WE, TH, FR or SA", ""),
        (
            "FREQ=MONTHLY;BYMONTHDAY=0",
            "column 25: BYMONTHDAY: found `0`, expected numbers from 1 to 31 or -31 to -1",
            "",
        ),
        (
            "DTSTART:20260101 RRULE:FREQ=DAILY;COUNT=10001",
            "column 41: COUNT: found `10001`, expected a number from 1 to 10000",
            "",
        ),
        (
            "EXRULE:FREQ=DAILY",
            "column 1: property: found `EXRULE`, expected DTSTART, RRULE, EXDATE or RDATE",
            "name the dates in `EXDATE`",
        ),
        (
            "FREQ=DAILY;BYEASTER=1",
            "column 12: RRULE: found `BYEASTER`, expected FREQ, INTERVAL, COUNT, UNTIL, WKST, BYSECOND, BYMINUTE, BYHOUR, BYDAY, BYMONTHDAY, BYYEARDAY, BYWEEKNO, BYMONTH or BYSETPOS",
            "",
        ),
        (
            "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
            "the rule would never fire: nothing matches within 400 years of its start",
            "",
        ),
        (
            "DTSTART:20260101T000000 RRULE:FREQ=SECONDLY;INTERVAL=2;BYSECOND=1",
            "the rule would never fire: nothing matches within 400 years of its start",
            "",
        ),
        (
            "DTSTART;TZID=Europe/Berln:20260101T000000 RRULE:FREQ=DAILY",
            "TZID: unknown time zone `Europe/Berln`",
            "did you mean `Europe/Berlin`?",
        ),
    ] {
        let error = read(text).expect_err(text);
        assert_eq!(error.to_string(), message, "{text}");
        assert_eq!(error.hint().unwrap_or_default(), hint, "{text}");
    }
    let berlin = zone("Europe/Berlin").expect("a zone");
    let error = |text: &str| Recurrence::parse(text, &berlin, &Zones::bundled()).expect_err(text).to_string();
    assert_eq!(
        error("DTSTART:20260101T000000Z RRULE:FREQ=DAILY"),
        "DTSTART is in UTC, but timezone is Europe/Berlin"
    );
    assert_eq!(
        error("DTSTART;TZID=Asia/Tokyo:20260101T000000 RRULE:FREQ=DAILY"),
        "DTSTART: TZID is Asia/Tokyo, but timezone is Europe/Berlin"
    );
}

#[test]
fn a_place_that_no_period_has_is_found_out_at_once() {
    // to try each second of 400 years would take a minute
    for text in [
        "FREQ=SECONDLY;BYHOUR=1;BYSETPOS=2",
        "FREQ=MINUTELY;BYSECOND=0,30;BYSETPOS=3,-3",
        "FREQ=HOURLY;BYMINUTE=0;BYSETPOS=2",
        "FREQ=DAILY;BYHOUR=1,2;BYSETPOS=366",
        "FREQ=WEEKLY;BYDAY=MO;BYSETPOS=2",
        "FREQ=MONTHLY;BYDAY=MO;BYSETPOS=6",
    ] {
        assert_eq!(read(text), Err(RecurrenceError::NeverFires), "{text}");
    }
    assert!(read("FREQ=MINUTELY;BYSECOND=0,30;BYSETPOS=3,-2").is_ok());
}

#[test]
fn a_text_has_a_size() {
    let dates = |count: usize| format!("FREQ=DAILY;BYHOUR=9 EXDATE:{}", vec!["20260101"; count].join(","));
    assert!(read(&dates(1_000)).is_ok());
    assert!(matches!(read(&dates(1_001)), Err(RecurrenceError::TooMany { most: 1_000, .. })));
    assert!(matches!(read(&" ".repeat(TEXT_BYTES_MAX + 1)), Err(RecurrenceError::TooLong { .. })));
}

/// A rule of seconds to days in plain lists, to be tried second by second.
#[derive(Clone, Debug)]
struct Plain {
    freq: usize,
    interval: i64,
    hours: Vec<u32>,
    minutes: Vec<u32>,
    weekdays: Vec<usize>,
    start: i64,
}

const NAMES: [&str; 4] = ["SECONDLY", "MINUTELY", "HOURLY", "DAILY"];
const DAYS: [&str; 7] = ["SU", "MO", "TU", "WE", "TH", "FR", "SA"];

impl Plain {
    fn text(&self) -> String {
        let start = Timestamp::from_millis(self.start * 1_000).to_string();
        let start: String = start[..19].chars().filter(|c| !matches!(c, '-' | ':')).collect();
        let list = |name: &str, values: Vec<String>| {
            if values.is_empty() { String::new() } else { format!(";{name}={}", values.join(",")) }
        };
        let numbers = |values: &[u32]| values.iter().map(u32::to_string).collect();
        format!(
            "DTSTART:{start} RRULE:FREQ={};INTERVAL={}{}{}{}",
            NAMES[self.freq],
            self.interval,
            list("BYHOUR", numbers(&self.hours)),
            list("BYMINUTE", numbers(&self.minutes)),
            list("BYDAY", self.weekdays.iter().map(|day| DAYS[*day].to_owned()).collect()),
        )
    }

    fn matches(&self, wall: i64) -> bool {
        let period = [1, 60, 3_600, 86_400][self.freq];
        let (hour, minute) = (wall.rem_euclid(86_400) as u32 / 3_600, wall.rem_euclid(3_600) as u32 / 60);
        let (start_hour, start_minute) =
            (self.start.rem_euclid(86_400) as u32 / 3_600, self.start.rem_euclid(3_600) as u32 / 60);
        // what is shorter than the period and not named is that of the start
        let is_in = |list: &[u32], value: u32, own: u32, is_within: bool| {
            if list.is_empty() { !is_within || value == own } else { list.contains(&value) }
        };
        (wall.div_euclid(period) - self.start.div_euclid(period)).rem_euclid(self.interval) == 0
            && wall >= self.start
            && is_in(&self.hours, hour, start_hour, self.freq > 2)
            && is_in(&self.minutes, minute, start_minute, self.freq > 1)
            && (self.freq == 0 || wall.rem_euclid(60) == self.start.rem_euclid(60))
            && (self.weekdays.is_empty()
                || self.weekdays.contains(&((wall.div_euclid(86_400) + 4).rem_euclid(7) as usize)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn nothing_is_skipped_and_nothing_is_added(
        freq in 0_usize..4,
        interval in 1_i64..40,
        hours in prop::collection::vec(0_u32..24, 0..3),
        minutes in prop::collection::vec(0_u32..60, 0..3),
        weekdays in prop::collection::vec(0_usize..7, 0..3),
        start in 1_700_000_000_i64..1_800_000_000,
        ahead in 0_i64..200_000,
    ) {
        let plain = Plain { freq, interval, hours, minutes, weekdays, start };
        let from = start + ahead;
        let expected: Vec<i64> = (from..from + 3 * 86_400).filter(|wall| plain.matches(*wall)).take(200).collect();
        let rule = match read(&plain.text()) {
            Ok(rule) => rule,
            Err(error) => {
                prop_assert_eq!(error, RecurrenceError::NeverFires);
                prop_assert!(expected.is_empty(), "{}", plain.text());
                return Ok(());
            }
        };
        let walls = std::iter::successors(rule.next_wall(from), |wall| rule.next_wall(wall + 1));
        let found: Vec<i64> = walls.take_while(|wall| *wall < from + 3 * 86_400).take(200).collect();
        prop_assert_eq!(found, expected, "{}", plain.text());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(DTSTART:20260105T0900|RRULE:|FREQ=|DAILY|MONTHLY|;|BYDAY=|BYHOUR=|[0-9-]{1,3}|MO|,| |EXDATE:|COUNT=){0,12}") {
        if let Err(error) = read(&text) {
            drop((error.to_string(), error.hint()));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in "\\PC{0,60}") {
        drop(read(&text));
    }
}
