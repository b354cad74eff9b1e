//! Clients that change and read a few jobs through random nodes, and take down what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chronarch::client::{Client, Error};
use chronarch::clock::Clock;
use chronarch::pb::v1;
use tokio_util::sync::CancellationToken;

use super::history::{Operation, Recorder};
use super::model::{Applied, Seen, Step};
use crate::chance::Chance;

/// Values that a definition may have: few, so that an apply may change nothing.
const VALUES: u64 = 4;
/// How long a client tries before a result counts as unknown: longer than a takeover, so that few are.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long one that is in a hurry does, in milliseconds: its result may stay unknown.
const HURRY_MS: (u64, u64) = (20, 500);
/// One in so many is.
const HURRIES: u64 = 5;
/// The pause of a client between two operations, at most, in milliseconds.
const PAUSE_MS: u64 = 25;

const NAMESPACE: &str = "default";

/// Definitions that differ by their value alone, and whose runs end at once.
fn spec(job: &str, value: u64, url: &str) -> v1::JobSpec {
    let http = v1::HttpTarget { url: url.to_owned(), ..v1::HttpTarget::default() };
    v1::JobSpec {
        name: job.to_owned(),
        description: value.to_string(),
        target: Some(v1::Target { http: Some(http), ..v1::Target::default() }),
        overlap: Some(v1::Overlap {
            policy: v1::OverlapPolicy::Allow.into(),
            max_parallel: Some(1_000),
            ..v1::Overlap::default()
        }),
        // No record that someone is about to be shown may be pruned.
        retention: Some(v1::Retention { runs: Some(100_000), age: None }),
        ..v1::JobSpec::default()
    }
}

/// One client of one node; the client library itself goes on to the others when that is away.
pub(crate) struct Person {
    pub(crate) number: usize,
    pub(crate) chance: Chance,
    pub(crate) endpoints: Vec<String>,
    /// Jobs at a time.
    pub(crate) jobs: u64,
    /// Which of them: after a while others are used, so that no history of a job grows too long to be checked.
    pub(crate) round: Arc<AtomicU64>,
    pub(crate) url: String,
    pub(crate) recorder: Recorder,
}

/// What is known of an operation afterwards.
enum Told {
    /// These steps happened.
    Steps(Vec<Step>),
    /// This step may have happened.
    Perhaps(Step),
    /// Nothing happened, and nothing was learned.
    Nothing,
}

