//! The replicated state as the consensus library sees it: apply, publish, answer, snapshot.
//!
//! One task of the library calls everything here, in turn: apply, installation and the start of a snapshot never
//! overlap. Whoever reads takes the published state, an `Arc` that never changes.
//!
//! # Invariants
//! - A state is published before the clients of its entries are answered: who has an answer finds it in the state.
//! - What apply gives depends on the entries alone. A panic in it is a broken invariant: it ends the node.
//! - Runs are handed to the run log in the order of the log, and apply waits while the run log has no room.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::{Notify, watch};

use super::codec;
use super::fatal::{FatalError, Verdict};
use super::handle::{Observed, Observer};
use super::hashes::Hashes;
use super::run_log::RunSink;
use super::snapshot::{self, Builder, Current, LoadError, SnapshotFile};
use super::types::{Answer, LogId, LogPosition, LoggedEntry, SnapshotMeta, StoredMembership, TypeConfig};
use crate::state::level::Levels;
use crate::state::{self, State};
use crate::storage::StorageError;
use crate::storage::snapshot_file::{Newest, SnapshotDir};

/// Commands after which the state is published and clients are answered within a batch of entries.
const PUBLISH_COMMANDS: usize = 256;

/// Where the state is seen from outside. Whoever sees a position finds a state that has at least that much.
#[derive(Clone, Default)]
pub(super) struct Published {
    pub(super) states: watch::Sender<Arc<State>>,
    pub(super) applied: watch::Sender<Option<LogPosition>>,
}

/// When a snapshot is due: after so many bytes or entries since the last one was begun.
#[derive(Debug)]
pub(super) struct SnapshotClock {
    entries: AtomicU64,
    bytes: AtomicU64,
    pub(super) entries_max: u64,
    pub(super) bytes_max: u64,
    pub(super) due: Notify,
}

impl SnapshotClock {
    pub(super) fn new(entries_max: u64, bytes_max: u64) -> Self {
        Self { entries: 0.into(), bytes: 0.into(), entries_max, bytes_max, due: Notify::new() }
    }

    fn count(&self, bytes: usize) {
        let entries = self.entries.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if entries >= self.entries_max || bytes >= self.bytes_max {
            self.due.notify_one();
        }
    }

    /// Is one due?
    pub(super) fn is_due(&self) -> bool {
        self.entries.load(Ordering::Relaxed) >= self.entries_max
            || self.bytes.load(Ordering::Relaxed) >= self.bytes_max
    }

