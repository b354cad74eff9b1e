//! What happens to the cluster, and when: drawn from the seed before the run begins, so that a seed replays the
//! schedule. Who leads when a fault begins is up to the run; the fault log tells.
//!
//! Half of the faults begin within 50 ms of a whole second, which is when most jobs are due.

use super::chance::Chance;

/// Groups of jobs whose target falls sick together.
pub(crate) const GROUPS: [&str; 3] = ["north", "south", "west"];

/// Which faults a run is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Processes end, pause, restart, hand over.
    Processes,
    /// The network parts, loses, delays.
    Network,
    /// Clocks jump; disks are slow, full or fail.
    ClocksAndDisks,
    /// All of these, overlapping.
    Mixed,
}

impl Profile {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Network => "network",
            Self::ClocksAndDisks => "clocks_and_disks",
            Self::Mixed => "mixed",
        }
    }

    /// The profile of a word.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn of(word: &str) -> Self {
        let all = [Self::Processes, Self::Network, Self::ClocksAndDisks, Self::Mixed];
        all.into_iter().find(|profile| profile.word() == word).expect("a profile")
    }

    /// Clocks are set, or disks disturbed: both need a library loaded into each node.
    pub(crate) const fn sets_clocks(self) -> bool {
        matches!(self, Self::ClocksAndDisks | Self::Mixed)
    }

    /// What a run of so many seconds must have seen.
    pub(crate) fn floors(self, seconds: u64) -> Vec<(&'static str, u64)> {
        // Each minute of faults brings several of each; the first are not left to chance.
        let often = 1 + seconds / 60;
        let mut floors = vec![("leader_changes", 1 + often), ("starts", 50), ("operations", 20)];
        if matches!(self, Self::Processes | Self::Mixed) {
            floors.extend([("lost_attempts", often), ("breakers_open_across_a_takeover", 1)]);
        }
        if matches!(self, Self::Network | Self::Mixed) {
            floors.extend([("leader_in_the_minority", 1), ("leader_in_the_majority", 1)]);
        }
        if matches!(self, Self::ClocksAndDisks | Self::Mixed) {
            floors.extend([("clock_jumps", 2), ("full_disks", 1)]);
        }
        floors
    }
}

/// Whom a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Leader,
    Follower,
    /// The leader and another.
    Two,
    All,
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL, and a restart.
    Kill(Who),
    /// SIGTERM, and a restart.
    Stop(Who),
    /// SIGSTOP and SIGCONT.
    Pause(Who),
    /// Leadership is handed over.
    Transfer,
    /// Every node is stopped and started, one after the other; with another build if there is one.
    Roll,
    /// The leader without its peers; it reaches clients and target.
    LeaderAlone,
    /// A follower without its peers.
    FollowerAlone,
    /// The leader without peers, clients and target.
    LeaderDark,
    /// The leader without the target alone.
    LeaderFromTarget,
    /// Peers hear the leader, and it does not hear them.
    LeaderDeaf,
    /// The leader hears its peers, and they do not hear it.
    LeaderDumb,
    /// Two parts.
    Halves,
    /// Each node reaches its neighbours in a ring alone, so that every node sees another majority.
    Ring,
    /// Two parts, and one node that reaches all.
    Bridge,
    /// [`Fault::LeaderAlone`], on and off.
    Flap,
    /// So many of a hundred packets are lost, everywhere.
    Loss(u64),
    /// Connections between nodes are reset.
    Reset,
    /// Packets between nodes take so long, in milliseconds.
    Delay(u64, u64),
    /// The leader's cable carries so many kbit a second.
    Narrow(u64),
    /// A clock is off by so many milliseconds.
    Clock(Who, i64),
    /// Every sync takes so many milliseconds.
    SlowDisk(Who, u64),
    /// Syncs fail.
    FailingDisk(Who),
    /// Nothing more can be written.
    FullDisk(Who),
    /// The target of a group fails.
    Sick(usize),
}

impl Fault {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Stop(_) => "stop",
            Self::Pause(_) => "pause",
            Self::Transfer => "transfer",
            Self::Roll => "roll",
            Self::LeaderAlone => "leader_alone",
            Self::FollowerAlone => "follower_alone",
            Self::LeaderDark => "leader_dark",
            Self::LeaderFromTarget => "leader_from_target",
            Self::LeaderDeaf => "leader_deaf",
            Self::LeaderDumb => "leader_dumb",
            Self::Halves => "halves",
            Self::Ring => "ring",
            Self::Bridge => "bridge",
            Self::Flap => "flap",
            Self::Loss(_) => "loss",
            Self::Reset => "reset",
            Self::Delay(..) => "delay",
            Self::Narrow(_) => "narrow",
            Self::Clock(..) => "clock",
            Self::SlowDisk(..) => "slow_disk",
            Self::FailingDisk(_) => "failing_disk",
            Self::FullDisk(_) => "full_disk",
            Self::Sick(_) => "sick",
        }
    }
}

/// A fault with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// After the faults begin.
    pub(crate) at_ms: u64,
    pub(crate) lasts_ms: u64,
    /// It waits for the next whole second, and begins so many milliseconds from it.
    pub(crate) off_second: Option<i64>,
    pub(crate) fault: Fault,
}

