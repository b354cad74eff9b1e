//! The language: what is read, how, and what is refused where.

use super::{CronError, CronRule, Field};
use crate::scheduler::spread::Spread;
use crate::scheduler::walls::Walls as _;
use crate::state::schedule::{DayRule, Dialect};

pub(super) fn unix(line: &str, day_rule: DayRule) -> Result<CronRule, CronError> {
    CronRule::parse(line, Dialect::Unix, day_rule, Spread::default())
}

fn parse(line: &str) -> Result<CronRule, CronError> {
    unix(line, DayRule::OrVixie)
}

fn read(line: &str) -> CronRule {
    parse(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refuse(line: &str) -> CronError {
    parse(line).expect_err(line)
}

#[test]
fn different_spellings_of_one_rule_are_equal() {
    for (one, other) in [
        ("0 22-2 1 * *", "0 22,23,0,1,2 1 * *"),
        ("0 0 1 11-2 *", "0 0 1 11,12,1,2 *"),
        ("0 0 28-3 * *", "0 0 28,29,30,31,1,2,3 * *"),
        ("55-5 0 * * *", "55,56,57,58,59,0,1,2,3,4,5 0 * * *"),
        ("0 22-4/2 * * *", "0 22,0,2,4 * * *"),
        ("0 22-2/3 * * *", "0 22,1 * * *"),
        ("0 0 * * fri-mon", "0 0 * * 5,6,0,1"),
        ("0 0 * * fri-sun", "0 0 * * 5-7"),
        ("0 0 * * 7-2", "0 0 * * 0-2"),
        ("0 0 * * 0-7", "0 0 * * sun-sat"),
        ("0 0 * * 7", "0 0 * * SUN"),
        ("0 0 * JaN-mAr Mon", "0 0 * 1-3 1"),
        ("5/15 0 * * *", "5,20,35,50 0 * * *"),
        ("0 0 * * 1/2", "0 0 * * 1,3,5"),
        ("0 0 * * 0/6", "0 0 * * 0,6"),
        ("0 0 * * 7/2", "0 0 * * 0,2,4,6"),
        ("0 0 1/10 * *", "0 0 1,11,21,31 * *"),
        ("00 007 1 * *", "0 7 1 * *"),
        ("0 0 0 * * *", "0 0 * * *"),
        ("\t0  0 \t* * * ", "0 0 * * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        (" @monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily ", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("0 */24 * * *", "0 */99999999999 * * *"),
    ] {
        assert_eq!(read(one), read(other), "{one} and {other}");
    }
}

#[test]
fn a_rule_is_elastic_by_the_first_character_of_its_times() {
    for (line, elastic) in [
        ("*/15 2 * * *", true),
        ("30 */2 * * *", true),
        ("*,5 2 * * *", true),
        ("* 30 2 * * *", true),
        ("30 2 * * *", false),
        ("0-59 2 * * *", false),
        ("15,45 2 */2 * *", false),
        ("5,*/7 2 * * *", false),
        ("@hourly", true),
        ("@daily", false),
    ] {
        assert_eq!(read(line).is_elastic(), elastic, "{line}");
    }
}

#[test]
fn the_day_rules_differ_in_what_counts_as_unrestricted() {
    let both = |line: &str, rule| unix(line, rule).map(|rule| rule.days.both);
    for (days, vixie, bare) in [
        ("1 * 1", false, false),
        ("1-31 * 1", false, false),
        ("*/2 * 1", true, false),
        ("1 * */2", true, false),
        ("*/1 * 1", true, true),
        ("* * 1", true, true),
        ("1 * *", true, true),
        ("*/2,* * 1", true, true),
        ("5,*/2 * 1", false, false),
    ] {
        let line = format!("0 0 {days}");
        assert_eq!(both(&line, DayRule::OrVixie), Ok(vixie), "{line}");
        assert_eq!(both(&line, DayRule::OrBare), Ok(bare), "{line}");
        assert_eq!(both(&line, DayRule::And), Ok(true), "{line}");
    }
}

#[test]
fn a_refusal_names_the_column_the_field_and_what_would_be_right() {
    for (line, message) in [
        ("", "the cron line is empty"),
        (" \t ", "the cron line is empty"),
        (
            "daily",
            "column 6: found 1 field, expected 5 (minute hour day-of-month month day-of-week), 6 (with the second first) or 7 (with the year last as well)",
        ),
        (
            "0 0 * *",
            "column 8: found 4 fields, expected 5 (minute hour day-of-month month day-of-week), 6 (with the second first) or 7 (with the year last as well)",
        ),
        (
            "0 0 0 * * * 2030 *",
            "column 18: found 8 fields, expected 5 (minute hour day-of-month month day-of-week), 6 (with the second first) or 7 (with the year last as well)",
        ),
        ("60 0 * * *", "column 1: minute: 60 is out of range, expected 0 to 59"),
        ("0 24 * * *", "column 3: hour: 24 is out of range, expected 0 to 23"),
        ("0 0 0 * *", "column 5: day of month: 0 is out of range, expected 1 to 31"),
        ("0 0 32 * *", "column 5: day of month: 32 is out of range, expected 1 to 31"),
        ("0 0 * 13 *", "column 7: month: 13 is out of range, expected 1 to 12"),
        ("0 0 * * 1,8", "column 11: day of week: 8 is out of range, expected 0 to 7"),
        ("60 0 0 * * *", "column 1: second: 60 is out of range, expected 0 to 59"),
        ("99999999999 0 * * *", "column 1: minute: 99999999999 is out of range, expected 0 to 59"),
        ("*/0 0 * * *", "column 3: minute: the step is 0, expected at least 1"),
        ("1,,2 0 * * *", "column 3: minute: empty list item, expected a value"),
        (",1 0 * * *", "column 1: minute: empty list item, expected a value"),
        ("1, 0 * * *", "column 3: minute: empty list item, expected a value"),
        ("** 0 * * *", "column 2: minute: found `*`, expected `/`, `,` or the end of the field"),
        ("*-5 0 * * *", "column 2: minute: found `-`, expected `/`, `,` or the end of the field"),
        ("1-2-3 0 * * *", "column 4: minute: found `-`, expected `/`, `,` or the end of the field"),
        ("1/2/3 0 * * *", "column 4: minute: found `/`, expected `,` or the end of the field"),
        ("5x 0 * * *", "column 2: minute: found `x`, expected `-`, `/`, `,` or the end of the field"),
        ("1- 0 * * *", "column 3: minute: found the end of the field, expected a number or `*`"),
        ("-1 0 * * *", "column 1: minute: found `-`, expected a number or `*`"),
        ("*/ 0 * * *", "column 3: minute: found the end of the field, expected a number"),
        ("*/x 0 * * *", "column 3: minute: found `x`, expected a number"),
        ("0\n0 * * * *", "column 2: minute: found `\\n`, expected `-`, `/`, `,` or the end of the field"),
        ("0 mon * * *", "column 3: hour: found the name `mon`, expected a number from 0 to 23"),
        ("0 0 * mon *", "column 7: month: unknown name `mon`, expected jan to dec or a number from 1 to 12"),
        (
            "0 0 * * monday",
            "column 9: day of week: unknown name `monday`, expected sun to sat or a number from 0 to 7",
        ),
        ("0 0 L * *", "column 5: day of month: `L` belongs to the quartz dialect, not to unix cron"),
        ("0 0 15w * *", "column 7: day of month: `W` belongs to the quartz dialect, not to unix cron"),
        ("0 0 LW * *", "column 5: day of month: `L` belongs to the quartz dialect, not to unix cron"),
        ("0 0 * * 5L", "column 10: day of week: `L` belongs to the quartz dialect, not to unix cron"),
        ("0 0 * * friL", "column 12: day of week: `L` belongs to the quartz dialect, not to unix cron"),
        ("0 0 * * mon#1", "column 12: day of week: `#` belongs to the quartz dialect, not to unix cron"),
        ("0 0 ? * 1", "column 5: day of month: `?` belongs to the quartz dialect, not to unix cron"),
        ("0 0 0 1 1 * 1969", "column 13: year: 1969 is out of range, expected 1970 to 2199"),
        ("0 0 0 1 1 * 2030-2020", "column 22: year: found `2020`, expected a year that is not earlier"),
        ("0 0 0 1 1 * H", "column 13: year: found the name `H`, expected a number from 1970 to 2199"),
        ("H( 0 * * *", "column 3: minute: found the end of the field, expected a number or `*`"),
        ("H(5) 0 * * *", "column 4: minute: found `)`, expected `-`"),
        ("H(5-1) 0 * * *", "column 5: minute: found `1`, expected a value that is not less than the first"),
        ("H(1-5 0 * * *", "column 6: minute: found the end of the field, expected `)`"),
        ("H-5 0 * * *", "column 2: minute: found `-`, expected `(`, `/`, `,` or the end of the field"),
        ("30~5 0 * * *", "column 4: minute: found `5`, expected a value that is not less than the first"),
        ("5~9~12 0 * * *", "column 4: minute: found `~`, expected `/`, `,` or the end of the field"),
        ("0 0 * * ä", "column 9: `ä` is not an ASCII character"),
        ("@reboot", "column 1: `@reboot` names no instant: a cluster has no boot"),
        (
            "@Daily",
            "column 1: unknown macro `@Daily`, expected one of @yearly @annually @monthly @weekly @daily @midnight @hourly",
        ),
        (
            "@daily 5",
            "column 9: found 2 fields, expected 5 (minute hour day-of-month month day-of-week), 6 (with the second first) or 7 (with the year last as well)",
        ),
    ] {
        assert_eq!(refuse(line).to_string(), message, "{line}");
    }
}

#[test]
fn a_refusal_can_be_taken_apart() {
    let error = refuse("0 0 * * 1,8");
    assert_eq!((error.field(), error.at()), (Some(Field::DayOfWeek), Some(10)));
    for (line, hint) in [
        ("0 24 * * *", "midnight is hour 0"),
        ("60 0 * * *", "the full hour is 0"),
        ("0 0 0 * *", "the smallest day of month is 1"),
        ("0 0 * 13 *", "the largest month is 12"),
        ("0 0 * * monday", "did you mean `mon`?"),
        ("0 0 * juy *", "did you mean `jul`?"),
        ("@dayly", "did you mean `@daily`?"),
        ("@every 5m", "write `every: 5m` instead of a cron line"),
        ("0 0 ? * 1", "write `*`: `0 0 * * 1`"),
    ] {
        assert_eq!(refuse(line).hint().as_deref(), Some(hint), "{line}");
    }
}

#[test]
fn a_line_has_a_size() {
    let list = |count: usize| vec!["1"; count].join(",");
    assert!(parse(&format!("{} 0 * * *", list(64))).is_ok());
    assert_eq!(
        refuse(&format!("{} 0 * * *", list(65))),
        CronError::TooManyItems { field: Field::Minute, at: 128 }
    );
    let blanks = " ".repeat(247);
    assert!(parse(&format!("0 0 * * *{blanks}")).is_ok());
    assert_eq!(refuse(&format!("0 0 * * * {blanks}")), CronError::LineTooLong { found: 257 });
}

#[test]
fn a_rule_without_a_day_is_refused() {
    for line in ["0 0 31 4,6,9,11 *", "0 0 30 2 *", "0 0 30-31 2 */1", "0 0 31 2 *"] {
        assert_eq!(refuse(line), CronError::NeverFires, "{line}");
    }
    for line in ["0 0 30 2 1", "0 0 29 2 *", "0 0 31 4-7 *", "0 0 31 2 0"] {
        read(line);
    }
    let and = |line| unix(line, DayRule::And);
    assert!(and("0 0 29 2 1").is_ok());
    assert_eq!(and("0 0 30 2 1"), Err(CronError::NeverFires));
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(line in "[0-9*/,\\-LW#?a-z @~\\t]{0,40}") {
        // an error that points outside of the line would be worse than none
        if let Err(error) = parse(&line) {
            proptest::prop_assert!(error.at().is_none_or(|at| at <= line.len()), "{}: {}", line, error);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(line in "\\PC{0,300}") {
        let _ = parse(&line);
    }
}
