//! The dialects beside five fields: years, `quartz`, `aws`, and a job's own values.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::parse_tests::unix;
use super::{CronError, CronRule, Field};
use crate::scheduler::spread::Spread;
use crate::scheduler::walls::{DAY_SECONDS, Dst, Walls as _};
use crate::scheduler::zone::zone;
use crate::state::schedule::{DayRule, Dialect};
use crate::state::time::{Timestamp, days_from_civil};

fn parse(line: &str, dialect: Dialect) -> Result<CronRule, CronError> {
    CronRule::parse(line, dialect, DayRule::OrVixie, Spread::default())
}

fn seconds(text: &str) -> i64 {
    text.parse::<Timestamp>().expect(text).millis() / 1_000
}

/// Each row is a line, a zone, where to begin, and what another program answers.
fn agree(rows: &str, dialect: Dialect) {
    let rows = rows.lines().filter(|row| !row.starts_with('#'));
    for row in rows {
        let parts: Vec<&str> = row.split(" | ").collect();
        let [line, zone_name, after, expected] = parts[..] else { panic!("{row}") };
        let rule = parse(line, dialect).expect(line);
        let zone = zone(zone_name).expect(zone_name);
        let mut at = seconds(after);
        for expected in expected.split(' ') {
            at = rule.next_after(&zone, Dst::default(), at).expect(row);
            assert_eq!(at, seconds(&format!("{expected}Z")), "{row}");
        }
    }
}

#[test]
fn quartz_gives_the_same_answers() {
    agree(include_str!("quartz_vectors.txt"), Dialect::Quartz);
}

#[test]
fn aws_croniter_gives_the_same_answers() {
    agree(include_str!("aws_vectors.txt"), Dialect::Aws);
}

#[test]
fn different_spellings_of_one_rule_are_equal() {
    use Dialect::{Aws, Quartz, Unix};
    for (one, other) in [
        ((Quartz, "0 0 0 ? * 1"), (Quartz, "0 0 0 ? * sun")),
        ((Quartz, "0 0 0 ? * L"), (Quartz, "0 0 0 ? * sat")),
        ((Quartz, "0 0 0 ? * 6L"), (Quartz, "0 0 0 ? * friL")),
        ((Quartz, "0 0 0 ? * 6#3"), (Quartz, "0 0 0 ? * FRI#3")),
        ((Quartz, "0 0 0 ? * 6/1"), (Quartz, "0 0 0 ? * 6,7")),
        ((Quartz, "0 0 0 /5 * ?"), (Quartz, "0 0 0 1/5 * ?")),
        ((Quartz, "0 0 0 L-0 * ?"), (Quartz, "0 0 0 l * ?")),
        ((Quartz, "0 0 0 L-0W * ?"), (Quartz, "0 0 0 lw * ?")),
        ((Quartz, "0 0 0 * * ? *"), (Quartz, "0 0 0 * * ?")),
        ((Quartz, "0 0 0 * * ?"), (Unix, "0 0 * * *")),
        ((Quartz, "0 0 0 ? * MON-FRI"), (Unix, "0 0 * * 1-5")),
        ((Quartz, "0 0 0 1 1 ? 2030-2032"), (Unix, "0 0 0 1 1 * 2030-2032")),
        ((Unix, "0 0 0 1 1 * 2198/1"), (Unix, "0 0 0 1 1 * 2198,2199")),
        ((Aws, "cron(0 10 * * ? *)"), (Aws, " 0 10 * * ? *")),
        ((Aws, "cron( 0 10 ? * 2#1 2030 )"), (Quartz, "0 0 10 ? * MON#1 2030")),
    ] {
        let read = |(dialect, line)| parse(line, dialect).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(read(one), read(other), "{one:?} and {other:?}");
    }
}

