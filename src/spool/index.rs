//! Which attempts there is output of, and how much it is; pure.
//!
//! An attempt is *live* while its sink is open: its file grows and is never surplus. The room that a file takes is
//! accounted before it is written, so that the bound of all files holds at every moment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tokio::sync::watch;

use super::{FILES_MAX, Key, Progress};
use crate::state::time::Timestamp;

/// What a file takes beside its bytes, for a disk gives whole blocks.
pub(super) const FILE_OVERHEAD_BYTES: u64 = 4_096;

/// Files to be removed.
pub(super) type Surplus = Vec<PathBuf>;

#[derive(Debug, Default)]
pub(super) struct Index {
    files: BTreeMap<Key, Entry>,
    /// The ended ones.
    by_age: BTreeSet<(Timestamp, Key)>,
    total_bytes: u64,
    live: usize,
}

#[derive(Debug)]
struct Entry {
    path: PathBuf,
    bytes: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Live(watch::Receiver<Progress>),
    Ended(Timestamp),
}

/// Where the output of an attempt is.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Of one that is live.
    pub(super) progress: Option<watch::Receiver<Progress>>,
}

impl Index {
    /// A file of an earlier life.
    pub(super) fn found(&mut self, key: Key, path: PathBuf, bytes: u64, at: Timestamp) {
        self.forget(&key);
        let bytes = bytes + FILE_OVERHEAD_BYTES;
        self.total_bytes += bytes;
        self.by_age.insert((at, key.clone()));
        self.files.insert(key, Entry { path, bytes, stage: Stage::Ended(at) });
    }

    /// An attempt begins to write; false when there is no room for one more file.
    pub(super) fn begin(
        &mut self,
        key: &Key,
        path: PathBuf,
        progress: watch::Receiver<Progress>,
    ) -> (bool, Surplus) {
        // An older file of the same key is another cluster's: this one takes its place.
        let mut surplus: Surplus = self.forget(key).filter(|older| *older != path).into_iter().collect();
        while self.files.len() >= FILES_MAX {
            match self.take_oldest() {
                Some(path) => surplus.push(path),
                None => return (false, surplus),
            }
        }
        self.total_bytes += FILE_OVERHEAD_BYTES;
        self.live += 1;
        let entry = Entry { path, bytes: FILE_OVERHEAD_BYTES, stage: Stage::Live(progress) };
        self.files.insert(key.clone(), entry);
        (true, surplus)
    }

    /// Gives a live attempt room for so many bytes more, if ended ones leave it or can be removed for it.
    pub(super) fn grow(&mut self, key: &Key, bytes: u64, total_max: u64) -> (bool, Surplus) {
        let mut surplus = Vec::new();
        while self.total_bytes.saturating_add(bytes) > total_max {
            match self.take_oldest() {
                Some(path) => surplus.push(path),
                None => return (false, surplus),
            }
        }
        let Some(entry) = self.files.get_mut(key) else { return (false, surplus) };
        entry.bytes += bytes;
        self.total_bytes += bytes;
        (true, surplus)
    }

    /// An attempt writes no more. One without a file is forgotten.
    pub(super) fn end(&mut self, key: &Key, has_file: bool, at: Timestamp) {
        let Some(entry) = self.files.get_mut(key) else { return };
        if matches!(entry.stage, Stage::Live(_)) {
            self.live -= 1;
            entry.stage = Stage::Ended(at);
            self.by_age.insert((at, key.clone()));
        }
        if !has_file {
            self.forget(key);
        }
    }

    pub(super) fn find(&self, key: &Key) -> Option<Found> {
        let entry = self.files.get(key)?;
        let progress = match &entry.stage {
            Stage::Live(progress) => Some(progress.clone()),
            Stage::Ended(_) => None,
        };
        Some(Found { path: entry.path.clone(), progress })
    }

    pub(super) fn has_live(&self) -> bool {
        self.live > 0
    }

    /// Gives up what ended before `too_old`, and the oldest until the bound of all holds.
    pub(super) fn sweep(&mut self, too_old: Timestamp, total_max: u64) -> Surplus {
        let mut surplus = Vec::new();
        while let Some((at, _)) = self.by_age.first()
            && (*at < too_old || self.total_bytes > total_max || self.files.len() > FILES_MAX)
        {
            surplus.extend(self.take_oldest());
        }
        surplus
    }

    fn take_oldest(&mut self) -> Option<PathBuf> {
        let (_, key) = self.by_age.first().cloned()?;
        self.forget(&key)
    }

    fn forget(&mut self, key: &Key) -> Option<PathBuf> {
        let entry = self.files.remove(key)?;
        self.total_bytes -= entry.bytes;
        match entry.stage {
            Stage::Live(_) => self.live -= 1,
            Stage::Ended(at) => drop(self.by_age.remove(&(at, key.clone()))),
        }
        Some(entry.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fence: u64) -> Key {
        Key { run_id: "1-2".into(), fence }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn progress() -> watch::Receiver<Progress> {
        watch::channel(Progress::default()).1
    }

    fn path(name: &str) -> PathBuf {
        PathBuf::from(name)
    }

    #[test]
    fn the_oldest_ended_output_makes_room_and_a_live_one_never_does() {
        let mut index = Index::default();
        let file = 1_000;
        for fence in 1..=3 {
            index.found(key(fence), path(&fence.to_string()), file, at(10 - fence as i64));
        }
        assert_eq!(index.begin(&key(9), path("9"), progress()), (true, vec![]));
        let all = 3 * (file + FILE_OVERHEAD_BYTES) + FILE_OVERHEAD_BYTES;
        assert_eq!(index.grow(&key(9), 500, all), (true, vec![path("3")]), "3 is the oldest");
        assert_eq!(
            index.grow(&key(9), all, all),
            (false, vec![path("2"), path("1")]),
            "it is alone, and too much"
        );
        assert!(index.find(&key(9)).is_some_and(|found| found.progress.is_some()));
        index.end(&key(9), true, at(20));
        assert!(!index.has_live());
        assert_eq!(index.sweep(at(20), all), Vec::<PathBuf>::new());
        assert_eq!(index.sweep(at(21), all), [path("9")], "too old");
        assert_eq!(index.total_bytes, 0);
    }

    #[test]
    fn an_attempt_without_a_file_is_forgotten_at_its_end() {
        let mut index = Index::default();
        index.begin(&key(1), path("1"), progress());
        index.end(&key(1), false, at(1));
        assert!(index.find(&key(1)).is_none());
        assert_eq!((index.total_bytes, index.by_age.len()), (0, 0));
    }
}
