//! Reading what `ioshim.c` has noted: what a process did to its files, and what it said meanwhile, in one order.

use std::fs;
use std::path::{Path, PathBuf};

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) path: PathBuf,
    /// The file, as long as it exists.
    pub(crate) inode: u64,
    pub(crate) did: Did,
}

/// What a call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    Opened {
        created: bool,
        emptied: bool,
    },
    Wrote {
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncated {
        length: u64,
    },
    /// A sync begins; `range_only` promises nothing.
    SyncBegins {
        turn: u64,
        range_only: bool,
    },
    SyncEnds {
        turn: u64,
        succeeded: bool,
    },
    Renamed {
        to: PathBuf,
    },
    Unlinked,
    MadeFolder,
    RemovedFolder,
    /// About to be said to somebody.
    Acknowledges {
        bytes: Vec<u8>,
    },
}

/// Reads a whole trace. A record that a killed process left unfinished at the end is left out.
///
/// # Panics
/// On a call that the trace has no words for: a verdict without it would be worth nothing.
pub(crate) fn read(file: &Path) -> Vec<Event> {
    let bytes = fs::read(file).expect("a trace");
    let mut rest = bytes.as_slice();
    let mut events = Vec::new();
    while rest.len() >= 4 {
        let length = u32::from_le_bytes(take(rest, 0)) as usize;
        let Some((record, later)) = rest.split_at_checked(length) else { break };
        events.push(event(record));
        rest = later;
    }
    events
}

fn take<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from[at..at + N].try_into().expect("as many bytes as were asked for")
}

fn event(record: &[u8]) -> Event {
    const HEAD: usize = 56;
    let (kind, flags) = (record[4], record[5]);
    let path_end = HEAD + usize::from(u16::from_le_bytes(take(record, 6)));
    let path2_end = path_end + usize::from(u16::from_le_bytes(take(record, 8)));
    let result = i32::from_le_bytes(take(record, 20));
    let [inode, offset, length] = [24, 32, 40].map(|at| u64::from_le_bytes(take(record, at)));
    let path =
        |from: usize, to: usize| PathBuf::from(String::from_utf8_lossy(&record[from..to]).into_owned());
    let (name, bytes) = (path(HEAD, path_end), record[path2_end..].to_vec());
    let did = match kind {
        1 => Did::Opened { created: flags & 1 != 0, emptied: flags & 2 != 0 },
        2 => Did::Wrote { offset, bytes },
        3 => Did::Truncated { length },
        4 => Did::SyncBegins { turn: offset, range_only: flags & 2 != 0 },
        5 => Did::SyncEnds { turn: offset, succeeded: result == 0 },
        6 => Did::Renamed { to: path(path_end, path2_end) },
        7 => Did::Unlinked,
        8 => Did::MadeFolder,
        9 => Did::RemovedFolder,
        10 => Did::Acknowledges { bytes },
        other => panic!("call {other}, {:?}, on {}", path(path_end, path2_end), name.display()),
    };
    Event { path: name, inode, did }
}

/// The acknowledgement of `said` must leave after a sync that began when `written` was in the file and that has
/// returned. Says what is wrong, or `None`.
pub(crate) fn unsynced(events: &[Event], written: &[u8], said: &[u8]) -> Option<String> {
    let holds = |bytes: &[u8], wanted: &[u8]| bytes.windows(wanted.len()).any(|part| part == wanted);
    let in_log = |event: &Event| event.path.extension().is_some_and(|ending| ending == "wal");
    let write = events.iter().position(
        |event| matches!(&event.did, Did::Wrote { bytes, .. } if in_log(event) && holds(bytes, written)),
    );
    let Some(write) = write else { return Some("it was never written to the log".into()) };
    let said_at = events[write..]
        .iter()
        .position(|event| matches!(&event.did, Did::Acknowledges { bytes } if holds(bytes, said)));
    let Some(ack) = said_at.map(|behind| write + behind) else {
        return Some("it was never acknowledged after it was written".into());
    };
    let file = events[write].inode;
    let between = &events[write..ack];
    let begun: Vec<u64> = between
        .iter()
        .filter_map(|event| match event.did {
            Did::SyncBegins { turn, range_only: false } if event.inode == file => Some(turn),
            _ => None,
        })
        .collect();
    let synced = between
        .iter()
        .any(|event| matches!(event.did, Did::SyncEnds { turn, succeeded: true } if begun.contains(&turn)));
    (!synced).then(|| format!("written as call {write}, acknowledged as call {ack}, not synced in between"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, did: Did) -> Event {
        Event { path: path.into(), inode: 7, did }
    }

    #[test]
    fn a_sync_counts_only_if_it_began_after_the_write_and_ended_before_the_word() {
        let write = at("/d/0.wal", Did::Wrote { offset: 0, bytes: b"..marker..".to_vec() });
        let begin = |turn| at("/d/0.wal", Did::SyncBegins { turn, range_only: false });
        let end = |turn, succeeded| at("/d/0.wal", Did::SyncEnds { turn, succeeded });
        let range = at("/d/0.wal", Did::SyncBegins { turn: 3, range_only: true });
        let ack = at("socket", Did::Acknowledges { bytes: b"ok marker".to_vec() });
        let verdict = |events: &[&Event]| {
            let events: Vec<Event> = events.iter().map(|event| (*event).clone()).collect();
            unsynced(&events, b"marker", b"marker")
        };
        assert_eq!(verdict(&[&write, &begin(1), &end(1, true), &ack]), None);
        assert!(verdict(&[&begin(1), &write, &end(1, true), &ack]).is_some(), "it began too early");
        assert!(verdict(&[&write, &begin(1), &ack, &end(1, true)]).is_some(), "it ended too late");
        assert!(verdict(&[&write, &begin(1), &end(1, false), &ack]).is_some(), "it failed");
        assert!(verdict(&[&write, &range, &end(3, true), &ack]).is_some(), "a range is no sync");
        assert!(verdict(&[&write, &ack]).is_some(), "there was none");
        assert!(verdict(&[&begin(1), &end(1, true), &ack]).is_some(), "nothing was written");
    }
}
