//! `run`: the record of every decided occurrence.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::{ListFlags, Output, ReadFlags, WriteFlags, instant, pair, span};
use super::logs::{self, LogsArgs};
use super::printer::Printer;
use super::{Context, Failure, job, tables};
use crate::client::{Client, is_ended, paging};
use crate::pb::instant::write;
use crate::pb::span as pb_span;
use crate::pb::v1::{
    CancelRunRequest, CancelRunsRequest, Cause, ExplainRunRequest, Explanation, GetRunRequest,
    ListRunsRequest, RetryRunRequest, Run, RunState, TaskStanding,
};
use crate::pb::word;
use crate::state::run::Reason;
use crate::state::time::Timestamp;

/// When `--wait` says why a run has not begun.
const TELLS_AFTER: Duration = Duration::from_secs(3);

const EXAMPLES: &str = "\
Examples:
  chronarch run list --job isin-download
  chronarch run list --state failed --state skipped --from 2026-03-29T00:00:00Z
  chronarch run list --reason timeout --min-duration 10m --label team=data
  chronarch run list -A --limit 1000 -o jsonl | jq -r .run_id";

#[derive(Debug, Subcommand)]
pub(super) enum RunCommand {
    /// Lists runs, newest first
    List(ListArgs),
    /// Shows one run with its attempts
    Get {
        /// The run
        run_id: String,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Prints each change of a run until it has ended; exit code 1 unless it succeeded
    Watch {
        /// The run
        run_id: String,
    },
    /// Prints what the attempts of a run wrote, also while they run; exit code 1 if there is more on a worker that is
    /// not connected
    Logs(LogsArgs),
    /// Cancels a run: a pending one ends at once, of a running one the processes are ended first
    Cancel(CancelArgs),
    /// Makes an ended run again, with the same parameters or others; prints the new run's id
    Retry {
        /// The run
        run_id: String,
        /// Another value than that run's for a parameter; may be given several times
        #[arg(long = "param", value_name = "NAME=VALUE", value_parser = pair)]
        params: Vec<(String, String)>,
        /// Wait until the new run has ended; exit code 1 unless it succeeded
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        write: WriteFlags,
    },
    /// Tells what a run waits for, or why it ended as it did
    Explain {
        /// The run
        run_id: String,
        #[command(flatten)]
        read: ReadFlags,
    },
}

#[derive(Debug, Args)]
pub(super) struct CancelArgs {
    /// The run
    #[arg(required_unless_present_any = ["job", "labels", "backfill", "chain"], conflicts_with_all = ["job", "labels", "backfill", "chain"])]
    run_id: Option<String>,
    /// All live runs of this job
    #[arg(long, value_name = "NAME")]
    job: Option<String>,
    /// All live runs of jobs with this label; may be given several times, all must match
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// All live runs of this backfill
    #[arg(long, value_name = "NUMBER")]
    backfill: Option<u64>,
    /// All live runs of this chain
    #[arg(long, value_name = "RUN_ID")]
    chain: Option<String>,
    #[command(flatten)]
    write: WriteFlags,
}

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct ListArgs {
    /// Only runs of this job
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    job: String,
    /// Only runs in this state: pending, running, succeeded, failed, cancelled, skipped; may be
    /// given several times
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',', value_parser = state)]
    states: Vec<i32>,
    /// Only runs with this reason: overlap, breaker_open, timeout, exit …
    #[arg(long, value_name = "REASON", default_value = "", hide_default_value = true)]
    reason: String,
    /// Only runs that this made: schedule, manual, backfill, catch_up, after; may be given several times
    #[arg(long = "cause", value_name = "CAUSE", value_delimiter = ',', value_parser = cause)]
    causes: Vec<i32>,
    /// Only runs of jobs that have this label now; may be given several times, all must match
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Only runs of which an attempt was with this worker
    #[arg(long, value_name = "WORKER", default_value = "", hide_default_value = true)]
    worker: String,
    /// Only runs that took so long at least, from the start of the first attempt to the end or to now
    #[arg(long, value_name = "DURATION", value_parser = span)]
    min_duration: Option<Duration>,
    /// Only runs of this backfill
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    backfill: u64,
    /// Only runs of this chain: the first run and all that came of it
    #[arg(long, value_name = "RUN_ID", default_value = "", hide_default_value = true)]
    chain: String,
    /// Only the parts of this run of a job with `every_node`: one for each worker that matched
    #[arg(long, value_name = "RUN_ID", default_value = "", hide_default_value = true)]
    parent: String,
    /// Only runs scheduled at this instant or later (RFC 3339)
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    from: Option<Timestamp>,
    /// Only runs scheduled before this instant (RFC 3339)
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    to: Option<Timestamp>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    list: ListFlags,
}

