//! `job apply` and `job diff`: job files to the cluster, with answers in terms of the files.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::args::{Output, WriteFlags, pair};
use super::job::prune::prune;
use super::printer::Printer;
use super::{Context, Failure, tables};
use crate::client::Error;
use crate::client::job_file::{self, BYTES_MAX, Document, Format};
use crate::pb::path::{self, Step};
use crate::pb::v1::{AppliedJob, ApplyJobsRequest, ApplyJobsResponse};

/// The pause between two looks at how far the nodes are.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Files of one command at most, those in folders included.
const FILES_MAX: usize = 10_000;
/// What a file in a folder must end in to be read.
const ENDINGS: [&str; 5] = ["yaml", "yml", "json", "jsonl", "toml"];

const EXAMPLES: &str = "\
Examples:
  chronarch job apply -f isin-download.yaml
  chronarch job apply -f jobs/ --dry-run       every job file in a folder; nothing is written
  chronarch job apply -f jobs/ --wait          until every node that answers has them
  chronarch job apply -f jobs/ --prune         and delete what is in none of the files
  generate-jobs | chronarch job apply -f -     from standard input
  chronarch -n staging job apply -f jobs.yaml  for jobs that name no namespace";

const DIFF_EXAMPLES: &str = "\
Examples:
  chronarch job diff -f jobs/
  chronarch job diff -f jobs.yaml -o json | jq '.results[] | select(.change != \"unchanged\")'";

/// Which files.
#[derive(Debug, Args)]
struct FileFlags {
    /// Job files: YAML with one or several documents, JSON, or TOML, told by the file's ending; a
    /// folder stands for the job files in it, `-` for standard input
    #[arg(short, long = "file", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
}

/// Arguments of `job diff`.
#[derive(Debug, Args)]
#[command(after_long_help = DIFF_EXAMPLES)]
pub(super) struct DiffArgs {
    #[command(flatten)]
    files: FileFlags,
}

/// Arguments of `job apply`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    files: FileFlags,
    /// Let the cluster check the jobs and say what would change, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Return only when every node that answers has applied the jobs, so that each shows them even to `--stale`
    /// reads; exit code 1 when one has not within the timeout
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Afterwards delete the jobs that are in none of the files, of the namespaces that the files name. Live runs go on
    /// to their end
    #[arg(long)]
    prune: bool,
    /// With --prune: only jobs with this label; may be given several times, all must match
    #[arg(long = "prune-label", value_name = "KEY=VALUE", value_parser = pair, requires = "prune")]
    prune_labels: Vec<(String, String)>,
    #[command(flatten)]
    write: WriteFlags,
}

pub(super) async fn carry_out(
    args: ApplyArgs,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let request = ApplyJobsRequest {
        dry_run: args.dry_run,
        actor: args.write.identity.actor(),
        operation_id: args.write.identity.operation_id,
        reason: args.write.reason,
        ..ApplyJobsRequest::default()
    };
    let (request, answer) = ask(&args.files, request, context).await?;
    printer.list(&answer, &answer.results, |_| tables::applied(&answer.results))?;
    warn(&answer, printer);
    if args.prune {
        prune(&request.jobs, &args.prune_labels, &request, context, printer).await?;
    }
    if args.dry_run {
        printer.note("dry run: nothing was written");
    }
    if args.wait {
        printer.flush()?;
        wait(answer.applied_index, context, printer).await?;
    }
    Ok(())
}

