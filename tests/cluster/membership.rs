//! Replacing a node whose data is lost, the way an operator does it: with the program, by its own hints.

use std::path::{Path, PathBuf};
use std::process::Output;

use chronarch::pb::v1::NodeRole;
use tokio::process::Command;

use crate::harness::{Harness, PATIENCE, eventually};
use crate::receiver::Receiver;

/// Runs the program to its end.
async fn program(args: &[&str]) -> Output {
    let ended = Command::new(env!("CARGO_BIN_EXE_chronarch")).args(args).kill_on_drop(true).output();
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends").expect("it starts")
}

/// Exit code and stderr of a `cluster` command, asked of all nodes.
async fn cluster(harness: &Harness, args: &[&str]) -> (Option<i32>, String) {
    let endpoints = harness.cluster.endpoints().join(",");
    let line: Vec<&str> =
        ["cluster"].iter().chain(args).copied().chain(["--endpoints", &endpoints]).collect();
    said(&program(&line).await)
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The configuration that a node is started with.
fn config(harness: &Harness, node: u64) -> String {
    harness.cluster.data_dir(node).with_extension("toml").display().to_string()
}

/// Flips a byte in the middle of the newest segment of a log, far below what was synced last.
fn damage(log: &Path) -> PathBuf {
    let files = std::fs::read_dir(log).expect("a log").map(|entry| entry.expect("an entry").path());
    let segment = files.filter(|path| path.extension().is_some_and(|ending| ending == "wal")).max();
    let segment = segment.expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&segment, bytes).expect("writable");
    segment
}

/// The members and what they are, as the leader says.
async fn members(harness: &Harness) -> Vec<(u64, NodeRole)> {
    let leader = harness.leader().await;
    let status = harness.status(leader).await.expect("the leader answers");
    status.nodes.iter().map(|node| (node.node_id, node.role())).collect()
}

async fn add_and_promote(harness: &Harness, node: u64) {
    let (id, address) = (node.to_string(), harness.cluster.peer_address(node));
    eventually("the node to be added", || async {
        let (code, stderr) = cluster(harness, &["add", &id, &address, "--promote"]).await;
        assert!(code == Some(0) || stderr.contains("did not join"), "{code:?} {stderr}");
        (code == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_damaged_log_is_replaced_by_a_new_one_in_its_place() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    let job =
        |n: u32| format!("name: job-{n}\ntarget: {{http: {{url: \"{}\"}}}}\n---\n", receiver.url("/ok"));
    harness.apply(&(0..50).map(job).collect::<String>()).await;
    harness.ended(&harness.trigger("job-0").await.run_id).await;
    let old = harness.followers().await[0];
    harness.caught_up(old).await;
    harness.cluster.stop(old).await.expect("it ran");
    let segment = damage(&harness.cluster.data_dir(old).join("log"));

    harness.cluster.start(old).expect("a process");
    let ended = harness.cluster.wait(old).await.expect("it was started");
    assert_eq!(ended.code(), Some(1));
    let log = std::fs::read_to_string(harness.cluster.log_file(old)).expect("a log");
    for words in
        [&*segment.display().to_string(), "is damaged at byte", "--rejoin", "chronarch cluster add NEW"]
    {
        assert!(log.contains(words), "{words} in {log}");
    }
    let (code, stderr) = said(&program(&["server", "--config", &config(&harness, old), "--rejoin"]).await);
    assert!(code == Some(1) && stderr.contains("must not begin anew under its own id"), "{code:?} {stderr}");

    harness.cluster.rejoin(old, 4).expect("a process");
    add_and_promote(&harness, 4).await;
    let (code, stderr) = cluster(&harness, &["remove", &old.to_string()]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let found = members(&harness).await;
    assert!(
        found.len() == 3 && found.iter().all(|(id, role)| *id != old && *role != NodeRole::Learner),
        "{found:?}"
    );
    let (code, stderr) = cluster(&harness, &["remove", &old.to_string()]).await;
    assert!(code == Some(4) && stderr.contains("is not a member"), "{code:?} {stderr}");
    let aside = harness.cluster.data_dir(4).join("log.damaged-1");
    assert!(aside.exists(), "what was damaged is kept");

    // The new node is half of what is left, and knows everything; and it comes back as what it is.
    let leader = harness.leader().await;
    let dead = if leader == 4 { harness.followers().await[0] } else { leader };
    harness.cluster.kill(dead).await.expect("it ran");
    harness.ended(&harness.trigger("job-49").await.run_id).await;
    harness.cluster.kill(4).await.expect("it ran");
    harness.cluster.start(4).expect("it starts");
    harness.ended(&harness.trigger("job-48").await.run_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_its_data_does_not_come_back_under_its_id() {
    let mut harness = Harness::start("").await;
    let gone = harness.followers().await[0];
    harness.cluster.stop(gone).await.expect("it ran");
    let members: Vec<u64> = harness.followers().await;
    std::fs::remove_dir_all(harness.cluster.data_dir(gone)).expect("a folder");

    let (code, stderr) = said(&program(&["server", "--config", &config(&harness, gone), "--rejoin"]).await);
    let steps = format!("chronarch cluster remove {gone}");
    assert!(code == Some(1) && stderr.contains("is a member of cluster"), "{code:?} {stderr}");
    assert!(stderr.contains("--node-id NEW --rejoin") && stderr.contains(&steps), "{stderr}");
    let address = harness.cluster.peer_address(gone);
    let (code, stderr) = cluster(&harness, &["add", &gone.to_string(), &address]).await;
    assert!(code == Some(1) && stderr.contains("is a member already"), "{code:?} {stderr}");

    // With one node gone the other follower is needed.
    let (code, stderr) = cluster(&harness, &["remove", &members[0].to_string()]).await;
    assert!(code == Some(1) && stderr.contains("without a majority"), "{code:?} {stderr}");
    let (code, stderr) = cluster(&harness, &["promote", "9"]).await;
    assert!(code == Some(4) && stderr.contains("cluster status"), "{code:?} {stderr}");
    let (code, stderr) = cluster(&harness, &["promote", &members[0].to_string()]).await;
    assert!(code == Some(1) && stderr.contains("a voter already"), "{code:?} {stderr}");
}
