//! The log of this node read again with what became of each entry: evidence for people and checkers.
//!
//! What an entry came to is not in the log, but apply is deterministic: from a snapshot that lies before the wanted
//! entries, the same entries give the same decisions on a state of their own. Nothing here touches the node's state.
//!
//! # How it is used
//! [`Raft::plan_export`] says at once whether the entries can be had; [`Export::load`] reads the snapshot;
//! [`Export::step`] applies a few entries at a time on a thread that may block, and hands each to a function that
//! writes what it wants of it. Dropping the export between two steps ends it.
//!
//! # Bounds
//! A second state in memory (the caller sees to it that few exports run at a time), the entries of one read of the
//! log, and the text of a step. The log may be purged under a slow export: it then ends with an error, never with a
//! gap.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;

use tokio::sync::watch;

use super::fatal::{FatalError, Verdict};
use super::handle::Raft;
use super::log_store::LogStore;
use super::snapshot::{self, LoadError, SnapshotFile};
use super::types::{LogPosition, NodeAddress, Payload, RaftEntry};
use crate::state::level::SPOKEN;
use crate::state::{Applied, Entry, State, StateHash};
use crate::storage::StorageError;
use crate::storage::snapshot_file::{SnapshotDir, SnapshotId};

/// Text after which a step ends, in bytes; the text of one entry is never cut.
const STEP_BYTES: usize = 256 << 10;

/// Why part of the log cannot be exported.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ExportError {
    /// This node belongs to no cluster yet, or is ending.
    #[error("this node has no log")]
    NoLog,
    /// The wanted entries end before they begin.
    #[error("it comes before {from}, where the export would begin")]
    Reversed {
        /// The first that was wanted.
        from: u64,
    },
    /// Purged, or below every snapshot that could be begun with.
    #[error("log index {wanted} cannot be exported any more: the first that can is {first}")]
    Gone {
        /// The first that was wanted, or the next of an export that was overtaken.
        wanted: u64,
        /// The first that can be had.
        first: u64,
    },
    /// Not there yet.
    #[error("log index {wanted} is not applied on this node yet: the last is {last}")]
    NotApplied {
        /// The one that was wanted.
        wanted: u64,
        /// The last.
        last: u64,
    },
    /// The node has to end.
    #[error(transparent)]
    Fatal(#[from] FatalError),
}

/// What an entry is.
#[derive(Debug)]
pub enum Content<'a> {
    /// A leader's first.
    Blank,
    /// Who belongs to the cluster, from here on.
    Membership {
        /// The sets of voters of each of which a majority counts: one, or two while they change.
        voters: &'a [BTreeSet<u64>],
        /// Members without a vote.
        learners: BTreeSet<u64>,
        /// All members.
        nodes: BTreeMap<u64, NodeAddress>,
    },
    /// Commands, and what became of them.
    Commands {
        /// They.
        entry: &'a Entry,
        /// What became of them.
        applied: &'a Applied,
    },
}

/// An entry that was applied again.
#[derive(Debug)]
pub struct Replayed<'a> {
    /// Where it is.
    pub position: LogPosition,
    /// What it is.
    pub content: Content<'a>,
    /// The state before it.
    pub before: &'a State,
    /// The state after it.
    pub after: &'a State,
}

/// Writes what is wanted of an entry.
pub type WriteEntry = fn(&Replayed<'_>, &mut Vec<u8>);

/// What an export can begin with.
#[derive(Clone, Debug)]
enum Base {
    /// The state of a cluster that has done nothing yet.
    Nothing,
    /// The snapshot with this last entry.
    Snapshot(u64, SnapshotFile),
}

impl Base {
    /// The first entry that can be applied to it.
    const fn next(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Snapshot(index, _) => index.saturating_add(1),
        }
    }
}

/// What an export reads from.
#[derive(Clone)]
struct Sources {
    log: LogStore,
    snapshots: SnapshotDir,
    verdict: Verdict,
    closing: watch::Receiver<bool>,
}

/// An export of entries that can be had.
pub struct PlannedExport {
    /// The best first.
    bases: Vec<Base>,
    wanted: Range<u64>,
    sources: Sources,
}

/// An export under way.
pub struct Export {
    replay: Replay,
    wanted: Range<u64>,
    sources: Sources,
}

