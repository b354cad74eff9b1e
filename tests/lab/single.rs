//! One replicated state and one leader whose proposals all commit at once: the smallest thing that
//! schedules. Time moves only when told; between two instants the leader plans until it is quiet.
//!
//! After each entry: the entry survives its encoding, a second replica that applies the decoded entry
//! is equal, every invariant of the state holds, and the same commands proposed again are refused.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use chronarch::scheduler::almanac::Almanac;
use chronarch::scheduler::occurrences::arm;
use chronarch::scheduler::plan::{InFlight, Rules, Session, Sessions, plan};
use chronarch::scheduler::set::ScheduleSet;
use chronarch::state::breaker::Status;
use chronarch::state::run::{Run, RunId, TaskNews};
use chronarch::state::spec::JobSpec;
use chronarch::state::time::Timestamp;
use chronarch::state::{Command, Due, Entry, Outcome, Rearmed, State, Verdict};

use super::names::{self, Names};
use super::spec::{MIDNIGHT, clock};

/// The lease of the lab's workers.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// Entries that one instant may need before the leader counts as one that never rests.
const ENTRIES_AT_ONCE: usize = 200;

pub(crate) struct Worker {
    pub(crate) session: Session,
    pub(crate) slots: u32,
    pub(crate) silent: bool,
}

pub(crate) struct Single {
    pub(crate) state: State,
    twin: State,
    pub(crate) names: Names,
    pub(crate) workers: BTreeMap<Arc<str>, Worker>,
    pub(crate) finished: Vec<Arc<Run>>,
    pub(crate) last: Vec<Command>,
    /// True time, and how far the leader's clock is off.
    pub(crate) wall: Timestamp,
    pub(crate) skew_ms: i64,
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    /// Since when there is no leader.
    pub(crate) led_until: Option<Timestamp>,
    index: u64,
    rules: Rules,
}

impl Default for Single {
    fn default() -> Self {
        Self {
            state: State::default(),
            twin: State::default(),
            names: Names::default(),
            workers: BTreeMap::new(),
            finished: Vec::new(),
            last: Vec::new(),
            wall: Timestamp::from_millis(MIDNIGHT),
            skew_ms: 0,
            leader: Some(1),
            term: 1,
            led_until: None,
            index: 0,
            rules: Rules::default(),
        }
    }
}

