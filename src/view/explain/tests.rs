use std::time::Duration;

use super::*;
use crate::history::Kept;
use crate::state::Command;
use crate::state::namespace::NamespaceLimits;
use crate::state::run::{AttemptOutcome, Cause, Report, RunId};
use crate::state::spec::{OverlapPolicy, Retry};
use crate::state::{Request, Verdict};
use crate::view::fixture::{Scene, at, minutely, request};

fn worker(name: &str, queue: &str, running: u32) -> WorkerInfo {
    WorkerInfo {
        worker: name.to_owned(),
        queues: [queue.to_owned()].into(),
        kinds: ["exec".to_owned()].into(),
        slots: 2,
        running,
        ..WorkerInfo::default()
    }
}

fn text(explanation: &pb::Explanation) -> String {
    let mut text = explanation.summary.clone();
    for reason in &explanation.reasons {
        text.push_str("\n- ");
        text.push_str(reason);
    }
    text
}

fn explain_run(scene: &Scene, id: RunId, workers: &[WorkerInfo]) -> String {
    let run = scene.state.run(id).cloned().or_else(|| scene.log.get(id).unwrap()).expect("a run");
    let explaining = Explaining { state: &scene.state, log: &scene.log, workers: Some(workers) };
    text(&explaining.run(&run))
}

