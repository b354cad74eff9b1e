//! Leaders die, stop, and come back; every instant is fired once all the same (G1, G2, G5).

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Harness, eventually};
use crate::receiver::Receiver;

/// Jobs that are due every 200 ms, each at another time of it.
fn ticking(receiver: &Receiver, jobs: u32) -> String {
    (0..jobs)
        .map(|job| {
            format!(
                "name: tick-{job}\nschedule: {{every: 200ms, offset: {}ms}}\ntarget: {{http: {{url: \"{}\"}}}}\n\
                 timeout: 10s\ncatch_up: {{runs: all, window: 10m, max: 10000}}\noverlap: allow\non_lost: rerun\n\
                 retention: {{runs: 100000}}\n---\n",
                job * 200 / jobs,
                receiver.url("/ok"),
            )
        })
        .collect()
}

/// Pauses the jobs, waits until all has ended, and compares what was due with what arrived.
async fn account(harness: &Harness, receiver: &Receiver, jobs: u32) {
    for job in 0..jobs {
        harness.pause(&format!("tick-{job}")).await;
    }
    harness.quiet().await;
    for job in 0..jobs {
        let name = format!("tick-{job}");
        let records = harness.runs(&name).await;
        let decided: BTreeSet<i64> = records.iter().map(|run| millis(run.scheduled_at)).collect();
        assert_eq!(decided.len(), records.len(), "{name}: one record an instant");
        let (first, last) = (*decided.first().expect("some"), *decided.last().expect("some"));
        let due: BTreeSet<i64> = (first..=last).step_by(200).collect();
        assert_eq!(decided, due, "{name}: every instant is decided");

        let arrived = receiver.instants_of(&name);
        let missing: Vec<&i64> = due.iter().filter(|instant| !arrived.contains_key(instant)).collect();
        assert!(missing.is_empty(), "{name}: {missing:?} never arrived");
        for (instant, hits) in arrived {
            let fences: BTreeSet<u64> = hits.iter().map(|hit| hit.fence).collect();
            assert_eq!(
                fences.len(),
                hits.len(),
                "{name} at {instant}: an attempt was carried out twice: {hits:?}"
            );
            let attempts: BTreeSet<u32> = hits.iter().map(|hit| hit.attempt).collect();
            assert_eq!(attempts.len(), hits.len(), "{name} at {instant}: {hits:?}");
        }
    }
}

fn millis(at: Option<prost_types::Timestamp>) -> i64 {
    let at = at.expect("an instant");
    at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000
}

async fn fires_go_on(receiver: &Receiver) {
    let before = receiver.hits().len();
    eventually("fires to go on", || async { (receiver.hits().len() > before + 20).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_killed_leaders_lose_and_double_nothing() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    harness.apply(&ticking(&receiver, 10)).await;
    fires_go_on(&receiver).await;
    for _ in 0..20 {
        let leader = harness.leader().await;
        harness.cluster.kill(leader).await.expect("it ran");
        fires_go_on(&receiver).await;
        harness.cluster.start(leader).expect("it starts");
        harness.caught_up(leader).await;
    }
    account(&harness, &receiver, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_is_not_noticed() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    harness.apply(&ticking(&receiver, 4)).await;
    fires_go_on(&receiver).await;
    for node in 1..=3 {
        let status = harness.cluster.stop(node).await.expect("it ran");
        assert!(status.success(), "a clean stop ends with 0: {status}");
        fires_go_on(&receiver).await;
        harness.cluster.start(node).expect("it starts");
        harness.caught_up(node).await;
    }
    account(&harness, &receiver, 4).await;
    for job in 0..4 {
        let late = harness.runs(&format!("tick-{job}")).await;
        let late: Vec<_> = late
            .iter()
            .filter(|run| millis(run.fired_at) - millis(run.due_at) > 1_000)
            .map(|run| &run.run_id)
            .collect();
        assert!(late.is_empty(), "fired more than a second late: {late:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_can_start_nothing_when_it_wakes() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    harness.apply(&ticking(&receiver, 4)).await;
    fires_go_on(&receiver).await;
    for _ in 0..3 {
        let old = harness.leader().await;
        harness.cluster.pause(old).expect("it runs");
        let paused = Instant::now();
        fires_go_on(&receiver).await;
        eventually("the pause to outlast the leases", || async {
            (paused.elapsed() > Duration::from_secs(7)).then_some(())
        })
        .await;
        harness.cluster.resume(old).expect("it is there");
        harness.caught_up(old).await;
        fires_go_on(&receiver).await;
    }
    account(&harness, &receiver, 4).await;
}
