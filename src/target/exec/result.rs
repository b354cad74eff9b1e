//! The result that a process may leave in a file of its own: [`VARIABLE`] names it, and what is in it at the end goes
//! into the report.
//!
//! The file is not there before the process makes it. It is read without following a link and without waiting, for
//! the process may have put anything in its place; and it is removed, however the attempt ends.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::de::IgnoredAny;

use crate::target::RESULT_BYTES_MAX;
use crate::threads;

/// Variable with the path of the file.
pub(super) const VARIABLE: &str = "CHRONARCH_RESULT_FILE";

/// Why there is no result although the process left one.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResultError {
    #[error("{VARIABLE}: more than {RESULT_BYTES_MAX} bytes; not kept")]
    TooLong,
    #[error("{VARIABLE}: no JSON; not kept")]
    NotJson,
    #[error("{VARIABLE}: not a plain file; not kept")]
    NotAFile,
    #[error("{VARIABLE}: cannot be read: {0}")]
    Read(io::Error),
}

/// The file; dropping it removes it.
#[derive(Debug)]
pub(super) struct ResultFile(PathBuf);

impl ResultFile {
    /// `mark` is unlike that of any other attempt on this machine.
    pub(super) fn named(folder: &Path, mark: &str) -> Self {
        Self(folder.join(format!("chronarch-result-{mark}.json")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// What is in it. None: the process has left nothing.
    pub(super) async fn take(self) -> Result<Option<String>, ResultError> {
        let taken = threads::blocking(move || read(&self.0)).await;
        taken.unwrap_or(Ok(None))
    }
}

impl Drop for ResultFile {
    fn drop(&mut self) {
        // Most attempts leave none.
        let _ = fs::remove_file(&self.0);
    }
}

fn read(path: &Path) -> Result<Option<String>, ResultError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let custom = i32::try_from(flags.bits()).unwrap_or(0);
    let file = match File::options().read(true).custom_flags(custom).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(ResultError::NotAFile);
        }
        Err(error) => return Err(ResultError::Read(error)),
    };
    if !file.metadata().map_err(ResultError::Read)?.is_file() {
        return Err(ResultError::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(RESULT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(ResultError::Read)?;
    if bytes.len() > RESULT_BYTES_MAX {
        return Err(ResultError::TooLong);
    }
    let text = String::from_utf8(bytes).map_err(|_| ResultError::NotJson)?;
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| ResultError::NotJson)?;
    Ok(Some(text.to_owned()))
}
