//! Consensus: one log of entries, agreed on by a majority of nodes, applied by each in the same order.
//!
//! Everything that knows the consensus library is in here; the rest of the program sees a small handle.
//!
//! # Words
//! An *entry* is proposed by the leader, *appended* to the log, *committed* once a majority has synced it, and
//! *applied* to the state by every node. A *term* is one leader's reign: there is at most one leader a term, and a
//! restarted leader never goes on in its old term. A *voter* counts for majorities, a *learner* does not.
//!
//! # Who calls it, and how
//! 1. The node opens a [`Raft`] with [`Raft::open`], serves its peer listener with [`serve`] and [`incoming`], and ends the process
//!    when [`Raft::fatal`] resolves.
//! 2. The leader loop waits on [`Raft::leadership`] until `is_leader`, plans from [`Raft::state`], and proposes with
//!    [`Raft::submit`] and the term it leads in: entries of a leader that was replaced are refused before they are
//!    appended. It looks at [`Raft::quorum_acked_within`] before it bothers.
//! 3. The API proposes with [`Raft::propose`] and reads after [`Raft::read_barrier`].
//!
//! # Invariants
//! - A [`Proposed`] was synced by a majority and is applied here; [`ProposeError`] says of each failure whether the
//!   entry may have been committed. Nothing is ever proposed a second time in here.
//! - Applied states are published in order, before the clients of their entries hear of them.
//! - The encodings on the wire and on disk are ours ([`codec`]): a new release of the library changes neither.
//! - A call from another cluster, or for another node, is refused by both names.
//! - The first error of any store ends the node: it is kept, told to all, and nothing goes on as if.
//! - Every queue, message, batch and wait has a limit with a name.
//!
//! # The parts
//! [`formation`] makes a cluster of pristine nodes, exactly once; [`startup`] makes a member of a folder.
//! [`log_store`] and [`state_machine`] are what the library reads and writes, [`network`] and [`server`] the two
//! ends of its calls, [`dial`] and [`guard`] what they travel over and under which names. [`submit`], [`reads`],
//! [`leadership`], [`membership`] and [`status`] are the handle. [`run_log`] keeps the finished runs in step with the log.
//! [`levels`] keeps out of the log what a member cannot read yet.
//! [`hashes`] and [`export`] are evidence: replicas can be compared, and the log be read with what became of it.
//!
//! # What it deliberately does not do
//! It decides nothing on becoming leader. It forwards no proposal: it names the leader. It reads nothing under a
//! lease. It reads no clock but timers, and draws no random number but the library's for its elections. It does not
//! end the process. It does not bring back a node whose folder was lost.

mod clocks;
mod codec;
mod dial;
mod export;
mod fatal;
mod formation;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod handle;
mod hashes;
mod leadership;
mod levels;
mod library;
mod log_store;
mod membership;
mod network;
mod reads;
mod run_log;
mod runtime;
mod server;
mod snapshot;
mod startup;
mod state_machine;
mod status;
mod submit;
mod types;

pub use self::clocks::PeerClock;
pub use self::codec::CodecError;
pub use self::dial::{CONNECT_TIMEOUT, Dialer, KEEPALIVE, MESSAGE_BYTES_MAX, PeerStream, tcp_dialer};
pub use self::export::{Content, Export, ExportError, PlannedExport, Replayed, WriteEntry};
pub use self::fatal::FatalError;
pub use self::formation::FormationError;
pub use self::handle::{Observed, Observer, OpenError, Raft, RaftOptions, ReadClock};
pub use self::hashes::HASHES_KEPT;
pub use self::leadership::Leadership;
pub use self::levels::{Hold, RaiseError, Said, Speech};
pub use self::library::{PROPOSE_TIMEOUT, READ_TIMEOUT};
pub use self::membership::MembershipError;
pub use self::reads::ReadError;
pub use self::run_log::{OpenRunSink, RUNS_CHUNK_BYTES, RunLogGap, RunSink, StoredRun};
pub use self::server::{SNAPSHOT_BYTES_MAX, incoming, serve};
pub use self::status::{PeerStatus, RaftStatus, Role, TransferError};
pub use self::submit::{IN_FLIGHT_BYTES, LEADER_IN_FLIGHT_BYTES, ProposeError, Proposed};
pub use self::types::{ClusterId, ENTRY_BYTES_MAX, LogPosition, NodeAddress};

#[cfg(test)]
pub(crate) mod tests;
