//! What may be proposed, and what becomes of it.
//!
//! A command carries results, never questions: the leader has already read the clock, the zones and
//! the dice. Each names what it expects to find, so proposing it twice is harmless: the second is
//! rejected. `apply` is total: a command that may not be is an [`Outcome::Rejected`], never a panic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::calendar::CalendarSpec;
pub use super::codec::CodecError;
pub(super) use super::codec::{decode, encode};
use super::evidence::StateHash;
use super::namespace::NamespaceLimits;
pub use super::outcome::{Change, Outcome};
use super::pack::later;
use super::queue::QueueLimits;
use super::run::{AttemptOutcome, JobId, Report, RunId, TaskNews};
use super::spec::JobSpec;
use super::time::Timestamp;
use super::tzdata::ZoneData;
use super::verdict::Verdict;

/// One entry of the log: commands under one stamp, applied in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Wall time of the proposer. The state's `now` never goes behind it.
    pub at: Timestamp,
    /// At most [`super::limits::COMMANDS_PER_ENTRY`].
    pub commands: Vec<Command>,
}

impl Entry {
    /// The bytes of the log and the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads them back.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are of another version or no entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode(bytes)
    }
}

/// An armed occurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Due {
    /// When it is to be fired: the nominal instant plus jitter.
    pub due_at: Timestamp,
    /// The nominal instant.
    pub scheduled_at: Timestamp,
}

/// A job as a client names it, and the incarnation that stood under that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRef {
    /// Its incarnation.
    pub id: JobId,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Who asks, why, and under which id for repeats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// A repeat under the same id is answered with the first outcome. Empty: not remembered.
    pub operation_id: String,
    /// For the record.
    pub actor: String,
    /// For the record.
    pub reason: String,
}

/// A run that someone makes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// Which.
    pub run: RunId,
    /// The first run of its chain, maybe itself.
    pub chain: RunId,
}

