//! Jobs that are due so long after the end of a run: what follows from an end is nobody's memory, so the leader may
//! die between the two (G1, G4).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::evidence::{export, parsed};
use crate::harness::{Harness, eventually};
use crate::receiver::Receiver;

/// Between the end of a run and the next one.
const PERIOD_MS: i64 = 200;
/// So many that at any time some of them are between the end of a run and what follows from it.
const JOBS: usize = 60;
/// Leaders that are killed at most until one had not come to arm what follows.
const KILLS: usize = 20;

fn jobs(receiver: &Receiver) -> String {
    (0..JOBS)
        .map(|job| {
            format!(
                "name: rest-{job}\nschedule: {{every: {PERIOD_MS}ms, from: completion}}\ntimeout: 10s\non_lost: rerun\n\
                 target: {{http: {{url: \"{}\"}}}}\nretention: {{runs: 100000}}\n---\n",
                // They end at different times of their own accord.
                receiver.url(&format!("/slow/{}", 20 + 3 * job)),
            )
        })
        .collect()
}

fn millis(at: Option<prost_types::Timestamp>) -> i64 {
    let at = at.expect("an instant");
    at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000
}

/// Ends of runs that one leader committed, and from which another one armed what follows.
fn handed_over(log: &[Value]) -> usize {
    let mut ended: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut count = 0;
    for line in log {
        let Some(term) = line["term"].as_u64() else { continue };
        let each = |key: &str| line[key].as_array().into_iter().flatten();
        for arm in each("commands").filter(|it| it["kind"] == "arm" && it["decision"]["outcome"] == "done") {
            let key = (text(arm, "job"), text(arm, "finished_at"));
            count += usize::from(ended.get(&key).is_some_and(|then| *then < term));
        }
        for run in each("finished") {
            ended.insert((text(run, "job"), text(run, "finished_at")), term);
        }
    }
    count
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_between_the_end_of_a_run_and_the_next_arming_stops_no_job() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    harness.apply(&jobs(&receiver)).await;
    let mut handed = 0;
    for kill in 0.. {
        assert!(kill < KILLS, "{KILLS} leaders died, and each had armed all that followed");
        let seen = receiver.hits().len();
        eventually("each job to run on", || async {
            let since = receiver.hits().split_off(seen);
            let jobs: BTreeSet<&str> = since.iter().map(|hit| hit.job.as_str()).collect();
            (jobs.len() == JOBS).then_some(())
        })
        .await;
        if handed > 0 {
            break;
        }
        let leader = harness.leader().await;
        harness.cluster.kill(leader).await.expect("it ran");
        let other = harness.leader().await;
        harness.cluster.start(leader).expect("it starts");
        harness.caught_up(leader).await;
        let log: Vec<Value> = export(&harness, other, &[]).await.iter().map(|line| parsed(line)).collect();
        handed = handed_over(&log);
    }
    for job in 0..JOBS {
        harness.pause(&format!("rest-{job}")).await;
    }
    harness.quiet().await;
    for job in 0..JOBS {
        let name = format!("rest-{job}");
        let mut runs = harness.runs(&name).await;
        runs.reverse();
        for pair in runs.windows(2) {
            let (ended, due) = (millis(pair[0].finished_at), millis(pair[1].scheduled_at));
            assert_eq!(
                due,
                ended + PERIOD_MS,
                "{name}: one run follows from the end of the other: {pair:#?}"
            );
        }
        let called: BTreeSet<i64> = receiver.instants_of(&name).into_keys().collect();
        let due: BTreeSet<i64> = runs.iter().map(|run| millis(run.scheduled_at)).collect();
        assert_eq!(called, due, "{name}: each run was carried out");
    }
}
