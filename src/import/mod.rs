//! Other schedulers' definitions, turned into job files.
//!
//! Each format has a module that reads it and says of everything in it what became of it: carried over, carried over
//! by a choice ([`Draft::choices`], which stands as a comment above the job), or not ([`Finding`]). Nothing is dropped
//! in silence: a reader goes over all keys of what it reads, and one that it does not know is a finding.
//!
//! A job keeps the instants of its source, on odd days too: its `day_rule` and `dst` are those of the scheduler that it
//! comes from. What the source's scheduler has not (catch-up, a bound on overlaps) is switched off by name.
//!
//! Invariant: what is written can be applied. Each job has passed the check that a server makes ([`crate::api::spec`]);
//! one that does not is a finding.
//!
//! # Limits
//! [`BYTES_MAX`] of a file, and [`JOBS_MAX`] jobs, each within the limits that a server has; what is beyond them is a
//! finding, and an error. Of findings there are no more than keys and lines.

pub mod back;
pub mod celery;
mod crontab;
mod dkron;
pub mod ical;
mod kubernetes;
mod names;
mod quartz;
mod robfig;
mod systemd;
#[cfg(test)]
mod tests;
mod windows;
mod words;
mod xml;
mod yaml;

use crate::api::spec;
use crate::client::job_file;
use crate::pb::v1::{JobSpec, Schedule};

/// The longest file that is read.
pub const BYTES_MAX: usize = job_file::BYTES_MAX;
/// Jobs that one import writes at most: as many as one apply takes.
pub const JOBS_MAX: usize = crate::api::limits::JOBS_PER_REQUEST;

/// Whose definitions they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// crontab(5), of Debian's cron or of cronie.
    Crontab,
    /// Manifests of Kubernetes.
    Kubernetes,
    /// Timers of systemd, and their services.
    Systemd,
    /// Jobs of dkron, as JSON.
    Dkron,
    /// Tasks of Windows, as XML.
    WindowsTask,
    /// Job data of Quartz, as XML.
    Quartz,
    /// Periodic tasks of Celery: of an app, of django-celery-beat or of RedBeat, as JSON.
    Celery,
}

/// What the definitions do not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The zone of the machine that they come from; an IANA name.
    pub timezone: Option<String>,
    /// The namespace of jobs that name none; empty leaves it out.
    pub namespace: String,
    /// Whether the lines of a crontab name a user; `None`: if the file's path is that of one that does.
    pub names_users: Option<bool>,
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name as it was given.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

/// A job that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What it was made of.
    pub place: Place,
    /// The job.
    pub spec: JobSpec,
    /// What was decided for it, in words.
    pub choices: Vec<String>,
}

/// How much of something went on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// None that matters.
    Noted,
    /// It is there, and not quite the same.
    Approximated,
    /// It is not there.
    Lost,
    /// It could not be understood; the source's scheduler would refuse it too, or it is more than this reads.
    Unread,
}

impl Loss {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Noted => "note",
            Self::Approximated => "approximated",
            Self::Lost => "lost",
            Self::Unread => "error",
        }
    }
}

/// Something that was not carried over as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// How much.
    pub loss: Loss,
    /// What, and what can be done.
    pub what: String,
}

/// What came of the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// The jobs, in the order of the files.
    pub drafts: Vec<Draft>,
    /// What was not carried over as it is, in the order of the files.
    pub findings: Vec<Finding>,
}

/// Reads files, each a name and a text.
#[must_use]
pub fn import(format: Format, files: &[(String, String)], options: &Options) -> Imported {
    let read: fn(&str, &mut Sheet<'_>) = match format {
        Format::Crontab => crontab::read,
        Format::Kubernetes => kubernetes::read,
        Format::Dkron => dkron::read,
        Format::WindowsTask => windows::read,
        Format::Quartz => quartz::read,
        Format::Celery => celery::read,
        Format::Systemd => return settle(systemd::read(files, options)),
    };
    let mut all = Imported::default();
    for (name, text) in files {
        let mut sheet = Sheet { file: name, options, imported: Imported::default() };
        if sheet.is_readable(text) {
            read(text, &mut sheet);
        }
        let Imported { drafts, findings } = sheet.imported;
        all.drafts.extend(drafts);
        all.findings.extend(findings);
    }
    settle(all)
}

/// Gives each job its own name, and puts the findings in order.
fn settle(mut all: Imported) -> Imported {
    let mut names = names::Names::default();
    let drafts = std::mem::take(&mut all.drafts);
    for mut draft in drafts {
        if all.drafts.len() == JOBS_MAX {
            let what = format!("more than {JOBS_MAX} jobs; those from here on are not read");
            all.findings.push(Finding { place: draft.place, loss: Loss::Unread, what });
            break;
        }
        let spec = &mut draft.spec;
        let name = names.take(&spec.namespace, &spec.name);
        if name != spec.name {
            draft.choices.push(format!("name: {name}, for there is another {}", spec.name));
            spec.name = name;
        }
        all.drafts.push(draft);
    }
    // Those of one file are in order, and files stay apart.
    let mut order: Vec<String> = Vec::new();
    for finding in &all.findings {
        if !order.contains(&finding.place.file) {
            order.push(finding.place.file.clone());
        }
    }
    all.findings.sort_by_key(|finding| {
        (order.iter().position(|file| *file == finding.place.file), finding.place.line)
    });
    all
}

/// What a reader of a file writes to.
struct Sheet<'a> {
    file: &'a str,
    options: &'a Options,
    imported: Imported,
}

impl Sheet<'_> {
    /// Whether the text is short enough; if not, that is a finding.
    fn is_readable(&mut self, text: &str) -> bool {
        let is_short = text.len() <= BYTES_MAX;
        if !is_short {
            let what = format!("the file has {} bytes, at most {BYTES_MAX} are read", text.len());
            self.find(1, Loss::Unread, what);
        }
        is_short
    }

    fn place(&self, line: usize) -> Place {
        Place { file: self.file.to_owned(), line }
    }

    fn find(&mut self, line: usize, loss: Loss, what: impl Into<String>) {
        let place = self.place(line);
        self.imported.findings.push(Finding { place, loss, what: what.into() });
    }

    /// Takes a job, if a server would take it. One more than there may be is enough to say so.
    fn draft(&mut self, line: usize, mut spec: JobSpec, choices: Vec<String>) {
        if self.imported.drafts.len() > JOBS_MAX {
            return;
        }
        if spec.namespace.is_empty() {
            spec.namespace.clone_from(&self.options.namespace);
        }
        let place = self.place(line);
        match spec::from_pb(&spec) {
            Ok(_) => self.imported.drafts.push(Draft { place, spec, choices }),
            Err(problems) => self.find(line, Loss::Unread, problems.to_string()),
        }
    }
}

/// What is not switched off, for it is what people come for.
const BREAKER: &str =
    "breaker: after 5 failures in a row runs are skipped for a while; there they would go on failing";

/// A cron line in the dialect that crontab and Kubernetes share.
fn cron(line: &str, timezone: &str) -> Schedule {
    Schedule { cron: line.to_owned(), timezone: timezone.to_owned(), ..Schedule::default() }
}
