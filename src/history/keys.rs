//! Keys of the run log's rows: big-endian, so that the order of bytes is the order of what they say.
//!
//! | tree | key | value |
//! |---|---|---|
//! | runs | job, instant, seq | log index, then the run |
//! | decisions | instant of the decision, job, instant, seq | – |
//! | indexes | log index, part | run keys that the entry ended, in order |
//! | names | namespace, name, job | – |
//! | marks | a word | a number or two |

use crate::state::run::{JobId, Run, RunId};
use crate::state::time::Timestamp;

/// Bytes of a run's key.
pub(super) const RUN_KEY: usize = 24;
/// The mark of the last index.
pub(super) const LAST: &[u8] = b"last";
/// The mark of the index through which everything is here, or in the gap.
pub(super) const THROUGH: &[u8] = b"through";
/// The mark of the gap.
pub(super) const GAP: &[u8] = b"gap";

/// Instants before the epoch sort before those after it.
const fn ordered(at: Timestamp) -> u64 {
    at.millis().cast_unsigned() ^ (1 << 63)
}

const fn instant(ordered: u64) -> Timestamp {
    Timestamp::from_millis((ordered ^ (1 << 63)).cast_signed())
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// Identity of a run as bytes.
pub(super) fn identity(id: RunId) -> [u8; RUN_KEY] {
    let mut key = [0; RUN_KEY];
    key[..8].copy_from_slice(&id.job.0.to_be_bytes());
    key[8..16].copy_from_slice(&ordered(id.at).to_be_bytes());
    key[16..].copy_from_slice(&id.seq.to_be_bytes());
    key
}

/// The inverse of [`identity`].
pub(super) fn identified(key: &[u8]) -> Option<RunId> {
    if key.len() != RUN_KEY {
        return None;
    }
    Some(RunId {
        job: JobId(number(&key[..8])?),
        at: instant(number(&key[8..16])?),
        seq: number(&key[16..])?,
    })
}

/// Row of a run.
pub(super) fn run(id: RunId) -> Vec<u8> {
    identity(id).to_vec()
}

/// Row of a decision.
pub(super) fn decision(fired_at: Timestamp, id: RunId) -> Vec<u8> {
    [ordered(fired_at).to_be_bytes().as_slice(), &identity(id)].concat()
}

/// What the row of a decision says.
pub(super) fn decided(key: &[u8]) -> Option<(Timestamp, RunId)> {
    let (at, id) = key.split_at_checked(8)?;
    Some((instant(number(at)?), identified(id)?))
}

/// Row of a part of what an entry ended.
pub(super) fn index(index: u64, part: u32) -> Vec<u8> {
    [index.to_be_bytes().as_slice(), &part.to_be_bytes()].concat()
}

/// Log index in such a row.
pub(super) fn indexed(key: &[u8]) -> Option<u64> {
    number(key.get(..8)?)
}

/// What the rows of a name begin with; a name has no NUL.
pub(super) fn name(namespace: &str, name: &str) -> Vec<u8> {
    [namespace.as_bytes(), b"\0", name.as_bytes(), b"\0"].concat()
}

/// Row of a job that ran under a name.
pub(super) fn named(of: &Run) -> Vec<u8> {
    let mut key = name(&of.namespace, &of.job);
    key.extend_from_slice(&of.id.job.0.to_be_bytes());
    key
}

/// Job in such a row.
pub(super) fn named_job(key: &[u8]) -> Option<JobId> {
    let from = key.len().checked_sub(8)?;
    Some(JobId(number(key.get(from..)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_bytes_is_the_order_of_runs() {
        let id = |job, at, seq| RunId { job: JobId(job), at: Timestamp::from_millis(at), seq };
        let runs = [id(1, -5, 0), id(1, -1, 9), id(1, 0, 0), id(1, 0, 1), id(1, 300, 0), id(2, -9, 0)];
        for pair in runs.windows(2) {
            assert!(run(pair[0]) < run(pair[1]), "{pair:?}");
        }
        for id in runs {
            assert_eq!(identified(&run(id)), Some(id));
            assert_eq!(decided(&decision(id.at, id)), Some((id.at, id)));
        }
        assert_eq!(indexed(&index(77, 3)), Some(77));
        assert_eq!(identified(b"123"), None);
        assert_eq!(decided(b"1"), None);
    }
}
