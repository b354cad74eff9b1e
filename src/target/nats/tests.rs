//! What is left with a real server, and how often.

mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::server::Server;
use super::*;
use crate::config::connections;
use crate::target::broker::BROKER_ANSWER_TIMEOUT;
use crate::target::{Outcome, Report, Target, Targets, TargetsConfig};

fn targets(url: &str, more: &str) -> Arc<Targets> {
    let text = format!("[connections.main]\nurl = \"{url}\"\n{more}");
    let connections = connections::read("test", &text).expect("connections");
    Arc::new(Targets::new(&TargetsConfig { connections, ..TargetsConfig::default() }).expect("targets"))
}

fn target(subject: &str) -> NatsTarget {
    NatsTarget {
        connection: "main".to_owned(),
        subject: subject.to_owned(),
        payload: "{\"day\": \"{{ params.day }}\"}".to_owned(),
        headers: [("Tenant".to_owned(), "{{ params.day }}".to_owned())].into(),
        stream: None,
    }
}

fn order(run: &str, target: NatsTarget) -> Order {
    Order {
        job: "j".to_owned(),
        namespace: "n".to_owned(),
        run_id: run.to_owned(),
        scheduled_at: "2026-03-29T01:00:00.000Z".to_owned(),
        attempt: 1,
        fence: 9,
        timeout: Some(Duration::from_secs(60)),
        traceparent: None,
        params: [("day".to_owned(), "mon\"day".to_owned())].into(),
        chain_id: None,
        inputs: BTreeMap::new(),
        cluster_id: "c1".to_owned(),
        next_at: None,
        delivery: 0,
        target: Target::Nats(Box::new(target)),
    }
}

async fn carry_out(targets: &Targets, order: &Order) -> Report {
    targets.carry_out(order, CancellationToken::new()).await
}

async fn leave(targets: &Targets, run: &str, subject: &str) -> Report {
    carry_out(targets, &order(run, target(subject))).await
}

fn error(report: &Report) -> &str {
    report.error.as_deref().unwrap_or_default()
}

fn told(report: &Report) -> (Outcome, &str) {
    (report.outcome, error(report))
}

/// What is told of a failure, with the connection that it is of.
fn failed(reason: &str, server: &Server, words: &str) -> String {
    format!("{reason}: connection main (127.0.0.1:{}): {words}", server.port())
}

#[tokio::test]
async fn a_message_says_its_payload_and_of_which_run_it_is() {
    let server = Server::start().await;
    server.stream("S", json!({ "subjects": ["a.>"] })).await;
    let targets = targets(&server.url(), "");
    assert_eq!(leave(&targets, "7-1", "a.b").await, Report::of(Outcome::Succeeded));
    let message = server.message("S", 1).await;
    assert_eq!((message.subject.as_str(), message.payload.as_str()), ("a.b", "{\"day\": \"mon\\\"day\"}"));
    let header = |name: &str| message.headers[name].as_str();
    assert_eq!((header("chronarch-run-id"), header("idempotency-key")), ("7-1", "7-1"));
    assert_eq!(
        (header("Nats-Msg-Id"), header("chronarch-job"), header("Tenant")),
        ("c1:7-1", "j", "mon\"day")
    );
    assert_eq!(header("chronarch-scheduled-at"), "2026-03-29T01:00:00.000Z");
}

#[tokio::test]
async fn all_attempts_of_a_run_leave_one_message_and_each_run_leaves_its_own() {
    let server = Server::start().await;
    server.stream("S", json!({ "subjects": ["a"] })).await;
    let (one, other) = (targets(&server.url(), ""), targets(&server.url(), ""));
    let first = order("7-1", target("a"));
    let again = Order { attempt: 2, fence: 10, ..first.clone() };
    let (left, right) = tokio::join!(carry_out(&one, &first), carry_out(&other, &again));
    assert_eq!((left.outcome, right.outcome), (Outcome::Succeeded, Outcome::Succeeded));
    assert_eq!([error(&left), error(&right)].concat(), "an earlier attempt of the run had sent the message");
    assert_eq!(server.messages("S").await, 1);
    leave(&one, "7-2", "a").await;
    carry_out(&one, &Order { cluster_id: "c2".to_owned(), ..first.clone() }).await;
    carry_out(&one, &Order { delivery: 1, ..first }).await;
    assert_eq!(server.messages("S").await, 4, "another run, another cluster, and what it leaves anew");
}

