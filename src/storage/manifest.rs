//! Small text files that say what a folder is: a title, lines of `key value`, and a checksum over all of it.
//!
//! They are text because an operator who wonders whose folder this is should need no tool. They are written
//! rarely, and atomically. A line that this release does not know is refused: it was written for a reason.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::error::StorageError;
use super::files;

/// The lines of a manifest, without title, format and checksum.
pub(super) type Fields = BTreeMap<String, String>;

/// Kind of a manifest: what its first line says, and which keys it has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) title: &'static str,
    pub(super) format: u32,
    pub(super) keys: &'static [&'static str],
}

impl Form {
    /// Writes the manifest, durably.
    pub(super) fn write(&self, path: &Path, values: &[String]) -> Result<(), StorageError> {
        let mut text = format!("{}\nformat {}\n", self.title, self.format);
        for (key, value) in self.keys.iter().zip(values) {
            text.push_str(&format!("{key} {value}\n"));
        }
        let crc = crc32fast::hash(text.as_bytes());
        text.push_str(&format!("crc {crc:08x}\n"));
        files::atomic_write(path, text.as_bytes())
    }

    /// Reads the manifest; `None` if there is none.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Fields>, StorageError> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(StorageError::io(path, "read"))?,
        };
        let damaged = |reason: &str| StorageError::damaged(path, 0, reason);
        let text = String::from_utf8(bytes).map_err(|_| damaged("the manifest is not text"))?;
        let mut lines = text.lines();
        if lines.next() != Some(self.title) {
            return Err(damaged(&format!("the first line is not {:?}", self.title)));
        }
        let format = lines.next().and_then(|line| line.strip_prefix("format "));
        let format = format.ok_or_else(|| damaged("the second line names no format"))?;
        if format != self.format.to_string() {
            let (file, found) = (path.to_path_buf(), format.to_string());
            return Err(StorageError::UnknownFormat { file, found, known: self.format });
        }
        let (content, crc) =
            text.rsplit_once("crc ").ok_or_else(|| damaged("the checksum line is missing"))?;
        if crc != format!("{:08x}\n", crc32fast::hash(content.as_bytes())) {
            return Err(damaged("the checksum does not match"));
        }
        let mut fields = Fields::new();
        for line in content.lines().skip(2) {
            let (key, value) = line.split_once(' ').ok_or_else(|| damaged("a line has no value"))?;
            if !self.keys.contains(&key) {
                return Err(damaged(&format!("unknown key {key:?}")));
            }
            fields.insert(key.to_string(), value.to_string());
        }
        Ok(Some(fields))
    }
}

/// The value of `key`, parsed by `parse`.
pub(super) fn field<T>(
    path: &Path,
    fields: &Fields,
    key: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, StorageError> {
    let value = fields.get(key).and_then(|value| parse(value));
    value.ok_or_else(|| {
        StorageError::damaged(path, 0, format!("the value of {key:?} is missing or unreadable"))
    })
}