    fn restart(&self) {
        self.entries.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

/// What the state machine works with.
pub(super) struct Surroundings {
    pub(super) published: Published,
    pub(super) sink: Arc<dyn RunSink>,
    pub(super) snapshots: SnapshotDir,
    pub(super) clock: Arc<SnapshotClock>,
    pub(super) hashes: Hashes,
    pub(super) verdict: Verdict,
    pub(super) observer: Option<Observer>,
    pub(super) levels: Levels,
}

/// The state with its place in the log.
pub(super) struct StateMachine {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    current: Current,
    with: Surroundings,
}

impl StateMachine {
    /// Loads the newest snapshot that is whole. Snapshots that are not are told in the log and passed over, as long
    /// as the log that follows an older one is kept: it begins behind `purged`. The library would not always notice;
    /// where it knows of no commit yet, as on a node that has just been sent a snapshot, it begins with nothing.
    pub(super) async fn open(with: Surroundings, purged: Option<u64>) -> Result<Self, LoadError> {
        let (dir, levels) = (with.snapshots.clone(), with.levels);
        let loaded = snapshot::blocking(move || {
            let Newest { found, refused } =
                dir.newest(|meta| codec::load_meta(meta).ok().as_ref().map(snapshot::file_id))?;
            for error in &refused {
                tracing::warn!(%error, "snapshot is passed over");
            }
            let index = found.as_ref().map(|(id, _)| id.index);
            if let Some(purged) = purged.filter(|purged| index.is_none_or(|index| index < *purged)) {
                let (dir, found) = (dir.path().to_path_buf(), index.unwrap_or(0));
                return Err(StorageError::SnapshotLost { dir, found, purged, refused }.into());
            }
            let Some((_, path)) = found else { return Ok(None) };
            let file = SnapshotFile { path };
            snapshot::load(&file, levels).map(|(meta, state)| Some((meta, state, file)))
        });
        let mut machine = Self {
            state: State::default(),
            applied: None,
            membership: StoredMembership::default(),
            current: Current::default(),
            with,
        };
        if let Some((meta, state, file)) = loaded.await? {
            machine.replace(meta, state, file);
        }
        Ok(machine)
    }

    fn replace(&mut self, meta: SnapshotMeta, state: State, file: SnapshotFile) {
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.current.offer(meta, file);
        let index = self.applied.map_or(0, |applied| applied.index);
        self.tell(|| Observed::Restored { index, state: &self.state });
        self.publish();
    }

    fn tell<'a>(&self, observed: impl FnOnce() -> Observed<'a>) {
        if let Some(observer) = &self.with.observer {
            observer(&observed());
        }
    }

    /// The first entry that is not in the state.
    pub(super) fn next_index(&self) -> u64 {
        self.applied.map_or(0, |applied| applied.index.saturating_add(1))
    }

    fn publish(&self) {
        self.with.published.states.send_replace(Arc::new(self.state.clone()));
        self.with.published.applied.send_replace(self.applied.as_ref().map(LogPosition::from));
    }

    async fn apply_normal(&mut self, index: u64, logged: &LoggedEntry) -> Result<Answer, FatalError> {
        let state = &mut self.state;
        let applied = catch_unwind(AssertUnwindSafe(|| state.apply(index, logged.entry())))
            .map_err(|panic| FatalError::Apply { index, message: panic_message(&*panic) })?;
        self.with.levels.check(self.state.level())?;
        let (entry, after) = (logged.entry(), &self.state);
        self.tell(|| Observed::Applied { index, entry, applied: &applied, after });
        if !applied.finished.is_empty() {
            self.with.sink.append(index, applied.finished.clone()).await?;
        }
        self.with.clock.count(logged.encoded().len());
        Ok(Some(Arc::new(applied)))
    }

    fn answer(&self, waiting: &mut Vec<(ApplyResponder<TypeConfig>, Answer)>) {
        self.publish();
        for (responder, answer) in waiting.drain(..) {
            responder.send(answer);
        }
    }

    fn failed(&self, error: FatalError) -> io::Error {
        let told = io::Error::other(error.clone());
        self.with.verdict.reach(error);
        told
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown panic".to_owned())
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let (mut waiting, mut commands) = (Vec::new(), 0);
        while let Some((entry, responder)) = entries.try_next().await? {
            let answer = match &entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                    self.tell(|| Observed::Members {
                        index: entry.log_id.index,
                        voters: membership.voter_ids().collect(),
                        members: membership.nodes().map(|(id, _)| *id).collect(),
                        is_joint: membership.get_joint_config().len() > 1,
                    });
                    None
                }
                EntryPayload::Normal(logged) => {
                    commands += logged.entry().commands.len();
                    let applied = self.apply_normal(entry.log_id.index, logged).await;
                    applied.map_err(|error| self.failed(error))?
                }
            };
            self.applied = Some(entry.log_id);
            self.with.hashes.look(entry.log_id.index, &self.state);
            waiting.extend(responder.map(|responder| (responder, answer)));
            if commands >= PUBLISH_COMMANDS {
                self.answer(&mut waiting);
                commands = 0;
            }
        }
        self.answer(&mut waiting);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.with.clock.restart();
        Builder {
            state: self.state.clone(),
            meta: self.meta(),
            dir: self.with.snapshots.clone(),
            sink: Arc::clone(&self.with.sink),
            current: self.current.clone(),
            verdict: self.with.verdict.clone(),
        }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, file: SnapshotFile) -> io::Result<()> {
        let (read, levels) = (file.clone(), self.with.levels);
        // The file says what it is: it was verified with its description when it arrived.
        let loaded = snapshot::blocking(move || snapshot::load(&read, levels)).await;
        let (meta, state) = loaded.map_err(|error| self.failed(error.into()))?;
        self.with.clock.restart();
        self.replace(meta, state, file);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>>> {
        Ok(self.current.get().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

impl From<LoadError> for FatalError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Storage(error) => Self::Storage(error),
            LoadError::Meta(source) => Self::Undecodable { what: "a snapshot", source: Arc::new(source) },
            LoadError::State { source: state::CodecError::Level(error), .. } => Self::Level(error),
            LoadError::State { .. } => Self::Snapshot(error.to_string()),
        }
    }
}
