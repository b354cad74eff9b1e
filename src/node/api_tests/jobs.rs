//! What applying and deleting say beside what they do.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_is_over_is_applied_with_a_warning() {
    let node = Node::start().await;
    let at = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
    let once = pb::Schedule { at: vec![at(1_000_000_000)], ..Default::default() };
    let ended =
        pb::Schedule { cron: "@yearly".to_owned(), end_at: Some(at(1_000_000_000)), ..Default::default() };
    let jobs = || {
        let with = |name, schedule: &[pb::Schedule]| pb::JobSpec { schedule: schedule.to_vec(), ..job(name) };
        vec![
            with("a", std::slice::from_ref(&once)),
            with("b", &[once.clone(), ended.clone()]),
            with("c", &[]),
            job("d"),
        ]
    };
    for dry_run in [true, false, false] {
        let applied = node.apply(jobs(), dry_run).await;
        let warned: Vec<usize> = applied.iter().map(|applied| applied.warnings.len()).collect();
        assert_eq!(warned, [1, 1, 0, 0], "{applied:?}");
    }
    let pause = pb::PauseJobRequest { name: "d".to_owned(), ..Default::default() };
    node.api.pause_job(Request::new(pause)).await.unwrap();
    let applied = node.apply(vec![job("d")], false).await;
    assert_eq!((applied[0].next_at, applied[0].warnings.len()), (None, 0), "a pause is not the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_job_tells_how_many_runs_of_it_live_on() {
    let node = Node::start().await;
    for (cancel_runs, live_runs) in [(false, 2), (true, 1)] {
        node.apply(vec![job("a")], false).await;
        let running = node.trigger("a", "").await;
        node.trigger("a", "").await;
        node.begin(&running).await;
        let delete = pb::DeleteJobRequest { name: "a".to_owned(), cancel_runs, ..Default::default() };
        let deleted = node.api.delete_job(Request::new(delete)).await.unwrap().into_inner();
        // a pending run is cancelled at once, a running one when its worker says so
        assert_eq!(deleted.live_runs, live_runs, "{cancel_runs}");
    }
}
