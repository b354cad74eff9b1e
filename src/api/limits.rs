//! Every bound of the API, by name. A request beyond one is refused, and the message names it.

use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// Bytes of a decoded request; a longer one is refused by the server before it is read whole.
pub const REQUEST_BYTES: usize = 16 << 20;
/// Ends of tasks that are told at once; more are refused.
pub const TASKS: usize = 500;
/// How long after a task has expired workers are asked for it: that much their clocks may be behind.
pub const EXPIRED_FOR: Duration = Duration::from_secs(30);
/// How long after a task was left it is looked for, if nobody was heard of it.
pub const QUIET_FOR: Duration = Duration::from_secs(60);
/// Tasks of one queue that are looked for at once.
pub const TASKS_OF_QUEUE: usize = 25;
/// Queues that are looked into at once.
pub const QUEUES_SOUGHT: usize = 20;
/// Attempts of a run, the last ones, any of which may have left its task.
pub const FENCES_SOUGHT: usize = 16;
/// Tasks of which nobody was heard that are looked through for some to look for.
pub const QUIET_TASKS: usize = 5_000;
/// How long the same queues are looked for, where there are more than fit.
pub const SOUGHT_FOR: Duration = Duration::from_secs(30);
/// Tasks that one worker of Celery runs, as far as they are told; more are refused.
pub const ACTIVE: usize = 1_000;
/// Bytes of one message of a worker's stream.
pub const WORKER_MESSAGE_BYTES: usize = 4 << 20;
/// Bytes of an encoded answer.
pub const RESPONSE_BYTES: usize = 64 << 20;
/// Requests of one client connection that are served at the same time; further ones wait.
pub const REQUESTS_PER_CONNECTION: usize = 256;
/// Runs watched through this node at the same time; one more is refused.
pub const WATCHES: usize = 4_096;
/// Exports of this node's log at the same time, each with a second state in memory; one more is refused.
pub const EXPORTS: usize = 1;
/// Bytes of one piece of an export.
pub const EXPORT_PIECE_BYTES: usize = 1 << 20;
/// How long a client may take no piece of its export; then it is given up.
pub const EXPORT_SILENCE: Duration = Duration::from_secs(30);
/// Readings of output through this node at the same time, each with at most 2 MiB on its way; one more is refused.
pub const OUTPUT_READS: usize = 128;
/// Readings of the output of one worker at the same time; one more is refused.
pub const OUTPUT_READS_PER_WORKER: usize = 16;
/// How long a worker that was asked for output may take to begin its answer.
pub const OUTPUT_ANSWER: Duration = Duration::from_secs(5);
/// How long the worker of an attempt that has ended may be away before the record answers in its place: after a change
/// of leader it has to find the new one.
pub const OUTPUT_AWAY: Duration = Duration::from_secs(3);
/// Lines before the end of an output that a reading may begin at.
pub const OUTPUT_TAIL_LINES: u32 = 100_000;
/// Bytes of an output that are on their way between two nodes and not yet taken.
pub const OUTPUT_WINDOW_BYTES: u32 = 256 << 10;
/// Jobs in one `ApplyJobs`.
pub const JOBS_PER_REQUEST: usize = 10_000;
/// Bytes of the changes that a dry run lists.
pub const CHANGES_BYTES: usize = 32 << 20;
/// Commands in one proposed entry: far below the state's own limit, so that no entry delays a heartbeat.
pub const COMMANDS_PER_ENTRY: usize = 500;
/// Encoded bytes of the specs in one proposed entry.
pub const ENTRY_BYTES: usize = 256 << 10;
/// Entries of one request that are proposed before the first of them is committed.
pub const ENTRIES_IN_FLIGHT: usize = 4;
/// Items of a page when the client names no number, and the most that it may name.
pub const PAGE: (u32, u32) = (100, 1_000);
/// Occurrences when the client names no number, and the most that it may name.
pub const OCCURRENCES: (u32, u32) = (10, 1_000);
/// Problems that a refusal lists; of further ones only the number is told.
pub const PROBLEMS: usize = 100;
/// Bytes of a refusal on the wire, before which its list of problems ends: a status travels in headers,
/// of which clients take 8 to 16 KiB.
pub const REFUSAL_BYTES: usize = 7 << 10;

/// How long a write waits for a leader, and for an occurrence to be decided that must come first.
pub const LEADER_WAIT: Duration = Duration::from_secs(2);
/// How long a write tries again because the state has moved on.
pub const SETTLE_WAIT: Duration = Duration::from_secs(5);
/// The peer address of a node, in bytes: the longest host name and a port.
pub const PEER_ADDRESS_BYTES: usize = 253 + 6;
/// How long a forwarded call may take.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the leader's part of a status or an explanation is waited for.
pub const LEADER_PART_WAIT: Duration = Duration::from_secs(1);

