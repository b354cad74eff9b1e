//! Runs that wait for a worker, in classes: all that need the same of a worker are one.
//!
//! A plan asks for a class whether any worker may take it, once, and never looks at the runs of one
//! that none may. So it costs what it can start and how many classes there are, however many runs wait.
//!
//! What a run needs is what its job says now, not what it said when the run was made: an edit moves the
//! waiting runs of its job to another class.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::State;
use super::run::{JobId, Phase, Run, RunId};
use super::spec::JobSpec;
use super::time::Timestamp;

/// What a worker must serve, carry out and be, to take a run.
///
/// It holds the definition of one of the jobs that need just this; they are compared by the need alone.
#[derive(Clone, Debug)]
pub struct Needs {
    queue: Arc<str>,
    /// Absent only in a bound: before all classes of the queue.
    spec: Option<Arc<JobSpec>>,
    /// The one place whose workers may take it.
    place: Option<Arc<str>>,
}

impl Needs {
    /// The queue that the worker must serve.
    #[must_use]
    pub const fn queue(&self) -> &Arc<str> {
        &self.queue
    }

    /// A job that needs just this.
    #[must_use]
    pub fn spec(&self) -> Option<&Arc<JobSpec>> {
        self.spec.as_ref()
    }

    /// The one place whose workers may take it.
    #[must_use]
    pub const fn place(&self) -> Option<&Arc<str>> {
        self.place.as_ref()
    }

    /// Of the classes that a worker may take those of the highest priority go first.
    #[must_use]
    pub fn priority(&self) -> i32 {
        self.spec.as_ref().map_or(0, |spec| spec.priority)
    }

    /// What makes a class: a worker takes all runs of it or none, and they share the limits that they start under.
    fn class(&self) -> Option<Class<'_>> {
        self.spec.as_ref().map(|spec| {
            let kind = (spec.target.kind(), spec.target.connection());
            (kind, &spec.requires, spec.priority, sharing(spec))
        })
    }
}

/// Kind of target and its connection, labels, priority, limits.
type Class<'a> = ((&'static str, Option<&'a str>), &'a BTreeMap<String, String>, i32, Option<Sharing<'a>>);

/// Namespace, group, and the job where the limits are its own: [`JobSpec::group`] without making texts.
type Sharing<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

fn sharing(spec: &JobSpec) -> Option<Sharing<'_>> {
    let group = spec.limits.as_ref()?.group.as_deref();
    Some((&spec.namespace, group, group.is_none().then_some(spec.name.as_str())))
}

impl Ord for Needs {
    fn cmp(&self, other: &Self) -> Ordering {
        let same = match (&self.spec, &other.spec) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, _) | (_, None) => false,
        };
        let by_class = || if same { Ordering::Equal } else { self.class().cmp(&other.class()) };
        self.queue.cmp(&other.queue).then_with(by_class).then_with(|| self.place.cmp(&other.place))
    }
}

impl PartialOrd for Needs {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Needs {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Needs {}

const LOWEST: RunId = RunId { job: JobId(0), at: Timestamp::MIN, seq: 0 };
const HIGHEST: RunId = RunId { job: JobId(u64::MAX), at: Timestamp::MAX, seq: u64::MAX };

impl State {
    /// The class of waiting runs of a queue that follows `after`, or the first one.
    #[must_use]
    pub fn waiting_class<'a>(&'a self, queue: &Arc<str>, after: Option<&Needs>) -> Option<&'a Needs> {
        let after = match after {
            Some(needs) => (needs.clone(), Timestamp::MAX, HIGHEST),
            None => (Needs { queue: queue.clone(), spec: None, place: None }, Timestamp::MAX, HIGHEST),
        };
        let mut later = self.waiting.range((Bound::Excluded(after), Bound::Unbounded));
        later.next().map(|(needs, _, _)| needs).filter(|needs| needs.queue == *queue)
    }

    /// The runs of a class, the earliest due first, with when they were due.
    pub fn waiting_like<'a>(&'a self, needs: &'a Needs) -> impl Iterator<Item = (Timestamp, RunId)> + 'a {
        self.waiting
            .range((needs.clone(), Timestamp::MIN, LOWEST)..)
            .take_while(move |(of, _, _)| of == needs)
            .map(|(_, due_at, run)| (*due_at, *run))
    }

    /// Runs that wait for a worker, in the order of their queues' names, and then those that wait to be spread.
    pub fn waiting(&self) -> impl Iterator<Item = RunId> {
        self.waiting.iter().map(|(_, _, run)| *run).chain(self.spreading())
    }

    /// Runs that wait to be made into one for each worker that matches, the earliest due first.
    pub fn spreading(&self) -> impl Iterator<Item = RunId> {
        self.spreading.iter().map(|(_, run)| *run)
    }

    /// How many runs wait for a worker.
    #[must_use]
    pub fn waiting_count(&self) -> usize {
        self.waiting.len() + self.spreading.len()
    }

    pub(super) fn wait(&mut self, run: &Run) {
        if self.spreads(run) {
            self.spreading.insert((run.due_at, run.id));
        } else if let Some(row) = self.waiting_row(run) {
            self.waiting.insert(row);
        }
    }

    pub(super) fn wait_no_more(&mut self, run: &Run) {
        if self.spreads(run) {
            self.spreading.remove(&(run.due_at, run.id));
        } else if let Some(row) = self.waiting_row(run) {
            self.waiting.remove(&row);
        }
    }

    fn waiting_row(&self, run: &Run) -> Option<(Needs, Timestamp, RunId)> {
        // Every live run has its job; see `verify`.
        let spec = self.jobs.get(&run.id.job)?.spec.clone();
        let needs = Needs { queue: run.queue.clone(), spec: Some(spec), place: run.place.clone() };
        Some((needs, run.due_at, run.id))
    }

    /// The waiting runs of a job, which must be taken out and put back around a change of what they need.
    pub(super) fn waiting_of(&self, job: JobId) -> Vec<Arc<Run>> {
        self.runs_of(job).filter(|run| run.phase == Phase::Waiting).cloned().collect()
    }
}
