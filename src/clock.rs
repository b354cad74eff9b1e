//! The one door to time and chance.
//!
//! Everything that needs the wall clock, a monotonic instant or a random number is handed a
//! [`Clock`]; nothing else in the crate reads them (`clippy.toml` bans the calls). So the shipped
//! server can run in a simulator, and the replicated state cannot read a clock by accident.
//!
//! Wall time anchors on the system clock once and is read anew each time: a step of the system clock
//! is seen. What a node may act on is [`trusted::TrustedClock`]; what must not run backwards
//! (`State::now`) is guarded where it is used.

pub mod trusted;

use std::sync::{Arc, Mutex};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::state::time::Timestamp;

/// Wall time and randomness. Clones share one source.
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    chance: Arc<Mutex<SmallRng>>,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Clock {
    /// The machine's clock, and randomness seeded by the operating system.
    #[must_use]
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the door")]
        let wall = || {
            let since =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        };
        #[expect(clippy::disallowed_methods, reason = "this is the door")]
        let seed = rand::random();
        Self::new(wall, seed)
    }

    /// A clock of the caller's making.
    pub fn new(wall: impl Fn() -> Timestamp + Send + Sync + 'static, seed: u64) -> Self {
        Self { wall: Arc::new(wall), chance: Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))) }
    }

    /// The wall time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.wall)()
    }

    /// A random number.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.chance.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next_u64()
    }

    /// 128 random bits in lower-case hex, for ids.
    #[must_use]
    pub fn random_id(&self) -> String {
        format!("{:016x}{:016x}", self.random(), self.random())
    }
}
