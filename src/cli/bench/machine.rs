//! The facts without which a figure says nothing: the machine, the disk and the build.
//!
//! They are read from Linux's `/proc` (proc(5)); what cannot be read is left out rather than guessed.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// File systems that forget everything when the power goes, so that syncing costs nothing on them.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];
/// Load beyond which other programs have taken part in the figures, in hundredths of a core.
const LOAD_MAX_PERCENT: f64 = 50.0;

/// Where figures were measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cores: usize,
    pub(super) processor: Option<String>,
    pub(super) memory_mib: Option<u64>,
    pub(super) kernel: Option<String>,
    /// Kind of the file system that the nodes' data is on.
    pub(super) file_system: Option<String>,
    /// Processes that ran or wanted to, averaged over the minute before the bench.
    pub(super) load: Option<f64>,
    /// `release`, or `debug`, whose figures mean nothing.
    pub(super) build: &'static str,
    pub(super) version: &'static str,
}

impl Machine {
    /// Reads the facts; `dir` is where the nodes' data will be.
    pub(super) fn read(dir: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: read("/proc/cpuinfo").and_then(|text| field(&text, "model name")),
            memory_mib: read("/proc/meminfo")
                .and_then(|text| kibibytes(&text, "MemTotal"))
                .map(|kib| kib / 1_024),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            file_system: read("/proc/self/mountinfo").and_then(|text| file_system(&text, &dir)),
            load: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// What makes the figures worth less.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.build == "debug" {
            warnings.push("this is a debug build: its figures say nothing about a release".to_owned());
        }
        if let Some(kind) = self.file_system.as_deref().filter(|kind| IN_MEMORY.contains(kind)) {
            warnings.push(format!(
                "the nodes' data is on {kind}, where syncing costs nothing: choose a disk with --dir"
            ));
        }
        if let Some(load) = self.load.filter(|load| load * 100.0 > LOAD_MAX_PERCENT) {
            warnings.push(format!("other programs use this machine: its load was {load} before the start"));
        }
        warnings
    }
}

/// The value of a `name : value` line.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// The number of a `name: number kB` line, as `/proc/meminfo` and `/proc/PID/status` have them.
pub(super) fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix(" kB")?.trim().parse().ok()
}

/// The kind of the file system that `dir` is on: that of the longest mount point above it, and of several
/// mounts on one point the last.
fn file_system(mountinfo: &str, dir: &Path) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        Some((before.split(' ').nth(4)?, after.split(' ').next()?))
    });
    let above = mounts.filter(|(point, _)| dir.starts_with(point));
    above.max_by_key(|(point, _)| Path::new(point).components().count()).map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount() {
        let mounts = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                      30 22 0:5 / /tmp rw,nosuid - tmpfs tmpfs rw\n\
                      31 22 8:2 / /tmp/disk rw shared:3 master:1 - xfs /dev/sdb1 rw\n";
        let kind = |dir: &str| file_system(mounts, Path::new(dir));
        assert_eq!(kind("/var/lib").as_deref(), Some("ext4"));
        assert_eq!(kind("/tmp/a").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/tmp/disk/a").as_deref(), Some("xfs"));
        assert_eq!(kind("/tmpfile").as_deref(), Some("ext4"));
    }

    #[test]
    fn sizes_are_read_from_their_lines() {
        assert_eq!(kibibytes("VmPeak:\t  900 kB\nVmRSS:\t  1234 kB\n", "VmRSS"), Some(1_234));
        assert_eq!(kibibytes("VmRSS:\t  1234 kB\n", "VmSwap"), None);
    }

    #[test]
    fn a_disk_in_memory_is_warned_of() {
        let mut machine = Machine::read(Path::new("/"));
        (machine.build, machine.load, machine.file_system) = ("release", None, Some("ext4".to_owned()));
        assert_eq!(machine.warnings(), Vec::<String>::new());
        machine.file_system = Some("tmpfs".to_owned());
        assert_eq!(machine.warnings().len(), 1);
    }
}
