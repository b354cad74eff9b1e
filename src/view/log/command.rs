//! What was proposed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Scene;
use super::decision::Decision;
use super::names::{BreakerNamed, JobNamed, RunNamed, cause, word_of};
use super::text::{Armed, At, Span};
use crate::pb::v1 as pb;
use crate::state::run::{AttemptOutcome, Report, RunId, TaskNews};
use crate::state::{Command, Rearmed, Request, Verdict};
use crate::view;

/// A command and its decision.
#[derive(Serialize)]
pub(super) struct Proposed<'a> {
    #[serde(flatten)]
    arguments: Arguments<'a>,
    #[serde(flatten)]
    request: Option<Asked<'a>>,
    decision: Decision<'a>,
}

/// What was heard of a task.
#[derive(Serialize)]
#[serde(tag = "news", rename_all = "snake_case")]
enum News<'a> {
    Begun { process: u32 },
    Retried { count: u32, error: &'a str },
}

/// Who asked.
#[derive(Serialize)]
struct Asked<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    operation_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    actor: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

/// A job that was read anew.
#[derive(Serialize)]
struct RearmedSaid<'a> {
    #[serde(flatten)]
    job: JobNamed<'a>,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Armed>,
}

impl<'a> RearmedSaid<'a> {
    fn of(rearmed: &Rearmed, scene: &Scene<'a>) -> Self {
        let Rearmed { job, version, next } = *rearmed;
        Self { job: JobNamed::of(job, scene), version, next: next.map(Armed::from) }
    }
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Arguments<'a> {
    Lead {
        node_id: u64,
        term: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        silent_for: Option<Span>,
    },
    RaiseLevel {
        from: u32,
        to: u32,
    },
    PutJob {
        namespace: &'a str,
        job: &'a str,
        spec: Box<pb::JobSpec>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<Armed>,
    },
    DeleteJob {
        #[serde(flatten)]
        job: JobNamed<'a>,
        cancel_runs: bool,
    },
    SetTzdata {
        release: &'a str,
        hash: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        hash_before: Option<String>,
        shifted_seconds: &'a BTreeMap<String, i32>,
    },
    Reread {
        generation: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        through: Option<u64>,
        jobs: Vec<RearmedSaid<'a>>,
    },
    PauseJob {
        #[serde(flatten)]
        job: JobNamed<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<At>,
    },
    ResumeJob {
        #[serde(flatten)]
        job: JobNamed<'a>,
        version: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<Armed>,
    },
    TriggerJob {
        #[serde(flatten)]
        job: JobNamed<'a>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        params: &'a BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_of: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        place: Option<&'a str>,
    },
    BackfillJob {
        #[serde(flatten)]
        job: JobNamed<'a>,
        version: u64,
        scheduled_at: Vec<At>,
    },
    Fire {
        #[serde(flatten)]
        job: JobNamed<'a>,
        version: u64,
        scheduled_at: At,
        verdicts: Vec<VerdictSaid<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<Armed>,
    },
    Disarm {
        #[serde(flatten)]
        job: JobNamed<'a>,
        version: u64,
        scheduled_at: At,
        error: &'a str,
    },
    Arm {
        #[serde(flatten)]
        job: JobNamed<'a>,
        version: u64,
        finished_at: At,
        next: Armed,
    },
    Start {
        #[serde(flatten)]
        run: RunNamed<'a>,
        attempt: u32,
        worker: &'a str,
        lease_until: At,
    },
    Spread {
        #[serde(flatten)]
        run: RunNamed<'a>,
        places: &'a [Arc<str>],
    },
    Complete(Reported<'a>),
    HandOver {
        #[serde(flatten)]
        run: RunNamed<'a>,
        fence: u64,
        connection: &'a str,
        task: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<At>,
        #[serde(skip_serializing_if = "Option::is_none")]
        queue: Option<&'a str>,
    },
    StopTask {
        #[serde(flatten)]
        run: RunNamed<'a>,
        fence: u64,
    },
    HearTask {
        #[serde(flatten)]
        run: RunNamed<'a>,
        fence: u64,
        by: &'a str,
        #[serde(flatten)]
        news: News<'a>,
    },
    Renew {
        worker: &'a str,
        lease_until: At,
    },
    Lose {
        worker: &'a str,
        lease_until: At,
        retry_after: Span,
    },
    Retry(RunNamed<'a>),
    Expire(RunNamed<'a>),
    CancelRun(RunNamed<'a>),
    SetQueue {
        queue: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        concurrency: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rate: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        max_waiting: Option<u32>,
    },
    SetNamespace {
        namespace: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retention_runs: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retention_age: Option<Span>,
    },
    PutCalendar {
        calendar: &'a str,
        spec: Box<pb::CalendarSpec>,
    },
    DeleteCalendar {
        calendar: &'a str,
    },
    HalfOpen {
        #[serde(flatten)]
        breaker: BreakerNamed,
        opened_index: u64,
    },
    TripBreaker {
        #[serde(flatten)]
        breaker: BreakerNamed,
        #[serde(skip_serializing_if = "Option::is_none")]
        open_for: Option<Span>,
    },
    ResetBreaker(BreakerNamed),
}

/// What a worker reported, or the leader for it.
#[derive(Serialize)]
struct Reported<'a> {
    #[serde(flatten)]
    run: RunNamed<'a>,
    fence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u8>,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    result: &'a str,
    retry_after: Span,
}

/// What was decided of an occurrence, before overlap and breakers had their say.
#[derive(Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
enum VerdictSaid<'a> {
    Run {
        #[serde(skip_serializing_if = "Option::is_none")]
        scheduled_from: Option<At>,
        scheduled_at: At,
        due_at: At,
        cause: &'static str,
        stands_for: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        put_off_by: Option<&'a str>,
    },
    Missed {
        scheduled_at: At,
        scheduled_until: At,
        stands_for: u64,
    },
    Excluded {
        scheduled_at: At,
        scheduled_until: At,
        stands_for: u64,
        excluded_by: &'a str,
    },
}

impl<'a> From<&'a Verdict> for VerdictSaid<'a> {
    fn from(verdict: &'a Verdict) -> Self {
        match *verdict {
            Verdict::Run { from, scheduled_at, due_at, cause: made_by, stands_for, ref moved } => Self::Run {
                scheduled_from: Some(At(from)).filter(|_| from < scheduled_at),
                scheduled_at: At(scheduled_at),
                due_at: At(due_at),
                cause: cause(made_by),
                stands_for,
                put_off_by: moved.as_deref(),
            },
            Verdict::Missed { from, until, count } => {
                Self::Missed { scheduled_at: At(from), scheduled_until: At(until), stands_for: count }
            }
            Verdict::Excluded { from, until, count, ref why } => Self::Excluded {
                scheduled_at: At(from),
                scheduled_until: At(until),
                stands_for: count,
                excluded_by: why,
            },
        }
    }
}

/// A command, with what became of it.
pub(super) fn of<'a>(command: &'a Command, decision: Decision<'a>, scene: &Scene<'a>) -> Proposed<'a> {
    let asked = |request: &'a Request| Asked {
        operation_id: &request.operation_id,
        actor: &request.actor,
        reason: &request.reason,
    };
    Proposed { arguments: arguments(command, scene), request: command.request().map(asked), decision }
}

