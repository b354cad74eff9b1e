//! The network of a run: a bridge in a hub namespace, a namespace and a cable for each node. The test itself, its
//! clients and the target run in the hub; so nothing leaves these namespaces, and two runs never meet.
//!
//! What passes is decided in each node's own namespace, by nftables: the set of all active cuts is written anew, in
//! one transaction, whenever one begins or ends. The kernels that this runs on have no netem; delay is made by
//! proxies ([`super::delay`]), low bandwidth by `tc tbf`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// What the names of all namespaces begin with; the id of their process follows.
pub(crate) const PREFIX: &str = "chaos-";
/// Where the hub is: target and clients.
pub(crate) const HUB: &str = "10.77.0.254";
/// The clients' and the peers' port of each node.
pub(crate) const CLIENT_PORT: u16 = 7401;
pub(crate) const PEER_PORT: u16 = 7501;
/// The port of the target.
pub(crate) const TARGET_PORT: u16 = 8000;

/// The address of a node.
pub(crate) fn address(node: u64) -> String {
    format!("10.77.0.{node}")
}

/// Which way packets go, seen from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Drop,
    /// So many of a hundred are dropped.
    Lose(u64),
    /// Connections are reset.
    Reset,
}

/// One rule in the namespace of a node.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub(crate) node: u64,
    pub(crate) way: Way,
    /// The address on the other side.
    pub(crate) other: String,
    /// The target's port alone.
    pub(crate) target_only: bool,
    pub(crate) act: Act,
}

impl Cut {
    /// Cuts a node off another, in one direction.
    pub(crate) fn one_way(from: u64, to: u64) -> Self {
        Self { node: to, way: Way::In, other: address(from), target_only: false, act: Act::Drop }
    }

    /// Cuts two nodes off each other.
    pub(crate) fn both(one: u64, other: u64) -> [Self; 2] {
        [Self::one_way(one, other), Self::one_way(other, one)]
    }

    /// Cuts a node off the target.
    pub(crate) fn target(node: u64) -> Self {
        Self { node, way: Way::Out, other: HUB.to_owned(), target_only: true, act: Act::Drop }
    }

    fn rule(&self) -> String {
        let side = match self.way {
            Way::In => "saddr",
            Way::Out => "daddr",
        };
        let port = if self.target_only { format!(" tcp dport {TARGET_PORT}") } else { String::new() };
        let act = match self.act {
            Act::Drop => "drop".to_owned(),
            Act::Lose(percent) => format!("numgen random mod 100 < {percent} drop"),
            Act::Reset => "meta l4proto tcp reject with tcp reset".to_owned(),
        };
        format!("ip {side} {}{port} {act}", self.other)
    }
}

/// The namespaces; they go when this is dropped.
pub(crate) struct Network {
    prefix: String,
    nodes: u64,
    cuts: BTreeMap<u64, Vec<Cut>>,
    /// Owns the namespaces, and is not just a view on those of another process.
    owns: bool,
}

/// Runs a program to its end.
///
/// # Errors
/// What it says on its stderr.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String, String> {
    feed(program, args, "")
}

fn feed(program: &str, args: &[&str], input: &str) -> Result<String, String> {
    let told = |error: &dyn std::fmt::Display| format!("{program} {}: {error}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| told(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(|error| told(&error))?;
    }
    let output = child.wait_with_output().map_err(|error| told(&error))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(told(&String::from_utf8_lossy(&output.stderr))),
    }
}

impl Network {
    /// Makes the namespaces, whose names begin with `prefix`: [`PREFIX`] and this process's id.
    ///
    /// # Errors
    /// What the system refuses: without root, or in a container that allows no namespaces.
    pub(crate) fn make(prefix: &str, nodes: u64) -> Result<Self, String> {
        remove_left_over();
        let network = Self { prefix: prefix.to_owned(), nodes, cuts: BTreeMap::new(), owns: true };
        let hub = network.hub();
        run("ip", &["netns", "add", &hub])?;
        run("ip", &["-n", &hub, "link", "set", "lo", "up"])?;
        run("ip", &["-n", &hub, "link", "add", "br0", "type", "bridge", "forward_delay", "0"])?;
        run("ip", &["-n", &hub, "address", "add", &format!("{HUB}/24"), "dev", "br0"])?;
        run("ip", &["-n", &hub, "link", "set", "br0", "up"])?;
        for node in 1..=nodes {
            let (space, port) = (network.space(node), format!("p{node}"));
            run("ip", &["netns", "add", &space])?;
            run(
                "ip",
                &["link", "add", "e0", "netns", &space, "type", "veth", "peer", "name", &port, "netns", &hub],
            )?;
            run("ip", &["-n", &hub, "link", "set", &port, "master", "br0", "up"])?;
            run("ip", &["-n", &space, "address", "add", &format!("{}/24", address(node)), "dev", "e0"])?;
            run("ip", &["-n", &space, "link", "set", "lo", "up"])?;
            run("ip", &["-n", &space, "link", "set", "e0", "up"])?;
            network.write(node)?;
        }
        Ok(network)
    }

