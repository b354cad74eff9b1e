use std::time::Duration;

use super::super::xml::span;
use super::super::{Format, Loss, Options, import};
use super::trigger::arguments;

/// The rules of a task with these triggers, and the losses.
fn rules(triggers: &str) -> (Vec<String>, Vec<Loss>) {
    let text = format!(
        "<Task><Triggers>{triggers}</Triggers><Actions><Exec><Command>c</Command></Exec></Actions></Task>"
    );
    let options = Options { timezone: Some("Europe/Berlin".to_owned()), ..Options::default() };
    let made = import(Format::WindowsTask, &[("t.xml".to_owned(), text)], &options);
    let schedules = made.drafts.iter().flat_map(|draft| draft.spec.schedule.clone());
    (
        schedules.map(|schedule| schedule.rrule).collect(),
        made.findings.iter().map(|finding| finding.loss).collect(),
    )
}

fn calendar(inner: &str) -> (Vec<String>, Vec<Loss>) {
    rules(&format!(
        "<CalendarTrigger><StartBoundary>2026-01-05T08:05:00</StartBoundary>{inner}</CalendarTrigger>"
    ))
}

#[test]
fn each_kind_of_days_is_a_rule() {
    let is = |inner: &str, rule: &str| {
        assert_eq!(calendar(inner).0, [format!("DTSTART:20260105T080500 RRULE:{rule}")], "{inner}");
    };
    is("<ScheduleByDay><DaysInterval>3</DaysInterval></ScheduleByDay>", "FREQ=DAILY;INTERVAL=3");
    is(
        "<ScheduleByWeek><WeeksInterval>2</WeeksInterval><DaysOfWeek><Monday/><Friday/></DaysOfWeek></ScheduleByWeek>",
        "FREQ=WEEKLY;INTERVAL=2;WKST=SU;BYDAY=MO,FR",
    );
    is(
        "<ScheduleByMonth><DaysOfMonth><Day>1</Day><Day>Last</Day></DaysOfMonth><Months><January/><May/></Months></ScheduleByMonth>",
        "FREQ=MONTHLY;BYMONTH=1,5;BYMONTHDAY=1,-1",
    );
    is(
        "<ScheduleByMonthDayOfWeek><Weeks><Week>2</Week><Week>Last</Week></Weeks><DaysOfWeek><Tuesday/></DaysOfWeek></ScheduleByMonthDayOfWeek>",
        "FREQ=MONTHLY;BYDAY=2TU,-1TU",
    );
    is(
        "<EndBoundary>2026-12-31T23:59:59</EndBoundary><ScheduleByDay/>",
        "FREQ=DAILY;INTERVAL=1;UNTIL=20261231T235959",
    );
}

#[test]
fn a_repetition_in_a_day_is_a_rule_for_each_set_of_minutes() {
    let daily = |repetition: &str| {
        let (rules, _) = calendar(&format!("<Repetition>{repetition}</Repetition><ScheduleByDay/>"));
        let ends =
            rules.iter().map(|rule| rule.split_once("INTERVAL=1").map_or("", |(_, end)| end).to_owned());
        ends.collect::<Vec<_>>()
    };
    let interval = |interval: &str, duration: &str| {
        daily(&format!("<Interval>{interval}</Interval><Duration>{duration}</Duration>"))
    };
    assert_eq!(interval("PT20M", "PT3H"), [";BYHOUR=8,9,10;BYMINUTE=5,25,45"]);
    assert_eq!(interval("PT25M", "PT1H30M"), [";BYHOUR=8;BYMINUTE=5,30,55", ";BYHOUR=9;BYMINUTE=20"]);
    assert_eq!(interval("PT8H", "P1D"), [";BYHOUR=0,8,16;BYMINUTE=5"]);
    assert_eq!(interval("PT1H1M", "P1D"), [""; 0], "too many sets");
    let weekly = "<Repetition><Interval>PT8H</Interval><Duration>P1D</Duration></Repetition>\
                  <ScheduleByWeek><DaysOfWeek><Monday/></DaysOfWeek></ScheduleByWeek>";
    let (rules, losses) = calendar(weekly);
    assert_eq!((rules.len(), losses.contains(&Loss::Lost)), (0, true), "it goes on on Tuesday");
}

#[test]
fn a_trigger_at_a_time_comes_once_or_again_and_again() {
    let at = |inner: &str| rules(&format!("<TimeTrigger>{inner}</TimeTrigger>"));
    let begin = "<StartBoundary>2026-01-05T08:05:00.5Z</StartBoundary>";
    assert_eq!(at(begin).0, ["DTSTART:20260105T080500Z RRULE:FREQ=DAILY;COUNT=1"]);
    let again = format!("{begin}<Repetition><Interval>PT15M</Interval></Repetition>");
    assert_eq!(at(&again).0, ["DTSTART:20260105T080500Z RRULE:FREQ=MINUTELY;INTERVAL=15"]);
    let bounded =
        format!("{begin}<Repetition><Interval>PT15M</Interval><Duration>PT1H</Duration></Repetition>");
    assert_eq!(at(&bounded).0, ["DTSTART:20260105T080500Z RRULE:FREQ=MINUTELY;INTERVAL=15;COUNT=4"]);
    for broken in
        ["", "<StartBoundary>soon</StartBoundary>", "<StartBoundary>2026-01-05T25:00:00</StartBoundary>"]
    {
        let (rules, losses) = at(broken);
        assert_eq!((rules.len(), losses.contains(&Loss::Unread)), (0, true), "{broken}");
    }
    assert_eq!(rules("<BootTrigger/>"), (vec![], vec![Loss::Lost, Loss::Approximated, Loss::Lost]));
}

#[test]
fn spans_and_arguments_are_read_as_windows_does() {
    assert_eq!(span("P1DT2H3M4S"), Some(Duration::from_secs(93_784)));
    assert_eq!(span("PT0S"), Some(Duration::ZERO));
    for text in ["", "P", "PT", "P1M", "P1Y", "1H", "PT1", "PT99999999999999999999S", "PT99999999999999999H"]
    {
        assert_eq!(span(text), None, "{text}");
    }
    assert_eq!(arguments(r#"/c "C:\a b\x.bat" \"q\" "" 1"#), ["/c", r"C:\a b\x.bat", "\"q\"", "", "1"]);
}
