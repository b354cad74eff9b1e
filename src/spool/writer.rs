//! Writes the file of one attempt.
//!
//! It is *whole* while everything was written; *full* once the limit is reached, when only the last [`END_BYTES`] are
//! held in memory until the end; *broken* once the disk has refused something, when nothing more is tried before the
//! end. What lies between the last byte of the file and the end becomes one gap.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::format::{self, HEAD, RECORD_HEAD_BYTES};
use super::sink::Said;
use super::{END_BYTES, Key, Loss, PIECE_BYTES, Part, Piece, Progress, Shared, Stream, folder};
use crate::state::time::Timestamp;
use crate::threads;

/// Room in the file for its end: a gap, the last bytes in many pieces, and the mark.
const END_ROOM_BYTES: u64 = 2 * END_BYTES as u64;
/// Pieces that the end may have.
const END_PIECES: usize = 1_024;
/// Up to so many bytes, writes to the end share a piece.
const SHARED_PIECE_BYTES: usize = 4 << 10;
/// Output may hold what is not for everyone on the machine.
const MODE: u32 = 0o600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Whole,
    Full,
    Broken,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    key: Key,
    path: PathBuf,
    file: Option<File>,
    file_bytes: u64,
    condition: Condition,
    /// Bytes of output so far, kept or not.
    offset: u64,
    /// Through which of them the file tells.
    told: u64,
    end: End,
    progress: watch::Sender<Progress>,
}

/// Records that are about to be written, and through which byte of the output they tell.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    told: u64,
}

/// The last bytes of an output that is too long, in their pieces; they lie one behind the other.
#[derive(Default)]
struct End {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

impl Writer {
    /// `None` when there is no room for one more file.
    pub(super) fn begin(shared: Arc<Shared>, key: Key) -> Option<Self> {
        let path = folder::path(&shared.own, &key)?;
        let (progress, seen) = watch::channel(Progress::default());
        let (begun, surplus) = shared.index().begin(&key, path.clone(), seen);
        let writer = Self {
            shared,
            key,
            path,
            file: None,
            file_bytes: 0,
            condition: Condition::Whole,
            offset: 0,
            told: 0,
            end: End::default(),
            progress,
        };
        folder::remove(&surplus, &writer.shared.own);
        begun.then_some(writer)
    }

    /// Writes where that holds up nobody; `None` when the runtime is ending.
    pub(super) async fn append(mut self, pieces: Vec<Said>) -> Option<Self> {
        let written = threads::blocking(move || {
            self.take(pieces);
            self
        });
        written.await.ok()
    }

    /// Completes the file, `dropped` bytes behind all others.
    pub(super) async fn finish(self, dropped: u64) {
        // When the runtime is ending the file stays torn, and will be told to be.
        let _ = threads::blocking(move || self.complete(dropped)).await;
    }

    fn take(&mut self, pieces: Vec<Said>) {
        let mut batch = Batch { bytes: Vec::new(), told: self.told };
        for said in pieces {
            self.skip(said.dropped_before, said.at, &mut batch);
            for bytes in said.bytes.chunks(PIECE_BYTES) {
                self.put(said.stream, said.at, bytes, &mut batch);
            }
        }
        if batch.bytes.is_empty() {
            return;
        }
        let length = batch.bytes.len() as u64;
        if !self.has_room(length) {
            // All that is kept belongs to attempts that run.
            self.condition = Condition::Full;
            return;
        }
        if let Err(error) = self.write(&batch) {
            self.shared.tell(Some(&error));
            self.condition = Condition::Broken;
            self.end = End::default();
            return;
        }
        self.shared.tell(None);
        self.progress.send_modify(|progress| progress.file_bytes = self.file_bytes);
    }

    /// Bytes that never got here.
    fn skip(&mut self, bytes: u64, at: Timestamp, batch: &mut Batch) {
        if bytes == 0 {
            return;
        }
        let gap = Piece { offset: self.offset, at, part: Part::Gap(bytes, Loss::Disk) };
        self.offset += bytes;
        match self.condition {
            Condition::Whole => batch.add(&gap),
            Condition::Full => self.end = End::default(),
            Condition::Broken => {}
        }
    }

