//! Keys that job files will have once the product has what they ask for.
//!
//! They are refused like any unknown key, but by name, so that nobody looks for a typing error or
//! believes that a limit is in force.

/// The key of the surrounding mapping (empty for the job itself) and the keys planned in it.
const LATER: [(&str, &[&str]); 2] = [("", &["notify"]), ("target", &["kafka"])];

/// Whether `key`, found directly under `parent`, is one of them.
pub(super) fn is_later(parent: &str, key: &str) -> bool {
    LATER.iter().any(|(under, keys)| *under == parent && keys.contains(&key))
}

/// The known key that `key` was probably meant to be: at most a third of it is different.
pub(super) fn nearest(key: &str, known: &'static [&'static str]) -> Option<&'static str> {
    let best = known.iter().map(|candidate| (distance(key, candidate), *candidate)).min()?;
    (best.0 <= key.chars().count().max(3) / 3).then_some(best.1)
}

/// Letters to change, add or leave out to make one text of the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (number, letter) in left.chars().enumerate() {
        let mut corner = row[0];
        row[0] = number + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = corner + usize::from(letter != *other);
            corner = row[column + 1];
            row[column + 1] = changed.min(corner + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}
