//! A cluster of real node processes on this machine: for `chronarch dev`, `chronarch bench` and the
//! end-to-end tests. Each node is a process of the given program, run as `server`.
//!
//! Dropping a [`LocalCluster`] kills what still runs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// Where the nodes listen.
#[derive(Clone, Copy, Debug)]
pub enum Ports {
    /// The first node's client and peer port; the others follow.
    From(u16, u16),
    /// Ports that were free a moment ago.
    Free,
}

/// What the nodes write to their stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logs {
    /// `node-N.log` in the folder of the cluster.
    File,
    /// A pipe, taken from [`LocalCluster::take_log`].
    Pipe,
}

/// What a local cluster is made of.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// How many nodes, from 1.
    pub nodes: u64,
    /// Configurations, data and logs.
    pub dir: PathBuf,
    /// The program to run as `server`.
    pub program: PathBuf,
    /// Where they listen.
    pub ports: Ports,
    /// Where their logs go.
    pub logs: Logs,
    /// `text` or `json`.
    pub log_format: String,
    /// Added to each node's configuration.
    pub extra: String,
}

/// Why something about a local cluster did not work.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A port is taken.
    #[error("port {port} of 127.0.0.1 cannot be used: {source}")]
    Port {
        /// Which; 0: any.
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
    /// A node does not start, or cannot be signalled.
    #[error("node {node}: {source}")]
    Process {
        /// Which.
        node: u64,
        /// Why.
        source: io::Error,
    },
    /// The node is not one of the cluster, or does not run.
    #[error("node {0} does not run")]
    NotRunning(u64),
}

/// Where a node is.
#[derive(Clone, Debug)]
struct Place {
    client: u16,
    peer: u16,
    folder: PathBuf,
}

/// The processes and addresses.
#[derive(Debug)]
pub struct LocalCluster {
    options: LocalOptions,
    places: BTreeMap<u64, Place>,
    children: BTreeMap<u64, Child>,
}

impl LocalCluster {
    /// Chooses the ports and writes the configurations; starts nothing.
    ///
    /// # Errors
    /// [`LocalError::Port`] and [`LocalError::File`].
    pub fn prepare(options: LocalOptions) -> Result<Self, LocalError> {
        let mut held = Vec::new();
        let mut hold = |port: u16| {
            let listener =
                TcpListener::bind(("127.0.0.1", port)).map_err(|source| LocalError::Port { port, source })?;
            let port = listener.local_addr().map_or(port, |address| address.port());
            held.push(listener);
            Ok(port)
        };
        let mut places = BTreeMap::new();
        for node in 1..=options.nodes {
            let place = u16::try_from(node - 1).unwrap_or(u16::MAX);
            let (client, peer) = match options.ports {
                Ports::From(client, peer) => (client.saturating_add(place), peer.saturating_add(place)),
                Ports::Free => (0, 0),
            };
            let folder = options.dir.join(format!("node-{node}"));
            places.insert(node, Place { client: hold(client)?, peer: hold(peer)?, folder });
        }
        let cluster = Self { options, places, children: BTreeMap::new() };
        let peers: Vec<String> =
            cluster.places.iter().map(|(id, place)| format!("{id} = \"127.0.0.1:{}\"", place.peer)).collect();
        for (&node, place) in &cluster.places {
            cluster.write_config(node, place, &format!("peers = {{ {} }}\n", peers.join(", ")))?;
        }
        Ok(cluster)
    }

    /// The nodes' numbers.
    pub fn nodes(&self) -> impl Iterator<Item = u64> + use<> {
        self.places.keys().copied().collect::<Vec<_>>().into_iter()
    }

    /// Where clients reach a node.
    #[must_use]
    pub fn endpoint(&self, node: u64) -> String {
        format!("127.0.0.1:{}", self.places.get(&node).map_or(0, |place| place.client))
    }

    /// Where the other nodes reach a node.
    #[must_use]
    pub fn peer_address(&self, node: u64) -> String {
        format!("127.0.0.1:{}", self.places.get(&node).map_or(0, |place| place.peer))
    }

