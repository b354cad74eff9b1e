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
        count: None,
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
    CompiledSchedule::compile(schedule, Spread::default(), &crate::scheduler::almanac::Almanac::bundled())
        .expect("a valid schedule")
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
    let refuse = |schedule: &Schedule| {
        CompiledSchedule::compile(schedule, Spread::default(), &crate::scheduler::almanac::Almanac::bundled())
            .expect_err("refused")
    };
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
    let error =
        CompiledSchedule::compile(&in_gap, Spread::default(), &crate::scheduler::almanac::Almanac::bundled())
            .expect_err("never");
    assert_eq!(error, CronError::NeverInZone { zone: "America/New_York".to_owned() }.into());
    compile(&Schedule { gap: Gap::RunAtEnd, ..in_gap });
}

#[test]
fn odd_days_are_noted() {
    let described = |schedule: &Schedule, after: &str| {
        let compiled = compile(schedule);
        let described = compiled.describe(compiled.next_after(at(after)).expect("it comes again"));
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
        &crate::scheduler::almanac::Almanac::bundled(),
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
}

#[test]
fn a_set_may_be_empty_and_names_the_schedule_that_is_wrong() {
    let empty = ScheduleSet::compile(&[], Spread::default(), &crate::scheduler::almanac::Almanac::bundled())
        .expect("empty");
    assert_eq!(empty.next_after(Timestamp::EPOCH), None);
    assert_eq!(empty.count_between(Timestamp::MIN, Timestamp::MAX, 9), 0);
    let error = ScheduleSet::compile(
        &[cron("@daily"), cron("@dayly")],
        Spread::default(),
        &crate::scheduler::almanac::Almanac::bundled(),
    )
    .expect_err("wrong");
    assert!(matches!(error, ScheduleSetError::Schedule { index: 1, .. }), "{error}");
    let many = vec![cron("@daily"); 65];
    assert_eq!(
        ScheduleSet::compile(&many, Spread::default(), &crate::scheduler::almanac::Almanac::bundled())
            .expect_err("too many"),
        ScheduleSetError::TooMany { found: 65 }
    );
}

#[test]
fn a_count_ends_a_schedule_and_is_counted_from_its_start() {
    let start_at = Some(at("2026-06-01T10:00:00Z"));
    let all = |schedule: Schedule| {
        let compiled = compile(&schedule);
        let next = |after: Timestamp| compiled.next_after(after);
        let found: Vec<String> =
            std::iter::successors(next(Timestamp::MIN), |at| next(*at)).map(|at| at.to_string()).collect();
        found.iter().map(|at| at[5..16].to_owned()).collect::<Vec<_>>().join(" ")
    };
    let counted = |schedule: Schedule| Schedule { start_at, count: Some(3), ..schedule };
    assert_eq!(all(counted(cron("0 * * * *"))), "06-01T10:00 06-01T11:00 06-01T12:00");
    assert_eq!(all(counted(every(7_200_000, 0))), "06-01T10:00 06-01T12:00 06-01T14:00");
    let earlier = Schedule { end_at: Some(at("2026-06-01T11:30:00Z")), ..counted(cron("0 * * * *")) };
    assert_eq!(all(earlier), "06-01T10:00 06-01T11:00");
    let refuse = |schedule: Schedule| {
        CompiledSchedule::compile(
            &schedule,
            Spread::default(),
            &crate::scheduler::almanac::Almanac::bundled(),
        )
        .expect_err("refused")
    };
    assert_eq!(refuse(Schedule { count: Some(3), ..cron("@daily") }), ScheduleError::CountFrom);
    for found in [0, 10_001] {
        assert_eq!(
            refuse(Schedule { start_at, count: Some(found), ..cron("@daily") }),
            ScheduleError::Count { found }
        );
    }
    let period = Duration::from_secs(60);
    assert_eq!(refuse(counted(schedule(Rule::AfterCompletion { period }))), ScheduleError::CountCompletions);
}

#[test]
fn what_follows_a_run_comes_so_long_after_its_end() {
    let period = Duration::from_secs(600);
    let rest = schedule(Rule::AfterCompletion { period });
    let ended = at("2026-06-01T10:00:00.250Z");
    assert_eq!(compile(&rest).next_after(ended), Some(at("2026-06-01T10:10:00.250Z")));
    assert_eq!(compile(&rest).last_before(ended), None);
    assert_eq!(compile(&rest).count_between(Timestamp::MIN, Timestamp::MAX, 9), 0);
    let later = at("2026-06-01T11:00:00Z");
    assert_eq!(compile(&Schedule { start_at: Some(later), ..rest.clone() }).next_after(ended), Some(later));
    assert_eq!(
        compile(&Schedule { end_at: Some(at("2026-06-01T10:10:00Z")), ..rest }).next_after(ended),
        None
    );
}

#[test]
fn the_zone_of_a_rule_is_the_one_that_it_names() {
    let utc = |rule| Schedule { timezone: "UTC".to_owned(), ..schedule(rule) };
    let next = |schedule: &Schedule| compile(schedule).next_after(at("2026-06-01T00:00:00Z"));
    let calendar = utc(Rule::Calendar("9:00 Asia/Tokyo".to_owned()));
    assert_eq!(next(&calendar), Some(at("2026-06-02T00:00:00Z")));
    let recurrence =
        utc(Rule::Recurrence("DTSTART;TZID=Asia/Tokyo:20260101T090000 RRULE:FREQ=DAILY".to_owned()));
    assert_eq!(next(&recurrence), Some(at("2026-06-02T00:00:00Z")));
    let skipped = Schedule {
        timezone: "America/New_York".to_owned(),
        gap: Gap::Skip,
        ..schedule(Rule::Recurrence("FREQ=YEARLY;BYMONTH=3;BYDAY=2SU;BYHOUR=2;BYMINUTE=30".to_owned()))
    };
    let error = CompiledSchedule::compile(
        &skipped,
        Spread::default(),
        &crate::scheduler::almanac::Almanac::bundled(),
    );
    // in 1970 the clocks changed at another date
    assert!(error.is_ok(), "{error:?}");
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let text = |list: &'static [&'static str]| prop::sample::select(list.to_vec()).prop_map(str::to_owned);
    prop_oneof![
        text(&["30 2 * * *", "*/7 * * * *", "0 0 29 2 *", "* * 1 1 *"]).prop_map(|line| Rule::Cron {
            line,
            dialect: Dialect::Unix,
            day_rule: DayRule::OrVixie
        }),
        text(&[
            "FREQ=WEEKLY;BYDAY=MO,FR;BYHOUR=2;BYMINUTE=30",
            "FREQ=HOURLY;BYMONTHDAY=-1",
            "DTSTART:20260101T023000 FREQ=MONTHLY;INTERVAL=5"
        ])
        .prop_map(Rule::Recurrence),
        text(&["Mon..Fri *-*-* 2:30", "*:0/5", "Sun *-2-29"]).prop_map(Rule::Calendar),
        (100_u64..10_000_000)
            .prop_map(|ms| Rule::Every { period: Duration::from_millis(ms), offset: Duration::ZERO }),
        Just(Rule::Solar {
            event: crate::state::schedule::SolarEvent::Sunset,
            place: crate::scheduler::solar::place(69.6, 18.9),
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn forwards_and_backwards_agree(rule in any_rule(), from in 1_700_000_000_000_i64..1_900_000_000_000) {
        let compiled = compile(&schedule(rule));
        let from = Timestamp::from_millis(from);
        let Some(next) = compiled.next_after(from) else { return Ok(()) };
        prop_assert!(next > from);
        // none in between
        prop_assert_eq!(compiled.next_after(next.minus(Duration::from_millis(1))), Some(next));
        let last = compiled.last_before(next);
        prop_assert!(last.is_none_or(|last| last <= from), "{:?}", last);
        if let Some(last) = last {
            prop_assert_eq!(compiled.next_after(last), Some(next));
        }
        prop_assert_eq!(compiled.last_before(next.plus(Duration::from_millis(1))), Some(next));
    }
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
