//! Calendars of iCalendar (RFC 5545): the events of a file become the entries of a calendar.
//!
//! | event | becomes |
//! |---|---|
//! | all-day, once | a day or range of days in `dates` |
//! | all-day, recurring | a rule that lasts so many days |
//! | from one instant to another, in UTC | a window |
//! | any other | a rule with a duration; one that does not recur is a rule that comes once |
//!
//! SUMMARY becomes the note, X-WR-CALNAME the description. A cancelled event is none; that an event is shown as free
//! (TRANSP) is how holidays are published, and does not matter. What would change when something is excluded and cannot
//! be carried over is a problem with its line, and nothing is imported then: other components, changed instances of a
//! recurring event (RECURRENCE-ID), an end in another zone than the beginning.
//!
//! Why not a crate: `icalendar` and `ical` keep no line of what they read, so a problem could not say where it is. The
//! rules of recurrence are read by `scheduler::recurrence`, as everywhere.

use std::time::Duration;

use crate::pb::v1::{CalendarRule, CalendarSpec, CalendarWindow};
use crate::state::calendar::{Date, Days};
use crate::state::limits::CALENDAR_ENTRIES;
use crate::state::time::days_from_civil;

const DAY_SECONDS: i64 = 86_400;
/// Bytes of a note: what is longer is cut.
const NOTE_BYTES: usize = crate::api::limits::NOTE_BYTES;
/// Problems that are listed.
const PROBLEMS_MAX: usize = 100;
/// Components of a file that say nothing of when something is.
const WITHOUT_TIMES: [&str; 3] = ["VTIMEZONE", "VALARM", "STANDARD"];
/// Properties of an event that matter here.
const TELLING: [&str; 8] =
    ["DTSTART", "DTEND", "DURATION", "RRULE", "EXDATE", "RDATE", "RECURRENCE-ID", "EXRULE"];

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    /// The calendar, without a name.
    pub spec: CalendarSpec,
    /// For the path of each entry, such as `rules[2]`, the line at which its event begins.
    pub lines: Vec<(String, usize)>,
}

/// What cannot be carried over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {what}")]
pub struct Obstacle {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

/// A property: `NAME;PARAM=VALUE:TEXT`.
struct Property<'a> {
    line: usize,
    name: String,
    params: Vec<(String, &'a str)>,
    value: &'a str,
}

impl Property<'_> {
    fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(param, _)| param == name).map(|(_, value)| *value)
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Obstacle {
        Obstacle { line: self.line, what: format!("{}: {what}", self.name) }
    }
}

/// A date, or a wall time, of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Moment<'a> {
    /// Seconds since 1970-01-01T00:00:00 on the local calendar.
    wall: i64,
    is_date: bool,
    is_utc: bool,
    zone: Option<&'a str>,
}

