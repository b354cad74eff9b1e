//! A simulated cluster: three replicas of the real state over one abstract log.
//!
//! Shipped code: `state` whole, `scheduler` whole (plan, occurrences, backoff, rules). Models: the log
//! (a leader's proposals commit in order after a delay; when its leadership ends, any prefix of what
//! was under way has been committed, and nobody who asked knows), replicas that apply late and restart
//! from a snapshot, `leader` (the loop's rules), `worker`, clients, clocks. Time is in steps of 20 ms.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use chronarch::state::breaker::StatusKind;
use chronarch::state::time::Timestamp;
use chronarch::state::{Applied, Command, Entry, Outcome, State};

use crate::figures::Figures;
use crate::jobs;
use crate::lab::chance::Chance;
use crate::lab::invariants::{Committed, Invariants};
use crate::lab::spec::MIDNIGHT;
use crate::leader::Leader;
use crate::worker::{FromWorker, ToWorker, Worker};

pub(crate) const STEP_MS: u64 = 20;
const NODES: usize = 3;
const WORKERS: usize = 3;
/// The whole state is rebuilt and compared after each so many entries; what breaks does not heal.
const VERIFY_EVERY: usize = 10;
/// Entries of a leader that may be under way.
const PIPELINE: usize = 8;

struct Node {
    state: State,
    applied: usize,
    skew_ms: i64,
    down_until: u64,
    lags_until: u64,
    leader: Option<Leader>,
}

/// An entry on its way: who asked, when it is committed.
struct Underway {
    at: u64,
    node: usize,
    term: u64,
    entry: Entry,
    /// A leader's own; a client's is answered to nobody.
    own: bool,
}

/// When, for which node and term, and the place in the log, or the commands of which nobody knows.
type Answer = (u64, usize, u64, Result<usize, Vec<Command>>);

