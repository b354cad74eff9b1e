//! A node's configuration file: TOML, unknown keys refused, all problems at once.
//!
//! A key exists only where an operator has a reason to change it. `cluster/node-1.toml` is the
//! smallest file that works; `cluster/example.toml` names every key with its default and is tested
//! against the defaults here.

pub mod connections;
mod reader;

use std::collections::BTreeMap;
use std::fmt;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use self::connections::Connections;
use self::reader::{Reader, Table, is_address, line_of};

/// A node's configuration, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Identity of the node in its cluster, from 1, never used again for another disk.
    pub node_id: u64,
    /// Where clients connect: `host:port`.
    pub listen: String,
    /// Where other nodes connect: `host:port`.
    pub peer_listen: String,
    /// What clients dial, where it differs from `listen`.
    pub advertise: Option<String>,
    /// What other nodes dial, where it differs from `peer_listen`.
    pub peer_advertise: Option<String>,
    /// Everything that the node keeps.
    pub data_dir: PathBuf,
    /// The first members, by node id; the same on each node.
    pub peers: BTreeMap<u64, String>,
    /// Begin anew, with what `data_dir` holds set aside, and wait to be added to a cluster. Only ever asked for on
    /// the command line: an order, not a property of the node.
    pub rejoin: bool,
    /// Speak no feature level above this one, as an older release would. For tests of rolling upgrades: it can only
    /// lower what this release speaks, so all it can do is keep the cluster's level down, or this node out. Only ever
    /// set on the command line or in the environment.
    pub feature_level_max: Option<u32>,
    /// Listen beyond loopback though nothing is encrypted yet.
    pub insecure: bool,
    /// How far this node's clock may be off the median of the voters' before it neither leads nor stays leader.
    pub clock_skew_max: Duration,
    /// Raft's timing.
    pub raft: RaftTiming,
    /// The worker inside the node.
    pub worker: WorkerConfig,
    /// The brokers that the worker inside the node can reach.
    pub connections: Connections,
}

/// What `clock_skew_max` is unless it is set. Clocks that NTP keeps are within a tenth of it.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_millis(500);

/// The least that may be kept of an attempt's output.
pub const OUTPUT_BYTES_MIN: u64 = 256 << 10;

/// Raft's timing, and when the log is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftTiming {
    /// How often the leader shows itself.
    pub heartbeat: Duration,
    /// Shortest wait of a follower without a leader.
    pub election_min: Duration,
    /// Longest wait of a follower without a leader.
    pub election_max: Duration,
    /// Entries after which a snapshot is taken.
    pub snapshot_entries: u64,
    /// Bytes of log after which a snapshot is taken.
    pub snapshot_bytes: u64,
    /// Entries kept behind a snapshot, for followers that were away briefly.
    pub keep_entries: u64,
}

/// The worker inside a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Whether the node carries out attempts itself.
    pub enabled: bool,
    /// Queues that it serves.
    pub queues: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Attempts at the same time, 1 to 10,000.
    pub slots: u32,
    /// Whether jobs may run processes on this machine.
    pub allow_exec: bool,
    /// How long a worker may be silent before its attempts count as lost.
    pub lease: Duration,
    /// Whether standard output and standard error of a process are told apart.
    pub exec_apart: bool,
    /// Output kept on disk of one attempt, in bytes.
    pub output_bytes: u64,
    /// Output kept on disk of all attempts, in bytes.
    pub output_total_bytes: u64,
    /// How long output is kept after its attempt has ended.
    pub output_age: Duration,
}

impl Default for RaftTiming {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(30),
            election_min: Duration::from_millis(120),
            election_max: Duration::from_millis(160),
            snapshot_entries: 50_000,
            snapshot_bytes: 64 << 20,
            keep_entries: 20_000,
        }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            queues: vec!["default".to_owned()],
            labels: BTreeMap::new(),
            slots: 256,
            allow_exec: false,
            lease: Duration::from_secs(5),
            exec_apart: false,
            output_bytes: 64 << 20,
            output_total_bytes: 4 << 30,
            output_age: Duration::from_secs(7 * 24 * 3_600),
        }
    }
}

/// What is typed on the command line and goes before the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--node-id`
    pub node_id: Option<u64>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--peer-listen`
    pub peer_listen: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--peers 1=host:port,2=host:port`
    pub peers: Option<BTreeMap<u64, String>>,
    /// `--rejoin`; a node that waits to be added has no first members, so `peers` is ignored
    pub rejoin: bool,
    /// Hidden: see [`Config::feature_level_max`].
    pub feature_level_max: Option<u32>,
}

