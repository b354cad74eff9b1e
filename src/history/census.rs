//! How many runs of each namespace are here.
//!
//! The count goes after the log: it walks over the rows of the indexes, which name all runs in the order in which
//! they ended, up to the last entry whose rows can be read. So appending pays nothing for it, each run is looked at
//! once, and what a restart forgets is counted again, a bounded piece at a time.
//!
//! # Invariants
//! - What is counted are the runs of the entries through `through`. Whoever adds runs to those begins the count anew;
//!   whoever removes runs holds it up meanwhile and takes them off.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::read::stored;
use super::{HistoryError, JOBS, Memory, RunLog, Shared, keys};
use crate::state::run::{JobId, RunId};
use crate::state::time::Timestamp;

/// Rows of the index that are looked at in one piece.
pub(super) const PIECE: usize = 256;
/// Pieces that a reader counts at most before it is told that the count is not ready.
const PIECES_FOR_A_READER: usize = 64;

/// The count, and what it has learned on its way.
#[derive(Default)]
pub(super) struct Census {
    /// The runs of the entries through this index are counted.
    through: u64,
    /// Tells pieces apart that were begun before runs came or went.
    begun: u64,
    /// Somebody removes runs.
    held_up: bool,
    /// Everything there was has been counted once.
    is_whole: bool,
    counts: BTreeMap<Arc<str>, u64>,
    /// The namespaces of jobs.
    spaces: HashMap<JobId, Arc<str>>,
    /// Where the search for the oldest runs of namespaces has come to.
    fronts: BTreeMap<Arc<str>, Front>,
    /// How often it was begun anew.
    anew: u64,
}

/// No run of a namespace has a lower index, and none of it ended earlier, where that is known.
pub(super) type Front = (u64, Option<Timestamp>);

impl Census {
    pub(super) const fn through(&self) -> u64 {
        self.through
    }

    /// Runs have come to entries that are counted.
    pub(super) fn begin_anew(&mut self) {
        self.begun += 1;
        self.anew += 1;
        (self.through, self.is_whole) = (0, false);
        self.counts.clear();
        self.fronts.clear();
    }

    pub(super) const fn anew(&self) -> u64 {
        self.anew
    }

    pub(super) fn front(&self, namespace: &str) -> Front {
        self.fronts.get(namespace).copied().unwrap_or_default()
    }

    /// Notes how far the search has come, unless runs have come to entries that it passed since then.
    pub(super) fn put_front(&mut self, namespace: &Arc<str>, front: Front, anew: u64) {
        if self.anew == anew {
            self.fronts.insert(Arc::clone(namespace), front);
        }
    }

    pub(super) fn keep_fronts(&mut self, wanted: impl Fn(&str) -> bool) {
        self.fronts.retain(|name, _| wanted(name));
    }

    /// Runs are about to be removed.
    pub(super) const fn hold_up(&mut self) {
        self.begun += 1;
        self.held_up = true;
    }

    /// They are gone.
    pub(super) fn go_on<'a>(&mut self, gone: impl Iterator<Item = (u64, &'a Arc<str>)>) {
        self.held_up = false;
        for (index, namespace) in gone {
            if index <= self.through
                && let Some(count) = self.counts.get_mut(namespace)
            {
                *count = count.saturating_sub(1);
            }
        }
        self.counts.retain(|_, count| *count > 0);
    }

    /// How many runs of a namespace are counted; nothing before all are.
    pub(super) fn count(&self, namespace: &str) -> Option<u64> {
        self.is_whole.then(|| self.counts.get(namespace).copied().unwrap_or(0))
    }

    fn learn(&mut self, job: JobId, namespace: Arc<str>) {
        if self.spaces.len() >= JOBS {
            self.spaces.clear();
        }
        self.spaces.insert(job, namespace);
    }
}

impl Memory {
    /// The last index of which all rows can be read.
    fn readable(&self) -> u64 {
        let under_way = self.writes.front().map(|write| write.index).into_iter().chain(self.appending).min();
        under_way.map_or(self.last_index, |index| index.saturating_sub(1))
    }
}

