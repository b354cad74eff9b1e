//! What there is: a log of which only the newest state counts, two nodes, two workers, letters in the air.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use chronarch::state::run::{JobId, RunId};
use chronarch::state::schedule::Rule;
use chronarch::state::spec::{OnLost, OverlapPolicy};
use chronarch::state::time::Timestamp;
use chronarch::state::{Command, Due, Entry, Outcome, Request, State};

use super::lab::spec::{self, MIDNIGHT};
use super::properties::{self, Blot};

pub(crate) const NODES: usize = 2;
pub(crate) const WORKERS: usize = 2;
/// Attempts at a time that a worker takes.
pub(crate) const SLOTS: u32 = 2;

/// How many faults may happen on one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// Ends of a leadership, by crash or by deposition.
    pub(crate) leaders: u8,
    /// Broken streams between a worker and a node.
    pub(crate) streams: u8,
    /// Deaths of workers.
    pub(crate) deaths: u8,
    /// Workers that are given up though they live.
    pub(crate) suspicions: u8,
    /// Proposals that commit without their proposer being told.
    pub(crate) answers: u8,
    /// Whether there is a second occurrence.
    pub(crate) second: bool,
}

impl Budget {
    const NONE: Self = Self { leaders: 0, streams: 0, deaths: 0, suspicions: 0, answers: 0, second: false };
    pub(crate) const SHORT: [Self; 3] = [
        Self { leaders: 1, deaths: 1, suspicions: 1, ..Self::NONE },
        Self { leaders: 1, streams: 1, suspicions: 1, answers: 1, ..Self::NONE },
        Self { leaders: 1, deaths: 1, second: true, ..Self::NONE },
    ];
    pub(crate) const LONG: [Self; 4] = [
        Self { leaders: 2, streams: 1, deaths: 1, suspicions: 1, answers: 1, ..Self::NONE },
        Self { leaders: 2, streams: 2, suspicions: 2, ..Self::NONE },
        Self { leaders: 2, deaths: 1, suspicions: 1, second: true, ..Self::NONE },
        Self { leaders: 1, streams: 1, deaths: 1, answers: 1, second: true, ..Self::NONE },
    ];
    const LEADERS: Self = Self { leaders: 1, ..Self::NONE };
    const DEATHS: Self = Self { deaths: 1, ..Self::NONE };
    const SUSPICIONS: Self = Self { suspicions: 1, ..Self::NONE };
}

/// A rule of the protocol that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The order leaves with the proposal, under the fence that it will have.
    OrderBeforeCommit,
    /// The attempts of a worker that is gone stay as they are.
    InDoubtLeftOpen,
    /// The attempts of a worker that is gone count as done.
    InDoubtCountsAsDone,
    /// `on_lost: fail` is treated as `rerun`.
    LostIsRunAgain,
    /// A report ends whatever attempt of the run there is.
    FenceNotCompared,
    /// A worker takes an order of a deposed leader though it has a newer one of the same run.
    OlderOrderTaken,
    /// A worker takes an order again that it has carried out.
    OrderTakenTwice,
    /// A worker that died comes back under its name, with nothing in its memory.
    NameKept,
    /// A leader stops what lies beyond its own state.
    UnknownIsStopped,
    /// A report is acknowledged before it is committed.
    AcknowledgedTooEarly,
    /// A worker that connects is not sent what it should carry out.
    OrderNotRepeated,
}

