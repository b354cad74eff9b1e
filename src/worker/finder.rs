//! Where to look for the leader next, and when.
//!
//! Pure: it is told what came of each try. A *round* asks every endpoint once, in a changing order; a node that
//! does not lead may name the leader, which is then asked at once, but nobody is asked twice in a round. When the
//! leader was named and could not be reached, those who named it are asked to carry the stream there, each once: so
//! the straight way is taken where there is one, and one node that can be reached is enough. Between rounds there is a pause of a tenth of the time that has been spent without a leader, at least
//! [`PAUSE_MIN`](super::PAUSE_MIN) and at most [`PAUSE_MAX`](super::PAUSE_MAX): a takeover that takes 300 ms is
//! noticed within 30 ms of its end, and a cluster that is down for an hour is asked twice a second.
//!
//! An address that did not answer in time is *shunned* for [`SHUN`](super::SHUN), also when another node names it:
//! during a takeover the followers still name the dead leader, and each wait for it would cost a connect timeout.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::{PAUSE_MAX, PAUSE_MIN, SHUN, STEADY};

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask this address, for this.
    Ask(Arc<str>, Way),
    /// Ask nobody before this instant.
    Wait(Instant),
}

/// What an address is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To be served, if it leads.
    Straight,
    /// To carry the stream to the leader, if it does not lead itself.
    Carried,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Finder {
    endpoints: Vec<Arc<str>>,
    /// Where the next round begins.
    first: usize,
    random: SmallRng,
    without_leader_since: Instant,
    pause_until: Option<Instant>,
    round: VecDeque<Arc<str>>,
    asked: BTreeSet<Arc<str>>,
    /// Those who named a leader in this round.
    carriers: VecDeque<Arc<str>>,
    shunned_until: BTreeMap<Arc<str>, Instant>,
}