/// Reads the events of an iCalendar file.
///
/// # Errors
/// All [`Obstacle`]s, in the order of the file, at most 100 of them.
pub fn read(text: &str) -> Result<Events, Vec<Obstacle>> {
    let mut found = Events::default();
    let mut obstacles = Vec::new();
    let lines = unfolded(text);
    let mut open: Vec<String> = Vec::new();
    let mut event: Option<(usize, Vec<Property<'_>>)> = None;
    for (line, text) in &lines {
        let Some(property) = property(*line, text) else {
            obstacles.push(Obstacle { line: *line, what: "this is no line of iCalendar".to_owned() });
            break;
        };
        match property.name.as_str() {
            "BEGIN" => {
                let name = property.value.to_ascii_uppercase();
                match (name.as_str(), open.len()) {
                    ("VCALENDAR", 0) => {}
                    ("VEVENT", 1) => event = Some((*line, Vec::new())),
                    ("DAYLIGHT", _) => {}
                    (known, 1..) if WITHOUT_TIMES.contains(&known) => {}
                    (other, _) => obstacles.push(property.wrong(format!("{other} cannot be carried over"))),
                }
                open.push(name);
            }
            "END" => {
                let name = open.pop().unwrap_or_default();
                if !name.eq_ignore_ascii_case(property.value) {
                    obstacles.push(property.wrong(format!("{} does not end what is open", property.value)));
                    break;
                }
                if let Some((line, properties)) = event.take_if(|_| name == "VEVENT")
                    && let Err(obstacle) = add(line, &properties, &mut found)
                {
                    obstacles.push(obstacle);
                }
            }
            "X-WR-CALNAME" if open.len() == 1 => found.spec.description = plain(property.value, usize::MAX),
            _ => {
                if let Some((_, properties)) = event.as_mut().filter(|_| open.len() == 2) {
                    properties.push(property);
                }
            }
        }
    }
    if lines.is_empty() || !open.is_empty() && obstacles.is_empty() {
        let what = open.last().map_or("the file is empty".to_owned(), |open| format!("{open} has no end"));
        obstacles.push(Obstacle { line: lines.last().map_or(1, |(line, _)| *line), what });
    }
    if obstacles.is_empty() {
        return Ok(found);
    }
    obstacles.truncate(PROBLEMS_MAX);
    Err(obstacles)
}

/// Content lines with the number of their first line: one that begins with a blank goes on from the one before
/// (section 3.1).
fn unfolded(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix([' ', '\t']), lines.last_mut()) {
            (Some(rest), Some((_, last))) => last.push_str(rest),
            _ if line.trim().is_empty() => {}
            _ => lines.push((number + 1, line.to_owned())),
        }
    }
    lines
}

/// A content line in its parts; quoted values of parameters may hold what would part them.
fn property(line: usize, text: &str) -> Option<Property<'_>> {
    let mut ends = Vec::new();
    let mut is_quoted = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ';' if !is_quoted => ends.push(at),
            ':' if !is_quoted => {
                ends.push(at);
                break;
            }
            _ => {}
        }
    }
    let colon = ends.pop().filter(|colon| text[*colon..].starts_with(':'))?;
    let (mut pieces, mut from) = (Vec::new(), 0);
    for end in ends.into_iter().chain([colon]) {
        pieces.push(&text[from..end]);
        from = end + 1;
    }
    let (name, params) = pieces.split_first()?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let params = params.iter().map(|param| {
        let (key, value) = param.split_once('=')?;
        Some((key.to_ascii_uppercase(), value.trim_matches('"')))
    });
    let params = params.collect::<Option<_>>()?;
    is_name.then(|| Property { line, name: name.to_ascii_uppercase(), params, value: &text[colon + 1..] })
}

/// A text without its escapes, on one line, cut to so many bytes.
fn plain(text: &str, bytes: usize) -> String {
    let unescaped = text.replace("\\n", " ").replace("\\N", " ").replace("\\,", ",").replace("\\;", ";");
    let mut plain = unescaped.replace("\\\\", "\\").replace(char::is_control, " ").trim().to_owned();
    plain.truncate(plain.floor_char_boundary(bytes));
    plain
}

/// `20261225` or `20261225T090000[Z]`.
fn moment<'a>(property: &'a Property<'_>) -> Result<Moment<'a>, Obstacle> {
    let text = property.value.trim();
    let wrong = || property.wrong(format!("{text:?} is no date or date with time"));
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|digits| digits.parse::<i64>().ok()).ok_or_else(wrong)
    };
    let day = days_from_civil(number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let written = i32::try_from(day).map(|day| Date(day).to_string().replace('-', "")).unwrap_or_default();
    if text.get(..8) != Some(written.as_str()) {
        return Err(wrong());
    }
    let zone = property.param("TZID");
    let (time, is_utc) = match text[8..].strip_suffix('Z') {
        Some(time) => (time, true),
        None => (&text[8..], false),
    };
    if time.is_empty() && !is_utc {
        return Ok(Moment { wall: day * DAY_SECONDS, is_date: true, is_utc, zone: None });
    }
    let (hours, minutes, seconds) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    if time.len() != 7 || !time.starts_with('T') || hours > 23 || minutes > 59 || seconds > 59 {
        return Err(wrong());
    }
    let wall = day * DAY_SECONDS + hours * 3_600 + minutes * 60 + seconds;
    Ok(Moment { wall, is_date: false, is_utc, zone: zone.filter(|_| !is_utc) })
}

