//! `ApplyJobs`: many jobs at once, all of them checked before any is written.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use prost::Message as _;
use tokio::time::Instant;
use tonic::Status;

use super::super::problem::Problems;
use super::super::write::Write as _;
use super::super::{Api, limits, spec, status};
use super::{after, compiled};
use crate::pb::v1 as pb;
use crate::scheduler::almanac::Almanac;
use crate::scheduler::coming;
use crate::scheduler::occurrences::arm;
use crate::scheduler::set::ScheduleSet;
use crate::state::spec::JobSpec;
use crate::state::time::Timestamp;
use crate::state::{self, Change, Command, Due, Outcome, Rejection, State};
use crate::view;
use crate::view::cluster::WorkerInfo;

/// A warning: the job is kept, for a file that was applied before stays appliable when its time is over.
const IS_OVER: &str = "its schedule has no occurrence from now on; it runs only when it is triggered";

/// A job of the request, checked.
pub(in crate::api) struct Wanted {
    /// Its place in the request.
    pub(super) place: usize,
    pub(super) spec: Arc<JobSpec>,
    set: ScheduleSet,
    /// What `set` was read with.
    generation: u64,
    bytes: usize,
}

impl Wanted {
    /// Namespace and name.
    pub(super) fn name(&self) -> (String, String) {
        (self.spec.namespace.clone(), self.spec.name.clone())
    }

    /// What is proposed for it under the stamp `at`.
    pub(in crate::api) fn command(&self, request: &state::Request, at: Timestamp) -> Command {
        let next = arm(&self.spec, &self.set, at);
        Command::PutJob {
            spec: Arc::clone(&self.spec),
            next,
            request: request.clone(),
            reading: self.generation,
        }
    }

    /// Reads its schedules anew, where they were read with something that has changed.
    fn fit(&mut self, almanac: &Almanac) -> Result<(), Status> {
        if self.generation != almanac.generation() {
            self.set = compiled(&self.spec, almanac)?;
            self.generation = almanac.generation();
        }
        Ok(())
    }
}

/// Checks all jobs; every problem of every one, or all of them.
pub(in crate::api) fn check(jobs: &[pb::JobSpec], almanac: &Almanac) -> Result<Vec<Wanted>, Status> {
    if jobs.len() > limits::JOBS_PER_REQUEST {
        let reason = format!("{} are too many, at most {} are allowed", jobs.len(), limits::JOBS_PER_REQUEST);
        return Err(status::invalid_field("jobs", &reason));
    }
    let mut problems = Problems::new();
    let mut wanted = Vec::with_capacity(jobs.len());
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    for (place, job) in jobs.iter().enumerate() {
        let path = format!("jobs[{place}]");
        match spec::read_with(job, almanac) {
            Ok(read) => {
                let name = (read.namespace.clone(), read.name.clone());
                if let Some(first) = places.insert(name, place) {
                    problems.add(format!("{path}.name"), format!("the same as that of jobs[{first}]"));
                }
                let set = compiled(&read, almanac)?;
                let (spec, generation, bytes) = (Arc::new(read), almanac.generation(), job.encoded_len());
                wanted.push(Wanted { place, spec, set, generation, bytes });
            }
            Err(own) => problems.absorb(&path, own),
        }
    }
    if problems.is_empty() { Ok(wanted) } else { Err(status::invalid(&problems)) }
}

/// What the state would answer.
fn foreseen(state: &State, wanted: &Wanted, now: Timestamp) -> pb::AppliedJob {
    let spec = &wanted.spec;
    let existing = state.job_named(&spec.namespace, &spec.name);
    let armed = || arm(spec, &wanted.set, now);
    let (change, version, next) = match existing {
        None => (Change::Created, 1, armed()),
        Some(job) if job.spec == *spec && job.fault.is_none() => (Change::Unchanged, job.version, job.next),
        Some(job) => {
            let keeps = job.fault.is_none() && job.spec.schedules == spec.schedules;
            let next = if keeps { job.armed() } else { armed() };
            (Change::Updated, job.version + 1, next.filter(|_| job.pause.is_none()))
        }
    };
    let changes = existing.map_or_else(Vec::new, |job| view::diff::changes(&job.spec, spec));
    pb::AppliedJob { changes, ..applied(wanted, (change, version, next), now) }
}

