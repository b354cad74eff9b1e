//! From text to masks: the strict reader of cron lines.
//!
//! It runs on hostile input, when a job is applied: it is linear in the line, which is bounded,
//! and each character is either understood or refused with its place.

use super::advice::advised;
use super::error::{CronError, Field};
use super::field::{FieldMask, Manner, read_field};
use super::{CronRule, Days, LINE_BYTES_MAX, Years};
use crate::scheduler::spread::Spread;
use crate::scheduler::times::Times;
use crate::state::schedule::{DayRule, Dialect};

const FIVE: [Field; 5] = [Field::Minute, Field::Hour, Field::DayOfMonth, Field::Month, Field::DayOfWeek];
const FIVE_FROM_ONE: [Field; 5] =
    [Field::Minute, Field::Hour, Field::DayOfMonth, Field::Month, Field::DayOfWeekFromOne];
/// Most fields of a line.
const WORDS_MAX: usize = 7;

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

impl CronRule {
    /// Reads a line; see [`super`] for the language. The day rule matters to the unix dialect alone, for
    /// the others ask for `?` in one of the two fields; `spread` to `H` and `~`.
    ///
    /// # Errors
    /// [`CronError`], which names the field and the place; [`CronError::NeverFires`] for a line
    /// that is well formed but matches no day of any year.
    pub fn parse(line: &str, dialect: Dialect, day_rule: DayRule, spread: Spread) -> Result<Self, CronError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(CronError::LineTooLong { found: line.len() });
        }
        if let Some((at, found)) = line.char_indices().find(|(_, c)| !c.is_ascii()) {
            return Err(CronError::NotAscii { at, found });
        }
        let manner = Manner { dialect, spread };
        Self::read(line, manner, day_rule).map_err(|error| advised(error, line, dialect, day_rule))
    }

    /// As [`Self::parse`], without advice.
    pub(super) fn read(line: &str, manner: Manner, day_rule: DayRule) -> Result<Self, CronError> {
        let words = match manner.dialect {
            Dialect::Unix | Dialect::Quartz => Words::split(0, line),
            Dialect::Aws => unwrapped(line),
        };
        let rule = match words.list() {
            [] if words.count == 0 => return Err(CronError::Empty),
            [(at, word)] if word.starts_with('@') && manner.dialect == Dialect::Unix => {
                let line = expand_macro(*at, word)?;
                Self::from_words(&Words::split(0, line), manner, day_rule)?
            }
            [(at, word), ..] if word.starts_with('@') && manner.dialect == Dialect::Unix => {
                expand_macro(*at, word)?;
                return Err(words.miscounted(manner.dialect));
            }
            _ => Self::from_words(&words, manner, day_rule)?,
        };
        if rule.has_any_day() { Ok(rule) } else { Err(CronError::NeverFires) }
    }

    fn from_words(words: &Words<'_>, manner: Manner, day_rule: DayRule) -> Result<Self, CronError> {
        let field = |field, (at, text): &(usize, &str)| read_field(field, *at, text, manner);
        let (second, five, year) = match (manner.dialect, words.list()) {
            (Dialect::Unix, five @ [_, _, _, _, _]) => (None, five, None),
            (Dialect::Unix | Dialect::Quartz, [second, five @ .., year]) if five.len() == FIVE.len() => {
                (Some(second), five, Some(year))
            }
            (Dialect::Unix | Dialect::Quartz, [second, five @ ..]) if five.len() == FIVE.len() => {
                (Some(second), five, None)
            }
            (Dialect::Aws, [five @ .., year]) if five.len() == FIVE.len() => (None, five, Some(year)),
            _ => return Err(words.miscounted(manner.dialect)),
        };
        // without a field for them a rule runs at second 0 of all years
        let only_zero = FieldMask { bits: [1, 0, 0, 0], ..FieldMask::default() };
        let second = second.map_or(Ok(only_zero), |word| field(Field::Second, word))?;
        let mut masks = [FieldMask::default(); FIVE.len()];
        let fields = if manner.dialect == Dialect::Unix { FIVE } else { FIVE_FROM_ONE };
        for ((mask, kind), word) in masks.iter_mut().zip(fields).zip(five) {
            *mask = field(kind, word)?;
        }
        let year = year.map(|word| field(Field::Year, word)).transpose()?;
        let [minute, hour, day, month, weekday] = masks;
        let question_marks = usize::from(day.is_question_mark) + usize::from(weekday.is_question_mark);
        let both = match (manner.dialect, day_rule) {
            (Dialect::Quartz | Dialect::Aws, _) if question_marks != 1 => {
                let at = five.get(2).map_or(0, |(at, _)| *at);
                return Err(CronError::QuestionMarks { at, found: question_marks });
            }
            // `?` matches each day
            (Dialect::Quartz | Dialect::Aws, _) | (Dialect::Unix, DayRule::And) => true,
            (Dialect::Unix, DayRule::OrVixie) => day.starts_with_star || weekday.starts_with_star,
            (Dialect::Unix, DayRule::OrBare) => day.has_full_star || weekday.has_full_star,
        };
        // the ranges of the fields bound the masks: 0..=23, 1..=31, 1..=12, 0..=6
        Ok(Self {
            times: Times { seconds: second.values(), minutes: minute.values(), hours: hour.values() as u32 },
            months: month.values() as u16,
            days: Days {
                dates: day.values() as u32,
                weekdays: weekday.values() as u8,
                dates_from_end: day.days.dates_from_end,
                near: day.days.near,
                near_from_end: day.days.near_from_end,
                counted_weekdays: weekday.days.counted_weekdays,
                last_weekdays: weekday.days.last_weekdays,
                both,
            },
            // `*` is more than the years that can be named
            years: Years(year.filter(|year| !year.has_full_star).map(|year| year.bits)),
            elastic: [second, minute, hour].iter().any(|mask| mask.starts_with_star),
        })
    }
}

