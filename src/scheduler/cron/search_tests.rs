//! The search against other programs' answers, and against trying every second of wall time.

use proptest::prelude::*;

use super::CronRule;
use super::parse_tests::unix;
use crate::scheduler::walls::{Dst, Oddity, Walls as _};
use crate::scheduler::zone::{Zone, zone};
use crate::state::schedule::{DayRule, Fold, Gap};
use crate::state::time::Timestamp;

const AUTUMN: &str = "2026-10-31T00:00:00Z";
const SPRING: &str = "2026-03-07T12:00:00Z";

fn seconds(text: &str) -> i64 {
    text.parse::<Timestamp>().expect(text).millis() / 1_000
}

fn text(at: i64) -> String {
    Timestamp::from_millis(at * 1_000).to_string().trim_end_matches(".000Z").to_owned()
}

fn occurrences(rule: &CronRule, zone: &Zone, dst: Dst, after: i64, count: usize) -> Vec<i64> {
    std::iter::successors(rule.next_after(zone, dst, after), |at| rule.next_after(zone, dst, *at))
        .take(count)
        .collect()
}

fn local(line: &str, zone_name: &str, dst: Dst, after: &str, count: usize) -> Vec<String> {
    let rule = unix(line, DayRule::OrVixie).expect(line);
    let zone = zone(zone_name).expect(zone_name);
    occurrences(&rule, &zone, dst, seconds(after), count)
        .iter()
        .map(|at| zone.local(Timestamp::from_millis(at * 1_000)).replace(":00.000", ""))
        .collect()
}

#[test]
fn cronsim_gives_the_same_answers() {
    for row in include_str!("cronsim_vectors.txt").lines().filter(|row| !row.starts_with('#')) {
        let parts: Vec<&str> = row.split(" | ").collect();
        let [line, zone_name, after, expected] = parts[..] else { panic!("{row}") };
        let rule = unix(line, DayRule::OrVixie).expect(line);
        let zone = zone(zone_name).expect(zone_name);
        let expected: Vec<i64> = expected.split(' ').map(|at| seconds(&format!("{at}:00Z"))).collect();
        let found = occurrences(&rule, &zone, Dst::default(), seconds(after), expected.len());
        assert_eq!(found, expected, "{row}");
    }
}

#[test]
fn croniter_gives_the_same_answers() {
    let utc = zone("UTC").expect("UTC");
    for row in include_str!("croniter_vectors.txt").lines().filter(|row| !row.starts_with('#')) {
        let parts: Vec<&str> = row.split(" | ").collect();
        let [line, day_rule, after, expected] = parts[..] else { panic!("{row}") };
        let day_rule = if day_rule == "and" { DayRule::And } else { DayRule::OrBare };
        let rule = unix(line, day_rule).expect(line);
        let expected: Vec<i64> = expected.split(' ').map(|at| seconds(&format!("{at}Z"))).collect();
        let found = occurrences(&rule, &utc, Dst::default(), seconds(after), expected.len());
        assert_eq!(found, expected, "{row}");
    }
}

#[test]
fn a_gap_and_a_fold_go_by_the_policy() {
    let skip = Dst { gap: Gap::Skip, fold: Fold::Second };
    let shift = Dst { gap: Gap::Shift, fold: Fold::Both };
    let default = Dst::default();
    for (line, dst, after, expected) in [
        // measured: Debian cron, cronsim, croner
        ("30 2 * * *", default, SPRING, "08T03:00-04:00 09T02:30-04:00"),
        ("15,45 2 * * *", default, SPRING, "08T03:00-04:00 09T02:15-04:00"),
        ("0,30 2,3 * * *", default, SPRING, "08T03:00-04:00 08T03:30-04:00"),
        ("*/15 2 * * *", default, SPRING, "09T02:00-04:00 09T02:15-04:00"),
        ("30 1 * * *", default, AUTUMN, "31T01:30-04:00 01T01:30-04:00 02T01:30-05:00"),
        ("30 * 1 * *", default, "2026-11-01T04:40:00Z", "01T01:30-04:00 01T01:30-05:00 01T02:30-05:00"),
        // measured: Quartz skips, and takes the second pass
        ("30 2 * * *", skip, SPRING, "09T02:30-04:00 10T02:30-04:00"),
        ("30 1 * * *", skip, AUTUMN, "31T01:30-04:00 01T01:30-05:00 02T01:30-05:00"),
        // RFC 5545, 3.3.5: the offset before the gap; APScheduler: both passes
        ("30 2 * * *", shift, SPRING, "08T03:30-04:00 09T02:30-04:00"),
        ("0,30 2,3 * * *", shift, SPRING, "08T03:00-04:00 08T03:30-04:00 09T02:00-04:00"),
        ("30 1 * * *", shift, AUTUMN, "31T01:30-04:00 01T01:30-04:00 01T01:30-05:00 02T01:30-05:00"),
    ] {
        let expected: Vec<&str> = expected.split(' ').collect();
        let found = local(line, "America/New_York", dst, after, expected.len());
        let found: Vec<&str> = found.iter().map(|at| &at["2026-03-".len()..]).collect();
        assert_eq!(found, expected, "{line} {dst:?}");
    }
}

