//! A job in few words: `every=60s overlap=queue limit=2`. What is not named has the lab's default:
//! no retry, `catch_up: latest` within an hour, `overlap: skip`, `on_lost: rerun`, no breaker.

use std::collections::BTreeMap;
use std::time::Duration;

use chronarch::state::calendar::{CalendarSpec, Dates, Weekly, Window, clock_minutes, weekdays};
use chronarch::state::schedule::{DayRule, Dialect, Fold, Gap, Rule, Schedule};
use chronarch::state::spec::{
    After, AfterOn, AfterWhen, BreakerPolicy, CatchUp, CatchUpRuns, JobSpec, Keep, Limits, OnExcluded,
    OnLost, OnOpen, OnResume, Overlap, OverlapPolicy, Program, Rate, Retention, Retry, RetryOn, Target,
};
use chronarch::state::time::Timestamp;

/// Midnight, at which every lab begins.
pub(crate) const MIDNIGHT: i64 = 1_767_225_600_000;

/// `90s`, `1h`, `250ms`.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"))
}

/// `HH.MM`, `HH.MM.SS` or `HH.MM.SS.mmm` of the lab's first day; hours may pass 24.
pub(crate) fn instant(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("{text}: expected HH.MM[.SS[.mmm]]");
    let units = [3_600_000, 60_000, 1_000, 1];
    let parts: Vec<&str> = text.split('.').collect();
    if !(2..=units.len()).contains(&parts.len()) {
        return Err(wrong());
    }
    let mut millis = 0;
    for (part, unit) in parts.into_iter().zip(units) {
        millis += part.parse::<i64>().map_err(|_| wrong())? * unit;
    }
    Ok(Timestamp::from_millis(MIDNIGHT + millis))
}

/// The inverse of [`instant`], as short as can be.
pub(crate) fn clock(at: Timestamp) -> String {
    let millis = at.millis() - MIDNIGHT;
    if !(0..100 * 3_600_000).contains(&millis) {
        return at.to_string();
    }
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let (seconds, rest) = (millis / 1_000 % 60, millis % 1_000);
    match (seconds, rest) {
        (0, 0) => format!("{hours:02}.{minutes:02}"),
        (_, 0) => format!("{hours:02}.{minutes:02}.{seconds:02}"),
        _ => format!("{hours:02}.{minutes:02}.{seconds:02}.{rest:03}"),
    }
}

pub(crate) fn job(name: &str) -> JobSpec {
    JobSpec {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        description: String::new(),
        labels: BTreeMap::new(),
        schedules: Vec::new(),
        target: Target::Exec {
            program: Program::Command(vec!["true".to_owned()]),
            env: BTreeMap::new(),
            cwd: None,
            stdin: None,
        },
        queue: "default".to_owned(),
        requires: BTreeMap::new(),
        timeout: Duration::from_secs(3_600),
        retry: Retry {
            max_attempts: 1,
            initial: Duration::from_secs(1),
            multiplier_milli: 2_000,
            max: Duration::from_secs(600),
            jitter_milli: 0,
            on: Vec::new(),
        },
        catch_up: CatchUp { runs: CatchUpRuns::Latest, window: Duration::from_secs(3_600), max: 100 },
        start_within: None,
        overlap: Overlap { policy: OverlapPolicy::Skip, limit: 1, keep: Keep::Newest, max_parallel: 1 },
        on_lost: OnLost::Rerun,
        on_resume: OnResume::Skip,
        params: [].into(),
        limits: None,
        after: None,
        priority: 0,
        every_node: false,
        on_excluded: OnExcluded::Skip,
        breaker: BreakerPolicy {
            name: None,
            consecutive_failures: 0,
            failure_rate_milli: 0,
            minimum_attempts: 1,
            window: Duration::from_secs(600),
            open_for: Duration::from_secs(60),
            max_open_for: Duration::from_secs(3_600),
            probes: 1,
            on_open: OnOpen::Skip,
        },
        retention: Retention { runs: 100, age: Duration::from_secs(86_400) },
    }
}

pub(crate) fn schedule(rule: Rule) -> Schedule {
    Schedule {
        rule,
        timezone: "UTC".to_owned(),
        gap: Gap::default(),
        fold: Fold::default(),
        start_at: None,
        end_at: None,
        jitter: Duration::ZERO,
        count: None,
        exclude: Vec::new(),
        only: Vec::new(),
    }
}

pub(crate) fn every(period: Duration) -> Schedule {
    schedule(Rule::Every { period, offset: Duration::ZERO })
}

fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("unknown word {text}"))
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text}: expected a number"))
}

fn retry_on(text: &str) -> Result<RetryOn, String> {
    if let Some(code) = text.strip_prefix("exit-") {
        return code.parse().map(RetryOn::Exit).map_err(|_| format!("unknown class {text}"));
    }
    if let Some((from, to)) = text.strip_prefix("http-").and_then(|range| range.split_once('-')) {
        let status = |text: &str| text.parse().map_err(|_| format!("unknown class {text}"));
        return Ok(RetryOn::Http(status(from)?, status(to)?));
    }
    one_of(text, &[("failed", RetryOn::Failed), ("timeout", RetryOn::Timeout), ("lost", RetryOn::Lost)])
}

/// `NAME.VALUE`.
pub(crate) fn param(text: &str) -> Option<(String, String)> {
    text.split_once('.').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

fn limits(spec: &mut JobSpec) -> &mut Limits {
    spec.limits.get_or_insert(Limits { group: None, concurrency: None, rate: None })
}

fn after(spec: &mut JobSpec) -> &mut After {
    spec.after.get_or_insert(After { jobs: Vec::new(), when: AfterWhen::All, on: AfterOn::Success })
}

/// Changes one property of a job. Properties of the schedule go to all schedules so far.
pub(crate) fn set(spec: &mut JobSpec, key: &str, value: &str) -> Result<(), String> {
    match key {
        "every" => spec.schedules.push(every(span(value)?)),
        "rest" => spec.schedules.push(schedule(Rule::AfterCompletion { period: span(value)? })),
        "cron" => spec.schedules.push(schedule(Rule::Cron {
            line: value.to_owned(),
            dialect: Dialect::Unix,
            day_rule: DayRule::OrVixie,
        })),
        "at" => {
            let instants = value.split('/').map(instant).collect::<Result<_, _>>()?;
            spec.schedules.push(schedule(Rule::At(instants)));
        }
        "jitter" => {
            let jitter = span(value)?;
            spec.schedules.iter_mut().for_each(|schedule| schedule.jitter = jitter);
        }
        "timezone" => spec.schedules.iter_mut().for_each(|schedule| value.clone_into(&mut schedule.timezone)),
        "end_at" => {
            let end_at = Some(instant(value)?);
            spec.schedules.iter_mut().for_each(|schedule| schedule.end_at = end_at);
        }
        "kind" if value == "http" => {
            spec.target = Target::Http {
                method: "GET".to_owned(),
                url: "http://localhost/".to_owned(),
                headers: BTreeMap::new(),
                body: String::new(),
                success: "200-299".to_owned(),
            };
        }
        "queue" => value.clone_into(&mut spec.queue),
        "requires" => {
            let (name, value) = value.split_once('.').ok_or("requires=NAME.VALUE")?;
            spec.requires.insert(name.to_owned(), value.to_owned());
        }
        "timeout" => spec.timeout = span(value)?,
        "start_within" => spec.start_within = Some(span(value)?),
        "on_lost" => spec.on_lost = one_of(value, &[("rerun", OnLost::Rerun), ("fail", OnLost::Fail)])?,
        "on_resume" => {
            spec.on_resume = one_of(value, &[("skip", OnResume::Skip), ("catch_up", OnResume::CatchUp)])?;
        }
        "exclude" | "only" => {
            for schedule in &mut spec.schedules {
                let names = if key == "only" { &mut schedule.only } else { &mut schedule.exclude };
                names.extend(value.split('/').map(str::to_owned));
            }
        }
        "on_excluded" => {
            let words = [("skip", OnExcluded::Skip), ("next_allowed", OnExcluded::NextAllowed)];
            spec.on_excluded = one_of(value, &words)?;
        }
        "labels" => spec.labels.extend(param(value)),
        "description" => value.clone_into(&mut spec.description),
        _ => return set_policy(spec, key, value),
    }
    Ok(())
}

fn set_policy(spec: &mut JobSpec, key: &str, value: &str) -> Result<(), String> {
    let (retry, overlap, breaker) = (&mut spec.retry, &mut spec.overlap, &mut spec.breaker);
    match key {
        "attempts" => retry.max_attempts = number(value)?,
        "initial" => retry.initial = span(value)?,
        "max_wait" => retry.max = span(value)?,
        "on" => retry.on = value.split('/').map(retry_on).collect::<Result<_, _>>()?,
        "catch_up" => {
            let words =
                [("none", CatchUpRuns::None), ("latest", CatchUpRuns::Latest), ("all", CatchUpRuns::All)];
            spec.catch_up.runs = one_of(value, &words)?;
        }
        "window" => spec.catch_up.window = span(value)?,
        "max" => spec.catch_up.max = number(value)?,
        "overlap" => {
            overlap.policy = one_of(
                value,
                &[
                    ("skip", OverlapPolicy::Skip),
                    ("allow", OverlapPolicy::Allow),
                    ("queue", OverlapPolicy::Queue),
                    ("replace", OverlapPolicy::Replace),
                ],
            )?;
        }
        "limit" => overlap.limit = number(value)?,
        "keep" => overlap.keep = one_of(value, &[("newest", Keep::Newest), ("oldest", Keep::Oldest)])?,
        "parallel" => overlap.max_parallel = number(value)?,
        "breaker" => breaker.name = Some(value.to_owned()),
        "failures" => breaker.consecutive_failures = number(value)?,
        "rate" => breaker.failure_rate_milli = number(value)?,
        "minimum" => breaker.minimum_attempts = number(value)?,
        "rate_window" => breaker.window = span(value)?,
        "open_for" => breaker.open_for = span(value)?,
        "max_open_for" => breaker.max_open_for = span(value)?,
        "probes" => breaker.probes = number(value)?,
        "on_open" => breaker.on_open = one_of(value, &[("skip", OnOpen::Skip), ("hold", OnOpen::Hold)])?,
        "group" => limits(spec).group = Some(value.to_owned()),
        "concurrency" => limits(spec).concurrency = Some(number(value)?),
        "starts" => {
            let (starts, per) = value.split_once('/').ok_or("starts=N/SPAN")?;
            limits(spec).rate = Some(Rate { starts: number(starts)?, per: span(per)? });
        }
        "after" => after(spec).jobs = value.split('/').map(str::to_owned).collect(),
        "when" => after(spec).when = one_of(value, &[("all", AfterWhen::All), ("any", AfterWhen::Any)])?,
        "after_on" => {
            let ends =
                [("success", AfterOn::Success), ("failure", AfterOn::Failure), ("always", AfterOn::Always)];
            after(spec).on = one_of(value, &ends)?;
        }
        "param" => spec.params.extend(param(value)),
        "every_node" => {
            spec.every_node = value.parse().map_err(|_| format!("{value}: expected true or false"))?
        }
        "priority" => spec.priority = value.parse().map_err(|_| format!("{value}: expected a number"))?,
        _ => return Err(format!("unknown property {key}")),
    }
    Ok(())
}

/// A calendar in few words: `dates=2026-01-02/01-03`, `weekly=sat..sun`, `hours=mon..fri@22.00-06.00`, `window=HH.MM-HH.MM`,
/// `timezone=ZONE`, `label=K.V` and `namespace=NAME` for the jobs of a blackout.
pub(crate) fn calendar(name: &str, pairs: &[(String, String)]) -> Result<CalendarSpec, String> {
    let mut spec = CalendarSpec { name: name.to_owned(), ..CalendarSpec::default() };
    let wrong = |value: &str| format!("{value}: expected the form of the essay");
    for (key, value) in pairs {
        match key.as_str() {
            "dates" => {
                for text in value.split('/') {
                    spec.dates.push(text.parse::<Dates>().map_err(|error| error.to_string())?);
                }
            }
            "weekly" | "hours" => {
                let (days, hours) = value.split_once('@').unwrap_or((value, "00.00-24.00"));
                let (from, to) = hours.split_once('-').ok_or_else(|| wrong(value))?;
                let minutes = |text: &str| clock_minutes(&text.replace('.', ":")).ok_or_else(|| wrong(value));
                let (from, to) = (minutes(from)?, minutes(to)?);
                let days = weekdays(days).ok_or_else(|| wrong(value))?;
                spec.weekly.push(Weekly { days, from, to, note: String::new() });
            }
            "window" => {
                let (from, to) = value.split_once('-').ok_or_else(|| wrong(value))?;
                spec.windows.push(Window { from: instant(from)?, to: instant(to)?, note: String::new() });
            }
            "timezone" => spec.timezone = Some(value.clone()),
            "label" => spec.applies_to.get_or_insert_default().labels.extend(param(value)),
            "namespace" => spec.applies_to.get_or_insert_default().namespaces.push(value.clone()),
            "id" | "by" | "why" => {}
            _ => return Err(format!("unknown property {key}")),
        }
    }
    Ok(spec)
}