/// The schedule of a run.
pub(crate) fn plan(profile: Profile, nodes: u64, seconds: u64, seed: u64) -> Vec<Planned> {
    let mut chance = Chance::new(seed);
    let mut planned = Vec::new();
    let mut at_ms = 1_000;
    let longest = if seconds > 120 { 30_000 } else { 6_000 };
    for fault in opening(profile) {
        let lasts_ms = chance.between(1_500, 4_000);
        planned.push(one(&mut chance, (at_ms, lasts_ms), fault));
        at_ms +=
            if matches!(fault, Fault::Sick(_)) { 1_500 } else { lasts_ms + chance.between(1_500, 2_500) };
    }
    while at_ms < seconds * 1_000 {
        let fault = draw(&mut chance, profile, nodes);
        let lasts_ms = match chance.between(0, 9) {
            0 => chance.between(100, 300),
            1..=6 => chance.between(500, 3_000),
            _ => chance.between(3_000, longest),
        };
        planned.push(one(&mut chance, (at_ms, lasts_ms), fault));
        // One in three overlaps with the next.
        let gap = chance.between(500, 3_000);
        at_ms += if chance.one_in(3) { gap } else { lasts_ms + gap };
    }
    planned
}

fn one(chance: &mut Chance, (at_ms, lasts_ms): (u64, u64), fault: Fault) -> Planned {
    let off = i64::try_from(chance.between(0, 100)).unwrap_or(0) - 50;
    Planned { at_ms, lasts_ms, off_second: chance.one_in(2).then_some(off), fault }
}

/// What every run of a profile sees, whatever the seed.
fn opening(profile: Profile) -> Vec<Fault> {
    match profile {
        Profile::Processes => vec![
            Fault::Sick(0),
            Fault::Kill(Who::Leader),
            Fault::Pause(Who::Leader),
            Fault::Kill(Who::Two),
            Fault::Kill(Who::Leader),
        ],
        Profile::Network => {
            vec![Fault::Sick(1), Fault::LeaderAlone, Fault::FollowerAlone, Fault::LeaderAlone]
        }
        Profile::ClocksAndDisks => vec![
            Fault::Sick(2),
            Fault::Clock(Who::Leader, 3_600_000),
            Fault::FullDisk(Who::Leader),
            Fault::Clock(Who::Leader, -5_000),
            Fault::FailingDisk(Who::Leader),
        ],
        Profile::Mixed => vec![
            Fault::Sick(0),
            Fault::Kill(Who::Leader),
            Fault::LeaderAlone,
            Fault::FollowerAlone,
            Fault::Clock(Who::Leader, -3_600_000),
            Fault::FullDisk(Who::Leader),
            Fault::Clock(Who::Follower, 5_000),
        ],
    }
}

fn draw(chance: &mut Chance, profile: Profile, nodes: u64) -> Fault {
    let profile = match profile {
        Profile::Mixed => chance.pick(&[Profile::Processes, Profile::Network, Profile::ClocksAndDisks]),
        profile => profile,
    };
    if chance.one_in(6) {
        return Fault::Sick(chance.pick(&[0, 1, 2]));
    }
    let who = chance.pick(&[Who::Leader, Who::Leader, Who::Leader, Who::Follower, Who::Two]);
    match profile {
        Profile::Processes => match chance.between(0, 11) {
            0..=3 => Fault::Kill(who),
            4 => Fault::Kill(Who::All),
            5..=7 => Fault::Pause(chance.pick(&[who, who, Who::All])),
            8..=9 => Fault::Stop(who),
            10 => Fault::Transfer,
            // A restart of each in turn.
            _ => Fault::Roll,
        },
        Profile::Network => network(chance, nodes),
        Profile::ClocksAndDisks | Profile::Mixed => match chance.between(0, 9) {
            0..=4 => {
                let size = chance.pick(&[50, 400, 501, 900, 5_000, 3_600_000]);
                let who = if who == Who::Two { Who::Leader } else { who };
                Fault::Clock(who, if chance.one_in(2) { size } else { -size })
            }
            5..=7 => Fault::SlowDisk(who, chance.pick(&[20, 50, 200, 500])),
            8 => Fault::FailingDisk(chance.pick(&[Who::Leader, Who::Follower])),
            _ => Fault::FullDisk(chance.pick(&[Who::Leader, Who::Follower])),
        },
    }
}

fn network(chance: &mut Chance, nodes: u64) -> Fault {
    match chance.between(0, 15) {
        0..=1 => Fault::LeaderAlone,
        2 => Fault::FollowerAlone,
        3 => Fault::LeaderDark,
        4 => Fault::LeaderFromTarget,
        5 => Fault::LeaderDeaf,
        6 => Fault::LeaderDumb,
        7 => Fault::Halves,
        8 if nodes > 3 => Fault::Ring,
        8..=9 => Fault::Bridge,
        10 => Fault::Flap,
        11 => Fault::Loss(chance.pick(&[1, 10, 30])),
        12 => Fault::Reset,
        13 => Fault::Narrow(chance.pick(&[128, 512])),
        _ => {
            let most = chance.pick(&[10, 60, 300]);
            Fault::Delay(most / 3, most)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule_and_another_seed_another_one() {
        for profile in [Profile::Processes, Profile::Network, Profile::ClocksAndDisks, Profile::Mixed] {
            assert_eq!(plan(profile, 5, 60, 7), plan(profile, 5, 60, 7));
            assert_ne!(plan(profile, 5, 60, 7), plan(profile, 5, 60, 8));
        }
    }
}
