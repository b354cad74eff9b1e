//! What leaves the leader once an entry is applied: orders, cancellations, acknowledgements, figures.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::said::{Message, SessionId};
use super::turn::{Landed, Loop};
use crate::raft::Proposed;
use crate::state::run::{AttemptOutcome, Cause, Run, RunId};
use crate::state::spec::Target;
use crate::state::template::{self, Params};
use crate::state::time::Timestamp;
use crate::state::{Command, Job, Outcome, Rejection, State, Verdict};

impl Loop {
    /// Acts on the outcomes of an applied entry.
    pub(super) fn dispatch(&mut self, landed: &Landed, proposed: &Proposed) {
        let mut refused = Vec::new();
        for (command, outcome) in landed.commands.iter().zip(&proposed.applied.outcomes) {
            match (command, outcome) {
                (Command::Start { worker, attempt, .. }, Outcome::Started { run, fence }) => {
                    self.order(worker, *run, *attempt, *fence);
                    self.options.metrics.attempts_started.inc();
                }
                (Command::Fire { verdicts, .. }, Outcome::Fired { started, .. }) => {
                    self.count_fires(verdicts, *started, landed);
                }
                (Command::Complete { run, fence, outcome, .. }, Outcome::Completed { .. }) => {
                    self.options.metrics.attempt_ended(outcome_word(*outcome));
                    if landed.reports.is_empty() {
                        self.cancel_overdue(*run, *fence);
                    }
                }
                (Command::Complete { run, fence, .. }, Outcome::Rejected(_)) => {
                    refused.push((*run, *fence));
                    if landed.reports.is_empty() {
                        self.sessions.stopped(*run, *fence);
                    }
                }
                // That it is so already was told by a report whose acknowledgement was lost.
                (Command::HandOver { run, fence, .. }, Outcome::Rejected(why))
                    if *why != Rejection::Stale =>
                {
                    refused.push((*run, *fence));
                }
                _ => {}
            }
        }
        for report in &landed.reports {
            let refused = refused.contains(&(report.run, report.fence));
            let message = Message::Acknowledged { run: report.run, fence: report.fence, refused };
            self.send(&report.worker, message);
        }
    }

    fn count_fires(&self, verdicts: &[Verdict], started: u32, landed: &Landed) {
        let metrics = &self.options.metrics;
        metrics.runs_admitted.inc_by(u64::from(started));
        for verdict in verdicts {
            match *verdict {
                Verdict::Run { due_at, .. } => metrics.fired(landed.at.since(due_at)),
                Verdict::Missed { count, .. } => {
                    metrics.missed.inc_by(count);
                }
                Verdict::Excluded { .. } => {}
            }
        }
    }

    pub(super) fn send(&mut self, worker: &Arc<str>, message: Message) {
        let Some((id, session)) = self.sessions.of_worker(worker) else { return };
        if session.outbox.try_send(message).is_err() {
            // It does not take what it is sent: it must connect anew and say what it holds.
            self.drop_session(id);
        }
    }

    fn order(&mut self, worker: &Arc<str>, run: RunId, attempt: u32, fence: u64) {
        // A job that is not here any more, or not yet, is seen to by the next sweep.
        let Some(job) = self.state.job(run.job).cloned() else { return };
        let Some((_, session)) = self.sessions.of_worker(worker) else { return };
        session.known.insert((run, fence));
        // A part that is not seen yet has what the run has that made it.
        let live = self.state.run(run).or_else(|| self.state.run(run.whole()));
        let mut message = order(&job, live.map(Arc::as_ref), (run, attempt, fence));
        if let Message::Order { cluster, next_at, .. } = &mut message {
            *cluster = self.raft.cluster_id();
            // The state of this turn may be of before the run was fired; the newest is not.
            *next_at = next_at_of(&self.states.borrow(), run);
        }
        self.send(worker, message);
    }

    /// A worker has connected: it is told to stop what it holds and should not, and sent what it should
    /// carry out and does not hold. Such an attempt has never reached it, for it holds an attempt until
    /// its report is acknowledged; so it is started for the first time.
    pub(super) fn reconcile(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let worker = session.hello.worker.clone();
        let held = session.hello.held.clone();
        session.known = held.iter().copied().collect();
        let mut unwanted = Vec::new();
        for (run, fence) in held {
            let is_wanted = self
                .state
                .run(run)
                .and_then(|run| run.running())
                .is_some_and(|attempt| attempt.fence == fence);
            // What lies beyond this state is unknown here, which does not make it unwanted.
            if !is_wanted && self.state.knows_fence(fence) {
                unwanted.push((run, fence));
                self.send(&worker, Message::Cancel { run, fence });
            }
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.leftover.extend(unwanted);
        }
        self.sweep_session(id);
    }

    /// Sends every worker what it should carry out and neither holds nor was sent: orders of starts whose
    /// outcome this leader was never told.
    pub(super) fn sweep(&mut self) {
        self.sessions.forget_silent(&self.state, self.options.lease);
        for id in self.sessions.ids() {
            self.sweep_session(id);
        }
    }

