//! The folder: who has it, what earlier lives have left in it, and how its files are called.
//!
//! `FOLDER/lock`, and for each life a folder `LIFE.out`, its name in percent encoding, with files `FENCE_RUN`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::UNIX_EPOCH;

use tokio::sync::watch;
use url::form_urlencoded;

use super::index::{Index, Surplus};
use super::{FILES_MAX, Key, LIVES_MAX, RUN_ID_CHARS, Shared, SpoolError, SpoolOptions};
use crate::clock::Clock;
use crate::state::time::Timestamp;
use crate::storage::files::{LockedFile, create_dir};

/// Of the folder of a life, so that no other folder is taken for one.
const ENDING: &str = ".out";

/// The name of an attempt's file; `None` for a run id that is not of the form that runs have, for it could lead
/// out of the folder.
pub(super) fn file_name(key: &Key) -> Option<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let id = &*key.run_id;
    ((1..=RUN_ID_CHARS).contains(&id.len()) && id.chars().all(is_plain))
        .then(|| format!("{}_{id}", key.fence))
}

fn key_of(name: &str) -> Option<Key> {
    let (fence, run_id) = name.split_once('_')?;
    let key = Key { run_id: run_id.into(), fence: fence.parse().ok()? };
    (file_name(&key)? == name).then_some(key)
}

fn folder_name(life: &str) -> String {
    let name: String = form_urlencoded::byte_serialize(life.as_bytes()).collect();
    format!("{name}{ENDING}")
}

fn life_of(folder: &str) -> Option<String> {
    let (life, _) = form_urlencoded::parse(folder.strip_suffix(ENDING)?.as_bytes()).next()?;
    (folder_name(&life) == folder).then(|| life.into_owned())
}

/// Takes the folder and looks through it.
pub(super) fn open(options: SpoolOptions, clock: Clock) -> Result<Shared, SpoolError> {
    let folder = &options.folder;
    create_dir(folder)?;
    let lock = LockedFile::open_or_create(&folder.join("lock"))?;
    let own = folder.join(folder_name(&options.life));
    create_dir(&own)?;
    let mut index = Index::default();
    let failed = |source| SpoolError::Folder { path: folder.clone(), source };
    // The newest file of each life says which lives are the newest.
    let mut lives: BTreeMap<String, Timestamp> = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(life) = path.file_name().and_then(|name| name.to_str()).and_then(life_of) else { continue };
        if !path.is_dir() {
            continue;
        }
        let newest = scan(&path, &mut index);
        match newest {
            Some(at) if life != options.life => drop(lives.insert(life, at)),
            Some(_) => {}
            // Only what is empty is removed; that it is not is no error.
            None if path != own => drop(fs::remove_dir(&path)),
            None => {}
        }
    }
    let mut earlier: Vec<(Timestamp, String)> = lives.into_iter().map(|(life, at)| (at, life)).collect();
    earlier.sort_by(|a, b| b.cmp(a));
    earlier.truncate(LIVES_MAX);
    Ok(Shared {
        own,
        earlier: earlier.into_iter().map(|(_, life)| life).collect(),
        index: Mutex::new(index),
        failing: AtomicBool::new(false),
        ended: watch::Sender::new(0),
        _lock: lock,
        options,
        clock,
    })
}

/// Notes the files of one life; when the newest of them was written. What cannot be read is left alone.
fn scan(folder: &Path, index: &mut Index) -> Option<Timestamp> {
    let mut newest = None;
    for entry in fs::read_dir(folder).ok()?.flatten().take(2 * FILES_MAX) {
        let Some(key) = entry.file_name().to_str().and_then(key_of) else { continue };
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_file() {
            continue;
        }
        let since = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let millis = since.and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0);
        let at = Timestamp::from_millis(millis);
        index.found(key, entry.path(), meta.len(), at);
        newest = newest.max(Some(at));
    }
    newest
}

/// Removes files, and the folders of lives that are empty afterwards.
pub(super) fn remove(surplus: &Surplus, own: &Path) {
    for path in surplus {
        if let Err(error) = fs::remove_file(path) {
            tracing::debug!(file = %path.display(), %error, "an output was not removed");
        }
        if let Some(life) = path.parent().filter(|life| *life != own) {
            // It is empty, or it stays.
            let _ = fs::remove_dir(life);
        }
    }
}

/// The file of an attempt of this life.
pub(super) fn path(own: &Path, key: &Key) -> Option<PathBuf> {
    Some(own.join(file_name(key)?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn names_read_back_and_what_could_lead_out_of_the_folder_has_none() {
        let key = |run_id: &str| Key { run_id: Arc::from(run_id), fence: 7 };
        let plain = key("4096--5-m17");
        assert_eq!(key_of(&file_name(&plain).expect("a name")), Some(plain));
        for run_id in ["", "..", "a/b", "a_b", "é", &"1".repeat(RUN_ID_CHARS + 1)] {
            assert_eq!(file_name(&key(run_id)), None, "{run_id}");
        }
        for name in ["7", "_1-2", "x_1-2", "07_1-2", "7_1-2.tmp", "lock"] {
            assert_eq!(key_of(name), None, "{name}");
        }
        for life in ["node-1/7f3a91c2", "a b/é%", "host.example/0"] {
            let folder = folder_name(life);
            assert!(!folder.contains('/'), "{folder}");
            assert_eq!(life_of(&folder).as_deref(), Some(life));
        }
    }
}
