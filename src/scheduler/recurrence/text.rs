//! From text to properties: lines joined, names and parameters parted, dates read.

use super::{RecurrenceError, TEXT_BYTES_MAX};
use crate::scheduler::times::{is_leap, month_length};
use crate::scheduler::walls::DAY_SECONDS;
use crate::state::time::days_from_civil;

/// The properties that are read.
const PROPERTIES: [&str; 4] = ["DTSTART", "RRULE", "EXDATE", "RDATE"];
/// What a date looks like.
const DATE: &str = "a date such as `20260105` or `20260105T090000`";
/// Most bytes of a text that a message repeats.
const SHOWN_BYTES_MAX: usize = 40;

/// A piece of the text and where it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'t> {
    pub(super) at: usize,
    pub(super) text: &'t str,
}

impl<'t> Piece<'t> {
    /// The pieces between a separator.
    pub(super) fn split(self, separator: char) -> impl Iterator<Item = Piece<'t>> {
        let mut at = self.at;
        self.text.split(separator).map(move |text| {
            let piece = Piece { at, text };
            at += text.len() + separator.len_utf8();
            piece
        })
    }

    /// The pieces before and after the first separator.
    pub(super) fn split_once(self, separator: char) -> Option<(Piece<'t>, Piece<'t>)> {
        let (first, second) = self.text.split_once(separator)?;
        let at = self.at + first.len() + separator.len_utf8();
        Some((Piece { at: self.at, text: first }, Piece { at, text: second }))
    }

    pub(super) fn is(self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }

    pub(super) fn unexpected(self, part: &'static str, expected: &'static str) -> RecurrenceError {
        let (at, found) = (self.at, self.shown());
        RecurrenceError::Unexpected { at, part, found, expected, hint: None }
    }

    pub(super) fn shown(self) -> String {
        if self.text.is_empty() {
            return "nothing".to_owned();
        }
        let shown = &self.text[..self.text.floor_char_boundary(SHOWN_BYTES_MAX)];
        format!("`{}`", shown.escape_debug())
    }

    /// One of the words, in any case; another one is refused with the nearest of them as a hint.
    pub(super) fn one_of(
        self,
        words: &'static [&'static str],
        part: &'static str,
        expected: &'static str,
    ) -> Result<&'static str, RecurrenceError> {
        if let Some(word) = words.iter().find(|word| self.is(word)) {
            return Ok(word);
        }
        let upper = self.text.to_ascii_uppercase();
        let near = words.iter().map(|word| (strsim::damerau_levenshtein(&upper, word), *word)).min();
        let hint = near
            .filter(|(distance, word)| distance * 2 < word.len().max(3) && upper.len() <= SHOWN_BYTES_MAX)
            .map(|(_, word)| format!("did you mean `{word}`?"));
        let (at, found) = (self.at, self.shown());
        Err(RecurrenceError::Unexpected { at, part, found, expected, hint })
    }
}

/// A property with its parameters.
pub(super) struct Property<'t> {
    pub(super) name: &'static str,
    pub(super) at: usize,
    pub(super) value: Piece<'t>,
    /// `TZID`.
    pub(super) zone: Option<Piece<'t>>,
}

/// A date, with or without a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Seconds since 1970-01-01T00:00:00 of the local calendar, or of UTC.
    pub(super) wall: i64,
    pub(super) is_date: bool,
    pub(super) is_utc: bool,
}

/// The text with its folded lines joined (RFC 5545, section 3.1).
pub(super) fn unfolded(text: &str) -> Result<String, RecurrenceError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(RecurrenceError::TooLong { found: text.len() });
    }
    let text = text.replace("\r\n", "\n");
    Ok(text.replace("\n ", "").replace("\n\t", ""))
}

/// The properties of an unfolded text.
pub(super) fn properties(text: &str) -> Result<Vec<Property<'_>>, RecurrenceError> {
    let words = Piece { at: 0, text };
    let mut found = Vec::new();
    // blanks of all kinds part the words
    for line in words.split('\n') {
        for tabbed in line.split('\t') {
            for word in tabbed.split(' ').filter(|word| !word.text.is_empty()) {
                found.push(property(word)?);
            }
        }
    }
    if found.is_empty() { Err(RecurrenceError::Empty) } else { Ok(found) }
}

fn property(word: Piece<'_>) -> Result<Property<'_>, RecurrenceError> {
    let Some((head, value)) = word.split_once(':') else {
        // `RRULE:` may be left out
        if word.text.contains('=') {
            return Ok(Property { name: "RRULE", at: word.at, value: word, zone: None });
        }
        return Err(word.unexpected("property", "`NAME:VALUE`, such as `RRULE:FREQ=DAILY`"));
    };
    let mut parameters = head.split(';');
    let first = parameters.next().unwrap_or(head);
    if first.is("EXRULE") {
        let (at, found) = (first.at, first.shown());
        let hint = Some("name the dates in `EXDATE`".to_owned());
        let expected = "DTSTART, RRULE, EXDATE or RDATE";
        return Err(RecurrenceError::Unexpected { at, part: "property", found, expected, hint });
    }
    let name = first.one_of(&PROPERTIES, "property", "DTSTART, RRULE, EXDATE or RDATE")?;
    let mut property = Property { name, at: word.at, value, zone: None };
    for parameter in parameters {
        match parameter.split_once('=') {
            Some((key, zone)) if key.is("TZID") && name != "RRULE" => {
                let text = zone.text.trim_matches('"');
                property.zone = Some(Piece { at: zone.at, text });
            }
            // the values show which of the two they are
            Some((key, kind))
                if key.is("VALUE") && name != "RRULE" && (kind.is("DATE") || kind.is("DATE-TIME")) => {}
            Some(_) | None => return Err(parameter.unexpected(name, "`TZID=` or `VALUE=DATE`")),
        }
    }
    Ok(property)
}

/// A date of a property or part.
pub(super) fn moment(piece: Piece<'_>, part: &'static str) -> Result<Moment, RecurrenceError> {
    read_moment(piece.text).ok_or_else(|| piece.unexpected(part, DATE))
}

fn read_moment(text: &str) -> Option<Moment> {
    let (date, time) = match text.split_once(['T', 't']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let number = |text: &str, from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u32>().ok())?
    };
    let (year, month, day) = (number(date, 0, 4)?, number(date, 4, 6)?, number(date, 6, 8)?);
    let is_month = date.len() == 8 && (1..=9_999).contains(&year) && (1..=12).contains(&month);
    if !is_month || day == 0 || day > month_length(is_leap(i64::from(year)), month as usize) {
        return None;
    }
    let midnight = days_from_civil(i64::from(year), i64::from(month), i64::from(day)) * DAY_SECONDS;
    let Some(time) = time else {
        return Some(Moment { wall: midnight, is_date: true, is_utc: false });
    };
    let is_utc = time.ends_with(['Z', 'z']);
    let time = if is_utc { time.get(..6).filter(|_| time.len() == 7)? } else { time };
    let (hour, minute, second) = (number(time, 0, 2)?, number(time, 2, 4)?, number(time, 4, 6)?);
    let is_time = time.len() == 6 && hour < 24 && minute < 60 && second < 60;
    let of_day = i64::from(hour * 3_600 + minute * 60 + second);
    is_time.then_some(Moment { wall: midnight + of_day, is_date: false, is_utc })
}