    fn put(&mut self, stream: Stream, at: Timestamp, bytes: &[u8], batch: &mut Batch) {
        let mut rest = bytes;
        if self.condition == Condition::Whole {
            let used = self.file_bytes + (batch.bytes.len() + RECORD_HEAD_BYTES) as u64 + END_ROOM_BYTES;
            let room = usize::try_from(self.shared.options.output_bytes.saturating_sub(used));
            let (fits, beyond) = bytes.split_at(bytes.len().min(room.unwrap_or(usize::MAX)));
            if !fits.is_empty() {
                let part = Part::Data(stream, fits.to_vec());
                batch.add(&Piece { offset: self.offset, at, part });
                self.offset += fits.len() as u64;
            }
            if beyond.is_empty() {
                return;
            }
            self.condition = Condition::Full;
            rest = beyond;
        }
        if self.condition == Condition::Full {
            self.end.push(self.offset, stream, at, rest);
        }
        self.offset += rest.len() as u64;
    }

    fn has_room(&self, bytes: u64) -> bool {
        let (has_room, surplus) = self.shared.index().grow(&self.key, bytes, self.shared.options.total_bytes);
        folder::remove(&surplus, &self.shared.own);
        has_room
    }

    /// Appends the records to the file, all or none.
    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut options = File::options();
                let file = options.write(true).create(true).truncate(true).mode(MODE).open(&self.path)?;
                file.write_all_at(HEAD, 0)?;
                self.file_bytes = HEAD.len() as u64;
                none.insert(file)
            }
        };
        if let Err(error) = file.write_all_at(&batch.bytes, self.file_bytes) {
            // What is left of a record ends the file as one that is torn does; without it nothing is amiss.
            let _ = file.set_len(self.file_bytes);
            return Err(error);
        }
        self.file_bytes += batch.bytes.len() as u64;
        self.told = batch.told;
        Ok(())
    }

    fn complete(mut self, dropped: u64) {
        let at = self.shared.clock.now();
        let mut batch = Batch { bytes: Vec::new(), told: self.told };
        self.skip(dropped, at, &mut batch);
        if self.offset > 0 {
            self.write_end(at, batch);
        }
        let untold = self.offset - self.told;
        self.shared.index().end(&self.key, self.file.is_some(), at);
        self.progress.send_replace(Progress { file_bytes: self.file_bytes, ended: true, untold });
        self.shared.ended.send_modify(|ended| *ended += 1);
    }

    /// The gap that is still to be told, the last bytes, and the mark; also of a file that is broken, for by now the
    /// disk may have room again.
    fn write_end(&mut self, at: Timestamp, mut batch: Batch) {
        let loss = if self.condition == Condition::Broken { Loss::Disk } else { Loss::Limit };
        let end = std::mem::take(&mut self.end);
        let length = end.pieces.len() * RECORD_HEAD_BYTES + end.bytes;
        let has_room = self.has_room((length + 4 * RECORD_HEAD_BYTES) as u64);
        let pieces = if has_room { end.pieces } else { VecDeque::new() };
        let from = pieces.front().map_or(self.offset, |first| first.offset);
        if from > batch.told {
            batch.add(&Piece { offset: batch.told, at, part: Part::Gap(from - batch.told, loss) });
        }
        pieces.iter().for_each(|piece| batch.add(piece));
        format::write_end(self.offset, at, &mut batch.bytes);
        if let Err(error) = self.write(&batch) {
            self.shared.tell(Some(&error));
        }
    }
}

impl Batch {
    fn add(&mut self, piece: &Piece) {
        format::write(piece, &mut self.bytes);
        self.told = piece.end();
    }
}

impl End {
    fn push(&mut self, offset: u64, stream: Stream, at: Timestamp, bytes: &[u8]) {
        self.bytes += bytes.len();
        // Small writes share a piece, so that their heads do not take more than they do.
        match self.pieces.back_mut().map(|last| &mut last.part) {
            Some(Part::Data(of, last)) if *of == stream && last.len() + bytes.len() <= SHARED_PIECE_BYTES => {
                last.extend_from_slice(bytes);
            }
            _ => self.pieces.push_back(Piece { offset, at, part: Part::Data(stream, bytes.to_vec()) }),
        }
        loop {
            let (surplus, too_many) = (self.bytes.saturating_sub(END_BYTES), self.pieces.len() > END_PIECES);
            let Some(Piece { offset, part: Part::Data(_, data), .. }) = self.pieces.front_mut() else {
                return;
            };
            if surplus == 0 && !too_many {
                return;
            }
            if surplus < data.len() && !too_many {
                data.drain(..surplus);
                *offset += surplus as u64;
                self.bytes -= surplus;
            } else {
                self.bytes -= data.len();
                self.pieces.pop_front();
            }
        }
    }
}
