//! What one attempt writes to: the side of the spool that must never hold up the attempt for long.
//!
//! The caller asks for room ([`Sink::ready`]), reads, and says what it has read ([`Sink::write`]), which cannot fail
//! and does not wait. While the disk is slow, `ready` waits; once it has waited [`STALL_MAX`] in vain it lets the
//! caller go on, and what is written without room is dropped and counted until there is room again.
//!
//! Dropping the sink is the end of the output.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::writer::Writer;
use super::{Beginning, Key, QUEUED_PIECES, STALL_MAX, Shared, Stream};
use crate::state::time::Timestamp;

/// Something that was read, on its way to the disk.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) stream: Stream,
    pub(super) at: Timestamp,
    /// Bytes that were dropped before it.
    pub(super) dropped_before: u64,
    pub(super) bytes: Vec<u8>,
}

/// See the module.
pub struct Sink(State);

enum State {
    /// Keeps nothing.
    Nowhere,
    /// Keeps what is little in memory, and forgets it at its end.
    Little {
        shared: Arc<Shared>,
        key: Key,
        most: usize,
        held: Vec<Said>,
        held_bytes: usize,
    },
    Queue(Queue),
}

struct Queue {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Said>,
    room: Option<mpsc::OwnedPermit<Said>>,
    /// Until when a disk that takes nothing is waited for.
    patience: Option<Instant>,
    /// It was waited for in vain.
    stalled: bool,
    dropped: u64,
    /// What was dropped last, for there is no piece behind it that could tell.
    dropped_last: Arc<AtomicU64>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sink")
    }
}

impl Sink {
    /// A sink that keeps nothing.
    #[must_use]
    pub fn nowhere() -> Self {
        Self(State::Nowhere)
    }

    pub(super) fn new(shared: Arc<Shared>, key: Key, beginning: Beginning) -> Self {
        match beginning {
            Beginning::AtOnce => {
                Self(Queue::start(shared, key, Vec::new()).map_or(State::Nowhere, State::Queue))
            }
            Beginning::Beyond(most) => {
                Self(State::Little { shared, key, most, held: Vec::new(), held_bytes: 0 })
            }
        }
    }

    /// A sink whose queue is the test's.
    #[cfg(test)]
    pub(super) fn stuck(spool: super::Spool) -> (Self, mpsc::Receiver<Said>) {
        let (sender, said) = mpsc::channel(QUEUED_PIECES);
        (Self(State::Queue(Queue::over(spool.shared, sender, Arc::default()))), said)
    }

    /// Waits until there is room for one write, or until waiting is in vain. Cancel-safe.
    pub async fn ready(&mut self) {
        if let State::Queue(queue) = &mut self.0 {
            queue.ready().await;
        }
    }

    /// Takes what was read.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        match &mut self.0 {
            State::Nowhere => {}
            State::Queue(queue) => queue.write(stream, bytes),
            State::Little { shared, held, held_bytes, .. } => {
                *held_bytes += bytes.len();
                let at = shared.clock.now();
                held.push(Said { stream, at, dropped_before: 0, bytes: bytes.to_vec() });
                self.begin_if_more();
            }
        }
    }

    fn begin_if_more(&mut self) {
        if !matches!(&self.0, State::Little { held_bytes, most, .. } if held_bytes > most) {
            return;
        }
        if let State::Little { shared, key, held, .. } = std::mem::replace(&mut self.0, State::Nowhere)
            && let Some(queue) = Queue::start(shared, key, held)
        {
            self.0 = State::Queue(queue);
        }
    }
}

impl Queue {
    /// `None` when there is no room for one more file.
    fn start(shared: Arc<Shared>, key: Key, first: Vec<Said>) -> Option<Self> {
        let dropped_last = Arc::<AtomicU64>::default();
        let writer = Writer::begin(Arc::clone(&shared), key)?;
        let (sender, said) = mpsc::channel(QUEUED_PIECES);
        tokio::spawn(keep(writer, first, said, Arc::clone(&dropped_last)));
        Some(Self::over(shared, sender, dropped_last))
    }

    fn over(shared: Arc<Shared>, sender: mpsc::Sender<Said>, dropped_last: Arc<AtomicU64>) -> Self {
        Self { shared, sender, room: None, patience: None, stalled: false, dropped: 0, dropped_last }
    }

    async fn ready(&mut self) {
        if self.room.is_some() || self.sender.is_closed() {
            return;
        }
        if self.stalled {
            self.room = self.sender.clone().try_reserve_owned().ok();
            return;
        }
        let until = *self.patience.get_or_insert_with(|| Instant::now() + STALL_MAX);
        match timeout_at(until, self.sender.clone().reserve_owned()).await {
            Ok(room) => self.room = room.ok(),
            Err(_) => self.stalled = true,
        }
        self.patience = None;
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        match self.room.take() {
            Some(room) => {
                self.stalled = false;
                let dropped_before = std::mem::take(&mut self.dropped);
                let at = self.shared.clock.now();
                room.send(Said { stream, at, dropped_before, bytes: bytes.to_vec() });
            }
            None => self.dropped += bytes.len() as u64,
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Before the channel closes, which is when it is looked at.
        self.dropped_last.store(self.dropped, Ordering::Release);
    }
}

/// Writes what is said until the sink is dropped, and completes the file.
async fn keep(
    writer: Writer,
    first: Vec<Said>,
    mut said: mpsc::Receiver<Said>,
    dropped_last: Arc<AtomicU64>,
) {
    let mut writer = writer;
    if !first.is_empty() {
        let Some(after) = writer.append(first).await else { return };
        writer = after;
    }
    while let Some(piece) = said.recv().await {
        let mut pieces = vec![piece];
        while let Ok(piece) = said.try_recv() {
            pieces.push(piece);
        }
        let Some(after) = writer.append(pieces).await else { return };
        writer = after;
    }
    writer.finish(dropped_last.load(Ordering::Acquire)).await;
}
