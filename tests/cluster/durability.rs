//! Acknowledged means durable (G6), and a node that was away comes back whole.

use crate::harness::{Harness, eventually};
use crate::receiver::Receiver;

fn job(name: &str, url: &str) -> String {
    format!("name: {name}\ntarget: {{http: {{url: \"{url}\"}}}}\n---\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_the_death_of_all_nodes_at_once() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    for round in 0..3 {
        let names: Vec<String> = (0..50).map(|n| format!("job-{round}-{n}")).collect();
        let files: String = names.iter().map(|name| job(name, &receiver.url("/ok"))).collect();
        harness.apply(&files).await;
        let run = harness.trigger(&names[0]).await;
        let ended = harness.ended(&run.run_id).await;
        for node in harness.cluster.nodes() {
            harness.cluster.kill(node).await.expect("it ran");
        }
        harness.cluster.start_all().expect("they start");
        harness.leader().await;
        for name in &names {
            harness.job(name).await;
        }
        assert_eq!(harness.run(&run.run_id).await, ended, "the record of a run never changes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_is_sent_a_snapshot_and_the_run_log() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("\n[raft]\nsnapshot_entries = 100\nkeep_entries = 20\n").await;
    harness.apply(&job("often", &receiver.url("/ok"))).await;
    let away = harness.followers().await[0];
    harness.cluster.kill(away).await.expect("it ran");
    let mut runs = Vec::new();
    for _ in 0..150 {
        let run = harness.trigger("often").await;
        runs.push(harness.ended(&run.run_id).await);
    }
    let leader = harness.leader().await;
    eventually("the log to be cut", || async {
        harness.status(leader).await.filter(|status| status.snapshot_index > 100).map(drop)
    })
    .await;
    harness.cluster.start(away).expect("it starts");
    harness.caught_up(away).await;

    // The others are gone, so that it answers from what it has itself.
    let endpoint = harness.cluster.endpoint(away);
    let alone = chronarch::client::Client::new(
        &[endpoint.parse().expect("an endpoint")],
        std::time::Duration::from_secs(20),
        || "unused".to_owned(),
    )
    .expect("an endpoint");
    for run in runs {
        let request = chronarch::pb::v1::GetRunRequest { run_id: run.run_id.clone(), stale: true };
        let found =
            eventually("the run log to be whole", || async { alone.get_run(request.clone()).await.ok() })
                .await;
        assert_eq!(found, run);
    }
}
