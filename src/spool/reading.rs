//! Reads the output of one attempt, also while it is being written.
//!
//! Of a file that grows only what the writer has declared is looked at, so a record is never met half written. Of one
//! that is complete the mark at its end says so; where it is missing, or a record is damaged, the rest is lost and a
//! gap tells it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tokio::sync::watch;

use super::format::{HEAD, Parsed, RECORD_HEAD_BYTES, Record, parse};
use super::index::Found;
use super::{Loss, PIECE_BYTES, Part, Piece, Progress, Stream};
use crate::state::time::Timestamp;
use crate::threads;

/// Read at once: the longest record fits.
const BLOCK_BYTES: usize = 128 << 10;
/// Pieces that are handed out at once, at most, and their bytes, at most but for one piece.
const PIECES_MAX: usize = 1_024;
const BYTES_MAX: usize = PIECE_BYTES;

/// What is to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// From this byte of the output on.
    pub offset: u64,
    /// Or from so many lines before what is there now, where it is more than none.
    pub tail_lines: usize,
    /// Only this one: [`Stream::Stdout`], with bodies, or [`Stream::Stderr`].
    pub stream: Option<Stream>,
    /// Go on until the attempt has ended.
    pub follow: bool,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// The next pieces, at least one.
    Pieces(Vec<Piece>),
    /// There are no more.
    Over(Ending),
}

/// Why there is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The attempt runs, and has written no more so far.
    Running,
    /// The attempt has ended.
    Ended,
    /// One stream is wanted, and both were taken as one.
    NotApart,
}

/// A reading under way.
#[derive(Debug)]
pub struct Reading {
    /// Nowhere while a step is under way, and after one that was dropped.
    cursor: Option<Cursor>,
    progress: Option<watch::Receiver<Progress>>,
    follow: bool,
}

/// A place in a file.
#[derive(Debug)]
struct Cursor {
    path: PathBuf,
    file: Option<File>,
    /// Of the next record.
    place: u64,
    /// The first byte of the output that was not handed out.
    offset: u64,
    wanted: Wanted,
    /// Where the tail begins is still to be found out.
    seeks: bool,
    /// The mark at the end was met.
    whole: bool,
    /// It was told that the rest is lost.
    torn: bool,
}

/// What one step has found.
enum Step {
    Pieces(Vec<Piece>),
    NotApart,
    /// Nothing behind the place, up to the given end of the file.
    Nothing,
}

impl Reading {
    pub(super) fn new(found: Found, wanted: Wanted) -> Self {
        let seeks = wanted.tail_lines > 0;
        let cursor = Cursor {
            path: found.path,
            file: None,
            place: HEAD.len() as u64,
            offset: if seeks { 0 } else { wanted.offset },
            wanted,
            seeks,
            whole: false,
            torn: false,
        };
        Self { cursor: Some(cursor), progress: found.progress, follow: wanted.follow }
    }

    /// What comes next; of an attempt that runs, when it comes, if the reading follows it.
    ///
    /// A call that is dropped before it is done ends the reading.
    ///
    /// # Errors
    /// Those of the disk, also when the file was removed meanwhile.
    pub async fn next(&mut self) -> io::Result<Taken> {
        loop {
            let seen = self.progress.as_mut().map(|progress| *progress.borrow_and_update());
            let mut cursor = self.cursor.take().ok_or(ErrorKind::UnexpectedEof)?;
            let through = seen.map(|seen| seen.file_bytes);
            let step = threads::blocking(move || {
                let step = cursor.step(through);
                (cursor, step)
            });
            let (cursor, step) = step.await.map_err(io::Error::other)?;
            match step? {
                Step::Pieces(pieces) => {
                    self.cursor = Some(cursor);
                    return Ok(Taken::Pieces(pieces));
                }
                Step::NotApart => return Ok(Taken::Over(Ending::NotApart)),
                Step::Nothing => {}
            }
            match seen {
                Some(Progress { ended: false, .. }) if !self.follow => {
                    return Ok(Taken::Over(Ending::Running));
                }
                Some(Progress { ended: false, .. }) => {
                    self.cursor = Some(cursor);
                    let progress = self.progress.as_mut().ok_or(ErrorKind::UnexpectedEof)?;
                    if progress.changed().await.is_err() {
                        // Its writer is gone without having completed it.
                        self.progress = None;
                    }
                }
                Some(Progress { ended: true, file_bytes, untold }) => {
                    let lost = match untold {
                        0 if cursor.whole || file_bytes == 0 => None,
                        0 => Some(Loss::Torn),
                        _ => Some(Loss::Disk),
                    };
                    return Ok(self.over(cursor, lost, untold));
                }
                None => {
                    let lost = (!cursor.whole).then_some(Loss::Torn);
                    return Ok(self.over(cursor, lost, 0));
                }
            }
        }
    }

    /// Nothing is left to read; what even the file does not tell of is told once.
    fn over(&mut self, mut cursor: Cursor, lost: Option<Loss>, bytes: u64) -> Taken {
        match lost {
            Some(loss) if !std::mem::replace(&mut cursor.torn, true) => {
                let gap = Piece { offset: cursor.offset, at: Timestamp::EPOCH, part: Part::Gap(bytes, loss) };
                self.cursor = Some(cursor);
                Taken::Pieces(vec![gap])
            }
            Some(_) | None => Taken::Over(Ending::Ended),
        }
    }
}

