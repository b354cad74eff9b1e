//! `bench`: figures that anyone can measure again, on one machine, with real processes and real disks.
//!
//! Each run has a cluster of its own ([`stage`]): three nodes of this very program in a temporary folder,
//! and an HTTP server inside the bench process that every job calls ([`receiver`]). What counts is what
//! arrives there, at which time and how often ([`account`]); records of the cluster are used only where a
//! figure is about them. All times come from the wall clock of the one machine.
//!
//! A figure is worth as much as what it was measured on: the report names the machine, the file system
//! and the build, and warns of a debug build, a disk in memory and a machine that is busy ([`machine`]).
//! Of several runs every value is shown, and their median ([`report`]).
//!
//! Where the product promises that nothing is lost or doubled, the bench proves it by the way: it exits
//! with 1 when its account finds a loss or a duplicate, after it has printed the figures.
//!
//! What a bench starts ends with it, also on Ctrl-C, SIGTERM, SIGHUP and on an error. The folder of a run
//! that failed is kept and named.
//!
//! Deliberately absent: a bench of a cluster that somebody uses; it kills nodes and registers 100,000 jobs.

mod account;
mod error;
mod failover;
mod handover;
mod instant;
mod jobs;
mod lateness;
mod load;
mod machine;
mod probe;
mod process;
mod receiver;
mod records;
mod report;
mod saturation;
mod stage;
mod stats;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

pub use self::error::BenchError;
use self::machine::Machine;
use self::report::{Measured, Report};
use self::stage::{Setup, Stage};
use super::args::positive_span;
use super::printer::Printer;
use super::{Context, Failure};
use crate::pb::span;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// How long nothing is fired when the leader is killed; and that nothing is lost or doubled
    #[command(after_long_help = failover::HELP)]
    Failover(failover::FailoverArgs),
    /// How late jobs are when leadership is handed over cleanly
    #[command(after_long_help = handover::HELP)]
    Handover(handover::HandoverArgs),
    /// How late jobs are at a steady rate, and what registered jobs cost in memory and time
    #[command(after_long_help = lateness::HELP)]
    Lateness(lateness::LatenessArgs),
    /// How many runs a second the cluster carries out when more are due
    #[command(after_long_help = saturation::HELP)]
    Saturation(saturation::SaturationArgs),
    /// How long it takes to fire many jobs that are due at one instant
    #[command(after_long_help = instant::HELP)]
    Instant(instant::InstantArgs),
    /// What many finished runs cost: disk, memory, questions, and a node that was away
    #[command(after_long_help = records::HELP)]
    Records(records::RecordsArgs),
}

/// Flags of every bench.
#[derive(Clone, Debug, Args)]
struct Shared {
    /// How often the whole is done, each time with a new cluster; the medians are told
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Keep the nodes' data and logs, and say where they are
    #[arg(long)]
    keep: bool,
    /// Folder in which those of the runs are made; it should be on a disk. Default: the temporary folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How often the leader shows itself. Default: the node's
    #[arg(long, value_name = "DURATION", value_parser = positive_span)]
    heartbeat: Option<Duration>,
    /// Shortest wait of a follower without a leader. Default: the node's
    #[arg(long, value_name = "DURATION", value_parser = positive_span)]
    election_min: Option<Duration>,
    /// Longest wait of a follower without a leader. Default: the node's
    #[arg(long, value_name = "DURATION", value_parser = positive_span)]
    election_max: Option<Duration>,
    /// Attempts that each node's worker carries out at the same time. Default: the node's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: Option<u32>,
}

impl Shared {
    fn setup(&self) -> Setup {
        Setup { dir: self.dir.clone().unwrap_or_else(std::env::temp_dir), extra: self.extra() }
    }

    /// What the flags add to each node's configuration.
    fn extra(&self) -> String {
        let mut extra = String::new();
        let times = [
            ("heartbeat", self.heartbeat),
            ("election_min", self.election_min),
            ("election_max", self.election_max),
        ];
        // Writing to a string cannot fail.
        if times.iter().any(|(_, span)| span.is_some()) {
            extra.push_str("[raft]\n");
        }
        for (key, value) in times {
            if let Some(value) = value {
                let _ = writeln!(extra, "{key} = \"{}\"", span::format(value));
            }
        }
        if let Some(slots) = self.slots {
            let _ = writeln!(extra, "[worker]\nslots = {slots}");
        }
        extra
    }

    fn settings(&self, settings: &mut BTreeMap<&'static str, String>) {
        let default = || "default".to_owned();
        for (name, value) in [
            ("heartbeat", self.heartbeat),
            ("election_min", self.election_min),
            ("election_max", self.election_max),
        ] {
            settings.insert(name, value.map_or_else(default, span::format));
        }
        settings.insert("slots", self.slots.map_or_else(default, |slots| slots.to_string()));
        settings.insert("nodes", stage::NODES.to_string());
    }
}

