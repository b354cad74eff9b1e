//! Targets of a request.

use std::collections::BTreeMap;

use http::header::{HeaderName, HeaderValue};

use super::super::limits;
use super::super::problem::Problems;
use super::value;
use crate::pb::path::keyed;
use crate::pb::v1 as pb;
use crate::state::spec::{Program, Target};

/// The targets that there are.
const KINDS: &str = "http, exec, grpc, queue, redis, amqp, nats and celery";
/// Methods of an http target.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
/// Headers that belong to the connection and not to the request.
const CONNECTION_HEADERS: [&str; 4] = ["connection", "content-length", "transfer-encoding", "upgrade"];
/// Headers and variables that tell the target about its run begin so.
pub(super) const OURS: (&str, &str) = ("chronarch-", "CHRONARCH_");
/// Others that do.
pub(super) const OUR_HEADERS: [&str; 2] = ["idempotency-key", "traceparent"];

/// The target; paths begin at `target`.
pub(super) fn target(
    target: Option<&pb::Target>,
    params: &BTreeMap<String, String>,
    problems: &mut Problems,
) -> Option<Target> {
    let Some(target) = target else {
        problems.add("target", "is missing");
        return None;
    };
    let pb::Target { http, exec, queue, grpc, redis, celery, amqp, nats } = target;
    let named = [
        ("http", http.is_some()),
        ("exec", exec.is_some()),
        ("queue", queue.is_some()),
        ("grpc", grpc.is_some()),
        ("redis", redis.is_some()),
        ("celery", celery.is_some()),
        ("amqp", amqp.is_some()),
        ("nats", nats.is_some()),
    ];
    let named: Vec<&str> =
        named.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect();
    if named.len() != 1 {
        let found = if named.is_empty() { "none".to_owned() } else { named.join(" and ") };
        problems.add("target", format!("exactly one of {KINDS} is needed, found {found}"));
        return None;
    }
    let http = http.as_ref().map(|target| self::http(target, problems));
    let queue = queue.as_ref().map(|target| self::queue(target, problems));
    let grpc = grpc.as_ref().map(|target| super::grpc::target(target, params, problems));
    let celery = celery.as_ref().map(|target| super::broker::celery(target, problems));
    let amqp = amqp.as_ref().map(|target| super::broker::amqp(target, problems));
    let nats = nats.as_ref().map(|target| super::broker::nats(target, problems));
    let redis = redis.as_ref().and_then(|target| super::broker::redis(target, problems));
    let exec = exec.as_ref().and_then(|target| self::exec(target, problems));
    http.or(queue).or(grpc).or(celery).or(amqp).or(nats).or(redis).or(exec)
}

fn queue(target: &pb::QueueTarget, problems: &mut Problems) -> Target {
    value::length("target.queue.payload", &target.payload, limits::BODY_BYTES, problems);
    Target::Queue { payload: target.payload.clone() }
}

fn http(target: &pb::HttpTarget, problems: &mut Problems) -> Target {
    let method = if target.method.is_empty() { "GET".to_owned() } else { target.method.to_ascii_uppercase() };
    if !METHODS.contains(&method.as_str()) {
        let shown: String = method.chars().take(32).collect();
        problems.add("target.http.method", format!("{shown:?} is none of {}", METHODS.join(", ")));
    }
    url("target.http.url", &target.url, problems);
    headers("target.http.headers", &target.headers, problems);
    value::length("target.http.body", &target.body, limits::BODY_BYTES, problems);
    Target::Http {
        method,
        url: target.url.clone(),
        headers: target.headers.clone(),
        body: target.body.clone(),
        success: success("target.http.success", &target.success, problems),
    }
}

/// Whether a header tells the target about its run; `name` in lower case.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with(OURS.0) || OUR_HEADERS.contains(&name)
}

fn url(path: &str, text: &str, problems: &mut Problems) {
    if text.is_empty() {
        return problems.add(path, "is missing");
    }
    if text.len() > limits::URL_BYTES {
        return value::length(path, text, limits::URL_BYTES, problems);
    }
    match url::Url::parse(text) {
        Err(error) => problems.add(path, format!("is no URL: {error}")),
        Ok(url) if !["http", "https"].contains(&url.scheme()) => {
            problems.add(path, format!("the scheme is {:?}, expected http or https", url.scheme()));
        }
        Ok(_) => {}
    }
}

