//! A RabbitMQ server of a test's own, or of all tests that do it no harm.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lapin::options::{BasicGetOptions, ExchangeDeleteOptions, QueueDeclareOptions};
use lapin::protocol::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::harness::eventually;

/// Where Debian has the program, and not the script that changes the user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// How long a server may take to answer after its start: it writes a lot to the disk, which others may keep busy.
const STARTS_WITHIN: Duration = Duration::from_secs(180);

pub(crate) struct Rabbit {
    broker: Child,
    /// `epmd`, by which the tools find the server's other port.
    names: Child,
    port: u16,
    names_port: u16,
    tls_port: u16,
    folder: tempfile::TempDir,
}

/// What a queue had.
pub(crate) struct Message {
    pub(crate) properties: BasicProperties,
    pub(crate) payload: String,
}

impl Message {
    pub(crate) fn header(&self, name: &str) -> String {
        let headers = self.properties.headers().as_ref().expect("headers");
        match headers.inner().get(name) {
            Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
            other => panic!("{name}: {other:?}"),
        }
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        self.kill();
        // It may be gone already.
        let _ = self.names.kill();
        let _ = self.names.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("an address").port()
}

/// What a server is told that listens with TLS too; its authority is in `ca.pem`, its certificate for `localhost`.
fn with_tls(port: u16, folder: &Path) -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate");
    let issuer = rcgen::Issuer::new(params, key);
    let leaf_key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&leaf_key, &issuer).expect("a certificate");
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (ca, cert) = (file("ca.pem", authority.pem()), file("cert.pem", leaf.pem()));
    let key = file("key.pem", leaf_key.serialize_pem());
    format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {ca}\nssl_options.certfile = {cert}\n\
         ssl_options.keyfile = {key}\nssl_options.verify = verify_none\n"
    )
}

fn told(program: &Path, port: u16, names_port: u16, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("RABBITMQ_NODENAME", format!("test-{port}@localhost"))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", port.to_string())
        .env("RABBITMQ_MNESIA_BASE", folder.join("data"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_PID_FILE", folder.join("pid"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
        .env("RABBITMQ_CONFIG_FILE", folder.join("server.conf"))
        .env("RABBITMQ_CONF_ENV_FILE", folder.join("none.conf"))
        .env("ERL_EPMD_PORT", names_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn spawn(port: u16, names_port: u16, folder: &Path) -> Child {
    let erlang = "-start_epmd false +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
    let said = std::fs::File::options().create(true).append(true).open(folder.join("said")).expect("a file");
    told(&Path::new(PROGRAMS).join("rabbitmq-server"), port, names_port, folder)
        .stdout(said.try_clone().expect("a file"))
        .stderr(said)
        .env("RABBITMQ_DIST_PORT", free_port().to_string())
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang)
        // A script with the server below it.
        .process_group(0)
        .spawn()
        .expect("rabbitmq-server is installed (scripts/test does it)")
}

impl Rabbit {
    pub(crate) async fn start() -> Self {
        // Neither can be told to find a port for itself.
        let (port, names_port) = (free_port(), free_port());
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("none.conf"), "").expect("a file");
        let tls_port = free_port();
        std::fs::write(folder.path().join("server.conf"), with_tls(tls_port, folder.path())).expect("a file");
        let names = Command::new("epmd")
            .args(["-port", &names_port.to_string(), "-address", "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("epmd comes with rabbitmq-server");
        let broker = spawn(port, names_port, folder.path());
        let server = Self { broker, names, port, names_port, tls_port, folder };
        server.answers().await;
        server
    }

    /// The one that tests share which run at the same time: it takes seconds to start.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Rabbit>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&server);
        server
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.broker.id()).ok().and_then(Pid::from_raw).expect("a process");
        // It may be gone already.
        let _ = kill_process_group(pid, signal);
    }

    /// Ends it, and keeps its disk.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.broker.wait();
    }

    /// Starts it at the same place, with what it had written.
    pub(crate) async fn start_again(&mut self) {
        // What is killed goes a little later than the script above it.
        eventually("the old one to be gone", || async {
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err().then_some(())
        })
        .await;
        self.broker = spawn(self.port, self.names_port, self.folder.path());
        self.answers().await;
    }

    async fn answers(&self) {
        let begun = Instant::now();
        while self.try_connect().await.is_err() {
            let said = || std::fs::read_to_string(self.folder.path().join("said")).unwrap_or_default();
            assert!(begun.elapsed() < STARTS_WITHIN, "rabbitmq-server does not answer: {}", said());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// `rabbitmqctl`.
    pub(crate) async fn control(&self, args: &[&str]) -> String {
        let told =
            told(&Path::new(PROGRAMS).join("rabbitmqctl"), self.port, self.names_port, self.folder.path());
        let mut command = tokio::process::Command::from(told);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let done = command.output().await.expect("it starts");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// What the server calls the connections of an account.
    pub(crate) async fn connections(&self, account: &str) -> BTreeSet<String> {
        let said = self.control(&["list_connections", "--quiet", "--no-table-headers", "pid", "user"]).await;
        said.lines().filter(|line| line.ends_with(account)).map(str::to_owned).collect()
    }

    pub(crate) async fn remove_exchange(&self, name: &str) {
        let (_connection, channel) = self.channel().await;
        channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.expect("an exchange");
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}/", self.port)
    }

    /// Where it listens with TLS, and the file of its authority.
    pub(crate) fn tls(&self) -> (String, String) {
        let ca = self.folder.path().join("ca.pem").display().to_string();
        (format!("amqps://guest:guest@localhost:{}/", self.tls_port), ca)
    }

    async fn try_connect(&self) -> lapin::Result<Connection> {
        let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port);
        Connection::connect(&url, ConnectionProperties::default()).await
    }

    /// A channel, as long as its connection is kept.
    pub(crate) async fn channel(&self) -> (Connection, Channel) {
        let connection = self.try_connect().await.expect("it answers");
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }

    /// Declares a durable queue.
    pub(crate) async fn queue(&self, name: &str, arguments: &[(&str, AMQPValue)]) {
        let (_connection, channel) = self.channel().await;
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.into(), options, table).await.expect("a queue");
    }

    /// How many messages a queue has for consumers; None: there is no such queue.
    pub(crate) async fn length(&self, queue: &str) -> Option<u32> {
        let (_connection, channel) = self.channel().await;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        declared.ok().map(|queue| queue.message_count())
    }

    /// Takes all that a queue has.
    pub(crate) async fn take(&self, queue: &str) -> Vec<Message> {
        let (_connection, channel) = self.channel().await;
        let mut messages = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(got) = channel.basic_get(queue.into(), options).await.expect("a queue") {
            let delivery = got.delivery;
            let payload = String::from_utf8_lossy(&delivery.data).into_owned();
            messages.push(Message { properties: delivery.properties, payload });
        }
        messages
    }
}
