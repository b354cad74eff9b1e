use super::*;
use crate::scheduler::zone::Zones;

fn spec() -> pb::CalendarSpec {
    pb::CalendarSpec {
        name: "de".to_owned(),
        timezone: "Europe/Berlin".to_owned(),
        dates: vec!["2026-12-25 Christmas Day".to_owned(), "12-24..01-01".to_owned()],
        weekly: vec![
            pb::WeeklyHours { days: "sat,sun".to_owned(), ..pb::WeeklyHours::default() },
            pb::WeeklyHours {
                days: "mon..fri".to_owned(),
                from: "22:00".to_owned(),
                to: "06:00".to_owned(),
                note: "night".to_owned(),
            },
        ],
        windows: vec![pb::CalendarWindow {
            from: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            to: Some(prost_types::Timestamp { seconds: 120, nanos: 0 }),
            note: "move".to_owned(),
        }],
        rules: vec![
            pb::CalendarRule {
                rrule: "DTSTART:20260101T000000 RRULE:FREQ=YEARLY".to_owned(),
                days: 2,
                ..pb::CalendarRule::default()
            },
            pb::CalendarRule {
                rrule: "DTSTART:20260101T000000 RRULE:FREQ=DAILY".to_owned(),
                duration: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
                ..pb::CalendarRule::default()
            },
        ],
        applies_to: Some(pb::AppliesTo {
            namespaces: vec!["live".to_owned()],
            labels: [("team".to_owned(), "data".to_owned())].into(),
        }),
        ..pb::CalendarSpec::default()
    }
}

fn told(message: &pb::CalendarSpec) -> String {
    read::spec(message, &Zones::bundled())
        .map(|_| String::new())
        .unwrap_or_else(|status| status.message().to_owned())
}

#[test]
fn a_calendar_survives_being_read_and_shown() {
    let read = read::spec(&spec(), &Zones::bundled()).unwrap();
    assert_eq!(view::calendar::spec(&read), spec());
    assert_eq!(read::spec(&view::calendar::spec(&read), &Zones::bundled()).unwrap(), read);
}

#[test]
fn every_problem_is_told_with_its_path() {
    let mut wrong = spec();
    wrong.timezone = "Europe/Berln".to_owned();
    wrong.dates[1] = "2026-02-30".to_owned();
    wrong.weekly[0].days = "sat..day".to_owned();
    wrong.weekly[1].from = "25:00".to_owned();
    wrong.windows[0].to = wrong.windows[0].from;
    wrong.rules[0].duration = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    wrong.rules[1].rrule = "FREQ=NEVER".to_owned();
    wrong.applies_to = Some(pb::AppliesTo::default());
    let told = told(&wrong);
    for expected in [
        "dates[1]: \"2026-02-30\" does not exist",
        "weekly[0].days: \"sat..day\" is no list of weekdays such as `mon..fri` or `sat,sun`",
        "weekly[1].from: \"25:00\" is no time of day, expected HH:MM, 00:00 to 24:00",
        "windows[0].to: 1970-01-01T00:01:00.000Z is not later than from, 1970-01-01T00:01:00.000Z",
        "rules[0]: exactly one of duration and days is needed",
        "applies_to: one of namespaces and labels is needed",
        "timezone: unknown time zone `Europe/Berln`\nhint: did you mean `Europe/Berlin`?",
    ] {
        assert!(told.contains(expected), "{expected}\n\n{told}");
    }
}

#[test]
fn an_empty_or_too_large_calendar_is_refused() {
    let empty = pb::CalendarSpec { name: "x".to_owned(), ..pb::CalendarSpec::default() };
    assert_eq!(told(&empty), "it has no entry: one of dates, weekly, windows and rules is needed");
    let large = pb::CalendarSpec { dates: vec!["12-25".to_owned(); 5_001], ..empty.clone() };
    assert_eq!(told(&large), "5001 entries are too many, at most 5000 are allowed");
    let rule = pb::CalendarRule { rrule: "FREQ=DAILY".to_owned(), days: 1, ..pb::CalendarRule::default() };
    let rules = pb::CalendarSpec { rules: vec![rule; 101], ..empty };
    assert_eq!(told(&rules), "rules: 101 rules are too many, at most 100 are allowed");
}
