use proptest::prelude::*;

use super::*;
use crate::scheduler::zone::Zones;
use crate::state::calendar::{
    CalendarRule, CalendarSpec, Dates, Lasts, Weekly, Window, clock_minutes, weekdays,
};

const MINUTE: i64 = 60_000;
const DAY: i64 = 86_400_000;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn days(list: &[&str]) -> Vec<Dates> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn hours(list: &[(&str, &str, &str)]) -> Vec<Weekly> {
    let hours = |(days, from, to): &(&str, &str, &str)| Weekly {
        days: weekdays(days).unwrap(),
        from: clock_minutes(from).unwrap(),
        to: clock_minutes(to).unwrap(),
        note: String::new(),
    };
    list.iter().map(hours).collect()
}

fn rule(rrule: &str, lasts: Lasts) -> CalendarRule {
    CalendarRule { rrule: rrule.to_owned(), lasts, note: String::new() }
}

fn compiled(spec: &CalendarSpec) -> Arc<CompiledCalendar> {
    Arc::new(CompiledCalendar::compile(spec, &Zones::bundled()).unwrap())
}

fn named(name: &str) -> CalendarSpec {
    CalendarSpec { name: name.to_owned(), ..CalendarSpec::default() }
}

fn zone(name: &str) -> Zone {
    Zones::bundled().zone(name).unwrap()
}

fn without(spec: &CalendarSpec, timezone: &str) -> Gate {
    Gate::new(vec![compiled(spec)], Vec::new(), zone(timezone))
}

fn only(spec: &CalendarSpec, timezone: &str) -> Gate {
    Gate::new(Vec::new(), vec![compiled(spec)], zone(timezone))
}

/// What excludes an instant, and where it is put off to.
fn asked(gate: &Gate, text: &str) -> (Option<String>, String) {
    let to = gate.next_allowed(at(text)).map_or("never".to_owned(), |to| gate.zone.local(to));
    (gate.excludes(at(text)).map(|excluded| excluded.why()), to)
}

fn check(gate: &Gate, table: &[(&str, Option<&str>, &str)]) {
    for (text, why, to) in table {
        assert_eq!(asked(gate, text), (why.map(str::to_owned), (*to).to_owned()), "{text}");
    }
}

#[test]
fn a_day_puts_off_to_the_same_time_of_the_next_day_and_names_itself() {
    let spec = CalendarSpec {
        dates: days(&["2026-12-25 Christmas Day", "2026-12-31..2027-01-02", "12-26", "02-29"]),
        weekly: hours(&[("sun", "00:00", "24:00")]),
        ..named("de")
    };
    check(
        &without(&spec, "Europe/Berlin"),
        &[
            ("2026-12-24T08:00:00Z", None, "2026-12-24T09:00:00.000+01:00"),
            // 25 and 26 are excluded, 27 is a Sunday.
            ("2026-12-25T08:00:00Z", Some("de: 2026-12-25 Christmas Day"), "2026-12-28T09:00:00.000+01:00"),
            ("2026-12-26T22:59:59.999Z", Some("de: 12-26"), "2026-12-28T23:59:59.999+01:00"),
            ("2026-12-26T23:00:00Z", Some("de: sun"), "2026-12-28T00:00:00.000+01:00"),
            // Past the end of the year, and a Sunday behind it.
            ("2026-12-31T08:00:00Z", Some("de: 2026-12-31..2027-01-02"), "2027-01-04T09:00:00.000+01:00"),
            ("2028-02-29T08:00:00Z", Some("de: 02-29"), "2028-03-01T09:00:00.000+01:00"),
            ("2027-03-01T08:00:00Z", None, "2027-03-01T09:00:00.000+01:00"),
        ],
    );
}

#[test]
fn days_of_the_year_may_go_past_its_end() {
    let spec = CalendarSpec { dates: days(&["12-30..01-02"]), ..named("break") };
    check(
        &without(&spec, "UTC"),
        &[
            ("2026-12-29T12:00:00Z", None, "2026-12-29T12:00:00.000+00:00"),
            ("2026-12-30T12:00:00Z", Some("break: 12-30..01-02"), "2027-01-03T12:00:00.000+00:00"),
            ("2027-01-02T23:00:00Z", Some("break: 12-30..01-02"), "2027-01-03T23:00:00.000+00:00"),
        ],
    );
}

