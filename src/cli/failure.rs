//! How a command can fail, and which exit code tells it.

use std::io;
use std::process::ExitCode;

use super::bench::BenchError;
use crate::client::job_file::Problem;
use crate::client::{EndpointError, Error};
use crate::pb::v1::Run;
use crate::pb::word;

/// The exit codes of the program; scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It is done.
    Done = 0,
    /// Refused or failed; the reason is on stderr.
    Refused = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No leader, or no node answers.
    Unreachable = 3,
    /// No such job, run or breaker.
    NotFound = 4,
    /// Not allowed.
    Permission = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ends without having done its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The call.
    #[error(transparent)]
    Call(#[from] Error),
    /// The endpoints.
    #[error(transparent)]
    Endpoints(#[from] EndpointError),
    /// Job files with problems, each with its place.
    #[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    JobFiles {
        /// The problems.
        problems: Vec<Problem>,
    },
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Its name as it was given.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Flags that do not go together, which clap cannot know.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
    },
    /// A schedule that is refused.
    #[error("{message}")]
    Schedule {
        /// What is wrong with it.
        message: String,
        /// What would be right.
        hint: Option<String>,
    },
    /// Requests on standard input of which some were refused; their answers say why.
    #[error("{refused} of {asked} requests were refused")]
    Requests {
        /// Refused ones.
        refused: u64,
        /// All.
        asked: u64,
    },
    /// An import that could not read all, or with `--strict` could not carry over all as it is.
    #[error("{jobs} jobs; {errors} errors, {lost} losses, {approximated} approximations")]
    Import {
        /// How many job files were written.
        jobs: usize,
        /// What was not understood.
        errors: usize,
        /// What is not there.
        lost: usize,
        /// What is there, and not quite the same.
        approximated: usize,
    },
    /// A file of iCalendar with what cannot be carried over.
    #[error("{problems}")]
    Events {
        /// One a line, with its place.
        problems: String,
    },
    /// A run that was waited for and did not succeed.
    #[error("run {run_id} ended as {state}{}", reason_words(reason))]
    Run {
        /// The run.
        run_id: String,
        /// How it ended.
        state: &'static str,
        /// Why, empty when unknown.
        reason: String,
    },
    /// More of an output is where nobody can ask at the moment.
    #[error("more of the output is on worker {worker}, which is not connected")]
    OutputAway {
        /// Which worker.
        worker: String,
    },
    /// One stream of an output was asked for that has only one.
    #[error("worker {worker} took standard output and standard error as one")]
    NotApart {
        /// Which worker.
        worker: String,
    },
    /// Nodes that have not applied in time what was waited for.
    #[error("the jobs are applied, but {} has not got to log index {index} in time", endpoints.join(", "))]
    Behind {
        /// Where they are.
        endpoints: Vec<String>,
        /// How far they should be.
        index: u64,
    },
    /// A version of a job that is not kept.
    #[error("job {name} has no such definition; kept are those of version {kept}")]
    NoVersion {
        /// The job.
        name: String,
        /// Those that it has.
        kept: String,
    },
    /// A bench.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Some endpoint has no node that answers.
    #[error("no endpoint answered")]
    NoEndpoint,
    /// Replicas that are not the same.
    #[error("THE STATES OF NODES DIFFER {places}")]
    Diverged {
        /// At which log indexes, and how.
        places: String,
    },
    /// Standard output cannot be written.
    #[error("standard output: {0}")]
    Stdout(#[source] io::Error),
    /// Whoever read standard output has closed it: there is no one left to tell.
    #[error("standard output is closed")]
    PipeClosed,
    /// A result that has no textual form.
    #[error("the result cannot be written as text: {0}")]
    Json(#[from] serde_json::Error),
    /// The same, for YAML.
    #[error("the result cannot be written as text: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

fn reason_words(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

impl Failure {
    /// The failure of a run that has ended otherwise than well.
    pub(super) fn of_run(run: &Run) -> Self {
        let state = word::of::<crate::pb::v1::RunState>(run.state).unwrap_or("unknown");
        let is_skipped = run.state() == crate::pb::v1::RunState::Skipped;
        let reason = match run.detail.as_str() {
            "" => run.reason.clone(),
            detail if is_skipped => format!("{} ({detail})", run.reason),
            _ => run.reason.clone(),
        };
        Self::Run { run_id: run.run_id.clone(), state, reason }
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Call(error) => match error {
                Error::Refused { .. } | Error::InvalidArgument { .. } | Error::Unexpected { .. } => {
                    Exit::Refused
                }
                Error::NotFound { .. } => Exit::NotFound,
                Error::PermissionDenied { .. } => Exit::Permission,
                Error::Unreachable { .. } | Error::UnknownResult { .. } => Exit::Unreachable,
            },
            Self::Endpoints(_) | Self::Usage { .. } => Exit::Usage,
            Self::NoEndpoint => Exit::Unreachable,
            Self::NoVersion { .. } => Exit::NotFound,
            Self::PipeClosed => Exit::Done,
            Self::JobFiles { .. }
            | Self::Events { .. }
            | Self::File { .. }
            | Self::Schedule { .. }
            | Self::Requests { .. }
            | Self::Import { .. }
            | Self::Run { .. }
            | Self::Behind { .. }
            | Self::OutputAway { .. }
            | Self::NotApart { .. }
            | Self::Bench(_)
            | Self::Diverged { .. }
            | Self::Stdout(_)
            | Self::Json(_)
            | Self::Yaml(_) => Exit::Refused,
        }
    }

    /// What would help, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Call(error) => error.hint(),
            Self::Bench(error) => error.hint(),
            Self::Schedule { hint, .. } => hint.clone(),
            Self::Run { run_id, .. } => Some(format!("`chronarch run explain {run_id}` tells why")),
            Self::Behind { .. } => {
                Some("`chronarch cluster status -o wide` shows how far each is".to_owned())
            }
            Self::OutputAway { .. } => {
                Some("`chronarch run logs` shows it once the worker is back, with the same folder".to_owned())
            }
            Self::NotApart { .. } => Some(
                "a worker with `exec_streams = \"apart\"` (`--exec-streams apart`) keeps them apart, at the cost of their order"
                    .to_owned(),
            ),
            Self::NoEndpoint => Some("is the cluster up? `--endpoints` names its nodes".to_owned()),
            Self::Diverged { .. } => Some(
                "this is a bug: keep the data folders; `cluster export-log` of each node shows the first line that differs"
                    .to_owned(),
            ),
            Self::Endpoints(_)
            | Self::NoVersion { .. }
            | Self::JobFiles { .. }
            | Self::Events { .. }
            | Self::File { .. }
            | Self::Usage { .. }
            | Self::Requests { .. }
            | Self::Import { .. }
            | Self::Stdout(_)
            | Self::PipeClosed
            | Self::Json(_)
            | Self::Yaml(_) => None,
        }
    }
}
