//! Starts a program, watches it, and leaves nothing of it behind.
//!
//! The course of an attempt: `prepare` checks the order and builds the command; the process starts in a process
//! group of its own; its output (`pipes`) and its end are awaited beside the order's limit. If the limit comes
//! first, all processes of the attempt get SIGTERM, a grace, and SIGKILL (`tree`). If the process ends by itself,
//! what it left in its group gets a short time to finish its output, and then SIGKILL: a forgotten background
//! process that holds the output open neither hangs the attempt nor outlives it.
//!
//! Invariants:
//! - The process that we started is reaped last, after the signals: until then its number, which names the group,
//!   cannot be taken by another.
//! - The environment is clean: what is in it is in the worker's configuration, the order, or `told`.
//!
//! A process that has left the group *and* closed the output is left alone when the attempt ends by itself, as cron
//! would: that is how a job starts something that is to stay. A timeout or a cancellation ends that one too.
//!
//! Deliberately absent: resource limits, users and umask, which a process can only be given before it starts by
//! means that this crate forbids itself (`unsafe`); they are those of the worker's own service unit. Should the
//! worker itself be killed by SIGKILL its processes live on, unless that unit's control group takes them along.

mod pipes;
mod prepare;
mod result;
#[cfg(test)]
mod tests;
mod tree;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Child;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::pipes::Pipes;
use self::prepare::NotStarted;
use self::result::ResultFile;
use self::tree::Tree;
use super::interrupt::{Interrupt, Limit};
use super::{Exec, ExecStreams, Order, Outcome, Report, TargetsConfig, TargetsError, sink};
use crate::spool::{Beginning, Spool};

/// From SIGTERM to SIGKILL, unless configured otherwise.
pub const EXEC_GRACE_DEFAULT: Duration = Duration::from_secs(5);
/// Where programs are looked for, unless configured otherwise.
pub const EXEC_PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Names and values of the variables that a job sets, at most; more is refused.
pub const EXEC_ENV_BYTES_MAX: usize = 128 * 1024;
/// How long the output may stay open after the process has ended by itself.
const DRAIN: Duration = Duration::from_secs(1);
/// How long the output is read on after a SIGKILL; what is in the pipe arrives at once.
const DRAIN_AFTER_KILL: Duration = Duration::from_millis(200);
/// How often the grace looks for processes that are left without the one that we started.
const GRACE_LOOK: Duration = Duration::from_millis(50);

/// Starts processes by the rules of this worker's operator.
#[derive(Debug)]
pub(super) struct Launcher {
    allowed: bool,
    programs: Option<Vec<PathBuf>>,
    path: String,
    base_env: Vec<(&'static str, String)>,
    grace: Duration,
    apart: bool,
    result_dir: Option<PathBuf>,
    spool: Option<Spool>,
}

impl Launcher {
    pub(super) fn new(config: &TargetsConfig) -> Result<Self, TargetsError> {
        if let Some(relative) = config.exec_programs.iter().flatten().find(|program| program.is_relative()) {
            return Err(TargetsError::ProgramPath(relative.clone()));
        }
        let mut base_env = vec![
            ("PATH", config.exec_path.clone()),
            ("HOME", config.exec_home.clone()),
            ("LANG", config.exec_lang.clone()),
        ];
        base_env.extend(config.exec_tmp_dir.clone().map(|dir| ("TMPDIR", dir)));
        Ok(Self {
            allowed: config.allow_exec,
            programs: config.exec_programs.clone(),
            path: config.exec_path.clone(),
            base_env,
            grace: config.exec_grace,
            apart: config.exec_streams == ExecStreams::Apart,
            result_dir: config.result_dir.clone(),
            spool: config.spool.clone(),
        })
    }

    pub(super) async fn carry_out(&self, order: &Order, exec: &Exec, cancel: &CancellationToken) -> Report {
        let limit = Limit::starting_now(order.timeout, cancel);
        match self.start(order, exec) {
            Ok(running) => running.course(&limit, self.grace).await,
            Err(why) => Report::of(why.outcome()).with_error(why),
        }
    }