#[test]
fn hours_put_off_to_their_end_also_over_midnight_and_the_week() {
    let spec = CalendarSpec {
        weekly: hours(&[("mon..fri", "08:00", "10:30"), ("sat", "22:00", "06:00")]),
        windows: vec![Window {
            from: at("2026-03-02T10:30:00Z"),
            to: at("2026-03-02T11:00:00.500Z"),
            note: "move".to_owned(),
        }],
        ..named("shop")
    };
    let window = "shop: 2026-03-02T10:30:00.000Z to 2026-03-02T11:00:00.500Z move";
    check(
        &without(&spec, "UTC"),
        &[
            ("2026-03-02T07:59:59.999Z", None, "2026-03-02T07:59:59.999+00:00"),
            // A window follows at once.
            ("2026-03-02T08:00:00Z", Some("shop: mon..fri 08:00-10:30"), "2026-03-02T11:00:00.500+00:00"),
            ("2026-03-02T11:00:00.499Z", Some(window), "2026-03-02T11:00:00.500+00:00"),
            ("2026-03-03T10:29:59Z", Some("shop: mon..fri 08:00-10:30"), "2026-03-03T10:30:00.000+00:00"),
            ("2026-03-07T23:00:00Z", Some("shop: sat 22:00-06:00"), "2026-03-08T06:00:00.000+00:00"),
            ("2026-03-08T05:59:00Z", Some("shop: sat 22:00-06:00"), "2026-03-08T06:00:00.000+00:00"),
        ],
    );
}

#[test]
fn odd_hours_are_read_by_the_clocks_on_the_wall() {
    let night = CalendarSpec { weekly: hours(&[("sun..sat", "02:00", "03:00")]), ..named("night") };
    check(
        &without(&night, "Europe/Berlin"),
        &[
            // The hour does not exist: what Debian's cron runs at its end is 03:00.
            ("2026-03-29T01:00:00Z", None, "2026-03-29T03:00:00.000+02:00"),
            // It comes twice, and is excluded twice.
            ("2026-10-25T00:30:00Z", Some("night: mon..sun 02:00-03:00"), "2026-10-25T03:00:00.000+01:00"),
            ("2026-10-25T01:30:00Z", Some("night: mon..sun 02:00-03:00"), "2026-10-25T03:00:00.000+01:00"),
        ],
    );
    let days = CalendarSpec { dates: days(&["2026-03-28", "2026-10-24"]), ..named("days") };
    check(
        &without(&days, "Europe/Berlin"),
        &[
            ("2026-03-28T01:30:00Z", Some("days: 2026-03-28"), "2026-03-29T03:00:00.000+02:00"),
            ("2026-10-24T00:30:00Z", Some("days: 2026-10-24"), "2026-10-25T02:30:00.000+02:00"),
        ],
    );
}

#[test]
fn a_day_that_a_zone_leaves_out_is_no_day() {
    // Samoa went from 29 December to 31 December 2011.
    let spec = CalendarSpec { dates: days(&["2011-12-29"]), ..named("samoa") };
    check(
        &without(&spec, "Pacific/Apia"),
        &[("2011-12-29T20:00:00Z", Some("samoa: 2011-12-29"), "2011-12-31T10:00:00.000+14:00")],
    );
}

#[test]
fn a_calendar_has_the_zone_that_it_names_or_that_of_whoever_asks() {
    let floating = CalendarSpec {
        dates: days(&["2026-05-01"]),
        rules: vec![rule("DTSTART:20260601T000000 RRULE:FREQ=YEARLY", Lasts::Days(2))],
        ..named("may")
    };
    let fixed = CalendarSpec { timezone: Some("Asia/Tokyo".to_owned()), ..floating.clone() };
    let asked = |spec: &CalendarSpec, timezone: &str, text: &str| {
        without(spec, timezone).excludes(at(text)).is_some()
    };
    // Midnight in Tokyo, an afternoon in Berlin.
    for text in ["2026-04-30T15:00:00Z", "2026-05-31T15:00:00Z", "2027-05-31T15:00:00Z"] {
        assert!(asked(&floating, "Asia/Tokyo", text), "{text}");
        assert!(!asked(&floating, "Europe/Berlin", text), "{text}");
        assert!(asked(&fixed, "Europe/Berlin", text), "{text}");
    }
    assert!(asked(&floating, "Europe/Berlin", "2026-06-02T21:59:59Z"));
    assert!(!asked(&floating, "Europe/Berlin", "2026-06-02T22:00:00Z"));
}