#[test]
fn a_refusal_names_the_place_and_the_nearest_valid_form() {
    use Dialect::{Aws, Quartz, Unix};
    for (dialect, line, message, hint) in [
        (
            Unix,
            "0 0 L * *",
            "column 5: day of month: `L` belongs to the quartz dialect, not to unix cron",
            "with `dialect: quartz` write `0 0 0 L * ?`",
        ),
        (
            Unix,
            "0 9 * * 5L",
            "column 10: day of week: `L` belongs to the quartz dialect, not to unix cron",
            "with `dialect: quartz` write `0 0 9 ? * FRIL`",
        ),
        (
            Unix,
            "0 9 * * 1#2",
            "column 10: day of week: `#` belongs to the quartz dialect, not to unix cron",
            "with `dialect: quartz` write `0 0 9 ? * MON#2`",
        ),
        (
            Unix,
            "5 0 9 15W * *",
            "column 9: day of month: `W` belongs to the quartz dialect, not to unix cron",
            "with `dialect: quartz` write `5 0 9 15W * ?`",
        ),
        (
            Unix,
            "30 2 * * ?",
            "column 10: day of week: `?` belongs to the quartz dialect, not to unix cron",
            "write `*`: `30 2 * * *`",
        ),
        (
            Unix,
            "30 2 * * * root",
            "column 12: day of week: unknown name `root`, expected sun to sat or a number from 0 to 7",
            "six fields begin with the second; without `root` there are five: `30 2 * * *`",
        ),
        (Unix, "0 30 2 * * 1", "", ""),
        (
            Unix,
            "0 0 31 12 * *",
            "column 5: hour: 31 is out of range, expected 0 to 23",
            "six fields begin with the second; without `*` there are five: `0 0 31 12 *`",
        ),
        (
            Unix,
            "0 12 1 1 * 2030",
            "column 12: day of week: 2030 is out of range, expected 0 to 7",
            "six fields begin with the second; with a year there are seven: `0 0 12 1 1 * 2030`",
        ),
        (
            Quartz,
            "0 9 * * MON",
            "column 12: found 5 fields, expected 6 (second minute hour day-of-month month day-of-week) or 7 (with the year last)",
            "quartz begins with the second: `0 0 9 ? * MON`",
        ),
        (
            Quartz,
            "0 0 9 * * MON",
            "column 7: found 0 `?`, expected one, in day of month or in day of week",
            "write `0 0 9 ? * MON`",
        ),
        (
            Quartz,
            "0 0 9 ? * ?",
            "column 7: found 2 `?`, expected one, in day of month or in day of week",
            "write `0 0 9 * * ?`",
        ),
        (
            Quartz,
            "@daily",
            "column 7: found 1 field, expected 6 (second minute hour day-of-month month day-of-week) or 7 (with the year last)",
            "macros belong to `dialect: unix`",
        ),
        (
            Quartz,
            "0 0 9 1 * MON",
            "column 7: found 0 `?`, expected one, in day of month or in day of week",
            "",
        ),
        (
            Quartz,
            "0 0 9 ? * 0",
            "column 11: day of week: 0 is out of range, expected 1 to 7",
            "the smallest day of week is 1",
        ),
        (Quartz, "0 0 9 ? * MON#6", "column 15: day of week: found `6`, expected a number from 1 to 5", ""),
        (
            Quartz,
            "0 0 9 L-31 * ?",
            "column 9: day of month: found `31`, expected 0 to 30 days before the last",
            "",
        ),
        (
            Quartz,
            "0 0 9 1-5W * ?",
            "column 10: day of month: found `W`, expected `/`, `,` or the end of the field",
            "",
        ),
        (
            Quartz,
            "0 0 9 W * ?",
            "column 7: day of month: found `W`, expected a number, `*`, `?`, `L` or `LW`",
            "",
        ),
        (
            Quartz,
            "0 0 9 LX * ?",
            "column 7: day of month: found `L`, expected a number, `*`, `?`, `L` or `LW`",
            "",
        ),
        (
            Quartz,
            "0 0 9 5L * ?",
            "column 8: day of month: found `L`, expected `-`, `/`, `,` or the end of the field",
            "",
        ),
        (
            Quartz,
            "0 0 9 ? * MONDAYL",
            "column 11: day of week: unknown name `MONDAYL`, expected sun to sat or a number from 1 to 7",
            "did you mean `mon`?",
        ),
        (
            Quartz,
            "0 0 9 ? * LW",
            "column 12: day of week: found `W`, expected `,` or the end of the field",
            "",
        ),
        (Quartz, "0 0 ? * * *", "column 5: hour: found `?`, expected a number or `*`", ""),
        (
            Quartz,
            "0 0 H * * ?",
            "column 5: hour: found the name `H`, expected a number from 0 to 23",
            "names belong into the fields month and day of week",
        ),
        (Quartz, "0 0 9 30 2 ?", "no year has a day that matches: the rule would never fire", ""),
        (Quartz, "0 0 9 29 2 ? 2026-2027", "no year has a day that matches: the rule would never fire", ""),
        (
            Aws,
            "0 10 ? * MON#5 1969",
            "column 16: year: 1969 is out of range, expected 1970 to 2199",
            "the smallest year is 1970",
        ),
        (
            Aws,
            "cron(0 10 * * * *)",
            "column 11: found 0 `?`, expected one, in day of month or in day of week",
            "write `cron(0 10 * * ? *)`",
        ),
        (
            Aws,
            "0 10 * * *",
            "column 11: found 5 fields, expected 6 (minute hour day-of-month month day-of-week year)",
            "aws ends with the year: `0 10 * * ? *`",
        ),
        (
            Aws,
            "0 0 10 * * ? *",
            "column 14: found 7 fields, expected 6 (minute hour day-of-month month day-of-week year)",
            "",
        ),
        (
            Aws,
            "rate(5 minutes)",
            "column 16: found 2 fields, expected 6 (minute hour day-of-month month day-of-week year)",
            "write `every: 5m` instead of a rate",
        ),
        (
            Aws,
            "cron(60 10 ? * MON *)",
            "column 6: minute: 60 is out of range, expected 0 to 59",
            "the full hour is 0",
        ),
    ] {
        let found = parse(line, dialect);
        if message.is_empty() {
            assert!(found.is_ok(), "{line}");
            continue;
        }
        let error = found.expect_err(line);
        assert_eq!(error.to_string(), message, "{line}");
        assert_eq!(error.hint().unwrap_or_default(), hint, "{line}");
    }
    let error = parse("0 0 L * *", Unix).expect_err("L");
    assert_eq!((error.field(), error.at()), (Some(Field::DayOfMonth), Some(4)));
}

