//! A run of a job with `every_node` is what became of its parts: each worker that was named has one, only workers at
//! its place carry it out, each ends once, and the run ends with the last of them and not before.

use std::collections::BTreeMap;

use chronarch::state::run::{Run, RunId, RunState};
use chronarch::state::spread::place_of;
use chronarch::state::{Command, Outcome};

use super::Committed;

#[derive(Default)]
pub(crate) struct Parts {
    /// What has become of the parts of each run that has not ended; nothing of those that live.
    open: BTreeMap<RunId, BTreeMap<RunId, Option<RunState>>>,
}

impl Parts {
    pub(crate) fn committed(&mut self, it: &Committed<'_>) {
        for (command, outcome) in it.entry.commands.iter().zip(&it.applied.outcomes) {
            match (command, outcome) {
                (Command::Spread { run, places }, Outcome::Spread { runs }) if *runs > 0 => {
                    assert_eq!(*runs as usize, places.len(), "run {run} leaves a worker out");
                    let parts = (1..).take(places.len()).map(|place| (run.at_place(place), None)).collect();
                    assert!(self.open.insert(*run, parts).is_none(), "run {run} is spread twice");
                }
                (Command::Start { run, worker, .. }, Outcome::Started { .. }) => {
                    let place = it.after.run(*run).and_then(|run| run.place.clone());
                    let is_there = place.is_none_or(|place| *place == *place_of(worker));
                    assert!(is_there, "run {run} starts on {worker}, which it is not for");
                }
                _ => {}
            }
        }
        for run in &it.applied.finished {
            match run.parent {
                Some(parent) => self.part_ended(parent, run),
                None => self.ended(run),
            }
        }
        let live = |run: RunId| it.after.run(run).is_some();
        for (run, parts) in &self.open {
            assert!(live(*run), "run {run} has gone without an end");
            for (part, end) in parts {
                assert_eq!(live(*part), end.is_none(), "part {part} has gone without an end, or lives on");
            }
        }
    }

    fn part_ended(&mut self, parent: RunId, run: &Run) {
        let end = self.open.get_mut(&parent).and_then(|parts| parts.get_mut(&run.id));
        let end = end.unwrap_or_else(|| panic!("part {} has no run", run.id));
        assert_eq!(end.replace(run.state), None, "part {} ends twice", run.id);
    }

    fn ended(&mut self, run: &Run) {
        let Some(parts) = self.open.remove(&run.id) else { return };
        let ends: Vec<RunState> = parts.values().copied().map(|end| end.expect("it has ended")).collect();
        let all_well = ends.iter().all(|end| *end == RunState::Succeeded);
        assert_eq!(run.state == RunState::Succeeded, all_well, "run {} of parts {ends:?}", run.id);
    }
}
