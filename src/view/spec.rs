//! A job's definition as the API's message, every default written out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{broker, instant, span};
use crate::pb::v1 as pb;
use crate::state::schedule::{DayRule, Dialect, Fold, Gap, Rule, Schedule, SolarEvent, SolarPlace};
use crate::state::spec::{
    After, AfterOn, AfterWhen, BreakerPolicy, CatchUp, CatchUpRuns, GRPC_CODES, JobSpec, Keep, Limits,
    OnExcluded, OnLost, OnOpen, OnResume, Overlap, OverlapPolicy, Program, Rate, Retention, Retry, RetryOn,
    Target,
};
use crate::state::time::span_text;

/// The message of a definition. Read again, it gives the same definition.
#[must_use]
pub fn to_pb(spec: &JobSpec) -> pb::JobSpec {
    let on_lost = match spec.on_lost {
        OnLost::Rerun => pb::OnLost::Rerun,
        OnLost::Fail => pb::OnLost::Fail,
    };
    let on_resume = match spec.on_resume {
        OnResume::Skip => pb::OnResume::Skip,
        OnResume::CatchUp => pb::OnResume::CatchUp,
    };
    let on_excluded = match spec.on_excluded {
        OnExcluded::Skip => pb::OnExcluded::Skip,
        OnExcluded::NextAllowed => pb::OnExcluded::NextAllowed,
    };
    pb::JobSpec {
        name: spec.name.clone(),
        namespace: spec.namespace.clone(),
        description: spec.description.clone(),
        labels: spec.labels.clone(),
        schedule: spec.schedules.iter().map(schedule).collect(),
        target: Some(target(&spec.target)),
        queue: spec.queue.clone(),
        requires: spec.requires.clone(),
        timeout: Some(span(spec.timeout)),
        retry: Some(retry(&spec.retry)),
        catch_up: Some(catch_up(&spec.catch_up)),
        start_within: spec.start_within.map(span),
        overlap: Some(overlap(&spec.overlap)),
        on_lost: on_lost.into(),
        on_resume: on_resume.into(),
        breaker: Some(breaker_policy(&spec.breaker)),
        retention: Some(retention(&spec.retention)),
        params: spec.params.clone(),
        limits: spec.limits.as_ref().map(limits),
        after: spec.after.as_ref().map(after),
        priority: spec.priority,
        every_node: spec.every_node,
        on_excluded: on_excluded.into(),
    }
}

/// A rate as people write it: `100/s`, `5/30s`.
#[must_use]
pub fn rate(rate: Rate) -> String {
    let per = span_text(rate.per);
    let per = match per.as_str() {
        "1s" => "s",
        "1m" => "m",
        "1h" => "h",
        "1d" => "d",
        other => other,
    };
    format!("{}/{per}", rate.starts)
}

fn limits(limits: &Limits) -> pb::Limits {
    pb::Limits {
        group: limits.group.clone().unwrap_or_default(),
        concurrency: limits.concurrency,
        rate: limits.rate.map(rate).unwrap_or_default(),
    }
}

fn after(after: &After) -> pb::After {
    let when = match after.when {
        AfterWhen::All => pb::AfterWhen::All,
        AfterWhen::Any => pb::AfterWhen::Any,
    };
    let on = match after.on {
        AfterOn::Success => pb::AfterOn::Success,
        AfterOn::Failure => pb::AfterOn::Failure,
        AfterOn::Always => pb::AfterOn::Always,
    };
    pb::After { jobs: after.jobs.clone(), when: when.into(), on: on.into() }
}

