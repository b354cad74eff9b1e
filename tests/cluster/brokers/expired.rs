//! Tasks that expire where nobody tells of it.

use std::time::Duration;

use chronarch::clock::Clock;
use chronarch::pb::instant;
use chronarch::pb::v1::{RunState, TaskStanding};

use super::rabbit::Rabbit;
use super::server::Server;
use super::{celery_worker, connection};
use crate::harness::{Harness, eventually};

fn job(name: &str, target: &str) -> String {
    format!(
        "name: {name}\ntarget: {{celery: {{broker: main, {target}}}}}\noverlap: skip\nretry: {{max_attempts: 1}}\n---\n"
    )
}

/// The run of this job fails, for nobody has taken its task, and the job goes on.
async fn expires(harness: &Harness, job: &str) {
    let run = harness.trigger(job).await;
    eventually("workers to be asked", || async {
        let task = harness.run(&run.run_id).await.attempts.pop()?.task?;
        let asked_at = instant::read(&task.expires_at?).plus(Duration::from_secs(30));
        (Clock::system().now() > asked_at).then_some(())
    })
    .await;
    let run = harness.ended(&run.run_id).await;
    assert_eq!(run.state(), RunState::Failed, "{run:?}");
    assert_eq!(run.attempts[0].error, "the task had expired before any worker took it", "{run:?}");
}

/// One worker with one thread: what it runs and what it has in reserve goes on, and what lies in a queue that it does not
/// read does not.
async fn beside_a_worker() {
    let server = Server::start().await;
    let harness = Harness::start(&connection(&server)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let pool = ["--pool", "threads", "-c", "1", "-n", "w1@lab"];
    let _worker = celery_worker((&server.url(), &server), folder.path(), &pool).await;
    let jobs = [
        job("good", "task: shop.note, args: [1]"),
        job("taken", "task: shop.sleep, args: [3000], expires: 10s"),
        job("reserved", "task: shop.note, args: [2], expires: 10s"),
        job("nowhere", "task: shop.note, args: [3], queue: idle, expires: 10s"),
    ];
    harness.apply(&jobs.concat()).await;
    eventually("Celery to say who runs what", || async {
        let run = harness.trigger("good").await;
        let run = harness.ended(&run.run_id).await;
        run.attempts[0].error.starts_with("run by w1@lab").then_some(())
    })
    .await;
    let taken = harness.trigger("taken").await;
    eventually("it to run", || async { (server.length("begun").await == 1).then_some(()) }).await;
    let reserved = harness.trigger("reserved").await;
    eventually("it to be with the worker", || async {
        // kombu keeps what was taken and not confirmed beside the queue.
        let left = harness.run(&reserved.run_id).await.attempts.pop()?;
        (!left.task_id.is_empty() && server.length("celery").await == 0).then_some(())
    })
    .await;
    expires(&harness, "nowhere").await;
    let standing = async |run: &str| -> (RunState, TaskStanding) {
        let run = harness.run(run).await;
        (run.state(), run.attempts[0].task.clone().expect("it was left"))
    };
    let (state, task) = standing(&taken.run_id).await;
    assert_eq!((state, task.by.as_str()), (RunState::Running, "w1@lab"));
    let (state, task) = standing(&reserved.run_id).await;
    assert_eq!((state, task.by.as_str()), (RunState::Running, ""), "it is asked for, and found");
    assert!(task.expires_at.is_some());
}

/// Nobody was ever there: nothing of what workers declare is.
async fn without_workers() {
    let broker = Rabbit::start().await;
    let harness = Harness::start(&format!("\n[connections.main]\nurl = \"{}\"\n", broker.url())).await;
    broker.queue("idle", &[]).await;
    harness.apply(&job("nowhere", "task: shop.note, args: [1], queue: idle, expires: 1s")).await;
    expires(&harness, "nowhere").await;
    assert_eq!(broker.length("idle").await, Some(0), "the broker has dropped it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_expires_before_a_worker_takes_it_ends_its_run() {
    tokio::join!(beside_a_worker(), without_workers());
}
