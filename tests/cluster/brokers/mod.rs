//! Messages that are left with brokers: real servers, a real Celery worker, and kills in between.

mod amqp;
mod expired;
mod nats;
mod quiet;
mod rabbit;
mod sentinel;
mod server;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use chronarch::pb::v1::{ExplainRunRequest, Outcome, RunState};
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::{Child, Command};

use self::server::Server;
use crate::harness::{Harness, eventually};
use crate::staff::{Inside, Process, Way};

/// What a node's configuration says of the server.
fn connection(server: &Server) -> String {
    format!("\n[connections.main]\nurl = \"{}\"\n", server.url())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_leader_dies_what_is_recorded_is_what_was_sent() {
    const JOBS: usize = 40;
    let server = Server::start().await;
    // The leader's own worker carries out most of what it orders, and dies with it.
    let mut harness = Harness::start(&connection(&server)).await;
    let jobs: String = (0..JOBS)
        .map(|job| {
            format!(
                "name: push-{job}\nschedule: {{every: 500ms}}\noverlap: allow\ncatch_up: all\n\
                 target: {{redis: {{connection: main, list: work, payload: x}}}}\n---\n"
            )
        })
        .collect();
    harness.apply(&jobs).await;
    for round in 1..=3_u64 {
        let until = server.length("work").await + 2 * JOBS as u64 + 7 * round;
        eventually("messages to arrive", || async { (server.length("work").await >= until).then_some(()) })
            .await;
        let leader = harness.leader().await;
        harness.cluster.kill(leader).await.expect("it ran");
        let until = server.length("work").await + JOBS as u64;
        eventually("the others to go on", || async { (server.length("work").await >= until).then_some(()) })
            .await;
        harness.cluster.start(leader).expect("a process");
    }
    for job in 0..JOBS {
        harness.pause(&format!("push-{job}")).await;
    }
    harness.quiet().await;

    let mut messages: BTreeMap<String, u32> = BTreeMap::new();
    for message in server.list("work").await {
        let message: Value = serde_json::from_str(&message).expect("JSON");
        let run = message["headers"]["chronarch-run-id"].as_str().expect("a run id").to_owned();
        *messages.entry(run).or_default() += 1;
    }
    let doubled: Vec<_> = messages.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "sent more than once: {doubled:?}");
    let mut sent = BTreeSet::new();
    for job in 0..JOBS {
        for run in harness.runs(&format!("push-{job}")).await {
            assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
            sent.insert(run.run_id);
        }
    }
    assert_eq!(sent, messages.into_keys().collect(), "what is recorded is what was sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_between_the_sending_and_its_report_leaves_one_message() {
    let server = Server::start().await;
    let harness = Harness::start("").await;
    let endpoints = harness.cluster.endpoints();
    let way = Way::to(&endpoints);
    let mut first = Inside::connected("first", "apart", &connection(&server), (&endpoints, &way));
    harness
        .apply("name: push\nqueue: apart\ntarget: {redis: {connection: main, list: work, payload: x}}\n")
        .await;
    // The server stands still, so that the attempt is under way; then nobody hears what became of it.
    server.signal(Signal::STOP);
    let run = harness.trigger("push").await;
    first.until(|status| status.running == 1).await;
    way.cut();
    server.signal(Signal::CONT);
    eventually("the message to be there", || async { (server.length("work").await == 1).then_some(()) })
        .await;
    first.end.abort();

    let mended = Way::to(&endpoints);
    let _second = Inside::connected("second", "apart", &connection(&server), (&endpoints, &mended));
    let run = harness.ended(&run.run_id).await;
    let outcomes: Vec<Outcome> = run.attempts.iter().map(|attempt| attempt.outcome()).collect();
    assert_eq!(outcomes, [Outcome::Lost, Outcome::Succeeded], "{run:?}");
    assert_eq!(run.attempts[1].error, "an earlier attempt of the run had sent the message");
    assert_eq!(server.length("work").await, 1);
}

/// The Python that Celery is installed for, below `target/` and kept.
async fn python() -> PathBuf {
    // Tests run at the same time, and the first one installs it for all.
    static INSTALLING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _installing = INSTALLING.lock().await;
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/celery");
    let installed = place.join("installed-5.7.0");
    if !installed.exists() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&place).status().await;
        assert!(made.is_ok_and(|made| made.success()), "python3 with venv is needed");
        let pip =
            Command::new(place.join("bin/pip")).args(["install", "--quiet", "celery[redis]==5.7.0"]).status();
        assert!(pip.await.is_ok_and(|done| done.success()), "PyPI is needed the first time");
        std::fs::write(&installed, "").expect("written");
    }
    place.join("bin/python")
}