fn schedule(schedule: &Schedule) -> pb::Schedule {
    let gap = match schedule.gap {
        Gap::RunAtEnd => pb::Gap::RunAtEnd,
        Gap::Shift => pb::Gap::Shift,
        Gap::Skip => pb::Gap::Skip,
    };
    let fold = match schedule.fold {
        Fold::First => pb::Fold::First,
        Fold::Second => pb::Fold::Second,
        Fold::Both => pb::Fold::Both,
    };
    let mut message = pb::Schedule {
        timezone: schedule.timezone.clone(),
        dst: Some(pb::Dst { gap: gap.into(), fold: fold.into() }),
        start_at: schedule.start_at.map(instant),
        end_at: schedule.end_at.map(instant),
        jitter: Some(span(schedule.jitter)).filter(|_| !schedule.jitter.is_zero()),
        count: schedule.count,
        exclude: schedule.exclude.clone(),
        only: schedule.only.clone(),
        ..pb::Schedule::default()
    };
    match &schedule.rule {
        Rule::Cron { line, dialect, day_rule } => {
            message.cron.clone_from(line);
            (message.dialect, message.day_rule) = match (dialect, day_rule) {
                (Dialect::Quartz, _) => (pb::Dialect::Quartz.into(), 0),
                (Dialect::Aws, _) => (pb::Dialect::Aws.into(), 0),
                (Dialect::Unix, DayRule::OrVixie) => (pb::Dialect::Unix.into(), pb::DayRule::OrVixie.into()),
                (Dialect::Unix, DayRule::OrBare) => (pb::Dialect::Unix.into(), pb::DayRule::OrBare.into()),
                (Dialect::Unix, DayRule::And) => (pb::Dialect::Unix.into(), pb::DayRule::And.into()),
            };
        }
        Rule::Every { period, offset } => {
            message.every = Some(span(*period));
            message.offset = Some(span(*offset)).filter(|_| !offset.is_zero());
        }
        Rule::At(instants) => message.at = instants.iter().copied().map(instant).collect(),
        Rule::AfterCompletion { period } => {
            message.every = Some(span(*period));
            message.from = pb::EveryFrom::Completion.into();
        }
        Rule::Recurrence(text) => message.rrule.clone_from(text),
        Rule::Calendar(text) => message.calendar.clone_from(text),
        Rule::Solar { event, place } => message.solar = Some(solar(*event, *place)),
    }
    message
}

fn solar(event: SolarEvent, place: SolarPlace) -> pb::Solar {
    let event = match event {
        SolarEvent::DawnAstronomical => pb::SolarEvent::DawnAstronomical,
        SolarEvent::DawnNautical => pb::SolarEvent::DawnNautical,
        SolarEvent::DawnCivil => pb::SolarEvent::DawnCivil,
        SolarEvent::Sunrise => pb::SolarEvent::Sunrise,
        SolarEvent::SolarNoon => pb::SolarEvent::SolarNoon,
        SolarEvent::Sunset => pb::SolarEvent::Sunset,
        SolarEvent::DuskCivil => pb::SolarEvent::DuskCivil,
        SolarEvent::DuskNautical => pb::SolarEvent::DuskNautical,
        SolarEvent::DuskAstronomical => pb::SolarEvent::DuskAstronomical,
    };
    let degrees = |micro: i32| Some(f64::from(micro) / 1e6);
    let (latitude, longitude) = (degrees(place.latitude_micro), degrees(place.longitude_micro));
    pb::Solar { event: event.into(), latitude, longitude }
}

fn target(target: &Target) -> pb::Target {
    match target {
        Target::Http { method, url, headers, body, success } => pb::Target {
            http: Some(pb::HttpTarget {
                method: method.clone(),
                url: url.clone(),
                headers: headers.clone(),
                body: body.clone(),
                success: success.clone(),
            }),
            ..pb::Target::default()
        },
        Target::Exec { program, env, cwd, stdin } => {
            let (command, shell) = match program {
                Program::Command(words) => (words.clone(), String::new()),
                Program::Shell(line) => (Vec::new(), line.clone()),
            };
            let exec = pb::ExecTarget {
                command,
                shell,
                env: env.clone(),
                cwd: cwd.clone().unwrap_or_default(),
                stdin: stdin.clone().unwrap_or_default(),
            };
            pb::Target { exec: Some(exec), ..pb::Target::default() }
        }
        Target::Grpc { address, method, request, metadata, descriptor, tls } => {
            let grpc = pb::GrpcTarget {
                address: address.clone(),
                method: method.clone(),
                request: request.clone(),
                metadata: metadata.clone(),
                descriptor: STANDARD.encode(descriptor),
                tls: *tls,
            };
            pb::Target { grpc: Some(grpc), ..pb::Target::default() }
        }
        Target::Redis(redis) => broker::redis(redis),
        Target::Celery(celery) => broker::celery(celery),
        Target::Amqp(amqp) => broker::amqp(amqp),
        Target::Nats(nats) => broker::nats(nats),
        Target::Queue { payload } => {
            pb::Target { queue: Some(pb::QueueTarget { payload: payload.clone() }), ..pb::Target::default() }
        }
    }
}

