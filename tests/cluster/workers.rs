//! Workers die, and leaders die under workers (G3).

use std::process::Stdio;

use chronarch::pb::v1::{Outcome, RunState};
use tokio::process::{Child, Command};

use crate::harness::{Harness, eventually};
use crate::receiver::Receiver;

fn worker(harness: &Harness, queue: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_chronarch"))
        .args(["worker", "--queue", queue, "--allow-exec", "--endpoints"])
        .arg(harness.cluster.endpoints().join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("a process")
}

async fn started(harness: &Harness, run_id: &str) {
    eventually("the run to start", || async {
        (harness.run(run_id).await.state() == RunState::Running).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_leader_neither_kills_nor_repeats_an_attempt_that_runs_elsewhere() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    let _worker = worker(&harness, "apart");
    harness
        .apply(&format!(
            "name: long\nqueue: apart\ntarget: {{http: {{url: \"{}\"}}}}\ntimeout: 1m\non_lost: rerun\n",
            receiver.url("/slow/8000")
        ))
        .await;
    let run = harness.trigger("long").await;
    eventually("the request to arrive", || async { (receiver.hits().len() == 1).then_some(()) }).await;
    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    let ended = harness.ended(&run.run_id).await;
    assert_eq!(ended.state(), RunState::Succeeded);
    assert_eq!(ended.attempts.len(), 1, "{ended:?}");
    assert_eq!(receiver.hits().len(), 1, "the attempt went on, it was not repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_worker_is_handled_as_on_lost_says() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    let mut first = worker(&harness, "apart");
    let job = |name: &str, on_lost: &str| {
        format!(
            "name: {name}\nqueue: apart\ntarget: {{http: {{url: \"{}\"}}}}\ntimeout: 1m\non_lost: {on_lost}\n---\n",
            receiver.url("/slow/3000")
        )
    };
    harness.apply(&format!("{}{}", job("again", "rerun"), job("once", "fail"))).await;
    let again = harness.trigger("again").await;
    let once = harness.trigger("once").await;
    started(&harness, &again.run_id).await;
    started(&harness, &once.run_id).await;
    eventually("both requests to arrive", || async { (receiver.hits().len() == 2).then_some(()) }).await;
    first.kill().await.expect("it ran");
    let _second = worker(&harness, "apart");

    let failed = harness.ended(&once.run_id).await;
    assert_eq!((failed.state(), failed.reason.as_str()), (RunState::Failed, "lost"));
    assert_eq!(failed.attempts.len(), 1);
    let rerun = harness.ended(&again.run_id).await;
    assert_eq!(rerun.state(), RunState::Succeeded);
    let outcomes: Vec<Outcome> = rerun.attempts.iter().map(|attempt| attempt.outcome()).collect();
    assert_eq!(outcomes, [Outcome::Lost, Outcome::Succeeded]);
    assert!(rerun.attempts[0].fence < rerun.attempts[1].fence, "fences only grow");
    assert_eq!(receiver.hits_of("once").len(), 1, "at most once");
    assert_eq!(receiver.hits_of("again").len(), 2, "at least once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_process_is_gone_with_its_children() {
    let harness = Harness::start("").await;
    let _worker = worker(&harness, "apart");
    let dir = tempfile::tempdir().expect("a folder");
    let pids = dir.path().join("pids");
    harness
        .apply(&format!(
            "name: tree\nqueue: apart\ntarget: {{exec: {{shell: \"sleep 600 & echo $! > {0}.new; echo $$ >> {0}.new; \
             mv {0}.new {0}; wait\"}}}}\n",
            pids.display()
        ))
        .await;
    let run = harness.trigger("tree").await;
    let tree: Vec<i32> = eventually("the processes to start", || async {
        let text = std::fs::read_to_string(&pids).ok()?;
        Some(text.lines().map(|line| line.parse().expect("a pid")).collect())
    })
    .await;
    let request = chronarch::pb::v1::CancelRunRequest {
        run_id: run.run_id.clone(),
        actor: "mara".into(),
        reason: "wrong day".into(),
        ..chronarch::pb::v1::CancelRunRequest::default()
    };
    harness.client.cancel_run(request).await.expect("it is cancelled");
    let ended = harness.ended(&run.run_id).await;
    assert_eq!((ended.state(), ended.reason.as_str()), (RunState::Cancelled, "cancelled"));
    assert!(ended.detail.contains("mara") && ended.detail.contains("wrong day"), "{}", ended.detail);
    for pid in tree {
        eventually("the process to be gone", || async {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_attempts_that_end_together_with_full_outputs_are_all_recorded() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    let url = receiver.url("/big");
    let at = chronarch::clock::Clock::system().now().plus(std::time::Duration::from_secs(3));
    let files: String = (0..400)
        .map(|n| format!("name: big-{n}\nschedule: {{at: {at}}}\ntarget: {{http: {{url: \"{url}\"}}}}\ntimeout: 1m\n---\n"))
        .collect();
    harness.apply(&files).await;
    eventually("all requests to arrive", || async { (receiver.hits().len() == 400).then_some(()) }).await;
    harness.quiet().await;
    for n in 0..400 {
        let runs = harness.runs(&format!("big-{n}")).await;
        assert_eq!(
            (runs.len(), runs[0].state(), runs[0].attempts.len()),
            (1, RunState::Succeeded, 1),
            "{runs:?}"
        );
        let attempt = &runs[0].attempts[0];
        assert!(attempt.output.len() == 4_096 && attempt.output_truncated, "{}", attempt.output.len());
    }
}
