//! One field of a line: a list of items, read into masks.

use super::error::{CronError, Field};
use super::{Days, FIELD_ITEMS_MAX, Years};
use crate::scheduler::spread::Spread;
use crate::state::schedule::Dialect;

const AFTER_VALUE: &str = "`-`, `/`, `,` or the end of the field";
const AFTER_RANGE: &str = "`/`, `,` or the end of the field";
const AFTER_STEP: &str = "`,` or the end of the field";
/// The last day of the month that every month has: what `H` and `~` go up to.
const SURE_DAY: u32 = 28;

/// One field, read.
#[derive(Clone, Copy, Default)]
pub(super) struct FieldMask {
    /// Bits as in [`super::CronRule`]; for the year counted from [`Years::FIRST`].
    pub(super) bits: [u64; 4],
    /// What the day fields have beside values.
    pub(super) days: Days,
    /// The text begins with `*`: what Vixie's day rule and `elastic` go by.
    pub(super) starts_with_star: bool,
    /// Some item is `*` or `*/1`: what robfig's day rule goes by.
    pub(super) has_full_star: bool,
    /// The text is `?`.
    pub(super) is_question_mark: bool,
}

impl FieldMask {
    /// The bits of any field but the year.
    pub(super) fn values(&self) -> u64 {
        self.bits[0]
    }
}

/// What the reading of a field depends on beside its text.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    pub(super) dialect: Dialect,
    pub(super) spread: Spread,
}