impl Fault {
    /// Each fault, with which policy it does harm, what else must go wrong for that, and what it breaks.
    pub(crate) const ALL: [(Self, OnLost, Budget, &'static str); 11] = [
        (Self::OrderBeforeCommit, OnLost::Rerun, Budget::LEADERS, properties::COMMITTED_FIRST),
        (Self::InDoubtLeftOpen, OnLost::Rerun, Budget::DEATHS, properties::ENDS),
        (Self::InDoubtCountsAsDone, OnLost::Rerun, Budget::DEATHS, properties::AT_LEAST_ONCE),
        (Self::LostIsRunAgain, OnLost::Fail, Budget::SUSPICIONS, properties::AT_MOST_ONCE),
        (Self::FenceNotCompared, OnLost::Rerun, Budget::SUSPICIONS, properties::RECORDS_ARE_TRUE),
        (Self::OlderOrderTaken, OnLost::Rerun, Budget::SUSPICIONS, properties::NO_BLOT),
        (Self::OrderTakenTwice, OnLost::Fail, Budget::NONE, properties::AT_MOST_ONCE),
        (Self::NameKept, OnLost::Fail, Budget::DEATHS, properties::AT_MOST_ONCE),
        (Self::UnknownIsStopped, OnLost::Fail, Budget { streams: 2, ..Budget::LEADERS }, properties::NO_BLOT),
        (Self::AcknowledgedTooEarly, OnLost::Rerun, Budget::LEADERS, properties::ENDS),
        (Self::OrderNotRepeated, OnLost::Rerun, Budget::LEADERS, properties::ENDS),
    ];
}

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Protocol {
    pub(crate) promise: OnLost,
    pub(crate) budget: Budget,
    pub(crate) fault: Fault,
}

impl Protocol {
    pub(crate) const fn new(promise: OnLost, budget: Budget, fault: Fault) -> Self {
        Self { promise, budget, fault }
    }

    /// The second instant, half a second after the first: both are in time whenever they are decided.
    pub(crate) fn now(late: bool) -> Timestamp {
        Timestamp::from_millis(MIDNIGHT + if late { 1_500 } else { 1_000 })
    }

    pub(crate) fn begin(self) -> World {
        let mut job = spec::job("job");
        let (first, second) = (Self::now(false), Self::now(true));
        let instants = if self.budget.second { vec![first, second] } else { vec![first] };
        job.schedules = vec![spec::schedule(Rule::At(instants))];
        job.overlap.policy = OverlapPolicy::Allow;
        job.on_lost = if self.fault == Fault::LostIsRunAgain { OnLost::Rerun } else { self.promise };
        let next = Some(Due { due_at: first, scheduled_at: first });
        let put = Command::PutJob { spec: Arc::new(job), next, request: Request::default(), reading: 0 };
        let mut state = State::default();
        let applied = state.apply(1, &Entry { at: Timestamp::from_millis(MIDNIGHT), commands: vec![put] });
        assert!(matches!(applied.outcomes[..], [Outcome::Put { .. }]), "{:?}", applied.outcomes);
        let truth = Known::new(state);
        let mind = Mind { sessions: (0..WORKERS).collect(), ..Mind::default() };
        let node = |mind| Node { state: truth.clone(), mind };
        World {
            nodes: vec![node(Some(mind)), node(None)],
            truth,
            is_late: !self.budget.second,
            leads: Some(0),
            underway: VecDeque::new(),
            workers: (0..WORKERS).map(|_| Worker { link: Some(0), ..Worker::default() }).collect(),
            air: BTreeSet::new(),
            starts: BTreeMap::new(),
            effects: BTreeMap::new(),
            ends: BTreeMap::new(),
            blots: BTreeSet::new(),
            budget: self.budget,
        }
    }
}

/// A state with a digest of all that it holds.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) state: Arc<State>,
    digest: u64,
}

