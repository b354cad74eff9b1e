//! Which HTTP status codes mean success: `200-299,304`.

use std::ops::RangeInclusive;

/// How many ranges a job may name.
pub const SUCCESS_RANGES_MAX: usize = 32;

/// The text does not say which status codes mean success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuccessError {
    /// There is nothing between two commas, or nothing at all.
    #[error("an empty range: expected codes such as \"200-299,304\"")]
    Empty,
    /// A part is neither a code nor two codes with a dash between them.
    #[error("{0:?} is not a status code nor a range such as 200-299")]
    NotACode(String),
    /// No response carries such a code.
    #[error("status code {0} is outside 100 to 599")]
    OutOfBounds(u16),
    /// The range ends before it starts.
    #[error("the range {0}-{1} ends before it starts")]
    Backwards(u16, u16),
    /// More parts than [`SUCCESS_RANGES_MAX`].
    #[error("more than {SUCCESS_RANGES_MAX} ranges")]
    TooMany,
}

/// The codes that mean success where a job names none: 200 to 299.
pub fn default_success() -> Vec<RangeInclusive<u16>> {
    vec![200..=299]
}

/// Reads a comma-separated list of codes and ranges, blanks around the parts ignored.
///
/// # Errors
/// [`SuccessError`], naming the part that is wrong.
pub fn parse_success(text: &str) -> Result<Vec<RangeInclusive<u16>>, SuccessError> {
    let mut ranges = Vec::new();
    for part in text.split(',') {
        if ranges.len() == SUCCESS_RANGES_MAX {
            return Err(SuccessError::TooMany);
        }
        let part = part.trim();
        if part.is_empty() {
            return Err(SuccessError::Empty);
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (code(first, part)?, code(last, part)?);
        if first > last {
            return Err(SuccessError::Backwards(first, last));
        }
        ranges.push(first..=last);
    }
    Ok(ranges)
}

fn code(text: &str, part: &str) -> Result<u16, SuccessError> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let code: u16 = match text.parse() {
        Ok(code) if digits => code,
        _ => return Err(SuccessError::NotACode(part.chars().take(32).collect())),
    };
    if (100..=599).contains(&code) { Ok(code) } else { Err(SuccessError::OutOfBounds(code)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_ranges_are_read() {
        assert_eq!(parse_success("200-299,304"), Ok(vec![200..=299, 304..=304]));
        assert_eq!(parse_success(" 200 , 100 - 599 "), Ok(vec![200..=200, 100..=599]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let not_a_code = |text: &str| Err(SuccessError::NotACode(text.to_owned()));
        assert_eq!(parse_success(""), Err(SuccessError::Empty));
        assert_eq!(parse_success("200,,304"), Err(SuccessError::Empty));
        assert_eq!(parse_success("2xx"), not_a_code("2xx"));
        assert_eq!(parse_success("200-"), not_a_code("200-"));
        assert_eq!(parse_success("+200"), not_a_code("+200"));
        assert_eq!(parse_success("200-250-299"), not_a_code("200-250-299"));
        assert_eq!(parse_success("99999"), not_a_code("99999"));
        assert_eq!(parse_success("99"), Err(SuccessError::OutOfBounds(99)));
        assert_eq!(parse_success("200-600"), Err(SuccessError::OutOfBounds(600)));
        assert_eq!(parse_success("299-200"), Err(SuccessError::Backwards(299, 200)));
        assert_eq!(parse_success(&vec!["200"; SUCCESS_RANGES_MAX + 1].join(",")), Err(SuccessError::TooMany));
        assert!(parse_success(&vec!["200"; SUCCESS_RANGES_MAX].join(",")).is_ok());
    }
}
