//! From text to masks: the strict reader of calendar events.

use super::{CalendarError, CronRule, ITEMS_MAX, Part, TEXT_BYTES_MAX};
use crate::scheduler::cron::{Days, Years};
use crate::scheduler::times::Times;
use crate::scheduler::zone::{Zone, Zones};

/// Weekdays in the order of systemd's ranges, from Monday.
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
/// What single words stand for (systemd.time(7)).
const WORDS: [(&str, &str); 9] = [
    ("minutely", "*-*-* *:*:00"),
    ("hourly", "*-*-* *:00:00"),
    ("daily", "*-*-* 00:00:00"),
    ("monthly", "*-*-01 00:00:00"),
    ("weekly", "Mon *-*-* 00:00:00"),
    ("yearly", "*-01-01 00:00:00"),
    ("annually", "*-01-01 00:00:00"),
    ("quarterly", "*-01,04,07,10-01 00:00:00"),
    ("semiannually", "*-01,07-01 00:00:00"),
];
const ORDER: &str = "weekdays, a date, a time or a zone, in this order";

/// A word of the text.
#[derive(Clone, Copy)]
struct Word<'t> {
    at: usize,
    text: &'t str,
}

/// Reads an expression; see [`super`] for the language. `timezone` is the schedule's; the zone that the rule is
/// to be read in is the one of the expression, where it names one.
///
/// # Errors
/// [`CalendarError`], which names the part and the place; [`CalendarError::NeverFires`] for an expression that
/// is well formed but matches no day of any year.
pub fn parse(text: &str, timezone: &Zone, zones: &Zones) -> Result<(CronRule, Zone), CalendarError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(CalendarError::TooLong { found: text.len() });
    }
    let mut words = words(text);
    if words.is_empty() {
        return Err(CalendarError::Empty);
    }
    let mut zone = timezone.clone();
    if let [_, .., last] = words[..]
        && is_zone(last)
    {
        zone = named(last, timezone, zones)?;
        words.pop();
    }
    let event = match words[..] {
        [word] => match WORDS.iter().find(|(name, _)| word.text.eq_ignore_ascii_case(name)) {
            Some((_, stands_for)) => Event::read(&self::words(stands_for))?,
            None => Event::read(&words)?,
        },
        _ => Event::read(&words)?,
    };
    let rule = event.rule();
    if rule.has_any_day() { Ok((rule, zone)) } else { Err(CalendarError::NeverFires) }
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut at = 0;
    let mut words = Vec::new();
    for word in text.split([' ', '\t']) {
        if !word.is_empty() {
            words.push(Word { at, text: word });
        }
        at += word.len() + 1;
    }
    words
}

fn is_zone(word: Word<'_>) -> bool {
    word.text.starts_with(|first: char| first.is_ascii_alphabetic()) && weekday_of(word.text).is_none()
}

fn named(word: Word<'_>, timezone: &Zone, zones: &Zones) -> Result<Zone, CalendarError> {
    let zone = zones.zone(word.text).map_err(|error| CalendarError::Zone { at: word.at, error })?;
    let is_default = timezone.is_fixed() && timezone.segment(0).offset == 0;
    if is_default || zone == *timezone {
        return Ok(zone);
    }
    let (found, timezone) = (zone.name().to_owned(), timezone.name().to_owned());
    Err(CalendarError::OtherZone { found, timezone })
}

/// The weekday that a list begins with; 0 is Monday.
fn weekday_of(text: &str) -> Option<u32> {
    let name: &str = &text[..text.bytes().take_while(u8::is_ascii_alphabetic).count()];
    let lower = name.to_ascii_lowercase();
    let is_it = |day: &&str| **day == lower || day[..3] == lower;
    // seven of them
    WEEKDAYS.iter().position(is_it).map(|place| place as u32)
}

/// A list, read. Bit n is the value n, or the nth year from the first on.
#[derive(Clone, Copy, Default)]
struct Mask {
    bits: [u64; 4],
    is_star: bool,
}

impl Mask {
    const fn only(value: u32) -> Self {
        Self { bits: [1 << value, 0, 0, 0], is_star: false }
    }

    fn star(part: Part) -> Self {
        let mut mask = Self { is_star: true, ..Self::default() };
        let (first, last) = part.range();
        (first..=last).for_each(|value| mask.add(part, value));
        mask
    }

    fn add(&mut self, part: Part, value: u32) {
        let bit = if part == Part::Year { value - part.range().0 } else { value };
        self.bits[(bit / 64) as usize] |= 1 << (bit % 64);
    }
}

/// An expression, part by part.
struct Event {
    /// Bit 0 is Monday.
    weekdays: Mask,
    year: Mask,
    month: Mask,
    day: Mask,
    from_end: bool,
    time: [Mask; 3],
}

