//! A rolling upgrade, and a node that goes back to the release before.

use chronarch::client::{Error, job_file};
use chronarch::pb::v1;
use tokio::process::Command;

use crate::harness::{Harness, PATIENCE, eventually};

/// Speaks as a release before levels does.
const OLDER: &[&str] = &["--feature-level-max", "0"];
const EVERY_NODE: &str = "name: newer\nevery_node: true\ntarget: {exec: {command: [\"true\"]}}\n";
const PLAIN: &str = "name: plain\ntarget: {exec: {command: [\"true\"]}}\n";

async fn apply(harness: &Harness, yaml: &str) -> Result<v1::ApplyJobsResponse, Error> {
    let documents = job_file::read("test.yaml", job_file::Format::Yaml, yaml).expect("a sound job file");
    let jobs = documents.into_iter().map(|document| document.spec).collect();
    harness.client.apply_jobs(v1::ApplyJobsRequest { jobs, ..v1::ApplyJobsRequest::default() }).await
}

/// What `cluster status` prints, asked of one node.
async fn told(harness: &Harness, node: u64, args: &[&str]) -> String {
    let endpoint = harness.cluster.endpoint(node);
    let mut command = Command::new(env!("CARGO_BIN_EXE_chronarch"));
    command.args(["cluster", "status", "--endpoints", &endpoint]).args(args).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").expect("it starts");
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_new_waits_until_the_last_node_is_upgraded_and_no_node_goes_back() {
    let mut harness = Harness::start_with("", 3, OLDER).await;
    // All have been asked who they are; one that has not said so yet would be waited for.
    eventually("each node to tell who holds the level", || async {
        for node in 1..=3 {
            let status = harness.status(node).await?;
            assert_eq!(status.feature_level, 0);
            status
                .feature_level_holds
                .iter()
                .any(|hold| hold.starts_with("node 3 speaks up to 0"))
                .then_some(())?;
        }
        Some(())
    })
    .await;
    let refused =
        apply(&harness, &format!("{PLAIN}---\n{EVERY_NODE}")).await.expect_err("node 3 could not read it");
    let Error::Refused { message, hint } = &refused else { panic!("{refused:?}") };
    let expected = "job \"newer\" in namespace \"default\": `every_node` needs feature level 1, this cluster is at 0: \
                    node 3 speaks up to 0";
    assert!(message.starts_with(expected), "{message}");
    assert!(
        hint.as_deref().is_some_and(|hint| hint.contains("`chronarch cluster status` shows")),
        "{hint:?}"
    );
    let jobs = harness.client.list_jobs(v1::ListJobsRequest::default()).await.expect("an answer").jobs;
    assert!(jobs.is_empty(), "nothing of the request is written: {jobs:?}");
    harness.apply(PLAIN).await;
    let table = told(&harness, 1, &[]).await;
    let line = table.lines().find(|line| line.contains("feature level")).unwrap_or_else(|| panic!("{table}"));
    assert!(line.contains("0: node 3 speaks up to 0"), "{line}");

    harness.cluster.stop(3).await.expect("it ran");
    harness.cluster.start(3).expect("a process");
    eventually("the level to rise everywhere", || async {
        for node in 1..=3 {
            let status = harness.status(node).await?;
            (status.feature_level == 1 && status.feature_level_holds.is_empty()).then_some(())?;
        }
        Some(())
    })
    .await;
    apply(&harness, EVERY_NODE).await.expect("all can read it");
    let json: serde_json::Value =
        serde_json::from_str(&told(&harness, 2, &["-o", "json"]).await).expect("JSON");
    assert_eq!(json["feature_level"], 1);
    assert_eq!(json["feature_level_holds"], serde_json::json!([]));
    assert_eq!(json["nodes"][2]["feature_levels"], serde_json::json!({"oldest": 0, "newest": 1}));

    harness.cluster.stop(3).await.expect("it ran");
    harness.cluster.start_with(3, OLDER).expect("a process");
    let ended = harness.cluster.wait(3).await.expect("it was started");
    assert_eq!(ended.code(), Some(1));
    let log = std::fs::read_to_string(harness.cluster.log_file(3)).expect("a log");
    assert!(log.contains("this cluster is at feature level 1, this release speaks up to 0"), "{log}");
    harness.cluster.start(3).expect("a process");
    harness.caught_up(3).await;
    harness.trigger("plain").await;
}