impl Known {
    pub(crate) fn new(state: State) -> Self {
        let mut bytes = Vec::new();
        state.write_to(&mut bytes).expect("a vector takes all");
        Self { state: Arc::new(state), digest: digest(&bytes) }
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Known {}

impl Hash for Known {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.digest.hash(hasher);
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// An attempt.
pub(crate) type Key = (RunId, u64);

/// Commands on their way into the log.
#[derive(Clone)]
pub(crate) struct Proposal {
    pub(crate) commands: Arc<Vec<Command>>,
    /// Whose report it carries, if it does.
    pub(crate) report: Option<(usize, Key)>,
    digest: u64,
}

impl Proposal {
    pub(crate) fn new(commands: Vec<Command>, report: Option<(usize, Key)>) -> Self {
        let entry = Entry { at: Timestamp::EPOCH, commands };
        let digest = digest(&entry.encode());
        Self { commands: Arc::new(entry.commands), report, digest }
    }
}

impl PartialEq for Proposal {
    fn eq(&self, other: &Self) -> bool {
        (self.digest, self.report) == (other.digest, other.report)
    }
}

impl Eq for Proposal {}

impl Hash for Proposal {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.digest, self.report).hash(hasher);
    }
}

/// A proposal that is committed, with what its proposer will be told.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Landed {
    pub(crate) proposal: Proposal,
    /// Attempts that it started, with their workers.
    pub(crate) started: Vec<(usize, Key)>,
    /// The state that contains it.
    pub(crate) state: Known,
}

/// What a leader has in memory: nothing that a takeover would miss.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Mind {
    pub(crate) sessions: BTreeSet<usize>,
    pub(crate) landed: VecDeque<Landed>,
    /// Reports that are proposed and not answered.
    pub(crate) reported: BTreeSet<Key>,
}

/// A node. One with a mind believes that it leads.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) state: Known,
    pub(crate) mind: Option<Mind>,
}

/// How far a worker is with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Waiting,
    /// Carried out, and not acknowledged.
    Done,
    /// Stopped before it began, and not acknowledged.
    Stopped,
}

#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    pub(crate) is_dead: bool,
    /// The node that its stream goes to.
    pub(crate) link: Option<usize>,
    pub(crate) held: BTreeMap<Key, Stage>,
    pub(crate) acknowledged: BTreeSet<Key>,
}

/// What a node says to a worker. A letter stays in the air when it arrives: it may arrive again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Letter {
    Order(Key),
    Stop(Key),
    Acknowledge(Key),
}

/// What an attempt did outside.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Effect {
    pub(crate) run: RunId,
    pub(crate) times: u8,
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct End {
    /// The attempt that is said to have succeeded.
    pub(crate) succeeded: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// After all that is committed.
    pub(crate) truth: Known,
    /// The second instant has come.
    pub(crate) is_late: bool,
    /// The node that a majority follows.
    pub(crate) leads: Option<usize>,
    pub(crate) nodes: Vec<Node>,
    /// What that node has proposed, in order.
    pub(crate) underway: VecDeque<Proposal>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) air: BTreeSet<(usize, Letter)>,
    /// Fences of committed starts.
    pub(crate) starts: BTreeMap<u64, RunId>,
    /// By fence.
    pub(crate) effects: BTreeMap<u64, Effect>,
    pub(crate) ends: BTreeMap<RunId, End>,
    /// What must never have happened.
    pub(crate) blots: BTreeSet<Blot>,
    pub(crate) budget: Budget,
}

impl std::fmt::Debug for World {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "state {:x}, {:?} leads, {:?} in the air", self.truth.digest, self.leads, self.air)
    }
}

pub(crate) fn name(worker: usize) -> Arc<str> {
    format!("w{worker}").into()
}

pub(crate) fn number(worker: &str) -> usize {
    worker[1..].parse().expect("the name of a worker of the model")
}

impl World {
    /// The occurrences that there are.
    pub(crate) fn occurrences(&self, of: &Protocol) -> Vec<RunId> {
        let job: JobId = self.truth.state.jobs_after(None).next().expect("the job stands").id;
        let run = |late| RunId { job, at: Protocol::now(late), seq: 0 };
        if of.budget.second { vec![run(false), run(true)] } else { vec![run(false)] }
    }

    /// The running attempts that the state says a worker carries.
    pub(crate) fn carried(state: &State, worker: usize) -> Vec<Key> {
        let worker = name(worker);
        let running = |run: RunId| Some((run, state.run(run)?.running()?.fence));
        state.carried_by(&worker).filter_map(running).collect()
    }

    /// The length of a lease: there is no time for it to run in.
    pub(crate) const LEASE: Duration = Duration::ZERO;
}
