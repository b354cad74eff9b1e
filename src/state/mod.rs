//! The replicated state.
pub mod schedule;
pub mod time;

use std::sync::Arc;

/// A log entry.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// Stamp of the proposer.
    pub at: time::Timestamp,
    /// What changes, in order.
    pub commands: Vec<u64>,
}

/// Why bytes are no entry or no snapshot.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(String);

impl Entry {
    /// The bytes of the log.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("a vector takes all")
    }
    /// The inverse.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        rmp_serde::from_slice(bytes).map_err(|e| CodecError(e.to_string()))
    }
}

/// What became of a command.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Done.
    Done,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {}

/// What an entry did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// One for each command.
    pub outcomes: Vec<Outcome>,
    /// Runs that ended, for the run log.
    pub finished: Vec<Arc<Run>>,
}

/// The state; a clone costs nothing (persistent maps).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    applied: u64,
}

impl State {
    /// Applies one entry.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Applied {
        self.applied = index;
        Applied { outcomes: entry.commands.iter().map(|_| Outcome::Done).collect(), finished: vec![] }
    }
    /// Index of the last applied entry.
    pub fn applied_index(&self) -> u64 {
        self.applied
    }
    /// Writes the snapshot form.
    pub fn write_to(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        out.write_all(&self.applied.to_le_bytes())
    }
    /// Reads it.
    pub fn read_from(input: &mut impl std::io::Read) -> Result<Self, CodecError> {
        let mut b = [0; 8];
        input.read_exact(&mut b).map_err(|e| CodecError(e.to_string()))?;
        Ok(Self { applied: u64::from_le_bytes(b) })
    }
}
