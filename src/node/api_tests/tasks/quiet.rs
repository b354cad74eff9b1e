//! Tasks of which nobody is heard.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_registered_nowhere_and_gone_from_its_queue_fails_its_attempt() {
    let told = celery().await;
    let left = async |job: &str, queue: Option<&str>| {
        let run = told.node.trigger(job, "").await;
        told.node.begin(&run).await;
        told.leave(&run, &format!("task-{}", run.run_id), None, queue).await;
        run
    };
    let (dropped, never) = (left("short", Some("celery")).await, left("never", Some("celery")).await);
    // Of one that an exchange has put somewhere nobody can say where it waits.
    let routed = left("brief", None).await;
    let task = |run: &pb::Run| format!("task-{}", run.run_id);
    let all = [&dropped, &never, &routed];
    let unfound = |answered, heard_for, silent_for| {
        let task_ids = all.into_iter().map(task).collect();
        pb::TasksUnfound { task_ids, heard_for, silent_for, answered, nobody_came: false }
    };
    let seek = async || {
        let asks = pb::ReportTasksRequest { seeks: true, ..tells(Vec::new(), Vec::new()) };
        told.ask(asks).await.unwrap().to_seek
    };
    let tell = async |unregistered| {
        let unregistered = Some(unregistered);
        let request = pb::ReportTasksRequest { unregistered, ..tells(Vec::new(), Vec::new()) };
        told.ask(request).await.unwrap();
        let mut states = Vec::new();
        for run in all {
            states.push(told.record(run).await.state());
        }
        states
    };
    let (runs, failed) = (pb::RunState::Running, pb::RunState::Failed);
    let (usual, long) = (seconds(10), seconds(900));
    assert!(seek().await.is_empty(), "they were left just now");
    assert_eq!(tell(unfound(1, long, None)).await, [runs; 3]);
    let later = told.node.raft.state().now().plus(Duration::from_secs(61));
    told.node.raft.propose(None, Entry { at: later, commands: Vec::new() }).await.unwrap();
    let named = seek().await.into_iter().map(|one| (one.task_id, one.queue, one.name, one.fences));
    let as_left = |run, fence| (task(run), "celery".to_owned(), "t".to_owned(), vec![fence]);
    assert_eq!(named.collect::<Vec<_>>(), [as_left(&dropped, 1), as_left(&never, 2)]);
    assert!(told.report(Vec::new()).await.unwrap().to_seek.is_empty(), "nobody asked");
    for (answered, heard_for, silent_for) in [(0, long, None), (1, long, seconds(9)), (1, seconds(9), None)] {
        let states = tell(unfound(answered, heard_for, silent_for)).await;
        assert_eq!(
            states, [runs; 3],
            "nobody has answered, one has not, it was listened for too short a time"
        );
    }
    assert_eq!(tell(unfound(2, usual, usual)).await, [failed, runs, runs]);
    let error = &told.record(&dropped).await.attempts[0].error;
    let words =
        "task \"t\" is registered with none of the 2 workers of queue celery, and was dropped by one of them";
    assert_eq!(error, words);
    // A job that trusts no silence trusts none here, and waits for as long as one trusts it by default.
    assert_eq!(tell(unfound(2, long, long)).await, [failed, runs, runs]);
    assert_eq!(tell(unfound(2, seconds(899), None)).await, [failed, runs, runs]);
    assert_eq!(tell(unfound(2, long, None)).await, [failed, failed, runs]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_that_was_changed_had_left_is_not_looked_for() {
    let told = celery().await;
    let run = told.node.trigger("usual", "").await;
    told.node.begin(&run).await;
    told.leave(&run, "task", None, Some("celery")).await;
    let later = told.node.raft.state().now().plus(Duration::from_secs(61));
    told.node.raft.propose(None, Entry { at: later, commands: Vec::new() }).await.unwrap();
    let seek = || pb::ReportTasksRequest { seeks: true, ..tells(Vec::new(), Vec::new()) };
    assert_eq!(told.ask(seek()).await.unwrap().to_seek.len(), 1);
    let celery = pb::CeleryTarget { broker: "main".to_owned(), task: "u".to_owned(), ..Default::default() };
    let target = pb::Target { celery: Some(celery), ..Default::default() };
    told.node.apply(vec![pb::JobSpec { target: Some(target), ..job("usual") }], false).await;
    assert!(told.ask(seek()).await.unwrap().to_seek.is_empty(), "its task may have another name now");
}