impl Event {
    fn read(words: &[Word<'_>]) -> Result<Self, CalendarError> {
        let mut event = Self {
            weekdays: Mask::star(Part::Weekday),
            year: Mask::star(Part::Year),
            month: Mask::star(Part::Month),
            day: Mask::star(Part::Day),
            from_end: false,
            time: [Mask::only(0); 3],
        };
        let mut rest = words.iter().copied().peekable();
        if let Some(word) = rest.next_if(|word| weekday_of(word.text).is_some()) {
            event.weekdays = weekdays(word)?;
        }
        if let Some(word) = rest.next_if(|word| !word.text.contains(':') && word.text.contains(['-', '~'])) {
            event.date(word)?;
        }
        if let Some(word) = rest.next_if(|word| word.text.contains(':')) {
            event.time(word)?;
        }
        match rest.next() {
            None => Ok(event),
            Some(Word { at, text }) => {
                let names =
                    WORDS.iter().map(|(name, _)| *name).chain(WEEKDAYS.map(|day| &day[..3])).chain(WEEKDAYS);
                let lower = text.to_ascii_lowercase();
                let near = names.map(|name| (strsim::damerau_levenshtein(&lower, name), name)).min();
                let hint = near.filter(|(distance, name)| distance * 3 <= name.len());
                let hint = hint.map(|(_, name)| format!("did you mean `{name}`?"));
                let found = text.escape_debug().to_string();
                Err(CalendarError::Word { at, found, expected: ORDER, hint })
            }
        }
    }

    fn date(&mut self, word: Word<'_>) -> Result<(), CalendarError> {
        // one `-` or `~` less: no year
        let dashes = word.text.bytes().filter(|byte| matches!(byte, b'-' | b'~')).count();
        let mut reader = Reader { word, at: 0 };
        if dashes > 1 {
            self.year = reader.list(Part::Year)?;
            reader.take(b'-', Part::Year, "`-`, `..`, `/` or `,`")?;
        }
        self.month = reader.list(Part::Month)?;
        if reader.peek() == Some(b'~') {
            reader.at += 1;
            self.from_end = true;
            self.day = reader.list(Part::DayFromEnd)?;
            return reader.end(Part::DayFromEnd);
        }
        reader.take(b'-', Part::Month, "`-`, `~`, `..`, `/` or `,`")?;
        self.day = reader.list(Part::Day)?;
        reader.end(Part::Day)
    }

    fn time(&mut self, word: Word<'_>) -> Result<(), CalendarError> {
        let mut reader = Reader { word, at: 0 };
        self.time[0] = reader.list(Part::Hour)?;
        reader.take(b':', Part::Hour, "`:`, `..`, `/` or `,`")?;
        self.time[1] = reader.list(Part::Minute)?;
        if reader.peek() == Some(b':') {
            reader.at += 1;
            self.time[2] = reader.list(Part::Second)?;
            return reader.end(Part::Second);
        }
        reader.end(Part::Minute)
    }

    fn rule(&self) -> CronRule {
        let [hours, minutes, seconds] = &self.time;
        let monday_first = self.weekdays.bits[0];
        let day = self.day.bits[0];
        CronRule {
            // the ranges of the parts bound the masks
            times: Times { seconds: seconds.bits[0], minutes: minutes.bits[0], hours: hours.bits[0] as u32 },
            months: self.month.bits[0] as u16,
            days: Days {
                dates: if self.from_end { 0 } else { day as u32 },
                // the last day, 1, is the 0th before the end
                dates_from_end: if self.from_end { (day >> 1) as u32 } else { 0 },
                weekdays: ((monday_first << 1 | monday_first >> 6) & 0x7f) as u8,
                both: true,
                ..Days::default()
            },
            years: Years(Some(self.year.bits).filter(|_| !self.year.is_star)),
            elastic: self.time.iter().any(|mask| mask.is_star),
        }
    }
}

/// `Mon,Wed..Fri`.
fn weekdays(word: Word<'_>) -> Result<Mask, CalendarError> {
    let mut mask = Mask::default();
    let mut at = word.at;
    let unexpected = |at: usize, text: &str, expected, hint| {
        let found = if text.is_empty() { "nothing".to_owned() } else { format!("`{}`", text.escape_debug()) };
        CalendarError::Unexpected { part: Part::Weekday, at, found, expected, hint }
    };
    // systemd takes a comma at the end
    for item in word.text.strip_suffix(',').unwrap_or(word.text).split(',') {
        let (first, last) = item.split_once("..").or_else(|| item.split_once('-')).unwrap_or((item, item));
        let day = |text: &str| {
            let is_name = text.bytes().all(|byte| byte.is_ascii_alphabetic());
            weekday_of(text)
                .filter(|_| is_name)
                .ok_or_else(|| unexpected(at, text, "a weekday, such as `Mon` or `Monday`", None))
        };
        let (first, last) = (day(first)?, day(last)?);
        if last < first {
            let days = (first..7).chain(0..=last).map(|day| capital(WEEKDAYS[day as usize]));
            let hint = format!("write `{}`", days.collect::<Vec<_>>().join(","));
            return Err(unexpected(at, item, "a range that does not go beyond Sunday", Some(hint)));
        }
        (first..=last).for_each(|day| mask.add(Part::Weekday, day));
        at += item.len() + 1;
    }
    Ok(mask)
}

/// The short form of a weekday.
fn capital(day: &str) -> String {
    format!("{}{}", day[..1].to_ascii_uppercase(), &day[1..3])
}

/// A cursor over one word.
struct Reader<'t> {
    word: Word<'t>,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.word.text.as_bytes().get(self.at).copied()
    }

    fn unexpected(&self, part: Part, expected: &'static str) -> CalendarError {
        let rest = self.word.text.get(self.at..).unwrap_or_default();
        let found = rest.chars().next();
        let found = found.map_or_else(|| "the end".to_owned(), |found| format!("`{}`", found.escape_debug()));
        CalendarError::Unexpected { part, at: self.word.at + self.at, found, expected, hint: None }
    }

    fn take(&mut self, byte: u8, part: Part, expected: &'static str) -> Result<(), CalendarError> {
        if self.peek() != Some(byte) {
            return Err(self.unexpected(part, expected));
        }
        self.at += 1;
        Ok(())
    }

    fn end(&self, part: Part) -> Result<(), CalendarError> {
        match (self.peek(), part) {
            (None, _) => Ok(()),
            (Some(b'.'), Part::Second) => Err(self.unexpected(part, "whole seconds")),
            (Some(_), _) => Err(self.unexpected(part, "`..`, `/`, `,` or the end")),
        }
    }

    /// `*`, or items with commas between them.
    fn list(&mut self, part: Part) -> Result<Mask, CalendarError> {
        if self.peek() == Some(b'*') {
            self.at += 1;
            if self.peek() != Some(b'/') {
                return Ok(Mask::star(part));
            }
            let step = self.word.text.get(self.at..).unwrap_or_default();
            let step: String = step.chars().take_while(|c| *c == '/' || c.is_ascii_digit()).collect();
            let hint = Some(format!("write `{}{step}`", part.range().0));
            let at = self.word.at + self.at;
            let expected = "no step behind `*`";
            return Err(CalendarError::Unexpected { part, at, found: "`/`".to_owned(), expected, hint });
        }
        let mut mask = Mask::default();
        for count in 1.. {
            if count > ITEMS_MAX {
                return Err(CalendarError::TooManyItems { part, at: self.word.at + self.at });
            }
            self.item(part, &mut mask)?;
            if self.peek() != Some(b',') {
                break;
            }
            self.at += 1;
        }
        Ok(mask)
    }

    fn item(&mut self, part: Part, mask: &mut Mask) -> Result<(), CalendarError> {
        let first = self.value(part)?;
        let mut last = None;
        if self.word.text[self.at..].starts_with("..") {
            self.at += 2;
            let at = self.at;
            let end = self.value(part)?;
            if end < first {
                let found = format!("`{}`", &self.word.text[at..self.at]);
                let expected = "a number that is not less than the first";
                let at = self.word.at + at;
                return Err(CalendarError::Unexpected { part, at, found, expected, hint: None });
            }
            last = Some(end);
        }
        let mut step = None;
        if self.peek() == Some(b'/') {
            self.at += 1;
            let at = self.at;
            let digits = self.digits();
            step = digits.parse::<u32>().ok().filter(|step| *step > 0);
            if step.is_none() {
                self.at = at;
                return Err(self.unexpected(part, "a step of at least 1"));
            }
        }
        let (least, most) = part.range();
        match (last, step) {
            (None, None) => mask.add(part, first),
            // counted from the end, towards the end
            (None, Some(step)) if part == Part::DayFromEnd => {
                let mut values = std::iter::successors(Some(first), |value| value.checked_sub(step));
                values.by_ref().take_while(|value| *value >= least).for_each(|value| mask.add(part, value));
            }
            (last, step) => {
                let mut values =
                    std::iter::successors(Some(first), |value| value.checked_add(step.unwrap_or(1)));
                let last = last.unwrap_or(most);
                values.by_ref().take_while(|value| *value <= last).for_each(|value| mask.add(part, value));
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> &str {
        let start = self.at;
        self.at += self.word.text.as_bytes()[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        &self.word.text[start..self.at]
    }

    fn value(&mut self, part: Part) -> Result<u32, CalendarError> {
        let start = self.at;
        let digits = self.digits().to_owned();
        if digits.is_empty() {
            return Err(self.unexpected(part, "a number or `*`"));
        }
        // a number too large for u32 is out of range all the same
        let value = digits.parse().unwrap_or(u32::MAX);
        let value = match (part, value) {
            (Part::Year, 0..70) => value + 2_000,
            (Part::Year, 70..100) => value + 1_900,
            _ => value,
        };
        let (least, most) = part.range();
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        Err(CalendarError::OutOfRange { part, at: self.word.at + start, found: digits })
    }
}
