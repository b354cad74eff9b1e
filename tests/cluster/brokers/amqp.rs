//! Messages that are left with RabbitMQ: what the server says of each, and kills of the server and of the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chronarch::config::connections;
use chronarch::pb::v1::{self, RunState};
use chronarch::state::broker::AmqpTarget;
use chronarch::target::{Order, Outcome, Report, Target, Targets, TargetsConfig};
use lapin::ExchangeKind;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::protocol::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use rustix::process::Signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rabbit::{Message, Rabbit};
use crate::harness::{Harness, eventually};
use crate::staff::{Inside, Way};

/// What a worker has that knows the server.
fn targets(url: &str) -> Arc<Targets> {
    targets_with(url, "")
}

fn targets_with(url: &str, more: &str) -> Arc<Targets> {
    let text = format!("[connections.main]\nurl = \"{url}\"\n{more}\n");
    let connections = connections::read("test", &text).expect("sound");
    Arc::new(Targets::new(&TargetsConfig { connections, ..TargetsConfig::default() }).expect("sound"))
}

fn message(exchange: &str, routing_key: &str) -> AmqpTarget {
    AmqpTarget {
        connection: "main".to_owned(),
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        payload: "x".to_owned(),
        headers: BTreeMap::new(),
        content_type: None,
        priority: None,
        expiration: None,
        persistent: true,
    }
}

fn order(number: u64, target: AmqpTarget) -> Order {
    Order {
        job: "push".to_owned(),
        namespace: "default".to_owned(),
        run_id: format!("7-{number}"),
        scheduled_at: "1970-01-01T00:00:01.000Z".to_owned(),
        attempt: 1,
        fence: number,
        timeout: None,
        traceparent: None,
        params: BTreeMap::new(),
        chain_id: None,
        inputs: BTreeMap::new(),
        cluster_id: "c1".to_owned(),
        next_at: None,
        delivery: 0,
        target: Target::Amqp(Box::new(target)),
    }
}

async fn leave(targets: &Targets, number: u64, target: AmqpTarget) -> Report {
    targets.carry_out(&order(number, target), CancellationToken::new()).await
}

/// All at once.
async fn leave_all(targets: &Arc<Targets>, orders: Vec<(u64, AmqpTarget)>) -> BTreeMap<u64, Report> {
    let begun = orders.into_iter().map(|(number, target)| {
        let targets = Arc::clone(targets);
        tokio::spawn(async move { (number, leave(&targets, number, target).await) })
    });
    let ended = futures::future::join_all(begun.collect::<Vec<_>>()).await;
    ended.into_iter().map(|one| one.expect("no panic")).collect()
}

fn error(report: &Report) -> &str {
    report.error.as_deref().unwrap_or_default()
}

/// How what a server refuses is told.
fn refused_by(server: &Rabbit) -> String {
    let url = server.url();
    let at = url.trim_start_matches("amqp://").trim_end_matches('/');
    format!("broker_refused: connection main ({at})")
}

