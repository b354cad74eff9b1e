//! Between the protocol's messages and the types of `target`.
//!
//! What the leader sent is checked by the cluster before it was stored, but it is input here: every field is read
//! with a stated meaning when it is absent, and what makes no sense is an [`OrderError`], which becomes the
//! report of a failed attempt and never the end of a worker.

mod broker;

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::ledger::Key;
use crate::pb::v1 as pb;
use crate::state::time::Timestamp;
use crate::target::{self, ERROR_BYTES_MAX, OUTPUT_TAIL_BYTES};

/// Why an order cannot be carried out; nothing was touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OrderError {
    #[error("the order names no target that this worker knows")]
    NoTarget,
    #[error("the order names more than one target")]
    TwoTargets,
    #[error("the order does not say when it is due")]
    NoDueTime,
    #[error("the order's timeout is no span of time")]
    Timeout,
    #[error("exec: exactly one of command and shell is needed")]
    Program,
    #[error("http: {0}")]
    Method(#[from] target::UnknownMethod),
    #[error("grpc: descriptor: no base64")]
    Descriptor,
    #[error("redis: where the message goes is not said")]
    RedisPlace,
    #[error("celery: {0}")]
    Celery(&'static str),
    #[error("amqp: {0}")]
    Amqp(&'static str),
    #[error("http: success: {0}")]
    Success(#[from] target::SuccessError),
}

/// Reads an order. An empty text or body counts as absent.
pub(super) fn order(order: pb::Order) -> Result<target::Order, OrderError> {
    let timeout = order.timeout.map(Duration::try_from).transpose().map_err(|_| OrderError::Timeout)?;
    Ok(target::Order {
        target: target_of(order.target.ok_or(OrderError::NoTarget)?)?,
        job: order.job,
        namespace: order.namespace,
        run_id: order.run_id,
        scheduled_at: instant(order.scheduled_at.ok_or(OrderError::NoDueTime)?),
        attempt: order.attempt,
        fence: order.fence,
        timeout,
        traceparent: present(order.traceparent),
        params: order.params,
        chain_id: present(order.chain_id),
        inputs: order.inputs,
        cluster_id: order.cluster_id,
        next_at: order.next_at.map(|at| timestamp(&at)),
        delivery: order.delivery,
    })
}

/// The report of an attempt that ran. The limits of the protocol hold whatever the target left in it.
pub(super) fn report(key: &Key, report: target::Report) -> pb::Report {
    let outcome = match report.outcome {
        target::Outcome::Succeeded => pb::Outcome::Succeeded,
        target::Outcome::Failed | target::Outcome::Refused => pb::Outcome::Failed,
        target::Outcome::TimedOut => pb::Outcome::Timeout,
        target::Outcome::Cancelled => pb::Outcome::Cancelled,
        target::Outcome::Unknown => pb::Outcome::Lost,
        target::Outcome::HandedOver => pb::Outcome::Running,
    };
    let surplus = report.output.len().saturating_sub(OUTPUT_TAIL_BYTES);
    let mut output = report.output;
    output.drain(..surplus);
    pb::Report {
        run_id: key.run_id.to_string(),
        fence: key.fence,
        outcome: outcome.into(),
        exit_code: report.exit_code,
        http_status: report.http_status.map(u32::from),
        error: report.error.map_or_else(String::new, cut),
        output,
        output_truncated: report.output_truncated || surplus > 0,
        result: report.result.unwrap_or_default(),
        grpc_status: report.grpc_status.map(u32::from),
        handed_over: report.handed.map(|handed| pb::HandedOver {
            connection: handed.connection,
            task_id: handed.task_id,
            expires_at: handed.expires_at.map(crate::pb::instant::write),
            queue: handed.queue.unwrap_or_default(),
        }),
    }
}

/// The report of an attempt whose target was not touched, or of which nothing is known.
pub(super) fn untouched(key: &Key, outcome: pb::Outcome, error: impl std::fmt::Display) -> pb::Report {
    pb::Report {
        run_id: key.run_id.to_string(),
        fence: key.fence,
        outcome: outcome.into(),
        error: cut(error.to_string()),
        ..pb::Report::default()
    }
}

fn cut(mut error: String) -> String {
    error.truncate(error.floor_char_boundary(ERROR_BYTES_MAX));
    error
}

fn target_of(target: pb::Target) -> Result<target::Target, OrderError> {
    let pb::Target { http, exec, grpc, queue, redis, celery, amqp, nats } = target;
    // This worker never says that it carries out what is in a queue.
    let queue: Option<Result<target::Target, OrderError>> = queue.map(|_| Err(OrderError::NoTarget));
    let all = [
        http.map(|http| http_of(http).map(target::Target::Http)),
        exec.map(|exec| exec_of(exec).map(target::Target::Exec)),
        grpc.map(|grpc| grpc_of(grpc).map(target::Target::Grpc)),
        redis.map(|redis| broker::redis(redis).map(|redis| target::Target::Redis(Box::new(redis)))),
        celery.map(|celery| broker::celery(celery).map(|celery| target::Target::Celery(Box::new(celery)))),
        amqp.map(|amqp| broker::amqp(amqp).map(|amqp| target::Target::Amqp(Box::new(amqp)))),
        nats.map(|nats| Ok(target::Target::Nats(Box::new(broker::nats(nats))))),
        queue,
    ];
    let mut named = all.into_iter().flatten();
    match (named.next(), named.next()) {
        (Some(target), None) => target,
        (None, _) => Err(OrderError::NoTarget),
        (Some(_), Some(_)) => Err(OrderError::TwoTargets),
    }
}

fn http_of(http: pb::HttpTarget) -> Result<target::Http, OrderError> {
    Ok(target::Http {
        method: present(http.method).map_or(Ok(target::Method::default()), |name| name.parse())?,
        url: http.url,
        headers: http.headers,
        body: present(http.body).map(String::into_bytes),
        success: match present(http.success) {
            Some(ranges) => target::parse_success(&ranges)?,
            None => target::default_success(),
        },
    })
}

fn grpc_of(grpc: pb::GrpcTarget) -> Result<target::Grpc, OrderError> {
    Ok(target::Grpc {
        address: grpc.address,
        method: grpc.method,
        request: grpc.request,
        metadata: grpc.metadata,
        descriptor: STANDARD.decode(grpc.descriptor).map_err(|_| OrderError::Descriptor)?,
        tls: grpc.tls,
    })
}

fn exec_of(exec: pb::ExecTarget) -> Result<target::Exec, OrderError> {
    let program = match (exec.command.is_empty(), present(exec.shell)) {
        (false, None) => target::Program::Command(exec.command),
        (true, Some(script)) => target::Program::Shell(script),
        (false, Some(_)) | (true, None) => return Err(OrderError::Program),
    };
    Ok(target::Exec {
        program,
        env: exec.env,
        cwd: present(exec.cwd).map(PathBuf::from),
        stdin: present(exec.stdin).map(String::into_bytes),
    })
}

fn present(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

fn timestamp(at: &prost_types::Timestamp) -> Timestamp {
    let millis = i64::from(at.nanos.clamp(0, 999_999_999) / 1_000_000);
    Timestamp::from_millis(at.seconds.saturating_mul(1_000).saturating_add(millis))
}

/// RFC 3339 in UTC with milliseconds, always three digits of them: `2026-03-29T01:00:00.000Z`.
fn instant(at: prost_types::Timestamp) -> String {
    let millis = at.nanos.clamp(0, 999_999_999) / 1_000_000;
    let seconds = prost_types::Timestamp { seconds: at.seconds, nanos: 0 }.to_string();
    format!("{}.{millis:03}Z", seconds.trim_end_matches('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key { run_id: "7-1000".into(), fence: 9 }
    }

    fn order_of(target: pb::Target) -> pb::Order {
        pb::Order {
            run_id: "7-1000".to_owned(),
            fence: 9,
            attempt: 2,
            scheduled_at: Some(prost_types::Timestamp { seconds: 1_774_746_000, nanos: 7_999_999 }),
            timeout: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
            target: Some(target),
            ..pb::Order::default()
        }
    }

    fn shell(script: &str) -> pb::Target {
        pb::Target {
            exec: Some(pb::ExecTarget { shell: script.to_owned(), ..pb::ExecTarget::default() }),
            ..pb::Target::default()
        }
    }

    #[test]
    fn the_due_time_always_has_three_digits_after_the_second() {
        let at = |seconds, nanos| instant(prost_types::Timestamp { seconds, nanos });
        assert_eq!(at(1_774_746_000, 0), "2026-03-29T01:00:00.000Z");
        assert_eq!(at(1_774_746_000, 7_999_999), "2026-03-29T01:00:00.007Z");
        assert_eq!(at(-1, 999_999_999), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn an_order_is_read_with_its_defaults() {
        let read = order(order_of(shell("true"))).expect("well-formed");
        assert_eq!(read.timeout, Some(Duration::from_secs(90)));
        assert_eq!(read.traceparent, None);
        let target::Target::Exec(exec) = read.target else { panic!("not exec: {:?}", read.target) };
        assert_eq!(exec.program, target::Program::Shell("true".to_owned()));
        assert_eq!((exec.cwd, exec.stdin), (None, None));

        let http = pb::HttpTarget { url: "http://localhost/".to_owned(), ..pb::HttpTarget::default() };
        let read =
            order(order_of(pb::Target { http: Some(http), ..pb::Target::default() })).expect("well-formed");
        let target::Target::Http(http) = read.target else { panic!("not http: {:?}", read.target) };
        assert_eq!(http.method, target::Method::Get);
        assert_eq!(http.body, None);
        assert!(http.success.iter().any(|range| range.contains(&204)));
    }

    #[test]
    fn an_order_that_makes_no_sense_is_refused_by_what_is_wrong() {
        let both = pb::Target { http: Some(pb::HttpTarget::default()), ..shell("true") };
        assert_eq!(order(order_of(both)), Err(OrderError::TwoTargets));
        assert_eq!(order(order_of(pb::Target::default())), Err(OrderError::NoTarget));
        assert_eq!(order(order_of(shell(""))), Err(OrderError::Program));
        let http = |method: &str, success: &str| {
            let (method, success) = (method.to_owned(), success.to_owned());
            let http = pb::HttpTarget { method, success, ..pb::HttpTarget::default() };
            order(order_of(pb::Target { http: Some(http), ..pb::Target::default() }))
        };
        assert!(matches!(http("TRACE", ""), Err(OrderError::Method(_))));
        assert!(matches!(http("GET", "9"), Err(OrderError::Success(_))));
        let mut negative = order_of(shell("true"));
        negative.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        assert_eq!(order(negative), Err(OrderError::Timeout));
        assert_eq!(
            order(pb::Order { scheduled_at: None, ..order_of(shell("true")) }),
            Err(OrderError::NoDueTime)
        );
    }

    #[test]
    fn a_report_never_exceeds_the_limits_of_the_protocol() {
        let mut long = target::Report::of(target::Outcome::Failed);
        long.error = Some("é".repeat(ERROR_BYTES_MAX));
        long.output =
            (0..OUTPUT_TAIL_BYTES + 3).map(|at| u8::try_from(at % 251).expect("below 251")).collect();
        let last = *long.output.last().expect("not empty");
        let sent = report(&key(), long);
        assert_eq!(sent.error.len(), ERROR_BYTES_MAX);
        assert_eq!(sent.output.len(), OUTPUT_TAIL_BYTES);
        assert_eq!(sent.output.last(), Some(&last), "the last bytes are kept");
        assert!(sent.output_truncated);
        assert_eq!(sent.outcome(), pb::Outcome::Failed);
    }
}
