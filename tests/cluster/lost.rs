//! Workers that die, stand still, are cut off, hang or come back: `on_lost` decides within the lease, and what they say
//! too late is refused by its fence (G3).

use std::time::Duration;

use chronarch::pb::v1;
use chronarch::pb::v1::leader_message::Kind as FromLeader;
use chronarch::pb::v1::worker_message::Kind as FromWorker;
use chronarch::pb::v1::{Outcome, Run, RunState, WorkerState};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::harness::{Harness, eventually};
use crate::receiver::Receiver;
use crate::staff::{ByHand, Inside, Process, Way};

/// The lease of the nodes here. A worker counts as alive for half of one after it was last heard, and may have been
/// granted another by then; a leader that is replaced meanwhile listens for one of its own.
const LEASE: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(10);

/// Two jobs that take so long, one for each `on_lost`.
fn jobs(receiver: &Receiver, millis: u64) -> String {
    let job = |name: &str, on_lost: &str| {
        let url = receiver.url(&format!("/slow/{millis}"));
        format!(
            "name: {name}\nqueue: apart\ntarget: {{http: {{url: \"{url}\"}}}}\ntimeout: 1m\non_lost: {on_lost}\n---\n"
        )
    };
    format!("{}{}", job("again", "rerun"), job("once", "fail"))
}

fn outcomes(run: &Run) -> Vec<Outcome> {
    run.attempts.iter().map(|attempt| attempt.outcome()).collect()
}

