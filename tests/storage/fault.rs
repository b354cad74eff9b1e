//! Spoiling files, from a seed: what rotten disks, careless hands and half-done copies do.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};

/// A way to spoil a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    FlippedBit,
    Zeros,
    Garbage,
    Truncated,
    ZeroedEnd,
    MissingPiece,
    Emptied,
    Deleted,
    /// Changes places with another file of its folder.
    Swapped,
    /// Is replaced by a copy of another file of its folder.
    Replaced,
}

impl Fault {
    pub(crate) const ALL: [Self; 10] = [
        Self::FlippedBit,
        Self::Zeros,
        Self::Garbage,
        Self::Truncated,
        Self::ZeroedEnd,
        Self::MissingPiece,
        Self::Emptied,
        Self::Deleted,
        Self::Swapped,
        Self::Replaced,
    ];

    /// Spoils `path`; says how, for the verdict.
    pub(crate) fn on(self, path: &Path, chance: &mut SmallRng) -> String {
        let mut bytes = fs::read(path).expect("a file");
        let length = bytes.len();
        let at = if length == 0 { 0 } else { chance.random_range(0..length) };
        let end = (at + chance.random_range(1..5_000)).min(length);
        match self {
            Self::FlippedBit if length > 0 => bytes[at] ^= 1 << chance.random_range(0..8),
            Self::Zeros => bytes[at..end].fill(0),
            Self::Garbage => chance.fill_bytes(&mut bytes[at..end]),
            Self::Truncated => bytes.truncate(at),
            Self::ZeroedEnd => bytes[at..].fill(0),
            Self::MissingPiece => drop(bytes.drain(at..end)),
            Self::FlippedBit | Self::Emptied => bytes.clear(),
            Self::Deleted => {
                fs::remove_file(path).expect("a file");
                return format!("{} deleted", path.display());
            }
            Self::Swapped | Self::Replaced => {
                let others: Vec<PathBuf> = files(path.parent().expect("in a folder"), false)
                    .into_iter()
                    .filter(|other| other != path)
                    .collect();
                if others.is_empty() {
                    return Self::Deleted.on(path, chance);
                }
                let other = &others[chance.random_range(0..others.len())];
                let theirs = fs::read(other).expect("a file");
                if self == Self::Swapped {
                    fs::write(other, &bytes).expect("a file");
                }
                bytes = theirs;
                fs::write(path, bytes).expect("a file");
                return format!("{} {self:?} with {}", path.display(), other.display());
            }
        }
        fs::write(path, bytes).expect("a file");
        format!("{} {self:?} at {at}..{end} of {length}", path.display())
    }
}

/// The files of a folder, sorted; with those of its folders if `deep`.
pub(crate) fn files(dir: &Path, deep: bool) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            paths.push(path);
        } else if deep {
            paths.extend(files(&path, true));
        }
    }
    paths.sort();
    paths
}
