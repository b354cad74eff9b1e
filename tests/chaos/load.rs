//! The clients: they create, edit, pause, resume, delete, re-create and trigger jobs, and trip and reset breakers,
//! while faults are on. Each operation is noted with what it came to; what no answer came to is `unknown`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chronarch::client::{Client, Error, job_file};
use chronarch::clock::Clock;
use chronarch::pb::v1;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::chance::Chance;
use super::jobs::{self, JOBS};
use super::journal::Journal;
use super::net::{CLIENT_PORT, address};
use super::plan::GROUPS;

/// How many there are; each has jobs of its own.
const CLIENTS: u64 = 3;
/// How long an operation may take, all tries together.
const PATIENCE: Duration = Duration::from_secs(6);
const NAMESPACE: &str = "default";

/// A client of these nodes.
pub(crate) fn client(nodes: impl IntoIterator<Item = u64>, timeout: Duration) -> Client {
    let endpoints: Vec<_> = nodes
        .into_iter()
        .map(|node| format!("{}:{CLIENT_PORT}", address(node)).parse().expect("an endpoint"))
        .collect();
    let clock = Clock::system();
    Client::new(&endpoints, timeout, move || clock.random_id()).expect("at least one endpoint")
}

/// All clients together.
pub(crate) struct Load {
    clients: Vec<Arc<Caller>>,
    stopped: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

struct Caller {
    number: u64,
    client: Client,
    journal: Journal,
    operations: AtomicU64,
    chance: Mutex<Chance>,
}

impl Load {
    /// Creates all jobs.
    pub(crate) async fn begin(nodes: u64, journal: &Journal, seed: u64) -> Self {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                // Each asks another node first.
                let order = (0..nodes).map(|place| 1 + (place + number) % nodes);
                Arc::new(Caller {
                    number,
                    client: client(order, PATIENCE),
                    journal: journal.clone(),
                    operations: AtomicU64::new(0),
                    chance: Mutex::new(Chance::new(seed ^ (number + 1) << 32)),
                })
            })
            .collect();
        let mut load = Self { clients, stopped: Arc::default(), tasks: JoinSet::new() };
        for caller in load.clients.clone() {
            load.tasks.spawn(async move {
                for job in caller.jobs() {
                    caller.apply(job, job).await;
                }
            });
        }
        while load.tasks.join_next().await.is_some() {}
        load
    }

    /// Lets the clients do what they like.
    pub(crate) fn stir(&mut self) {
        for caller in self.clients.clone() {
            let stopped = self.stopped.clone();
            self.tasks.spawn(async move {
                while !stopped.load(Ordering::SeqCst) {
                    let pause = caller.between(100, 900);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    caller.any().await;
                }
            });
        }
    }

    /// Ends what they do, and pauses every job. Whether all of them were found to be paused or gone by then.
    pub(crate) async fn end(&mut self, limit: Duration) -> bool {
        self.stopped.store(true, Ordering::SeqCst);
        while self.tasks.join_next().await.is_some() {}
        let deadline = Instant::now() + limit;
        let mut left: Vec<u64> = (0..JOBS).collect();
        while !left.is_empty() && Instant::now() < deadline {
            let caller = &self.clients[0];
            let mut again = Vec::new();
            for job in left {
                if !matches!(caller.pause(job).await.as_str(), "ok" | "refused") {
                    again.push(job);
                }
            }
            left = again;
        }
        left.is_empty()
    }
}

impl Caller {
    fn jobs(&self) -> impl Iterator<Item = u64> + use<> {
        let number = self.number;
        (0..JOBS).filter(move |job| job % CLIENTS == number)
    }

