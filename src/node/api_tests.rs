//! The services of `api` on a real single node: real log, real run log, in a temporary folder.

mod calendars;
mod control;
mod export;
mod jobs;
mod namespaces;
mod output;
mod runs;
mod tasks;
mod tzdata;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use tempfile::TempDir;
use tonic::{Code, Request};

use crate::api::{Api, routes, status};
use crate::client::Dialer;
use crate::clock::Clock;
use crate::clock::trusted::TrustedClock;
use crate::config::RaftTiming;
use crate::history::RunLog;
use crate::leader::{Leader, LeaderOptions};
use crate::metrics::Metrics;
use crate::pb::v1 as pb;
use crate::pb::v1::breaker_service_server::BreakerService as _;
use crate::pb::v1::cluster_service_server::ClusterService as _;
use crate::pb::v1::job_service_server::JobService as _;
use crate::pb::v1::run_service_server::RunService as _;
use crate::raft::{ClusterId, NodeAddress, Raft, RaftOptions, Speech, tcp_dialer};
use crate::state::run::{AttemptOutcome, Report};
use crate::state::{Command, Entry};
use crate::storage::DataDir;

struct Node {
    api: Api,
    raft: Raft,
    log: Arc<OnceLock<Arc<RunLog>>>,
    _dir: TempDir,
}

impl Node {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let data_dir = Arc::new(DataDir::lock(dir.path()).unwrap());
        let log: Arc<OnceLock<Arc<RunLog>>> = Arc::default();
        let (path, opened) = (data_dir.history_dir(), Arc::clone(&log));
        let raft = Raft::open(RaftOptions {
            node_id: 1,
            address: NodeAddress {
                peer_address: "127.0.0.1:1".to_owned(),
                address: "127.0.0.1:2".to_owned(),
            },
            timing: RaftTiming::default(),
            data_dir,
            run_log: Box::new(move || {
                let log = Arc::new(RunLog::open(&path)?);
                let _ = opened.set(Arc::clone(&log));
                Ok(log)
            }),
            dialer: tcp_dialer(),
            initial_peers: BTreeMap::from([(1, "127.0.0.1:1".to_owned())]),
            fresh_cluster_id: ClusterId([7; 16]),
            read_clock: Arc::new(|| Clock::system().now()),
            elects: true,
            observer: None,
            speech: Speech::default(),
        })
        .await
        .unwrap();
        let mut leadership = raft.leadership();
        let leads = leadership.wait_for(|now| now.is_leader);
        let leads = tokio::time::timeout(Duration::from_secs(30), leads).await;
        let term = leads.expect("a leader").unwrap().term;
        let now = Clock::system().now();
        assert_eq!(raft.raise_level(term, now).await.unwrap(), raft.levels().newest);
        let (seen, clock) = (Arc::clone(&log), TrustedClock::alone());
        let api = Api::new(raft.clone(), seen, clock, Arc::new(Vec::new), Dialer::tcp());
        Self { api, raft, log, _dir: dir }
    }

    async fn apply(&self, jobs: Vec<pb::JobSpec>, dry_run: bool) -> Vec<pb::AppliedJob> {
        let request = pb::ApplyJobsRequest { jobs, dry_run, ..Default::default() };
        self.api.apply_jobs(Request::new(request)).await.unwrap().into_inner().results
    }

    async fn propose(&self, commands: Vec<Command>) {
        let at = Clock::system().now().max(self.raft.state().now());
        self.raft.propose(None, Entry { at, commands }).await.unwrap();
    }

    async fn trigger(&self, name: &str, operation_id: &str) -> pb::Run {
        let request = pb::TriggerJobRequest {
            name: name.to_owned(),
            operation_id: operation_id.to_owned(),
            actor: "ada".to_owned(),
            ..Default::default()
        };
        self.api.trigger_job(Request::new(request)).await.unwrap().into_inner()
    }

    async fn begin(&self, run: &pb::Run) {
        let id = run.run_id.parse().unwrap();
        let lease_until = Clock::system().now().plus(Duration::from_secs(60));
        self.propose(vec![Command::Start { run: id, attempt: 1, worker: "w".into(), lease_until }]).await;
    }

    /// Starts and ends the run.
    async fn carry_out(&self, run: &pb::Run) {
        let id = run.run_id.parse().unwrap();
        self.begin(run).await;
        let fence = self.raft.state().run(id).unwrap().running().unwrap().fence;
        let report = Arc::new(Report::default());
        let retry_after = Duration::ZERO;
        let outcome = AttemptOutcome::Succeeded;
        self.propose(vec![Command::Complete { run: id, fence, outcome, report, retry_after }]).await;
    }
}

