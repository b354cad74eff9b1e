//! Retention of namespaces: on every node, on one that was away, and under the next leader.

use chronarch::pb::v1;

use crate::harness::{Harness, eventually};

const JOB: &str = "target: {exec: {command: [\"true\"]}}\noverlap: allow\nretention: {runs: 1000}\n";

async fn set(harness: &Harness, name: &str, runs: u32) {
    let retention = Some(v1::NamespaceRetention { runs: Some(runs), age: None });
    let name = name.to_owned();
    let request = v1::SetNamespaceRequest { name, retention, ..v1::SetNamespaceRequest::default() };
    harness.client.set_namespace(request).await.expect("the limits are accepted");
}

/// Runs jobs in turn, each to its end; the ids in the order in which they ended.
async fn carry_out(harness: &Harness, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        let run = harness.trigger(["a", "b", "c"][number % 3]).await;
        ids.push(harness.ended(&run.run_id).await.run_id);
    }
    ids
}

/// What a node has itself, the newest first.
async fn records_of(harness: &Harness, node: u64) -> Option<Vec<String>> {
    let client = harness.client_of(node);
    let request = v1::ListRunsRequest {
        namespace: "default".into(),
        page_size: 1_000,
        stale: true,
        ..v1::ListRunsRequest::default()
    };
    let listed = client.list_runs(request).await.ok()?.runs;
    let ask = v1::GetNamespaceRequest { name: "default".into(), stale: true };
    let namespace = client.get_namespace(ask).await.ok()?;
    // The node counts what it lists, once it has counted at all.
    (namespace.records == Some(listed.len() as u64))
        .then(|| listed.into_iter().map(|run| run.run_id).collect())
}

async fn every_node_keeps(harness: &Harness, kept: &[String]) {
    let kept: Vec<String> = kept.iter().rev().cloned().collect();
    for node in harness.cluster.nodes().filter(|node| harness.cluster.is_started(*node)) {
        eventually("the node to keep just what the namespace keeps", || async {
            (records_of(harness, node).await? == kept).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_keeps_its_last_runs_on_every_node_also_after_it_was_away_and_under_the_next_leader() {
    let mut harness = Harness::start("[worker]\nallow_exec = true\n").await;
    let jobs = ["a", "b", "c"].map(|name| format!("name: {name}\n{JOB}"));
    harness.apply(&jobs.join("---\n")).await;
    let mut ids = carry_out(&harness, 9).await;
    set(&harness, "default", 4).await;
    every_node_keeps(&harness, &ids[5..]).await;
    let away = harness.followers().await[0];
    harness.cluster.kill(away).await.expect("it ran");
    ids.extend(carry_out(&harness, 6).await);
    set(&harness, "default", 3).await;
    harness.cluster.start(away).expect("a process");
    harness.caught_up(away).await;
    every_node_keeps(&harness, &ids[ids.len() - 3..]).await;
    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    ids.extend(carry_out(&harness, 3).await);
    // Nodes look again at once when any of these settings changes; by themselves they do once a minute.
    set(&harness, "other", 1).await;
    every_node_keeps(&harness, &ids[ids.len() - 3..]).await;
    harness.cluster.start(leader).expect("a process");
    every_node_keeps(&harness, &ids[ids.len() - 3..]).await;
    let ask = v1::DeleteNamespaceRequest { name: "default".into(), ..v1::DeleteNamespaceRequest::default() };
    assert_eq!(harness.client.delete_namespace(ask).await.expect("it has limits").jobs, 3);
    ids.extend(carry_out(&harness, 3).await);
    every_node_keeps(&harness, &ids[ids.len() - 6..]).await;
}