#[test]
fn rules_last_as_long_as_they_say_wherever_they_began() {
    let lasts = Lasts::Span(Duration::from_secs(90 * 60));
    let spec = CalendarSpec {
        rules: vec![
            rule("DTSTART;TZID=Europe/Berlin:20260105T233000 RRULE:FREQ=WEEKLY", lasts),
            rule("DTSTART:20260110T120000Z RRULE:FREQ=DAILY;COUNT=1", Lasts::Span(Duration::from_secs(60))),
        ],
        ..named("backup")
    };
    let weekly = "backup: DTSTART;TZID=Europe/Berlin:20260105T233000 RRULE:FREQ=WEEKLY for 1h30m";
    check(
        &without(&spec, "UTC"),
        &[
            ("2026-01-05T22:29:59Z", None, "2026-01-05T22:29:59.000+00:00"),
            ("2026-01-05T22:30:00Z", Some(weekly), "2026-01-06T00:00:00.000+00:00"),
            ("2026-07-06T22:59:59.999Z", Some(weekly), "2026-07-06T23:00:00.000+00:00"),
            ("2026-07-06T23:00:00Z", None, "2026-07-06T23:00:00.000+00:00"),
            ("2026-01-11T12:00:00Z", None, "2026-01-11T12:00:00.000+00:00"),
        ],
    );
}

#[test]
fn with_only_an_instant_waits_for_the_next_day_or_hours_that_are_covered() {
    let hours_of_work = CalendarSpec { weekly: hours(&[("mon..fri", "09:00", "17:00")]), ..named("work") };
    let outside = Some("work: does not cover it");
    check(
        &only(&hours_of_work, "America/New_York"),
        &[
            ("2026-03-06T15:00:00Z", None, "2026-03-06T10:00:00.000-05:00"),
            ("2026-03-06T22:00:00Z", outside, "2026-03-09T09:00:00.000-04:00"),
            ("2026-03-09T12:59:59.999Z", outside, "2026-03-09T09:00:00.000-04:00"),
        ],
    );
    let workdays = CalendarSpec { weekly: hours(&[("mon..fri", "00:00", "24:00")]), ..named("days") };
    let holidays = CalendarSpec { dates: days(&["2026-03-09"]), ..named("holidays") };
    let gate = Gate::new(vec![compiled(&holidays)], vec![compiled(&workdays)], zone("UTC"));
    check(
        &gate,
        &[
            // Saturday; Monday is a holiday.
            ("2026-03-07T07:15:00Z", Some("days: does not cover it"), "2026-03-10T07:15:00.000+00:00"),
            ("2026-03-09T07:15:00Z", Some("holidays: 2026-03-09"), "2026-03-10T07:15:00.000+00:00"),
        ],
    );
    let leap = CalendarSpec { dates: days(&["02-29"]), ..named("leap") };
    check(
        &only(&leap, "UTC"),
        &[
            ("2027-12-01T07:15:00Z", Some("leap: does not cover it"), "2028-02-29T07:15:00.000+00:00"),
            // More than a year away.
            ("2026-12-01T07:15:00Z", Some("leap: does not cover it"), "never"),
        ],
    );
}

#[test]
fn what_is_never_allowed_is_found_out_soon() {
    let spec = CalendarSpec { weekly: hours(&[("mon..sun", "00:00", "24:00")]), ..named("closed") };
    assert_eq!(without(&spec, "Europe/Berlin").next_allowed(at("2026-01-01T00:00:00Z")), None);
    let past = CalendarSpec { dates: days(&["2001-01-01"]), ..named("past") };
    assert_eq!(only(&past, "UTC").next_allowed(at("2026-01-01T00:00:00Z")), None);
    let minutes = (0..5_000).map(|n| {
        let from = Timestamp::from_millis(n * MINUTE);
        Window { from, to: from.plus(Duration::from_secs(60)), note: String::new() }
    });
    let spec = CalendarSpec { windows: minutes.collect(), ..named("minutes") };
    assert_eq!(
        without(&spec, "UTC").next_allowed(Timestamp::EPOCH),
        Some(Timestamp::from_millis(5_000 * MINUTE))
    );
}

#[test]
fn what_cannot_be_read_is_refused_by_its_place() {
    let told =
        |spec: CalendarSpec| CompiledCalendar::compile(&spec, &Zones::bundled()).unwrap_err().to_string();
    let nowhere = CalendarSpec { timezone: Some("Europe/Berln".to_owned()), ..named("x") };
    assert_eq!(told(nowhere), "timezone: unknown time zone `Europe/Berln`");
    let wrong = CalendarSpec { rules: vec![rule("FREQ=NEVER", Lasts::Days(1))], ..named("x") };
    assert!(told(wrong).starts_with("rules[0].rrule: "), "the path comes first");
}

/// A zone with odd days in the weeks that are looked at, and one without.
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns"];
/// Two weeks before the clocks change in Europe, 2026-03-29.
const FROM: i64 = 1_773_532_800_000;
const WEEKS: i64 = 4;

