//! Messages that are left with a Redis server that sentinels watch, and that dies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use chronarch::clock::Clock;
use chronarch::pb::v1::RunState;
use serde_json::Value;

use super::server::Server;
use crate::harness::{Harness, eventually};

/// How long sentinels miss a server before they believe that it is gone.
const DOWN_AFTER_MILLIS: i64 = 1_000;

/// Three, of which two have to agree.
struct Sentinels {
    children: Vec<Child>,
    ports: Vec<u16>,
    _folder: tempfile::TempDir,
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may be gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Sentinels {
    async fn start(master: &Server) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut children, mut ports) = (Vec::new(), Vec::new());
        for number in 0..3 {
            let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
            let text = format!(
                "port {}\nbind 127.0.0.1\nprotected-mode no\ndir {}\n\
                 sentinel monitor mymaster 127.0.0.1 {} 2\nsentinel down-after-milliseconds mymaster {DOWN_AFTER_MILLIS}\n\
                 sentinel failover-timeout mymaster 5000\n",
                free.port(),
                folder.path().display(),
                master.port()
            );
            // It writes there what it knows.
            let file = folder.path().join(format!("sentinel-{number}.conf"));
            std::fs::write(&file, text).expect("a file");
            let child = Command::new("redis-server")
                .arg(&file)
                .arg("--sentinel")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server is installed (scripts/test does it)");
            children.push(child);
            ports.push(free.port());
        }
        let all = Self { children, ports, _folder: folder };
        for port in all.ports.clone() {
            eventually("the sentinels to know each other and the replica", || async move {
                let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).expect("a URL");
                let mut connection = client.get_multiplexed_async_connection().await.ok()?;
                let mut known = Vec::new();
                for of in ["SENTINELS", "REPLICAS"] {
                    let mut asked = redis::cmd("SENTINEL");
                    let told: Vec<redis::Value> =
                        asked.arg(of).arg("mymaster").query_async(&mut connection).await.ok()?;
                    known.push(told.len());
                }
                (known == [2, 1]).then_some(())
            })
            .await;
        }
        all
    }

    fn connection(&self) -> String {
        let named: Vec<String> = self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("\n[connections.main]\nurl = \"redis-sentinel://{}/mymaster/0\"\n", named.join(","))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_master_of_sentinels_dies_runs_go_on_and_none_is_lost_in_silence() {
    const JOBS: usize = 20;
    let mut master = Server::start().await;
    let replica = master.replica().await;
    let sentinels = Sentinels::start(&master).await;
    let harness = Harness::start(&sentinels.connection()).await;
    let jobs: String = (0..JOBS)
        .map(|job| {
            format!(
                "name: push-{job}\nschedule: {{every: 500ms}}\noverlap: allow\ncatch_up: all\n\
                 retry: {{max_attempts: 100, initial: 100ms, max: 1s}}\nbreaker: {{consecutive_failures: 0}}\n\
                 retention: {{runs: 10000}}\n\
                 target: {{redis: {{connection: main, list: work, payload: x}}}}\n---\n"
            )
        })
        .collect();
    harness.apply(&jobs).await;
    let grows = async || {
        // Who makes it the master ends its connections, this one too.
        let length = || async { replica.try_length("work").await };
        let until = eventually("it to answer", length).await + 4 * JOBS as u64;
        eventually("messages to arrive", || async { (length().await? >= until).then_some(()) }).await;
    };
    grows().await;
    master.stop();
    let died_at = Clock::system().now();
    grows().await;
    for job in 0..JOBS {
        harness.pause(&format!("push-{job}")).await;
    }
    harness.quiet().await;

    let mut messages: BTreeMap<String, u32> = BTreeMap::new();
    for message in replica.list("work").await {
        let message: Value = serde_json::from_str(&message).expect("JSON");
        let run = message["headers"]["chronarch-run-id"].as_str().expect("a run id").to_owned();
        *messages.entry(run).or_default() += 1;
    }
    let doubled: Vec<_> = messages.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "left more than once: {doubled:?}");
    let (mut runs, mut lost) = (BTreeSet::new(), 0);
    for job in 0..JOBS {
        for run in harness.runs(&format!("push-{job}")).await {
            assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
            if !messages.contains_key(&run.run_id) {
                // The dead master had it, and said so before the replica heard.
                let ended = run.attempts.last().and_then(|last| last.finished_at).expect("it ended");
                let ended = ended.seconds * 1_000 + i64::from(ended.nanos / 1_000_000);
                // Its report takes a moment; before sentinels have missed it for so long, there is no other master.
                assert!(ended <= died_at.millis() + DOWN_AFTER_MILLIS, "lost in silence: {run:?}");
                lost += 1;
            }
            runs.insert(run.run_id);
        }
    }
    let strange: Vec<_> = messages.keys().filter(|run| !runs.contains(*run)).collect();
    assert!(strange.is_empty(), "left and not recorded: {strange:?}");
    eprintln!("{} runs, of which {lost} died with the master that had acknowledged them", runs.len());
}
