//! People and programs that create, change, pause, trigger and delete jobs at random moments, through the shipped
//! client, from a machine of their own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chronarch::client::{Client, Error, job_file};
use chronarch::pb::{instant, v1};
use tokio::time::sleep;

use crate::lab::chance::Chance;
use crate::net;
use crate::truth::Truth;

const NAMES: [&str; 6] = ["ant", "bee", "cat", "dog", "elk", "fox"];
/// Which of the things that a person does is to cancel a run.
const CANCEL: u64 = 9;
const RETRY: u64 = 11;
const QUEUE: u64 = 12;
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// A job file with policies of every kind.
fn random_job(name: &str, chance: &mut Chance) -> String {
    let every = chance.pick(&["500ms", "1s", "1500ms", "4s", "9s"]);
    let jitter = if chance.one_in(3) { ", jitter: 300ms" } else { "" };
    let slow = if chance.one_in(4) { "slow" } else { "quick" };
    let occurs = match chance.between(0, 3) {
        // Cycles, and jobs that are not there, are refused.
        0 => {
            let (first, second) = (chance.pick(&NAMES), chance.pick(&NAMES));
            let jobs = if first == second { first.to_owned() } else { format!("{first}, {second}") };
            let (when, on) = (chance.pick(&["all", "any"]), chance.pick(&["success", "always", "failure"]));
            format!("after: {{jobs: [{jobs}], when: {when}, on: {on}}}")
        }
        _ => format!("schedule: {{every: {every}{jitter}}}"),
    };
    let mut text = format!(
        "name: {name}\n{occurs}\ntarget: {{http: {{url: \"http://target/{slow}\"}}}}\n\
         timeout: {}s\nretry: {{max_attempts: {}, initial: {}ms, max: 2s}}\n\
         catch_up: {{runs: {}, window: {}s, max: {}}}\n",
        chance.between(2, 8),
        chance.pick(&[1, 1, 2, 4]),
        chance.between(10, 900),
        chance.pick(&["none", "latest", "all"]),
        chance.between(1, 12),
        chance.between(1, 5),
    );
    text += &match chance.between(0, 3) {
        0 => "overlap: skip\n".to_owned(),
        1 => "overlap: allow\n".to_owned(),
        2 => format!(
            "overlap: {{policy: queue, limit: {}, keep: {}}}\n",
            chance.between(1, 3),
            chance.pick(&["newest", "oldest"])
        ),
        _ => "overlap: replace\n".to_owned(),
    };
    if chance.one_in(3) {
        let group = chance.pick(&["", "group: shared, "]);
        let (concurrency, rate) = (chance.between(1, 3), chance.between(2, 6));
        text += &format!("limits: {{{group}concurrency: {concurrency}, rate: {rate}/1s}}\n");
    }
    text += &format!("priority: {}\nlabels: {{team: {}}}\n", chance.between(0, 3), chance.pick(&["x", "y"]));
    // A place that is gone for good keeps its part for as long as it may wait.
    let every_node = chance.one_in(5);
    if every_node || chance.one_in(3) {
        text += &format!("start_within: {}s\n", chance.between(1, 4));
    }
    if every_node {
        text += "every_node: true\n";
    }
    let shared = if chance.one_in(3) { "name: feed, " } else { "" };
    text += &format!(
        "on_lost: {}\non_resume: {}\nbreaker: {{{shared}consecutive_failures: {}, open_for: {}s, max_open_for: 10s, \
         probes: {}, on_open: {}}}\n",
        chance.pick(&["rerun", "fail"]),
        chance.pick(&["skip", "catch_up"]),
        chance.between(1, 4),
        chance.between(1, 4),
        chance.between(1, 3),
        chance.pick(&["skip", "hold"]),
    );
    text
}

/// One client machine.
pub(crate) struct Person {
    client: Client,
    chance: Arc<Mutex<Chance>>,
    truth: Truth,
    name: String,
    operations: u64,
}

impl Person {
    pub(crate) fn new(name: &str, chance: Chance, truth: Truth) -> Self {
        let endpoints: Vec<_> =
            net::endpoints().map(|endpoint| endpoint.parse().expect("an endpoint")).collect();
        let client = Client::over(&net::dialer(), &endpoints, PATIENCE, || unreachable!("each has an id"))
            .expect("endpoints");
        let chance = Arc::new(Mutex::new(chance));
        Self { client, chance, truth, name: name.to_owned(), operations: 0 }
    }

    /// Does something every now and then, until the world ends.
    pub(crate) async fn live(mut self) {
        loop {
            let pause = self.draw(|chance| chance.between(50, 900));
            sleep(Duration::from_millis(pause)).await;
            self.act().await;
        }
    }

