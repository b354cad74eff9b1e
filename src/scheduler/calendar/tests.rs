//! Calendar events against systemd's own answers, and what is refused where.

use super::*;
use crate::scheduler::walls::{Dst, Walls as _};
use crate::scheduler::zone::{Zones, zone};
use crate::state::schedule::{Fold, Gap};
use crate::state::time::Timestamp;

fn seconds(text: &str) -> i64 {
    text.parse::<Timestamp>().expect(text).millis() / 1_000
}

fn read(text: &str) -> Result<(CronRule, crate::scheduler::zone::Zone), CalendarError> {
    parse(text, &zone("UTC").expect("UTC"), &Zones::bundled())
}

#[test]
fn systemd_gives_the_same_answers() {
    for row in include_str!("systemd_vectors.txt").lines().filter(|row| !row.starts_with('#')) {
        let parts: Vec<&str> = row.split(" | ").collect();
        let [text, after, expected] = parts[..] else { panic!("{row}") };
        let (rule, zone) = match read(text) {
            Ok(read) => read,
            // the day of a year alone is another weekday
            Err(CalendarError::NeverFires) if expected == "end" => continue,
            Err(error) => panic!("{text}: {error}"),
        };
        let mut after = seconds(after);
        for expected in expected.split(' ') {
            let found = rule.next_after(&zone, Dst::default(), after);
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
fn what_systemd_refuses_is_refused() {
    // each of these is refused by systemd-analyze 252 as well
    for text in [
        "Sat..Mon",
        "24:00",
        "*-13-1",
        "*-*-0",
        "*-*-32",
        "Foo 9:00",
        "9:60",
        "Mon..Fri9:00",
        "*-*-*~1",
        ":30",
        "*-*-1~2",
        "5..2:00",
        "*:0/0",
        "*:*/15",
        "*/2:00",
        "9999-1-1",
        "Mon, Tue",
        "12..3:00",
        "*-*~29",
        "9:00 Mon",
        "",
        "2026-1-1 2026-1-2",
        "*",
        "9",
        "Mon Nowhere/City",
        "-1-1",
        "Mon..",
        "..Fri",
        "*-*-*-*",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn a_refusal_names_the_place_and_the_nearest_valid_form() {
    for (text, message, hint) in [
        ("", "the expression is empty", ""),
        (
            "Sat..Mon 9:00",
            "column 1: weekday: found `Sat..Mon`, expected a range that does not go beyond Sunday",
            "write `Sat,Sun,Mon`",
        ),
        ("Mon 24:00", "column 5: hour: 24 is out of range, expected 0 to 23", "midnight is `00:00`"),
        ("*:*/15", "column 4: minute: found `/`, expected no step behind `*`", "write `0/15`"),
        ("*-*-0", "column 5: day: 0 is out of range, expected 1 to 31", ""),
        ("*-*~29", "column 5: day from the end: 29 is out of range, expected 1 to 28", ""),
        ("*-13-1", "column 3: month: 13 is out of range, expected 1 to 12", ""),
        ("9:00:07.5", "column 8: second: found `.`, expected whole seconds", ""),
        ("5..2:00", "column 4: hour: found `2`, expected a number that is not less than the first", ""),
        ("*:0/0", "column 5: minute: found `0`, expected a step of at least 1", ""),
        (
            "dayly",
            "column 1: found `dayly`, expected weekdays, a date, a time or a zone, in this order",
            "did you mean `daily`?",
        ),
        ("9:00 Europe/Berln", "column 6: unknown time zone `Europe/Berln`", "did you mean `Europe/Berlin`?"),
        ("2026-02-30", "no year has a day that matches: the rule would never fire", ""),
        ("Mon..Fr 9:00", "column 1: weekday: found `Fr`, expected a weekday, such as `Mon` or `Monday`", ""),
    ] {
        let error = read(text).expect_err(text);
        assert_eq!(error.to_string(), message, "{text}");
        assert_eq!(error.hint().unwrap_or_default(), hint, "{text}");
    }
    let berlin = zone("Europe/Berlin").expect("a zone");
    let error = parse("9:00 Asia/Tokyo", &berlin, &Zones::bundled()).expect_err("two zones");
    assert_eq!(error.to_string(), "the expression is in Asia/Tokyo, but timezone is Europe/Berlin");
    assert!(parse("9:00 Europe/Berlin", &berlin, &Zones::bundled()).is_ok());
    let list = |count: usize| format!("*:{}", vec!["1"; count].join(","));
    assert!(read(&list(64)).is_ok());
    assert_eq!(read(&list(65)).expect_err("65"), CalendarError::TooManyItems { part: Part::Minute, at: 130 });
    assert_eq!(read(&" ".repeat(257)).expect_err("257"), CalendarError::TooLong { found: 257 });
}

#[test]
fn a_gap_and_a_fold_go_by_the_policy_of_cron() {
    let (rule, berlin) = read("*-*-* 02:30 Europe/Berlin").expect("an expression");
    let next = |dst, after: &str| rule.next_after(&berlin, dst, seconds(after)).expect("it comes again");
    let systemd = Dst { gap: Gap::Skip, fold: Fold::First };
    let spring = "2026-03-28T12:00:00Z";
    assert_eq!(next(Dst::default(), spring), seconds("2026-03-29T01:00:00Z"));
    // measured: systemd 252 passes over the day
    assert_eq!(next(systemd, spring), seconds("2026-03-30T00:30:00Z"));
    assert_eq!(next(systemd, "2026-10-24T12:00:00Z"), seconds("2026-10-25T00:30:00Z"));
    assert!(read("*:0/15").expect("an expression").0.is_elastic());
    assert!(!rule.is_elastic());
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused_at_a_place_inside(text in "[0-9*/,.:~ MonTueFriUTC-]{0,40}") {
        match read(&text) {
            Ok((rule, zone)) => drop(rule.next_after(&zone, Dst::default(), 0)),
            Err(error) => drop((error.to_string(), error.hint())),
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(text in "\\PC{0,60}") {
        drop(read(&text));
    }
}