async fn celery_worker(at: (&str, &Server), folder: &Path, pool: &[&str]) -> Child {
    celery(at, folder, pool).await.spawn().expect("a process")
}

async fn celery((broker, ran): (&str, &Server), folder: &Path, pool: &[&str]) -> Command {
    let log = std::fs::File::create(folder.join("celery.log")).expect("a file");
    let mut command = Command::new(python().await);
    command
        .args(["-m", "celery", "-A", "shop", "worker", "--loglevel", "INFO"])
        .args(pool)
        .args(["--without-gossip", "--without-mingle"])
        .env("SHOP_BROKER", broker)
        .env("SHOP_RAN", ran.url())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/brokers"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file"))
        .stderr(log)
        .kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_celery_worker_as_it_is_runs_what_a_job_sends() {
    let server = Server::start().await;
    let harness = Harness::start(&connection(&server)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let _worker = celery_worker((&server.url(), &server), folder.path(), &["--pool", "solo"]).await;
    harness
        .apply(
            "name: plain\nparams: {day: monday}\nschedule: {every: 100d}\n\
             target: {celery: {broker: main, task: shop.note, args: [1, '{{ params.day }}', \
               {__type__: decimal, __value__: '1.10'}], kwargs: {deep: {x: [null, true]}}, \
               priority: 3, expires: 1h, time_limit: 60s, soft_time_limit: 45s}}\n---\n\
             name: routed\n\
             target: {celery: {broker: main, task: shop.note, exchange: media, routing_key: media.feed.import}}\n---\n\
             name: nowhere\n\
             target: {celery: {broker: main, task: shop.note, exchange: media, routing_key: other}}\n",
        )
        .await;
    // The exchange is known once the worker has declared it.
    eventually("the worker to be there", || async {
        (server.members("_kombu.binding.media").await > 0).then_some(())
    })
    .await;
    let plain = harness.trigger("plain").await;
    let routed = harness.trigger("routed").await;
    let ran = eventually("the worker to run them", || async {
        let ran = server.list("ran").await;
        (ran.len() == 2).then_some(ran)
    })
    .await;
    let ran: Vec<Value> = ran.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
    let of = |run: &str| {
        ran.iter().find(|it| it["run"] == run).cloned().unwrap_or_else(|| panic!("{run}: {ran:?}"))
    };
    let seen = of(&plain.run_id);
    assert_eq!(seen["args"], serde_json::json!(["1", "monday", "1.10"]));
    assert_eq!(seen["types"], serde_json::json!(["int", "str", "Decimal"]));
    assert_eq!(seen["kwargs"], serde_json::json!({"deep": {"x": [null, true]}}));
    assert_eq!((&seen["job"], &seen["beat"]), (&Value::from("plain"), &Value::from(true)));
    assert_eq!(seen["timelimit"], serde_json::json!([60, 45]));
    assert!(seen["expires"].is_string());
    assert_eq!(of(&routed.run_id)["job"], "routed");
    assert_eq!(harness.ended(&plain.run_id).await.state(), RunState::Succeeded);

    let nowhere = harness.trigger("nowhere").await;
    let nowhere = harness.ended(&nowhere.run_id).await;
    let error = nowhere.attempts[0].error.as_str();
    assert!(nowhere.state() == RunState::Failed && error.starts_with("broker_unroutable: "), "{nowhere:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_celery_worker_runs_what_comes_by_rabbitmq_from_queues_of_all_kinds() {
    let (broker, ran) = (rabbit::Rabbit::start().await, Server::start().await);
    let text = format!("\n[connections.main]\nurl = \"{}\"\n", broker.url());
    let harness = Harness::start(&text).await;
    let folder = tempfile::tempdir().expect("a folder");
    let _worker = celery_worker((&broker.url(), &ran), folder.path(), &["--pool", "solo"]).await;
    let job = |name: &str, more: &str| {
        format!(
            "name: {name}\nschedule: {{every: 100d}}\n\
             target: {{celery: {{broker: main, task: shop.note, args: [1, {name}], {more}}}}}\n---\n"
        )
    };
    let jobs = [
        ("classic", "expires: 1h, time_limit: 60s, soft_time_limit: 45s, headers: {tenant: 7}"),
        ("long", "expires_at: '2100-01-01T00:00:00Z'"),
        ("quorum", "queue: solid, priority: 3"),
        ("urgent", "queue: urgent, priority: 9"),
        ("routed", "exchange: media, routing_key: media.feed.import"),
    ];
    harness.apply(&jobs.map(|(name, more)| job(name, more)).concat()).await;
    // Nothing is declared but by the worker.
    for queue in ["celery", "solid", "urgent", "feeds"] {
        eventually("the worker to be there", || broker.length(queue)).await;
    }
    let mut runs = BTreeMap::new();
    for (name, _) in jobs {
        runs.insert(harness.trigger(name).await.run_id, name);
    }
    for run in runs.keys() {
        let run = harness.ended(run).await;
        assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    }
    let ran = eventually("the worker to run them", || async {
        let ran = ran.list("ran").await;
        (ran.len() >= jobs.len()).then_some(ran)
    })
    .await;
    let ran: Vec<Value> = ran.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
    let seen: BTreeMap<&str, &str> = ran
        .iter()
        .map(|it| (it["run"].as_str().expect("a run"), it["job"].as_str().expect("a job")))
        .collect();
    let expected: BTreeMap<&str, &str> = runs.iter().map(|(run, name)| (run.as_str(), *name)).collect();
    assert_eq!((seen, ran.len()), (expected, jobs.len()));
    let classic = ran.iter().find(|it| it["job"] == "classic").expect("it ran");
    assert_eq!(classic["args"], serde_json::json!(["1", "classic"]));
    assert_eq!((&classic["timelimit"], &classic["beat"]), (&serde_json::json!([60, 45]), &Value::from(true)));
    assert!(classic["expires"].is_string());
    harness.apply(&job("nowhere", "queue: absent")).await;
    let nowhere = harness.trigger("nowhere").await;
    let nowhere = harness.ended(&nowhere.run_id).await;
    let error = nowhere.attempts[0].error.as_str();
    assert!(nowhere.state() == RunState::Failed && error.starts_with("broker_unroutable: "), "{nowhere:?}");
    assert_eq!(broker.length("absent").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_waits_for_a_worker_that_has_its_connection() {
    let server = Server::start().await;
    let harness = Harness::start("").await;
    harness.apply("name: push\ntarget: {redis: {connection: main, list: work, payload: x}}\n").await;
    let run = harness.trigger("push").await;
    eventually("the run to wait for somebody", || async {
        let request = ExplainRunRequest { run_id: run.run_id.clone(), ..ExplainRunRequest::default() };
        let told = harness.client.explain_run(request).await.ok()?;
        told.reasons.iter().chain([&told.summary]).any(|text| text.contains("redis:main")).then_some(())
    })
    .await;
    assert_eq!(server.length("work").await, 0);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("connections.toml");
    std::fs::write(&file, connection(&server)).expect("written");
    let args = ["--queue", "default", "--connections", file.to_str().expect("a path")];
    let _worker = Process::start(dir.path(), "apart", &harness.cluster.endpoints(), &args);
    let run = harness.ended(&run.run_id).await;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    assert!(run.attempts[0].worker.starts_with("apart/"), "{run:?}");
    assert_eq!(server.length("work").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_down_is_tried_again_and_trips_the_breaker() {
    let mut server = Server::start().await;
    let harness = Harness::start(&connection(&server)).await;
    let job = |name: &str, more: &str| {
        format!(
            "name: {name}\ntarget: {{redis: {{connection: main, list: work, payload: x}}}}\n{more}\n---\n"
        )
    };
    let patient =
        "retry: {max_attempts: 100, initial: 100ms, max: 200ms}\nbreaker: {consecutive_failures: 1000}";
    let careful = "breaker: {consecutive_failures: 2}";
    harness.apply(&[job("patient", patient), job("careful", careful)].concat()).await;
    server.stop();
    let waits = harness.trigger("patient").await;
    eventually("an attempt to fail by name", || async {
        let run = harness.run(&waits.run_id).await;
        run.attempts.iter().any(|attempt| attempt.error.starts_with("broker_unreachable: ")).then_some(())
    })
    .await;
    for _ in 0..2 {
        let run = harness.trigger("careful").await;
        assert_eq!(harness.ended(&run.run_id).await.state(), RunState::Failed);
    }
    let breaker = harness.breaker("job:careful").await;
    assert_eq!(breaker.reason, "consecutive_failures", "{breaker:?}");
    server.start_again().await;
    let run = harness.ended(&waits.run_id).await;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    assert_eq!(server.length("work").await, 1);
}
