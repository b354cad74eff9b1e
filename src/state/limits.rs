//! Every bound of the replicated state, by name. What happens at a bound is said at each.

use std::time::Duration;

/// Commands in one entry; also what keeps job numbers unique, see [`super::JobId`]. A proposer splits.
pub const COMMANDS_PER_ENTRY: usize = 4_096;
/// Jobs in the cluster; one more is refused.
pub const JOBS: usize = 1_000_000;
/// Live runs in the cluster; an occurrence beyond is skipped with reason `limit`.
pub const LIVE_RUNS: usize = 1_000_000;
/// Live runs of one job, whatever its overlap policy; an occurrence beyond is skipped as `overlap`.
pub const LIVE_RUNS_PER_JOB: usize = 1_000;
/// Bytes of an attempt's `error`; the rest is cut off.
pub const ERROR_BYTES: usize = 512;
/// Bytes of an attempt's `output`; the first ones are cut off.
pub const OUTPUT_BYTES: usize = 4_096;
/// Bytes of an attempt's `result`; a longer one is dropped, for a part of it is no JSON.
pub const RESULT_BYTES: usize = 4_096;
/// Attempts of a run that keep their output and result; older attempts lose theirs.
pub const OUTPUTS_PER_RUN: usize = 8;
/// Attempts of one run that may be lost and run again by `on_lost: rerun`; then the run fails as
/// `lost`, for a run that takes its worker down each time must not do so for ever.
pub const RERUNS: u32 = 10;
/// Attempts that `retry` may ask for.
pub const ATTEMPTS: u32 = 100;
/// Outcomes of clients' changes that are remembered for repeats; the oldest is forgotten. A job of an apply
/// counts as one.
pub const OPERATIONS: usize = 10_000;
/// For how long they are remembered at most, in the log's time.
pub const OPERATION_AGE: Duration = Duration::from_secs(3_600);
/// Transitions that a breaker remembers; the oldest is forgotten.
pub const TRANSITIONS: usize = 16;
/// Changes of leadership that are remembered; the oldest is forgotten.
pub const LEADERSHIPS: usize = 16;
/// An occurrence found later than this is missed, and catch-up decides about it.
pub const GRACE: Duration = Duration::from_secs(1);
/// How long past its timeout an attempt may go unreported before the cluster closes it as timed out.
/// The worker enforces the timeout itself; this is for a worker that hangs.
pub const TIMEOUT_GRACE: Duration = Duration::from_secs(30);
/// Entries between two hashes of the state that nodes compare.
pub const HASH_EVERY: u64 = 1_024;
/// Jobs, live runs and breakers together that a state may have and be hashed as often as that; a larger one is hashed
/// at every second of these indexes, a much larger one at every fourth, and so on.
pub const HASHED_ITEMS: usize = 16_384;
/// Jobs that a job may run after.
pub const AFTER: usize = 16;
/// Jobs that a chain of `after` may pass through from a job up to its first ones; more is refused.
pub const ANCESTORS: usize = 1_000;
/// Joins of a job that still wait for some of the runs before it; the oldest one beyond ends as a record `upstream`.
pub const JOINS_OPEN: usize = 1_000;
/// Joins of a job that are decided and are kept, so that a run that is made again can mend them; the oldest is forgotten.
pub const JOINS_DECIDED: usize = 8;
/// Definitions of a job that are kept, the one in force included; the oldest is forgotten.
pub const VERSIONS: usize = 10;
/// Queues with limits; one more is refused.
pub const QUEUES: usize = 1_000;
/// Namespaces with limits; one more is refused.
pub const NAMESPACES: usize = 1_000;
/// Calendars; one more is refused.
pub const CALENDARS: usize = 1_000;
/// Calendars that are blackouts; one more is refused. Each is looked at for each occurrence of a job that it matches.
pub const BLACKOUTS: usize = 100;
/// Entries of a calendar of all kinds; one more is refused.
pub const CALENDAR_ENTRIES: usize = 5_000;
/// Recurrence rules of a calendar; one more is refused. Each is asked for each occurrence.
pub const CALENDAR_RULES: usize = 100;
/// Calendars that one schedule names in `exclude`, and in `only`; one more is refused.
pub const CALENDARS_PER_SCHEDULE: usize = 16;
/// The longest that an occurrence of a calendar's rule lasts.
pub const CALENDAR_SPAN: Duration = Duration::from_secs(366 * 86_400);
/// The most days that an occurrence of a calendar's rule lasts.
pub const CALENDAR_DAYS: u16 = 366;
/// Bytes of the data of the time zones; more is refused. What a release ships has some 220 KiB.
pub const TZDATA_BYTES: usize = 2 << 20;
/// Names of time zones that it may have.
pub const TZDATA_NAMES: usize = 2_000;
/// Workers of one run of a job with `every_node`; a run that more workers match is skipped with reason `limit`.
pub const PLACES: usize = 1_000;
/// How long the part of a run that is for one worker waits for it where `start_within` says nothing.
pub const PLACE_WAIT: Duration = Duration::from_secs(3_600);
/// Params in one text of a target; a text with more is refused.
pub const TEMPLATE_PARAMS: usize = 64;
/// Instants of one backfill; a longer range is refused.
pub const BACKFILL: usize = 1_000;
/// Ids in a message that a Celery app has built once; a canvas with more is refused.
pub const TEMPLATE_IDS: usize = 64;
/// Bytes of what a task is called that an attempt leaves with others: what Celery's result tables hold.
pub const TASK_ID_BYTES: usize = 155;
/// Bytes of the name of the queue that such a task is left in: what RabbitMQ takes.
pub const QUEUE_OF_TASK_BYTES: usize = 255;
/// Unless its job says another: an attempt is lost when whoever runs its task is silent for so long, which is far longer
/// than a Celery worker is cut off from its broker, or takes to come up again.
pub const CELERY_LOST_AFTER: Duration = Duration::from_secs(15 * 60);
/// Bytes of the name of a connection.
pub const CONNECTION_NAME_BYTES: usize = 128;