/// The words of a line of the dialect `aws`, which may stand in `cron(…)`.
fn unwrapped(line: &str) -> Words<'_> {
    let start = line.len() - line.trim_ascii_start().len();
    let trimmed = line.trim_ascii();
    match trimmed.strip_prefix("cron(").and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => Words::split(start + "cron(".len(), inner),
        None => Words::split(0, line),
    }
}

/// The blank-separated words of a line with their offsets; only the first seven are kept.
pub(super) struct Words<'l> {
    first: [(usize, &'l str); WORDS_MAX],
    pub(super) count: usize,
    /// Where the word too many begins, or where the last one ends.
    surplus_at: usize,
}

impl<'l> Words<'l> {
    /// `at` is where the text begins in the line.
    pub(super) fn split(mut at: usize, line: &'l str) -> Self {
        let mut words = Self { first: [(0, ""); WORDS_MAX], count: 0, surplus_at: at };
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

    /// The words; none if there are more than any dialect takes.
    pub(super) fn list(&self) -> &[(usize, &'l str)] {
        self.first.get(..self.count).unwrap_or_default()
    }

    fn miscounted(&self, dialect: Dialect) -> CronError {
        let expected = match dialect {
            Dialect::Unix => {
                "5 (minute hour day-of-month month day-of-week), 6 (with the second first) or 7 \
                 (with the year last as well)"
            }
            Dialect::Quartz => {
                "6 (second minute hour day-of-month month day-of-week) or 7 (with the year last)"
            }
            Dialect::Aws => "6 (minute hour day-of-month month day-of-week year)",
        };
        let at = match (dialect, self.list()) {
            (Dialect::Aws, [.., (at, _)]) if self.count == WORDS_MAX => *at,
            _ => self.surplus_at,
        };
        CronError::FieldCount { at, found: self.count, expected }
    }
}

fn expand_macro(at: usize, word: &str) -> Result<&'static str, CronError> {
    if word == "@reboot" {
        return Err(CronError::Reboot { at });
    }
    if let Some((_, line)) = MACROS.iter().find(|(name, _)| *name == word) {
        return Ok(line);
    }
    let lower = word.to_ascii_lowercase();
    let hint = if lower == "@every" {
        Some("write `every: 5m` instead of a cron line".to_owned())
    } else {
        nearest(&lower, MACROS.iter().map(|(name, _)| *name)).map(|name| format!("did you mean `{name}`?"))
    };
    Err(CronError::UnknownMacro { at, found: word.to_owned(), hint })
}

/// The name nearest to `word` by edit distance, if any is near.
pub(super) fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|name| (strsim::damerau_levenshtein(word, name), name))
        .min()
        .filter(|(distance, name)| distance * 2 < name.len().max(3))
        .map(|(_, name)| name)
}