/// All that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// One line each: place, key, reason.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the text of a file called `name`, under the overrides of the command line.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem found, each with file, line and key.
    pub fn read(name: &str, text: &str, overrides: Overrides) -> Result<Self, ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            ConfigError { problems: vec![format!("{name}:{line}: {}", error.message())] }
        })?;
        let mut reader = Reader { name, text, places: BTreeMap::new(), problems: Vec::new() };
        let config = reader.config(table.into_inner(), overrides);
        reader.finish(config)
    }

    /// Where clients reach this node.
    #[must_use]
    pub fn client_address(&self) -> &str {
        self.advertise.as_deref().unwrap_or(&self.listen)
    }

    /// Where other nodes reach this node.
    #[must_use]
    pub fn peer_address(&self) -> &str {
        self.peer_advertise.as_deref().unwrap_or(&self.peer_listen)
    }
}

impl Reader<'_> {
    fn config(&mut self, mut table: Table<'_>, overrides: Overrides) -> Config {
        self.note_places(&table, "", &overrides);
        // Each key is read even where a flag goes before it: what is left in the table at the end is unknown.
        let named_id = self.integer(&mut table, "", "node_id", 1..=u64::MAX);
        let node_id = overrides.node_id.or(named_id);
        let named_listen = self.address(&mut table, "listen");
        let listen = overrides.listen.or(named_listen);
        let named_peer_listen = self.address(&mut table, "peer_listen");
        let peer_listen = overrides.peer_listen.or(named_peer_listen);
        let named_dir = self.string(&mut table, "", "data_dir").map(PathBuf::from);
        let data_dir = overrides.data_dir.or(named_dir);
        let named = self.peers(&mut table);
        let peers = if overrides.rejoin { BTreeMap::new() } else { overrides.peers.unwrap_or(named) };
        let mut clock_skew_max = CLOCK_SKEW_MAX;
        let span = Duration::from_millis(50)..=Duration::from_secs(3_600);
        self.duration(&mut table, "", "clock_skew_max", span, &mut clock_skew_max);
        let config = Config {
            node_id: self.required(node_id, "node_id", "an integer from 1").unwrap_or(0),
            listen: self.required(listen, "listen", "host:port").unwrap_or_default(),
            peer_listen: self.required(peer_listen, "peer_listen", "host:port").unwrap_or_default(),
            advertise: self.address(&mut table, "advertise"),
            peer_advertise: self.address(&mut table, "peer_advertise"),
            data_dir: self.required(data_dir, "data_dir", "a folder").unwrap_or_default(),
            peers,
            rejoin: overrides.rejoin,
            feature_level_max: overrides.feature_level_max,
            insecure: self.boolean(&mut table, "", "insecure").unwrap_or(false),
            clock_skew_max,
            raft: self.raft(&mut table),
            worker: self.worker(&mut table),
            connections: self.connections(&mut table),
        };
        self.nothing_left(&table, "");
        self.check(&config);
        config
    }

    fn required<T>(&mut self, value: Option<T>, key: &str, expected: &str) -> Option<T> {
        let is_reported = self.problems.iter().any(|(_, problem)| problem.contains(&format!(": {key}: ")));
        if value.is_none() && !is_reported {
            self.problem(None, key, &format!("is missing; expected {expected}"));
        }
        value
    }

    fn check(&mut self, config: &Config) {
        if !config.peers.is_empty() && !config.peers.contains_key(&config.node_id) {
            let reason = format!(
                "does not name this node, {}; leave it out for a node that is, or was, added to a cluster",
                config.node_id
            );
            self.problem(None, "peers", &reason);
        }
        for (id, address) in &config.peers {
            let first = config.peers.range(..id).find(|(_, other)| *other == address);
            if let Some((first, _)) = first {
                self.problem(None, &format!("peers.{id}"), &format!("is the address of node {first}"));
            }
        }
        // Port 0 is another one each time.
        if config.listen == config.peer_listen && !config.listen.is_empty() && !config.listen.ends_with(":0")
        {
            self.problem(None, "peer_listen", "is the same as listen; clients and nodes need one each");
        }
        let raft = &config.raft;
        if raft.election_min <= raft.heartbeat * 2 {
            self.problem(None, "raft.election_min", "must be more than twice raft.heartbeat");
        }
        if raft.election_max <= raft.election_min {
            self.problem(None, "raft.election_max", "must be more than raft.election_min");
        }
        for (key, address) in [("listen", &config.listen), ("peer_listen", &config.peer_listen)] {
            if !config.insecure && !address.is_empty() && !is_loopback(address) {
                self.problem(
                    None,
                    key,
                    "is beyond loopback, and this version has no TLS: say `insecure = true` to listen there anyway",
                );
            }
        }
    }

    fn raft(&mut self, table: &mut Table<'_>) -> RaftTiming {
        let mut raft = RaftTiming::default();
        let Some(mut section) = self.section(table, "raft") else { return raft };
        let span = Duration::from_millis(5)..=Duration::from_secs(60);
        self.duration(&mut section, "raft", "heartbeat", span.clone(), &mut raft.heartbeat);
        self.duration(&mut section, "raft", "election_min", span.clone(), &mut raft.election_min);
        self.duration(&mut section, "raft", "election_max", span, &mut raft.election_max);
        for (key, field) in [
            ("snapshot_entries", &mut raft.snapshot_entries),
            ("snapshot_bytes", &mut raft.snapshot_bytes),
            ("keep_entries", &mut raft.keep_entries),
        ] {
            if let Some(value) = self.integer(&mut section, "raft", key, 1..=u64::MAX) {
                *field = value;
            }
        }
        self.nothing_left(&section, "raft.");
        raft
    }

    fn worker(&mut self, table: &mut Table<'_>) -> WorkerConfig {
        let mut worker = WorkerConfig::default();
        let Some(mut section) = self.section(table, "worker") else { return worker };
        if let Some(enabled) = self.boolean(&mut section, "worker", "enabled") {
            worker.enabled = enabled;
        }
        if let Some(allow) = self.boolean(&mut section, "worker", "allow_exec") {
            worker.allow_exec = allow;
        }
        if let Some(slots) = self.integer(&mut section, "worker", "slots", 1..=10_000) {
            worker.slots = u32::try_from(slots).unwrap_or(worker.slots);
        }
        let span = Duration::from_secs(1)..=Duration::from_secs(3_600);
        self.duration(&mut section, "worker", "lease", span, &mut worker.lease);
        if let Some(queues) = self.strings(&mut section, "worker", "queues") {
            worker.queues = queues;
        }
        self.output(&mut section, &mut worker);
        if let Some(mut labels) = self.section(&mut section, "labels") {
            let keys: Vec<String> = labels.keys().map(|key| key.get_ref().to_string()).collect();
            for key in keys {
                if let Some(value) = self.string(&mut labels, "worker.labels", &key) {
                    worker.labels.insert(key, value);
                }
            }
        }
        self.nothing_left(&section, "worker.");
        worker
    }

    fn output(&mut self, section: &mut Table<'_>, worker: &mut WorkerConfig) {
        let at = self.place(section, "exec_streams");
        match self.string(section, "worker", "exec_streams").as_deref() {
            None => {}
            Some("together") => worker.exec_apart = false,
            Some("apart") => worker.exec_apart = true,
            Some(_) => self.problem(at, "worker.exec_streams", "expected \"together\" or \"apart\""),
        }
        let bytes = OUTPUT_BYTES_MIN..=1 << 40;
        if let Some(most) = self.integer(section, "worker", "output_bytes", bytes.clone()) {
            worker.output_bytes = most;
        }
        if let Some(most) = self.integer(section, "worker", "output_total_bytes", bytes) {
            worker.output_total_bytes = most;
        }
        let age = Duration::from_secs(60)..=Duration::from_secs(3_660 * 24 * 3_600);
        self.duration(section, "worker", "output_age", age, &mut worker.output_age);
    }

    fn peers(&mut self, table: &mut Table<'_>) -> BTreeMap<u64, String> {
        let mut peers = BTreeMap::new();
        let Some(section) = self.section(table, "peers") else { return peers };
        for (key, value) in section {
            let path = format!("peers.{}", key.get_ref());
            let at = Some(value.span().start);
            match (key.get_ref().parse::<u64>(), value.get_ref()) {
                (Ok(id), DeValue::String(address)) if id > 0 => {
                    if is_address(address) {
                        peers.insert(id, address.to_string());
                    } else {
                        self.problem(at, &path, "expected host:port");
                    }
                }
                (Ok(id), _) if id > 0 => self.problem(at, &path, "expected a string, host:port"),
                _ => self.problem(at, &path, "expected a node id from 1 as the key"),
            }
        }
        peers
    }
}

fn is_loopback(address: &str) -> bool {
    match address.to_socket_addrs() {
        Ok(mut addresses) => addresses.all(|address| address.ip().is_loopback()),
        // A name that cannot be resolved fails at binding, with a better message.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests;