/// A proposed change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A new leader's first entry of its term: a record for people, which decides nothing.
    Lead {
        /// The node that leads.
        node: u64,
        /// Its term.
        term: u64,
        /// How long ago, by its own monotonic clock, it last heard another leader or led itself; absent when it
        /// has done neither since it started.
        silent_for: Option<Duration>,
    },
    /// Raises the level of what may be written: every member has said that it speaks it; see [`super::level`].
    RaiseLevel {
        /// The level as known to the proposer.
        from: u32,
        /// A higher one.
        to: u32,
    },
    /// Creates or replaces a job.
    PutJob {
        /// The definition, checked.
        spec: Arc<JobSpec>,
        /// First occurrence after the stamp.
        next: Option<Due>,
        /// Who.
        request: Request,
        /// The generation that `next` was computed with; see [`super::reading`].
        #[serde(default, serialize_with = "later")]
        reading: u64,
    },
    /// Deletes a job. Live runs go on unless cancelled; records stay.
    DeleteJob {
        /// Which.
        job: JobRef,
        /// Cancel its live runs.
        cancel_runs: bool,
        /// Who.
        request: Request,
    },
    /// Stops the creation of occurrences.
    PauseJob {
        /// Which.
        job: JobRef,
        /// Who.
        request: Request,
        /// When it is to end by itself.
        #[serde(default, serialize_with = "later")]
        until: Option<Timestamp>,
    },
    /// Lets occurrences be created again.
    ResumeJob {
        /// Which.
        job: JobRef,
        /// The version that `next` was computed from.
        version: u64,
        /// First occurrence: after the stamp, or after the pause began (`on_resume: catch_up`).
        next: Option<Due>,
        /// Who.
        request: Request,
        /// The generation that `next` was computed with.
        #[serde(default, serialize_with = "later")]
        reading: u64,
    },
    /// Makes a run by hand.
    TriggerJob {
        /// Which.
        job: JobRef,
        /// Who.
        request: Request,
        /// Parameters with other values than the job's.
        #[serde(default, serialize_with = "later")]
        params: BTreeMap<String, String>,
        /// The run that is made again.
        #[serde(default, serialize_with = "later")]
        again: Option<Again>,
        /// The one place whose workers may carry it out.
        #[serde(default, serialize_with = "later")]
        place: Option<Arc<str>>,
    },
    /// Makes a run for each of some past instants.
    Backfill {
        /// Which.
        job: JobRef,
        /// The version whose schedule they were computed from.
        version: u64,
        /// Nominal instants, ascending, at most [`super::limits::BACKFILL`].
        instants: Vec<Timestamp>,
        /// Who.
        request: Request,
    },
    /// Decides occurrences of a job that are due, and arms the next.
    Fire {
        /// Which.
        job: JobId,
        /// The version that the occurrences were computed from.
        version: u64,
        /// The armed nominal instant; the first verdict begins with it.
        expect: Timestamp,
        /// In ascending order, without gaps: together they cover all instants before `next`.
        verdicts: Vec<Verdict>,
        /// The occurrence after those.
        next: Option<Due>,
    },
    /// The schedule of a job cannot be evaluated by this leader: one record says so, and nothing is armed until
    /// someone changes the job.
    Disarm {
        /// Which.
        job: JobId,
        /// The version whose schedule it is.
        version: u64,
        /// The armed nominal instant, which must be due.
        expect: Timestamp,
        /// What is wrong with the schedule.
        why: Arc<str>,
    },
    /// Starts an attempt. Once applied, and not before, the order may leave for the worker.
    Start {
        /// Which run; it must wait for a worker.
        run: RunId,
        /// The number of the attempt.
        attempt: u32,
        /// Who carries it out.
        worker: Arc<str>,
        /// Until when the worker is believed alive without a sign.
        lease_until: Timestamp,
    },
    /// Makes a run for each worker that matches, of a run whose job says `every_node`.
    Spread {
        /// Which run; it must wait for a worker.
        run: RunId,
        /// The places of the workers, ascending; at most [`super::limits::PLACES`], or the run is skipped.
        places: Vec<Arc<str>>,
    },
    /// Records the end of an attempt.
    Complete {
        /// Which run.
        run: RunId,
        /// The fence of the attempt; another one is refused.
        fence: u64,
        /// How it ended.
        outcome: AttemptOutcome,
        /// What the worker says of it.
        report: Arc<Report>,
        /// The wait before another attempt, if the policy wants one.
        retry_after: Duration,
    },
    /// What an attempt began goes on without its worker: it has left a task with others, who tell how that ends.
    HandOver {
        /// Which run.
        run: RunId,
        /// The fence of the attempt; another one is refused.
        fence: u64,
        /// The name of the connection by which it was left.
        connection: Arc<str>,
        /// What it is called there; unique for ever.
        task: Arc<str>,
        /// When it is worth running no more; absent: never.
        #[serde(default, serialize_with = "later")]
        expires_at: Option<Timestamp>,
        /// The queue that it was left in, where it waits for nothing else.
        #[serde(default, serialize_with = "later")]
        queue: Option<Arc<str>>,
    },
    /// The time of a task that an attempt has left is over: whoever watches it is to end it.
    StopTask {
        /// Which run.
        run: RunId,
        /// The fence of the attempt; another one is refused.
        fence: u64,
    },
    /// A task that an attempt has left was heard of before its end.
    HearTask {
        /// Which run.
        run: RunId,
        /// The fence of the attempt; another one is refused.
        fence: u64,
        /// Who tells it.
        by: Arc<str>,
        /// What.
        news: TaskNews,
    },
    /// A worker gave a sign of life.
    Renew {
        /// Which.
        worker: Arc<str>,
        /// The new end of its lease.
        lease_until: Timestamp,
    },
    /// A worker's lease ended without a sign: its attempts are lost, and `on_lost` decides.
    Lose {
        /// Which.
        worker: Arc<str>,
        /// The end of the lease as known to the proposer.
        expect: Timestamp,
        /// The wait before another attempt, where `retry` wants one.
        retry_after: Duration,
    },
    /// The wait before the next attempt is over.
    Retry {
        /// Which run.
        run: RunId,
    },
    /// The run did not start in time.
    Expire {
        /// Which run.
        run: RunId,
    },
    /// Ends a run.
    CancelRun {
        /// Which run.
        run: RunId,
        /// Who.
        request: Request,
    },
    /// The cool-down of a breaker is over.
    HalfOpen {
        /// Which.
        breaker: BreakerKey,
        /// Log index of its opening.
        opened: u64,
    },
    /// Sets the limits of a queue; without any it has none.
    SetQueue {
        /// Which.
        queue: Arc<str>,
        /// All of them.
        limits: QueueLimits,
        /// Who.
        request: Request,
    },
    /// Sets what is kept of a namespace's records; without any limit all that its jobs keep is.
    SetNamespace {
        /// Which.
        namespace: Arc<str>,
        /// All of them.
        limits: NamespaceLimits,
        /// Who.
        request: Request,
    },
    /// Opens a breaker by hand.
    TripBreaker {
        /// Which.
        breaker: BreakerKey,
        /// For how long; the policy's cool-down where absent.
        open_for: Option<Duration>,
        /// Who.
        request: Request,
    },
    /// Closes a breaker by hand.
    ResetBreaker {
        /// Which.
        breaker: BreakerKey,
        /// Who.
        request: Request,
    },
    /// Arms the occurrence of a job that follows from the end of its last run.
    Arm {
        /// Which; it must be at rest.
        job: JobId,
        /// The version whose schedule it is.
        version: u64,
        /// When the last run ended, as [`super::Job::rests_since`].
        since: Timestamp,
        /// The occurrence.
        next: Due,
    },
    /// Defines a calendar.
    PutCalendar {
        /// The definition, checked.
        spec: Arc<CalendarSpec>,
        /// Who.
        request: Request,
    },
    /// Deletes a calendar that no job names.
    DeleteCalendar {
        /// Which.
        calendar: Arc<str>,
        /// Who.
        request: Request,
    },
    /// Pins the data of the time zones; see [`super::tzdata`].
    SetTzdata {
        /// All of it.
        data: Arc<ZoneData>,
        /// By how many seconds the wall clocks of zones go back with it, there and then; negative: forward.
        shifts: BTreeMap<String, i32>,
        /// The hash of the data before it; absent where none was pinned.
        expect: Option<StateHash>,
        /// Who.
        request: Request,
    },
    /// A range of jobs was read with what has changed; see [`super::reading`].
    Reread {
        /// The generation that they were read with.
        generation: u64,
        /// The job before the first one; absent: from the first of all.
        after: Option<JobId>,
        /// The last one; absent: to the end of all.
        through: Option<JobId>,
        /// Those whose armed occurrence is another now.
        armed: Vec<Rearmed>,
    },
}

