//! What each job was told to be, and when: its *life*, from the operations in the log and the job files that the
//! clients sent under their ids.

use std::collections::BTreeMap;

use super::file::JobFile;
use super::history::{Command, History};
use super::{Findings, Kind};

/// A job from its creation to its deletion.
pub(crate) struct Life {
    pub(crate) name: String,
    /// Someone deleted it and cancelled its runs.
    pub(crate) cancels: bool,
    /// In the order of the log; the first is the creation.
    pub(crate) steps: Vec<Step>,
}

/// From an entry on the job is like this.
pub(crate) struct Step {
    pub(crate) index: u64,
    /// The replicated time of the entry.
    pub(crate) now: i64,
    pub(crate) is: Is,
    /// What it was last told to be.
    pub(crate) file: JobFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Active,
    Paused,
    Deleted,
}

impl Life {
    /// What the job was when the entry had been applied.
    pub(crate) fn at(&self, index: u64) -> &Step {
        self.steps.iter().rev().find(|step| step.index <= index).unwrap_or(&self.steps[0])
    }

    /// All definitions that it ever had.
    pub(crate) fn files(&self) -> impl Iterator<Item = &JobFile> {
        self.steps.iter().map(|step| &step.file)
    }
}

/// The lives of all jobs, by incarnation.
pub(crate) fn lives(history: &History, findings: &mut Findings) -> BTreeMap<u64, Life> {
    let files: BTreeMap<(&str, &str), &JobFile> = history
        .operations
        .iter()
        .filter_map(|operation| {
            Some(((operation.operation_id.as_str(), operation.name.as_str()), operation.file.as_ref()?))
        })
        .collect();
    let mut lives: BTreeMap<u64, Life> = BTreeMap::new();
    for entry in &history.log {
        let now = entry.now.unwrap_or_default().0;
        for command in entry.commands.iter().filter(|command| command.decision.is_done()) {
            let place = (entry.index, now);
            match command.kind.as_str() {
                "put_job" => put(&mut lives, &files, command, place, findings),
                "pause_job" => turn(&mut lives, command.incarnation, place, Is::Paused),
                "resume_job" => turn(&mut lives, command.incarnation, place, Is::Active),
                "delete_job" => {
                    turn(&mut lives, command.incarnation, place, Is::Deleted);
                    if let Some(life) = lives.get_mut(&command.incarnation) {
                        life.cancels |= command.cancel_runs;
                    }
                }
                "disarm" => findings.add(
                    Kind::Unexplained,
                    format!("job {} was disarmed by entry {}", command.job, entry.index),
                ),
                _ => {}
            }
        }
    }
    lives
}

fn put(
    lives: &mut BTreeMap<u64, Life>,
    files: &BTreeMap<(&str, &str), &JobFile>,
    command: &Command,
    (index, now): (u64, i64),
    findings: &mut Findings,
) {
    if command.decision.change == "unchanged" {
        return;
    }
    let Some(file) = files.get(&(command.operation_id.as_str(), command.job.as_str())) else {
        let what = format!(
            "entry {index} puts job {} under operation {:?}, which no client sent",
            command.job, command.operation_id
        );
        return findings.add(Kind::UnexplainedChange, what);
    };
    let file = (*file).clone();
    match lives.get_mut(&command.decision.incarnation) {
        Some(life) => {
            let is = life.steps.last().map_or(Is::Active, |step| step.is);
            life.steps.push(Step { index, now, is, file });
        }
        None => {
            let steps = vec![Step { index, now, is: Is::Active, file }];
            lives.insert(
                command.decision.incarnation,
                Life { name: command.job.clone(), cancels: false, steps },
            );
        }
    }
}

fn turn(lives: &mut BTreeMap<u64, Life>, incarnation: u64, (index, now): (u64, i64), is: Is) {
    let Some(life) = lives.get_mut(&incarnation) else { return };
    let Some(last) = life.steps.last().filter(|last| last.is != is) else { return };
    let file = last.file.clone();
    life.steps.push(Step { index, now, is, file });
}
