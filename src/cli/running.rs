//! Carries out the commands that run until they are stopped: SIGTERM or Ctrl-C stops them cleanly, a
//! second one at once.

use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::Global;
use super::failure::Exit;
use super::printer;
use super::serve::{DevArgs, ServerArgs, WorkerArgs};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::connections::{self, Connections};
use crate::node::{self, NodeError, dev, local, worker};
use crate::telemetry::{self, LogFormat};

/// What is logged of a process that runs until it is stopped, unless `CHRONARCH_LOG` says otherwise. The
/// consensus library warns of each heartbeat that a dead peer misses; `raft` says it once.
const LOG: &str = "info,openraft=error";

/// Runs one node.
pub async fn server(args: ServerArgs, clock: Clock) -> ExitCode {
    if let Err(error) = telemetry::start(args.log.log_format, LOG) {
        return super::refuse(&error);
    }
    let config = match read_config(&args) {
        Ok(config) => config,
        Err(problem) => return problem,
    };
    tracing::info!(?config, "starting");
    raise_file_limit();
    let stop = match stop_on_signals() {
        Ok(stop) => stop,
        Err(error) => return super::refuse(&error),
    };
    match node::run(config, clock, stop).await {
        Ok(()) => Exit::Done.into(),
        Err(NodeError::Fatal(error)) => {
            printer::refusal(&error);
            end_at_once()
        }
        Err(error) => super::refuse(&error),
    }
}

fn read_config(args: &ServerArgs) -> Result<Config, ExitCode> {
    let (name, text) = match &args.config {
        None => ("the command line".to_owned(), String::new()),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => (path.display().to_string(), text),
            Err(error) => {
                let error = std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
                return Err(super::refuse(&error));
            }
        },
    };
    Config::read(&name, &text, args.overrides()).map_err(|error| super::refuse(&error))
}

fn read_connections(file: Option<&Path>) -> Result<Connections, ExitCode> {
    let Some(path) = file else { return Ok(Connections::new()) };
    let text = std::fs::read_to_string(path).map_err(|error| {
        super::refuse(&std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    })?;
    connections::read(&path.display().to_string(), &text).map_err(|error| super::refuse(&error))
}

/// Runs a local cluster.
pub async fn dev(args: DevArgs, clock: Clock) -> ExitCode {
    let stop = match stop_on_signals() {
        Ok(stop) => stop,
        Err(error) => return super::refuse(&error),
    };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return super::refuse(&error),
    };
    let kept = args.data_dir.is_some();
    let fresh = || std::env::temp_dir().join(format!("chronarch-dev-{:08x}", clock.random() & 0xffff_ffff));
    let dir = args.data_dir.unwrap_or_else(fresh);
    let options = local::LocalOptions {
        nodes: u64::from(args.nodes),
        dir: dir.clone(),
        program,
        ports: local::Ports::From(dev::PORTS.0, dev::PORTS.1),
        logs: local::Logs::Pipe,
        log_format: match args.log.log_format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        },
        extra: "\n[worker]\nallow_exec = true\n".to_owned(),
    };
    let ended = dev::run(options, stop, printer::progress).await;
    if !kept && let Err(error) = std::fs::remove_dir_all(&dir) {
        printer::progress(&format!("{}: not removed: {error}", dir.display()));
    }
    match ended {
        Ok(()) => Exit::Done.into(),
        Err(error) => super::refuse(&error),
    }
}

/// Runs a stand-alone worker.
pub async fn worker(args: WorkerArgs, global: Global, clock: Clock) -> ExitCode {
    if let Err(error) = telemetry::start(args.log.log_format, LOG) {
        return super::refuse(&error);
    }
    let stop = match stop_on_signals() {
        Ok(stop) => stop,
        Err(error) => return super::refuse(&error),
    };
    let place = args.name.clone().unwrap_or_else(machine);
    let folder = match &args.data_dir {
        Some(folder) => worker::Folder::Asked(folder.clone()),
        None => worker::Folder::of_environment(|name| std::env::var(name).ok()),
    };
    let limits = worker::OutputLimits {
        output_bytes: args.output_bytes,
        total_bytes: args.output_total_bytes,
        age: args.output_age,
    };
    let output = match worker::keep(&place, folder, limits, &clock).await {
        Ok(output) => output,
        Err(error) => return super::refuse(&error),
    };
    let connections = match read_connections(args.connections.as_deref()) {
        Ok(connections) => connections,
        Err(problem) => return problem,
    };
    let setup = worker::WorkerSetup {
        connections,
        place,
        exec_streams: args.exec_streams,
        output,
        labels: args.labels(),
        slots: args.concurrency,
        allow_exec: args.allow_exec,
        endpoints: global.endpoints.iter().map(ToString::to_string).collect(),
        queues: args.queues.into_iter().collect(),
        node: None,
        drain_grace: args.drain_timeout,
    };
    match worker::run(setup, &node::Surroundings::real(clock), stop).await {
        Ok(end) => {
            let (stopped, unacknowledged) = (end.stopped, end.unacknowledged);
            if !end.is_clean() {
                printer::progress(&format!(
                    "{stopped} attempts were stopped, {unacknowledged} reports not acknowledged"
                ));
            }
            // What was stopped and reported is in `on_lost`'s hands at once; what the cluster was not told of is not.
            if unacknowledged == 0 { Exit::Done.into() } else { Exit::Refused.into() }
        }
        Err(error) => super::refuse(&error),
    }
}

/// Each worker and each client of a node is an open file, and the limit that systems set by default, 1,024, is there
/// for programs that use select(2), which this one does not.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The machine's name, or what it is in the absence of one.
fn machine() -> String {
    match rustix::system::uname().nodename().to_string_lossy() {
        name if name.is_empty() => "worker".to_owned(),
        name => name.into_owned(),
    }
}

/// Cancelled by the first SIGTERM or Ctrl-C; the second ends the process.
fn stop_on_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if asked.is_cancelled() {
                end_at_once();
            }
            asked.cancel();
        }
    });
    Ok(stop)
}

/// Ends the process without running destructors: the stores must not be dropped after an error (see
/// `storage::store`), and nothing that is acknowledged depends on them.
#[expect(clippy::disallowed_methods, reason = "the fatal path of the process")]
fn end_at_once() -> ! {
    std::process::exit(1)
}
