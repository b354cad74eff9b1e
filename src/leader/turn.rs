//! The loop itself.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::fleet::{Drain, FleetAsk, Resuming};
use super::flight::Flight;
use super::said::{Message, SessionEvent, SessionId, WorkerInfo};
use super::sessions::{Listening, Session, Sessions};
use super::window::Window;
use super::{
    ENTRIES_IN_FLIGHT, LOOK, LeaderOptions, REFUSED, REPORT_BYTES_PER_ENTRY, REPORTS_PER_ENTRY,
    REPORTS_WAITING,
};
use crate::clock::trusted::Standing;
use crate::raft::{Leadership, ProposeError, Proposed, Raft};
use crate::scheduler::backoff;
use crate::scheduler::plan::{Rules, plan};
use crate::state::run::{AttemptOutcome, Report, RunId, TaskLeft};
use crate::state::time::Timestamp;
use crate::state::{Command, Entry, State};

/// A report that is not committed yet.
pub(super) struct PendingReport {
    pub(super) run: RunId,
    pub(super) fence: u64,
    pub(super) outcome: AttemptOutcome,
    pub(super) report: Arc<Report>,
    /// Who is told.
    pub(super) worker: Arc<str>,
    /// It has not ended: see [`SessionEvent::Report`].
    pub(super) handed: Option<TaskLeft>,
}

/// A proposal that has been answered.
pub(super) struct Landed {
    proposed_at: Instant,
    pub(super) commands: Arc<Vec<Command>>,
    pub(super) at: Timestamp,
    pub(super) reports: Vec<PendingReport>,
    pub(super) result: Result<Proposed, ProposeError>,
}

type Answer = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// The loop's own state; see the module for why a takeover loses nothing by it.
pub(super) struct Loop {
    pub(super) raft: Raft,
    pub(super) options: LeaderOptions,
    inbox: mpsc::Receiver<SessionEvent>,
    publish: watch::Sender<Arc<Vec<WorkerInfo>>>,
    pub(super) states: watch::Receiver<Arc<State>>,
    leadership: watch::Receiver<Leadership>,
    standing: watch::Receiver<Standing>,
    pub(super) state: Arc<State>,
    /// The term that this node leads, and since when.
    leading: Option<(u64, Instant)>,
    /// The leader's `Lead` entry of this term is proposed.
    announced: bool,
    pub(super) sessions: Sessions,
    /// Who waits for a worker's new hello.
    pub(super) resuming: Resuming,
    /// Attempts given to workers so far.
    given: u64,
    pub(super) flight: Flight,
    window: Window,
    answers: FuturesUnordered<Answer>,
    reports: Vec<PendingReport>,
    /// Reports pending or in flight.
    pub(super) reported: HashSet<(RunId, u64)>,
    /// Something has changed that a plan may depend on.
    stirred: bool,
    /// When to plan though nothing has.
    wake_at: Instant,
    /// When the sessions were last swept.
    swept: Instant,
    /// Nothing is proposed before then: the last proposal was refused at once.
    refused_until: Option<Instant>,
    rules: Rules,
}

