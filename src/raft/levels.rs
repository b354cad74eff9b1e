//! Feature levels ([`crate::state::level`]): who speaks which, when the cluster's is raised, and what is kept out of
//! the log below it.
//!
//! # How nodes tell each other
//! What a node speaks stands in its answers to Identify, by which it joins, and to ReadClock, which members ask each
//! other every second. A build that says nothing there speaks the first level alone.
//!
//! # When the level is raised
//! The leader raises it to what all members speak, voters and learners, when each of them has just said so: it asks
//! all once more before it proposes. Nobody who speaks less may come in between. So raising and adding take turns
//! ([`Raising`]), and the membership that is asked is that of the library's core, behind every change that was handed
//! to it before. Whoever leads next has the raise in its log, or it never was; either way it knows what was decided
//! once it has applied an entry of its own term, and adds nobody before.
//!
//! # Below it
//! [`Raft::submit`] refuses an entry that needs more. There is no other way into the log.
//!
//! # A node that speaks less
//! takes no part: it ends by name at its start ([`Raft::open`]), when a peer tells it of the level, and when the entry
//! or the snapshot arrives that raises it, before anything behind that is looked at. What it has stays as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::codec::CodecError;
use super::handle::Raft;
use super::submit::ProposeError;
use super::types::{ClusterId, NodeAddress, Payload, RaftEntry};
use crate::pb::peer;
use crate::state::level::{FIRST, LevelError, Levels, Need, SPOKEN, UNSPOKEN};
use crate::state::time::Timestamp;
use crate::state::{Command, Entry};

/// What was heard of a node longer ago is not believed any more.
const SAID_AGE_MAX: Duration = Duration::from_secs(5);
/// Characters of a peer's release that are kept.
const RELEASE_CHARS: usize = 64;

/// What this node speaks, and what its log needs for it.
#[derive(Clone, Copy, Debug)]
pub struct Speech {
    /// The levels.
    pub levels: Levels,
    /// The level below which an entry is not proposed.
    pub need: fn(&Entry) -> Need,
}

impl Default for Speech {
    fn default() -> Self {
        Self { levels: SPOKEN, need: Entry::need }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The levels that it speaks.
    pub levels: Levels,
    /// Its release; empty where it says none.
    pub release: String,
}

impl Default for Said {
    /// Nothing.
    fn default() -> Self {
        Self { levels: UNSPOKEN, release: String::new() }
    }
}

/// What was heard of the members, and when.
pub(super) type Heard = BTreeMap<u64, (Instant, Said)>;

/// Held by whoever raises the level or adds a node: the highest level that this node has proposed and that may yet be
/// committed.
pub(super) type Raising = tokio::sync::Mutex<u32>;

/// Why a member keeps the level from being raised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Hold {
    /// It has not said what it speaks.
    #[error("node {0} has not said what it speaks")]
    Silent(u64),
    /// It speaks less.
    #[error("node {node_id} speaks up to {newest}{}", of_release(release))]
    Speaks {
        /// The member.
        node_id: u64,
        /// The newest level that it speaks.
        newest: u32,
        /// Its release; empty where it says none.
        release: String,
    },
}

fn of_release(release: &str) -> String {
    if release.is_empty() { String::new() } else { format!(" (release {release})") }
}

/// Why the level was not raised.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RaiseError {
    /// A member does not speak more, or has not said that it does.
    #[error("{0}")]
    Held(Hold),
    /// Another change of who belongs to the cluster, or of the level, is under way.
    #[error("the cluster is changing")]
    Busy,
    /// It was proposed in vain.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

fn said_in(speaks: &peer::Speaks) -> Said {
    let release = speaks.release.chars().filter(|c| !c.is_control()).take(RELEASE_CHARS).collect();
    Said { levels: Levels { oldest: speaks.oldest, newest: speaks.newest }, release }
}

/// What all members speak: the level to raise to, and who keeps it from being `newest`.
fn common(newest: u32, said: impl IntoIterator<Item = (u64, Option<Said>)>) -> (Option<u32>, Vec<Hold>) {
    let (mut all, mut holds) = (Some(newest), Vec::new());
    for (node_id, said) in said {
        match said {
            None => {
                all = None;
                holds.push(Hold::Silent(node_id));
            }
            Some(Said { levels, release }) if levels.newest < newest => {
                all = all.map(|all| all.min(levels.newest));
                holds.push(Hold::Speaks { node_id, newest: levels.newest, release });
            }
            Some(_) => {}
        }
    }
    (all, holds)
}

