//! The processes of the nodes, each in its namespace, with a clock and a disk of its own where the profile sets them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::net::{CLIENT_PORT, Network, PEER_PORT, address, run};

/// Where Debian puts libfaketime, in a folder for each architecture.
const LIBRARIES: &str = "/usr/lib";
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";
/// The disk of a node, where it can be full: log segments are 64 MiB at most.
const DISK: &str = "size=160m";

/// What the nodes are made of.
pub(crate) struct Build {
    pub(crate) dir: PathBuf,
    pub(crate) nodes: u64,
    /// What a node runs first, and what [`Nodes::renew`] changes it to.
    pub(crate) programs: (PathBuf, PathBuf),
    /// Load the libraries that set clocks and disturb disks.
    pub(crate) sets_clocks: bool,
    /// Added to every configuration.
    pub(crate) extra: String,
}

/// The processes. Dropping this kills them.
pub(crate) struct Nodes {
    build: Build,
    children: BTreeMap<u64, Child>,
    renewed: BTreeSet<u64>,
    preload: Option<String>,
}

impl Nodes {
    /// Writes the configurations and makes the disks; starts nothing. To be called inside the hub, whose mounts
    /// are its own and end with it.
    pub(crate) fn prepare(build: Build) -> Result<Self, String> {
        let peers = (1..=build.nodes).map(|node| format!("{node} = \"{}:{PEER_PORT}\"", address(node)));
        let peers = peers.collect::<Vec<_>>().join(", ");
        for node in 1..=build.nodes {
            let folder = build.dir.join(format!("node-{node}"));
            let disk = folder.join("disk");
            fs::create_dir_all(&disk).map_err(|error| error.to_string())?;
            if build.sets_clocks {
                let disk = disk.display().to_string();
                run("mount", &["-t", "tmpfs", "-o", DISK, "tmpfs", &disk])?;
            }
            let text = format!(
                "node_id = {node}\nlisten = \"{0}:{CLIENT_PORT}\"\npeer_listen = \"{0}:{PEER_PORT}\"\n\
                 data_dir = \"{1}\"\npeers = {{ {peers} }}\ninsecure = true\n{2}",
                address(node),
                disk.join("data").display(),
                build.extra,
            );
            fs::write(folder.join("node.toml"), text).map_err(|error| error.to_string())?;
        }
        let preload = if build.sets_clocks { Some(libraries(&build.dir)?) } else { None };
        let nodes = Self { build, children: BTreeMap::new(), renewed: BTreeSet::new(), preload };
        for node in nodes.all() {
            nodes.set_clock(node, 0)?;
            nodes.disturb_syncs(node, 0, 0)?;
        }
        Ok(nodes)
    }

    pub(crate) fn all(&self) -> Vec<u64> {
        (1..=self.build.nodes).collect()
    }

    pub(crate) fn is_up(&self, node: u64) -> bool {
        self.children.contains_key(&node)
    }

    fn folder(&self, node: u64) -> PathBuf {
        self.build.dir.join(format!("node-{node}"))
    }