impl Person {
    /// Works until it is told to stop, and ends what it has begun.
    pub(crate) async fn work(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.once().await;
            let pause = Duration::from_millis(self.chance.between(0, PAUSE_MS));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// A client that asks the nodes in an order of its own; the first of them.
    fn client(&mut self) -> (Client, u64) {
        let first = self.chance.draw() as usize % self.endpoints.len();
        let (before, from) = self.endpoints.split_at(first);
        let order = from.iter().chain(before).map(|endpoint| endpoint.parse().expect("an endpoint"));
        let ids = Clock::system();
        let order: Vec<_> = order.collect();
        let patience = if self.chance.one_in(HURRIES) {
            Duration::from_millis(self.chance.between(HURRY_MS.0, HURRY_MS.1))
        } else {
            PATIENCE
        };
        let client = Client::new(&order, patience, move || ids.random_id()).expect("endpoints");
        (client, first as u64 + 1)
    }

    async fn once(&mut self) {
        let (client, node) = self.client();
        let round = self.round.load(Ordering::Relaxed);
        let job = format!("job-{round}-{}", self.chance.between(1, self.jobs));
        let kind = self.chance.between(0, 99);
        let value = self.chance.between(1, VALUES);
        let stale = (85..100).contains(&kind);
        let called = self.recorder.moment();
        let told = match kind {
            0..20 => apply(&client, spec(&job, value, &self.url), value).await,
            20..28 => delete(&client, &job).await,
            28..38 => pause(&client, &job).await,
            38..48 => resume(&client, &job).await,
            48..58 => trigger(&client, &job).await,
            _ => look(&client, &job, stale).await,
        };
        let returned = self.recorder.moment();
        let (steps, returned) = match told {
            Told::Steps(steps) => (steps, Some(returned)),
            Told::Perhaps(step) => (vec![step], None),
            Told::Nothing => return,
        };
        let client = self.number;
        self.recorder.add(Operation { job, client, node, stale, called, returned, steps });
    }
}

/// What a failure says of a change.
fn failed(error: &Error, step: Step) -> Told {
    match error {
        Error::UnknownResult { .. } | Error::Unexpected { .. } => Told::Perhaps(step),
        Error::Unreachable { .. } => Told::Nothing,
        Error::Refused { .. }
        | Error::InvalidArgument { .. }
        | Error::NotFound { .. }
        | Error::PermissionDenied { .. } => panic!("no rule forbids it: {error}"),
    }
}

fn seen(job: &v1::Job) -> Seen {
    let description = job.spec.as_ref().map(|spec| spec.description.as_str()).unwrap_or_default();
    Seen {
        incarnation: job.incarnation,
        version: job.version,
        value: description.parse().expect("a value"),
        paused: job.state() == v1::JobState::Paused,
    }
}

async fn apply(client: &Client, spec: v1::JobSpec, value: u64) -> Told {
    let request = v1::ApplyJobsRequest { jobs: vec![spec], ..v1::ApplyJobsRequest::default() };
    match client.apply_jobs(request).await {
        Ok(answer) => {
            let result = &answer.results[0];
            let did = match result.change() {
                v1::Change::Created => Applied::Created,
                v1::Change::Updated => Applied::Updated,
                v1::Change::Unchanged => Applied::Unchanged,
                v1::Change::Unspecified => panic!("{result:?}"),
            };
            Told::Steps(vec![Step::Apply { value, told: Some((did, result.version)) }])
        }
        Err(error) => failed(&error, Step::Apply { value, told: None }),
    }
}

async fn delete(client: &Client, job: &str) -> Told {
    let (namespace, name) = (NAMESPACE.to_owned(), job.to_owned());
    match client.delete_job(v1::DeleteJobRequest { namespace, name, ..Default::default() }).await {
        Ok(_) => Told::Steps(vec![Step::Delete { told: Some(true) }]),
        Err(Error::NotFound { .. }) => Told::Steps(vec![Step::Delete { told: Some(false) }]),
        Err(error) => failed(&error, Step::Delete { told: None }),
    }
}

/// A change that shows the job.
fn shown(paused: bool, answer: Result<v1::Job, Error>) -> Told {
    match answer {
        Ok(job) => Told::Steps(vec![Step::SetPaused { paused, done: true }, Step::Look(Some(seen(&job)))]),
        Err(Error::NotFound { .. }) => {
            Told::Steps(vec![Step::SetPaused { paused, done: false }, Step::Look(None)])
        }
        Err(error) => failed(&error, Step::SetPaused { paused, done: false }),
    }
}

async fn pause(client: &Client, job: &str) -> Told {
    let (namespace, name) = (NAMESPACE.to_owned(), job.to_owned());
    let request = v1::PauseJobRequest { namespace, name, ..Default::default() };
    shown(true, client.pause_job(request).await)
}

async fn resume(client: &Client, job: &str) -> Told {
    let (namespace, name) = (NAMESPACE.to_owned(), job.to_owned());
    let request = v1::ResumeJobRequest { namespace, name, ..Default::default() };
    shown(false, client.resume_job(request).await)
}

async fn trigger(client: &Client, job: &str) -> Told {
    let (namespace, name) = (NAMESPACE.to_owned(), job.to_owned());
    match client.trigger_job(v1::TriggerJobRequest { namespace, name, ..Default::default() }).await {
        Ok(run) => Told::Steps(vec![Step::Glance { incarnation: run.incarnation, version: run.version }]),
        // The run was made, and its record is not there any more: that says nothing of the job.
        Err(Error::NotFound { message, .. }) if message.starts_with("there is no run") => Told::Nothing,
        Err(Error::NotFound { .. }) => Told::Steps(vec![Step::Look(None)]),
        // To make a run changes nothing of the job.
        Err(_) => Told::Nothing,
    }
}

/// Reads a job.
pub(crate) async fn read(client: &Client, job: &str, stale: bool) -> Option<Step> {
    let (namespace, name) = (NAMESPACE.to_owned(), job.to_owned());
    match client.get_job(v1::GetJobRequest { namespace, name, stale }).await {
        Ok(job) => Some(Step::Look(Some(seen(&job)))),
        Err(Error::NotFound { .. }) => Some(Step::Look(None)),
        Err(_) => None,
    }
}

async fn look(client: &Client, job: &str, stale: bool) -> Told {
    read(client, job, stale).await.map_or(Told::Nothing, |step| Told::Steps(vec![step]))
}
