use super::*;
use crate::state::{Command, Entry};

#[test]
fn days_are_read_as_people_write_them_and_written_back() {
    for text in [
        "2026-12-25",
        "2026-12-24..2027-01-01",
        "12-25",
        "12-24..01-06",
        "02-29",
        "2028-02-29 a leap day",
        "12-25 Christmas Day",
    ] {
        assert_eq!(text.parse::<Dates>().map(|dates| dates.to_string()).as_deref(), Ok(text));
    }
    for (text, wrong) in [
        ("2026-02-29", "\"2026-02-29\" does not exist"),
        ("13-01", "\"13-01\" does not exist"),
        ("02-30", "\"02-30\" does not exist"),
        ("2026-1-1", "\"2026-1-1\" is no day, expected one such as `2026-12-25`, or `12-25` for each year"),
        ("--12-25", "\"--12-25\" is no day, expected one such as `2026-12-25`, or `12-25` for each year"),
        ("Christmas", "\"Christmas\" is no day, expected one such as `2026-12-25`, or `12-25` for each year"),
        ("2026-12-24..12-26", "\"2026-12-24..12-26\" goes from a day of one year to one of each year"),
        ("2027-01-01..2026-12-24", "\"2027-01-01..2026-12-24\" ends before it begins"),
    ] {
        assert_eq!(text.parse::<Dates>().map_err(|error| error.to_string()), Err(wrong.to_owned()));
    }
}

#[test]
fn weekdays_and_times_are_read_and_written_back() {
    for (text, written) in [
        ("mon..fri", "mon..fri"),
        ("sat,sun", "sat,sun"),
        ("Fri..Mon", "mon,fri..sun"),
        ("mon,wed,fri", "mon,wed,fri"),
        ("sun..sat", "mon..sun"),
    ] {
        assert_eq!(weekdays(text).map(weekdays_text).as_deref(), Some(written), "{text}");
    }
    assert_eq!(weekdays("mon..day"), None);
    assert_eq!(weekdays(""), None);
    for (text, minutes) in [("00:00", Some(0)), ("22:30", Some(1_350)), ("24:00", Some(1_440))] {
        assert_eq!(clock_minutes(text), minutes);
    }
    for text in ["24:01", "9:00", "12:60", "12", "12:00:00", "-1:00"] {
        assert_eq!(clock_minutes(text), None, "{text}");
    }
}

fn decide(state: &mut State, command: Command) -> Outcome {
    let index = state.applied_index() + 1;
    let entry = Entry { at: Timestamp::EPOCH, commands: vec![command] };
    let mut applied = state.apply(index, &Entry::decode(&entry.encode()).unwrap());
    state.verify().unwrap();
    applied.outcomes.remove(0)
}

fn put(name: usize, applies_to: Option<AppliesTo>, description: &str) -> Command {
    let spec = CalendarSpec {
        name: format!("c{name}"),
        description: description.to_owned(),
        applies_to,
        ..CalendarSpec::default()
    };
    Command::PutCalendar { spec: Arc::new(spec), request: Request::default() }
}

#[test]
fn a_calendar_or_a_blackout_too_many_is_refused_and_those_that_are_there_can_change() {
    let mut state = State::default();
    let all = || Some(AppliesTo { namespaces: vec!["live".to_owned()], ..AppliesTo::default() });
    for name in 0..limits::CALENDARS {
        let applies_to = all().filter(|_| name < limits::BLACKOUTS);
        assert_eq!(decide(&mut state, put(name, applies_to, "")), Outcome::Done);
    }
    let refused = Outcome::Rejected(Rejection::Limit);
    assert_eq!(decide(&mut state, put(limits::CALENDARS, None, "")), refused);
    assert_eq!(decide(&mut state, put(limits::BLACKOUTS, all(), "")), refused);
    assert_eq!(decide(&mut state, put(0, all(), "other")), Outcome::Done);
    assert_eq!(state.calendar("c0").unwrap().origin.version, 2);
    assert_eq!(decide(&mut state, put(0, None, "no blackout")), Outcome::Done);
    assert_eq!(decide(&mut state, put(limits::BLACKOUTS, all(), "")), Outcome::Done);
}
