//! Tasks of which nobody is heard: dropped by a worker that has just come up.

use std::time::Duration;

use chronarch::clock::Clock;
use chronarch::pb::instant;
use chronarch::pb::v1::RunState;

use super::rabbit::Rabbit;
use super::server::Server;
use super::{celery_worker, connection};
use crate::harness::{Harness, eventually};

/// A job whose task nobody takes yet.
fn job(name: &str, target: &str) -> String {
    format!(
        "name: {name}\ntarget: {{celery: {{broker: main, lost_after: 10s, {target}}}}}\nretry: {{max_attempts: 1}}\n---\n"
    )
}

/// The run of this job, once its task lies with the broker.
async fn is_left(harness: &Harness, job: &str) -> String {
    let run = harness.trigger(job).await;
    eventually("it to be left", || async {
        let attempt = harness.run(&run.run_id).await.attempts.pop()?;
        (!attempt.task_id.is_empty()).then_some(run.run_id.clone())
    })
    .await
}

/// How this run fails: it is not looked for its task within the first minute.
async fn fails(harness: &Harness, run_id: &str) -> String {
    eventually("it to be looked for the task", || async {
        let run = harness.run(run_id).await;
        let left_at = instant::read(&run.attempts.last()?.handed_over_at?);
        let is_over = run.finished_at.is_some();
        (is_over || Clock::system().now() > left_at.plus(Duration::from_secs(45))).then_some(())
    })
    .await;
    let mut run = harness.ended(run_id).await;
    assert_eq!(run.state(), RunState::Failed, "{run:?}");
    run.attempts.pop().expect("an attempt").error
}

async fn still_run(harness: &Harness, runs: &[&String]) {
    for run in runs {
        let run = harness.run(run).await;
        assert_eq!(run.state(), RunState::Running, "{run:?}");
    }
}

async fn with_redis() {
    let server = Server::start().await;
    let harness = Harness::start(&connection(&server)).await;
    let jobs = [
        job("unknown", "task: shop.absent"),
        job("dropped", "task: shop.absent, queue: emptied"),
        job("known", "task: shop.note, queue: emptied"),
        job("dead", "task: shop.absent, queue: dead"),
        job("waits", "task: shop.absent, queue: idle"),
        job("elsewhere", "task: shop.absent, queue: strange"),
    ];
    harness.apply(&jobs.concat()).await;
    let [unknown, dropped, known, dead, waits, elsewhere] = [
        is_left(&harness, "unknown").await,
        is_left(&harness, "dropped").await,
        is_left(&harness, "known").await,
        is_left(&harness, "dead").await,
        is_left(&harness, "waits").await,
        is_left(&harness, "elsewhere").await,
    ];
    server.take_and_die("dead").await;
    for queue in ["emptied", "strange"] {
        server.purge(queue).await;
    }
    // It is not asked for events before it has come up, and then has done what waited for it.
    let folder = tempfile::tempdir().expect("a folder");
    let pool = ["--pool", "threads", "-c", "1", "-n", "w1@lab", "-Q", "celery,emptied,dead"];
    let _worker = celery_worker((&server.url(), &server), folder.path(), &pool).await;
    let error = fails(&harness, &dropped).await;
    assert_eq!(
        error,
        "task \"shop.absent\" is registered with none of the 1 workers of queue emptied, and was dropped by one of them"
    );
    // Whether or not it was listened by then.
    fails(&harness, &unknown).await;
    // A worker that knows them may have them, or one may still come to these; and nobody who can be asked takes from the
    // queue of the last one.
    still_run(&harness, &[&known, &dead, &waits, &elsewhere]).await;
}

async fn with_rabbitmq() {
    let (broker, ran) = (Rabbit::start().await, Server::start().await);
    let harness = Harness::start(&format!("\n[connections.main]\nurl = \"{}\"\n", broker.url())).await;
    for queue in ["celery", "emptied", "idle"] {
        broker.queue(queue, &[]).await;
    }
    let jobs = [
        job("unknown", "task: shop.absent"),
        job("dropped", "task: shop.absent, queue: emptied"),
        job("taken", "task: shop.note, queue: emptied"),
        job("waits", "task: shop.absent, queue: idle"),
    ];
    harness.apply(&jobs.concat()).await;
    let [waits, unknown, dropped, taken] = [
        is_left(&harness, "waits").await,
        is_left(&harness, "unknown").await,
        is_left(&harness, "dropped").await,
        is_left(&harness, "taken").await,
    ];
    assert_eq!(broker.take("emptied").await.len(), 2);
    let folder = tempfile::tempdir().expect("a folder");
    let pool = ["--pool", "solo", "-n", "w1@lab", "-Q", "celery,emptied"];
    let _worker = celery_worker((&broker.url(), &ran), folder.path(), &pool).await;
    let error = fails(&harness, &dropped).await;
    assert!(error.contains("is registered with none of the 1 workers of queue emptied"), "{error}");
    fails(&harness, &unknown).await;
    // The server does not tell what it has delivered, and a worker does not name all that it keeps.
    still_run(&harness, &[&waits, &taken]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_was_dropped_unheard_ends_its_run() {
    tokio::join!(with_redis(), with_rabbitmq());
}
