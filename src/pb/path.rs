//! Paths of fields, as people find them in a job file: `retry.max_attempts`, `schedule[1].cron`,
//! `labels.team`, `labels["a.b"]`.
//!
//! Problems and differences name their field so; [`keyed`] is the one place that says how a key of
//! any length and kind stays readable.

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
