//! Rules as lines of five fields.

use std::time::Duration;

use crate::state::schedule::{DayRule, Dialect, Fold, Gap, Rule, Schedule};

/// Whose line it is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Debian's cron: its rule for days, and for wall times that are missing or double.
    Debian,
    /// robfig/cron 3.
    Robfig,
}

/// A line, and what is not quite as it was.
pub(super) struct Line {
    pub(super) text: String,
    pub(super) approximation: Option<&'static str>,
}

const MINUTE: u64 = 60;

/// # Errors
/// Why there is no such line.
pub(super) fn line(schedule: &Schedule, reader: Reader) -> Result<Line, String> {
    match &schedule.rule {
        Rule::Cron { line, dialect: Dialect::Unix, day_rule } => of_cron(line, *day_rule, schedule, reader),
        Rule::Every { period, offset } => of_period(*period, *offset).map(exact),
        Rule::Cron { dialect: Dialect::Quartz | Dialect::Aws, .. } => {
            Err("schedule.dialect: only lines of the unix dialect are written".to_owned())
        }
        Rule::At(_) => Err("schedule.at: there is no such schedule there".to_owned()),
        Rule::AfterCompletion { .. } => Err("schedule.from: there is no such schedule there".to_owned()),
        Rule::Recurrence(_) => Err("schedule.rrule: there is no such schedule there".to_owned()),
        Rule::Calendar(_) => Err("schedule.calendar: there is no such schedule there".to_owned()),
        Rule::Solar { .. } => Err("schedule.solar: there is no such schedule there".to_owned()),
    }
}

fn exact(text: String) -> Line {
    Line { text, approximation: None }
}

fn of_cron(line: &str, day_rule: DayRule, schedule: &Schedule, reader: Reader) -> Result<Line, String> {
    if line.starts_with('@') {
        return Ok(Line { text: line.to_owned(), approximation: odd_days(false, schedule, reader) });
    }
    let fields: Vec<&str> = line.split_whitespace().collect();
    let fields = match fields.as_slice() {
        ["0", five @ ..] if five.len() == 5 => five,
        five if five.len() == 5 => five,
        _ => return Err(format!("schedule.cron: {line:?} has seconds or years, which a line there has not")),
    };
    let &[_, _, dates, _, weekdays] = fields else { return Err("schedule.cron: is no line".to_owned()) };
    let rule = match reader {
        Reader::Debian => DayRule::OrVixie,
        Reader::Robfig => DayRule::OrBare,
    };
    // They differ only where both days are restricted.
    let differs = day_rule != rule && dates != "*" && weekdays != "*";
    if differs {
        return Err("schedule.day_rule: days go together in another way there".to_owned());
    }
    let is_elastic = fields[..2].iter().any(|field| field.starts_with('*'));
    let fields: Vec<String> =
        (0..).zip(fields).map(|(place, field)| plain(place, field)).collect::<Result<_, _>>()?;
    Ok(Line { text: fields.join(" "), approximation: odd_days(is_elastic, schedule, reader) })
}

/// A field without what only we read: ranges that wrap, and `a/n`.
fn plain(place: usize, field: &str) -> Result<String, String> {
    const BOUNDS: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
    if field.contains('~') || field.split(',').any(|item| item.starts_with(['H', 'h'])) {
        return Err(format!(
            "schedule.cron: {field:?} is a value of the job's own, which there is not known"
        ));
    }
    let Some(&(first, last)) = BOUNDS.get(place) else { return Ok(field.to_owned()) };
    let items = field.split(',').map(|item| {
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let numbers = range.split_once('-').map(|(from, to)| (from.parse::<u32>(), to.parse::<u32>()));
        match (numbers, step) {
            (Some((Ok(from), Ok(to))), None) if from > to => Ok(format!("{from}-{last},{first}-{to}")),
            (Some((Ok(from), Ok(to))), Some(_)) if from > to => {
                Err(format!("schedule.cron: {item:?} wraps in steps, which no line there says"))
            }
            (Some((Err(_), _) | (_, Err(_))), _) => names(item, range),
            (None, Some(step)) if range != "*" => Ok(format!("{range}-{last}/{step}")),
            _ => Ok(item.to_owned()),
        }
    });
    Ok(items.collect::<Result<Vec<_>, _>>()?.join(","))
}

/// A range of names, which must not wrap.
fn names(item: &str, range: &str) -> Result<String, String> {
    const NAMES: [&str; 19] = [
        "sun", "mon", "tue", "wed", "thu", "fri", "sat", "jan", "feb", "mar", "apr", "may", "jun", "jul",
        "aug", "sep", "oct", "nov", "dec",
    ];
    let place = |name: &str| NAMES.iter().position(|known| *known == name.to_ascii_lowercase());
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    match (place(from), place(to)) {
        (Some(from), Some(to)) if from <= to => Ok(item.to_owned()),
        _ => Err(format!("schedule.cron: {item:?} wraps, which no line there says")),
    }
}

fn odd_days(is_elastic: bool, schedule: &Schedule, reader: Reader) -> Option<&'static str> {
    let is_same = match reader {
        _ if is_elastic || schedule.timezone == "UTC" => true,
        Reader::Debian => (schedule.gap, schedule.fold) == (Gap::RunAtEnd, Fold::First),
        Reader::Robfig => (schedule.gap, schedule.fold) == (Gap::Skip, Fold::Both),
    };
    match reader {
        _ if is_same => None,
        Reader::Debian => {
            Some("schedule.dst: a missing wall time runs at the end of the gap there, a double one once")
        }
        Reader::Robfig => Some("schedule.dst: a missing wall time is skipped there, a double one runs twice"),
    }
}

/// A period that a line can say in every zone: so many minutes that an hour is a multiple of them.
fn of_period(period: Duration, offset: Duration) -> Result<String, String> {
    let no_line = || Err(format!("schedule.every: no line says {}", crate::pb::span::format(period)));
    let whole = |span: Duration| {
        (span.subsec_nanos() == 0 && span.as_secs().is_multiple_of(MINUTE)).then_some(span.as_secs() / MINUTE)
    };
    let (Some(minutes), Some(offset)) = (whole(period), whole(offset)) else { return no_line() };
    match (minutes, offset) {
        (1, _) => Ok("* * * * *".to_owned()),
        (60, offset) => Ok(format!("{offset} * * * *")),
        (minutes, 0) if 60_u64.is_multiple_of(minutes.max(1)) && minutes > 0 => {
            Ok(format!("*/{minutes} * * * *"))
        }
        (minutes, offset) if minutes > 0 && 60_u64.is_multiple_of(minutes) => {
            Ok(format!("{offset}-59/{minutes} * * * *"))
        }
        _ => no_line(),
    }
}
