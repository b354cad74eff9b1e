//! `calendar`: days and hours that the schedules of all jobs share.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::apply::{expand, read_text};
use super::args::{Output, ReadFlags, WriteFlags};
use super::printer::Printer;
use super::{Context, Failure, tables};
use crate::client::job_file::{self, Document, Format};
use crate::client::{Client, Error, paging};
use crate::import::ical;
use crate::pb::path;
use crate::pb::v1::{
    Calendar, CalendarSpec, DeleteCalendarRequest, GetCalendarRequest, ListCalendarsRequest,
    SetCalendarRequest, SetCalendarResponse,
};

const EXAMPLES: &str = "\
Examples:
  chronarch calendar apply -f holidays-de.yaml
  chronarch calendar apply --ics holidays.ics --name holidays-de --timezone Europe/Berlin
  chronarch calendar apply -f calendars/ --dry-run
  chronarch calendar get holidays-de -o yaml         as a file again
  chronarch calendar delete holidays-de              refused while a job names it";

#[derive(Debug, Subcommand)]
pub(super) enum CalendarCommand {
    /// Defines calendars, each as a whole
    Apply(ApplyArgs),
    /// Lists calendars
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Shows a calendar; `-o yaml` is a file that can be applied
    Get {
        /// The calendar
        name: String,
        #[command(flatten)]
        read: ReadFlags,
    },
    /// Deletes a calendar that no job names
    Delete {
        /// The calendar
        name: String,
        #[command(flatten)]
        write: WriteFlags,
    },
}

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct ApplyArgs {
    /// Calendar files: YAML with one or several documents, JSON, or TOML, told by the file's ending; a folder stands for
    /// the files in it, `-` for standard input
    #[arg(short, long = "file", value_name = "FILE", num_args = 1.., required_unless_present = "ics")]
    files: Vec<PathBuf>,
    /// A file of iCalendar, whose events become the calendar; what cannot be carried over is an error with its line
    #[arg(long, value_name = "FILE", conflicts_with = "files", requires = "name")]
    ics: Option<PathBuf>,
    /// With --ics: the name of the calendar
    #[arg(long, value_name = "NAME", requires = "ics")]
    name: Option<String>,
    /// With --ics: the zone of days and times that name none. Default: that of the schedule that asks
    #[arg(long, value_name = "TZ", requires = "ics")]
    timezone: Option<String>,
    /// Let the cluster check the calendars and say what would change, and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    write: WriteFlags,
}

/// A calendar to be defined, and where it comes from.
struct Wanted {
    spec: CalendarSpec,
    source: Source,
}

enum Source {
    File(Box<Document<CalendarSpec>>),
    Events { file: String, lines: Vec<(String, usize)> },
}

impl Source {
    /// What the cluster says of a field, with its place in the file.
    fn placed(&self, line: &str) -> String {
        let (steps, said) = path::read(line);
        match self {
            Self::File(document) => format!("{}: {said}", document.place(&steps)),
            Self::Events { file, lines } => {
                let is_it =
                    |entry: &str| line.strip_prefix(entry).is_some_and(|rest| rest.starts_with(['.', ':']));
                match lines.iter().find(|(entry, _)| is_it(entry)) {
                    Some((_, at)) => format!("{file}:{at}: {line}"),
                    None => format!("{file}: {line}"),
                }
            }
        }
    }

    fn told(&self, message: &str) -> String {
        let line = |line: &str| match line.starts_with("hint: ") {
            true => line.to_owned(),
            false => self.placed(line),
        };
        message.lines().map(line).collect::<Vec<_>>().join("\n")
    }
}

pub(super) async fn carry_out(
    command: CalendarCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    match command {
        CalendarCommand::Apply(args) => apply(args, context, printer).await,
        CalendarCommand::List { limit, read } => {
            let client = context.client()?;
            let request = ListCalendarsRequest { stale: read.stale, ..ListCalendarsRequest::default() };
            let found = paging::calendars(&client, request, limit as usize).await?;
            printer.list(&found, &found.calendars, |wide| tables::calendars(&found.calendars, wide))?;
            if !found.next_page_token.is_empty() {
                printer.note(&format!("there are more than {limit} calendars; --limit shows more"));
            }
            Ok(())
        }
        CalendarCommand::Get { name, read } => {
            let request = GetCalendarRequest { name, stale: read.stale };
            let calendar = context.client()?.get_calendar(request).await?;
            match (printer.output(), &calendar.spec) {
                (Output::Yaml, Some(spec)) => printer.yaml(spec),
                _ => printer.object(&calendar, |_| tables::calendar(&calendar)),
            }
        }
        CalendarCommand::Delete { name, write: WriteFlags { reason, identity } } => {
            let (actor, operation_id) = (identity.actor(), identity.operation_id);
            let told = name.clone();
            let request = DeleteCalendarRequest { name, operation_id, actor, reason };
            let answer = context.client()?.delete_calendar(request).await?;
            match printer.output() {
                Output::Table | Output::Wide => printer.note(&format!("calendar {told} is deleted")),
                Output::Json | Output::Jsonl => printer.json_line(&answer)?,
                Output::Yaml => printer.yaml(&answer)?,
            }
            Ok(())
        }
    }
}

