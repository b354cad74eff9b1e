//! The data of the time zones is part of the state: on every node, under the next leader, and after all were down.

use chronarch::pb::v1;
use chronarch::scheduler::zone::Zones;

use crate::harness::{Harness, eventually};

const NOON: &str =
    "target: {exec: {command: [\"true\"]}}\nschedule: {cron: 0 12 * * *, timezone: Asia/Tokyo}\n";

/// The bundled data with Tokyo an hour further east.
fn moved() -> v1::ZoneData {
    let bundled = Zones::bundled();
    let east = bundled.data().files.iter().find(|file| file.names.iter().any(|name| name == "Etc/GMT-10"));
    let tzif = east.expect("the zone").tzif.clone();
    let mut files = vec![v1::ZoneFile { names: vec!["Asia/Tokyo".to_owned()], tzif }];
    for file in &bundled.data().files {
        let names: Vec<String> = file.names.iter().filter(|name| *name != "Asia/Tokyo").cloned().collect();
        if !names.is_empty() {
            files.push(v1::ZoneFile { names, tzif: file.tzif.clone() });
        }
    }
    v1::ZoneData { release: "2099z".to_owned(), files }
}

/// Waits until every node that runs has these data and has read all jobs with them; returns their hash.
async fn every_node_has(harness: &Harness, release: &str) -> String {
    eventually(&format!("tzdata {release} on every node"), || async {
        let mut hashes = Vec::new();
        for node in harness.cluster.nodes().filter(|node| harness.cluster.is_started(*node)) {
            let status = harness.status(node).await?;
            let is_it = status.tzdata == release && status.tzdata_pinned && !status.rereading;
            hashes.push(is_it.then_some(status.tzdata_hash)?);
        }
        hashes.iter().all(|hash| *hash == hashes[0]).then(|| hashes.swap_remove(0))
    })
    .await
}

/// The hour of the day, in UTC, at which a job is armed.
async fn armed(harness: &Harness, name: &str) -> i64 {
    harness.job(name).await.next_at.expect("it is armed").seconds % 86_400 / 3_600
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_read_with_the_pinned_data_under_every_leader_and_after_a_restart_of_all() {
    let mut harness = Harness::start("").await;
    let shipped = Zones::bundled();
    let hash = every_node_has(&harness, shipped.release()).await;
    assert_eq!(hash, shipped.hash().to_string(), "the first leader pins what it ships");
    let jobs: Vec<String> = (0..50).map(|number| format!("name: noon-{number}\n{NOON}")).collect();
    harness.apply(&jobs.join("---\n")).await;
    assert_eq!(armed(&harness, "noon-0").await, 3);
    let request = v1::SetTzdataRequest { data: Some(moved()), ..v1::SetTzdataRequest::default() };
    let answer = harness.client.set_tzdata(request).await.expect("the data is sound");
    assert_eq!((answer.moved_jobs, answer.zones.len()), (50, 1));
    // Whoever leads next goes over the jobs, if this leader has not.
    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ends");
    every_node_has(&harness, "2099z").await;
    assert_eq!(harness.job("noon-49").await.version, 1, "nobody changed the job");
    for name in ["noon-0", "noon-25", "noon-49"] {
        assert_eq!(armed(&harness, name).await, 2, "{name}");
    }
    // The state holds it: a restart reads schedules as before, not as the binary would.
    harness.cluster.stop_all().await;
    harness.cluster.start_all().expect("processes");
    harness.leader().await;
    assert_eq!(every_node_has(&harness, "2099z").await, answer.hash);
    harness.apply(&format!("name: late\n{NOON}")).await;
    assert_eq!(armed(&harness, "late").await, 2);
    // Back to what the leader ships, by the program that people use.
    let ended = tokio::process::Command::new(env!("CARGO_BIN_EXE_chronarch"))
        .args(["cluster", "set-tzdata", "--reason", "by mistake", "--endpoints"])
        .arg(harness.cluster.endpoints().join(","))
        .kill_on_drop(true)
        .output()
        .await
        .expect("it starts");
    let told = String::from_utf8(ended.stdout).expect("text");
    assert!(ended.status.success(), "{told}");
    let begins = format!("tzdata {} in place of 2099z, from 20", shipped.release());
    assert!(told.starts_with(&begins) && told.contains("Asia/Tokyo"), "{told}");
    assert!(told.contains("noon-49") && told.contains("late"), "{told}");
    every_node_has(&harness, shipped.release()).await;
    assert_eq!(armed(&harness, "late").await, 3);
}
