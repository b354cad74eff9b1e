//! What clients' changes came to, remembered for repeats.
//!
//! A client that does not know what became of its change sends it again under the same operation id, and
//! is told the first outcome. A job is known by its namespace and name here, as the client names it: a
//! repeat that arrives when the job is gone, or another one stands under its name, changes nothing.
//!
//! The memory is replicated. It holds at most [`limits::OPERATIONS`] outcomes, none for longer than
//! [`limits::OPERATION_AGE`] of the log's time; a repeat that comes later is a change of its own. Refusals
//! are not remembered: what was refused once may be right later.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::State;
use super::apply::Applying;
use super::command::{Command, Outcome};
use super::limits;
use super::time::Timestamp;

/// The outcome of a client's change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    at: Timestamp,
    outcome: Outcome,
}

/// Changes of one job, which clients name by namespace and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobChange {
    /// Creation or definition.
    Put,
    /// Deletion.
    Delete,
    /// Pause.
    Pause,
    /// End of a pause.
    Resume,
    /// A run by hand.
    Trigger,
    /// Runs of a past range.
    Backfill,
}

impl JobChange {
    fn key(self, namespace: &str, name: &str, id: &str) -> String {
        let word = match self {
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Trigger => "trigger",
            Self::Backfill => "backfill",
        };
        format!("{word}/{namespace}/{name}/{id}")
    }
}

/// What a repeat of a client's command must name alike to be taken for a repeat.
fn operation_key(command: &Command) -> Option<Arc<str>> {
    let id = &command.request().filter(|request| !request.operation_id.is_empty())?.operation_id;
    let key = match command {
        Command::PutJob { spec, .. } => JobChange::Put.key(&spec.namespace, &spec.name, id),
        Command::DeleteJob { job, .. } => JobChange::Delete.key(&job.namespace, &job.name, id),
        Command::PauseJob { job, .. } => JobChange::Pause.key(&job.namespace, &job.name, id),
        Command::ResumeJob { job, .. } => JobChange::Resume.key(&job.namespace, &job.name, id),
        Command::TriggerJob { job, .. } => JobChange::Trigger.key(&job.namespace, &job.name, id),
        Command::Backfill { job, .. } => JobChange::Backfill.key(&job.namespace, &job.name, id),
        Command::CancelRun { run, .. } => format!("cancel/{run}/{id}"),
        Command::SetQueue { queue, .. } => format!("queue/{queue}/{id}"),
        Command::SetNamespace { namespace, .. } => format!("namespace/{namespace}/{id}"),
        Command::PutCalendar { spec, .. } => format!("calendar/{}/{id}", spec.name),
        Command::DeleteCalendar { calendar, .. } => format!("no_calendar/{calendar}/{id}"),
        Command::SetTzdata { data, .. } => format!("tzdata/{}/{id}", data.hash()),
        Command::TripBreaker { breaker, .. } => format!("trip/{breaker:?}/{id}"),
        Command::ResetBreaker { breaker, .. } => format!("reset/{breaker:?}/{id}"),
        Command::Lead { .. }
        | Command::RaiseLevel { .. }
        | Command::Fire { .. }
        | Command::Disarm { .. }
        | Command::Start { .. }
        | Command::Spread { .. }
        | Command::Complete { .. }
        | Command::HandOver { .. }
        | Command::StopTask { .. }
        | Command::HearTask { .. }
        | Command::Renew { .. }
        | Command::Lose { .. }
        | Command::Retry { .. }
        | Command::Expire { .. }
        | Command::HalfOpen { .. }
        | Command::Arm { .. }
        | Command::Reread { .. } => return None,
    };
    Some(key.into())
}

impl State {
    /// What a client's change of a job came to when it was made under this operation id, if that is
    /// still remembered.
    #[must_use]
    pub fn first_outcome(
        &self,
        change: JobChange,
        (namespace, name): (&str, &str),
        operation_id: &str,
    ) -> Option<&Outcome> {
        self.remembered(&change.key(namespace, name, operation_id))
    }

    fn remembered(&self, key: &str) -> Option<&Outcome> {
        let found = self.operations.get(key)?;
        (found.at.plus(limits::OPERATION_AGE) >= self.now).then_some(&found.outcome)
    }

    pub(super) fn remember(&mut self, number: u64, key: Arc<str>, remembered: Remembered) {
        self.operations.insert(key.clone(), remembered);
        self.operations_by_age.insert(number, key);
    }

    /// Forgets the oldest outcomes, until all that is left is within the limits.
    fn forget_operations(&mut self) {
        while let Some((number, key)) = self.operations_by_age.get_min().cloned() {
            let is_surplus = self.operations_by_age.len() > limits::OPERATIONS;
            if !is_surplus && self.remembered(&key).is_some() {
                return;
            }
            self.operations_by_age.remove(&number);
            self.operations.remove(&key);
        }
    }
}

impl Applying<'_> {
    /// Applies a command, or answers with what it did the first time.
    pub(super) fn once(&mut self, command: &Command) -> Outcome {
        let Some(key) = operation_key(command) else { return self.command(command) };
        self.state.forget_operations();
        if let Some(outcome) = self.state.remembered(&key).cloned() {
            self.repeated = true;
            return outcome;
        }
        let outcome = self.command(command);
        if !matches!(outcome, Outcome::Rejected(_)) {
            let remembered = Remembered { at: self.moment.at, outcome: outcome.clone() };
            self.state.remember(self.number, key, remembered);
            self.state.forget_operations();
        }
        outcome
    }
}
