//! The way back: jobs as definitions of another scheduler, where it has words for them.
//!
//! What a definition says holds there as it does here: a job whose instants or target the other scheduler cannot say is
//! not written, and is a finding; what it only cannot keep (retries, overlaps) is a finding beside the definition.

mod cron;
mod crontab;
mod kubernetes;

#[cfg(test)]
mod tests;

use super::Loss;
use crate::api::spec;
use crate::pb::v1;
use crate::state::spec::{CatchUpRuns, JobSpec, OnLost, OverlapPolicy};

/// Who is to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// crontab(5), as a user has it.
    Crontab,
    /// CronJobs of `batch/v1`.
    Kubernetes,
}

/// What the jobs do not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The zone of the machine whose cron it is for; empty: UTC.
    pub timezone: String,
    /// The image of the container in which commands run.
    pub image: String,
}

/// Something that is not in what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The job: `namespace/name`.
    pub job: String,
    /// How much.
    pub loss: Loss,
    /// What.
    pub what: String,
}

/// What came of the jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// The definitions.
    pub text: String,
    /// How many jobs are in it.
    pub jobs: usize,
    /// What is not, in the order of the jobs.
    pub findings: Vec<Finding>,
}

/// Writes jobs.
#[must_use]
pub fn export(format: Format, jobs: &[v1::JobSpec], options: &Options) -> Exported {
    let mut out = Exported::default();
    let mut zone = options.timezone.clone();
    for job in jobs {
        let mut page = Page { job: format!("{}/{}", job.namespace, job.name), options, findings: Vec::new() };
        let written = match spec::from_pb(job) {
            Ok(spec) => match format {
                Format::Crontab => crontab::write(&spec, &mut zone, &mut page),
                Format::Kubernetes => kubernetes::write(&spec, out.jobs > 0, &mut page),
            },
            Err(problems) => Err(problems.to_string()),
        };
        match written {
            Ok(text) => {
                out.text.push_str(&text);
                out.jobs += 1;
                out.findings.append(&mut page.findings);
            }
            Err(what) => out.findings.push(Finding { job: page.job, loss: Loss::Lost, what }),
        }
    }
    out
}

/// What the writer of a job notes beside it.
struct Page<'a> {
    job: String,
    options: &'a Options,
    findings: Vec<Finding>,
}

impl Page<'_> {
    fn approximated(&mut self, what: impl Into<String>) {
        let (job, what) = (self.job.clone(), what.into());
        self.findings.push(Finding { job, loss: Loss::Approximated, what });
    }

    /// The fields that nobody else has, where they say something.
    fn note_ours(&mut self, spec: &JobSpec) {
        let said = [
            ("requires", !spec.requires.is_empty()),
            ("params", !spec.params.is_empty()),
            ("limits", spec.limits.is_some()),
            ("priority", spec.priority != 0),
            ("every_node", spec.every_node),
            ("queue", spec.queue != "default"),
            ("breaker", spec.breaker.name.is_some()),
        ];
        for (field, _) in said.into_iter().filter(|(_, says)| *says) {
            self.approximated(format!("{field}: there is nothing like it there"));
        }
        for schedule in &spec.schedules {
            let bounds = [
                ("start_at", schedule.start_at.is_some()),
                ("end_at", schedule.end_at.is_some()),
                ("count", schedule.count.is_some()),
                ("jitter", !schedule.jitter.is_zero()),
            ];
            for (field, _) in bounds.into_iter().filter(|(_, says)| *says) {
                self.approximated(format!("schedule.{field}: there is nothing like it there"));
            }
        }
    }

    /// What cron never does.
    fn note_policies(&mut self, spec: &JobSpec) {
        let said = [
            (
                "overlap: it is started there whether or not it still runs",
                spec.overlap.policy != OverlapPolicy::Allow,
            ),
            ("catch_up: nothing is made up for there", spec.catch_up.runs != CatchUpRuns::None),
            ("retry: nothing is tried again there", spec.retry.max_attempts > 1),
            ("on_lost: nothing runs again there", spec.on_lost == OnLost::Rerun),
            ("start_within: nothing waits there", spec.start_within.is_some()),
            ("timeout: nothing is stopped there", spec.timeout < crate::api::limits::TIMEOUT),
        ];
        for (what, _) in said.into_iter().filter(|(_, says)| *says) {
            self.approximated(what);
        }
    }
}
