//! Turns an order into a command that may be started, or says why not.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::process::{Child, Command};

use super::pipes::Readers;
use super::result::{self, ResultFile};
use super::{EXEC_ENV_BYTES_MAX, Launcher};
use crate::target::told::{is_reserved_variable, told};
use crate::target::{Exec, INPUT_BYTES_MAX, Order, Outcome, Program};

const SHELL: &str = "/bin/sh";
/// The variable with the results of the runs before it.
const INPUTS: &str = "CHRONARCH_INPUTS";

/// Why no process was started.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotStarted {
    #[error("exec is off on this worker")]
    Off,
    #[error("command: empty")]
    NoProgram,
    #[error("command: {} is not among the programs that this worker allows", .0.display())]
    NotAllowed(PathBuf),
    #[error("{0}: contains a NUL byte")]
    NulByte(&'static str),
    #[error("env: {0:?} is not a variable's name")]
    BadVariable(String),
    #[error("env: {0} is set by the scheduler and cannot be overridden")]
    Reserved(String),
    #[error("env: more than {EXEC_ENV_BYTES_MAX} bytes")]
    EnvTooLarge,
    #[error("stdin: more than {INPUT_BYTES_MAX} bytes")]
    StdinTooLarge,
    #[error("command: program {program:?} not found in PATH {path:?}")]
    NotFound { program: String, path: String },
    #[error("cwd: {} is not a directory", .0.display())]
    CwdNotADirectory(PathBuf),
    #[error("cwd: cannot use {}: {source}", path.display())]
    Cwd { path: PathBuf, source: io::Error },
    #[error("cannot start {}: {source}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
}

impl NotStarted {
    /// Refused where the configuration or the order forbids it, failed where this machine cannot do it.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Off
            | Self::NoProgram
            | Self::NotAllowed(_)
            | Self::NulByte(_)
            | Self::BadVariable(_)
            | Self::Reserved(_)
            | Self::EnvTooLarge
            | Self::StdinTooLarge => Outcome::Refused,
            Self::NotFound { .. } | Self::CwdNotADirectory(_) | Self::Cwd { .. } | Self::Spawn { .. } => {
                Outcome::Failed
            }
        }
    }
}

/// A command that may be started.
pub(super) struct Prepared {
    pub(super) program: PathBuf,
    /// Value of [`MARK`]: unlike that of any other attempt on this machine.
    pub(super) mark: String,
    /// Where the process may leave a result.
    result: Option<ResultFile>,
    /// Standard output and standard error have a pipe each.
    apart: bool,
    command: Command,
}

/// Variable by which the processes of an attempt are known. A run's id and fence would not do: two clusters on
/// one machine can have the same.
pub(super) const MARK: &str = "CHRONARCH_PROCESS";

/// The worker's process id and a number that it gives once.
fn fresh_mark() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

impl Prepared {
    /// Starts it; the readers are its standard output and standard error.
    pub(super) fn spawn(mut self) -> Result<(Child, Readers, Option<ResultFile>), NotStarted> {
        let failed = |source| NotStarted::Spawn { program: self.program.clone(), source };
        let (stdout, writer) = io::pipe().map_err(failed)?;
        let (readers, other) = if self.apart {
            let (stderr, other) = io::pipe().map_err(failed)?;
            (Readers::Apart { stdout, stderr }, other)
        } else {
            (Readers::Both(stdout), writer.try_clone().map_err(failed)?)
        };
        // the command owns our ends of the pipes and is dropped here: only the process holds them open afterwards
        let child = self.command.stdout(writer).stderr(other).spawn().map_err(failed)?;
        Ok((child, readers, self.result))
    }
}

