//! What steers jobs and runs: many at once, past ranges, earlier definitions, runs that are made again, and what jobs
//! run after.

use super::*;
use crate::pb::v1::queue_service_server::QueueService as _;

fn labelled(name: &str, team: &str) -> pb::JobSpec {
    pb::JobSpec { labels: [("team".to_owned(), team.to_owned())].into(), ..job(name) }
}

fn after(name: &str, jobs: &[&str]) -> pb::JobSpec {
    let jobs = jobs.iter().map(|name| (*name).to_owned()).collect();
    pb::JobSpec { schedule: Vec::new(), after: Some(pb::After { jobs, ..pb::After::default() }), ..job(name) }
}

#[tokio::test]
async fn jobs_with_a_label_are_paused_and_resumed_together() {
    let node = Node::start().await;
    node.apply(vec![labelled("a", "x"), labelled("b", "x"), labelled("c", "y")], false).await;
    let labels: BTreeMap<String, String> = [("team".to_owned(), "x".to_owned())].into();
    let pause = |until| pb::PauseJobsRequest { labels: labels.clone(), until, ..Default::default() };
    let done = node.api.pause_jobs(Request::new(pause(None))).await.unwrap().into_inner();
    assert_eq!(done.jobs, ["a", "b"]);
    let again = node.api.pause_jobs(Request::new(pause(None))).await.unwrap().into_inner();
    assert!(again.jobs.is_empty(), "they are paused already: {again:?}");
    let until = crate::view::instant(Clock::system().now().plus(Duration::from_secs(3_600)));
    let changed = node.api.pause_jobs(Request::new(pause(Some(until)))).await.unwrap().into_inner();
    assert_eq!(changed.jobs.len(), 2, "an end of the pause is a change");
    let states: Vec<bool> = ["a", "b", "c"]
        .iter()
        .map(|name| node.raft.state().job_named("default", name).unwrap().pause.is_some())
        .collect();
    assert_eq!(states, [true, true, false]);
    let resume = pb::ResumeJobsRequest { labels, ..Default::default() };
    assert_eq!(node.api.resume_jobs(Request::new(resume)).await.unwrap().into_inner().jobs.len(), 2);
    let nobody = pb::PauseJobsRequest::default();
    let refused = node.api.pause_jobs(Request::new(nobody)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "no label would mean all: {refused:?}");
}