/// `P1D`, `PT1H30M`, `P1W` in seconds (section 3.3.6).
fn span(property: &Property<'_>) -> Result<i64, Obstacle> {
    let text = property.value.trim();
    let wrong = || property.wrong(format!("{text:?} is no duration such as P1D or PT1H30M"));
    let rest = text.trim_start_matches('+').strip_prefix('P').ok_or_else(wrong)?;
    let (mut total, mut number, mut in_time) = (0_i64, String::new(), false);
    for letter in rest.chars() {
        let unit = match (letter, in_time) {
            ('0'..='9', _) => {
                number.push(letter);
                continue;
            }
            ('T', false) if number.is_empty() => {
                in_time = true;
                continue;
            }
            ('W', false) => 7 * DAY_SECONDS,
            ('D', false) => DAY_SECONDS,
            ('H', true) => 3_600,
            ('M', true) => 60,
            ('S', true) => 1,
            _ => return Err(wrong()),
        };
        let count: i64 = std::mem::take(&mut number).parse().map_err(|_| wrong())?;
        total = count.checked_mul(unit).and_then(|span| total.checked_add(span)).ok_or_else(wrong)?;
    }
    if number.is_empty() && total > 0 { Ok(total) } else { Err(wrong()) }
}

/// How long an event lasts, in seconds of wall time: to its end, for its duration, or for its day (section 3.6.1).
fn length(start: Moment<'_>, properties: &[Property<'_>]) -> Result<i64, Obstacle> {
    let mut length = None;
    for property in properties {
        match property.name.as_str() {
            "DTEND" => {
                let end = moment(property)?;
                if end.is_date != start.is_date || end.is_utc != start.is_utc || end.zone != start.zone {
                    return Err(property.wrong("it is not of the same kind, or zone, as DTSTART"));
                }
                length = Some(end.wall - start.wall).filter(|length| *length > 0);
                length.ok_or_else(|| property.wrong("it is not later than DTSTART"))?;
            }
            "DURATION" => length = Some(span(property)?),
            _ => {}
        }
    }
    Ok(length.unwrap_or(if start.is_date { DAY_SECONDS } else { 0 }))
}

