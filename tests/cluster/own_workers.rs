//! Workers of a user's own, as the examples show them in Python and in Rust: on the documented protocol alone.

#[path = "../../scripts/examples/worker.rs"]
#[expect(dead_code, reason = "the example's own main is the program's")]
mod example;

use std::path::PathBuf;
use std::process::Stdio;

use chronarch::pb::v1::RunState;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_in_python_is_a_whole_worker() {
    let mut harness = Harness::start("").await;
    let mut command =
        Command::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/examples/python-worker"));
    command.args(["--queue", "own", "--endpoints", &harness.cluster.endpoints().join(",")]);
    let mut worker =
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().expect("a process");
    serves_and_survives(&mut harness, |seconds| format!("{{\"seconds\": {seconds}}}")).await;
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
    serves_and_survives(&mut harness, |seconds| seconds.to_string()).await;
    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, worker).await.expect("it drains");
    assert_eq!(ended.expect("it does not panic"), Ok(()));
}
