//! Whole schedules: bounds, `every`, `at`, counting, notes, and the union of several.

use proptest::prelude::*;

use super::*;
use crate::scheduler::set::{ScheduleSet, ScheduleSetError};
use crate::state::schedule::{DayRule, Dialect, Fold, Gap};

fn at(text: &str) -> Timestamp {
    text.parse().expect(text)
}

fn schedule(rule: Rule) -> Schedule {
    Schedule {
        rule,
        timezone: "Europe/Berlin".to_owned(),
        gap: Gap::default(),
        fold: Fold::default(),
        start_at: None,
        end_at: None,
        jitter: Duration::ZERO,
    }
}

fn cron(line: &str) -> Schedule {
    let (dialect, day_rule) = (Dialect::Unix, DayRule::OrVixie);
    schedule(Rule::Cron { line: line.to_owned(), dialect, day_rule })
}

fn every(period_ms: u64, offset_ms: u64) -> Schedule {
    let (period, offset) = (Duration::from_millis(period_ms), Duration::from_millis(offset_ms));
    schedule(Rule::Every { period, offset })
}

fn compile(schedule: &Schedule) -> CompiledSchedule {
    CompiledSchedule::compile(schedule, Spread::default()).expect("a valid schedule")
}

#[test]
fn every_is_counted_from_the_epoch_and_sees_no_zone() {
    let half_hourly = compile(&every(1_800_000, 60_000));
    assert_eq!(half_hourly.next_after(at("2026-03-29T00:59:00Z")), Some(at("2026-03-29T01:01:00Z")));
    assert_eq!(half_hourly.next_after(at("2026-03-29T01:01:00Z")), Some(at("2026-03-29T01:31:00Z")));
    assert_eq!(half_hourly.next_after(Timestamp::from_millis(-1)), Some(Timestamp::from_millis(60_000)));
    let fast = compile(&every(100, 0));
    assert_eq!(fast.next_after(at("2026-01-01T00:00:00.050Z")), Some(at("2026-01-01T00:00:00.100Z")));
    assert_eq!(fast.next_after(Timestamp::MAX), None);
}

#[test]
fn a_cron_rule_is_asked_in_milliseconds_and_answers_in_seconds() {
    let rule = compile(&cron("* * * * * *"));
    for (after, next) in [("00.000", "01"), ("00.001", "01"), ("00.999", "01"), ("01.000", "02")] {
        let after = at(&format!("2026-01-01T00:00:{after}Z"));
        assert_eq!(rule.next_after(after), Some(at(&format!("2026-01-01T00:00:{next}Z"))), "{after}");
    }
}

#[test]
fn start_is_inclusive_and_end_is_exclusive() {
    let bound = |mut schedule: Schedule| {
        schedule.start_at = Some(at("2026-06-01T10:00:00Z"));
        schedule.end_at = Some(at("2026-06-01T12:00:00Z"));
        compile(&schedule)
    };
    let list = ["09:00", "10:00", "11:00", "12:00"].map(|time| at(&format!("2026-06-01T{time}:00Z")));
    for rule in [cron("0 * * * *"), every(3_600_000, 0), schedule(Rule::At(list.to_vec()))] {
        let bound = bound(rule);
        assert_eq!(bound.next_after(at("2020-01-01T00:00:00Z")), Some(list[1]));
        assert_eq!(bound.next_after(list[1]), Some(list[2]));
        assert_eq!(bound.next_after(list[2]), None);
        assert_eq!(bound.count_between(Timestamp::EPOCH, Timestamp::MAX, 100), 2);
        assert_eq!(bound.count_between(list[1], list[1], 100), 1);
        assert_eq!(bound.count_between(list[2], list[1], 100), 0);
        assert_eq!(bound.count_between(Timestamp::EPOCH, Timestamp::MAX, 1), 1);
    }
}

#[test]
fn a_long_past_of_every_is_counted_at_once() {
    let fast = compile(&every(100, 50));
    // 2000 years: a walk would not end in a test's time
    let (from, to) = (at("2000-01-01T00:00:00Z"), at("4000-01-01T00:00:00Z"));
    assert_eq!(fast.count_between(from, to, u64::MAX), (to.since(from).as_millis() / 100) as u64);
}

#[test]
fn a_wrong_schedule_is_refused() {
    let ms = Duration::from_millis;
    let refuse =
        |schedule: &Schedule| CompiledSchedule::compile(schedule, Spread::default()).expect_err("refused");
    assert_eq!(refuse(&every(99, 0)), ScheduleError::Period { found: ms(99) });
    assert!(matches!(refuse(&every(u64::MAX, 0)), ScheduleError::Period { .. }));
    assert_eq!(refuse(&every(1_000, 1_000)), ScheduleError::Offset { found: ms(1_000) });
    let period = Duration::from_micros(100_500);
    let fraction = schedule(Rule::Every { period, offset: Duration::ZERO });
    assert_eq!(refuse(&fraction), ScheduleError::Fraction { found: period });
    assert_eq!(refuse(&schedule(Rule::At(vec![]))), ScheduleError::InstantCount { found: 0 });
    let (one, two) = (Timestamp::from_millis(1), Timestamp::from_millis(2));
    assert_eq!(
        refuse(&schedule(Rule::At(vec![one, two, two]))),
        ScheduleError::InstantOrder { index: 2, found: two }
    );
    let empty = Schedule { start_at: Some(one), end_at: Some(one), ..cron("@daily") };
    assert_eq!(refuse(&empty), ScheduleError::Bounds { start_at: one, end_at: one });
    let spread = Schedule { jitter: JITTER_MAX + ms(1), ..cron("@daily") };
    assert!(matches!(refuse(&spread), ScheduleError::Jitter { .. }));
    let error = refuse(&Schedule { timezone: "EST".to_owned(), ..cron("@daily") });
    assert_eq!(error.to_string(), "timezone: `EST` is not a time zone to schedule in");
    assert_eq!(error.hint().as_deref(), Some("did you mean `America/New_York`?"));
    let error = refuse(&cron("0 24 * * *"));
    assert_eq!(error.to_string(), "cron: column 3: hour: 24 is out of range, expected 0 to 23");
    for (schedule, message) in [
        (every(0, 0), "every: 0s is out of range, expected 100ms to 36525d"),
        (every(90_000, 90_000), "offset: 1m30s is not smaller than the period"),
        (
            Schedule { jitter: 32 * Duration::from_secs(86_400), ..cron("@daily") },
            "jitter: 32d is longer than 31d",
        ),
    ] {
        assert_eq!(refuse(&schedule).to_string(), message);
    }
}

