//! Workers of a user's own, as the examples show them in Python and in Rust: on the documented protocol alone.

#[path = "../../scripts/examples/worker.rs"]
#[expect(dead_code, reason = "the example's own main is the program's")]
mod example;

use std::path::PathBuf;
use std::process::Stdio;

use chronarch::pb::v1::{ListWorkersRequest, RunState, TriggerJobRequest, Worker};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::harness::{Harness, PATIENCE, eventually};

/// Attempts are carried out, and the long one goes on while the leader dies.
async fn serves_and_survives(harness: &mut Harness, payload: impl Fn(u32) -> String) {
    let job = |name: &str, seconds| {
        format!(
            "name: {name}\nqueue: own\ntarget: {{queue: {{payload: '{}'}}}}\ntimeout: 1m\n---\n",
            payload(seconds)
        )
    };
    harness.apply(&format!("{}{}", job("quick", 0), job("long", 6))).await;
    let quick = harness.trigger("quick").await;
    let quick = harness.ended(&quick.run_id).await;
    assert_eq!((quick.state(), quick.attempts[0].output.as_str()), (RunState::Succeeded, "done\n"));
    let long = harness.trigger("long").await;
    eventually("the long run to start", || async {
        (harness.run(&long.run_id).await.state() == RunState::Running).then_some(())
    })
    .await;
    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    let long = harness.ended(&long.run_id).await;
    assert_eq!((long.state(), long.attempts.len()), (RunState::Succeeded, 1), "{long:?}");
}

/// `chronarch worker VERB NAME`, as a person does it.
async fn person(harness: &Harness, verb: &str, name: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chronarch"));
    command.args(["worker", verb, name, "--reason", "a test", "--endpoints"]);
    let done = command.arg(harness.cluster.endpoints().join(",")).output().await.expect("the program");
    assert!(done.status.success(), "{verb}: {done:?}");
}

/// The only worker of the queue, once the leader knows it.
async fn own(harness: &Harness) -> Worker {
    eventually("the worker to serve", || async {
        let asked = ListWorkersRequest { queue: "own".to_owned(), ..ListWorkersRequest::default() };
        let mut found = harness.client.list_workers(asked).await.ok()?.workers;
        (found.len() == 1).then(|| found.remove(0))
    })
    .await
}

/// Asked to drain it finishes what it has and takes nothing new, also under another leader, until it is asked to resume.
async fn drains_and_resumes(harness: &mut Harness, payload: impl Fn(u32) -> String) {
    let job = |name: &str, seconds| {
        format!("name: {name}\nqueue: own\ntarget: {{queue: {{payload: '{}'}}}}\n---\n", payload(seconds))
    };
    harness.apply(&format!("{}{}", job("now", 5), job("later", 0))).await;
    let worker = own(harness).await;
    assert!(worker.slots > 1, "else the second run would wait anyway");
    let now = harness.trigger("now").await;
    eventually("the run to start", || async {
        (harness.run(&now.run_id).await.state() == RunState::Running).then_some(())
    })
    .await;
    person(harness, "drain", &worker.worker).await;
    let later = harness.trigger("later").await;
    let now = harness.ended(&now.run_id).await;
    assert_eq!((now.state(), now.attempts.len()), (RunState::Succeeded, 1), "{now:?}");

    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    eventually("the worker to say so to the next leader", || async {
        let seen = own(harness).await;
        let asked = seen.drain.as_ref().is_some_and(|drain| drain.reason == "a test");
        (seen.worker == worker.worker && asked && seen.running == 0).then_some(())
    })
    .await;
    let waiting = harness.run(&later.run_id).await;
    assert_eq!((waiting.state(), waiting.attempts.len()), (RunState::Pending, 0), "{waiting:?}");

    person(harness, "resume", &worker.worker).await;
    let later = harness.ended(&later.run_id).await;
    let by: Vec<_> = later.attempts.iter().map(|attempt| attempt.worker.as_str()).collect();
    assert_eq!((later.state(), by), (RunState::Succeeded, vec![worker.worker.as_str()]), "{later:?}");
    harness.cluster.start(leader).expect("a process");
}

/// What stands in the place of a param is what the run has for it, to the letter.
async fn is_given_params(harness: &Harness) {
    let job = "name: says\nqueue: own\nparams: {why: x}\n\
               target: {queue: {payload: '{\"fail\": \"because {{ params.why }}\"}'}}\n";
    harness.apply(job).await;
    let why = "\", \"seconds\": \"60\\";
    let run = harness
        .client
        .trigger_job(TriggerJobRequest {
            namespace: "default".to_owned(),
            name: "says".to_owned(),
            params: [("why".to_owned(), why.to_owned())].into(),
            ..TriggerJobRequest::default()
        })
        .await
        .expect("the run is made");
    let run = harness.ended(&run.run_id).await;
    assert_eq!(
        (run.state(), run.attempts[0].error.as_str()),
        (RunState::Failed, format!("because {why}").as_str())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_in_python_is_a_whole_worker() {
    let mut harness = Harness::start("").await;
    let mut command =
        Command::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/examples/python-worker"));
    command.args(["--queue", "own", "--endpoints", &harness.cluster.endpoints().join(",")]);
    let mut worker =
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().expect("a process");
    let payload = |seconds| format!("{{\"seconds\": {seconds}}}");
    is_given_params(&harness).await;
    drains_and_resumes(&mut harness, payload).await;
    serves_and_survives(&mut harness, payload).await;
    let pid = worker.id().expect("it runs").to_string();
    let told = std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill");
    assert!(told.success());
    let ended = tokio::time::timeout(PATIENCE, worker.wait()).await.expect("it drains");
    assert_eq!(ended.expect("it ends").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_in_rust_is_a_whole_worker() {
    let mut harness = Harness::start("").await;
    let endpoints = harness.cluster.endpoints();
    let stop = CancellationToken::new();
    let told = stop.clone();
    let worker = tokio::spawn(async move {
        example::work("own".to_owned(), endpoints, told).await.map_err(|error| error.to_string())
    });
    drains_and_resumes(&mut harness, |seconds| seconds.to_string()).await;
    serves_and_survives(&mut harness, |seconds| seconds.to_string()).await;
    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, worker).await.expect("it drains");
    assert_eq!(ended.expect("it does not panic"), Ok(()));
}
