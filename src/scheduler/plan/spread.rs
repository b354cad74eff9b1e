//! Runs that are made into one for each worker that matches.
//!
//! A new leader knows only the workers that have come to it so far. If it named their places at once, a change of leader
//! at the moment of an occurrence would leave workers out; so it waits until all have had the time to come.
//!
//! Cost: each such run that waits is looked at against every open session, with room or without.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Planning;
use crate::state::breaker::StatusKind;
use crate::state::run::RunId;
use crate::state::spread::place_of;
use crate::state::{Command, Job, limits};

impl Planning<'_> {
    /// Runs that wait for that, where a worker matches.
    pub(super) fn spreads(&mut self) {
        let state = self.state;
        for id in state.spreading() {
            if self.full() {
                return;
            }
            let is_planned = self.flight.runs.contains(&id) || self.taken.contains(&id);
            if let Some(run) = state.run(id).filter(|_| !is_planned) {
                self.start(run, id);
            }
        }
    }

    /// Names the places of all workers that match, and starts in the same commit what has room there. Returns whether
    /// one matches.
    pub(super) fn spread(&mut self, job: &Job, run: RunId, queue: &str) -> bool {
        if !self.sessions.is_complete {
            self.wake(self.now.plus(self.sessions.lease / 10));
            return false;
        }
        let able = self.sessions.open.iter().filter(|session| session.matches(&job.spec, queue));
        let places: BTreeSet<Arc<str>> = able.map(|session| place_of(&session.worker).into()).collect();
        if places.is_empty() {
            return false;
        }
        // One more than there may be is enough to say so.
        let places: Vec<Arc<str>> = places.into_iter().take(limits::PLACES + 1).collect();
        self.plan.commands.push(Command::Spread { run, places: places.clone() });
        self.taken.insert(run);
        let starts =
            places.len() <= limits::PLACES && self.breaker_kind(&job.breaker()) == StatusKind::Closed;
        if starts {
            for (number, place) in (1..).zip(&places) {
                if self.full() {
                    break;
                }
                self.start_attempt(job, run.at_place(number), (queue, Some(place)), 1);
            }
        }
        true
    }
}