impl Single {
    /// The leader's time.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.wall.millis() + self.skew_ms).max(self.state.now())
    }

    pub(crate) fn lead(&mut self, node: u64, out: &mut String) {
        self.leader = Some(node);
        self.term += 1;
        self.rules = Rules::default();
        let silent_for = self.led_until.take().map(|until| self.wall.since(until));
        self.propose(vec![Command::Lead { node, term: self.term, silent_for }], out);
    }

    /// The first occurrence of a definition after the leader's time.
    pub(crate) fn next(&self, spec: &JobSpec) -> Result<Option<Due>, String> {
        let set = ScheduleSet::of(spec, &Almanac::of(&self.state)).map_err(|error| error.to_string())?;
        Ok(arm(spec, &set, self.now()))
    }

    fn sessions(&self) -> Sessions {
        let heard = self.workers.iter().filter(|(_, worker)| !worker.silent);
        let open = heard.clone().map(|(name, worker)| Session {
            free: worker.slots.saturating_sub(self.state.load(name)),
            ..worker.session.clone()
        });
        Sessions {
            open: open.collect(),
            alive: heard.map(|(name, _)| name.clone()).collect(),
            spared: HashSet::new(),
            is_complete: true,
            lease: LEASE,
        }
    }

    /// Plans and proposes until nothing is left to do now; returns when to look again.
    pub(crate) fn settle(&mut self, out: &mut String) -> Option<Timestamp> {
        for _ in 0..ENTRIES_AT_ONCE {
            self.leader?;
            let now = self.now();
            let plan = plan(&self.state, &mut self.sessions(), &InFlight::default(), now, &mut self.rules);
            if plan.commands.is_empty() {
                return plan.wake_at;
            }
            self.propose(plan.commands, out);
        }
        panic!("the leader never rests at {}:\n{out}", clock(self.wall));
    }

    pub(crate) fn advance(&mut self, span: Duration, out: &mut String) {
        let end = self.wall.plus(span);
        loop {
            let wake = self.settle(out).map(|at| Timestamp::from_millis(at.millis() - self.skew_ms));
            match wake.filter(|at| *at <= end) {
                Some(at) if at > self.wall => self.wall = at,
                _ if self.wall < end => self.wall = end,
                _ => return,
            }
        }
    }

    pub(crate) fn propose(&mut self, commands: Vec<Command>, out: &mut String) -> Vec<Outcome> {
        self.index += 1;
        let entry = Entry { at: self.now(), commands };
        let decoded = Entry::decode(&entry.encode()).expect("an entry reads back");
        assert_eq!(decoded, entry, "an entry changes when it is stored");
        let before = self.state.clone();
        let applied = self.state.apply(self.index, &entry);
        let twin = self.twin.apply(self.index, &decoded);
        assert_eq!(applied, twin, "two replicas decide differently");
        assert_eq!(self.state, self.twin, "two replicas differ");
        self.state.verify().unwrap_or_else(|broken| panic!("{broken} after {:?}", entry.commands));
        self.refuses_again(&entry);
        for id in &applied.made {
            self.names.triggered(*id);
        }
        self.describe(&before, &entry, &applied.outcomes, out);
        for run in &applied.finished {
            assert_eq!(Run::decode(&run.encode()).as_ref().ok(), Some(run.as_ref()), "a run reads back");
            let told = self.finished(run);
            let _ = writeln!(out, "      {told}");
            self.finished.push(run.clone());
        }
        self.last = entry.commands;
        applied.outcomes
    }

    /// A proposal whose answer was lost is made again: it must change nothing.
    fn refuses_again(&self, entry: &Entry) {
        let mut state = self.state.clone();
        for command in &entry.commands {
            let harmless = matches!(command, Command::Renew { .. }) || command.request().is_some();
            let again = Entry { at: entry.at, commands: vec![command.clone()] };
            let applied = state.apply(self.index + 1, &again);
            if !harmless {
                assert!(matches!(applied.outcomes[0], Outcome::Rejected(_)), "twice: {command:?}");
                assert!(applied.finished.is_empty(), "twice: {command:?}");
            }
            state = self.state.clone();
        }
    }

    /// The end of a script: a snapshot holds all there is.
    pub(crate) fn snapshot(&self) {
        let mut bytes = Vec::new();
        self.state.write_to(&mut bytes).expect("a vector takes all");
        let read = State::read_from(&mut bytes.as_slice()).expect("a snapshot reads back");
        assert_eq!(read, self.state, "a snapshot loses something");
        for cut in [bytes.len() / 2, bytes.len() - 1] {
            assert!(State::read_from(&mut &bytes[..cut]).is_err(), "a torn snapshot is believed");
        }
    }

    pub(crate) fn finished(&self, run: &Run) -> String {
        let mut text = format!("= {} {}", self.names.of_run(run.id), names::state(run.state));
        if let Some(reason) = run.reason {
            let _ = write!(text, " {}", reason.as_str());
        }
        if run.stands_for != 1 {
            let _ = write!(text, ", stands for {}", run.stands_for);
        }
        if let Some(from) = run.scheduled_from {
            let _ = write!(text, " from {}", clock(from));
        }
        if !run.attempts.is_empty() {
            let _ = write!(text, ", {} attempts", run.attempts.len());
        }
        if !run.detail.is_empty() {
            let _ = write!(text, " ({})", self.names.detail(run, &run.detail));
        }
        text
    }

    fn describe(&mut self, before: &State, entry: &Entry, outcomes: &[Outcome], out: &mut String) {
        for (command, outcome) in entry.commands.iter().zip(outcomes) {
            match (command, outcome) {
                (Command::PutJob { spec, .. }, Outcome::Put { job, .. }) if before.job(*job).is_none() => {
                    self.names.created(&spec.name, *job);
                }
                (_, Outcome::Triggered { run }) => self.names.triggered(*run),
                (Command::Backfill { job, instants, .. }, Outcome::Backfilled { backfill, .. }) => {
                    let ids = instants.iter().map(|at| RunId { job: job.id, at: *at, seq: *backfill });
                    ids.for_each(|id| self.names.backfilled(id));
                }
                _ => {}
            }
            if matches!((command, outcome), (Command::Renew { .. }, Outcome::Done)) {
                continue;
            }
            let told = self.command(command);
            let result = match outcome {
                Outcome::Rejected(why) => format!(" REFUSED: {why}"),
                Outcome::Started { fence, .. } => format!(" -> fence {fence}"),
                Outcome::Triggered { run } => format!(" -> {}", self.names.of_run(*run)),
                Outcome::Put { job, version, change } => {
                    let next = self.state.job(*job).and_then(|job| job.armed());
                    let change = format!("{change:?}").to_lowercase();
                    format!(" -> {change}, version {version}, next {}", names::due(next))
                }
                Outcome::Completed { ended: false } => " -> goes on".to_owned(),
                Outcome::Spread { runs } => format!(" -> {runs} runs"),
                Outcome::Backfilled { runs, .. } => format!(" -> {runs} runs"),
                Outcome::Done | Outcome::Fired { .. } | Outcome::Completed { .. } => String::new(),
            };
            let _ = writeln!(out, "{} {told}{result}", clock(self.state.now()));
        }
        self.describe_breakers(before, out);
    }

    fn describe_breakers(&self, before: &State, out: &mut String) {
        for (key, breaker) in self.state.breakers() {
            let was = before.breaker(key).map(|breaker| breaker.status);
            let moved =
                was.map(|it| std::mem::discriminant(&it)) != Some(std::mem::discriminant(&breaker.status));
            let Some(last) = breaker.transitions.last().filter(|_| moved) else { continue };
            let status = match breaker.status {
                Status::Closed => "closed".to_owned(),
                Status::Open { until, .. } => format!("open until {}", clock(until)),
                Status::HalfOpen { .. } => "half open".to_owned(),
            };
            let _ =
                writeln!(out, "      breaker {} {status}: {}", self.names.of_breaker(key), last.why.as_str());
        }
    }

    fn command(&self, command: &Command) -> String {
        let run = |id| self.names.of_run(id);
        match command {
            Command::Lead { node, term, .. } => format!("lead n{node} term {term}"),
            Command::RaiseLevel { from, to } => format!("raise the level from {from} to {to}"),
            Command::PutJob { spec, .. } => format!("put {}", spec.name),
            Command::DeleteJob { job, .. } => format!("delete {}", self.names.label(job.id)),
            Command::PauseJob { job, .. } => format!("pause {}", self.names.label(job.id)),
            Command::ResumeJob { job, next, .. } => {
                format!("resume {}, next {}", self.names.label(job.id), names::due(*next))
            }
            Command::TriggerJob { job, again: None, .. } => format!("trigger {}", self.names.label(job.id)),
            Command::TriggerJob { again: Some(again), .. } => format!("again {}", run(again.run)),
            Command::Backfill { job, instants, .. } => {
                let told: Vec<String> = instants.iter().map(|at| clock(*at)).collect();
                format!("backfill {} [{}]", self.names.label(job.id), told.join(", "))
            }
            Command::Fire { job, verdicts, next, .. } => {
                let told: Vec<String> = verdicts.iter().map(verdict).collect();
                format!("fire {} [{}] next {}", self.names.label(*job), told.join(", "), names::due(*next))
            }
            Command::Arm { job, since, next, .. } => {
                let (job, next) = (self.names.label(*job), names::due(Some(*next)));
                format!("arm {job} since {}, next {next}", clock(*since))
            }
            Command::SetTzdata { data, .. } => format!("tzdata {}", data.release),
            Command::Reread { armed, through, .. } => {
                let told =
                    |it: &Rearmed| format!("{} next {}", self.names.label(it.job), names::due(it.next));
                let told: Vec<String> = armed.iter().map(told).collect();
                let through = through.map_or_else(|| "all".to_owned(), |job| self.names.label(job));
                format!("read anew up to {through} [{}]", told.join(", "))
            }
            Command::Disarm { job, why, .. } => format!("disarm {}: {why}", self.names.label(*job)),
            Command::Start { run: id, attempt, worker, .. } => {
                format!("start {} #{attempt} on {worker}", run(*id))
            }
            Command::Spread { run: id, places } => format!("spread {} over {}", run(*id), places.join(" ")),
            Command::HandOver { run: id, fence, task, .. } => {
                format!("hand over {} fence {fence}: {task}", run(*id))
            }
            Command::HearTask { run: id, fence, by, news } => match news {
                TaskNews::Begun { process } => {
                    format!("hear of {} fence {fence}: begun by {by} in {process}", run(*id))
                }
                TaskNews::Retried { count, error } => {
                    format!("hear of {} fence {fence}: put off by {by} no. {count}, {error}", run(*id))
                }
            },
            Command::StopTask { run: id, fence } => format!("stop the task of {} fence {fence}", run(*id)),
            Command::Complete { run: id, fence, outcome, retry_after, .. } => {
                let wait =
                    if retry_after.is_zero() { String::new() } else { format!(" wait {retry_after:?}") };
                format!("complete {} fence {fence}: {}{wait}", run(*id), names::outcome(*outcome))
            }
            Command::Renew { worker, .. } => format!("renew {worker}"),
            Command::Lose { worker, .. } => format!("lose {worker}"),
            Command::Retry { run: id } => format!("retry {}", run(*id)),
            Command::Expire { run: id } => format!("expire {}", run(*id)),
            Command::CancelRun { run: id, .. } => format!("cancel {}", run(*id)),
            Command::SetQueue { queue, .. } => format!("queue {queue}"),
            Command::SetNamespace { namespace, .. } => format!("namespace {namespace}"),
            Command::PutCalendar { spec, .. } => format!("calendar {}", spec.name),
            Command::DeleteCalendar { calendar, .. } => format!("delete calendar {calendar}"),
            Command::HalfOpen { breaker, .. } => format!("half-open {}", self.names.of_breaker(breaker)),
            Command::TripBreaker { breaker, .. } => format!("trip {}", self.names.of_breaker(breaker)),
            Command::ResetBreaker { breaker, .. } => format!("reset {}", self.names.of_breaker(breaker)),
        }
    }
}

fn verdict(verdict: &Verdict) -> String {
    match *verdict {
        Verdict::Run { from, scheduled_at, due_at, stands_for, cause, ref moved } => {
            let cause = format!("{cause:?}").to_lowercase().replace("catchup", "catch up");
            let for_others = match stands_for {
                1 => String::new(),
                count => format!(" for {count} from {}", clock(from)),
            };
            let put_off =
                moved.as_ref().map_or_else(String::new, |_| format!(", put off to {}", clock(due_at)));
            format!("{} {cause}{for_others}{put_off}", clock(scheduled_at))
        }
        Verdict::Missed { from, until, count } => {
            format!("missed {count}: {} to {}", clock(from), clock(until))
        }
        Verdict::Excluded { from, until, count, .. } => {
            format!("excluded {count}: {} to {}", clock(from), clock(until))
        }
    }
}

pub(crate) fn session(name: &str, queues: &str, kinds: &str) -> Session {
    Session {
        worker: name.into(),
        queues: Arc::new(queues.split('/').map(Arc::from).collect::<BTreeSet<_>>()),
        labels: Arc::default(),
        kinds: Arc::new(kinds.split('/').map(ToOwned::to_owned).collect()),
        slots: 0,
        free: 0,
        given: 0,
    }
}
