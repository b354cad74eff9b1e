//! A zone of the lab's own, whose wall clocks any release may set as it likes.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronarch::scheduler::zone::Zones;
use chronarch::state::time::Timestamp;
use chronarch::state::tzdata::{ZoneData, ZoneFile};
use chronarch::state::{Command, Request, State};

pub(crate) const ZONE: &str = "Lab/Clock";

/// A TZif file of one offset for ever (RFC 8536, section 3).
fn tzif(offset: i32) -> Vec<u8> {
    let head = |version: u8| {
        let mut head = b"TZif".to_vec();
        head.push(version);
        head.extend([0; 15]);
        // isutcnt, isstdcnt, leapcnt, timecnt, typecnt, charcnt
        for count in [0_u32, 0, 0, 0, 1, 4] {
            head.extend(count.to_be_bytes());
        }
        head.extend(offset.to_be_bytes());
        head.extend([0, 0]);
        head.extend(b"LAB\0");
        head
    };
    let mut file = head(b'2');
    file.extend(head(b'2'));
    // POSIX counts to the west.
    let (sign, seconds) = (if offset > 0 { "-" } else { "" }, offset.abs());
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    file.extend(format!("\nLAB{sign}{hours}:{minutes:02}:{seconds:02}\n").bytes());
    file
}

/// UTC, and the lab's zone so many seconds east of it.
pub(crate) fn data(offset: i32) -> Arc<ZoneData> {
    let file = |name: &str, offset| ZoneFile { names: vec![name.to_owned()], tzif: tzif(offset) };
    Arc::new(ZoneData { release: format!("lab{offset}"), files: vec![file(ZONE, offset), file("UTC", 0)] })
}

/// The command that sets it, as a leader computes it from this state.
pub(crate) fn set(state: &State, offset: i32, at: Timestamp) -> Command {
    let new = Zones::checked(data(offset)).expect("it is sound");
    let (expect, shifts) = match state.tzdata() {
        Some(tzdata) => (Some(tzdata.hash), Zones::of(state).shifts(&new, at)),
        None => (None, BTreeMap::new()),
    };
    Command::SetTzdata { data: new.data().clone(), shifts, expect, request: Request::default() }
}