#[test]
fn a_rule_ends_with_its_years() {
    let utc = zone("UTC").expect("UTC");
    let next = |line: &str, after: &str| {
        let rule = unix(line, DayRule::OrVixie).expect(line);
        rule.next_after(&utc, Dst::default(), seconds(after))
    };
    let line = "59 59 23 31 12 * 1970,2026,2199";
    assert_eq!(next(line, "1969-01-01T00:00:00Z"), Some(seconds("1970-12-31T23:59:59Z")));
    assert_eq!(next(line, "1970-12-31T23:59:59Z"), Some(seconds("2026-12-31T23:59:59Z")));
    assert_eq!(next(line, "2026-12-31T23:59:59Z"), Some(seconds("2199-12-31T23:59:59Z")));
    assert_eq!(next(line, "2199-12-31T23:59:59Z"), None);
    // `*` is more than can be named
    assert_eq!(next("0 0 0 1 1 * *", "2999-06-01T00:00:00Z"), Some(seconds("3000-01-01T00:00:00Z")));
}

#[test]
fn the_year_is_that_of_the_wall_time() {
    let auckland = zone("Pacific/Auckland").expect("a zone");
    let rule = unix("0 0 9 1 1 * 2030", DayRule::OrVixie).expect("a rule");
    let at = rule.next_after(&auckland, Dst::default(), seconds("2026-01-01T00:00:00Z"));
    assert_eq!(at, Some(seconds("2029-12-31T20:00:00Z")));
}

