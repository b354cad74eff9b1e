use serde_json::Value;

use super::crontab::Fields;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::rule::CompiledSchedule;
use crate::scheduler::spread::Spread;
use crate::state::schedule::{DayRule, Dialect, Fold, Gap, Rule, Schedule};
use crate::state::time::Timestamp;

/// What Celery itself made of the fields of a crontab, and what it refused.
const VECTORS: &str = include_str!("../testdata/celery.crontab.json");
const NAMES: [&str; 5] = ["minute", "hour", "day_of_week", "day_of_month", "month_of_year"];
/// 2026-01-01, a Thursday.
const START: i64 = 1_767_225_600_000;
const DAYS: i64 = 366 * 4;

fn fields(of: &Value) -> Fields {
    let mut fields = Fields::default();
    for name in NAMES {
        *fields.of(name).expect("a field") = of[name].as_str().expect("a text").to_owned();
    }
    fields
}

#[test]
fn a_crontab_of_celery_is_due_when_celery_has_it() {
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    for vector in vectors["taken"].as_array().expect("a list") {
        let fields = fields(vector);
        let line = fields.line().unwrap_or_else(|why| panic!("{vector}: {why}"));
        let day_rule = if fields.restricts_days_twice() { DayRule::And } else { DayRule::OrVixie };
        let rule = Rule::Cron { line: line.clone(), dialect: Dialect::Unix, day_rule };
        let schedule = Schedule {
            rule,
            timezone: "UTC".to_owned(),
            gap: Gap::Shift,
            fold: Fold::First,
            start_at: None,
            end_at: None,
            jitter: std::time::Duration::ZERO,
            count: None,
            exclude: Vec::new(),
            only: Vec::new(),
        };
        let compiled =
            CompiledSchedule::compile(&schedule, Spread::default(), &Almanac::bundled()).expect(&line);
        let has = |name: &str, value: i64| {
            let set = vector["sets"][name].as_array().expect("a set");
            set.iter().any(|it| it.as_i64() == Some(value))
        };
        let mut next = compiled.next_after(Timestamp::from_millis(START - 1));
        for day in 0..DAYS {
            let text = Timestamp::from_millis(START + day * 86_400_000).to_string();
            let (month, of_month) =
                (text[5..7].parse().expect("a month"), text[8..10].parse().expect("a day"));
            let weekday = (day + 4) % 7;
            if !(has("month_of_year", month) && has("day_of_month", of_month) && has("day_of_week", weekday))
            {
                continue;
            }
            for minute in 0..1_440 {
                if has("hour", minute / 60) && has("minute", minute % 60) {
                    let due = Timestamp::from_millis(START + day * 86_400_000 + minute * 60_000);
                    assert_eq!(next, Some(due), "{line} of {vector}");
                    next = compiled.next_after(due);
                }
            }
        }
    }
}

#[test]
fn what_celery_refuses_is_refused_with_its_field() {
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    for vector in vectors["refused"].as_array().expect("a list") {
        let why = fields(vector).line().expect_err("it is refused");
        let field = NAMES.iter().find(|name| vector[**name] != "*").expect("the field that is wrong");
        assert!(why.starts_with(&format!("{field}: expected ")), "{vector}: {why}");
    }
    let sunday = Fields { day_of_week: "7".to_owned(), ..Fields::default() };
    assert_eq!(
        sunday.line(),
        Err("day_of_week: expected 0 to 6; Sunday is 0, found \"7\"; Celery refuses it too".to_owned())
    );
}

/// Of the days on which clocks change in Paris: from when to when, and for each crontab how many times it is due, the
/// first of them, and the longest time from one to the next in minutes.
type OddDay = (&'static str, &'static str, [(&'static str, usize, &'static str, i64); 5]);

/// Measured with real beats under a moved clock: in autumn beat and django-celery-beat leave out the hour that comes
/// twice (`*/15` stands still for 75 minutes, hourly for two hours), and RedBeat runs `0 3` an hour late and `*/15` after
/// 135 minutes. In spring all three are as here.
#[test]
fn on_the_days_when_clocks_change_nothing_stands_still_and_nothing_runs_twice() {
    let days: [OddDay; 2] = [
        (
            "2026-03-28T23:00:00Z",
            "2026-03-29T22:00:00Z",
            [
                ("0 2 * * *", 1, "2026-03-29T01:00:00.000Z", 0),
                ("30 2 * * *", 1, "2026-03-29T01:30:00.000Z", 0),
                ("0 3 * * *", 1, "2026-03-29T01:00:00.000Z", 0),
                ("*/15 * * * *", 92, "2026-03-28T23:00:00.000Z", 15),
                ("0 * * * *", 23, "2026-03-28T23:00:00.000Z", 60),
            ],
        ),
        (
            "2026-10-24T22:00:00Z",
            "2026-10-25T23:00:00Z",
            [
                ("0 2 * * *", 1, "2026-10-25T00:00:00.000Z", 0),
                ("30 2 * * *", 1, "2026-10-25T00:30:00.000Z", 0),
                ("0 3 * * *", 1, "2026-10-25T02:00:00.000Z", 0),
                ("*/15 * * * *", 100, "2026-10-24T22:00:00.000Z", 15),
                ("0 * * * *", 25, "2026-10-24T22:00:00.000Z", 60),
            ],
        ),
    ];
    for (from, until, rules) in days {
        let at = |text: &str| text.parse::<Timestamp>().expect("an instant");
        for (line, count, first, longest) in rules {
            let schedule = Schedule {
                rule: Rule::Cron {
                    line: line.to_owned(),
                    dialect: Dialect::Unix,
                    day_rule: DayRule::OrVixie,
                },
                timezone: "Europe/Paris".to_owned(),
                gap: Gap::Shift,
                fold: Fold::First,
                start_at: None,
                end_at: None,
                jitter: std::time::Duration::ZERO,
                count: None,
                exclude: Vec::new(),
                only: Vec::new(),
            };
            let compiled =
                CompiledSchedule::compile(&schedule, Spread::default(), &Almanac::bundled()).expect(line);
            let mut due = Vec::new();
            let mut next = compiled.next_after(at(from).minus(std::time::Duration::from_millis(1)));
            while let Some(instant) = next.filter(|next| *next < at(until)) {
                due.push(instant);
                next = compiled.next_after(instant);
            }
            let gaps = due.windows(2).map(|pair| (pair[1].millis() - pair[0].millis()) / 60_000);
            assert_eq!(
                (due.len(), due.first().map(ToString::to_string).as_deref(), gaps.max().unwrap_or(0)),
                (count, Some(first), longest),
                "{line} from {from}"
            );
        }
    }
}