impl Raft {
    /// The levels that this node speaks.
    pub fn levels(&self) -> Levels {
        self.speech().levels
    }

    /// What this node says of itself.
    pub(super) fn speaks(&self) -> peer::Speaks {
        let Levels { oldest, newest } = self.levels();
        let release = env!("CARGO_PKG_VERSION").to_owned();
        peer::Speaks { oldest, newest, release, cluster_level: self.state().level() }
    }

    /// Notes what a peer says of itself. Ends this node where the cluster is beyond it.
    pub(super) fn hear(&self, node_id: u64, speaks: Option<peer::Speaks>) -> Said {
        let said = speaks.as_ref().map(said_in).unwrap_or_default();
        self.said().insert(node_id, (Instant::now(), said.clone()));
        let cluster_level = speaks.map_or(FIRST, |speaks| speaks.cluster_level);
        if self.cluster_id().is_some()
            && let Err(error @ LevelError::TooNew { .. }) = self.levels().check(cluster_level)
        {
            self.verdict().reach(error.into());
        }
        said
    }

    /// As [`Self::hear`], of a node that may belong to another cluster: the level of that one is nothing to this node.
    pub(super) fn hear_of(&self, node_id: u64, cluster: &str, speaks: Option<peer::Speaks>) -> Said {
        let is_foreign = |ours: ClusterId| !cluster.is_empty() && cluster != ours.to_string();
        match self.cluster_id().is_some_and(is_foreign) {
            true => speaks.as_ref().map(said_in).unwrap_or_default(),
            false => self.hear(node_id, speaks),
        }
    }

    /// What is known of a member's release and levels; of one that fell silent nothing.
    pub fn said_by(&self, node_id: u64) -> Option<Said> {
        if node_id == self.node_id() {
            let release = env!("CARGO_PKG_VERSION").to_owned();
            return Some(Said { levels: self.levels(), release });
        }
        let said = self.said();
        let (at, said) = said.get(&node_id)?;
        (at.elapsed() <= SAID_AGE_MAX).then(|| said.clone())
    }

    /// Who keeps the level from being raised to the newest that this node speaks.
    pub fn level_holds(&self) -> Vec<Hold> {
        self.holds_below(self.levels().newest)
    }

    /// Who keeps the level below `level`.
    fn holds_below(&self, level: u32) -> Vec<Hold> {
        if self.state().level() >= level { Vec::new() } else { self.heard_in_common(level).1 }
    }

    /// Whether the members, by what was heard of them, speak more than the level that the cluster is at.
    pub fn may_raise_level(&self) -> bool {
        self.heard_in_common(self.levels().newest).0.is_some_and(|all| all > self.state().level())
    }

    /// As [`common`], by what was heard of the members. Nothing before there is a cluster.
    fn heard_in_common(&self, newest: u32) -> (Option<u32>, Vec<Hold>) {
        let nodes = self.status().nodes;
        self.said().retain(|id, _| nodes.contains_key(id));
        if nodes.is_empty() {
            return (None, Vec::new());
        }
        common(newest, nodes.keys().map(|id| (*id, self.said_by(*id))))
    }

