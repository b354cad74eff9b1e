//! Messages: of clients, of workers and leaders, of peers.

use chronarch::state::{Entry, Outcome, Rejection, State};

use super::log::{at, scene, settle};

/// A byte for the kind and a request: refused, or proposed to a state in which jobs and runs live; the state's
/// invariants hold afterwards, and the leader finds something to do about all of it.
pub(crate) fn request(bytes: &[u8]) {
    use chronarch::api::fuzzing::{KINDS, commands};
    let Some((kind, message)) = bytes.split_first() else { return };
    let mut state: State = scene();
    let now = at(5_000);
    match commands(kind % KINDS, message, &state, now) {
        Ok(commands) => {
            let commands: Vec<_> = commands.into_iter().take(50).collect();
            let entry = Entry { at: now, commands };
            let applied = state.apply(100, &entry);
            let malformed = Outcome::Rejected(Rejection::Malformed);
            assert!(
                !applied.outcomes.contains(&malformed),
                "the API proposes what makes no sense: {entry:?}"
            );
            assert_eq!(state.verify(), Ok(()), "after {:?}", entry.commands);
            settle(&mut state);
        }
        Err(status) => assert!(!status.message().is_empty(), "refused without a reason"),
    }
}

/// A worker to its leader, or a leader to its worker.
pub(crate) fn worker(bytes: &[u8]) {
    let _ = (chronarch::node::fuzzing::hear(bytes), chronarch::worker::fuzzing::hear(bytes));
}

/// A byte for the kind, and a message of a peer or a record of the log.
pub(crate) fn peer(bytes: &[u8]) {
    use chronarch::raft::fuzzing::{KINDS, read};
    let Some((kind, message)) = bytes.split_first() else { return };
    if let Err(error) = read(kind % KINDS, message) {
        assert!(!error.to_string().is_empty());
    }
}
