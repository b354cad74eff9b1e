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
    let done = Done { run_id: "1-1".to_owned(), delivery: 0, task_id: ONE.to_owned(), succeeded: false };
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
