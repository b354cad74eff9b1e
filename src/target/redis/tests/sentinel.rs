//! What is left when another server becomes the master, as real sentinels see to it.

use futures::StreamExt;

use super::*;

/// How long sentinels may take to make another server the master.
const FAILS_OVER_WITHIN: Duration = Duration::from_secs(60);

/// A sentinel of this test's own, which asks for a password.
struct Sentinel {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sentinel {
    async fn start(master: &Server) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let text = format!(
            "port {port}\nbind 127.0.0.1\nprotected-mode no\ndir {dir}\nrequirepass watch-secret\n\
             sentinel monitor mymaster 127.0.0.1 {} 1\nsentinel down-after-milliseconds mymaster 500\n\
             sentinel failover-timeout mymaster 3000\n",
            master.port,
            dir = folder.path().display()
        );
        // It writes there what it knows.
        let file = folder.path().join("sentinel.conf");
        std::fs::write(&file, text).expect("a file");
        std::fs::write(folder.path().join("password"), "watch-secret\n").expect("a file");
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed (scripts/test does it)");
        let sentinel = Self { child, port, folder };
        let begun = tokio::time::Instant::now();
        // It has heard of the replica when it can make it the master.
        while sentinel.try_ask(&["SENTINEL", "REPLICAS", "mymaster"]).await.is_none() {
            assert!(begun.elapsed() < STARTS_WITHIN, "the sentinel does not know the replica");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sentinel
    }

    /// What it answers, unless that is nothing.
    async fn try_ask(&self, words: &[&str]) -> Option<::redis::Value> {
        let url = format!("redis://:watch-secret@127.0.0.1:{}", self.port);
        let mut connection =
            ::redis::Client::open(url).ok()?.get_multiplexed_async_connection().await.ok()?;
        let mut command = ::redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        let answer: ::redis::Value = command.query_async(&mut connection).await.ok()?;
        (answer != ::redis::Value::Array(Vec::new())).then_some(answer)
    }

    /// What a worker has that knows it, and one that is not there before it.
    fn connection(&self) -> (String, String) {
        let url = format!("redis-sentinel://127.0.0.1:{},127.0.0.1:{}/mymaster/0", free_port(), self.port);
        let file = self.folder.path().join("password");
        (url, format!("sentinel_password_file = \"{}\"", file.display()))
    }