#[tokio::test]
async fn beyond_the_window_of_the_stream_a_repeat_is_another_message() {
    let server = Server::start().await;
    let window = Duration::from_millis(200);
    server.stream("S", json!({ "subjects": ["a"], "duplicate_window": window.as_nanos() })).await;
    let targets = targets(&server.url(), "");
    assert_eq!(leave(&targets, "7-1", "a").await, Report::of(Outcome::Succeeded));
    let begun = Instant::now();
    while server.messages("S").await == 1 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is remembered for longer than it should");
        assert_eq!(leave(&targets, "7-1", "a").await.outcome, Outcome::Succeeded);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.messages("S").await, 2);
}

#[tokio::test]
async fn a_subject_that_no_stream_takes_is_unroutable_and_nothing_is_left() {
    let server = Server::start().await;
    let targets = targets(&server.url(), "");
    let report = leave(&targets, "7-1", "a.b").await;
    assert_eq!(told(&report), (Outcome::Failed, "broker_unroutable: no stream takes the subject \"a.b\""));
    // Whoever answers without keeping it is no stream either.
    let _subscriber = server.answering("a.b", "thank you").await;
    let report = leave(&targets, "7-1", "a.b").await;
    let expected = "broker_unroutable: what answers for the subject \"a.b\" is no stream";
    assert_eq!(told(&report), (Outcome::Failed, expected));
}

#[tokio::test]
async fn a_subject_without_a_stream_is_unroutable_also_where_somebody_listens_who_gets_it_once() {
    let server = Server::start().await;
    // Of another subject, and of one that is not this one.
    server.stream("S", json!({ "subjects": ["b", "a.*.c"] })).await;
    let (_client, mut subscriber) = server.silent("a.b").await;
    let targets = targets(&server.url(), "");
    let report = leave(&targets, "7-1", "a.b").await;
    let expected =
        "broker_unroutable: no stream takes the subject \"a.b\", and who else listens to it does not answer";
    assert_eq!(told(&report), (Outcome::Failed, expected));
    let got = futures::StreamExt::next(&mut subscriber).await.expect("a message");
    assert_eq!(got.subject.as_str(), "a.b");
    let more = tokio::time::timeout(Duration::from_millis(200), futures::StreamExt::next(&mut subscriber));
    assert!(more.await.is_err(), "it got the message again");
}

#[tokio::test]
async fn a_subject_of_which_nobody_says_whether_a_stream_takes_it_stays_in_doubt() {
    let server = Server::start_with(
        "authorization { users = [\n\
         { user: admin, password: a },\n\
         { user: me, password: b, permissions: { publish: [\"a\"], subscribe: [\"_INBOX.>\"] } }\n] }",
        "admin:a",
    )
    .await;
    let _subscriber = server.silent("a").await;
    let targets = targets(&format!("nats://me:b@127.0.0.1:{}", server.port()), "");
    let report = leave(&targets, "7-1", "a").await;
    let unanswered = failed("broker_unanswered", &server, "it was not acknowledged in time");
    assert_eq!(told(&report), (Outcome::Unknown, unanswered.as_str()));
}

