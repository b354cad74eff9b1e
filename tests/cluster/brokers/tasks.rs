//! How a run ends whose task is Celery's: as the task does, whoever is killed in between.

use std::collections::BTreeSet;
use std::time::Duration;

use chronarch::pb::v1::{self, Outcome, RunState};
use rustix::process::Signal;
use serde_json::Value;

use super::rabbit::Rabbit;
use super::server::Server;
use super::{celery, celery_worker, connection};
use crate::harness::{Harness, eventually};

/// Jobs whose tasks end in different ways.
fn job(name: &str, target: &str, more: &str) -> String {
    format!("name: {name}\ntarget: {{celery: {{broker: main, {target}}}}}\noverlap: allow\n{more}\n---\n")
}

/// The run, once its task is with Celery.
async fn left(harness: &Harness, run_id: &str) -> v1::Run {
    eventually("the worker to have left its task", || async {
        let run = harness.run(run_id).await;
        run.attempts.last().is_some_and(|attempt| !attempt.task_id.is_empty()).then_some(run)
    })
    .await
}

fn ids(run: &v1::Run) -> BTreeSet<&str> {
    run.attempts.iter().map(|attempt| attempt.task_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_as_its_task_does() {
    let server = Server::start().await;
    let harness = Harness::start(&few_rights_of_redis(&server).await).await;
    let folder = tempfile::tempdir().expect("a folder");
    let _worker =
        celery_worker((&server.url(), &server), folder.path(), &["--pool", "prefork", "-c", "2"]).await;
    let retried = "retry: {max_attempts: 3, initial: 100ms}\nbreaker: {consecutive_failures: 3}";
    let once = "retry: {max_attempts: 1}";
    harness
        .apply(
            &[
                job("good", "task: shop.note, args: [1]", once),
                job("flaky", "task: shop.flaky, args: [2]", once),
                job("bad", "task: shop.fail, args: [boom]", retried),
                job("killed", "task: shop.die", once),
                job("unknown", "task: shop.nothing", once),
                job("sent", "task: shop.fail, args: [boom], wait_for_completion: false", once),
                job("answer", "task: shop.answer, args: [3], capture_result: true", once),
            ]
            .concat(),
        )
        .await;
    // Once one run tells who ran it, the workers send events.
    let good = eventually("Celery to say who runs what", || async {
        let run = harness.trigger("good").await;
        let run = harness.ended(&run.run_id).await;
        assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
        run.attempts[0].error.starts_with("run by celery@").then_some(run)
    })
    .await;
    let ran: Vec<Value> =
        server.list("ran").await.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
    let seen = ran.iter().find(|it| it["run"] == good.run_id.as_str()).expect("it ran");
    assert_eq!(seen["id"], good.attempts[0].task_id.as_str());
    assert!(good.attempts[0].handed_over_at.is_some());

    let [flaky, bad, killed, unknown, sent] = ["flaky", "bad", "killed", "unknown", "sent"];
    let flaky = harness.trigger(flaky).await;
    let flaky = harness.ended(&flaky.run_id).await;
    assert_eq!((flaky.state(), flaky.attempts.len()), (RunState::Succeeded, 1), "{flaky:?}");

    let bad = harness.trigger(bad).await;
    let bad = harness.ended(&bad.run_id).await;
    assert_eq!((bad.state(), bad.attempts.len(), ids(&bad).len()), (RunState::Failed, 3, 3), "{bad:?}");
    for attempt in &bad.attempts {
        assert!(
            attempt.error.contains("ValueError('boom')") && attempt.error.contains("run by celery@"),
            "{bad:?}"
        );
    }
    assert_eq!(harness.breaker("job:bad").await.reason, "consecutive_failures");

    let killed = harness.trigger(killed).await;
    let killed = harness.ended(&killed.run_id).await;
    assert!(killed.attempts[0].error.contains("SIGKILL"), "{killed:?}");

    // Celery tells of it by events alone.
    let unknown = harness.trigger(unknown).await;
    let unknown = harness.ended(&unknown.run_id).await;
    assert!(unknown.attempts[0].error.contains("NotRegistered"), "{unknown:?}");

    let answer = harness.trigger("answer").await;
    let answer = harness.ended(&answer.run_id).await;
    assert_eq!(answer.attempts[0].result, r#"{"rows":3}"#, "{answer:?}");

    let sent = harness.trigger(sent).await;
    let sent = harness.ended(&sent.run_id).await;
    assert_eq!((sent.state(), sent.attempts[0].task_id.as_str()), (RunState::Succeeded, ""), "{sent:?}");

    let list = format!("chronarch.done.{}", harness.cluster_id().await);
    eventually("the list to be empty", || async { (server.length(&list).await == 0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_to_end_is_revoked_and_one_that_expired_ends_its_run() {
    let server = Server::start().await;
    // All that an app's prefix stands before: lists, bindings, and the channels of events and control.
    let text = format!("{}celery = {{ global_keyprefix = \"shop:\" }}\n", connection(&server));
    let harness = Harness::start(&text).await;
    let folder = tempfile::tempdir().expect("a folder");
    let worker = {
        let mut worker =
            celery((&server.url(), &server), folder.path(), &["--pool", "prefork", "-c", "1"]).await;
        worker.env("SHOP_PREFIX", "shop:").spawn().expect("a process")
    };
    let once = "retry: {max_attempts: 1}\ntimeout: 10m";
    harness
        .apply(
            &[
                job("good", "task: shop.note, args: [1]", once),
                job("long", "task: shop.sleep, args: [3000]", once),
                job("slow", "task: shop.sleep, args: [3000]", "retry: {max_attempts: 1}\ntimeout: 2s"),
                job("late", "task: shop.note, args: [1], expires: 1s", once),
            ]
            .concat(),
        )
        .await;
    eventually("Celery to say who runs what", || async {
        let run = harness.trigger("good").await;
        let run = harness.ended(&run.run_id).await;
        run.attempts[0].error.starts_with("run by celery@").then_some(())
    })
    .await;

    let long = harness.trigger("long").await;
    eventually("it to run", || async { (server.length("begun").await == 1).then_some(()) }).await;
    let waits = left(&harness, &long.run_id).await;
    assert_eq!(waits.state(), RunState::Running, "{waits:?}");
    assert_eq!(
        harness.workers().await.iter().map(|worker| worker.running).sum::<u32>(),
        0,
        "nobody carries it"
    );
    harness.cancel(&long.run_id).await;
    let long = harness.ended(&long.run_id).await;
    assert_eq!(long.state(), RunState::Cancelled, "{long:?}");
    assert_eq!(long.attempts[0].outcome(), Outcome::Cancelled, "{long:?}");
    // Celery has one process, which is free again.
    let good = harness.trigger("good").await;
    assert_eq!(harness.ended(&good.run_id).await.state(), RunState::Succeeded);

    let slow = harness.trigger("slow").await;
    let slow = harness.ended(&slow.run_id).await;
    assert_eq!(slow.attempts[0].outcome(), Outcome::Timeout, "{slow:?}");
    let good = harness.trigger("good").await;
    assert_eq!(harness.ended(&good.run_id).await.state(), RunState::Succeeded);

    // The worker comes to it when it is over.
    let pid = worker.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let signal = |signal| rustix::process::kill_process(pid.expect("it runs"), signal).expect("it runs");
    signal(Signal::STOP);
    let late = harness.trigger("late").await;
    let run = left(&harness, &late.run_id).await;
    let sent = run.attempts[0].started_at.expect("an instant");
    let over = Duration::from_secs(2);
    eventually("its time to be over", || async {
        let now = chronarch::clock::Clock::system().now().millis();
        (now > sent.seconds * 1_000 + i64::try_from(over.as_millis()).expect("small")).then_some(())
    })
    .await;
    signal(Signal::CONT);
    let late = harness.ended(&late.run_id).await;
    assert!(late.attempts[0].error.contains("had expired"), "{late:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_leader_dies_each_run_ends_as_its_task_did() {
    const JOBS: usize = 20;
    let server = Server::start().await;
    // Most are sent and told of by the leader's own worker, which dies with it.
    let mut harness = Harness::start(&connection(&server)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let _worker = celery_worker((&server.url(), &server), folder.path(), &["--pool", "solo"]).await;
    let jobs: String = (0..JOBS)
        .map(|n| {
            job(&format!("note-{n}"), "task: shop.note, args: [1]", "schedule: {every: 1s}\ncatch_up: all")
        })
        .collect();
    harness.apply(&jobs).await;
    for _ in 0..3 {
        let until = server.length("ran").await + JOBS as u64;
        eventually("tasks to run", || async { (server.length("ran").await >= until).then_some(()) }).await;
        let leader = harness.leader().await;
        harness.cluster.kill(leader).await.expect("it ran");
        let until = server.length("ran").await + JOBS as u64;
        eventually("the others to go on", || async { (server.length("ran").await >= until).then_some(()) })
            .await;
        harness.cluster.start(leader).expect("a process");
    }
    for n in 0..JOBS {
        harness.pause(&format!("note-{n}")).await;
    }
    harness.quiet().await;
    let ran: Vec<Value> =
        server.list("ran").await.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
    let runs: BTreeSet<String> =
        ran.iter().map(|it| it["run"].as_str().expect("a run id").to_owned()).collect();
    assert_eq!(runs.len(), ran.len(), "each ran once");
    let mut recorded = BTreeSet::new();
    for n in 0..JOBS {
        for run in harness.runs(&format!("note-{n}")).await {
            assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
            assert!(!run.attempts.last().expect("one").task_id.is_empty(), "{run:?}");
            recorded.insert(run.run_id);
        }
    }
    assert_eq!(recorded, runs);
    let list = format!("chronarch.done.{}", harness.cluster_id().await);
    eventually("the list to be empty", || async { (server.length(&list).await == 0).then_some(()) }).await;
}

/// The same of a Redis server.
async fn few_rights_of_redis(server: &Server) -> String {
    const RIGHTS: &str = "~chronarch:sent:* ~chronarch.* ~_kombu.binding* ~unacked ~celery* &/0.celeryev/* \
                          &/0.celery.pidbox -@all +script|load +evalsha +exists +type +set +lpush +smembers +sadd \
                          +lrange +ltrim +lrem +expire +llen +hexists +publish +psubscribe";
    server.account("chronarch", "secret", RIGHTS).await;
    format!(
        "\n[connections.main]\nurl = \"{}\"\n",
        server.url().replace("redis://", "redis://chronarch:secret@")
    )
}

/// What a node's configuration says of the server, by an account that has no more rights than docs/effects.md says that it
/// needs.
async fn few_rights_of_rabbitmq(broker: &Rabbit) -> String {
    broker.control(&["add_user", "chronarch", "secret"]).await;
    let rights =
        [r"^chronarch\.", r"^(chronarch\.|amq\.default$|celery\.pidbox$)", r"^(chronarch\.|celeryev$)"];
    broker.control(&[["set_permissions", "chronarch"].as_slice(), &rights].concat()).await;
    let url = broker.url().replace("amqp://", "amqp://chronarch:secret@");
    format!("\n[connections.main]\nurl = \"{url}\"\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_rabbitmq_a_run_ends_as_its_task_does_and_another_listener_goes_on() {
    let (broker, ran) = (Rabbit::start().await, Server::start().await);
    let mut harness = Harness::start(&few_rights_of_rabbitmq(&broker).await).await;
    let folder = tempfile::tempdir().expect("a folder");
    let pool = ["--pool", "prefork", "-c", "1"];
    let _worker = celery_worker((&broker.url(), &ran), folder.path(), &pool).await;
    eventually("the worker to be there", || broker.length("celery")).await;
    let once = "retry: {max_attempts: 1}";
    let every = "schedule: {every: 500ms}\ncatch_up: all";
    harness
        .apply(
            &[
                job("good", "task: shop.note, args: [1]", once),
                job("bad", "task: shop.fail, args: [boom]", once),
                job("long", "task: shop.sleep, args: [3000]", once),
                job("often", "task: shop.note, args: [2]", every),
            ]
            .concat(),
        )
        .await;
    harness.pause("often").await;
    eventually("Celery to say who runs what", || async {
        let run = harness.trigger("good").await;
        let run = harness.ended(&run.run_id).await;
        assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
        run.attempts[0].error.starts_with("run by celery@").then_some(())
    })
    .await;
    let bad = harness.trigger("bad").await;
    let bad = harness.ended(&bad.run_id).await;
    assert!(bad.attempts[0].error.contains("ValueError('boom')"), "{bad:?}");
    let long = harness.trigger("long").await;
    eventually("it to run", || async { (ran.length("begun").await == 1).then_some(()) }).await;
    harness.cancel(&long.run_id).await;
    assert_eq!(harness.ended(&long.run_id).await.attempts[0].outcome(), Outcome::Cancelled);

    // Whoever listened is gone with its node; what it held and had not told of goes to the next.
    harness.resume("often").await;
    for _ in 0..2 {
        let until = ran.length("ran").await + 4;
        eventually("tasks to run", || async { (ran.length("ran").await >= until).then_some(()) }).await;
        let leader = harness.leader().await;
        harness.cluster.kill(leader).await.expect("it ran");
        let until = ran.length("ran").await + 4;
        eventually("the others to go on", || async { (ran.length("ran").await >= until).then_some(()) })
            .await;
        harness.cluster.start(leader).expect("a process");
    }
    harness.pause("often").await;
    harness.quiet().await;
    for run in harness.runs("often").await {
        assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    }
    let queue = format!("chronarch.done.{}", harness.cluster_id().await);
    eventually("the queue to be empty", || async { (broker.length(&queue).await == Some(0)).then_some(()) })
        .await;
}

/// RabbitMQ forgets what Celery's workers have declared, and the next of them is not there yet: whoever tells them
/// something breaks no connection by which others leave messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_celery_is_gone_from_rabbitmq_the_connection_goes_on() {
    let (broker, ran) = (Rabbit::start().await, Server::start().await);
    let harness = Harness::start(&few_rights_of_rabbitmq(&broker).await).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut worker = celery_worker((&broker.url(), &ran), folder.path(), &["--pool", "solo"]).await;
    eventually("the worker to be there", || broker.length("celery")).await;
    broker.queue("idle", &[]).await;
    let once = "retry: {max_attempts: 1}";
    harness
        .apply(
            &[
                job("good", "task: shop.note, args: [1]", once),
                job("waits", "task: shop.note, queue: idle", once),
            ]
            .concat(),
        )
        .await;
    eventually("Celery to say who runs what", || async {
        let run = harness.trigger("good").await;
        harness.ended(&run.run_id).await.attempts[0].error.starts_with("run by celery@").then_some(())
    })
    .await;
    worker.kill().await.expect("it ran");
    broker.remove_exchange("celery.pidbox").await;
    let before = broker.connections("chronarch").await;
    for _ in 0..8 {
        let run = harness.trigger("waits").await;
        left(&harness, &run.run_id).await;
        harness.cancel(&run.run_id).await;
        assert_eq!(harness.ended(&run.run_id).await.attempts[0].outcome(), Outcome::Cancelled);
    }
    // One of a worker that had left nothing before may have come.
    let gone: Vec<_> = before.difference(&broker.connections("chronarch").await).cloned().collect();
    assert!(gone.is_empty(), "they broke: {gone:?}");
}

/// With threads and not processes, so that nothing of a worker is left when it is killed.
const THREADS: [&str; 4] = ["--pool", "threads", "-c", "2"];

/// A worker dies with its task; then another one comes, and is told to run it again, or the run has failed: as jobs say.
async fn dies(harness: &Harness, at: (&str, &Server), rabbit: Option<&Rabbit>) {
    let folder = tempfile::tempdir().expect("a folder");
    let named = |name| [&THREADS[..], &["-n", name]].concat();
    let mut first = celery_worker(at, folder.path(), &named("first@lab")).await;
    if let Some(rabbit) = rabbit {
        eventually("the worker to be there", || rabbit.length("celery")).await;
    }
    let long = "task: shop.sleep, args: [3000], lost_after: 10s";
    let once = "retry: {max_attempts: 1}";
    harness
        .apply(
            &[
                job("again", long, once),
                job("ends", long, &format!("{once}\non_lost: fail")),
                job("good", "task: shop.note, args: [1]", once),
            ]
            .concat(),
        )
        .await;
    // Once one run tells who ran it, the workers send events.
    eventually("Celery to say who runs what", || async {
        let run = harness.trigger("good").await;
        let run = harness.ended(&run.run_id).await;
        run.attempts[0].error.starts_with("run by first@lab").then_some(())
    })
    .await;
    let (again, ends) = (harness.trigger("again").await, harness.trigger("ends").await);
    let by = async |run: &v1::Run, attempt: usize, name: &str| {
        eventually("it to be told who runs it", || async {
            let run = harness.run(&run.run_id).await;
            let task = run.attempts.get(attempt)?.task.clone()?;
            (task.by == name && task.begun).then_some(())
        })
        .await;
    };
    by(&again, 0, "first@lab").await;
    by(&ends, 0, "first@lab").await;
    first.kill().await.expect("it ran");
    let ends = harness.ended(&ends.run_id).await;
    assert_eq!((ends.state(), ends.attempts.len()), (RunState::Failed, 1), "{ends:?}");
    assert_eq!(ends.attempts[0].outcome(), Outcome::Lost, "{ends:?}");
    assert!(ends.attempts[0].error.contains("first@lab, which ran the task, was silent for"), "{ends:?}");
    let _second = celery_worker(at, folder.path(), &named("second@lab")).await;
    by(&again, 1, "second@lab").await;
    let run = harness.run(&again.run_id).await;
    assert_eq!((run.attempts[0].outcome(), ids(&run).len()), (Outcome::Lost, 2), "another task: {run:?}");
    harness.cancel(&again.run_id).await;
    harness.ended(&again.run_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_worker_dies_is_lost_and_its_job_says_what_then() {
    let server = Server::start().await;
    let harness = Harness::start(&connection(&server)).await;
    dies(&harness, (&server.url(), &server), None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_rabbitmq_a_task_whose_worker_dies_is_lost_too() {
    let (broker, ran) = (Rabbit::start().await, Server::start().await);
    let harness = Harness::start(&format!("\n[connections.main]\nurl = \"{}\"\n", broker.url())).await;
    dies(&harness, (&broker.url(), &ran), Some(&broker)).await;
}