/// How often the message of each run is there.
fn counted(messages: &[Message]) -> BTreeMap<String, u32> {
    let mut counted = BTreeMap::new();
    for message in messages {
        *counted.entry(message.header("chronarch-run-id")).or_default() += 1;
    }
    counted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_a_message_is_told_of_that_message_among_many() {
    const EACH: u64 = 300;
    let server = Rabbit::shared().await;
    server.queue("among-many", &[]).await;
    let targets = targets(&server.url());
    // Good ones beside those that come back, and those that cost their channel.
    let orders = (0..4 * EACH).map(|number| {
        let target = match number % 4 {
            0 | 1 => message("", "among-many"),
            2 => message("", "among-many-absent"),
            _ => message("absent", "among-many"),
        };
        (number, target)
    });
    let reports = leave_all(&targets, orders.collect()).await;
    let refused = format!("{}: NOT_FOUND - no exchange 'absent' in vhost '/'", refused_by(&server));
    for (number, report) in &reports {
        let (outcome, begins) = match number % 4 {
            0 | 1 => (Outcome::Succeeded, ""),
            2 => (
                Outcome::Failed,
                "broker_unroutable: NO_ROUTE (exchange \"\", routing key \"among-many-absent\")",
            ),
            _ => (Outcome::Failed, refused.as_str()),
        };
        assert!(report.outcome == outcome && error(report).starts_with(begins), "{number}: {report:?}");
    }
    let there = counted(&server.take("among-many").await);
    let good: BTreeMap<String, u32> =
        reports.keys().filter(|number| **number % 4 < 2).map(|number| (format!("7-{number}"), 1)).collect();
    assert_eq!(there, good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_costs_few_round_trips_with_classic_and_with_quorum_queues() {
    const BURST: u64 = 5_000;
    let server = Rabbit::shared().await;
    server.queue("burst-classic", &[]).await;
    let quorum = AMQPValue::LongString("quorum".into());
    server.queue("burst-quorum", &[("x-queue-type", quorum)]).await;
    let targets = targets(&server.url());
    for queue in ["burst-classic", "burst-quorum"] {
        let begun = Instant::now();
        let reports =
            leave_all(&targets, (0..BURST).map(|number| (number, message("", queue))).collect()).await;
        eprintln!("{queue}: {BURST} messages in {:?}", begun.elapsed());
        let failed = reports.values().find(|report| report.outcome != Outcome::Succeeded);
        assert!(failed.is_none(), "{queue}: {failed:?}");
        assert_eq!(server.length(queue).await, Some(u32::try_from(BURST).expect("small")));
        // On its own a round trip takes a tenth of a millisecond at the very least; a disk's sync, more.
        assert!(begun.elapsed() < Duration::from_secs(30), "{queue}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_arrives_as_its_job_describes_it() {
    let server = Rabbit::shared().await;
    server.queue("described", &[("x-max-priority", AMQPValue::LongInt(10))]).await;
    let targets = targets(&server.url());
    let described = AmqpTarget {
        payload: r#"{"é": 1}"#.to_owned(),
        headers: [("tenant".to_owned(), "t1".to_owned())].into(),
        content_type: Some("application/json".to_owned()),
        expiration: Some(Duration::from_secs(3_600)),
        priority: Some(2),
        ..message("", "described")
    };
    let urgent = AmqpTarget { priority: Some(9), persistent: false, ..message("", "described") };
    assert_eq!(leave(&targets, 1, described).await, Report::of(Outcome::Succeeded));
    assert_eq!(leave(&targets, 2, urgent).await, Report::of(Outcome::Succeeded));
    let there = server.take("described").await;
    let [urgent, described] = there.as_slice() else { panic!("{} messages", there.len()) };
    assert_eq!((urgent.header("chronarch-run-id").as_str(), urgent.properties.priority()), ("7-2", &Some(9)));
    assert_eq!(urgent.properties.delivery_mode(), &Some(1));
    assert_eq!((described.payload.as_str(), described.header("tenant").as_str()), (r#"{"é": 1}"#, "t1"));
    assert_eq!(described.header("idempotency-key"), "7-1");
    let it = &described.properties;
    let text = |of: &Option<lapin::types::ShortString>| of.as_ref().map(ToString::to_string);
    assert_eq!(text(it.message_id()).as_deref(), Some("c1:7-1"));
    assert_eq!(text(it.content_type()).as_deref(), Some("application/json"));
    assert_eq!((text(it.expiration()).as_deref(), it.delivery_mode()), (Some("3600000"), &Some(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_is_quoted_and_no_secret_is() {
    let server = Rabbit::shared().await;
    let one = AMQPValue::LongInt(1);
    let overflow = AMQPValue::LongString("reject-publish".into());
    server.queue("refuses", &[("x-max-length", one), ("x-overflow", overflow)]).await;
    let (_connection, channel) = server.channel().await;
    let internal = ExchangeDeclareOptions { internal: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare("refuses-internal".into(), ExchangeKind::Direct, internal, FieldTable::default())
        .await
        .expect("an exchange");
    let all = targets(&server.url());
    assert_eq!(leave(&all, 1, message("", "refuses")).await.outcome, Outcome::Succeeded);
    let full = leave(&all, 2, message("", "refuses")).await;
    assert_eq!((full.outcome, error(&full).split(':').next()), (Outcome::Failed, Some("broker_refused")));
    let internal = leave(&all, 3, message("refuses-internal", "x")).await;
    assert_eq!(internal.outcome, Outcome::Failed);
    assert!(
        error(&internal)
            .starts_with(&format!("{}: ACCESS_REFUSED - cannot publish to internal", refused_by(&server))),
        "{internal:?}"
    );
    // The channel that is closed with it was its own: the connection goes on.
    assert_eq!(server.take("refuses").await.len(), 1);
    assert_eq!(leave(&all, 4, message("", "refuses")).await.outcome, Outcome::Succeeded);

    let wrong = targets(&server.url().replace("127.0.0.1", "guest:s3cret@127.0.0.1"));
    let wrong = leave(&wrong, 5, message("", "refuses")).await;
    assert_eq!(wrong.outcome, Outcome::Failed);
    assert!(
        error(&wrong).starts_with("broker_unreachable: ") && !error(&wrong).contains("s3cret"),
        "{wrong:?}"
    );
    let elsewhere = targets(&format!("{}absent", server.url()));
    let elsewhere = leave(&elsewhere, 6, message("", "refuses")).await;
    assert!(
        error(&elsewhere).starts_with("broker_unreachable: ") && error(&elsewhere).contains("absent"),
        "{elsewhere:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_tls_is_trusted_by_its_own_authority_alone() {
    let server = Rabbit::shared().await;
    server.queue("encrypted", &[]).await;
    let (url, ca) = server.tls();
    let trusting = targets_with(&url, &format!("tls_ca = \"{ca}\""));
    assert_eq!(leave(&trusting, 1, message("", "encrypted")).await, Report::of(Outcome::Succeeded));
    // By another name it is another server.
    let other = targets_with(&url.replace("localhost", "127.0.0.1"), &format!("tls_ca = \"{ca}\""));
    for stranger in [other, targets(&url)] {
        let report = leave(&stranger, 2, message("", "encrypted")).await;
        assert_eq!(report.outcome, Outcome::Failed);
        assert!(error(&report).starts_with("broker_unreachable: "), "{report:?}");
    }
    assert_eq!(server.length("encrypted").await, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_fit_no_frame_are_not_sent() {
    let server = Rabbit::shared().await;
    server.queue("frames", &[]).await;
    let targets = targets(&server.url());
    let params = (0..40).map(|number| (format!("p{number}"), "x".repeat(4_096))).collect();
    let large = Order { params, ..order(1, message("", "frames")) };
    let large = targets.carry_out(&large, CancellationToken::new()).await;
    assert_eq!(large.outcome, Outcome::Refused);
    assert!(error(&large).starts_with("message_invalid: headers: "), "{large:?}");
    assert_eq!(leave(&targets, 2, message("", "frames")).await.outcome, Outcome::Succeeded);
    assert_eq!(server.length("frames").await, Some(1));
}

/// Why a task that lives longer than ten years has no expiration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_refuses_an_expiration_of_more_than_ten_years() {
    const TEN_YEARS_MS: u64 = 315_360_000_000;
    let server = Rabbit::shared().await;
    server.queue("expiring", &[]).await;
    let publish = async |millis: u64| {
        let (_connection, channel) = server.channel().await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let properties = BasicProperties::default().with_expiration(millis.to_string().into());
        let options = BasicPublishOptions::default();
        channel.basic_publish("".into(), "expiring".into(), options, b"x", properties).await?.await
    };
    let (taken, refused) = (publish(TEN_YEARS_MS).await, publish(TEN_YEARS_MS + 1).await);
    assert!(taken.is_ok(), "{taken:?}");
    let precondition = |error: &lapin::Error| error.to_string().contains("PRECONDITION_FAILED");
    assert!(refused.as_ref().is_err_and(precondition), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_nothing_for_a_while_says_why_and_one_that_is_silent_leaves_doubt() {
    let mut server = Rabbit::start().await;
    server.queue("work", &[]).await;
    let targets = targets(&server.url());
    assert_eq!(leave(&targets, 1, message("", "work")).await.outcome, Outcome::Succeeded);
    server.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await;
    // It says so to whoever sends the next message, of which it then says nothing.
    let order =
        |number| Order { timeout: Some(Duration::from_secs(2)), ..order(number, message("", "work")) };
    let blocked = eventually("the alarm to be told", || async {
        let report = targets.carry_out(&order(2), CancellationToken::new()).await;
        error(&report).starts_with("broker_blocked: ").then_some(report)
    })
    .await;
    assert!(blocked.outcome == Outcome::Failed && error(&blocked).contains("memory"), "{blocked:?}");
    server.control(&["set_vm_memory_high_watermark", "0.6"]).await;
    eventually("the alarm to be over", || async {
        (leave(&targets, 3, message("", "work")).await.outcome == Outcome::Succeeded).then_some(())
    })
    .await;

    server.take("work").await;
    server.signal(Signal::STOP);
    let silent = targets.carry_out(&order(4), CancellationToken::new()).await;
    assert_eq!(silent.outcome, Outcome::Unknown, "{silent:?}");
    assert!(error(&silent).starts_with("broker_unanswered: "), "{silent:?}");
    server.signal(Signal::CONT);
    // It had the message all the while.
    eventually("the message to be there", || async {
        (server.length("work").await == Some(1)).then_some(())
    })
    .await;
    server.kill();
    // What was sent before the end of the connection was noticed is in doubt, and what is sent after it is not.
    eventually("the server to be missed", || async {
        let gone = leave(&targets, 5, message("", "work")).await;
        (gone.outcome == Outcome::Failed && error(&gone).starts_with("broker_unreachable: ")).then_some(())
    })
    .await;
    server.start_again().await;
    assert_eq!(leave(&targets, 6, message("", "work")).await.outcome, Outcome::Succeeded);
    assert_eq!(counted(&server.take("work").await), [("7-4".to_owned(), 1), ("7-6".to_owned(), 1)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_dies_nothing_is_lost_and_what_is_doubled_was_in_doubt() {
    const JOBS: usize = 20;
    let mut server = Rabbit::start().await;
    let quorum = AMQPValue::LongString("quorum".into());
    server.queue("again", &[]).await;
    server.queue("once", &[("x-queue-type", quorum)]).await;
    let connection = format!("\n[connections.main]\nurl = \"{}\"\n", server.url());
    let mut harness = Harness::start(&connection).await;
    let job = |policy: &str, queue: &str, number: usize| {
        format!(
            "name: {queue}-{number}\nschedule: {{every: 500ms}}\noverlap: allow\ncatch_up: all\n\
             retry: {{max_attempts: 100, initial: 100ms, max: 2s}}\nbreaker: {{consecutive_failures: 0}}\n\
             retention: {{runs: 10000}}\n\
             target: {{amqp: {{connection: main, routing_key: {queue}, payload: x, on_ambiguous: {policy}}}}}\n---\n"
        )
    };
    let jobs: String =
        (0..JOBS).map(|number| job("republish", "again", number) + &job("skip", "once", number)).collect();
    harness.apply(&jobs).await;
    let grows = async |server: &Rabbit, by: u32| {
        let before = server.length("again").await.unwrap_or(0);
        eventually("messages to arrive", || async {
            server.length("again").await.filter(|now| *now >= before + by).map(drop)
        })
        .await;
    };
    for _ in 0..2 {
        grows(&server, 3 * JOBS as u32).await;
        server.kill();
        server.start_again().await;
        grows(&server, JOBS as u32).await;
        let leader = harness.leader().await;
        harness.cluster.kill(leader).await.expect("it ran");
        grows(&server, JOBS as u32).await;
        harness.cluster.start(leader).expect("a process");
    }
    for number in 0..JOBS {
        harness.pause(&format!("again-{number}")).await;
        harness.pause(&format!("once-{number}")).await;
    }
    harness.quiet().await;
    let doubtful = |run: &v1::Run| run.attempts.iter().any(|attempt| attempt.outcome() == v1::Outcome::Lost);
    let again = counted(&server.take("again").await);
    let (mut ran, mut doubled) = (BTreeSet::new(), 0);
    for number in 0..JOBS {
        for run in harness.runs(&format!("again-{number}")).await {
            assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
            let times = again.get(&run.run_id).copied().unwrap_or(0);
            assert!(times == 1 || (times > 1 && doubtful(&run)), "{times} times: {run:?}");
            doubled += times - 1;
            ran.insert(run.run_id);
        }
    }
    assert_eq!(ran, again.into_keys().collect(), "what is recorded is what was sent");
    let once = counted(&server.take("once").await);
    let (mut unsure, mut runs) = (0, BTreeSet::new());
    for number in 0..JOBS {
        for run in harness.runs(&format!("once-{number}")).await {
            let times = once.get(&run.run_id).copied().unwrap_or(0);
            let expected = match run.state() {
                RunState::Succeeded => times == 1,
                // Whether it is there is just what nobody knows.
                _ => run.state() == RunState::Failed && run.reason == "lost" && doubtful(&run) && times <= 1,
            };
            assert!(expected, "{times} times: {run:?}");
            unsure += u32::from(run.state() == RunState::Failed);
            runs.insert(run.run_id);
        }
    }
    let strange: Vec<_> = once.keys().filter(|run| !runs.contains(*run)).collect();
    assert!(strange.is_empty(), "sent and not recorded: {strange:?}");
    eprintln!(
        "{} runs of which {doubled} messages were doubled; {} runs of which {unsure} in doubt",
        ran.len(),
        runs.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_before_the_confirmation_leaves_what_on_ambiguous_says() {
    let server = Rabbit::start().await;
    server.queue("again", &[]).await;
    server.queue("once", &[]).await;
    let harness = Harness::start("").await;
    let endpoints = harness.cluster.endpoints();
    let way = Way::to(&endpoints);
    let text = format!("[connections.main]\nurl = \"{}\"\n", server.url());
    let mut first = Inside::connected("first", "apart", &text, (&endpoints, &way));
    for (queue, policy) in [("again", "republish"), ("once", "skip")] {
        let target = format!(
            "{{amqp: {{connection: main, routing_key: {queue}, payload: x, on_ambiguous: {policy}}}}}"
        );
        harness.apply(&format!("name: {queue}\nqueue: apart\ntarget: {target}\n")).await;
        // Once as it should be, so that the connection is open and its channel too.
        let run = harness.trigger(queue).await;
        assert_eq!(harness.ended(&run.run_id).await.state(), RunState::Succeeded);
        server.take(queue).await;
    }
    // The server stands still, so that the attempts are under way; then nobody hears what became of them.
    server.signal(Signal::STOP);
    let again = harness.trigger("again").await;
    let once = harness.trigger("once").await;
    first.until(|status| status.running == 2).await;
    way.cut();
    server.signal(Signal::CONT);
    for queue in ["again", "once"] {
        eventually("the message to be there", || async {
            (server.length(queue).await == Some(1)).then_some(())
        })
        .await;
    }
    first.end.abort();
    let mended = Way::to(&endpoints);
    let _second = Inside::connected("second", "apart", &text, (&endpoints, &mended));
    let again = harness.ended(&again.run_id).await;
    let outcomes: Vec<_> = again.attempts.iter().map(v1::Attempt::outcome).collect();
    assert_eq!(outcomes, [v1::Outcome::Lost, v1::Outcome::Succeeded], "{again:?}");
    let once = harness.ended(&once.run_id).await;
    assert_eq!(
        (once.state(), once.reason.as_str(), once.attempts.len()),
        (RunState::Failed, "lost", 1),
        "{once:?}"
    );
    let messages = server.take("again").await;
    let ids: BTreeSet<_> = messages.iter().map(|it| it.properties.message_id().clone()).collect();
    assert_eq!((messages.len(), ids.len()), (2, 1), "twice, and by its id the same");
    assert_eq!(server.take("once").await.len(), 1);
}
