//! The program as a script sees it: exit codes, streams and documents, against nodes that answer
//! from memory.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use chronarch::pb::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use chronarch::pb::v1::job_service_server::{JobService, JobServiceServer};
use chronarch::pb::v1::run_service_server::{RunService, RunServiceServer};
use chronarch::pb::v1::*;
use futures::StreamExt;
use tokio::process::Command;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

#[path = "cli/import.rs"]
mod import;
#[path = "cli/logs.rs"]
mod logs;
#[path = "cli/waiting.rs"]
mod waiting;

type Answer<T> = Result<Response<T>, Status>;

/// A node that knows one job, `feed`, and its run `r1`.
#[derive(Clone, Default)]
struct Node {
    applied: Arc<Mutex<Vec<ApplyJobsRequest>>>,
    /// How often the run was watched: the first stream breaks before the run has ended.
    watched: Arc<Mutex<u32>>,
    /// How far it has applied the log, and by how much more whenever it is asked; a node without that does not say.
    progress: Option<Arc<Mutex<(u64, u64)>>>,
}

fn run(state: RunState) -> Run {
    Run {
        run_id: "r1".into(),
        namespace: "default".into(),
        job: "feed".into(),
        state: state.into(),
        cause: Cause::Manual.into(),
        stands_for: 1,
        ..Run::default()
    }
}

fn job() -> Job {
    let spec = JobSpec { name: "feed".into(), namespace: "default".into(), ..JobSpec::default() };
    Job { spec: Some(spec), state: JobState::Active.into(), version: 1, ..Job::default() }
}

/// A new job unless it is `feed`, which would get another timeout and a label.
fn foreseen(job: &JobSpec, dry_run: bool) -> AppliedJob {
    let is_known = job.name == "feed";
    let text = |text: &str| Some(text.to_owned());
    let changes = vec![
        FieldChange { path: "labels.team".into(), from: None, to: text("a\nb") },
        FieldChange { path: "timeout".into(), from: text("1h"), to: text("30m") },
    ];
    AppliedJob {
        namespace: job.namespace.clone(),
        name: job.name.clone(),
        change: if is_known { Change::Updated } else { Change::Created }.into(),
        version: 1,
        next_at: None,
        changes: if dry_run && is_known { changes } else { Vec::new() },
        warnings: if job.name == "past" { vec!["its time is over".into()] } else { Vec::new() },
    }
}

