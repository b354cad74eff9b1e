//! Where a worker keeps the output of its attempts.
//!
//! A node's worker has `output/` in the data folder. A stand-alone one has `--data-dir`, or the first folder that is
//! free below the place for a program's state, so that several on one machine have one each. Not to keep output is
//! better than not to work: without a usable folder a worker says so and goes on, unless the folder was asked for.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use crate::clock::Clock;
use crate::config::WorkerConfig;
use crate::spool::{Spool, SpoolError, SpoolOptions};
use crate::storage::StorageError;

/// Workers on one machine that find a folder of their own.
const FOLDERS_MAX: u32 = 64;
/// Below the spool's folder: where processes leave their results, for a moment.
const RESULTS: &str = "results";
/// What may be in it is the process's alone.
const RESULTS_MODE: u32 = 0o700;

/// How much is kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimits {
    /// Bytes on disk of one attempt.
    pub output_bytes: u64,
    /// Bytes on disk of all attempts.
    pub total_bytes: u64,
    /// How long output is kept after its attempt has ended.
    pub age: Duration,
}

/// What a worker keeps output with.
#[derive(Clone, Debug)]
pub struct Output {
    pub(super) life: String,
    pub(super) spool: Spool,
    pub(super) result_dir: Option<PathBuf>,
}

/// Where output is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// There; a worker that cannot use it does not start.
    Asked(PathBuf),
    /// There, if it can be used.
    Own(PathBuf),
    /// In the first of the numbered folders below it that no other worker uses.
    Shared(PathBuf),
    /// Nowhere: the environment names no place.
    Nowhere,
}

impl Folder {
    /// The place for a program's state, as the environment names it: systemd's, or the user's.
    #[must_use]
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = set("STATE_DIRECTORY")
            .map(|state| state.join("worker"))
            .or_else(|| set("XDG_STATE_HOME").map(|state| state.join("chronarch/worker")))
            .or_else(|| set("HOME").map(|home| home.join(".local/state/chronarch/worker")));
        state.map_or(Self::Nowhere, Self::Shared)
    }
}

impl From<&WorkerConfig> for OutputLimits {
    fn from(config: &WorkerConfig) -> Self {
        Self {
            output_bytes: config.output_bytes,
            total_bytes: config.output_total_bytes,
            age: config.output_age,
        }
    }
}

/// Opens the folder for a new life of the worker at `place`.
///
/// # Errors
/// [`SpoolError`] when a folder that was asked for cannot be used.
pub async fn keep(
    place: &str,
    folder: Folder,
    limits: OutputLimits,
    clock: &Clock,
) -> Result<Option<Output>, SpoolError> {
    let life = super::worker::life(place, clock);
    let open = async |folder: &Path| {
        let options = SpoolOptions {
            // An attempt may have another working directory.
            folder: std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()),
            life: life.clone(),
            output_bytes: limits.output_bytes,
            total_bytes: limits.total_bytes,
            age: limits.age,
        };
        let folder = options.folder.clone();
        Spool::open(options, clock.clone()).await.map(|spool| (folder, spool))
    };
    let opened = match &folder {
        Folder::Asked(folder) => open(folder).await.map(Some)?,
        Folder::Own(folder) => open(folder).await.map(Some).unwrap_or_else(without),
        Folder::Shared(parent) => {
            let mut free = Ok(None);
            for number in 1..=FOLDERS_MAX {
                free = open(&parent.join(number.to_string())).await.map(Some);
                if !matches!(free, Err(SpoolError::Storage(StorageError::Locked { .. }))) {
                    break;
                }
            }
            free.unwrap_or_else(without)
        }
        Folder::Nowhere => {
            warn!("output of attempts is not kept: no folder was named, and the environment names no home");
            None
        }
    };
    Ok(opened.map(|(folder, spool)| Output { life, spool, result_dir: result_dir(&folder) }))
}

fn without(error: SpoolError) -> Option<(PathBuf, Spool)> {
    warn!(%error, "output of attempts is not kept");
    None
}

/// Makes the folder, and removes what processes of an earlier life have left in it.
fn result_dir(folder: &Path) -> Option<PathBuf> {
    let results = folder.join(RESULTS);
    let made = || -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(RESULTS_MODE).create(&results)?;
        for entry in fs::read_dir(&results)? {
            // What cannot be removed hurts nobody.
            let _ = fs::remove_file(entry?.path());
        }
        Ok(())
    };
    match made() {
        Ok(()) => Some(results),
        Err(error) => {
            warn!(folder = %results.display(), %error, "processes cannot leave results");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_the_configuration_are_those_of_the_spool() {
        let limits = OutputLimits::from(&WorkerConfig::default());
        let expected = OutputLimits {
            output_bytes: crate::spool::OUTPUT_BYTES_DEFAULT,
            total_bytes: crate::spool::TOTAL_BYTES_DEFAULT,
            age: crate::spool::AGE_DEFAULT,
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn the_environment_names_the_place_for_state() {
        let of = |set: &[(&str, &str)]| {
            Folder::of_environment(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, path)| (*path).to_owned())
            })
        };
        assert_eq!(of(&[]), Folder::Nowhere);
        assert_eq!(of(&[("HOME", "")]), Folder::Nowhere);
        let home = ("HOME", "/home/ada");
        assert_eq!(of(&[home]), Folder::Shared("/home/ada/.local/state/chronarch/worker".into()));
        assert_eq!(of(&[home, ("XDG_STATE_HOME", "/x")]), Folder::Shared("/x/chronarch/worker".into()));
        assert_eq!(
            of(&[home, ("STATE_DIRECTORY", "/var/lib/w")]),
            Folder::Shared("/var/lib/w/worker".into())
        );
    }

    #[tokio::test]
    async fn workers_on_one_machine_have_a_folder_each_and_one_that_is_asked_for_is_one_workers_alone() {
        let parent = tempfile::tempdir().expect("a folder");
        let limits = OutputLimits::from(&WorkerConfig::default());
        let clock = Clock::system();
        let shared = || keep("host", Folder::Shared(parent.path().to_owned()), limits, &clock);
        let first = shared().await.expect("not asked for").expect("a folder");
        let second = shared().await.expect("not asked for").expect("another folder");
        assert_ne!(first.result_dir, second.result_dir);
        let taken = keep("host", Folder::Asked(parent.path().join("1")), limits, &clock).await;
        assert!(matches!(taken, Err(SpoolError::Storage(StorageError::Locked { .. }))));
        drop(first);
        assert!(keep("host", Folder::Asked(parent.path().join("1")), limits, &clock).await.is_ok());
        fs::write(parent.path().join("file"), "").expect("writable");
        let own = keep("host", Folder::Own(parent.path().join("file/x")), limits, &clock).await;
        assert!(own.expect("it works without").is_none());
    }
}
