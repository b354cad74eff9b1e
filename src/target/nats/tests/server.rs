//! A NATS server of a test's own.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures::StreamExt;
use nkeys::KeyPair;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a server may take to answer after its start.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

pub(super) struct Server {
    child: Child,
    port: u16,
    /// Where it tells of its connections.
    monitor: u16,
    /// Who asks this test's own questions: nobody, a token, or a user with his password.
    as_whom: &'static str,
    folder: tempfile::TempDir,
}

/// A message as a stream keeps it.
pub(super) struct Message {
    pub(super) subject: String,
    pub(super) payload: String,
    pub(super) headers: BTreeMap<String, String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::start_with("", "").await
    }

    /// With more in its configuration, and a user in it who may do all.
    pub(super) async fn start_with(more: &str, as_whom: &'static str) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"), more, as_whom).await
    }

    /// Its certificate is for `localhost`.
    pub(super) async fn start_with_tls() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).expect("a certificate");
        let issuer = rcgen::Issuer::new(params, key);
        let leaf_key = rcgen::KeyPair::generate().expect("a key");
        let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let leaf = leaf.signed_by(&leaf_key, &issuer).expect("a certificate");
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        file("ca.pem", authority.pem());
        let (cert, key) = (file("cert.pem", leaf.pem()), file("key.pem", leaf_key.serialize_pem()));
        let more = format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\" }}");
        Self::start_in(folder, &more, "").await
    }

    /// Whose users have JWTs and nkeys; one of them is in the file of [`Self::credentials`].
    pub(super) async fn start_with_operator() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
        let user = KeyPair::new_user();
        // JetStream needs an account of the server's own, which has none of it.
        let system = KeyPair::new_account();
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
            "leaf": -1,
        });
        let mut streams = limits.clone();
        for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
            streams[limit] = (-1).into();
        }
        let may = |limits: &Value| json!({ "limits": limits, "default_permissions": { "pub": {}, "sub": {} }, "type": "account", "version": 2 });
        let operator_jwt = jwt(&operator, &operator, json!({ "type": "operator", "version": 2 }));
        let account_jwt = jwt(&operator, &account, may(&streams));
        let system_jwt = jwt(&operator, &system, may(&limits));
        let may = json!({
            "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2,
        });
        let user_jwt = jwt(&account, &user, may);
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().expect("it was made")
        );
        std::fs::write(folder.path().join("creds"), creds).expect("a file");
        let more = format!(
            "operator: {operator_jwt}\nsystem_account: {}\nresolver: MEMORY\n\
             resolver_preload {{\n{}: {account_jwt}\n{}: {system_jwt}\n}}",
            system.public_key(),
            account.public_key(),
            system.public_key()
        );
        Self::start_in(folder, &more, "").await
    }

    async fn start_in(folder: tempfile::TempDir, more: &str, as_whom: &'static str) -> Self {
        let (port, monitor) = (free_port(), free_port());
        let store = folder.path().join("streams");
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\njetstream {{ store_dir: \"{}\" }}\n{more}\n",
            store.display()
        );
        std::fs::write(folder.path().join("server.conf"), text).expect("a file");
        let server = Self { child: spawn(&folder), port, monitor, as_whom, folder };
        server.answers().await;
        server
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The file of the authority that its certificate is of.
    pub(super) fn authority(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }

    /// The file of a user's credentials.
    pub(super) fn credentials(&self) -> String {
        self.folder.path().join("creds").display().to_string()
    }

    /// Ends it, and keeps its disk.
    pub(super) fn kill(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(super) async fn start_again(&mut self) {
        self.child = spawn(&self.folder);
        self.answers().await;
    }

    /// It stands still, all of it: a thread may go on for a moment after the signal was sent.
    pub(super) async fn stop(&self) {
        self.signal(Signal::STOP);
        let begun = Instant::now();
        let threads = format!("/proc/{}/task", self.child.id());
        let is_stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(thread.expect("a thread").path().join("stat"));
            // One that has ended is not there.
            stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
        };
        while !std::fs::read_dir(&threads).expect("a process").all(is_stopped) {
            assert!(begun.elapsed() < STARTS_WITHIN, "nats-server does not stop");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    async fn answers(&self) {
        let begun = Instant::now();
        loop {
            if let Ok(client) = self.try_connect().await
                && client.request("$JS.API.INFO", "".into()).await.is_ok()
            {
                return;
            }
            assert!(begun.elapsed() < STARTS_WITHIN, "nats-server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn try_connect(&self) -> Result<Client, async_nats::ConnectError> {
        let mut options = ConnectOptions::new();
        let authority = self.folder.path().join("ca.pem");
        if authority.exists() {
            options = options.add_root_certificates(authority).require_tls(true);
        }
        options = match self.as_whom.split_once(':') {
            Some((name, password)) => options.user_and_password(name.to_owned(), password.to_owned()),
            None if self.as_whom.is_empty() => options,
            None => options.token(self.as_whom.to_owned()),
        };
        let creds = self.folder.path().join("creds");
        if creds.exists() {
            options = options.credentials_file(creds).await.expect("credentials");
        }
        options.connect(format!("nats://localhost:{}", self.port)).await
    }

    async fn connect(&self) -> Client {
        self.try_connect().await.expect("it answers")
    }

    /// What JetStream answers.
    pub(super) async fn request(&self, subject: &str, words: Value) -> Value {
        let client = self.connect().await;
        let answer = client.request(subject.to_owned(), words.to_string().into()).await.expect("an answer");
        let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
        assert!(answer.get("error").is_none(), "{subject}: {answer}");
        answer
    }

    pub(super) async fn stream(&self, name: &str, mut options: Value) {
        options["name"] = name.into();
        self.request(&format!("$JS.API.STREAM.CREATE.{name}"), options).await;
    }

    /// How many messages a stream has.
    pub(super) async fn messages(&self, stream: &str) -> u64 {
        let info = self.request(&format!("$JS.API.STREAM.INFO.{stream}"), json!({})).await;
        info["state"]["messages"].as_u64().expect("a number")
    }

    pub(super) async fn message(&self, stream: &str, number: u64) -> Message {
        let asked = format!("$JS.API.STREAM.MSG.GET.{stream}");
        let answer = self.request(&asked, json!({ "seq": number })).await;
        let text = |name: &str| {
            let encoded = answer["message"][name].as_str().unwrap_or_default();
            String::from_utf8(STANDARD.decode(encoded).expect("base64")).expect("text")
        };
        let headers = text("hdrs");
        let headers = headers.lines().filter_map(|line| line.split_once(": "));
        Message {
            subject: answer["message"]["subject"].as_str().unwrap_or_default().to_owned(),
            payload: text("data"),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        }
    }

    /// How many connections the product has had.
    pub(super) async fn connections(&self) -> usize {
        let url = format!("http://127.0.0.1:{}/connz?state=all", self.monitor);
        let text = reqwest::get(url).await.expect("an answer").text().await.expect("a text");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let all = answer["connections"].as_array().expect("a list").iter();
        all.filter(|one| one["name"] == "chronarch").count()
    }

    /// Somebody who is sent what goes there, and keeps it, as long as he is kept.
    pub(super) async fn silent(&self, subject: &str) -> (Client, async_nats::Subscriber) {
        let client = self.connect().await;
        let subscriber = client.subscribe(subject.to_owned()).await.expect("it may");
        subscribed(&client).await;
        (client, subscriber)
    }

    /// Somebody who answers what is sent there, as long as the task is kept.
    pub(super) async fn answering(&self, subject: &str, words: &'static str) -> JoinHandle<()> {
        let client = self.connect().await;
        let mut subscriber = client.subscribe(subject.to_owned()).await.expect("it may");
        subscribed(&client).await;
        tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                let to = message.reply.expect("somebody waits");
                client.publish(to, words.into()).await.expect("it answers");
            }
        })
    }
}

/// The server has what the client subscribed to: it answers what came behind that. To flush sees to it that it is sent.
async fn subscribed(client: &Client) {
    client.request("$JS.API.INFO", "".into()).await.expect("an answer");
}

/// What the one says of the other, signed.
fn jwt(by: &KeyPair, of: &KeyPair, what: Value) -> String {
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" }).to_string();
    let claims = json!({
        "jti": of.public_key(), "iat": 1_651_790_970, "iss": by.public_key(), "name": "test",
        "sub": of.public_key(), "nats": what,
    });
    let said = [head, claims.to_string()].map(|text| URL_SAFE_NO_PAD.encode(text)).join(".");
    let signature = URL_SAFE_NO_PAD.encode(by.sign(said.as_bytes()).expect("it has its seed"));
    format!("{said}.{signature}")
}

fn spawn(folder: &tempfile::TempDir) -> Child {
    Command::new("nats-server")
        .arg("--config")
        .arg(folder.path().join("server.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server is installed (scripts/test does it)")
}
