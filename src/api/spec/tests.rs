use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::state::spec::{
    BreakerPolicy, CatchUp, CatchUpRuns, Keep, OnOpen, Overlap, OverlapPolicy, Retention, Retry,
};
use crate::view;

fn http(name: &str) -> pb::JobSpec {
    let target = pb::HttpTarget { url: "https://example.org/list".to_owned(), ..Default::default() };
    pb::JobSpec {
        name: name.to_owned(),
        target: Some(pb::Target { http: Some(target), ..pb::Target::default() }),
        ..Default::default()
    }
}

fn cron(line: &str) -> pb::Schedule {
    pb::Schedule { cron: line.to_owned(), ..Default::default() }
}

fn span(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

/// A change of a job.
type Change = fn(&mut pb::JobSpec);

/// A change of a call.
type CallChange = fn(&mut pb::GrpcTarget);

/// What is wrong with the job after `change`, one problem a line.
fn wrong(change: impl FnOnce(&mut pb::JobSpec)) -> String {
    let mut spec = http("job");
    change(&mut spec);
    from_pb(&spec).expect_err("a refusal").to_string()
}

fn http_of(spec: &mut pb::JobSpec) -> &mut pb::HttpTarget {
    spec.target.as_mut().and_then(|target| target.http.as_mut()).expect("an http target")
}

#[test]
fn absent_fields_have_the_documented_defaults() {
    let spec = from_pb(&http("job")).expect("a job");
    let second = Duration::from_secs(1);
    assert_eq!((spec.namespace.as_str(), spec.queue.as_str()), ("default", "default"));
    assert_eq!((spec.timeout, spec.start_within), (3_600 * second, None));
    assert_eq!((spec.on_lost, spec.on_resume), (OnLost::Rerun, OnResume::Skip));
    assert_eq!(
        spec.retry,
        Retry {
            max_attempts: 1,
            initial: second,
            multiplier_milli: 2_000,
            max: 600 * second,
            jitter_milli: 200,
            on: Vec::new()
        }
    );
    assert_eq!(spec.catch_up, CatchUp { runs: CatchUpRuns::Latest, window: 3_600 * second, max: 100 });
    assert_eq!(
        spec.overlap,
        Overlap { policy: OverlapPolicy::Skip, limit: 1, keep: Keep::Newest, max_parallel: 1 }
    );
    assert_eq!(
        spec.breaker,
        BreakerPolicy {
            name: None,
            consecutive_failures: 5,
            failure_rate_milli: 0,
            minimum_attempts: 10,
            window: 600 * second,
            open_for: 60 * second,
            max_open_for: 3_600 * second,
            probes: 1,
            on_open: OnOpen::Skip
        }
    );
    assert_eq!(spec.retention, Retention { runs: 100, age: 30 * 86_400 * second });
    let exec = pb::ExecTarget { shell: "true".to_owned(), ..Default::default() };
    let mut spec = http("job");
    spec.target = Some(pb::Target { exec: Some(exec), ..pb::Target::default() });
    assert_eq!(from_pb(&spec).expect("a job").on_lost, OnLost::Fail);
}

#[test]
fn zero_that_was_written_is_not_the_default() {
    let mut spec = http("job");
    spec.breaker = Some(pb::BreakerPolicy { consecutive_failures: Some(0), ..Default::default() });
    spec.retry = Some(pb::Retry { jitter: Some(0.0), ..Default::default() });
    let read = from_pb(&spec).expect("a job");
    assert_eq!((read.breaker.consecutive_failures, read.retry.jitter_milli), (0, 0));
}

#[test]
fn zero_is_refused_where_nothing_could_ever_run() {
    let mut spec = http("job");
    let (zero, none) = (Some(0), Some(0.0));
    spec.retry = Some(pb::Retry { max_attempts: zero, multiplier: none, ..Default::default() });
    spec.catch_up = Some(pb::CatchUp { max: zero, ..Default::default() });
    spec.overlap = Some(pb::Overlap { limit: zero, max_parallel: zero, ..Default::default() });
    spec.breaker = Some(pb::BreakerPolicy { minimum_attempts: zero, probes: zero, ..Default::default() });
    spec.retention = Some(pb::Retention { runs: zero, age: None });
    let problems = from_pb(&spec).expect_err("eight problems");
    let told: Vec<String> = problems.list().iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "retry.max_attempts: 0 is out of range, expected 1 to 100",
            "retry.multiplier: 0 is out of range, expected 1 to 100",
            "catch_up.max: 0 is out of range, expected 1 to 10000",
            "overlap.limit: 0 is out of range, expected 1 to 1000",
            "overlap.max_parallel: 0 is out of range, expected 1 to 1000",
            "breaker.minimum_attempts: 0 is out of range, expected 1 to 1000000",
            "breaker.probes: 0 is out of range, expected 1 to 100",
            "retention.runs: 0 is out of range, expected 1 to 100000",
        ]
    );
    assert_eq!(problems.list()[0].hint.as_deref(), Some("leave the key out for its default, 1"));
}