async fn apply(args: ApplyArgs, context: &Context, printer: &mut Printer) -> Result<(), Failure> {
    let wanted = match &args.ics {
        Some(file) => vec![events(file, &args)?],
        None => read_all(&args.files)?,
    };
    let client = context.client()?;
    // All are checked before the first is written.
    if wanted.len() > 1 && !args.dry_run {
        for wanted in &wanted {
            set(&client, wanted, &args, true).await?;
        }
    }
    let mut answers = Vec::with_capacity(wanted.len());
    for wanted in &wanted {
        answers.push(set(&client, wanted, &args, args.dry_run).await?);
    }
    match (printer.output(), answers.as_slice()) {
        (Output::Json, answers) => printer.json(&answers)?,
        (Output::Yaml, answers) => printer.yaml(&answers)?,
        (Output::Table | Output::Wide | Output::Jsonl, answers) => {
            printer.list(&answers, answers, |_| tables::set_calendars(answers))?;
        }
    }
    if args.dry_run {
        printer.note("dry run: nothing was written");
    }
    Ok(())
}

async fn set(
    client: &Client,
    Wanted { spec, source }: &Wanted,
    args: &ApplyArgs,
    dry_run: bool,
) -> Result<SetCalendarResponse, Failure> {
    let WriteFlags { reason, identity } = args.write.clone();
    let request = SetCalendarRequest {
        spec: Some(spec.clone()),
        dry_run,
        actor: identity.actor(),
        operation_id: identity.operation_id,
        reason,
    };
    client.set_calendar(request).await.map_err(|error| {
        Failure::Call(match error {
            Error::InvalidArgument { message, hint } => {
                Error::InvalidArgument { message: source.told(&message), hint }
            }
            error => error,
        })
    })
}

/// The calendars of the files.
fn read_all(files: &[PathBuf]) -> Result<Vec<Wanted>, Failure> {
    let (mut wanted, mut problems): (Vec<Wanted>, _) = (Vec::new(), Vec::new());
    for path in expand(files)? {
        let (name, text) = read_text(&path)?;
        let format = if name == "-" { Format::of_text(&text) } else { Format::of_name(&name) };
        match job_file::read_as::<CalendarSpec>(&name, format, &text) {
            Ok(found) => wanted.extend(found.into_iter().map(|document| Wanted {
                spec: document.spec.clone(),
                source: Source::File(Box::new(document)),
            })),
            Err(found) => problems.extend(found),
        }
    }
    if !problems.is_empty() {
        return Err(Failure::JobFiles { problems });
    }
    let mut names: Vec<&str> = wanted.iter().map(|wanted| wanted.spec.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Failure::Usage { message: format!("calendar {:?} is defined twice", pair[0]) }),
        None => Ok(wanted),
    }
}

/// The calendar of a file of iCalendar.
fn events(file: &Path, args: &ApplyArgs) -> Result<Wanted, Failure> {
    let (file, text) = read_text(file)?;
    let ical::Events { mut spec, lines } = ical::read(&text).map_err(|obstacles| {
        let told: Vec<String> = obstacles.iter().map(|obstacle| format!("{file}:{obstacle}")).collect();
        Failure::Events { problems: told.join("\n") }
    })?;
    spec.name = args.name.clone().unwrap_or_default();
    spec.timezone = args.timezone.clone().unwrap_or_default();
    Ok(Wanted { spec, source: Source::Events { file, lines } })
}

/// What a calendar says, in few words.
pub(super) fn summary(calendar: &Calendar) -> String {
    let Some(spec) = &calendar.spec else { return String::new() };
    let counts = [
        (spec.dates.len(), "dates"),
        (spec.weekly.len(), "weekly"),
        (spec.windows.len(), "windows"),
        (spec.rules.len(), "rules"),
    ];
    let told = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    told.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cluster_says_names_the_place_in_the_file() {
        let text = "name: de\ndates:\n  - 12-25\n  - 02-30\n---\nname: at\nweekly:\n  - {days: sat}\n";
        let documents =
            job_file::read_as::<CalendarSpec>("c.yaml", Format::Yaml, text).expect("two calendars");
        assert_eq!(documents[1].spec.weekly[0].days, "sat");
        let source = Source::File(Box::new(documents[0].clone()));
        let said = "dates[1]: \"02-30\" does not exist\nhint: none";
        assert_eq!(source.told(said), "c.yaml:4:5: dates[1]: \"02-30\" does not exist\nhint: none");
        let lines = vec![("rules[0]".to_owned(), 7), ("rules[1]".to_owned(), 12)];
        let source = Source::Events { file: "c.ics".to_owned(), lines };
        assert_eq!(source.told("rules[1].rrule: no"), "c.ics:12: rules[1].rrule: no");
        assert_eq!(source.told("timezone: no"), "c.ics: timezone: no");
    }

    #[test]
    fn an_unknown_key_of_a_calendar_is_refused_with_its_place() {
        let refused = job_file::read_as::<CalendarSpec>("c.yaml", Format::Yaml, "name: de\ndate: [12-25]\n");
        let told = refused.expect_err("an unknown key")[0].to_string();
        assert!(told.starts_with("c.yaml:2:1: date: unknown key; did you mean `dates`?"), "{told}");
        let empty = job_file::read_as::<CalendarSpec>("c.yaml", Format::Yaml, "# nothing\n");
        assert_eq!(empty.expect_err("nothing")[0].to_string(), "c.yaml: the file holds no calendar");
    }
}