impl Raft {
    /// Prepares the export of the applied entries from `from` (or from the first that can be had) to `to` (or to the
    /// last), both included. Behind the last there is nothing to export, which is no error.
    ///
    /// # Errors
    /// [`ExportError`] when some of them cannot be had.
    pub async fn plan_export(
        &self,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<PlannedExport, ExportError> {
        let raft = self.clone();
        snapshot::blocking(move || raft.plan((from, to))).await
    }

    fn plan(&self, asked: (Option<u64>, Option<u64>)) -> Result<PlannedExport, ExportError> {
        let core = self.core().ok_or(ExportError::NoLog)?;
        let last = self.watch_applied().borrow().ok_or(ExportError::NoLog)?.index;
        let sources = Sources {
            log: core.log.clone(),
            snapshots: core.snapshots.clone(),
            verdict: self.verdict().clone(),
            closing: self.closing(),
        };
        let bases = sources.bases(last)?;
        let first = bases.iter().map(Base::next).min().ok_or(ExportError::NoLog)?;
        let wanted = range(asked, first, last)?;
        let bases: Vec<Base> = bases.into_iter().filter(|base| base.next() <= wanted.start).collect();
        if bases.is_empty() {
            return Err(ExportError::Gone { wanted: wanted.start, first });
        }
        Ok(PlannedExport { bases, wanted, sources })
    }
}

/// What is wanted, where the first entry that can be had is `first` and the last that is applied is `last`.
fn range((from, to): (Option<u64>, Option<u64>), first: u64, last: u64) -> Result<Range<u64>, ExportError> {
    let from = from.unwrap_or(first);
    let to = to.unwrap_or(last);
    if let Some(wanted) = [from.saturating_sub(1), to].into_iter().find(|index| *index > last) {
        return Err(ExportError::NotApplied { wanted, last });
    }
    if to.saturating_add(1) < from {
        return Err(ExportError::Reversed { from });
    }
    Ok(from..to.saturating_add(1))
}

impl Sources {
    /// What an export can begin with: the log is whole behind it, up to `last`. The newest first.
    fn bases(&self, last: u64) -> Result<Vec<Base>, ExportError> {
        let ids = self.snapshots.list().map_err(|error| self.failed(error))?;
        let snapshot =
            |id: SnapshotId| Base::Snapshot(id.index, SnapshotFile { path: self.snapshots.file(id) });
        let snapshots: Vec<Base> = ids.into_iter().map(snapshot).collect();
        let first = self.log.first_index();
        let usable = |base: &Base| first.is_some_and(|first| base.next() >= first) && base.next() <= last + 1;
        Ok(snapshots.into_iter().chain([Base::Nothing]).filter(usable).collect())
    }

    /// A storage error ends the node, whoever meets it.
    fn failed(&self, error: StorageError) -> ExportError {
        self.verdict.reach(FatalError::Storage(error.clone()));
        ExportError::Fatal(error.into())
    }

    /// The entry at `wanted` could be had a moment ago.
    fn gone(&self, wanted: u64) -> ExportError {
        match self.bases(u64::MAX - 1) {
            Ok(bases) => match bases.iter().map(Base::next).filter(|next| *next > wanted).min() {
                Some(first) => ExportError::Gone { wanted, first },
                None => ExportError::NoLog,
            },
            Err(error) => error,
        }
    }
}

impl PlannedExport {
    /// Reads the snapshot that it begins with.
    ///
    /// # Errors
    /// [`ExportError`]. A snapshot that is damaged, or was deleted meanwhile, is passed over where an older one serves.
    pub async fn load(self) -> Result<Export, ExportError> {
        let Self { bases, wanted, sources } = self;
        for base in bases {
            let next = base.next();
            let state = match base {
                Base::Nothing => State::default(),
                Base::Snapshot(_, file) => match sources.load(file).await? {
                    Some(state) => state,
                    None => continue,
                },
            };
            let pending = VecDeque::new();
            let replay = Replay { state, next, from: wanted.start, pending, text: Vec::new() };
            return Ok(Export { replay, wanted, sources });
        }
        Err(sources.gone(wanted.start))
    }
}

impl Sources {
    async fn load(&self, file: SnapshotFile) -> Result<Option<State>, ExportError> {
        let read = file.clone();
        match snapshot::blocking(move || snapshot::load(&read, SPOKEN)).await {
            Ok((_, state)) => Ok(Some(state)),
            Err(LoadError::Storage(StorageError::Io { source, .. }))
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(LoadError::Storage(error @ StorageError::Io { .. })) => Err(self.failed(error)),
            Err(error) => {
                tracing::warn!(path = %file.path.display(), %error, "snapshot is passed over");
                Ok(None)
            }
        }
    }
}

impl Export {
    /// Applies entries, and has those that are wanted written, until there is a good piece of text or nothing more to
    /// write. `None` at the end; an empty text means that no wanted entry has come yet.
    ///
    /// # Errors
    /// [`ExportError`]; what was exported before is true, but not whole.
    pub async fn step(&mut self, write: WriteEntry) -> Result<Option<Vec<u8>>, ExportError> {
        let end = self.wanted.end;
        if self.replay.next >= end {
            return Ok(None);
        }
        if *self.sources.closing.borrow() {
            return Err(ExportError::NoLog);
        }
        if self.replay.pending.is_empty() {
            let read = self.sources.log.read_some(self.replay.next..end).await;
            // Whoever read has told the verdict why.
            let ended = || self.sources.verdict.get().unwrap_or_else(|| StorageError::Closed.into());
            self.replay.pending = read.map_err(|_| ended())?.into();
            if self.replay.pending.front().map(|entry| entry.log_id.index) != Some(self.replay.next) {
                return Err(self.sources.gone(self.replay.next));
            }
        }
        let mut replay = std::mem::take(&mut self.replay);
        let replayed = snapshot::blocking(move || {
            replay.run(write);
            Ok::<_, ExportError>(replay)
        });
        self.replay = replayed.await?;
        Ok(Some(std::mem::take(&mut self.replay.text)))
    }

