//! How tasks end that attempts have left with others.

mod quiet;

use super::*;
use crate::node::fleet::Fleet;
use crate::state::run::AttemptOutcome;
use crate::state::time::Timestamp;

struct Told {
    node: Node,
    fleet: Fleet,
    metrics: Arc<Metrics>,
}

impl Told {
    async fn start() -> Self {
        let node = Node::start().await;
        let metrics = Arc::new(Metrics::new());
        let (events, _) = tokio::sync::mpsc::channel(1);
        let fleet = Fleet::new(node.api.clone(), node.raft.clone(), events, Arc::clone(&metrics));
        node.apply(vec![job("a")], false).await;
        Self { node, fleet, metrics }
    }

    async fn report(&self, ended: Vec<pb::TaskEnded>) -> Result<pb::ReportTasksResponse, tonic::Status> {
        let (connection, worker) = ("main".to_owned(), "w".to_owned());
        self.ask(pb::ReportTasksRequest { connection, worker, ended, ..Default::default() }).await
    }

    async fn ask(&self, request: pb::ReportTasksRequest) -> Result<pb::ReportTasksResponse, tonic::Status> {
        self.fleet.report_tasks(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    async fn taken(&self, ended: Vec<pb::TaskEnded>) -> Vec<pb::TaskTaken> {
        self.report(ended).await.unwrap().taken().collect()
    }

    async fn begun(&self) -> pb::Run {
        let run = self.node.trigger("a", "").await;
        self.node.begin(&run).await;
        run
    }

    async fn hand_over(&self, run: &pb::Run, task: &str) {
        self.hand_over_until(run, task, None).await;
    }

    async fn hand_over_until(&self, run: &pb::Run, task: &str, expires_at: Option<Timestamp>) {
        self.leave(run, task, expires_at, None).await;
    }

    async fn leave(&self, run: &pb::Run, task: &str, expires_at: Option<Timestamp>, queue: Option<&str>) {
        let id = run.run_id.parse().unwrap();
        let fence = self.node.raft.state().run(id).unwrap().running().unwrap().fence;
        let (connection, task) = ("main".into(), task.into());
        let queue = queue.map(Arc::from);
        let hand = Command::HandOver { run: id, fence, connection, task, expires_at, queue };
        self.node.propose(vec![hand]).await;
    }

    async fn record(&self, run: &pb::Run) -> pb::Run {
        let request = pb::GetRunRequest { run_id: run.run_id.clone(), stale: false };
        self.node.api.get_run(Request::new(request)).await.unwrap().into_inner()
    }
}

fn ended(run: &pb::Run, task: &str, outcome: pb::Outcome) -> pb::TaskEnded {
    pb::TaskEnded {
        run_id: run.run_id.clone(),
        task_id: task.to_owned(),
        outcome: outcome.into(),
        error: "boom".to_owned(),
        by: "celery@here".to_owned(),
        ..pb::TaskEnded::default()
    }
}

const DONE: pb::TaskTaken = pb::TaskTaken::Done;
const LATER: pb::TaskTaken = pb::TaskTaken::Later;

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_taken_once_and_by_whatever_name_it_is_told() {
    let told = Told::start().await;
    let (one, other) = (told.begun().await, told.begun().await);
    told.hand_over(&one, "t1").await;
    told.hand_over(&other, "t2").await;
    let state = told.node.raft.state();
    assert!(state.awaits_tasks(&"main".into()) && !state.awaits_tasks(&"second".into()));
    // The second says no run: it was heard, and did not lie in the list.
    let heard = pb::TaskEnded { run_id: String::new(), ..ended(&other, "t2", pb::Outcome::Failed) };
    let both = vec![ended(&one, "t1", pb::Outcome::Succeeded), heard.clone()];
    assert_eq!(told.taken(both).await, [DONE, DONE]);
    let (one, other) = (told.record(&one).await, told.record(&other).await);
    assert_eq!((one.state(), other.state()), (pb::RunState::Succeeded, pb::RunState::Failed));
    assert_eq!(other.attempts[0].error, "boom; run by celery@here");
    // Of an event alone nobody can tell whether it is over, or early.
    assert_eq!(told.taken(vec![ended(&one, "t1", pb::Outcome::Failed), heard]).await, [DONE, LATER]);
    assert_eq!(told.record(&one).await, one, "told again it changes nothing");
    let counted = told.metrics.text();
    assert!(
        counted.contains(r#"outcome="succeeded"} 1"#) && counted.contains(r#"outcome="failed"} 1"#),
        "{counted}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_before_its_worker_has_said_a_word_ends_its_run() {
    let told = Told::start().await;
    let run = told.begun().await;
    assert_eq!(told.taken(vec![ended(&run, "t1", pb::Outcome::Succeeded)]).await, [DONE]);
    let run = told.record(&run).await;
    assert_eq!(run.state(), pb::RunState::Succeeded);
    assert_eq!((run.attempts[0].task_id.as_str(), run.attempts[0].worker.as_str()), ("t1", "w"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_waits_for_the_attempt_that_it_is_of_and_one_of_an_earlier_task_is_over() {
    let told = Told::start().await;
    // Its worker was lost, and nobody knows whether the task was left.
    let run = told.begun().await;
    let id = run.run_id.parse().unwrap();
    let fence = told.node.raft.state().run(id).unwrap().running().unwrap().fence;
    let complete = |fence, outcome| Command::Complete {
        run: id,
        fence,
        outcome,
        report: Arc::default(),
        retry_after: Duration::ZERO,
    };
    told.node.propose(vec![complete(fence, AttemptOutcome::Lost)]).await;
    let end = ended(&run, "t1", pb::Outcome::Failed);
    assert_eq!(told.taken(vec![end.clone()]).await, [LATER]);
    let lease_until = Clock::system().now().plus(Duration::from_secs(60));
    told.node.propose(vec![Command::Start { run: id, attempt: 2, worker: "w".into(), lease_until }]).await;
    told.hand_over(&run, "t1").await;
    let second = ended(&run, "t2", pb::Outcome::Failed);
    assert_eq!(told.taken(vec![second]).await, [DONE], "of a task that is none of this run's");
    assert!(told.node.raft.state().run(id).is_some());
    // Twice in one call: the first is taken, and the second is over the next time.
    assert_eq!(told.taken(vec![end.clone(), end.clone()]).await, [DONE, LATER]);
    assert_eq!(told.taken(vec![end]).await, [DONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_end_is_named_until_its_end_is_told() {
    let told = Told::start().await;
    let run = told.begun().await;
    told.hand_over(&run, "t1").await;
    assert!(told.report(Vec::new()).await.unwrap().to_end.is_empty());
    let cancel = pb::CancelRunRequest { run_id: run.run_id.clone(), ..Default::default() };
    told.node.api.cancel_run(Request::new(cancel)).await.unwrap();
    for _ in 0..2 {
        let answer = told.report(Vec::new()).await.unwrap();
        assert_eq!(answer.to_end.iter().map(|task| task.task_id.as_str()).collect::<Vec<_>>(), ["t1"]);
        assert!(answer.awaited && answer.listen && !answer.cluster_id.is_empty());
    }
    // An event of its revocation comes before the word of who had it revoked.
    assert_eq!(told.taken(vec![ended(&run, "t1", pb::Outcome::Failed)]).await, [DONE]);
    let run = told.record(&run).await;
    assert_eq!((run.state(), run.attempts[0].outcome()), (pb::RunState::Cancelled, pb::Outcome::Cancelled));
    let answer = told.report(Vec::new()).await.unwrap();
    assert!(answer.to_end.is_empty() && !answer.awaited);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_by_its_field() {
    let told = Told::start().await;
    let run = told.begun().await;
    let good = ended(&run, "t1", pb::Outcome::Succeeded);
    for (end, field) in [
        (pb::TaskEnded { task_id: String::new(), ..good.clone() }, "ended[1].task_id: is missing"),
        (pb::TaskEnded { task_id: "t".repeat(156), ..good.clone() }, "ended[1].task_id: 156 bytes"),
        (pb::TaskEnded { run_id: "x".to_owned(), ..good.clone() }, "ended[1].run_id: is no run id"),
        (pb::TaskEnded { outcome: pb::Outcome::Lost.into(), ..good.clone() }, "ended[1].outcome: expected"),
        (pb::TaskEnded { result: "1".repeat(4_097), ..good.clone() }, "ended[1].result: 4097 bytes"),
    ] {
        let refused = told.report(vec![good.clone(), end]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(field), "{field}: {}", refused.message());
    }
    let refused = told.report(vec![good; 501]).await.unwrap_err();
    assert!(refused.message().starts_with("ended: "), "{}", refused.message());
    assert_eq!(told.record(&run).await.state(), pb::RunState::Running, "nothing was taken");
}

fn begun(task: &str, by: &str, process: u32) -> pb::TaskNews {
    pb::TaskNews { task_id: task.to_owned(), by: by.to_owned(), process, ..Default::default() }
}

fn tells(heard: Vec<pb::TaskNews>, holders: Vec<pb::TaskHolderSeen>) -> pb::ReportTasksRequest {
    let (connection, worker) = ("main".to_owned(), "w".to_owned());
    pb::ReportTasksRequest { connection, worker, heard, holders, ..Default::default() }
}

fn seen(by: &str, process: u32) -> pb::TaskHolderSeen {
    let holder = Some(pb::TaskHolder { by: by.to_owned(), process });
    pb::TaskHolderSeen { holder, ..Default::default() }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// Jobs with the default, jobs that are impatient, and one that trusts no silence.
async fn celery() -> Told {
    let told = Told::start().await;
    let job = |name: &str, lost_after: Option<i64>| {
        let celery = pb::CeleryTarget {
            broker: "main".to_owned(),
            task: "t".to_owned(),
            lost_after: lost_after.and_then(seconds),
            ..Default::default()
        };
        let target = pb::Target { celery: Some(celery), ..Default::default() };
        let on_lost = pb::OnLost::Fail.into();
        pb::JobSpec { target: Some(target), on_lost, ..job(name) }
    };
    told.node
        .apply(
            vec![
                job("usual", None),
                job("other", None),
                job("short", Some(10)),
                job("brief", Some(10)),
                job("never", Some(0)),
            ],
            false,
        )
        .await;
    told
}

async fn held(told: &Told, job: &str, holder: (&str, u32)) -> pb::Run {
    let run = told.node.trigger(job, "").await;
    told.node.begin(&run).await;
    let task = format!("task-{}", run.run_id);
    told.hand_over(&run, &task).await;
    told.ask(tells(vec![begun(&task, holder.0, holder.1)], Vec::new())).await.unwrap();
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_a_task_is_in_the_record_and_is_asked_after() {
    let told = celery().await;
    let run = held(&told, "usual", ("w1@lab", 7)).await;
    let standing = told.record(&run).await.attempts[0].task.clone().unwrap();
    assert_eq!(
        (standing.connection.as_str(), standing.by.as_str(), standing.begun),
        ("main", "w1@lab", true)
    );
    held(&told, "short", ("w1@lab", 7)).await;
    held(&told, "never", ("w0@lab", 3)).await;
    let answer = told.report(Vec::new()).await.unwrap();
    let named: Vec<_> = answer.holders.iter().map(|holder| (holder.by.as_str(), holder.process)).collect();
    assert_eq!(named, [("w0@lab", 3), ("w1@lab", 7)], "each once");
    // It puts itself off: nobody runs it.
    let put_off = pb::TaskNews {
        retried: true,
        error: "Busy()".into(),
        ..begun(&format!("task-{}", run.run_id), "w1@lab", 7)
    };
    let strange = begun("nobody's", "w9@lab", 9);
    told.ask(tells(vec![put_off, strange], Vec::new())).await.unwrap();
    let standing = told.record(&run).await.attempts[0].task.clone().unwrap();
    assert_eq!((standing.begun, standing.retries, standing.error.as_str()), (false, 1, "Busy()"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_expected_for_as_long_as_there_are_jobs_that_leave_them_and_wait() {
    let told = Told::start().await;
    let expects = async || told.report(Vec::new()).await.unwrap().expected;
    assert!(!expects().await);
    let job_of = |broker: &str, wait_for_completion| {
        let (broker, task) = (broker.to_owned(), "t".to_owned());
        let celery = pb::CeleryTarget { broker, task, wait_for_completion, ..Default::default() };
        let target = pb::Target { celery: Some(celery), ..Default::default() };
        pb::JobSpec { target: Some(target), ..job("tasks") }
    };
    for (job, expected) in
        [(job_of("other", None), false), (job_of("main", Some(false)), false), (job_of("main", None), true)]
    {
        told.node.apply(vec![job], false).await;
        assert_eq!(expects().await, expected);
    }
    let delete = pb::DeleteJobRequest { name: "tasks".to_owned(), ..Default::default() };
    told.node.api.delete_job(Request::new(delete)).await.unwrap();
    assert!(!expects().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_lost_with_who_runs_it_as_its_job_says() {
    let told = celery().await;
    let usual = held(&told, "usual", ("w1@lab", 7)).await;
    let short = held(&told, "short", ("w1@lab", 7)).await;
    let never = held(&told, "never", ("w1@lab", 7)).await;
    let other = held(&told, "other", ("w2@lab", 7)).await;
    let state = async |run: &pb::Run| told.record(run).await.state();
    let (runs, failed) = (pb::RunState::Running, pb::RunState::Failed);
    told.ask(tells(Vec::new(), vec![seen("w1@lab", 7)])).await.unwrap();
    assert_eq!(state(&short).await, runs, "it lives");
    let silent = |seconds_| pb::TaskHolderSeen { silent_for: seconds(seconds_), ..seen("w1@lab", 7) };
    told.ask(tells(Vec::new(), vec![silent(9)])).await.unwrap();
    assert_eq!(state(&short).await, runs);
    told.ask(tells(Vec::new(), vec![silent(10)])).await.unwrap();
    assert_eq!((state(&short).await, state(&usual).await), (failed, runs));
    let record = told.record(&short).await;
    assert_eq!(record.attempts[0].outcome(), pb::Outcome::Lost);
    assert_eq!(record.attempts[0].error, "w1@lab, which ran the task, was silent for 10 s");
    assert_eq!(record.reason, "lost");
    let gone = pb::TaskHolderSeen { gone: true, ..seen("w1@lab", 7) };
    let ending = held(&told, "short", ("w1@lab", 7)).await;
    let cancel = pb::CancelRunRequest { run_id: ending.run_id.clone(), ..Default::default() };
    told.node.api.cancel_run(Request::new(cancel)).await.unwrap();
    told.ask(tells(Vec::new(), vec![gone])).await.unwrap();
    assert_eq!(state(&ending).await, runs, "it is being ended already");
    assert_eq!(state(&usual).await, failed);
    assert_eq!((state(&never).await, state(&other).await), (runs, runs));
    let counted = told.metrics.text();
    assert!(counted.contains(r#"outcome="lost"} 2"#), "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_began_anew_has_lost_what_it_ran_before_and_nothing_since() {
    let told = celery().await;
    let run = held(&told, "usual", ("w1@lab", 1)).await;
    let anew = |nanos| pb::TaskHolderSeen {
        anew_for: Some(prost_types::Duration { seconds: 0, nanos }),
        ..seen("w1@lab", 1)
    };
    let long_ago = pb::TaskHolderSeen { anew_for: seconds(3_600), ..seen("w1@lab", 1) };
    told.ask(tells(Vec::new(), vec![long_ago])).await.unwrap();
    assert_eq!(told.record(&run).await.state(), pb::RunState::Running, "it began after that");
    let begun = told.node.raft.state().now();
    while Clock::system().now() <= begun {
        tokio::task::yield_now().await;
    }
    told.ask(tells(Vec::new(), vec![anew(0)])).await.unwrap();
    assert_eq!(told.record(&run).await.attempts[0].outcome(), pb::Outcome::Lost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_its_worker_no_longer_runs_has_ended_without_a_word() {
    let told = celery().await;
    let gone = held(&told, "usual", ("w1@lab", 7)).await;
    let never = held(&told, "never", ("w1@lab", 7)).await;
    let begun = told.node.raft.state().now();
    while Clock::system().now() <= begun {
        tokio::task::yield_now().await;
    }
    let asked = async |task_ids: Vec<String>, since, heard_for| {
        let active = pb::TasksActive { task_ids, since, heard_for };
        let seen = pb::TaskHolderSeen { active: Some(active), ..seen("w1@lab", 7) };
        told.ask(tells(Vec::new(), vec![seen])).await.unwrap();
        told.record(&gone).await
    };
    let running = pb::RunState::Running;
    let now = Some(prost_types::Duration::default());
    assert_eq!(asked(vec![format!("task-{}", gone.run_id)], now, seconds(60)).await.state(), running);
    assert_eq!(asked(Vec::new(), seconds(60), seconds(90)).await.state(), running, "it began after that");
    assert_eq!(asked(Vec::new(), now, now).await.state(), running, "it may have put itself off unheard");
    let run = asked(Vec::new(), now, seconds(60)).await;
    assert_eq!((run.state(), run.attempts[0].outcome()), (pb::RunState::Failed, pb::Outcome::Failed));
    let error = "w1@lab no longer runs the task, and told no end of it, as with Ignore";
    assert_eq!(run.attempts[0].error, error);
    assert_eq!(told.record(&never).await.state(), running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_expired_and_that_no_worker_has_fails_its_attempt() {
    let told = celery().await;
    let ago = |seconds| Some(Clock::system().now().minus(Duration::from_secs(seconds)));
    let left = async |job: &str, expires_at| {
        let run = told.node.trigger(job, "").await;
        told.node.begin(&run).await;
        told.hand_over_until(&run, &format!("task-{}", run.run_id), expires_at).await;
        run
    };
    let (first, second) = (left("usual", ago(40)).await, left("never", ago(35)).await);
    let (heard, fresh) = (left("other", ago(60)).await, left("other", Some(Timestamp::MAX)).await);
    let task = |run: &pb::Run| format!("task-{}", run.run_id);
    told.ask(tells(vec![begun(&task(&heard), "w1@lab", 7)], Vec::new())).await.unwrap();
    let answer = told.report(Vec::new()).await.unwrap();
    assert_eq!(answer.to_find, [task(&first), task(&second)], "those of which nobody was heard, for a while");
    let standing = told.record(&first).await.attempts[0].task.clone().unwrap();
    assert!(standing.expires_at.is_some());
    let unfound = async |runs: &[&pb::Run], heard_for, silent_for| {
        let task_ids = runs.iter().copied().map(task).collect();
        let unfound = Some(pb::TasksUnfound { task_ids, heard_for, silent_for, ..Default::default() });
        told.ask(pb::ReportTasksRequest { unfound, ..tells(Vec::new(), Vec::new()) }).await.unwrap();
        let mut states = Vec::new();
        for run in runs {
            states.push(told.record(run).await.state());
        }
        states
    };
    let (runs, failed) = (pb::RunState::Running, pb::RunState::Failed);
    let both = [&first, &second];
    let lease_until = Clock::system().now().plus(Duration::from_secs(60));
    let renew = Command::Renew { worker: "w".into(), lease_until };
    let later = Clock::system().now().plus(Duration::from_secs(20));
    told.node.raft.propose(None, Entry { at: later, commands: vec![renew] }).await.unwrap();
    let now = Some(prost_types::Duration::default());
    assert_eq!(unfound(&both, now, None).await, [runs, runs], "it was not heard all the time");
    assert_eq!(unfound(&both, seconds(60), seconds(899)).await, [runs, runs], "one may have it");
    assert_eq!(unfound(&both, seconds(60), seconds(900)).await, [failed, runs], "that one is lost");
    assert_eq!(unfound(&[&heard, &fresh], seconds(60), None).await, [runs, runs]);
    assert_eq!(unfound(&[&second], seconds(60), None).await, [failed]);
    let attempt = &told.record(&second).await.attempts[0];
    assert_eq!(attempt.outcome(), pb::Outcome::Failed);
    assert_eq!(attempt.error, "the task had expired before any worker took it");
    assert!(told.report(Vec::new()).await.unwrap().to_find.is_empty());
    let cancelled = left("usual", ago(40)).await;
    let alone = left("usual", ago(40)).await;
    let unfound_by_nobody = |nobody_came| {
        let unfound = pb::TasksUnfound { task_ids: vec![task(&alone)], nobody_came, ..Default::default() };
        pb::ReportTasksRequest { unfound: Some(unfound), ..tells(Vec::new(), Vec::new()) }
    };
    let later = told.node.raft.state().now().plus(Duration::from_secs(20));
    told.node.raft.propose(None, Entry { at: later, commands: Vec::new() }).await.unwrap();
    told.ask(unfound_by_nobody(false)).await.unwrap();
    assert_eq!(told.record(&alone).await.state(), runs);
    told.ask(unfound_by_nobody(true)).await.unwrap();
    assert_eq!(told.record(&alone).await.state(), failed, "nobody was ever there");
    let cancel = pb::CancelRunRequest { run_id: cancelled.run_id.clone(), ..Default::default() };
    told.node.api.cancel_run(Request::new(cancel)).await.unwrap();
    assert_eq!(unfound(&[&cancelled], seconds(60), None).await, [runs], "it is being ended already");
    let many = pb::TasksUnfound { task_ids: vec![String::new(); 501], ..Default::default() };
    let many = pb::ReportTasksRequest { unfound: Some(many), ..tells(Vec::new(), Vec::new()) };
    let refused = told.ask(many).await.unwrap_err();
    assert!(refused.message().starts_with("unfound.task_ids: "), "{}", refused.message());
}