fn ratio(milli: u32) -> f64 {
    f64::from(milli) / 1_000.0
}

fn retry(retry: &Retry) -> pb::Retry {
    pb::Retry {
        max_attempts: Some(retry.max_attempts),
        initial: Some(span(retry.initial)),
        multiplier: Some(ratio(retry.multiplier_milli)),
        max: Some(span(retry.max)),
        jitter: Some(ratio(retry.jitter_milli)),
        on: retry.on.iter().map(retry_class).collect(),
    }
}

fn retry_class(class: &RetryOn) -> String {
    match *class {
        RetryOn::Failed => "failed".to_owned(),
        RetryOn::Timeout => "timeout".to_owned(),
        RetryOn::Lost => "lost".to_owned(),
        RetryOn::Grpc(status) => {
            format!("grpc:{}", GRPC_CODES.get(usize::from(status)).copied().unwrap_or("UNKNOWN"))
        }
        RetryOn::Exit(code) => format!("exit:{code}"),
        RetryOn::Http(from, to) if from == to => format!("http:{from}"),
        // the only other form that a definition can have
        RetryOn::Http(from, _) => format!("http:{}xx", from / 100),
    }
}

fn catch_up(catch_up: &CatchUp) -> pb::CatchUp {
    let runs = match catch_up.runs {
        CatchUpRuns::None => pb::CatchUpRuns::None,
        CatchUpRuns::Latest => pb::CatchUpRuns::Latest,
        CatchUpRuns::All => pb::CatchUpRuns::All,
    };
    pb::CatchUp { runs: runs.into(), window: Some(span(catch_up.window)), max: Some(catch_up.max) }
}

fn overlap(overlap: &Overlap) -> pb::Overlap {
    let policy = match overlap.policy {
        OverlapPolicy::Skip => pb::OverlapPolicy::Skip,
        OverlapPolicy::Allow => pb::OverlapPolicy::Allow,
        OverlapPolicy::Queue => pb::OverlapPolicy::Queue,
        OverlapPolicy::Replace => pb::OverlapPolicy::Replace,
    };
    let keep = match overlap.keep {
        Keep::Newest => pb::Keep::Newest,
        Keep::Oldest => pb::Keep::Oldest,
    };
    pb::Overlap {
        policy: policy.into(),
        limit: Some(overlap.limit),
        keep: keep.into(),
        max_parallel: Some(overlap.max_parallel),
    }
}

/// The message of a breaker's rules.
#[must_use]
pub fn breaker_policy(policy: &BreakerPolicy) -> pb::BreakerPolicy {
    let on_open = match policy.on_open {
        OnOpen::Skip => pb::OnOpen::Skip,
        OnOpen::Hold => pb::OnOpen::Hold,
    };
    pb::BreakerPolicy {
        name: policy.name.clone().unwrap_or_default(),
        consecutive_failures: Some(policy.consecutive_failures),
        failure_rate: ratio(policy.failure_rate_milli),
        minimum_attempts: Some(policy.minimum_attempts),
        window: Some(span(policy.window)),
        open_for: Some(span(policy.open_for)),
        max_open_for: Some(span(policy.max_open_for)),
        probes: Some(policy.probes),
        on_open: on_open.into(),
    }
}

fn retention(retention: &Retention) -> pb::Retention {
    pb::Retention { runs: Some(retention.runs), age: Some(span(retention.age)) }
}