#[tonic::async_trait]
impl JobService for Node {
    async fn apply_jobs(&self, request: Request<ApplyJobsRequest>) -> Answer<ApplyJobsResponse> {
        let request = request.into_inner();
        if request.jobs.iter().any(|job| job.name == "bad") {
            let message = "jobs[1].schedule.cron: no such day\nhint: use 0 to 7\njobs[1].target: is missing";
            return Err(Status::invalid_argument(message));
        }
        let results = request.jobs.iter().map(|job| foreseen(job, request.dry_run)).collect();
        self.applied.lock().expect("no panic").push(request);
        Ok(Response::new(ApplyJobsResponse { results, applied_index: 7 }))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Answer<Job> {
        match request.into_inner().name.as_str() {
            "feed" => Ok(Response::new(job())),
            "resting" => {
                let at = prost_types::Timestamp { seconds: 1_774_746_000, nanos: 0 };
                let (actor, reason) = ("ada".into(), "disk".into());
                let pause = Some(Pause { actor, reason, paused_at: Some(at), until: None });
                Ok(Response::new(Job { pause, ..job() }))
            }
            "over" => {
                let spec = JobSpec { schedule: vec![Schedule::default()], ..JobSpec::default() };
                Ok(Response::new(Job { spec: Some(spec), ..job() }))
            }
            "secret" => Err(Status::permission_denied("not yours")),
            name => Err(Status::not_found(format!("no job default/{name}"))),
        }
    }

    async fn list_jobs(&self, _: Request<ListJobsRequest>) -> Answer<ListJobsResponse> {
        Ok(Response::new(ListJobsResponse { jobs: vec![job(); 500], next_page_token: String::new() }))
    }

    async fn delete_job(&self, request: Request<DeleteJobRequest>) -> Answer<DeleteJobResponse> {
        match request.into_inner().name.as_str() {
            "feed" => Err(Status::failed_precondition("it is protected")),
            "idle" => Ok(Response::new(DeleteJobResponse { live_runs: 0 })),
            _ => Ok(Response::new(DeleteJobResponse { live_runs: 2 })),
        }
    }

    async fn pause_job(&self, _: Request<PauseJobRequest>) -> Answer<Job> {
        Ok(Response::new(job()))
    }

    async fn resume_job(&self, _: Request<ResumeJobRequest>) -> Answer<Job> {
        Ok(Response::new(job()))
    }

    async fn trigger_job(&self, request: Request<TriggerJobRequest>) -> Answer<Run> {
        let name = request.into_inner().name;
        if name == "busy" {
            let (reason, detail) = ("overlap".into(), "run r0 is live".into());
            return Ok(Response::new(Run { reason, detail, ..run(RunState::Skipped) }));
        }
        if name == "stuck" {
            return Ok(Response::new(Run { run_id: name, ..run(RunState::Pending) }));
        }
        Ok(Response::new(run(RunState::Pending)))
    }

    async fn pause_jobs(&self, request: Request<PauseJobsRequest>) -> Answer<ChangedJobs> {
        assert_eq!(request.into_inner().labels["team"], "data");
        Ok(Response::new(ChangedJobs { jobs: vec!["feed".into(), "load".into()] }))
    }

    async fn resume_jobs(&self, _: Request<ResumeJobsRequest>) -> Answer<ChangedJobs> {
        Ok(Response::new(ChangedJobs::default()))
    }

    async fn backfill_job(&self, request: Request<BackfillJobRequest>) -> Answer<BackfillJobResponse> {
        let backfill = if request.into_inner().dry_run { 0 } else { 4_096 };
        let scheduled_at = vec![prost_types::Timestamp { seconds: 1_774_746_060, nanos: 0 }];
        Ok(Response::new(BackfillJobResponse { backfill, scheduled_at, present: 3 }))
    }

    async fn list_versions(&self, _: Request<ListVersionsRequest>) -> Answer<ListVersionsResponse> {
        let version = |version, description: &str| JobVersion {
            version,
            actor: "ada".into(),
            spec: Some(JobSpec { description: description.into(), ..job().spec.unwrap_or_default() }),
            ..JobVersion::default()
        };
        Ok(Response::new(ListVersionsResponse { versions: vec![version(7, "new"), version(3, "old")] }))
    }

    async fn next_occurrences(
        &self,
        request: Request<NextOccurrencesRequest>,
    ) -> Answer<NextOccurrencesResponse> {
        let at = prost_types::Timestamp { seconds: 1_774_746_060, nanos: 0 };
        let occurrence = Occurrence { at: Some(at), local: "local".into(), note: String::new() };
        let occurrences = if request.into_inner().name == "resting" { vec![occurrence] } else { Vec::new() };
        Ok(Response::new(NextOccurrencesResponse { occurrences, explanation: Vec::new() }))
    }

    async fn explain_job(&self, _: Request<ExplainJobRequest>) -> Answer<Explanation> {
        let reasons = vec!["the job is paused".into(), "since noon".into()];
        Ok(Response::new(Explanation { summary: "It did not run.".into(), reasons }))
    }
}

#[tonic::async_trait]
impl RunService for Node {
    type WatchRunStream = futures::stream::BoxStream<'static, Result<Run, Status>>;
    type ReadOutputStream = futures::stream::Iter<std::vec::IntoIter<Result<ReadOutputResponse, Status>>>;

    async fn read_output(&self, request: Request<ReadOutputRequest>) -> Answer<Self::ReadOutputStream> {
        Ok(Response::new(futures::stream::iter(logs::answer(&request.into_inner()))))
    }

    async fn list_runs(&self, _: Request<ListRunsRequest>) -> Answer<ListRunsResponse> {
        Ok(Response::new(ListRunsResponse { runs: vec![run(RunState::Running)], ..Default::default() }))
    }

    async fn get_run(&self, request: Request<GetRunRequest>) -> Answer<Run> {
        Ok(Response::new(match request.into_inner().run_id.as_str() {
            "stuck" => run(RunState::Pending),
            "lost" => Run { reason: "lost".into(), ..run(RunState::Failed) },
            _ => run(RunState::Running),
        }))
    }

