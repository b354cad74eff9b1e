//! Jobs that run after others, and limits that they share, with real nodes that are killed in the middle (G4).

use chronarch::pb::v1::{Cause, Run, RunState};

use crate::harness::{Harness, eventually};
use crate::receiver::Receiver;

async fn run_of(harness: &Harness, job: &str) -> Run {
    eventually("a run of the job to end", || async {
        let runs = harness.runs(job).await;
        runs.into_iter().next().filter(chronarch::client::is_ended)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_survives_the_leader_and_parameters_pass_down() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    let target = |path: &str| format!("target: {{http: {{url: \"{}\"}}}}\ntimeout: 1m\n", receiver.url(path));
    harness
        .apply(&format!(
            "name: first\nparams: {{day: none}}\n{quick}---\nname: fast\nafter: first\nparams: {{day: none}}\n{quick}---\n\
             name: slow\nafter: [first]\n{slow}---\nname: last\nafter: [fast, slow]\nparams: {{day: none}}\n{quick}",
            quick = target("/ok"),
            slow = target("/slow/4000"),
        ))
        .await;
    let request = chronarch::pb::v1::TriggerJobRequest {
        name: "first".into(),
        params: [("day".to_owned(), "monday".to_owned())].into(),
        ..Default::default()
    };
    let first = harness.client.trigger_job(request).await.expect("the run is made");
    let fast = run_of(&harness, "fast").await;
    assert_eq!(
        (fast.state(), fast.cause(), &fast.chain_id),
        (RunState::Succeeded, Cause::After, &first.run_id)
    );
    // One of two has arrived: what is known of it must not be the leader's alone.
    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    let last = run_of(&harness, "last").await;
    let slow = run_of(&harness, "slow").await;
    assert_eq!(last.state(), RunState::Succeeded, "{last:?}");
    assert_eq!(last.upstream, [fast.run_id, slow.run_id]);
    assert_eq!((last.params["day"].as_str(), &last.chain_id), ("monday", &first.run_id));
    let hit = receiver.hits_of("last").into_iter().next().expect("it was called");
    assert_eq!(hit.header("chronarch-param-day"), Some("monday"));
    assert_eq!(hit.header("chronarch-chain-id"), Some(first.run_id.as_str()));
    assert_eq!(harness.runs("last").await.len(), 1, "one run for one chain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_kept_over_a_change_of_leader() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    let at = chronarch::clock::Clock::system().now().plus(std::time::Duration::from_secs(2));
    let jobs: String = (0..12)
        .map(|n| {
            format!(
                "name: call-{n}\nschedule: {{at: {at}}}\ntarget: {{http: {{url: \"{}\"}}}}\ntimeout: 1m\non_lost: fail\n\
                 limits: {{group: api, concurrency: 3}}\n---\n",
                receiver.url("/slow/700")
            )
        })
        .collect();
    harness.apply(&jobs).await;
    eventually("the first calls", || async { (receiver.hits().len() >= 4).then_some(()) }).await;
    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    harness.cluster.start(leader).expect("it starts");
    let mut spans = Vec::new();
    for n in 0..12 {
        let run = run_of(&harness, &format!("call-{n}")).await;
        for attempt in run.attempts {
            spans.push((attempt.started_at.expect("started"), attempt.finished_at.expect("ended")));
        }
    }
    let key = |at: &prost_types::Timestamp| (at.seconds, at.nanos);
    for (begin, _) in &spans {
        let running =
            spans.iter().filter(|(from, to)| key(from) <= key(begin) && key(begin) < key(to)).count();
        assert!(running <= 3, "{running} ran at {begin:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_pass_down_to_what_runs_after() {
    let harness = Harness::start("[worker]\nallow_exec = true\n").await;
    harness
        .apply(
            "name: count\ntarget: {exec: {shell: 'echo \"{\\\"rows\\\": 3}\" > $CHRONARCH_RESULT_FILE'}}\n---\n\
             name: tell\nafter: count\ntarget: {exec: {shell: 'echo $CHRONARCH_INPUTS'}}\n",
        )
        .await;
    harness.trigger("count").await;
    let tell = run_of(&harness, "tell").await;
    assert_eq!(tell.attempts[0].output, "{\"count\":{\"rows\":3}}\n", "{tell:?}");
    assert_eq!(tell.inputs["count"], "{\"rows\": 3}");
}
