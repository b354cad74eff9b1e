//! `cluster set-tzdata`: other data of the time zones, and what moves with it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::Table;

use crate::cli::args::{Output, WriteFlags};
use crate::cli::printer::Printer;
use crate::cli::tables::{at, columns};
use crate::cli::{Context, Failure};
use crate::client::Client;
use crate::pb::v1::{MovedZone, SetTzdataRequest, SetTzdataResponse, ZoneData, ZoneFile};
use crate::state::limits;

/// What the first bytes of a TZif file are (RFC 8536, section 3.1).
const MAGIC: &[u8] = b"TZif";
/// Folders of a `zoneinfo` that hold the same zones again: `right` with leap seconds, which no schedule has.
const OTHER_FORMS: [&str; 2] = ["posix", "right"];
/// Files that hold a zone under a name that is none.
const NO_NAMES: [&str; 2] = ["localtime", "posixrules"];
/// Where the release stands: a file of its own, or the first line of the compact source.
const RELEASES: [(&str, &str); 2] = [("+VERSION", ""), ("tzdata.zi", "# version ")];

const EXAMPLES: &str = "\
Examples:
  chronarch cluster set-tzdata --dry-run                            what the leader's binary ships: which jobs would move
  chronarch cluster set-tzdata --reason \"2026f\"
  chronarch cluster set-tzdata --from /usr/share/zoneinfo           what this machine has";

#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(in crate::cli) struct SetTzdataArgs {
    /// A folder of compiled zones, as zic writes them. Default: what the leader's binary ships
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// What the release of that folder is called, where it does not say
    #[arg(long, value_name = "RELEASE", requires = "from")]
    release: Option<String>,
    /// Only say which zones and jobs would move
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    write: WriteFlags,
}

pub(super) async fn set(
    args: SetTzdataArgs,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let SetTzdataArgs { from, release, dry_run, write: WriteFlags { reason, identity } } = args;
    let data = from.map(|folder| read(&folder, release)).transpose()?;
    let (actor, operation_id) = (identity.actor(), identity.operation_id);
    let client: Client = context.client()?;
    let answer = client.set_tzdata(SetTzdataRequest { data, dry_run, operation_id, actor, reason }).await?;
    print(&answer, dry_run, printer)
}

/// The zones of a folder.
fn read(folder: &Path, release: Option<String>) -> Result<ZoneData, Failure> {
    let release = match release.or_else(|| release_of(folder)) {
        Some(release) => release,
        None => {
            let message =
                format!("{} does not say which release it is; name it with --release", folder.display());
            return Err(Failure::Usage { message });
        }
    };
    let mut found = Found { files: BTreeMap::new(), names: 0, bytes: 0 };
    found.walk(folder, "")?;
    if found.files.is_empty() {
        let message = format!("{} holds no compiled zones (TZif files)", folder.display());
        return Err(Failure::Usage { message });
    }
    let files = found.files.into_iter().map(|(tzif, names)| ZoneFile { names, tzif }).collect();
    Ok(ZoneData { release, files })
}

fn release_of(folder: &Path) -> Option<String> {
    RELEASES.iter().find_map(|(file, before)| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        let line = text.lines().next()?.strip_prefix(before)?.trim();
        Some(line.to_owned())
    })
}

/// What was read so far.
struct Found {
    files: BTreeMap<Vec<u8>, Vec<String>>,
    names: usize,
    bytes: usize,
}

impl Found {
    fn walk(&mut self, folder: &Path, prefix: &str) -> Result<(), Failure> {
        let failed = |path: &Path, source| Failure::File { path: path.display().to_string(), source };
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        for entry in entries.map_err(|error| failed(folder, error))? {
            let path = entry.path();
            let file_name = entry.file_name();
            // A name that is no UTF-8 is no zone.
            let Some(name) = file_name.to_str() else { continue };
            // Through links, of which a zoneinfo is full.
            let about = fs::metadata(&path).map_err(|error| failed(&path, error))?;
            if about.is_dir() {
                if !(prefix.is_empty() && OTHER_FORMS.contains(&name)) && prefix.matches('/').count() < 3 {
                    self.walk(&path, &format!("{prefix}{name}/"))?;
                }
                continue;
            }
            let is_named = !NO_NAMES.contains(&name);
            if !is_named || about.len() > limits::TZDATA_BYTES as u64 {
                continue;
            }
            let tzif = fs::read(&path).map_err(|error| failed(&path, error))?;
            if !tzif.starts_with(MAGIC) {
                continue;
            }
            (self.names, self.bytes) = (self.names + 1, self.bytes + tzif.len());
            if self.names > limits::TZDATA_NAMES {
                let message = format!(
                    "{} holds more than {} zones, as many as there may be",
                    folder.display(),
                    limits::TZDATA_NAMES
                );
                return Err(Failure::Usage { message });
            }
            self.files.entry(tzif).or_default().push(format!("{prefix}{name}"));
        }
        Ok(())
    }
}

fn print(answer: &SetTzdataResponse, dry_run: bool, printer: &mut Printer) -> Result<(), Failure> {
    if !matches!(printer.output(), Output::Table | Output::Wide) {
        return printer.object(answer, |_| Table::new());
    }
    let (release, before) = (&answer.release, &answer.release_before);
    printer.line(&match (answer.unchanged, dry_run) {
        (true, _) => format!("tzdata {release}: it is what the cluster is pinned to"),
        (false, true) => format!("tzdata {release} in place of {before}: this would move"),
        (false, false) => format!("tzdata {release} in place of {before}, from {}", at(answer.at.as_ref())),
    })?;
    if answer.unchanged {
        return Ok(());
    }
    if answer.zones.is_empty() {
        printer.line("no zone moves in the next 20 years")?;
    } else {
        let mut table = columns(&["ZONE", "FROM", "OFFSET", "NEW OFFSET"]);
        for MovedZone { name, from, old_offset, new_offset } in &answer.zones {
            let new = new_offset.map_or_else(|| "no such zone".to_owned(), offset);
            table.add_row(vec![name.clone(), at(from.as_ref()), offset(*old_offset), new]);
        }
        printer.table(table)?;
    }
    if !answer.jobs.is_empty() {
        printer.line("")?;
        let mut table = columns(&["NAMESPACE", "JOB", "FIRST THAT MOVES", "COMES AT"]);
        for job in &answer.jobs {
            let (old, new) = (at(job.old_at.as_ref()), at(job.new_at.as_ref()));
            table.add_row(vec![job.namespace.clone(), job.name.clone(), old, new]);
        }
        printer.table(table)?;
    }
    if answer.moved_jobs > answer.jobs.len() as u64 {
        printer.note(&format!("{} jobs move; these are the first", answer.moved_jobs));
    }
    if answer.unknown_jobs > 0 {
        printer.note(&format!("{} jobs more were not compared: there are too many", answer.unknown_jobs));
    }
    if answer.moved_jobs + answer.unknown_jobs == 0 {
        printer.line("no job moves")?;
    }
    Ok(())
}

/// `+01:00`, with seconds where there are any.
fn offset(seconds: i32) -> String {
    let sign = if seconds < 0 { '-' } else { '+' };
    let seconds = seconds.unsigned_abs();
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let rest = if rest == 0 { String::new() } else { format!(":{rest:02}") };
    format!("{sign}{hours:02}:{minutes:02}{rest}")
}