fn state(text: &str) -> Result<i32, String> {
    word::number::<RunState>(text).ok_or_else(|| format!("expected one of {}", word::choices::<RunState>()))
}

fn cause(text: &str) -> Result<i32, String> {
    word::number::<Cause>(text).ok_or_else(|| format!("expected one of {}", word::choices::<Cause>()))
}

pub(super) async fn carry_out(
    command: RunCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = context.client()?;
    match command {
        RunCommand::List(args) => list(args, context, printer).await,
        RunCommand::Get { run_id, read } => {
            let run = client.get_run(GetRunRequest { run_id, stale: read.stale }).await?;
            print_run(&run, printer)
        }
        RunCommand::Watch { run_id } => watch(&client, run_id, printer).await,
        RunCommand::Logs(args) => logs::carry_out(args, context, printer).await,
        RunCommand::Cancel(args) => cancel(args, context, printer).await,
        RunCommand::Retry { run_id, params, wait, write: WriteFlags { reason, identity } } => {
            let (actor, operation_id) = (identity.actor(), identity.operation_id);
            let params = params.into_iter().collect();
            let earlier = client.get_run(GetRunRequest { run_id: run_id.clone(), stale: false }).await;
            let request = RetryRunRequest { run_id, params, operation_id, actor, reason };
            let run = client.retry_run(request).await?;
            if earlier.is_ok_and(|earlier| earlier.reason == Reason::Lost.as_str()) {
                printer.note("nobody knows what the lost run did; if it had its effect, this one doubles it");
            }
            job::made(&client, run, wait, printer).await
        }
        RunCommand::Explain { run_id, read } => {
            let explanation = client.explain_run(ExplainRunRequest { run_id, stale: read.stale }).await?;
            print_explanation(&explanation, printer)
        }
    }
}

async fn list(args: ListArgs, context: &Context, printer: &mut Printer) -> Result<(), Failure> {
    let ListFlags { all_namespaces, read } = args.list;
    let request = ListRunsRequest {
        namespace: context.namespace_or_all(all_namespaces),
        job: args.job,
        states: args.states,
        from: args.from.map(write),
        to: args.to.map(write),
        stale: read.stale,
        reason: args.reason,
        causes: args.causes,
        labels: args.labels.into_iter().collect(),
        worker: args.worker,
        min_duration: args.min_duration.map(pb_span::write),
        backfill: args.backfill,
        chain_id: args.chain,
        parent: args.parent,
        ..ListRunsRequest::default()
    };
    let found = paging::runs(&context.client()?, request, args.limit as usize).await?;
    printer.list(&found, &found.runs, |wide| tables::runs(&found.runs, wide))?;
    if !found.next_page_token.is_empty() {
        printer.note(&format!("there are more than {} runs; --limit shows more", args.limit));
    }
    Ok(())
}

/// One run by its id, or all that fit.
async fn cancel(args: CancelArgs, context: &Context, printer: &mut Printer) -> Result<(), Failure> {
    let CancelArgs { run_id, job, labels, backfill, chain, write: WriteFlags { reason, identity } } = args;
    let (actor, operation_id) = (identity.actor(), identity.operation_id);
    let client = context.client()?;
    if let Some(run_id) = run_id {
        let run = client.cancel_run(CancelRunRequest { run_id, operation_id, actor, reason }).await?;
        return printer.object(&run, |wide| tables::runs(std::slice::from_ref(&run), wide));
    }
    let request = CancelRunsRequest {
        namespace: context.global.namespace.clone(),
        job: job.unwrap_or_default(),
        labels: labels.into_iter().collect(),
        backfill: backfill.unwrap_or(0),
        chain_id: chain.unwrap_or_default(),
        operation_id,
        actor,
        reason,
    };
    let answer = client.cancel_runs(request).await?;
    printer.list(&answer, &answer.run_ids, |_| tables::names("RUN ID", &answer.run_ids))?;
    printer.note(&match answer.run_ids.len() {
        1 => "1 run is cancelled".to_owned(),
        many => format!("{many} runs are cancelled"),
    });
    Ok(())
}