#[test]
fn a_definition_survives_the_way_out_and_in_again() {
    let mut spec = http("full.job-1_x");
    spec.namespace = "ops".to_owned();
    spec.description = "über".to_owned();
    spec.labels.insert("team/a.b-c_d".to_owned(), "x y".to_owned());
    let dst = Some(pb::Dst { gap: pb::Gap::Shift.into(), fold: pb::Fold::Both.into() });
    let at = |seconds| prost_types::Timestamp { seconds, nanos: 5_999_999 };
    spec.schedule = vec![
        pb::Schedule {
            timezone: "Europe/Berlin".to_owned(),
            dst,
            day_rule: pb::DayRule::And.into(),
            start_at: Some(at(0)),
            end_at: Some(at(4_000_000_000)),
            jitter: span(300, 0),
            ..cron("30 2 * * mon-fri")
        },
        pb::Schedule { every: span(90, 500_000_000), offset: span(30, 0), ..Default::default() },
        pb::Schedule { at: vec![at(1_800_000_000), at(-5), at(1_800_000_000)], ..Default::default() },
    ];
    let target = http_of(&mut spec);
    target.method = "post".to_owned();
    target.headers.insert("X-A".to_owned(), "b".to_owned());
    target.body = "{}".to_owned();
    target.success = " 200-299, 304 ".to_owned();
    spec.timeout = span(0, 1_000_000);
    spec.start_within = span(900, 0);
    let on = ["failed", "timeout", "lost", "exit:75", "http:429", "http:5xx", "grpc:UNAVAILABLE"];
    spec.retry = Some(pb::Retry {
        max_attempts: Some(100),
        multiplier: Some(1.5),
        max: span(7_200, 0),
        initial: span(0, 0),
        jitter: Some(1.0),
        on: on.iter().map(|word| (*word).to_owned()).collect(),
    });
    spec.overlap = Some(pb::Overlap {
        policy: pb::OverlapPolicy::Queue.into(),
        limit: Some(1_000),
        keep: pb::Keep::Oldest.into(),
        max_parallel: Some(2),
    });
    spec.breaker = Some(pb::BreakerPolicy {
        name: "feed".to_owned(),
        failure_rate: 0.333,
        open_for: span(7_200, 0),
        on_open: pb::OnOpen::Hold.into(),
        ..Default::default()
    });
    for spec in [spec, http("plain")] {
        let read = from_pb(&spec).expect("a job");
        let shown = view::spec::to_pb(&read);
        assert_eq!(from_pb(&shown), Ok(read));
        if !spec.schedule.is_empty() {
            let shown = &shown.schedule[2].at;
            assert_eq!(shown.iter().map(|at| at.seconds).collect::<Vec<_>>(), [-5, 1_800_000_000]);
            assert_eq!(shown[0].nanos, 5_000_000);
        }
    }
}