impl Loop {
    pub(super) fn new(
        raft: Raft,
        options: LeaderOptions,
        inbox: mpsc::Receiver<SessionEvent>,
        publish: watch::Sender<Arc<Vec<WorkerInfo>>>,
    ) -> Self {
        let states = raft.watch_state();
        let leadership = raft.leadership();
        let standing = options.clock.standing();
        let state = states.borrow().clone();
        Self {
            raft,
            options,
            inbox,
            publish,
            states,
            leadership,
            standing,
            state,
            leading: None,
            announced: false,
            sessions: Sessions::default(),
            resuming: Resuming::default(),
            given: 0,
            flight: Flight::default(),
            window: Window::default(),
            answers: FuturesUnordered::new(),
            reports: Vec::new(),
            reported: HashSet::new(),
            stirred: true,
            wake_at: Instant::now(),
            swept: Instant::now(),
            refused_until: None,
            rules: Rules::default(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            self.follow_leadership();
            self.look();
            // A thousand workers that live and do nothing are a thousand events a second, and no reason to plan.
            if std::mem::take(&mut self.stirred) || Instant::now() >= self.wake_at {
                self.wake_at = Instant::now() + self.turn();
            }
            let sleep = tokio::time::sleep_until(self.wake_at);
            tokio::select! {
                () = stop.cancelled() => return self.dismiss(),
                changed = self.states.changed() => match changed {
                    Ok(()) => self.stirred = true,
                    Err(_) => return self.dismiss(),
                },
                changed = self.standing.changed() => match changed {
                    Ok(()) => self.stirred = true,
                    Err(_) => return self.dismiss(),
                },
                changed = self.leadership.changed() => match changed {
                    Ok(()) => self.stirred = true,
                    Err(_) => return self.dismiss(),
                },
                Some(landed) = self.answers.next() => self.land(landed),
                event = self.inbox.recv() => match event {
                    Some(event) => self.hear(event),
                    None => return self.dismiss(),
                },
                () = sleep => {}
            }
            self.hear_more();
        }
    }

    /// Takes the newest state that this node has.
    pub(super) fn look(&mut self) {
        // One that is gone is noticed by the loop.
        self.stirred |= self.states.has_changed().unwrap_or(true);
        self.state = self.states.borrow_and_update().clone();
        self.flight.see(self.state.applied_index());
    }

    /// Takes what else is there already, so that a turn serves many events.
    fn hear_more(&mut self) {
        use futures::FutureExt;
        while let Some(Some(landed)) = self.answers.next().now_or_never() {
            self.land(landed);
        }
        for _ in 0..super::EVENTS {
            match self.inbox.try_recv() {
                Ok(event) => self.hear(event),
                Err(_) => return,
            }
        }
    }

    fn follow_leadership(&mut self) {
        let now = self.leadership.borrow_and_update().clone();
        let leads = now.is_leader.then_some(now.term);
        let led = self.leading.map(|(term, _)| term);
        if leads == led {
            return;
        }
        self.stirred = true;
        self.dismiss();
        self.flight = Flight::default();
        self.window = Window::default();
        self.flight.in_flight.jobs_max = self.window.jobs();
        // Answers of another term say nothing about what is in flight in this one.
        self.answers = FuturesUnordered::new();
        self.reports.clear();
        self.reported.clear();
        self.announced = false;
        self.leading = leads.map(|term| (term, Instant::now()));
        match leads {
            Some(term) => info!(term, "leading"),
            None => info!(term = now.term, leader = now.leader.as_ref().map(|(id, _)| *id), "not leading"),
        }
    }

    /// Tells every worker to look for the leader elsewhere.
    fn dismiss(&mut self) {
        let leader = self.leader_address();
        self.resuming.clear();
        for session in self.sessions.drain_all() {
            // A full outbox is as good: the stream ends with the session.
            let _ = session.outbox.try_send(Message::NotLeader { leader: leader.clone() });
        }
        self.publish.send_replace(Arc::new(Vec::new()));
    }

    fn leader_address(&self) -> Option<String> {
        let leadership = self.leadership.borrow();
        if leadership.is_leader {
            return None;
        }
        leadership.leader.as_ref().map(|(_, node)| node.address.clone())
    }

    /// Plans and proposes; returns how long to wait for something to change.
    fn turn(&mut self) -> Duration {
        let Some((term, since)) = self.leading else { return LOOK };
        if let Some(wait) = self.refused_until.and_then(|until| until.checked_duration_since(Instant::now()))
        {
            return wait.max(Duration::from_millis(1));
        }
        // Not before this node's clock has been compared with the others'; see `clock::trusted`.
        let Some(now) = self.now() else { return LOOK };
        self.stop_attempts();
        if self.swept.elapsed() >= LOOK {
            self.swept = Instant::now();
            self.sweep();
        }
        if !self.announced {
            self.announced = true;
            let silent_for = self.raft.leader_silent_for();
            let lead = Command::Lead { node: self.options.node_id, term, silent_for };
            self.propose(term, now, vec![lead], Vec::new());
        }
        while !self.reports.is_empty() && self.answers.len() < ENTRIES_IN_FLIGHT {
            let count = batch(&self.reports);
            let reports: Vec<PendingReport> = self.reports.drain(..count).collect();
            let commands = reports.iter().map(|report| self.completion(report)).collect();
            self.propose(term, now, commands, reports);
        }
        loop {
            if self.answers.len() >= ENTRIES_IN_FLIGHT {
                return LOOK;
            }
            let listening = Listening { since, now: Instant::now(), lease: self.options.lease };
            let mut view = self.sessions.view(&self.state, &self.flight.starts, listening);
            let Some(now) = self.now() else { return LOOK };
            let plan = plan(&self.state, &mut view, &self.flight.in_flight, now, &mut self.rules);
            report_faults(&plan.commands);
            let more = plan.more && !plan.commands.is_empty();
            if !plan.commands.is_empty() {
                self.propose(term, now, plan.commands, Vec::new());
            }
            if !more {
                let wait = plan.wake_at.map_or(LOOK, |at| at.since(self.now().unwrap_or(now)));
                // Once a second at least: leases are heard of, and the clock may be set.
                return wait.clamp(Duration::from_millis(1), LOOK);
            }
        }
    }

    /// The leader's time: the clock's, as far as it is trusted, but never behind what is stamped already.
    fn now(&self) -> Option<Timestamp> {
        Some(self.options.clock.now()?.max(self.state.now()))
    }

    fn completion(&self, report: &PendingReport) -> Command {
        let &PendingReport { run, fence, .. } = report;
        if let Some(TaskLeft { connection, task, expires_at, queue }) = report.handed.clone() {
            return Command::HandOver { run, fence, connection, task, expires_at, queue };
        }
        let both = self.state.run(run).zip(self.state.job(run.job));
        let chance = || self.options.clock.clock().random();
        let retry_after = both.map_or(Duration::ZERO, |(run, job)| backoff::after(run, job, chance()));
        Command::Complete {
            run,
            fence,
            outcome: report.outcome,
            // A worker may be of a later release than a node that has to read it.
            report: report.report.at_level(self.state.level()),
            retry_after,
        }
    }

    /// The term that this node leads.
    pub(super) fn term(&self) -> Option<u64> {
        self.leading.map(|(term, _)| term)
    }

    fn propose(&mut self, term: u64, at: Timestamp, commands: Vec<Command>, reports: Vec<PendingReport>) {
        self.flight.take_off(&commands, &self.state);
        for command in &commands {
            if let Command::Start { worker, .. } = command
                && let Some((_, session)) = self.sessions.of_worker(worker)
            {
                self.given += 1;
                session.given = self.given;
            }
        }
        if reports.is_empty() {
            self.keep_slots(&commands);
        }
        let commands = Arc::new(commands);
        let entry = Entry { at, commands: commands.as_ref().clone() };
        let answer = self.raft.submit(Some(term), entry);
        let proposed_at = Instant::now();
        self.answers.push(Box::pin(async move {
            Landed { proposed_at, commands, at, reports, result: answer.await }
        }));
    }

    fn land(&mut self, landed: Landed) {
        self.stirred = true;
        match landed.result {
            Ok(ref proposed) if self.leading.is_some() => {
                let is_fire = |command: &&Command| matches!(command, Command::Fire { .. });
                let fires = landed.commands.iter().filter(is_fire).count();
                self.window.landed(fires, landed.proposed_at, Instant::now());
                self.flight.in_flight.jobs_max = self.window.jobs();
                self.flight.land(proposed.index, landed.commands.clone());
                self.dispatch(&landed, proposed);
                for report in &landed.reports {
                    self.reported.remove(&(report.run, report.fence));
                }
            }
            Ok(_) => {}
            Err(error) => {
                self.flight.forget(&landed.commands);
                self.refused_until = Some(Instant::now() + REFUSED);
                match error {
                    ProposeError::NotLeader { .. } => {}
                    ProposeError::Unknown
                    | ProposeError::Overloaded
                    | ProposeError::TooLarge { .. }
                    // What it plans needs no more than the state's level; the log refuses what does.
                    | ProposeError::Level { .. }
                    | ProposeError::Fatal => {
                        warn!(%error, commands = landed.commands.len(), "a proposal was not applied");
                    }
                }
                // Proposed again if this node still leads; else the workers repeat them elsewhere.
                self.reports.extend(landed.reports);
            }
        }
    }

    fn hear(&mut self, event: SessionEvent) {
        let now = Instant::now();
        self.stirred |= match &event {
            // Of one that had fallen silent it is news, and so is the first.
            SessionEvent::Heartbeat { session } => self.sessions.get(*session).is_some_and(|open| {
                !open.has_beaten || now.duration_since(open.last_heard) >= self.options.lease / 2
            }),
            SessionEvent::Fleet(FleetAsk::List { .. }) | SessionEvent::ReadOutput { .. } => false,
            SessionEvent::Opened { .. }
            | SessionEvent::Report { .. }
            | SessionEvent::Drain { .. }
            | SessionEvent::Fleet(_)
            | SessionEvent::Closed { .. } => true,
        };
        match event {
            SessionEvent::Opened { session, hello, outbox } => self.open(session, hello, outbox),
            SessionEvent::Heartbeat { session } => self.heartbeat(session, now),
            SessionEvent::Report { session, run, fence, outcome, report, handed } => {
                let Some(open) = self.sessions.heard(session, now) else { return };
                let worker = open.hello.worker.clone();
                open.known.remove(&(run, fence));
                open.leftover.remove(&(run, fence));
                self.take_report(PendingReport { run, fence, outcome, report, worker, handed });
            }
            SessionEvent::Drain { session, asked } => self.drains(session, asked),
            SessionEvent::Fleet(ask) => self.fleet(ask),
            SessionEvent::Closed { session } => self.drop_session(session),
            SessionEvent::ReadOutput { worker, wanted, asked } => {
                // Whoever asked may have gone.
                let _ = asked.send(self.sessions.read_output(&worker, wanted));
            }
        }
    }

    /// Takes a report, unless it is being dealt with, nobody waits for it, or there is no room.
    fn take_report(&mut self, pending: PendingReport) {
        let (run, fence) = (pending.run, pending.fence);
        let attempt = self.state.run(run).and_then(|run| run.running());
        let awaited = attempt.filter(|attempt| attempt.fence == fence);
        if awaited.is_none() && self.state.knows_fence(fence) {
            return self.send(&pending.worker, Message::Acknowledged { run, fence, refused: true });
        }
        if pending.handed.is_some() && awaited.is_some_and(|attempt| attempt.handed.is_some()) {
            return self.send(&pending.worker, Message::Acknowledged { run, fence, refused: false });
        }
        if self.reports.len() < REPORTS_WAITING && self.reported.insert((run, fence)) {
            self.reports.push(pending);
        }
    }

    /// An answer lets the worker begin what it holds. A leader that may be deposed without knowing it
    /// gives none: its successor counts the worker's silence from its own beginning.
    fn heartbeat(&mut self, session: SessionId, now: Instant) {
        // Only of a new hello: one that was under way on the old stream says nothing about a resume.
        if self.sessions.get(session).is_some_and(|open| !open.has_beaten) {
            self.greeted(session);
        }
        let leads = self.raft.quorum_acked_within(self.options.lease / 4);
        let starting = self
            .sessions
            .get_mut(session)
            .is_some_and(|open| open.drain.is_on() && self.flight.starts.contains_key(&open.hello.worker));
        let Some(open) = self.sessions.heard(session, now) else { return };
        // A worker that drains leaves with the answer, so it is not given while a start is on its way.
        if !open.answer(leads && !starting) {
            self.drop_session(session);
        }
    }

    fn open(&mut self, id: SessionId, hello: super::Hello, outbox: mpsc::Sender<Message>) {
        let Some((term, _)) = self.leading else {
            let _ = outbox.try_send(Message::NotLeader { leader: self.leader_address() });
            return;
        };
        // Half of what the cluster grants: what the worker believes must end before its attempts may be
        // given up, also when it was last answered by a leader that was about to be replaced.
        let lease = self.options.lease / 2;
        let protocol = hello.protocol;
        if outbox.try_send(Message::Welcome { lease, term, protocol }).is_err() {
            return;
        }
        info!(
            worker = %hello.worker,
            slots = hello.slots,
            held = hello.held.len(),
            through = hello.connected_to,
            protocol,
            "worker connected"
        );
        let session = Session {
            hello,
            outbox,
            last_heard: Instant::now(),
            connected_at: self.options.clock.clock().now(),
            drain: Drain::No,
            has_beaten: false,
            unanswered: 0,
            given: 0,
            leftover: HashSet::new(),
            known: HashSet::new(),
            cancelled: HashSet::new(),
        };
        self.sessions.open(id, session);
        self.reconcile(id);
        self.publish_workers();
    }

    pub(super) fn drop_session(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            info!(worker = %session.hello.worker, "worker disconnected");
            self.sessions.close(id);
            self.publish_workers();
        }
    }

    pub(super) fn publish_workers(&mut self) {
        self.publish.send_replace(Arc::new(self.infos()));
    }
}

fn report_faults(commands: &[Command]) {
    for command in commands {
        if let Command::Disarm { job, why, .. } = command {
            error!(job = job.0, %why, "the schedule of a job cannot be evaluated; it does not fire");
        }
    }
}

/// How many of the first reports fit an entry.
fn batch(reports: &[PendingReport]) -> usize {
    let mut bytes = 0;
    let fitting = reports.iter().take(REPORTS_PER_ENTRY).take_while(|pending| {
        bytes += pending.report.error.len() + pending.report.output.len() + pending.report.result.len() + 128;
        bytes <= REPORT_BYTES_PER_ENTRY
    });
    fitting.count().max(1).min(reports.len())
}

#[cfg(test)]
mod tests;