/// Who is at a task, behind its id.
fn standing(task: &TaskStanding) -> String {
    let again = match task.retries {
        0 => String::new(),
        1 => ", put off by itself once".to_owned(),
        many => format!(", put off by itself {many} times"),
    };
    match (task.by.as_str(), task.begun) {
        ("", _) if task.expires_at.is_some() => {
            format!(", expires at {}", tables::at(task.expires_at.as_ref()))
        }
        ("", _) => String::new(),
        (by, true) => format!(", run by {by}{again}"),
        (by, false) => format!(", put off on {by}{again}: {}", task.error),
    }
}

fn print_run(run: &Run, printer: &mut Printer) -> Result<(), Failure> {
    printer.object(run, |_| tables::run(run))?;
    if matches!(printer.output(), Output::Json | Output::Jsonl | Output::Yaml) || run.attempts.is_empty() {
        return Ok(());
    }
    printer.line("")?;
    printer.table(tables::attempts(run))?;
    for attempt in run.attempts.iter().filter(|attempt| !attempt.task_id.is_empty()) {
        let standing = attempt.task.as_ref().map(standing).unwrap_or_default();
        printer.line(&format!("task of attempt {}: {}{standing}", attempt.number, attempt.task_id))?;
    }
    for attempt in run.attempts.iter().filter(|attempt| !attempt.result.is_empty()) {
        printer.line("")?;
        printer.line(&format!("result of attempt {}:", attempt.number))?;
        printer.line(&attempt.result)?;
    }
    for attempt in run.attempts.iter().filter(|attempt| !attempt.output.is_empty()) {
        let cut = if attempt.output_truncated { ", its end" } else { "" };
        printer.line("")?;
        printer.line(&format!("output of attempt {}{cut}:", attempt.number))?;
        printer.line(attempt.output.trim_end_matches('\n'))?;
    }
    Ok(())
}

/// Prints an answer to "why".
pub(super) fn print_explanation(explanation: &Explanation, printer: &mut Printer) -> Result<(), Failure> {
    match printer.output() {
        Output::Json => printer.json(explanation),
        Output::Jsonl => printer.json_line(explanation),
        Output::Yaml => printer.yaml(explanation),
        Output::Table | Output::Wide => {
            tables::explanation(explanation).iter().try_for_each(|line| printer.line(line))
        }
    }
}

/// Each change on a line of its own, at once, for it is read while it happens; YAML as documents.
async fn watch(client: &Client, run_id: String, printer: &mut Printer) -> Result<(), Failure> {
    let mut watch = client.watch_run(run_id);
    let mut last = None;
    while let Some(run) = watch.next().await? {
        match printer.output() {
            Output::Table | Output::Wide => printer.line(&tables::change(&run))?,
            Output::Json | Output::Jsonl => printer.json_line(&run)?,
            Output::Yaml => {
                printer.line("---")?;
                printer.yaml(&run)?;
            }
        }
        printer.flush()?;
        last = Some(run);
    }
    last.map_or(Ok(()), |run| verdict(&run))
}

/// Waits until a run has ended.
pub(super) async fn wait(client: &Client, run: Run, printer: &mut Printer) -> Result<Run, Failure> {
    if is_ended(&run) {
        return Ok(run);
    }
    let mut watch = client.watch_run(run.run_id.clone());
    let id = run.run_id.clone();
    let ended = async {
        let mut last = run;
        while let Some(run) = watch.next().await? {
            last = run;
        }
        Ok(last)
    };
    let told = async {
        tokio::time::sleep(TELLS_AFTER).await;
        tell_why_it_waits(client, id, printer).await;
        std::future::pending().await
    };
    tokio::select! {
        ended = ended => ended,
        never = told => never,
    }
}

/// What a run waits for that has not begun; no more than help, so trouble on the way is passed over.
async fn tell_why_it_waits(client: &Client, run_id: String, printer: &mut Printer) {
    let read = GetRunRequest { run_id: run_id.clone(), stale: true };
    if !client.get_run(read).await.is_ok_and(|run| run.state() == RunState::Pending) {
        return;
    }
    if let Ok(why) = client.explain_run(ExplainRunRequest { run_id, stale: false }).await {
        tables::explanation(&why).iter().for_each(|line| printer.note(line));
    }
}

/// Whether an ended run is a success of the command that waited for it.
pub(super) fn verdict(run: &Run) -> Result<(), Failure> {
    if run.state() == RunState::Succeeded { Ok(()) } else { Err(Failure::of_run(run)) }
}