/// Bytes of an operation id.
pub const OPERATION_ID_BYTES: usize = 128;
/// Bytes of an actor's name.
pub const ACTOR_BYTES: usize = 256;
/// Bytes of a reason.
pub const REASON_BYTES: usize = 1_024;

/// Bytes of a whole job definition, encoded.
pub const SPEC_BYTES: usize = 128 << 10;
/// Characters of the name of a job, namespace, queue or breaker.
pub const NAME_CHARS: usize = 128;
/// Bytes of a description.
pub const DESCRIPTION_BYTES: usize = 4 << 10;
/// Labels of a job, and labels that it requires of a worker.
pub const LABELS: usize = 64;
/// Bytes of a label's key.
pub const LABEL_KEY_BYTES: usize = 63;
/// Bytes of a label's value.
pub const LABEL_VALUE_BYTES: usize = 256;
/// Bytes of a calendar, encoded.
pub const CALENDAR_BYTES: usize = 512 << 10;
/// Bytes of the note of an entry of a calendar.
pub const NOTE_BYTES: usize = 200;
/// Schedules of a job.
pub const SCHEDULES: usize = 16;
/// Instants of an `at`.
pub const INSTANTS: usize = 1_000;
/// Headers of a request, or variables of a process.
pub const PAIRS: usize = 64;
/// Bytes of a header or of a variable.
pub const PAIR_BYTES: usize = 8 << 10;
/// Bytes of a body, of standard input, or of a shell line.
pub const BODY_BYTES: usize = 64 << 10;
/// Bytes of a URL.
pub const URL_BYTES: usize = 8 << 10;
/// Bytes of a name that a broker knows: a key, a queue, an exchange, a task. What AMQP can write.
pub const BROKER_NAME_BYTES: usize = 255;
/// Bytes of the headers of a task, as JSON.
pub const BROKER_HEADERS_BYTES: usize = 16 << 10;
/// The message of a Celery app, with its body in base64.
pub const TEMPLATE_BYTES: usize = 96 << 10;
/// Entries that a stream may be told to keep.
pub const STREAM_LENGTH: std::ops::RangeInclusive<u64> = 1..=1_000_000_000;
/// Ranges of status codes that count as success.
pub const SUCCESS_RANGES: usize = 32;
/// Words of a command line.
pub const ARGUMENTS: usize = 256;
/// Bytes of one word of a command line, and of a path.
pub const ARGUMENT_BYTES: usize = 8 << 10;
/// Classes of failures in `retry.on`.
pub const RETRY_CLASSES: usize = 32;
/// Parameters of a job.
pub const PARAMS: usize = 64;
/// Bytes of a parameter's name.
pub const PARAM_NAME_BYTES: usize = 63;
/// Bytes of a parameter's value.
pub const PARAM_BYTES: usize = 4 << 10;
/// The least and the highest priority of a job.
pub const PRIORITY: std::ops::RangeInclusive<i32> = -100..=100;
/// Attempts of a group that may run at the same time.
pub const CONCURRENCY: u32 = 100_000;
/// Runs that may wait in a queue.
pub const WAITING: u32 = 1_000_000;
/// Starts that a rate may count.
pub const RATE_STARTS: u32 = 1_000_000;
/// The longest span of a rate.
pub const RATE_SPAN: Duration = DAY;
/// Jobs or runs that one call may change by their labels; more is refused.
pub const BULK: usize = 10_000;
/// Runs of a job at a time, and runs that wait in its overlap queue.
pub const PARALLEL: u32 = 1_000;
/// Runs that `catch_up: all` makes at most.
pub const CATCH_UP_RUNS: u32 = 10_000;
/// Probes of a breaker.
pub const PROBES: u32 = 100;
/// Failures, or attempts, that a breaker's rule may ask for.
pub const BREAKER_COUNT: u32 = 1_000_000;
/// Records kept for a job.
pub const RETENTION_RUNS: u32 = 100_000;
/// Records kept for a namespace.
pub const NAMESPACE_RUNS: u32 = 100_000_000;

/// The longest `timeout`.
pub const TIMEOUT: Duration = DAY.saturating_mul(30);
/// The timeout of a job that says none.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(3_600);
/// The same, of one that waits for a task which others run.
pub const TASK_TIMEOUT_DEFAULT: Duration = DAY;
/// The longest wait between attempts.
pub const RETRY_WAIT: Duration = DAY.saturating_mul(30);
/// The longest window of `catch_up`, and the longest `start_within`.
pub const LATENESS: Duration = DAY.saturating_mul(366);
/// The longest window of a breaker.
pub const BREAKER_WINDOW: Duration = DAY.saturating_mul(7);
/// The longest cool-down of a breaker, by policy or by hand.
pub const OPEN_FOR: Duration = DAY.saturating_mul(366);
/// The longest age of a record.
pub const RETENTION_AGE: Duration = DAY.saturating_mul(3_660);

/// How often a connection without traffic is asked whether it lives.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long it may take to answer that.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Zones that the answer of `SetTzdata` names.
pub const ZONES_NAMED: usize = 2_000;
