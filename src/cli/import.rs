//! `import`: another scheduler's definitions as job files, offline.
//!
//! Job files go to stdout, each under comments that say where it comes from and what was decided for it; what was
//! not carried over as it is goes to stderr, a line each, `FILE:LINE: LOSS: …`. The exit code is 1 where something could
//! not be understood, and with `--strict` also where something is lost or approximated.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};

use clap::{Args, ValueEnum};

use super::args::Output;
use super::printer::Printer;
use super::{Context, Failure};
use crate::import::celery::{DUMP, REDBEAT_DUMP};
use crate::import::{BYTES_MAX, Draft, Format, Imported, Loss, Options, import};
use crate::pb::v1::JobSpec;

const EXAMPLES: &str = "\
Examples:
  chronarch import crontab /etc/crontab --timezone Europe/Berlin > jobs.yaml
  crontab -l | chronarch import crontab -
  kubectl get cronjobs -A -o yaml | chronarch import kubernetes - --strict > jobs.yaml
  chronarch import systemd /etc/systemd/system/*.{timer,service} --timezone Europe/Berlin
  chronarch job apply -f jobs.yaml --dry-run";

/// The examples, and for Celery the commands whose output it reads.
fn examples() -> String {
    format!(
        "{EXAMPLES}\n\nCelery: the schedule of an app, as `celery -A proj.celery beat` has it; the tables of \
         django-celery-beat; the entries of RedBeat:\n{DUMP}\nmanage.py dumpdata django_celery_beat --indent 1 > \
         beat.json\n{REDBEAT_DUMP}\nchronarch import celery beat.json > jobs.yaml"
    )
}

#[derive(Debug, Args)]
#[command(after_long_help = examples())]
pub(super) struct ImportArgs {
    /// Whose definitions they are
    format: FormatArg,
    /// The files; `-` reads standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Ends with exit code 1 if anything is lost or approximated; the job files are written all the same
    #[arg(long)]
    strict: bool,
    /// The zone of the machine whose definitions they are, where they do not say it. Default: UTC
    #[arg(long, value_name = "TZ")]
    timezone: Option<String>,
    /// Whether the lines of a crontab name a user before the command: `system` they do, `user` they do not. Default:
    /// they do in /etc/crontab and in the files of a folder cron.d
    #[arg(long, value_name = "FORM")]
    crontab_form: Option<CrontabForm>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    /// crontab(5), of Debian's cron and of cronie
    Crontab,
    /// Manifests with CronJobs, several a file
    Kubernetes,
    /// Timers, with the services that they start among the files
    Systemd,
    /// Jobs of dkron, as its API writes them: `curl HOST:8080/v1/jobs`
    Dkron,
    /// Tasks as `schtasks /query /xml` and the Task Scheduler export them, in UTF-8 or UTF-16
    WindowsTask,
    /// Jobs and triggers of Quartz, as its XML plugin reads them (job-scheduling-data)
    Quartz,
    /// Periodic tasks of Celery: a dump of an app, of django-celery-beat or of RedBeat, as the examples below write them
    Celery,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CrontabForm {
    /// As `crontab -l` shows it
    User,
    /// As /etc/crontab and the files of /etc/cron.d
    System,
}

pub(super) fn carry_out(args: &ImportArgs, context: &Context, printer: &mut Printer) -> Result<(), Failure> {
    let files: Vec<(String, String)> = args.files.iter().map(|name| read(name)).collect::<Result<_, _>>()?;
    let format = match args.format {
        FormatArg::Crontab => Format::Crontab,
        FormatArg::Kubernetes => Format::Kubernetes,
        FormatArg::Systemd => Format::Systemd,
        FormatArg::Dkron => Format::Dkron,
        FormatArg::WindowsTask => Format::WindowsTask,
        FormatArg::Quartz => Format::Quartz,
        FormatArg::Celery => Format::Celery,
    };
    let namespace = match context.global.namespace.as_str() {
        // What no file says means the default one.
        "default" => String::new(),
        other => other.to_owned(),
    };
    let names_users = args.crontab_form.map(|form| matches!(form, CrontabForm::System));
    let options = Options { timezone: args.timezone.clone(), namespace, names_users };
    let Imported { drafts, findings } = import(format, &files, &options);
    write(&drafts, printer)?;
    let mut counts: BTreeMap<Loss, usize> = BTreeMap::new();
    for finding in &findings {
        let place = &finding.place;
        for line in finding.what.lines() {
            printer.finding(&format!("{}:{}: {}: {line}", place.file, place.line, finding.loss.word()));
        }
        *counts.entry(finding.loss).or_default() += 1;
    }
    let count = |loss| counts.get(&loss).copied().unwrap_or(0);
    let (errors, lost, approximated) = (count(Loss::Unread), count(Loss::Lost), count(Loss::Approximated));
    let jobs = drafts.len();
    if errors > 0 || (args.strict && lost + approximated > 0) {
        return Err(Failure::Import { jobs, errors, lost, approximated });
    }
    printer.note(&format!("{jobs} jobs; {lost} losses, {approximated} approximations"));
    Ok(())
}

/// The text of a file, and its name. Bytes that are no UTF-8 are shown as such by what refuses them.
fn read(name: &str) -> Result<(String, String), Failure> {
    let failure = |source| Failure::File { path: name.to_owned(), source };
    let mut bytes = Vec::new();
    let limit = BYTES_MAX as u64 + 1;
    if name == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failure)?;
    } else {
        fs::File::open(name).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(failure)?;
    }
    let text = decode(bytes).ok_or_else(|| {
        failure(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is neither UTF-8 nor UTF-16 with a mark",
        ))
    })?;
    Ok((name.to_owned(), text))
}

/// UTF-8, or UTF-16 with a byte order mark, as Windows exports it.
fn decode(bytes: Vec<u8>) -> Option<String> {
    let unit: fn([u8; 2]) -> u16 = match bytes.get(..2) {
        Some([0xff, 0xfe]) => u16::from_le_bytes,
        Some([0xfe, 0xff]) => u16::from_be_bytes,
        _ => {
            let text = String::from_utf8(bytes).ok()?;
            return Some(text.strip_prefix('\u{feff}').map(ToOwned::to_owned).unwrap_or(text));
        }
    };
    let (units, rest) = bytes[2..].as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|pair| unit(*pair)).collect();
    String::from_utf16(&units).ok().filter(|_| rest.is_empty())
}

fn write(drafts: &[Draft], printer: &mut Printer) -> Result<(), Failure> {
    let specs = || drafts.iter().map(|draft| &draft.spec);
    match printer.output() {
        Output::Json => printer.json(&specs().collect::<Vec<&JobSpec>>()),
        Output::Jsonl => specs().try_for_each(|spec| printer.json_line(spec)),
        Output::Table | Output::Wide | Output::Yaml => {
            for (number, draft) in drafts.iter().enumerate() {
                if number > 0 {
                    printer.line("---")?;
                }
                printer.line(&format!("# {}:{}", draft.place.file, draft.place.line))?;
                for choice in &draft.choices {
                    printer.line(&format!("# {}", choice.replace(['\n', '\r'], " ")))?;
                }
                printer.yaml(&draft.spec)?;
            }
            Ok(())
        }
    }
}