#[test]
fn a_rule_that_a_zone_always_skips_is_refused() {
    let (line, dialect) = ("30 2 8-14 3 0".to_owned(), Dialect::Unix);
    let in_gap = Schedule {
        timezone: "America/New_York".to_owned(),
        gap: Gap::Skip,
        ..schedule(Rule::Cron { line, dialect, day_rule: DayRule::And })
    };
    let error = CompiledSchedule::compile(&in_gap, Spread::default()).expect_err("never");
    assert_eq!(error, CronError::NeverInZone { zone: "America/New_York".to_owned() }.into());
    compile(&Schedule { gap: Gap::RunAtEnd, ..in_gap });
}

#[test]
fn odd_days_are_noted() {
    let described = |schedule: &Schedule, after: &str| {
        let described = compile(schedule).describe_next(at(after)).expect("it comes again");
        (described.local, described.note)
    };
    let note = |text: &str| Some(text.to_owned());
    let daily = cron("30 2 * * *");
    assert_eq!(
        described(&daily, "2026-03-28T12:00:00Z"),
        ("2026-03-29T03:00:00.000+02:00".to_owned(), note("gap: 02:30 does not exist, runs at 03:00"))
    );
    assert_eq!(
        described(&cron("15 15,45 2 * * *"), "2026-03-28T12:00:00Z").1,
        note("gap: 02:15:15 and later do not exist, runs once at 03:00")
    );
    assert_eq!(
        described(&daily, "2026-10-24T12:00:00Z"),
        ("2026-10-25T02:30:00.000+02:00".to_owned(), note("fold: first of two"))
    );
    let second = Schedule { fold: Fold::Second, ..daily.clone() };
    assert_eq!(
        described(&second, "2026-10-24T12:00:00Z"),
        ("2026-10-25T02:30:00.000+01:00".to_owned(), note("fold: second of two"))
    );
    assert_eq!(described(&daily, "2026-06-01T12:00:00Z").1, None);
    assert_eq!(described(&every(60_000, 0), "2026-10-25T00:30:00Z").1, None);
}

#[test]
fn a_set_yields_each_instant_once_from_its_first_schedule() {
    let set = ScheduleSet::compile(
        &[cron("0 12 * * *"), every(3_600_000 * 6, 0), cron("0 12 * * 1-5")],
        Spread::default(),
    )
    .expect("valid");
    // 12:00 in Berlin is 10:00 or 11:00 UTC
    let mut after = at("2026-06-01T00:00:00Z");
    let mut found = Vec::new();
    for _ in 0..4 {
        let (next, index) = set.next_after(after).expect("it comes again");
        found.push((next.to_string()[11..16].to_owned(), index));
        after = next;
    }
    let expected = [("06:00", 1), ("10:00", 0), ("12:00", 1), ("18:00", 1)];
    assert_eq!(found, expected.map(|(time, index)| (time.to_owned(), index)));
    let day = (at("2026-06-01T00:00:00Z"), at("2026-06-01T23:59:59Z"));
    assert_eq!(set.count_between(day.0, day.1, 100), 5);
    assert_eq!(set.count_between(day.0, day.1, 3), 3);
    assert_eq!(
        set.describe_next(day.0).map(|(described, index)| (described.at, index)),
        set.next_after(day.0)
    );
}

#[test]
fn a_set_may_be_empty_and_names_the_schedule_that_is_wrong() {
    let empty = ScheduleSet::compile(&[], Spread::default()).expect("empty");
    assert_eq!(empty.next_after(Timestamp::EPOCH), None);
    assert_eq!(empty.count_between(Timestamp::MIN, Timestamp::MAX, 9), 0);
    let error =
        ScheduleSet::compile(&[cron("@daily"), cron("@dayly")], Spread::default()).expect_err("wrong");
    assert!(matches!(error, ScheduleSetError::Schedule { index: 1, .. }), "{error}");
    let many = vec![cron("@daily"); 65];
    assert_eq!(
        ScheduleSet::compile(&many, Spread::default()).expect_err("too many"),
        ScheduleSetError::TooMany { found: 65 }
    );
}

proptest! {
    #[test]
    fn counting_at_once_and_walking_agree(
        period in 100_u64..10_000, offset in 0_u64..100, from in -50_000_i64..50_000, length in 0_i64..50_000,
    ) {
        let every = compile(&every(period, offset));
        let (from, to) = (Timestamp::from_millis(from), Timestamp::from_millis(from + length));
        let walked = count_by_walking(|after| every.next_after(after), before(from), to, u64::MAX);
        prop_assert_eq!(every.count_between(from, to, u64::MAX), walked);
    }
}