    fn start(&self, order: &Order, exec: &Exec) -> Result<Running, NotStarted> {
        let prepared = self.prepare(order, exec)?;
        let (program, mark) = (prepared.program.clone(), prepared.mark.clone());
        let (mut child, readers, result) = prepared.spawn()?;
        let tree = Tree::of(&child, &mark);
        let unfed = exec.stdin.clone().unwrap_or_default();
        let sink = sink(self.spool.as_ref(), order, Beginning::AtOnce);
        let pipes = Pipes::new(readers, child.stdin.take(), unfed, sink)
            .map_err(|source| NotStarted::Spawn { program, source })?;
        Ok(Running { tree, child, pipes, result })
    }
}

/// A started attempt. The tree comes first, for fields are dropped in order and its signals need the child unreaped.
struct Running {
    tree: Tree,
    child: Child,
    pipes: Pipes,
    result: Option<ResultFile>,
}

/// Processes of the attempt that even SIGKILL did not end in time.
type Survivors = usize;

impl Running {
    async fn course(mut self, limit: &Limit<'_>, grace: Duration) -> Report {
        let interrupt = tokio::select! {
            biased;
            () = Self::exited(&mut self.tree, &mut self.child, &mut self.pipes) => None,
            interrupt = limit.reached() => Some(interrupt),
        };
        let survivors = match interrupt {
            None => self.tidy_up().await,
            Some(_) => self.stop(grace).await,
        };
        let status = self.reap(survivors).await;
        let report = ending(interrupt, status, survivors).with_output(self.pipes.into_tail());
        let Some(result) = self.result.take() else { return report };
        match result.take().await {
            Ok(result) => Report { result, ..report },
            Err(why) => report.with_remark(why),
        }
    }

    /// Resolves when the process that we started has ended, moving its input and output meanwhile.
    async fn exited(tree: &mut Tree, child: &mut Child, pipes: &mut Pipes) {
        let exit = tree.leader_exited(child);
        tokio::pin!(exit);
        tokio::select! {
            biased;
            () = &mut exit => return,
            () = pipes.pump() => {}
        }
        exit.await;
    }

    /// Ends what a process that ended by itself has left behind.
    async fn tidy_up(&mut self) -> Survivors {
        self.pipes.close_input();
        let drained = timeout(DRAIN, self.pipes.pump()).await.is_ok();
        self.tree.signal_group(Signal::KILL);
        if drained || timeout(DRAIN_AFTER_KILL, self.pipes.pump()).await.is_ok() {
            return 0;
        }
        // whoever still holds the output has left the group
        let survivors = self.tree.kill_all().await;
        let _still_open = timeout(DRAIN_AFTER_KILL, self.pipes.pump()).await;
        survivors
    }

    /// Stops all processes of the attempt: SIGTERM, grace, SIGKILL.
    async fn stop(&mut self, grace: Duration) -> Survivors {
        let until = Instant::now().checked_add(grace);
        if !grace.is_zero() {
            self.tree.terminate_all().await;
            let ended = Self::all_ended(&mut self.tree, &mut self.child, &mut self.pipes);
            match until {
                Some(until) => drop(timeout_at(until, ended).await),
                None => ended.await,
            }
        }
        self.pipes.close_input();
        let survivors = self.tree.kill_all().await;
        let _still_open = timeout(DRAIN_AFTER_KILL, self.pipes.pump()).await;
        survivors
    }

    /// Resolves when no process of the attempt is left.
    async fn all_ended(tree: &mut Tree, child: &mut Child, pipes: &mut Pipes) {
        Self::exited(tree, child, pipes).await;
        pipes.close_input();
        while tree.count().await > 0 {
            let move_output = async {
                pipes.pump().await;
                std::future::pending::<()>().await;
            };
            let _look_again = timeout(GRACE_LOOK, move_output).await;
        }
    }

    /// Collects the status; None if the process cannot be ended, which must not hold the attempt for ever.
    async fn reap(&mut self, survivors: Survivors) -> Option<ExitStatus> {
        let status =
            if survivors == 0 { self.child.wait().await.ok() } else { self.child.try_wait().ok().flatten() };
        self.tree.over();
        status
    }
}

fn ending(interrupt: Option<Interrupt>, status: Option<ExitStatus>, survivors: Survivors) -> Report {
    let code = status.and_then(|status| status.code());
    let signal = status.and_then(|status| status.signal());
    let left =
        if survivors == 0 { String::new() } else { format!("; {survivors} processes outlived SIGKILL") };
    let how = match (code, signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "end unknown".to_owned(),
    };
    let mut report = match interrupt {
        Some(interrupt) => interrupt.report(&format!(" ({how}){left}")),
        None if code == Some(0) && survivors == 0 => Report::of(Outcome::Succeeded),
        None if code == Some(0) => Report::of(Outcome::Succeeded).with_error(format_args!("{how}{left}")),
        None => Report::of(Outcome::Failed).with_error(format_args!("{how}{left}")),
    };
    report.exit_code = code;
    report.signal = signal;
    report
}
