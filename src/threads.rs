//! The one door to threads: whoever has work that blocks hands it in here, and whoever wants a thread of its own
//! asks here first whether there are any.
//!
//! In a node such work runs beside the runtime, on threads. In a simulation everything runs in turn, on the one
//! thread that there is, so that one seed is one history: [`take_turns`] says so, for the whole process and for
//! good, before anything else runs. Then work that blocks is done at once, by whoever hands it in, and the stores
//! do without threads: the log is written by a task, after the time that the simulated disk takes for it.
//!
//! What it does not do: decide what may block (each caller knows), or limit how much runs at a time (tokio's pool
//! does).

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::task::JoinError;

/// How work is done in a simulation.
pub struct Turns {
    disk_takes: Box<dyn Fn() -> Duration + Send + Sync>,
    random: Box<dyn Fn() -> u64 + Send + Sync>,
}

static TURNS: OnceLock<Turns> = OnceLock::new();

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turns")
    }
}

impl Turns {
    /// How long the disk takes for the next write and its sync, in the simulation's time.
    pub fn disk_takes(&self) -> Duration {
        (self.disk_takes)()
    }

    /// A random number for whoever cannot be handed a [`Clock`](crate::clock::Clock).
    pub fn random(&self) -> u64 {
        (self.random)()
    }
}

/// From here on everything in this process runs in turn, `disk_takes` is asked before each write of a log, and
/// `random` by who would draw a number of the thread's. For simulations alone; a second call changes nothing.
pub fn take_turns(
    disk_takes: impl Fn() -> Duration + Send + Sync + 'static,
    random: impl Fn() -> u64 + Send + Sync + 'static,
) {
    let _ = TURNS.set(Turns { disk_takes: Box::new(disk_takes), random: Box::new(random) });
}

/// How work is done, in a simulation; nothing in a node.
pub fn turns() -> Option<&'static Turns> {
    TURNS.get()
}

/// Does work that blocks where that holds up nobody.
///
/// # Errors
/// [`JoinError`] when the work panicked, or when the runtime ends before it began.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if turns().is_some() {
        return Ok(work());
    }
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    tokio::task::spawn_blocking(work).await
}
