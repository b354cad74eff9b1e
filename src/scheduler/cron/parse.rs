//! From text to masks: the strict reader of cron lines.
//!
//! It runs on hostile input, when a job is applied: it is linear in the line, which is bounded,
//! and each character is either understood or refused with its place.

use super::error::{CronError, Field};
use super::{CronRule, FIELD_ITEMS_MAX, LINE_BYTES_MAX};
use crate::state::schedule::DayRule;

const FIVE: [Field; 5] = [Field::Minute, Field::Hour, Field::DayOfMonth, Field::Month, Field::DayOfWeek];
const AFTER_VALUE: &str = "`-`, `/`, `,` or the end of the field";
const AFTER_RANGE: &str = "`/`, `,` or the end of the field";
const AFTER_STEP: &str = "`,` or the end of the field";

/// The macros and the lines that they stand for (crontab(5)).
const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// One field, read.
#[derive(Clone, Copy, Default)]
struct FieldMask {
    values: u64,
    /// The text begins with `*`: what Vixie's day rule and `elastic` go by.
    starts_with_star: bool,
    /// Some item is `*` or `*/1`: what robfig's day rule goes by.
    has_full_star: bool,
}

impl CronRule {
    /// Reads a line of the unix dialect; see [`super`] for the language.
    ///
    /// # Errors
    /// [`CronError`], which names the field and the place; [`CronError::NeverFires`] for a line
    /// that is well formed but matches no day of any year.
    pub fn parse(line: &str, day_rule: DayRule) -> Result<Self, CronError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(CronError::LineTooLong { found: line.len() });
        }
        if let Some((at, found)) = line.char_indices().find(|(_, c)| !c.is_ascii()) {
            return Err(CronError::NotAscii { at, found });
        }
        let words = Words::split(line);
        let rule = match words.list() {
            [] => return Err(CronError::Empty),
            [(at, word), ..] if word.starts_with('@') => {
                let line = expand_macro(*at, word, words.count)?;
                Self::from_words(&Words::split(line), day_rule)?
            }
            _ => Self::from_words(&words, day_rule)?,
        };
        if rule.has_any_day() { Ok(rule) } else { Err(CronError::NeverFires) }
    }

    fn from_words(words: &Words<'_>, day_rule: DayRule) -> Result<Self, CronError> {
        // without a seconds field a rule runs at second 0
        let mut second = FieldMask { values: 1, ..FieldMask::default() };
        let five = match words.list() {
            five @ [_, _, _, _, _] => five,
            [(at, text), five @ ..] if five.len() == FIVE.len() => {
                second = read_field(Field::Second, *at, text)?;
                five
            }
            _ => return Err(CronError::FieldCount { at: words.surplus_at, found: words.count }),
        };
        let mut masks = [FieldMask::default(); FIVE.len()];
        for ((mask, field), (at, text)) in masks.iter_mut().zip(FIVE).zip(five) {
            *mask = read_field(field, *at, text)?;
        }
        let [minute, hour, day, month, weekday] = masks;
        let both_days = match day_rule {
            DayRule::OrVixie => day.starts_with_star || weekday.starts_with_star,
            DayRule::OrBare => day.has_full_star || weekday.has_full_star,
            DayRule::And => true,
        };
        // the ranges of the fields bound the masks: 0..=23, 1..=31, 1..=12, 0..=6
        Ok(Self {
            seconds: second.values,
            minutes: minute.values,
            hours: hour.values as u32,
            days: day.values as u32,
            months: month.values as u16,
            weekdays: weekday.values as u8,
            both_days,
            elastic: [second, minute, hour].iter().any(|mask| mask.starts_with_star),
        })
    }
}

