//! Policies of a request, each complete with its defaults.

use std::time::Duration;

use super::super::limits;
use super::super::problem::Problems;
use super::target::status_code;
use super::value;
use crate::pb::v1 as pb;
use crate::state::limits as state_limits;
use crate::state::spec::{
    BreakerPolicy, CatchUp, CatchUpRuns, GRPC_CODES, Keep, OnOpen, Overlap, OverlapPolicy, Retention, Retry,
    RetryOn,
};
use crate::state::time::span_text;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const MILLISECOND: Duration = Duration::from_millis(1);

/// `retry`; without it there is one attempt.
pub(super) fn retry(retry: Option<&pb::Retry>, problems: &mut Problems) -> Retry {
    let absent = pb::Retry::default();
    let retry = retry.unwrap_or(&absent);
    let waits = Duration::ZERO..=limits::RETRY_WAIT;
    let initial =
        value::span("retry.initial", retry.initial.as_ref(), waits.clone(), problems).unwrap_or(SECOND);
    let max = value::span("retry.max", retry.max.as_ref(), waits, problems);
    if max.is_some_and(|max| max < initial) {
        problems.add("retry.max", format!("is shorter than retry.initial ({})", span_text(initial)));
    }
    let multiplier = retry.multiplier.unwrap_or(2.0);
    Retry {
        max_attempts: value::count(
            "retry.max_attempts",
            retry.max_attempts,
            1,
            1..=state_limits::ATTEMPTS,
            problems,
        ),
        initial,
        multiplier_milli: value::milli("retry.multiplier", multiplier, &(1.0..=100.0), problems),
        max: max.unwrap_or_else(|| initial.max(10 * MINUTE)),
        jitter_milli: value::milli("retry.jitter", retry.jitter.unwrap_or(0.2), &(0.0..=1.0), problems),
        on: retry_on(&retry.on, problems),
    }
}

fn retry_on(words: &[String], problems: &mut Problems) -> Vec<RetryOn> {
    value::most("retry.on", "words", words.len(), limits::RETRY_CLASSES, problems);
    let mut classes = Vec::new();
    for (place, word) in words.iter().take(limits::RETRY_CLASSES).enumerate() {
        match retry_class(word) {
            Some(class) => classes.push(class),
            None => {
                let shown: String = word.chars().take(64).collect();
                problems.add(
                    format!("retry.on[{place}]"),
                    format!(
                        "{shown:?} is none of failed, timeout, lost, exit:1 to exit:255, http:503, http:5xx, grpc:UNAVAILABLE"
                    ),
                );
            }
        }
    }
    classes
}

fn retry_class(word: &str) -> Option<RetryOn> {
    match word {
        "failed" => return Some(RetryOn::Failed),
        "timeout" => return Some(RetryOn::Timeout),
        "lost" => return Some(RetryOn::Lost),
        _ => {}
    }
    let (kind, number) = word.split_once(':')?;
    match kind {
        "exit" => {
            let code: i32 = number.parse().ok().filter(|code| (1..=255).contains(code))?;
            (code.to_string() == number).then_some(RetryOn::Exit(code))
        }
        "http" => match number.strip_suffix("xx") {
            Some(class) => {
                let first = status_code(&format!("{class}00"))?;
                (class.len() == 1).then_some(RetryOn::Http(first, first + 99))
            }
            None => status_code(number).map(|code| RetryOn::Http(code, code)),
        },
        "grpc" => {
            let code = GRPC_CODES.iter().skip(1).position(|code| *code == number)?;
            u8::try_from(code + 1).ok().map(RetryOn::Grpc)
        }
        _ => None,
    }
}

/// `catch_up`; without it the newest missed occurrence of the last hour runs.
pub(super) fn catch_up(catch_up: Option<&pb::CatchUp>, problems: &mut Problems) -> CatchUp {
    let absent = pb::CatchUp::default();
    let catch_up = catch_up.unwrap_or(&absent);
    let runs =
        value::word("catch_up.runs", catch_up.runs, problems).map_or(
            CatchUpRuns::Latest,
            |runs| match runs {
                pb::CatchUpRuns::None => CatchUpRuns::None,
                pb::CatchUpRuns::Unspecified | pb::CatchUpRuns::Latest => CatchUpRuns::Latest,
                pb::CatchUpRuns::All => CatchUpRuns::All,
            },
        );
    let range = Duration::ZERO..=limits::LATENESS;
    CatchUp {
        runs,
        window: value::span("catch_up.window", catch_up.window.as_ref(), range, problems).unwrap_or(HOUR),
        max: value::count("catch_up.max", catch_up.max, 100, 1..=limits::CATCH_UP_RUNS, problems),
    }
}