#[test]
fn the_lost_day_of_apia_is_lost() {
    for (line, expected) in [
        ("0 0 * * *", ["2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00", "2012-01-01T00:00+14:00"]),
        ("30 2 * * *", ["2011-12-29T02:30-10:00", "2011-12-31T02:30+14:00", "2012-01-01T02:30+14:00"]),
        ("0 12 30 * *", ["2012-01-30T12:00+14:00", "2012-03-30T12:00+14:00", "2012-04-30T12:00+13:00"]),
        ("0 0 * * 0", ["2012-01-01T00:00+14:00", "2012-01-08T00:00+14:00", "2012-01-15T00:00+14:00"]),
        // measured: robfig/cron 3.0.1 never returns for these two
        ("0 0 1 * *", ["2012-01-01T00:00+14:00", "2012-02-01T00:00+14:00", "2012-03-01T00:00+14:00"]),
        ("0 3 * * 0", ["2012-01-01T03:00+14:00", "2012-01-08T03:00+14:00", "2012-01-15T03:00+14:00"]),
    ] {
        for gap in [Gap::RunAtEnd, Gap::Shift, Gap::Skip] {
            let dst = Dst { gap, fold: Fold::First };
            assert_eq!(
                local(line, "Pacific/Apia", dst, "2011-12-29T00:00:00Z", 3),
                expected,
                "{line} {gap:?}"
            );
        }
    }
}

#[test]
fn half_an_hour_of_lord_howe_is_gap_and_fold_like_an_hour() {
    let found =
        |line, after, count| local(line, "Australia/Lord_Howe", Dst::default(), after, count).join(" ");
    assert_eq!(
        found("15 2 * * *", "2026-10-03T00:00:00Z", 2),
        "2026-10-04T02:30+11:00 2026-10-05T02:15+11:00"
    );
    assert_eq!(
        found("45 1 * * *", "2026-04-04T00:00:00Z", 2),
        "2026-04-05T01:45+11:00 2026-04-06T01:45+10:30"
    );
    assert_eq!(
        found("*/15 2 5 4 *", "2026-04-04T00:00:00Z", 2),
        "2026-04-05T02:00+10:30 2026-04-05T02:15+10:30"
    );
    // measured: cronexpr 1.7 and jiff-cron 0.3 never return for these
    assert_eq!(found("28 2 7 4 *", "2026-04-04T00:00:00Z", 1), "2026-04-07T02:28+10:30");
    assert_eq!(found("23,26 * * * 3", "2026-10-01T00:00:00Z", 1), "2026-10-07T00:23+11:00");
}

#[test]
fn rare_days_are_found() {
    let rule = |line, day_rule| unix(line, day_rule).expect(line);
    let berlin = zone("Europe/Berlin").expect("Europe/Berlin");
    let next =
        |rule: &CronRule, after: &str| rule.next_after(&berlin, Dst::default(), seconds(after)).map(text);
    let leap = rule("0 12 29 2 *", DayRule::OrVixie);
    assert_eq!(next(&leap, "2096-03-01T00:00:00Z").as_deref(), Some("2104-02-29T11:00:00"));
    let leap_monday = rule("0 12 29 2 1", DayRule::And);
    assert_eq!(next(&leap_monday, "2026-01-01T00:00:00Z").as_deref(), Some("2044-02-29T11:00:00"));
    assert_eq!(next(&leap_monday, "2072-03-01T00:00:00Z").as_deref(), Some("2112-02-29T11:00:00"));
    assert_eq!(next(&leap, "9999-01-01T00:00:00Z"), None);
}

