use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::config::connections::read;

/// Whose broker is not there: what was heard needs none.
fn watch() -> TaskWatch {
    let text = "[connections.main]\nurl = \"redis://127.0.0.1:1/3\"\n";
    let connection = read("test", text).expect("a connection").remove("main").expect("named so");
    let link = Link::Redis(Arc::new(crate::target::redis::Link::new(connection)));
    TaskWatch::new("main", &link, &Clock::system()).expect("it carries tasks")
}

fn event(kind: &str, id: &str, more: &Value) -> Value {
    let mut event = json!({ "type": kind, "uuid": id, "hostname": "w1@lab", "clock": 5, "timestamp": 1.5 });
    let more = more.as_object().expect("a mapping").clone();
    event.as_object_mut().expect("a mapping").extend(more);
    event
}

const ONE: &str = "b784366a-e12b-5154-a5c2-c75132de5520";
const OTHER: &str = "b784366a-e12b-5154-a5c2-c75132de5521";

#[test]
fn ends_that_no_list_may_tell_are_heard_with_their_words_and_once() {
    let mut watch = watch();
    let failed = event("task-failed", ONE, &json!({ "exception": "ValueError('boom')", "traceback": "x" }));
    let ends = watch.hear(&failed);
    assert_eq!(ends.len(), 1);
    assert_eq!((ends[0].error.as_str(), ends[0].by.as_str()), ("ValueError('boom')", "w1@lab"));
    assert!(ends[0].run_id.is_empty() && !ends[0].succeeded);
    // A hard time limit is told of twice.
    assert!(watch.hear(&failed).is_empty());
    // Workers gather events; then they come as a list.
    let revoked = |expired| event("task-revoked", OTHER, &json!({ "expired": expired, "terminated": false }));
    let heartbeat = json!({ "type": "worker-heartbeat", "hostname": "w1@lab" });
    let ends = watch.hear(&json!([heartbeat, revoked(true)]));
    assert_eq!(ends.len(), 1);
    assert_eq!(ends[0].error, "the task had expired before a worker came to it");
}

#[test]
fn what_the_account_may_not_hear_is_no_matter_of_who_is_there_yet() {
    let mut watch = watch();
    let refused = |why: &str| Failure::Refused(why.to_owned());
    for (failure, is_refused) in [
        (Some(refused("ACCESS_REFUSED - access to queue 'x' refused")), true),
        (Some(refused("NOT_FOUND - no exchange 'celeryev' in vhost '/'")), false),
        (Some(refused("NOPERM User w has no permissions")), true),
        (Some(Failure::Unreachable("refused".to_owned())), false),
        (None, false),
    ] {
        watch.is_deaf(failure.as_ref());
        assert_eq!(watch.is_refused, is_refused, "{failure:?}");
    }
}

#[test]
fn the_words_of_a_killed_process_are_found_in_its_traceback() {
    let lost = "\"\"\"\nTraceback (most recent call last):\n  x\nbilliard.exceptions.WorkerLostError: signal 9 (SIGKILL)\n\"\"\"\n";
    for (exception, words) in [
        ("ExceptionWithTraceback()", "billiard.exceptions.WorkerLostError: signal 9 (SIGKILL)"),
        ("KeyError('x')", "KeyError('x')"),
    ] {
        let event = event("task-failed", ONE, &json!({ "exception": exception, "traceback": lost }));
        assert_eq!(super::exception(&event), words);
    }
}

#[test]
fn tasks_of_others_and_what_is_no_event_are_passed_over() {
    let mut watch = watch();
    // A random id, as Celery makes them.
    let theirs = event("task-failed", "9f3d1a52-5d0e-4c8b-9f3a-1c2d3e4f5a6b", &json!({ "exception": "E()" }));
    for strange in [
        json!({}),
        json!([1]),
        json!("x"),
        json!({ "type": "task-failed" }),
        json!({ "type": 3, "uuid": ONE }),
    ] {
        assert!(watch.hear(&strange).is_empty(), "{strange}");
    }
    assert!(watch.hear(&theirs).is_empty());
    assert!(watch.heard.is_empty());
}

