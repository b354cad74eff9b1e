//! Chaos: clusters of real processes in network namespaces, under load and faults, and a judge that knows nothing of
//! them but what they left in files.
//!
//! A run has a profile ([`plan::Profile`]), a number of nodes and a seed. The test makes the namespaces
//! ([`net`]) and calls itself inside the hub, where clients ([`load`]), target ([`receiver`]) and nemesis
//! ([`nemesis`]) live ([`run`]); then it reads what was left and judges it ([`checker`]). Every run ends healed: a
//! time in which nothing disturbs, then one in which no job is due, in which everything must come to its end.
//!
//! | variable | does |
//! |---|---|
//! | `SEED` | replays the schedule of a seed; processes and threads are not replayed |
//! | `CHAOS_SECONDS` | how long faults go on, instead of 35 |
//! | `CHAOS_NODES` | how many nodes |
//! | `CHAOS_PROFILE` | another profile: `processes`, `network`, `clocks_and_disks`, `mixed` |
//! | `CHAOS_KEPT` | judges a folder that was kept, and runs nothing |
//! | `CHAOS_DIR` | where folders are made, instead of the folder for temporary files |
//! | `CHAOS_PROGRAM` | the program under test, instead of the one that was built with this |
//! | `PREVIOUS` | a program that the nodes run until they are first restarted in turn; what one build tells more of an entry than the other is no difference then, and state hashes are not compared |
//! | `CHRONARCH_SKIP_CHAOS=1` | passes without a run, where namespaces are not allowed |
//!
//! It needs root, `ip`, `tc` and `nft`; the profiles that set clocks also `libfaketime` and a C compiler. On Debian:
//! `apt-get install iproute2 nftables faketime gcc`. `scripts/soak` is the long form.
//!
//! What it does not do: lose power (SIGKILL leaves written bytes with the kernel), corrupt or double packets, skew
//! monotonic time.

#[path = "../lab/chance.rs"]
mod chance;

mod checker;
mod delay;
mod jobs;
mod journal;
mod load;
mod nemesis;
mod net;
mod nodes;
mod plan;
mod receiver;
mod run;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use checker::history::{History, Setting};
use net::Network;
use plan::Profile;

/// Runs take turns: each wants the machine for itself.
static TURN: Mutex<()> = Mutex::new(());

const SECONDS: u64 = 35;
/// Beyond the faults: forming, the undisturbed end, settling and gathering.
const AROUND: u64 = 700;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

#[expect(clippy::print_stdout, reason = "what a run saw is for whoever looks at it")]
fn tell(what: &str) {
    println!("{what}");
}

/// Runs a profile and judges it. `test` is the name of the calling test.
fn prove(test: &str, profile: Profile, nodes: u64) {
    let profile = std::env::var("CHAOS_PROFILE").map_or(profile, |word| Profile::of(&word));
    let nodes = number("CHAOS_NODES").unwrap_or(nodes);
    let seconds = number("CHAOS_SECONDS").unwrap_or(SECONDS);
    let seed = number("SEED").unwrap_or(1);
    if let Some(dir) = path("CHAOS_INSIDE") {
        let prefix = std::env::var("CHAOS_PREFIX").expect("given with the folder");
        let previous = path("PREVIOUS");
        let setup = run::Setup { profile, nodes, seconds, seed, dir, prefix, previous };
        return tokio::runtime::Runtime::new()
            .expect("a runtime")
            .block_on(run::run(&setup))
            .expect("a whole run");
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let replay = format!(
        "SEED={seed} CHAOS_PROFILE={} CHAOS_SECONDS={seconds} CHAOS_NODES={nodes} cargo test --test chaos -- --exact {test}",
        profile.word()
    );
    if let Some(kept) = path("CHAOS_KEPT") {
        return judge(&kept, &replay);
    }
    if number("CHRONARCH_SKIP_CHAOS") == Some(1) {
        return tell(&format!("{test}: skipped, CHRONARCH_SKIP_CHAOS=1"));
    }
    let prefix = format!("{}{}", net::PREFIX, std::process::id());
    let network = Network::make(&prefix, nodes).unwrap_or_else(|problem| {
        panic!(
            "no namespaces: {problem}\nhint: this test needs root, iproute2 and nftables; \
             CHRONARCH_SKIP_CHAOS=1 passes without it"
        )
    });
    let base = path("CHAOS_DIR").unwrap_or_else(std::env::temp_dir);
    let dir = tempfile::Builder::new().prefix("chaos-").tempdir_in(base).expect("a folder");
    let status = Command::new("timeout")
        .args(["--kill-after=10", &(seconds + AROUND).to_string(), "ip", "netns", "exec", &network.hub()])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .envs(
            [("SEED", seed), ("CHAOS_SECONDS", seconds), ("CHAOS_NODES", nodes)]
                .map(|(k, v)| (k, v.to_string())),
        )
        .env("CHAOS_INSIDE", dir.path())
        .env("CHAOS_PREFIX", &prefix)
        .status()
        .expect("coreutils and iproute2");
    drop(network);
    drop(turn);
    if !status.success() {
        panic!(
            "the run did not come to its end ({status})\nkept: {}\nreplay: {replay}",
            dir.keep().display()
        );
    }
    let dir = dir.keep();
    judge(&dir, &replay);
    std::fs::remove_dir_all(&dir).expect("the folder of a run that passed");
}

/// # Panics
/// When the history breaks a promise or proves nothing; the folder stays.
fn judge(dir: &Path, replay: &str) {
    let history = History::read(dir).unwrap_or_else(|problem| panic!("{problem}\nkept: {}", dir.display()));
    let verdict = checker::check(&history);
    let Setting { nodes, seed, profile, .. } = &history.setting;
    tell(&format!("{nodes} nodes, seed {seed}, {profile}: {verdict}"));
    assert!(verdict.is_pass(), "{verdict}kept: {}\nreplay: {replay}", dir.display());
}

#[test]
fn ended_and_paused_processes_lose_nothing() {
    prove("ended_and_paused_processes_lose_nothing", Profile::Processes, 3);
}

#[test]
fn a_parted_network_loses_nothing() {
    prove("a_parted_network_loses_nothing", Profile::Network, 5);
}

#[test]
fn wrong_clocks_and_bad_disks_lose_nothing() {
    prove("wrong_clocks_and_bad_disks_lose_nothing", Profile::ClocksAndDisks, 3);
}
