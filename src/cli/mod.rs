//! The command line: from a person's words to the API and back.
//!
//! [`parse`] turns arguments into an [`Invocation`]. Those that run a node, a local cluster or a
//! worker are returned to `main`, which owns the wiring; all others are carried out by
//! [`carry_out`], most of them over [`crate::client`], a few offline. Nouns are singular:
//! `chronarch NOUN VERB`.
//!
//! Rules that hold for every command: data goes to stdout and all else to stderr ([`printer`] is
//! the only place that prints); `-o json` is one document in the textual form of the protocol
//! (`crate::pb`); a failure has an exit code that says what kind it is ([`failure`]) and, where
//! something would help, a `hint:` line. Nothing is asked interactively, nothing is coloured, and
//! the time and randomness that a command needs are handed in ([`Clock`]).

mod apply;
mod args;
mod bench;
mod breaker;
mod calendar;
mod cluster;
mod completion;
mod failure;
mod import;
mod job;
mod logs;
mod namespace;
mod occurrences;
mod printer;
mod queue;
mod run;
pub mod running;
mod schedule;
mod serve;
mod tables;
#[cfg(test)]
mod tests;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use self::args::Global;
pub use self::bench::BenchError;
pub use self::failure::{Exit, Failure};
pub use self::serve::{DevArgs, Label, LogArgs, PeerArg, ServerArgs, WorkerArgs};
use crate::client::Client;
use crate::clock::Clock;
use printer::Printer;

/// A replicated job scheduler: every due job fires exactly once, whatever dies.
#[derive(Debug, Parser)]
#[command(name = "chronarch", version, about, arg_required_else_help = true, infer_subcommands = false)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs one node in the foreground
    Server(ServerArgs),
    /// Runs a local cluster of real node processes in one terminal, for trying things out
    Dev(DevArgs),
    /// Runs a stand-alone worker: attempts are carried out on machines that are not nodes. With a subcommand: the
    /// workers that the cluster knows
    Worker(worker::WorkerLine),
    /// Jobs: what runs, when, and under which policies
    Job {
        #[command(subcommand)]
        command: job::JobCommand,
    },
    /// The run log: one record for every decided occurrence
    Run {
        #[command(subcommand)]
        command: run::RunCommand,
    },
    /// Queues and their limits
    Queue {
        /// What to do
        #[command(subcommand)]
        command: queue::QueueCommand,
    },
    /// Namespaces, and how much of what their jobs did is kept
    Namespace {
        /// What to do
        #[command(subcommand)]
        command: namespace::NamespaceCommand,
    },
    /// Calendars that the schedules of all jobs share: holidays, opening hours, blackouts
    Calendar {
        /// What to do
        #[command(subcommand)]
        command: calendar::CalendarCommand,
    },
    /// Circuit breakers
    Breaker {
        #[command(subcommand)]
        command: breaker::BreakerCommand,
    },
    /// The cluster itself
    Cluster {
        #[command(subcommand)]
        command: cluster::ClusterCommand,
    },
    /// Schedules, offline: no cluster is needed
    Schedule {
        #[command(subcommand)]
        command: schedule::ScheduleCommand,
    },
    /// Turns another scheduler's definitions into job files, offline; what cannot be carried over is told on stderr
    Import(import::ImportArgs),
    /// Measures a cluster of its own on this machine: takeover, hand-over, lateness, rate
    Bench {
        #[command(subcommand)]
        command: bench::BenchCommand,
    },
    /// Prints a completion script for a shell
    Completion(completion::CompletionArgs),
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run one node.
    Server(Box<ServerArgs>),
    /// Run a local cluster.
    Dev(Box<DevArgs>),
    /// Run a stand-alone worker against the endpoints of the global flags.
    Worker(Box<WorkerArgs>, Box<Global>),
    /// Anything else; see [`carry_out`].
    Short(Box<Short>),
}

/// A command that does its work and ends.
#[derive(Debug)]
pub struct Short {
    global: Global,
    command: ShortCommand,
}

#[derive(Debug)]
enum ShortCommand {
    Job(job::JobCommand),
    Run(run::RunCommand),
    Queue(queue::QueueCommand),
    Namespace(namespace::NamespaceCommand),
    Calendar(calendar::CalendarCommand),
    Breaker(breaker::BreakerCommand),
    Worker(worker::WorkerCommand),
    Cluster(cluster::ClusterCommand),
    Schedule(schedule::ScheduleCommand),
    Import(import::ImportArgs),
    Bench(bench::BenchCommand),
    Completion(completion::CompletionArgs),
}

