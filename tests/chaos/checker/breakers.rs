//! G4: breakers, by a model of the documented rule that is fed with the ends of attempts as the log has them. Every
//! transition that the model foresees must be in the log, and no other; so a breaker that forgets its count or its
//! state over a takeover is found. Nothing may start while one is open, and no more than its probes while it is half
//! open.
//!
//! Of a breaker with a failure rate the model follows the log's openings, for the slices of its window are no part of
//! what is documented; everything else about it is checked.

use std::collections::{BTreeMap, BTreeSet};

use super::file::Breaker as Policy;
use super::history::{At, Command, Entry, History, Transition};
use super::lives::Life;
use super::{Findings, Kind};

/// A breaker as findings name it: shared by name, or of an incarnation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Shared(String),
    Own(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Status {
    Closed,
    Open {
        until: i64,
    },
    /// The fences of the probes that run, and how many have passed.
    HalfOpen {
        probes: BTreeSet<u64>,
        passed: u32,
    },
}

impl Status {
    fn word(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half_open",
        }
    }
}

#[derive(Clone, Debug)]
struct Breaker {
    policy: Policy,
    status: Status,
    failures: u32,
    reopened: u32,
}

impl Breaker {
    fn new(policy: Policy) -> Self {
        Self { policy, status: Status::Closed, failures: 0, reopened: 0 }
    }

    fn open(&mut self, now: i64, span: Option<i64>) {
        let doubled = self.policy.open_for.0.saturating_mul(1 << self.reopened.min(31));
        let longest = self.policy.max_open_for.0.max(self.policy.open_for.0);
        self.status = Status::Open { until: now + span.unwrap_or(doubled.min(longest)) };
    }

    fn close(&mut self) {
        (self.status, self.failures, self.reopened) = (Status::Closed, 0, 0);
    }

    fn ended(&mut self, fence: u64, outcome: &str, now: i64) {
        let failed = match outcome {
            "succeeded" => Some(false),
            "failed" | "timeout" => Some(true),
            _ => None,
        };
        match (&mut self.status, failed) {
            (Status::Closed, Some(true)) => {
                self.failures += 1;
                let row = self.policy.consecutive_failures;
                if row > 0 && self.failures >= row {
                    self.open(now, None);
                }
            }
            (Status::Closed, Some(false)) => self.failures = 0,
            (Status::HalfOpen { probes, passed }, failed) => match failed.filter(|_| probes.contains(&fence))
            {
                Some(true) => {
                    self.reopened += 1;
                    self.open(now, None);
                }
                Some(false) => {
                    probes.remove(&fence);
                    *passed += 1;
                    if *passed >= self.policy.probes.max(1) {
                        self.close();
                    }
                }
                // A probe that was lost makes room for another.
                None => drop(probes.remove(&fence)),
            },
            (Status::Closed | Status::Open { .. }, _) => {}
        }
    }
}

struct Model<'a> {
    lives: &'a BTreeMap<u64, Life>,
    findings: &'a mut Findings,
    breakers: BTreeMap<Key, Breaker>,
    /// Under which breaker a run was born.
    of_run: BTreeMap<String, Key>,
    /// Breakers that were open at some time of the entry.
    opened: BTreeSet<Key>,
    /// What the model foresees of the entry.
    foreseen: Vec<(Key, &'static str, &'static str)>,
    /// Breakers that were not closed when the leader changed.
    across: u64,
}

/// Checks the breakers; how many were not closed at a change of leader.
pub(crate) fn check(history: &History, lives: &BTreeMap<u64, Life>, findings: &mut Findings) -> u64 {
    let mut model = Model {
        lives,
        findings,
        breakers: BTreeMap::new(),
        of_run: BTreeMap::new(),
        opened: BTreeSet::new(),
        foreseen: Vec::new(),
        across: 0,
    };
    for entry in &history.log {
        model.entry(entry);
    }
    model.shown_at_the_end(history);
    model.across
}