#[tokio::test]
async fn a_backfill_makes_what_is_missing_and_nothing_twice() {
    let node = Node::start().await;
    let spec = pb::JobSpec {
        schedule: vec![pb::Schedule { cron: "0 0 * * *".to_owned(), ..Default::default() }],
        overlap: Some(pb::Overlap { policy: pb::OverlapPolicy::Skip.into(), ..Default::default() }),
        ..job("nightly")
    };
    node.apply(vec![spec], false).await;
    let ask = |days: i64, dry_run| {
        let at = |days| {
            Some(crate::view::instant(Clock::system().now().minus(Duration::from_secs(86_400 * days))))
        };
        pb::BackfillJobRequest {
            name: "nightly".to_owned(),
            from: at(days as u64),
            dry_run,
            ..Default::default()
        }
    };
    let foreseen = node.api.backfill_job(Request::new(ask(5, true))).await.unwrap().into_inner();
    assert_eq!((foreseen.scheduled_at.len(), foreseen.backfill, foreseen.present), (5, 0, 0));
    let made = node.api.backfill_job(Request::new(ask(5, false))).await.unwrap().into_inner();
    assert_eq!(made.scheduled_at, foreseen.scheduled_at);
    let state = node.raft.state();
    let runs: Vec<_> = state.runs().collect();
    assert_eq!(runs.len(), 5);
    assert!(runs.iter().all(|run| run.backfill == Some(made.backfill)));
    assert_eq!(
        runs.iter().filter(|run| run.phase == crate::state::run::Phase::Waiting).count(),
        1,
        "they take turns"
    );
    let again = node.api.backfill_job(Request::new(ask(7, false))).await.unwrap().into_inner();
    assert_eq!((again.scheduled_at.len(), again.present), (2, 5), "what has a live run is not missing");
    let cancel = pb::CancelRunsRequest { backfill: made.backfill, ..Default::default() };
    let ended = node.api.cancel_runs(Request::new(cancel)).await.unwrap().into_inner();
    assert_eq!(ended.run_ids.len(), 5, "it is cancelled as one");
    let list = pb::ListRunsRequest { backfill: made.backfill, ..Default::default() };
    let listed = node.api.list_runs(Request::new(list)).await.unwrap().into_inner().runs;
    assert!(
        listed.len() == 5 && listed.iter().all(|run| run.state() == pb::RunState::Cancelled),
        "{listed:?}"
    );
    let future = pb::BackfillJobRequest {
        to: Some(crate::view::instant(Clock::system().now().plus(Duration::from_secs(60)))),
        ..ask(1, false)
    };
    assert_eq!(node.api.backfill_job(Request::new(future)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_ended_run_is_made_again_with_other_parameters() {
    let node = Node::start().await;
    let spec = pb::JobSpec { params: [("day".to_owned(), "today".to_owned())].into(), ..job("load") };
    node.apply(vec![spec], false).await;
    let run = node.trigger("load", "once").await;
    assert_eq!(run.params["day"], "today");
    let retry = |params: &[(&str, &str)]| pb::RetryRunRequest {
        run_id: run.run_id.clone(),
        params: params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Default::default()
    };
    let live = node.api.retry_run(Request::new(retry(&[]))).await.unwrap_err();
    assert_eq!(live.code(), Code::FailedPrecondition, "{live:?}");
    node.carry_out(&run).await;
    let unknown = node.api.retry_run(Request::new(retry(&[("week", "9")]))).await.unwrap_err();
    assert_eq!(unknown.message(), "params.week: the job has no such parameter; it has day");
    let again = node.api.retry_run(Request::new(retry(&[("day", "monday")]))).await.unwrap().into_inner();
    assert_eq!(
        (again.retry_of.as_str(), again.chain_id.as_str()),
        (run.run_id.as_str(), run.run_id.as_str())
    );
    assert_eq!(again.params["day"], "monday");
    let list = pb::ListRunsRequest { chain_id: run.run_id.clone(), ..Default::default() };
    assert_eq!(node.api.list_runs(Request::new(list)).await.unwrap().into_inner().runs.len(), 2);
}

#[tokio::test]
async fn definitions_are_kept_with_who_changed_what() {
    let node = Node::start().await;
    for timeout in [60, 70, 80] {
        let timeout = Some(prost_types::Duration { seconds: timeout, nanos: 0 });
        let request = pb::ApplyJobsRequest {
            jobs: vec![pb::JobSpec { timeout, ..job("a") }],
            actor: "ada".to_owned(),
            reason: "slower".to_owned(),
            ..Default::default()
        };
        node.api.apply_jobs(Request::new(request)).await.unwrap();
    }
    let ask = pb::ListVersionsRequest { name: "a".to_owned(), ..Default::default() };
    let versions = node.api.list_versions(Request::new(ask)).await.unwrap().into_inner().versions;
    let numbers: Vec<u64> = versions.iter().map(|version| version.version).collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!((versions[0].actor.as_str(), versions[0].reason.as_str()), ("ada", "slower"));
    let changes: Vec<&str> = versions[0].changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(changes, ["timeout"]);
    assert!(versions[2].changes.is_empty(), "nothing is known before the first");
}

#[tokio::test]
async fn what_jobs_run_after_must_be_there_and_form_no_cycle() {
    let node = Node::start().await;
    let apply = async |jobs: Vec<pb::JobSpec>| {
        let request = pb::ApplyJobsRequest { jobs, ..Default::default() };
        node.api.apply_jobs(Request::new(request)).await.map(|answer| answer.into_inner().results.len())
    };
    let missing = apply(vec![after("b", &["a"])]).await.unwrap_err();
    assert_eq!(
        missing.message(),
        "jobs[0].after.jobs[0]: there is no job \"a\" in namespace \"default\"\nhint: apply it before, or in the same call"
    );
    assert_eq!(
        apply(vec![after("c", &["b"]), after("b", &["a"]), job("a")]).await.unwrap(),
        3,
        "in any order"
    );
    let cycle = apply(vec![after("a", &["c"])]).await.unwrap_err();
    assert_eq!(cycle.message(), "jobs[0].after: the job would run after itself: a -> b -> c -> a");
    // Turned round in one call: no cycle, whatever the order in which they are written.
    assert_eq!(apply(vec![job("c"), after("a", &["b"]), after("b", &["c"])]).await.unwrap(), 3);
    let both = pb::JobSpec { schedule: job("x").schedule, ..after("d", &["a"]) };
    let both = apply(vec![both]).await.unwrap_err();
    assert!(both.message().starts_with("jobs[0].after: the job has a schedule too"), "{both:?}");
}

#[tokio::test]
async fn a_full_queue_turns_new_runs_away_and_says_so() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let set = |rate: &str, max_waiting| pb::SetQueueRequest {
        name: "default".to_owned(),
        rate: rate.to_owned(),
        max_waiting,
        actor: "ada".to_owned(),
        reason: "small disk".to_owned(),
        ..Default::default()
    };
    let queue = node.api.set_queue(Request::new(set("5/30s", Some(1)))).await.unwrap().into_inner();
    assert_eq!((queue.rate.as_str(), queue.max_waiting, queue.actor.as_str()), ("5/30s", Some(1), "ada"));
    let first = node.trigger("a", "first").await;
    let second = node.trigger("a", "second").await;
    assert_eq!(first.state(), pb::RunState::Pending);
    assert_eq!((second.state(), second.reason.as_str()), (pb::RunState::Skipped, "limit"));
    let list =
        node.api.list_queues(Request::new(pb::ListQueuesRequest::default())).await.unwrap().into_inner();
    assert_eq!((list.queues.len(), list.queues[0].waiting, list.queues[0].running), (1, 1, 0));
    let wrong = node.api.set_queue(Request::new(set("often", Some(0)))).await.unwrap_err();
    assert!(
        wrong.message().starts_with("max_waiting: 0 is out of range") && wrong.message().contains("\nrate: ")
    );
    node.api.set_queue(Request::new(set("", None))).await.unwrap();
    assert_eq!(node.trigger("a", "third").await.state(), pb::RunState::Pending, "no limits any more");
}