/// The runs that a row of the index names.
pub(super) fn named_in(row: &[u8]) -> impl Iterator<Item = Result<RunId, HistoryError>> {
    row.chunks(keys::RUN_KEY).map(|key| keys::identified(key).ok_or(HistoryError::Form))
}

impl Shared {
    /// Counts on, one piece; whether nothing is left to count.
    pub(super) fn count_on(&self) -> Result<bool, HistoryError> {
        let (from, until, begun) = {
            let memory = self.memory();
            let census = &memory.census;
            if census.held_up {
                return Ok(false);
            }
            (census.through, memory.readable(), census.begun)
        };
        let (ids, through) = self.named_between(from, until)?;
        let mut by_job: BTreeMap<JobId, (u64, RunId)> = BTreeMap::new();
        for (_, id) in ids {
            by_job.entry(id.job).or_insert((0, id)).0 += 1;
        }
        let mut counted = Vec::with_capacity(by_job.len());
        for (count, one) in by_job.into_values() {
            // A run that an index names is here, for both are removed at once.
            if let Some(namespace) = self.namespace_of(one)? {
                counted.push((namespace, count));
            }
        }
        let mut memory = self.memory();
        let census = &mut memory.census;
        if census.begun != begun || census.through != from {
            return Ok(false);
        }
        for (namespace, count) in counted {
            *census.counts.entry(namespace).or_insert(0) += count;
        }
        census.through = through.max(from);
        census.is_whole |= through >= until;
        Ok(through >= until)
    }

    /// Runs that entries in `(after, until]` ended, in order, at most about [`PIECE`] rows of them, and the last index
    /// of which all are among them.
    pub(super) fn named_between(
        &self,
        after: u64,
        until: u64,
    ) -> Result<(Vec<(u64, RunId)>, u64), HistoryError> {
        let rows = &self.rows;
        if after >= until {
            return Ok((Vec::new(), until));
        }
        let (low, high) = (keys::index(after + 1, 0), keys::index(until.saturating_add(1), 0));
        let mut found = rows.oldest(rows.indexes, &low, &high, PIECE)?;
        let index_of = |key: &[u8]| keys::indexed(key).ok_or(HistoryError::Form);
        let mut through = until;
        if found.len() >= PIECE
            && let (Some((first, _)), Some((last, _))) = (found.first(), found.last())
        {
            // The last entry may have more rows than were read.
            let (first, last) = (index_of(first)?, index_of(last)?);
            if first == last {
                return Ok((self.ids_at(first)?.into_iter().map(|id| (first, id)).collect(), first));
            }
            through = last - 1;
            found.retain(|(key, _)| keys::indexed(key) != Some(last));
        }
        let mut ids = Vec::new();
        for (key, row) in &found {
            let index = index_of(key)?;
            for id in named_in(row) {
                ids.push((index, id?));
            }
        }
        Ok((ids, through))
    }

    /// The namespace of the job of a run; unknown where neither the job was met before nor the run is here.
    pub(super) fn namespace_of(&self, id: RunId) -> Result<Option<Arc<str>>, HistoryError> {
        if let Some(known) = self.memory().census.spaces.get(&id.job) {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(run) = stored(&self.rows, id)? else { return Ok(None) };
        let mut memory = self.memory();
        let census = &mut memory.census;
        let known = census.counts.get_key_value(&run.namespace).map(|(name, _)| Arc::clone(name));
        let namespace = known.unwrap_or_else(|| Arc::clone(&run.namespace));
        census.learn(id.job, Arc::clone(&namespace));
        Ok(Some(namespace))
    }
}

impl RunLog {
    /// How many runs of each namespace are here, by name. Nothing while that is still being counted, which goes on with
    /// each call and with each [`RunLog::prune`]. Blocks.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub fn retained(&self) -> Result<Option<BTreeMap<Arc<str>, u64>>, HistoryError> {
        for _ in 0..PIECES_FOR_A_READER {
            let is_held_up = self.shared.memory().census.held_up;
            if is_held_up || self.shared.count_on()? {
                break;
            }
        }
        let memory = self.shared.memory();
        let census = &memory.census;
        Ok(census.is_whole.then(|| census.counts.clone()))
    }
}