/// The blank-separated words of a line with their offsets; only the first six are kept.
struct Words<'l> {
    first: [(usize, &'l str); 6],
    count: usize,
    /// Where the seventh word begins, or where the last one ends.
    surplus_at: usize,
}

impl<'l> Words<'l> {
    fn split(line: &'l str) -> Self {
        let mut words = Self { first: [(0, ""); 6], count: 0, surplus_at: 0 };
        let mut at = 0;
        for word in line.split([' ', '\t']) {
            if !word.is_empty() {
                if let Some(slot) = words.first.get_mut(words.count) {
                    *slot = (at, word);
                    words.surplus_at = at + word.len();
                } else if words.count == words.first.len() {
                    words.surplus_at = at;
                }
                words.count += 1;
            }
            at += word.len() + 1;
        }
        words
    }

    fn list(&self) -> &[(usize, &'l str)] {
        // more than six are refused by their count, so the list must not look like six
        if self.count > self.first.len() { &self.first[..1] } else { &self.first[..self.count] }
    }
}

fn expand_macro(at: usize, word: &str, words: usize) -> Result<&'static str, CronError> {
    if word == "@reboot" {
        return Err(CronError::Reboot { at });
    }
    let lower = word.to_ascii_lowercase();
    if let Some((_, line)) = MACROS.iter().find(|(name, _)| *name == word) {
        // a macro stands alone
        return if words == 1 {
            Ok(line)
        } else {
            Err(CronError::FieldCount { at: at + word.len(), found: words })
        };
    }
    let hint = if lower == "@every" {
        Some("write `every: 5m` instead of a cron line".to_owned())
    } else {
        nearest(&lower, MACROS.iter().map(|(name, _)| *name)).map(|name| format!("did you mean `{name}`?"))
    };
    Err(CronError::UnknownMacro { at, found: word.to_owned(), hint })
}

/// The name nearest to `word` by edit distance, if any is near.
fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .min()
        .filter(|(distance, name)| distance * 2 < name.len().max(3))
        .map(|(_, name)| name)
}

fn read_field(field: Field, at: usize, text: &str) -> Result<FieldMask, CronError> {
    let mut mask = FieldMask { starts_with_star: text.starts_with('*'), ..FieldMask::default() };
    let mut reader = Reader { field, text, base: at, at: 0 };
    for count in 1.. {
        if count > FIELD_ITEMS_MAX {
            return Err(CronError::TooManyItems { field, at: reader.place() });
        }
        reader.item(&mut mask)?;
        if reader.at == text.len() {
            break;
        }
        // an item ends at a comma or at the end of the field, and nowhere else
        reader.at += 1;
    }
    Ok(mask)
}

/// A cursor over the text of one field.
struct Reader<'l> {
    field: Field,
    text: &'l str,
    /// Where the field begins in the line.
    base: usize,
    at: usize,
}