    /// The last index.
    #[must_use]
    pub const fn through(&self) -> u64 {
        self.wanted.end.saturating_sub(1)
    }

    /// The hash of the state at the last index, once all is exported.
    ///
    /// # Errors
    /// [`ExportError`] when the state cannot be written.
    pub async fn hash(&self) -> Result<StateHash, ExportError> {
        let state = self.replay.state.clone();
        let hashed = snapshot::blocking(move || state.hash()).await;
        hashed.map_err(|error| FatalError::Snapshot(error.to_string()).into())
    }
}

/// Entries being applied to a state of their own.
#[derive(Default)]
struct Replay {
    state: State,
    /// The next entry to apply.
    next: u64,
    /// The first that is written.
    from: u64,
    /// Read, but not applied yet.
    pending: VecDeque<RaftEntry>,
    text: Vec<u8>,
}

impl Replay {
    /// Applies what is pending, until there is enough text. Blocks.
    fn run(&mut self, write: WriteEntry) {
        while self.text.len() < STEP_BYTES
            && let Some(entry) = self.pending.pop_front()
        {
            let before = self.state.clone();
            let index = entry.log_id.index;
            let applied = match &entry.payload {
                Payload::Normal(logged) => Some(self.state.apply(index, logged.entry())),
                Payload::Blank | Payload::Membership(_) => None,
            };
            if index >= self.from {
                let content = content(&entry.payload, applied.as_ref());
                let position = LogPosition::from(&entry.log_id);
                write(&Replayed { position, content, before: &before, after: &self.state }, &mut self.text);
            }
            self.next = index.saturating_add(1);
        }
    }
}

fn content<'a>(payload: &'a Payload, applied: Option<&'a Applied>) -> Content<'a> {
    match (payload, applied) {
        (Payload::Normal(logged), Some(applied)) => Content::Commands { entry: logged.entry(), applied },
        (Payload::Membership(membership), _) => Content::Membership {
            voters: membership.get_joint_config(),
            learners: membership.learner_ids().collect(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
        },
        (Payload::Blank | Payload::Normal(_), _) => Content::Blank,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_can_be_wanted() {
        assert_eq!(range((None, None), 5, 9).unwrap(), 5..10);
        assert_eq!(range((Some(7), Some(8)), 5, 9).unwrap(), 7..9);
        assert_eq!(range((Some(10), None), 5, 9).unwrap(), 10..10, "nothing yet");
        assert_eq!(range((Some(0), Some(0)), 0, 0).unwrap(), 0..1);
        assert!(matches!(
            range((Some(11), None), 5, 9),
            Err(ExportError::NotApplied { wanted: 10, last: 9 })
        ));
        assert!(matches!(
            range((None, Some(10)), 5, 9),
            Err(ExportError::NotApplied { wanted: 10, last: 9 })
        ));
        assert!(matches!(range((Some(8), Some(6)), 5, 9), Err(ExportError::Reversed { from: 8 })));
        assert!(matches!(range((None, Some(u64::MAX)), 5, 9), Err(ExportError::NotApplied { .. })));
    }
}
