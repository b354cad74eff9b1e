//! Why a line is no rule: what was found where, and what would have been right.

use std::fmt;

use super::{FIELD_ITEMS_MAX, LINE_BYTES_MAX, Years};

/// A field of a cron line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// 0 to 59.
    Second,
    /// 0 to 59.
    Minute,
    /// 0 to 23.
    Hour,
    /// 1 to 31.
    DayOfMonth,
    /// 1 to 12, or a name.
    Month,
    /// 0 to 7, or a name; 0 and 7 are Sunday.
    DayOfWeek,
    /// 1 to 7, or a name; 1 is Sunday: that of the dialects `quartz` and `aws`.
    DayOfWeekFromOne,
    /// 1970 to 2199.
    Year,
}

impl Field {
    /// The field's name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek | Self::DayOfWeekFromOne => "day of week",
            Self::Year => "year",
        }
    }

    /// The smallest number that the field takes, in text.
    #[must_use]
    pub const fn min(self) -> u32 {
        match self {
            Self::Second | Self::Minute | Self::Hour | Self::DayOfWeek => 0,
            Self::DayOfMonth | Self::Month | Self::DayOfWeekFromOne => 1,
            Self::Year => Years::FIRST as u32,
        }
    }

    /// The largest number that the field takes; 7 for the day of week.
    #[must_use]
    pub const fn max(self) -> u32 {
        match self {
            Self::Second | Self::Minute => 59,
            Self::Hour => 23,
            Self::DayOfMonth => 31,
            Self::Month => 12,
            Self::DayOfWeek | Self::DayOfWeekFromOne => 7,
            Self::Year => Years::LAST as u32,
        }
    }

    /// The names that the field takes, in order; none for most.
    pub(super) const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Second | Self::Minute | Self::Hour | Self::DayOfMonth | Self::Year => &[],
            Self::Month => {
                &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
            }
            Self::DayOfWeek | Self::DayOfWeekFromOne => &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a cron line was refused.
///
/// `at` is a byte offset into the line as the user wrote it, counted from 0. Messages show it as
/// a column, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Nothing but blanks.
    #[error("the cron line is empty")]
    Empty,
    /// More than [`LINE_BYTES_MAX`] bytes.
    #[error("the cron line has {found} bytes; at most {LINE_BYTES_MAX} are allowed")]
    LineTooLong {
        /// Bytes of the line.
        found: usize,
    },
    /// A character outside of ASCII.
    #[error("column {}: `{found}` is not an ASCII character", at + 1)]
    NotAscii {
        /// Where it is.
        at: usize,
        /// What it is.
        found: char,
    },
    /// A word after `@` that is none of the macros.
    #[error(
        "column {}: unknown macro `{found}`, expected one of \
         @yearly @annually @monthly @weekly @daily @midnight @hourly", at + 1)]
    UnknownMacro {
        /// Where it begins.
        at: usize,
        /// The macro with its `@`.
        found: String,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// `@reboot`, which is no time.
    #[error("column {}: `@reboot` names no instant: a cluster has no boot", at + 1)]
    Reboot {
        /// Where it begins.
        at: usize,
    },
    /// More or fewer fields than the dialect has.
    #[error("column {}: found {found} field{}, expected {expected}",
        at + 1, if *found == 1 { "" } else { "s" })]
    FieldCount {
        /// Where the first field too many begins, or where the line ends.
        at: usize,
        /// How many fields there are.
        found: usize,
        /// What the dialect takes.
        expected: &'static str,
    },
    /// `?` in both day fields or in neither, where the dialect asks for just one.
    #[error("column {}: found {found} `?`, expected one, in day of month or in day of week", at + 1)]
    QuestionMarks {
        /// Where the day of month begins.
        at: usize,
        /// How many there are.
        found: usize,
    },
    /// Another error, with what would be right for the line as a whole.
    #[error("{error}")]
    Advised {
        /// The error.
        error: Box<CronError>,
        /// The advice.
        hint: String,
    },
    /// A list with nothing between two commas, or at an end.
    #[error("column {}: {field}: empty list item, expected a value", at + 1)]
    EmptyItem {
        /// The field.
        field: Field,
        /// Where the item should be.
        at: usize,
    },
    /// More than [`FIELD_ITEMS_MAX`] items in a list.
    #[error("column {}: {field}: more than {FIELD_ITEMS_MAX} list items", at + 1)]
    TooManyItems {
        /// The field.
        field: Field,
        /// Where the first item too many begins.
        at: usize,
    },
    /// A character that another dialect gives a meaning to.
    #[error("column {}: {field}: `{found}` belongs to the {dialect} dialect, not to unix cron", at + 1)]
    ForeignCharacter {
        /// The field.
        field: Field,
        /// Where it is.
        at: usize,
        /// The character.
        found: char,
        /// Whose it is: `quartz`.
        dialect: &'static str,
    },
    /// A name in a field that takes numbers only.
    #[error("column {}: {field}: found the name `{found}`, expected a number from {} to {}",
        at + 1, field.min(), field.max())]
    NameInNumberField {
        /// The field.
        field: Field,
        /// Where the name begins.
        at: usize,
        /// The name.
        found: String,
    },
    /// A name that the field does not have.
    #[error("column {}: {field}: unknown name `{found}`, expected {} to {} or a number from {} to {}",
        at + 1, first_name(*field), last_name(*field), field.min(), field.max())]
    UnknownName {
        /// The field.
        field: Field,
        /// Where the name begins.
        at: usize,
        /// The name.
        found: String,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// A number that the field does not have.
    #[error("column {}: {field}: {found} is out of range, expected {} to {}",
        at + 1, field.min(), field.max())]
    OutOfRange {
        /// The field.
        field: Field,
        /// Where the number begins.
        at: usize,
        /// Its digits.
        found: String,
    },
    /// A step of zero.
    #[error("column {}: {field}: the step is 0, expected at least 1", at + 1)]
    ZeroStep {
        /// The field.
        field: Field,
        /// Where the step begins.
        at: usize,
    },
    /// Anything else that does not belong where it is.
    #[error("column {}: {field}: found {found}, expected {expected}", at + 1)]
    Unexpected {
        /// The field.
        field: Field,
        /// Where it is.
        at: usize,
        /// The character in backquotes, or `the end of the field`.
        found: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// Dates that no year has, such as 30 February.
    #[error("no year has a day that matches: the rule would never fire")]
    NeverFires,
    /// Wall times that the zone skips every time.
    #[error("the rule would never fire: its wall times are always in the hour that {zone} skips")]
    NeverInZone {
        /// The zone's name.
        zone: String,
    },
}

