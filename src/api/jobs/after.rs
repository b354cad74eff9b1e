//! Whether what jobs run after can be: the jobs are there, and none comes after itself.
//!
//! The state refuses cycles too ([`crate::state::Rejection::Cycle`]), for two requests may make one together; here it
//! is told which jobs form one, and where it is written.

use std::collections::{BTreeMap, BTreeSet};

use tonic::Status;

use super::super::problem::{Problem, Problems};
use super::super::status;
use super::apply::Wanted;
use crate::state::State;

/// Namespace and name.
type Name = (String, String);

/// What each job of the request runs after.
struct Graph<'a> {
    state: &'a State,
    wanted: BTreeMap<Name, &'a [String]>,
}

impl Graph<'_> {
    fn before(&self, name: &Name) -> Vec<Name> {
        let names = match self.wanted.get(name) {
            Some(names) => names.to_vec(),
            None => {
                let job = self.state.job_named(&name.0, &name.1);
                job.and_then(|job| job.spec.after.as_ref()).map_or_else(Vec::new, |after| after.jobs.clone())
            }
        };
        names.into_iter().map(|before| (name.0.clone(), before)).collect()
    }

    fn is_there(&self, name: &Name) -> bool {
        self.wanted.contains_key(name) || self.state.job_named(&name.0, &name.1).is_some()
    }

    /// The way from a job back to itself, if there is one.
    fn cycle(&self, start: &Name) -> Option<Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut open: Vec<Vec<Name>> = self.before(start).into_iter().map(|name| vec![name]).collect();
        while let Some(way) = open.pop() {
            let last = way.last()?;
            if last == start {
                let names = way.into_iter().rev().chain([start.clone()]);
                return Some(names.map(|(_, name)| name).collect());
            }
            if seen.insert(last.clone()) {
                let further = self.before(last).into_iter().map(|name| [way.as_slice(), &[name]].concat());
                open.extend(further);
            }
        }
        None
    }
}

/// Checks all jobs of a request against each other and the state, and puts those that others run after before them.
pub(super) fn check(state: &State, wanted: &mut [Wanted]) -> Result<(), Status> {
    if wanted.iter().all(|wanted| wanted.spec.after.is_none()) {
        return Ok(());
    }
    let jobs_of =
        |wanted: &'_ Wanted| wanted.spec.after.as_ref().map_or(&[][..], |after| &after.jobs).to_vec();
    let named: Vec<(Name, Vec<String>)> =
        wanted.iter().map(|wanted| (wanted.name(), jobs_of(wanted))).collect();
    let graph =
        Graph { state, wanted: named.iter().map(|(name, jobs)| (name.clone(), jobs.as_slice())).collect() };
    let mut problems = Problems::new();
    for wanted in wanted.iter() {
        let path = format!("jobs[{}].after", wanted.place);
        for (place, before) in graph.before(&wanted.name()).iter().enumerate() {
            if !graph.is_there(before) {
                let (namespace, name) = before;
                problems.push(Problem {
                    path: format!("{path}.jobs[{place}]"),
                    reason: format!("there is no job {name:?} in namespace {namespace:?}"),
                    hint: Some("apply it before, or in the same call".to_owned()),
                });
            }
        }
        if let Some(way) = graph.cycle(&wanted.name()) {
            problems.add(path, format!("the job would run after itself: {}", way.join(" -> ")));
        }
    }
    if !problems.is_empty() {
        return Err(status::invalid(&problems));
    }
    let mut depths: BTreeMap<Name, usize> = BTreeMap::new();
    for (name, _) in &named {
        depth(&graph, name, &mut depths);
    }
    wanted.sort_by_key(|wanted| depths.get(&wanted.name()).copied());
    Ok(())
}

/// How many jobs of the request come before one, at most, on a way to it. There is no cycle.
fn depth(graph: &Graph<'_>, start: &Name, depths: &mut BTreeMap<Name, usize>) {
    let mut open = vec![start.clone()];
    while let Some(name) = open.last().cloned() {
        let before = graph.before(&name);
        let unknown: Vec<Name> = before
            .iter()
            .filter(|name| graph.wanted.contains_key(*name) && !depths.contains_key(*name))
            .cloned()
            .collect();
        if unknown.is_empty() {
            let deepest = before.iter().filter_map(|name| depths.get(name)).max();
            depths.insert(name, deepest.map_or(0, |depth| depth + 1));
            open.pop();
        } else {
            open.extend(unknown);
        }
    }
}