/// `overlap`; without it an occurrence is skipped while a run is live.
pub(super) fn overlap(overlap: Option<&pb::Overlap>, problems: &mut Problems) -> Overlap {
    let absent = pb::Overlap::default();
    let overlap = overlap.unwrap_or(&absent);
    let policy = value::word("overlap.policy", overlap.policy, problems);
    let keep = value::word("overlap.keep", overlap.keep, problems);
    Overlap {
        policy: policy.map_or(OverlapPolicy::Skip, |policy| match policy {
            pb::OverlapPolicy::Unspecified | pb::OverlapPolicy::Skip => OverlapPolicy::Skip,
            pb::OverlapPolicy::Allow => OverlapPolicy::Allow,
            pb::OverlapPolicy::Queue => OverlapPolicy::Queue,
            pb::OverlapPolicy::Replace => OverlapPolicy::Replace,
        }),
        limit: value::count("overlap.limit", overlap.limit, 1, 1..=limits::PARALLEL, problems),
        keep: keep.map_or(Keep::Newest, |keep| match keep {
            pb::Keep::Unspecified | pb::Keep::Newest => Keep::Newest,
            pb::Keep::Oldest => Keep::Oldest,
        }),
        max_parallel: value::count(
            "overlap.max_parallel",
            overlap.max_parallel,
            1,
            1..=limits::PARALLEL,
            problems,
        ),
    }
}

/// `breaker`; without it the job has one of its own that opens after five failures in a row.
pub(super) fn breaker(breaker: Option<&pb::BreakerPolicy>, problems: &mut Problems) -> BreakerPolicy {
    let absent = pb::BreakerPolicy::default();
    let breaker = breaker.unwrap_or(&absent);
    if !breaker.name.is_empty() {
        value::name("breaker.name", &breaker.name, problems);
    }
    let consecutive_failures = breaker.consecutive_failures.unwrap_or(5);
    let counts = 0..=limits::BREAKER_COUNT;
    value::within("breaker.consecutive_failures", consecutive_failures, &counts, problems);
    // a tenth of the window is the least that is told apart
    let windows = 10 * MILLISECOND..=limits::BREAKER_WINDOW;
    let window = value::span("breaker.window", breaker.window.as_ref(), windows, problems);
    let cool_downs = MILLISECOND..=limits::OPEN_FOR;
    let open_for = value::span("breaker.open_for", breaker.open_for.as_ref(), cool_downs.clone(), problems)
        .unwrap_or(MINUTE);
    let max_open_for =
        value::span("breaker.max_open_for", breaker.max_open_for.as_ref(), cool_downs, problems);
    if max_open_for.is_some_and(|max| max < open_for) {
        let reason = format!("is shorter than breaker.open_for ({})", span_text(open_for));
        problems.add("breaker.max_open_for", reason);
    }
    let on_open = value::word("breaker.on_open", breaker.on_open, problems);
    BreakerPolicy {
        name: Some(breaker.name.clone()).filter(|name| !name.is_empty()),
        consecutive_failures,
        failure_rate_milli: value::milli(
            "breaker.failure_rate",
            breaker.failure_rate,
            &(0.0..=1.0),
            problems,
        ),
        minimum_attempts: value::count(
            "breaker.minimum_attempts",
            breaker.minimum_attempts,
            10,
            1..=limits::BREAKER_COUNT,
            problems,
        ),
        window: window.unwrap_or(10 * MINUTE),
        open_for,
        max_open_for: max_open_for.unwrap_or_else(|| open_for.max(HOUR)),
        probes: value::count("breaker.probes", breaker.probes, 1, 1..=limits::PROBES, problems),
        on_open: on_open.map_or(OnOpen::Skip, |on_open| match on_open {
            pb::OnOpen::Unspecified | pb::OnOpen::Skip => OnOpen::Skip,
            pb::OnOpen::Hold => OnOpen::Hold,
        }),
    }
}

/// `retention`; without it 100 records of 30 days are kept.
pub(super) fn retention(retention: Option<&pb::Retention>, problems: &mut Problems) -> Retention {
    let absent = pb::Retention::default();
    let retention = retention.unwrap_or(&absent);
    let ages = MINUTE..=limits::RETENTION_AGE;
    Retention {
        runs: value::count("retention.runs", retention.runs, 100, 1..=limits::RETENTION_RUNS, problems),
        age: value::span("retention.age", retention.age.as_ref(), ages, problems).unwrap_or(30 * DAY),
    }
}