impl Model<'_> {
    fn entry(&mut self, entry: &Entry) {
        let now = entry.now.unwrap_or_default();
        let is_open = |(key, breaker): (&Key, &Breaker)| {
            matches!(breaker.status, Status::Open { .. }).then(|| key.clone())
        };
        self.opened = self.breakers.iter().filter_map(is_open).collect();
        for command in entry.commands.iter().filter(|command| command.decision.is_done()) {
            self.command(entry, command, now);
        }
        let mut foreseen = std::mem::take(&mut self.foreseen);
        // One that goes with its job goes in whatever state it is.
        for gone in entry.breakers.iter().filter(|said| said.to == "removed").map(key_of) {
            foreseen.retain(|(key, ..)| *key != gone);
            self.breakers.remove(&gone);
        }
        for said in entry.breakers.iter().filter(|said| said.to != "removed") {
            let (key, from, to) = (key_of(said), said.from.as_str(), said.to.as_str());
            match foreseen
                .iter()
                .position(|(of, before, after)| *of == key && *before == from && *after == to)
            {
                Some(place) => {
                    foreseen.remove(place);
                }
                None => self.not_foreseen(entry, said, &key),
            }
            self.cool_down(entry, said, &key);
        }
        for record in entry.finished.iter().filter(|record| record.reason == "breaker_open") {
            let key = self.of_run.get(&record.run_id);
            if key.is_none_or(|key| !self.opened.contains(key)) {
                let what = format!("run {} is skipped, and its breaker {key:?} is not open", record.run_id);
                self.findings.add(Kind::Unexplained, what);
            }
        }
        for (key, from, to) in foreseen {
            let what = format!("entry {} does not turn {key:?} from {from} to {to}", entry.index);
            self.findings.add(Kind::LostBreakerTransition, what);
        }
    }

    fn not_foreseen(&mut self, entry: &Entry, said: &Transition, key: &Key) {
        // Tripped or reset by hand as what it was.
        if said.from == said.to {
            return;
        }
        let Some(breaker) = self.breakers.get_mut(key) else {
            let what = format!("entry {} moves the unknown breaker {key:?}", entry.index);
            return self.findings.add(Kind::UnexplainedBreakerTransition, what);
        };
        if breaker.policy.failure_rate > 0.0 && said.to == "open" && breaker.status == Status::Closed {
            let until = said.open_until.map_or(i64::MAX, |until| until.0);
            self.opened.insert(key.clone());
            breaker.status = Status::Open { until };
            return;
        }
        let what = format!("entry {} turns {key:?} from {} to {}", entry.index, said.from, said.to);
        self.findings.add(Kind::UnexplainedBreakerTransition, what);
    }

    fn cool_down(&mut self, entry: &Entry, said: &Transition, key: &Key) {
        let Some(Breaker { status: Status::Open { until }, .. }) = self.breakers.get(key) else { return };
        if said.to == "open" && said.open_until.is_some_and(|told| told != At(*until)) {
            let what = format!(
                "entry {} opens {key:?} until {:?}, not {}",
                entry.index,
                said.open_until,
                At(*until)
            );
            self.findings.add(Kind::UnexplainedBreakerTransition, what);
        }
    }

    fn command(&mut self, entry: &Entry, command: &Command, now: At) {
        match command.kind.as_str() {
            "lead" => {
                let open = self.breakers.values().filter(|breaker| breaker.status != Status::Closed);
                self.across += open.count() as u64;
            }
            "put_job" => self.put(entry, command),
            "fire" => {
                command.decision.runs.iter().for_each(|run| self.born(entry, &run.run_id, run.incarnation))
            }
            "trigger_job" => {
                if let Some(run) = &command.decision.run {
                    self.born(entry, &run.run_id, run.incarnation);
                }
            }
            "start" => self.start(entry, command),
            "complete" => self.ended(&command.run_id, command.fence, &command.outcome, now),
            "lose" => {
                for lost in &command.decision.lost {
                    self.ended(&lost.run_id, lost.fence, "lost", now);
                }
            }
            "half_open" => self.moved(&named(command), |breaker| {
                breaker.status = Status::HalfOpen { probes: BTreeSet::new(), passed: 0 };
            }),
            "trip_breaker" => {
                let span = command.open_for.map(|span| span.0);
                self.moved(&named(command), |breaker| breaker.open(now.0, span));
            }
            "reset_breaker" => self.moved(&named(command), Breaker::close),
            _ => {}
        }
        if command.kind == "half_open" {
            self.is_cool(entry, command, now);
        }
    }

    /// A breaker cools down for as long as it says.
    fn is_cool(&mut self, entry: &Entry, command: &Command, now: At) {
        let said =
            entry.breakers.iter().find(|said| key_of(said) == named(command) && said.to == "half_open");
        if said.is_none() {
            let what = format!(
                "entry {} at {now} lets {:?} try, and says nothing of it",
                entry.index,
                named(command)
            );
            self.findings.add(Kind::LostBreakerTransition, what);
        }
    }

    fn put(&mut self, entry: &Entry, command: &Command) {
        let incarnation = command.decision.incarnation;
        if command.decision.change == "unchanged" {
            return;
        }
        let Some(life) = self.lives.get(&incarnation) else { return };
        let policy = life.at(entry.index).file.breaker.clone();
        let key = key(&policy, incarnation);
        self.breakers.entry(key).or_insert_with(|| Breaker::new(policy.clone())).policy.clone_from(&policy);
    }

    fn born(&mut self, entry: &Entry, run_id: &str, incarnation: u64) {
        if let Some(life) = self.lives.get(&incarnation) {
            let key = key(&life.at(entry.index).file.breaker, incarnation);
            self.of_run.insert(run_id.to_owned(), key);
        }
    }

    fn start(&mut self, entry: &Entry, command: &Command) {
        let Some(breaker) = self.of_run.get(&command.run_id).and_then(|key| self.breakers.get_mut(key))
        else {
            return;
        };
        let fence = command.decision.fence;
        let name = format!("entry {} starts run {}", entry.index, command.run_id);
        let room = breaker.policy.probes.max(1);
        match &mut breaker.status {
            Status::Closed => {}
            Status::Open { until } => {
                let what = format!("{name} while its breaker is open until {}", At(*until));
                self.findings.add(Kind::CallWhileOpen, what);
            }
            Status::HalfOpen { probes, passed } => {
                if probes.len() as u64 + u64::from(*passed) >= u64::from(room) || !command.decision.probe {
                    let what = format!("{name} beside {} probes of a half-open breaker", probes.len());
                    self.findings.add(Kind::CallWhileOpen, what);
                }
                probes.insert(fence);
            }
        }
    }

    fn ended(&mut self, run_id: &str, fence: u64, outcome: &str, now: At) {
        if let Some(key) = self.of_run.get(run_id).cloned() {
            self.moved(&key, |breaker| breaker.ended(fence, outcome, now.0));
        }
    }

    /// Moves the breaker as the model says, and keeps what is to be seen of it.
    fn moved(&mut self, key: &Key, change: impl FnOnce(&mut Breaker)) {
        let Some(breaker) = self.breakers.get_mut(key) else { return };
        let before = breaker.status.clone();
        change(breaker);
        if matches!(breaker.status, Status::Open { .. }) {
            self.opened.insert(key.clone());
        }
        if before.word() != breaker.status.word() {
            self.foreseen.push((key.clone(), before.word(), breaker.status.word()));
        }
    }

    /// What the nodes show in the end is what came of it.
    fn shown_at_the_end(&mut self, history: &History) {
        let names: BTreeMap<String, Key> = self
            .breakers
            .keys()
            .map(|key| match key {
                Key::Shared(name) => (name.clone(), key.clone()),
                Key::Own(id) => (format!("job:{}", self.lives[id].name), key.clone()),
            })
            .collect();
        let last = history.log.last().map_or(0, |entry| entry.index);
        for (id, node) in &history.nodes {
            for shown in &node.breakers {
                // A cool-down that ended after the log was exported: what is shown is not what was exported.
                if shown.transitions.iter().any(|moved| moved.index > last) {
                    continue;
                }
                let Some(breaker) = names.get(&shown.name).and_then(|key| self.breakers.get(key)) else {
                    continue;
                };
                if shown.state != breaker.status.word()
                    || (shown.state == "closed" && shown.consecutive_failures != breaker.failures)
                {
                    let what = format!("node {id} shows {shown:?}, the log makes it {breaker:?}");
                    self.findings.add(Kind::LostBreakerTransition, what);
                }
            }
        }
    }
}

fn key(policy: &Policy, incarnation: u64) -> Key {
    policy.name.clone().map_or(Key::Own(incarnation), Key::Shared)
}

fn key_of(said: &Transition) -> Key {
    by_name(&said.breaker, said.incarnation)
}

fn named(command: &Command) -> Key {
    by_name(&command.breaker, command.incarnation)
}

fn by_name(name: &str, incarnation: u64) -> Key {
    if name.starts_with("job:") || name.is_empty() {
        Key::Own(incarnation)
    } else {
        Key::Shared(name.to_owned())
    }
}