    /// The same namespaces, for the process inside the hub.
    pub(crate) fn view(prefix: &str, nodes: u64) -> Self {
        Self { prefix: prefix.to_owned(), nodes, cuts: BTreeMap::new(), owns: false }
    }

    pub(crate) fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    /// The namespace of a node.
    pub(crate) fn space(&self, node: u64) -> String {
        format!("{}-n{node}", self.prefix)
    }

    /// Lets cuts begin, under the number of their fault.
    pub(crate) fn cut(&mut self, fault: u64, cuts: Vec<Cut>) -> Result<(), String> {
        self.cuts.insert(fault, cuts);
        self.write_all()
    }

    pub(crate) fn is_cut(&self, fault: u64) -> bool {
        self.cuts.contains_key(&fault)
    }

    /// Lets the cuts of a fault end.
    pub(crate) fn mend(&mut self, fault: u64) -> Result<(), String> {
        match self.cuts.remove(&fault) {
            Some(_) => self.write_all(),
            None => Ok(()),
        }
    }

    fn write_all(&self) -> Result<(), String> {
        (1..=self.nodes).try_for_each(|node| self.write(node))
    }

    fn write(&self, node: u64) -> Result<(), String> {
        let mut text = String::from("table inet chaos\ndelete table inet chaos\ntable inet chaos {\n");
        for (way, hook) in [(Way::In, "input"), (Way::Out, "output")] {
            writeln!(text, " chain {hook} {{\n  type filter hook {hook} priority 0")
                .map_err(|e| e.to_string())?;
            let here = self.cuts.values().flatten().filter(|cut| cut.node == node && cut.way == way);
            for cut in here {
                writeln!(text, "  {}", cut.rule()).map_err(|error| error.to_string())?;
            }
            text.push_str(" }\n");
        }
        text.push_str("}\n");
        feed("ip", &["netns", "exec", &self.space(node), "nft", "-f", "-"], &text).map(drop)
    }

    /// Sends new connections of a node to a peer through a proxy in the hub.
    pub(crate) fn detour(&self, node: u64, ports: &BTreeMap<u64, u16>) -> Result<(), String> {
        let mut text = String::from("table ip detour\ndelete table ip detour\n");
        if !ports.is_empty() {
            text.push_str("table ip detour {\n chain output {\n  type nat hook output priority -100\n");
            for (peer, port) in ports {
                let to = address(*peer);
                writeln!(text, "  ip daddr {to} tcp dport {PEER_PORT} dnat to {HUB}:{port}")
                    .map_err(|error| error.to_string())?;
            }
            text.push_str(" }\n}\n");
        }
        feed("ip", &["netns", "exec", &self.space(node), "nft", "-f", "-"], &text).map(drop)
    }

    /// Makes the cable of a node thin, or as it was.
    pub(crate) fn narrow(&self, node: u64, kbit: Option<u64>) -> Result<(), String> {
        let space = self.space(node);
        match kbit {
            Some(kbit) => {
                let rate = format!("{kbit}kbit");
                let shape = ["root", "tbf", "rate", &rate, "burst", "4kb", "latency", "2s"];
                let args = [&["-n", &space, "qdisc", "add", "dev", "e0"][..], &shape].concat();
                run("tc", &args).map(drop)
            }
            // There is none when it was never made narrow.
            None => run("tc", &["-n", &space, "qdisc", "del", "dev", "e0", "root"]).map(drop).or(Ok(())),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !self.owns {
            return;
        }
        (1..=self.nodes).map(|node| self.space(node)).chain([self.hub()]).for_each(|space| remove(&space));
    }
}

/// Ends what still runs in a namespace, and removes it. What was not made cannot be removed.
fn remove(space: &str) {
    let pids = run("ip", &["netns", "pids", space]).unwrap_or_default();
    for pid in pids.split_whitespace() {
        run("kill", &["-KILL", pid]).ok();
    }
    run("ip", &["netns", "del", space]).ok();
}

/// Removes the namespaces of runs whose process was killed before it could.
fn remove_left_over() {
    let spaces = run("ip", &["netns", "list"]).unwrap_or_default();
    for space in spaces.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = space.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !std::path::Path::new("/proc").join(owner).exists()) {
            remove(space);
        }
    }
}
