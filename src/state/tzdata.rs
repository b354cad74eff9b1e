//! The data of the time zones that the cluster is pinned to: bytes that every node holds and the state never reads.
//!
//! A leader computes with the pinned data and no other, so two releases of Chronarch that ship different data agree on
//! every instant. The first leader that finds nothing pinned proposes what its binary ships; from then on
//! [`Command::SetTzdata`](super::Command::SetTzdata) alone changes it, and all jobs with a zone are read anew
//! ([`super::reading`]).
//!
//! The bytes are those of TZif files (RFC 8536), checked by whoever proposes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::State;
use super::apply::{Applying, origin};
use super::command::{Outcome, Request};
use super::evidence::StateHash;
use super::job::Origin;
use super::limits;
use super::reading::Touched;
use super::rejection::Rejection;

/// One TZif file and the names that stand for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneFile {
    /// As the database spells them, in ascending order.
    pub names: Vec<String>,
    /// The file.
    #[serde(with = "serde_bytes")]
    pub tzif: Vec<u8>,
}

/// The data of all zones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneData {
    /// The release of the IANA database, such as `2026f`; for people.
    pub release: String,
    /// In ascending order of their first names.
    pub files: Vec<ZoneFile>,
}

impl ZoneData {
    /// What it comes to in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of_file =
            |file: &ZoneFile| file.tzif.len() + file.names.iter().map(|name| name.len() + 1).sum::<usize>();
        self.release.len() + self.files.iter().map(of_file).sum::<usize>()
    }

    /// SHA-256 over each name in ascending order with its file: names and files of the same content have the same
    /// hash, whatever the release is called and however names share files.
    #[must_use]
    pub fn hash(&self) -> StateHash {
        let files: BTreeMap<&str, &[u8]> = self
            .files
            .iter()
            .flat_map(|file| file.names.iter().map(|name| (name.as_str(), file.tzif.as_slice())))
            .collect();
        let mut hash = Sha256::new();
        for (name, tzif) in files {
            for bytes in [name.as_bytes(), tzif] {
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes);
            }
        }
        StateHash(hash.finalize().into())
    }
}

/// The data that the cluster is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tzdata {
    /// The data.
    pub data: Arc<ZoneData>,
    /// Its hash.
    pub hash: StateHash,
    /// By how many seconds the wall clocks of a zone went back when it was set, for those that it moved at that very
    /// moment; negative: forward.
    pub shifts: BTreeMap<String, i32>,
    /// Who set it, why and when.
    pub origin: Origin,
}

impl State {
    /// The data of the zones that schedules are read with; absent in a cluster that has not pinned any yet, whose
    /// leader reads them with what its binary ships.
    #[must_use]
    pub const fn tzdata(&self) -> Option<&Arc<Tzdata>> {
        self.tzdata.as_ref()
    }

    pub(super) fn put_tzdata(&mut self, (data, shifts, origin): TzdataParts) {
        let hash = data.hash();
        self.tzdata = Some(Arc::new(Tzdata { data, hash, shifts, origin }));
    }
}

/// What a snapshot holds of [`Tzdata`].
pub(super) type TzdataParts = (Arc<ZoneData>, BTreeMap<String, i32>, Origin);

impl Tzdata {
    pub(super) fn parts(&self) -> TzdataParts {
        (Arc::clone(&self.data), self.shifts.clone(), self.origin.clone())
    }
}

impl Applying<'_> {
    /// Pins the data of the zones. From this entry on no schedule with a zone is evaluated with any other.
    pub(super) fn set_tzdata(
        &mut self,
        data: &Arc<ZoneData>,
        shifts: &BTreeMap<String, i32>,
        expect: Option<&StateHash>,
        request: &Request,
    ) -> Result<Outcome, Rejection> {
        let before = self.state.tzdata.as_ref();
        if before.map(|tzdata| &tzdata.hash) != expect {
            return Err(Rejection::Stale);
        }
        if data.files.is_empty() || data.files.iter().any(|file| file.names.is_empty()) {
            return Err(Rejection::Malformed);
        }
        if data.bytes() > limits::TZDATA_BYTES || shifts.len() > limits::TZDATA_NAMES {
            return Err(Rejection::Limit);
        }
        let version = before.map_or(0, |tzdata| tzdata.origin.version) + 1;
        let origin = origin(version, self.moment.at, request);
        self.state.put_tzdata((Arc::clone(data), shifts.clone(), origin));
        self.read_anew(Touched::zones());
        Ok(Outcome::Done)
    }
}
