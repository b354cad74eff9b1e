//! What leaves the leader once an entry is applied: orders, cancellations, acknowledgements, figures.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sessions::{Message, SessionId};
use super::turn::{Landed, Loop};
use crate::raft::Proposed;
use crate::state::run::{AttemptOutcome, Run, RunId};
use crate::state::{Command, Job, Outcome, Verdict};

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
                (Command::Complete { run, fence, .. }, Outcome::Rejected(_)) => refused.push((*run, *fence)),
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
            }
        }
    }

    fn send(&mut self, worker: &Arc<str>, message: Message) {
        let Some((id, session)) = self.sessions.of_worker(worker) else { return };
        if session.outbox.try_send(message).is_err() {
            // It does not take what it is sent: it must connect anew and say what it holds.
            self.drop_session(id);
        }
    }

    fn order(&mut self, worker: &Arc<str>, run: RunId, attempt: u32, fence: u64) {
        let Some(job) = self.state.job(run.job).cloned() else {
            // The job was deleted in between and this state is older or newer than the start; the
            // reconciliation of the next turn sends what is still wanted.
            return;
        };
        self.send(worker, order(&job, run, attempt, fence));
    }

    /// A worker has connected: it is sent what it should carry out and does not hold, and told to stop
    /// what it holds and should not. An attempt that it does not hold has never reached it, for it
    /// holds an attempt until its report is acknowledged; so it is started for the first time.
    pub(super) fn reconcile(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let worker = session.hello.worker.clone();
        let held = session.hello.held.clone();
        let carried: Vec<Arc<Run>> =
            self.state.carried_by(&worker).filter_map(|run| self.state.run(run).cloned()).collect();
        let wanted: BTreeMap<(RunId, u64), u32> = carried
            .iter()
            .filter_map(|run| run.running().map(|attempt| ((run.id, attempt.fence), attempt.number)))
            .collect();
        for (run, fence) in &held {
            if !wanted.contains_key(&(*run, *fence)) {
                self.send(&worker, Message::Cancel { run: *run, fence: *fence });
            }
        }
        for ((run, fence), attempt) in wanted {
            if !held.contains(&(run, fence)) {
                self.order(&worker, run, attempt, fence);
            }
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

    /// The cluster has closed an attempt that its worker may still be at.
    fn cancel_overdue(&mut self, run: RunId, fence: u64) {
        let worker = self.state.run(run).and_then(|run| {
            run.attempts.iter().find(|attempt| attempt.fence == fence).map(|attempt| attempt.worker.clone())
        });
        if let Some(worker) = worker {
            self.send(&worker, Message::Cancel { run, fence });
        }
    }
}

fn order(job: &Job, run: RunId, attempt: u32, fence: u64) -> Message {
    Message::Order {
        run,
        fence,
        attempt,
        namespace: job.spec.namespace.as_str().into(),
        job: job.spec.name.as_str().into(),
        scheduled_at: run.at,
        timeout: job.spec.timeout,
        target: Box::new(job.spec.target.clone()),
    }
}

const fn outcome_word(outcome: AttemptOutcome) -> &'static str {
    match outcome {
        AttemptOutcome::Running => "running",
        AttemptOutcome::Succeeded => "succeeded",
        AttemptOutcome::Failed => "failed",
        AttemptOutcome::TimedOut => "timeout",
        AttemptOutcome::Cancelled => "cancelled",
        AttemptOutcome::Lost => "lost",
    }
}