    async fn watch_run(&self, request: Request<WatchRunRequest>) -> Answer<Self::WatchRunStream> {
        let request = request.into_inner();
        if request.run_id == "stuck" {
            return Ok(Response::new(futures::stream::pending().boxed()));
        }
        let mut watched = self.watched.lock().expect("no panic");
        *watched += 1;
        let end = if request.run_id == "bad" { RunState::Failed } else { RunState::Succeeded };
        let changes = match *watched {
            1 => {
                vec![Ok(run(RunState::Pending)), Ok(run(RunState::Running)), Err(Status::unavailable("gone"))]
            }
            _ => vec![Ok(run(RunState::Running)), Ok(run(end))],
        };
        Ok(Response::new(futures::stream::iter(changes).boxed()))
    }

    async fn cancel_run(&self, _: Request<CancelRunRequest>) -> Answer<Run> {
        Ok(Response::new(run(RunState::Cancelled)))
    }

    async fn cancel_runs(&self, _: Request<CancelRunsRequest>) -> Answer<CancelRunsResponse> {
        Ok(Response::new(CancelRunsResponse { run_ids: vec!["r1".into()] }))
    }

    async fn retry_run(&self, _: Request<RetryRunRequest>) -> Answer<Run> {
        Ok(Response::new(run(RunState::Pending)))
    }

    async fn explain_run(&self, _: Request<ExplainRunRequest>) -> Answer<Explanation> {
        let summary = "It waits for a worker.".into();
        Ok(Response::new(Explanation { summary, reasons: vec!["no worker has `mian`".into()] }))
    }
}

#[tonic::async_trait]
impl ClusterService for Node {
    type ExportLogStream = futures::stream::Empty<Result<ExportLogResponse, Status>>;

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Answer<ClusterStatus> {
        let progress = self.progress.as_ref().ok_or_else(|| Status::unavailable("not now"))?;
        let (applied_index, step) = *progress.lock().expect("no panic");
        progress.lock().expect("no panic").0 += step;
        Ok(Response::new(ClusterStatus { applied_index, ..ClusterStatus::default() }))
    }

    async fn transfer_leader(&self, _: Request<TransferLeaderRequest>) -> Answer<TransferLeaderResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn add_node(&self, _: Request<AddNodeRequest>) -> Answer<AddNodeResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn promote_node(&self, _: Request<PromoteNodeRequest>) -> Answer<PromoteNodeResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn remove_node(&self, _: Request<RemoveNodeRequest>) -> Answer<RemoveNodeResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn set_tzdata(&self, _: Request<SetTzdataRequest>) -> Answer<SetTzdataResponse> {
        Err(Status::unimplemented("not here"))
    }