#[test]
fn each_field_is_refused_under_its_own_path() {
    let table: [(Change, &str); 43] = [
        (|s| s.name.clear(), "name: is missing"),
        (|s| s.name = "A".to_owned(), "name: 'A' is not allowed, only a-z, 0-9, `.`, `_` and `-` are"),
        (|s| s.name = "a".repeat(129), "name: 129 bytes are too long, at most 128 are allowed"),
        (
            |s| s.namespace = "ü".to_owned(),
            "namespace: 'ü' is not allowed, only a-z, 0-9, `.`, `_` and `-` are",
        ),
        (
            |s| s.description = "x".repeat(4_097),
            "description: 4097 bytes are too long, at most 4096 are allowed",
        ),
        (
            |s| drop(s.labels.insert("a b".to_owned(), String::new())),
            "labels[\"a b\"]: a key has 1 to 63 characters out of a-z, A-Z, 0-9, `.`, `_`, `-` and `/`",
        ),
        (|s| s.queue = "Q".to_owned(), "queue: 'Q' is not allowed, only a-z, 0-9, `.`, `_` and `-` are"),
        (|s| s.target = None, "target: is missing"),
        (
            |s| s.target = Some(pb::Target::default()),
            "target: exactly one of http, exec, grpc, queue, redis, amqp, nats and celery is needed, found none",
        ),
        (|s| http_of(s).url.clear(), "target.http.url: is missing"),
        (
            |s| http_of(s).url = "ftp://x/".to_owned(),
            "target.http.url: the scheme is \"ftp\", expected http or https",
        ),
        (|s| http_of(s).url = "https://".to_owned(), "target.http.url: is no URL: empty host"),
        (
            |s| http_of(s).method = "BREW".to_owned(),
            "target.http.method: \"BREW\" is none of GET, HEAD, POST, PUT, PATCH, DELETE",
        ),
        (
            |s| drop(http_of(s).headers.insert("chronarch-run-id".to_owned(), String::new())),
            "target.http.headers.chronarch-run-id: is set by the scheduler",
        ),
        (
            |s| drop(http_of(s).headers.insert("a b".to_owned(), String::new())),
            "target.http.headers[\"a b\"]: is no header name",
        ),
        (
            |s| http_of(s).success = "299-200".to_owned(),
            "target.http.success: \"299-200\" is no range of status codes, expected for example 200-299 or 304",
        ),
        (|s| s.timeout = span(0, 0), "timeout: 0s is out of range, expected 1ms to 30d"),
        (
            |s| s.timeout = span(-1, 0),
            "timeout: is no span of time: negative, or its parts contradict each other",
        ),
        (|s| s.timeout = span(1, 1), "timeout: 1s1ns is not a whole number of milliseconds"),
        (
            |s| s.timeout = span(i64::MAX, 999_999_999),
            "timeout: is no span of time: negative, or its parts contradict each other",
        ),
        (|s| s.timeout = span(0, 0), "timeout: 0s is out of range, expected 1ms to 30d"),
        (
            |s| s.start_within = span(400 * 86_400, 0),
            "start_within: 400d is out of range, expected 1ms to 366d",
        ),
        (|s| s.on_lost = 9, "on_lost: unknown value 9; the client is newer than this node"),
        (
            |s| s.retry = Some(pb::Retry { max_attempts: Some(101), ..Default::default() }),
            "retry.max_attempts: 101 is out of range, expected 1 to 100",
        ),
        (
            |s| s.retry = Some(pb::Retry { jitter: Some(f64::NAN), ..Default::default() }),
            "retry.jitter: NaN is out of range, expected 0 to 1",
        ),
        (
            |s| s.retry = Some(pb::Retry { multiplier: Some(f64::INFINITY), ..Default::default() }),
            "retry.multiplier: inf is out of range, expected 1 to 100",
        ),
        (
            |s| {
                s.retry =
                    Some(pb::Retry { on: vec!["lost".to_owned(), "exit:0".to_owned()], ..Default::default() })
            },
            "retry.on[1]: \"exit:0\" is none of failed, timeout, lost, exit:1 to exit:255, http:503, http:5xx, grpc:UNAVAILABLE",
        ),
        (
            |s| s.retry = Some(pb::Retry { max: span(1, 0), initial: span(2, 0), ..Default::default() }),
            "retry.max: is shorter than retry.initial (2s)",
        ),
        (
            |s| s.catch_up = Some(pb::CatchUp { max: Some(10_001), ..Default::default() }),
            "catch_up.max: 10001 is out of range, expected 1 to 10000",
        ),
        (
            |s| s.overlap = Some(pb::Overlap { max_parallel: Some(1_001), ..Default::default() }),
            "overlap.max_parallel: 1001 is out of range, expected 1 to 1000",
        ),
        (
            |s| s.breaker = Some(pb::BreakerPolicy { failure_rate: -0.5, ..Default::default() }),
            "breaker.failure_rate: -0.5 is out of range, expected 0 to 1",
        ),
        (
            |s| s.breaker = Some(pb::BreakerPolicy { name: "job:x".to_owned(), ..Default::default() }),
            "breaker.name: ':' is not allowed, only a-z, 0-9, `.`, `_` and `-` are",
        ),
        (
            |s| s.retention = Some(pb::Retention { runs: Some(100_001), age: None }),
            "retention.runs: 100001 is out of range, expected 1 to 100000",
        ),
        (
            |s| drop(s.params.insert("Day".to_owned(), String::new())),
            "params.Day: a name has 1 to 63 characters out of a-z, 0-9 and `_`, the first a letter",
        ),
        (
            |s| s.limits = Some(pb::Limits::default()),
            "limits: neither concurrency nor rate is set: nothing would be limited",
        ),
        (
            |s| s.limits = Some(pb::Limits { rate: "5/2d".to_owned(), ..Default::default() }),
            "limits.rate: \"5/2d\" is no rate, expected a number from 1 to 1000000, `/`, and a span of 1ms to 1d: 100/s, 10/m, 5/30s",
        ),
        (
            |s| s.limits = Some(pb::Limits { concurrency: Some(0), ..Default::default() }),
            "limits.concurrency: 0 is out of range, expected 1 to 100000",
        ),
        (|s| s.after = Some(pb::After::default()), "after.jobs: is missing"),
        (
            |s| s.after = Some(pb::After { jobs: vec!["job".to_owned()], ..Default::default() }),
            "after.jobs[0]: is the job itself",
        ),
        (|s| s.priority = 101, "priority: 101 is out of range, expected -100 to 100"),
        (
            |s| s.schedule = vec![pb::Schedule::default()],
            "schedule: exactly one of cron, every, at, rrule, calendar and solar is needed, found none",
        ),
        (
            |s| s.schedule = vec![pb::Schedule { offset: span(1, 0), ..cron("* * * * *") }],
            "schedule.offset: belongs to `every` alone",
        ),
        (
            |s| {
                let far = prost_types::Timestamp { seconds: i64::MAX, nanos: -1 };
                s.schedule = vec![pb::Schedule { start_at: Some(far), ..cron("* * * * *") }];
            },
            "schedule.start_at: is no instant of the years 0000 to 9999",
        ),
    ];
    for (change, expected) in table {
        assert_eq!(wrong(change), expected);
    }
}

