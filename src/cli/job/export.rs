//! `job export`: jobs as job files, or as another scheduler's definitions.

use clap::{Args, ValueEnum};

use super::super::args::{ListFlags, Output};
use super::super::printer::Printer;
use super::super::{Context, Failure};
use super::namespace;
use crate::client::paging;
use crate::import::Loss;
use crate::import::back::{Exported, Format, Options, export};
use crate::pb::v1::{GetJobRequest, JobSpec, ListJobsRequest};

/// Jobs that are written at most.
const EXPORT_MAX: usize = 100_000;

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// The jobs. Default: all of the namespace
    names: Vec<String>,
    /// Whose definitions are written; what they cannot say is told on stderr
    #[arg(long, value_enum, default_value = "job-file")]
    format: FormatArg,
    /// With --format kubernetes: the image of the container in which commands run
    #[arg(long, value_name = "IMAGE", required_if_eq("format", "kubernetes"))]
    image: Option<String>,
    /// With --format crontab: the zone of the machine that it is for
    #[arg(long, value_name = "TZ", default_value = "UTC")]
    timezone: String,
    /// Ends with exit code 1 if anything is lost or approximated; what can be written is written all the same
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    list: ListFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// What `job apply` reads
    JobFile,
    /// Lines of crontab(5), as a user has it
    Crontab,
    /// CronJobs
    Kubernetes,
}

pub(super) async fn carry_out(
    args: ExportArgs,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let format = match args.format {
        FormatArg::JobFile => None,
        FormatArg::Crontab => Some(Format::Crontab),
        FormatArg::Kubernetes => Some(Format::Kubernetes),
    };
    let options = Options { timezone: args.timezone, image: args.image.unwrap_or_default() };
    let specs = read(args.names, &args.list, context).await?;
    match format {
        Some(format) => foreign(export(format, &specs, &options), args.strict, printer),
        None => job_files(&specs, printer),
    }
}

async fn read(names: Vec<String>, flags: &ListFlags, context: &Context) -> Result<Vec<JobSpec>, Failure> {
    let client = context.client()?;
    let stale = flags.read.stale;
    let mut specs: Vec<JobSpec> = Vec::new();
    if names.is_empty() {
        let namespace = context.namespace_or_all(flags.all_namespaces);
        let request = ListJobsRequest { namespace, stale, ..ListJobsRequest::default() };
        let found = paging::jobs(&client, request, EXPORT_MAX).await?;
        specs.extend(found.jobs.into_iter().filter_map(|job| job.spec));
        if !found.next_page_token.is_empty() {
            let message = format!("there are more than {EXPORT_MAX} jobs; export by namespace or by name");
            return Err(Failure::Usage { message });
        }
    }
    for name in names {
        let request = GetJobRequest { namespace: namespace(context), name, stale };
        specs.extend(client.get_job(request).await?.spec);
    }
    Ok(specs)
}

/// Writes specifications alone, so that what is written can be applied.
fn job_files(specs: &[JobSpec], printer: &mut Printer) -> Result<(), Failure> {
    match printer.output() {
        Output::Json => printer.json(&specs),
        Output::Jsonl => specs.iter().try_for_each(|spec| printer.json_line(spec)),
        Output::Table | Output::Wide | Output::Yaml => {
            for (number, spec) in specs.iter().enumerate() {
                if number > 0 {
                    printer.line("---")?;
                }
                printer.yaml(spec)?;
            }
            Ok(())
        }
    }
}

fn foreign(exported: Exported, is_strict: bool, printer: &mut Printer) -> Result<(), Failure> {
    let Exported { text, jobs, findings } = exported;
    if !text.is_empty() {
        printer.line(text.trim_end())?;
    }
    for finding in &findings {
        printer.finding(&format!("{}: {}: {}", finding.job, finding.loss.word(), finding.what));
    }
    let lost = findings.iter().filter(|finding| finding.loss == Loss::Lost).count();
    let approximated = findings.len() - lost;
    if is_strict && !findings.is_empty() {
        return Err(Failure::Import { jobs, errors: 0, lost, approximated });
    }
    printer.note(&format!("{jobs} jobs; {lost} losses, {approximated} approximations"));
    Ok(())
}
