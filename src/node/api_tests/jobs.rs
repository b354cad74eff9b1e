//! What applying and deleting say beside what they do.

use super::*;
use crate::view::cluster::WorkerInfo;

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

#[tokio::test(flavor = "multi_thread")]
async fn the_past_of_a_schedule_and_its_meaning_are_told() {
    let node = Node::start().await;
    let rest = pb::Schedule {
        every: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        from: pb::EveryFrom::Completion.into(),
        ..Default::default()
    };
    node.propose(vec![Command::RaiseLevel { from: 0, to: 1 }]).await;
    node.apply(vec![job("a"), pb::JobSpec { schedule: vec![rest], ..job("b") }], false).await;
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let ask = |name: &str, after, before| pb::NextOccurrencesRequest {
        name: name.to_owned(),
        after,
        before,
        count: 2,
        explain: true,
        ..Default::default()
    };
    let told = node.api.next_occurrences(Request::new(ask("a", None, at(1_767_225_601)))).await.unwrap();
    let told = told.into_inner();
    let years: Vec<&str> = told.occurrences.iter().map(|occurrence| &occurrence.local[..4]).collect();
    assert_eq!(years, ["2026", "2025"], "the newest first");
    assert_eq!(told.explanation, ["At 00:00 on day 1 of the month in January, UTC."]);
    let both = node.api.next_occurrences(Request::new(ask("a", at(0), at(1)))).await.unwrap_err();
    assert_eq!((both.code(), both.message()), (Code::InvalidArgument, "before: does not go with `after`"));
    // what follows the end of a run is known one at a time
    let told = node.api.next_occurrences(Request::new(ask("b", None, None))).await.unwrap().into_inner();
    let notes: Vec<&str> = told.occurrences.iter().map(|occurrence| occurrence.note.as_str()).collect();
    assert_eq!(notes, ["the next one is armed when its run has ended"]);
    assert_eq!(told.explanation, ["10m after the end of each run."]);
    let backfill = pb::BackfillJobRequest { name: "b".to_owned(), from: at(0), ..Default::default() };
    let refused = node.api.backfill_job(Request::new(backfill)).await.unwrap_err();
    assert!(
        refused.message().starts_with("the occurrences of `from: completion` follow from runs"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_connection_no_worker_has_is_applied_with_a_warning() {
    let mut node = Node::start().await;
    let workers = || {
        let kinds = ["exec", "celery:main"].map(str::to_owned).into();
        vec![WorkerInfo { worker: "w".to_owned(), kinds, ..WorkerInfo::default() }]
    };
    let (raft, log, clock) = (node.raft.clone(), Arc::clone(&node.log), TrustedClock::alone());
    let of = |broker: &str| {
        let celery =
            pb::CeleryTarget { broker: broker.to_owned(), task: "t".to_owned(), ..Default::default() };
        let target = pb::Target { celery: Some(celery), ..Default::default() };
        pb::JobSpec { target: Some(target), ..job(broker) }
    };
    let jobs = || vec![of("main"), of("mian"), job("web")];
    let applied = node.apply(jobs(), true).await;
    assert!(applied.iter().all(|applied| applied.warnings.is_empty()), "nobody is known yet: {applied:?}");
    node.api = Api::new(raft, log, clock, Arc::new(workers), Dialer::tcp());
    for dry_run in [true, false, false] {
        let applied = node.apply(jobs(), dry_run).await;
        let warned: Vec<&[String]> = applied.iter().map(|applied| applied.warnings.as_slice()).collect();
        let warning =
            "at present no worker has a connection \"mian\" for celery targets; until one has, its runs wait";
        assert_eq!(warned, [&[][..], &[warning.to_owned()], &[]]);
    }
}