#[test]
fn a_rule_that_lies_in_the_gap_each_year_ends_its_search() {
    let new_york = zone("America/New_York").expect("America/New_York");
    let skip = Dst { gap: Gap::Skip, fold: Fold::First };
    for (line, dst) in [("30 2 8-14 3 0", skip), ("*/15 2 8-14 3 0", Dst::default())] {
        let rule = unix(line, DayRule::And).expect(line);
        assert_eq!(rule.next_after(&new_york, dst, seconds("2026-01-01T00:00:00Z")), None, "{line}");
    }
}

#[test]
fn odd_occurrences_are_told_apart() {
    let new_york = zone("America/New_York").expect("America/New_York");
    let odd = |line: &str, dst: Dst, after: &str| {
        let rule = unix(line, DayRule::OrVixie).expect(line);
        let at = rule.next_after(&new_york, dst, seconds(after)).expect(line);
        rule.oddity(&new_york, dst, at)
    };
    let gap = |missing, count, runs| Some(Oddity::Gap { missing, count, runs });
    let shift = Dst { gap: Gap::Shift, fold: Fold::Second };
    assert_eq!(odd("30 2 * * *", Dst::default(), SPRING), gap(9_000, 1, 10_800));
    assert_eq!(odd("15,45 2 * * *", Dst::default(), SPRING), gap(8_100, 2, 10_800));
    assert_eq!(odd("30 2 * * *", shift, SPRING), gap(9_000, 1, 12_600));
    assert_eq!(odd("0 3 * * *", Dst::default(), SPRING), None);
    assert_eq!(odd("30 1 * * *", Dst::default(), "2026-11-01T00:00:00Z"), Some(Oddity::FirstOfTwo));
    assert_eq!(odd("30 1 * * *", shift, "2026-11-01T00:00:00Z"), Some(Oddity::SecondOfTwo));
    assert_eq!(odd("30 2 * * *", Dst::default(), "2026-11-01T00:00:00Z"), None);
}

/// A rule in plain lists, to be tried minute by minute.
#[derive(Clone, Debug)]
struct Plain {
    minutes: Vec<i8>,
    hours: Vec<i8>,
    days: Vec<i8>,
    weekdays: Vec<i8>,
    elastic: bool,
}

impl Plain {
    fn line(&self) -> String {
        let list = |values: &[i8], all: &str| {
            let texts: Vec<String> = values.iter().map(i8::to_string).collect();
            if texts.is_empty() { all.to_owned() } else { texts.join(",") }
        };
        let star = if self.elastic { "*" } else { "0-59" };
        let (days, weekdays) = (list(&self.days, "*"), list(&self.weekdays, "*"));
        format!("{} {} {days} * {weekdays}", list(&self.minutes, star), list(&self.hours, "0-23"))
    }

    fn matches(&self, wall: jiff::civil::DateTime) -> bool {
        let among = |values: &[i8], value: i8| values.is_empty() || values.contains(&value);
        let day = among(&self.days, wall.day());
        let weekday = among(&self.weekdays, wall.weekday().to_sunday_zero_offset());
        let either = self.days.contains(&wall.day())
            || self.weekdays.contains(&wall.weekday().to_sunday_zero_offset());
        let days_match =
            if self.days.is_empty() || self.weekdays.is_empty() { day && weekday } else { either };
        among(&self.minutes, wall.minute()) && among(&self.hours, wall.hour()) && days_match
    }

