//! Short names for jobs, runs and breakers, so that a script can be read and written by hand:
//! `a` and, deleted and created again, `a.2`; `a@00.05` a run of the schedule, `a@00.05.b` one of a backfill; `a/1` one made by hand, or
//! after others.

use std::collections::BTreeMap;

use chronarch::state::run::{AttemptOutcome, JobId, Phase, Run, RunId, RunState};
use chronarch::state::{BreakerKey, Due};

use super::spec::{clock, instant};

#[derive(Default)]
pub(crate) struct Names {
    jobs: BTreeMap<String, JobId>,
    labels: BTreeMap<JobId, String>,
    by_hand: BTreeMap<String, RunId>,
}

impl Names {
    pub(crate) fn created(&mut self, name: &str, id: JobId) {
        let before = self.labels.values().filter(|label| label.split('.').next() == Some(name)).count();
        let label = if before == 0 { name.to_owned() } else { format!("{name}.{}", before + 1) };
        self.jobs.insert(label.clone(), id);
        self.labels.insert(id, label);
    }

    pub(crate) fn triggered(&mut self, id: RunId) {
        if self.by_hand.values().all(|known| *known != id) {
            let label = self.label(id.job);
            let count = self.by_hand.values().filter(|known| known.job == id.job).count();
            self.by_hand.insert(format!("{label}/{}", count + 1), id);
        }
    }

    /// A run of a backfill: `a@00.05.b`.
    pub(crate) fn backfilled(&mut self, id: RunId) {
        let label = format!("{}@{}.b", self.label(id.job), clock(id.at));
        self.by_hand.insert(label, id);
    }

    pub(crate) fn label(&self, id: JobId) -> String {
        self.labels.get(&id).cloned().unwrap_or_else(|| format!("job {}", id.0))
    }

    pub(crate) fn job(&self, label: &str) -> Result<JobId, String> {
        self.jobs.get(label).copied().ok_or_else(|| format!("no job {label}"))
    }

    /// A run; its part for the third worker by `a@00.05_3`.
    pub(crate) fn run(&self, text: &str) -> Result<RunId, String> {
        if let Some((whole, place)) = text.rsplit_once('_') {
            let place = place.parse().map_err(|_| format!("{text}: expected a number behind _"))?;
            return Ok(self.run(whole)?.at_place(place));
        }
        if let Some(id) = self.by_hand.get(text) {
            return Ok(*id);
        }
        let (job, at) = text.split_once('@').ok_or_else(|| format!("no run {text}"))?;
        Ok(RunId { job: self.job(job)?, at: instant(at)?, seq: 0 })
    }

    pub(crate) fn of_run(&self, id: RunId) -> String {
        if id.place() > 0 {
            return format!("{}_{}", self.of_run(id.whole()), id.place());
        }
        match self.by_hand.iter().find(|(_, known)| **known == id) {
            Some((label, _)) => label.clone(),
            None => format!("{}@{}", self.label(id.job), clock(id.at)),
        }
    }

    /// A job's own breaker by the job's label, a shared one by `shared/NAME`.
    pub(crate) fn breaker(&self, text: &str) -> Result<BreakerKey, String> {
        match text.strip_prefix("shared/") {
            Some(name) => Ok(BreakerKey::Shared("default".into(), name.into())),
            None => self.job(text).map(BreakerKey::Job),
        }
    }

    pub(crate) fn of_breaker(&self, key: &BreakerKey) -> String {
        match key {
            BreakerKey::Job(id) => self.label(*id),
            BreakerKey::Shared(_, name) => format!("shared/{name}"),
        }
    }

    /// Replaces run ids in a text for people.
    pub(crate) fn detail(&self, run: &Run, text: &str) -> String {
        let mut text = text.to_owned();
        for (label, id) in self.labels.iter().map(|(id, label)| (label, id)) {
            for part in text.clone().split([' ', ';', ',']) {
                if let Ok(found) = part.parse::<RunId>()
                    && found.job == *id
                {
                    text = text.replace(part, &self.of_run(found));
                }
            }
            debug_assert!(!label.is_empty(), "{run:?}");
        }
        shorten(&text)
    }
}

/// Instants of the lab in full become clock times.
pub(crate) fn shorten(text: &str) -> String {
    text.split(' ')
        .map(|word| word.parse().map_or_else(|_| word.to_owned(), clock))
        .collect::<Vec<_>>()
        .join(" ")
}

pub(crate) fn due(due: Option<Due>) -> String {
    match due {
        None => "never".to_owned(),
        Some(due) if due.due_at == due.scheduled_at => clock(due.due_at),
        Some(due) => format!("{} (due {})", clock(due.scheduled_at), clock(due.due_at)),
    }
}

pub(crate) fn state(state: RunState) -> String {
    format!("{state:?}").to_lowercase()
}

pub(crate) fn outcome(outcome: AttemptOutcome) -> String {
    format!("{outcome:?}").to_lowercase()
}

pub(crate) fn phase(run: &Run) -> String {
    match run.phase {
        Phase::Backoff { retry_at } => format!("backoff until {}", clock(retry_at)),
        Phase::Running => run.running().map_or("running?".to_owned(), |attempt| {
            let probe = if attempt.probe.is_some() { ", a probe" } else { "" };
            let stop = if run.cancel.is_some() { ", to be stopped" } else { "" };
            let who = match &attempt.handed {
                None => format!("running on {}", attempt.worker),
                Some(it) if it.overdue_since.is_some() => format!("as overdue task {}", it.task),
                Some(it) => match &it.heard {
                    None => format!("as task {} no. {}", it.task, run.delivery()),
                    Some(heard) => {
                        let how = if heard.runs() { "run by" } else { "put off by" };
                        format!(
                            "as task {} no. {}, {how} {} ({})",
                            it.task,
                            run.delivery(),
                            heard.by,
                            heard.retries
                        )
                    }
                },
            };
            format!("{who}, attempt {}, fence {}{probe}{stop}", attempt.number, attempt.fence)
        }),
        other => format!("{other:?}").to_lowercase(),
    }
}