fn own(line: &str, job: &str) -> CronRule {
    CronRule::parse(line, Dialect::Unix, DayRule::OrVixie, Spread::of("default", job)).expect(line)
}

#[test]
fn a_jobs_own_values_are_pinned() {
    // what was drawn once must stay, or jobs would move with a release
    assert_eq!(own("H H H H H", "report"), own("25 13 8 3 2", "another"));
    assert_eq!(own("H/15 * * * *", "report"), own("10,25,40,55 * * * *", "another"));
    assert_ne!(own("H H * * *", "report"), own("H H * * *", "backup"));
}

#[test]
fn a_jobs_own_values_lie_in_their_range_and_fill_it() {
    for (line, field, expected) in [
        ("H 0 * * *", 0, 0..60),
        ("0 H * * *", 1, 0..24),
        ("0 0 H * *", 2, 1..29),
        ("0 0 ~ * *", 2, 1..29),
        ("0 0 29~ * *", 2, 29..30),
        ("0 0 1~31 * *", 2, 1..32),
        ("0 0 1 H *", 3, 1..13),
        ("H(10-20) 0 * * *", 0, 10..21),
        ("10~20 0 * * *", 0, 10..21),
        ("~9 0 * * *", 0, 0..10),
        ("50~ 0 * * *", 0, 50..60),
        ("0 h(2-4) * * *", 1, 2..5),
    ] {
        let seen: BTreeSet<u32> = (0..3_000)
            .map(|job| {
                let rule = own(line, &format!("job-{job}"));
                let masks = [
                    rule.times.minutes,
                    u64::from(rule.times.hours),
                    u64::from(rule.days.dates),
                    u64::from(rule.months),
                ];
                assert_eq!(masks[field].count_ones(), 1, "{line}");
                masks[field].trailing_zeros()
            })
            .collect();
        assert_eq!(seen, expected.collect(), "{line}");
    }
}

#[test]
fn a_step_keeps_its_distance_from_the_jobs_own_begin() {
    for job in 0..500 {
        let rule = own("H/15 0 * * *", &format!("job-{job}"));
        let begin = rule.times.minutes.trailing_zeros();
        assert!(begin < 15, "{begin}");
        assert_eq!(rule.times.minutes, 0x2000_4000_8001 << begin, "{begin}");
        let rule = own("H(0-29)/10 0 * * *", &format!("job-{job}"));
        assert_eq!(rule.times.minutes, 0x10_0401 << rule.times.minutes.trailing_zeros());
        assert!(rule.times.minutes < 1 << 30);
        assert_eq!(own("0~29/10 0 * * *", &format!("job-{job}")), rule);
    }
}

/// A day field of quartz in plain words, to be tried day by day.
#[derive(Clone, Debug)]
enum Plain {
    Date(u32),
    Last(u32),
    Near(u32),
    LastNear(u32),
    Weekday(u32),
    Counted(u32, u32),
    LastWeekday(u32),
}

impl Plain {
    fn text(&self) -> String {
        match self {
            Self::Date(day) => day.to_string(),
            Self::Last(before) => format!("L-{before}"),
            Self::Near(day) => format!("{day}W"),
            Self::LastNear(before) => format!("L-{before}W"),
            Self::Weekday(day) => day.to_string(),
            Self::Counted(day, nth) => format!("{day}#{nth}"),
            Self::LastWeekday(day) => format!("{day}L"),
        }
    }

    fn is_of_month(&self) -> bool {
        matches!(self, Self::Date(_) | Self::Last(_) | Self::Near(_) | Self::LastNear(_))
    }

