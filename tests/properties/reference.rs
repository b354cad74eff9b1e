//! What should happen, in the plainest form: a job is a list of live runs and a few numbers, and each rule is
//! written down as the documentation has it. Nothing is indexed, nothing is shared between jobs, nothing is
//! encoded, and no instant is computed by the scheduler.
//!
//! What lets a run through, what ends it and what clients do is in [`super::rules`].
//!
//! It knows one schedule a job (`every`, on the grid of its period), breakers of the job's own, and one worker with
//! room for all. Times are milliseconds.

use chronarch::state::run::{Reason, RunState};
use chronarch::state::schedule::Rule;
use chronarch::state::spec::{CatchUpRuns, JobSpec};

/// An occurrence found later than this is missed.
const GRACE_MS: i64 = 1_000;

/// A run by its instant, and its number among those made by hand; 0 for one of the schedule.
pub(crate) type Place = (i64, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Queued,
    Held,
    Waiting,
    Backoff(i64),
    Running,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) place: Place,
    pub(crate) stage: Stage,
    /// Attempts that were started.
    pub(crate) attempts: u32,
    pub(super) reruns: u32,
    pub(super) start_by: Option<i64>,
    pub(super) cancel: Option<Reason>,
    /// As a probe of which half-open time.
    pub(super) probe: Option<u32>,
    pub(super) is_catch_up: bool,
    pub(super) stands_for: u64,
}

/// The one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worker {
    Serves,
    Silent,
    /// Its lease is over: what it carried is lost.
    Lost,
}

/// A record: which run, how it ended and why, for how many instants it stands.
pub(crate) type Record = (Place, RunState, Option<Reason>, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaker {
    Closed { failures: u32 },
    Open { until: i64 },
    HalfOpen { passed: u32 },
}

/// One incarnation of a job.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) spec: JobSpec,
    pub(crate) armed: Option<i64>,
    /// While paused: what was armed.
    pub(crate) paused: Option<Option<i64>>,
    pub(crate) is_deleted: bool,
    pub(crate) live: Vec<Live>,
    pub(crate) records: Vec<Record>,
    pub(crate) breaker: Breaker,
    pub(super) reopened: u32,
    /// Which half-open time this is.
    pub(super) opening: u32,
    pub(super) by_hand: u32,
    pub(super) now: i64,
    /// Places are being given out: an end among it makes no room yet.
    pub(super) is_settling: bool,
}

/// The distance of two instants of the schedule, if there is one.
pub(super) fn period(spec: &JobSpec) -> Option<i64> {
    spec.schedules.first().map(|schedule| match schedule.rule {
        Rule::Every { period, .. } => millis(period),
        _ => unreachable!("the reference knows `every` alone"),
    })
}

/// The first instant of the schedule after `at`.
pub(super) fn after(spec: &JobSpec, at: i64) -> Option<i64> {
    period(spec).map(|period| (at / period + 1) * period)
}

pub(super) fn millis(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_millis()).expect("a short span")
}

impl Job {
    pub(crate) fn create(spec: JobSpec, now: i64) -> Self {
        let armed = after(&spec, now);
        let breaker = Breaker::Closed { failures: 0 };
        Self {
            spec,
            armed,
            paused: None,
            is_deleted: false,
            live: Vec::new(),
            records: Vec::new(),
            breaker,
            reopened: 0,
            opening: 0,
            by_hand: 0,
            now,
            is_settling: false,
        }
    }

    /// When something happens by itself.
    pub(crate) fn wakes_at(&self) -> Option<i64> {
        let waits = |run: &Live| match run.stage {
            Stage::Backoff(until) => Some(until),
            Stage::Running => None,
            Stage::Queued | Stage::Held | Stage::Waiting => run.start_by.filter(|_| run.attempts == 0),
        };
        let cool = match self.breaker {
            Breaker::Open { until } => Some(until),
            Breaker::Closed { .. } | Breaker::HalfOpen { .. } => None,
        };
        self.live.iter().filter_map(waits).chain(self.armed).chain(cool).min()
    }

    /// Whatever is due at `now` happens, in rounds: what may start is what could at the begin of the round.
    pub(crate) fn settle(&mut self, now: i64, worker: Worker) {
        self.now = now;
        let mut worker = worker;
        loop {
            let before = (self.live.clone(), self.armed, self.breaker);
            let ready = if worker == Worker::Serves { self.ready() } else { Vec::new() };
            let is_closed = matches!(self.breaker, Breaker::Closed { .. });
            if matches!(self.breaker, Breaker::Open { until } if until <= now) {
                self.opening += 1;
                self.breaker = Breaker::HalfOpen { passed: 0 };
                self.release_kept();
            }
            self.waits_end(is_closed && worker == Worker::Serves);
            if worker == Worker::Lost {
                self.worker_is_lost();
                worker = Worker::Silent;
            }
            ready.into_iter().for_each(|place| self.start(place));
            self.fire();
            if before == (self.live.clone(), self.armed, self.breaker) {
                return;
            }
        }
    }