impl Launcher {
    pub(super) fn prepare(&self, order: &Order, exec: &Exec) -> Result<Prepared, NotStarted> {
        if !self.allowed {
            return Err(NotStarted::Off);
        }
        if exec.stdin.as_ref().is_some_and(|stdin| stdin.len() > INPUT_BYTES_MAX) {
            return Err(NotStarted::StdinTooLarge);
        }
        let environment = self.environment(order, &exec.env)?;
        let (name, arguments) = words(&exec.program)?;
        let cwd = exec.cwd.as_deref();
        // a program that is not allowed must be refused even where it or its folder does not exist
        let found = self.find(&name, exec);
        self.check_allowed(found.as_deref().unwrap_or(Path::new(&name)), cwd)?;
        check_cwd(cwd)?;
        let program = found.ok_or_else(|| NotStarted::NotFound {
            program: name.clone(),
            path: self.search_path(exec).to_owned(),
        })?;

        let mark = fresh_mark();
        let result = self.result_dir.as_deref().map(|folder| ResultFile::named(folder, &mark));
        let mut command = Command::new(&program);
        command.env_clear().envs(environment).env(MARK, &mark);
        if let Some(result) = &result {
            command.env(result::VARIABLE, result.path());
        }
        command.arg0(&name).args(arguments).process_group(0).kill_on_drop(true);
        command.stdin(if exec.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        if let Some(cwd) = cwd {
            command.current_dir(cwd);
        }
        Ok(Prepared { program, mark, result, apart: self.apart, command })
    }

    fn environment(
        &self,
        order: &Order,
        own: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<OsString, OsString>, NotStarted> {
        if own.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > EXEC_ENV_BYTES_MAX {
            return Err(NotStarted::EnvTooLarge);
        }
        for (name, value) in own {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(NotStarted::BadVariable(name.chars().take(64).collect()));
            }
            if is_reserved_variable(name) {
                return Err(NotStarted::Reserved(name.clone()));
            }
            if value.contains('\0') {
                return Err(NotStarted::NulByte("env"));
            }
        }
        let base = self.base_env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let own = own.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let told = told(order).into_iter().map(|told| (told.variable.into_owned().into(), told.value.into()));
        let inputs = inputs(order).map(|text| (INPUTS.into(), text.into()));
        Ok(base.chain(own).chain(told).chain(inputs).collect())
    }

    fn search_path<'a>(&'a self, exec: &'a Exec) -> &'a str {
        exec.env.get("PATH").unwrap_or(&self.path)
    }

    /// The file of a program: by itself if its name has a slash, else the first in the path. None: not found.
    fn find(&self, name: &str, exec: &Exec) -> Option<PathBuf> {
        if name.contains('/') {
            return Some(PathBuf::from(name));
        }
        let is_program = |file: &PathBuf| {
            file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        // an empty or relative part would look in whatever folder the worker happens to be in
        std::env::split_paths(self.search_path(exec))
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(name))
            .find(is_program)
    }

    fn check_allowed(&self, program: &Path, cwd: Option<&Path>) -> Result<(), NotStarted> {
        let Some(allowed) = &self.programs else { return Ok(()) };
        let whole = cwd.map_or_else(|| program.to_owned(), |cwd| cwd.join(program));
        let real = real_place(&whole);
        if real.is_some() && allowed.iter().any(|allowed| real_place(allowed) == real) {
            Ok(())
        } else {
            Err(NotStarted::NotAllowed(program.to_owned()))
        }
    }
}

/// The same file under one name: links are followed in its folder (`/bin` is often `/usr/bin`) but not in the file
/// itself, for where one program has many names (busybox) allowing one name must not allow all.
fn real_place(program: &Path) -> Option<PathBuf> {
    Some(program.parent()?.canonicalize().ok()?.join(program.file_name()?))
}

/// The program's name and its arguments.
fn words(program: &Program) -> Result<(String, Vec<String>), NotStarted> {
    let (name, arguments, field) = match program {
        Program::Command(words) => match words.split_first() {
            Some((name, arguments)) if !name.is_empty() => (name.clone(), arguments.to_vec(), "command"),
            Some(_) | None => return Err(NotStarted::NoProgram),
        },
        Program::Shell(script) => (SHELL.to_owned(), vec!["-c".to_owned(), script.clone()], "shell"),
    };
    if name.contains('\0') || arguments.iter().any(|argument| argument.contains('\0')) {
        return Err(NotStarted::NulByte(field));
    }
    Ok((name, arguments))
}

/// The operating system reports a missing folder as a missing program; this tells them apart.
fn check_cwd(cwd: Option<&Path>) -> Result<(), NotStarted> {
    let Some(cwd) = cwd else { return Ok(()) };
    match cwd.metadata() {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(NotStarted::CwdNotADirectory(cwd.to_owned())),
        Err(source) => Err(NotStarted::Cwd { path: cwd.to_owned(), source }),
    }
}

/// The results of the runs before it, as one JSON object by the names of their jobs; none where there are none.
fn inputs(order: &Order) -> Option<String> {
    // What is no JSON after all is handed on as a text.
    let value = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into());
    let object: serde_json::Map<String, serde_json::Value> =
        order.inputs.iter().map(|(job, result)| (job.clone(), value(result))).collect();
    (!object.is_empty()).then(|| serde_json::Value::Object(object).to_string())
}