impl BenchCommand {
    fn shared(&self) -> &Shared {
        match self {
            Self::Failover(args) => &args.shared,
            Self::Handover(args) => &args.shared,
            Self::Lateness(args) => &args.shared,
            Self::Saturation(args) => &args.shared,
            Self::Instant(args) => &args.shared,
            Self::Records(args) => &args.shared,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Failover(_) => "failover",
            Self::Handover(_) => "handover",
            Self::Lateness(_) => "lateness",
            Self::Saturation(_) => "saturation",
            Self::Instant(_) => "instant",
            Self::Records(_) => "records",
        }
    }

    fn settings(&self) -> BTreeMap<&'static str, String> {
        let mut settings = BTreeMap::new();
        self.shared().settings(&mut settings);
        let own: Vec<(&str, u32)> = match self {
            Self::Failover(args) => vec![("kills", args.kills)],
            Self::Handover(args) => vec![("times", args.times)],
            Self::Lateness(args) => vec![("jobs", args.jobs), ("rate", args.rate), ("seconds", args.seconds)],
            Self::Saturation(args) => vec![("jobs", args.jobs), ("seconds", args.seconds)],
            Self::Instant(args) => vec![("jobs", args.jobs)],
            Self::Records(args) => vec![("records", args.records), ("rate", args.rate)],
        };
        settings.extend(own.into_iter().map(|(name, value)| (name, value.to_string())));
        settings
    }

    async fn measure(&self, stage: &mut Stage, printer: &mut Printer) -> Result<Measured, BenchError> {
        match self {
            Self::Failover(args) => failover::measure(args, stage, printer).await,
            Self::Handover(args) => handover::measure(args, stage, printer).await,
            Self::Lateness(args) => lateness::measure(args, stage).await,
            Self::Saturation(args) => saturation::measure(args, stage).await,
            Self::Instant(args) => instant::measure(args, stage).await,
            Self::Records(args) => records::measure(args, stage, printer).await,
        }
    }
}

pub(super) async fn carry_out(
    command: BenchCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let shared = command.shared();
    let machine = Machine::read(&shared.setup().dir);
    for warning in machine.warnings() {
        printer.note(&warning);
    }
    let mut runs = Vec::new();
    for number in 1..=shared.runs {
        printer.note(&format!("run {number} of {}", shared.runs));
        runs.push(run(&command, context, printer).await?);
    }
    let report = Report::new(command.name(), machine, command.settings(), &runs);
    report.print(printer)?;
    Ok(report.verdict()?)
}

/// One run on a stage of its own, which is cleared away whatever happens.
async fn run(
    command: &BenchCommand,
    context: &Context,
    printer: &mut Printer,
) -> Result<Measured, BenchError> {
    let shared = command.shared();
    let interrupted = interruption()?;
    let mut stage = Stage::open(&shared.setup(), context.clock.clone()).await?;
    let measured = tokio::select! {
        measured = command.measure(&mut stage, printer) => measured,
        () = interrupted => Err(BenchError::Interrupted),
    };
    let failed = measured.as_ref().is_err_and(|error| !matches!(error, BenchError::Interrupted));
    let keep = shared.keep || failed;
    if keep {
        printer.note(&format!("data and logs are in {}", stage.folder().display()));
    }
    let closed = stage.close(keep).await;
    let measured = measured?;
    closed?;
    Ok(measured)
}

/// Comes when the program is asked to end.
fn interruption() -> Result<impl Future<Output = ()>, BenchError> {
    let on = |kind| signal(kind).map_err(BenchError::Signals);
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut terminate = on(SignalKind::terminate())?;
    let mut hangup = on(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    fn shared() -> Shared {
        Shared {
            runs: 1,
            keep: false,
            dir: None,
            heartbeat: Some(Duration::from_millis(20)),
            election_min: Some(Duration::from_millis(60)),
            election_max: Some(Duration::from_millis(120)),
            slots: Some(512),
        }
    }

    #[test]
    fn the_flags_reach_the_nodes_configuration() {
        let node = "node_id = 1\nlisten = \"127.0.0.1:1\"\npeer_listen = \"127.0.0.1:2\"\ndata_dir = \"d\"\n\
                    peers = { 1 = \"127.0.0.1:2\" }\n";
        let text = format!("{node}{}", shared().extra());
        let config = Config::read("node.toml", &text, Overrides::default()).expect("a configuration");
        assert_eq!(config.raft.heartbeat, Duration::from_millis(20));
        assert_eq!(config.raft.election_min, Duration::from_millis(60));
        assert_eq!(config.raft.election_max, Duration::from_millis(120));
        assert_eq!(config.worker.slots, 512);
    }

    #[test]
    fn without_flags_the_nodes_have_their_defaults() {
        let none =
            Shared { heartbeat: None, election_min: None, election_max: None, slots: None, ..shared() };
        assert_eq!(none.extra(), "");
    }
}