    /// Runs that wait for a worker, and as many of those behind a half-open breaker as it wants probes.
    fn ready(&self) -> Vec<Place> {
        let room = match self.breaker {
            Breaker::HalfOpen { passed } => {
                self.spec.breaker.probes.max(1).saturating_sub(passed + self.probes_running())
            }
            Breaker::Closed { .. } | Breaker::Open { .. } => 0,
        };
        let of = |stage| self.live.iter().filter(move |run| run.stage == stage).map(|run| run.place);
        of(Stage::Held).take(room as usize).chain(of(Stage::Waiting)).collect()
    }

    fn waits_end(&mut self, starts: bool) {
        let mut over: Vec<(i64, Place)> = Vec::new();
        for run in &self.live {
            match run.stage {
                Stage::Backoff(until) => over.push((until, run.place)),
                Stage::Running => {}
                Stage::Queued | Stage::Held | Stage::Waiting => {
                    over.extend(run.start_by.filter(|_| run.attempts == 0).map(|by| (by, run.place)));
                }
            }
        }
        let now = self.now;
        over.sort_unstable();
        for (_, place) in over.into_iter().filter(|(at, _)| *at <= now) {
            let Some(run) = self.live.iter().find(|run| run.place == place).cloned() else { continue };
            match run.stage {
                Stage::Backoff(_) => {
                    self.admit(run);
                    if starts {
                        self.start(place);
                    }
                }
                Stage::Running => {}
                Stage::Queued | Stage::Held | Stage::Waiting => {
                    self.end(&run, RunState::Skipped, Some(Reason::Expired));
                }
            }
        }
    }

    /// An attempt begins, if the run still may: as a probe behind a half-open breaker.
    fn start(&mut self, place: Place) {
        let opening = self.opening;
        let is_half_open = matches!(self.breaker, Breaker::HalfOpen { .. });
        let Some(run) = self.live.iter_mut().find(|run| run.place == place) else { return };
        match run.stage {
            Stage::Waiting => run.probe = None,
            Stage::Held if is_half_open => run.probe = Some(opening),
            Stage::Queued | Stage::Held | Stage::Backoff(_) | Stage::Running => return,
        }
        run.stage = Stage::Running;
        run.attempts += 1;
    }

    fn probes_running(&self) -> u32 {
        let is_probe = |run: &&Live| run.stage == Stage::Running && run.probe == Some(self.opening);
        self.live.iter().filter(is_probe).count() as u32
    }

    /// Decides every instant up to now, each exactly once.
    fn fire(&mut self) {
        let Some(armed) = self.armed.filter(|at| *at <= self.now) else { return };
        let mut due = Vec::new();
        let mut at = armed;
        while at <= self.now {
            due.push(at);
            at = after(&self.spec, at).expect("what is armed has a schedule");
        }
        self.armed = Some(at);
        let (now, catch_up) = (self.now, self.spec.catch_up.clone());
        let (missed, in_time): (Vec<i64>, Vec<i64>) = due.into_iter().partition(|at| at + GRACE_MS < now);
        let (old, fresh): (Vec<i64>, Vec<i64>) = match catch_up.runs {
            CatchUpRuns::None => (Vec::new(), missed),
            CatchUpRuns::Latest | CatchUpRuns::All => {
                missed.into_iter().partition(|at| *at < now - millis(catch_up.window))
            }
        };
        self.skip_range(&old);
        match (catch_up.runs, fresh.last()) {
            (CatchUpRuns::None, _) => self.skip_range(&fresh),
            (CatchUpRuns::Latest, Some(newest)) => self.make(*newest, true, fresh.len() as u64),
            (CatchUpRuns::Latest, None) => {}
            (CatchUpRuns::All, _) => {
                let (dropped, kept) = fresh.split_at(fresh.len().saturating_sub(catch_up.max as usize));
                self.skip_range(dropped);
                kept.iter().for_each(|at| self.make(*at, true, 1));
            }
        }
        in_time.iter().for_each(|at| self.make(*at, false, 1));
    }

    fn skip_range(&mut self, instants: &[i64]) {
        if let Some(first) = instants.first() {
            let count = instants.len() as u64;
            self.records.push(((*first, 0), RunState::Skipped, Some(Reason::CatchUp), count));
        }
    }

    fn make(&mut self, at: i64, is_catch_up: bool, stands_for: u64) {
        let start_by = self.spec.start_within.map(|span| at + millis(span));
        if start_by.is_some_and(|by| by < self.now) {
            self.records.push(((at, 0), RunState::Skipped, Some(Reason::Expired), stands_for));
        } else {
            self.enter_new((at, 0), is_catch_up, start_by, stands_for);
        }
    }

    pub(super) fn enter_new(
        &mut self,
        place: Place,
        is_catch_up: bool,
        start_by: Option<i64>,
        stands_for: u64,
    ) {
        let run = Live {
            place,
            stage: Stage::Queued,
            attempts: 0,
            reruns: 0,
            start_by,
            cancel: None,
            probe: None,
            is_catch_up,
            stands_for,
        };
        match self.breaker {
            Breaker::Open { .. } => self.meet_open(run),
            Breaker::Closed { .. } | Breaker::HalfOpen { .. } => self.enter_overlap(run),
        }
    }
}