impl Cursor {
    /// Hands out what lies in the next block; `through` is how much of a growing file may be looked at.
    fn step(&mut self, through: Option<u64>) -> io::Result<Step> {
        if self.whole || self.torn || through.is_some_and(|through| through <= self.place) {
            return Ok(Step::Nothing);
        }
        let through = through.unwrap_or(u64::MAX);
        if self.file.is_none() {
            let file = File::open(&self.path)?;
            let mut head = [0; HEAD.len()];
            match file.read_exact_at(&mut head, 0) {
                Ok(()) if head == *HEAD => {}
                // Not of this form, or torn before its first record.
                Ok(()) => return Ok(Step::Nothing),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Step::Nothing),
                Err(error) => return Err(error),
            }
            self.file = Some(file);
        }
        if std::mem::take(&mut self.seeks) {
            self.seek_tail(through)?;
        }
        let mut pieces = Vec::new();
        let mut bytes = 0;
        let mut block = Block::default();
        while pieces.len() < PIECES_MAX && bytes < BYTES_MAX {
            let Some((record, next)) = block.record(self.file.as_ref(), self.place, through)? else { break };
            match record {
                Record::End => {
                    self.whole = true;
                    break;
                }
                Record::Piece(piece) => {
                    if self.is_unseparated(&piece) {
                        // What was handed out before cannot be there: a file is of one kind.
                        return Ok(Step::NotApart);
                    }
                    self.place = next;
                    if let Some(piece) = self.wanted_of(piece) {
                        if let Part::Data(_, data) = &piece.part {
                            bytes += data.len();
                        }
                        pieces.push(piece);
                    }
                }
            }
        }
        Ok(if pieces.is_empty() { Step::Nothing } else { Step::Pieces(pieces) })
    }

    fn is_unseparated(&self, piece: &Piece) -> bool {
        self.wanted.stream.is_some() && matches!(piece.part, Part::Data(Stream::Both, _))
    }

    fn is_wanted(&self, stream: Stream) -> bool {
        match self.wanted.stream {
            None | Some(Stream::Both) => true,
            Some(Stream::Stderr) => stream == Stream::Stderr,
            Some(Stream::Stdout | Stream::Body) => stream != Stream::Stderr,
        }
    }

    /// What of a piece was not handed out yet and is wanted.
    fn wanted_of(&mut self, piece: Piece) -> Option<Piece> {
        let (begin, end) = (piece.offset.max(self.offset), piece.end());
        let is_known = end <= self.offset && end > piece.offset;
        self.offset = self.offset.max(end);
        if is_known {
            return None;
        }
        let skip = begin - piece.offset;
        let part = match piece.part {
            Part::Data(stream, _) if !self.is_wanted(stream) => return None,
            Part::Data(stream, mut bytes) => {
                bytes.drain(..usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len()));
                Part::Data(stream, bytes)
            }
            Part::Gap(bytes, loss) => Part::Gap(bytes - skip, loss),
        };
        Some(Piece { offset: begin, at: piece.at, part })
    }

    /// Moves to where the last lines begin.
    fn seek_tail(&mut self, through: u64) -> io::Result<()> {
        let mut lines: VecDeque<(u64, u64)> = VecDeque::new();
        let mut block = Block::default();
        let (mut place, mut at_start) = (self.place, true);
        while let Some((record, next)) = block.record(self.file.as_ref(), place, through)? {
            let Record::Piece(piece) = record else { break };
            if let Part::Data(stream, bytes) = &piece.part
                && self.is_wanted(*stream)
            {
                if at_start && !bytes.is_empty() {
                    lines.push_back((place, piece.offset));
                }
                let breaks = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
                lines.extend(
                    breaks
                        .map(|(at, _)| at + 1)
                        .filter(|at| *at < bytes.len())
                        .map(|at| (place, piece.offset + at as u64)),
                );
                at_start = bytes.last().map_or(at_start, |last| *last == b'\n');
                let surplus = lines.len().saturating_sub(self.wanted.tail_lines);
                lines.drain(..surplus);
            }
            place = next;
        }
        if let Some((place, offset)) = lines.front() {
            (self.place, self.offset) = (*place, *offset);
        }
        Ok(())
    }
}

/// Bytes of the file that are in memory.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    /// Of the first of them.
    place: u64,
}

impl Block {
    /// The record at a place and the place behind it; none where there is none, or what is there is no record.
    fn record(&mut self, file: Option<&File>, place: u64, through: u64) -> io::Result<Option<(Record, u64)>> {
        let Some(file) = file else { return Ok(None) };
        for is_fresh in [false, true] {
            let inside = place.checked_sub(self.place).and_then(|at| usize::try_from(at).ok());
            let known = inside.and_then(|at| self.bytes.get(at..)).unwrap_or_default();
            match parse(known) {
                Parsed::Record(record, length) => return Ok(Some((record, place + length as u64))),
                Parsed::Incomplete if !is_fresh => self.fill(file, place, through)?,
                Parsed::Incomplete | Parsed::Damaged => return Ok(None),
            }
        }
        Ok(None)
    }

    fn fill(&mut self, file: &File, place: u64, through: u64) -> io::Result<()> {
        let most = usize::try_from(through.saturating_sub(place)).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        self.bytes.resize(most, 0);
        self.place = place;
        let mut filled = 0;
        while filled < most {
            match file.read_at(&mut self.bytes[filled..], place + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.truncate(filled);
        Ok(())
    }
}

const _: () = assert!(BLOCK_BYTES >= PIECE_BYTES + RECORD_HEAD_BYTES, "the longest record fits a block");
