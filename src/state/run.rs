//! A run: the record of one decided occurrence, from the decision to its end.
//!
//! A live run is in the state; when it ends it leaves the state for the run log and never changes
//! again. `state` and `reason` are what users see; [`Phase`] says what a live run waits for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod handed;

pub use handed::{HandedOver, TaskHeard, TaskLeft, TaskNews};

use super::command::{BreakerKey, CodecError};
use super::group::GroupKey;
use super::pack::later;
use super::time::Timestamp;

/// Identity of a job for ever: from the log index of the entry that created it. A job that is deleted
/// and created again under its name has another one, so its runs can never be taken for the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub u64);

/// Identity of a run for ever: the job's incarnation and the nominal instant.
///
/// `seq` is 0 for a run of the schedule, so the same instant can be fired only once; a run made by
/// hand carries the number of the command that made it, and the part of a run that is for one of several workers
/// carries its place among them. As text `JOB-MILLISECONDS[-mNUMBER][-pPLACE]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId {
    /// The job's incarnation.
    pub job: JobId,
    /// The nominal instant.
    pub at: Timestamp,
    /// 0, or the number of the command that made the run by hand; with [`RunId::at_place`] above it.
    pub seq: u64,
}

/// The bits of [`RunId::seq`] that hold the number of a command; those above hold a place.
const NUMBER_BITS: u32 = 54;

impl RunId {
    /// The highest number of a command that an identity holds.
    pub const NUMBER_MAX: u64 = (1 << NUMBER_BITS) - 1;
    /// It comes before all others, and is none.
    pub(in crate::state) const FIRST: Self = Self { job: JobId(0), at: Timestamp::MIN, seq: 0 };

    /// The identity of the run that this one makes for its `place`th worker, counted from 1, at most
    /// [`super::limits::PLACES`].
    #[must_use]
    pub const fn at_place(self, place: u16) -> Self {
        Self { seq: self.number() | ((place as u64) << NUMBER_BITS), ..self }
    }

    /// Which of the workers of its parent it is for, from 1; 0 for a run that is no such part.
    #[must_use]
    pub const fn place(self) -> u64 {
        self.seq >> NUMBER_BITS
    }

    /// The run that it is a part of; itself where it is none.
    #[must_use]
    pub const fn whole(self) -> Self {
        Self { seq: self.number(), ..self }
    }

    /// 0, or the number of the command that made the run by hand.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.seq & Self::NUMBER_MAX
    }

    /// The lowest and the highest identity that a run of `job` can have.
    #[must_use]
    pub const fn range_of(job: JobId) -> std::ops::RangeInclusive<Self> {
        Self { job, at: Timestamp::MIN, seq: 0 }..=Self { job, at: Timestamp::MAX, seq: u64::MAX }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.job.0, self.at.millis())?;
        if self.number() > 0 {
            write!(f, "-m{}", self.number())?;
        }
        if self.place() > 0 { write!(f, "-p{}", self.place()) } else { Ok(()) }
    }
}

/// Why a text is no run id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a run id such as 4096-1774746000000")]
pub struct RunIdError;

impl FromStr for RunId {
    type Err = RunIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (job, rest) = text.split_once('-').ok_or(RunIdError)?;
        let (rest, place) = match rest.rsplit_once("-p") {
            Some((rest, place)) => (rest, place.parse().map_err(|_| RunIdError)?),
            None => (rest, 0),
        };
        let (at, number) = match rest.rsplit_once("-m") {
            Some((at, number)) => (at, number.parse().map_err(|_| RunIdError)?),
            None => (rest, 0),
        };
        let id = Self {
            job: JobId(job.parse().map_err(|_| RunIdError)?),
            at: Timestamp::from_millis(at.parse().map_err(|_| RunIdError)?),
            seq: number,
        };
        let id = id.at_place(place);
        if id.to_string() == text { Ok(id) } else { Err(RunIdError) }
    }
}

/// What made the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The schedule, on time.
    Schedule,
    /// Someone's trigger.
    Manual,
    /// Catch-up of a missed occurrence.
    CatchUp,
    /// Someone's backfill of a past range.
    Backfill,
    /// Runs of the jobs before it.
    After,
}

/// What users see of a run's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// Decided, waits.
    Pending,
    /// An attempt runs.
    Running,
    /// An attempt succeeded.
    Succeeded,
    /// The last attempt failed, and no other follows.
    Failed,
    /// Someone, or a newer run, ended it.
    Cancelled,
    /// It never started.
    Skipped,
}