    /// Starts a node that does not run.
    pub(crate) fn start(&mut self, network: &Network, node: u64) -> Result<(), String> {
        if self.is_up(node) {
            return Ok(());
        }
        let folder = self.folder(node);
        let log = File::options().create(true).append(true).open(folder.join("stderr.log"));
        let (first, then) = &self.build.programs;
        let program = if self.renewed.contains(&node) { then } else { first };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &network.space(node), "env"]);
        if let Some(preload) = &self.preload {
            command
                .arg(format!("LD_PRELOAD={preload}"))
                .arg(format!("FAKETIME_TIMESTAMP_FILE={}", folder.join("clock").display()))
                .arg(format!("SLOW_SYNC={}", folder.join("sync").display()))
                .args(["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
        }
        let child = command
            .arg(program)
            .arg("server")
            .arg("--config")
            .arg(folder.join("node.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.map_err(|error| error.to_string())?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("node {node}: {error}"))?;
        self.children.insert(node, child);
        Ok(())
    }

    fn signal(&self, node: u64, signal: Signal) {
        let pid = self.children.get(&node).and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // One that has just ended by itself is found by `reap`.
            kill_process(pid, signal).ok();
        }
    }

    /// SIGKILL, and waits for the end.
    pub(crate) async fn kill(&mut self, node: u64) {
        self.signal(node, Signal::KILL);
        if let Some(mut child) = self.children.remove(&node) {
            child.wait().await.ok();
        }
    }

    /// SIGTERM; its end is seen by [`Nodes::reap`].
    pub(crate) fn terminate(&self, node: u64) {
        self.signal(node, Signal::TERM);
    }

    pub(crate) fn pause(&self, node: u64) {
        self.signal(node, Signal::STOP);
    }

    pub(crate) fn resume(&self, node: u64) {
        self.signal(node, Signal::CONT);
    }

    pub(crate) fn resume_all(&self) {
        for node in self.all() {
            self.resume(node);
        }
    }

    /// Nodes that have ended since the last call.
    pub(crate) fn reap(&mut self) -> Vec<(u64, ExitStatus)> {
        let ended: Vec<_> = self
            .children
            .iter_mut()
            .filter_map(|(node, child)| Some((*node, child.try_wait().ok().flatten()?)))
            .collect();
        for (node, _) in &ended {
            self.children.remove(node);
        }
        ended
    }

    /// From its next start on the node runs the other program.
    pub(crate) fn renew(&mut self, node: u64) {
        self.renewed.insert(node);
    }

    /// Sets a node's wall clock off by so many milliseconds. Monotonic time goes on as it is.
    pub(crate) fn set_clock(&self, node: u64, off_ms: i64) -> Result<(), String> {
        let sign = if off_ms < 0 { '-' } else { '+' };
        let size = off_ms.unsigned_abs();
        replace(&self.folder(node).join("clock"), &format!("{sign}{}.{:03}\n", size / 1_000, size % 1_000))
    }

    /// Makes each sync take so long, and fail with this number if it is not 0.
    pub(crate) fn disturb_syncs(&self, node: u64, ms: u64, error: i32) -> Result<(), String> {
        replace(&self.folder(node).join("sync"), &format!("{ms} {error}\n"))
    }

    /// Fills a node's disk, or frees it.
    pub(crate) fn fill_disk(&self, node: u64, full: bool) -> Result<(), String> {
        let path = self.folder(node).join("disk").join("filler");
        if !full {
            return fs::remove_file(&path).or(Ok(()));
        }
        let file = File::create(&path).map_err(|error| error.to_string())?;
        let zeroes = vec![0; 1 << 20];
        // Until it is refused: then it is full.
        while std::io::Write::write_all(&mut &file, &zeroes).is_ok() {}
        Ok(())
    }
}

/// Whoever reads it at the same time sees the old or the new text.
fn replace(path: &Path, text: &str) -> Result<(), String> {
    let next = path.with_extension("next");
    fs::write(&next, text).and_then(|()| fs::rename(&next, path)).map_err(|error| error.to_string())
}

/// What is loaded into each node.
fn libraries(dir: &Path) -> Result<String, String> {
    let folders = fs::read_dir(LIBRARIES).map_err(|error| format!("{LIBRARIES}: {error}"))?;
    let faketime = folders.flatten().map(|folder| folder.path().join(FAKETIME)).find(|path| path.exists());
    let faketime = faketime.ok_or_else(|| format!("no {FAKETIME}; hint: apt-get install faketime"))?;
    let library = dir.join("slow_sync.so").display().to_string();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chaos/slow_sync.c");
    run("cc", &["-shared", "-fPIC", "-O1", "-o", &library, source])?;
    Ok(format!("{}:{library}", faketime.display()))
}
