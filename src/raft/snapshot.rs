//! Snapshots: what is in the file, how one is built beside apply, and how it travels.
//!
//! The file's description is the library's metadata in our encoding, its content is what `State` writes. Building
//! clones the state, which costs nothing, and writes on a thread that may block. A snapshot travels byte for byte;
//! the receiver verifies all of it before anybody hears of it.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use openraft::storage::{RaftSnapshotBuilder, Snapshot};
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::codec;
use super::fatal::{FatalError, Verdict};
use super::run_log::RunSink;
use super::types::{SnapshotMeta, TypeConfig};
use crate::pb::peer;
use crate::state::level::Levels;
use crate::state::{self, State};
use crate::storage::StorageError;
use crate::storage::snapshot_file::{OutgoingSnapshot, SnapshotDir, SnapshotId, SnapshotReader};

/// Bytes in one piece of a travelling snapshot.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// Pieces read ahead of the network.
const CHUNKS_AHEAD: usize = 4;

/// A complete, verified snapshot file.
#[derive(Clone, Debug)]
pub(super) struct SnapshotFile {
    pub(super) path: PathBuf,
}

/// The newest snapshot of this node.
#[derive(Clone, Default)]
pub(super) struct Current(Arc<Mutex<Option<(SnapshotMeta, SnapshotFile)>>>);

impl Current {
    pub(super) fn get(&self) -> Option<(SnapshotMeta, SnapshotFile)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the newer one: a slow build must not hide a snapshot that was installed meanwhile.
    pub(super) fn offer(&self, meta: SnapshotMeta, file: SnapshotFile) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(known, _)| known.last_log_id <= meta.last_log_id) {
            *current = Some((meta, file));
        }
    }
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Meta(#[from] codec::CodecError),
    #[error("the state in {} does not decode: {source}", path.display())]
    State { path: PathBuf, source: state::CodecError },
}

/// The name of the file that a snapshot has.
pub(super) fn file_id(meta: &SnapshotMeta) -> SnapshotId {
    let (term, index) = meta.last_log_id.map_or((0, 0), |id| (id.committed_leader_id().term, id.index));
    SnapshotId { index, term }
}

/// Reads a snapshot, verifying all of it. Blocks.
pub(super) fn load(file: &SnapshotFile, levels: Levels) -> Result<(SnapshotMeta, State), LoadError> {
    let mut reader = SnapshotReader::open(&file.path)?;
    let meta = codec::load_meta(reader.meta())?;
    let state = State::read_spoken(&mut reader, levels);
    let state = state.map_err(|source| LoadError::State { path: file.path.clone(), source })?;
    reader.verify()?;
    Ok((meta, state))
}

/// Builds one snapshot.
pub(super) struct Builder {
    pub(super) state: State,
    pub(super) meta: SnapshotMeta,
    pub(super) dir: SnapshotDir,
    pub(super) sink: Arc<dyn RunSink>,
    pub(super) current: Current,
    pub(super) verdict: Verdict,
}

impl Builder {
    async fn build(&self) -> Result<SnapshotFile, StorageError> {
        // The log below the snapshot may be purged once it is known, so the runs it gave must be safe first.
        self.sink.complete(file_id(&self.meta).index).await?;
        let (state, meta, dir) = (self.state.clone(), self.meta.clone(), self.dir.clone());
        let path = blocking(move || {
            let mut writer = dir.create(file_id(&meta), &codec::store_meta(&meta))?;
            state.write_to(&mut writer).map_err(write_failed)?;
            let path = writer.finish()?;
            dir.delete_old()?;
            Ok(path)
        });
        Ok(SnapshotFile { path: path.await? })
    }
}

/// The writer's own error comes back wrapped, for `State` knows only `io::Error`.
fn write_failed(error: io::Error) -> StorageError {
    let path = PathBuf::from("the snapshot");
    match error.downcast::<StorageError>() {
        Ok(own) => own,
        Err(error) => StorageError::Io { path, op: "write", source: Arc::new(error) },
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>> {
        let file = self.build().await.map_err(|error| {
            self.verdict.reach(FatalError::Storage(error.clone()));
            io::Error::other(error)
        })?;
        self.current.offer(self.meta.clone(), file.clone());
        Ok(Snapshot { meta: self.meta.clone(), snapshot: file })
    }
}

/// Runs what blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match crate::threads::blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nothing that waits here will be heard any more.
            Err(_) => std::future::pending().await,
        },
    }
}

/// How reading the file to be sent went.
#[derive(Clone, Default)]
pub(super) struct ReadOutcome(Arc<OnceLock<StorageError>>);

impl ReadOutcome {
    /// The error that cut the stream off, if one did. That the file is gone is none: newer snapshots have taken its
    /// place, and the next attempt sends one of them.
    pub(super) fn failure(&self) -> Option<StorageError> {
        let gone = |error: &StorageError| matches!(error, StorageError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
        self.0.get().filter(|error| !gone(error)).cloned()
    }
}

/// Reads a snapshot into pieces for the wire: one with the head, then the file. The pieces end early when reading
/// fails, and the receiver then misses some.
pub(super) fn send(
    file: SnapshotFile,
    vote: peer::Vote,
    meta: peer::SnapshotMeta,
) -> (ReceiverStream<peer::SnapshotChunk>, ReadOutcome) {
    let (pieces, stream) = mpsc::channel(CHUNKS_AHEAD);
    let outcome = ReadOutcome::default();
    let told = outcome.clone();
    tokio::spawn(async move {
        let read = async {
            let mut outgoing = blocking(move || OutgoingSnapshot::open(&file.path)).await?;
            let head = peer::SnapshotChunk {
                vote: Some(vote),
                meta: Some(meta),
                length_bytes: outgoing.file_bytes(),
                data: Bytes::new(),
            };
            let mut next = Some(head);
            while let Some(piece) = next {
                if pieces.send(piece).await.is_err() {
                    break; // The peer or the library has lost interest.
                }
                let (open, data) =
                    blocking(move || outgoing.read(CHUNK_BYTES).map(|data| (outgoing, data))).await?;
                outgoing = open;
                next = data.map(|data| peer::SnapshotChunk { data, ..Default::default() });
            }
            Ok(())
        };
        if let Err(error) = read.await {
            let _ = told.0.set(error);
        }
    });
    (ReceiverStream::new(stream), outcome)
}
