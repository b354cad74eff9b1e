//! Workers as a fleet: any node is enough to be served, and everyone is listed, drained and told to go on.

use chronarch::pb::v1::leader_message::Kind as FromLeader;
use chronarch::pb::v1::{
    DrainWorkerRequest, ExplainRunRequest, Hello, ListWorkersRequest, Outcome, Relayed, ResumeWorkerRequest,
    RunState, Worker, WorkerState,
};
use rustix::process::Signal;
use tonic::Code;

use crate::harness::{Harness, eventually};
use crate::receiver::Receiver;
use crate::staff::{ByHand, Inside, Process, Way};

fn job(name: &str, url: &str, more: &str) -> String {
    format!("name: {name}\nqueue: apart\ntarget: {{http: {{url: \"{url}\"}}}}\ntimeout: 1m\n{more}---\n")
}

fn hello(worker: &str) -> Hello {
    Hello {
        worker: worker.to_owned(),
        queues: vec!["apart".to_owned()],
        kinds: vec!["http".to_owned()],
        slots: 1,
        protocol: 1,
        ..Hello::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_reaches_one_follower_alone_is_served_through_it_whoever_leads() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    let files =
        [job("long", &receiver.url("/slow/6000"), "on_lost: fail\n"), job("short", &receiver.url("/ok"), "")];
    harness.apply(&files.concat()).await;
    let through = harness.followers().await[0];
    let known = [harness.cluster.endpoint(through)];
    let mut inside = Inside::start("far", "apart", 4, &known, &Way::to(&known));
    inside.until(|status| status.carried_by == Some(through)).await;
    let seen = harness.worker("far", |worker| worker.state() == WorkerState::Serving).await;
    assert_eq!((seen.connected_to, seen.node_id, seen.free), (through, 0, 4), "{seen:?}");
    assert!(seen.address.starts_with("127.0.0.1:"), "{seen:?}");
    let short = harness.trigger("short").await;
    assert_eq!(harness.ended(&short.run_id).await.state(), RunState::Succeeded);

    // Its attempt goes on while the leader is replaced, whether the new one is the node that it knows or not.
    let long = harness.trigger("long").await;
    eventually("the request to arrive", || async { (receiver.hits_of("long").len() == 1).then_some(()) })
        .await;
    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    let short = harness.trigger("short").await;
    assert_eq!(harness.ended(&short.run_id).await.state(), RunState::Succeeded);
    let ended = harness.ended(&long.run_id).await;
    assert_eq!((ended.state(), ended.attempts.len()), (RunState::Succeeded, 1), "{ended:?}");
    harness.worker("far", |worker| worker.connected_to == through).await;
    assert_eq!(receiver.hits_of("long").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_carried_once() {
    let harness = Harness::start("").await;
    let followers = harness.followers().await;
    let endpoint = harness.cluster.endpoint(followers[0]);
    let (_stream, welcome) = ByHand::hello(&endpoint, hello("simple")).await.expect("it is carried");
    assert_eq!((welcome.relayed_by, welcome.protocol), (followers[0], 1));
    let relayed = Some(Relayed { node_id: followers[1], address: "192.0.2.1:1".to_owned() });
    let twice = Hello { relayed, ..hello("looping") };
    let mut stream = ByHand::open(&endpoint, twice).await.expect("an answer");
    let FromLeader::NotLeader(named) = stream.hear().await.expect("an answer") else {
        panic!("it is carried on")
    };
    assert_eq!(named.leader, harness.cluster.endpoint(harness.leader().await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_another_protocol_is_refused_by_name_or_served_in_what_both_speak() {
    let harness = Harness::start("").await;
    let endpoints = harness.cluster.endpoints();
    for endpoint in &endpoints {
        let newer = Hello { protocol: 9, protocol_min: 7, ..hello("newer") };
        let Err(refused) = ByHand::hello(endpoint, newer).await else { panic!("it is served") };
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(
            refused.message(),
            "worker \"newer\" is not served: it speaks the worker protocol in version 7 to 9, and this side in \
             version 0 to 1"
        );
        let (_stream, welcome) =
            ByHand::hello(endpoint, Hello { protocol: 9, ..hello("both") }).await.expect("served");
        assert_eq!(welcome.protocol, 1);
        let (_stream, welcome) =
            ByHand::hello(endpoint, Hello { protocol: 0, ..hello("older") }).await.expect("served");
        assert_eq!(welcome.protocol, 0);
        assert_eq!(harness.worker("older", |_| true).await.protocol, 0);
        let drain = DrainWorkerRequest { worker: "older".to_owned(), ..DrainWorkerRequest::default() };
        let refused = harness.client.drain_worker(drain).await.expect_err("it knows no drain");
        assert!(refused.to_string().contains("version 0 of the worker protocol"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_lists_the_same_workers_by_queue_and_label() {
    let harness = Harness::start("\n[worker]\nlabels = {zone = \"eu\"}\n").await;
    let dir = tempfile::tempdir().expect("a folder");
    let endpoints = harness.cluster.endpoints();
    let args = ["--queue", "apart,default", "--label", "zone=us", "--concurrency", "3"];
    let _worker = Process::start(dir.path(), "web-1", &endpoints, &args);
    harness.worker("web-1", |worker| worker.state() == WorkerState::Serving).await;
    let list = |queue: &str, zone: &str| {
        let labels = if zone.is_empty() { Vec::new() } else { vec![("zone".to_owned(), zone.to_owned())] };
        ListWorkersRequest {
            queue: queue.to_owned(),
            labels: labels.into_iter().collect(),
            ..Default::default()
        }
    };
    for node in harness.cluster.nodes() {
        let client = harness.client_of(node);
        let places = async |request| {
            let found = client.list_workers(request).await.expect("a list");
            found.workers.into_iter().map(|worker: Worker| worker.place).collect::<Vec<_>>()
        };
        assert_eq!(places(list("", "")).await, ["node-1", "node-2", "node-3", "web-1"]);
        assert_eq!(places(list("apart", "")).await, ["web-1"]);
        assert_eq!(places(list("default", "eu")).await, ["node-1", "node-2", "node-3"]);
        assert_eq!(places(list("apart", "eu")).await, [""; 0]);
    }
    let web = harness.worker("web-1", |_| true).await;
    assert_eq!(
        (web.slots, web.free, web.kinds.as_slice()),
        (3, 3, &["exec".to_owned(), "grpc".to_owned(), "http".to_owned()][..])
    );
    assert_eq!((web.version.as_str(), web.protocol, web.life.len()), (env!("CARGO_PKG_VERSION"), 1, 8));
    let node = harness.worker("node-2", |_| true).await;
    assert_eq!(node.node_id, 2);
    // In pages, the same.
    let mut paged = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListWorkersRequest { page_size: 3, page_token, ..list("", "") };
        let page = harness.client.list_workers(request).await.expect("a page");
        paged.extend(page.workers.into_iter().map(|worker| worker.place));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, ["node-1", "node-2", "node-3", "web-1"]);
}

fn drain(worker: &str) -> DrainWorkerRequest {
    DrainWorkerRequest { worker: worker.to_owned(), actor: "mara".to_owned(), reason: "new disks".to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_worker_takes_nothing_new_whoever_leads_finishes_and_ends_with_0() {
    let receiver = Receiver::start().await;
    let mut harness = Harness::start("").await;
    let dir = tempfile::tempdir().expect("a folder");
    let endpoints = harness.cluster.endpoints();
    let mut first = Process::start(dir.path(), "first", &endpoints, &["--queue", "apart"]);
    let before = harness.worker("first", |worker| worker.state() == WorkerState::Serving).await;
    let files = [job("long", &receiver.url("/slow/9000"), ""), job("short", &receiver.url("/ok"), "")];
    harness.apply(&files.concat()).await;
    let long = harness.trigger("long").await;
    eventually("the request to arrive", || async { (receiver.hits().len() == 1).then_some(()) }).await;
    // Asked of a follower, and again: it is the same.
    let follower = harness.client_of(harness.followers().await[0]);
    for _ in 0..2 {
        let drained = follower.drain_worker(drain("first")).await.expect("it is drained");
        assert_eq!((drained.state(), drained.free, drained.running), (WorkerState::Draining, 0, 1));
        let why = drained.drain.expect("a reason");
        assert_eq!((why.actor.as_str(), why.reason.as_str()), ("mara", "new disks"));
    }
    assert!(first.log().contains("mara") && first.log().contains("new disks"), "{}", first.log());

    let leader = harness.leader().await;
    harness.cluster.kill(leader).await.expect("it ran");
    let after = harness.worker("first", |worker| worker.state() == WorkerState::Draining).await;
    assert_eq!((&after.worker, after.drain.expect("a reason").actor), (&before.worker, "mara".to_owned()));
    let short = harness.trigger("short").await;
    assert_eq!(harness.ended(&long.run_id).await.state(), RunState::Succeeded);
    assert!(first.ended().await.success(), "{}", first.log());
    assert_eq!(harness.run(&short.run_id).await.state(), RunState::Pending, "nobody was there for it");
    let _second = Process::start(dir.path(), "second", &endpoints, &["--queue", "apart"]);
    let ended = harness.ended(&short.run_id).await;
    assert!(ended.attempts[0].worker.starts_with("second/"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_carries_nothing_out_until_it_is_told_to() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    harness
        .apply(&format!("name: a\ntarget: {{http: {{url: \"{}\"}}}}\noverlap: allow\n", receiver.url("/ok")))
        .await;
    for node in 1..=3 {
        let place = format!("node-{node}");
        harness.worker(&place, |_| true).await;
        harness.client.drain_worker(drain(&place)).await.expect("it is drained");
    }
    let run = harness.trigger("a").await;
    let request = ExplainRunRequest { run_id: run.run_id.clone(), ..ExplainRunRequest::default() };
    let explained = harness.client.explain_run(request);
    let why = format!("{:?}", explained.await.expect("an answer"));
    assert!(why.contains("drains and takes nothing new"), "{why}");
    assert!(receiver.hits().is_empty());
    let resume =
        ResumeWorkerRequest { worker: "node-2".to_owned(), actor: "mara".to_owned(), reason: String::new() };
    for _ in 0..2 {
        let resumed = harness.client.resume_worker(resume.clone()).await.expect("it goes on");
        assert_eq!((resumed.state(), resumed.drain), (WorkerState::Serving, None));
    }
    let ended = harness.ended(&run.run_id).await;
    assert!(ended.attempts[0].worker.starts_with("node-2/"), "{ended:?}");
    for _ in 0..20 {
        let run = harness.trigger("a").await;
        assert!(harness.ended(&run.run_id).await.attempts[0].worker.starts_with("node-2/"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_there_or_not_alone_at_its_place_is_not_drained() {
    let harness = Harness::start("").await;
    let dir = tempfile::tempdir().expect("a folder");
    let endpoints = harness.cluster.endpoints();
    let _twins = ["a", "b"].map(|log| {
        let place = dir.path().join(log);
        std::fs::create_dir(&place).expect("a folder");
        Process::start(&place, "twin", &endpoints, &["--queue", "apart"])
    });
    let twins = eventually("both", || async {
        let twins: Vec<_> =
            harness.workers().await.into_iter().filter(|worker| worker.place == "twin").collect();
        (twins.len() == 2).then_some(twins)
    })
    .await;
    let refused = harness.client.drain_worker(drain("twin")).await.expect_err("which?");
    assert!(
        refused.hint().is_some_and(|hint| twins.iter().all(|twin| hint.contains(&twin.worker))),
        "{refused:?}"
    );
    harness.client.drain_worker(drain(&twins[0].worker)).await.expect("this one");
    let none = harness.client.drain_worker(drain("nobody")).await.expect_err("who?");
    assert!(matches!(none, chronarch::client::Error::NotFound { .. }), "{none:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_what_runs_end_and_the_worker_ends_with_0() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    let dir = tempfile::tempdir().expect("a folder");
    let endpoints = harness.cluster.endpoints();
    let mut worker = Process::start(dir.path(), "first", &endpoints, &["--queue", "apart"]);
    harness.apply(&job("long", &receiver.url("/slow/2000"), "")).await;
    let long = harness.trigger("long").await;
    eventually("the request to arrive", || async { (receiver.hits().len() == 1).then_some(()) }).await;
    worker.signal(Signal::TERM);
    harness.worker("first", |worker| worker.state() == WorkerState::Draining).await;
    assert!(worker.ended().await.success(), "{}", worker.log());
    let ended = harness.run(&long.run_id).await;
    assert_eq!((ended.state(), ended.attempts.len()), (RunState::Succeeded, 1), "reported before it ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sigterm_does_not_wait_for_is_handed_on_at_once_and_the_worker_ends_with_0() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    let dir = tempfile::tempdir().expect("a folder");
    let endpoints = harness.cluster.endpoints();
    let args = ["--queue", "apart", "--drain-timeout", "200ms"];
    let mut first = Process::start(dir.path(), "first", &endpoints, &args);
    let url = receiver.url("/slow/12000");
    let files = [job("again", &url, "on_lost: rerun\n"), job("once", &url, "on_lost: fail\n")];
    harness.apply(&files.concat()).await;
    let runs = [harness.trigger("again").await, harness.trigger("once").await];
    eventually("both requests to arrive", || async { (receiver.hits().len() == 2).then_some(()) }).await;
    let _second = Process::start(dir.path(), "second", &endpoints, &["--queue", "apart"]);
    harness.worker("second", |worker| worker.state() == WorkerState::Serving).await;
    first.signal(Signal::TERM);
    assert!(first.ended().await.success(), "{}", first.log());
    // Reported, so that nobody waits for a lease.
    let once = harness.run(&runs[1].run_id).await;
    assert_eq!((once.state(), once.reason.as_str()), (RunState::Failed, "lost"), "{once:?}");
    let again = harness.ended(&runs[0].run_id).await;
    let outcomes: Vec<Outcome> = again.attempts.iter().map(|attempt| attempt.outcome()).collect();
    assert_eq!(outcomes, [Outcome::Lost, Outcome::Succeeded], "{again:?}");
    assert!(again.attempts[1].worker.starts_with("second/"));
    assert_eq!(receiver.hits_of("once").len(), 1);
}

/// Who is connected is published when it changes; what runs there, and so whether there is room, changes all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_waits_behind_full_slots_is_explained_so() {
    let receiver = Receiver::start().await;
    let harness = Harness::start("").await;
    let dir = tempfile::tempdir().expect("a folder");
    let endpoints = harness.cluster.endpoints();
    let args = ["--queue", "apart", "--concurrency", "1"];
    let _worker = Process::start(dir.path(), "only", &endpoints, &args);
    harness.worker("only", |worker| worker.free == 1).await;
    harness.apply(&job("long", &receiver.url("/slow/20000"), "overlap: allow\n")).await;
    harness.trigger("long").await;
    let waits = harness.trigger("long").await;
    harness.worker("only", |worker| (worker.running, worker.free) == (1, 0)).await;
    let request = ExplainRunRequest { run_id: waits.run_id, ..ExplainRunRequest::default() };
    let why = format!("{:?}", harness.client.explain_run(request).await.expect("an answer"));
    assert!(why.contains("all of their 1 slots are taken"), "{why}");
}