    fn between(&self, from: u64, to: u64) -> u64 {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner).between(from, to)
    }

    fn operation(&self) -> String {
        format!("chaos-{}-{}", self.number, self.operations.fetch_add(1, Ordering::SeqCst))
    }

    /// One operation, drawn.
    async fn any(&self) {
        let own: Vec<u64> = self.jobs().collect();
        let job = own[self.between(0, own.len() as u64 - 1) as usize];
        match self.between(0, 19) {
            0..=4 => {
                let variant = self.between(0, 999);
                self.apply(job, variant).await;
            }
            5..=9 => self.trigger(job).await,
            10..=12 => drop(self.pause(job).await),
            13..=16 => self.resume(job).await,
            17 if !jobs::is_anchor(job) => {
                let cancels = self.between(0, 1) == 0;
                self.delete(job, cancels).await;
                if self.between(0, 3) > 0 {
                    let variant = self.between(0, 999);
                    self.apply(job, variant).await;
                }
            }
            18 => self.trip(GROUPS[self.between(0, 2) as usize]).await,
            19 => self.reset(GROUPS[self.between(0, 2) as usize]).await,
            // Whoever was deleted and left so comes back.
            _ => {
                let variant = self.between(0, 999);
                self.apply(job, variant).await;
            }
        }
    }

    async fn apply(&self, job: u64, variant: u64) {
        let file = {
            let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
            jobs::file(job, variant, &mut chance)
        };
        let text = file.to_string();
        let documents = job_file::read("job.json", job_file::Format::Json, &text).expect("a sound job file");
        let operation_id = self.operation();
        let request = v1::ApplyJobsRequest {
            jobs: documents.into_iter().map(|document| document.spec).collect(),
            operation_id: operation_id.clone(),
            ..v1::ApplyJobsRequest::default()
        };
        let begun = self.begun("apply", &operation_id, &jobs::name(job), Some(file));
        let answer = self.client.apply_jobs(request).await;
        self.note(begun, answer.map(|_| json!({})));
    }

    async fn pause(&self, job: u64) -> String {
        let (name, operation_id) = (jobs::name(job), self.operation());
        let begun = self.begun("pause", &operation_id, &name, None);
        let request = v1::PauseJobRequest {
            namespace: NAMESPACE.into(),
            name,
            operation_id,
            ..v1::PauseJobRequest::default()
        };
        let answer = self.client.pause_job(request).await;
        self.note(begun, answer.map(|_| json!({})))
    }

    async fn resume(&self, job: u64) {
        let (name, operation_id) = (jobs::name(job), self.operation());
        let begun = self.begun("resume", &operation_id, &name, None);
        let request = v1::ResumeJobRequest {
            namespace: NAMESPACE.into(),
            name,
            operation_id,
            ..v1::ResumeJobRequest::default()
        };
        let answer = self.client.resume_job(request).await;
        self.note(begun, answer.map(|_| json!({})));
    }

    async fn trigger(&self, job: u64) {
        let (name, operation_id) = (jobs::name(job), self.operation());
        let begun = self.begun("trigger", &operation_id, &name, None);
        let request = v1::TriggerJobRequest {
            namespace: NAMESPACE.into(),
            name,
            operation_id,
            ..v1::TriggerJobRequest::default()
        };
        let answer = self.client.trigger_job(request).await;
        self.note(begun, answer.map(|run| json!({"run_id": run.run_id})));
    }

    async fn delete(&self, job: u64, cancel_runs: bool) {
        let (name, operation_id) = (jobs::name(job), self.operation());
        let begun = self.begun("delete", &operation_id, &name, None);
        let request = v1::DeleteJobRequest {
            namespace: NAMESPACE.into(),
            name,
            operation_id,
            cancel_runs,
            ..v1::DeleteJobRequest::default()
        };
        let answer = self.client.delete_job(request).await;
        self.note(begun, answer.map(|_| json!({})));
    }

    async fn trip(&self, group: &str) {
        let operation_id = self.operation();
        let begun = self.begun("trip", &operation_id, group, None);
        let request = v1::TripBreakerRequest {
            namespace: NAMESPACE.into(),
            name: group.into(),
            operation_id,
            ..v1::TripBreakerRequest::default()
        };
        let answer = self.client.trip_breaker(request).await;
        self.note(begun, answer.map(|_| json!({})));
    }

    async fn reset(&self, group: &str) {
        let operation_id = self.operation();
        let begun = self.begun("reset", &operation_id, group, None);
        let request = v1::ResetBreakerRequest {
            namespace: NAMESPACE.into(),
            name: group.into(),
            operation_id,
            ..v1::ResetBreakerRequest::default()
        };
        let answer = self.client.reset_breaker(request).await;
        self.note(begun, answer.map(|_| json!({})));
    }

    fn begun(&self, op: &str, operation_id: &str, name: &str, file: Option<Value>) -> Value {
        let mut line = json!({
            "op": op, "operation_id": operation_id, "name": name, "invoked_at": self.journal.now(),
        });
        if let Some(file) = file {
            line["file"] = file;
        }
        line
    }

    /// Writes down what an operation came to.
    fn note(&self, mut line: Value, answer: Result<Value, Error>) -> String {
        let (result, told) = match answer {
            Ok(told) => ("ok", told),
            Err(error) => {
                let result = match error {
                    Error::Refused { .. }
                    | Error::InvalidArgument { .. }
                    | Error::NotFound { .. }
                    | Error::PermissionDenied { .. } => "refused",
                    Error::Unreachable { .. } => "not_done",
                    Error::UnknownResult { .. } | Error::Unexpected { .. } => "unknown",
                };
                (result, json!({"error": error.to_string()}))
            }
        };
        line["returned_at"] = json!(self.journal.now());
        line["result"] = json!(result);
        for (key, value) in told.as_object().into_iter().flatten() {
            line[key] = value.clone();
        }
        self.journal.write(&line);
        result.to_owned()
    }
}