fn arguments<'a>(command: &'a Command, scene: &Scene<'a>) -> Arguments<'a> {
    let run = |id: &RunId| RunNamed::of(*id, scene);
    match command {
        Command::Lead { node, term, silent_for } => {
            Arguments::Lead { node_id: *node, term: *term, silent_for: silent_for.map(Span) }
        }
        Command::RaiseLevel { from, to } => Arguments::RaiseLevel { from: *from, to: *to },
        Command::Start { run: id, attempt, worker, lease_until } => {
            Arguments::Start { run: run(id), attempt: *attempt, worker, lease_until: At(*lease_until) }
        }
        Command::Spread { run: id, places } => Arguments::Spread { run: run(id), places },
        Command::Complete { run, fence, outcome, report, retry_after } => {
            Arguments::Complete(reported((*run, *fence), *outcome, report, *retry_after, scene))
        }
        Command::HandOver { run: id, fence, connection, task, expires_at, queue } => Arguments::HandOver {
            run: run(id),
            fence: *fence,
            connection,
            task,
            expires_at: expires_at.map(At),
            queue: queue.as_deref(),
        },
        Command::StopTask { run: id, fence } => Arguments::StopTask { run: run(id), fence: *fence },
        Command::HearTask { run: id, fence, by, news } => {
            let news = match news {
                TaskNews::Begun { process } => News::Begun { process: *process },
                TaskNews::Retried { count, error } => News::Retried { count: *count, error },
            };
            Arguments::HearTask { run: run(id), fence: *fence, by, news }
        }
        Command::Renew { worker, lease_until } => Arguments::Renew { worker, lease_until: At(*lease_until) },
        Command::Lose { worker, expect, retry_after } => {
            Arguments::Lose { worker, lease_until: At(*expect), retry_after: Span(*retry_after) }
        }
        Command::Retry { run: id } => Arguments::Retry(run(id)),
        Command::Expire { run: id } => Arguments::Expire(run(id)),
        Command::CancelRun { run: id, .. } => Arguments::CancelRun(run(id)),
        Command::SetQueue { queue, limits, .. } => Arguments::SetQueue {
            queue,
            concurrency: limits.concurrency,
            rate: limits.rate.map(view::spec::rate),
            max_waiting: limits.waiting,
        },
        Command::SetNamespace { namespace, limits, .. } => Arguments::SetNamespace {
            namespace,
            retention_runs: limits.runs,
            retention_age: limits.age.map(Span),
        },
        Command::PutCalendar { spec, .. } => {
            Arguments::PutCalendar { calendar: &spec.name, spec: Box::new(view::calendar::spec(spec)) }
        }
        Command::DeleteCalendar { calendar, .. } => Arguments::DeleteCalendar { calendar },
        Command::HalfOpen { breaker, opened } => {
            Arguments::HalfOpen { breaker: BreakerNamed::of(breaker, scene), opened_index: *opened }
        }
        Command::TripBreaker { breaker, open_for, .. } => {
            Arguments::TripBreaker { breaker: BreakerNamed::of(breaker, scene), open_for: open_for.map(Span) }
        }
        Command::ResetBreaker { breaker, .. } => Arguments::ResetBreaker(BreakerNamed::of(breaker, scene)),
        Command::PutJob { spec, next, .. } => Arguments::PutJob {
            namespace: &spec.namespace,
            job: &spec.name,
            spec: Box::new(view::spec::to_pb(spec)),
            next: next.map(Armed::from),
        },
        Command::DeleteJob { job, cancel_runs, .. } => {
            Arguments::DeleteJob { job: job.into(), cancel_runs: *cancel_runs }
        }
        Command::PauseJob { job, until, .. } => Arguments::PauseJob { job: job.into(), until: until.map(At) },
        Command::Backfill { job, version, instants, .. } => Arguments::BackfillJob {
            job: job.into(),
            version: *version,
            scheduled_at: instants.iter().copied().map(At).collect(),
        },
        Command::ResumeJob { job, version, next, .. } => {
            Arguments::ResumeJob { job: job.into(), version: *version, next: next.map(Armed::from) }
        }
        Command::TriggerJob { job, params, again, place, .. } => Arguments::TriggerJob {
            job: job.into(),
            params,
            retry_of: again.map(|again| again.run.to_string()),
            place: place.as_deref(),
        },
        Command::Fire { job, version, expect, verdicts, next } => Arguments::Fire {
            job: JobNamed::of(*job, scene),
            version: *version,
            scheduled_at: At(*expect),
            verdicts: verdicts.iter().map(VerdictSaid::from).collect(),
            next: next.map(Armed::from),
        },
        Command::Disarm { job, version, expect, why } => Arguments::Disarm {
            job: JobNamed::of(*job, scene),
            version: *version,
            scheduled_at: At(*expect),
            error: why,
        },
        Command::SetTzdata { data, shifts, expect, .. } => Arguments::SetTzdata {
            release: &data.release,
            hash: data.hash().to_string(),
            hash_before: expect.map(|hash| hash.to_string()),
            shifted_seconds: shifts,
        },
        Command::Reread { generation, after, through, armed } => Arguments::Reread {
            generation: *generation,
            after: after.map(|job| job.0),
            through: through.map(|job| job.0),
            jobs: armed.iter().map(|rearmed| RearmedSaid::of(rearmed, scene)).collect(),
        },
        Command::Arm { job, version, since, next } => Arguments::Arm {
            job: JobNamed::of(*job, scene),
            version: *version,
            finished_at: At(*since),
            next: Armed::from(*next),
        },
    }
}

fn reported<'a>(
    (run, fence): (RunId, u64),
    outcome: AttemptOutcome,
    report: &'a Report,
    retry_after: Duration,
    scene: &Scene<'a>,
) -> Reported<'a> {
    let attempts = scene.run(run).map(|run| run.attempts.as_slice()).unwrap_or_default();
    let attempt = attempts.iter().find(|attempt| attempt.fence == fence);
    Reported {
        run: RunNamed::of(run, scene),
        fence,
        attempt: attempt.map(|attempt| attempt.number),
        worker: attempt.map(|attempt| attempt.worker.as_ref()),
        outcome: word_of::<pb::Outcome>(view::run::outcome(outcome).into()),
        exit_code: report.exit_code,
        http_status: report.http_status,
        grpc_status: report.grpc_status,
        error: &report.error,
        result: &report.result,
        retry_after: Span(retry_after),
    }
}
