//! `chronarch dev`: a local cluster of real node processes in one terminal.
//!
//! Each node is this very program run as `server`, so what is tried out is what is shipped. The nodes'
//! logs come out on stderr, each line behind the node's number. Ctrl-C stops them cleanly, last one
//! last; if a node ends by itself, it is said, and the others go on: kill one to see what happens.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Ports of the first node; the others follow. The client ports are the CLI's default endpoints.
const CLIENT_PORT: u16 = 7_401;
const PEER_PORT: u16 = 7_501;

/// What a local cluster is started with.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// How many nodes, 1 to 9.
    pub nodes: u8,
    /// Where their data lives.
    pub data_dir: PathBuf,
    /// The program to run as `server`.
    pub program: PathBuf,
    /// Passed on to each node.
    pub log_format: String,
}

/// Why a local cluster does not start.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A port is taken.
    #[error("port {port} of 127.0.0.1 cannot be used: {source}")]
    Port {
        /// Which.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A node does not start.
    #[error("node {node} does not start: {source}")]
    Start {
        /// Which.
        node: u8,
        /// Why.
        source: io::Error,
    },
}

/// Where clients reach node `node` of a local cluster.
#[must_use]
pub fn endpoint(node: u8) -> String {
    format!("127.0.0.1:{}", CLIENT_PORT + u16::from(node) - 1)
}

fn peer(node: u8) -> String {
    format!("127.0.0.1:{}", PEER_PORT + u16::from(node) - 1)
}

/// Runs the cluster until `stop` is cancelled, then stops it cleanly. `say` gets what people should read.
///
/// # Errors
/// [`DevError`] when it does not start; nothing runs then.
pub async fn run(options: DevOptions, stop: CancellationToken, say: impl Fn(&str)) -> Result<(), DevError> {
    for node in 1..=options.nodes {
        for port in [CLIENT_PORT, PEER_PORT].map(|first| first + u16::from(node) - 1) {
            std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|source| DevError::Port { port, source })?;
        }
    }
    let mut children = BTreeMap::new();
    let mut logs = JoinSet::new();
    for node in 1..=options.nodes {
        let config = write_config(&options, node)?;
        let mut child = start(&options, &config).map_err(|source| DevError::Start { node, source })?;
        if let Some(stderr) = child.stderr.take() {
            logs.spawn(copy(node, stderr));
        }
        say(&format!("node {node}  pid {}  endpoint {}", child.id().unwrap_or(0), endpoint(node)));
        children.insert(node, child);
    }
    let endpoints: Vec<String> = (1..=options.nodes).map(endpoint).collect();
    say(&format!("endpoints {}", endpoints.join(",")));
    say(&format!("metrics   http://{}/metrics", endpoint(1)));
    say("stop with Ctrl-C");
    watch(&mut children, &stop, &say).await;
    for child in children.values() {
        if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw) {
            // It may have ended in this moment, and then there is nothing to stop.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
    for child in children.values_mut() {
        let _ = child.wait().await;
    }
    while logs.join_next().await.is_some() {}
    Ok(())
}

/// Waits for the wish to stop, and says when a node ends by itself.
async fn watch(children: &mut BTreeMap<u8, Child>, stop: &CancellationToken, say: &impl Fn(&str)) {
    while !children.is_empty() {
        let ended = {
            let mut waits: futures::stream::FuturesUnordered<_> =
                children.iter_mut().map(|(node, child)| async move { (*node, child.wait().await) }).collect();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(ended) = futures::StreamExt::next(&mut waits) => ended,
            }
        };
        let (node, status) = ended;
        match status {
            Ok(status) => say(&format!("node {node} has ended: {status}")),
            Err(error) => say(&format!("node {node} cannot be watched: {error}")),
        }
        children.remove(&node);
    }
}

fn write_config(options: &DevOptions, node: u8) -> Result<PathBuf, DevError> {
    let path = options.data_dir.join(format!("node-{node}.toml"));
    let file = |source| DevError::File { path: path.clone(), source };
    std::fs::create_dir_all(&options.data_dir).map_err(file)?;
    let peers: Vec<String> = (1..=options.nodes).map(|node| format!("{node} = \"{}\"", peer(node))).collect();
    let data_dir = options.data_dir.join(format!("node-{node}"));
    let text = format!(
        "node_id = {node}\nlisten = \"{}\"\npeer_listen = \"{}\"\ndata_dir = {}\npeers = {{ {} }}\n\n\
         [worker]\nallow_exec = true\n",
        endpoint(node),
        peer(node),
        toml_string(&data_dir),
        peers.join(", "),
    );
    std::fs::write(&path, text).map_err(file)?;
    Ok(path)
}

fn toml_string(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

fn start(options: &DevOptions, config: &Path) -> io::Result<Child> {
    Command::new(&options.program)
        .arg("server")
        .arg("--config")
        .arg(config)
        .args(["--log-format", &options.log_format])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A group of its own: Ctrl-C in the terminal reaches this program alone, which stops the nodes.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Copies a node's log to stderr, each line behind the node's number.
async fn copy(node: u8, log: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(log).lines();
    let mut out = tokio::io::stderr();
    while let Ok(Some(line)) = lines.next_line().await {
        let line = format!("{node} | {line}\n");
        if tokio::io::AsyncWriteExt::write_all(&mut out, line.as_bytes()).await.is_err() {
            return;
        }
    }
}