/// Starts both jobs on the one worker that is there, has `strike` take it away, and checks what becomes of them on
/// another one that comes then.
async fn both_are_handled(
    harness: &Harness,
    receiver: &Receiver,
    strike: impl AsyncFnOnce(),
) -> (Run, Run, Process, tempfile::TempDir) {
    let runs = [harness.trigger("again").await, harness.trigger("once").await];
    eventually("both requests to arrive", || async { (receiver.hits().len() == 2).then_some(()) }).await;
    strike().await;
    let struck = Instant::now();
    let dir = tempfile::tempdir().expect("a folder");
    let second = Process::start(dir.path(), "second", &harness.cluster.endpoints(), &["--queue", "apart"]);
    let once = harness.ended(&runs[1].run_id).await;
    assert!(struck.elapsed() < LEASE + SLACK, "it took {:?}", struck.elapsed());
    assert_eq!((once.state(), once.reason.as_str()), (RunState::Failed, "lost"), "{once:?}");
    let again = harness.ended(&runs[0].run_id).await;
    assert_eq!(outcomes(&again), [Outcome::Lost, Outcome::Succeeded], "{again:?}");
    assert!(again.attempts[1].worker.starts_with("second/"), "{again:?}");
    assert_eq!((receiver.hits_of("once").len(), receiver.hits_of("again").len()), (1, 2));
    (again, once, second, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stood_still_beyond_its_lease_changes_nothing_when_it_goes_on() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    let dir = tempfile::tempdir().expect("a folder");
    let first = Process::start(dir.path(), "first", &harness.cluster.endpoints(), &["--queue", "apart"]);
    harness.apply(&jobs(&receiver, 2_000)).await;
    harness.worker("first", |worker| worker.state() == WorkerState::Serving).await;
    let (again, once, second, _dir) =
        both_are_handled(&harness, &receiver, async || first.signal(Signal::STOP)).await;
    first.signal(Signal::CONT);
    // It has said what it holds, was told to forget it, and is there for more.
    harness.worker("first", |worker| worker.state() == WorkerState::Serving && worker.free == 16).await;
    for record in [again, once] {
        assert_eq!(harness.run(&record.run_id).await, record, "the record stays as it is");
    }
    assert_eq!(receiver.hits().len(), 3, "nothing was begun late");
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_late_report_of_a_worker_that_was_cut_off_is_refused_by_its_fence() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    // It knows one follower alone, so its stream is carried.
    let known = [harness.cluster.endpoint(harness.followers().await[0])];
    let way = Way::to(&known);
    let mut first = Inside::start("first", "apart", 4, &known, &way);
    first.until(|status| status.leader.is_some()).await;
    harness.apply(&jobs(&receiver, 2_000)).await;
    let (again, once, second, _dir) = both_are_handled(&harness, &receiver, async || way.cut()).await;
    // Its attempts went on, have ended, and nobody has heard of it.
    first.until(|status| status.unacknowledged == 2).await;
    way.mend();
    first.until(|status| status.unacknowledged == 0 && status.leader.is_some()).await;
    for record in [again, once] {
        assert_eq!(harness.run(&record.run_id).await, record, "the late report changed nothing");
    }
    drop(second);
    harness.worker("first", |worker| worker.free == 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_the_same_name_is_another_one() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    let dir = tempfile::tempdir().expect("a folder");
    let endpoints = harness.cluster.endpoints();
    let mut first = Process::start(dir.path(), "same", &endpoints, &["--queue", "apart"]);
    harness.apply(&jobs(&receiver, 3_000)).await;
    let old = harness.worker("same", |worker| worker.state() == WorkerState::Serving).await;
    let runs = [harness.trigger("again").await, harness.trigger("once").await];
    eventually("both requests to arrive", || async { (receiver.hits().len() == 2).then_some(()) }).await;
    first.kill().await;
    let _next = Process::start(dir.path(), "same", &endpoints, &["--queue", "apart"]);
    let (gone, fresh) = eventually("the old life to be away and the new one to serve", || async {
        let workers = harness.workers().await;
        let of =
            |state| workers.iter().find(|worker| worker.place == "same" && worker.state() == state).cloned();
        Some((of(WorkerState::Away)?, of(WorkerState::Serving)?))
    })
    .await;
    assert_eq!((&gone.worker, gone.running), (&old.worker, 2));
    assert_ne!(fresh.worker, old.worker);
    assert_eq!(harness.ended(&runs[1].run_id).await.reason, "lost");
    let again = harness.ended(&runs[0].run_id).await;
    assert_eq!(outcomes(&again), [Outcome::Lost, Outcome::Succeeded], "{again:?}");
    assert_eq!([&again.attempts[0].worker, &again.attempts[1].worker], [&old.worker, &fresh.worker]);
    assert!(harness.workers().await.iter().all(|worker| worker.worker != old.worker), "it is forgotten");
}

/// It says that it lives, and ends nothing. The leader does, and its word counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_of_a_worker_that_hangs_is_timed_out_and_its_late_report_refused() {
    let harness = Harness::start("").await;
    let hello = v1::Hello {
        worker: "hangs".to_owned(),
        queues: vec!["apart".to_owned()],
        kinds: vec!["http".to_owned()],
        slots: 1,
        protocol: 1,
        ..v1::Hello::default()
    };
    let mut stream = ByHand::at_the_leader(&harness, hello).await;
    harness
        .apply("name: hung\nqueue: apart\ntarget: {http: {url: \"http://127.0.0.1:9/\"}}\ntimeout: 1s\noverlap: allow\n")
        .await;
    let run = harness.trigger("hung").await;
    let begun = Instant::now();
    let FromLeader::Order(order) = stream.hear_else(&harness).await else { panic!("no order") };
    let next = harness.trigger("hung").await;
    // A second for the job, 30 s of grace for the worker to do it itself.
    let told = stream.hear_else(&harness).await;
    let FromLeader::Cancel(cancel) = &told else { panic!("not told to stop: {told:?}") };
    assert_eq!((&cancel.run_id, cancel.fence), (&run.run_id, order.fence));
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    let ended = harness.ended(&run.run_id).await;
    assert_eq!((ended.state(), outcomes(&ended)), (RunState::Failed, vec![Outcome::Timeout]), "{ended:?}");
    // The slot is not free while the worker may still be at it.
    let hung = harness.worker("hangs", |_| true).await;
    assert_eq!((hung.running, hung.free), (0, 0), "{hung:?}");
    assert_eq!(harness.run(&next.run_id).await.state(), RunState::Pending);

    let outcome = Outcome::Succeeded.into();
    let report =
        v1::Report { run_id: run.run_id.clone(), fence: order.fence, outcome, ..v1::Report::default() };
    let answer = loop {
        stream.say(FromWorker::Report(report.clone())).await;
        match stream.hear_else(&harness).await {
            FromLeader::Acknowledged(answer) => break answer,
            // From the next leader, where this one was replaced: it is told again.
            FromLeader::Cancel(again) => assert_eq!(&again, cancel),
            other => panic!("no answer: {other:?}"),
        }
    };
    assert!(answer.refused, "{answer:?}");
    assert_eq!(harness.run(&run.run_id).await, ended);
    let order = loop {
        match stream.hear_else(&harness).await {
            FromLeader::Order(order) => break order,
            FromLeader::Acknowledged(again) => assert!(again.refused, "{again:?}"),
            other => panic!("no order for the free slot: {other:?}"),
        }
    };
    assert_eq!(order.run_id, next.run_id);
}

/// What a worker has is counted in the replicated state, so no leader gives it more than it has room for; through
/// broken streams and new leaders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_worker_is_given_more_than_its_slots_through_new_streams_and_new_leaders() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    let all = harness.cluster.endpoints();
    let ways = [Way::to(&all), Way::to(&all[..1])];
    let staff = [
        Inside::start("small", "apart", 2, &all, &ways[0]),
        Inside::start("large", "apart", 5, &all[..1], &ways[1]),
    ];
    let slots = [2, 5];
    let watching: Vec<_> = staff
        .iter()
        .zip(slots)
        .map(|(worker, slots)| {
            let mut status = worker.status.clone();
            tokio::spawn(async move {
                while status.changed().await.is_ok() {
                    let now = status.borrow_and_update().clone();
                    assert!(now.running + now.waiting <= slots, "{slots} slots: {now:?}");
                }
            })
        })
        .collect();
    let url = receiver.url("/slow/150");
    let name = |n: u32| format!("many-{n}");
    let files: String = (0..30)
        .map(|n| {
            format!(
                "name: {}\nqueue: apart\nschedule: {{every: 3s, offset: {}ms}}\ntarget: {{http: {{url: \"{url}\"}}}}\n\
                 timeout: 10s\non_lost: rerun\noverlap: allow\n---\n",
                name(n),
                n * 100,
            )
        })
        .collect();
    harness.apply(&files).await;
    for round in 0..4 {
        let before = receiver.hits().len();
        eventually("the load to go on", || async { (receiver.hits().len() > before + 30).then_some(()) })
            .await;
        if round % 2 == 0 {
            let leader = harness.leader().await;
            harness.cluster.kill(leader).await.expect("it ran");
            harness.leader().await;
            harness.cluster.start(leader).expect("it starts");
        } else {
            // Long enough for the streams to be given up, not for the attempts.
            ways.iter().for_each(Way::cut);
            for worker in &staff {
                let mut status = worker.status.clone();
                status.wait_for(|status| status.leader.is_none()).await.expect("the worker lives");
            }
            ways.iter().for_each(Way::mend);
        }
    }
    for n in 0..30 {
        harness.pause(&name(n)).await;
    }
    harness.quiet().await;
    for worker in staff {
        worker.stop.cancel();
        assert_eq!(worker.end.await.expect("no panic").unacknowledged, 0);
    }
    for watch in watching {
        watch.await.expect("never more than its slots");
    }
}
