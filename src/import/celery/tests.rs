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
