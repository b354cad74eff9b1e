//! Queues as the API's messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{instant, spec};
use crate::pb::v1 as pb;
use crate::state::State;
use crate::state::run::Phase;

/// Queues that have limits, and those that live runs are in, by name. Looks at all live runs.
#[must_use]
pub fn all(state: &State) -> Vec<pb::Queue> {
    let mut queues: BTreeMap<Arc<str>, pb::Queue> = BTreeMap::new();
    for (name, queue) in state.queues() {
        let group = &queue.group;
        let message = pb::Queue {
            concurrency: group.concurrency,
            rate: group.rate.map(spec::rate).unwrap_or_default(),
            max_waiting: queue.waiting,
            actor: queue.origin.actor.clone(),
            reason: queue.origin.reason.clone(),
            set_at: Some(instant(queue.origin.at)),
            ..pb::Queue::default()
        };
        queues.insert(name.clone(), message);
    }
    for run in state.runs() {
        let queue = queues.entry(run.queue.clone()).or_default();
        match run.phase {
            Phase::Waiting => queue.waiting += 1,
            Phase::Running => queue.running += 1,
            Phase::Queued | Phase::Held | Phase::Backoff { .. } | Phase::Spread | Phase::Ended => {}
        }
    }
    let named = |(name, queue): (Arc<str>, pb::Queue)| pb::Queue { name: name.to_string(), ..queue };
    queues.into_iter().map(named).collect()
}