/// Reads the field that begins at `at` in the line.
pub(super) fn read_field(
    field: Field,
    at: usize,
    text: &str,
    manner: Manner,
) -> Result<FieldMask, CronError> {
    let mut mask = FieldMask { starts_with_star: text.starts_with('*'), ..FieldMask::default() };
    let mut reader = Reader { field, text, base: at, at: 0, count: 0, manner };
    if text == "?" && reader.takes_day_words() {
        mask.is_question_mark = true;
        mask.add(field, field.min(), last_value(field), 1);
        return Ok(mask);
    }
    for count in 1.. {
        if count > FIELD_ITEMS_MAX {
            return Err(CronError::TooManyItems { field, at: reader.place() });
        }
        reader.count += 1;
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
    /// Of the item, from 1.
    count: u32,
    manner: Manner,
}

impl<'l> Reader<'l> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn is_at_end_of_item(&self) -> bool {
        matches!(self.peek(), None | Some(b','))
    }

    /// The cursor as an offset into the line.
    fn place(&self) -> usize {
        self.base + self.at
    }

    fn is_unix(&self) -> bool {
        self.manner.dialect == Dialect::Unix
    }

    /// Whether the field takes `?` and the words of `quartz`.
    fn takes_day_words(&self) -> bool {
        !self.is_unix() && matches!(self.field, Field::DayOfMonth | Field::DayOfWeekFromOne)
    }

    fn take_while(&mut self, wanted: impl Fn(&u8) -> bool) -> &'l str {
        let start = self.at;
        self.at += self.text.as_bytes()[start..].iter().take_while(|byte| wanted(byte)).count();
        &self.text[start..self.at]
    }

    /// Takes one character, in any case, if it comes next.
    fn take(&mut self, wanted: u8) -> bool {
        let comes = self.peek().is_some_and(|byte| byte.eq_ignore_ascii_case(&wanted));
        self.at += usize::from(comes);
        comes
    }

    fn unexpected(&self, expected: &'static str) -> CronError {
        let found = match self.peek() {
            None => "the end of the field".to_owned(),
            Some(byte) => {
                if self.is_unix() && is_of_quartz(byte) {
                    return self.foreign(self.at, byte);
                }
                format!("`{}`", byte.escape_ascii())
            }
        };
        CronError::Unexpected { field: self.field, at: self.place(), found, expected }
    }

    fn foreign(&self, at: usize, byte: u8) -> CronError {
        CronError::ForeignCharacter {
            field: self.field,
            at: self.base + at,
            found: char::from(byte.to_ascii_uppercase()),
            dialect: "quartz",
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
            // Quartz takes a step alone
            Some(b'/') if self.manner.dialect == Dialect::Quartz => {
                (field.min(), last_value(field), AFTER_RANGE)
            }
            Some(b'H' | b'h') if self.is_own_value() => return self.own_value(mask),
            Some(b'~') if self.takes_own_value() => return self.own_value_from(field.min(), mask),
            Some(b'L' | b'l') if self.takes_day_words() => return self.last(mask),
            Some(b'W' | b'w') if self.takes_day_words() && field == Field::DayOfMonth => {
                return self.last(mask);
            }
            Some(_) => {
                let first = self.value()?;
                match self.peek() {
                    Some(b'~') if self.takes_own_value() => return self.own_value_from(first, mask),
                    Some(b'-') => {
                        self.at += 1;
                        (first, self.value()?, AFTER_RANGE)
                    }
                    Some(b'L' | b'l' | b'W' | b'w' | b'#') if self.takes_day_words() => {
                        return self.counted(first, mask);
                    }
                    _ => (first, first, AFTER_VALUE),
                }
            }
        };
        if field == Field::Year && last < first {
            let expected = "a year that is not earlier";
            let found = format!("`{last}`");
            return Err(CronError::Unexpected { field, at: self.place(), found, expected });
        }
        let mut step = 1;
        let is_single = expected == AFTER_VALUE;
        if self.peek() == Some(b'/') {
            step = self.step()?;
            if is_single {
                last = last_value(field);
            }
        } else if !self.is_at_end_of_item() {
            return Err(self.unexpected(expected));
        }
        mask.has_full_star |= star && step == 1;
        mask.add(field, first, last, step);
        Ok(())
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

    fn name(&mut self, start: usize, word: &str) -> Result<u32, CronError> {
        let field = self.field;
        let lower = word.to_ascii_lowercase();
        let names = field.names();
        let number = |name: &str| {
            let index = names.iter().position(|known| *known == name)?;
            // twelve names at most
            Some(field.min() + index as u32)
        };
        if let Some(number) = number(&lower) {
            return Ok(number);
        }
        let at = self.base + start;
        if let Some(number) = lower.strip_suffix('l').and_then(number) {
            if self.takes_day_words() {
                self.at -= 1;
                return Ok(number);
            }
            if self.is_unix() {
                return Err(self.foreign(start + word.len() - 1, b'L'));
            }
        }
        if self.is_unix()
            && let (b"l" | b"w" | b"lw", [first, ..]) = (lower.as_bytes(), word.as_bytes())
        {
            return Err(self.foreign(start, *first));
        }
        let found = word.to_owned();
        if names.is_empty() {
            return Err(CronError::NameInNumberField { field, at, found });
        }
        let hint = names
            .iter()
            .copied()
            .find(|name| lower.starts_with(name))
            .or_else(|| super::parse::nearest(&lower, names.iter().copied()))
            .map(|name| format!("did you mean `{name}`?"));
        Err(CronError::UnknownName { field, at, found, hint })
    }

    /// `/n`, where the cursor is at the slash, up to the end of the item.
    fn step(&mut self) -> Result<u32, CronError> {
        self.at += 1;
        let start = self.place();
        let digits = self.take_while(u8::is_ascii_digit);
        if digits.is_empty() {
            return Err(self.unexpected("a number"));
        }
        // a step beyond the field leaves only the first value, as in every cron: `0 */24 * * *`
        match digits.parse().unwrap_or(u32::MAX) {
            0 => Err(CronError::ZeroStep { field: self.field, at: start }),
            _ if !self.is_at_end_of_item() => Err(self.unexpected(AFTER_STEP)),
            step => Ok(step),
        }
    }

    /// Whether `H` stands alone, and not at the begin of a name.
    fn is_own_value(&self) -> bool {
        let next = self.text.as_bytes().get(self.at + 1);
        self.takes_own_value() && !next.is_some_and(u8::is_ascii_alphanumeric)
    }

    fn takes_own_value(&self) -> bool {
        self.is_unix() && self.field != Field::Year
    }

    /// `H`, `H(a-b)`, `H/n`, `H(a-b)/n`.
    fn own_value(&mut self, mask: &mut FieldMask) -> Result<(), CronError> {
        self.at += 1;
        let (mut first, mut last) = (self.field.min(), sure_value(self.field));
        let mut expected = "`(`, `/`, `,` or the end of the field";
        if self.take(b'(') {
            first = self.value()?;
            if !self.take(b'-') {
                return Err(self.unexpected("`-`"));
            }
            last = self.ascending(first)?;
            if !self.take(b')') {
                return Err(self.unexpected("`)`"));
            }
            expected = AFTER_RANGE;
        }
        self.draw(first, last, expected, mask)
    }

    /// `~`, `~b`, `a~`, `a~b`, each with `/n`; the cursor is at the tilde.
    fn own_value_from(&mut self, first: u32, mask: &mut FieldMask) -> Result<(), CronError> {
        self.at += 1;
        let last = match self.peek() {
            None | Some(b',' | b'/') => sure_value(self.field).max(first),
            Some(_) => self.ascending(first)?,
        };
        self.draw(first, last, AFTER_RANGE, mask)
    }

    /// A value that is not less than `first`.
    fn ascending(&mut self, first: u32) -> Result<u32, CronError> {
        let start = self.at;
        let last = self.value()?;
        if last >= first {
            return Ok(last);
        }
        let found = format!("`{}`", &self.text[start..self.at]);
        let expected = "a value that is not less than the first";
        Err(CronError::Unexpected { field: self.field, at: self.base + start, found, expected })
    }

    /// The job's own value of a range, or each nth from one.
    fn draw(
        &mut self,
        first: u32,
        last: u32,
        expected: &'static str,
        mask: &mut FieldMask,
    ) -> Result<(), CronError> {
        // another draw for each field and item, so that `H H * * *` is no diagonal
        let salt = self.field as u32 * 1_024 + self.count;
        let size = last - first + 1;
        if self.peek() == Some(b'/') {
            let step = self.step()?;
            let begin = first + self.manner.spread.below(salt, size.min(step));
            mask.add(self.field, begin, last, step);
            return Ok(());
        }
        if !self.is_at_end_of_item() {
            return Err(self.unexpected(expected));
        }
        let own = first + self.manner.spread.below(salt, size);
        mask.add(self.field, own, own, 1);
        Ok(())
    }

    /// `L`, `L-n`, `LW`, `L-nW` in the day of month, `L` in the day of week.
    fn last(&mut self, mask: &mut FieldMask) -> Result<(), CronError> {
        let start = self.at;
        let is_word = self.take(b'L')
            && !self
                .peek()
                .is_some_and(|byte| byte.is_ascii_alphanumeric() && !byte.eq_ignore_ascii_case(&b'W'));
        if !is_word {
            self.at = start;
            let expected = if self.field == Field::DayOfMonth {
                "a number, `*`, `?`, `L` or `LW`"
            } else {
                "a number, a name, `*`, `?` or `L`"
            };
            return Err(self.unexpected(expected));
        }
        if self.field == Field::DayOfWeekFromOne {
            // Saturday, the last day of the week
            mask.add(self.field, 7, 7, 1);
            return self.end_of_item(AFTER_STEP);
        }
        let mut before = 0;
        if self.take(b'-') {
            let digits_at = self.place();
            let digits = self.take_while(u8::is_ascii_digit);
            if digits.is_empty() {
                return Err(self.unexpected("a number"));
            }
            before = digits.parse().unwrap_or(u32::MAX);
            // the first day of the longest month
            if before > 30 {
                let expected = "0 to 30 days before the last";
                let (field, found) = (self.field, format!("`{digits}`"));
                return Err(CronError::Unexpected { field, at: digits_at, found, expected });
            }
        }
        if self.take(b'W') {
            mask.days.near_from_end |= 1 << before;
            self.end_of_item(AFTER_STEP)
        } else {
            mask.days.dates_from_end |= 1 << before;
            self.end_of_item("`-`, `W`, `,` or the end of the field")
        }
    }

    /// `nW` in the day of month, `nL` and `n#k` in the day of week; the cursor is behind `n`.
    fn counted(&mut self, first: u32, mask: &mut FieldMask) -> Result<(), CronError> {
        if self.field == Field::DayOfMonth {
            if !self.take(b'W') {
                return Err(self.unexpected(AFTER_VALUE));
            }
            mask.days.near |= 1 << first;
            return self.end_of_item(AFTER_STEP);
        }
        let weekday = 1 << (first - 1);
        if self.take(b'L') {
            mask.days.last_weekdays |= weekday;
        } else if self.take(b'#') {
            match self.peek() {
                Some(digit @ b'1'..=b'5') => {
                    mask.days.counted_weekdays[usize::from(digit - b'1')] |= weekday;
                    self.at += 1;
                }
                _ => return Err(self.unexpected("a number from 1 to 5")),
            }
        }
        self.end_of_item(AFTER_STEP)
    }

    fn end_of_item(&self, expected: &'static str) -> Result<(), CronError> {
        if self.is_at_end_of_item() { Ok(()) } else { Err(self.unexpected(expected)) }
    }
}