/// Reads the arguments, the program's name first.
///
/// # Errors
/// The exit code to end with, after usage or help was printed: 2 for a wrong command line, 0 for
/// `--help` and `--version`.
pub fn parse<A>(args: impl IntoIterator<Item = A>) -> Result<Invocation, ExitCode>
where
    A: Into<OsString> + Clone,
{
    let Cli { global, command } = Cli::try_parse_from(args).map_err(|error| printer::usage(&error))?;
    let short = |global, command| Invocation::Short(Box::new(Short { global, command }));
    Ok(match command {
        Command::Server(args) => Invocation::Server(Box::new(args)),
        Command::Dev(args) => Invocation::Dev(Box::new(args)),
        Command::Worker(worker::WorkerLine { command: Some(command), .. }) => {
            short(global, ShortCommand::Worker(command))
        }
        Command::Worker(worker::WorkerLine { run, command: None }) => {
            Invocation::Worker(Box::new(run), Box::new(global))
        }
        Command::Job { command } => short(global, ShortCommand::Job(command)),
        Command::Run { command } => short(global, ShortCommand::Run(command)),
        Command::Queue { command } => short(global, ShortCommand::Queue(command)),
        Command::Namespace { command } => short(global, ShortCommand::Namespace(command)),
        Command::Calendar { command } => short(global, ShortCommand::Calendar(command)),
        Command::Breaker { command } => short(global, ShortCommand::Breaker(command)),
        Command::Cluster { command } => short(global, ShortCommand::Cluster(command)),
        Command::Schedule { command } => short(global, ShortCommand::Schedule(command)),
        Command::Import(args) => short(global, ShortCommand::Import(args)),
        Command::Bench { command } => short(global, ShortCommand::Bench(command)),
        Command::Completion(args) => short(global, ShortCommand::Completion(args)),
    })
}

/// Carries a command out and prints what came of it.
pub async fn carry_out(short: Short, clock: Clock) -> ExitCode {
    let mut printer = Printer::new(short.global.output);
    let context = Context { global: short.global, clock };
    let done = match short.command {
        ShortCommand::Job(command) => job::carry_out(command, &context, &mut printer).await,
        ShortCommand::Run(command) => run::carry_out(command, &context, &mut printer).await,
        ShortCommand::Queue(command) => queue::carry_out(command, &context, &mut printer).await,
        ShortCommand::Namespace(command) => namespace::carry_out(command, &context, &mut printer).await,
        ShortCommand::Calendar(command) => calendar::carry_out(command, &context, &mut printer).await,
        ShortCommand::Breaker(command) => breaker::carry_out(command, &context, &mut printer).await,
        ShortCommand::Worker(command) => worker::carry_out(command, &context, &mut printer).await,
        ShortCommand::Cluster(command) => cluster::carry_out(command, &context, &mut printer).await,
        ShortCommand::Schedule(command) => schedule::carry_out(&command, &context, &mut printer),
        ShortCommand::Import(args) => import::carry_out(&args, &context, &mut printer),
        ShortCommand::Bench(command) => bench::carry_out(command, &context, &mut printer).await,
        ShortCommand::Completion(args) => completion::carry_out(&args, Cli::command(), &mut printer),
    };
    let done = done.and_then(|()| printer.flush());
    match done {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            printer.failure(&failure);
            failure.exit().into()
        }
    }
}

/// Says why the program cannot even start; the exit code to end with.
pub fn refuse(error: &dyn std::error::Error) -> ExitCode {
    printer::refusal(error);
    Exit::Refused.into()
}

/// What every command may need.
struct Context {
    global: Global,
    clock: Clock,
}

impl Context {
    fn client(&self) -> Result<Client, Failure> {
        let clock = self.clock.clone();
        Ok(Client::new(&self.global.endpoints, self.global.timeout, move || clock.random_id())?)
    }

    /// The namespace to look in; empty means every namespace.
    fn namespace_or_all(&self, all: bool) -> String {
        if all { String::new() } else { self.global.namespace.clone() }
    }
}
