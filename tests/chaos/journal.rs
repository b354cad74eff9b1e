//! Files of JSON lines that the run leaves for the checker.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use chronarch::clock::Clock;
use serde_json::Value;

/// A file that is written a line at a time. Clones write to the same.
#[derive(Clone)]
pub(crate) struct Journal {
    file: Arc<Mutex<File>>,
    clock: Clock,
}

impl Journal {
    /// Creates the file.
    pub(crate) fn create(path: &Path, clock: &Clock) -> io::Result<Self> {
        Ok(Self { file: Arc::new(Mutex::new(File::create(path)?)), clock: clock.clone() })
    }

    /// The wall time, as it is written.
    pub(crate) fn now(&self) -> String {
        self.clock.now().to_string()
    }

    /// Writes a line. It is with the kernel when this returns, so it survives the end of this process.
    pub(crate) fn write(&self, line: &Value) {
        let text = format!("{line}\n");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes()).expect("the journal can be written");
    }
}