/// Waits until every node that answers has applied the log up to `index`.
async fn wait(index: u64, context: &Context, printer: &mut Printer) -> Result<(), Failure> {
    let client = context.client()?;
    let deadline = Instant::now() + context.global.timeout;
    loop {
        let (mut behind, mut silent, mut there) = (Vec::new(), Vec::new(), 0);
        for (endpoint, status) in client.statuses().await {
            match status {
                Ok(status) if status.applied_index < index => behind.push(endpoint.to_string()),
                Ok(_) => there += 1,
                Err(_) => silent.push(endpoint.to_string()),
            }
        }
        if behind.is_empty() && there > 0 {
            if !silent.is_empty() {
                printer.note(&format!("not waited for {}, which does not answer", silent.join(", ")));
            }
            return Ok(());
        }
        if Instant::now() >= deadline {
            let none = behind.is_empty();
            return Err(if none {
                Failure::NoEndpoint
            } else {
                Failure::Behind { endpoints: behind, index }
            });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Says what `apply` would do, and changes nothing.
pub(super) async fn diff(args: DiffArgs, context: &Context, printer: &mut Printer) -> Result<(), Failure> {
    let request = ApplyJobsRequest { dry_run: true, ..ApplyJobsRequest::default() };
    let (_, answer) = ask(&args.files, request, context).await?;
    match printer.output() {
        Output::Table | Output::Wide => {
            tables::differences(&answer.results).iter().try_for_each(|line| printer.line(line))
        }
        Output::Json | Output::Jsonl | Output::Yaml => {
            printer.list(&answer, &answer.results, |_| tables::applied(&answer.results))
        }
    }?;
    warn(&answer, printer);
    Ok(())
}

/// Says what is probably not meant.
fn warn(answer: &ApplyJobsResponse, printer: &mut Printer) {
    for AppliedJob { namespace, name, warnings, .. } in &answer.results {
        for warning in warnings {
            printer.note(&format!("job {namespace}/{name}: {warning}"));
        }
    }
}

/// Puts the jobs of the files into a request and sends it; both, and what came back.
async fn ask(
    FileFlags { files }: &FileFlags,
    mut request: ApplyJobsRequest,
    context: &Context,
) -> Result<(ApplyJobsRequest, ApplyJobsResponse), Failure> {
    let documents = read_all(files, &context.global.namespace)?;
    request.jobs = documents.iter().map(|document| document.spec.clone()).collect();
    let answer = context.client()?.apply_jobs(request.clone()).await;
    let answer = answer.map_err(|error| in_terms_of_files(error, &documents))?;
    Ok((request, answer))
}

/// Reads the files and gives jobs without a namespace that of the command line.
fn read_all(files: &[PathBuf], namespace: &str) -> Result<Vec<Document>, Failure> {
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for path in expand(files)? {
        let (name, text) = read_text(&path)?;
        let format = if name == "-" { Format::of_text(&text) } else { Format::of_name(&name) };
        match job_file::read(&name, format, &text) {
            Ok(found) => documents.extend(found),
            Err(found) => problems.extend(found),
        }
    }
    for document in &mut documents {
        if document.spec.namespace.is_empty() {
            document.spec.namespace = namespace.to_owned();
        }
    }
    problems.extend(job_file::doubled(&documents));
    if problems.is_empty() { Ok(documents) } else { Err(Failure::JobFiles { problems }) }
}

/// The files themselves and, for folders, the job files in them by name.
pub(super) fn expand(files: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut expanded = Vec::new();
    for path in files {
        if !path.is_dir() {
            expanded.push(path.clone());
            continue;
        }
        let failure = |source| Failure::File { path: path.display().to_string(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(path).map_err(failure)? {
            let file = entry.map_err(failure)?.path();
            let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if ENDINGS.contains(&ending) && file.is_file() {
                found.push(file);
            }
        }
        if found.is_empty() {
            return Err(failure(io::Error::new(io::ErrorKind::NotFound, "the folder holds no job file")));
        }
        found.sort();
        expanded.append(&mut found);
    }
    if expanded.len() > FILES_MAX {
        let message = format!("{} files given, at most {FILES_MAX} are read at a time", expanded.len());
        return Err(Failure::Usage { message });
    }
    Ok(expanded)
}

/// A file's name as it is shown, and its text; what is longer than the limit is not read to its
/// end, for the reader refuses it by its length.
pub(super) fn read_text(path: &Path) -> Result<(String, String), Failure> {
    let name = path.display().to_string();
    let failure = |source| Failure::File { path: name.clone(), source };
    let limit = BYTES_MAX as u64 + 1;
    let mut text = String::new();
    if name == "-" {
        io::stdin().lock().take(limit).read_to_string(&mut text).map_err(failure)?;
    } else {
        let file = fs::File::open(path).map_err(failure)?;
        file.take(limit).read_to_string(&mut text).map_err(failure)?;
    }
    Ok((name, text))
}

/// Says where in the files is what the cluster says about a field: `jobs[2].schedule.cron: …` is about
/// the third job of the request. Problems come in the order of the files, each with its hint below it.
fn in_terms_of_files(error: Error, documents: &[Document]) -> Failure {
    let place = |line: &str| {
        let (steps, said) = path::read(line);
        let [Step::Key(jobs), Step::Element(number), field @ ..] = steps.as_slice() else { return None };
        let place = documents.get(*number).filter(|_| jobs == "jobs")?.place(field);
        let line = format!("{place}: {said}");
        Some(((*number, place.position), line))
    };
    let told = |message: String| {
        let mut problems: Vec<(Option<_>, String)> = Vec::new();
        for line in message.lines() {
            match (place(line), problems.last_mut()) {
                (Some((at, line)), _) => problems.push((Some(at), line)),
                (None, Some((_, problem))) if line.starts_with("hint: ") => {
                    problem.push('\n');
                    problem.push_str(line);
                }
                (None, _) => problems.push((None, line.to_owned())),
            }
        }
        problems.sort_by_key(|(at, _)| (at.is_none(), *at));
        problems.into_iter().map(|(_, problem)| problem).collect::<Vec<_>>().join("\n")
    };
    let error = match error {
        Error::InvalidArgument { message, hint } => Error::InvalidArgument { message: told(message), hint },
        Error::Refused { message, hint } => Error::Refused { message: told(message), hint },
        error => error,
    };
    Failure::Call(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_without_a_namespace_gets_that_of_the_command_line() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("b.yaml"), "name: b\n---\nname: c\nnamespace: own\n").expect("written");
        fs::write(folder.path().join("a.toml"), "name = \"a\"\n").expect("written");
        fs::write(folder.path().join("notes.txt"), "no job").expect("written");
        let documents = read_all(&[folder.path().to_owned()], "staging").expect("three jobs");
        let names: Vec<_> =
            documents.iter().map(|d| (d.spec.namespace.as_str(), d.spec.name.as_str())).collect();
        assert_eq!(names, [("staging", "a"), ("staging", "b"), ("own", "c")]);
    }

    #[test]
    fn problems_of_all_files_are_told_together() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [("a.yaml", "name: a\nx: 1\n"), ("b.yaml", "name: b\ny: 1\n")] {
            fs::write(folder.path().join(name), text).expect("written");
        }
        let failure = read_all(&[folder.path().to_owned()], "default").expect_err("two problems");
        assert!(matches!(&failure, Failure::JobFiles { problems } if problems.len() == 2), "{failure}");
        let missing = read_all(&[folder.path().join("none.yaml")], "default").expect_err("no file");
        assert!(matches!(missing, Failure::File { .. }), "{missing}");
    }

    #[test]
    fn what_the_cluster_says_about_a_job_names_its_place() {
        let text = "name: a\n---\nname: b\nschedule:\n  timezone: UTC\n  cron: x\n";
        let documents = job_file::read("a.yaml", Format::Yaml, text).expect("two jobs");
        let message =
            "jobs[1].schedule.cron: no such day\nhint: none\njobs[1].schedule.timezone: Mars\njobs[7]: ?\njobs[0]: too large\nand 3 more".to_owned();
        let failure = in_terms_of_files(Error::InvalidArgument { message, hint: None }, &documents);
        assert_eq!(
            failure.to_string(),
            "a.yaml:1:1: too large\n\
             a.yaml:5:13: schedule.timezone: Mars\n\
             a.yaml:6:9: schedule.cron: no such day\n\
             hint: none\n\
             jobs[7]: ?\n\
             and 3 more"
        );
    }
}