/// Why a run was skipped or failed, or what a pending one waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Missed, and catch-up did not want it.
    CatchUp,
    /// Runs of the job were live.
    Overlap,
    /// The breaker was open.
    BreakerOpen,
    /// Not started within `start_within`.
    Expired,
    /// A newer run took its place.
    Superseded,
    /// The attempt took too long.
    Timeout,
    /// Nobody knows what an attempt did: its worker vanished, or its target did not answer.
    Lost,
    /// The process ended with another code than 0.
    Exit,
    /// The status code was no success.
    HttpStatus,
    /// The attempt failed in another way; the attempt's `error` says how.
    Error,
    /// Someone cancelled it.
    Cancelled,
    /// A limit of the cluster was reached; of a pending one, the limits of its group.
    Limit,
    /// The leader could not evaluate the schedule.
    Schedule,
    /// Pending: waits for a worker with room.
    Worker,
    /// Pending: waits for its next attempt.
    Backoff,
    /// The runs before it did not end as it waits for.
    Upstream,
    /// The status of the call was not OK.
    GrpcStatus,
    /// A calendar excludes its instant.
    Calendar,
}

impl Reason {
    /// All of them.
    #[rustfmt::skip]
    pub const ALL: [Self; 18] = [
        Self::CatchUp, Self::Overlap, Self::BreakerOpen, Self::Expired, Self::Superseded, Self::Timeout, Self::Lost,
        Self::Exit, Self::HttpStatus, Self::Error, Self::Cancelled, Self::Limit, Self::Schedule, Self::Worker,
        Self::Backoff, Self::Upstream, Self::GrpcStatus, Self::Calendar,
    ];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CatchUp => "catch_up",
            Self::Overlap => "overlap",
            Self::BreakerOpen => "breaker_open",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::Exit => "exit",
            Self::HttpStatus => "http_status",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::Limit => "limit",
            Self::Schedule => "schedule",
            Self::Worker => "worker",
            Self::Backoff => "backoff",
            Self::Upstream => "upstream",
            Self::GrpcStatus => "grpc_status",
            Self::Calendar => "calendar",
        }
    }
}

/// What a live run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// For live runs of its job to end.
    Queued,
    /// For its breaker to let it through: it is not closed.
    Held,
    /// For a worker with room.
    Waiting,
    /// For the instant of its next attempt.
    Backoff {
        /// That instant.
        retry_at: Timestamp,
    },
    /// For its last attempt to end.
    Running,
    /// For nothing: it has ended.
    Ended,
    /// For the runs that it made, one for each worker, to end.
    Spread,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptOutcome {
    /// It has not.
    Running,
    /// Well.
    Succeeded,
    /// Badly.
    Failed,
    /// It took too long.
    TimedOut,
    /// It was told to stop.
    Cancelled,
    /// Nobody knows: its worker vanished, or its target did not answer.
    Lost,
}

/// One try at a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// Its number among all attempts of the cluster, in the order in which they were started; from 1.
    pub fence: u64,
    /// Who carries it out.
    pub worker: Arc<str>,
    /// When it was started.
    pub started_at: Timestamp,
    /// When its end was recorded.
    pub finished_at: Option<Timestamp>,
    /// The end.
    pub outcome: AttemptOutcome,
    /// What was reported of it.
    pub report: Option<Arc<Report>>,
    /// As a probe of the breaker that turned half open at this log index.
    pub probe: Option<u64>,
    /// The task that it has left with others. Its worker is done with it; while it runs, it waits for their word.
    #[serde(default, serialize_with = "later")]
    pub handed: Option<HandedOver>,
}

/// What a worker reports of an attempt that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Of a process.
    pub exit_code: Option<i32>,
    /// Of a request.
    pub http_status: Option<u16>,
    /// What went wrong; at most [`super::limits::ERROR_BYTES`].
    pub error: String,
    /// The last bytes of output; at most [`super::limits::OUTPUT_BYTES`].
    #[serde(with = "serde_bytes_vec")]
    pub output: Vec<u8>,
    /// There was more output.
    pub output_truncated: bool,
    /// What the attempt gave as its result, as JSON; empty: nothing. At most [`super::limits::RESULT_BYTES`].
    #[serde(default, serialize_with = "later")]
    pub result: String,
    /// Of a gRPC call, a place in [`super::spec::GRPC_CODES`].
    #[serde(default, serialize_with = "later")]
    pub grpc_status: Option<u8>,
}

