//! Paths of fields, as people find them in a job file: `retry.max_attempts`, `schedule[1].cron`,
//! `labels.team`, `labels["a.b"]`.
//!
//! Problems and differences name their field so; [`keyed`] is the one place that says how a key of
//! any length and kind stays readable, and [`read`] finds the field again.

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key of a mapping; of a long one the beginning.
    Key(String),
    /// An element of a list, from 0.
    Element(usize),
}

/// Characters of a key that a path shows; of a longer one the beginning.
pub const KEY_CHARS: usize = 64;

/// The path of a key under `path`; the empty path is the definition itself.
#[must_use]
pub fn keyed(path: &str, key: &str) -> String {
    let short: String = key.chars().take(KEY_CHARS).collect();
    let plain = !short.is_empty() && short.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    match (plain, path) {
        (true, "") => short,
        (true, path) => format!("{path}.{short}"),
        (false, path) => format!("{path}[{short:?}]"),
    }
}

/// The text of a path.
pub fn write<'a>(steps: impl IntoIterator<Item = &'a Step>) -> String {
    steps.into_iter().fold(String::new(), |path, step| match step {
        Step::Key(key) => keyed(&path, key),
        Step::Element(number) => format!("{path}[{number}]"),
    })
}

/// Splits `schedule[1].cron: no such day` into the path and what is said about the field; a text that
/// does not begin with a path has no steps.
#[must_use]
pub fn read(text: &str) -> (Vec<Step>, &str) {
    let mut steps = Vec::new();
    let mut rest = text;
    while let Some((step, after)) = read_step(rest, steps.is_empty()) {
        steps.push(step);
        rest = after;
    }
    match rest.strip_prefix(": ") {
        Some(said) => (steps, said),
        None => (Vec::new(), text),
    }
}

fn read_step(text: &str, is_first: bool) -> Option<(Step, &str)> {
    if let Some(quoted) = text.strip_prefix("[\"") {
        let (key, after) = read_quoted(quoted)?;
        return Some((Step::Key(key), after.strip_prefix(']')?));
    }
    if let Some(number) = text.strip_prefix('[') {
        let (number, after) = number.split_once(']')?;
        return Some((Step::Element(number.parse().ok()?), after));
    }
    let key = if is_first { text } else { text.strip_prefix('.')? };
    let end = key.find(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c)).unwrap_or(key.len());
    (end > 0).then(|| (Step::Key(key[..end].to_owned()), &key[end..]))
}

/// Reads what `{:?}` wrote, up to and with the closing quote.
fn read_quoted(text: &str) -> Option<(String, &str)> {
    let mut key = String::new();
    let mut chars = text.char_indices();
    loop {
        let (at, c) = chars.next()?;
        match c {
            '"' => return Some((key, &text[at + 1..])),
            '\\' => key.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                'u' => {
                    let (digits, _) = text[at..].strip_prefix("\\u{")?.split_once('}')?;
                    while chars.next()?.1 != '}' {}
                    char::from_u32(u32::from_str_radix(digits, 16).ok()?)?
                }
                other => other,
            }),
            other => key.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_path_has_no_steps() {
        for text in
            ["the job is too large", "", "a", "a.b", "a..b: x", "[x]: y", "a[1: x", "a[\"b: x", "a b: c"]
        {
            assert_eq!(read(text), (Vec::new(), text));
        }
    }

    #[test]
    fn a_path_is_found_before_what_is_said() {
        let key = |key: &str| Step::Key(key.to_owned());
        let (steps, said) = read("jobs[2].schedule[1].cron: column 3: no");
        assert_eq!(steps, [key("jobs"), Step::Element(2), key("schedule"), Step::Element(1), key("cron")]);
        assert_eq!(said, "column 3: no");
    }

    proptest::proptest! {
        #[test]
        fn a_path_that_was_written_is_read_again(first in "[a-z_]{1,9}", number: usize, key in "\\PC{0,64}|[ -~\n\t\0\u{7f}]{0,64}") {
            let steps = vec![Step::Key(first), Step::Element(number), Step::Key(key), Step::Element(0)];
            let text = format!("{}: said: so", write(&steps));
            proptest::prop_assert_eq!(read(&text), (steps, "said: so"));
        }
    }
}
