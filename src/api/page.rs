//! Pages of a list: how long, and where the next begins.
//!
//! A token names the last item of the page before, so a list stays in step with itself whatever is
//! created or removed meanwhile. To clients it is opaque.

use tonic::Status;

use super::{limits, status};
use crate::history::Decided;
use crate::state::time::Timestamp;

/// Bytes of a token.
const TOKEN_BYTES: usize = 1_024;

/// How many items, out of what the client asked.
pub(super) fn size(path: &str, asked: u32, (default, most): (u32, u32)) -> Result<usize, Status> {
    let size = if asked == 0 { default } else { asked };
    if size > most {
        return Err(status::invalid_field(path, &format!("{asked} is out of range, expected 1 to {most}")));
    }
    usize::try_from(size).map_err(|_| status::invalid_field(path, "is out of range"))
}

pub(crate) fn page_size(asked: u32) -> Result<usize, Status> {
    size("page_size", asked, limits::PAGE)
}

fn wrap(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn unwrap(token: &str) -> Option<String> {
    if token.len() > TOKEN_BYTES || !token.len().is_multiple_of(2) || !token.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(token.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..token.len()).step_by(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

fn read<T>(token: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let read = unwrap(token).and_then(|text| parse(&text));
    read.map(Some).ok_or_else(|| status::invalid_field("page_token", "is none that this list has given"))
}

/// The token behind a name.
pub(crate) fn after_name(last: Option<&(String, String)>) -> String {
    last.map(|(namespace, name)| wrap(&format!("{namespace}/{name}"))).unwrap_or_default()
}

pub(crate) fn name(token: &str) -> Result<Option<(String, String)>, Status> {
    read(token, |text| text.split_once('/').map(|(namespace, name)| (namespace.to_owned(), name.to_owned())))
}

/// The token behind a run.
pub(super) fn after_run(last: Option<Decided>) -> String {
    last.map(|(at, id)| wrap(&format!("{}/{id}", at.millis()))).unwrap_or_default()
}

pub(super) fn run(token: &str) -> Result<Option<Decided>, Status> {
    read(token, |text| {
        let (at, id) = text.split_once('/')?;
        Some((Timestamp::from_millis(at.parse().ok()?), id.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back_and_nothing_else_does() {
        let last = ("default".to_owned(), "a.b-c".to_owned());
        assert_eq!(name(&after_name(Some(&last))).unwrap(), Some(last));
        let decided = (Timestamp::from_millis(-7), "4096--5-m17".parse().unwrap());
        assert_eq!(run(&after_run(Some(decided))).unwrap(), Some(decided));
        assert_eq!(name("").unwrap(), None);
        for token in ["x", "zz", "e9", "6", "+1+1", "é", &"61".repeat(600)] {
            assert!(run(token).is_err(), "{token}");
        }
        assert!(page_size(1_001).is_err());
        assert_eq!(page_size(0).unwrap(), 100);
    }
}