impl Finder {
    pub(super) fn new(endpoints: Vec<Arc<str>>, seed: u64, now: Instant) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let first = random.random_range(0..endpoints.len().max(1));
        let mut finder = Self {
            endpoints,
            first,
            random,
            without_leader_since: now,
            pause_until: None,
            round: VecDeque::new(),
            asked: BTreeSet::new(),
            carriers: VecDeque::new(),
            shunned_until: BTreeMap::new(),
        };
        finder.begin_round(now, None);
        finder
    }

    /// What to do now.
    pub(super) fn next(&mut self, now: Instant) -> Step {
        if let Some(until) = self.pause_until {
            if now < until {
                return Step::Wait(until);
            }
            self.pause_until = None;
            self.begin_round(now, None);
        }
        if let Some(address) = self.round.pop_front() {
            self.asked.insert(address.clone());
            return Step::Ask(address, Way::Straight);
        }
        match self.carriers.pop_front() {
            Some(address) => Step::Ask(address, Way::Carried),
            None => Step::Wait(self.pause(now)),
        }
    }

    /// The address answered that it does not lead; `leader` is whom it named.
    pub(super) fn not_leader(
        &mut self,
        address: &Arc<str>,
        way: Way,
        leader: Option<Arc<str>>,
        now: Instant,
    ) {
        if let Some(leader) = leader {
            if way == Way::Straight {
                self.carriers.push_back(address.clone());
            }
            self.named(leader, now);
        }
    }

    fn named(&mut self, leader: Arc<str>, now: Instant) {
        self.shunned_until.retain(|_, until| now < *until);
        if !self.asked.contains(&leader) && !self.shunned_until.contains_key(&leader) {
            self.round.retain(|address| *address != leader);
            self.round.push_front(leader);
        }
    }

    /// The address did not answer in time.
    pub(super) fn silent(&mut self, address: Arc<str>, now: Instant) {
        self.shunned_until.retain(|_, until| now < *until);
        self.shunned_until.insert(address, now + SHUN);
    }

    /// A stream was given up, though whoever is at its other end leads.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.without_leader_since = now;
        self.pause_until = None;
        self.begin_round(now, None);
    }

    /// The stream to `address` that was opened at `opened_at` is over; `leader` is whom it named at the end.
    ///
    /// A stream that hardly lived does not count as one: whoever accepts and drops us again and again is asked with
    /// pauses.
    pub(super) fn lost(
        &mut self,
        address: &Arc<str>,
        opened_at: Instant,
        leader: Option<Arc<str>>,
        now: Instant,
    ) {
        if now.duration_since(opened_at) < STEADY {
            self.pause(now);
            return;
        }
        self.without_leader_since = now;
        self.pause_until = None;
        self.begin_round(now, Some(address));
        if let Some(leader) = leader {
            self.named(leader, now);
        }
    }

    fn pause(&mut self, now: Instant) -> Instant {
        let span = (now.duration_since(self.without_leader_since) / 10).clamp(PAUSE_MIN, PAUSE_MAX);
        let least = (span / 2).max(PAUSE_MIN);
        let extra = self.random.random_range(0.0..=1.0);
        let until = now + least + Duration::mul_f64(span - least, extra);
        self.pause_until = Some(until);
        until
    }

    fn begin_round(&mut self, now: Instant, last: Option<&Arc<str>>) {
        self.shunned_until.retain(|_, until| now < *until);
        self.asked.clear();
        self.carriers.clear();
        let (before, from) = self.endpoints.split_at(self.first);
        let in_turn = from.iter().chain(before);
        self.round =
            in_turn.clone().filter(|address| !self.shunned_until.contains_key(*address)).cloned().collect();
        if self.round.is_empty() {
            self.round = in_turn.cloned().collect();
        }
        if let Some(last) = last
            && let Some(at) = self.round.iter().position(|address| address == last)
        {
            self.round.remove(at);
            self.round.push_back(last.clone());
        }
        self.first = (self.first + 1) % self.endpoints.len().max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finder(now: Instant) -> Finder {
        Finder::new(vec!["a:1".into(), "b:1".into(), "c:1".into()], 1, now)
    }

    fn ask(finder: &mut Finder, now: Instant) -> Arc<str> {
        match finder.next(now) {
            Step::Ask(address, Way::Straight) => address,
            Step::Ask(address, Way::Carried) => panic!("{address} is to carry"),
            Step::Wait(until) => panic!("waits for {:?}", until - now),
        }
    }

    fn wait(finder: &mut Finder, now: Instant) -> Instant {
        match finder.next(now) {
            Step::Ask(address, way) => panic!("asks {address} {way:?}"),
            Step::Wait(until) => until,
        }
    }

    #[tokio::test]
    async fn a_round_asks_each_endpoint_once_and_a_pause_follows() {
        let now = Instant::now();
        let mut finder = finder(now);
        let asked: BTreeSet<Arc<str>> = (0..3).map(|_| ask(&mut finder, now)).collect();
        assert_eq!(asked.len(), 3);
        let until = wait(&mut finder, now);
        assert_eq!(until, now + PAUSE_MIN);
        assert_eq!(wait(&mut finder, now), until, "asking again does not lengthen the pause");
        ask(&mut finder, until);
    }

    #[tokio::test]
    async fn the_pause_stays_a_tenth_of_the_outage_up_to_its_bound() {
        let start = Instant::now();
        let mut finder = finder(start);
        let mut now = start;
        let mut longest = Duration::ZERO;
        while now < start + Duration::from_secs(20) {
            match finder.next(now) {
                Step::Ask(..) => {}
                Step::Wait(until) => {
                    let (pause, outage) = (until - now, now - start);
                    assert!(pause >= PAUSE_MIN && pause <= PAUSE_MAX);
                    assert!(pause <= PAUSE_MIN.max(outage / 10), "{pause:?} after {outage:?}");
                    longest = longest.max(pause);
                    now = until;
                }
            }
        }
        assert!(longest > PAUSE_MAX / 2, "it does grow: {longest:?}");
    }

    #[tokio::test]
    async fn a_named_leader_is_asked_next_but_nobody_twice_in_a_round() {
        let now = Instant::now();
        let mut finder = finder(now);
        let first = ask(&mut finder, now);
        finder.not_leader(&first, Way::Straight, Some("d:1".into()), now);
        assert_eq!(&*ask(&mut finder, now), "d:1", "also one that is no endpoint of ours");
        finder.not_leader(&"d:1".into(), Way::Straight, Some(first.clone()), now);
        let rest: Vec<Arc<str>> = (0..2).map(|_| ask(&mut finder, now)).collect();
        assert!(!rest.contains(&first), "two nodes that name each other are no loop");
    }

    #[tokio::test]
    async fn who_names_a_leader_that_cannot_be_reached_is_asked_to_carry_once() {
        let now = Instant::now();
        let mut finder = Finder::new(vec!["a:1".into(), "b:1".into()], 1, now);
        let [first, second] = [ask(&mut finder, now), ask(&mut finder, now)];
        finder.not_leader(&first, Way::Straight, Some("far:1".into()), now);
        finder.not_leader(&second, Way::Straight, None, now);
        assert_eq!(&*ask(&mut finder, now), "far:1", "the straight way goes first");
        finder.silent("far:1".into(), now);
        assert_eq!(finder.next(now), Step::Ask(first.clone(), Way::Carried));
        finder.not_leader(&first, Way::Carried, Some("far:1".into()), now);
        wait(&mut finder, now);
    }

    #[tokio::test]
    async fn a_stream_that_is_given_up_is_followed_by_a_round_at_once() {
        let now = Instant::now();
        let mut finder = finder(now);
        let carrier = ask(&mut finder, now);
        finder.look_again(now);
        let round: BTreeSet<Arc<str>> = (0..3).map(|_| ask(&mut finder, now)).collect();
        assert!(round.contains(&carrier), "{round:?}");
    }

    #[tokio::test]
    async fn a_silent_address_is_left_out_for_a_while_even_when_it_is_named() {
        let now = Instant::now();
        let mut finder = finder(now);
        let dead = ask(&mut finder, now);
        finder.silent(dead.clone(), now);
        let follower = ask(&mut finder, now);
        finder.not_leader(&follower, Way::Straight, Some(dead.clone()), now);
        assert_ne!(ask(&mut finder, now), dead);
        assert_eq!(finder.next(now), Step::Ask(follower, Way::Carried));
        let until = wait(&mut finder, now);
        let round: Vec<Arc<str>> = (0..2).map(|_| ask(&mut finder, until)).collect();
        assert!(!round.contains(&dead));
        let later = wait(&mut finder, now + SHUN);
        let round: Vec<Arc<str>> = (0..3).map(|_| ask(&mut finder, later)).collect();
        assert!(round.contains(&dead), "it may have come back");
    }

    #[tokio::test]
    async fn when_everyone_is_silent_everyone_is_asked() {
        let now = Instant::now();
        let mut finder = finder(now);
        for _ in 0..3 {
            let address = ask(&mut finder, now);
            finder.silent(address, now);
        }
        let until = wait(&mut finder, now);
        let round: BTreeSet<Arc<str>> = (0..3).map(|_| ask(&mut finder, until)).collect();
        assert_eq!(round.len(), 3);
    }

    #[tokio::test]
    async fn the_leader_that_was_lost_is_asked_last_and_a_short_stream_earns_a_pause() {
        let now = Instant::now();
        let mut finder = finder(now);
        let leader = ask(&mut finder, now);
        let later = now + STEADY;
        finder.lost(&leader, now, None, later);
        let round: Vec<Arc<str>> = (0..3).map(|_| ask(&mut finder, later)).collect();
        assert_eq!(round.last(), Some(&leader));
        finder.lost(&leader, later, None, later);
        assert!(wait(&mut finder, later) >= later + PAUSE_MIN);
    }
}