    fn matches(&self, date: jiff::civil::Date) -> bool {
        let day = date.day() as u32;
        let last = date.days_in_month() as u32;
        let weekday = date.weekday().to_sunday_one_offset() as u32;
        let workday = (2..=6).contains(&weekday);
        let near = |wanted: u32| {
            let distance = |day: u32| day.abs_diff(wanted);
            // the nearest day from Monday to Friday of the month
            let best = (1..=last).filter(|day| {
                let weekday = (weekday + 6 + 70 + day - date.day() as u32) % 7 + 1;
                (2..=6).contains(&weekday)
            });
            workday && wanted <= last && best.min_by_key(|day| distance(*day)) == Some(day)
        };
        match *self {
            Self::Date(wanted) => day == wanted,
            Self::Last(before) => day + before == last,
            Self::Near(wanted) => near(wanted),
            Self::LastNear(before) => before < last && near(last - before),
            Self::Weekday(wanted) => weekday == wanted,
            Self::Counted(wanted, nth) => weekday == wanted && (day - 1) / 7 + 1 == nth,
            Self::LastWeekday(wanted) => weekday == wanted && day + 7 > last,
        }
    }
}

fn plain() -> impl Strategy<Value = Vec<Plain>> {
    let of_month = prop_oneof![
        (1_u32..32).prop_map(Plain::Date),
        (0_u32..31).prop_map(Plain::Last),
        (1_u32..32).prop_map(Plain::Near),
        (0_u32..31).prop_map(Plain::LastNear),
    ];
    let of_week = prop_oneof![
        (1_u32..8).prop_map(Plain::Weekday),
        (1_u32..8, 1_u32..6).prop_map(|(day, nth)| Plain::Counted(day, nth)),
        (1_u32..8).prop_map(Plain::LastWeekday),
    ];
    prop_oneof![prop::collection::vec(of_month, 1..4), prop::collection::vec(of_week, 1..4)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn days_agree_with_trying_each_one_for_years(
        items in plain(),
        months in prop::collection::btree_set(1_u32..13, 1..4),
        first_year in 1970_i64..2190,
        years in 1_i64..9,
    ) {
        let list = |texts: Vec<String>| texts.join(",");
        let days = list(items.iter().map(Plain::text).collect());
        let (date, weekday) = if items[0].is_of_month() { (days.as_str(), "?") } else { ("?", days.as_str()) };
        let month_list = list(months.iter().map(u32::to_string).collect());
        let line = format!("0 0 12 {date} {month_list} {weekday} {first_year}-{}", first_year + years);
        let first = days_from_civil(first_year - 1, 1, 1);
        let last = days_from_civil(first_year + years + 2, 1, 1);
        let expected: Vec<i64> = (first..last)
            .filter(|day| {
                let date = jiff::civil::date(1970, 1, 1) + jiff::Span::new().days(*day);
                let year = i64::from(date.year());
                (first_year..=first_year + years).contains(&year)
                    && months.contains(&(date.month() as u32))
                    && items.iter().any(|item| item.matches(date))
            })
            .collect();
        let rule = match parse(&line, Dialect::Quartz) {
            Ok(rule) => rule,
            Err(error) => {
                prop_assert_eq!(error, CronError::NeverFires);
                prop_assert!(expected.is_empty(), "{}", line);
                return Ok(());
            }
        };
        let walls = std::iter::successors(rule.next_wall(first * DAY_SECONDS), |wall| rule.next_wall(wall + 1));
        let found: Vec<i64> = walls.map(|wall| wall.div_euclid(DAY_SECONDS)).collect();
        prop_assert_eq!(found, expected, "{}", line);
    }

    #[test]
    fn any_text_of_any_dialect_is_read_or_refused_at_a_place_inside(
        line in "[0-9*/,\\-LWH#?()a-z @~\\t]{0,40}",
        dialect in prop::sample::select(vec![Dialect::Unix, Dialect::Quartz, Dialect::Aws]),
    ) {
        if let Err(error) = parse(&line, dialect) {
            prop_assert!(error.at().is_none_or(|at| at <= line.len()), "{}: {}", line, error);
            drop((error.to_string(), error.hint()));
        }
    }
}
