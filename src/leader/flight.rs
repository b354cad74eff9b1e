//! What is proposed and not yet visible in the state that the loop plans from.
//!
//! A command stays in flight until its entry is applied *and* the loop has seen a state that contains
//! it; otherwise the loop would plan it again from the old state.

use std::collections::HashMap;
use std::sync::Arc;

use crate::scheduler::plan::InFlight;
use crate::state::group::GroupKey;
use crate::state::run::RunId;
use crate::state::{Command, State};

/// The keys of what is in flight.
#[derive(Debug, Default)]
pub(super) struct Flight {
    pub(super) in_flight: InFlight,
    /// Starts in flight for each worker.
    pub(super) starts: HashMap<Arc<str>, u32>,
    /// The groups and queues that starts in flight count against, as they were when those were proposed.
    shared: HashMap<RunId, (Option<GroupKey>, Arc<str>)>,
    /// Applied entries that the loop has not seen in a state yet.
    landed: Vec<(u64, Arc<Vec<Command>>)>,
}

impl Flight {
    pub(super) fn take_off(&mut self, commands: &[Command], state: &State) {
        for command in commands {
            match command {
                Command::Fire { job, .. } | Command::Disarm { job, .. } | Command::Arm { job, .. } => {
                    self.in_flight.jobs.insert(*job);
                }
                Command::ResumeJob { job, .. } => {
                    self.in_flight.jobs.insert(job.id);
                }
                Command::Start { run, worker, .. } => {
                    self.in_flight.runs.insert(*run);
                    *self.starts.entry(worker.clone()).or_insert(0) += 1;
                    self.take_share(*run, state);
                }
                Command::Complete { run, .. }
                | Command::HandOver { run, .. }
                | Command::StopTask { run, .. }
                | Command::HearTask { run, .. }
                | Command::Spread { run, .. }
                | Command::Retry { run }
                | Command::Expire { run } => {
                    self.in_flight.runs.insert(*run);
                }
                Command::HalfOpen { breaker, .. } => {
                    self.in_flight.breakers.insert(breaker.clone());
                }
                Command::Reread { .. } => self.in_flight.reread = true,
                Command::Renew { worker, .. } | Command::Lose { worker, .. } => {
                    self.in_flight.workers.insert(worker.clone());
                }
                Command::Lead { .. }
                | Command::RaiseLevel { .. }
                | Command::PutJob { .. }
                | Command::DeleteJob { .. }
                | Command::PauseJob { .. }
                | Command::TriggerJob { .. }
                | Command::Backfill { .. }
                | Command::SetQueue { .. }
                | Command::SetNamespace { .. }
                | Command::PutCalendar { .. }
                | Command::DeleteCalendar { .. }
                | Command::SetTzdata { .. }
                | Command::CancelRun { .. }
                | Command::TripBreaker { .. }
                | Command::ResetBreaker { .. } => {}
            }
        }
    }

    /// The entry at `index` is applied.
    pub(super) fn land(&mut self, index: u64, commands: Arc<Vec<Command>>) {
        self.landed.push((index, commands));
    }

    /// The loop sees a state that contains everything up to `applied`.
    pub(super) fn see(&mut self, applied: u64) {
        let (seen, landed) =
            std::mem::take(&mut self.landed).into_iter().partition(|(index, _)| *index <= applied);
        self.landed = landed;
        for (_, commands) in seen {
            self.forget(&commands);
        }
    }

    /// The commands will not be applied, or nobody knows: they may be planned again.
    pub(super) fn forget(&mut self, commands: &[Command]) {
        for command in commands {
            match command {
                Command::Fire { job, .. } | Command::Disarm { job, .. } | Command::Arm { job, .. } => {
                    self.in_flight.jobs.remove(job);
                }
                Command::ResumeJob { job, .. } => {
                    self.in_flight.jobs.remove(&job.id);
                }
                Command::Start { run, worker, .. } => {
                    self.in_flight.runs.remove(run);
                    if let Some(starts) = self.starts.get_mut(worker) {
                        *starts -= 1;
                        if *starts == 0 {
                            self.starts.remove(worker);
                        }
                    }
                    self.give_share(*run);
                }
                Command::Complete { run, .. }
                | Command::HandOver { run, .. }
                | Command::StopTask { run, .. }
                | Command::HearTask { run, .. }
                | Command::Spread { run, .. }
                | Command::Retry { run }
                | Command::Expire { run } => {
                    self.in_flight.runs.remove(run);
                }
                Command::HalfOpen { breaker, .. } => {
                    self.in_flight.breakers.remove(breaker);
                }
                Command::Reread { .. } => self.in_flight.reread = false,
                Command::Renew { worker, .. } | Command::Lose { worker, .. } => {
                    self.in_flight.workers.remove(worker);
                }
                Command::Lead { .. }
                | Command::RaiseLevel { .. }
                | Command::PutJob { .. }
                | Command::DeleteJob { .. }
                | Command::PauseJob { .. }
                | Command::TriggerJob { .. }
                | Command::Backfill { .. }
                | Command::SetQueue { .. }
                | Command::SetNamespace { .. }
                | Command::PutCalendar { .. }
                | Command::DeleteCalendar { .. }
                | Command::SetTzdata { .. }
                | Command::CancelRun { .. }
                | Command::TripBreaker { .. }
                | Command::ResetBreaker { .. } => {}
            }
        }
    }

    /// A run that is not in the state yet is one of its job as it stands.
    fn take_share(&mut self, run: RunId, state: &State) {
        let Some(spec) = state.job(run.job).map(|job| &job.spec) else { return };
        let group = spec.group();
        let queue = state.run(run).map_or_else(|| spec.queue.as_str().into(), |run| run.queue.clone());
        if let Some(group) = &group {
            *self.in_flight.groups.entry(group.clone()).or_insert(0) += 1;
        }
        if state.queue(&queue).is_some() {
            *self.in_flight.queues.entry(queue.clone()).or_insert(0) += 1;
        } else if group.is_none() {
            return;
        }
        self.shared.insert(run, (group, queue));
    }

    fn give_share(&mut self, run: RunId) {
        let Some((group, queue)) = self.shared.remove(&run) else { return };
        if let Some(group) = group {
            give(&mut self.in_flight.groups, &group);
        }
        give(&mut self.in_flight.queues, &queue);
    }
}

/// One start less; without any there is no entry.
fn give<K: Eq + std::hash::Hash>(starts: &mut HashMap<K, u32>, of: &K) {
    if let Some(count) = starts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            starts.remove(of);
        }
    }
}