    async fn export_log(&self, _: Request<ExportLogRequest>) -> Answer<Self::ExportLogStream> {
        Err(Status::unimplemented("not here"))
    }
}

async fn serve(node: Node) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = tonic::transport::Server::builder()
        .add_service(JobServiceServer::new(node.clone()))
        .add_service(ClusterServiceServer::new(node.clone()))
        .add_service(RunServiceServer::new(node));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn chronarch(address: SocketAddr, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chronarch"));
    command.args(line.split_whitespace());
    command.env_clear().env("CHRONARCH_ENDPOINTS", address.to_string()).env("USER", "ada");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn ask(address: SocketAddr, line: &str) -> Output {
    chronarch(address, line).output().await.expect("it starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn document(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn exit_codes_tell_what_kind_of_failure_it_is() {
    let address = serve(Node::default()).await;
    let nobody: SocketAddr = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("it is bound")
    };
    for (address, line, code, stderr) in [
        (address, "job get feed", 0, ""),
        (address, "job delete feed", 1, "error: it is protected\n"),
        (address, "job frobnicate", 2, "error: unrecognized subcommand"),
        (nobody, "job get feed", 3, "error: no endpoint answered: "),
        (address, "job get none", 4, "error: no job default/none\n"),
        (address, "job get secret", 5, "error: not yours\n"),
    ] {
        let output = ask(address, line).await;
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
        assert!(text(&output.stderr).starts_with(stderr), "{line}: {output:?}");
        assert_eq!(output.stdout.is_empty(), code != 0, "data alone goes to stdout: {output:?}");
    }
}

#[tokio::test]
async fn apply_waits_until_every_node_that_answers_has_the_jobs() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("job.yaml");
    std::fs::write(&file, "name: feed\ntarget: {http: {url: \"http://127.0.0.1:9/\"}}\n").expect("written");
    let line = format!("--timeout 1s job apply --wait -f {}", file.display());
    let at =
        |applied, step| Node { progress: Some(Arc::new(Mutex::new((applied, step)))), ..Node::default() };

    let catching_up = at(5, 1);
    let output = ask(serve(catching_up.clone()).await, &line).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let progress = catching_up.progress.expect("it says").lock().expect("no panic").0;
    assert_eq!(progress, 8, "it was asked at 5, 6 and 7, which is where the jobs are");

    let stuck = serve(at(6, 0)).await;
    let output = ask(stuck, &line).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let reason =
        format!("error: the jobs are applied, but {stuck} has not got to log index 7 in time\nhint: ");
    assert!(text(&output.stderr).starts_with(&reason), "{output:?}");

    let output = ask(serve(Node::default()).await, &line).await;
    assert_eq!(output.status.code(), Some(3), "nobody said that it has them: {output:?}");
}

#[tokio::test]
async fn lists_are_one_document_or_one_line_each() {
    let address = serve(Node::default()).await;
    let runs = document(&ask(address, "run list -o json").await);
    assert_eq!(runs["runs"][0]["run_id"], "r1");
    assert_eq!(runs["runs"][0]["finished_at"], serde_json::Value::Null);
    assert_eq!(document(&ask(address, "run get r1 -o json").await)["state"], "running");
    let lines = ask(address, "job list -o jsonl").await;
    assert_eq!(text(&lines.stdout).lines().count(), 500);
    let table = ask(address, "run list").await;
    let mut rows = text(&table.stdout).lines();
    assert!(rows.next().is_some_and(|header| header.starts_with("RUN ID  JOB   SCHEDULED")), "{table:?}");
    assert!(rows.next().is_some_and(|row| row.starts_with("r1      feed  -")), "{table:?}");
    let explained = ask(address, "job explain feed").await;
    assert_eq!(text(&explained.stdout), "It did not run.\n  - the job is paused\n  - since noon\n");
}

#[tokio::test]
async fn a_watch_survives_a_broken_stream_and_tells_how_the_run_ended() {
    let address = serve(Node::default()).await;
    let output = ask(address, "run watch r1 -o jsonl").await;
    let states: Vec<_> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["state"].clone())
        .collect();
    assert_eq!(states, ["pending", "running", "succeeded"]);
    assert_eq!(output.status.code(), Some(0));

    let failed = ask(address, "run watch bad").await;
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(text(&failed.stderr).contains("hint: `chronarch run explain r1` tells why"), "{failed:?}");
}

