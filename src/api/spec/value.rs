//! Single values of a request: each is read within its range, or noted as a problem of its field.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::limits;
use super::super::problem::{Problem, Problems};
use crate::pb::path::keyed;
use crate::state::time::{Timestamp, span_text};

/// A span of whole milliseconds; `None` when it is absent or wrong.
pub(in crate::api) fn span(
    path: &str,
    value: Option<&prost_types::Duration>,
    range: RangeInclusive<Duration>,
    problems: &mut Problems,
) -> Option<Duration> {
    let value = value?;
    let Some(span) = whole(value) else {
        problems.add(path, "is no span of time: negative, or its parts contradict each other");
        return None;
    };
    if span.subsec_nanos() % 1_000_000 != 0 {
        problems.add(path, format!("{} is not a whole number of milliseconds", span_text(span)));
        return None;
    }
    if !range.contains(&span) {
        let (from, to) = (span_text(*range.start()), span_text(*range.end()));
        problems.add(path, format!("{} is out of range, expected {from} to {to}", span_text(span)));
        return None;
    }
    Some(span)
}

fn whole(value: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(value.seconds).ok()?;
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    // what humantime can still write, and far more than any range takes
    (seconds < 1 << 40).then(|| Duration::new(seconds, nanos))
}

/// An instant, cut to milliseconds; `None` when it is absent or wrong.
pub(in crate::api) fn instant(
    path: &str,
    value: Option<&prost_types::Timestamp>,
    problems: &mut Problems,
) -> Option<Timestamp> {
    let value = value?;
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let millis =
        nanos.and_then(|nanos| value.seconds.checked_mul(1_000)?.checked_add(i64::from(nanos / 1_000_000)));
    match millis.filter(|millis| (Timestamp::MIN.millis()..=Timestamp::MAX.millis()).contains(millis)) {
        Some(millis) => Some(Timestamp::from_millis(millis)),
        None => {
            problems.add(path, "is no instant of the years 0000 to 9999");
            None
        }
    }
}

/// A value of an enum; `None` when it is unspecified or unknown.
pub(in crate::api) fn word<E: TryFrom<i32>>(path: &str, number: i32, problems: &mut Problems) -> Option<E> {
    if number == 0 {
        return None;
    }
    let value = E::try_from(number).ok();
    if value.is_none() {
        problems.add(path, format!("unknown value {number}; the client is newer than this node"));
    }
    value
}

/// A number within its range; 0 is a number like any other and not the default.
pub(in crate::api) fn count(
    path: &str,
    value: Option<u32>,
    default: u32,
    range: RangeInclusive<u32>,
    problems: &mut Problems,
) -> u32 {
    let value = value.unwrap_or(default);
    if value == 0 && !range.contains(&0) {
        let (from, to) = (range.start(), range.end());
        let reason = format!("{value} is out of range, expected {from} to {to}");
        let hint = Some(format!("leave the key out for its default, {default}"));
        problems.push(Problem { path: path.to_owned(), reason, hint });
    } else {
        within(path, value, &range, problems);
    }
    value
}

/// Notes a value outside of its range.
pub(in crate::api) fn within<T: PartialOrd + Display>(
    path: &str,
    value: T,
    range: &RangeInclusive<T>,
    problems: &mut Problems,
) {
    if !range.contains(&value) {
        let (from, to) = (range.start(), range.end());
        problems.add(path, format!("{value} is out of range, expected {from} to {to}"));
    }
}

/// A ratio in thousandths.
pub(in crate::api) fn milli(
    path: &str,
    value: f64,
    range: &RangeInclusive<f64>,
    problems: &mut Problems,
) -> u32 {
    if !range.contains(&value) {
        within(path, value, range, problems);
        return 0;
    }
    // in range, so at most 100,000
    (value * 1_000.0).round() as u32
}

/// Notes a text that is too long.
pub(in crate::api) fn length(path: &str, text: &str, bytes: usize, problems: &mut Problems) {
    if text.len() > bytes {
        problems.add(path, format!("{} bytes are too long, at most {bytes} are allowed", text.len()));
    }
}

/// A name, `[a-z0-9._-]{1,128}`.
pub(in crate::api) fn name(path: &str, text: &str, problems: &mut Problems) {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if text.is_empty() {
        problems.add(path, "is missing");
    } else if text.len() > limits::NAME_CHARS {
        let reason = format!("{} bytes are too long, at most {} are allowed", text.len(), limits::NAME_CHARS);
        problems.add(path, reason);
    } else if let Some(other) = text.chars().find(|c| !u8::try_from(*c).is_ok_and(allowed)) {
        problems.add(path, format!("{other:?} is not allowed, only a-z, 0-9, `.`, `_` and `-` are"));
    }
}

/// A namespace; empty stands for `default`.
pub(in crate::api) fn namespace(text: &str) -> &str {
    if text.is_empty() { "default" } else { text }
}

/// Labels of a job or of a worker.
pub(in crate::api) fn labels(path: &str, labels: &BTreeMap<String, String>, problems: &mut Problems) {
    most(path, "labels", labels.len(), limits::LABELS, problems);
    for (key, value) in labels.iter().take(limits::LABELS) {
        let at = keyed(path, key);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        if key.is_empty() || key.len() > limits::LABEL_KEY_BYTES || !key.bytes().all(allowed) {
            let reason = format!(
                "a key has 1 to {} characters out of a-z, A-Z, 0-9, `.`, `_`, `-` and `/`",
                limits::LABEL_KEY_BYTES
            );
            problems.add(&at, reason);
        }
        length(&at, value, limits::LABEL_VALUE_BYTES, problems);
        if value.chars().any(char::is_control) {
            problems.add(&at, "a value has no control characters");
        }
    }
}

/// Parameters of a job or a run.
pub(in crate::api) fn params(path: &str, params: &BTreeMap<String, String>, problems: &mut Problems) {
    most(path, "parameters", params.len(), limits::PARAMS, problems);
    for (name, value) in params.iter().take(limits::PARAMS) {
        let at = keyed(path, name);
        let mut bytes = name.bytes();
        let begins = bytes.next().is_some_and(|first| first.is_ascii_lowercase());
        let goes_on = bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !begins || !goes_on || name.len() > limits::PARAM_NAME_BYTES {
            let most = limits::PARAM_NAME_BYTES;
            problems.add(
                &at,
                format!("a name has 1 to {most} characters out of a-z, 0-9 and `_`, the first a letter"),
            );
        }
        length(&at, value, limits::PARAM_BYTES, problems);
        if value.chars().any(char::is_control) {
            problems.add(&at, "a value has no control characters");
        }
    }
}

/// Notes a list that is too long.
pub(in crate::api) fn most(path: &str, what: &str, found: usize, limit: usize, problems: &mut Problems) {
    if found > limit {
        problems.add(path, format!("{found} {what} are too many, at most {limit} are allowed"));
    }
}