pub(crate) struct World {
    chance: Chance,
    now: u64,
    quiet: bool,
    nodes: Vec<Node>,
    workers: Vec<Worker>,
    term: u64,
    leads: usize,
    next_election: u64,
    sessions: u64,
    truth: State,
    log: Vec<(u64, Entry, Applied)>,
    underway: VecDeque<Underway>,
    /// Answers that wait for their node.
    answers: Vec<Answer>,
    invariants: Invariants,
    pub(crate) figures: Figures,
    hash: DefaultHasher,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let node = || Node {
            state: State::default(),
            applied: 0,
            skew_ms: 0,
            down_until: 0,
            lags_until: 0,
            leader: None,
        };
        Self {
            chance: Chance::new(seed),
            now: 0,
            quiet: false,
            nodes: (0..NODES).map(|_| node()).collect(),
            workers: (0..WORKERS).map(Worker::new).collect(),
            term: 1,
            leads: 0,
            next_election: 3_000,
            sessions: 0,
            truth: State::default(),
            log: Vec::new(),
            underway: VecDeque::new(),
            answers: Vec::new(),
            invariants: Invariants::default(),
            figures: Figures::default(),
            hash: DefaultHasher::new(),
        }
    }

    /// Chaos, then peace: what was due is decided, and after the deletion of all jobs nothing lives on.
    pub(crate) fn run(mut self, chaos_ms: u64) -> (Figures, u64) {
        while self.now < chaos_ms {
            self.chaos();
            self.step();
        }
        self.quiet = true;
        for node in &mut self.nodes {
            (node.skew_ms, node.down_until, node.lags_until) = (0, 0, 0);
        }
        self.workers.iter_mut().for_each(|worker| worker.stalled_until = 0);
        // Time stands still until the true one has caught up with the clock that was furthest ahead.
        let ahead = u64::try_from(self.truth.now().millis() - self.wall(self.leads).millis()).unwrap_or(0);
        self.rest(ahead + 15_000);
        let overdue = self.truth.due().next().filter(|(due, _)| due.millis() + 2_000 < self.wall(0).millis());
        assert_eq!(overdue, None, "an occurrence is due and nobody decides it, {}", self.wall(0));
        for command in jobs::delete_all(&self.truth) {
            self.client(command);
        }
        // The longest that anything may take: a timeout with its grace, retries, a cool-down.
        for _ in 0..40 {
            if self.truth.run_count() == 0 && self.truth.job_count() == 0 {
                break;
            }
            self.rest(6_000);
            for command in jobs::delete_all(&self.truth) {
                self.client(command);
            }
        }
        let left: Vec<_> = self.truth.runs().map(|run| (run.id.to_string(), run.phase)).collect();
        assert!(left.is_empty(), "runs live for ever: {left:?}");
        assert_eq!((self.truth.job_count(), self.truth.armed_count()), (0, 0), "jobs are left");
        assert_eq!(self.truth.leases().count(), 0, "leases are left");
        for (place, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.applied, self.log.len(), "node {place} does not catch up");
            assert!(node.state == self.truth, "node {place} differs");
        }
        self.figures.decided = self.invariants.decided();
        self.figures.entries = self.log.len() as u64;
        (self.figures, self.hash.finish())
    }

    fn rest(&mut self, span_ms: u64) {
        let end = self.now + span_ms;
        while self.now < end {
            self.step();
        }
    }

    fn wall(&self, node: usize) -> Timestamp {
        let millis = MIDNIGHT + i64::try_from(self.now).unwrap_or(0) + self.nodes[node].skew_ms;
        Timestamp::from_millis(millis)
    }

    fn chaos(&mut self) {
        let now = self.now;
        if now >= self.next_election {
            let kind = self.chance.between(0, 3);
            let old = self.leads;
            match kind {
                0 => self.nodes[old].down_until = now + self.chance.between(200, 6_000),
                1 => self.nodes[old].lags_until = now + self.chance.between(200, 3_000),
                _ => {}
            }
            let silence = if self.chance.one_in(3) { self.chance.between(1_000, 8_000) } else { 300 };
            self.depose();
            let up: Vec<usize> =
                (0..NODES).filter(|node| self.nodes[*node].down_until <= now + silence).collect();
            self.leads = if up.is_empty() { old } else { self.chance.pick(&up) };
            self.nodes[self.leads].down_until = self.nodes[self.leads].down_until.min(now + silence);
            // Nobody leads before that.
            self.nodes[self.leads].lags_until = now + silence;
            self.next_election = now + silence + self.chance.between(150, 6_000);
        }
        if self.chance.one_in(12) {
            let node = self.leads;
            let wall = self.wall(node);
            let state = self.nodes[node].state.clone();
            if let Some(command) = jobs::client(&state, wall, &mut self.chance) {
                self.client(command);
            }
        }
        if self.chance.one_in(400) {
            let node = self.chance.between(0, NODES as u64 - 1) as usize;
            let skew = self.chance.between(0, 3_000) as i64 - 1_500;
            self.nodes[node].skew_ms = if self.chance.one_in(10) { skew * 4 } else { skew };
        }
        if self.chance.one_in(250) {
            let place = self.chance.between(0, WORKERS as u64 - 1) as usize;
            match self.chance.between(0, 5) {
                0 => self.workers[place].die(),
                1 | 2 => self.workers[place].stalled_until = now + self.chance.between(100, 9_000),
                _ => self.workers[place].hang_up(),
            }
        }
        if self.chance.one_in(500) {
            let node = self.chance.between(0, NODES as u64 - 1) as usize;
            self.nodes[node].lags_until = now + self.chance.between(100, 4_000);
        }
    }

    /// The leadership ends: a prefix of what is under way has reached a majority, the rest is gone.
    /// The old leader goes on for a while in the belief that it leads.
    fn depose(&mut self) {
        self.figures.leader_changes += 1;
        let open = |(_, breaker): (_, &Arc<chronarch::state::breaker::Breaker>)| {
            breaker.kind() != StatusKind::Closed
        };
        if self.truth.breakers().any(open) {
            self.figures.breakers_across_a_change += 1;
        }
        let waits =
            |job: &Arc<chronarch::state::Job>| self.truth.joins_of(job.id).any(|(_, join)| !join.is_decided);
        self.figures.joins_across_a_change += u64::from(self.truth.jobs_after(None).any(waits));
        let is_spread = self.truth.runs().any(|run| run.spread.is_some());
        self.figures.spread_across_a_change += u64::from(is_spread);
        self.figures.reread_across_a_change += u64::from(self.truth.reading().pass.is_some());
        let keep = self.chance.between(0, self.underway.len() as u64) as usize;
        let rest = self.underway.split_off(keep);
        for underway in std::mem::take(&mut self.underway) {
            self.figures.unknown_and_committed += u64::from(underway.own);
            let commands = underway.entry.commands.clone();
            self.commit(underway.entry);
            self.answer_unknown(underway.node, underway.term, underway.own, commands);
        }
        for underway in rest {
            self.figures.unknown_and_dropped += u64::from(underway.own);
            self.answer_unknown(underway.node, underway.term, underway.own, underway.entry.commands);
        }
        self.term += 1;
    }

    fn answer_unknown(&mut self, node: usize, term: u64, own: bool, commands: Vec<Command>) {
        if own {
            let at = self.now + self.chance.between(0, 2_000);
            self.answers.push((at, node, term, Err(commands)));
        }
    }

    fn client(&mut self, command: Command) {
        let entry = Entry {
            at: self.wall(self.leads).max(self.nodes[self.leads].state.now()),
            commands: vec![command],
        };
        self.submit(self.leads, self.term, entry, false);
    }

    fn submit(&mut self, node: usize, term: u64, entry: Entry, own: bool) {
        if term != self.term || node != self.leads {
            // A deposed leader: no majority follows it any more.
            let commands = entry.commands;
            return self.answer_unknown(node, term, own, commands);
        }
        let delay = if self.quiet { 10 } else { self.chance.between(0, 150) };
        let at = self.underway.back().map_or(0, |last| last.at).max(self.now + delay);
        self.underway.push_back(Underway { at, node, term, entry, own });
    }

    fn commit(&mut self, entry: Entry) -> usize {
        let index = self.log.last().map_or(0, |(index, _, _)| *index) + 1;
        index.hash(&mut self.hash);
        entry.encode().hash(&mut self.hash);
        let before = self.truth.clone();
        let applied = self.truth.apply(index, &entry);
        if self.log.len().is_multiple_of(VERIFY_EVERY) {
            self.truth.verify().unwrap_or_else(|broken| panic!("{broken} by {:?}", entry.commands));
        }
        self.count(&before, &entry, &applied);
        let committed = Committed { entry: &entry, applied: &applied, before: &before, after: &self.truth };
        self.invariants.committed(&committed);
        self.log.push((index, entry, applied));
        self.log.len() - 1
    }

    fn count(&mut self, before: &State, entry: &Entry, applied: &Applied) {
        for (command, outcome) in entry.commands.iter().zip(&applied.outcomes) {
            match (command, outcome) {
                (_, Outcome::Started { .. }) => self.figures.attempts += 1,
                (_, Outcome::Spread { runs }) => self.figures.spread += u64::from(*runs > 1),
                (Command::Lose { worker, .. }, Outcome::Done) => {
                    self.figures.lost_attempts += u64::from(before.load(worker));
                }
                (Command::Reread { armed, .. }, Outcome::Done) => self.figures.reread += armed.len() as u64,
                (Command::Complete { .. }, Outcome::Rejected(_)) => self.figures.late_reports += 1,
                (_, Outcome::Rejected(_)) => self.figures.refused += 1,
                _ => {}
            }
        }
        self.figures.made += applied.made.len() as u64;
        let keeps = |key| !self.truth.has_group_room(key, 0, self.truth.now());
        self.figures.kept_by_limits += u64::from(self.truth.groups().any(|(key, _)| keeps(key)));
        let opens = |state: &State| state.cooling().count() as u64;
        self.figures.breaker_opens += opens(&self.truth).saturating_sub(opens(before));
    }

    fn step(&mut self) {
        self.now += STEP_MS;
        while self.underway.front().is_some_and(|it| it.at <= self.now) {
            let Some(Underway { node, term, entry, own, .. }) = self.underway.pop_front() else { break };
            let commands = entry.commands.clone();
            let place = self.commit(entry);
            if own && !self.quiet && self.chance.one_in(150) {
                // The leader stays and the answer is lost.
                self.figures.unknown_and_committed += 1;
                self.answer_unknown(node, term, own, commands);
            } else if own {
                self.answers.push((self.now, node, term, Ok(place)));
            }
        }
        for node in 0..NODES {
            self.apply(node);
            self.answers_of(node);
            self.lead(node);
        }
        self.carry();
    }

    fn apply(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        if node.down_until > self.now {
            node.leader = None;
            return;
        }
        if node.down_until != 0 {
            node.down_until = 0;
            self.figures.restarts += 1;
            let mut bytes = Vec::new();
            node.state.write_to(&mut bytes).expect("a vector takes all");
            node.state = State::read_from(&mut bytes.as_slice()).expect("a snapshot reads back");
        }
        let leads = place == self.leads;
        if node.lags_until > self.now && !(leads && node.leader.is_some()) {
            return;
        }
        while node.applied < self.log.len() && (leads || self.quiet || !self.chance.one_in(5)) {
            let (index, entry, applied) = &self.log[node.applied];
            assert_eq!(node.state.apply(*index, entry), *applied, "replicas decide differently");
            node.applied += 1;
        }
    }

    fn answers_of(&mut self, place: usize) {
        let now = self.now;
        let applied = self.nodes[place].applied;
        let ready =
            |it: &Answer| it.1 == place && it.0 <= now && it.3.as_ref().map_or(true, |at| *at < applied);
        let (mine, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.answers).into_iter().partition(ready);
        self.answers = rest;
        for (_, _, term, answer) in mine {
            let node = &mut self.nodes[place];
            let Some(leader) = node.leader.as_mut().filter(|leader| leader.term == term) else { continue };
            match answer {
                Ok(at) => {
                    let (index, entry, applied) = &self.log[at];
                    leader.landed(*index, &entry.commands, applied, &node.state);
                }
                Err(commands) => {
                    leader.unknown(&commands);
                    if term != self.term {
                        leader.drop_sessions();
                        leader.dismiss = false;
                        let left = std::mem::take(&mut leader.out);
                        node.leader = None;
                        self.deliver(place, left);
                    }
                }
            }
        }
    }

    fn lead(&mut self, place: usize) {
        let elected =
            place == self.leads && self.nodes[place].leader.as_ref().is_none_or(|it| it.term != self.term);
        let ready = self.nodes[place].applied == self.log.len() && self.nodes[place].lags_until <= self.now;
        if elected && ready && self.nodes[place].down_until <= self.now {
            self.nodes[place].leader = Some(Leader::new(self.term, self.now));
        }
        let wall = self.wall(place);
        let chance = self.chance.draw();
        let now = self.now;
        let node = &mut self.nodes[place];
        let Some(leader) = node.leader.as_mut() else { return };
        if std::mem::take(&mut leader.dismiss) {
            leader.drop_sessions();
        }
        let wall = wall.max(node.state.now());
        let mine = self.underway.iter().filter(|it| it.node == place && it.own).count();
        let room = PIPELINE.saturating_sub(mine);
        let entries = leader.turn(place as u64, &node.state, now, wall, room, chance);
        for command in entries.iter().flatten() {
            if let Command::Lose { worker, .. } = command {
                assert!(leader.silence(worker, now) >= crate::LEASE_MS, "{worker} is given up too early");
            }
        }
        let term = leader.term;
        let out = std::mem::take(&mut leader.out);
        self.deliver(place, out);
        for commands in entries {
            self.submit(place, term, Entry { at: wall, commands }, true);
        }
    }

    fn deliver(&mut self, from: usize, messages: Vec<(Arc<str>, ToWorker)>) {
        for (name, message) in messages {
            let Some(worker) = self.workers.iter_mut().find(|worker| worker.name == name) else { continue };
            let Some((node, session)) = worker.stream.filter(|(node, _)| *node == from) else { continue };
            let known = self.nodes[node].leader.as_ref().is_some_and(|leader| leader.knows(&name, session));
            if known || matches!(message, ToWorker::Bye) {
                worker.deliver(self.now, message, &mut self.chance);
            }
        }
    }

    /// Streams between workers and nodes, and the workers' own turns.
    fn carry(&mut self) {
        let now = self.now;
        for place in 0..WORKERS {
            if self.workers[place].stream.is_none() && now >= self.workers[place].stalled_until {
                // Mostly it finds the leader; at times one that was.
                let guess = self.chance.between(0, NODES as u64 - 1) as usize;
                let node = if self.quiet || !self.chance.one_in(4) { self.leads } else { guess };
                if self.nodes[node].leader.is_some() {
                    self.sessions += 1;
                    let session = self.sessions;
                    self.workers[place].connect(node, session, now, &mut self.chance);
                }
            }
            self.hear(place);
            self.workers[place].turn(now, self.quiet, &mut self.chance);
            let (began, ended) = (
                std::mem::take(&mut self.workers[place].began),
                std::mem::take(&mut self.workers[place].ended),
            );
            ended.into_iter().for_each(|held| self.invariants.ended(held));
            began.into_iter().for_each(|held| self.invariants.began(held, &self.truth));
        }
    }

    fn hear(&mut self, place: usize) {
        let now = self.now;
        let worker = &mut self.workers[place];
        let Some((node, session)) = worker.stream else { return };
        let name = worker.name.clone();
        let Node { leader: Some(leader), state, .. } = &mut self.nodes[node] else { return worker.hang_up() };
        while worker.outbox.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, message)) = worker.outbox.pop_front() else { break };
            match message {
                FromWorker::Hello(held) => leader.hello(state, &name, session, &held, now),
                _ if !leader.knows(&name, session) => return worker.hang_up(),
                FromWorker::Heartbeat => leader.heartbeat(&name, now),
                FromWorker::Report(held, outcome) => leader.report(&name, held, outcome, now),
            }
        }
    }
}