#[tokio::test]
async fn a_stream_that_refuses_is_quoted_and_takes_the_same_run_later() {
    let server = Server::start().await;
    server.stream("S", json!({ "subjects": ["a"], "max_msgs": 1, "discard": "new" })).await;
    server.stream("T", json!({ "subjects": ["t"], "max_msg_size": 16 })).await;
    let targets = targets(&server.url(), "");
    assert_eq!(leave(&targets, "7-1", "a").await, Report::of(Outcome::Succeeded));
    let full = leave(&targets, "7-2", "a").await;
    let refused = |words| failed("broker_refused", &server, words);
    assert_eq!(told(&full), (Outcome::Failed, refused("maximum messages exceeded (10077)").as_str()));
    let large = leave(&targets, "7-3", "t").await;
    assert_eq!(
        told(&large),
        (Outcome::Failed, refused("message size exceeds maximum allowed (10054)").as_str())
    );
    let elsewhere = NatsTarget { stream: Some("T".to_owned()), ..target("a") };
    let elsewhere = carry_out(&targets, &order("7-4", elsewhere)).await;
    assert_eq!(
        told(&elsewhere),
        (Outcome::Failed, refused("expected stream does not match (10060)").as_str())
    );
    server.request("$JS.API.STREAM.PURGE.S", json!({})).await;
    let here = NatsTarget { stream: Some("S".to_owned()), ..target("a") };
    assert_eq!(carry_out(&targets, &order("7-2", here)).await, Report::of(Outcome::Succeeded));
    assert_eq!(server.messages("S").await, 1);
}

#[tokio::test]
async fn a_subject_that_the_account_may_not_use_is_refused_at_once_and_no_other_is_in_doubt() {
    let server = Server::start_with(
        "authorization { users = [\n\
         { user: admin, password: a },\n\
         { user: me, password: \"right-one\", permissions: { publish: [\"a\"], subscribe: [\"_INBOX.>\"] } }\n] }",
        "admin:a",
    )
    .await;
    server.stream("S", json!({ "subjects": ["a", "b"] })).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "right-one\n").expect("written");
    let more = format!("password_file = \"{}\"", file.display());
    let targets = targets(&format!("nats://me@127.0.0.1:{}", server.port()), &more);
    let begun = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for run in 0..200 {
        let targets = Arc::clone(&targets);
        let subject = if run % 2 == 0 { "a" } else { "b" };
        all.spawn(async move { (subject, leave(&targets, &format!("7-{run}"), subject).await) });
    }
    let refused = failed("broker_refused", &server, "Permissions Violation for Publish to \"b\"");
    for (subject, report) in all.join_all().await {
        let (outcome, begins) = match subject {
            "a" => (Outcome::Succeeded, ""),
            _ => (Outcome::Failed, refused.as_str()),
        };
        assert!(report.outcome == outcome && error(&report).starts_with(begins), "{subject}: {report:?}");
    }
    assert!(begun.elapsed() < BROKER_ANSWER_TIMEOUT, "{:?}", begun.elapsed());
    assert_eq!(server.messages("S").await, 100);
}

#[tokio::test]
async fn a_payload_that_the_server_would_hang_up_on_is_not_sent() {
    let server = Server::start_with("max_payload: 2048", "").await;
    server.stream("S", json!({ "subjects": ["a"] })).await;
    let targets = targets(&server.url(), "");
    let large = NatsTarget { payload: "x".repeat(2_000), ..target("a") };
    let report = carry_out(&targets, &order("7-1", large)).await;
    let expected =
        "message_invalid: a payload of 2000 bytes, with its headers, is more than the server takes (2048)";
    assert_eq!(told(&report), (Outcome::Refused, expected));
    assert_eq!(leave(&targets, "7-2", "a").await, Report::of(Outcome::Succeeded));
    assert_eq!(server.connections().await, 1, "it was not hung up on");
}

#[tokio::test]
async fn a_header_that_is_the_servers_or_has_two_lines_is_not_sent() {
    let targets = targets("nats://127.0.0.1:1", "");
    for (name, value, says) in [
        ("nats-msg-id", "x", "message_invalid: header nats-msg-id is not the job's to set"),
        ("Chronarch-Job", "x", "message_invalid: header Chronarch-Job is not the job's to set"),
    ] {
        let other = NatsTarget { headers: [(name.to_owned(), value.to_owned())].into(), ..target("a") };
        let report = carry_out(&targets, &order("7-1", other)).await;
        assert_eq!(told(&report), (Outcome::Refused, says));
    }
    // The payload and the header of the job take the value too; the first has room for it, and no header does.
    let two = Order {
        params: [("day".to_owned(), "a\r\nNats-Msg-Id: b".to_owned())].into(),
        ..order("7-1", NatsTarget { headers: BTreeMap::new(), ..target("a") })
    };
    let report = carry_out(&targets, &two).await;
    let says = "message_invalid: headers: the value of chronarch-param-day has more than one line";
    assert_eq!(told(&report), (Outcome::Refused, says));
}