#[test]
fn schedules_are_compiled_and_their_errors_placed() {
    let text = wrong(|spec| {
        spec.schedule = vec![cron("0 0 * * *"), cron("0 99 * * *"), cron("0 0 30 2 *")];
        spec.schedule.push(pb::Schedule { timezone: "Mars/Olympus".to_owned(), ..cron("0 0 * * *") });
        spec.schedule.push(pb::Schedule { every: span(10, 0), offset: span(10, 0), ..Default::default() });
        let (start, end) = (1_774_746_001, 1_774_746_059);
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        spec.schedule.push(pb::Schedule { start_at: at(start), end_at: at(end), ..cron("* * * * *") });
    });
    let problems = text.lines().filter(|line| !line.starts_with("hint: "));
    let paths: Vec<&str> = problems.map(|line| line.split(": ").next().expect("a path")).collect();
    assert_eq!(
        paths,
        ["schedule[1].cron", "schedule[2].cron", "schedule[3].timezone", "schedule[4].offset", "schedule[5]"],
        "{text}"
    );
    assert!(text.starts_with("schedule[1].cron: column 3: "), "{text}");
}

#[test]
fn all_that_is_wrong_with_a_schedule_is_told_with_its_hints() {
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let text = wrong(|spec| {
        spec.schedule = vec![
            pb::Schedule {
                timezone: "Europe/Berln".to_owned(),
                start_at: at(10),
                end_at: at(5),
                offset: span(1, 0),
                ..cron("0 99 * * *")
            },
            pb::Schedule { timezone: "Mars".to_owned(), ..Default::default() },
            pb::Schedule { every: span(0, 0), offset: span(10, 0), ..Default::default() },
        ];
    });
    let starts: Vec<&str> = text.lines().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(
        starts,
        [
            "schedule[0].offset",
            "schedule[0].timezone",
            "hint",
            "schedule[0].cron",
            "hint",
            "schedule[0].end_at",
            "schedule[1]",
            "schedule[1].timezone",
            "schedule[2].every",
        ],
        "{text}"
    );
    assert!(text.contains("\nhint: did you mean `Europe/Berlin`?\nschedule[0].cron"), "{text}");
    let bounds =
        "schedule[0].end_at: 1970-01-01T00:00:05.000Z is not later than start_at, 1970-01-01T00:00:10.000Z";
    assert!(text.lines().any(|line| line == bounds), "{text}");
}

#[test]
fn all_problems_come_at_once_and_their_number_is_bounded() {
    let text = wrong(|spec| {
        spec.name.clear();
        spec.timeout = span(-1, 0);
        http_of(spec).url = "x".to_owned();
    });
    assert_eq!(text.lines().count(), 3, "{text}");
    let text = wrong(|spec| {
        for place in 0..64 {
            http_of(spec).headers.insert(format!("a {place}"), "\n".to_owned());
        }
    });
    let (listed, more) = text.rsplit_once("\nand ").expect("not all of them");
    let more: usize = more.strip_suffix(" more").and_then(|more| more.parse().ok()).expect("a number");
    assert_eq!(listed.lines().count() + more, 128, "two for each header: {text}");
    assert!(text.len() <= limits::REFUSAL_BYTES && listed.lines().count() > 30, "{text}");
}