    /// Every minute of wall time from noon, put through the library's own account of odd times.
    fn brute_force(&self, zone_name: &str, dst: Dst, noon: jiff::civil::DateTime, days: i64) -> Vec<i64> {
        use jiff::tz::AmbiguousOffset;
        let zone = jiff::tz::TimeZone::get(zone_name).expect(zone_name);
        let mut found = Vec::new();
        let minutes = (0..days * 1_440)
            .map(|minute| noon.checked_add(jiff::SignedDuration::from_mins(minute)).expect("in range"));
        for wall in minutes.filter(|wall| self.matches(*wall)) {
            let at = |offset: jiff::tz::Offset| offset.to_timestamp(wall).expect("in range").as_second();
            match zone.to_ambiguous_timestamp(wall).offset() {
                AmbiguousOffset::Unambiguous { offset } => found.push(at(offset)),
                AmbiguousOffset::Fold { before, after } => {
                    let fold = if self.elastic { Fold::Both } else { dst.fold };
                    if fold != Fold::Second {
                        found.push(at(before));
                    }
                    if fold != Fold::First {
                        found.push(at(after));
                    }
                }
                AmbiguousOffset::Gap { before, after } => {
                    let lost_day = after.seconds() - before.seconds() > 3 * 3_600;
                    if self.elastic || dst.gap == Gap::Skip || lost_day {
                        continue;
                    }
                    // read with the offset before it, a wall time in the gap is an instant
                    // between the gap's border and as much later as the gap is long
                    let shifted = before.to_timestamp(wall).expect("in range");
                    let later = shifted + jiff::SignedDuration::from_secs(1);
                    let border = zone.preceding(later).next().expect("a gap has a border").timestamp();
                    found.push(if dst.gap == Gap::Shift { at(before) } else { border.as_second() });
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn plain() -> impl Strategy<Value = Plain> {
    let some = |range: std::ops::Range<i8>, most: usize| prop::collection::vec(range, 0..=most);
    (some(0..60, 3), some(0..5, 3), some(1..32, 2), some(0..7, 2), any::<bool>()).prop_map(
        |(minutes, hours, days, weekdays, star)| {
            let elastic = star && minutes.is_empty();
            Plain { minutes, hours, days, weekdays, elastic }
        },
    )
}

fn dst() -> impl Strategy<Value = Dst> {
    let gap = prop::sample::select(vec![Gap::RunAtEnd, Gap::Shift, Gap::Skip]);
    let fold = prop::sample::select(vec![Fold::First, Fold::Second, Fold::Both]);
    (gap, fold).prop_map(|(gap, fold)| Dst { gap, fold })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_is_skipped_and_nothing_is_added(
        plain in plain(),
        dst in dst(),
        (zone_name, date) in prop::sample::select(vec![
            ("America/New_York", (2026, 3, 5)), ("America/New_York", (2026, 10, 29)),
            ("Australia/Lord_Howe", (2026, 4, 2)), ("Australia/Lord_Howe", (2026, 10, 1)),
            ("Pacific/Apia", (2011, 12, 27)), ("America/Sao_Paulo", (2018, 11, 1)),
            ("America/St_Johns", (2010, 3, 11)), ("America/St_Johns", (2010, 11, 4)),
            ("Antarctica/Troll", (2026, 3, 26)), ("Antarctica/Troll", (2026, 10, 22)),
            ("Africa/Casablanca", (2026, 2, 12)), ("Africa/Cairo", (2026, 4, 21)),
            ("Europe/Dublin", (2026, 10, 22)), ("UTC", (2024, 2, 26)),
        ]),
    ) {
        let noon = jiff::civil::date(date.0, date.1, date.2).at(12, 0, 0, 0);
        let expected = plain.brute_force(zone_name, dst, noon, 8);
        let rule = unix(&plain.line(), DayRule::OrVixie).expect("a valid line");
        let zone = zone(zone_name).expect(zone_name);
        let noon_at = jiff::tz::TimeZone::get(zone_name).expect(zone_name).to_timestamp(noon).expect("in range");
        let found = occurrences(&rule, &zone, dst, noon_at.as_second() - 1, expected.len());
        prop_assert_eq!(&found, &expected, "{} {:?} {}", plain.line(), dst, zone_name);
        // what is asked between two occurrences is answered with the later one
        for pair in found.windows(2) {
            let middle = pair[0] + (pair[1] - pair[0]) / 2;
            prop_assert_eq!(rule.next_after(&zone, dst, middle.min(pair[1] - 1)), Some(pair[1]));
        }
    }

    #[test]
    fn the_next_occurrence_is_later_and_never_goes_back(
        plain in plain(),
        dst in dst(),
        name in prop::sample::select(vec!["Europe/Berlin", "Asia/Tehran", "Pacific/Apia", "America/Havana"]),
        after in -2_000_000_000_i64..30_000_000_000,
        step in 0_i64..10_000_000,
    ) {
        let rule = unix(&plain.line(), DayRule::OrVixie).expect("a valid line");
        let zone = zone(name).expect(name);
        let next = rule.next_after(&zone, dst, after).expect("it comes again");
        prop_assert!(next > after);
        prop_assert_eq!(rule.next_after(&zone, dst, next - 1), Some(next));
        let later = rule.next_after(&zone, dst, after + step).expect("it comes again");
        prop_assert!(later >= next);
        prop_assert_eq!(later == next, after + step < next);
    }
}