    /// Where clients reach all nodes.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes().map(|node| self.endpoint(node)).collect()
    }

    /// Where a node keeps its data.
    #[must_use]
    pub fn data_dir(&self, node: u64) -> PathBuf {
        let own = || self.options.dir.join(format!("node-{node}"));
        self.places.get(&node).map_or_else(own, |place| place.folder.clone())
    }

    /// A node's log, with [`Logs::File`].
    #[must_use]
    pub fn log_file(&self, node: u64) -> PathBuf {
        self.options.dir.join(format!("node-{node}.log"))
    }

    fn config_file(&self, node: u64) -> PathBuf {
        self.options.dir.join(format!("node-{node}.toml"))
    }

    fn write_config(&self, node: u64, place: &Place, peers: &str) -> Result<(), LocalError> {
        let path = self.config_file(node);
        let file = |source| LocalError::File { path: path.clone(), source };
        std::fs::create_dir_all(&self.options.dir).map_err(file)?;
        let text = format!(
            "node_id = {node}\nlisten = \"127.0.0.1:{}\"\npeer_listen = \"127.0.0.1:{}\"\n\
             data_dir = {}\n{peers}{}",
            place.client,
            place.peer,
            toml_string(&place.folder),
            self.options.extra,
        );
        std::fs::write(&path, text).map_err(file)
    }

    /// Starts all nodes.
    ///
    /// # Errors
    /// [`LocalError`]; those that have started are killed when this is dropped.
    pub fn start_all(&mut self) -> Result<(), LocalError> {
        for node in self.nodes() {
            self.start(node)?;
        }
        Ok(())
    }

    /// Starts a node; its process id.
    ///
    /// # Errors
    /// [`LocalError`] when the process cannot be made.
    pub fn start(&mut self, node: u64) -> Result<u32, LocalError> {
        self.start_with(node, &[])
    }

    /// As [`Self::start`], with more on its command line.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(&mut self, node: u64, args: &[&str]) -> Result<u32, LocalError> {
        self.spawn(node, &self.config_file(node), args)
    }

    /// Starts node `new` with `--rejoin` in the place of `old`, which has ended: with its configuration, addresses
    /// and folder. Later starts of `new` have a configuration of its own. Returns its process id.
    ///
    /// # Errors
    /// [`LocalError`] when `old` is unknown, the configuration cannot be written or the process not be made.
    pub fn rejoin(&mut self, old: u64, new: u64) -> Result<u32, LocalError> {
        let place = self.places.remove(&old).ok_or(LocalError::NotRunning(old))?;
        self.write_config(new, &place, "")?;
        self.places.insert(new, place);
        self.spawn(new, &self.config_file(old), &["--node-id", &new.to_string(), "--rejoin"])
    }

    fn spawn(&mut self, node: u64, config: &Path, args: &[&str]) -> Result<u32, LocalError> {
        let process = |source| LocalError::Process { node, source };
        let stderr = match self.options.logs {
            Logs::Pipe => Stdio::piped(),
            Logs::File => {
                let path = self.log_file(node);
                let log = File::options().create(true).append(true).open(&path);
                Stdio::from(log.map_err(|source| LocalError::File { path, source })?)
            }
        };
        let child = Command::new(&self.options.program)
            .arg("server")
            .arg("--config")
            .arg(config)
            .args(args)
            .args(["--log-format", &self.options.log_format])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            // A group of its own: Ctrl-C in a terminal reaches this program alone, which stops the nodes.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(process)?;
        let pid = child.id().unwrap_or(0);
        self.children.insert(node, child);
        Ok(pid)
    }

    /// The log of a node that was started with [`Logs::Pipe`].
    pub fn take_log(&mut self, node: u64) -> Option<tokio::process::ChildStderr> {
        self.children.get_mut(&node)?.stderr.take()
    }

    /// Whether the node's process has been started and not been waited for.
    #[must_use]
    pub fn is_started(&self, node: u64) -> bool {
        self.children.contains_key(&node)
    }

    fn signal(&self, node: u64, signal: Signal) -> Result<(), LocalError> {
        let id = self.children.get(&node).and_then(Child::id).ok_or(LocalError::NotRunning(node))?;
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or(LocalError::NotRunning(node))?;
        kill_process(pid, signal).map_err(|errno| LocalError::Process { node, source: errno.into() })
    }

    /// SIGKILLs a node and waits for its end.
    ///
    /// # Errors
    /// [`LocalError`] when it does not run.
    pub async fn kill(&mut self, node: u64) -> Result<(), LocalError> {
        self.signal(node, Signal::KILL)?;
        self.wait(node).await.map(drop)
    }

    /// SIGTERMs a node and waits for its end.
    ///
    /// # Errors
    /// [`LocalError`] when it does not run.
    pub async fn stop(&mut self, node: u64) -> Result<ExitStatus, LocalError> {
        self.signal(node, Signal::TERM)?;
        self.wait(node).await
    }

    /// SIGTERMs all nodes that run, then waits for their ends.
    pub async fn stop_all(&mut self) {
        let nodes: Vec<u64> = self.children.keys().copied().collect();
        for node in &nodes {
            // One that has ended by itself needs no signal.
            let _ = self.signal(*node, Signal::TERM);
        }
        for node in nodes {
            let _ = self.wait(node).await;
        }
    }

    /// SIGSTOPs a node.
    ///
    /// # Errors
    /// [`LocalError`] when it does not run.
    pub fn pause(&self, node: u64) -> Result<(), LocalError> {
        self.signal(node, Signal::STOP)
    }

    /// SIGCONTs a node.
    ///
    /// # Errors
    /// [`LocalError`] when it does not run.
    pub fn resume(&self, node: u64) -> Result<(), LocalError> {
        self.signal(node, Signal::CONT)
    }

    /// Waits for a node's end.
    ///
    /// # Errors
    /// [`LocalError`] when it does not run.
    pub async fn wait(&mut self, node: u64) -> Result<ExitStatus, LocalError> {
        let mut child = self.children.remove(&node).ok_or(LocalError::NotRunning(node))?;
        child.wait().await.map_err(|source| LocalError::Process { node, source })
    }

    /// Waits until any node ends by itself; `None` if none runs.
    pub async fn wait_any(&mut self) -> Option<(u64, io::Result<ExitStatus>)> {
        let mut waits: futures::stream::FuturesUnordered<_> = self
            .children
            .iter_mut()
            .map(|(node, child)| async move { (*node, child.wait().await) })
            .collect();
        let ended = futures::StreamExt::next(&mut waits).await;
        drop(waits);
        let (node, status) = ended?;
        self.children.remove(&node);
        Some((node, status))
    }
}

fn toml_string(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}
