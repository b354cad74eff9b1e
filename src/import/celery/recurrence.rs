//! RedBeat's `rrule`, which has the arguments of `dateutil.rrule`, as properties of RFC 5545.

use crate::import::Sheet;
use crate::import::yaml::Item;
use crate::state::time::Timestamp;

/// As `dateutil` numbers them.
const FREQUENCIES: [&str; 7] = ["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"];
const WEEKDAYS: [&str; 7] = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];
/// Arguments that are lists of numbers there and here.
const LISTS: [(&str, &str); 8] = [
    ("bysetpos", "BYSETPOS"),
    ("bymonth", "BYMONTH"),
    ("bymonthday", "BYMONTHDAY"),
    ("byyearday", "BYYEARDAY"),
    ("byweekno", "BYWEEKNO"),
    ("byhour", "BYHOUR"),
    ("byminute", "BYMINUTE"),
    ("bysecond", "BYSECOND"),
];

/// The properties. RedBeat knows the offset of `dtstart` and not its zone, so the rule goes on in that offset.
///
/// # Errors
/// What of it there is no property for.
pub(super) fn read(item: &Item<'_>, sheet: &mut Sheet<'_>) -> Result<String, String> {
    let refusal = |key: &str, why: &str| format!("{}.{key}: {why}", item.path);
    let number = |key: &str| item.get(key).and_then(|text| text.parse::<f64>().ok());
    let named = |names: &[&str], text: &str| {
        let place: Option<usize> = text.parse().ok();
        place.and_then(|place| names.get(place)).map(|name| (*name).to_owned())
    };
    if item.entry("byeaster").is_some() {
        return Err(refusal("byeaster", "RFC 5545 has no Easter"));
    }
    let freq = item.get("freq").and_then(|freq| named(&FREQUENCIES, freq));
    let mut parts = vec![format!("FREQ={}", freq.ok_or_else(|| refusal("freq", "expected 0 to 6"))?)];
    let plain = [("interval", "INTERVAL"), ("count", "COUNT")];
    parts.extend(plain.iter().filter_map(|(key, part)| Some(format!("{part}={}", item.get(key)?))));
    if let Some(day) = item.get("wkst").and_then(|day| named(&WEEKDAYS, day)) {
        parts.push(format!("WKST={day}"));
    }
    for (key, part) in LISTS {
        let values = item.entry(key).map_or_else(Vec::new, |list| list.one_or_more(sheet));
        if !values.is_empty() {
            parts.push(format!("{part}={}", values.join(",")));
        }
    }
    let mut days = Vec::new();
    if let Some(list) = item.entry("byweekday") {
        let elements = if list.is_list() { list.elements(sheet) } else { vec![list] };
        for day in elements {
            let number = if day.is_map() { day.get("wkday") } else { day.text(sheet) };
            let day = number.and_then(|number| named(&WEEKDAYS, number));
            days.push(day.ok_or_else(|| refusal("byweekday", "expected 0 to 6"))?);
        }
    }
    if !days.is_empty() {
        parts.push(format!("BYDAY={}", days.join(",")));
    }
    let minutes = number("dtstart_tz").unwrap_or_default();
    if let Some(until) = number("until") {
        // Named in UTC, or as wall time like the beginning.
        let wall = if minutes == 0.0 { until } else { until + minutes * 60.0 };
        parts.push(format!("UNTIL={}{}", stamp(wall), if minutes == 0.0 { "Z" } else { "" }));
    }
    let start = number("dtstart").ok_or_else(|| refusal("dtstart", "is missing"))?;
    if minutes != 0.0 {
        return Ok(format!("DTSTART:{} RRULE:{}", stamp(start + minutes * 60.0), parts.join(";")));
    }
    Ok(format!("DTSTART:{}Z RRULE:{}", stamp(start), parts.join(";")))
}

/// The zone of the rule: a fixed offset, or none where it is UTC.
pub(super) fn zone(item: &Item<'_>) -> Option<String> {
    let minutes = item.get("dtstart_tz")?.parse::<f64>().ok()?;
    if minutes == 0.0 || minutes.abs() >= 1_440.0 {
        return None;
    }
    let sign = if minutes < 0.0 { '-' } else { '+' };
    let minutes = minutes.abs();
    Some(format!("fixed:{sign}{:02}:{:02}", (minutes / 60.0).floor(), minutes % 60.0))
}

/// `20260105T090000`.
#[expect(clippy::cast_possible_truncation, reason = "instants are clamped to the years that there are")]
fn stamp(seconds: f64) -> String {
    let text = Timestamp::from_millis((seconds * 1_000.0) as i64).to_string();
    let text: String = text.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    text.split('.').next().unwrap_or_default().trim_end_matches('Z').to_owned()
}
