//! Unit files, with the line of each assignment.
//!
//! Source: systemd.syntax(7). A value goes on over a `\` at the end of its line; an empty value takes back what was
//! assigned before it.

/// `Key=value` in a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) line: usize,
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
}

/// All assignments, and the lines that are none.
pub(super) fn read(text: &str) -> (Vec<Assignment>, Vec<usize>) {
    let (mut assignments, mut strange) = (Vec::<Assignment>::new(), Vec::new());
    let mut section = String::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((number, first)) = lines.next() {
        let first = first.trim();
        if first.is_empty() || first.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = first.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
            continue;
        }
        let mut whole = String::new();
        let mut piece = first;
        while let Some(begun) = piece.strip_suffix('\\') {
            whole.push_str(begun);
            whole.push(' ');
            // A comment in between is left out.
            let next = lines.by_ref().map(|(_, line)| line.trim()).find(|line| !line.starts_with(['#', ';']));
            piece = next.unwrap_or_default();
        }
        whole.push_str(piece);
        match whole.split_once('=') {
            Some((key, value)) if !section.is_empty() && !key.trim().is_empty() => {
                let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
                if value.is_empty() {
                    assignments.retain(|known| known.section != section || known.key != key);
                } else {
                    assignments.push(Assignment { line: number, section: section.clone(), key, value });
                }
            }
            Some(_) | None => strange.push(number),
        }
    }
    (assignments, strange)
}

/// A span as systemd.time(7) has it: `90`, in seconds, `5min 20s`, `1h30m`; `infinity` is none.
pub(super) fn span(value: &str) -> Option<Span> {
    use std::time::Duration;
    if value.trim() == "infinity" {
        return Some(Span::Endless);
    }
    let mut total = Duration::ZERO;
    let mut rest = value.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().ok()?;
        rest = rest[end..].trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "us" | "usec" => 0.000_001,
            "ms" | "msec" => 0.001,
            "" | "s" | "sec" | "second" | "seconds" => 1.0,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hour" | "hours" => 3_600.0,
            "d" | "day" | "days" => 86_400.0,
            "w" | "week" | "weeks" => 604_800.0,
            "M" | "month" | "months" => 2_629_800.0,
            "y" | "year" | "years" => 31_557_600.0,
            _ => return None,
        };
        rest = rest[end..].trim_start();
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
    }
    (!value.trim().is_empty()).then_some(Span::For(total))
}

/// A span that may have no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    For(std::time::Duration),
    Endless,
}

/// `yes`, `true`, `on`, `1`.
pub(super) fn flag(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}