fn job(name: &str) -> pb::JobSpec {
    let http = pb::HttpTarget { url: "http://127.0.0.1:9/".to_owned(), ..Default::default() };
    pb::JobSpec {
        name: name.to_owned(),
        schedule: vec![pb::Schedule { cron: "@yearly".to_owned(), ..Default::default() }],
        target: Some(pb::Target { http: Some(http), ..pb::Target::default() }),
        overlap: Some(pb::Overlap { policy: pb::OverlapPolicy::Allow.into(), ..Default::default() }),
        ..Default::default()
    }
}

fn changes(results: &[pb::AppliedJob]) -> Vec<pb::Change> {
    results.iter().map(pb::AppliedJob::change).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_created_updated_left_alone_and_deleted() {
    let node = Node::start().await;
    let both = || vec![job("a"), job("b")];
    assert_eq!(changes(&node.apply(both(), true).await), [pb::Change::Created; 2]);
    let applied = node.apply(both(), false).await;
    assert_eq!(changes(&applied), [pb::Change::Created; 2]);
    assert!(applied[0].next_at.is_some());
    let mut changed = job("b");
    changed.description = "other".to_owned();
    changed.timeout = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
    for dry_run in [true, false] {
        let applied = node.apply(vec![job("a"), changed.clone()], dry_run).await;
        assert_eq!(changes(&applied), [pb::Change::Unchanged, pb::Change::Updated]);
        assert_eq!((applied[0].version, applied[1].version), (1, 2));
        let changed = pb::FieldChange { path: "description".into(), from: None, to: Some("other".into()) };
        // What is written out as it is by default anyway is no change.
        let expected = if dry_run { vec![changed] } else { Vec::new() };
        assert_eq!((&applied[0].changes, &applied[1].changes), (&Vec::new(), &expected));
    }
    let get = |name: &str| pb::GetJobRequest { name: name.to_owned(), ..Default::default() };
    let shown = node.api.get_job(Request::new(get("b"))).await.unwrap().into_inner();
    assert_eq!(shown.spec.as_ref().map(|spec| spec.description.as_str()), Some("other"));
    assert_eq!((shown.state(), shown.version), (pb::JobState::Active, 2));
    assert_eq!(shown.breaker.as_ref().map(|breaker| breaker.name.as_str()), Some("job:b"));
    let delete = pb::DeleteJobRequest { name: "b".to_owned(), ..Default::default() };
    node.api.delete_job(Request::new(delete)).await.unwrap();
    let gone = node.api.get_job(Request::new(get("b"))).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    assert!(gone.metadata().contains_key(status::HINT));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_get_through_while_occurrences_of_the_job_are_decided() {
    let node = Node::start().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let options = LeaderOptions {
        node_id: 1,
        lease: Duration::from_secs(5),
        clock: TrustedClock::alone(),
        metrics: Arc::new(Metrics::new()),
    };
    let (_leader, turning) = Leader::spawn(node.raft.clone(), options, stop.clone());
    let fast = |description: &str, millis: i32| {
        let every = Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
        pb::JobSpec {
            description: description.to_owned(),
            schedule: vec![pb::Schedule { every, ..Default::default() }],
            ..job("fast")
        }
    };
    for round in 0..30 {
        let applied = node.apply(vec![fast(&round.to_string(), 100 + round % 3)], false).await;
        assert_ne!(applied[0].change(), pb::Change::Unchanged);
        let name = || "fast".to_owned();
        let pause = pb::PauseJobRequest { name: name(), ..Default::default() };
        node.api.pause_job(Request::new(pause)).await.unwrap();
        let resume = pb::ResumeJobRequest { name: name(), ..Default::default() };
        node.api.resume_job(Request::new(resume)).await.unwrap();
    }
    let delete = pb::DeleteJobRequest { name: "fast".to_owned(), ..Default::default() };
    node.api.delete_job(Request::new(delete)).await.unwrap();
    stop.cancel();
    turning.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_when_one_job_is_wrong() {
    let node = Node::start().await;
    let mut bad = job("b");
    bad.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let jobs = vec![job("a"), bad, job("a")];
    let request = pb::ApplyJobsRequest { jobs, ..Default::default() };
    let refused = node.api.apply_jobs(Request::new(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        refused.message(),
        "jobs[1].timeout: is no span of time: negative, or its parts contradict each other\n\
         jobs[2].name: the same as that of jobs[0]"
    );
    assert_eq!(node.raft.state().job_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_jobs_are_applied_and_paged() {
    let node = Node::start().await;
    let jobs: Vec<pb::JobSpec> = (0..1_203).map(|number| job(&format!("job-{number:05}"))).collect();
    let applied = node.apply(jobs, false).await;
    assert_eq!(applied.len(), 1_203);
    assert!(applied.iter().all(|applied| applied.change() == pb::Change::Created));
    assert_eq!(applied[777].name, "job-00777", "in the order of the request");
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListJobsRequest { page_size: 500, page_token, ..Default::default() };
        let page = node.api.list_jobs(Request::new(request)).await.unwrap().into_inner();
        names.extend(page.jobs.into_iter().map(|job| job.spec.unwrap().name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), 1_203);
    assert!(names.is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_and_resume_are_idempotent_and_shown() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let pause = pb::PauseJobRequest {
        name: "a".to_owned(),
        actor: "ada".to_owned(),
        reason: "disk".to_owned(),
        ..Default::default()
    };
    for _ in 0..2 {
        let paused = node.api.pause_job(Request::new(pause.clone())).await.unwrap().into_inner();
        assert_eq!((paused.state(), paused.next_at), (pb::JobState::Paused, None));
        let shown = paused.pause.unwrap();
        assert_eq!((shown.actor.as_str(), shown.reason.as_str()), ("ada", "disk"));
    }
    let explain = pb::ExplainJobRequest { name: "a".to_owned(), ..Default::default() };
    let why = node.api.explain_job(Request::new(explain)).await.unwrap().into_inner();
    assert!(why.summary.starts_with("The job is paused by ada since "), "{why:?}");
    let resume = pb::ResumeJobRequest { name: "a".to_owned(), ..Default::default() };
    for _ in 0..2 {
        let resumed = node.api.resume_job(Request::new(resume.clone())).await.unwrap().into_inner();
        assert_eq!(resumed.state(), pb::JobState::Active);
        assert!(resumed.next_at.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_after_the_job_is_gone_are_told_the_first_outcome() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let first = node.trigger("a", "t1").await;
    let delete = pb::DeleteJobRequest {
        name: "a".to_owned(),
        operation_id: "d1".to_owned(),
        cancel_runs: true,
        ..Default::default()
    };
    for _ in 0..2 {
        node.api.delete_job(Request::new(delete.clone())).await.unwrap();
        assert_eq!(node.trigger("a", "t1").await.run_id, first.run_id);
    }
    let other = pb::DeleteJobRequest { operation_id: "d2".to_owned(), ..delete.clone() };
    let refused = node.api.delete_job(Request::new(other)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound);
    // Another job under the name is none of the first one's business.
    node.apply(vec![job("a")], false).await;
    node.api.delete_job(Request::new(delete)).await.unwrap();
    assert_eq!(node.trigger("a", "t1").await.run_id, first.run_id);
    let get = pb::GetJobRequest { name: "a".to_owned(), ..Default::default() };
    node.api.get_job(Request::new(get)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn trigger_repeated_under_one_id_makes_one_run() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let first = node.trigger("a", "once").await;
    assert_eq!(
        (first.state(), first.reason.as_str(), first.actor.as_str()),
        (pb::RunState::Pending, "worker", "ada")
    );
    assert_eq!(node.trigger("a", "once").await.run_id, first.run_id);
    node.carry_out(&first).await;
    let again = node.trigger("a", "once").await;
    assert_eq!((again.run_id.as_str(), again.state()), (first.run_id.as_str(), pb::RunState::Succeeded));
    assert_ne!(node.trigger("a", "").await.run_id, first.run_id);
    let get = pb::GetRunRequest { run_id: first.run_id.clone(), stale: true };
    let shown = node.api.get_run(Request::new(get)).await.unwrap().into_inner();
    assert_eq!(shown.attempts.len(), 1);
    for run_id in ["1-1", "", "x", "99999999999999999999-1"] {
        let get = pb::GetRunRequest { run_id: run_id.to_owned(), stale: false };
        let refused = node.api.get_run(Request::new(get)).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{run_id}");
        assert!(refused.metadata().contains_key(status::HINT), "{run_id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_sends_each_state_and_ends_with_the_run() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let run = node.trigger("a", "").await;
    let watch = pb::WatchRunRequest { run_id: run.run_id.clone() };
    let stream = node.api.watch_run(Request::new(watch.clone())).await.unwrap().into_inner();
    node.carry_out(&run).await;
    let seen: Vec<pb::RunState> = stream.map(|run| run.unwrap().state()).collect().await;
    assert_eq!(seen.last(), Some(&pb::RunState::Succeeded), "{seen:?}");
    assert!(seen.iter().is_sorted() && seen.len() <= 3, "{seen:?}");
    let ended = node.api.watch_run(Request::new(watch)).await.unwrap().into_inner();
    assert_eq!(ended.count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_join_live_and_ended_runs_without_doubles_between_pages() {
    let node = Node::start().await;
    node.apply(vec![job("a"), job("b")], false).await;
    let mut runs = Vec::new();
    for number in 0..12 {
        runs.push(node.trigger(if number % 2 == 0 { "a" } else { "b" }, "").await);
    }
    for run in &runs[..5] {
        node.carry_out(run).await;
    }
    for of in ["", "a"] {
        let mut seen = Vec::new();
        let mut page_token = String::new();
        let mut left =
            runs[5..].iter().filter(|run| node.raft.state().run(run.run_id.parse().unwrap()).is_some());
        loop {
            let request =
                pb::ListRunsRequest { job: of.to_owned(), page_size: 3, page_token, ..Default::default() };
            let page = node.api.list_runs(Request::new(request)).await.unwrap().into_inner();
            seen.extend(page.runs.into_iter().map(|run| run.run_id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
            // a run ends between two pages
            if let Some(run) = left.next() {
                node.carry_out(run).await;
            }
        }
        let wanted: Vec<String> = runs
            .iter()
            .rev()
            .filter(|run| of.is_empty() || run.job == of)
            .map(|run| run.run_id.clone())
            .collect();
        assert_eq!(seen.len(), wanted.len(), "{seen:?}");
        let mut sorted = (seen, wanted);
        sorted.0.sort();
        sorted.1.sort();
        assert_eq!(sorted.0, sorted.1);
    }
    let request = pb::ListRunsRequest { states: vec![pb::RunState::Skipped.into()], ..Default::default() };
    assert_eq!(node.api.list_runs(Request::new(request)).await.unwrap().into_inner().runs, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_a_pending_run_and_repeats_say_how_it_ended() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let run = node.trigger("a", "").await;
    let cancel = pb::CancelRunRequest {
        run_id: run.run_id.clone(),
        actor: "ada".to_owned(),
        reason: "wrong day".to_owned(),
        ..Default::default()
    };
    for _ in 0..2 {
        let ended = node.api.cancel_run(Request::new(cancel.clone())).await.unwrap().into_inner();
        assert_eq!(
            (ended.state(), ended.detail.as_str()),
            (pb::RunState::Cancelled, "cancelled by ada: wrong day")
        );
    }
    let unknown = pb::CancelRunRequest { run_id: "1-1".to_owned(), ..Default::default() };
    assert_eq!(node.api.cancel_run(Request::new(unknown)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn breakers_are_named_tripped_reset_and_listed() {
    let node = Node::start().await;
    let mut shared = job("b");
    shared.breaker = Some(pb::BreakerPolicy { name: "feed".to_owned(), ..Default::default() });
    node.apply(vec![job("a"), shared], false).await;
    let get = |name: &str| pb::GetBreakerRequest { name: name.to_owned(), ..Default::default() };
    let own = node.api.get_breaker(Request::new(get("job:a"))).await.unwrap().into_inner();
    assert_eq!((own.state(), own.jobs), (pb::BreakerState::Closed, 1));
    for name in ["job:b", "job:x", "nothing", ""] {
        let refused = node.api.get_breaker(Request::new(get(name))).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{name}");
    }
    let trip =
        pb::TripBreakerRequest { name: "job:a".to_owned(), actor: "ada".to_owned(), ..Default::default() };
    let open = node.api.trip_breaker(Request::new(trip.clone())).await.unwrap().into_inner();
    assert_eq!(
        (open.state(), open.reason.as_str(), open.actor.as_str()),
        (pb::BreakerState::Open, "tripped", "ada")
    );
    assert!(open.open_until.is_some());
    let list = pb::ListBreakersRequest { page_size: 1, ..Default::default() };
    let page = node.api.list_breakers(Request::new(list.clone())).await.unwrap().into_inner();
    assert_eq!(page.breakers[0].name, "feed");
    let list = pb::ListBreakersRequest { page_token: page.next_page_token, ..list };
    let page = node.api.list_breakers(Request::new(list)).await.unwrap().into_inner();
    assert_eq!((page.breakers[0].name.as_str(), page.next_page_token.as_str()), ("job:a", ""));
    let reset = pb::ResetBreakerRequest { name: "job:a".to_owned(), ..Default::default() };
    let closed = node.api.reset_breaker(Request::new(reset)).await.unwrap().into_inner();
    assert_eq!(closed.state(), pb::BreakerState::Closed);
    let bad =
        pb::TripBreakerRequest { open_for: Some(prost_types::Duration { seconds: -1, nanos: 0 }), ..trip };
    assert_eq!(node.api.trip_breaker(Request::new(bad)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_requests_are_refused_and_never_more() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let far = Some(prost_types::Timestamp { seconds: i64::MIN, nanos: i32::MAX });
    let next = pb::NextOccurrencesRequest { name: "a".to_owned(), after: far, ..Default::default() };
    assert_eq!(
        node.api.next_occurrences(Request::new(next)).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let explain = pb::ExplainJobRequest { name: "a".to_owned(), at: far, ..Default::default() };
    assert_eq!(node.api.explain_job(Request::new(explain)).await.unwrap_err().code(), Code::InvalidArgument);
    for seconds in [-62_167_219_200, 253_402_300_799, 0] {
        let at = Some(prost_types::Timestamp { seconds, nanos: 999_999_999 });
        let explain = pb::ExplainJobRequest { name: "a".to_owned(), at, ..Default::default() };
        node.api.explain_job(Request::new(explain)).await.unwrap();
        let next = pb::NextOccurrencesRequest {
            name: "a".to_owned(),
            after: at,
            count: 1_000,
            stale: true,
            ..Default::default()
        };
        node.api.next_occurrences(Request::new(next)).await.unwrap();
    }
    let list = pb::ListRunsRequest { page_token: "zz".to_owned(), states: vec![77], ..Default::default() };
    assert_eq!(node.api.list_runs(Request::new(list)).await.unwrap_err().code(), Code::InvalidArgument);
    let list = pb::ListRunsRequest { states: vec![77], ..Default::default() };
    let refused = node.api.list_runs(Request::new(list)).await.unwrap_err();
    assert_eq!(refused.message(), "states[0]: unknown value 77; the client is newer than this node");
    let long = pb::PauseJobRequest { name: "a".to_owned(), reason: "x".repeat(2_000), ..Default::default() };
    let refused = node.api.pause_job(Request::new(long)).await.unwrap_err();
    assert_eq!(refused.message(), "reason: 2000 bytes are too long, at most 1024 are allowed");
    let unknown = pb::GetJobRequest { name: "\n\u{7f}x".repeat(200), ..Default::default() };
    assert_eq!(node.api.get_job(Request::new(unknown)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_the_node_sees() {
    let node = Node::start().await;
    node.apply(vec![job("a")], false).await;
    let status = node.api.get_status(Request::new(pb::GetStatusRequest {})).await.unwrap().into_inner();
    assert_eq!((status.node_id, status.leader_id, status.jobs), (1, 1, 1));
    assert_eq!(status.cluster_id, "07".repeat(16));
    assert_eq!(status.nodes[0].role(), pb::NodeRole::Leader);
    assert!(status.tzdata.starts_with("20"), "{}", status.tzdata);
    let transfer = pb::TransferLeaderRequest { to: 9 };
    let refused = node.api.transfer_leader(Request::new(transfer)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for (node_id, address, path) in [(0, "a:1", "node_id: "), (2, "nowhere", "peer_address: ")] {
        let add = pb::AddNodeRequest { node_id, peer_address: address.to_owned() };
        let refused = node.api.add_node(Request::new(add)).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().starts_with(path), "{refused}");
    }
    let last = node.api.remove_node(Request::new(pb::RemoveNodeRequest { node_id: 1 })).await.unwrap_err();
    assert_eq!((last.code(), last.message()), (Code::FailedPrecondition, "node 1 has the only vote"));
    assert!(last.metadata().contains_key("chronarch-hint"));
    assert!(routes(node.api.clone()).is_ok());
}
