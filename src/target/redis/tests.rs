//! What is left with a real server, and how often.

mod sentinel;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::connections;
use crate::state::broker::AmqpTarget;
use crate::target::{Outcome, Report, Target, Targets, TargetsConfig};

/// How long a server may take to answer after its start.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A server of this test's own.
struct Server {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

impl Server {
    async fn start() -> Self {
        Self::start_at(free_port(), &[]).await
    }

    async fn start_at(port: u16, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(folder.path())
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed (scripts/test does it)");
        let server = Self { child, port, _folder: folder };
        let begun = tokio::time::Instant::now();
        while server.try_ask(&["PING"]).await.is_err_and(|error| error.is_io_error()) {
            assert!(begun.elapsed() < STARTS_WITHIN, "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    async fn try_ask(&self, words: &[&str]) -> ::redis::RedisResult<::redis::Value> {
        let client = ::redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = ::redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut connection).await
    }

    async fn ask<T: ::redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let answer = self.try_ask(words).await.expect("an answer");
        ::redis::from_redis_value(answer).expect("a value of the kind")
    }

    fn targets(&self) -> Arc<Targets> {
        targets(&format!("redis://127.0.0.1:{}/0", self.port), "")
    }
}

fn targets(url: &str, more: &str) -> Arc<Targets> {
    let text = format!("[connections.main]\nurl = \"{url}\"\n{more}");
    let connections = connections::read("test", &text).expect("connections");
    Arc::new(Targets::new(&TargetsConfig { connections, ..TargetsConfig::default() }).expect("targets"))
}

fn target(to: RedisPlace) -> RedisTarget {
    RedisTarget {
        connection: "main".to_owned(),
        to,
        payload: "{\"day\": \"{{ params.day }}\"}".to_owned(),
        headers: [("tenant".to_owned(), "{{ params.day }}".to_owned())].into(),
        bare: false,
    }
}

fn list() -> RedisTarget {
    target(RedisPlace::Left("work".to_owned()))
}

fn order(run: &str, target: RedisTarget) -> Order {
    Order {
        job: "j".to_owned(),
        namespace: "n".to_owned(),
        run_id: run.to_owned(),
        scheduled_at: "2026-03-29T01:00:00.000Z".to_owned(),
        attempt: 1,
        fence: 9,
        timeout: Some(Duration::from_secs(30)),
        traceparent: None,
        params: [("day".to_owned(), "mon\"day".to_owned())].into(),
        chain_id: None,
        inputs: BTreeMap::new(),
        cluster_id: "c1".to_owned(),
        next_at: None,
        delivery: 0,
        target: Target::Redis(Box::new(target)),
    }
}

async fn carry_out(targets: &Targets, order: &Order) -> Report {
    targets.carry_out(order, CancellationToken::new()).await
}

fn error(report: &Report) -> &str {
    report.error.as_deref().unwrap_or_default()
}

/// What is told of a failure, with the connection that it is of.
fn failed(reason: &str, server: &Server, words: &str) -> String {
    format!("{reason}: connection main (127.0.0.1:{}): {words}", server.port)
}

#[tokio::test]
async fn a_message_of_a_list_says_its_payload_and_of_which_run_it_is() {
    let server = Server::start().await;
    let targets = server.targets();
    assert_eq!(carry_out(&targets, &order("7-1", list())).await, Report::of(Outcome::Succeeded));
    let [message] = server.ask::<Vec<String>>(&["LRANGE", "work", "0", "-1"]).await.try_into().expect("one");
    let message: Value = serde_json::from_str(&message).expect("JSON");
    assert_eq!(message["payload"], "{\"day\": \"mon\\\"day\"}");
    let headers = &message["headers"];
    assert_eq!((&headers["chronarch-run-id"], &headers["idempotency-key"]), (&json!("7-1"), &json!("7-1")));
    assert_eq!((&headers["chronarch-job"], &headers["tenant"]), (&json!("j"), &json!("mon\"day")));
    assert_eq!(headers["chronarch-scheduled-at"], "2026-03-29T01:00:00.000Z");
}

#[tokio::test]
async fn all_attempts_of_a_run_leave_one_message_and_each_run_leaves_its_own() {
    let server = Server::start().await;
    let (one, other) = (server.targets(), server.targets());
    let first = order("7-1", list());
    let again = Order { attempt: 2, fence: 10, ..first.clone() };
    let (left, right) = tokio::join!(carry_out(&one, &first), carry_out(&other, &again));
    assert_eq!((left.outcome, right.outcome), (Outcome::Succeeded, Outcome::Succeeded));
    let said: String = [error(&left), error(&right)].concat();
    assert_eq!(said, "an earlier attempt of the run had sent the message");
    assert_eq!(server.ask::<u64>(&["LLEN", "work"]).await, 1);

    carry_out(&one, &order("7-2", list())).await;
    carry_out(&one, &Order { cluster_id: "c2".to_owned(), ..first }).await;
    assert_eq!(server.ask::<u64>(&["LLEN", "work"]).await, 3, "another run, and another cluster");
    let seconds = server.ask::<i64>(&["TTL", "chronarch:sent:c1:7-1"]).await;
    assert!((86_000..=86_400).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_list_grows_at_the_end_that_the_job_names_and_bare_is_the_payload_alone() {
    let server = Server::start().await;
    let targets = server.targets();
    for (run, to) in [
        ("7-1", RedisPlace::Left("work".to_owned())),
        ("7-2", RedisPlace::Left("work".to_owned())),
        ("7-3", RedisPlace::Right("work".to_owned())),
    ] {
        let bare =
            RedisTarget { bare: true, payload: run.to_owned(), headers: BTreeMap::new(), ..target(to) };
        assert_eq!(carry_out(&targets, &order(run, bare)).await.outcome, Outcome::Succeeded);
    }
    assert_eq!(server.ask::<Vec<String>>(&["LRANGE", "work", "0", "-1"]).await, ["7-2", "7-1", "7-3"]);
}

#[tokio::test]
async fn an_entry_of_a_stream_has_its_headers_as_fields() {
    let server = Server::start().await;
    let targets = server.targets();
    let to = RedisPlace::Stream { key: "s".to_owned(), max_length: Some(1_000) };
    assert_eq!(carry_out(&targets, &order("7-1", target(to))).await, Report::of(Outcome::Succeeded));
    let entries: Vec<(String, BTreeMap<String, String>)> = server.ask(&["XRANGE", "s", "-", "+"]).await;
    let [(_, fields)] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(fields["payload"], "{\"day\": \"mon\\\"day\"}");
    assert_eq!((fields["chronarch-run-id"].as_str(), fields["tenant"].as_str()), ("7-1", "mon\"day"));
}

#[tokio::test]
async fn a_channel_that_nobody_listens_to_takes_the_message_too() {
    let server = Server::start().await;
    let targets = server.targets();
    let report = carry_out(&targets, &order("7-1", target(RedisPlace::Channel("c".to_owned())))).await;
    assert_eq!(report, Report::of(Outcome::Succeeded));
    assert_eq!(server.ask::<u64>(&["EXISTS", "chronarch:sent:c1:7-1"]).await, 1);
}

#[tokio::test]
async fn a_message_that_is_refused_leaves_no_note_that_it_was_sent() {
    let server = Server::start().await;
    let targets = server.targets();
    server.ask::<String>(&["SET", "work", "no list"]).await;
    let report = carry_out(&targets, &order("7-1", list())).await;
    assert_eq!(report.outcome, Outcome::Failed);
    let says = failed("broker_refused", &server, "WRONGTYPE ");
    assert!(error(&report).starts_with(&says), "{}", error(&report));
    server.ask::<u64>(&["DEL", "work"]).await;
    assert_eq!(carry_out(&targets, &order("7-1", list())).await, Report::of(Outcome::Succeeded));
    assert_eq!(server.ask::<u64>(&["LLEN", "work"]).await, 1);
}

#[tokio::test]
async fn a_server_that_is_down_is_named_and_one_that_comes_back_is_found() {
    let mut server = Server::start().await;
    let targets = server.targets();
    assert_eq!(carry_out(&targets, &order("7-1", list())).await.outcome, Outcome::Succeeded);
    server.child.kill().expect("killed");
    server.child.wait().expect("dead");
    // The connection broke while it was idle; what is sent by it has no answer, and a second try finds nobody.
    let report = carry_out(&targets, &order("7-2", list())).await;
    assert!(matches!(report.outcome, Outcome::Unknown | Outcome::Failed), "{report:?}");
    let report = carry_out(&targets, &order("7-2", list())).await;
    assert_eq!(report.outcome, Outcome::Failed);
    let says = failed("broker_unreachable", &server, "Connection refused (os error 111)");
    assert_eq!(error(&report), says);
    let back = Server::start_at(server.port, &[]).await;
    assert_eq!(carry_out(&targets, &order("7-2", list())).await, Report::of(Outcome::Succeeded));
    assert_eq!(back.ask::<u64>(&["LLEN", "work"]).await, 1);
}

#[tokio::test]
async fn a_connection_that_broke_while_idle_costs_no_attempt() {
    let server = Server::start().await;
    let targets = server.targets();
    assert_eq!(carry_out(&targets, &order("7-1", list())).await.outcome, Outcome::Succeeded);
    server.ask::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    assert_eq!(carry_out(&targets, &order("7-2", list())).await, Report::of(Outcome::Succeeded));
    assert_eq!(server.ask::<u64>(&["LLEN", "work"]).await, 2);
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let server = Server::start_at(free_port(), &["--requirepass", "right-one"]).await;
    let wrong = targets(&format!("redis://:wrong-one@127.0.0.1:{}", server.port), "");
    let report = carry_out(&wrong, &order("7-1", list())).await;
    assert_eq!(report.outcome, Outcome::Failed);
    let says = failed("broker_unreachable", &server, "it does not take the password, or the name with it");
    assert_eq!(error(&report), says);
    assert!(!error(&report).contains("wrong-one") && !format!("{wrong:?}").contains("wrong-one"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "right-one\n").expect("written");
    let more = format!("password_file = \"{}\"", file.display());
    let right = targets(&format!("redis://127.0.0.1:{}", server.port), &more);
    assert_eq!(carry_out(&right, &order("7-1", list())).await, Report::of(Outcome::Succeeded));
}

#[tokio::test]
async fn why_a_server_does_not_greet_is_told_by_its_code_and_its_cause() {
    let server = Server::start_at(free_port(), &["--requirepass", "right-one"]).await;
    let at = format!("127.0.0.1:{}", server.port);
    let ask = async |words: &[&str]| {
        let client = ::redis::Client::open(format!("redis://:right-one@{at}")).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("it answers");
        let mut command = ::redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async::<String>(&mut connection).await.expect("it does");
    };
    ask(&["ACL", "SETUSER", "half", "on", ">p", "~*", "&*", "+@all", "-script|load"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("missing");
    let missing_file = format!("password_file = \"{}\"", missing.display());
    for (url, more, says) in [
        (
            format!("redis://{at}/0"),
            "",
            "NOAUTH: it wants a password, and the connection has none".to_owned(),
        ),
        (format!("redis://:right-one@{at}/99"), "", "ERR: it has no database 99".to_owned()),
        (format!("redis://half:p@{at}/0"), "", "NOPERM: the account may not use SCRIPT LOAD".to_owned()),
        (
            format!("redis://{at}/0"),
            "password_env = \"CHRONARCH_NOT_SET\"",
            "password_env: the variable CHRONARCH_NOT_SET is not set".to_owned(),
        ),
        (
            format!("redis://{at}/0"),
            &missing_file,
            format!("password_file: {}: No such file or directory (os error 2)", missing.display()),
        ),
    ] {
        let report = carry_out(&targets(&url, more), &order("7-1", list())).await;
        assert_eq!(report.outcome, Outcome::Failed);
        assert_eq!(error(&report), failed("broker_unreachable", &server, &says));
    }
    let open = Server::start().await;
    let url = format!("redis-sentinel://127.0.0.1:{}/mymaster/0", open.port);
    let report = carry_out(&targets(&url, ""), &order("7-1", list())).await;
    assert!(error(&report).contains("ERR: it is no sentinel; "), "{}", error(&report));
}

#[tokio::test]
async fn what_an_account_may_not_do_is_told_in_the_words_of_the_server_of_several_commands_too() {
    let server = Server::start().await;
    let rights = ["~*", "&*", "+@all", "-sadd", "-psubscribe"];
    server.ask::<String>(&[["ACL", "SETUSER", "half", "on", ">p"].as_slice(), &rights].concat()).await;
    let text = format!("[connections.main]\nurl = \"redis://half:p@127.0.0.1:{}/0\"", server.port);
    let connections = connections::read("test", &text).expect("connections");
    let link = Link::new(connections.into_values().next().expect("one"));
    let mut commands = ::redis::pipe();
    commands.cmd("LLEN").arg("a").ignore().cmd("SADD").arg("s").arg("b").ignore();
    let refused = link.ask::<()>(&commands).await.expect_err("it may not");
    assert!(refused.to_string().contains("NOPERM") && refused.to_string().contains("'sadd'"), "{refused}");
    let Err(refused) = link.listen("heard.*").await else { panic!("it may not listen either") };
    assert!(matches!(&refused, Failure::Refused(why) if why.starts_with("NOPERM ")), "{refused}");
}

#[tokio::test]
async fn a_connection_that_fails_is_told_once_and_once_that_it_works_again() {
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("nobody panics with it").write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _heard = tracing::subscriber::set_default(subscriber);
    let mut server = Server::start().await;
    let targets = server.targets();
    assert_eq!(carry_out(&targets, &order("7-1", list())).await.outcome, Outcome::Succeeded);
    server.child.kill().expect("killed");
    server.child.wait().expect("dead");
    for run in 2..6 {
        let report = carry_out(&targets, &order(&format!("7-{run}"), list())).await;
        assert_ne!(report.outcome, Outcome::Succeeded);
    }
    let _back = Server::start_at(server.port, &[]).await;
    for run in 6..9 {
        let report = carry_out(&targets, &order(&format!("7-{run}"), list())).await;
        assert_eq!(report.outcome, Outcome::Succeeded);
    }
    let log = String::from_utf8(log.0.lock().expect("nobody panics with it").clone()).expect("text");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("a connection to a broker")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].contains(" WARN ") && lines[0].contains("connection=\"main\""), "{log}");
    assert!(lines[1].contains(" INFO ") && lines[1].contains("works again"), "{log}");
}

#[tokio::test]
async fn a_connection_that_the_worker_does_not_have_is_refused() {
    let targets = targets("redis://127.0.0.1:1", "");
    let other = RedisTarget { connection: "other".to_owned(), ..list() };
    let report = carry_out(&targets, &order("7-1", other)).await;
    assert_eq!(
        (report.outcome, error(&report)),
        (Outcome::Refused, "no_connection: this worker has no connection \"other\"")
    );
}

#[tokio::test]
async fn a_burst_goes_by_one_connection_and_is_left_whole() {
    const RUNS: usize = 4_000;
    let server = Server::start().await;
    let targets = server.targets();
    let mut all = tokio::task::JoinSet::new();
    for run in 0..RUNS {
        let targets = Arc::clone(&targets);
        all.spawn(async move { carry_out(&targets, &order(&format!("7-{run}"), list())).await.outcome });
    }
    let ended = all.join_all().await;
    assert!(ended.iter().all(|outcome| *outcome == Outcome::Succeeded));
    assert_eq!(server.ask::<usize>(&["LLEN", "work"]).await, RUNS);
    let info: String = server.ask(&["INFO", "stats"]).await;
    let connections = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    let connections: u32 = connections.expect("it counts").trim().parse().expect("a number");
    assert!(connections < 20, "{connections} connections, most of them this test's own questions");
}

#[tokio::test]
async fn a_port_with_tls_is_told_from_one_without_and_whose_authority_is_unknown() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name).display().to_string());
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let port = free_port().to_string();
    let tls =
        ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &cert];
    let _server = Server::start_at(free_port(), &[&tls[..], &["--tls-auth-clients", "no"]].concat()).await;
    let says = async |url: String, order: &Order| {
        let report = carry_out(&targets(&url, ""), order).await;
        assert_eq!(report.outcome, Outcome::Failed);
        error(&report).to_owned()
    };
    let redis = order("7-1", list());
    let plain = says(format!("redis://127.0.0.1:{port}/0"), &redis).await;
    assert!(plain.ends_with("then the URL is to begin with rediss://"), "{plain}");
    let unknown = says(format!("rediss://127.0.0.1:{port}/0"), &redis).await;
    assert!(unknown.ends_with("`tls_ca` is to name the file of its authority"), "{unknown}");
    let amqp = AmqpTarget {
        connection: "main".to_owned(),
        exchange: String::new(),
        routing_key: "work".to_owned(),
        payload: String::new(),
        headers: BTreeMap::new(),
        content_type: None,
        priority: None,
        expiration: None,
        persistent: true,
    };
    let amqp = Order { target: Target::Amqp(Box::new(amqp)), ..redis };
    // As RabbitMQ answers what is no TLS: with an alert (RFC 8446, section 6).
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let alert = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        std::io::Read::read_exact(&mut stream, &mut [0; 8]).expect("a greeting");
        std::io::Write::write_all(&mut stream, &[21, 3, 3, 0, 2, 2, 70]).expect("written");
        // It reads on until the other one has gone.
        let _ = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
    });
    let other = says(format!("amqp://guest:guest@127.0.0.1:{port}/"), &amqp).await;
    alert.join().expect("it was asked");
    assert!(other.ends_with("where it speaks TLS, the URL is to begin with amqps://"), "{other}");
}