fn explain_job(scene: &Scene, name: &str, instant: Option<&str>) -> String {
    let job = scene.state.job_named("default", name).expect("a job");
    let workers = [worker("w1", "default", 0)];
    let explaining = Explaining { state: &scene.state, log: &scene.log, workers: Some(&workers) };
    text(&explaining.job(job, instant.map(at)).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_job_says_by_whom_and_why() {
    let mut scene = Scene::new();
    let job = scene.put(minutely("a")).await;
    let job = scene.state.job(job).unwrap().reference();
    let pause = Command::PauseJob { job, request: request("ada", "moving the disk"), until: None };
    scene.now("09:59:40").apply(pause).await;
    scene.now("10:01:30").apply(Command::Lead { node: 1, term: 1, silent_for: None }).await;
    assert_eq!(
        explain_job(&scene, "a", None),
        "The job is paused by ada since 2026-03-02T09:59:40.000Z: moving the disk.\n\
         - It has no record yet; it was created at 2026-03-02T09:59:30.000Z."
    );
    assert_eq!(
        explain_job(&scene, "a", Some("10:01:00.000")),
        "The occurrence at 2026-03-02T10:01:00.000Z did not fire: the job was paused.\n\
         - The job is paused by ada since 2026-03-02T09:59:40.000Z: moving the disk."
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_there_may_be_one_that_job_or_namespace_no_longer_keep() {
    let mut scene = Scene::new();
    let job = scene.put(minutely("a")).await;
    let run = scene.now("10:00:00").fire(job).await;
    scene.start(run).await;
    scene.end(run, AttemptOutcome::Succeeded, Report::default()).await;
    let limits = NamespaceLimits { runs: Some(5), age: Some(Duration::from_secs(3_600)) };
    let request = request("ada", "small disk");
    scene.apply(Command::SetNamespace { namespace: "default".into(), limits, request }).await;
    let namespaces = [("default".into(), NamespaceLimits { runs: Some(0), age: None })].into();
    let kept = Kept { job: &|_| None, namespaces: &namespaces };
    scene.log.barrier().await.unwrap();
    while !scene.log.prune(1, at("10:00:30"), kept).await.unwrap().idle {}
    assert_eq!(
        explain_job(&scene, "a", Some("10:00:00.000")),
        "There is no record of the occurrence at 2026-03-02T10:00:00.000Z.\n\
         - Records are kept for 1 d, at most 100 records.\n\
         - Those of all jobs of its namespace are kept for 1 h, at most 5 records."
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn instant_that_is_no_occurrence_is_named_with_its_neighbours() {
    let mut scene = Scene::new();
    scene.put(minutely("a")).await;
    assert_eq!(
        explain_job(&scene, "a", Some("10:00:07.500")),
        "2026-03-02T10:00:07.500Z is no occurrence of the schedule.\n\
         - The occurrences around it are 2026-03-02T10:00:00.000Z and 2026-03-02T10:01:00.000Z."
    );
    assert_eq!(
        explain_job(&scene, "a", Some("10:05:00.000")),
        "The occurrence at 2026-03-02T10:05:00.000Z lies ahead.\n\
         - The next occurrence is at 2026-03-02T10:00:00.000Z."
    );
    assert_eq!(
        explain_job(&scene, "a", Some("09:00:00.000")),
        "The job did not exist at 2026-03-02T09:00:00.000Z: it was created at 2026-03-02T09:59:30.000Z."
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn late_run_names_the_leader_gap() {
    let mut scene = Scene::new();
    let job = scene.put(minutely("a")).await;
    scene.now("09:59:59.500").apply(Command::Lead { node: 1, term: 1, silent_for: None }).await;
    scene.now("10:00:01.300").apply(Command::Lead { node: 2, term: 2, silent_for: None }).await;
    let run = scene.fire(job).await;
    assert_eq!(
        explain_run(&scene, run, &[worker("w1", "other", 0)]),
        format!(
            "Run {run} is pending: it waits for a worker of queue `default`: no worker serves queue `default` \
             (1 worker connected).\n\
             - It was decided 1.3 s after it was due: no leader could fire between 2026-03-02T09:59:59.500Z and \
             2026-03-02T10:00:01.300Z (1.8 s); node 2 leads since then, in term 2."
        )
    );
    assert!(explain_run(&scene, run, &[]).contains("no worker is connected"));
    assert!(
        explain_run(&scene, run, &[worker("w1", "default", 2)]).contains("all of their 2 slots are taken")
    );
    assert!(explain_run(&scene, run, &[worker("w1", "default", 1)]).contains("one with room is connected"));
}

/// The newest entry before the change of leaders is half a minute old, and the gap is not.
#[tokio::test(flavor = "multi_thread")]
async fn idle_cluster_was_without_a_leader_only_since_it_was_not_heard() {
    let mut scene = Scene::new();
    let job = scene.put(minutely("a")).await;
    let silent_for = Some(std::time::Duration::from_millis(700));
    scene.now("10:00:00.500").apply(Command::Lead { node: 2, term: 2, silent_for }).await;
    let run = scene.fire(job).await;
    let told = explain_run(&scene, run, &[]);
    assert!(
        told.contains(
            "no leader could fire between 2026-03-02T09:59:59.800Z and 2026-03-02T10:00:00.500Z (700 ms)"
        ),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_without_the_label_or_the_kind_is_no_help() {
    let mut scene = Scene::new();
    let mut spec = minutely("a");
    spec.requires.insert("zone".to_owned(), "eu".to_owned());
    let job = scene.put(spec).await;
    let run = scene.now("10:00:00").fire(job).await;
    let mut other = worker("w1", "default", 0);
    let why = explain_run(&scene, run, std::slice::from_ref(&other));
    assert!(
        why.contains("no worker of queue `default` has the labels zone=eu (1 worker connected)"),
        "{why}"
    );
    other.labels.insert("zone".to_owned(), "eu".to_owned());
    other.draining = true;
    let why = explain_run(&scene, run, std::slice::from_ref(&other));
    assert!(why.contains("every worker for queue `default` drains"), "{why}");
    other.kinds.clear();
    let why = explain_run(&scene, run, &[other]);
    assert!(why.contains("no worker of queue `default` carries out exec targets"), "{why}");
    let explaining = Explaining { state: &scene.state, log: &scene.log, workers: None };
    let unknown = text(&explaining.run(scene.state.run(run).unwrap()));
    assert!(unknown.contains("is known to the leader alone"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn overlap_names_the_live_run() {
    let mut scene = Scene::new();
    let job = scene.put(minutely("a")).await;
    let first = scene.now("10:00:00").fire(job).await;
    scene.start(first).await;
    let second = scene.now("10:01:00").fire(job).await;
    assert_eq!(
        explain_run(&scene, second, &[]),
        format!(
            "Run {second} was skipped at 2026-03-02T10:01:00.000Z: an earlier run of the job was live (overlap).\n\
             - Run {first} is live."
        )
    );
    let mut spec = minutely("b");
    spec.overlap.policy = OverlapPolicy::Queue;
    let job = scene.now("10:01:10").put(spec).await;
    let first = scene.now("10:02:00").fire(job).await;
    let second = scene.now("10:03:00").fire(job).await;
    assert_eq!(
        explain_run(&scene, second, &[]),
        format!(
            "Run {second} is pending: it waits for earlier runs of its job to end (overlap).\n\
             - Run {first} is live since 2026-03-02T10:02:00.000Z."
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn open_breaker_says_since_when_why_and_until_when() {
    let mut scene = Scene::new();
    let job = scene.put(minutely("a")).await;
    scene.now("10:00:00").fail(job).await;
    let last = scene.now("10:01:00").fail(job).await;
    assert_eq!(
        explain_job(&scene, "a", None),
        format!(
            "The next occurrence is at 2026-03-02T10:02:00.000Z.\n\
             - The breaker `job:a` is open since 2026-03-02T10:01:00.000Z after 2 failed attempts in a row, until \
             2026-03-02T10:02:00.000Z; while it is open, occurrences are skipped.\n\
             - The last record: run {last} failed at 2026-03-02T10:01:00.000Z: attempt 1 failed with exit code 1: \
             no such host."
        )
    );
    let reset =
        Command::ResetBreaker { breaker: crate::state::BreakerKey::Job(job), request: Request::default() };
    scene.apply(reset).await;
    let trip = Command::TripBreaker {
        breaker: crate::state::BreakerKey::Job(job),
        open_for: None,
        request: request("ada", "the feed is wrong"),
    };
    scene.apply(trip).await;
    let skipped = scene.now("10:02:00").fire(job).await;
    assert_eq!(
        explain_run(&scene, skipped, &[]),
        format!(
            "Run {skipped} was skipped at 2026-03-02T10:02:00.000Z: its breaker was open.\n\
             - The breaker is open since 2026-03-02T10:01:00.000Z (tripped)."
        )
    );
    assert!(explain_job(&scene, "a", None).contains("by hand by ada: the feed is wrong, until"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_is_told_once_however_the_run_ended() {
    let mut scene = Scene::new();
    let job = scene.put(minutely("a")).await;
    let by_ada = "It was triggered by ada: a test.";
    let failed = scene.now("10:00:00").trigger(job, request("ada", "a test")).await;
    scene.start(failed).await;
    let report = Report { exit_code: Some(1), ..Report::default() };
    scene.end(failed, AttemptOutcome::Failed, report).await;
    assert_eq!(
        explain_run(&scene, failed, &[]),
        format!(
            "Run {failed} failed at 2026-03-02T10:00:00.000Z: attempt 1 failed with exit code 1.\n- {by_ada}"
        )
    );
    let cancelled = scene.now("10:00:10").trigger(job, request("ada", "a test")).await;
    assert!(explain_run(&scene, cancelled, &[]).ends_with(by_ada));
    let cancel = Command::CancelRun { run: cancelled, request: request("bob", "wrong day") };
    scene.apply(cancel).await;
    // why it was triggered gave way to how it ended
    assert_eq!(
        explain_run(&scene, cancelled, &[]),
        format!(
            "Run {cancelled} was cancelled at 2026-03-02T10:00:10.000Z.\n\
             - Cancelled by bob: wrong day.\n\
             - It was triggered by ada."
        )
    );
    let nobody = scene.now("10:00:20").trigger(job, Request::default()).await;
    assert!(explain_run(&scene, nobody, &[]).ends_with("\n- It was triggered by hand."));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_run_says_what_it_waited_for_in_vain() {
    let mut scene = Scene::new();
    let mut spec = minutely("a");
    spec.start_within = Some(std::time::Duration::from_secs(20));
    spec.queue = "batch".to_owned();
    spec.requires.insert("zone".to_owned(), "eu".to_owned());
    let job = scene.put(spec.clone()).await;
    let run = scene.now("10:00:00").fire(job).await;
    scene.now("10:00:20").apply(Command::Expire { run }).await;
    let expired = format!(
        "Run {run} was skipped at 2026-03-02T10:00:20.000Z: it had not started in time (start_within).\n\
         - Not started by 2026-03-02T10:00:20.000Z; it waited for a worker with room.\n\
         - It needed a worker of queue `batch`"
    );
    let needed =
        " with the labels zone=eu for exec targets; which workers were connected then is not recorded.";
    assert_eq!(
        explain_run(&scene, run, &[worker("w1", "default", 0)]),
        format!("{expired}{needed}\n- At present, no worker serves queue `batch` (1 worker connected).")
    );
    let mut able = worker("w1", "batch", 0);
    able.labels.insert("zone".to_owned(), "eu".to_owned());
    assert_eq!(
        explain_run(&scene, run, &[able]),
        format!("{expired}{needed}\n- A worker with room for it is connected at present.")
    );
    spec.queue = "other".to_owned();
    scene.now("10:00:30").put(spec).await;
    assert_eq!(
        explain_run(&scene, run, &[]),
        format!("{expired}; which workers were connected then is not recorded.")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_run_names_the_earlier_run_or_the_breaker() {
    let mut scene = Scene::new();
    let mut spec = minutely("a");
    spec.start_within = Some(std::time::Duration::from_secs(20));
    spec.overlap.policy = OverlapPolicy::Queue;
    let job = scene.put(spec.clone()).await;
    let first = scene.now("10:00:00").fire(job).await;
    scene.start(first).await;
    let second = scene.now("10:01:00").fire(job).await;
    scene.now("10:01:20").apply(Command::Expire { run: second }).await;
    let why = explain_run(&scene, second, &[]);
    assert!(why.contains("; it waited for an earlier run of the job.\n"), "{why}");
    assert!(why.ends_with(&format!("- Run {first} is live since 2026-03-02T10:00:00.000Z.")), "{why}");

    spec.name = "b".to_owned();
    spec.breaker.on_open = crate::state::spec::OnOpen::Hold;
    let job = scene.now("10:01:30").put(spec).await;
    let trip = Command::TripBreaker {
        breaker: crate::state::BreakerKey::Job(job),
        open_for: None,
        request: request("ada", "the feed is wrong"),
    };
    scene.apply(trip).await;
    let held = scene.now("10:02:00").fire(job).await;
    scene.now("10:02:20").apply(Command::Expire { run: held }).await;
    let why = explain_run(&scene, held, &[]);
    assert!(why.contains("; it waited behind its breaker.\n- The breaker `job:b` is open since"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_worker_and_waiting_retry_are_told() {
    let mut scene = Scene::new();
    let job = scene.put(minutely("a")).await;
    let run = scene.now("10:00:00").fire(job).await;
    scene.start(run).await;
    let lose = Command::Lose {
        worker: "w1".into(),
        expect: at("10:00:10"),
        retry_after: std::time::Duration::from_secs(1),
    };
    scene.now("10:00:11").apply(lose).await;
    assert_eq!(
        explain_run(&scene, run, &[]),
        format!(
            "Run {run} failed at 2026-03-02T10:00:11.000Z: attempt 1 was lost: its worker w1 vanished.\n\
             - Its worker vanished in the middle of the attempt, and on_lost is fail.\n\
             - Nobody knows what the lost attempt did, so it is not run again."
        )
    );
    let mut spec = minutely("b");
    spec.retry = Retry { max_attempts: 3, ..spec.retry };
    let job = scene.now("10:00:20").put(spec).await;
    let run = scene.now("10:01:00").fail(job).await;
    assert_eq!(
        explain_run(&scene, run, &[]),
        format!(
            "Run {run} is pending: attempt 2 follows at 2026-03-02T10:01:05.000Z.\n\
             - Attempt 1 failed with exit code 1: no such host."
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_instants_are_found_in_the_record_that_covers_them() {
    let mut scene = Scene::new();
    let job = scene.put(minutely("a")).await;
    let missed = Verdict::Missed { from: at("10:00:00"), until: at("10:04:00"), count: 5 };
    let caught = Verdict::Run {
        from: at("10:05:00"),
        scheduled_at: at("10:07:00"),
        due_at: at("10:07:00"),
        cause: Cause::CatchUp,
        stands_for: 3,
        moved: None,
    };
    let runs = scene.now("10:07:30").decide(job, vec![missed, caught]).await;
    assert_eq!(
        explain_job(&scene, "a", Some("10:02:00.000")),
        format!(
            "The occurrence at 2026-03-02T10:02:00.000Z is one of those from 2026-03-02T10:00:00.000Z to \
             2026-03-02T10:04:00.000Z in record {}.\n\
             - 5 occurrences from 2026-03-02T10:00:00.000Z to 2026-03-02T10:04:00.000Z were missed and did not run \
             (catch_up).\n\
             - Catch_up runs the newest of the last 1 h; the rest was older.\n\
             - It was decided 7 min 30 s after it was due.",
            runs[0]
        )
    );
    let stands = explain_job(&scene, "a", Some("10:06:00.000"));
    assert!(
        stands.starts_with(&format!(
            "Run {} stands for the occurrence at 2026-03-02T10:06:00.000Z and others.",
            runs[1]
        )),
        "{stands}"
    );
    assert!(
        stands.contains("It caught up on a missed occurrence and stands for 2 missed instants before it.")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_schedule_and_success_are_told() {
    let mut scene = Scene::new();
    let mut spec = minutely("a");
    spec.schedules[0].end_at = Some(at("10:01:00"));
    let job = scene.put(spec).await;
    let run = scene.now("10:00:00").fire(job).await;
    scene.start(run).await;
    assert!(
        explain_run(&scene, run, &[])
            .starts_with(&format!("Run {run} is running: attempt 1 on worker w1 since"))
    );
    scene.now("10:00:03").end(run, AttemptOutcome::Succeeded, Report::default()).await;
    assert_eq!(
        explain_job(&scene, "a", None),
        format!(
            "Its schedule has no further occurrence.\n\
             - The last record: run {run} succeeded at 2026-03-02T10:00:03.000Z after 1 attempt."
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn run_on_every_node_tells_of_its_parts() {
    let mut scene = Scene::new();
    let job = scene.put(crate::state::spec::JobSpec { every_node: true, ..minutely("a") }).await;
    let run = scene.now("10:00:00").fire(job).await;
    let places = ["gone".into(), "w1".into()].to_vec();
    scene.apply(Command::Spread { run, places }).await;
    let (gone, there) = (run.at_place(1), run.at_place(2));
    scene.start(there).await;
    let here = WorkerInfo { connected_at: Some(at("09:00:00.000")), ..worker("w1", "default", 1) };
    assert_eq!(
        explain_run(&scene, run, std::slice::from_ref(&here)),
        format!(
            "Run {run} is running on each worker that matched: 0 of 2 have ended, 0 of them well.\n\
             - Run {gone} is pending: it waits for the worker at gone, which alone may carry it out: it is not connected.\n\
             - Run {there} is running: attempt 1 on worker w1 since 2026-03-02T10:00:00.000Z."
        )
    );
    scene.now("10:00:05").end(there, AttemptOutcome::Succeeded, Report::default()).await;
    scene.now("11:00:00").apply(Command::Expire { run: gone }).await;
    assert_eq!(
        explain_run(&scene, run, &[here]),
        format!(
            "Run {run} failed at 2026-03-02T11:00:00.000Z: it succeeded on 1 of 2 workers.\n\
             - Run {gone} was the first that did not: expired."
        )
    );
}
