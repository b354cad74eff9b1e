//! What became of what was proposed.

use serde::Serialize;

use super::Scene;
use super::names::{RunSeen, word_of};
use super::text::Armed;
use crate::pb::v1 as pb;
use crate::state::run::{AttemptOutcome, JobId, RunId};
use crate::state::{Change, Command, Outcome};

/// The decision of a command.
#[derive(Serialize)]
pub(super) struct Decision<'a> {
    #[serde(flatten)]
    what: What<'a>,
    /// The job's version after the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// What is armed for the job after the entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    armed: Option<Armed>,
    /// It was known by its operation id: nothing was done again.
    #[serde(skip_serializing_if = "is_false")]
    repeat: bool,
}

fn is_false(it: &bool) -> bool {
    !it
}

#[derive(Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum What<'a> {
    Done {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        lost: Vec<Lost>,
        #[serde(skip_serializing_if = "Option::is_none")]
        run: Option<RunSeen<'a>>,
    },
    Put {
        incarnation: u64,
        change: &'static str,
    },
    Fired {
        runs: Vec<RunSeen<'a>>,
        started: u32,
    },
    Triggered {
        run: RunSeen<'a>,
    },
    Backfilled {
        backfill: u64,
        runs: u32,
    },
    Started {
        fence: u64,
        run: RunSeen<'a>,
        #[serde(skip_serializing_if = "is_false")]
        probe: bool,
    },
    Spread {
        runs: u32,
        run: RunSeen<'a>,
    },
    Completed {
        ended: bool,
        run: RunSeen<'a>,
    },
    Rejected {
        rejection: &'static str,
        detail: String,
    },
}

/// An attempt whose worker vanished.
#[derive(Serialize)]
struct Lost {
    run_id: String,
    attempt: u32,
    fence: u64,
}

/// What became of a command.
pub(super) fn of<'a>(
    command: &'a Command,
    outcome: &'a Outcome,
    repeat: bool,
    scene: &Scene<'a>,
) -> Decision<'a> {
    let seen = |run: RunId| RunSeen::of(run, scene);
    let what = match outcome {
        Outcome::Done => What::Done { lost: lost(command, scene), run: run_of(command).map(seen) },
        Outcome::Put { job, change, .. } => What::Put { incarnation: job.0, change: change_word(*change) },
        Outcome::Fired { runs, started } => {
            What::Fired { runs: runs.iter().copied().map(seen).collect(), started: *started }
        }
        Outcome::Triggered { run } => What::Triggered { run: seen(*run) },
        Outcome::Backfilled { backfill, runs } => What::Backfilled { backfill: *backfill, runs: *runs },
        Outcome::Started { run, fence } => {
            What::Started { fence: *fence, run: seen(*run), probe: is_probe(*run, *fence, scene) }
        }
        Outcome::Spread { runs } => match run_of(command) {
            Some(run) => What::Spread { runs: *runs, run: seen(run) },
            None => What::Done { lost: Vec::new(), run: None },
        },
        Outcome::Completed { ended } => match run_of(command) {
            Some(run) => What::Completed { ended: *ended, run: seen(run) },
            None => What::Done { lost: Vec::new(), run: None },
        },
        Outcome::Rejected(rejection) => {
            What::Rejected { rejection: rejection.as_str(), detail: rejection.to_string() }
        }
    };
    let is_refused = matches!(outcome, Outcome::Rejected(_));
    let job = job_of(command, outcome).filter(|_| !is_refused).and_then(|id| scene.after.job(id));
    let put = match outcome {
        Outcome::Put { version, .. } => Some(*version),
        _ => None,
    };
    Decision {
        what,
        version: put.or_else(|| job.map(|job| job.version)),
        armed: job.and_then(|job| job.next).map(Armed::from),
        repeat,
    }
}

fn change_word(change: Change) -> &'static str {
    let change = match change {
        Change::Created => pb::Change::Created,
        Change::Updated => pb::Change::Updated,
        Change::Unchanged => pb::Change::Unchanged,
    };
    word_of::<pb::Change>(change.into())
}

/// The run that a command is about.
const fn run_of(command: &Command) -> Option<RunId> {
    match command {
        Command::Start { run, .. }
        | Command::Spread { run, .. }
        | Command::Complete { run, .. }
        | Command::HandOver { run, .. }
        | Command::StopTask { run, .. }
        | Command::HearTask { run, .. }
        | Command::Retry { run }
        | Command::Expire { run }
        | Command::CancelRun { run, .. } => Some(*run),
        Command::Lead { .. }
        | Command::RaiseLevel { .. }
        | Command::PutJob { .. }
        | Command::DeleteJob { .. }
        | Command::PauseJob { .. }
        | Command::ResumeJob { .. }
        | Command::TriggerJob { .. }
        | Command::Backfill { .. }
        | Command::SetQueue { .. }
        | Command::SetNamespace { .. }
        | Command::PutCalendar { .. }
        | Command::DeleteCalendar { .. }
        | Command::SetTzdata { .. }
        | Command::Reread { .. }
        | Command::Fire { .. }
        | Command::Disarm { .. }
        | Command::Renew { .. }
        | Command::Lose { .. }
        | Command::HalfOpen { .. }
        | Command::TripBreaker { .. }
        | Command::ResetBreaker { .. }
        | Command::Arm { .. } => None,
    }
}

/// The job whose schedule a command may have moved.
const fn job_of(command: &Command, outcome: &Outcome) -> Option<JobId> {
    match (command, outcome) {
        (Command::PutJob { .. }, Outcome::Put { job, .. }) => Some(*job),
        (Command::PauseJob { job, .. } | Command::ResumeJob { job, .. }, _) => Some(job.id),
        (Command::Fire { job, .. } | Command::Disarm { job, .. } | Command::Arm { job, .. }, _) => Some(*job),
        _ => None,
    }
}

fn is_probe(run: RunId, fence: u64, scene: &Scene<'_>) -> bool {
    let attempts = scene.run(run).map(|run| run.attempts.as_slice()).unwrap_or_default();
    attempts.iter().any(|attempt| attempt.fence == fence && attempt.probe.is_some())
}

/// The attempts that ended as lost because their worker's lease did: those that it carried before the entry, for a
/// lease that has ended gets no new ones.
fn lost(command: &Command, scene: &Scene<'_>) -> Vec<Lost> {
    let Command::Lose { worker, .. } = command else { return Vec::new() };
    let carried = scene.before.carried_by(worker).filter_map(|id| {
        let fence = scene.before.run(id)?.running()?.fence;
        let attempt = scene.run(id)?.attempts.iter().find(|attempt| attempt.fence == fence)?;
        let is_lost = attempt.outcome == AttemptOutcome::Lost;
        is_lost.then(|| Lost { run_id: id.to_string(), attempt: attempt.number, fence })
    });
    carried.collect()
}