impl<'l> Reader<'l> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The cursor as an offset into the line.
    fn place(&self) -> usize {
        self.base + self.at
    }

    fn take_while(&mut self, wanted: impl Fn(&u8) -> bool) -> &'l str {
        let start = self.at;
        self.at += self.text.as_bytes()[start..].iter().take_while(|byte| wanted(byte)).count();
        &self.text[start..self.at]
    }

    fn unexpected(&self, expected: &'static str) -> CronError {
        let found = match self.peek() {
            None => "the end of the field".to_owned(),
            Some(byte) => {
                if let Some(dialect) = foreign(byte) {
                    return self.foreign(self.at, byte, dialect);
                }
                format!("`{}`", byte.escape_ascii())
            }
        };
        CronError::Unexpected { field: self.field, at: self.place(), found, expected }
    }

    fn foreign(&self, at: usize, byte: u8, dialect: &'static str) -> CronError {
        CronError::ForeignCharacter {
            field: self.field,
            at: self.base + at,
            found: char::from(byte.to_ascii_uppercase()),
            dialect,
        }
    }

    /// Reads one item and leaves the cursor at a comma or at the end.
    fn item(&mut self, mask: &mut FieldMask) -> Result<(), CronError> {
        let field = self.field;
        let star = self.peek() == Some(b'*');
        let (first, mut last, expected) = match self.peek() {
            None | Some(b',') => return Err(CronError::EmptyItem { field, at: self.place() }),
            Some(b'*') => {
                self.at += 1;
                (field.min(), last_value(field), AFTER_RANGE)
            }
            Some(_) => self.range()?,
        };
        let mut step = 1;
        let is_single = expected == AFTER_VALUE;
        match self.peek() {
            Some(b'/') => {
                self.at += 1;
                step = self.step()?;
                if is_single {
                    last = last_value(field);
                }
                if !matches!(self.peek(), None | Some(b',')) {
                    return Err(self.unexpected(AFTER_STEP));
                }
            }
            None | Some(b',') => {}
            Some(_) => return Err(self.unexpected(expected)),
        }
        mask.has_full_star |= star && step == 1;
        mask.values |= values(field, first, last, step);
        Ok(())
    }

    /// `a` or `a-b`: the two ends, equal for `a`, and what may follow.
    fn range(&mut self) -> Result<(u32, u32, &'static str), CronError> {
        let first = self.value()?;
        if self.peek() != Some(b'-') {
            return Ok((first, first, AFTER_VALUE));
        }
        self.at += 1;
        let last = self.value()?;
        Ok((first, last, AFTER_RANGE))
    }

    /// A number or a name.
    fn value(&mut self) -> Result<u32, CronError> {
        let start = self.at;
        let field = self.field;
        match self.peek() {
            Some(byte) if byte.is_ascii_digit() => {
                let digits = self.take_while(u8::is_ascii_digit);
                // a number too large for u32 is out of range all the same
                let value = digits.parse().unwrap_or(u32::MAX);
                if (field.min()..=field.max()).contains(&value) {
                    Ok(value)
                } else {
                    Err(CronError::OutOfRange { field, at: self.base + start, found: digits.to_owned() })
                }
            }
            Some(byte) if byte.is_ascii_alphabetic() => {
                let word = self.take_while(u8::is_ascii_alphabetic);
                self.name(start, word)
            }
            _ if field.names().is_empty() => Err(self.unexpected("a number or `*`")),
            _ => Err(self.unexpected("a number, a name or `*`")),
        }
    }

    fn name(&self, start: usize, word: &str) -> Result<u32, CronError> {
        let field = self.field;
        let lower = word.to_ascii_lowercase();
        let names = field.names();
        if let Some(index) = names.iter().position(|name| *name == lower) {
            // twelve names at most
            return Ok(field.min() + index as u32);
        }
        let at = self.base + start;
        let without_last = names.iter().any(|name| Some(*name) == lower.strip_suffix('l'));
        if without_last {
            return Err(self.foreign(start + word.len() - 1, b'L', "quartz"));
        }
        if let (b"l" | b"w" | b"lw" | b"h", [first, ..]) = (lower.as_bytes(), word.as_bytes())
            && let Some(dialect) = foreign(*first)
        {
            return Err(self.foreign(start, *first, dialect));
        }
        let found = word.to_owned();
        if names.is_empty() {
            return Err(CronError::NameInNumberField { field, at, found });
        }
        let hint = names
            .iter()
            .copied()
            .find(|name| lower.starts_with(name))
            .or_else(|| nearest(&lower, names.iter().copied()))
            .map(|name| format!("did you mean `{name}`?"));
        Err(CronError::UnknownName { field, at, found, hint })
    }

    fn step(&mut self) -> Result<u32, CronError> {
        let start = self.place();
        let digits = self.take_while(u8::is_ascii_digit);
        if digits.is_empty() {
            return Err(self.unexpected("a number"));
        }
        // a step beyond the field leaves only the first value, as in every cron: `0 */24 * * *`
        match digits.parse().unwrap_or(u32::MAX) {
            0 => Err(CronError::ZeroStep { field: self.field, at: start }),
            step => Ok(step),
        }
    }
}

/// The dialect that gives this character a meaning, if unix cron gives it none.
fn foreign(byte: u8) -> Option<&'static str> {
    match byte.to_ascii_uppercase() {
        b'L' | b'W' | b'#' | b'?' => Some("quartz"),
        b'H' => Some("jenkins"),
        b'~' => Some("cronie"),
        _ => None,
    }
}

/// The last value of `*` and `a/n`: Sunday is counted once.
const fn last_value(field: Field) -> u32 {
    match field {
        Field::DayOfWeek => 6,
        Field::Second | Field::Minute | Field::Hour | Field::DayOfMonth | Field::Month => field.max(),
    }
}

/// The mask of each `step`th value from `first` to `last`, which lie in the field; a range whose
/// first end is the larger wraps by the field's own size.
fn values(field: Field, first: u32, last: u32, step: u32) -> u64 {
    let size = last_value(field) - field.min() + 1;
    let fold = |value: u32| field.min() + (value - field.min()) % size;
    let (first, last) = match (first, last) {
        // 5-7 counts up to the second Sunday, 7-2 from the first
        (first, last) if first <= last => (first, last),
        (first, last) if fold(first) <= last => (fold(first), last),
        (first, last) => (first, last + size),
    };
    let mut mask = 0;
    let mut value = first;
    while value <= last {
        mask |= 1 << fold(value);
        value = value.saturating_add(step);
    }
    mask
}
