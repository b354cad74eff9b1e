//! All processes of one attempt, and how they are signalled.
//!
//! The process that we start leads a process group, and one call signals the whole group. A process may leave it
//! (`setsid`, a daemon). Those are found on Linux by a walk through `/proc` ([`proc`]): every process that carries
//! this attempt's mark in its environment, is in the group, or descends from one that does.
//!
//! Limits: a process that left the group, dropped its environment *and* lost its parents before the attempt was
//! stopped is not found;
//! neither is one of another user, where the worker may not look. Only a control group of the operating system,
//! which needs rights that a worker should not have, would hold those. On systems other than Linux the group is
//! all that is known. Where pid file descriptors are missing, the end of the first process is learned by reaping
//! it, so that a group's number might in theory be taken anew before the last signal.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;

use super::prepare::MARK;

/// How long the processes have to vanish after SIGKILL; one that sits in a broken device may never do so.
const KILL_WAIT: Duration = Duration::from_secs(2);
/// Between two looks at whether they have vanished.
const KILL_LOOK: Duration = Duration::from_millis(10);
/// The looks of a kill that cannot wait because its future was dropped: the second finds what was forked during the
/// first.
const KILL_LOOKS_AT_ONCE: u32 = 3;

/// By what the processes of an attempt are recognised.
#[derive(Debug, Clone)]
struct Mark {
    group: Option<Pid>,
    /// `NAME=value` as found in an environment.
    variable: Vec<u8>,
}

/// The processes of an attempt; killed when dropped before [`Tree::over`].
#[derive(Debug)]
pub(super) struct Tree {
    mark: Mark,
    /// Found by the last look; a process once found stays known while it lives, whatever becomes of its parents.
    known: Vec<proc::Process>,
    exit: Option<exit::Watch>,
    over: bool,
}

impl Tree {
    /// `child` must lead a process group of its own.
    pub(super) fn of(child: &Child, mark: &str) -> Self {
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let variable = format!("{MARK}={mark}").into_bytes();
        Self {
            mark: Mark { group, variable },
            known: Vec::new(),
            exit: group.and_then(exit::Watch::on),
            over: false,
        }
    }

    /// Resolves when the process that we started has ended; where possible without reaping it.
    pub(super) async fn leader_exited(&self, child: &mut Child) {
        match &self.exit {
            Some(watch) => watch.exited().await,
            // an error means that there is no such child: it has ended
            None => drop(child.wait().await),
        }
    }

    pub(super) fn signal_group(&self, signal: Signal) {
        let Some(group) = self.mark.group else { return };
        match kill_process_group(group, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => {
                let group = group.as_raw_nonzero().get();
                tracing::warn!(group, error = %io::Error::from(errno), "cannot signal a process group");
            }
        }
    }

    /// Asks all processes of the attempt to end, the stopped ones too.
    pub(super) async fn terminate_all(&mut self) {
        // looked up before the first signal: with its parents a process loses what it may be known by
        self.look().await;
        self.signal_all(Signal::TERM);
        self.signal_all(Signal::CONT);
    }

    /// How many processes of the attempt are alive.
    pub(super) async fn count(&mut self) -> usize {
        self.look().await;
        self.known.len()
    }

    /// Kills all processes of the attempt and waits until they are gone; answers how many are not.
    pub(super) async fn kill_all(&mut self) -> usize {
        let until = tokio::time::Instant::now() + KILL_WAIT;
        loop {
            self.look().await;
            self.signal_all(Signal::KILL);
            if self.known.is_empty() || tokio::time::Instant::now() >= until {
                return self.known.len();
            }
            tokio::time::sleep(KILL_LOOK).await;
        }
    }

    /// Nothing is left to kill, and the group's number may be another's from here on.
    pub(super) fn over(&mut self) {
        self.over = true;
    }

    /// Looks through all processes of the machine, off the runtime's own threads.
    async fn look(&mut self) {
        let (mark, known) = (self.mark.clone(), self.known.clone());
        let looked = crate::threads::blocking(move || proc::members(&mark, &known)).await;
        // a runtime that shuts down no longer looks; then the tree is dropped, and that does
        self.known = looked.unwrap_or_default();
    }