/// What the state would answer to all of them.
pub(in crate::api) fn dry_run(
    state: &State,
    wanted: &[Wanted],
    now: Timestamp,
) -> Result<pb::ApplyJobsResponse, Status> {
    let mut results = Vec::with_capacity(wanted.len());
    let mut bytes = 0;
    for wanted in wanted {
        let result = foreseen(state, wanted, now);
        bytes += result.changes.iter().map(prost::Message::encoded_len).sum::<usize>();
        if bytes > limits::CHANGES_BYTES {
            let most = limits::CHANGES_BYTES;
            let status = Status::resource_exhausted(format!("the changes are longer than {most} bytes"));
            return Err(status::hinted(status, "ask about fewer jobs at a time"));
        }
        results.push(result);
    }
    Ok(pb::ApplyJobsResponse { results, ..Default::default() })
}

fn applied(
    Wanted { spec, set, .. }: &Wanted,
    (change, version, next): (Change, u64, Option<Due>),
    now: Timestamp,
) -> pb::AppliedJob {
    let is_over = !spec.schedules.is_empty() && next.is_none() && set.next_after(now).is_none();
    let change = match change {
        Change::Created => pb::Change::Created,
        Change::Updated => pb::Change::Updated,
        Change::Unchanged => pb::Change::Unchanged,
    };
    pb::AppliedJob {
        namespace: spec.namespace.clone(),
        name: spec.name.clone(),
        change: change.into(),
        version,
        next_at: next.map(|next| view::instant(next.scheduled_at)),
        changes: Vec::new(),
        warnings: is_over
            .then(|| IS_OVER.to_owned())
            .into_iter()
            .chain(coming::never(spec, set, now))
            .collect(),
    }
}

/// By place in the request, warnings of jobs whose connection none of these workers has.
fn unconnected(wanted: &[Wanted], workers: &[WorkerInfo]) -> Vec<(usize, String)> {
    // A leader that has just begun knows none yet.
    if workers.is_empty() {
        return Vec::new();
    }
    let announced: HashSet<&str> =
        workers.iter().flat_map(|worker| &worker.kinds).map(String::as_str).collect();
    let lacks = |wanted: &Wanted| {
        let target = &wanted.spec.target;
        let connection = target.connection().filter(|_| !announced.contains(target.needs().as_ref()))?;
        let kind = target.kind();
        let warning = format!(
            "at present no worker has a connection {connection:?} for {kind} targets; until one has, its runs wait"
        );
        Some((wanted.place, warning))
    };
    wanted.iter().filter_map(lacks).collect()
}

fn warn(results: &mut [pb::AppliedJob], warnings: Vec<(usize, String)>) {
    for (place, warning) in warnings {
        if let Some(result) = results.get_mut(place) {
            result.warnings.push(warning);
        }
    }
}

/// Jobs cut into entries of bounded size.
fn entries(wanted: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    let mut entries: Vec<Vec<Wanted>> = Vec::new();
    let mut bytes = 0;
    for job in wanted {
        let fits = |entry: &Vec<Wanted>| {
            entry.len() < limits::COMMANDS_PER_ENTRY && bytes + job.bytes <= limits::ENTRY_BYTES
        };
        match entries.last_mut().filter(|entry| fits(entry)) {
            Some(entry) => {
                bytes += job.bytes;
                entry.push(job);
            }
            None => {
                bytes = job.bytes;
                entries.push(vec![job]);
            }
        }
    }
    entries
}

/// What became of an entry.
struct Landed {
    index: u64,
    /// By place in the request.
    answers: Vec<(usize, pb::AppliedJob)>,
    /// To try again.
    again: Vec<Wanted>,
    /// Of which one waits for an occurrence to be decided.
    due: bool,
}

