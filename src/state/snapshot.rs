//! The snapshot form of the state: its level, a header, then each item behind a section byte and its length.
//!
//! The level comes first, and its form never changes: a release that speaks less learns by it that what follows is not
//! for it. At [`level::FIRST`] it is not written.
//!
//! Only what is not derived is written; reading builds the derived sets anew, so they cannot disagree.
//! Items are written one at a time, so the memory needed does not grow with the state. Checksums are
//! the storage's business.

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::breaker::Breaker;
use super::command::{BreakerKey, CodecError, decode, encode};
use super::group::{Group, GroupKey};
use super::job::Job;
use super::join::{Join, JoinKey};
use super::level::{self, Levels};
use super::namespace::Namespace;
use super::operation::Remembered;
use super::queue::Queue;
use super::reading::Reading;
use super::run::Run;
use super::time::Timestamp;
use super::tzdata::TzdataParts;
use super::{Leadership, State};

const HEADER: u8 = 1;
const JOB: u8 = 2;
const RUN: u8 = 3;
const BREAKER: u8 = 4;
const LEASE: u8 = 5;
const OPERATION: u8 = 6;
const GROUP: u8 = 7;
const JOIN: u8 = 8;
const QUEUE: u8 = 9;
const LEVEL: u8 = 10;
const NAMESPACE: u8 = 11;
const TZDATA: u8 = 12;
const READING: u8 = 13;
const END: u8 = 255;

/// The longest item that is believed; a longer one means that the bytes are no snapshot.
const ITEM_BYTES: u32 = 64 << 20;

fn item(out: &mut impl Write, section: u8, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&[section])?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(bytes)
}

impl State {
    /// Writes the snapshot form.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        if self.level > level::FIRST {
            item(out, LEVEL, &self.level.to_le_bytes())?;
        }
        item(
            out,
            HEADER,
            &encode(&(self.now, self.before, self.applied, self.fences, self.leaderships.as_ref())),
        )?;
        // Before the runs, which are counted into them.
        for (name, queue) in &self.queues {
            item(out, QUEUE, &encode(&(name.as_ref(), queue.as_ref())))?;
        }
        for job in self.jobs.values() {
            item(out, JOB, &encode(job.as_ref()))?;
        }
        for run in self.runs.values() {
            item(out, RUN, &encode(run.as_ref()))?;
        }
        for (key, breaker) in &self.breakers {
            item(out, BREAKER, &encode(&(key, breaker.as_ref())))?;
        }
        for (worker, until) in &self.leases {
            item(out, LEASE, &encode(&(worker.as_ref(), until)))?;
        }
        for (number, key) in &self.operations_by_age {
            if let Some(remembered) = self.operations.get(key) {
                item(out, OPERATION, &encode(&(number, key.as_ref(), remembered)))?;
            }
        }
        for (key, group) in &self.groups {
            item(out, GROUP, &encode(&(key, group.as_ref())))?;
        }
        for (key, join) in &self.joins {
            item(out, JOIN, &encode(&(key, join.as_ref())))?;
        }
        for (name, namespace) in &self.namespaces {
            item(out, NAMESPACE, &encode(&(name.as_ref(), namespace.as_ref())))?;
        }
        if let Some(tzdata) = &self.tzdata {
            item(out, TZDATA, &encode(&tzdata.parts()))?;
        }
        if self.reading != Reading::default() {
            item(out, READING, &encode(&self.reading))?;
        }
        item(out, END, &[])
    }

    /// Reads the snapshot form.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are not whole, or of a version that this one does not know.
    pub fn read_from(input: &mut impl Read) -> Result<Self, CodecError> {
        Self::read_spoken(input, level::SPOKEN)
    }

    /// As [`Self::read_from`], for one who speaks other levels than this release.
    ///
    /// # Errors
    /// As [`Self::read_from`].
    pub fn read_spoken(input: &mut impl Read, spoken: Levels) -> Result<Self, CodecError> {
        let mut state = Self::default();
        let mut bytes = Vec::new();
        loop {
            let mut head = [0; 5];
            input.read_exact(&mut head).map_err(CodecError::Truncated)?;
            let [section, length @ ..] = head;
            let length = u32::from_le_bytes(length);
            if length > ITEM_BYTES {
                return Err(CodecError::Section(section));
            }
            bytes.clear();
            let read =
                input.take(u64::from(length)).read_to_end(&mut bytes).map_err(CodecError::Truncated)?;
            if read != bytes.len() || u64::from(length) != bytes.len() as u64 {
                return Err(CodecError::Truncated(io::ErrorKind::UnexpectedEof.into()));
            }
            match section {
                END => {
                    spoken.check(state.level)?;
                    return Ok(state);
                }
                LEVEL => {
                    let bytes = bytes.as_slice().try_into().map_err(|_| CodecError::Section(LEVEL))?;
                    state.level = u32::from_le_bytes(bytes);
                    spoken.check(state.level)?;
                }
                _ => state.read_item(section, &bytes)?,
            }
        }
    }

    fn read_item(&mut self, section: u8, bytes: &[u8]) -> Result<(), CodecError> {
        match section {
            HEADER => {
                let leaderships: Vec<Leadership>;
                (self.now, self.before, self.applied, self.fences, leaderships) = decode(bytes)?;
                self.leaderships = Arc::new(leaderships);
            }
            JOB => self.put_job(decode::<Job>(bytes)?),
            RUN => self.put_run(decode::<Run>(bytes)?),
            BREAKER => {
                let (key, breaker): (BreakerKey, Breaker) = decode(bytes)?;
                self.put_breaker(key, breaker);
            }
            LEASE => {
                let (worker, until): (String, Timestamp) = decode(bytes)?;
                self.leases.insert(worker.into(), until);
            }
            OPERATION => {
                let (number, key, remembered): (u64, String, Remembered) = decode(bytes)?;
                self.remember(number, key.into(), remembered);
            }
            GROUP => {
                let (key, group): (GroupKey, Group) = decode(bytes)?;
                self.groups.insert(key, Arc::new(group));
            }
            QUEUE => {
                let (name, queue): (String, Queue) = decode(bytes)?;
                self.put_queue(name.into(), queue);
            }
            NAMESPACE => {
                let (name, namespace): (String, Namespace) = decode(bytes)?;
                self.namespaces.insert(name.into(), Arc::new(namespace));
            }
            TZDATA => self.put_tzdata(decode::<TzdataParts>(bytes)?),
            READING => self.reading = decode(bytes)?,
            JOIN => {
                let (key, join): (JoinKey, Join) = decode(bytes)?;
                self.put_join(key, join);
            }
            other => return Err(CodecError::Section(other)),
        }
        Ok(())
    }
}