    fn signal_all(&self, signal: Signal) {
        self.signal_group(signal);
        self.known.iter().for_each(|process| process.signal(signal));
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        for _ in 0..KILL_LOOKS_AT_ONCE {
            self.known = proc::members(&self.mark, &self.known);
            self.signal_all(Signal::KILL);
            if self.known.is_empty() {
                return;
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod exit {
    //! The end of a process, seen without reaping it.

    use std::os::fd::OwnedFd;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    #[derive(Debug)]
    pub(super) struct Watch(AsyncFd<OwnedFd>);

    impl Watch {
        /// None where the kernel (before 5.3) or a sandbox has no pid file descriptors.
        #[expect(
            deprecated,
            reason = "sound for an OwnedFd, which stays open as long as the AsyncFd; the replacement is unsafe"
        )]
        pub(super) fn on(pid: Pid) -> Option<Self> {
            let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            AsyncFd::with_interest(fd, Interest::READABLE).ok().map(Self)
        }

        /// The descriptor becomes readable when the process ends, and stays so.
        pub(super) async fn exited(&self) {
            if self.0.readable().await.is_err() {
                // the runtime shuts down, and this future with it
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod exit {
    //! Systems on which the end of a process is learned by reaping it.

    use rustix::process::Pid;

    #[derive(Debug)]
    pub(super) enum Watch {}

    impl Watch {
        pub(super) fn on(_: Pid) -> Option<Self> {
            None
        }

        pub(super) async fn exited(&self) {
            match *self {}
        }
    }
}

#[cfg(target_os = "linux")]
mod proc {
    //! A walk through all processes of the machine.

    use std::collections::BTreeMap;
    use std::fs::File;
    use std::io::Read;

    use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

    use super::Mark;

    /// Read of an environment, at most; `ARG_MAX` with the usual stack limit.
    const ENVIRON_BYTES_MAX: u64 = 2 * 1024 * 1024;

    /// A living process.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Process {
        id: Pid,
        parent: i32,
        group: i32,
        /// In clock ticks since boot; with the id it names a process for ever.
        started: u64,
    }

    impl Process {
        /// None for what is dead already, a zombie included.
        fn read(id: Pid) -> Option<Self> {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).ok()?;
            // the name, in brackets, may contain anything; what follows the last bracket is numbers
            let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
            let alive = !matches!(fields.next()?, "Z" | "X" | "x");
            let parent = fields.next()?.parse().ok()?;
            let group = fields.next()?.parse().ok()?;
            let started = fields.nth(16)?.parse().ok()?;
            alive.then_some(Self { id, parent, group, started })
        }

        /// Whether both name the same process, whatever became of its parent and group.
        fn is(&self, other: &Self) -> bool {
            (self.id, self.started) == (other.id, other.started)
        }

        /// Signals exactly this process: were its number another's by now, nothing is sent.
        pub(super) fn signal(&self, signal: Signal) {
            let Ok(handle) = pidfd_open(self.id, PidfdFlags::empty()) else {
                if Self::read(self.id).is_some_and(|now| now.is(self)) {
                    // without descriptors, the moment between the look and the signal remains
                    let _gone = kill_process(self.id, signal);
                }
                return;
            };
            if Self::read(self.id).is_some_and(|now| now.is(self)) {
                let _gone = pidfd_send_signal(&handle, signal);
            }
        }

        fn carries(&self, mark: &Mark) -> bool {
            let mut environ = Vec::new();
            let read = File::open(format!("/proc/{}/environ", self.id.as_raw_nonzero()))
                .and_then(|file| file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ));
            read.is_ok() && environ.split(|byte| *byte == 0).any(|entry| entry == mark.variable)
        }
    }

    /// The living processes of an attempt; `known` are such that were found before.
    pub(super) fn members(mark: &Mark, known: &[Process]) -> Vec<Process> {
        let own = rustix::process::getpid();
        let Ok(folder) = std::fs::read_dir("/proc") else { return Vec::new() };
        let mut others: BTreeMap<i32, Process> = folder
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(Pid::from_raw)
            .filter(|id| *id != own)
            .filter_map(Process::read)
            .map(|process| (process.id.as_raw_nonzero().get(), process))
            .collect();
        let leader = mark.group.map(|group| group.as_raw_nonzero().get());
        let is_known = |process: &Process| known.iter().any(|known| known.is(process));
        let mut found = take(&mut others, |process| {
            Some(process.group) == leader || is_known(process) || process.carries(mark)
        });
        let mut newest: Vec<i32> = found.iter().map(|process| process.id.as_raw_nonzero().get()).collect();
        newest.extend(leader);
        while !newest.is_empty() {
            let children = take(&mut others, |process| newest.contains(&process.parent));
            newest = children.iter().map(|process| process.id.as_raw_nonzero().get()).collect();
            found.extend(children);
        }
        found
    }

    /// Moves out those that match.
    fn take(from: &mut BTreeMap<i32, Process>, matches: impl Fn(&Process) -> bool) -> Vec<Process> {
        from.extract_if(.., |_, process| matches(process)).map(|(_, process)| process).collect()
    }
}

#[cfg(not(target_os = "linux"))]
mod proc {
    //! Systems whose processes we do not look through.

    use rustix::process::Signal;

    use super::Mark;

    #[derive(Debug, Clone)]
    pub(super) enum Process {}

    impl Process {
        pub(super) fn signal(&self, _: Signal) {
            match *self {}
        }
    }

    pub(super) fn members(_: &Mark, _: &[Process]) -> Vec<Process> {
        Vec::new()
    }
}