/// MessagePack's binary form instead of a list of numbers.
mod serde_bytes_vec {
    use serde::{Deserializer, Serializer, de::Visitor};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// Someone wants the run to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// When it was asked for.
    pub at: Timestamp,
    /// [`Reason::Cancelled`] or [`Reason::Superseded`].
    pub reason: Reason,
    /// Who, and why; for people.
    pub detail: String,
}

/// The record of one decided occurrence, or of a range of skipped ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its identity.
    pub id: RunId,
    /// The job's namespace.
    pub namespace: Arc<str>,
    /// The job's name.
    pub job: Arc<str>,
    /// The job's version that fired it.
    pub version: u64,
    /// The queue that it waits in.
    pub queue: Arc<str>,
    /// What made it.
    pub cause: Cause,
    /// The nominal instant plus jitter.
    pub due_at: Timestamp,
    /// When the decision was stamped.
    pub fired_at: Timestamp,
    /// The last instant that a range record covers.
    pub scheduled_until: Option<Timestamp>,
    /// The first instant that it stands for, where catch-up made one run for several: those up to its own.
    pub scheduled_from: Option<Timestamp>,
    /// How many instants this record covers.
    pub stands_for: u64,
    /// What users see.
    pub state: RunState,
    /// Why it was skipped or failed.
    pub reason: Option<Reason>,
    /// More about the reason.
    pub detail: String,
    /// Who asked for a manual run.
    pub actor: String,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What it waits for.
    pub phase: Phase,
    /// Its tries, in order.
    pub attempts: Vec<Attempt>,
    /// How many of them were lost and run again by `on_lost: rerun`.
    pub reruns: u32,
    /// Someone wants it to end.
    pub cancel: Option<CancelRequest>,
    /// The breaker that guards it, as the job named it when it fired.
    pub breaker: BreakerKey,
    /// It expires if no attempt has started by then.
    pub start_by: Option<Timestamp>,
    /// While an attempt runs: when the cluster closes it as timed out, for its worker hangs.
    pub overdue_at: Option<Timestamp>,
    /// Parameters that its attempts are told.
    #[serde(default, serialize_with = "later")]
    pub params: BTreeMap<String, String>,
    /// While an attempt runs: the group whose limits it counts against.
    #[serde(default, serialize_with = "later")]
    pub group: Option<GroupKey>,
    /// The first run of its chain; absent for that one itself.
    #[serde(default, serialize_with = "later")]
    pub chain: Option<RunId>,
    /// The runs that it runs after.
    #[serde(default, serialize_with = "later")]
    pub upstream: Vec<RunId>,
    /// The run that someone made again.
    #[serde(default, serialize_with = "later")]
    pub retry_of: Option<RunId>,
    /// Number of the backfill that it belongs to.
    #[serde(default, serialize_with = "later")]
    pub backfill: Option<u64>,
    /// What the runs that it runs after gave as their results, by the names of their jobs, as JSON.
    #[serde(default, serialize_with = "later")]
    pub inputs: BTreeMap<String, String>,
    /// The one place whose workers may carry it out.
    #[serde(default, serialize_with = "later")]
    pub place: Option<Arc<str>>,
    /// The run that made it, for one of the workers that match.
    #[serde(default, serialize_with = "later")]
    pub parent: Option<RunId>,
    /// What has become of the runs that it made, one for each worker that matches.
    #[serde(default, serialize_with = "later")]
    pub spread: Option<Box<Spread>>,
}

/// What has become of the runs that a run of a job with `every_node` made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// How many there are: one for each place.
    pub places: u32,
    /// How many have ended.
    pub ended: u32,
    /// How many of those succeeded.
    pub succeeded: u32,
    /// How many of them were skipped.
    pub skipped: u32,
    /// The first that ended and did not succeed, and why.
    pub first: Option<(RunId, Option<Reason>)>,
}

impl Run {
    /// The bytes of the run log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        super::command::encode(self)
    }

    /// Reads them back.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are of another version or no run.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        super::command::decode(bytes)
    }

    /// The attempt that runs, if one does.
    #[must_use]
    pub fn running(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|attempt| attempt.outcome == AttemptOutcome::Running)
    }

    /// Whether no attempt was ever started.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.attempts.is_empty()
    }

    /// Until when it must have started, if it may end for not having. A run for one place keeps this through its
    /// retries, for the place may never return.
    #[must_use]
    pub fn must_start_by(&self) -> Option<Timestamp> {
        self.start_by.filter(|_| self.is_untouched() || self.place.is_some())
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// How late the decision was against the due instant.
    #[must_use]
    pub fn lateness(&self) -> Duration {
        self.fired_at.since(self.due_at)
    }
}

#[cfg(test)]
mod tests;