#[test]
fn what_is_too_large_is_refused_whatever_it_is() {
    let text = wrong(|spec| http_of(spec).body = "x".repeat(200_000));
    assert!(text.starts_with("the job has 2000"), "{text}");
    assert!(
        text.ends_with("target.http.body: 200000 bytes are too long, at most 65536 are allowed"),
        "{text}"
    );
    let text = wrong(|spec| spec.schedule = vec![cron("* * * * *"); 17]);
    assert!(text.starts_with("schedule: 17 schedules are too many, at most 16 are allowed"), "{text}");
    let text = wrong(|spec| {
        let at = (0..1_001).map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }).collect();
        spec.schedule = vec![pb::Schedule { at, ..Default::default() }];
    });
    assert_eq!(text, "schedule.at: 1001 instants are too many, at most 1000 are allowed");
}

proptest::proptest! {
    #[test]
    fn bytes_that_decode_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        if let Ok(spec) = pb::JobSpec::decode(bytes.as_slice()) {
            let _ = from_pb(&spec);
        }
    }

    #[test]
    fn numbers_of_any_size_never_panic(seconds: i64, nanos: i32, ratio: f64, count: u32, word: i32) {
        let mut spec = http("job");
        let any = Some(prost_types::Duration { seconds, nanos });
        let at = Some(prost_types::Timestamp { seconds, nanos });
        spec.timeout = any;
        spec.on_resume = word;
        spec.start_within = any;
        spec.retry = Some(pb::Retry { max_attempts: Some(count), initial: any, multiplier: Some(ratio), max: any,
            jitter: Some(ratio), on: vec![format!("exit:{word}"), format!("http:{count}")] });
        spec.breaker = Some(pb::BreakerPolicy { consecutive_failures: Some(count), failure_rate: ratio,
            window: any, open_for: any, ..Default::default() });
        spec.schedule = vec![
            pb::Schedule { every: any, offset: any, start_at: at, end_at: at, jitter: any, ..Default::default() },
            pb::Schedule { at: at.into_iter().collect(), ..Default::default() },
        ];
        if let Ok(read) = from_pb(&spec) {
            proptest::prop_assert_eq!(from_pb(&view::spec::to_pb(&read)), Ok(read));
        }
    }
}

#[test]
fn a_call_is_checked_field_by_field_and_survives_the_way_out_and_in_again() {
    let grpc = |change: fn(&mut pb::GrpcTarget)| {
        let mut grpc = pb::GrpcTarget {
            address: "health.example:443".to_owned(),
            method: "/grpc.health.v1.Health/Check".to_owned(),
            request: "{\"service\": \"x\"}".to_owned(),
            metadata: [("authorization".to_owned(), "x".to_owned())].into(),
            descriptor: STANDARD.encode(tonic_health::pb::FILE_DESCRIPTOR_SET),
            tls: true,
        };
        change(&mut grpc);
        pb::JobSpec { target: Some(pb::Target { grpc: Some(grpc), ..pb::Target::default() }), ..http("call") }
    };
    let spec = from_pb(&grpc(|_| {})).expect("a job");
    assert_eq!((spec.target.kind(), spec.on_lost), ("grpc", OnLost::Rerun));
    assert_eq!(from_pb(&view::spec::to_pb(&spec)).expect("a job"), spec);
    let changes: [(CallChange, &str); 8] = [
        (|grpc| grpc.address.clear(), "target.grpc.address: is missing"),
        (|grpc| grpc.address = "health.example".to_owned(), "target.grpc.address: expected host:port"),
        (
            |grpc| grpc.method = "Check".to_owned(),
            "target.grpc.method: \"Check\" is not package.Service/Method",
        ),
        (|grpc| grpc.method.push('s'), "target.grpc.method: there is no grpc.health.v1.Health/Checks"),
        (|grpc| grpc.request = "{\"service\": 7}".to_owned(), "target.grpc.request: "),
        (|grpc| grpc.descriptor = "?".to_owned(), "target.grpc.descriptor: is no base64"),
        (|grpc| grpc.descriptor = "AQID".to_owned(), "target.grpc.descriptor: "),
        (
            |grpc| drop(grpc.metadata.insert("grpc-timeout".to_owned(), "1S".to_owned())),
            "target.grpc.metadata.grpc-timeout: belongs to the protocol and cannot be set",
        ),
    ];
    for (change, problem) in changes {
        let problems = from_pb(&grpc(change)).expect_err(problem).to_string();
        assert!(problems.starts_with(problem) && problems.lines().count() <= 2, "{problem}: {problems}");
    }
}
