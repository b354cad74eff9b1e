//! A Redis server of a test's own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use redis::FromRedisValue;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::eventually;

pub(crate) struct Server {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(port: u16, folder: &std::path::Path, more: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed (scripts/test does it)")
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Another one that has all that this one has.
    pub(crate) async fn replica(&self) -> Self {
        let more = ["--replicaof", "127.0.0.1", &self.port.to_string()].map(str::to_owned);
        let replica = Self::start_with(&more).await;
        eventually("the replica to follow", || async {
            let told: String = replica.ask(&["INFO", "replication"]).await;
            told.contains("master_link_status:up").then_some(())
        })
        .await;
        replica
    }

    async fn start_with(more: &[String]) -> Self {
        // It cannot be told to find a port for itself.
        let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let folder = tempfile::tempdir().expect("a folder");
        let server = Self { child: spawn(free, folder.path(), more), port: free, folder };
        server.answers().await;
        server
    }

    /// Ends it, with all that it holds.
    pub(crate) fn stop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    /// Starts it at the same place, empty.
    pub(crate) async fn start_again(&mut self) {
        self.child = spawn(self.port, self.folder.path(), &[]);
        self.answers().await;
    }

    async fn answers(&self) {
        eventually("redis-server to answer", || async { self.try_ask::<String>(&["PING"]).await.ok() }).await;
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    async fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut connection = redis::Client::open(self.url())?.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut connection).await
    }

    async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).await.expect("an answer")
    }

    pub(crate) async fn length(&self, list: &str) -> u64 {
        self.ask(&["LLEN", list]).await
    }

    /// The same of one that may end the connection meanwhile.
    pub(crate) async fn try_length(&self, list: &str) -> Option<u64> {
        self.try_ask(&["LLEN", list]).await.ok()
    }

    pub(crate) async fn list(&self, list: &str) -> Vec<String> {
        self.ask(&["LRANGE", list, "0", "-1"]).await
    }

    /// The first message of a list goes where kombu keeps those that a worker has and has not confirmed.
    pub(crate) async fn take_and_die(&self, list: &str) {
        let message: String = self.ask(&["RPOP", list]).await;
        let said: serde_json::Value = serde_json::from_str(&message).expect("JSON");
        let tag = said["properties"]["delivery_tag"].as_str().expect("a tag");
        let _: u64 = self.ask(&["HSET", "unacked", tag, &message]).await;
    }

    /// What lay in a list is gone.
    pub(crate) async fn purge(&self, list: &str) {
        let _: u64 = self.ask(&["DEL", list]).await;
    }

    pub(crate) async fn account(&self, name: &str, password: &str, rights: &str) {
        let password = format!(">{password}");
        let words = ["ACL", "SETUSER", name, "on", &password].into_iter().chain(rights.split_whitespace());
        let _: String = self.ask(&words.collect::<Vec<_>>()).await;
    }

    pub(crate) async fn members(&self, set: &str) -> u64 {
        self.ask(&["SCARD", set]).await
    }
}