fn any_calendar() -> impl Strategy<Value = CalendarSpec> {
    let date = (0_i64..WEEKS * 7, 0_i64..3).prop_map(|(first, length)| {
        let day = |number: i64| (FROM / DAY + number) as i32;
        let days = crate::state::calendar::Days::Once {
            from: crate::state::calendar::Date(day(first)),
            to: crate::state::calendar::Date(day(first + length)),
        };
        Dates { days, note: String::new() }
    });
    let weekly = (1_u8..128, 0_u16..1_440, 1_u16..=1_440).prop_filter_map("equal", |(days, from, to)| {
        (from != to).then_some(Weekly { days, from, to, note: String::new() })
    });
    let window = (0_i64..WEEKS * 7 * 1_440, 1_i64..4_000).prop_map(|(from, length)| Window {
        from: Timestamp::from_millis(FROM + from * MINUTE),
        to: Timestamp::from_millis(FROM + (from + length) * MINUTE),
        note: String::new(),
    });
    let rule = (0_u32..24, 1_u64..30, any::<bool>()).prop_map(|(hour, length, of_days)| CalendarRule {
        rrule: format!("DTSTART:20260101T{hour:02}0000 RRULE:FREQ=DAILY;INTERVAL=3"),
        lasts: if of_days { Lasts::Days(1) } else { Lasts::Span(Duration::from_secs(length * 3_600)) },
        note: String::new(),
    });
    let all = (
        prop::collection::vec(date, 0..4),
        prop::collection::vec(weekly, 0..3),
        prop::collection::vec(window, 0..3),
        prop::collection::vec(rule, 0..2),
    );
    all.prop_map(|(dates, weekly, windows, rules)| CalendarSpec {
        dates,
        weekly,
        windows,
        rules,
        ..named("any")
    })
}

/// Whether a calendar covers an instant, asked of each entry by itself and of each minute before it.
fn covers(spec: &CalendarSpec, zone: &Zone, at: Timestamp) -> bool {
    let offset = |at: Timestamp| zone.segment(at.millis().div_euclid(1_000)).offset * 1_000;
    let wall = at.millis() + offset(at);
    let (day, minute) = (wall.div_euclid(DAY), wall.rem_euclid(DAY) / MINUTE);
    let on = |days: u8, day: i64| days >> (day + 4).rem_euclid(7) & 1 == 1;
    let by_date = spec.dates.iter().any(|dates| match dates.days {
        crate::state::calendar::Days::Once { from, to } => {
            (i64::from(from.0)..=i64::from(to.0)).contains(&day)
        }
        crate::state::calendar::Days::Yearly { .. } => unreachable!("none is made"),
    });
    let by_week = spec.weekly.iter().any(|hours| {
        let (from, to) = (i64::from(hours.from), i64::from(hours.to));
        if from < to {
            on(hours.days, day) && (from..to).contains(&minute)
        } else {
            on(hours.days, day) && minute >= from || on(hours.days, day - 1) && minute < to
        }
    });
    let by_window = spec.windows.iter().any(|window| window.from <= at && at < window.to);
    let by_rule = spec.rules.iter().any(|rule| {
        let hour: i64 = rule.rrule[17..19].parse().unwrap();
        // every third day from 2026-01-01, which is day 20454
        let is_on = |day: i64| day >= 20_454 && (day - 20_454) % 3 == 0;
        match rule.lasts {
            Lasts::Days(_) => is_on(day),
            Lasts::Span(span) => (day - 2..=day).filter(|day| is_on(*day)).any(|day| {
                let began = wall::instant_of(zone, day * 86_400 + hour * 3_600);
                began <= at && at < began.plus(span)
            }),
        }
    });
    by_date || by_week || by_window || by_rule
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn gates_agree_with_a_look_at_each_minute(spec in any_calendar(), place in 0..ZONES.len(), exclude: bool) {
        let zone = zone(ZONES[place]);
        let gate = if exclude { without(&spec, ZONES[place]) } else { only(&spec, ZONES[place]) };
        let minutes = WEEKS * 7 * 1_440;
        let minute = |number: i64| Timestamp::from_millis(FROM + number * MINUTE);
        let open: Vec<bool> = (0..minutes).map(|n| covers(&spec, &zone, minute(n)) != exclude).collect();
        let mut opens = None;
        for number in (0..minutes).rev() {
            let at = minute(number);
            prop_assert_eq!(gate.excludes(at).is_none(), open[number as usize], "{}", at);
            if open[number as usize] {
                opens = Some(at);
            }
            // the first minute from there on that is open, as far as was looked
            if let Some(opens) = opens {
                prop_assert_eq!(gate.opens(at, minute(minutes)), Some(opens), "{}", at);
            }
            if number % 13 == 0 {
                let to = gate.next_allowed(at);
                prop_assert!(to.is_none_or(|to| to >= at && gate.excludes(to).is_none()), "{} {:?}", at, to);
            }
        }
    }
}
