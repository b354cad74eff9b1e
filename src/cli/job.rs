//! `job`: definitions of what runs, when, and under which policies.

mod control;
mod export;
pub(super) mod prune;

use clap::{Args, Subcommand};

use super::args::{ListFlags, Output, ReadFlags, WriteFlags, instant, pair};
use super::printer::Printer;
use super::{Context, Failure, apply, occurrences, run, tables};
use crate::client::{Client, paging};
use crate::pb::instant::write;
use crate::pb::v1::{
    DeleteJobRequest, ExplainJobRequest, GetJobRequest, Job, ListJobsRequest, NextOccurrencesRequest, Run,
    RunState, TriggerJobRequest,
};
use crate::state::time::Timestamp;

/// Jobs of a namespace that `job apply --prune` looks at, at most.
pub(super) const PRUNE_MAX: usize = 100_000;

#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// Creates or replaces jobs from job files; all are checked before any is written
    Apply(apply::ApplyArgs),
    /// Shows what `apply` would change, field by field, and changes nothing; exit code 0 either way
    Diff(apply::DiffArgs),
    /// Shows one job
    Get {
        /// The job
        name: String,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Lists jobs
    List(ListArgs),
    /// Deletes a job; its records stay
    Delete {
        /// The job
        name: String,
        /// Also cancel its live runs, which otherwise go on to their end
        #[arg(long)]
        cancel_runs: bool,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Stops the creation of occurrences until the job is resumed, or until an instant
    Pause(control::PauseArgs),
    /// Lets a paused job go on; its `on_resume` says what becomes of the time in between
    Resume(control::ResumeArgs),
    /// Makes a run now and prints its id; exit code 1 when it is skipped at once (overlap, breaker)
    Trigger {
        /// The job
        name: String,
        /// Another value than the job's for one of its parameters; may be given several times
        #[arg(long = "param", value_name = "NAME=VALUE", value_parser = pair)]
        params: Vec<(String, String)>,
        /// Wait until the run has ended; exit code 1 unless it succeeded
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Makes a run for each occurrence of a past range that has none, or whose record was skipped
    Backfill(control::BackfillArgs),
    /// Shows the definitions of a job that are kept, with who applied each, why, and what changed
    Versions {
        /// The job
        name: String,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Applies an earlier definition of a job again
    Rollback(control::RollbackArgs),
    /// Shows the next occurrences of a job, or the last ones, odd days marked
    Next {
        /// The job
        name: String,
        /// How many, 1 to 1000
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
        /// Those after this instant (RFC 3339). Default: now
        #[arg(long, value_name = "INSTANT", value_parser = instant)]
        after: Option<Timestamp>,
        /// The last ones before this instant instead, the newest first
        #[arg(long, value_name = "INSTANT", value_parser = instant, conflicts_with = "after")]
        before: Option<Timestamp>,
        /// Tell in plain English what the schedules mean
        #[arg(long)]
        explain: bool,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Tells why a job did or did not run
    Explain {
        /// The job
        name: String,
        /// The instant in question (RFC 3339). Default: the last and the next one
        #[arg(long, value_name = "INSTANT", value_parser = instant)]
        at: Option<Timestamp>,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Writes jobs as job files that `job apply` reads: YAML documents, or JSON with `-o json|jsonl`; or as another
    /// scheduler's definitions
    Export(export::ExportArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only jobs with this label; may be given several times, all must match
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    list: ListFlags,
}

pub(super) async fn carry_out(
    command: JobCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    match command {
        JobCommand::Apply(args) => apply::carry_out(args, context, printer).await,
        JobCommand::Diff(args) => apply::diff(args, context, printer).await,
        JobCommand::List(args) => list(args, context, printer).await,
        JobCommand::Export(args) => export::carry_out(args, context, printer).await,
        JobCommand::Get { name, read } => {
            let request = GetJobRequest { namespace: namespace(context), name, stale: read.stale };
            let job = context.client()?.get_job(request).await?;
            printer.object(&job, |_| tables::job(&job))
        }
        JobCommand::Next { name, count, after, before, explain, read: ReadFlags { stale } } => {
            let (namespace, after, before) = (namespace(context), after.map(write), before.map(write));
            let request = NextOccurrencesRequest { namespace, name, after, before, count, explain, stale };
            next(request, context, printer).await
        }
        JobCommand::Explain { name, at, read } => {
            let at = at.map(write);
            let request = ExplainJobRequest { namespace: namespace(context), name, at, stale: read.stale };
            let explanation = context.client()?.explain_job(request).await?;
            run::print_explanation(&explanation, printer)
        }
        JobCommand::Delete { name, cancel_runs, write } => {
            delete(name, cancel_runs, write, context, printer).await
        }
        JobCommand::Pause(args) => control::pause(args, context, printer).await,
        JobCommand::Resume(args) => control::resume(args, context, printer).await,
        JobCommand::Backfill(args) => control::backfill(args, context, printer).await,
        JobCommand::Versions { name, read } => control::versions(name, read, context, printer).await,
        JobCommand::Rollback(args) => control::rollback(args, context, printer).await,
        JobCommand::Trigger { name, params, wait, write } => {
            let WriteFlags { reason, identity } = write;
            let request = TriggerJobRequest {
                namespace: namespace(context),
                name,
                actor: identity.actor(),
                operation_id: identity.operation_id,
                reason,
                params: params.into_iter().collect(),
            };
            trigger(request, wait, context, printer).await
        }
    }
}

/// The occurrences of the schedule, and on stderr why they would not come, or why there are none.
async fn next(
    request: NextOccurrencesRequest,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = context.client()?;
    let next = client.next_occurrences(request.clone()).await?;
    let NextOccurrencesRequest { namespace, name, stale, .. } = request;
    let job = client.get_job(GetJobRequest { namespace, name, stale }).await?;
    occurrences::print(&next, printer)?;
    if let Some(pause) = &job.pause {
        printer.note(&format!("the job is {}; nothing fires until it is resumed", tables::paused(pause)));
    }
    if next.occurrences.is_empty() {
        let has_schedule = job.spec.is_some_and(|spec| !spec.schedule.is_empty());
        printer.note(if has_schedule {
            tables::NO_OCCURRENCE
        } else {
            "the job has no schedule; it runs when it is triggered"
        });
    }
    Ok(())
}

pub(super) fn print_changed(job: &Job, printer: &mut Printer) -> Result<(), Failure> {
    printer.object(job, |wide| tables::jobs(std::slice::from_ref(job), wide))
}

async fn delete(
    name: String,
    cancel_runs: bool,
    WriteFlags { reason, identity }: WriteFlags,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let (namespace, actor, operation_id) = (namespace(context), identity.actor(), identity.operation_id);
    let told = format!("job {namespace}/{name} is deleted");
    let fate = if cancel_runs { "is ended" } else { "goes on to its end" };
    let request = DeleteJobRequest { namespace, name, cancel_runs, operation_id, actor, reason };
    let answer = context.client()?.delete_job(request).await?;
    match printer.output() {
        Output::Table | Output::Wide => printer.note(&match answer.live_runs {
            0 => told,
            1 => format!("{told}; 1 live run of it {fate}"),
            more => format!("{told}; each of {more} live runs of it {fate}"),
        }),
        Output::Json | Output::Jsonl => printer.json_line(&answer)?,
        Output::Yaml => printer.yaml(&answer)?,
    }
    Ok(())
}

/// For people the run's id is printed at once, before any waiting; programs get one document.
async fn trigger(
    request: TriggerJobRequest,
    wait: bool,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = context.client()?;
    let run = client.trigger_job(request).await?;
    made(&client, run, wait, printer).await
}

/// Shows a run that was just made, and waits for its end if that is wanted.
pub(super) async fn made(
    client: &Client,
    mut run: Run,
    wait: bool,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let for_people = matches!(printer.output(), Output::Table | Output::Wide);
    if for_people {
        printer.line(&run.run_id)?;
        printer.flush()?;
    }
    if wait {
        run = run::wait(client, run, printer).await?;
    }
    if !for_people {
        printer.object(&run, |_| tables::run(&run))?;
    }
    // A run that was skipped at once is none, whether anybody waits for it or not.
    if wait || run.state() == RunState::Skipped { run::verdict(&run) } else { Ok(()) }
}

pub(super) fn namespace(context: &Context) -> String {
    context.global.namespace.clone()
}

async fn list(args: ListArgs, context: &Context, printer: &mut Printer) -> Result<(), Failure> {
    let ListFlags { all_namespaces, read } = args.list;
    let request = ListJobsRequest {
        namespace: context.namespace_or_all(all_namespaces),
        labels: args.labels.into_iter().collect(),
        stale: read.stale,
        ..ListJobsRequest::default()
    };
    let found = paging::jobs(&context.client()?, request, args.limit as usize).await?;
    printer.list(&found, &found.jobs, |wide| tables::jobs(&found.jobs, wide))?;
    if !found.next_page_token.is_empty() {
        printer.note(&format!("there are more than {} jobs; --limit shows more", args.limit));
    }
    Ok(())
}