#[test]
fn what_is_remembered_has_a_bound_and_the_oldest_goes_first() {
    let mut watch = watch();
    for number in 0..=HEARD_MAX {
        let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, number.to_string().as_bytes()).to_string();
        watch.hear(&event("task-started", &id, &json!({})));
    }
    assert_eq!(watch.heard.len(), HEARD_MAX);
    let first = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"0").to_string();
    assert!(!watch.heard.contains_key(&first));
}

#[test]
fn a_failure_waits_for_its_words_only_while_somebody_listens() {
    let mut watch = watch();
    let done = Done {
        run_id: "1-1".to_owned(),
        delivery: 0,
        task_id: ONE.to_owned(),
        succeeded: false,
        result: None,
    };
    assert!(watch.has_words(&done, Instant::now()), "nobody listens");
    watch.hear(&event("task-failed", ONE, &json!({ "exception": "E()" })));
    let end = watch.end(done, Place::Number(1));
    assert_eq!((end.error.as_str(), end.by.as_str()), ("E()", "w1@lab"));
}

/// Whoever reaches the broker can write into the queue; one end that the leader refuses would hold up all others.
#[test]
fn what_the_leader_would_refuse_is_no_message_of_ours_and_names_fit_it() {
    let read = |args: Value| completion::read(&json!([args, {}, {}]));
    assert!(read(json!(["7-1000", 0, "t", "success"])).is_some());
    for args in [
        json!(["x", 0, "t", "success"]),
        json!(["7-1000", 0, "t".repeat(156), "failure"]),
        json!(["7-1000", -1, "t", "success"]),
        json!(["7-1000", 0, "", "success"]),
        json!(["7-1000", 0, "t", "maybe"]),
        json!([7, 0, "t", "success"]),
    ] {
        assert_eq!(read(args.clone()), None, "{args}");
    }
    let mut watch = watch();
    watch.hear(&event("task-started", ONE, &json!({ "hostname": "é".repeat(300) })));
    assert_eq!(watch.heard[ONE].by.len(), 254);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_goes_on_is_told_of_once_it_has_lasted_and_one_that_puts_itself_off_now_and_then() {
    let mut watch = watch();
    watch.holders.listening(Some(Instant::now()));
    watch.hear(&event("worker-heartbeat", "", &json!({ "pid": 7, "processed": 1, "active": 1 })));
    watch.hear(&event("task-started", ONE, &json!({})));
    watch.hear(&event("task-started", OTHER, &json!({})));
    assert!(watch.words().is_empty());
    tokio::time::advance(Duration::from_secs(1)).await;
    watch.hear(&event("task-succeeded", OTHER, &json!({})));
    tokio::time::advance(Duration::from_secs(1)).await;
    let word = |process, retried: Option<&str>| TaskWord {
        task_id: ONE.to_owned(),
        by: "w1@lab".to_owned(),
        process,
        retried: retried.map(str::to_owned),
    };
    assert_eq!(watch.words(), [word(7, None)], "the other one has ended");
    assert!(watch.words().is_empty(), "once");
    let mut told = 0;
    for _ in 0..20 {
        watch.hear(&event("task-retried", ONE, &json!({ "exception": "Busy()" })));
        tokio::time::advance(GOES_ON_AFTER).await;
        let words = watch.words();
        assert!(words.iter().all(|it| *it == word(7, Some("Busy()"))), "{words:?}");
        told += words.len();
    }
    assert_eq!(told, 4, "40 s of it, once in ten");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_cluster_does_not_know_is_told_again_for_a_while() {
    let mut watch = watch();
    watch.hear(&event("task-failed", ONE, &json!({ "exception": "E()" })));
    for _ in 0..2 {
        assert_eq!(watch.untold().len(), 1);
    }
    let end = watch.untold().remove(0);
    watch.heard.get_mut(ONE).expect("heard").told = true;
    assert!(!end.is_told_once(), "the word of who had left it may be on its way");
    assert_eq!((end.error.as_str(), watch.untold().len()), ("E()", 0));
    watch.hear(&event("task-failed", OTHER, &json!({ "exception": "E()" })));
    tokio::time::advance(UNKNOWN_FOR).await;
    assert!(watch.untold().is_empty());
}

/// The queue may have lost it, as a server does that has lost its memory.
#[tokio::test(start_paused = true)]
async fn a_task_that_was_heard_to_succeed_and_that_the_queue_does_not_tell_of_is_told_of_after_a_while() {
    let mut watch = watch();
    watch.hear(&event("task-started", ONE, &json!({})));
    watch.hear(&event("task-succeeded", ONE, &json!({ "result": "3" })));
    watch.hear(&event("task-succeeded", OTHER, &json!({})));
    assert!(watch.unqueued(TASKS_MAX).is_empty(), "the queue comes first");
    let done = Done {
        run_id: "1-1".to_owned(),
        delivery: 0,
        task_id: OTHER.to_owned(),
        succeeded: true,
        result: None,
    };
    let end = watch.end(done, Place::Number(1));
    watch.heard.remove(&end.task_id);
    tokio::time::advance(QUEUE_TELLS_WITHIN).await;
    for _ in 0..2 {
        let ends = watch.unqueued(TASKS_MAX);
        assert_eq!(ends.len(), 1, "the other one was in the queue");
        assert_eq!((ends[0].task_id.as_str(), ends[0].by.as_str()), (ONE, "w1@lab"));
        assert!(ends[0].succeeded && ends[0].error.is_empty());
        assert!(ends[0].is_told_once(), "of one whose run waits for nothing it would be told over and over");
    }
    watch.heard.get_mut(ONE).expect("heard").told = true;
    assert!(watch.unqueued(TASKS_MAX).is_empty());
    watch.hear(&event("task-succeeded", OTHER, &json!({})));
    tokio::time::advance(QUEUE_TELLS_WITHIN + UNKNOWN_FOR).await;
    assert!(watch.unqueued(TASKS_MAX).is_empty() && watch.succeeded.is_empty(), "nobody knows it");
}

#[test]
fn what_a_task_returned_stands_before_the_arguments_and_is_kept_as_far_as_it_fits() {
    let watch = watch();
    let read = |result: Value| {
        completion::read(&json!([[result, "7-1000", 0, "t", "success"], {}, {}])).expect("an end")
    };
    assert_eq!(read(json!({ "rows": 3 })).result.as_deref(), Some(r#"{"rows":3}"#));
    assert_eq!(read(Value::Null).result, None);
    let end = watch.end(read(json!([1])), Place::Number(1));
    assert_eq!((end.result.as_str(), end.error.as_str()), ("[1]", ""));
    let end = watch.end(read(json!("x".repeat(4_095))), Place::Number(1));
    assert_eq!(end.result, "");
    assert!(end.succeeded && end.error.starts_with("its result has 4097 bytes"), "{}", end.error);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_began_while_nobody_listened_is_found_among_what_its_worker_runs() {
    let mut watch = watch();
    watch.holders.listening(Some(Instant::now()));
    watch.hear(&event("worker-heartbeat", "", &json!({ "pid": 7, "processed": 1, "active": 2 })));
    let theirs = "9f3d1a52-5d0e-4c8b-9f3a-1c2d3e4f5a6b";
    let answer = json!({ "w1@lab": [{ "id": ONE, "name": "t" }, { "id": theirs }, { "id": 3 }] });
    watch.hear(&answer);
    tokio::time::advance(GOES_ON_AFTER).await;
    let words = watch.words();
    assert_eq!(words.len(), 1);
    assert_eq!((words[0].task_id.as_str(), words[0].by.as_str(), words[0].process), (ONE, "w1@lab", 7));
    // It is told again, for the cluster may have had no leader then; but not once it has failed.
    watch.hear(&answer);
    tokio::time::advance(GOES_ON_AFTER).await;
    assert_eq!(watch.words().len(), 1);
    watch.hear(&event("task-failed", ONE, &json!({ "exception": "E()" })));
    watch.hear(&answer);
    tokio::time::advance(GOES_ON_AFTER).await;
    assert!(watch.words().is_empty());
    for strange in [json!({ "w1@lab": { "error": "no" } }), json!({ "w1@lab": 3 }), json!([[]])] {
        assert!(watch.hear(&strange).is_empty());
    }
}