impl Api {
    pub(super) async fn apply_here(
        self,
        mut message: pb::ApplyJobsRequest,
    ) -> Result<pb::ApplyJobsResponse, Status> {
        let request = message.request();
        let jobs = std::mem::take(&mut message.jobs);
        let count = jobs.len();
        let named = jobs.iter().flat_map(|job| &job.schedule);
        if named.into_iter().any(|schedule| !schedule.exclude.is_empty() || !schedule.only.is_empty()) {
            // Only a leader that a majority follows can tell that a calendar is not there.
            self.barrier().await?;
        }
        let almanac = self.almanac();
        let checked = crate::threads::blocking(move || check(&jobs, &almanac)).await;
        let mut wanted = checked.map_err(|_| Status::unavailable("the node is ending"))??;
        self.check_levels(&wanted, &request.operation_id).await?;
        if message.dry_run || wanted.iter().any(|wanted| wanted.spec.after.is_some()) {
            after::check(self.state(false).await?.as_ref(), &mut wanted)?;
        }
        let unconnected = unconnected(&wanted, &(self.shared.workers)());
        if message.dry_run {
            wanted.sort_by_key(|wanted| wanted.place);
            let state = self.shared.raft.state();
            let now = self.stamp(&state).await?;
            let foreseen = crate::threads::blocking(move || dry_run(&state, &wanted, now)).await;
            let mut foreseen = foreseen.map_err(|_| Status::unavailable("the node is ending"))??;
            warn(&mut foreseen.results, unconnected);
            return Ok(foreseen);
        }
        let deadline = Instant::now() + limits::SETTLE_WAIT;
        let mut results: Vec<Option<pb::AppliedJob>> = vec![None; count];
        let mut applied_index = 0;
        while !wanted.is_empty() {
            let entries = entries(std::mem::take(&mut wanted));
            let is_alone = entries.len() == 1 && applied_index == 0;
            let proposals = entries.into_iter().map(|entry| self.put(entry, &request));
            let landed =
                futures::stream::iter(proposals).buffered(limits::ENTRIES_IN_FLIGHT).try_collect().await;
            let landed: Vec<Landed> = landed.map_err(|refused| match is_alone {
                true => refused,
                false => status::in_part(refused, &request.operation_id),
            })?;
            let (mut last, mut refusal) = (0, Rejection::Stale);
            for Landed { index, answers, again, due } in landed {
                for (place, answer) in answers {
                    if let Some(result) = results.get_mut(place) {
                        *result = Some(answer);
                    }
                }
                wanted.extend(again);
                last = last.max(index);
                applied_index = applied_index.max(index);
                if due {
                    refusal = Rejection::OccurrenceDue;
                }
            }
            if !wanted.is_empty() {
                self.moved_on(refusal, last, deadline).await?;
            }
        }
        let results = results.into_iter().collect::<Option<Vec<_>>>();
        let mut results = results.ok_or_else(status::unexpected)?;
        warn(&mut results, unconnected);
        Ok(pb::ApplyJobsResponse { results, applied_index })
    }

    /// Refuses all of them before the first is written, where one needs a level that the cluster is not at.
    async fn check_levels(&self, wanted: &[Wanted], operation_id: &str) -> Result<(), Status> {
        let highest = wanted.iter().max_by_key(|wanted| (wanted.spec.need().level, Reverse(wanted.place)));
        let Some(Wanted { spec, .. }) = highest else { return Ok(()) };
        let checked = self.shared.raft.await_level(spec.need(), limits::SETTLE_WAIT).await;
        checked.map_err(|error| {
            let refused = status::proposed(&error, operation_id);
            if status::is_not_leader(&refused) {
                return refused;
            }
            status::within(&format!("job {:?} in namespace {:?}", spec.name, spec.namespace), &refused)
        })
    }

    async fn put(&self, mut entry: Vec<Wanted>, request: &state::Request) -> Result<Landed, Status> {
        let at = self.stamp(&self.shared.raft.state()).await?;
        let almanac = self.almanac();
        entry.iter_mut().try_for_each(|wanted| wanted.fit(&almanac))?;
        let commands = entry.iter().map(|wanted| wanted.command(request, at)).collect();
        let proposed = self.propose(at, commands, &request.operation_id).await?;
        let state = self.shared.raft.state();
        let mut answers = Vec::with_capacity(entry.len());
        let mut again = Vec::new();
        let mut due = false;
        for (wanted, outcome) in entry.into_iter().zip(&proposed.applied.outcomes) {
            match outcome {
                Outcome::Put { job, version, change } => {
                    let next = state.job(*job).and_then(|job| job.next);
                    answers.push((wanted.place, applied(&wanted, (*change, *version, next), at)));
                }
                // A cycle may be one only until the other jobs of the request are applied.
                Outcome::Rejected(
                    rejection @ (Rejection::Stale | Rejection::OccurrenceDue | Rejection::Cycle),
                ) => {
                    due |= *rejection == Rejection::OccurrenceDue;
                    again.push(wanted);
                }
                Outcome::Rejected(rejection) => {
                    let job = format!("job {:?} in namespace {:?}", wanted.spec.name, wanted.spec.namespace);
                    return Err(status::within(&job, &status::rejected(*rejection)));
                }
                Outcome::Done
                | Outcome::Fired { .. }
                | Outcome::Triggered { .. }
                | Outcome::Backfilled { .. }
                | Outcome::Spread { .. }
                | Outcome::Started { .. }
                | Outcome::Completed { .. } => return Err(status::unexpected()),
            }
        }
        Ok(Landed { index: proposed.index, answers, again, due })
    }
}