    fn sweep_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let worker = session.hello.worker.clone();
        let carried: HashMap<(RunId, u64), u32> = self
            .state
            .carried_by(&worker)
            .filter_map(|id| self.state.run(id))
            .filter_map(|run| run.running().map(|attempt| ((run.id, attempt.fence), attempt.number)))
            .collect();
        session.known.retain(|key| carried.contains_key(key) || !self.state.knows_fence(key.1));
        session.cancelled.retain(|key| carried.contains_key(key));
        let missing: BTreeMap<(RunId, u64), u32> = carried
            .into_iter()
            .filter(|(key, _)| !session.known.contains(key) && !self.reported.contains(key))
            .collect();
        for ((run, fence), attempt) in missing {
            self.order(&worker, run, attempt, fence);
        }
    }

    /// Tells workers to stop attempts whose runs someone wants to end.
    pub(super) fn stop_attempts(&mut self) {
        let stopping: Vec<RunId> = self.state.stopping().collect();
        for id in stopping {
            let Some(run) = self.state.run(id).cloned() else { continue };
            let Some(attempt) = run.running() else { continue };
            let Some((_, session)) = self.sessions.of_worker(&attempt.worker) else { continue };
            if session.cancelled.insert((id, attempt.fence)) {
                self.send(&attempt.worker, Message::Cancel { run: id, fence: attempt.fence });
            }
        }
    }

    /// The cluster is about to close attempts that their workers may still be at. Their slots are kept from now on:
    /// the state in which they have ended may be seen before it is known here that they have.
    pub(super) fn keep_slots(&mut self, commands: &[Command]) {
        for command in commands {
            let Command::Complete { run, fence, .. } = *command else { continue };
            let Some(worker) = self.sessions.who_knows(run, fence) else { continue };
            if let Some((_, session)) = self.sessions.of_worker(&worker) {
                session.leftover.insert((run, fence));
            }
        }
    }

    /// The cluster has closed an attempt that its worker may still be at.
    fn cancel_overdue(&mut self, run: RunId, fence: u64) {
        if let Some(worker) = self.sessions.who_stops(run, fence) {
            self.send(&worker, Message::Cancel { run, fence });
        }
    }
}

/// The order of an attempt. Where the run's entry is not seen yet, the run is one of the schedule, and has what its
/// job says; so it has of params that the job got since the run was made.
fn order(job: &Job, live: Option<&Run>, (run, attempt, fence): (RunId, u32, u64)) -> Message {
    let mut params = job.spec.params.clone();
    params.extend(live.into_iter().flat_map(|live| live.params.clone()));
    Message::Order {
        run,
        fence,
        attempt,
        namespace: job.spec.namespace.as_str().into(),
        job: job.spec.name.as_str().into(),
        scheduled_at: run.at,
        timeout: job.spec.timeout,
        target: Box::new(handed_out(&job.spec.target, &params)),
        params: Box::new(params),
        chain: live.and_then(|live| live.chain).unwrap_or(run.whole()),
        inputs: Box::new(live.map(|live| live.inputs.clone()).unwrap_or_default()),
        cluster: None,
        next_at: None,
        delivery: live.map_or(0, Run::delivery),
    }
}

/// When the job of a run of the schedule is due next. A run that someone asked for has no place between two occurrences.
fn next_at_of(state: &State, run: RunId) -> Option<Timestamp> {
    let live = state.run(run).or_else(|| state.run(run.whole()))?;
    if !matches!(live.cause, Cause::Schedule | Cause::CatchUp) {
        return None;
    }
    let next = state.job(run.job)?.next?;
    (next.scheduled_at > run.at).then_some(next.due_at)
}

/// The target as a worker is given it. Our own workers put params in their places themselves, and refuse where they
/// cannot; one of the user's own gets what it is to read. A payload of before there were params stays as it was.
fn handed_out(target: &Target, params: &Params) -> Target {
    match target {
        Target::Queue { payload } => {
            let filled = template::payload(payload, params).unwrap_or(payload.into());
            Target::Queue { payload: filled.into_owned() }
        }
        Target::Http { .. }
        | Target::Exec { .. }
        | Target::Grpc { .. }
        | Target::Redis(_)
        | Target::Celery(_)
        | Target::Amqp(_)
        | Target::Nats(_) => target.clone(),
    }
}

/// The word of the figures.
#[must_use]
pub const fn outcome_word(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Running => "running",
        AttemptOutcome::Succeeded => "succeeded",
        AttemptOutcome::Failed => "failed",
        AttemptOutcome::TimedOut => "timeout",
        AttemptOutcome::Cancelled => "cancelled",
        AttemptOutcome::Lost => "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_of_the_users_own_is_given_its_payload_with_the_params_in_their_places() {
        let params = Params::from([("who".to_owned(), "a\"b".to_owned())]);
        for (payload, given) in [
            ("{\"who\": \"{{ params.who }}\"}", "{\"who\": \"a\\\"b\"}"),
            ("say {{ params.who }}", "say a\"b"),
            // Of a job of before there were params in texts.
            ("{{ params.nobody }}", "{{ params.nobody }}"),
        ] {
            let given = Target::Queue { payload: given.to_owned() };
            assert_eq!(handed_out(&Target::Queue { payload: payload.to_owned() }, &params), given);
        }
    }
}