    /// Asks for one thing by name, again and again until it is acknowledged.
    pub(crate) async fn insist(&mut self, ask: impl AsyncFn(&Client, String) -> Result<(), Error>) {
        let operation = self.operation();
        loop {
            match ask(&self.client, operation.clone()).await {
                Ok(()) => return self.truth.acknowledged(&operation),
                Err(Error::NotFound { .. } | Error::Refused { .. }) => return,
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    pub(crate) async fn delete_all(&mut self) {
        for name in NAMES {
            self.insist(async |client, operation_id| {
                let request = v1::DeleteJobRequest {
                    name: name.to_owned(),
                    operation_id,
                    ..v1::DeleteJobRequest::default()
                };
                client.delete_job(request).await.map(drop)
            })
            .await;
        }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        draw(&mut self.chance.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn operation(&mut self) -> String {
        self.operations += 1;
        format!("{}-{}", self.name, self.operations)
    }

    async fn act(&mut self) {
        let (name, what) = self.draw(|chance| (chance.pick(&NAMES).to_owned(), chance.between(0, 14)));
        let operation_id = format!("{}-{what}", self.operation());
        let (operation, client) = (operation_id.clone(), &self.client);
        let reason = "a simulation".to_owned();
        let done = match what {
            0..=4 => {
                let text = self.draw(|chance| random_job(&name, chance));
                let documents = job_file::read("job.yaml", job_file::Format::Yaml, &text)
                    .unwrap_or_else(|_| panic!("a sound job file:\n{text}"));
                let jobs = documents.into_iter().map(|document| document.spec).collect();
                let request = v1::ApplyJobsRequest { jobs, operation_id, ..Default::default() };
                client.apply_jobs(request).await.map(drop)
            }
            5 => {
                let cancel_runs = self.draw(|chance| chance.one_in(2));
                let request = v1::DeleteJobRequest { name, operation_id, cancel_runs, ..Default::default() };
                client.delete_job(request).await.map(drop)
            }
            6 => {
                let until = self.draw(|chance| chance.one_in(2).then(|| chance.between(200, 8_000)));
                let now = self.truth.state().now();
                let until = until.map(|millis| instant::write(now.plus(Duration::from_millis(millis))));
                let request = v1::PauseJobRequest { name, operation_id, reason, until, ..Default::default() };
                client.pause_job(request).await.map(drop)
            }
            7 => {
                let request = v1::ResumeJobRequest { name, operation_id, ..Default::default() };
                client.resume_job(request).await.map(drop)
            }
            8 => {
                let request = v1::TriggerJobRequest { name, operation_id, ..Default::default() };
                client.trigger_job(request).await.map(drop)
            }
            CANCEL => self.cancel(operation_id).await,
            RETRY => self.retry(&name, operation_id).await,
            QUEUE => {
                let [concurrency, max_waiting] = self
                    .draw(|chance| [chance.pick(&[None, Some(2), Some(6)]), chance.pick(&[None, Some(4)])]);
                let name = "default".to_owned();
                let request = v1::SetQueueRequest {
                    name,
                    concurrency,
                    max_waiting,
                    operation_id,
                    ..Default::default()
                };
                client.set_queue(request).await.map(drop)
            }
            13 => {
                let labels = [("team".to_owned(), "x".to_owned())].into();
                let request = v1::ResumeJobsRequest { labels, operation_id, ..Default::default() };
                // Each job that was paused is an operation; which those were is not told to a repeat.
                let _ = client.resume_jobs(request).await;
                return;
            }
            10 => {
                let name = "feed".to_owned();
                let request = v1::ResetBreakerRequest { name, operation_id, reason, ..Default::default() };
                client.reset_breaker(request).await.map(drop)
            }
            _ => {
                // Which node takes over is theirs to decide; nobody remembers the operation.
                let _ = client.transfer_leader(v1::TransferLeaderRequest::default()).await;
                return;
            }
        };
        match done {
            // A run that has ended already is answered with its record, and nothing is done.
            Ok(()) if what == CANCEL => {}
            Ok(()) => self.truth.acknowledged(&operation),
            Err(Error::UnknownResult { .. } | Error::Unreachable { .. }) => self.truth.unknown(),
            Err(Error::NotFound { .. } | Error::Refused { .. }) => {}
            // The jobs that it would run after are not there, or it would run after itself.
            Err(Error::InvalidArgument { message, .. }) if message.contains(".after") => {}
            Err(error) => panic!("{operation}: {error:?}"),
        }
    }

    /// The newest ended run of a job again.
    async fn retry(&self, name: &str, operation_id: String) -> Result<(), Error> {
        let state = self.truth.state();
        let last = state.job_named("default", name).and_then(|job| job.last);
        let Some(last) = last else { return Err(Error::NotFound { message: String::new(), hint: None }) };
        let request = v1::RetryRunRequest { run_id: last.id.to_string(), operation_id, ..Default::default() };
        self.client.retry_run(request).await.map(drop)
    }

    async fn cancel(&self, operation_id: String) -> Result<(), Error> {
        let state = self.truth.state();
        let Some(run) = state.runs().next().map(|run| run.id.to_string()) else {
            return Err(Error::NotFound { message: String::new(), hint: None });
        };
        let request = v1::CancelRunRequest { run_id: run, operation_id, ..Default::default() };
        self.client.cancel_run(request).await.map(drop)
    }
}
