//! What is fuzzed: one function a target, from bytes to a verdict. It panics when a promise is broken; that it
//! ends, and how much memory it takes, is watched by whoever calls it.
//!
//! `tests/corpus.rs` calls these on the stored corpus and on seeded mutations of it, in every run of the tests;
//! the fuzz crate beside this folder calls them under libFuzzer (`scripts/fuzz`).

mod files;
pub(crate) mod log;
mod messages;
mod scene;
mod texts;

/// A target: its name is that of its corpus and of its fuzz binary.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]),
}

/// All targets.
pub(crate) const ALL: &[Target] = &[
    Target { name: "schedule", run: texts::schedule },
    Target { name: "value", run: texts::value },
    Target { name: "job_file", run: texts::job_file },
    Target { name: "foreign", run: texts::foreign },
    Target { name: "config", run: texts::config },
    Target { name: "request", run: messages::request },
    Target { name: "worker", run: messages::worker },
    Target { name: "peer", run: messages::peer },
    Target { name: "entry", run: log::entry },
    Target { name: "run", run: log::run },
    Target { name: "snapshot", run: log::snapshot },
    Target { name: "wal", run: files::wal },
    Target { name: "snapshot_file", run: files::snapshot_file },
];

/// Runs the target of this name.
///
/// # Panics
/// When there is none, and when a promise is broken.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let target = ALL.iter().find(|target| target.name == name).expect("a target");
    (target.run)(bytes);
}
