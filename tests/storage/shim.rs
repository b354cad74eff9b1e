//! Puts `ioshim.c` between a process and its files. What it can do stands at the head of that file.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const SOURCE: &str = include_str!("ioshim.c");

/// The compiled shim, made once a process and kept among the build's temporary files.
///
/// # Panics
/// When the C compiler, which linking Rust needs as well, does not compile it.
pub(crate) fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let own = format!("ioshim-{}", std::process::id());
        let (source, built) = (folder.join(format!("{own}.c")), folder.join(format!("{own}.so")));
        fs::write(&source, SOURCE).expect("the build's folder is writable");
        let ended = Command::new("cc")
            .args(["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o"])
            .args([&built, &source])
            .output()
            .expect("cc starts");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        fs::remove_file(&source).expect("it was just written");
        // Other test processes may be at the same: a rename leaves each of them a whole file.
        let library = folder.join("ioshim.so");
        fs::rename(&built, &library).expect("one folder");
        library
    })
}

/// What the shim is to do in a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shim {
    root: PathBuf,
    rules: String,
    control: Option<PathBuf>,
    trace: Option<PathBuf>,
    acks: Option<PathBuf>,
    sends: bool,
}

impl Shim {
    /// Looks at the files below `root`, which has no symbolic links in it.
    pub(crate) fn of(root: &Path) -> Self {
        Self { root: root.to_path_buf(), ..Self::default() }
    }

    /// Faults for the whole life of the process.
    pub(crate) fn rules(mut self, rules: impl Into<String>) -> Self {
        self.rules = rules.into();
        self
    }

    /// Faults that [`Control`] sets and takes back while the process runs.
    pub(crate) fn control(mut self, control: &Control) -> Self {
        self.control = Some(control.path.clone());
        self
    }

    /// Notes every change in `file`.
    pub(crate) fn trace(mut self, file: &Path) -> Self {
        self.trace = Some(file.to_path_buf());
        self
    }

    /// Notes what is written to `file` as acknowledgements.
    pub(crate) fn acks(mut self, file: &Path) -> Self {
        self.acks = Some(file.to_path_buf());
        self
    }

    /// Notes what is sent on sockets as acknowledgements.
    pub(crate) fn sends(mut self) -> Self {
        self.sends = true;
        self
    }

    /// The environment of the process.
    pub(crate) fn environment(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        let mut environment: Vec<(&'static str, std::ffi::OsString)> = vec![
            ("LD_PRELOAD", library().into()),
            ("IOSHIM_ROOT", self.root.clone().into()),
            ("IOSHIM_RULES", self.rules.clone().into()),
        ];
        let files =
            [("IOSHIM_CONTROL", &self.control), ("IOSHIM_TRACE", &self.trace), ("IOSHIM_ACKS", &self.acks)];
        environment.extend(files.into_iter().filter_map(|(name, file)| Some((name, file.clone()?.into()))));
        if self.sends {
            environment.push(("IOSHIM_SENDS", "1".into()));
        }
        environment
    }

    /// Writes a program that runs `program` with its arguments under the shim: for whoever takes a path alone.
    pub(crate) fn wrapper(&self, program: &Path, at: &Path) {
        let mut script = String::from("#!/bin/sh\n");
        for (name, value) in self.environment() {
            script.push_str(&format!("export {name}={}\n", quoted(&value)));
        }
        script.push_str(&format!("exec {} \"$@\"\n", quoted(program.as_os_str())));
        fs::write(at, script).expect("the script is written");
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(at, executable).expect("our own file");
    }
}

fn quoted(text: &OsStr) -> String {
    format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"))
}

/// Faults that can be changed while processes run.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    path: PathBuf,
}

impl Control {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// These faults from now on, and no others.
    pub(crate) fn set(&self, rules: &str) {
        let next = self.path.with_extension("next");
        fs::write(&next, rules).expect("the folder is writable");
        fs::rename(&next, &self.path).expect("one folder");
    }

    /// No faults any more.
    pub(crate) fn clear(&self) {
        self.set("");
    }
}
