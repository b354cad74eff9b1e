//! What a process uses: memory and processor time, from Linux's `/proc/PID` (proc(5)).

use std::path::PathBuf;
use std::time::Duration;

use super::error::BenchError;
use super::machine::kibibytes;

/// What a process has used up to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    /// Processor time of all its threads, to 10 ms.
    pub(super) cpu: Duration,
    /// Memory that is its own and in RAM; pages of files that it maps are not counted.
    pub(super) memory_bytes: u64,
}

impl Usage {
    /// Of a process, or of this one.
    ///
    /// # Errors
    /// [`BenchError::File`] when there is no such process.
    pub(super) fn of(process: Option<u32>) -> Result<Self, BenchError> {
        let dir = PathBuf::from("/proc").join(process.map_or_else(|| "self".to_owned(), |id| id.to_string()));
        let read = |name: &str| {
            let path = dir.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok((path, text)),
                Err(source) => Err(BenchError::File { path, source }),
            }
        };
        let (path, text) = read("stat")?;
        let cpu = cpu(&text, rustix::param::clock_ticks_per_second()).ok_or(BenchError::Proc { path })?;
        let (path, text) = read("status")?;
        let memory = kibibytes(&text, "RssAnon").ok_or(BenchError::Proc { path })?;
        Ok(Self { cpu, memory_bytes: memory * 1_024 })
    }
}

/// User and system time, fields 14 and 15. The second field is the program's name in parentheses, which
/// may hold anything, so the fields are counted from its end.
fn cpu(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs(1) * u32::try_from(user + system).ok()? / u32::try_from(ticks_per_second).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_program_name() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 100 1 2";
        assert_eq!(cpu(stat, 100), Some(Duration::from_secs(2)));
        assert_eq!(cpu("12 (a) S 1", 100), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let usage = Usage::of(None).expect("there is a /proc");
        assert!(usage.memory_bytes > 100_000, "{usage:?}");
    }
}