/// Headers, of http and of messages.
pub(super) fn headers(path: &str, headers: &BTreeMap<String, String>, problems: &mut Problems) {
    value::most(path, "headers", headers.len(), limits::PAIRS, problems);
    for (name, text) in headers.iter().take(limits::PAIRS) {
        let at = keyed(path, name);
        if name.len() + text.len() > limits::PAIR_BYTES {
            problems.add(
                at,
                format!("name and value are too long, at most {} bytes are allowed", limits::PAIR_BYTES),
            );
            continue;
        }
        match HeaderName::from_bytes(name.as_bytes()) {
            Err(_) => problems.add(&at, "is no header name"),
            Ok(known) if is_ours(known.as_str()) => {
                problems.add(&at, "is set by the scheduler");
            }
            Ok(known) if CONNECTION_HEADERS.contains(&known.as_str()) => {
                problems.add(&at, "belongs to the connection and cannot be set");
            }
            Ok(_) => {}
        }
        if HeaderValue::from_str(text).is_err() {
            problems.add(&at, "its value has characters that a header cannot hold");
        }
    }
}

/// Ranges of status codes, without blanks: `200-299,304`.
fn success(path: &str, text: &str, problems: &mut Problems) -> String {
    if text.trim().is_empty() {
        return "200-299".to_owned();
    }
    if text.len() > limits::SUCCESS_RANGES * 16 {
        value::length(path, text, limits::SUCCESS_RANGES * 16, problems);
        return String::new();
    }
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    value::most(path, "ranges", parts.len(), limits::SUCCESS_RANGES, problems);
    let mut ranges = Vec::new();
    for part in parts {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        match (status_code(from), status_code(to)) {
            (Some(from), Some(to)) if from == to => ranges.push(from.to_string()),
            (Some(from), Some(to)) if from < to => ranges.push(format!("{from}-{to}")),
            _ => problems.add(
                path,
                format!("{part:?} is no range of status codes, expected for example 200-299 or 304"),
            ),
        }
    }
    ranges.join(",")
}

/// A status code, 100 to 599.
pub(super) fn status_code(text: &str) -> Option<u16> {
    let text = text.trim();
    let code = text.parse().ok().filter(|code| (100..=599).contains(code))?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(code)
}

fn exec(target: &pb::ExecTarget, problems: &mut Problems) -> Option<Target> {
    let program = match (target.command.as_slice(), target.shell.as_str()) {
        ([], "") => {
            problems.add("target.exec", "exactly one of command and shell is needed, found none");
            None
        }
        (command, "") => {
            arguments("target.exec.command", command, problems);
            Some(Program::Command(command.to_vec()))
        }
        ([], line) => {
            value::length("target.exec.shell", line, limits::BODY_BYTES, problems);
            no_nul("target.exec.shell", line, problems);
            Some(Program::Shell(line.to_owned()))
        }
        _ => {
            problems.add("target.exec", "exactly one of command and shell is needed, found both");
            None
        }
    };
    environment("target.exec.env", &target.env, problems);
    value::length("target.exec.cwd", &target.cwd, limits::ARGUMENT_BYTES, problems);
    no_nul("target.exec.cwd", &target.cwd, problems);
    value::length("target.exec.stdin", &target.stdin, limits::BODY_BYTES, problems);
    let some = |text: &String| Some(text).filter(|text| !text.is_empty()).cloned();
    Some(Target::Exec {
        program: program?,
        env: target.env.clone(),
        cwd: some(&target.cwd),
        stdin: some(&target.stdin),
    })
}

fn arguments(path: &str, words: &[String], problems: &mut Problems) {
    value::most(path, "words", words.len(), limits::ARGUMENTS, problems);
    for (place, word) in words.iter().take(limits::ARGUMENTS).enumerate() {
        let at = format!("{path}[{place}]");
        if place == 0 && word.is_empty() {
            problems.add(&at, "the program is missing");
        }
        value::length(&at, word, limits::ARGUMENT_BYTES, problems);
        no_nul(&at, word, problems);
    }
}

fn environment(path: &str, variables: &BTreeMap<String, String>, problems: &mut Problems) {
    value::most(path, "variables", variables.len(), limits::PAIRS, problems);
    for (name, text) in variables.iter().take(limits::PAIRS) {
        let at = keyed(path, name);
        let first_is_digit = name.bytes().next().is_none_or(|byte| byte.is_ascii_digit());
        if first_is_digit || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            problems.add(&at, "is no variable's name, expected [A-Za-z_][A-Za-z0-9_]*");
        } else if name.starts_with(OURS.1) || name == "TRACEPARENT" {
            problems.add(&at, "is set by the scheduler");
        }
        if name.len() + text.len() > limits::PAIR_BYTES {
            problems.add(
                &at,
                format!("name and value are too long, at most {} bytes are allowed", limits::PAIR_BYTES),
            );
        }
        no_nul(&at, text, problems);
    }
}

/// What the operating system ends a text at.
fn no_nul(path: &str, text: &str, problems: &mut Problems) {
    if text.contains('\0') {
        problems.add(path, "holds a NUL character");
    }
}
