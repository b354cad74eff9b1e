//! One run, inside the hub: a cluster under load and faults, then healed, quiet, and asked for everything.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use chronarch::client::{Client, paging};
use chronarch::clock::Clock;
use chronarch::pb::v1;
use serde_json::json;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::journal::Journal;
use super::load::{self, Load};
use super::nemesis::Nemesis;
use super::net::{CLIENT_PORT, Network, address};
use super::nodes::{Build, Nodes};
use super::plan::{Fault, Planned, Profile, plan};
use super::receiver::Receiver;

/// Anything that the run waits for is there within this, or it says so.
const PATIENCE: Duration = Duration::from_secs(150);
/// The healed cluster under load, before it is calmed: longer than the checker's allowance for recovery.
const UNDISTURBED: Duration = Duration::from_secs(15);
/// How often each node is asked for what it has applied since.
const EXPORT_EVERY: Duration = Duration::from_secs(2);
/// How long one answer of a node may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How far the clock of a leader may be off (`clock_skew_max`).
const SKEW_MS: u64 = 500;
/// Snapshots are taken often, so that logs are purged and nodes that were away are sent one. What is kept behind
/// them is enough for the exports to keep up. Elections are slower than by default: on a machine that is busy with
/// other work too, a node that only waits for the processor shall not depose the leader all the time.
const RAFT: &str = "[raft]\nsnapshot_entries = 500\nkeep_entries = 1500\nheartbeat = \"50ms\"\n\
                    election_min = \"300ms\"\nelection_max = \"400ms\"\n";
/// Shorter than most faults, so that attempts are lost whose worker lives, and reports late.
const WORKER: &str = "[worker]\nlease = \"3s\"\n";

/// What a run is made of.
pub(crate) struct Setup {
    pub(crate) profile: Profile,
    pub(crate) nodes: u64,
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
    pub(crate) dir: PathBuf,
    /// Of the namespaces' names.
    pub(crate) prefix: String,
    /// What the nodes run at first, if not the program under test.
    pub(crate) previous: Option<PathBuf>,
}

fn program() -> PathBuf {
    std::env::var_os("CHAOS_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_chronarch").into(), PathBuf::from)
}

/// Runs it; leaves the files that the checker reads.
///
/// # Errors
/// What of the machinery did not work; that says nothing about the product.
pub(crate) async fn run(setup: &Setup) -> Result<(), String> {
    let clock = Clock::system();
    let journal = |name: &str| {
        Journal::create(&setup.dir.join(name), &clock).map_err(|error| format!("{name}: {error}"))
    };
    let operations = journal("client.jsonl")?;
    let nodes = Nodes::prepare(Build {
        dir: setup.dir.clone(),
        nodes: setup.nodes,
        programs: (setup.previous.clone().unwrap_or_else(program), program()),
        sets_clocks: setup.profile.sets_clocks(),
        extra: format!("{RAFT}{WORKER}"),
    })?;
    let receiver = Receiver::listen(journal("effects.jsonl")?, setup.seed).await;
    let receiver = receiver.map_err(|error| format!("the target: {error}"))?;
    let network = Network::view(&setup.prefix, setup.nodes);
    let faults = (journal("faults.jsonl")?, clock.clone());
    let mut nemesis = Nemesis::new(network, nodes, receiver, faults, setup.seed);
    nemesis.heal().await?;
    let formed = Instant::now() + PATIENCE;
    while nemesis.leader().await.is_none() {
        if Instant::now() > formed {
            return Err("no leader".to_owned());
        }
    }
    let mut exports = JoinSet::new();
    for node in 1..=setup.nodes {
        exports.spawn(keep_exporting(setup.dir.clone(), node));
    }
    let mut load = Load::begin(setup.nodes, &operations, setup.seed).await;
    load.stir();
    let mut schedule = plan(setup.profile, setup.nodes, setup.seconds, setup.seed);
    if setup.previous.is_some() {
        // Half way: entries of either build are applied by the other.
        schedule.insert(schedule.len() / 2, roll(&schedule));
    }
    nemesis.carry_out(&schedule, Duration::from_secs(setup.seconds)).await?;
    nemesis.heal().await?;
    let healed_at = operations.now();
    nemesis.watch_until(Instant::now() + UNDISTURBED).await?;
    let quiet_at = operations.now();
    let is_quiet = load.end(PATIENCE).await;
    let applied = settle(&mut nemesis, setup.nodes).await?;
    exports.shutdown().await;
    gather(setup, applied).await?;
    nemesis.stop_all().await;
    let setting = json!({
        "seed": setup.seed, "profile": setup.profile.word(), "nodes": setup.nodes, "seconds": setup.seconds,
        "healed_at": healed_at, "quiet_at": quiet_at,
        "skew_ms": if setup.profile.sets_clocks() { SKEW_MS } else { 0 },
        "settled": is_quiet && applied.is_some(), "two_builds": setup.previous.is_some(), "load_per_processor": load_per_processor(),
        "floors": setup.profile.floors(setup.seconds).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    });
    fs::write(setup.dir.join("run.json"), setting.to_string()).map_err(|error| error.to_string())
}