fn first_name(field: Field) -> &'static str {
    field.names().first().copied().unwrap_or_default()
}

fn last_name(field: Field) -> &'static str {
    field.names().last().copied().unwrap_or_default()
}

impl CronError {
    /// The field at fault, where there is one.
    #[must_use]
    pub fn field(&self) -> Option<Field> {
        match self {
            Self::Empty
            | Self::LineTooLong { .. }
            | Self::NotAscii { .. }
            | Self::UnknownMacro { .. }
            | Self::Reboot { .. }
            | Self::FieldCount { .. }
            | Self::QuestionMarks { .. }
            | Self::NeverFires
            | Self::NeverInZone { .. } => None,
            Self::Advised { error, .. } => error.field(),
            Self::EmptyItem { field, .. }
            | Self::TooManyItems { field, .. }
            | Self::ForeignCharacter { field, .. }
            | Self::NameInNumberField { field, .. }
            | Self::UnknownName { field, .. }
            | Self::OutOfRange { field, .. }
            | Self::ZeroStep { field, .. }
            | Self::Unexpected { field, .. } => Some(*field),
        }
    }

    /// Byte offset in the line, from 0, where there is one.
    #[must_use]
    pub fn at(&self) -> Option<usize> {
        match self {
            Self::Empty | Self::LineTooLong { .. } | Self::NeverFires | Self::NeverInZone { .. } => None,
            Self::Advised { error, .. } => error.at(),
            Self::NotAscii { at, .. }
            | Self::QuestionMarks { at, .. }
            | Self::UnknownMacro { at, .. }
            | Self::Reboot { at }
            | Self::FieldCount { at, .. }
            | Self::EmptyItem { at, .. }
            | Self::TooManyItems { at, .. }
            | Self::ForeignCharacter { at, .. }
            | Self::NameInNumberField { at, .. }
            | Self::UnknownName { at, .. }
            | Self::OutOfRange { at, .. }
            | Self::ZeroStep { at, .. }
            | Self::Unexpected { at, .. } => Some(*at),
        }
    }

    /// What would be right, where that can be told; without the word "hint".
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownMacro { hint, .. } | Self::UnknownName { hint, .. } => hint.clone(),
            Self::Reboot { .. } => Some("trigger the job from what starts the machine".to_owned()),
            Self::Advised { hint, .. } => Some(hint.clone()),
            Self::NameInNumberField { .. } => {
                Some("names belong into the fields month and day of week".to_owned())
            }
            Self::OutOfRange { field, found, .. } => Some(nearest_number(*field, found)),
            Self::ForeignCharacter { found: '?', .. } => Some("write `*`".to_owned()),
            Self::ZeroStep { .. } => Some("leave the step out, or write `/1`".to_owned()),
            Self::NeverInZone { .. } => Some("use `gap: run_at_end`, or another hour".to_owned()),
            Self::ForeignCharacter { .. }
            | Self::Empty
            | Self::LineTooLong { .. }
            | Self::NotAscii { .. }
            | Self::FieldCount { .. }
            | Self::QuestionMarks { .. }
            | Self::EmptyItem { .. }
            | Self::TooManyItems { .. }
            | Self::Unexpected { .. }
            | Self::NeverFires => None,
        }
    }
}

fn nearest_number(field: Field, found: &str) -> String {
    match (field, found) {
        (Field::Hour, "24") => "midnight is hour 0".to_owned(),
        (Field::Second | Field::Minute, "60") => {
            format!("the full {} is 0", if field == Field::Minute { "hour" } else { "minute" })
        }
        _ if found.parse().is_ok_and(|number: u32| number < field.min()) => {
            format!("the smallest {field} is {}", field.min())
        }
        _ => format!("the largest {field} is {}", field.max()),
    }
}