/// A job that was read anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rearmed {
    /// Which.
    pub job: JobId,
    /// The version whose schedule it is.
    pub version: u64,
    /// Its next occurrence.
    pub next: Option<Due>,
}

impl Command {
    /// The request of a client's command.
    #[must_use]
    pub const fn request(&self) -> Option<&Request> {
        match self {
            Self::PutJob { request, .. }
            | Self::DeleteJob { request, .. }
            | Self::PauseJob { request, .. }
            | Self::ResumeJob { request, .. }
            | Self::TriggerJob { request, .. }
            | Self::Backfill { request, .. }
            | Self::CancelRun { request, .. }
            | Self::SetQueue { request, .. }
            | Self::SetNamespace { request, .. }
            | Self::PutCalendar { request, .. }
            | Self::DeleteCalendar { request, .. }
            | Self::SetTzdata { request, .. }
            | Self::TripBreaker { request, .. }
            | Self::ResetBreaker { request, .. } => Some(request),
            Self::Lead { .. }
            | Self::RaiseLevel { .. }
            | Self::Fire { .. }
            | Self::Disarm { .. }
            | Self::Start { .. }
            | Self::Spread { .. }
            | Self::Complete { .. }
            | Self::HandOver { .. }
            | Self::StopTask { .. }
            | Self::HearTask { .. }
            | Self::Renew { .. }
            | Self::Lose { .. }
            | Self::Retry { .. }
            | Self::Expire { .. }
            | Self::HalfOpen { .. }
            | Self::Arm { .. }
            | Self::Reread { .. } => None,
        }
    }
}

/// Identity of a breaker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BreakerKey {
    /// A job's own.
    Job(JobId),
    /// Shared by name: namespace, name.
    Shared(Arc<str>, Arc<str>),
}
