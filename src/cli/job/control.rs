//! Commands that steer jobs: pauses, past ranges, earlier definitions.

use clap::Args;

use super::{namespace, print_changed};
use crate::cli::args::{ReadFlags, WriteFlags, instant, pair};
use crate::cli::printer::Printer;
use crate::cli::{Context, Failure, tables};
use crate::pb::instant::{read as read_instant, write};
use crate::pb::v1::{
    ApplyJobsRequest, BackfillJobRequest, ChangedJobs, ListVersionsRequest, PauseJobRequest,
    PauseJobsRequest, ResumeJobRequest, ResumeJobsRequest,
};
use crate::state::time::Timestamp;

/// One job by its name, or all that have some labels.
#[derive(Debug, Args)]
struct Which {
    /// The job
    #[arg(required_unless_present = "labels", conflicts_with = "labels")]
    name: Option<String>,
    /// All jobs of the namespace with this label instead of one; may be given several times, all must match
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
}

/// Arguments of `job pause`.
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    which: Which,
    /// Let the job go on by itself at this instant (RFC 3339); of a paused job it is changed. Default: never
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    until: Option<Timestamp>,
    #[command(flatten)]
    write: WriteFlags,
}

/// Arguments of `job resume`.
#[derive(Debug, Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    write: WriteFlags,
}

/// Arguments of `job backfill`.
#[derive(Debug, Args)]
#[command(after_long_help = BACKFILL_EXAMPLES)]
pub(crate) struct BackfillArgs {
    /// The job
    name: String,
    /// Occurrences at this instant or later (RFC 3339)
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    from: Timestamp,
    /// Occurrences before this instant (RFC 3339). Default: now
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    to: Option<Timestamp>,
    /// Only show which occurrences would get a run
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    write: WriteFlags,
}

const BACKFILL_EXAMPLES: &str = "\
Examples:
  chronarch job backfill nightly --from 2026-03-01T00:00:00Z --to 2026-03-08T00:00:00Z --dry-run
  chronarch run list --backfill 4096
  chronarch run cancel --backfill 4096";

/// Arguments of `job rollback`.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The job
    name: String,
    /// The version to go back to, as `job versions` shows it. Default: the one before the one in force
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,
    #[command(flatten)]
    write: WriteFlags,
}

pub(super) async fn pause(args: PauseArgs, context: &Context, printer: &mut Printer) -> Result<(), Failure> {
    let PauseArgs { which: Which { name, labels }, until, write: WriteFlags { reason, identity } } = args;
    let (namespace, until) = (namespace(context), until.map(write));
    let (actor, operation_id) = (identity.actor(), identity.operation_id);
    let client = context.client()?;
    match name {
        Some(name) => {
            let request = PauseJobRequest { namespace, name, operation_id, actor, reason, until };
            print_changed(&client.pause_job(request).await?, printer)
        }
        None => {
            let labels = labels.into_iter().collect();
            let request = PauseJobsRequest { namespace, labels, operation_id, actor, reason, until };
            print_names(&client.pause_jobs(request).await?, printer)
        }
    }
}

pub(super) async fn resume(
    args: ResumeArgs,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let ResumeArgs { which: Which { name, labels }, write: WriteFlags { reason, identity } } = args;
    let (namespace, actor, operation_id) = (namespace(context), identity.actor(), identity.operation_id);
    let client = context.client()?;
    match name {
        Some(name) => {
            let request = ResumeJobRequest { namespace, name, operation_id, actor, reason };
            print_changed(&client.resume_job(request).await?, printer)
        }
        None => {
            let labels = labels.into_iter().collect();
            let request = ResumeJobsRequest { namespace, labels, operation_id, actor, reason };
            print_names(&client.resume_jobs(request).await?, printer)
        }
    }
}

fn print_names(changed: &ChangedJobs, printer: &mut Printer) -> Result<(), Failure> {
    printer.list(changed, &changed.jobs, |_| tables::names("JOB", &changed.jobs))?;
    printer.note(&match changed.jobs.len() {
        1 => "1 job was changed".to_owned(),
        many => format!("{many} jobs were changed"),
    });
    Ok(())
}

pub(super) async fn backfill(
    args: BackfillArgs,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let BackfillArgs { name, from, to, dry_run, write: WriteFlags { reason, identity } } = args;
    let request = BackfillJobRequest {
        namespace: namespace(context),
        name,
        from: Some(write(from)),
        to: to.map(write),
        actor: identity.actor(),
        operation_id: identity.operation_id,
        reason,
        dry_run,
    };
    let answer = context.client()?.backfill_job(request).await?;
    let instants: Vec<String> = answer.scheduled_at.iter().map(|at| read_instant(at).to_string()).collect();
    printer.list(&answer, &instants, |_| tables::names("SCHEDULED", &instants))?;
    let present = match answer.present {
        0 => String::new(),
        more => format!("; {more} of the range have a run already"),
    };
    printer.note(&match (dry_run, answer.backfill) {
        (true, _) => format!("dry run: {} would get a run{present}", instants.len()),
        (false, 0) => format!("nothing is missing{present}"),
        (false, number) => {
            format!("backfill {number}: {} runs wait for their turn{present}", instants.len())
        }
    });
    Ok(())
}

pub(super) async fn versions(
    name: String,
    read: ReadFlags,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let request = ListVersionsRequest { namespace: namespace(context), name, stale: read.stale };
    let answer = context.client()?.list_versions(request).await?;
    printer.list(&answer, &answer.versions, |_| tables::versions(&answer.versions))
}

pub(super) async fn rollback(
    args: RollbackArgs,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let RollbackArgs { name, to, write: WriteFlags { reason, identity } } = args;
    let client = context.client()?;
    let request = ListVersionsRequest { namespace: namespace(context), name: name.clone(), stale: false };
    let versions = client.list_versions(request).await?.versions;
    let wanted = match to {
        Some(number) => versions.iter().find(|version| version.version == number),
        None => versions.get(1),
    };
    let Some(wanted) = wanted else {
        let kept: Vec<String> = versions.iter().map(|version| version.version.to_string()).collect();
        return Err(Failure::NoVersion { name, kept: kept.join(", ") });
    };
    let reason = if reason.is_empty() { format!("rollback to version {}", wanted.version) } else { reason };
    let request = ApplyJobsRequest {
        jobs: wanted.spec.iter().cloned().collect(),
        actor: identity.actor(),
        operation_id: identity.operation_id,
        reason,
        ..ApplyJobsRequest::default()
    };
    let answer = client.apply_jobs(request).await?;
    printer.list(&answer, &answer.results, |_| tables::applied(&answer.results))
}