    /// Raises the level to what all members speak, in an entry stamped `at`, as the leader of `term`. Returns the level
    /// then.
    ///
    /// # Errors
    /// [`RaiseError`].
    pub async fn raise_level(&self, term: u64, at: Timestamp) -> Result<u32, RaiseError> {
        let mut raising = self.raising().try_lock().map_err(|_| RaiseError::Busy)?;
        let core = self.core().ok_or(ProposeError::NotLeader { leader: None })?;
        let members = core.raft.with_raft_state(|state| {
            let members = state.membership_state.effective().membership();
            members.nodes().map(|(id, node)| (*id, node.clone())).collect::<BTreeMap<u64, NodeAddress>>()
        });
        let members = members.await.map_err(|_| ProposeError::Fatal)?;
        let cluster = core.cluster.to_string();
        let asked = members.iter().map(async |(&id, node)| {
            if id == self.node_id() {
                return (id, self.said_by(id));
            }
            let answer = self.identify(id, &node.peer_address).await.ok();
            (id, answer.filter(|answer| answer.cluster == cluster).map(|answer| answer.said))
        });
        let (all, holds) = common(self.levels().newest, join_all(asked).await);
        let from = self.state().level();
        let Some(to) = all.filter(|all| *all > from) else {
            return match holds.into_iter().next() {
                Some(hold) => Err(RaiseError::Held(hold)),
                None => Ok(from),
            };
        };
        let before = std::mem::replace(&mut *raising, to);
        let entry = Entry { at, commands: vec![Command::RaiseLevel { from, to }] };
        match self.submit(Some(term), entry).await {
            Ok(_) => Ok(self.state().level()),
            Err(error) => {
                if !matches!(error, ProposeError::Unknown | ProposeError::Fatal) {
                    *raising = before;
                }
                Err(error.into())
            }
        }
    }

    /// Refuses an entry that needs a higher level than the cluster is at.
    pub(super) fn check_need(&self, entry: &Entry) -> Result<(), ProposeError> {
        self.check_level((self.speech().need)(entry))
    }

    /// Refuses what needs a higher level than the cluster is at, as the log would. The leader alone can tell.
    ///
    /// # Errors
    /// [`ProposeError::Level`], or [`ProposeError::NotLeader`].
    pub fn check_level(&self, Need { level: needs, what }: Need) -> Result<(), ProposeError> {
        let level = self.state().level();
        if needs <= level {
            return Ok(());
        }
        let leadership = self.leadership().borrow().clone();
        if !leadership.is_leader {
            return Err(ProposeError::NotLeader { leader: leadership.leader });
        }
        let holds: Vec<String> = self.holds_below(needs).iter().map(ToString::to_string).collect();
        let why = if holds.is_empty() { "it is about to be raised".to_owned() } else { holds.join(", ") };
        Err(ProposeError::Level { needs, what, level, why })
    }

    /// As [`Self::check_level`], but where no member is known to speak less it waits for the level to rise, for at most
    /// `patience`: in a cluster that has just been formed, or upgraded, it does so in a moment.
    ///
    /// # Errors
    /// As [`Self::check_level`].
    pub async fn await_level(&self, need: Need, patience: Duration) -> Result<(), ProposeError> {
        let until = Instant::now() + patience;
        let mut states = self.watch_state();
        loop {
            states.borrow_and_update();
            let checked = self.check_level(need);
            let speaks_less = |hold: &Hold| matches!(hold, Hold::Speaks { .. });
            let may_rise = matches!(checked, Err(ProposeError::Level { .. }))
                && !self.holds_below(need.level).iter().any(speaks_less);
            if !may_rise {
                return checked;
            }
            match timeout_at(until, states.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return self.check_level(need),
            }
        }
    }
}

/// Refuses an entry that raises the level above what is spoken here. Whatever is written behind it may not decode.
pub(super) fn check_entry(entry: &RaftEntry, levels: Levels) -> Result<(), CodecError> {
    let Payload::Normal(logged) = &entry.payload else { return Ok(()) };
    for command in &logged.entry().commands {
        if let Command::RaiseLevel { to, .. } = command
            && let Err(error @ LevelError::TooNew { .. }) = levels.check(*to)
        {
            return Err(error.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(newest: u32) -> Option<Said> {
        Some(Said { levels: Levels { oldest: 0, newest }, release: format!("0.{newest}") })
    }

    #[test]
    fn the_level_is_what_all_speak_and_nothing_while_one_is_silent() {
        assert_eq!(common(3, [(1, said(3)), (2, said(4)), (3, said(3))]), (Some(3), Vec::new()));
        let (all, holds) = common(3, [(1, said(3)), (2, said(1)), (3, said(2))]);
        assert_eq!(all, Some(1));
        let told: Vec<String> = holds.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["node 2 speaks up to 1 (release 0.1)", "node 3 speaks up to 2 (release 0.2)"]);
        let (all, holds) = common(3, [(1, said(3)), (2, None), (3, said(2))]);
        assert_eq!(all, None);
        assert_eq!(holds[0].to_string(), "node 2 has not said what it speaks");
    }
}