#[tokio::test]
async fn what_apply_sends_is_what_the_file_says() {
    let node = Node::default();
    let address = serve(node.clone()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("jobs.yaml");
    std::fs::write(&file, "name: a\n---\nname: b\nnamespace: own\n").expect("written");
    let line = format!("-n staging job apply -f {} --operation-id k1", file.display());
    assert_eq!(ask(address, &line).await.status.code(), Some(0));
    let sent = node.applied.lock().expect("no panic")[0].clone();
    let names: Vec<_> = sent.jobs.iter().map(|job| (job.namespace.as_str(), job.name.as_str())).collect();
    assert_eq!(names, [("staging", "a"), ("own", "b")]);
    assert_eq!((sent.operation_id.as_str(), sent.actor.as_str()), ("k1", "ada"));

    std::fs::write(&file, "name: a\n---\nname: bad\nschedule: {cron: x}\n").expect("written");
    let refused = ask(address, &line).await;
    let (file, cron) = (file.display(), "schedule.cron: no such day\nhint: use 0 to 7");
    let expected = format!("error: {file}:3:1: target: is missing\nerror: {file}:4:18: {cron}\n");
    assert_eq!(text(&refused.stderr), expected);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(node.applied.lock().expect("no panic").len(), 1);
}

#[tokio::test]
async fn what_a_person_should_know_is_noted_beside_the_data() {
    let address = serve(Node::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("past.yaml");
    std::fs::write(&file, "name: past\n").expect("written");
    let (apply, diff) =
        (format!("job apply -f {}", file.display()), format!("job diff -f {} -o json", file.display()));
    let past = "note: job default/past: its time is over\n";
    for (line, note) in [
        (
            "job next resting -o json",
            "note: the job is paused by ada since 2026-03-29T01:00:00Z (disk); nothing fires until it is resumed\n",
        ),
        ("job next over", "note: the schedule has no further occurrence\n"),
        ("job next feed", "note: the job has no schedule; it runs when it is triggered\n"),
        ("schedule next 2001-01-01T00:00:00Z --kind at", "note: the schedule has no further occurrence\n"),
        ("job delete idle", "note: job default/idle is deleted\n"),
        (
            "job delete busy",
            "note: job default/busy is deleted; each of 2 live runs of it goes on to its end\n",
        ),
        (
            "job delete busy --cancel-runs",
            "note: job default/busy is deleted; each of 2 live runs of it is ended\n",
        ),
        (&apply, past),
        (&diff, past),
    ] {
        let said = ask(address, line).await;
        assert_eq!((said.status.code(), text(&said.stderr)), (Some(0), note), "{line}");
    }
    assert_eq!(document(&ask(address, "job delete busy -o json").await)["live_runs"], 2);
}

#[tokio::test]
async fn diff_asks_what_apply_would_change_and_writes_nothing() {
    let node = Node::default();
    let address = serve(node.clone()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("jobs.yaml");
    std::fs::write(&file, "name: feed\n---\nname: b\nnamespace: own\n").expect("written");
    let line = format!("-n staging job diff -f {}", file.display());
    let said = ask(address, &line).await;
    let expected =
        "updated    staging/feed\n  + labels.team: \"a\\nb\"\n  ~ timeout: 1h → 30m\ncreated    own/b\n";
    assert_eq!((said.status.code(), text(&said.stdout), text(&said.stderr)), (Some(0), expected, ""));
    let results = &document(&ask(address, &format!("{line} -o json")).await)["results"];
    assert_eq!(results[0]["changes"][0]["from"], serde_json::Value::Null);
    assert_eq!(results[0]["changes"][1]["to"], "30m");
    assert!(node.applied.lock().expect("no panic").iter().all(|request| request.dry_run));

    std::fs::write(&file, "name: a\n---\nname: bad\n").expect("written");
    assert_eq!(ask(address, &line).await.status.code(), Some(1));
}

#[tokio::test]
async fn commands_that_steer_many_say_what_they_did() {
    let node = Node::default();
    let address = serve(node.clone()).await;
    let paused = ask(address, "job pause -l team=data").await;
    assert_eq!(text(&paused.stdout), "JOB\nfeed\nload\n");
    assert!(text(&paused.stderr).contains("2 jobs were changed"), "{paused:?}");
    let both = ask(address, "job pause feed -l team=data").await;
    assert_eq!(both.status.code(), Some(2), "one job or a label, not both: {both:?}");
    let filled = ask(address, "job backfill feed --from 2026-03-01T00:00:00Z").await;
    assert!(
        text(&filled.stderr).contains("backfill 4096: 1 runs wait for their turn; 3 of the range"),
        "{filled:?}"
    );
    let rolled = ask(address, "job rollback feed").await;
    assert_eq!(rolled.status.code(), Some(0), "{rolled:?}");
    let applied = node.applied.lock().expect("no panic").pop().expect("it was applied");
    assert_eq!(
        (applied.jobs[0].description.as_str(), applied.reason.as_str()),
        ("old", "rollback to version 3")
    );
    let unknown = ask(address, "job rollback feed --to 5").await;
    assert_eq!(unknown.status.code(), Some(4), "{unknown:?}");
    let cancelled = ask(address, "run cancel --backfill 4096 -o json").await;
    assert_eq!(document(&cancelled)["run_ids"][0], "r1");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let address = serve(Node::default()).await;
    let mut command = chronarch(address, "schedule next @hourly --count 100000").into_std();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_exact(&mut [0; 10]).expect("some data");
    drop(stdout);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}
