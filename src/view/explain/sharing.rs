//! What a job shares with others: limits that are reached, and what it runs after.

use super::{Explaining, Facts, words};
use crate::state::Job;
use crate::state::group::Group;
use crate::state::run::RunState;
use crate::state::spec::{AfterOn, AfterWhen, JobSpec};
use crate::state::time::{Timestamp, span_text};

/// Joins that are told one by one.
const TOLD: usize = 5;

/// Which of its limits something has reached.
fn reached(name: &str, group: &Group, running: u32, now: Timestamp) -> String {
    match (group.concurrency, group.rate) {
        (Some(most), _) if running >= most => {
            format!("{} of {name} run, and its limit is {most}", words::counted(running.into(), "attempt"))
        }
        (_, Some(rate)) => format!(
            "{} of {name} may start in {}; the next one may at {}",
            words::counted(rate.starts.into(), "attempt"),
            span_text(rate.per),
            group.token_at(1, now)
        ),
        (_, None) => format!("the limits of {name} are reached"),
    }
}

impl Explaining<'_> {
    /// Which limits keep attempts of the job from starting; `None` when none do.
    pub(super) fn limits_of(&self, spec: &JobSpec) -> Option<String> {
        let now = self.state.now();
        if let Some(queue) = self.state.queue(&spec.queue)
            && !self.state.has_queue_room(&spec.queue, 0, now)
        {
            let running = self.state.queue_load(&spec.queue).running;
            return Some(reached(&format!("queue `{}`", spec.queue), &queue.group, running, now));
        }
        let key = spec.group()?;
        if self.state.has_group_room(&key, 0, now) {
            return None;
        }
        let group = self.state.group(&key)?;
        let running = self.state.group_load(&key);
        let name = match key.name.strip_prefix("job:") {
            Some(_) => "the job".to_owned(),
            None => format!("group `{}`", key.name),
        };
        Some(reached(&name, group, running, now))
    }

    /// What the job waits for, and what of it has arrived.
    pub(super) fn after(&self, job: &Job, facts: &mut Facts) {
        let Some(after) = &job.spec.after else { return };
        let how_many = match after.when {
            AfterWhen::All if after.jobs.len() == 1 => "",
            AfterWhen::All => "all of ",
            AfterWhen::Any => "any of ",
        };
        let on = match after.on {
            AfterOn::Success => "succeeds",
            AfterOn::Failure => "fails",
            AfterOn::Always => "ends",
        };
        facts.add(format!("it runs when a run of {how_many}{} {on}", after.jobs.join(", ")));
        for name in &after.jobs {
            if self.state.job_named(&job.spec.namespace, name).is_none() {
                facts.add(format!("there is no job {name}, so nothing of it arrives"));
            }
        }
        let open = self.state.joins_of(job.id).filter(|(_, join)| !join.is_decided);
        for (chain, join) in open.take(TOLD) {
            let arrived = join.arrived.iter().map(|(name, arrival)| {
                let how = match arrival.state {
                    RunState::Succeeded => "succeeded",
                    RunState::Failed => "failed",
                    RunState::Cancelled => "was cancelled",
                    RunState::Skipped => "was skipped",
                    RunState::Pending | RunState::Running => "is live",
                };
                format!("{name} {how} at {}", arrival.at)
            });
            let missing = after.jobs.iter().filter(|name| !join.arrived.contains_key(*name));
            let of = chain.map_or_else(String::new, |chain| format!("of chain {chain} "));
            facts.add(format!(
                "{of}{}; it waits for {}",
                arrived.collect::<Vec<_>>().join(", "),
                missing.cloned().collect::<Vec<_>>().join(", ")
            ));
        }
    }
}
