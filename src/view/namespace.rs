//! Namespaces as the API's messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{instant, span};
use crate::pb::v1 as pb;
use crate::state::State;

/// Records of each namespace, where they are counted.
pub type Records = Option<BTreeMap<Arc<str>, u64>>;

/// Namespaces that have jobs, records or limits, by name. Looks at all jobs and all live runs.
#[must_use]
pub fn all(state: &State, records: &Records) -> Vec<pb::Namespace> {
    let mut namespaces: BTreeMap<&str, pb::Namespace> = BTreeMap::new();
    for (name, limited) in state.namespaces() {
        let message = namespaces.entry(name).or_default();
        let limits = limited.retention;
        message.retention = Some(pb::NamespaceRetention { runs: limits.runs, age: limits.age.map(span) });
        message.actor.clone_from(&limited.origin.actor);
        message.reason.clone_from(&limited.origin.reason);
        message.set_at = Some(instant(limited.origin.at));
    }
    for job in state.jobs_after(None) {
        namespaces.entry(&job.spec.namespace).or_default().jobs += 1;
    }
    for run in state.runs() {
        namespaces.entry(&run.namespace).or_default().live_runs += 1;
    }
    for (name, count) in records.iter().flatten() {
        namespaces.entry(name).or_default().records = Some(*count);
    }
    if records.is_some() {
        for message in namespaces.values_mut() {
            message.records = message.records.or(Some(0));
        }
    }
    let named = |(name, message): (&str, pb::Namespace)| pb::Namespace { name: name.to_owned(), ..message };
    namespaces.into_iter().map(named).collect()
}