    fn targets(&self) -> Arc<Targets> {
        let (url, more) = self.connection();
        targets(&url, &more)
    }
}

/// A master, and one that has all that it has.
async fn pair() -> (Server, Server) {
    let master = Server::start().await;
    let follows = ["--replicaof", "127.0.0.1", &master.port.to_string()];
    let replica = Server::start_at(free_port(), &follows).await;
    let begun = tokio::time::Instant::now();
    while !replica.ask::<String>(&["INFO", "replication"]).await.contains("master_link_status:up") {
        assert!(begun.elapsed() < STARTS_WITHIN, "the replica has no master");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (master, replica)
}

#[tokio::test]
async fn when_the_master_dies_the_next_one_is_found_with_what_it_knew() {
    let (mut master, replica) = pair().await;
    let sentinel = Sentinel::start(&master).await;
    let targets = sentinel.targets();
    assert_eq!(carry_out(&targets, &order("7-1", list())).await, Report::of(Outcome::Succeeded));
    assert_eq!(master.ask::<u64>(&["WAIT", "1", "0"]).await, 1);
    let (url, more) = sentinel.connection();
    let text = format!("[connections.main]\nurl = \"{url}\"\n{more}");
    let connection = connections::read("test", &text).expect("connections").remove("main").expect("main");
    let link = Link::new(connection);
    let mut events = link.listen("heard.*").await.expect("it listens");
    master.child.kill().expect("killed");
    master.child.wait().expect("dead");
    assert!(events.next().await.is_none(), "who listens is told that the connection broke");

    let begun = tokio::time::Instant::now();
    let mut attempt = 1;
    loop {
        let report = carry_out(&targets, &Order { attempt, ..order("7-2", list()) }).await;
        if report.outcome == Outcome::Succeeded {
            break;
        }
        let why = error(&report);
        assert!(why.starts_with("broker_unreachable: ") || why.starts_with("broker_unanswered: "), "{why}");
        assert!(begun.elapsed() < FAILS_OVER_WITHIN, "{why}");
        attempt += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("the next master took a message {:?} after the death of the last", begun.elapsed());
    // What had been left is known there too.
    let report = carry_out(&targets, &Order { attempt: 2, ..order("7-1", list()) }).await;
    assert_eq!(error(&report), "an earlier attempt of the run had sent the message");
    assert_eq!(replica.ask::<u64>(&["LLEN", "work"]).await, 2);
    let mut events = link.listen("heard.*").await.expect("it listens there");
    assert_eq!(replica.ask::<u64>(&["PUBLISH", "heard.x", "y"]).await, 1);
    let heard = events.next().await.expect("a message").get_payload::<String>();
    assert_eq!(heard.expect("a text"), "y");
}

#[tokio::test]
async fn a_master_that_is_none_any_more_refuses_one_command_and_the_attempt_goes_to_the_next_one() {
    let (old, new) = pair().await;
    let sentinel = Sentinel::start(&old).await;
    let targets = sentinel.targets();
    assert_eq!(carry_out(&targets, &order("7-1", list())).await, Report::of(Outcome::Succeeded));
    // What a replica has not heard of is lost with the master.
    let begun = tokio::time::Instant::now();
    while new.ask::<u64>(&["LLEN", "work"]).await == 0 {
        assert!(begun.elapsed() < STARTS_WITHIN, "nothing is replicated");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let port = new.port.to_string();
    // As a failover does, but for the connections: they stay.
    for words in [["REMOVE", "mymaster", "", "", ""], ["MONITOR", "mymaster", "127.0.0.1", &port, "1"]] {
        if words[0] == "MONITOR" {
            new.ask::<String>(&["REPLICAOF", "NO", "ONE"]).await;
            old.ask::<String>(&["REPLICAOF", "127.0.0.1", &port]).await;
        }
        let words = ["SENTINEL"].into_iter().chain(words.into_iter().filter(|word| !word.is_empty()));
        sentinel.try_ask(&words.collect::<Vec<_>>()).await.expect("it does");
    }
    assert_eq!(carry_out(&targets, &order("7-2", list())).await, Report::of(Outcome::Succeeded));
    assert_eq!(new.ask::<u64>(&["LLEN", "work"]).await, 2);
    let refused = async || {
        let told: String = old.ask(&["INFO", "errorstats"]).await;
        told.lines().filter(|line| line.contains("READONLY")).collect::<String>()
    };
    assert_eq!(refused().await, "errorstat_READONLY:count=1");
    assert_eq!(carry_out(&targets, &order("7-3", list())).await, Report::of(Outcome::Succeeded));
    assert_eq!(refused().await, "errorstat_READONLY:count=1", "it is not asked again");
}

#[tokio::test]
async fn a_sentinel_that_names_one_that_is_no_master_is_not_believed() {
    let (master, replica) = pair().await;
    let sentinel = Sentinel::start(&master).await;
    sentinel.try_ask(&["SENTINEL", "REMOVE", "mymaster"]).await.expect("it does");
    let port = replica.port.to_string();
    sentinel.try_ask(&["SENTINEL", "MONITOR", "mymaster", "127.0.0.1", &port, "1"]).await.expect("it does");
    let report = carry_out(&sentinel.targets(), &order("7-1", list())).await;
    let says = format!(
        " and 1 more): sentinel 127.0.0.1:{}: its master 127.0.0.1:{port}: it is a replica, and no master (any more)",
        sentinel.port
    );
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(error(&report).starts_with("broker_unreachable: connection main ("), "{}", error(&report));
    assert!(error(&report).ends_with(&says), "{}", error(&report));
    let (url, more) = sentinel.connection();
    let unknown = targets(&url.replace("mymaster", "other"), &more);
    let report = carry_out(&unknown, &order("7-1", list())).await;
    assert!(error(&report).ends_with("it knows no master \"other\""), "{}", error(&report));
    let report = carry_out(&targets(&url, ""), &order("7-1", list())).await;
    let says = "NOAUTH: it wants a password, and the connection has none";
    assert!(
        error(&report).contains(" and 1 more): sentinel ") && error(&report).ends_with(says),
        "{}",
        error(&report)
    );
}

#[tokio::test]
async fn a_plain_server_that_is_no_master_is_told_as_such() {
    let (_master, replica) = pair().await;
    let report = carry_out(&replica.targets(), &order("7-1", list())).await;
    assert_eq!(report.outcome, Outcome::Failed);
    let says = failed("broker_unreachable", &replica, "READONLY ");
    assert!(error(&report).starts_with(&says), "{}", error(&report));
}

/// As an operator does who takes a machine out of service: the old master lives, and takes what it is given for about
/// ten seconds more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_costs_no_more_than_what_was_on_its_way() {
    const EVERY: Duration = Duration::from_millis(50);
    /// Those of half a second.
    const LOST_MAX: usize = 10;
    let (old, new) = pair().await;
    let (first, second) = (Sentinel::start(&old).await, Sentinel::start(&old).await);
    for sentinel in [&first, &second] {
        until("the sentinels know each other", async || {
            sentinel.try_ask(&["SENTINEL", "SENTINELS", "mymaster"]).await
        })
        .await;
    }
    let (url, more) = first.connection();
    let url = url.replace("/mymaster", &format!(",127.0.0.1:{}/mymaster", second.port));
    let text = format!("[connections.main]\nurl = \"{url}\"\n{more}");
    let connection = connections::read("test", &text).expect("connections").remove("main").expect("main");
    // As what watches the tasks of Celery does.
    let watching = Link::new(connection);
    let mut events = watching.listen("heard.*").await.expect("it listens");
    assert_eq!(watching.members("known").await.expect("an answer"), Vec::<String>::new());
    let targets = targets(&url, &more);
    let mut sending = tokio::task::JoinSet::new();
    let mut number = 0;
    let mut send = |sending: &mut tokio::task::JoinSet<(String, Report)>| {
        let (targets, run) = (Arc::clone(&targets), format!("7-{number}"));
        number += 1;
        sending.spawn(async move {
            let bare = RedisTarget { payload: run.clone(), headers: BTreeMap::new(), bare: true, ..list() };
            let report = carry_out(&targets, &order(&run, bare)).await;
            (run, report)
        });
    };
    let mut ticks = tokio::time::interval(EVERY);
    for _ in 0..20 {
        ticks.tick().await;
        send(&mut sending);
    }
    // Not the one that the worker had asked.
    until("the sentinel makes the other one the master", async || {
        second.try_ask(&["SENTINEL", "FAILOVER", "mymaster"]).await
    })
    .await;
    let begun = tokio::time::Instant::now();
    let named = async |sentinel: &Sentinel| {
        let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"];
        let answer: Option<(String, u16)> =
            ::redis::from_redis_value(sentinel.try_ask(&asked).await?).ok()?;
        answer.map(|(_, port)| port)
    };
    let mut after = 0;
    while after < 40 {
        ticks.tick().await;
        send(&mut sending);
        let all = [named(&first).await, named(&second).await];
        after += usize::from(all == [Some(new.port); 2]);
        assert!(begun.elapsed() < FAILS_OVER_WITHIN, "{all:?}");
    }
    let ended = sending.join_all().await;
    new.ask::<u64>(&["SADD", "known", "here"]).await;
    assert_eq!(watching.members("known").await.expect("an answer"), ["here"]);
    let ended_with = tokio::time::timeout(STARTS_WITHIN, events.next()).await;
    assert!(ended_with.expect("it is told that the master is another one").is_none());
    let mut events = watching.listen("heard.*").await.expect("it listens there");
    assert_eq!(new.ask::<u64>(&["PUBLISH", "heard.x", "y"]).await, 1);
    assert!(events.next().await.is_some());
    let role: Vec<::redis::Value> = old.ask(&["ROLE"]).await;
    assert_eq!(role[0], ::redis::Value::BulkString(b"master".to_vec()), "it takes messages still");
    let there: std::collections::BTreeSet<String> =
        new.ask::<Vec<String>>(&["LRANGE", "work", "0", "-1"]).await.into_iter().collect();
    let failed: Vec<_> = ended.iter().filter(|(_, report)| report.outcome != Outcome::Succeeded).collect();
    let lost: Vec<&String> = ended
        .iter()
        .filter(|(run, report)| report.outcome == Outcome::Succeeded && !there.contains(run))
        .map(|(run, _)| run)
        .collect();
    eprintln!("of {} messages {} failed and {} are lost: {lost:?}", ended.len(), failed.len(), lost.len());
    assert!(failed.is_empty(), "{failed:?}");
    assert!(lost.len() <= LOST_MAX, "{} of {}: {lost:?}", lost.len(), ended.len());
}

async fn until<T>(what: &str, is_so: impl AsyncFn() -> Option<T>) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        if let Some(found) = is_so().await {
            return found;
        }
        assert!(begun.elapsed() < STARTS_WITHIN, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
