//! Jobs with `every_node`: one run, carried out once on each worker that matched, whatever dies in the middle (G3, G4).

use std::collections::BTreeSet;

use chronarch::pb::v1::{ListRunsRequest, Run, RunState};

use crate::harness::{Harness, eventually};
use crate::receiver::Receiver;

async fn parts(harness: &Harness, run: &Run) -> Vec<Run> {
    let request = ListRunsRequest { parent: run.run_id.clone(), ..ListRunsRequest::default() };
    harness.client.list_runs(request).await.expect("the run log").runs
}

fn places(parts: &[Run]) -> BTreeSet<&str> {
    parts.iter().map(|part| part.place.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_worker_has_its_part_also_when_the_leader_dies_in_the_middle() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    harness
        .apply(&format!(
            "name: sweep\nevery_node: true\ntimeout: 1m\ntarget: {{http: {{url: \"{}\"}}}}\n",
            receiver.url("/slow/3000")
        ))
        .await;
    // One that a node has not yet heard of has no part.
    eventually("all workers", || async {
        let workers = harness.client.list_workers(Default::default()).await.ok()?.workers;
        (workers.len() == 3).then_some(())
    })
    .await;
    let run = harness.trigger("sweep").await;
    let live = eventually("a part for each worker", || async {
        let parts = parts(&harness, &run).await;
        (parts.len() == 3 && parts.iter().all(|part| part.state() == RunState::Running)).then_some(parts)
    })
    .await;
    assert_eq!(places(&live), ["node-1", "node-2", "node-3"].into());
    assert!(live.iter().all(|part| part.parent == run.run_id && part.chain_id == run.run_id), "{live:?}");
    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    harness.leader().await;
    // The others go on, and what the dead one had waits for it and for no other.
    eventually("the parts of the living", || async {
        let spread = harness.run(&run.run_id).await.spread?;
        ((spread.places, spread.ended, spread.succeeded) == (3, 2, 2)).then_some(())
    })
    .await;
    assert_eq!(harness.run(&run.run_id).await.state(), RunState::Running);
    harness.cluster.start(leader).expect("it starts");
    let ended = harness.ended(&run.run_id).await;
    assert_eq!((ended.state(), ended.attempts.len()), (RunState::Succeeded, 0), "{ended:?}");
    let done = parts(&harness, &run).await;
    assert_eq!(places(&done), places(&live));
    for part in &done {
        let workers = part.attempts.iter().map(|attempt| attempt.worker.rsplit_once('/').map(|it| it.0));
        assert!(workers.into_iter().all(|place| place == Some(part.place.as_str())), "{part:?}");
    }
    let again = done.iter().filter(|part| part.attempts.len() > 1).count();
    assert!(again <= 1, "more than the dead one's part was begun again: {done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_worker_that_is_gone_ends_with_its_time_and_the_run_tells_which() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    let gone = harness.followers().await[0];
    harness
        .apply(&format!(
            "name: sweep\nevery_node: true\ntimeout: 1m\nstart_within: 8s\nrequires: {{}}\ntarget: {{http: {{url: \"{}\"}}}}\n",
            receiver.url("/slow/2000")
        ))
        .await;
    eventually("all workers", || async {
        let workers = harness.client.list_workers(Default::default()).await.ok()?.workers;
        (workers.len() == 3).then_some(())
    })
    .await;
    let run = harness.trigger("sweep").await;
    eventually("three calls", || async { (receiver.hits().len() >= 3).then_some(()) }).await;
    harness.cluster.kill(gone).await.expect("it ran");
    let ended = harness.ended(&run.run_id).await;
    let lost = parts(&harness, &run).await.into_iter().find(|part| part.state() != RunState::Succeeded);
    let lost = lost.expect("the part of the node that is gone");
    assert_eq!((lost.place.as_str(), lost.reason.as_str()), (format!("node-{gone}").as_str(), "expired"));
    assert_eq!((ended.state(), ended.reason.as_str()), (RunState::Failed, "expired"), "{ended:?}");
    assert!(ended.detail.contains(&lost.run_id), "{ended:?}");
    // Made again, it is for that place alone.
    harness.cluster.start(gone).expect("it starts");
    let request = chronarch::pb::v1::RetryRunRequest { run_id: lost.run_id.clone(), ..Default::default() };
    let again = harness.client.retry_run(request).await.expect("the run is made");
    let again = harness.ended(&again.run_id).await;
    assert_eq!(
        (again.state(), &again.place, &again.retry_of),
        (RunState::Succeeded, &lost.place, &lost.run_id)
    );
}
