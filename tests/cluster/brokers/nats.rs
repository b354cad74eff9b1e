//! Messages that are left with a stream of NATS: kills of the server, of the leader, and of a worker in between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use async_nats::Client;
use chronarch::pb::v1::{Attempt, Outcome, RunState};
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Harness, eventually};
use crate::staff::{Inside, Way};

/// A server of a test's own, with one stream.
struct Nats {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, folder: &tempfile::TempDir) -> Child {
    Command::new("nats-server")
        .args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server is installed (scripts/test does it)")
}

impl Nats {
    /// With the stream `work`, which takes the subjects below `work`.
    async fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let folder = tempfile::tempdir().expect("a folder");
        let server = Self { child: spawn(port, &folder), port, folder };
        eventually("nats-server to answer", || server.ask("$JS.API.INFO", json!({}))).await;
        let stream = json!({ "name": "work", "subjects": ["work.>"] });
        server.ask("$JS.API.STREAM.CREATE.work", stream).await.expect("a stream");
        server
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    /// Ends it, and keeps its disk.
    fn kill(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    async fn start_again(&mut self) {
        self.child = spawn(self.port, &self.folder);
        eventually("nats-server to answer", || self.length()).await;
    }

    fn connection(&self) -> String {
        format!("\n[connections.main]\nurl = \"nats://127.0.0.1:{}\"\n", self.port)
    }

    async fn client(&self) -> Option<Client> {
        async_nats::connect(format!("nats://127.0.0.1:{}", self.port)).await.ok()
    }

    async fn ask(&self, subject: &str, words: Value) -> Option<Value> {
        let answer = self.client().await?.request(subject.to_owned(), words.to_string().into()).await.ok()?;
        serde_json::from_slice::<Value>(&answer.payload).ok().filter(|answer| answer.get("error").is_none())
    }

    /// How many messages the stream has.
    async fn length(&self) -> Option<u64> {
        self.ask("$JS.API.STREAM.INFO.work", json!({})).await?["state"]["messages"].as_u64()
    }

    async fn grows_by(&self, more: u64) {
        let before = eventually("nats-server to answer", || self.length()).await;
        eventually("messages to arrive", || async {
            self.length().await.filter(|now| *now >= before + more).map(drop)
        })
        .await;
    }

    /// How often a consumer gets the message of each run.
    async fn consumed(&self) -> BTreeMap<String, u32> {
        let client = self.client().await.expect("it answers");
        let mut consumer = client.subscribe("consumer.work").await.expect("it may");
        client.flush().await.expect("it answers");
        let all = json!({
            "deliver_subject": "consumer.work", "deliver_policy": "all", "ack_policy": "none",
            "replay_policy": "instant",
        });
        let asked = json!({ "stream_name": "work", "config": all });
        self.ask("$JS.API.CONSUMER.CREATE.work", asked).await.expect("a consumer");
        let mut counted = BTreeMap::new();
        for _ in 0..self.length().await.expect("a length") {
            let message = consumer.next().await.expect("it goes on");
            let headers = message.headers.expect("headers");
            let run = headers.get("chronarch-run-id").expect("a run").as_str().to_owned();
            *counted.entry(run).or_default() += 1;
        }
        counted
    }
}

/// Waits for an attempt at the first of the jobs that is like that.
async fn some_attempt(harness: &Harness, is: fn(&Attempt) -> bool) {
    eventually("such an attempt", || async {
        let runs = harness.runs("push-0").await;
        runs.iter().flat_map(|run| &run.attempts).any(is).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_each_run_is_one_message_within_the_window_and_none_is_lost() {
    const JOBS: usize = 40;
    let mut server = Nats::start().await;
    // The leader's own worker carries out most of what it orders, and dies with it.
    let mut harness = Harness::start(&server.connection()).await;
    let jobs: String = (0..JOBS)
        .map(|job| {
            format!(
                "name: push-{job}\nschedule: {{every: 500ms}}\noverlap: allow\ncatch_up: all\n\
                 retry: {{max_attempts: 100, initial: 100ms, max: 500ms}}\nbreaker: {{consecutive_failures: 0}}\n\
                 retention: {{runs: 10000}}\n\
                 target: {{nats: {{connection: main, subject: work.{job}, payload: x, stream: work}}}}\n---\n"
            )
        })
        .collect();
    harness.apply(&jobs).await;
    for _ in 0..2 {
        server.grows_by(3 * JOBS as u64).await;
        // It stands still with messages on their way, and dies; some runs find it gone.
        server.signal(Signal::STOP);
        some_attempt(&harness, |attempt| attempt.finished_at.is_none()).await;
        server.kill();
        some_attempt(&harness, |attempt| attempt.error.starts_with("broker_unreachable: ")).await;
        server.start_again().await;
        server.grows_by(JOBS as u64).await;
        let leader = harness.leader().await;
        harness.cluster.kill(leader).await.expect("it ran");
        server.grows_by(JOBS as u64).await;
        harness.cluster.start(leader).expect("a process");
    }
    for job in 0..JOBS {
        harness.pause(&format!("push-{job}")).await;
    }
    harness.quiet().await;
    let messages = server.consumed().await;
    let doubled: Vec<_> = messages.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "left more than once: {doubled:?}");
    let (mut left, mut again) = (BTreeSet::new(), 0);
    for job in 0..JOBS {
        for run in harness.runs(&format!("push-{job}")).await {
            assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
            again += run.attempts.len() - 1;
            left.insert(run.run_id);
        }
    }
    eprintln!("{} runs, {again} attempts more", left.len());
    assert_eq!(left, messages.into_keys().collect(), "what is recorded is what was left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_between_the_sending_and_its_report_leaves_one_message_with_nats() {
    let server = Nats::start().await;
    let harness = Harness::start("").await;
    let endpoints = harness.cluster.endpoints();
    let way = Way::to(&endpoints);
    let mut first = Inside::connected("first", "apart", &server.connection(), (&endpoints, &way));
    harness
        .apply("name: push\nqueue: apart\ntarget: {nats: {connection: main, subject: work.a, payload: x}}\n")
        .await;
    // Once as it should be, so that the connection is open.
    let run = harness.trigger("push").await;
    assert_eq!(harness.ended(&run.run_id).await.state(), RunState::Succeeded);
    // The server stands still, so that the attempt is under way; then nobody hears what became of it.
    server.signal(Signal::STOP);
    let run = harness.trigger("push").await;
    first.until(|status| status.running == 1).await;
    way.cut();
    server.signal(Signal::CONT);
    eventually("the message to be there", || async {
        server.length().await.filter(|length| *length == 2).map(drop)
    })
    .await;
    first.end.abort();

    let mended = Way::to(&endpoints);
    let _second = Inside::connected("second", "apart", &server.connection(), (&endpoints, &mended));
    let run = harness.ended(&run.run_id).await;
    let outcomes: Vec<Outcome> = run.attempts.iter().map(Attempt::outcome).collect();
    assert_eq!(outcomes, [Outcome::Lost, Outcome::Succeeded], "{run:?}");
    assert_eq!(run.attempts[1].error, "an earlier attempt of the run had sent the message");
    assert_eq!(server.length().await, Some(2));
}