/// Adds an event to the calendar.
fn add(line: usize, properties: &[Property<'_>], found: &mut Events) -> Result<(), Obstacle> {
    let get = |name: &str| properties.iter().find(|property| property.name == name);
    if get("STATUS").is_some_and(|status| status.value.eq_ignore_ascii_case("CANCELLED")) {
        return Ok(());
    }
    for name in ["RECURRENCE-ID", "EXRULE"] {
        if let Some(property) = get(name) {
            return Err(property.wrong("it cannot be carried over"));
        }
    }
    let doubled = properties.iter().find(|property| {
        let is_single =
            TELLING.contains(&property.name.as_str()) && !["EXDATE", "RDATE"].contains(&&*property.name);
        is_single && properties.iter().any(|other| other.name == property.name && other.line > property.line)
    });
    if let Some(property) = doubled {
        return Err(property.wrong("it is there twice"));
    }
    let missing = || Obstacle { line, what: "the event has no DTSTART".to_owned() };
    let start_at = get("DTSTART").ok_or_else(missing)?;
    let start = moment(start_at)?;
    let length = length(start, properties)?;
    if length == 0 {
        // It takes no time, so it covers none.
        return Ok(());
    }
    if start.is_date && length % DAY_SECONDS != 0 {
        return Err(start_at.wrong("the event is all-day and does not last whole days"));
    }
    let spec = &mut found.spec;
    if spec.dates.len() + spec.windows.len() + spec.rules.len() == CALENDAR_ENTRIES {
        return Err(Obstacle { line, what: format!("more than {CALENDAR_ENTRIES} events") });
    }
    let note = get("SUMMARY").map_or_else(String::new, |summary| plain(summary.value, NOTE_BYTES));
    let recurs = properties.iter().any(|property| ["RRULE", "RDATE"].contains(&property.name.as_str()));
    let path = match (recurs, start.is_date, start.is_utc) {
        (false, true, _) => {
            spec.dates.push(all_day(start, length, &note));
            format!("dates[{}]", spec.dates.len() - 1)
        }
        (false, false, true) => {
            let at = |wall: i64| Some(prost_types::Timestamp { seconds: wall, nanos: 0 });
            let (from, to) = (at(start.wall), at(start.wall + length));
            spec.windows.push(CalendarWindow { from, to, note });
            format!("windows[{}]", spec.windows.len() - 1)
        }
        _ => {
            spec.rules.push(rule(start, length, properties, (recurs, note)));
            format!("rules[{}]", spec.rules.len() - 1)
        }
    };
    found.lines.push((path, line));
    Ok(())
}

fn all_day(start: Moment<'_>, length: i64, note: &str) -> String {
    // four digits of a year fit
    let date = |wall: i64| Date(i32::try_from(wall.div_euclid(DAY_SECONDS)).unwrap_or(i32::MAX));
    let days = Days::Once { from: date(start.wall), to: date(start.wall + length - 1) };
    if note.is_empty() { days.to_string() } else { format!("{days} {note}") }
}

fn rule(
    start: Moment<'_>,
    length: i64,
    properties: &[Property<'_>],
    (recurs, note): (bool, String),
) -> CalendarRule {
    let wanted = ["DTSTART", "RRULE", "RDATE", "EXDATE"];
    let lines = properties.iter().filter(|property| wanted.contains(&property.name.as_str()));
    let mut lines: Vec<String> = lines.map(written).collect();
    if !recurs {
        lines.push("RRULE:FREQ=DAILY;COUNT=1".to_owned());
    }
    let seconds = u64::try_from(length).unwrap_or(0);
    let (duration, days) = if start.is_date {
        (None, u32::try_from(length / DAY_SECONDS).unwrap_or(u32::MAX))
    } else {
        (Some(crate::pb::span::write(Duration::from_secs(seconds))), 0)
    };
    CalendarRule { rrule: lines.join("\n"), duration, days, note }
}

/// A property as the rule keeps it: of its parameters the zone and the kind of value.
fn written(property: &Property<'_>) -> String {
    let mut text = property.name.clone();
    for name in ["TZID", "VALUE"] {
        if let Some(value) = property.param(name) {
            text.extend([";", name, "=", value]);
        }
    }
    format!("{text}:{}", property.value.trim())
}

/// How much a file holds, in words.
#[must_use]
pub fn summary(events: &Events) -> String {
    let CalendarSpec { dates, windows, rules, .. } = &events.spec;
    format!("{} days, {} windows, {} rules", dates.len(), windows.len(), rules.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(events: &str) -> String {
        format!(
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nX-WR-CALNAME:Feiertage\\, alle\r\n{events}END:VCALENDAR\r\n"
        )
        .replace("\r\n", "\n")
    }

    fn event(lines: &str) -> String {
        file(&format!("BEGIN:VEVENT\nUID:1\n{lines}\nEND:VEVENT\n"))
    }

    #[test]
    fn events_become_days_windows_and_rules() {
        let text = file(
            "BEGIN:VTIMEZONE\nTZID:Europe/Berlin\nBEGIN:STANDARD\nDTSTART:19701025T030000\nEND:STANDARD\nEND:VTIMEZONE\n\
             BEGIN:VEVENT\nDTSTART;VALUE=DATE:20261225\nSUMMARY:Christmas\\, day\n  one\nTRANSP:TRANSPARENT\nEND:VEVENT\n\
             BEGIN:VEVENT\nDTSTART;VALUE=DATE:20261231\nDTEND;VALUE=DATE:20270102\nEND:VEVENT\n\
             BEGIN:VEVENT\nDTSTART:20261101T220000Z\nDURATION:PT1H30M\nSUMMARY:move\nEND:VEVENT\n\
             BEGIN:VEVENT\nDTSTART;TZID=Europe/Berlin:20261101T220000\nDTEND;TZID=Europe/Berlin:20261101T230000\nEND:VEVENT\n\
             BEGIN:VEVENT\nDTSTART;VALUE=DATE:20260501\nRRULE:FREQ=YEARLY\nEXDATE;VALUE=DATE:20270501\nEND:VEVENT\n\
             BEGIN:VEVENT\nDTSTART;VALUE=DATE:20260701\nSTATUS:CANCELLED\nEND:VEVENT\n",
        );
        let Events { spec, lines } = read(&text).unwrap();
        assert_eq!(spec.description, "Feiertage, alle");
        assert_eq!(spec.dates, ["2026-12-25 Christmas, day one", "2026-12-31..2027-01-01"]);
        let window = &spec.windows[0];
        assert_eq!((window.from.unwrap().seconds, window.note.as_str()), (1_793_570_400, "move"));
        assert_eq!(window.to.unwrap().seconds - window.from.unwrap().seconds, 5_400);
        assert_eq!(
            spec.rules[0].rrule,
            "DTSTART;TZID=Europe/Berlin:20261101T220000\nRRULE:FREQ=DAILY;COUNT=1"
        );
        assert_eq!(spec.rules[0].duration.unwrap().seconds, 3_600);
        assert_eq!(
            spec.rules[1].rrule,
            "DTSTART;VALUE=DATE:20260501\nRRULE:FREQ=YEARLY\nEXDATE;VALUE=DATE:20270501"
        );
        assert_eq!((spec.rules[1].days, spec.rules[1].duration), (1, None));
        assert_eq!(lines[0], ("dates[0]".to_owned(), 10));
        assert_eq!(
            lines.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>()[2..],
            ["windows[0]", "rules[0]", "rules[1]"]
        );
    }

    #[test]
    fn what_cannot_be_carried_over_is_told_with_its_line() {
        for (text, expected) in [
            (event("SUMMARY:x"), "4: the event has no DTSTART"),
            (
                event("DTSTART:20261301T000000Z"),
                "6: DTSTART: \"20261301T000000Z\" is no date or date with time",
            ),
            (event("DTSTART:20260229"), "6: DTSTART: \"20260229\" is no date or date with time"),
            (
                event("DTSTART:20260101T000000Z\nDTEND:20260101T000000Z"),
                "7: DTEND: it is not later than DTSTART",
            ),
            (
                event("DTSTART;TZID=Europe/Berlin:20260101T000000\nDTEND;TZID=Asia/Tokyo:20260102T000000"),
                "7: DTEND: it is not of the same kind, or zone, as DTSTART",
            ),
            (
                event("DTSTART:20260101T000000Z\nDURATION:P1Y"),
                "7: DURATION: \"P1Y\" is no duration such as P1D or PT1H30M",
            ),
            (
                event("DTSTART:20260101T000000Z\nRECURRENCE-ID:20260101T000000Z\nDURATION:P1D"),
                "7: RECURRENCE-ID: it cannot be carried over",
            ),
            (event("DTSTART:20260101\nRRULE:FREQ=DAILY\nRRULE:FREQ=WEEKLY"), "7: RRULE: it is there twice"),
            (file("BEGIN:VJOURNAL\nEND:VJOURNAL\n"), "4: BEGIN: VJOURNAL cannot be carried over"),
            ("BEGIN:VCALENDAR\nBEGIN:VEVENT\n".to_owned(), "2: VEVENT has no end"),
            ("no calendar".to_owned(), "1: this is no line of iCalendar"),
            (String::new(), "1: the file is empty"),
        ] {
            let told: Vec<String> = read(&text).unwrap_err().iter().map(ToString::to_string).collect();
            assert_eq!(told, [expected], "{text}");
        }
    }

    #[test]
    fn quoted_parameters_may_hold_what_parts_them() {
        let text = event("DTSTART;X-A=\"b;c:d\";VALUE=DATE:20261225");
        assert_eq!(read(&text).unwrap().spec.dates, ["2026-12-25"]);
    }
}