/// How many processes of the machine, ours among them, wanted each processor in the last minute; 0 where the system
/// does not say.
fn load_per_processor() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    load / processors as f64
}

/// Every node in turn, when the fault in the middle would have begun.
fn roll(schedule: &[Planned]) -> Planned {
    let at_ms = schedule.get(schedule.len() / 2).map_or(0, |planned| planned.at_ms);
    Planned { at_ms, lasts_ms: 1_000, off_second: None, fault: Fault::Roll }
}

/// Waits until nothing is live and all nodes have applied the same; the index, if that came about.
async fn settle(nemesis: &mut Nemesis, nodes: u64) -> Result<Option<u64>, String> {
    let client = load::client(1..=nodes, ANSWER);
    let deadline = Instant::now() + PATIENCE;
    let mut before = None;
    while Instant::now() < deadline {
        nemesis.watch_until(Instant::now() + Duration::from_millis(500)).await?;
        let statuses = client.statuses().await.into_iter();
        let said: Vec<_> = statuses
            .filter_map(|(_, status)| status.ok())
            .map(|status| (status.applied_index, status.live_runs))
            .collect();
        let is_whole = said.len() as u64 == nodes;
        let is_same = is_whole.then(|| said[0]).filter(|first| said.iter().all(|one| one == first));
        match is_same {
            // Twice the same: nothing is under way.
            Some((applied, 0)) if before == Some(applied) => return Ok(before),
            Some((applied, 0)) => before = Some(applied),
            Some(_) | None => before = None,
        }
    }
    Ok(None)
}

/// The export of a node from an index on; `Err` has what it says instead.
async fn export(node: u64, from: Option<u64>, to: Option<u64>) -> Result<String, String> {
    let mut command = Command::new(program());
    command.args(["cluster", "export-log", "--endpoints", &format!("{}:{CLIENT_PORT}", address(node))]);
    for (flag, index) in [("--from", from), ("--to", to)] {
        if let Some(index) = index {
            command.args([flag, &index.to_string()]);
        }
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let limited = tokio::time::timeout(PATIENCE, output).await;
    let output = limited.map_err(|late| late.to_string())?.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// How far an export went.
fn through(text: &str) -> Option<u64> {
    let last: serde_json::Value = serde_json::from_str(text.lines().last()?).ok()?;
    last["through"].as_u64()
}

fn append(dir: &Path, node: u64, name: &str, text: &str) -> Result<(), String> {
    let path = dir.join(format!("node-{node}")).join(name);
    let file = File::options().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Asks a node again and again, so that what it purges has been told before.
async fn keep_exporting(dir: PathBuf, node: u64) {
    let mut next = None;
    loop {
        match export(node, next, None).await {
            Ok(text) => {
                append(&dir, node, "log.jsonl", &text).expect("the folder can be written");
                next = through(&text).map(|through| through + 1).or(next);
            }
            // Purged in between, with a snapshot from the leader: the other nodes have told it.
            Err(problem) if problem.contains("any more") => next = None,
            // Down, cut off, or nothing new.
            Err(_) => {}
        }
        tokio::time::sleep(EXPORT_EVERY).await;
    }
}

/// Asks every node for the rest of its log, and for what it says of runs and breakers.
async fn gather(setup: &Setup, applied: Option<u64>) -> Result<(), String> {
    for node in 1..=setup.nodes {
        let deadline = Instant::now() + PATIENCE;
        let text = loop {
            match export(node, None, applied).await {
                Ok(text) => break text,
                // A node serves one export at a time, and one that was given up may be ending still.
                Err(_) if Instant::now() < deadline => tokio::time::sleep(EXPORT_EVERY / 10).await,
                Err(problem) => return Err(format!("node {node} does not export its log: {problem}")),
            }
        };
        append(&setup.dir, node, "log.jsonl", &text)?;
        let client = load::client([node], PATIENCE);
        append(&setup.dir, node, "runs.jsonl", &runs(&client).await?)?;
        append(&setup.dir, node, "breakers.jsonl", &breakers(&client).await?)?;
    }
    Ok(())
}

async fn runs(client: &Client) -> Result<String, String> {
    let request = v1::ListRunsRequest { page_size: 1_000, stale: true, ..v1::ListRunsRequest::default() };
    let found = paging::runs(client, request, 1_000_000).await.map_err(|error| error.to_string())?;
    lines(&found.runs)
}

async fn breakers(client: &Client) -> Result<String, String> {
    let request =
        v1::ListBreakersRequest { page_size: 1_000, stale: true, ..v1::ListBreakersRequest::default() };
    let found = client.list_breakers(request).await.map_err(|error| error.to_string())?;
    lines(&found.breakers)
}

fn lines<T: serde::Serialize>(all: &[T]) -> Result<String, String> {
    let mut text = String::new();
    for one in all {
        text.push_str(&serde_json::to_string(one).map_err(|error| error.to_string())?);
        text.push('\n');
    }
    Ok(text)
}
