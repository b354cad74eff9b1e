//! Evidence: every node tells the same log with the same decisions, and replicas can be compared by their hashes.

use std::process::Output;

use chronarch::pb::v1::ResumeJobRequest;
use futures::StreamExt;
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Harness, PATIENCE, eventually};
use crate::receiver::Receiver;

/// Entries between two hashes.
const HASH_EVERY: u64 = chronarch::state::limits::HASH_EVERY;

/// Runs a `cluster` command against these endpoints.
async fn cluster(args: &[&str], endpoints: &[String]) -> Output {
    let ended = Command::new(env!("CARGO_BIN_EXE_chronarch"))
        .arg("cluster")
        .args(args)
        .args(["--endpoints", &endpoints.join(",")])
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends").expect("it starts")
}

/// What one node exports.
pub(crate) async fn export(harness: &Harness, node: u64, args: &[&str]) -> Vec<String> {
    let args = [&["export-log"], args].concat();
    let output = cluster(&args, &[harness.cluster.endpoint(node)]).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "node {node}: {stderr}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

pub(crate) fn parsed(line: &str) -> Value {
    serde_json::from_str(line).expect("a line of JSON")
}

/// Elections that a busy machine does not hold by itself: how fast a takeover is, others test.
const CALM: &str = "\n[raft]\nheartbeat = \"200ms\"\nelection_min = \"1s\"\nelection_max = \"2s\"\n";

/// Writes enough entries for nodes to take a hash: one for each end of a pause that there is not.
async fn busy(harness: &Harness, name: &str) {
    let request = ResumeJobRequest { namespace: "default".into(), name: name.into(), ..Default::default() };
    let resume =
        || eventually("the resumption", || async { harness.client.resume_job(request.clone()).await.ok() });
    let resumes = (0..HASH_EVERY + 100).map(|_| resume());
    futures::stream::iter(resumes).buffer_unordered(64).for_each(|_| std::future::ready(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_export_the_same_log_and_have_the_same_hashes() {
    let receiver = Receiver::start().await;
    receiver.set_broken(true);
    let mut harness = Harness::start(CALM).await;
    harness
        .apply(&format!(
            "name: sick\ntarget: {{http: {{url: \"{0}\"}}}}\nbreaker: {{consecutive_failures: 1}}\n---\n\
             name: well\nschedule: {{every: 200ms}}\ntarget: {{http: {{url: \"{1}\"}}}}\n",
            receiver.url("/switch"),
            receiver.url("/ok")
        ))
        .await;
    harness.ended(&harness.trigger("sick").await.run_id).await;
    let before = harness.leader().await;
    harness.cluster.kill(before).await.expect("it ran");
    harness.leader().await;
    busy(&harness, "sick").await;
    harness.cluster.start(before).expect("it starts");
    harness.pause("well").await;
    harness.quiet().await;
    for node in harness.cluster.nodes() {
        harness.caught_up(node).await;
    }
    let last = harness.status(before).await.expect("it answers").applied_index.to_string();

    let mut exports = Vec::new();
    for node in harness.cluster.nodes() {
        exports.push(export(&harness, node, &["--to", &last]).await);
    }
    let lines = &exports[0];
    for other in &exports[1..] {
        let differs = lines.iter().zip(other).find(|(one, other)| one != other);
        assert_eq!(differs, None, "the first line that differs");
        assert_eq!(lines.len(), other.len());
    }
    let told: Vec<Value> = lines.iter().map(|line| parsed(line)).collect();
    let commands = |kind: &'static str| {
        let all = told.iter().flat_map(|line| line["commands"].as_array().into_iter().flatten());
        all.filter(move |command| command["kind"] == kind)
    };
    assert!(commands("lead").count() >= 2, "the takeover is in it");
    assert!(commands("fire").any(|fire| fire["job"] == "well" && fire["decision"]["outcome"] == "fired"));
    let opened = told.iter().flat_map(|line| line["breakers"].as_array().into_iter().flatten());
    assert!(opened.clone().any(|it| it["breaker"] == "job:sick" && it["to"] == "open"));
    let finished = told.iter().flat_map(|line| line["finished"].as_array().into_iter().flatten());
    assert!(finished.clone().any(|run| run["job"] == "sick" && run["state"] == "failed"));

    let report = eventually("a hash that all nodes have", || async {
        let output = cluster(&["status", "-o", "json"], &harness.cluster.endpoints()).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let all = report["endpoints"].as_array().expect("endpoints").iter();
        let hashed = |endpoint: &Value| endpoint["state_hashes"].as_array().is_some_and(|it| !it.is_empty());
        // The node that was away took its hash when it applied the entry like the others.
        (all.clone().count() == 3 && all.clone().all(hashed)).then_some(report)
    })
    .await;
    assert_eq!(report["diverged"], serde_json::json!([]));
    for endpoint in report["endpoints"].as_array().expect("endpoints") {
        let hash = &endpoint["state_hashes"][0];
        assert_eq!(hash["index"].as_u64().map(|index| index % HASH_EVERY), Some(0));
        let to = hash["index"].to_string();
        let exported = export(&harness, before, &["--from", &to, "--to", &to]).await;
        let end = parsed(exported.last().expect("the end"));
        assert_eq!((&end["through"], &end["state_hash"]), (&hash["index"], &hash["hash"]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_came_by_snapshot_exports_from_there_on_what_the_others_do() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start(&format!("{CALM}snapshot_entries = 300\nkeep_entries = 20\n")).await;
    harness.apply(&format!("name: a\ntarget: {{http: {{url: \"{}\"}}}}\n", receiver.url("/ok"))).await;
    let away = harness.followers().await[0];
    harness.cluster.kill(away).await.expect("it ran");
    busy(&harness, "a").await;
    let leader = harness.leader().await;
    eventually("the log to be cut", || async {
        harness.status(leader).await.filter(|status| status.snapshot_index > 600).map(drop)
    })
    .await;
    harness.cluster.start(away).expect("it starts");
    harness.caught_up(away).await;
    harness.ended(&harness.trigger("a").await.run_id).await;
    harness.quiet().await;
    for node in harness.cluster.nodes() {
        harness.caught_up(node).await;
    }
    let last = harness.status(away).await.expect("it answers").applied_index.to_string();
    let mut exports = Vec::new();
    for node in harness.cluster.nodes() {
        exports.push(export(&harness, node, &["--to", &last]).await);
    }
    let index = |line: &String| parsed(line)["index"].as_u64();
    let first = exports.iter().filter_map(|lines| index(&lines[0])).max().expect("entries");
    let shared = |lines: &Vec<String>| -> Vec<String> {
        lines.iter().filter(|line| index(line).is_none_or(|index| index >= first)).cloned().collect()
    };
    let of_away = &exports[usize::try_from(away).expect("small") - 1];
    assert!(index(&of_away[0]).is_some_and(|first| first > 300), "it has no older entries: {}", of_away[0]);
    for lines in &exports {
        assert_eq!(shared(lines), shared(of_away));
    }

    let output = cluster(&["export-log", "--from", "1"], &[harness.cluster.endpoint(away)]).await;
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("log index 1 cannot be exported any more: the first that can is "), "{stderr}");
    assert!(stderr.contains("\nhint: --from "), "{stderr}");
    let output = cluster(&["export-log", "-o", "yaml"], &[harness.cluster.endpoint(away)]).await;
    assert_eq!(output.status.code(), Some(2));
}