#[tokio::test]
async fn a_server_that_is_down_is_named_nothing_waits_for_it_and_one_that_comes_back_is_found() {
    let mut server = Server::start().await;
    server.stream("S", json!({ "subjects": ["a"] })).await;
    let targets = targets(&server.url(), "");
    assert_eq!(leave(&targets, "7-1", "a").await, Report::of(Outcome::Succeeded));
    server.kill();
    let begun = Instant::now();
    // The connection may break under the first of them, which is in doubt then.
    let first = leave(&targets, "7-2", "a").await;
    assert!(matches!(first.outcome, Outcome::Unknown | Outcome::Failed), "{first:?}");
    for run in 3..300 {
        let report = leave(&targets, &format!("7-{run}"), "a").await;
        assert_eq!(report.outcome, Outcome::Failed);
        assert!(error(&report).starts_with("broker_unreachable: "), "{}", error(&report));
    }
    assert!(begun.elapsed() < BROKER_ANSWER_TIMEOUT, "{:?}", begun.elapsed());
    server.start_again().await;
    assert_eq!(leave(&targets, "7-1000", "a").await, Report::of(Outcome::Succeeded));
    // What had failed is not sent by a client that kept it for later.
    assert_eq!(server.messages("S").await, 2);
}

#[tokio::test]
async fn a_server_that_is_silent_leaves_a_run_in_doubt_and_the_next_attempt_finds_its_message() {
    let server = Server::start().await;
    server.stream("S", json!({ "subjects": ["a"] })).await;
    let targets = targets(&server.url(), "");
    assert_eq!(leave(&targets, "7-1", "a").await, Report::of(Outcome::Succeeded));
    server.stop().await;
    let silent = leave(&targets, "7-2", "a").await;
    let unanswered = failed("broker_unanswered", &server, "it was not acknowledged in time");
    assert_eq!(told(&silent), (Outcome::Unknown, unanswered.as_str()));
    server.go_on();
    let begun = Instant::now();
    while server.messages("S").await < 2 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the message did not arrive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let again = leave(&targets, "7-2", "a").await;
    let found = (Outcome::Succeeded, "an earlier attempt of the run had sent the message");
    assert_eq!(told(&again), found);
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_any_more_is_not_waited_for_by_the_client_either() {
    let server = Server::start().await;
    server.stream("S", json!({ "subjects": ["a"] })).await;
    // Somebody listens, so that it is not unroutable, and says nothing.
    let _subscriber = server.silent("b").await;
    let targets = targets(&server.url(), "");
    for run in 0..3 {
        let hasty =
            Order { timeout: Some(Duration::from_millis(300)), ..order(&format!("7-{run}"), target("b")) };
        let hasty = carry_out(&targets, &hasty).await;
        assert_eq!(hasty.outcome, Outcome::Unknown, "{hasty:?}");
        assert!(error(&hasty).starts_with("broker_unanswered: "), "{}", error(&hasty));
    }
    assert_eq!(leave(&targets, "7-4", "a").await, Report::of(Outcome::Succeeded));
    assert_eq!(server.connections().await, 4, "each that owed an answer is left");
}

#[tokio::test]
async fn a_wrong_password_token_or_file_is_told_and_not_shown() {
    let server = Server::start_with("authorization { token: \"right-one\" }", "right-one").await;
    server.stream("S", json!({ "subjects": ["a"] })).await;
    let at = format!("127.0.0.1:{}", server.port());
    let wrong = targets(&format!("nats://:wrong-one@{at}"), "");
    let report = leave(&wrong, "7-1", "a").await;
    let expected =
        failed("broker_unreachable", &server, "it does not take the password, token or credentials");
    assert_eq!(told(&report), (Outcome::Failed, expected.as_str()));
    assert!(!format!("{wrong:?}").contains("wrong-one"));
    let right = targets(&format!("nats://:right-one@{at}"), "");
    assert_eq!(leave(&right, "7-1", "a").await, Report::of(Outcome::Succeeded));

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("creds");
    let more = format!("creds_file = \"{}\"", file.display());
    let report = leave(&targets(&format!("nats://{at}"), &more), "7-2", "a").await;
    let expected = failed("broker_unreachable", &server, &format!("creds_file: {}: ", file.display()));
    assert!(error(&report).starts_with(&expected), "{}", error(&report));
    std::fs::write(&file, "s3cret").expect("written");
    let report = leave(&targets(&format!("nats://{at}"), &more), "7-2", "a").await;
    let expected = format!("{expected}holds no user's JWT and seed, as `nsc` writes them");
    assert_eq!(told(&report), (Outcome::Failed, expected.as_str()));
}

#[tokio::test]
async fn a_user_with_a_jwt_and_an_nkey_is_let_in_and_another_ones_is_not() {
    let (server, other) = (Server::start_with_operator().await, Server::start_with_operator().await);
    server.stream("S", json!({ "subjects": ["a"] })).await;
    let with = |file: String| targets(&server.url(), &format!("creds_file = \"{file}\""));
    let right = with(server.credentials());
    assert_eq!(leave(&right, "7-1", "a").await, Report::of(Outcome::Succeeded));
    let expected =
        failed("broker_unreachable", &server, "it does not take the password, token or credentials");
    let report = leave(&with(other.credentials()), "7-2", "a").await;
    assert_eq!(told(&report), (Outcome::Failed, expected.as_str()));
    assert_eq!(server.messages("S").await, 1);
}

#[tokio::test]
async fn a_server_with_tls_is_trusted_by_its_own_authority_alone() {
    let server = Server::start_with_tls().await;
    server.stream("S", json!({ "subjects": ["a"] })).await;
    let trusted = format!("tls_ca = \"{}\"", server.authority());
    let right = targets(&format!("tls://localhost:{}", server.port()), &trusted);
    assert_eq!(leave(&right, "7-1", "a").await, Report::of(Outcome::Succeeded));
    // By another name it is another server.
    let other = targets(&format!("tls://127.0.0.1:{}", server.port()), &trusted);
    let stranger = targets(&format!("tls://localhost:{}", server.port()), "");
    for untrusted in [other, stranger] {
        let report = leave(&untrusted, "7-2", "a").await;
        assert_eq!(report.outcome, Outcome::Failed);
        assert!(error(&report).starts_with("broker_unreachable: "), "{}", error(&report));
    }
    // Nothing is sent in the clear where TLS is asked for.
    let plain = Server::start().await;
    plain.stream("S", json!({ "subjects": ["a"] })).await;
    let report = leave(&targets(&format!("tls://localhost:{}", plain.port()), &trusted), "7-3", "a").await;
    assert!(error(&report).starts_with("broker_unreachable: "), "{}", error(&report));
    assert_eq!((server.messages("S").await, plain.messages("S").await), (1, 0));
}

#[tokio::test]
async fn another_server_of_the_url_is_found_when_the_first_is_down() {
    let server = Server::start().await;
    server.stream("S", json!({ "subjects": ["a"] })).await;
    let down = server::free_port();
    let targets = targets(&format!("nats://127.0.0.1:{down},127.0.0.1:{}", server.port()), "");
    assert_eq!(leave(&targets, "7-1", "a").await, Report::of(Outcome::Succeeded));
}

#[tokio::test]
async fn a_burst_goes_by_one_connection_and_is_left_whole() {
    const RUNS: usize = 4_000;
    let server = Server::start().await;
    server.stream("S", json!({ "subjects": ["a"] })).await;
    let targets = targets(&server.url(), "");
    let begun = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for run in 0..RUNS {
        let targets = Arc::clone(&targets);
        all.spawn(async move { leave(&targets, &format!("7-{run}"), "a").await });
    }
    let ended = all.join_all().await;
    eprintln!("{RUNS} messages in {:?}", begun.elapsed());
    assert!(ended.iter().all(|report| *report == Report::of(Outcome::Succeeded)));
    assert_eq!(server.messages("S").await, RUNS as u64);
    assert_eq!(server.connections().await, 1);
}