/// Whether quartz gives this character a meaning that unix cron does not.
fn is_of_quartz(byte: u8) -> bool {
    matches!(byte.to_ascii_uppercase(), b'L' | b'W' | b'#' | b'?')
}

/// The last value of `*` and `a/n`: Sunday is counted once.
const fn last_value(field: Field) -> u32 {
    match field {
        Field::DayOfWeek => 6,
        Field::Second
        | Field::Minute
        | Field::Hour
        | Field::DayOfMonth
        | Field::Month
        | Field::DayOfWeekFromOne
        | Field::Year => field.max(),
    }
}

/// The last value that a job's own may be, so that it comes each time.
const fn sure_value(field: Field) -> u32 {
    match field {
        Field::DayOfMonth => SURE_DAY,
        _ => last_value(field),
    }
}

impl FieldMask {
    /// Adds each `step`th value from `first` to `last`, which lie in the field; a range whose
    /// first end is the larger wraps by the field's own size.
    fn add(&mut self, field: Field, first: u32, last: u32, step: u32) {
        let size = last_value(field) - field.min() + 1;
        let fold = |value: u32| field.min() + (value - field.min()) % size;
        // bit 0 is the first year, and Sunday
        let zero = match field {
            Field::Year => Years::FIRST as u32,
            Field::DayOfWeekFromOne => 1,
            Field::Second
            | Field::Minute
            | Field::Hour
            | Field::DayOfMonth
            | Field::Month
            | Field::DayOfWeek => 0,
        };
        let (first, last) = match (first, last) {
            // 5-7 counts up to the second Sunday, 7-2 from the first
            (first, last) if first <= last => (first, last),
            (first, last) if fold(first) <= last => (fold(first), last),
            (first, last) => (first, last + size),
        };
        let mut value = first;
        while value <= last {
            let bit = fold(value) - zero;
            self.bits[(bit / 64) as usize] |= 1 << (bit % 64);
            value = value.saturating_add(step);
        }
    }
}
