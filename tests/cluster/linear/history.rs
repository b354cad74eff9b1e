//! What clients did to which job, when, and what they were told.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::checker::Timed;
use super::model::Step;

/// An operation of a client: one step, or two of which the second comes after the first.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Operation {
    pub(crate) job: String,
    pub(crate) client: usize,
    /// The node that was asked first.
    pub(crate) node: u64,
    /// A read that was allowed to be old: not held to be linearizable.
    pub(crate) stale: bool,
    pub(crate) called: u64,
    /// Absent: the client never learned what became of it.
    pub(crate) returned: Option<u64>,
    pub(crate) steps: Vec<Step>,
}

/// Takes down what happens, from many clients.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// The next moment. That calls and returns draw from one counter puts them in an order that contradicts no clock:
    /// what returned before another was called has the smaller number.
    moment: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

impl Recorder {
    pub(crate) fn moment(&self) -> u64 {
        self.0.moment.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn add(&self, operation: Operation) {
        self.0.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.0.operations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The steps on each job, in the order of their calls.
pub(crate) fn by_job<'a>(operations: impl Iterator<Item = &'a Operation>) -> BTreeMap<String, Vec<Timed>> {
    let mut jobs: BTreeMap<String, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        jobs.entry(operation.job.clone()).or_default().push(operation);
    }
    let timed = |mut operations: Vec<&Operation>| {
        operations.sort_by_key(|operation| operation.called);
        let mut history: Vec<Timed> = Vec::new();
        for Operation { called, returned, steps, .. } in operations {
            for (number, step) in steps.iter().enumerate() {
                let after = (number > 0).then(|| history.len() - 1);
                history.push(Timed { step: *step, called: *called, returned: *returned, after });
            }
        }
        history
    };
    jobs.into_iter().map(|(job, operations)| (job, timed(operations))).collect()
}

/// Writes a history, an operation a line.
pub(crate) fn keep(operations: &[Operation], file: &Path) {
    let mut out = std::fs::File::create(file).expect("a file");
    for operation in operations {
        let line = serde_json::to_string(operation).expect("text");
        writeln!(out, "{line}").expect("a disk with room");
    }
}
